"""Figures of the quality filter; see :mod:`~deeplrhe_utils.reporting.figures` for the rules all figures follow."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deeplrhe_utils.reporting.figures import new_figure

_UNITS = {"blur": "µm", "pen": "density", "fold": "× density", "bubble": "density", "jpeg": "quality"}


def filter_roc(table: pd.DataFrame, roc: pd.DataFrame) -> Figure:
    """Sensitivity by kind and strength with false alarms (left), and a ROC curve per kind (right).

    Parameters
    ----------
    table, roc : of :class:`~deeplrhe_utils.evaluation.spike.SpikeIn`
    """
    figure = new_figure(10.0, 0.26 * len(table) + 1.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    _sensitivity(left, table)
    kinds = list(dict.fromkeys(table["kind"]))
    for colour, kind in zip(sns.color_palette("colorblind", len(kinds)), kinds, strict=True):
        strengths = list(dict.fromkeys(table.loc[table["kind"] == kind, "strength"]))
        middle = strengths[len(strengths) // 2]
        own = roc[(roc["kind"] == kind) & (roc["strength"] == middle)].sort_values("false_positive_rate")
        x, y = (np.concatenate([[0], own[c].to_numpy(float), [1]])
                for c in ("false_positive_rate", "true_positive_rate"))  # fmt: skip
        right.plot(x, np.maximum.accumulate(y), marker=".", ms=4, color=colour, label=f"{kind} {middle:g}")
    right.plot([0, 1], [0, 1], ls=":", color="0.6")
    right.set_xlabel("false alarms (share of untouched fields)")
    right.set_ylabel("seen (share of painted fields)")
    right.legend(frameon=False, fontsize=7, loc="lower right")
    sns.despine(figure)
    return figure


def _sensitivity(axes: Axes, table: pd.DataFrame) -> None:
    y = np.arange(len(table))
    seen = table["sensitivity"].to_numpy(float)
    low, high = (table[f"sensitivity_{end}"].to_numpy(float) for end in ("low", "high"))
    axes.errorbar(seen, y, xerr=np.abs([seen - low, high - seen]), fmt="o", ms=4, color="C0", label="seen")
    axes.plot(table["false_alarms"], y, "|", ms=9, color="0.5", label="false alarms")
    names = [f"{k} {s:g} {_UNITS.get(k.split()[0], '')}" for k, s in zip(table["kind"], table["strength"], strict=True)]
    axes.set_yticks(y, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("share of fields")
    axes.legend(frameon=False, fontsize=7, loc="center left")
