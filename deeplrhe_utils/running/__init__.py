"""The runner: stages, records, engine and command line."""
