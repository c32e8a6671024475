"""What a number of patients allows, and what a score is good for."""
