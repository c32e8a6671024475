"""Cohorts by declared rules, with a fate for every file."""
