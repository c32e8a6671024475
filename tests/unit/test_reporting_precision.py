"""Figures of notebook 12 draw what they are given, also when that is little."""

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.evaluation.auc.delong import CROSS_FITTED, DELONG
from deeplrhe_utils.evaluation.precision import calibration, coverage, decision
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


def test_usefulness_has_a_row_per_gene_with_calibration_and_net_benefit(scored, tmp_path):
    label, score = scored["label"].to_numpy(), scored["score"].to_numpy()
    bins = {"raw": calibration.reliability(label, score, 1)}
    curves = {"raw": decision.decision_curve(scored, resamples=20)}
    figure = pf.usefulness({"A": bins, "B": bins}, {"A": curves, "B": curves})
    assert [a.get_title(loc="left") for a in figure.axes[::2]] == ["A", "B"]
    assert figure.axes[0].get_xlim()[1] == pytest.approx(1.08 * bins["raw"].loc[0, "ci_high"])
    assert [t.get_text() for t in figure.legends[0].texts] == ["raw", "test everybody", "test nobody"]
    assert figure.axes[1].get_xlim()[1] <= 1 and _written(figure, tmp_path)
