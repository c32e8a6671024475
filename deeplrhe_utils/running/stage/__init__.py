"""What a notebook opens, what it leaves, and when it may be skipped."""
