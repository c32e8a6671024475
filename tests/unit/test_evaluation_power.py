"""Precision against computed tables, enumeration and simulation."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import delong_many, hanley_mcneil
from deeplrhe_utils.evaluation.precision import cross_fitting
from deeplrhe_utils.evaluation.precision import power as pw

# AUC, positive of 180, ends of the interval, patients for ± 0.05 at a prevalence, normal 97.5 % null bound:
# computed from the published formulas before this module was written, to two or three digits
COMPUTED = [
    (0.870, 88, 0.82, 0.92, 210, 0.49, 0.585), (0.840, 23, 0.74, 0.94, 825, 0.125, 0.629),
    (0.716, 31, 0.61, 0.82, 855, 0.17, 0.612), (0.781, 9, 0.60, 0.96, 2350, 0.05, 0.694),
    (0.753, 7, 0.54, 0.97, 3140, 0.04, 0.719),
]  # fmt: skip


@pytest.mark.parametrize(("auc", "n_pos", "low", "high", "needed", "prevalence", "bound"), COMPUTED)
def test_the_computed_table_is_met(auc, n_pos, low, high, needed, prevalence, bound):
    width = pw.half_width(auc, n_pos, 180 - n_pos)
    assert (auc - width, min(1, auc + width)) == pytest.approx((low, high), abs=0.012)
    assert pw.patients_needed(auc, prevalence) == pytest.approx(needed, rel=0.05)
    assert pw.null_band(n_pos, 180 - n_pos)[1] == pytest.approx(bound, abs=0.01)


def test_hanley_and_mcneil_give_their_published_standard_error():
    """The worked example of their 1982 article: AUC 0.893, 51 abnormal, 58 normal, standard error 0.032."""
    assert hanley_mcneil(0.893, 51, 58) == pytest.approx(0.032, abs=0.0006)


@pytest.mark.parametrize(("auc", "prevalence"), [(0.6, 0.03), (0.87, 0.5), (0.95, 0.7)])
def test_patients_needed_is_the_least_number(auc, prevalence):
    n = pw.patients_needed(auc, prevalence)
    assert pw.half_width(auc, n * prevalence, n * (1 - prevalence)) <= 0.05
    fewer = n - 1
    assert pw.half_width(auc, fewer * prevalence, fewer * (1 - prevalence)) > 0.05


@pytest.mark.parametrize(("n_pos", "n_neg"), [(1, 4), (5, 3), (6, 6)])
def test_the_null_band_is_that_of_all_rankings(n_pos, n_neg):
    n = n_pos + n_neg
    wins = np.array([sum(place) - n_pos * (n_pos - 1) / 2 for place in combinations(range(n), n_pos)])
    low, high = pw.null_band(n_pos, n_neg)
    least = min(u for u in range(n_pos * n_neg + 1) if (wins <= u).mean() >= 0.975 - 1e-12)
    assert high == pytest.approx(least / (n_pos * n_neg)) and low == pytest.approx(1 - high)
    assert ((wins >= low * n_pos * n_neg - 1e-9) & (wins <= high * n_pos * n_neg + 1e-9)).mean() >= 0.95


def test_the_null_band_holds_in_simulation_and_is_near_the_normal_one_for_many_patients(monkeypatch):
    low, high = pw.null_band(9, 171)
    positive, negative = pw.binormal(0.5, 9, 171, 8000, generator(3, "null"))
    auc = delong_many(positive, negative)[0]
    assert ((auc >= low) & (auc <= high)).mean() == pytest.approx(0.951, abs=4 * np.sqrt(0.05 * 0.95 / 8000))
    approximate = pw.null_band(110, 190)
    monkeypatch.setattr(pw, "EXACT_PAIRS", 10**9)
    np.testing.assert_allclose(approximate, pw.null_band(110, 190), atol=0.002)


def test_widths_agree_in_simulation():
    assert pw.simulated_half_width(0.75, 150, 150) == pytest.approx(pw.half_width(0.75, 150, 150), rel=0.06)


def test_binormal_scores_have_the_auc_and_the_correlation_that_were_asked_for():
    positive, negative = pw.binormal(0.8, 50, 50, 400, generator(1, "test"), tiles=4, within=0.6)
    assert positive.shape == (400, 200)
    assert delong_many(positive, negative)[0].mean() == pytest.approx(0.8, abs=0.01)
    tiles = negative.reshape(-1, 4)
    assert np.corrcoef(tiles.T)[0, 1:] == pytest.approx(0.6, abs=0.03)
    np.testing.assert_array_equal(positive, pw.binormal(0.8, 50, 50, 400, generator(1, "test"), 4, 0.6)[0])


def test_wilson_gives_the_intervals_of_the_articles_shares():
    assert pw.wilson(9, 18) == pytest.approx((0.29, 0.71), abs=0.005)
    assert pw.wilson(45, 54) == pytest.approx((0.71, 0.91), abs=0.005)
    assert pw.wilson(0, 10)[0] == 0 and np.isnan(pw.wilson(0, 0)).all()


def test_the_table_keeps_every_gene_and_says_why_a_cell_is_empty():
    genes = pd.DataFrame({"gene": ["A", "B", "C", "D"], "auc": pd.array([0.8, None, 0.7, 1.0], "Float64"),
                          "n_pos": [20, 9, 1, 5], "n_neg": [160, 171, 179, 175]})  # fmt: skip
    table = pw.precision_table(genes, draws=50).set_index("gene")
    assert list(table.reset_index().columns) == list(pw.PRECISION_COLUMNS)
    assert table["reason"].ne("").tolist() == [False, True, True, True]
    assert table.loc["B", "null_high"] == pw.null_band(9, 171)[1]
    assert table.loc[["B", "C", "D"], ["patients_needed", "half_width"]].isna().all(axis=None)


def test_nobody_in_a_class_is_an_error():
    with pytest.raises(CohortError, match="0 positive"):
        pw.half_width(0.7, 0, 5)
    with pytest.raises(CohortError, match="1 positive"):
        pw.simulated_half_width(0.7, 1, 5)


def test_what_cross_fitted_scores_allow_is_less_by_the_doubled_variance():
    genes = pd.DataFrame({"gene": ["A", "B"], "auc": [0.7, 0.8], "n_pos": [40, 4], "n_neg": [120, 60]})
    plain, fitted = (pw.precision_table(genes, draws=10, cross_fitted=way).set_index("gene") for way in (False, True))
    np.testing.assert_allclose(fitted["half_width"] / plain["half_width"], np.sqrt(2))
    assert (fitted["patients_needed"] / plain["patients_needed"]).between(1.9, 2.1).all()
    assert (fitted["half_width_delong"] == plain["half_width_delong"]).all()
    aucs = cross_fitting.within_folds(cross_fitting.simulated_scores(cross_fitting.Design(40, 120), 600, 3),
                                      cross_fitting.Design(40, 120))[1].mean(1)  # fmt: skip
    inside = {way: ((aucs >= low) & (aucs <= high)).mean()
              for way, (low, high) in ((way, pw.null_band(40, 120, way)) for way in (False, True))}  # fmt: skip
    assert inside[False] < 0.9 and 0.93 < inside[True] < 0.98
