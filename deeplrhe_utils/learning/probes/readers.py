"""Closed-form readers on label-free features: scores of many label vectors at once, by units that were held out.

Both readers are linear in the labels, so hundreds of exchanged labels cost one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.seeds import generator

_Floats = NDArray[np.float64]
_Ints = NDArray[np.intp]

PENALTY: Final = 0.3
"""Ridge penalty, in units of the mean squared singular value of the training features; chosen on cohorts 7 and 8.
Chosen anew for each label vector by leaving one out, it cost EGFR .05 of AUC there: 20 carriers choose badly."""
_CLIP: Final = 4.0  # standard deviations: a tile of ink must not draw the line


def means_by_patient(features: pd.DataFrame, patients: pd.Series) -> pd.DataFrame:
    """Mean of each feature over a patient's tiles: rows are patients, sorted; `patients` in the order of `features`."""
    return features.groupby(patients.to_numpy(dtype=str)).mean().rename_axis("patient_id")


def partitions(units: int, n_folds: int, repeats: int, seed: int, groups: _Ints | None = None) -> _Ints:
    """Random divisions that look at no label, (repeats, units), folds from 0, sizes as even as can be.

    With `groups` (units,) whole groups (sites) go to a fold: in random order, each to the smallest so far.
    """
    if groups is None:
        even = np.arange(units) % n_folds
        return np.stack([generator(seed, "partition", r).permutation(even) for r in range(repeats)])
    names, code, size = np.unique(groups, return_inverse=True, return_counts=True)
    rows = []
    for r in range(repeats):
        fold, filled = np.zeros(len(names), np.intp), np.zeros(n_folds)
        for group in generator(seed, "partition of groups", r).permutation(len(names)):
            fold[group] = int(filled.argmin())
            filled[fold[group]] += size[group]
        rows.append(fold[code])
    return np.stack(rows)


def standardized(features: _Floats, train: NDArray[np.bool_]) -> _Floats:
    """Features (n, k) in standard deviations of training rows (n,) from their mean, clipped; 0 where these agree."""
    mean, sd = features[train].mean(0), features[train].std(0)
    return np.asarray(np.clip((features - mean) / np.where(sd > 1e-9, sd, np.inf), -_CLIP, _CLIP))


def ridge_held_out(
    features: _Floats, labels: _Floats, fold: _Ints, *, penalty: float = PENALTY, held: Sequence[int] | None = None
) -> _Floats:
    """Scores of every fold by a ridge regression on the other folds.

    Parameters
    ----------
    features : (n, k), finite
    labels : (n, b): numbers, a column per label vector
    fold : (n,)
    penalty : as :data:`PENALTY`
    held : folds to score; all unless said otherwise, the rest stay 0

    Returns (n, b): comparable within a fold only.
    """
    scores = np.zeros(labels.shape)
    for one in np.unique(fold) if held is None else held:
        train = fold != one
        scaled = standardized(features, train)
        own, other = scaled[train], scaled[~train]
        own, centre = own - own.mean(0), own.mean(0)
        left, size, right = np.linalg.svd(own, full_matrices=False)
        power = size**2
        shrunk = size / (power + penalty * max(float(power.mean()), 1e-12))
        weight = (right.T * shrunk) @ left.T
        scores[~train] = ((other - centre) @ weight) @ (labels[train] - labels[train].mean(0))
    return scores


def ridge_elsewhere(features: _Floats, labels: _Floats, elsewhere: _Floats) -> _Floats:
    """Scores (m, b) of units elsewhere (m, k) by the ridge regression of :func:`ridge_held_out` on all units here."""
    there = np.r_[np.zeros(len(features), np.intp), np.ones(len(elsewhere), np.intp)]
    both, padded = np.vstack([features, elsewhere]), np.vstack([labels, np.zeros((len(elsewhere), labels.shape[1]))])
    return ridge_held_out(both, padded, there, held=[1])[there == 1]


def kernel_held_out(
    features: _Floats, labels: _Floats, fold: _Ints, *, width: float = 1.0, penalty: float = 1e-2
) -> _Floats:
    """As :func:`ridge_held_out`, with a Gaussian kernel: a reader that can look a neighbour up.

    Parameters
    ----------
    width : of the kernel, in the root of the number of features (standardized): the smaller, the more it memorizes
    penalty : on the diagonal of the kernel matrix, whose entries are at most 1
    """
    scores = np.zeros(labels.shape)
    for held in np.unique(fold):
        train = fold != held
        scaled = standardized(features, train)
        own, other = scaled[train], scaled[~train]
        scale = 2 * width**2 * features.shape[1]
        kernel = np.exp(-_squared(own, own) / scale) + penalty * np.eye(len(own))
        target = labels[train] - labels[train].mean(0)
        scores[~train] = np.exp(-_squared(other, own) / scale) @ np.linalg.solve(kernel, target)
    return scores


def _squared(a: _Floats, b: _Floats) -> _Floats:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0.0)


def random_layers(features: _Floats, *, width: int, depth: int, seed: int) -> _Floats:
    """Features of an untrained network: `depth` layers of `width` random rectified units on standardized columns.

    Its width and depth are what a search can turn without training anything (Rahimi & Recht 2008).
    """
    values = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    for layer in range(depth):
        random = generator(seed, "random layer", width, layer)
        weight = random.normal(size=(values.shape[1], width)) / np.sqrt(values.shape[1])
        values = np.maximum(values @ weight + random.normal(size=width) / 2, 0.0)
        values = (values - values.mean(0)) / np.maximum(values.std(0), 1e-9)
    return values
