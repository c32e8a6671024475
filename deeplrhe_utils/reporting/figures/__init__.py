"""The rules of all figures, and the figures of notebooks 00 to 09."""
