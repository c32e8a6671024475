"""What a click on a plot leads to."""
