"""Any pipeline's answers on a synthetic cohort, held against what was planted; and its twin, in which nothing is."""
