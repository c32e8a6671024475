"""Mutation labels: mutated, wild type and not profiled are three things."""
