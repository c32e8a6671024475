"""What a score would be with other windows, a cohort with another cut, and an interval with more patients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from deeplrhe_utils.core.text import counted, interval_text, share_text
from deeplrhe_utils.evaluation.auc.table import gene_metrics, headline_rows
from deeplrhe_utils.evaluation.precision.power import half_width

_LEFT_OUT = (0.0, 0.05, 0.1, 0.25, 0.5)
_CUTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
_PATIENTS = (50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000)


def without_highest(scores: pd.DataFrame, shares: Sequence[float] = _LEFT_OUT) -> pd.DataFrame:
    """Mean score of each slide when a share of its highest windows is left out.

    Parameters
    ----------
    scores : slide_id, score (0–1), a row per scored window
    shares : to leave out (0–1), rounded to whole windows, one of which always stays

    Returns DataFrame: slide_id, left_out, windows (that stay), mean.
    """
    rows = []
    for slide, own in scores.groupby("slide_id", sort=False):
        values = np.sort(own["score"].to_numpy(float))
        for share in shares:
            n = max(1, len(values) - round(share * len(values)))
            rows.append({"slide_id": slide, "left_out": share, "windows": n, "mean": float(values[:n].mean())})
    return pd.DataFrame(rows, columns=["slide_id", "left_out", "windows", "mean"])


def at_cuts(
    tiles: pd.DataFrame,
    predictions: pd.DataFrame,
    labels: pd.DataFrame,
    min_positives: int,
    cuts: Sequence[float] = _CUTS,
) -> pd.DataFrame:
    """AUC of a gene by patient if only tiles with at most so much background had been scored.

    Parameters
    ----------
    tiles : tile_id, background_fraction (0–1)
    predictions, labels : tables of one gene; networks are not trained again
    min_positives : least number of patients in each class

    Returns DataFrame: cut, tiles, patients (scored ones that are left), auc, ci_low, ci_high. Cuts that drop no scored
    tile more than a stricter one are left out.
    """
    predictions = predictions[predictions["patient_id"].isin(labels.dropna(subset=["status"])["patient_id"])]
    share = predictions["tile_id"].map(tiles.set_index("tile_id")["background_fraction"]).astype(float)
    rows: list[dict[str, float]] = []
    for cut in cuts:
        own = predictions[(share <= cut).to_numpy()]
        if own.empty or (rows and rows[-1]["tiles"] == len(own)):
            continue
        known = labels[labels["patient_id"].isin(own["patient_id"])]
        (row,) = headline_rows(
            gene_metrics(own, known, units=("patient",), min_positives=min_positives, resamples=2)
        ).to_dict("records")
        rows.append({"cut": cut, "tiles": len(own), "patients": own["patient_id"].nunique()}
                    | {name: row[name] for name in ("auc", "ci_low", "ci_high")})  # fmt: skip
    return pd.DataFrame(rows, columns=["cut", "tiles", "patients", "auc", "ci_low", "ci_high"])


def at_counts(prevalence: float, aucs: Sequence[float], patients: Sequence[int] = _PATIENTS) -> pd.DataFrame:
    """Half-width of a cross-fitted AUC's 95 % interval with more or fewer patients (Hanley and McNeil, twice).

    Parameters
    ----------
    prevalence : share of mutated patients (0–1)

    Returns DataFrame: auc, patients, mutated, half_width [AUC]; without counts of fewer than two patients of a class.
    """
    rows = [{"auc": auc, "patients": n, "mutated": round(n * prevalence),
             "half_width": math.sqrt(2) * half_width(auc, n * prevalence, n * (1 - prevalence))}
            for auc in aucs for n in patients if min(n * prevalence, n * (1 - prevalence)) >= 2]  # fmt: skip
    return pd.DataFrame(rows, columns=["auc", "patients", "mutated", "half_width"])


def what_if_sentences(
    highest: pd.DataFrame, cuts: pd.DataFrame, counts: pd.DataFrame, gene: str
) -> dict[str, dict[str, str]]:
    """Question → (value of its slider → answer), of the three tables above."""
    asked: dict[str, dict[str, str]] = {}
    for slide, own in highest.groupby("slide_id", sort=False):
        first = own["mean"].iloc[0]
        asked[f"what drives {slide}?"] = {
            f"{r.left_out:.0%} left out": f"{counted(int(r.windows), 'window')} would stay; mean score for {gene} "
            f"{r.mean:.3f}, of all windows {first:.3f}."
            for r in own.itertuples()
        }  # fmt: skip
    asked["another cut of background?"] = {
        f"at most {r.cut:.0%}": f"{r.tiles:,} tiles of {r.patients} patients would stay; AUC of {gene} "
        f"{interval_text(r.auc, r.ci_low, r.ci_high)}, by the networks as they are."
        for r in cuts.itertuples()
    }
    for auc, own in counts.groupby("auc"):
        asked[f"how many patients, at AUC {share_text(float(auc))}?"] = {
            f"{r.patients:,} patients": f"{r.mutated:,} of them mutated; the interval would be ± {r.half_width:.2f}."
            for r in own.itertuples()
        }
    return {question: answers for question, answers in asked.items() if answers}
