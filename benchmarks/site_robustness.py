"""What does a robustness index mean? The same index on planted slides whose site strength is known.

Every tile is painted twice, in the colours of its slide's site and in those of one common site, and blended in optical
density: strength 0 leaves no colour of the site, 1 is the planted scatter of sites, 1.5 is beyond it. Resolution and
JPEG quality stay those of the site's scanner. Described by the bank of label-free features, classes are the two
diagnoses. Writes ``data/reference/site_robustness.csv``, a row per cohort and strength, and
``docs/figures/site_robustness.png``. No time is measured; about two minutes a cohort (``--cohorts=N``, default 5).
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _planted import planted_tiles

from deeplrhe_utils.core.paths import REFERENCE_DATA, REPOSITORY
from deeplrhe_utils.evaluation.audits.probing import class_told
from deeplrhe_utils.evaluation.referee.robustness import robustness_index
from deeplrhe_utils.learning.probes.bank import FEATURES, tile_bank
from deeplrhe_utils.learning.probes.readers import means_by_patient
from deeplrhe_utils.synthetic.plan import CohortSpec, plan_cohort

SLIDES, SITES, TILES, SIDE_PX, MPP = 80, 8, 10, 256, 1.0
FIRST_SEED, STRENGTHS = 201, (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
FILE = REFERENCE_DATA / "site_robustness.csv"


def painted(spec: CohortSpec, slide_id: str, common: bool) -> list[np.ndarray]:
    """Tiles of one slide, in its site's colours or in the common ones: the same tissue, the same places."""
    plan = plan_cohort(spec)
    if common:
        plan = replace(plan, slides=plan.slides.assign(site_id="00"))
    return planted_tiles(plan, slide_id, TILES, SIDE_PX)


def described(spec: CohortSpec, slide_id: str) -> pd.DataFrame:
    """The bank of one slide's tiles at every strength."""
    cv2.setNumThreads(1)
    own, common = (painted(spec, slide_id, c) for c in (False, True))
    parts = []
    for strength in STRENGTHS:
        blend = [np.log1p(b) + strength * (np.log1p(a) - np.log1p(b)) for a, b in
                 ((x.astype(np.float64), y.astype(np.float64)) for x, y in zip(own, common, strict=True))]  # fmt: skip
        rows = [tile_bank(np.clip(np.expm1(tile).round(), 0, 255).astype(np.uint8), MPP) for tile in blend]
        parts.append(pd.DataFrame(rows, columns=list(FEATURES)).assign(strength=strength))
    patient = plan_cohort(spec).slides.set_index("slide_id").loc[slide_id, "patient_id"]
    return pd.concat(parts).assign(patient_id=patient)


def one_cohort(seed: int, pool: ProcessPoolExecutor) -> pd.DataFrame:
    """Index and readability of the site at every strength."""
    spec = CohortSpec(n_slides=SLIDES, n_sites=SITES, seed=seed, artefact_rate=0)
    plan = plan_cohort(spec)
    tiles = pd.concat(pool.map(partial(described, spec), plan.slides["slide_id"], chunksize=4), ignore_index=True)
    clinical, rows = plan.clinical.set_index("patient_id"), []
    for strength, part in tiles.groupby("strength"):
        x = part.set_index("patient_id").drop(columns="strength")
        x = (x - x.mean()) / x.std().replace(0, np.inf)
        found = robustness_index(x, clinical["histology"], clinical["site_id"], seed=seed)
        told = class_told(means_by_patient(x, pd.Series(x.index)), clinical["site_id"], draws=100, seed=seed)
        rows.append({"seed": seed, "strength": strength, **found, "site_named": told["named"],
                     "site_chance": told["chance"]})  # fmt: skip
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Index and null by strength, a line per cohort and their mean."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for _, own in table.groupby("seed"):
        axis.plot(own["strength"], own["index"], color="#9ecae1", lw=1)
    mean = table.groupby("strength")[["index", "null_mean", "null_low", "null_high"]].mean()
    axis.plot(mean.index, mean["index"], "o-", color="#08519c", label="robustness index (thin: each cohort)")
    axis.fill_between(mean.index, mean["null_low"], mean["null_high"], color="0.88")
    axis.plot(mean.index, mean["null_mean"], "--", color="0.4", label="sites exchanged (band: middle 95 %)")
    axis.set(xlabel="planted strength of site colours (1: as in every preset)", ylabel="robustness index", ylim=(0, 1))
    axis.legend(frameon=False, loc="lower left")
    axis.set_title(f"Synthetic: {table['seed'].nunique()} cohorts of {SLIDES} slides, {SITES} sites", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the cohorts, keep the table, draw the figure."""
    count = next((int(a.split("=")[1]) for a in sys.argv[1:] if a.startswith("--cohorts=")), 5)
    with ProcessPoolExecutor(2) as pool:
        table = pd.concat([one_cohort(FIRST_SEED + i, pool) for i in range(count)], ignore_index=True)
    table.round(4).to_csv(FILE, index=False, lineterminator="\n")
    draw(table, REPOSITORY / "docs" / "figures" / "site_robustness.png")
    print(table.groupby("strength")[["index", "null_mean", "site_named", "site_chance"]].mean().round(3))


if __name__ == "__main__":
    main()
