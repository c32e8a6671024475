"""How alike attribution maps are, and whether that is too alike for maps of a network with random weights."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from deeplrhe_utils.core.errors import ParameterError

Map = NDArray[np.float32]
BOUND: Final = 0.5
"""Largest rank correlation at full randomization with which a method passes: a quarter of the variance of ranks."""
_C1, _C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # of values from -1 to 1


class Ranked:
    """A map with what every comparison with it needs.

    Attributes
    ----------
    constant : whether all values are the same
    signed, size : ranks of the values and of their absolute values, float64 (n,)
    scaled : the values by the largest absolute one, float64 (h, w)
    """

    def __init__(self, values: Map) -> None:
        size = np.abs(values)
        self.constant = bool(np.ptp(values) == 0)
        self.signed, self.size = (rankdata(v.ravel()) for v in (values, size))
        self.scaled = values.astype(np.float64) / (float(size.max()) or 1.0)


def similarity(first: Map, second: Map) -> dict[str, float]:
    """How alike two maps (h, w) are: ``spearman``, ``spearman_abs`` and ``ssim`` (Wang 2004, of maps by their largest
    absolute value).

    NaN where a map is constant, or where its absolute values are, for the measure that this leaves undefined.
    """
    return alike(Ranked(first), Ranked(second))


def alike(a: Ranked, b: Ranked) -> dict[str, float]:
    """As :func:`similarity`, of maps that are compared several times."""
    if a.constant or b.constant:
        return dict.fromkeys(("spearman", "spearman_abs", "ssim"), float("nan"))
    return {"spearman": _correlation(a.signed, b.signed), "spearman_abs": _correlation(a.size, b.size),
            "ssim": _ssim(a.scaled, b.scaled)}  # fmt: skip


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")


def _ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b, cov = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2, _blur(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + _C1) * (2 * cov + _C2)
    return float((alike / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))).mean())


def _blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5), np.float64)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over draws and tiles of the table of a sanity check: a row per method × stage.

    Returns DataFrame: method, stage, block, layers; spearman (mean of the signed correlations), spearman_size (mean of
    their size: a map with its colours exchanged is the same picture, and correlations of -0.9 and 0.9 must not cancel),
    spearman_abs, ssim; n (comparisons), undefined (those of them in which a map was constant).
    """
    sized = table.assign(spearman_size=table["spearman"].abs(), undefined=table["spearman"].isna())
    groups = sized.groupby(["method", "stage", "block", "layers"], sort=False)
    means = groups[["spearman", "spearman_size", "spearman_abs", "ssim"]].mean()
    return means.assign(n=groups.size(), undefined=groups["undefined"].sum()).reset_index()


def verdicts(table: pd.DataFrame, bound: float = BOUND) -> pd.DataFrame:
    """Whether the maps depend on what the network learned: the table of a sanity check, judged at full randomization.

    Parameters
    ----------
    bound : largest mean rank correlation with which a method passes, above 0 and below 1

    Returns DataFrame: a row per method and reading (``sign and size``: signed values; ``size alone``: absolute values):
    method, reading, similarity (mean over draws and tiles), largest (of one tile and draw), n, undefined, bound,
    passes, statement (a sentence). What cannot be judged, because every map was constant, does not pass.

    Source: Adebayo 2018 for the comparison, which names no bound; 0.5 is ours.
    """
    if not 0 < bound < 1:
        raise ParameterError("Illegal bound of similarity", got=bound, expected="above 0 and below 1")
    last = table[(table["stage"] == table["stage"].max()) & (table["stage"] > 0)]
    rows = []
    for method, part in last.groupby("method", sort=False):
        for reading, column in (("sign and size", "spearman"), ("size alone", "spearman_abs")):
            values = part[column].abs() if column == "spearman" else part[column]
            rows.append({"method": str(method), "reading": reading, **_judged(values, bound, str(method), reading)})
    return pd.DataFrame(rows)


def _judged(values: pd.Series, bound: float, method: str, reading: str) -> dict[str, Any]:
    mean, undefined = float(values.mean()), int(values.isna().sum())
    passes = bool(mean < bound)  # False for NaN, too
    facts = {"similarity": mean, "largest": float(values.max()), "n": len(values), "undefined": undefined}
    counted = f"mean of {len(values) - undefined} comparisons, largest {facts['largest']:.2f}; bound {bound:g}"
    if undefined == len(values):
        said = "cannot be judged: in every comparison a map was constant"
    elif passes:
        said = f"passes: with random weights the maps agree with the network's by {mean:.2f} only ({counted})"
    else:
        said = f"FAILS: with random weights the maps still agree with the network's by {mean:.2f} ({counted}), " \
               "so what they show is the tile as much as what was learned"  # fmt: skip
    said += f"; {undefined} of {len(values)} comparisons left out, a map was constant" if undefined else ""
    return {**facts, "bound": bound, "passes": passes, "statement": f"{method}, {reading}: {said}."}
