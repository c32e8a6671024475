"""Scores against values, and how well they rank survival as time goes on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from deeplrhe_utils.core.text import with_ends
from deeplrhe_utils.reporting.figures.style import PALETTE, named, panel_grid


def outcome_panels(patients: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """A panel per gene: value against score, or the AUC of ending until each time with its interval.

    `patients` as `patient_outcomes` gives them, `metrics` the first rows of `outcome_metrics`; the title is the first.
    """
    genes = list(patients["gene"].drop_duplicates())
    figure, panels = panel_grid(len(genes), 3.2, 2.8)
    for axes, gene in zip(panels, genes, strict=False):
        rows = metrics[(metrics["gene"] == gene) & (metrics["status"] == "estimated")]
        if "value" in patients:
            own = patients[patients["gene"] == gene]
            axes.scatter(own["score"], own["value"], s=8, alpha=0.6, color=PALETTE[0], lw=0)
            axes.set(xlabel="score", ylabel="value")
        else:
            timed = rows.dropna(subset=["time"])
            ends = np.abs(timed[["ci_low", "ci_high"]].to_numpy(float).T - timed["estimate"].to_numpy(float))
            axes.errorbar(timed["time"].astype(float), timed["estimate"].astype(float), yerr=ends, color=PALETTE[0],
                          fmt="o-", ms=4, lw=1.2, elinewidth=0.8)  # fmt: skip
            axes.axhline(0.5, ls=":", color="0.5", lw=1)
            axes.set(xlabel="time", ylabel="AUC of ending until then", ylim=(0, 1.02))
        first = rows.iloc[0]
        axes.set_title(f"{named(gene, 24)}\n{first['metric']} {with_ends(first, 'estimate')}", fontsize=8.5)
    sns.despine(figure)
    return figure
