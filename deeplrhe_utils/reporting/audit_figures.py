"""Figures of the leakage audit: one network under several splits, and what two published lists show."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deeplrhe_utils.reporting.figures import PALETTE, new_figure

_COLOURS = {"tile": PALETTE[3], "slide": PALETTE[1], "patient": PALETTE[0], "site": PALETTE[2]}
_MARKS = {"tile": "s", "slide": "D", "patient": "o", "site": "^"}


def schemes(table: pd.DataFrame) -> Figure:
    """AUC with its interval per gene and scheme, a panel per unit.

    Parameters
    ----------
    table : as :func:`~deeplrhe_utils.evaluation.leakage.inflation` returns; at least one row
    """
    units, genes = list(table["unit"].drop_duplicates()), list(table["gene"].drop_duplicates())
    names = list(table["scheme"].drop_duplicates())
    figure = new_figure(1.6 + 3.0 * len(units), 1.1 + 0.42 * len(genes))
    panels = figure.subplots(1, len(units), squeeze=False, sharex=True, sharey=True)[0]
    for axes, unit in zip(panels, units, strict=True):
        for j, name in enumerate(names):
            own = table[(table["unit"] == unit) & (table["scheme"] == name)].set_index("gene").reindex(genes)
            middle = own["auc"].to_numpy(dtype=float)
            error = np.abs(own[["ci_low", "ci_high"]].to_numpy(dtype=float).T - middle)
            place = np.arange(len(genes)) + 0.17 * (j - (len(names) - 1) / 2)
            axes.errorbar(middle, place, xerr=error, fmt=_MARKS[name], ms=4, lw=1.1, color=_COLOURS[name],
                          label=f"divided by {name}")  # fmt: skip
        axes.axvline(0.5, ls=":", color="0.4", lw=1)
        axes.set_title(f"counted by {unit}", fontsize=9)
        axes.set_xlabel("AUC")
    panels[0].set_yticks(range(len(genes)), genes, fontsize=8)
    panels[0].invert_yaxis()
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    sns.despine(figure)
    return figure


def card(table: pd.DataFrame) -> Figure:
    """Validation and test AUC of a published card, a line per gene: columns gene, auc_valid, auc_test."""
    figure = new_figure(4.2, 3.6)
    axes = figure.subplots()
    ends = table[["auc_valid", "auc_test"]].to_numpy(dtype=float)
    for (valid, test), at, gene in zip(ends, _apart(ends[:, 1]), table["gene"], strict=True):
        colour = PALETTE[0] if test < valid else PALETTE[1]
        axes.plot([0, 1], [valid, test], "o-", ms=4, lw=1.1, color=colour)
        axes.annotate(gene, (1, test), (1.08, at), fontsize=8, va="center", annotation_clip=False)
    axes.plot([0, 1], ends.mean(0), "o-", ms=6, lw=2.4, color="0.15")
    axes.axhline(0.5, ls=":", color="0.4", lw=1)
    axes.set_xticks([0, 1], ["validation\n(chose the checkpoint)", "test"])
    axes.set_xlim(-0.15, 1.35)
    axes.set_ylabel("AUC, as published")
    sns.despine(figure)
    return figure


def _apart(heights: np.ndarray, least: float = 0.017) -> np.ndarray:
    """Heights moved as little as needed so that labels do not overlap, (n,)."""
    order = np.argsort(heights)
    moved = heights[order].copy()
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + least)
    result = np.empty_like(moved)
    result[order] = moved - (moved.mean() - heights.mean())
    return result


def shares(draws: pd.DataFrame) -> Figure:
    """Share of test slides whose patient was seen, over draws of the split: columns in_train, in_either (0–1)."""
    figure = new_figure(5.6, 2.6)
    axes: Axes = figure.subplots()
    names = {"in_train": "patient in training", "in_either": "in training or validation"}
    bins = [2.0 * i for i in range(51)]
    for (column, text), colour in zip(names.items(), (PALETTE[3], PALETTE[1]), strict=True):
        values = 100 * draws[column].to_numpy(dtype=float)
        axes.hist(values, bins=bins, color=colour, alpha=0.7, label=text)
        axes.axvline(values.mean(), color=colour, lw=1.5)
    low = 100 * float(draws[list(names)].to_numpy(dtype=float).min())
    high = 100 * float(draws[list(names)].to_numpy(dtype=float).max())
    axes.set_xlim(max(0, low - 8), min(100, high + 8))
    axes.set_xlabel("test slides whose patient was seen [%]")
    axes.set_ylabel("draws of the split")
    axes.legend(frameon=False, fontsize=8)
    sns.despine(figure)
    return figure
