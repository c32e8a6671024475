"""The slides of a folder, usable or excluded with a reason."""
