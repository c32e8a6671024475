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

from deeplrhe_utils.evaluation.coverage import coverage_of_patients, coverage_of_tiles

AUCS, PATIENTS, PREVALENCES = (0.5, 0.6, 0.7, 0.8, 0.9), (60, 180, 500), (0.03, 0.05, 0.1, 0.2, 0.5)
TILE_CELLS = list(product((0.6, 0.75), (60, 180), (0.05, 0.2, 0.5)))
SPREADS, SPREAD_CELLS = (0.5, 2.0), list(product((0.6, 0.8, 0.9), (180,), (0.03, 0.1, 0.5)))
SEED = 1


def main(draws: int, boots: int) -> None:
    """The whole grid, cell after cell."""
    start, parts = time.perf_counter(), []
    for auc, patients, prevalence in product(AUCS, PATIENTS, PREVALENCES):
        parts.append(coverage_of_patients(auc, patients, prevalence, draws=draws, boots=boots, seed=SEED))
    for spread, (auc, patients, prevalence) in product(SPREADS, SPREAD_CELLS):
        cell = coverage_of_patients(auc, patients, prevalence, draws=draws, boots=boots, seed=SEED, spread=spread)
        parts.append(cell)
    for auc, patients, prevalence in TILE_CELLS:
        parts.append(coverage_of_tiles(auc, patients, prevalence, draws=boots, seed=SEED))
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
