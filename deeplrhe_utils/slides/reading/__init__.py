"""Open a slide, know its resolution, read tiles and overviews."""
