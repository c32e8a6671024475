"""What others made: their vectors, and their scores of values and of survival."""
