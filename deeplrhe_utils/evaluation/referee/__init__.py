"""Vectors that others made: complete, of one encoder, in place; what they tell of labels, and of sites."""
