"""Every normalizer behind one interface, and the reference that they aim at."""
