"""Intervals of the AUC against published formulas, and against what they promise in simulated data."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.seeds import generator, integer_seed
from deeplrhe_utils.evaluation.auc.delong import DELONG, NEWCOMBE, hanley_mcneil, newcombe_interval
from deeplrhe_utils.evaluation.auc.resampling import BCA, PERCENTILE, bootstrap
from deeplrhe_utils.evaluation.precision import coverage as cv
from deeplrhe_utils.evaluation.precision.power import binormal


def _within(draws, least=0.93, most=0.97):
    """Bounds for a share of `draws` whose truth lies between `least` and `most`: one miss in 10,000."""
    return stats.binom.ppf(1e-4, draws, least) / draws, stats.binom.ppf(1 - 1e-4, draws, most) / draws


def test_hanley_interval_is_the_formula():
    auc = np.array([0.6, 0.893, 0.99])
    low, high = cv.hanley_interval(auc, 51, 58)
    expected = [hanley_mcneil(float(a), 51, 58) * stats.norm.ppf(0.975) for a in auc]
    np.testing.assert_allclose(auc - low, expected)
    np.testing.assert_allclose(high, np.minimum(1, auc + expected))


def test_newcombe_ends_solve_their_equation_and_hold_at_the_edges():
    """(estimate − θ)² = z² V(θ), V as printed by Newcombe 2006; symmetric under AUC → 1 − AUC."""
    auc = np.array([0.2, 0.5, 0.8, 0.95])
    low, high = newcombe_interval(auc, 9, 60)
    star, z = (9 + 60) / 2 - 1, stats.norm.ppf(0.975)
    for theta in (low, high):
        variance = theta * (1 - theta) * (1 + star * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (9 * 60)
        np.testing.assert_allclose((auc - theta) ** 2, z**2 * variance, rtol=1e-9)
    mirror = newcombe_interval(1 - auc, 9, 60)
    np.testing.assert_allclose(low, 1 - mirror[1], atol=1e-12)
    bottom, top = newcombe_interval(np.array([0.0, 1.0]), 9, 60)
    assert bottom[0] == pytest.approx(0, abs=1e-9) and top[1] == pytest.approx(1, abs=1e-9)
    assert 0.02 < top[0] < 0.5 and 0.5 < bottom[1] < 0.98


def test_the_simulated_bootstrap_is_the_one_of_the_package():
    positive, negative = binormal(0.8, 6, 20, 2, generator(1, "x"), tiles=3, within=0.4)
    found = cv.bootstraps(positive, negative, 3, 200, seed=4)
    rows = [{"patient_id": f"{kind}{i // 3:02d}", "label": int(kind == "a"), "score": s}
            for kind, scores in (("a", positive[1]), ("b", negative[1])) for i, s in enumerate(scores)]  # fmt: skip
    expected = bootstrap(pd.DataFrame(rows), resamples=200, seed=integer_seed(4, "data set", 1))
    for how in (PERCENTILE, BCA):
        assert (found[how][0][1], found[how][1][1]) == pytest.approx(expected[how])


@pytest.mark.parametrize(("auc", "n", "prevalence"), [(0.7, 60, 0.5), (0.85, 180, 0.1), (0.7, 500, 0.03)])
def test_newcombe_and_delong_cover_as_promised(auc, n, prevalence):
    draws = 2000
    table = cv.coverage_of_patients(auc, n, prevalence, draws=draws, seed=1).set_index("method")
    low, high = _within(draws)
    assert low <= table.loc[DELONG, "coverage"] <= high
    assert table.loc[NEWCOMBE, "coverage"] >= low
    assert table["coverage"].to_numpy() == pytest.approx(1 - table["missed_below"] - table["missed_above"])


def test_bootstraps_cover_with_enough_patients():
    table = cv.coverage_of_patients(0.75, 120, 0.5, draws=150, boots=150, resamples=400, seed=2).set_index("method")
    low, high = _within(150)
    assert low <= table.loc[PERCENTILE, "coverage"] <= high and low <= table.loc[BCA, "coverage"] <= high
    assert table.loc[PERCENTILE, "draws"] == 150


def test_the_same_seed_gives_the_same_table_and_a_class_needs_two():
    first = cv.coverage_of_patients(0.7, 40, 0.2, draws=50, boots=5, resamples=50, seed=9)
    assert first.equals(cv.coverage_of_patients(0.7, 40, 0.2, draws=50, boots=5, resamples=50, seed=9))
    assert list(first.columns) == list(cv.COVERAGE_COLUMNS)
    with pytest.raises(ParameterError, match="1 positive"):
        cv.coverage_of_patients(0.7, 20, 0.03)


def test_a_formula_without_scores_fails_where_the_classes_scatter_unlike():
    """Mutated patients twice as spread, 18 of 180: Newcombe's interval is too narrow, DeLong's is not."""
    table = cv.coverage_of_patients(0.8, 180, 0.1, draws=2000, seed=1, spread=2.0).set_index("method")
    least = _within(2000)[0]
    assert table.loc[NEWCOMBE, "coverage"] < least and table.loc[NEWCOMBE, "verdict"] == "too narrow"
    assert table.loc[DELONG, "coverage"] > table.loc[NEWCOMBE, "coverage"] + 0.02
    positive, negative = binormal(0.8, 200, 200, 300, generator(1, "spread"), spread=2.0)
    assert positive.std() == pytest.approx(2, abs=0.02) and negative.std() == pytest.approx(1, abs=0.01)
    assert cv.delong_many(positive, negative)[0].mean() == pytest.approx(0.8, abs=0.006)
