"""The bootstrap of patients for AUCs over tiles: ours against a loop over scikit-learn's ``roc_auc_score``.

10,000 resamples × 8 genes × 180 patients × 10 tiles on one core. The loop gets fewer resamples, because it would take
an hour, and is compared by rate; that both give the same AUCs for the same draws is checked before anything is timed.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from _harness import compare, interleaved, one_core, show, timed, versions, write
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.resampling import bootstrap_aucs, row_weights

PATIENTS, TILES, RESAMPLES, LOOPED, ROUNDS = 180, 10, 10_000, 40, 5
PREVALENCES = (0.5, 0.3, 0.13, 0.12, 0.05, 0.04, 0.02, 0.02)  # of eight genes
GOAL_RATIO, GOAL_S = 100.0, 2.0


def gene(number: int) -> pd.DataFrame:
    """Tiles of one gene: patient_id, label, score."""
    random = generator(1, "bootstrap benchmark", number)
    n_pos = max(2, round(PREVALENCES[number] * PATIENTS))
    label = np.repeat(np.arange(PATIENTS) < n_pos, TILES).astype(int)
    score = 0.7 * label + np.repeat(random.standard_normal(PATIENTS), TILES) + random.standard_normal(PATIENTS * TILES)
    names = [f"P{i:03d}" for i in range(PATIENTS)]
    return pd.DataFrame({"patient_id": np.repeat(names, TILES), "label": label, "score": score})


def looped(frame: pd.DataFrame, resamples: int) -> list[float]:
    """One scikit-learn call per resample."""
    weights = row_weights(frame, resamples, 1)
    return [float(roc_auc_score(frame["label"], frame["score"], sample_weight=w)) for w in weights]


def main() -> None:
    """Agree, then time: resamples per second, all genes."""
    one_core()
    genes = [gene(i) for i in range(len(PREVALENCES))]
    away = max(float(np.abs(bootstrap_aucs(f, resamples=5, seed=1) - looped(f, 5)).max()) for f in genes)
    assert away < 1e-12, f"the two ways differ by {away}"
    seconds = []

    def ours() -> float:
        start = time.perf_counter()
        for frame in genes:
            bootstrap_aucs(frame, resamples=RESAMPLES, seed=1)
        seconds.append(time.perf_counter() - start)
        return RESAMPLES / seconds[-1]

    ways = {"ours": ours, "scikit-learn loop": lambda: timed(lambda: max(len(looped(f, LOOPED)) for f in genes))}
    rows = compare(interleaved(ways, ROUNDS), "scikit-learn loop")
    show(f"{len(genes)} genes, {PATIENTS} patients, {TILES} tiles each", rows, "resamples/s", "the loop")
    ratio, took = next(r["ratio"] for r in rows if r["way"] == "ours"), float(np.median(seconds))
    goals = [{"what": "ratio", "goal": GOAL_RATIO, "found": ratio, "reached": ratio >= GOAL_RATIO},
             {"what": "seconds", "goal": GOAL_S, "found": took, "reached": took <= GOAL_S}]  # fmt: skip
    for row in goals:
        print(
            f"  {row['what']}: {row['found']:.2f}, goal {row['goal']}: {'reached' if row['reached'] else 'NOT reached'}"
        )
    facts = {"rows": rows, "goals": goals, "resamples": RESAMPLES, "resamples_of_the_loop": LOOPED, "differ_by": away}
    write("auc_bootstrap", {**facts, "versions": versions("numpy", "scipy", "scikit-learn")})


if __name__ == "__main__":
    main()
