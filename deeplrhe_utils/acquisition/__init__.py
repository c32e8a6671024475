"""Where slides, tiles, labels and clinical data come from."""
