"""Other methods, and other settings, on the same patients and folds."""
