"""Figures of the leakage audit: one network under several splits, and what two published lists show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from deeplrhe_utils.reporting.figures.style import PALETTE, empty_figure, forest, gene_rows, new_figure

_COLOURS = {"tile": PALETTE[3], "slide": PALETTE[1], "patient": PALETTE[0], "site": PALETTE[2]}
_MARKS = {"tile": "s", "slide": "D", "patient": "o", "site": "^"}


def schemes(table: pd.DataFrame) -> Figure:
    """AUC with its interval per gene and scheme, a panel per unit.

    Parameters
    ----------
    table : as `inflation` returns; at least one row
    """
    names = table["scheme"].drop_duplicates()
    looks = {n: {"fmt": _MARKS[n], "color": _COLOURS[n], "label": f"divided by {n}"} for n in names}
    figure, panels = forest(table, "AUC", panel="unit", series="scheme", looks=looks, apart=0.17)
    for unit, axes in panels.items():
        axes.set_title(f"counted by {unit}", fontsize=9)
    return figure


def capacity(curve: pd.DataFrame) -> Figure:
    """Mean AUC of true (solid) and exchanged labels (dashed) by kernel width, a colour per scheme.

    Parameters
    ----------
    curve : width, scheme, auc, null_mean
    """
    figure = new_figure(5.6, 3.4)
    axes = figure.subplots()
    for scheme, own in curve.groupby("scheme", sort=False):
        look = {"color": _COLOURS[str(scheme)], "marker": _MARKS[str(scheme)], "ms": 5}
        axes.plot(own["width"], own["auc"], label=f"divided by {scheme}", **look)
        axes.plot(own["width"], own["null_mean"], ls="--", mfc="none", **look)
    axes.axhline(0.5, ls=":", color="0.4", lw=1)
    axes.set_xscale("log")
    axes.set_xticks(sorted(curve["width"].unique()), [f"{w:g}" for w in sorted(curve["width"].unique())])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="kernel width (narrow memorises)", ylabel="mean AUC by patient; dashed: exchanged labels")
    axes.legend(frameon=False, fontsize=8)
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


def leak_shares(draws: pd.DataFrame) -> Figure:
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


def arms(table: pd.DataFrame, order: Sequence[str]) -> Figure:
    """AUC with its interval: a panel per gene, a row per arm; the first arm's colour differs from the controls'.

    Parameters
    ----------
    table : arm, gene, auc, ci_low, ci_high, n_pos, n_neg; genes without any AUC are left out
    order : arms from top to bottom; the first two, and what is named after tissue, see tissue
    """
    genes = table.loc[table["auc"].notna(), "gene"].drop_duplicates()
    places = pd.MultiIndex.from_product([genes, order], names=["gene", "arm"])
    every = table.set_index(["gene", "arm"]).reindex(places).reset_index()
    every["tissue"] = every["arm"].isin(order[:2]) | every["arm"].str.startswith("tissue")
    looks = {True: {"color": PALETTE[0]}, False: {"color": PALETTE[1]}}
    label = "AUC, 95 % interval; pale: exchanged labels"
    figure, panels = forest(every, label, panel="gene", row="arm", series="tissue", looks=looks, apart=0.0,
                            absent="not estimable")  # fmt: skip
    for gene, axes in panels.items():
        counts = every.loc[every["gene"] == gene, ["n_pos", "n_neg"]].to_numpy(float)
        first = counts[every.loc[every["gene"] == gene, "auc"].notna()][0]
        axes.set(title=f"{gene} ({first[0]:.0f} / {first[1]:.0f})", xlim=(0, 1))
        for y, (n_pos, n_neg) in enumerate(counts):  # an arm of fewer patients says so
            if not np.isnan(n_pos + n_neg) and (n_pos, n_neg) != tuple(first):
                axes.text(0.99, y + 0.32, f"{n_pos:.0f} / {n_neg:.0f}", ha="right", fontsize=6.5)
    return _or_say(figure, panels, "No gene can be estimated")


ARMS_KNOWN: Final = ("reported by the paper", "diagnosis alone", "image, both diagnoses",
                     "the same, hospitals held out", "image, within adenocarcinoma",
                     "age, sex, smoking, stage, within adenocarcinoma")  # fmt: skip
"""Arms of notebook 13's figure."""
ARMS_PLANTED: Final = ("diagnosis alone, closed form", "network, both diagnoses", "network, within adenocarcinoma",
                       "what can be known, within adenocarcinoma")  # fmt: skip
"""Arms of notebook 08's."""


def known_without(table: pd.DataFrame, arms: Sequence[str] = ARMS_KNOWN) -> Figure:
    """Per gene what was reported, what is known without a slide, and what a reader finds, one above the other.

    Parameters
    ----------
    table : gene, arm (of `arms`, in that order), auc, ci_low, ci_high, null_low, null_high; the first arm is a dot
    """
    colours = ("0.2", PALETTE[1], PALETTE[0], PALETTE[2], PALETTE[4], PALETTE[3])
    own = {arm: {"color": colour, "label": arm} | ({"fmt": "D", "ms": 5} if arm == arms[0] else {})
           for arm, colour in zip(arms, colours, strict=False) if (table["arm"] == arm).any()}  # fmt: skip
    pale = "; pale: exchanged labels" if table["null_low"].notna().any() else ""
    figure, panels = forest(table, f"AUC by patient, 95 % interval{pale}", series="arm", looks=own, apart=0.14)
    for axes in panels.values():
        figure.set_size_inches(7.6, 1.2 + 0.62 * max(1, table["gene"].nunique()))
        axes.set_xlim(0.1, 1.02)
        for y in range(1, table["gene"].nunique()):
            axes.axhline(y - 0.5, color="0.9", lw=0.8)
    return figure


def companions(table: pd.DataFrame, overall: pd.Series) -> Figure:
    """AUC of each gene (panel) among patients without (blue) and with (orange) a mutation of another gene (row).

    Parameters
    ----------
    table : gene, given, given_status, auc, ci_low, ci_high, as
        `stratified_by_gene` returns
    overall : AUC of all patients, by gene
    """
    looks = {0: {"color": PALETTE[0]}, 1: {"color": PALETTE[1]}}
    label = "AUC, 95 % interval; blue: without, orange: with a mutation of the gene in the row"
    figure, panels = forest(table, label, panel="gene", row="given", series="given_status", looks=looks, apart=0.28,
                            absent="not estimable")  # fmt: skip
    for gene, axes in panels.items():
        axes.axvline(float(overall[gene]), ls="--", color="0.3", lw=1)
        axes.set_xlim(0, 1)
    return _or_say(figure, panels, "No stratum can be estimated")


def _or_say(figure: Figure, panels: dict[str, Axes], empty: str) -> Figure:
    return figure if panels else empty_figure(f"{empty}: there is nothing to draw.")


def allowed(table: pd.DataFrame) -> Figure:
    """Reported AUC, the interval that its counts allow, and what chance alone covers, a row per gene.

    Parameters
    ----------
    table : gene, reported_auc, ci_low, ci_high, null_high, n_pos, n_neg, as
        `reported_by_chance` returns
    """
    label = "reported AUC; bar: what its counts allow; grey: chance (95 % each)"
    looks = {"": {"fmt": "D", "ms": 6, "lw": 2}}
    figure, panels = forest(table.assign(row=gene_rows(table)), label, value="reported_auc", row="row", looks=looks)
    for axes in panels.values():
        high = table["null_high"].to_numpy(float)
        axes.barh(range(len(table)), 2 * high - 1, left=1 - high, height=0.62, color="0.88", zorder=0)
        axes.set_xlim(0, 1)
    return figure


def verdict_bars(counts: pd.Series) -> Figure:
    """How many statements got each verdict (index: verdict), as bars with their number."""
    figure = new_figure(6.0, 0.7 + 0.34 * len(counts))
    axes = figure.subplots()
    axes.barh(np.arange(len(counts)), counts.to_numpy(), color=PALETTE[0], height=0.6)
    for y, value in enumerate(counts.to_numpy()):
        axes.text(float(value) + 0.1, y, str(value), va="center", fontsize=9)
    axes.set_yticks(range(len(counts)), list(counts.index), fontsize=9)
    axes.set(xlabel="statements", xlim=(0, max(1, int(counts.max())) * 1.12))
    axes.invert_yaxis()
    sns.despine(figure)
    return figure


_UNITS = {"blur": "{:g} µm", "fold": "layer × {:g}", "jpeg": "quality {:g}"}


def filter_grid(table: pd.DataFrame) -> Figure:
    """Share of painted fields that is seen, by kind and strength, and false alarms; `table` of `spike_in`."""
    table = table.assign(row=table["kind"].where(table["n"] > 0, table["kind"] + "\nnot judged"))
    table["step"] = table.groupby("kind").cumcount()
    kinds, units = table["row"].drop_duplicates(), [_UNITS.get(k.split()[0], "density {:g}") for k in table["kind"]]
    cells = zip(table["sensitivity"], units, table["strength"], strict=True)
    table["text"] = [f"{share:.2f}\n{unit.format(strength)}" for share, unit, strength in cells]
    seen, texts = (table.pivot(index="row", columns="step", values=v).reindex(kinds) for v in ("sensitivity", "text"))
    alarms = table.groupby("row")[["false_alarms"]].first().reindex(kinds)
    figure = new_figure(6.4, 0.5 + 0.42 * len(kinds))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(seen.shape[1], 1))
    look = {"vmin": 0, "vmax": 1, "cbar": False, "linewidths": 2, "annot_kws": {"fontsize": 8}}
    sns.heatmap(seen, annot=texts, fmt="", cmap="Blues", ax=left, **look)
    sns.heatmap(alarms, annot=True, fmt=".2f", cmap="Oranges", ax=right, **look)
    for axes, title in ((left, "seen, weak → strong"), (right, "false alarms")):
        axes.set(xlabel="", ylabel="", xticks=[])
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8, left=False)
    return figure
