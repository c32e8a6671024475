"""Calibration against scikit-learn, exact identities and scores whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.evaluation.precision import calibration as cal


def _true(n=4000, seed=1):
    """Scores that are the true probabilities, and labels drawn from them."""
    random = np.random.default_rng(seed)
    score = expit(random.normal(-0.5, 1.2, n))
    return (random.random(n) < score).astype(np.int64), score


def test_bins_are_those_of_scikit_learn_where_nothing_is_tied():
    label, score = _true(500)
    observed, mean = calibration_curve(label, score, n_bins=10, strategy="quantile")
    found = cal.reliability(label, score, 10)
    np.testing.assert_allclose(found["observed"], observed)
    np.testing.assert_allclose(found["mean_score"], mean)
    assert found["n"].sum() == 500 and found["positives"].sum() == label.sum()
    assert ((found["ci_low"] <= found["observed"]) & (found["observed"] <= found["ci_high"])).all()


def test_equal_scores_share_a_bin():
    score = np.array([0.1] * 7 + [0.2] + [0.9] * 4)
    label = np.array([0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 0])
    found = cal.reliability(label, score, 4)
    assert found["n"].tolist() == [8, 4] and found["mean_score"].tolist() == pytest.approx([0.9 / 8, 0.9])
    constant = cal.reliability(label, np.full(12, 0.3), 4)
    assert len(constant) == 1 and constant.loc[0, "observed"] == pytest.approx(5 / 12)


def test_brier_is_scikit_learns_its_parts_add_up_and_are_murphys_for_discrete_scores():
    label, score = _true(300)
    found = cal.brier(label, score)
    assert found["brier"] == pytest.approx(brier_score_loss(label, score))
    parts = found["miscalibration"] - found["discrimination"] + found["uncertainty"]
    assert parts == pytest.approx(found["brier"]) and min(found["miscalibration"], found["discrimination"]) >= 0
    flat = cal.brier(label, np.full(300, label.mean()))
    assert (flat["brier_scaled"], flat["miscalibration"], flat["discrimination"]) == pytest.approx((0, 0, 0), abs=1e-12)
    score = np.repeat([0.2, 0.5, 0.9], [10, 10, 10])
    label = np.r_[np.repeat([1, 0], [1, 9]), np.repeat([1, 0], [4, 6]), np.repeat([1, 0], [8, 2])]
    share = np.array([0.1, 0.4, 0.8])
    found = cal.brier(label, score)
    assert found["miscalibration"] == pytest.approx(((share - [0.2, 0.5, 0.9]) ** 2).mean())
    assert found["discrimination"] == pytest.approx(((share - label.mean()) ** 2).mean())


def test_true_probabilities_have_slope_one_intercept_zero_and_the_error_of_chance():
    label, score = _true()
    found = cal.intercept_and_slope(label, score)
    assert found["slope_low"] < 1 < found["slope_high"] and found["intercept_low"] < 0 < found["intercept_high"]
    few_label, few = label[:150], score[:150]
    ece, expected = cal.expected_calibration_error(few_label, few), cal.calibrated_error(few)
    assert expected > 0.03 and abs(ece - expected) < 0.04, "150 true probabilities have an error from chance alone"
    assert cal.calibrated_error(score) < expected


@pytest.mark.parametrize(("slope", "shift"), [(0.5, 0.0), (2.0, 0.8), (1.0, -1.0)])
def test_slope_and_intercept_find_what_was_planted(slope, shift):
    label, true = _true(6000, seed=3)
    score = expit((logit(true) - shift) / slope)
    found = cal.intercept_and_slope(label, score)
    assert found["slope"] == pytest.approx(slope, rel=0.1)
    assert (found["slope_low"], found["slope_high"]) == pytest.approx((slope, slope), rel=0.2)
    if slope == 1:
        assert found["intercept"] == pytest.approx(shift, abs=0.1)


def test_the_slopes_interval_covers():
    random, hits = np.random.default_rng(5), 0
    for _ in range(200):
        score = expit(random.normal(0, 1, 150))
        label = (random.random(150) < score).astype(np.int64)
        found = cal.intercept_and_slope(label, score)
        hits += found["slope_low"] <= 1 <= found["slope_high"]
    assert 182 <= hits <= 199


def test_a_score_that_separates_or_is_constant_has_no_slope():
    label = np.array([0, 0, 1, 1])
    for score in ([0.1, 0.2, 0.8, 0.9], [0.4] * 4, [0.9, 0.8, 0.2, 0.1]):
        found = cal.intercept_and_slope(label, np.array(score))
        assert np.isnan(found["slope"]) and np.isfinite(found["intercept"])


def _folds(n=800, seed=2):
    label, true = _true(n, seed)
    score = expit(2.5 * logit(true) + 0.7)  # too extreme and too high
    names = [f"P{i:03d}" for i in range(n)]
    return pd.DataFrame({"patient_id": names, "gene": "A", "fold": np.arange(n) % 2, "label": label, "score": score})


@pytest.mark.parametrize("method", cal.RECALIBRATIONS)
def test_recalibration_mends_what_was_bent(method):
    scored = _folds()
    mended = cal.recalibrate(scored, method)
    label = scored["label"].to_numpy(np.int64)
    before, after = (cal.brier(label, f["score"].to_numpy()) for f in (scored, mended))
    assert after["miscalibration"] < 0.5 * before["miscalibration"] and after["brier"] < before["brier"]
    if method == "Platt":
        found = cal.intercept_and_slope(label, mended["score"].to_numpy())
        assert found["slope_low"] < 1 < found["slope_high"]


@pytest.mark.parametrize("method", cal.RECALIBRATIONS)
def test_a_patients_own_fold_never_moves_their_score(method):
    scored = _folds(200)
    own = scored["fold"] == 0
    bent = scored.assign(label=np.where(own, 1 - scored["label"], scored["label"]))
    first, second = cal.recalibrate(scored, method), cal.recalibrate(bent, method)
    np.testing.assert_allclose(first.loc[own, "score"], second.loc[own, "score"])
    assert np.abs(first.loc[~own, "score"] - second.loc[~own, "score"]).max() > 0.1


def test_platt_is_finite_where_the_other_fold_is_separated():
    scored = pd.DataFrame({"patient_id": list("abcdefgh"), "fold": [0] * 4 + [1] * 4, "label": [0, 0, 1, 1] * 2,
                           "score": [0.1, 0.2, 0.8, 0.9] * 2})  # fmt: skip
    found = cal.recalibrate(scored)["score"]
    assert found.between(0.05, 0.95).all()


def test_what_cannot_be_recalibrated_is_named():
    scored = _folds(40)
    alone = scored.assign(label=np.where(scored["fold"] == 1, 0, scored["label"]), gene="B")
    rows, missing = cal.score_versions(pd.concat([scored, alone]))
    assert missing["gene"].tolist() == ["B", "B"] and missing["reason"].str.contains("outside fold 0").all()
    table = cal.calibration_table(rows)
    assert list(table.columns) == list(cal.CALIBRATION_COLUMNS) and len(table) == 4 and (table["reason"] == "").all()
    one_class = cal.calibration_table(rows.assign(label=0))
    assert one_class["reason"].str.contains("both classes").all() and one_class["brier"].isna().all()


def test_wrong_input_is_named():
    label, score = _true(20)
    with pytest.raises(CohortError, match="1 of 20 scores"):
        cal.brier(label, np.r_[score[:-1], 1.2])
    with pytest.raises(CohortError, match="1 of 20 scores"):
        cal.reliability(label, np.r_[score[:-1], np.nan])
    with pytest.raises(CohortError, match="twice"):
        cal.recalibrate(_folds(20).assign(patient_id="P"))
