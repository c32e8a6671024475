"""The grid, its candidate tiles, and which of them are kept."""
