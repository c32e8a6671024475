"""Counts and characteristics of a cohort and of its slides."""
