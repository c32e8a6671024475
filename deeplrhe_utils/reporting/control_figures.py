"""Figures of the negative controls, and of AUCs by companion gene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deeplrhe_utils.reporting.figures import PALETTE, new_figure


def arms(table: pd.DataFrame, order: Sequence[str]) -> Figure:
    """AUC with its interval: a panel per gene, a row per arm; the first arm's colour differs from the controls'.

    Parameters
    ----------
    table : arm, gene, auc, ci_low, ci_high, n_pos, n_neg; genes without any AUC are left out
    order : arms from top to bottom; the first two see tissue
    """
    known = table[table["auc"].notna()]
    genes = list(known["gene"].drop_duplicates())
    figure, panels = _panels(len(genes), 0.8 + 0.28 * len(order))
    for axes, gene in zip(panels, genes, strict=False):
        part = known[known["gene"] == gene].set_index("arm").reindex(list(order))
        n_pos, n_neg = part.loc[part["auc"].notna(), ["n_pos", "n_neg"]].iloc[0].astype(int)
        axes.set_title(f"{gene} ({n_pos} / {n_neg})", fontsize=9)
        for y, (_, row) in enumerate(part.iterrows()):
            _interval(axes, row, y, PALETTE[0] if y < 2 else PALETTE[1])
            if row[["n_pos", "n_neg"]].notna().all() and (row["n_pos"], row["n_neg"]) != (n_pos, n_neg):
                axes.text(0.99, y + 0.32, f"{row['n_pos']:.0f} / {row['n_neg']:.0f}", ha="right", fontsize=6.5)
        axes.set_yticks(range(len(order)), list(order), fontsize=8)
    _finish(figure, panels, len(genes), len(order), "AUC, 95 % interval", "No gene can be estimated")
    return figure


def companions(table: pd.DataFrame, overall: pd.Series) -> Figure:
    """AUC of each gene (panel) among patients without (blue) and with (orange) a mutation of another gene (row).

    Parameters
    ----------
    table : gene, given, given_status, auc, ci_low, ci_high, as
        :func:`~deeplrhe_utils.evaluation.controls.stratified_by_gene` returns
    overall : AUC of all patients, by gene
    """
    genes, others = list(table["gene"].drop_duplicates()), list(table["given"].drop_duplicates())
    figure, panels = _panels(len(genes), 0.8 + 0.3 * max(1, len(others)))
    for axes, gene in zip(panels, genes, strict=False):
        axes.axvline(float(overall[gene]), ls="--", color="0.3", lw=1)
        for row in table[table["gene"] == gene].to_dict("records"):
            shift = 0.14 if row["given_status"] else -0.14
            _interval(axes, row, others.index(row["given"]) + shift, PALETTE[1 if row["given_status"] else 0])
        axes.set_title(gene, fontsize=9)
        axes.set_yticks(range(len(others)), others, fontsize=8)
    _finish(
        figure,
        panels,
        len(genes),
        len(others),
        "AUC, 95 % interval; blue: without, orange: with a mutation of the gene in the row",
        "No stratum can be estimated",
    )
    return figure


def _panels(count: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    columns = min(3, max(1, count))
    rows = -(-max(1, count) // columns)
    figure = new_figure(2.6 + 2.1 * columns, 0.3 + rows * height)
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True).ravel())


def _interval(axes: Axes, row: Any, y: float, colour: Any) -> None:
    if np.isnan(float(row["auc"])):
        axes.text(0.5, y, "not estimable", ha="center", va="center", fontsize=7, color="0.45", style="italic")
        return
    ends = np.abs(np.array([[row["ci_low"]], [row["ci_high"]]], float) - float(row["auc"]))
    axes.errorbar(float(row["auc"]), y, xerr=ends, fmt="o", ms=4, lw=1.3, color=colour)


def _finish(figure: Figure, panels: Sequence[Axes], used: int, rows: int, label: str, empty: str) -> None:
    for axes in panels[:used]:
        axes.set_ylim(rows - 0.5, -0.5)
        axes.axvline(0.5, ls=":", color="0.4", lw=1)
        axes.set_xlim(0, 1)
    for axes in panels[used:]:
        axes.set_axis_off()
    if used:
        figure.supxlabel(label, fontsize=9)
    else:
        panels[0].text(0.5, 0.5, empty, ha="center", va="center", transform=panels[0].transAxes)
    sns.despine(figure)
