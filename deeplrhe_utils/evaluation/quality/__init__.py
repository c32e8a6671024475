"""How good the artefact filter and the colour normalization are."""
