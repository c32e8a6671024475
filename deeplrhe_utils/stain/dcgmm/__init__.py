"""DCGMM: network, fit, statistics and colour maps."""
