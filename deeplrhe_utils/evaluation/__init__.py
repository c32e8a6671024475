"""Statistics; nothing here draws.

- `auc`: AUC, intervals, resampling, the metrics table, score files of others
- `outcomes`: scores of values and of survival: correlation, concordance, AUC over time
- `splits`: folds by patient, slide, tile or site; split files
- `audits`: leakage, near-duplicates, negative controls, covariates, published claims, what was found of planted truth
- `referee`: vectors that others made: complete? of one encoder? what do they tell of labels and of sites?
- `precision`: what counts allow, coverage, calibration, decisions, readers
- `quality`: how good the artefact filter and the colour normalization are
- `judging`: any pipeline's answers on a synthetic cohort, held against its truth
- `tables`: counts, Table 1, one line per slide
"""
