"""Are a vector's nearest neighbours of its own class, or of its own site?

The robustness index counts, over all vectors and their k nearest neighbours from other groups (patients), those of the
same class from another site (SO) against those of another class from the same site (OS): SO / (SO + OS). Sources:
Kömen et al. 2025 (PathoROB); the package croma, whose design "all" this reproduces, its choice of k included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.core.seeds import generator

_Ints = NDArray[np.intp]
KS: Final = (5, 11, 21, 51, 101)
"""Numbers of neighbours among which the one that names the class best is chosen."""
_ROWS: Final = 1024  # rows of the matrix of similarities at a time


class Neighbours(NamedTuple):
    """Nearest neighbours from other groups, nearest first: `others` (n, k), and how many each vector has (n,)."""

    others: _Ints
    found: _Ints


def nearest(features: NDArray[Any], groups: _Ints, k: int) -> Neighbours:
    """The k nearest neighbours by cosine among vectors (n, D) of other groups (n,)."""
    unit = np.asarray(features, np.float64)
    unit = unit / (np.linalg.norm(unit, axis=1, keepdims=True) + 1e-12)
    k = min(k, len(unit) - 1)
    index, count = np.zeros((len(unit), k), np.intp), np.zeros(len(unit), np.intp)
    for start in range(0, len(unit), _ROWS):
        alike = unit[start : start + _ROWS] @ unit.T
        alike[groups[start : start + _ROWS, None] == groups[None]] = -np.inf
        best = np.argpartition(-alike, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(alike, best, 1)
        order = np.argsort(-near, axis=1, kind="stable")
        index[start : start + _ROWS] = np.take_along_axis(best, order, 1)
        count[start : start + _ROWS] = np.isfinite(near).sum(1)
    return Neighbours(index, count)


def class_by_neighbours(near: Neighbours, label: _Ints, k: int) -> float:
    """Balanced share of vectors whose class (n,), numbered from 0, is that of most of their k neighbours."""
    votes = np.zeros((len(label), int(label.max()) + 1))
    inside = np.arange(near.others.shape[1]) < np.minimum(near.found, k)[:, None]
    rows = np.broadcast_to(np.arange(len(label))[:, None], near.others.shape)
    np.add.at(votes, (rows[inside], label[near.others][inside]), 1)
    used = near.found > 0
    right = votes.argmax(1) == label
    return float(np.mean([right[used & (label == c)].mean() for c in np.unique(label[used])]))


def index_of(near: Neighbours, label: _Ints, sites: _Ints, k: int) -> NDArray[np.float64]:
    """The robustness index (b,) for each column of `sites` (n, b); NaN where no neighbour counts."""
    inside = np.arange(near.others.shape[1]) < np.minimum(near.found, k)[:, None]
    rows, _ = np.nonzero(inside)
    other = near.others[inside]
    same_class, same_site = (label[other] == label[rows])[:, None], sites[other] == sites[rows]
    so, os = (same_class & ~same_site).sum(0), (~same_class & same_site).sum(0)
    with np.errstate(invalid="ignore"):
        return np.asarray(so / (so + os))


def robustness_index(
    features: pd.DataFrame, classes: pd.Series, sites: pd.Series, *, ks: Sequence[int] = KS, draws: int = 200,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The robustness index of vectors, beside what it would be if sites meant nothing.

    Parameters
    ----------
    features : a row per vector, named by its patient in the index; neighbours of the same patient do not count
    classes, sites : by patient_id; patients without either are left out, and counted
    ks : candidates for the number of neighbours; the one by which neighbours name the class best counts
    draws : exchanges of sites among the patients of a class

    Returns dict: index (0: neighbours share the site, 1: they share the class), k, null_mean, null_low, null_high
    (middle 95 % under exchanged sites), p (one-sided: exchanged sites give an index as low), class_named (balanced
    share named by neighbours), classes, sites, vectors, patients, left_out.
    Raises CohortError: fewer than two classes, two sites or three patients are known, or sites and classes are one.
    """
    owner = features.index.to_numpy(str)
    known = pd.DataFrame({"label": classes, "site": sites}).reindex(np.unique(owner)).dropna()
    rows = np.isin(owner, known.index.to_numpy(str))
    if known["label"].nunique() < 2 or known["site"].nunique() < 2 or len(known) < 3:
        raise CohortError("A robustness index needs two classes and two sites",
                          got=f"{known['label'].nunique()} classes, {known['site'].nunique()} sites, {len(known)} "
                          "patients of whom both are known")  # fmt: skip
    place = np.searchsorted(known.index.to_numpy(str), owner[rows])
    values = known.iloc[place]
    label = pd.factorize(values["label"])[0].astype(np.intp)
    near = nearest(features.to_numpy()[rows], place, max(ks))
    named = {k: class_by_neighbours(near, label, k) for k in ks if k < rows.sum()} or {1: float("nan")}
    k = max(named, key=lambda one: named[one])
    random, code = generator(seed, "exchanged sites"), known["site"].factorize()[0]
    drawn = np.tile(code[:, None], (1, 1 + draws))
    for value in known["label"].unique():
        own = np.flatnonzero(known["label"] == value)
        drawn[own, 1:] = random.permuted(drawn[own, 1:], axis=0)
    found = np.concatenate([index_of(near, label, part[place], k) for part in np.array_split(drawn, 1 + draws // 8, 1)])
    index, null = float(found[0]), found[1:][~np.isnan(found[1:])]
    if np.isnan(index) or not len(null):
        raise CohortError("No neighbour is of the same class and another site, or of another class and the same site",
                          expected="sites with patients of several classes")  # fmt: skip
    low, high = np.quantile(null, [0.025, 0.975])
    return {"index": index, "k": k, "null_mean": float(null.mean()), "null_low": float(low),
            "null_high": float(high), "p": float((1 + (null <= index).sum()) / (1 + len(null))),
            "class_named": named[k], "classes": int(known["label"].nunique()), "sites": int(known["site"].nunique()),
            "vectors": int(rows.sum()), "patients": len(known),
            "left_out": len(np.unique(owner)) - len(known)}  # fmt: skip
