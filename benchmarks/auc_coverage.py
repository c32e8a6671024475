"""Coverage of the intervals of an AUC: every closed form and both bootstraps, over sizes, prevalences and heights.

Writes ``results/auc_coverage.csv``, which notebook 12 shows. No time is measured. ``--draws=N`` and ``--boots=N`` set
how many data sets are simulated per cell, for the closed forms and for the bootstraps.
"""

from __future__ import annotations

import sys
import time
from itertools import product

import pandas as pd
from _harness import RESULTS

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import auc_interval, delong_components, delong_many
from deeplrhe_utils.evaluation.precision.coverage import (
    bootstraps,
    coverage_of_patients,
    coverage_rows,
    simulated_counts,
)
from deeplrhe_utils.evaluation.precision.power import binormal

AUCS, PATIENTS, PREVALENCES = (0.5, 0.6, 0.7, 0.8, 0.9), (60, 180, 500), (0.03, 0.05, 0.1, 0.2, 0.5)
TILE_CELLS = list(product((0.6, 0.75), (60, 180), (0.05, 0.2, 0.5)))
SPREADS, SPREAD_CELLS = (0.5, 2.0), list(product((0.6, 0.8, 0.9), (180,), (0.03, 0.1, 0.5)))
SEED, TILES, WITHIN = 1, 10, 0.5


def coverage_of_tiles(auc: float, patients: int, prevalence: float, draws: int) -> pd.DataFrame:
    """Coverage for the AUC over tiles, when ten tiles of a patient correlate by one half; as `coverage_of_patients`.

    DeLong over tiles as if each were a patient; with its components averaged within patients first (Obuchowski 1997,
    for patients of one class); and the bootstraps of patients.
    """
    n_pos, n_neg = simulated_counts(prevalence, patients)
    random = generator(SEED, "coverage of tiles", str(auc), patients, str(prevalence), TILES)
    positive, negative = binormal(auc, n_pos, n_neg, draws, random, TILES, WITHIN)
    clustered = auc_interval(*(v.reshape(len(v), -1, TILES).mean(-1) for v in delong_components(positive, negative)))
    found = {"DeLong over tiles, as if independent": delong_many(positive, negative)[1:],
             "DeLong over tiles, clustered by patient": clustered[1:]}  # fmt: skip
    found |= bootstraps(positive, negative, TILES, 1000, SEED)
    base = {"design": "tiles", "auc": auc, "patients": patients, "prevalence": prevalence, "n_pos": n_pos,
            "n_neg": n_neg, "tiles": TILES, "within": WITHIN, "spread": 1.0}  # fmt: skip
    return coverage_rows(base, found, auc)


def main(draws: int, boots: int) -> None:
    """The whole grid, cell after cell."""
    start, parts = time.perf_counter(), []
    for auc, patients, prevalence in product(AUCS, PATIENTS, PREVALENCES):
        parts.append(coverage_of_patients(auc, patients, prevalence, draws=draws, boots=boots, seed=SEED))
    for spread, (auc, patients, prevalence) in product(SPREADS, SPREAD_CELLS):
        cell = coverage_of_patients(auc, patients, prevalence, draws=draws, boots=boots, seed=SEED, spread=spread)
        parts.append(cell)
    for auc, patients, prevalence in TILE_CELLS:
        parts.append(coverage_of_tiles(auc, patients, prevalence, boots))
    table = pd.concat(parts, ignore_index=True)
    RESULTS.mkdir(exist_ok=True)
    table.round(5).to_csv(RESULTS / "auc_coverage.csv", index=False, lineterminator="\n")
    by = ["design", "spread", "method"]
    print(pd.crosstab([table[b] for b in by], table["verdict"]).to_string())
    print(table.groupby(by)["coverage"].agg(["min", "median", "max"]).round(3).to_string())
    print(f"auc_coverage.csv written: {len(table)} rows in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    options = dict(a.removeprefix("--").split("=") for a in sys.argv[1:])
    main(int(options.get("draws", 4000)), int(options.get("boots", 500)))
