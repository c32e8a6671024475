"""Figures of a cohort: every number that they are given can be read in them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from deeplrhe_utils.reporting.figures.cohort import flow_figure, prevalence_figure, site_mutation_map

LONG = "the patient's tissue was collected by a centre that withdrew its consent for pictures, see the letter of May: 7"


def flow(steps=6):
    rows = [("slides offered", 3220, 1026, 1608, 1612, 0, "")]
    for i in range(1, steps):
        before = rows[-1]
        dropped = 0 if i == 2 else 100 + i
        reason = "" if not dropped else f"normal tissue: {dropped - 7}; {LONG}" if i % 2 else f"not drawn: {dropped}"
        rows.append(
            (f"step {i} $x^2$", before[1] - dropped, before[2] - i, before[3] - dropped, before[4], dropped, reason)
        )
    return pd.DataFrame(rows, columns=["step", "slides", "patients", "LUAD", "LUSC", "dropped", "reason"])


def texts(figure):
    return [t.get_text() for axes in figure.axes for t in axes.texts if t.get_text()]


def boxes(figure):
    """Extent of every text, in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [t.get_window_extent(renderer) for axes in figure.axes for t in axes.texts if t.get_text()]


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_the_flow_shows_every_number_and_overlaps_nothing(steps):
    table = flow(steps)
    figure = flow_figure(table)
    said = "\n".join(texts(figure))
    for row in table.itertuples():
        assert f"{row.slides:,} slides of {row.patients:,} patients" in said
        assert f"LUAD {row.LUAD:,}, LUSC {row.LUSC:,}" in said
        assert not row.dropped or f"Left out: {row.dropped:,} slides" in said
    assert said.count("(none left out)") == int(steps > 2)
    found = boxes(figure)
    assert len(found) == steps + int((table["dropped"] > 0).sum())
    for i, box in enumerate(found):
        assert figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in found[i + 1 :])


def test_long_reasons_are_wrapped_and_stay_whole():
    figure = flow_figure(flow(4))
    assert max(len(line) for text in texts(figure) for line in text.split("\n")) <= 50
    assert LONG in " ".join(" ".join(texts(figure)).split())
    for patch, text in zip(
        [p for p in figure.axes[0].patches if hasattr(p, "get_boxstyle")], boxes(figure), strict=True
    ):
        frame = patch.get_window_extent(FigureCanvasAgg(figure).get_renderer())
        assert frame.x0 <= text.x0 and text.x1 <= frame.x1 and frame.y0 <= text.y0 and text.y1 <= frame.y1


def test_the_flow_prints_in_grey():
    for patch in flow_figure(flow()).axes[0].patches:
        assert len(set(np.round(patch.get_facecolor()[:3], 6))) == 1


def test_slides_of_no_project_are_shown():
    table = flow(1).assign(LUAD=1600)
    assert "neither 8" in "\n".join(texts(flow_figure(table)))


def sites(n, genes=("TP53", "EGFR")):
    random = np.random.default_rng(1)
    rows = []
    for gene in genes:
        for i in range(n):
            profiled = int(random.integers(0, 20)) if i else 0
            rows.append((gene, f"{i:02d}", int(random.integers(0, profiled + 1)), profiled, profiled + 2))
    return pd.DataFrame(rows, columns=["gene", "site_id", "positives", "profiled", "patients"])


@pytest.mark.parametrize("n", [1, 10, 75])
def test_the_map_shows_every_count_once(n):
    table = sites(n)
    figure = site_mutation_map(table)
    expected = [f"{r.positives}/{r.profiled}" if r.profiled else "–" for r in table.itertuples()]
    assert sorted(texts(figure)) == sorted(expected)
    assert max(figure.get_size_inches()) < 14
    labels = [t.get_text() for axes in figure.axes for t in axes.get_yticklabels()]
    assert len(labels) == n and labels[0] == "00 (2)"
    found = boxes(figure)
    assert not any(a.overlaps(b) for i, a in enumerate(found) for b in found[i + 1 :])


def prevalences():
    rows = [(p, g, group, k, n, 100 * k / n if n else np.nan, 1.0 if n else np.nan, 90.0 if n else np.nan)
            for p in ("LUAD and LUSC", "TCGA-LUAD") for g in ("TP53", "EGFR")
            for group, k, n in (("cohort", 3, 10), ("all profiled", 0, 0))]  # fmt: skip
    return pd.DataFrame(
        rows, columns=["project", "gene", "group", "mutated", "profiled", "percent", "ci_low", "ci_high"]
    )


def test_prevalences_show_their_counts_and_no_mark_where_nobody_is_profiled():
    figure = prevalence_figure(prevalences())
    assert texts(figure) == ["3/10"] * 4
    assert [axes.get_title() for axes in figure.axes] == ["LUAD and LUSC", "TCGA-LUAD"]
    points = figure.axes[0].containers[0].lines[0].get_xdata()
    assert points.tolist() == [30.0, 30.0]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["cohort", "all profiled"]


def test_the_map_and_the_prevalences_can_be_empty():
    assert texts(site_mutation_map(sites(0))) == [] == texts(prevalence_figure(prevalences().iloc[:0]))
