"""The contract between notebooks: what a table is, and each table with its columns."""
