"""Errors, units, files and tables: imports nothing of ours."""
