"""Figures of training: methods side by side, the range test, what a search found and what it pretended to find."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from deeplrhe_utils.reporting.figures.style import PALETTE, forest, gene_rows, named, new_figure


def rivals(table: pd.DataFrame, base: str) -> Figure:
    """AUC difference from `base` with its interval: a panel per gene, a row per method.

    Parameters
    ----------
    table : columns gene, arm, difference, ci_low, ci_high, n_pos, n_neg, as
        `paired_differences` returns
    """
    shown = table[table["arm"] != base]
    figure, panels = forest(shown, f"AUC minus AUC of {base}", value="difference", panel="gene", row="arm", zero=0.0)
    for gene, axes in panels.items():
        n_pos, n_neg = shown.loc[shown["gene"] == gene, ["n_pos", "n_neg"]].iloc[0]
        axes.set_title(f"{named(gene)} ({n_pos:.0f} / {n_neg:.0f})", fontsize=9)
    return figure


def range_figure(
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
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("learning rate [1/step]")
    axes.set_ylabel("loss [nats], smoothed")
    axes.legend(frameon=False, fontsize=8)
    sns.despine(figure)
    return figure


def winners(table: pd.DataFrame) -> Figure:
    """An arrow per search from its winner's AUC where it was chosen to that of patients it had not seen.

    `table` has the columns search, auc_valid, auc_test.
    """
    figure = new_figure(6.4, 0.9 + 0.3 * len(table))
    axes = figure.subplots()
    for y, row in enumerate(table.itertuples()):
        colour = PALETTE[0] if row.auc_test < row.auc_valid else PALETTE[1]
        axes.plot(row.auc_valid, y, "o", ms=5, color=colour)
        axes.annotate("", (row.auc_test, y), (row.auc_valid, y), arrowprops={"arrowstyle": "-|>", "color": colour})
        axes.text(1.02, y, f"{row.auc_valid:.2f} → {row.auc_test:.2f}", transform=axes.get_yaxis_transform(),
                  va="center", fontsize=8)  # fmt: skip
    axes.axvline(0.5, ls=":", color="0.4", lw=1)
    axes.set_yticks(range(len(table)), [named(name) for name in table["search"]], fontsize=8)
    axes.set(xlim=(0, 1), ylim=(len(table) - 0.5, -0.5), xlabel="mean AUC by patient: chosen → not seen")
    sns.despine(figure)
    return figure


def optimism_spread(table: pd.DataFrame) -> Figure:
    """AUC of each division by how the setting was chosen (left), and what the search pretended to gain (right).

    Parameters
    ----------
    table : typical, nested, flat, optimism, as `optimism_of_search` returns
    """
    figure = new_figure(7.2, 2.9)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    kinds = ["typical", "nested", "flat"]
    for x, (kind, colour) in enumerate(zip(kinds, PALETTE, strict=False)):
        spread = 0.3 * (np.modf(np.arange(len(table)) * 0.618)[0] - 0.5)
        left.plot(x + spread, table[kind], "o", ms=3, alpha=0.6, color=colour)
        left.plot([x - 0.25, x + 0.25], [table[kind].mean()] * 2, color="0.1", lw=2)
    left.set_xticks(range(3), ["mean over\nsettings", "chosen inside\n(nested)", "best by its\nown folds (flat)"])
    left.set_ylabel("mean AUC by patient")
    left.axhline(0.5, ls=":", color="0.4", lw=1)
    right.hist(table["optimism"], bins=15, color=PALETTE[2], alpha=0.8)
    right.axvline(0, ls=":", color="0.4", lw=1)
    right.axvline(table["optimism"].mean(), color="0.1", lw=2)
    right.set(xlabel="optimism: flat − nested", ylabel="divisions")
    sns.despine(figure)
    return figure


def stain_agreement(before: pd.DataFrame, after: pd.DataFrame, methods: pd.DataFrame) -> Figure:
    """Mean tissue colour per slide (columns red, blue, site) before and after, and what agreement costs by method.

    Parameters
    ----------
    methods : index method; ``cs`` (structure kept), ``wasserstein`` (to the reference); without rows no third panel
    """
    figure = new_figure(9.6 if len(methods) else 6.4, 2.9)
    a, b, *rest = figure.subplots(1, 3 if len(methods) else 2)
    b.sharex(a), b.sharey(a)
    for axes, frame, title in ((a, before, "A  original"), (b, after, "B  normalized")):
        sns.scatterplot(frame, x="red", y="blue", hue="site", palette="colorblind", s=18, legend=False, ax=axes)
        axes.set_title(title, fontsize=9, loc="left")
    for axes in rest:
        sns.scatterplot(
            methods, x="cs", y="wasserstein", hue="method", style="method", palette="colorblind", s=50, ax=axes
        )
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        axes.set_title("C  what it costs", fontsize=9, loc="left")
        axes.set(xlabel="structure kept (matched SSIM)", ylabel="colours to the reference [ΔE]")
    sns.despine(figure)
    return figure


def gain_figure(table: pd.DataFrame, base: str) -> Figure:
    """AUC difference from `base` with its interval: columns as of `gain_by_division`."""
    shown = table[table["arm"] != base]
    shown = shown.assign(arm=shown["arm"] + ", divided by " + shown["divided"])
    first = shown.drop_duplicates("gene")
    named = shown.assign(row=shown["gene"].map(dict(zip(first["gene"], gene_rows(first), strict=True))))
    return forest(named, f"AUC minus AUC of {base}", value="difference", row="row", series="arm", zero=0.0)[0]
