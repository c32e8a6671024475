"""Colour normalization.

- `colour`, `glass`: optical density, hue–saturation–density, the white level of the glass
- `dcgmm`: the paper's method: network, fit, statistics, colour maps
- `methods`: one interface for DCGMM and the classical methods; the cohort's reference
"""
