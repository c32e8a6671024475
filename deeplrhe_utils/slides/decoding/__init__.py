"""Compressed tiles of a TIFF: where they lie, and how they become pixels."""
