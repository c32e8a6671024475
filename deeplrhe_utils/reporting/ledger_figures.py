"""Figures of the claims ledger: reported AUCs beside what their sample size allows, and verdicts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from deeplrhe_utils.reporting.figures import PALETTE, new_figure


def allowed(table: pd.DataFrame) -> Figure:
    """Reported AUC, the interval that its counts allow, and what chance alone covers, a row per gene.

    Parameters
    ----------
    table : gene, reported_auc, ci_low, ci_high, null_high, n_pos, n_neg, as
        :func:`~deeplrhe_utils.evaluation.forensics.reported_by_chance` returns
    """
    figure = new_figure(6.4, 0.9 + 0.42 * len(table))
    axes = figure.subplots()
    for y, row in enumerate(table.to_dict("records")):
        axes.barh(y, 2 * row["null_high"] - 1, left=1 - row["null_high"], height=0.62, color="0.88")
        axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=PALETTE[0], lw=2)
        axes.plot(row["reported_auc"], y, "D", color=PALETTE[0], ms=6)
    names = [f"{r['gene']}  ({r['n_pos']}/{r['n_neg']})" for r in table.to_dict("records")]
    axes.set_yticks(range(len(table)), names, fontsize=9)
    axes.axvline(0.5, ls=":", color="0.4", lw=1)
    axes.set(xlim=(0, 1), xlabel="reported AUC; bar: what its counts allow; grey: chance (95 % each)")
    axes.invert_yaxis()
    sns.despine(figure)
    return figure


def verdicts(counts: pd.Series) -> Figure:
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
