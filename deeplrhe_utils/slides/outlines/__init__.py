"""Outlines drawn by a pathologist, in any known format."""
