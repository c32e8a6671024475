"""Points of the explorer's plots, each with the window or the patient that a click on it leads to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.reporting.slide_views import SlideView, neighbours


def window_points(views: Sequence[SlideView], gene: str) -> pd.DataFrame:
    """Every scored window with the mean score of the windows that touch it.

    Parameters
    ----------
    gene : a column of their windows

    Returns DataFrame: slide_id, tile_id, score, around (null where no neighbour was scored), in the order of the
    slides. Windows without a score are left out; ``attrs["unscored"]`` says how many.
    """
    parts, unscored = [], 0
    for view in views:
        own = view.windows[gene].to_numpy(float) if gene in view.windows else np.full(len(view.windows), np.nan)
        around = [(int(i), neighbours(view.windows, int(i))) for i in np.flatnonzero(~np.isnan(own))]
        names = view.windows["tile_id"].astype(str).to_numpy()
        rows = [(view.slide_id, names[i], own[i], _mean(own[beside])) for i, beside in around]
        parts += rows
        unscored += len(own) - len(rows)
    points = pd.DataFrame(parts, columns=["slide_id", "tile_id", "score", "around"])
    points.attrs["unscored"] = unscored
    return points


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def roc_points(scored: pd.DataFrame) -> pd.DataFrame:
    """The corners of one ROC curve, each with the patients whose score it is.

    Parameters
    ----------
    scored : patient_id, score, label (1 mutated, 0 wild type), one row per patient of one gene

    Returns DataFrame: cut, fpr, tpr, patients (names joined by commas), from (0, 0) to (1, 1): one row per different
    score, descending, after a first one without patients. A patient counts as positive from `cut` on.

    Raises InputError: a class is missing, so there is no curve.
    """
    positives, negatives = int((scored["label"] == 1).sum()), int((scored["label"] == 0).sum())
    if not positives or not negatives:
        raise InputError(
            "A ROC curve needs patients of both classes", got=f"{positives} mutated, {negatives} wild type"
        )
    by_cut = scored.sort_values(["score", "patient_id"]).groupby("score", sort=True)
    steps = pd.DataFrame({
        "hits": by_cut["label"].sum(), "all": by_cut.size(), "patients": by_cut["patient_id"].agg(", ".join),
    }).iloc[::-1]  # fmt: skip
    tpr, fpr = steps["hits"].cumsum() / positives, (steps["all"] - steps["hits"]).cumsum() / negatives
    corners = pd.DataFrame({"cut": steps.index, "fpr": fpr.to_numpy(), "tpr": tpr.to_numpy(),
                            "patients": steps["patients"].to_numpy()})  # fmt: skip
    start = pd.DataFrame({"cut": [float("inf")], "fpr": [0.0], "tpr": [0.0], "patients": [""]})
    return pd.concat([start, corners], ignore_index=True)


def highest_window(views: Sequence[SlideView], patient_id: str, gene: str) -> str | None:
    """tile_id of the patient's window with the highest score for `gene`; None when no slide of theirs was scored."""
    points = window_points([view for view in views if view.patient_id == patient_id], gene)
    return None if points.empty else str(points.loc[points["score"].idxmax(), "tile_id"])
