"""Glass, pen, folds, bubbles, blur and compression damage."""
