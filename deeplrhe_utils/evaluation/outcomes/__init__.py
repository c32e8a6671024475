"""Scores of values and of survival: rank correlation, explained share, concordance, AUC over time."""
