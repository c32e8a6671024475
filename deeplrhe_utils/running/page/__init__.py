"""The report page, documents and metadata of a run."""
