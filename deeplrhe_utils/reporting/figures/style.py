"""Figures: static, colour-blind safe, made from numbers that were computed elsewhere.

Every function returns a :class:`matplotlib.figure.Figure` and leaves saving to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from deeplrhe_utils.core.text import said, with_ends

if TYPE_CHECKING:
    from deeplrhe_utils.evaluation.auc.table import Curve

PALETTE = sns.color_palette("colorblind")
REASON_COLOURS = {
    "kept": PALETTE[2], "background": (0.75, 0.75, 0.75), "outside-tumour": PALETTE[0], "noise": PALETTE[1],
    "unreadable": PALETTE[3], "pen": PALETTE[4], "fold": PALETTE[5], "bubble": PALETTE[9], "jpeg": PALETTE[8],
}  # fmt: skip
PANEL = 2.3  # inches; three of them are as wide as a page
NO_TARGET = "No target has enough labelled units: there is nothing to draw."
COMPONENT_COLOURS = ("#e8e4f0", "#f0a8c0", "#b070b0", "#402870", "#e0c060", "#60a080")


def new_figure(width: float, height: float, font_scale: float = 0.85) -> Figure:
    """An empty figure in the house style; sizes in inches. A dollar sign is one: names are no mathematics."""
    sns.set_theme(context="notebook", style="white", font_scale=font_scale, rc={"text.parse_math": False})
    return Figure(figsize=(width, height), layout="constrained")


def empty_figure(sentence: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = new_figure(6.4, 0.8)
    figure.text(0.5, 0.5, sentence, ha="center", va="center", fontsize=9, wrap=True)
    return figure


def panel_grid(count: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of `width` × `height` [inches], three in a row (of four, two)."""
    columns = 2 if count == 4 else min(3, max(1, count))
    rows = -(-max(1, count) // columns)
    figure = new_figure(width * columns, height * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False, **options).ravel())
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels


def named(name: object, most: int = 36) -> str:
    """A name as a figure shows it: every line of it as :func:`said`, with at most so many letters."""
    return "\n".join(said(line, most) for line in str(name).split("\n"))


def gene_rows(table: pd.DataFrame) -> pd.Series:
    """Row names of genes with their counts, from columns gene, n_pos, n_neg."""
    return pd.Series(
        [f"{said(r.gene, 24)}  ({r.n_pos:.0f}/{r.n_neg:.0f})" for r in table.itertuples()], index=table.index
    )


def intervals(axes: Axes, table: pd.DataFrame, heights: Any, value: str = "auc", **look: Any) -> None:
    """A dot per row with its interval (columns `value`, ci_low, ci_high); nothing for a null; `look` of `errorbar`."""
    middle = table[value].to_numpy(float)
    ends = np.abs(table[["ci_low", "ci_high"]].to_numpy(float).T - middle)
    usual: dict[str, Any] = {"fmt": "o", "ms": 4, "lw": 1.2, "capsize": 2, "color": PALETTE[0]}
    axes.errorbar(middle, heights, xerr=ends, **(usual | look))


def draw_forest(
    axes: Axes,
    table: pd.DataFrame,
    rows: Sequence[str],
    looks: Mapping[Any, Mapping[str, Any]],
    *,
    value: str = "auc",
    row: str = "gene",
    series: str = "",
    apart: float = 0.2,
    absent: str = "",
    zero: float = 0.5,
) -> None:
    """One panel of :func:`forest`: `rows` from top to bottom, `looks` (series → options of `errorbar`) side by side."""
    for place, (name, look) in enumerate(looks.items()):
        own = table[table[series] == name] if series else table
        heights = own[row].map(list(rows).index).to_numpy(float) + apart * (place - (len(looks) - 1) / 2)
        if "null_low" in own:  # what exchanged labels reach
            axes.hlines(heights, own["null_low"], own["null_high"], color=look.get("color", "0.5"), alpha=0.25, lw=5)
        intervals(axes, own, heights, value, **look)
        for y in heights[own[value].isna()] if absent else ():
            axes.text(zero, y, absent, ha="center", va="center", fontsize=7.5, color="0.4", style="italic",
                      bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
    axes.axvline(zero, ls=":", color="0.4", lw=1)
    axes.set_yticks(range(len(rows)), list(map(named, rows)), fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def forest(
    table: pd.DataFrame,
    label: str,
    *,
    value: str = "auc",
    row: str = "gene",
    panel: str = "",
    series: str = "",
    looks: Mapping[Any, Mapping[str, Any]] | None = None,
    **options: Any,
) -> tuple[Figure, dict[Any, Axes]]:
    """Dots with intervals: a panel per value of `panel`, a row per value of `row`, a colour per value of `series`.

    Parameters
    ----------
    table : columns `value`, ci_low, ci_high and those named
    label : of the axis of values
    looks : series → options of `Axes.errorbar`; by default the palette's colours, with a legend
    options : `apart` [rows] between neighbouring series, `zero` of the dotted line, `absent` text of a null

    Returns the figure, and its panels by their value ("" without `panel`), none for an empty table.
    """
    if table.empty:
        return empty_figure(NO_TARGET), {}
    table = table.assign(**{"": ""})
    names, rows, kinds = (list(table[column].drop_duplicates()) for column in (panel, row, series))
    looks = looks or {k: {"color": c, "label": named(k)} for k, c in zip(kinds, cycle(PALETTE), strict=False)}
    height = 0.9 + (0.32 if series or not panel else 0.24) * max(1, len(rows))
    width = PANEL if len(names) > 2 else 6.4 / max(1, len(names))
    figure, panels = panel_grid(len(names), width, height, sharex=True, sharey=True)
    found = dict(zip(names, panels, strict=False))
    for name, axes in found.items():
        draw_forest(axes, table[table[panel] == name], rows, looks, value=value, row=row, series=series, **options)
        axes.set_title(named(name), fontsize=9)
    if found:
        figure.supxlabel(label, fontsize=9)
    handles, texts = panels[0].get_legend_handles_labels()
    if len(texts) > 1:
        figure.legend(handles, texts, loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    sns.despine(figure)
    return figure, found


def _bare(axes: Axes, title: str = "") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    if title:
        axes.set_title(named(title, 60), fontsize=9)


def image_grid(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    row_titles: Sequence[str],
    column_titles: Sequence[str] = (),
    size: float = 1.7,
) -> Figure:
    """A grid of RGB images (h, w, 3), one row per title (Figures 2 and 5, contact sheets); `size` in inches."""
    columns = max(map(len, rows), default=0)
    if not columns:
        return empty_figure("There is no other picture to show.")
    figure = new_figure(size * columns + 0.4, size * len(rows) + 0.25)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for i, (images, title) in enumerate(zip(rows, row_titles, strict=True)):
        for j in range(columns):
            _bare(grid[i][j], column_titles[j] if i == 0 and j < len(column_titles) else "")
            if j < len(images):
                grid[i][j].imshow(images[j], interpolation="none")
        grid[i][0].set_ylabel(named(title, 28), fontsize=9)
    return figure


def noise_image(tile: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A tile with blank pixels (mask 1) in grey and blurred ones (mask 2) in orange, uint8 (H, W, 3)."""
    painted = tile.copy()
    painted[mask == 1] = (170, 170, 170)
    painted[mask == 2] = np.rint(0.4 * tile[mask == 2] + 0.6 * np.array([230, 130, 0])).astype(np.uint8)
    return painted


def component_image(gamma: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour each pixel by the blend of its memberships (K, H, W) → uint8 (H, W, 3), pale to dark."""
    colours = np.array([matplotlib.colors.to_rgb(c) for c in COMPONENT_COLOURS[: len(gamma)]]) * 255
    return np.asarray(np.rint(np.einsum("khw,kc->hwc", gamma, colours))).astype(np.uint8)


def ledger_bars(counts: Mapping[str, int], title: str) -> Figure:
    """Horizontal bars of kept and dropped by reason; the numbers are printed on the bars."""
    if not counts:
        return empty_figure("No labels were given: there is nothing to count.")
    figure = new_figure(6.4, 0.6 + 0.34 * len(counts))
    axes = figure.subplots()
    colours = [REASON_COLOURS.get(name, PALETTE[7]) for name in counts]
    bars = axes.barh(range(len(counts)), list(counts.values()), color=colours, height=0.7)
    axes.set_yticks(range(len(counts)), list(map(named, counts)))
    axes.bar_label(bars, padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*counts.values(), 1]) * 1.15)
    axes.set_title(title, fontsize=10, loc="left")
    sns.despine(figure)
    return figure


def draw_grid(axes: Axes, thumbnail: NDArray[np.uint8], tiles: pd.DataFrame, width_l0_px: int,
              outline: Any = None) -> None:  # fmt: skip
    """Draw a slide with its candidate tiles coloured by outcome, and the tumour outline (dashed blue, as in Fig 1B)."""
    factor = thumbnail.shape[1] / width_l0_px
    axes.imshow(thumbnail, interpolation="none")
    for row in tiles.itertuples():
        name = "kept" if row.kept else str(row.reason)
        size = float(row.size_l0_px) * factor
        corner = (row.x_l0_px * factor, row.y_l0_px * factor)
        axes.add_patch(Rectangle(corner, size, size, fill=False, lw=1.0 if row.kept else 0.6,
                                 ec=REASON_COLOURS.get(name, "black")))  # fmt: skip
    if outline is not None:
        for part in getattr(outline, "geoms", [outline]):
            ring = np.asarray(part.exterior.coords) * factor
            axes.plot(ring[:, 0], ring[:, 1], ls="--", lw=1.4, color="#0050d0")


def slide_grids(panels: Sequence[dict[str, Any]]) -> Figure:
    """Slides side by side, each as :func:`draw_grid` with its `title`; one legend of outcomes."""
    figure = new_figure(3.1 * len(panels), 2.9)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_grid(axes, panel["thumbnail"], panel["tiles"], panel["width_l0_px"], panel.get("outline"))
        _bare(axes, named(panel["title"]))
    seen = {r for panel in panels for r in panel["tiles"]["reason"].dropna()} | {"kept"}
    handles = [Rectangle((0, 0), 1, 1, fill=False, ec=c, label=n) for n, c in REASON_COLOURS.items() if n in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def noise_ladder(tiles: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]], ratios: Sequence[float],
                 every: NDArray[np.float64], cut: float) -> Figure:  # fmt: skip
    """Figure 1C(i): tiles from the least to the greatest noise ratio, their masks, and the ratio of `every` tile."""
    figure = new_figure(7.4, 4.4)
    top, below = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=(1, 0.9))))
    grid = top.subplots(2, max(1, len(tiles)), squeeze=False)
    for column, (tile, mask, ratio) in enumerate(zip(tiles, masks, ratios, strict=True)):
        fate = "kept" if ratio <= cut else "dropped"
        for axes, image, title in zip(grid[:, column], (tile, mask), (f"{ratio:.2f}\n{fate}", ""), strict=True):
            axes.imshow(image, interpolation="none")
            _bare(axes, title)
            axes.title.set_color("black" if ratio <= cut else PALETTE[3])
    first = sum(ratio <= cut for ratio in ratios)  # the cut lies left of the first tile that was dropped
    if 0 < first < len(ratios):
        look = {"arrowstyle": "-", "ls": "--", "color": PALETTE[3]}
        grid[0, first].annotate("", (-0.07, 1.3), (-0.07, -1.1), xycoords="axes fraction", arrowprops=look)
    axes = below.subplots()
    axes.hist(every, bins=40, range=(0, 1), color=PALETTE[0])
    axes.axvline(cut, ls="--", color=PALETTE[3], label=f"dropped above {cut:g}")
    axes.plot(ratios, np.zeros(len(ratios)), "^", color="black", ms=5, clip_on=False, label="the tiles above")
    axes.set(xlabel="noise ratio", ylabel="tiles", xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    sns.despine(ax=axes)
    return figure


def network_figure(
    steps: Sequence[tuple[str, Sequence[int]]], inside: Sequence[int], norm: bool, shortcut: bool
) -> Figure:
    """Tensors as boxes from left to right, as high as their pixels and as wide as their channels (Figures 3 and 4).

    Parameters
    ----------
    steps : (what is done, shape of what comes out) of the network, A
    inside, norm, shortcut : shape of all that flows in a residual block, B, or no numbers; whether it normalizes
        batches, and adds its first tensor to its last
    """
    with_norm = "batch norm, " * norm
    labels = "C[l]", f"3 × 3 convolution,\n{with_norm}ReLU: C[l+1]", f"3 × 3 convolution,\n{with_norm}B[l+2]"
    block = [(label, inside) for label in (*labels, "sum, ReLU: C[l+2]")] if len(inside) else []
    figure = new_figure(7.6, 3.8 if block else 2.1)
    rows = [row for row in (steps, block) if row]
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    titles = "A  the network as trained here", "B  one residual block"
    for axes, row, title in zip(panels, rows, titles, strict=False):
        _draw_tensors(axes, row, max(shape[-1] for _, shape in row), max(shape[0] for _, shape in row))
        axes.set_title(title, fontsize=9, loc="left")
    if block and shortcut:
        bow = {"arrowstyle": "-|>", "color": PALETTE[3], "connectionstyle": "arc3,rad=-0.12"}
        panels[1].annotate("", (len(block) - 1, 0.5), (0, 0.5), arrowprops=bow)
    return figure


def _draw_tensors(axes: Axes, row: Sequence[tuple[str, Sequence[int]]], pixels: int, channels: int) -> None:
    edges = []
    for x, (label, shape) in enumerate(row):
        high = max(0.06, (shape[-1] / pixels if len(shape) > 1 else 0) ** 0.5)
        wide = 0.1 + 0.4 * shape[0] / channels
        axes.add_patch(Rectangle((x - wide / 2, -high / 2), wide, high, fc="#dbe6f4", ec=PALETTE[0], lw=1))
        axes.text(x, -0.62, " × ".join(map(str, shape)), ha="center", va="top", fontsize=8)
        axes.text(x, -0.8, label, ha="center", va="top", fontsize=7.5, color="0.35")
        edges.append((x - wide / 2, x + wide / 2))
    for (_, start), (end, _) in pairwise(edges):
        look = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 1, "shrinkB": 1}
        axes.annotate("", (end, 0), (start, 0), arrowprops=look)
    axes.set(xlim=(-0.5, len(row) - 0.5), ylim=(-1.15, 0.75))
    _bare(axes)


def training_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Mean loss per epoch, one line per name; names that end in "validation" are dashed."""
    figure = new_figure(6.4, 2.6)
    axes = figure.subplots()
    for colour, (name, losses) in zip(cycle(PALETTE), history.items(), strict=False):
        style = "--" if name.endswith("validation") else "-"
        axes.plot(range(1, len(losses) + 1), losses, style, marker="o", ms=3, color=colour, label=named(name))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss [nats]")
    if history:
        axes.legend(frameon=False, fontsize=8)
    sns.despine(figure)
    return figure


def roc(curves: Mapping[str, Curve], metrics: pd.DataFrame, units: str = "patients") -> Figure:
    """ROC curves with pointwise 95 % bands, a panel per gene (Figure 6); AUC, interval and counts from `metrics`."""
    if not curves:
        return empty_figure(NO_TARGET)
    rows = metrics.set_index("gene")
    figure, panels = panel_grid(len(curves), PANEL, 2.4)
    for axes, colour, (gene, line) in zip(panels, cycle(PALETTE), curves.items(), strict=False):
        axes.fill_between(line.fpr, line.low, line.high, color=colour, alpha=0.2, lw=0)
        axes.plot(line.fpr, line.tpr, color=colour, lw=1.8)
        _roc_axes(axes)
        row = rows.loc[gene]
        axes.set_title(f"{said(gene, 24)}  {with_ends(row)}\n{row['n_pos']}/{row['n_neg']} {units}", fontsize=8.5)
    figure.supxlabel("false positive rate", fontsize=9)
    figure.supylabel("true positive rate", fontsize=9)
    sns.despine(figure)
    return figure


def _roc_axes(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], ls=":", color="0.5", lw=1)
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.tick_params(labelsize=8)


def class_curves(curves: Mapping[str, Mapping[str, Curve]], metrics: pd.DataFrame, counts: pd.DataFrame) -> Figure:
    """One class against the others, a panel each with a line per method, and a confusion matrix.

    Parameters
    ----------
    curves : method → class → curve
    metrics : columns gene (the class), method, auc, ci_low, ci_high
    counts : true classes in rows, called ones in columns
    """
    kinds = list(metrics["gene"].drop_duplicates())
    rows = metrics.set_index(["method", "gene"])
    figure, panels = panel_grid(len(kinds) + 1, 3.1, 2.8)
    for axes, kind in zip(panels, kinds, strict=False):
        drawn = [(method, own[kind]) for method, own in curves.items() if kind in own]
        for (method, line), colour, dashes in zip(drawn, PALETTE, cycle(("-", "--")), strict=False):
            label = f"{named(method)}\n{with_ends(rows.loc[(method, kind)])}"
            axes.plot(line.fpr, line.tpr, dashes, color=colour, lw=1.8, label=label)
        _roc_axes(axes)
        axes.set_title(f"{named(kind)} against the others", fontsize=9)
        axes.set_xlabel("false positive rate", fontsize=8)
        axes.set_ylabel("true positive rate", fontsize=8)
        if drawn:
            axes.legend(frameon=False, fontsize=8, loc="lower right")
    _draw_counts(panels[len(kinds)], counts, "slides: true class (row), called (column)")
    return figure


def auc_forest(metrics: pd.DataFrame, units: str = "patients") -> Figure:
    """AUC and interval per gene with its numbers; grey where the interval covers one half or nothing is estimable.

    Parameters
    ----------
    metrics : columns gene, status, auc, ci_low, ci_high, n_pos, n_neg, and null_low, null_high: what scores without
        any information reach at these counts, a pale bar

    Synthetic or not, the caller's caption says so; reported values are never drawn on the same axis.
    """
    if metrics.empty:
        return empty_figure(NO_TARGET)
    rows = metrics.assign(auc=metrics["auc"].where(metrics["status"] == "estimated"))
    rows["clear"] = (rows["ci_low"] > 0.5) | (rows["ci_high"] < 0.5)
    figure = new_figure(6.4, 0.9 + 0.3 * len(rows))
    axes = figure.subplots()
    low, high = (rows[f"null_{end}"].to_numpy(float) for end in ("low", "high"))
    axes.barh(range(len(rows)), high - low, left=low, height=0.6, color="0.9", zorder=0)
    looks = {True: {"color": PALETTE[0]}, False: {"color": "0.45"}}
    names, shown = list(rows["gene"]), rows.drop(columns=["null_low", "null_high"])
    draw_forest(axes, shown, names, looks, series="clear", apart=0.0, absent="not estimable")
    for y, row in enumerate(rows.to_dict("records")):
        text = f"{with_ends(row) if pd.notna(row['auc']) else ''}   {row['n_pos']:.0f}/{row['n_neg']:.0f}"
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), ha="left", va="center", fontsize=8)
    head = f"AUC [95 %]   pos./neg. {named(units, 16)}"
    axes.text(1.02, -0.85, head, transform=axes.get_yaxis_transform(), ha="left", va="center", fontsize=8)
    axes.set_xlabel("AUC; pale bar: what chance reaches with these counts", fontsize=9)
    axes.set_xlim(0, 1.01)
    axes.tick_params(axis="x", labelsize=8)
    sns.despine(figure)
    return figure


def matrix(counts: pd.DataFrame, title: str) -> Figure:
    """Confusion matrix: true classes in rows, predicted in columns, counts printed."""
    figure = new_figure(4.6, 3.6)
    _draw_counts(figure.subplots(), counts, title)
    return figure


def _draw_counts(axes: Axes, counts: pd.DataFrame, title: str) -> None:
    sns.heatmap(counts.rename(index=named, columns=named), annot=True, fmt="d", cmap="Blues", cbar=False, ax=axes)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(labelsize=7.5, rotation=0)
    axes.set_title(title, fontsize=9)
