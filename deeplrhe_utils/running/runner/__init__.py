"""Stages in order, skipped when unchanged, resumed after any death."""
