"""Statistics; nothing here draws.

- `auc`: AUC, intervals, resampling, the metrics table, score files of others
- `splits`: folds by patient, slide, tile or site; split files
- `audits`: leakage, near-duplicates, negative controls, covariates, published claims, what was found of planted truth
- `referee`: what others made: vectors (whole? of one encoder? what do they tell?), scores of values and survival
- `precision`: what counts allow, coverage, calibration, decisions, readers
- `quality`: how good the artefact filter and the colour normalization are
- `judging`: any pipeline's answers on a synthetic cohort, held against its truth
- `tables`: counts, Table 1, one line per slide
"""
