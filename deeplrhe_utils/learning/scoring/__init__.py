"""From tiles and slides to scores and features."""
