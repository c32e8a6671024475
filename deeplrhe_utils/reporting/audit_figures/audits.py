"""Figures of the leakage audit: one network under several splits, and what two published lists show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from deeplrhe_utils.evaluation.auc.compare import MACRO
from deeplrhe_utils.reporting.figures.style import PALETTE, empty_figure, forest, gene_rows, intervals, new_figure

_COLOURS = {"tile": PALETTE[3], "slide": PALETTE[1], "patient": PALETTE[0], "site": PALETTE[2]}
_MARKS = {"tile": "s", "slide": "D", "patient": "o", "site": "^"}


def schemes(table: pd.DataFrame) -> Figure:
    """AUC with its interval per scheme, a panel per unit: the mean over genes large, each gene small below it.

    Parameters
    ----------
    table : as `inflation` returns; at least one row
    """
    table = table.sort_values("gene", key=lambda gene: gene != MACRO, kind="stable")
    names = table["scheme"].drop_duplicates()
    looks = {n: {"fmt": _MARKS[n], "color": _COLOURS[n], "label": f"divided by {n}"} for n in names}
    small = {name: look | {"ms": 2.5, "lw": 0.8, "capsize": 0, "alpha": 0.6} for name, look in looks.items()}
    figure, panels = forest(table, "AUC, 95 % interval", panel="unit", series="scheme", looks=small, apart=0.17)
    for unit, axes in panels.items():
        axes.set_title(f"counted by {unit}", fontsize=9)
        for place, (name, look) in enumerate(looks.items()):
            mean = table[(table["unit"] == unit) & (table["scheme"] == name) & (table["gene"] == MACRO)]
            height = 0.17 * (place - (len(looks) - 1) / 2)
            intervals(axes, mean, np.full(len(mean), height), "auc", **look, ms=7, lw=2.2)
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
        axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"), fontsize=8)
        for y, (n_pos, n_neg) in enumerate(counts):  # an arm of fewer patients says so
            if not np.isnan(n_pos + n_neg) and (n_pos, n_neg) != tuple(first):
                axes.text(0.99, y + 0.32, f"{n_pos:.0f} / {n_neg:.0f}", ha="right", fontsize=6.5)
    return figure if panels else empty_figure("No gene can be estimated: there is nothing to draw.")


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


ARMS_BOTH: Final = ("reported by the paper", "diagnosis alone", "image, both diagnoses", "image, within adenocarcinoma",
                    "what can be known, within it")  # fmt: skip
"""Arms of notebook 14's figure; the first has real patients only, the last planted ones."""


def side_by_side(table: pd.DataFrame) -> Figure:
    """Real patients (left) beside planted ones (right), the same genes in the same rows, the same arms in one colour.

    Parameters
    ----------
    table : data (a panel), gene, arm (of :data:`ARMS_BOTH`), auc, ci_low, ci_high
    """
    colours = ("0.15", PALETTE[1], PALETTE[0], PALETTE[2], PALETTE[4])
    lone = {key: {"fmt": "D", "ms": 5} for key in (ARMS_BOTH[0], ARMS_BOTH[-1])}
    looks = {arm: {"color": colour, "label": arm} | lone.get(arm, {})
             for arm, colour in zip(ARMS_BOTH, colours, strict=True) if (table["arm"] == arm).any()}  # fmt: skip
    figure, panels = forest(table, "AUC by patient, 95 % interval", panel="data", series="arm", looks=looks, apart=0.16)
    figure.set_size_inches(8.6, 1.4 + 0.5 * max(1, table["gene"].nunique()))
    for axes in panels.values():
        axes.set_xlim(0.1, 1.02)
        for y in range(1, table["gene"].nunique()):
            axes.axhline(y - 0.5, color="0.9", lw=0.8)
    return figure


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
