"""The parts of ``deeplrhe normalize``."""
