"""The explorer's plots: three questions as a picture, and a live plot whose points can be clicked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from deeplrhe_utils.core.text import escaped, said
from deeplrhe_utils.reporting.figures.style import PALETTE, new_figure

if TYPE_CHECKING:
    from plotly.graph_objects import FigureWidget

_MARKS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_LIVE_MARKS: Final = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
_COUNTS: Final = (50, 200, 1000, 5000)
_SCORE, _AROUND = "score of the window", "mean score of the windows around it"


def what_if(highest: pd.DataFrame, cuts: pd.DataFrame, counts: pd.DataFrame, now: Mapping[str, float]) -> Figure:
    """Three questions side by side: fewer windows, another cut, more patients.

    Parameters
    ----------
    highest, cuts, counts : as `without_highest`, `at_cuts` and `at_counts` return
    now : cut and patients of this run, drawn as dashed lines
    """
    figure = new_figure(8.6, 3.2)
    left, middle, right = figure.subplots(1, 3)
    for (name, own), mark, colour in zip(
        highest.groupby("slide_id", sort=False), cycle(_MARKS), cycle(PALETTE), strict=False
    ):
        left.plot(own["left_out"], own["mean"], marker=mark, ms=4, lw=1.2, color=colour, label=said(name, 24))
    left.set(xlabel="share of its highest windows left out", ylabel="mean score of the slide", ylim=(0, 1))
    if known := cuts["auc"].notna().any():
        intervals_up = np.abs(cuts[["ci_low", "ci_high"]].to_numpy(float).T - cuts["auc"].to_numpy(float))
        middle.errorbar(
            cuts["cut"], cuts["auc"], yerr=intervals_up, fmt="o-", ms=4, lw=1.2, capsize=2, color=PALETTE[0]
        )
        middle.axhline(0.5, ls=":", color="0.4", lw=1)
    middle.set(xlabel="background allowed", ylabel="AUC by patient" if known else "no AUC", ylim=(0, 1.02))
    for (auc, own), mark, colour in zip(counts.groupby("auc"), cycle(_MARKS), cycle(PALETTE), strict=False):
        right.plot(own["patients"], own["half_width"], marker=mark, ms=4, lw=1.2, color=colour, label=f"AUC {auc:.2f}")
    right.set(xlabel="patients", ylabel="half-width of the interval", xscale="log", ylim=(0, None))
    right.set_xticks(_COUNTS, [f"{n:,}" for n in _COUNTS])
    right.minorticks_off()
    for axes, place in ((middle, "cut"), (right, "patients")):
        axes.axvline(now[place], ls="--", color="0.3", lw=1)
    right.legend(frameon=False, fontsize=7)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    sns.despine(figure)
    return figure


def live_agreement(points: pd.DataFrame, gene: str, on_click: Callable[[str], Any]) -> FigureWidget:
    """Each window's score against the mean of the windows around it; a click on a point calls ``on_click(tile_id)``.

    Parameters
    ----------
    points : slide_id, tile_id, score, around (`window_points`)
    gene : for the title
    """
    import plotly.graph_objects as go

    figure = go.FigureWidget(layout=_layout(gene, _SCORE, _AROUND))
    for number, (name, own) in enumerate(points.groupby("slide_id", sort=False)):
        mark = {"symbol": _LIVE_MARKS[number % len(_LIVE_MARKS)], "color": _colour(number), "size": 8}
        figure.add_scatter(x=own["score"], y=own["around"], mode="markers", name=escaped(name), marker=mark,
                           customdata=own["tile_id"].tolist(), text=own["tile_id"].map(escaped).tolist(),
                           hovertemplate="%{text}<br>score %{x:.3f}<br>around %{y:.3f}<extra></extra>")  # fmt: skip
        figure.data[-1].on_click(_follow(own["tile_id"].tolist(), on_click))
    return figure


def _follow(targets: list[Any], act: Callable[[Any], Any]) -> Callable[[Any, Any, Any], None]:
    def clicked(_: Any, points: Any, __: Any) -> None:
        for place in points.point_inds[:1]:
            act(targets[place])

    return clicked


def _layout(title: str, x: str, y: str) -> dict[str, Any]:
    span = [-0.02, 1.02]
    return {"title": escaped(title), "xaxis": {"title": x, "range": span}, "yaxis": {"title": y, "range": span},
            "width": 620, "height": 440, "template": "plotly_white", "clickmode": "event"}  # fmt: skip


def _colour(number: int) -> str:
    red, green, blue = (round(255 * part) for part in PALETTE[number % len(PALETTE)])
    return f"rgb({red},{green},{blue})"
