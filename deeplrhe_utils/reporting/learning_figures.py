"""Figures of training: methods side by side, the range test, what a search found and what it pretended to find."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray

from deeplrhe_utils.reporting.figures import PALETTE, new_figure


def rivals(table: pd.DataFrame, base: str) -> Figure:
    """AUC difference from `base` with its interval: a panel per gene, a row per method.

    Parameters
    ----------
    table : columns gene, arm, difference, ci_low, ci_high, n_pos, n_neg, as
        :func:`~deeplrhe_utils.evaluation.roc.paired_differences` returns
    """
    shown = table[table["arm"] != base]
    genes, arms = list(shown["gene"].drop_duplicates()), list(shown["arm"].drop_duplicates())
    columns = min(3, max(1, len(genes)))
    rows = -(-max(1, len(genes)) // columns)
    figure = new_figure(2.2 + 2.2 * columns, rows * (0.8 + 0.26 * max(1, len(arms))))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
    for axes, gene in zip(panels.ravel(), genes, strict=False):
        part = shown[shown["gene"] == gene].set_index("arm").reindex(arms)
        middle = part["difference"].to_numpy(dtype=float)
        error = np.abs(part[["ci_low", "ci_high"]].to_numpy(dtype=float).T - middle)
        axes.errorbar(middle, np.arange(len(arms)), xerr=error, fmt="o", ms=4, lw=1.2, color=PALETTE[0])
        axes.axvline(0, ls=":", color="0.4", lw=1)
        n_pos, n_neg = part[["n_pos", "n_neg"]].dropna().iloc[0].astype(int)  # an arm may lack the gene
        axes.set_title(f"{gene} ({n_pos} / {n_neg})", fontsize=9)
        axes.set_yticks(range(len(arms)), arms, fontsize=8)
    for axes in panels.ravel()[len(genes) :]:
        axes.set_axis_off()
    panels[0, 0].invert_yaxis()
    figure.supxlabel(f"AUC minus AUC of {base}", fontsize=9)
    sns.despine(figure)
    return figure


def range_test(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], thresholds: Mapping[str, float]
) -> Figure:
    """Smoothed loss against the growing learning rate, one line per name; a dot marks each threshold."""
    figure = new_figure(6.4, 2.8)
    axes = figure.subplots()
    for colour, (name, (rates, losses)) in zip(cycle(PALETTE), curves.items(), strict=False):
        axes.plot(rates, losses, color=colour, label=name)
        at = int(np.argmin(np.abs(rates - thresholds[name])))
        axes.plot(rates[at], losses[at], "o", color=colour, ms=6)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate [1/step]")
    axes.set_ylabel("loss [nats], smoothed")
    axes.legend(frameon=False, fontsize=8)
    sns.despine(figure)
    return figure


def search(trace: pd.DataFrame) -> Figure:
    """Value of every trial that has one, by phase and scope: columns scope, phase, value (null when it diverged)."""
    figure = new_figure(6.4, 3.0)
    axes = figure.subplots()
    scopes, phases = list(trace["scope"].drop_duplicates()), list(trace["phase"].drop_duplicates())
    for j, (scope, colour) in enumerate(zip(scopes, cycle(PALETTE), strict=False)):
        part = trace[trace["scope"] == scope].dropna(subset=["value"])
        place = part["phase"].map(phases.index) + 0.22 * (j - (len(scopes) - 1) / 2)
        axes.plot(place, part["value"], "o", ms=4, alpha=0.7, color=colour, label=scope)
    axes.axhline(0.5, ls=":", color="0.4", lw=1)
    axes.set_xticks(range(len(phases)), phases)
    axes.set_ylabel("mean AUC on the folds that judge")
    axes.legend(frameon=False, fontsize=8, title="who may be seen", title_fontsize=8)
    sns.despine(figure)
    return figure


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
