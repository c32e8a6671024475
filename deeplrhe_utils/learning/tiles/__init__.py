"""Tiles as a network gets them: stored, drawn, augmented."""
