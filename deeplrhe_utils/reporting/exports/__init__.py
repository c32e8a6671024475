"""Heat maps as files for other programs."""
