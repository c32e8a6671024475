"""Cross-fitted scores: the chosen rule keeps its promise where the usual one does not; the simulation is as said."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.evaluation.auc import delong
from deeplrhe_utils.evaluation.auc.delong import CROSS_FITTED, DELONG, INFLATION, NEWCOMBE
from deeplrhe_utils.evaluation.precision import cross_fitting as cf


@pytest.mark.parametrize("m, folds, features", [(40, 2, 200), (10, 5, 50), (6, 2, 20)])
def test_without_an_effect_the_headline_alarms_in_five_of_a_hundred_and_the_usual_interval_in_fifteen(
    m, folds, features
):
    table = cf.cross_fitting_trial(cf.Design(m, 160 - m, folds, features), draws=1000, seed=5).set_index("method")
    error = np.sqrt(0.05 * 0.95 / 1000)
    assert table.loc[CROSS_FITTED, "rejected"] <= 0.05 + 2 * error
    assert table.loc[CROSS_FITTED, "coverage"] >= 0.95 - 2 * error
    assert table.loc[DELONG, "rejected"] > 0.10 and table.loc[DELONG, "coverage"] < 0.90
    assert table.loc[NEWCOMBE, "coverage"] < 0.90  # the usual variance fails with any formula


@pytest.mark.parametrize(
    "design",
    [
        cf.Design(40, 120, 2, 300, 0.65),
        cf.Design(10, 150, 5, 20, 0.8),
        cf.Design(40, 120, 2, 20, 0.75, reader="network"),
    ],
)
def test_with_an_effect_the_headline_contains_the_expected_auc(design):
    table = cf.cross_fitting_trial(design, draws=600, seed=6).set_index("method")
    assert table["auc"].between(0.55, 0.9).all()
    assert table.loc[CROSS_FITTED, "coverage"] >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 600)
    assert table.loc[DELONG, "coverage"] < table.loc[CROSS_FITTED, "coverage"] - 0.03


def test_the_interval_excludes_one_half_where_its_p_is_below_a_twentieth():
    auc = np.linspace(0.3, 0.9, 601)
    low, high = delong.newcombe_interval(auc, 17, 60, INFLATION)
    p = delong.cross_fitted_p(auc, 17, 60)
    away = np.abs(p - 0.05) > 1e-6
    np.testing.assert_array_equal(((low > 0.5) | (high < 0.5))[away], (p < 0.05)[away])
    exact = stats.mannwhitneyu(np.arange(17) + 40.5, np.arange(60), method="asymptotic", use_continuity=False)
    at = np.array([exact.statistic / (17 * 60)])
    usual = 2 * stats.norm.sf(abs(at[0] - 0.5) / delong.null_error(17, 60))
    assert usual == pytest.approx(exact.pvalue, rel=1e-9)
    assert stats.norm.isf(delong.cross_fitted_p(at, 17, 60)[0] / 2) * INFLATION == pytest.approx(
        stats.norm.isf(usual / 2)
    )


@pytest.mark.parametrize(
    "m, n, cross_fitted, method",
    [(30, 40, False, DELONG), (19, 90, False, NEWCOMBE), (30, 40, True, CROSS_FITTED), (3, 90, True, CROSS_FITTED)],
)
def test_one_rule_says_which_interval_is_shown_first(m, n, cross_fitted, method):
    random = np.random.default_rng(3)
    label = np.r_[np.ones(m, int), np.zeros(n, int)]
    score = random.standard_normal(m + n) + label
    name, low, high, p = delong.headline_interval(label, score, cross_fitted=cross_fitted)
    assert name == method and low < roc_auc_score(label, score) < high and 0 < p < 1


def test_ridge_scores_are_those_of_a_ridge_regression_that_never_saw_the_patient():
    design = cf.Design(12, 28, 4, 7, 0.8, decay=0.5, spread=1.5)
    x, _ = cf.cohorts(design, 3, np.random.default_rng(0))
    label = (np.arange(40) < 12).astype(np.float32)
    ours = cf.ridge_scores(x @ x.swapaxes(1, 2), np.repeat(label[None, :, None], 3, 0), design.fold)[..., 0]
    for one, scores in zip(x.astype(float), ours, strict=True):
        for fold in range(4):
            own, others = design.fold == fold, design.fold != fold
            centred = one[others] - one[others].mean(0)
            ridge = Ridge(alpha=(centred**2).sum() / others.sum()).fit(one[others], label[others])
            found = ridge.predict(one[own])
            np.testing.assert_allclose(scores[own] - scores[own].mean(), found - found.mean(), atol=1e-4)


def test_a_network_does_not_learn_from_the_fold_that_it_scores():
    design = cf.Design(10, 14, 2, 5, 0.8, reader="network")
    x, _ = cf.cohorts(design, 2, np.random.default_rng(0))
    first = cf.network_scores(x, design, np.random.default_rng(1))
    moved = x.copy()
    who = np.flatnonzero(design.fold == 1)[0]
    moved[:, who] = moved[:, who, ::-1]  # the same scale, another patient
    second = cf.network_scores(moved, design, np.random.default_rng(1))
    own = (design.fold == 1) & (np.arange(24) != who)
    np.testing.assert_allclose(first[:, own], second[:, own], rtol=1e-3)
    assert np.abs(first[:, design.fold == 0] - second[:, design.fold == 0]).max() > 0.1


def test_draws_are_seeded_and_designs_that_cannot_be_are_refused():
    design = cf.Design(5, 20, 5, 10, 0.7)
    assert np.array_equal(cf.simulated_scores(design, 20, 1), cf.simulated_scores(design, 20, 1))
    assert (np.bincount(design.fold[:5]) == 1).all() and (np.bincount(design.fold) == 5).all()
    for wrong in ({"folds": 6}, {"folds": 1}, {"reader": "forest"}, {"aim": 0.4}):
        with pytest.raises(ParameterError):
            cf.Design(**({"n_pos": 5, "n_neg": 20} | wrong))
