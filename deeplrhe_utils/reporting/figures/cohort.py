"""Figures of a cohort: who was left out and why, where mutations come from, how common they are."""

from __future__ import annotations

import textwrap
from typing import Any, Final

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from deeplrhe_utils.core.text import said
from deeplrhe_utils.reporting.figures.style import PALETTE, forest, new_figure

_LINE: Final = 0.165  # height of a line of text [inches]
_MAIN: Final = (0.1, 3.6)  # left edge and width of the boxes [inches]
_SIDE: Final = (4.3, 3.6)
_CHARACTERS: Final = 46
_ROWS: Final = 34  # sites in one panel
_MARKS: Final = ("o", "s", "^", "D")
_WHITE_FROM: Final = 0.7
_APART: Final = 0.26


def flow_figure(flow: pd.DataFrame) -> Figure:
    """A flow diagram after CONSORT: what each step left from top to bottom, what it left out and why at the right.

    Parameters
    ----------
    flow : a row per step, at least one: step, slides, patients, LUAD, LUSC (slides of the project), dropped, reason
        (``why: count; why: count``). A step that dropped nothing says so in its own box.

    Returns Figure: 8 inches wide, and as high as its texts need. Black on white and pale grey.
    """
    rows = flow.to_dict("records")
    boxes = [_box_text(row, first=i == 0) for i, row in enumerate(rows)]
    notes = [_note_text(row) for row in rows]
    heights = [_height(text) for text in boxes]
    gaps = [max(0.34, _height(text) + 0.2) if text else 0.34 for text in notes]
    gaps[0] = 0.0
    total = sum(heights) + sum(gaps)
    figure = new_figure(8.0, total + 0.2)
    figure.set_layout_engine("none")  # coordinates are inches: nothing is to be moved
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 8), ylim=(-0.1, total + 0.1))
    axes.axis("off")
    _stack(axes, boxes, notes, heights, gaps)
    return figure


def _stack(axes: Axes, boxes: list[str], notes: list[str], heights: list[float], gaps: list[float]) -> None:
    """Boxes from the top down; coordinates are inches."""
    middle, bottom = _MAIN[0] + _MAIN[1] / 2, sum(heights) + sum(gaps)
    for i, (box, note, height, gap) in enumerate(zip(boxes, notes, heights, gaps, strict=True)):
        top = bottom - gap
        if i:
            _arrow(axes, (middle, bottom), (middle, top))
        if note:
            level = (bottom + top) / 2
            _arrow(axes, (middle, level), (_SIDE[0], level))
            _box(axes, _SIDE, level - _height(note) / 2, note, "0.96")
        bottom = top - height
        _box(axes, _MAIN, bottom, box, "0.88" if i == len(boxes) - 1 else "white")


def _height(text: str) -> float:
    return _LINE * (1 + text.count("\n") + 0.9)


def _box(axes: Axes, place: tuple[float, float], bottom: float, text: str, colour: str) -> None:
    left, width = place
    axes.add_patch(FancyBboxPatch((left, bottom), width, _height(text), boxstyle="round,pad=0,rounding_size=0.05",
                                  fc=colour, ec="0.2", lw=1))  # fmt: skip
    axes.text(left + 0.1, bottom + _height(text) / 2, text, ha="left", va="center", fontsize=8.5, linespacing=1.25)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color="0.2", shrinkA=0, shrinkB=0))


def _box_text(row: dict[str, Any], first: bool) -> str:
    others = row["slides"] - row["LUAD"] - row["LUSC"]
    known = [f"LUAD {row['LUAD']:,}, LUSC {row['LUSC']:,}"] if row["LUAD"] + row["LUSC"] else []
    projects = ", ".join([*known, f"neither {others:,}"] if others and known else known)
    counts = f"{row['slides']:,} slides of {row['patients']:,} patients"
    none = [] if first or row["dropped"] else ["(none left out)"]
    step = str(row["step"])
    lines = [textwrap.fill(step[:1].upper() + step[1:], _CHARACTERS), counts, projects, *none]
    return "\n".join(line for line in lines if line)


def _note_text(row: dict[str, Any]) -> str:
    if not row["dropped"]:
        return ""
    lines = [f"Left out: {row['dropped']:,} slides"]
    for reason in str(row["reason"]).split("; "):
        lines += textwrap.wrap(reason, _CHARACTERS, initial_indent="– ", subsequent_indent="   ") or [""]
    return "\n".join(lines)


def site_mutation_map(table: pd.DataFrame) -> Figure:
    """Share of mutated patients by tissue source site (rows) and gene (columns), with the counts it comes from.

    Parameters
    ----------
    table : gene, site_id, positives, profiled, patients: every gene with every site, as
        `mutation_by_site` returns it. Sites are drawn in its order.

    Returns Figure: one shade for the share (pale 0 %, dark 100 %), "positives/profiled" in each cell, a dash where
    nobody is profiled. More than 34 sites stand in several columns of panels.
    """
    genes, sites = list(table["gene"].drop_duplicates()), list(table["site_id"].drop_duplicates())
    panels = max(1, -(-len(sites) // _ROWS))
    rows = -(-len(sites) // panels) if sites else 1
    figure = new_figure(panels * (0.9 + 0.52 * max(1, len(genes))) + 0.4, 1.2 + 0.21 * rows)
    cells = table.set_index(["site_id", "gene"])
    for i, axes in enumerate(figure.subplots(1, panels, squeeze=False)[0]):
        own = sites[i * rows : (i + 1) * rows]
        _site_panel(axes, cells, own, genes, rows)
    figure.supxlabel("hospital or site (patients): mutated / profiled patients", fontsize=8)
    return figure


def _site_panel(axes: Axes, cells: pd.DataFrame, sites: list[str], genes: list[str], rows: int) -> None:
    for y, site in enumerate(sites):
        for x, gene in enumerate(genes):
            cell = cells.loc[(site, gene)]
            share = cell["positives"] / cell["profiled"] if cell["profiled"] else 0.0
            axes.fill_between([x - 0.5, x + 0.5], y - 0.5, y + 0.5, color=str(1 - 0.75 * share), lw=0)
            axes.text(x, y, f"{cell['positives']:.0f}/{cell['profiled']:.0f}" if cell["profiled"] else "–", ha="center",
                      va="center", fontsize=6.5, color="white" if share > _WHITE_FROM else "black")  # fmt: skip
    sizes = [int(cells.loc[site, "patients"].iloc[0]) for site in sites]
    axes.set_yticks(range(len(sites)), [f"{said(s, 20)} ({n})" for s, n in zip(sites, sizes, strict=True)], fontsize=7)
    axes.set_xticks(
        range(len(genes)),
        [said(gene, 20) for gene in genes],
        fontsize=7,
        rotation=60,
        ha="left",
        rotation_mode="anchor",
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=2)
    axes.set(xlim=(-0.5, max(1, len(genes)) - 0.5), ylim=(rows - 0.5, -0.5))
    sns.despine(ax=axes, left=True, bottom=True)


def prevalence_figure(table: pd.DataFrame) -> Figure:
    """How often each gene is mutated in groups of patients, with intervals, a panel per project.

    Parameters
    ----------
    table : project, gene, group, mutated, profiled, percent, ci_low, ci_high [%], as
        `prevalences` returns it. Where nobody is profiled (NaN), no mark is drawn.
    """
    groups, genes = list(table["group"].drop_duplicates()), list(table["gene"].drop_duplicates())
    looks = {group: {"fmt": mark, "color": colour, "mfc": colour if i else "white", "label": group}
             for i, (group, mark, colour) in enumerate(zip(groups, _MARKS, PALETTE, strict=False))}  # fmt: skip
    figure, panels = forest(table, "mutated patients [%]", value="percent", panel="project", series="group",
                            looks=looks, apart=_APART, zero=0.0)  # fmt: skip
    for project, axes in panels.items():
        axes.set_xlim(left=0)
        for one in table[(table["project"] == project) & table["percent"].notna()].itertuples():
            y = genes.index(one.gene) + _APART * (groups.index(one.group) - (len(groups) - 1) / 2)
            axes.annotate(f"{one.mutated:.0f}/{one.profiled:.0f}", (one.ci_high, y), (3, 0), fontsize=5.5,
                          textcoords="offset points", va="center", color="0.3")  # fmt: skip
    return figure
