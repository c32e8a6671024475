"""Figures of colour normalization: what agreement costs in structure, and whether a classifier gains."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from deeplrhe_utils.reporting.figures import new_figure


def trade_off(table: pd.DataFrame, x: str, y: str, x_label: str, y_label: str) -> Figure:
    """One dot per method (rows, named by the index): agreement on one axis, structure on the other."""
    figure = new_figure(5.2, 3.4)
    axes = figure.subplots()
    colours = sns.color_palette("colorblind", len(table))
    for i, ((name, row), colour) in enumerate(zip(table.sort_values(y).iterrows(), colours, strict=True)):
        axes.scatter(row[x], row[y], s=46, color=colour, zorder=3)
        side = (7, "left") if i % 2 else (-7, "right")  # neighbours write to different sides
        axes.annotate(str(name), (row[x], row[y]), (side[0], -3), textcoords="offset points", fontsize=8, ha=side[1])
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(x=0.18, y=0.15)
    sns.despine(figure)
    return figure


def differences(table: pd.DataFrame, base: str) -> Figure:
    """AUC difference from `base` with its interval: columns gene, arm, difference, ci_low, ci_high, n_pos, n_neg."""
    shown = table[table["arm"] != base]
    genes, arms = list(shown["gene"].drop_duplicates()), list(shown["arm"].drop_duplicates())
    figure = new_figure(6.0, 0.9 + 0.42 * max(len(genes), 1))
    axes = figure.subplots()
    for j, (arm, colour) in enumerate(zip(arms, sns.color_palette("colorblind", len(arms)), strict=True)):
        part = shown[shown["arm"] == arm].set_index("gene").reindex(genes)
        height = np.arange(len(genes)) + 0.22 * (j - (len(arms) - 1) / 2)
        error = np.abs(part[["ci_low", "ci_high"]].to_numpy(dtype=float).T - part["difference"].to_numpy(dtype=float))
        axes.errorbar(part["difference"], height, xerr=error, fmt="o", ms=4, lw=1.2, color=colour, label=arm)
    axes.axvline(0, color="0.4", lw=0.8)
    counts = shown.drop_duplicates("gene").set_index("gene").reindex(genes)
    axes.set_yticks(
        range(len(genes)), [f"{g} ({int(counts.loc[g, 'n_pos'])}/{int(counts.loc[g, 'n_neg'])})" for g in genes]
    )
    axes.invert_yaxis()
    axes.set_xlabel(f"AUC minus AUC of {base}")
    if arms:
        axes.legend(frameon=False, fontsize=8, loc="best")
    sns.despine(figure)
    return figure
