"""Tile scores on the pixels that they came from."""
