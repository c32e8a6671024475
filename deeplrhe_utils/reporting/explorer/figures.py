"""The explorer's plots: static figures, and live twins whose points can be clicked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from deeplrhe_utils.core.text import escaped, said
from deeplrhe_utils.reporting.figures.style import PALETTE, empty_figure, new_figure

if TYPE_CHECKING:
    from plotly.graph_objects import FigureWidget

_MARKS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_LIVE_MARKS: Final = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
_SCORE, _AROUND = "score of the window", "mean score of the windows around it"
_LONGEST_LEGEND: Final = 12


def agreement_figure(points: pd.DataFrame, gene: str) -> Figure:
    """Each window's score against the mean of the windows around it; colour and mark tell the slide.

    Parameters
    ----------
    points : slide_id, score, around (`window_points`)
    gene : for the title
    """
    if points["around"].notna().sum() == 0:
        return empty_figure("No window with a score has a neighbour with a score: there is nothing to compare.")
    figure = new_figure(5.6, 4.2)
    axes = figure.subplots()
    slides = points.groupby("slide_id", sort=False)
    for (name, own), mark, colour in zip(slides, cycle(_MARKS), cycle(PALETTE), strict=False):
        label = said(name, 28).lstrip("_") or "–"  # matplotlib hides what begins with an underscore
        axes.scatter(own["score"], own["around"], marker=mark, color=colour, s=26, alpha=0.85, label=label)
    axes.plot([0, 1], [0, 1], ls=":", color="0.5", lw=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel=_SCORE, ylabel=_AROUND)
    axes.set_title(said(gene), fontsize=10)
    if 0 < len(slides) <= _LONGEST_LEGEND:
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    sns.despine(figure)
    return figure


def corners(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """ROC curves with their corners as points, which the live twin makes clickable.

    Parameters
    ----------
    curves : gene → DataFrame: fpr, tpr (`roc_points`)
    """
    if not curves:
        return empty_figure("No target has patients of both classes: there is no curve.")
    figure = new_figure(4.6, 4.2)
    axes = figure.subplots()
    for (gene, steps), mark, colour in zip(curves.items(), cycle(_MARKS), cycle(PALETTE), strict=False):
        axes.plot(steps["fpr"], steps["tpr"], marker=mark, ms=4, color=colour, lw=1.4, label=said(gene, 28))
    axes.plot([0, 1], [0, 1], ls=":", color="0.5", lw=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    sns.despine(figure)
    return figure


def live_agreement(points: pd.DataFrame, gene: str, on_click: Callable[[str], Any]) -> FigureWidget:
    """:func:`agreement_figure` in JupyterLab; a click on a point calls ``on_click(tile_id)``."""
    import plotly.graph_objects as go

    figure = go.FigureWidget(layout=_layout(gene, _SCORE, _AROUND))
    for number, (name, own) in enumerate(points.groupby("slide_id", sort=False)):
        mark = {"symbol": _LIVE_MARKS[number % len(_LIVE_MARKS)], "color": _colour(number), "size": 8}
        figure.add_scatter(x=own["score"], y=own["around"], mode="markers", name=escaped(name), marker=mark,
                           customdata=own["tile_id"].tolist(), text=own["tile_id"].map(escaped).tolist(),
                           hovertemplate="%{text}<br>score %{x:.3f}<br>around %{y:.3f}<extra></extra>")  # fmt: skip
        figure.data[-1].on_click(_follow(own["tile_id"].tolist(), on_click))
    return figure


def live_roc(curves: Mapping[str, pd.DataFrame], on_click: Callable[[str, str], Any]) -> FigureWidget:
    """:func:`corners` in JupyterLab; a click on a corner calls ``on_click(gene, patient_id)`` for its first patient."""
    import plotly.graph_objects as go

    figure = go.FigureWidget(layout=_layout("", "false positive rate", "true positive rate"))
    for number, (gene, steps) in enumerate(curves.items()):
        names = steps["patients"].tolist()
        figure.add_scatter(x=steps["fpr"], y=steps["tpr"], mode="lines+markers", name=escaped(gene),
                           line={"color": _colour(number)}, text=[escaped(name) for name in names],
                           marker={"symbol": _LIVE_MARKS[number % len(_LIVE_MARKS)], "size": 8},
                           hovertemplate="%{text}<br>fpr %{x:.3f}, tpr %{y:.3f}<extra></extra>")  # fmt: skip
        figure.data[-1].on_click(_follow([(gene, name.split(", ")[0]) for name in names], lambda one: on_click(*one)))
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
