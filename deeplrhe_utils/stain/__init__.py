"""Colour: optical density, HSD and stain normalization."""
