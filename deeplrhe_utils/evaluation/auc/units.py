"""From tile scores to the score of a slide or a patient, and from scores to the labels that they are held against."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from deeplrhe_utils.core.errors import CohortError, ParameterError

UNITS: Final = {"tile": ["tile_id", "patient_id"], "slide": ["slide_id", "patient_id"], "patient": ["patient_id"]}
"""Unit → the columns that name it, its own first."""
AGGREGATION_RULES: Final = ("mean", "positive share", "top")
"""How the tiles of a unit become one score; `mean` is both papers' rule."""
CUT: Final = 0.5
"""A tile counts as positive from this probability on."""
TOP: Final = 3
"""Tiles of a unit that the rule "top" takes; a unit with fewer gives the mean of those it has."""


def aggregate(predictions: pd.DataFrame, unit: str = "patient", rule: str = "mean") -> pd.DataFrame:
    """One score per unit and gene.

    Parameters
    ----------
    predictions : the predictions table
    unit : {"tile", "slide", "patient"}
    rule : one of :data:`AGGREGATION_RULES`
        "mean": the papers' average of tile probabilities. "positive share": share of tiles with a probability of
        at least :data:`CUT` (DeepPATH's other rule). "top": mean of the :data:`TOP` highest tiles.

    Returns DataFrame: columns unit_id, patient_id, gene, fold, score; units without any score are absent.

    Raises CohortError: an unknown unit. ParameterError: an unknown rule.
    """
    if unit not in UNITS:
        raise CohortError("Unknown unit", got=unit, expected=" | ".join(UNITS))
    if rule not in AGGREGATION_RULES:
        raise ParameterError("Unknown rule for the score of a unit", got=rule, expected=" | ".join(AGGREGATION_RULES))
    keys = UNITS[unit]
    scored = predictions.dropna(subset=["score"])
    by = [*keys, "gene", "fold"]
    if rule == "positive share":
        scored = scored.assign(score=(scored["score"] >= CUT).astype(float))
    elif rule == "top":
        scored = scored.sort_values("score", ascending=False, kind="stable").groupby(by, sort=False).head(TOP)
    mean = scored.groupby(by, as_index=False)["score"].mean()
    return mean.assign(unit_id=mean[keys[0]])[["unit_id", "patient_id", "gene", "fold", "score"]]


def align_folds(scores: pd.DataFrame) -> pd.DataFrame:
    """Put the folds on one scale: within fold and gene, `score` becomes its rank in (0, 1), ties at their mean.

    Each fold is scored by another network, and two networks need not agree on what 0.6 means; pooling their
    probabilities would let a mere offset between networks change the AUC. Ranks keep the order inside each fold.
    It assumes folds of similar class mix, which stratified folds have.
    """
    by = scores.groupby(["gene", "fold"])["score"]
    return scores.assign(score=(by.rank() - 0.5) / by.transform("size"))


def place_among_negatives(scores: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Put the folds on one scale that does not depend on their class mix.

    Within fold and gene `score` becomes the share of the fold's wild-type rows that it outranks, ties one half: ROC
    curves are thereby averaged at equal false positive rates. :func:`align_folds` ranks among all rows and lowers the
    AUC where folds differ in prevalence (by 0.06 at 10 % and 50 %), which whole sites do.

    Parameters
    ----------
    scores : patient_id, gene, fold, score
    labels : table LABELS

    Returns DataFrame: the rows whose label is known, with `label`; score is null in a fold without wild types of the
    gene.
    """
    parts = []
    for _, own in with_labels(scores, labels).groupby(["gene", "fold"], sort=False):
        negative = np.sort(own.loc[own["label"] == 0, "score"].to_numpy(float))
        value = own["score"].to_numpy(float)
        low, high = (np.searchsorted(negative, value, side) for side in ("left", "right"))
        parts.append(own.assign(score=(low + high) / (2 * len(negative)) if len(negative) else np.nan))
    return pd.concat(parts) if parts else with_labels(scores, labels)


def with_labels(scores: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Join scores with known labels (null labels are left out); adds the integer column `label`."""
    known = labels.dropna(subset=["status"])[["patient_id", "gene", "status"]].rename(columns={"status": "label"})
    return scores.merge(known, on=["patient_id", "gene"], how="inner", validate="many_to_one")
