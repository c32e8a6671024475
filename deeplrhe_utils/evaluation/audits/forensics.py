"""Arithmetic on published numbers: can they be what they say they are?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from deeplrhe_utils.core.errors import ParameterError


def possible_auc(reported: str, n_pos: int, n_neg: int) -> bool:
    """Whether an AUC, as printed, can arise from these counts.

    An AUC is a number of half-won pairs over twice the pairs; with few pairs most three-digit values cannot occur.

    Parameters
    ----------
    reported : as printed, so that its decimals are known, for example "0.753"
    n_pos, n_neg : units of each class, at least one

    Raises ParameterError: no number in [0, 1], or an empty class.

    Source: the idea of granularity tests, Brown & Heathers 2017.

    >>> possible_auc("0.753", 3, 4), possible_auc("0.75", 3, 4)
    (False, True)
    """
    try:
        value = float(reported)
    except ValueError as cause:
        raise ParameterError("An AUC as printed is a number", got=reported) from cause
    if not 0 <= value <= 1 or min(n_pos, n_neg) < 1:
        raise ParameterError("There is no such AUC", got=f"{reported} of {n_pos} and {n_neg}")
    decimals = len(reported.partition(".")[2])
    halves = 2 * n_pos * n_neg
    nearest = np.arange(max(0, int(value * halves) - 1), min(halves, int(value * halves) + 2) + 1) / halves
    return bool((np.abs(nearest - value) <= 0.5 * 10.0**-decimals + 1e-12).any())


def sided(low: float, high: float, sign: float) -> str:
    """What an interval says of a difference that is stated to have `sign`: it may also lie on both sides of 0."""
    low, high = sorted((low * sign, high * sign))
    return "compatible" if low > 0 else "contradicted" if high < 0 else "not estimable"


def stated_differences(checks: pd.DataFrame) -> pd.DataFrame:
    """Each stated difference as a sentence with its verdict (:func:`sided`).

    Parameters
    ----------
    checks : ``data/reference/table1_checks.csv``: statement, quantity, patients, both sides' names, values and counts,
        stated_sign (1: the first side is said to be greater), difference, ci_low, ci_high

    Returns DataFrame: `checks` with the columns verdict and sentence.
    """
    verdicts, sentences = [], []
    for row in checks.to_dict("records"):
        show = "{:.1%}".format if row["quantity"].startswith("share") else "{:.1f}".format
        sides = (f"{row[s]} {show(row[f'{s}_value'])} ({row[f'{s}_n']})" for s in ("first", "second"))
        gap, low, high = (show(row[name]) for name in ("difference", "ci_low", "ci_high"))
        verdicts.append(sided(row["ci_low"], row["ci_high"], row["stated_sign"]))
        sentences.append(f"{row['patients']}, {row['quantity']}: {', '.join(sides)}; difference {gap} [{low}, {high}]")
    return checks.assign(verdict=verdicts, sentence=sentences)


def reported_by_chance(reported: pd.DataFrame, precision: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Each reported AUC beside what its sample size allows.

    Parameters
    ----------
    reported : gene, reported_auc (null where it was not reported)
    precision : gene → n_pos, n_neg, ci_low, ci_high, null_high: as notebook 12 writes it

    Returns DataFrame: gene, reported_auc, n_pos, n_neg, ci_low, ci_high, null_high, arithmetic ("possible" or not with
    these counts) and above_chance: whether the reported value lies above the central 95 % of an AUC when nothing is
    there.
    """
    rows = []
    for row in reported.dropna(subset=["reported_auc"]).to_dict("records"):
        own = precision.get(row["gene"])
        if own is None or own["null_high"] is None:
            continue
        value = row["reported_auc"]
        fits = possible_auc(f"{value:g}", own["n_pos"], own["n_neg"])
        rows.append({"gene": row["gene"], "reported_auc": value, "n_pos": own["n_pos"], "n_neg": own["n_neg"],
                     "ci_low": own["ci_low"], "ci_high": own["ci_high"], "null_high": own["null_high"],
                     "arithmetic": "possible" if fits else "impossible",
                     "above_chance": "yes" if value > own["null_high"] else "no"})  # fmt: skip
    columns = ["gene", "reported_auc", "n_pos", "n_neg", "ci_low", "ci_high", "null_high", "arithmetic", "above_chance"]
    return pd.DataFrame(rows, columns=columns)
