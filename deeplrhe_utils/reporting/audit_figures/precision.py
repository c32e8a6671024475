"""Figures of notebook 12: what the counts allow, whether intervals hold, calibration, decisions, readers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from deeplrhe_utils.reporting.figures.style import NO_TARGET, PALETTE, empty_figure, named, new_figure, panel_grid

_MARKS = ("o", "s", "^", "D", "v", "P", "X")


def cross_fitting(table: pd.DataFrame, names: Mapping[str, str], promise: tuple[float, float]) -> Figure:
    """Coverage of all designs (left) and false alarms of those without an effect (right), by mutated patients.

    Parameters
    ----------
    table : columns n_pos, aim, method, coverage, rejected, as `cross_fitting_trial` returns
    names : methods to draw, and what to call them
    promise : (low, high): accepted coverage, shaded
    """
    chance = table[table["aim"] == 0.5]
    figure = new_figure(6.8, 3.3)
    panels = figure.subplots(1, 2)
    panels[0].axhspan(*promise, color="0.92", lw=0)
    for axes, rows, level, said in (
        (panels[0], table, 0.95, "intervals that contain the target"),
        (panels[1], chance.assign(coverage=chance["rejected"]), 0.05, "false alarms at p ≤ 0.05"),
    ):
        axes.axhline(level, ls=":", color="0.5", lw=1)
        for i, (method, name) in enumerate(names.items()):
            _coverage_line(axes, rows[rows["method"] == method], i, len(names), name)
        _patients_axis(axes, rows)
        axes.set_ylabel(said)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    sns.despine(figure)
    return figure


def _patients_axis(axes: Axes, rows: pd.DataFrame) -> None:
    """Logarithmic, with the counts there are; shares in per cent."""
    axes.set_xscale("log")
    ticks = sorted(rows["n_pos"].unique())
    axes.set_xticks(ticks[:: max(1, -(-len(ticks) // 6))])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.set_xlabel("mutated patients", fontsize=9)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _coverage_line(axes: Axes, rows: pd.DataFrame, place: int, of: int, name: str) -> None:
    points = rows.groupby("n_pos")["coverage"].agg(["mean", "min", "max"])
    x = points.index.to_numpy(float) * 1.05 ** (place - (of - 1) / 2)  # side by side on the logarithmic axis
    colour = PALETTE[place]
    axes.vlines(x, points["min"], points["max"], color=colour, lw=0.8, alpha=0.6)
    axes.plot(x, points["mean"], marker=_MARKS[place % len(_MARKS)], ms=4, lw=1.2, color=colour, label=name)


def usefulness(
    reliability: Mapping[str, Mapping[str, pd.DataFrame]], curves: Mapping[str, Mapping[str, pd.DataFrame]]
) -> Figure:
    """A row per gene: observed share against mean score (left), net benefit against the threshold of risk (right).

    Parameters
    ----------
    reliability : gene → version of the scores → table: mean_score, observed, ci_low, ci_high
    curves : gene → version → table: threshold, net_benefit, ci_low, ci_high, treat_all, treat_none; a panel ends where
        no version tests anybody
    """
    figure = new_figure(7.0, 0.7 + 2.5 * len(reliability))
    for (left, right), (gene, by_version) in zip(
        figure.subplots(len(reliability), 2, squeeze=False), reliability.items(), strict=True
    ):
        _reliability(left, by_version)
        for colour, (name, table) in zip(PALETTE, curves[gene].items(), strict=False):
            right.fill_between(table["threshold"], table["ci_low"], table["ci_high"], color=colour, alpha=0.15, lw=0)
            right.plot(table["threshold"], table["net_benefit"], color=colour, lw=1.6, label=named(name))
        _alternatives(right, list(curves[gene].values()))
        right.set(xlabel="threshold of risk", ylabel="net benefit")
        left.set_title(named(gene), fontsize=9, loc="left")
    left, right = figure.axes[:2]
    handles = {
        text: handle for axes in (left, right) for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    sns.despine(figure)
    return figure


def calibration(panels: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """The left column of :func:`usefulness` alone: a panel per gene, a line per version with Wilson intervals."""
    if not panels:
        return empty_figure(NO_TARGET)
    figure, grid = panel_grid(len(panels), 2.8, 2.9)
    for axes, (gene, by_version) in zip(grid, panels.items(), strict=False):
        _reliability(axes, by_version)
        axes.set_title(named(gene), fontsize=9)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    sns.despine(figure)
    return figure


def _reliability(axes: Axes, by_version: Mapping[str, pd.DataFrame]) -> None:
    axes.plot([0, 1], [0, 1], ls=":", color="0.5", lw=1)
    for colour, mark, (name, table) in zip(PALETTE, _MARKS, by_version.items(), strict=False):
        error = np.abs(table[["ci_low", "ci_high"]].to_numpy(float).T - table["observed"].to_numpy(float))
        axes.errorbar(table["mean_score"], table["observed"], yerr=error, color=colour, fmt=f"{mark}-", ms=4, lw=1.2,
                      elinewidth=0.7, label=named(name))  # fmt: skip
    # a rare gene's panel ends where its bins end, or its bins would be one blot
    end = min(1.02, 1.08 * max(float(t[["mean_score", "ci_high"]].max(axis=None)) for t in by_version.values()))
    axes.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end), xlabel="mean score", ylabel="share mutated")


def _alternatives(axes: Axes, tables: list[pd.DataFrame]) -> None:
    """Testing everybody and testing nobody, and the part of the panel in which anything happens."""
    first = tables[0]
    axes.plot(first["threshold"], first["treat_all"], color="0.2", lw=1.2, ls="--", label="test everybody")
    axes.plot(first["threshold"], first["treat_none"], color="0.4", lw=1, ls=":", label="test nobody")
    top = max(max(float(t["ci_high"].max()) for t in tables), float(first["treat_all"].max()), 0.01)
    acting = [t.loc[(t["net_benefit"] != 0) | (t["treat_all"] > 0), "threshold"].max() for t in tables]
    axes.set(ylim=(-0.35 * top, 1.1 * top), xlim=(0, min(1.0, 1.1 * max(acting))))


def transfer_figure(table: pd.DataFrame) -> Figure:
    """A frozen model elsewhere: AUC beside its own and its null, calibration slope and O/E, each with 95 % intervals.

    Parameters
    ----------
    table : of `judge_transfer`, with model, where, reader, patients; rows without an estimate are left out. Slopes
        beyond −1 to 3 leave their axis: what bends that far is no probability.
    """
    done = table[table["status"] == "estimated"]
    if done.empty:
        return empty_figure(NO_TARGET)
    names = [f"{r.gene}, {r.patients}, {r.reader} of {r.model} in {r.where}" for r in done.itertuples()]
    figure = new_figure(10.0, 1.2 + 0.3 * len(done))
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=[2, 1, 1])
    place = np.arange(len(done), 0, -1)
    left.hlines(place, done["null_low"], done["null_high"], color="0.88", lw=9)
    for values, ends, offset, colour, label in (
        ("own_auc", ("own_low", "own_high"), 0.15, "0.45", "among its own patients"),
        ("auc", ("ci_low", "ci_high"), -0.15, PALETTE[0], "elsewhere"),
    ):
        left.hlines(place + offset, done[ends[0]], done[ends[1]], color=colour, lw=1.4)
        left.plot(done[values], place + offset, "o", ms=4, color=colour, label=label)
    left.set(xlabel="AUC (pale: null band)", yticks=place, yticklabels=[named(name, 70) for name in names])
    left.axvline(0.5, color="0.6", lw=0.8, ls=":")
    for axes, name, label in ((middle, "slope", "calibration slope"), (right, "oe", "observed / expected")):
        axes.hlines(place, done[f"{name}_low"], done[f"{name}_high"], color=PALETTE[0], lw=1.4)
        axes.plot(done[name], place, "o", ms=4, color=PALETTE[0])
        axes.axvline(1, color="0.6", lw=0.8, ls=":")
        axes.set(xlabel=label)
    middle.set_xlim(-1, 3)
    right.set(xscale="log", xticks=[0.25, 0.5, 1, 2, 4], xticklabels=["¼", "½", "1", "2", "4"], xlim=(0.2, 5))
    right.minorticks_off()
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    sns.despine(figure)
    return figure


def planted_shift(table: pd.DataFrame) -> Figure:
    """Estimates of many external validations against what is true of each: slope, O/E, loss of AUC.

    Parameters
    ----------
    table : of one direction: slope, oe, drop, each with `_low`, `_high` and `true_`; a row is a model and a gene
    """
    figure = new_figure(7.2, 2.9)
    shown = (
        ("slope", "calibration slope", (-0.5, 3)),
        ("oe", "observed / expected", (0, 3)),
        ("drop", "loss of AUC", (-0.5, 0.5)),
    )
    for axes, (name, label, limits) in zip(figure.subplots(1, 3), shown, strict=True):
        rows = table.dropna(subset=[name, f"true_{name}"])
        inside = rows[f"true_{name}"].between(rows[f"{name}_low"], rows[f"{name}_high"])
        for own, colour, text in ((inside, "0.6", "contains it"), (~inside, PALETTE[1], "misses it")):
            part = rows[own]
            axes.vlines(
                part[f"true_{name}"], part[f"{name}_low"], part[f"{name}_high"], color=colour, lw=0.8, label=text
            )
            axes.plot(part[f"true_{name}"], part[name], "o", ms=2.5, color=colour)
        axes.plot(limits, limits, color="0.3", lw=0.8, ls=":")
        axes.set(xlabel=f"true {label}", ylabel="estimated", xlim=limits, ylim=limits)
        axes.locator_params(nbins=4)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8, frameon=False
    )
    sns.despine(figure)
    return figure
