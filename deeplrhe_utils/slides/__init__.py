"""Open slides, lay grids, read tiles, judge them."""
