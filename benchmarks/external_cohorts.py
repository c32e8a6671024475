"""Does external validation find the shift that was planted? Slope, O/E and loss of AUC over 20 pairs of cohorts.

Two populations of planted patients are painted: HOME (twelve laboratories, 35 % squamous) and AWAY (one laboratory that
HOME has not seen: other stain, camera and scanner; 65 % squamous, hence other tissue and other shares of mutated
patients). Each is cut into ``--pairs=N`` disjoint cohorts (default 20) of 80 slides. Model i learns on cohort i of one
population and is judged, frozen, on cohort i of the other, and for comparison on cohort i + 1 of its own. What it truly
has there is known: its slope, O/E and AUC on all other patients of that population. Counted is how often the interval
of one cohort contains that. Writes ``results/external_cohorts.csv``. No time is measured; half an hour on two cores.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import cv2
import numpy as np
import pandas as pd
from _harness import RESULTS
from _planted import planted_tiles

from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.units import with_labels
from deeplrhe_utils.evaluation.precision.external import judge_transfer, own_headline, probe_elsewhere
from deeplrhe_utils.learning.probes.bank import FEATURES, tile_bank
from deeplrhe_utils.learning.probes.readers import means_by_patient, partitions
from deeplrhe_utils.synthetic.plan import CohortPlan, CohortSpec, plan_cohort

SLIDES, TILES, SIDE_PX, MPP = 80, 10, 256, 1.0
FOLDS, REPEATS, LEAST = 5, 10, 8
HOME, AWAY = "home", "away"
POPULATIONS = {
    HOME: {"seed": 301, "n_sites": 12, "squamous_share": 0.35},
    AWAY: {"seed": 302, "n_sites": 1, "squamous_share": 0.65},
}
CACHE = REPOSITORY / "data" / "interim" / "external_cohorts"


def described(plan: CohortPlan, slide_id: str) -> pd.DataFrame:
    """The bank of one slide's tiles, painted into a folder that is thrown away."""
    cv2.setNumThreads(1)
    rows = [tile_bank(tile, MPP) for tile in planted_tiles(plan, slide_id, TILES, SIDE_PX)]
    return pd.DataFrame(rows, columns=list(FEATURES)).assign(slide_id=slide_id)


def painted(name: str, pairs: int) -> tuple[CohortPlan, pd.DataFrame]:
    """The plan of a population and the mean features of its patients; painted once, then kept."""
    spec = CohortSpec(n_slides=SLIDES * pairs, **POPULATIONS[name])
    plan, file = plan_cohort(spec), CACHE / f"{name}-{pairs}.parquet"
    if not file.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2) as pool:
            tiles = pd.concat(pool.map(partial(described, plan), plan.slides["slide_id"], chunksize=5))
        tiles.to_parquet(file)
    tiles = pd.read_parquet(file)
    owner = tiles["slide_id"].map(plan.slides.set_index("slide_id")["patient_id"])
    return plan, means_by_patient(tiles.drop(columns="slide_id"), owner)


def cohorts(means: pd.DataFrame, pairs: int, seed: int) -> list[pd.DataFrame]:
    """Disjoint cohorts of patients, as even as can be."""
    order = generator(seed, "cohorts").permutation(len(means))
    return [means.iloc[np.sort(part)] for part in np.array_split(order, pairs)]


def one_model(
    number: int, own: str, populations: dict[str, tuple[pd.DataFrame, list[pd.DataFrame]]]
) -> list[pd.DataFrame]:
    """Model `number` of a population, judged elsewhere and at home, beside what it truly has there."""
    labels, mine = populations[own][0], populations[own][1][number]
    folds = partitions(len(mine), FOLDS, REPEATS, number)
    rest = {
        name: pd.concat([c for k, c in enumerate(every) if k != number]) for name, (_, every) in populations.items()
    }
    found, at_home = [], None
    for where in sorted(populations, key=lambda name: name != own):
        told, every = populations[where]
        there = every[(number + 1) % len(every)] if where == own else every[number]
        known = labels[labels["patient_id"].isin(mine.index)]
        said = probe_elsewhere(
            mine, known, pd.concat([there, rest[where].drop(there.index, errors="ignore")]), folds, LEAST
        )
        everywhere = with_labels(said[~said["here"]], told)
        mine_auc = own_headline(with_labels(said[said["here"]], known), LEAST)
        table = judge_transfer(everywhere[everywhere["patient_id"].isin(there.index)], mine_auc, least=LEAST)
        true = judge_transfer(everywhere[~everywhere["patient_id"].isin(there.index)], mine_auc, least=LEAST)
        true = true.set_index("gene").reindex(table["gene"])
        for name in ("auc", "slope", "oe"):
            table[f"true_{name}"] = true[name].to_numpy()
        at_home = true["auc"] if where == own else at_home
        table["true_drop"] = at_home.reindex(table["gene"]).to_numpy() - table["true_auc"]
        found.append(table.assign(model=number, own=own, where=where))
    return found


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per direction and gene: means, and how often the interval contains what is true."""
    done = table[table["status"] == "estimated"].copy()
    ends = {"auc": ("ci_low", "ci_high"), **{name: (f"{name}_low", f"{name}_high") for name in ("drop", "slope", "oe")}}
    for name, (low, high) in ends.items():
        done[f"covered_{name}"] = ((done[low] <= done[f"true_{name}"]) & (done[f"true_{name}"] <= done[high])).where(
            done[name].notna()
        )
    columns = [c for name in ends for c in (name, f"true_{name}", f"covered_{name}")]
    grouped = done.groupby(["own", "where", "gene"], sort=False)
    return grouped[columns].agg("mean").astype(float).assign(cohorts=grouped.size()).reset_index()


def main() -> None:
    """Paint (once), judge every pair both ways, and say what was found."""
    pairs = next((int(a.split("=")[1]) for a in sys.argv[1:] if a.startswith("--pairs=")), 20)
    populations = {}
    for name, spec in POPULATIONS.items():
        plan, means = painted(name, pairs)
        populations[name] = (plan.labels, cohorts(means, pairs, int(spec["seed"])))
        print(
            name,
            len(means),
            "patients:",
            plan.labels.groupby("gene")["status"].mean().astype(float).round(3).to_dict(),
            flush=True,
        )
    parts = [part for own in populations for number in range(pairs) for part in one_model(number, own, populations)]
    table = pd.concat(parts, ignore_index=True)
    columns = [
        "model",
        "own",
        "where",
        *(c for c in table if c not in ("model", "own", "where", "brier") and "needed" not in c),
    ]
    table[columns].round(5).to_csv(RESULTS / "external_cohorts.csv", index=False, lineterminator="\n")
    print(summary(table).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
