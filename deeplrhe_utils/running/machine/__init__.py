"""Processes, memory, locks, versions."""
