"""Figures of notebook 08: recovered against planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.reporting.figures.style import PALETTE, PANEL, draw_forest, named, new_figure, panel_grid
from deeplrhe_utils.reporting.heatmaps.bands import Scale, accumulate, overlay

_MARKS = {
    "bayes_auc": ("Bayes Φ(d/√2)", "D", "0.25"),
    "oracle_auc": ("oracle: latent of these patients", "s", "0.25"),
    "drawn_auc": ("drawn in these tiles", "^", PALETTE[2]),
}


def draw_recovery(axes: Axes, table: pd.DataFrame) -> None:
    """Bayes, oracle, drawn and recovered AUC of each gene, with the recovered one's 95 % interval."""
    names = [f"{r.gene}  ({r.n_pos}/{r.n_neg})\n{r.role}" for r in table.itertuples()]
    looks = {"": {"ms": 6, "capsize": 3, "zorder": 3, "label": "recovered, 95 % interval"}}
    draw_forest(axes, table.assign(row=names), names, looks, row="row", absent="not estimable")
    for column, (label, marker, edge) in _MARKS.items():
        known = table[column].notna().to_numpy() & (table["d"] > 0).to_numpy()
        fill = "none" if column == "bayes_auc" else edge
        axes.scatter(table.loc[known, column], np.flatnonzero(known) + 0.27, marker=marker, s=26, facecolors=fill,
                     edgecolors=edge, label=label, zorder=2)  # fmt: skip
    axes.set(xlim=(0, 1.02), xlabel="AUC by patient (mutated/wild type)", ylim=(len(table) - 0.4, -0.6))
    axes.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.42, 1.0), ncols=2)


def draw_inside(axes: Axes, table: pd.DataFrame, gene: str) -> None:
    """Per-slide AUROC of tile scores inside against outside the region, mutated and wild type."""
    for y, (name, part) in enumerate((("mutated", table[table["mutated"]]), ("wild type", table[~table["mutated"]]))):
        jitter = 0.28 * (np.modf(np.arange(len(part)) * 0.618)[0] - 0.5)
        axes.scatter(part["auroc"], y + jitter, s=12, color=PALETTE[y], alpha=0.6, edgecolors="none")
        if len(part):
            mean, drawn = (part.groupby("patient_id")[c].mean().mean() for c in ("auroc", "drawn_auroc"))
            axes.plot([mean, mean], [y - 0.33, y + 0.33], color="0.1", lw=2)
            axes.plot([drawn], [y + 0.36], marker="^", color=PALETTE[2], ms=5, clip_on=False)
            axes.text(mean, y - 0.37, f"mean {mean:.2f}", ha="center", va="bottom", fontsize=7.5)
        axes.text(1.03, y, f"{name}\n{part['patient_id'].nunique()} patients", va="center", fontsize=7.5)
    axes.axvline(0.5, ls=":", color="0.5", lw=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(1.6, -0.7), yticks=[], xlabel=f"{gene}: AUROC inside/outside, by slide")


def draw_filter(axes: Axes, table: pd.DataFrame) -> None:
    """Precision and recall of what the filter looks for, and the share of affected tiles that were dropped."""
    bars = (("recall", "seen, of the affected (recall)"), ("precision", "affected, of the seen (precision)"),
            ("dropped", "dropped, of the affected"))  # fmt: skip
    for i, (column, label) in enumerate(bars):
        axes.barh(np.arange(len(table)) + 0.26 * (i - 1), table[column].fillna(0), height=0.24, color=PALETTE[i],
                  label=label)  # fmt: skip
    names = [f"{r.artefact} ({r.affected})" + ("" if r.looked_for else "\nnot looked for") for r in table.itertuples()]
    axes.set_yticks(range(len(table)), names, fontsize=7.5)
    axes.set(xlim=(0, 1.02), xlabel="share of tiles (affected tiles in brackets)")
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.2))


def truth_page(recovered: pd.DataFrame, inside: pd.DataFrame, gene: str, filtered: pd.DataFrame) -> Figure:
    """Recovered against planted, whether the map of `gene` points, and what the filter sees.

    The tables are those of `evaluation.audits.recovery`.
    """
    heights = 0.36 * len(recovered) + 0.9, 0.34 * len(filtered) + 1.0
    figure = new_figure(7.0, sum(heights), 0.8)
    above, below = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=heights)))
    a, (b, c) = above.subplots(), below.subplots(1, 2)
    draw_recovery(a, recovered)
    draw_inside(b, inside, gene)
    draw_filter(c, filtered)
    titles = ("A  recovered against planted", f"B  does the {gene} map point?", "C  quality filter")
    for axes, title in zip((a, b, c), titles, strict=True):
        axes.set_title(title, loc="left", fontsize=9, pad=32 if axes is a else 6)
        sns.despine(ax=axes)
    return figure


def many_cohorts(table: pd.DataFrame, bayes: Mapping[str, float]) -> Figure:
    """Probes over many planted cohorts: AUC per gene (left), p-values of genes without effect (right).

    Parameters
    ----------
    table : gene, control (no effect at all), auc, p, a row per cohort and gene
    bayes : best AUC by gene of the effects that can be seen
    """
    figure = new_figure(7.0, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    planted = table.dropna(subset=["auc"])
    genes = [*bayes, *(g for g in planted["gene"].drop_duplicates() if g not in bayes)]
    for y, gene in enumerate(genes):
        values = planted.loc[planted["gene"] == gene, "auc"].to_numpy(float)
        spread = 0.35 * (np.modf(np.arange(len(values)) * 0.618)[0] - 0.5)
        left.plot(values, y + spread, "o", ms=3, alpha=0.5, color=PALETTE[0] if gene in bayes else "0.5")
        left.plot([values.mean()] * 2, [y - 0.32, y + 0.32], color="0.1", lw=2)
    left.plot(list(bayes.values()), range(len(bayes)), "D", ms=6, mfc="none", color="0.25", label="Bayes Φ(d/√2)")
    left.axvline(0.5, ls=":", color="0.4", lw=1)
    left.set_yticks(range(len(genes)), genes, fontsize=8)
    left.invert_yaxis()
    left.set_xlabel("AUC by patient, ridge probe; a dot per cohort, black: mean")
    left.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    p = np.sort(table.loc[table["control"], "p"].dropna().to_numpy(float))
    right.plot((np.arange(len(p)) + 0.5) / len(p), p, ".", ms=4, color=PALETTE[2])
    right.plot([0, 1], [0, 1], ls=":", color="0.4", lw=1)
    right.set(xlabel="expected, if uniform", ylabel="p of genes without effect", xlim=(0, 1), ylim=(0, 1))
    sns.despine(figure)
    return figure


def map_panel(
    title: str, scored: pd.DataFrame, size: tuple[int, int], picture: NDArray[np.uint8], region: Sequence[BaseGeometry],
    scale: Scale,
) -> tuple[str, NDArray[np.uint8], list[NDArray[np.float64]]]:  # fmt: skip
    """A panel of :func:`maps_with_truth`: scored windows over a slide's `picture`, outlines of the `region`.

    `scored` has x_l0_px, y_l0_px, size_l0_px, score; `size` is the slide's, `region` in its pixels [level-0 px].
    """
    heat = scale.place(accumulate(scored, scored["score"].to_numpy(float), *size, picture.shape[:2]))
    parts = [part for shape in region for part in getattr(shape, "geoms", [shape])]
    rings = [np.asarray(part.exterior.coords) * picture.shape[1] / size[0] for part in parts]
    return title, overlay(picture, heat, opacity=0.45), rings


def maps_with_truth(panels: Sequence[tuple[str, NDArray[np.uint8], Sequence[NDArray[np.float64]]]]) -> Figure:
    """Heat maps with the true outlines of the region on top, three in a row.

    Parameters
    ----------
    panels : sequence of (title, picture, rings): picture: uint8 RGB; rings: outlines (n, 2) in picture px
    """
    figure, grid = panel_grid(len(panels), PANEL, 2.0)
    for axes, (title, picture, rings) in zip(grid, panels, strict=False):
        axes.imshow(picture, interpolation="none")
        for ring in rings:
            axes.plot(*ring.T, color="white", lw=3)
            axes.plot(*ring.T, color="black", lw=1.4, ls="--")
        axes.set(xticks=[], yticks=[])
        axes.set_title(named(title), fontsize=8)
        sns.despine(ax=axes, left=True, bottom=True)
    return figure
