"""Does external validation find the shift that was planted? Slope, O/E and loss of AUC over 20 pairs of cohorts.

Two populations of planted patients are painted: HOME (twelve laboratories, 35 % squamous) and AWAY (one laboratory that
HOME has not seen: other stain, camera and scanner; 65 % squamous, hence other tissue and other shares of mutated
patients). Each is cut into ``--pairs=N`` disjoint cohorts (default 20) of 80 and of 60 slides. Model i learns on cohort
i of one population and is judged, frozen, on cohort i of the other, and for comparison on cohort i + 1 of its own. What
it truly has there is known: its slope, O/E and AUC on all other patients of that population. Counted is how often the
interval of one cohort contains that. Writes ``results/external_cohorts.csv``; an hour on two cores.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from _harness import RESULTS
from _planted import described

from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.units import with_labels
from deeplrhe_utils.evaluation.precision.external import judge_transfer, own_headline, probe_elsewhere
from deeplrhe_utils.learning.probes.readers import means_by_patient, partitions
from deeplrhe_utils.synthetic.plan import CohortPlan, CohortSpec, plan_cohort

SLIDES, TILES, SIDE_PX = {"home": 80, "away": 60}, 10, 256
FOLDS, REPEATS, LEAST = 5, 10, 8
HOME, AWAY = "home", "away"
POPULATIONS: dict[str, dict[str, Any]] = {
    HOME: {"seed": 301, "n_sites": 12, "squamous_share": 0.35},
    AWAY: {"seed": 302, "n_sites": 1, "squamous_share": 0.65},
}
CACHE = REPOSITORY / "data" / "interim" / "external_cohorts"


def painted(name: str, pairs: int) -> tuple[CohortPlan, pd.DataFrame]:
    """The plan of a population and the mean features of its patients; painted once, then kept."""
    plan = plan_cohort(CohortSpec(n_slides=SLIDES[name] * pairs, **POPULATIONS[name]))
    file = CACHE / f"{name}-{pairs}.parquet"
    if not file.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2) as pool:
            read = partial(described, plan, most=TILES, side_px=SIDE_PX)
            pd.concat(pool.map(read, plan.slides["slide_id"], chunksize=5)).to_parquet(file)
    tiles = pd.read_parquet(file)
    return plan, means_by_patient(tiles.drop(columns="patient_id"), tiles["patient_id"])


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
        populations[name] = (plan.labels, cohorts(means, pairs, spec["seed"]))
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
