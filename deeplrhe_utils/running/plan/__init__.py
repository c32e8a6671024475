"""What a run will do, checked before anything starts."""
