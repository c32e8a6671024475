"""Figures of notebook 12 draw what they are given, also when that is little."""

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.evaluation.auc.delong import CROSS_FITTED, DELONG, NEWCOMBE
from deeplrhe_utils.evaluation.precision import calibration, coverage, decision, power, readers
from deeplrhe_utils.evaluation.precision import cross_fitting as cf
from deeplrhe_utils.reporting.audit_figures import precision as pf


@pytest.fixture(scope="module")
def scored():
    random = np.random.default_rng(1)
    label = (np.arange(60) % 4 == 0).astype(int)
    score = np.clip(0.25 + 0.2 * label + random.normal(0, 0.1, 60), 0.01, 0.99)
    names = [f"P{i:02d}" for i in range(60)]
    return pd.DataFrame({"patient_id": names, "gene": "A", "fold": np.arange(60) % 2, "label": label, "score": score})


def _written(figure, tmp_path):
    path = tmp_path / "figure.png"
    figure.savefig(path)
    return path.stat().st_size > 3000


def test_null_bands_show_every_gene_and_leave_out_what_is_null(tmp_path):
    genes = pd.DataFrame({"gene": ["A", "B", "C"], "auc": [0.7, np.nan, 0.6], "n_pos": [20, 8, 1], "n_neg": [90] * 3})
    figure = pf.null_bands(power.precision_table(genes, draws=10))
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["A  (20/90)", "B  (8/90)", "C  (1/90)"]
    assert len(axes.patches) == 2 and _written(figure, tmp_path)


def test_cross_fitting_shows_coverage_of_all_designs_and_alarms_of_those_without_an_effect():
    designs = [cf.Design(m, 40 - m, features=10, aim=aim) for m in (10, 20) for aim in (0.5, 0.8)]
    table = pd.concat([cf.cross_fitting_trial(design, draws=20) for design in designs], ignore_index=True)
    figure = pf.cross_fitting(table, {DELONG: "usual", CROSS_FITTED: "headline"}, coverage.PROMISE)
    left, right = figure.axes
    drawn = [line.get_ydata() for line in right.lines if len(line.get_xdata()) == 2 and line.get_label() == "headline"]
    alarms = table[(table["aim"] == 0.5) & (table["method"] == CROSS_FITTED)].set_index("n_pos")["rejected"]
    np.testing.assert_allclose(drawn[0], alarms.sort_index())
    mean = table[table["method"] == DELONG].groupby("n_pos")["coverage"].mean()
    assert any(np.allclose(line.get_ydata(), mean) for line in left.lines if line.get_label() == "usual")


def test_coverage_has_a_panel_per_total_and_a_line_per_named_method(tmp_path):
    cells = [(0.7, 40, 0.2), (0.8, 40, 0.5), (0.7, 80, 0.2)]
    table = pd.concat([coverage.coverage_of_patients(*cell, draws=20) for cell in cells], ignore_index=True)
    figure = pf.coverage(table, {NEWCOMBE: "N", coverage.HANLEY: "H"}, coverage.PROMISE)
    assert [a.get_title() for a in figure.axes] == ["40 patients", "80 patients"]
    assert [t.get_text() for t in figure.legends[0].texts] == ["N", "H"] and _written(figure, tmp_path)


def test_calibration_and_decision_curves_have_a_panel_per_gene(scored, tmp_path):
    label, score = scored["label"].to_numpy(), scored["score"].to_numpy()
    bins = {"raw": calibration.reliability(label, score, 1)}
    figure = pf.calibration({"A": bins, "B": bins})
    assert [a.get_title() for a in figure.axes if a.get_visible()] == ["A", "B"]
    assert figure.axes[0].get_xlim()[1] == pytest.approx(1.08 * bins["raw"].loc[0, "ci_high"])
    assert _written(figure, tmp_path)
    curve = decision.decision_curve(scored, resamples=20)
    figure = pf.decision_curves({"A": {"raw": curve, "Platt": curve}})
    assert len(figure.legends[0].texts) == 4 and figure.axes[0].get_xlim()[1] <= 1


def test_readers_have_a_row_each(scored, tmp_path):
    cases = scored.rename(columns={"patient_id": "case_id", "label": "truth"})
    calls = readers.simulated_readers(cases, 2)
    calls["reader"] = calls["reader"].replace("reader 1 (SIMULATED)", readers.MODEL)
    wide, _ = readers.shared_cases(calls)
    figure = pf.readers(readers.reader_differences(wide, resamples=20), "SIMULATED")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["reader 2 (SIMULATED)"]
    assert "SIMULATED" in figure._suptitle.get_text() and _written(figure, tmp_path)


def test_nothing_to_draw_is_said():
    empty = power.precision_table(pd.DataFrame({"gene": [], "auc": [], "n_pos": [], "n_neg": []}))
    nowhere = pd.DataFrame(columns=["patients", "n_pos", "method", "coverage"])
    for figure in (pf.null_bands(empty), pf.calibration({}), pf.decision_curves({}),
                   pf.coverage(nowhere, {}, coverage.PROMISE)):  # fmt: skip
        assert figure.axes or "nothing to draw" in figure.texts[0].get_text()
