"""One fold, all folds, several processes."""
