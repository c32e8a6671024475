"""Figures, heat maps and exports: pictures that never compute a statistic.

- `figures`, `audit_figures`: the rules of all figures, and the figures of each notebook
- `heatmaps`: scores on the pixels they came from, in bounded memory
- `exports`: heat maps for QuPath, ImageScope, OME-TIFF, Deep Zoom, SVG, Parquet; contact sheets
- `viewer`, `explorer`: slides in JupyterLab; points to click and the extreme windows behind them
- `static`: scripts and style of page and viewer
"""
