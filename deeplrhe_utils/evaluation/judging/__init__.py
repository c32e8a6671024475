"""Any pipeline's answers on a synthetic cohort: read in the form they come in, and held against what was planted."""
