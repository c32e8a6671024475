"""Splits, ROC curves, intervals and stain metrics: statistics that never plot."""
