"""Stand-ins on loopback for the services that the compendium talks to: the GDC and cBioPortal."""
