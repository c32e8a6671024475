"""The GDC and cBioPortal over HTTP: their tables, and their files, verified and resumable."""
