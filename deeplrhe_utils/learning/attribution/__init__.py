"""Which pixels a score rests on, and whether that explanation can be trusted."""
