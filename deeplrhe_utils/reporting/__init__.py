"""Figures, heat maps and exports: pictures that never compute a statistic."""
