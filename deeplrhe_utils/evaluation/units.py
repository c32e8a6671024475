"""From tile scores to the score of a slide or a patient, and from scores to the labels that they are held against."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from deeplrhe_utils.core.errors import CohortError, ParameterError

UNITS: Final = {"tile": ["tile_id", "patient_id"], "slide": ["slide_id", "patient_id"], "patient": ["patient_id"]}
"""Unit → the columns that name it, its own first."""
RULES: Final = ("mean", "positive share", "top", "attention")
"""How the tiles of a unit become one score; `mean` is both papers' rule."""


def aggregate(
    predictions: pd.DataFrame, unit: str = "patient", rule: str = "mean", *, cut: float = 0.5, k: int = 3,
    attention: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """One score per unit and gene.

    Parameters
    ----------
    predictions : DataFrame
        The predictions table.
    unit : {"tile", "slide", "patient"}
    rule : one of :data:`RULES`
        "mean": the papers' average of tile probabilities. "positive share": share of tiles with a probability of
        at least `cut` (DeepPATH's other rule). "top": mean of the `k` highest tiles. "attention": average with
        weights.
    cut : float
        For "positive share"; in [0, 1].
    k : int
        For "top": tiles; a unit with fewer gives the mean of those it has.
    attention : DataFrame, optional
        For "attention": tile_id, gene, weight ≥ 0; a tile without weight is left out.

    Returns
    -------
    DataFrame
        Columns unit_id, patient_id, gene, fold, score; units without any score are absent.

    Raises
    ------
    CohortError
        An unknown unit.
    ParameterError
        An unknown rule, or one that lacks what it needs.
    """
    if unit not in UNITS:
        raise CohortError("Unknown unit", got=unit, expected=" | ".join(UNITS))
    if rule not in RULES:
        raise ParameterError("Unknown rule for the score of a unit", got=rule, expected=" | ".join(RULES))
    keys = UNITS[unit]
    scored = predictions.dropna(subset=["score"])
    by = [*keys, "gene", "fold"]
    if rule == "positive share":
        if not 0 <= cut <= 1:
            raise ParameterError("A cut outside [0, 1] calls all tiles alike", got=cut, expected="0 to 1")
        scored = scored.assign(score=(scored["score"] >= cut).astype(float))
    elif rule == "top":
        if k < 1:
            raise ParameterError("The highest tiles need a number", got=k, expected="1 or more")
        scored = scored.sort_values("score", ascending=False, kind="stable").groupby(by, sort=False).head(k)
    elif rule == "attention":
        scored = _attended(scored, attention, by)
    mean = scored.groupby(by, as_index=False)["score"].mean()
    return mean.assign(unit_id=mean[keys[0]])[["unit_id", "patient_id", "gene", "fold", "score"]]


def _attended(scored: pd.DataFrame, attention: pd.DataFrame | None, by: list[str]) -> pd.DataFrame:
    """Scores multiplied so that their plain mean over a unit is the weighted one."""
    if attention is None:
        raise ParameterError("The rule attention needs weights", expected="columns tile_id, gene, weight")
    known = attention.dropna(subset=["weight"])[["tile_id", "gene", "weight"]]
    joined = scored.merge(known, on=["tile_id", "gene"], validate="many_to_one")
    joined = joined[joined.groupby(by)["weight"].transform("sum") > 0]
    share = joined["weight"] / joined.groupby(by)["weight"].transform("mean")
    return joined.assign(score=joined["score"] * share)


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
    scores : DataFrame
        patient_id, gene, fold, score.
    labels : DataFrame
        Table LABELS.

    Returns
    -------
    DataFrame
        The rows whose label is known, with `label`; score is null in a fold without wild types of the gene.
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
