"""Thresholds, net benefit and saved tests against brute force and published arithmetic."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from deeplrhe_utils.core.errors import CohortError, ParameterError
from deeplrhe_utils.evaluation.precision import decision as de

RULES = (de.Rule(), de.Rule("sensitivity", 0.9), de.Rule("specificity", 0.8), de.Rule("specificity", 1.0))


def _scored(n=60, seed=1, signal=0.25, folds=2):
    random = np.random.default_rng(seed)
    label = (np.arange(n) % 3 == 0).astype(np.int64)
    score = np.round(np.clip(random.normal(0.4 + signal * label, 0.15), 0, 1), 2)
    names = [f"P{i:03d}" for i in range(n)]
    return pd.DataFrame({"patient_id": names, "fold": (np.arange(n) // 3) % folds, "label": label, "score": score})


def _rates(label, score, threshold):
    tn, fp, fn, tp = confusion_matrix(label, score >= threshold, labels=[0, 1]).ravel()
    return tp / (tp + fn), tn / (tn + fp)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_chosen_threshold_is_the_best_of_all(rule, seed):
    scored = _scored(seed=seed)
    label, score = scored["label"].to_numpy(), scored["score"].to_numpy()
    rates = {t: _rates(label, score, t) for t in (*np.unique(score), np.inf)}
    chosen = de.choose_threshold(label, score, rule)
    if rule.aim == "youden":
        best = max(sum(r) for r in rates.values())
        assert chosen == max(t for t, r in rates.items() if sum(r) == pytest.approx(best))
    elif rule.aim == "sensitivity":
        assert chosen == max(t for t, r in rates.items() if r[0] >= rule.least - 1e-12)
    else:
        legal = {t: r[0] for t, r in rates.items() if r[1] >= rule.least - 1e-12}
        assert chosen == max(t for t, r in legal.items() if r == max(legal.values()))


def test_operating_points_count_by_the_threshold_of_the_other_fold():
    scored = _scored()
    found = de.operating_points(scored, [RULES[1]]).set_index("chosen")
    call = pd.Series(False, index=scored.index)
    for fold in (0, 1):
        other, own = scored[scored["fold"] != fold], scored["fold"] == fold
        positive = np.sort(other.loc[other["label"] == 1, "score"])[::-1]
        threshold = positive[int(np.ceil(0.9 * len(positive))) - 1]
        call |= own & (scored["score"] >= threshold)
    tn, fp, fn, tp = confusion_matrix(scored["label"], call).ravel()
    honest = found.loc[de.HONEST]
    assert honest[["tp", "fp", "fn", "tn"]].tolist() == [tp, fp, fn, tn]
    assert honest["ppv"] == pytest.approx(tp / (tp + fp)) and honest["npv"] == pytest.approx(tn / (tn + fn))
    assert found.loc[de.IN_SAMPLE, "sensitivity"] >= 0.9


def test_a_threshold_of_the_own_patients_flatters():
    gap = []
    for seed in range(60):
        points = de.operating_points(_scored(30, seed, signal=0.0), [de.Rule()]).set_index("chosen")
        total = points["sensitivity"] + points["specificity"]
        gap.append(total[de.IN_SAMPLE] - total[de.HONEST])
        assert total[de.IN_SAMPLE] >= 1
    assert np.mean(gap) > 0.1, "without any signal the optimistic index lies above the honest one"


def test_net_benefit_is_vickers_arithmetic():
    """Of 100 patients 20 are mutated; at a risk of 20 %, 16 true and 24 false positives: 0.16 − 0.24 / 4 = 0.10."""
    label = np.r_[np.ones(20, int), np.zeros(80, int)]
    score = np.r_[np.full(16, 0.3), np.full(4, 0.1), np.full(24, 0.3), np.full(56, 0.1)]
    scored = pd.DataFrame({"patient_id": range(100), "fold": 0, "label": label, "score": score})
    curve = de.decision_curve(scored, resamples=400).iloc[[4, 19, 49]].reset_index(drop=True)
    assert curve["threshold"].tolist() == pytest.approx([0.05, 0.2, 0.5])
    assert curve["net_benefit"].tolist() == pytest.approx([0.2 - 0.8 / 19, 0.10, 0.0])
    assert curve["treat_all"].tolist() == pytest.approx([0.2 - 0.8 / 19, 0.0, -0.6])
    assert curve.loc[0, "net_benefit"] == pytest.approx(curve.loc[0, "treat_all"]), "a risk below all scores tests all"
    assert curve.loc[1, "ci_low"] < 0.10 < curve.loc[1, "ci_high"]
    # the standard error of a mean of terms 1 (16), −1/4 (24) and 0 (60)
    terms = np.r_[np.ones(16), np.full(24, -0.25), np.zeros(60)]
    assert curve.loc[1, "ci_high"] - curve.loc[1, "ci_low"] == pytest.approx(2 * 1.96 * terms.std() / 10, rel=0.15)


@pytest.mark.parametrize("folds", [2, 3])
def test_rule_out_equals_the_operating_point_and_a_loop(folds):
    scored = _scored(folds=folds)
    found = de.rule_out(scored, [0.8, 0.95], resamples=50).set_index(["least_sensitivity", "chosen"])
    for aim in (0.8, 0.95):
        points = de.operating_points(scored, [de.Rule("sensitivity", aim)]).set_index("chosen")
        for where in (de.HONEST, de.IN_SAMPLE):
            row, point = found.loc[(aim, where)], points.loc[where]
            assert row["tests_avoided"] == point["tn"] + point["fn"] and row["missed"] == point["fn"]
            assert row["sensitivity"] == pytest.approx(point["sensitivity"])
            assert row["avoided"] == pytest.approx((point["tn"] + point["fn"]) / 60)


def test_the_interval_holds_what_new_patients_show():
    """Honest rule-out at 0.9 against the expectation of the same procedure over cohorts of the same size."""
    expected = np.mean([de.rule_out(_scored(60, s), [0.9], resamples=2)["avoided"].iloc[0] for s in range(100, 160)])
    inside = 0
    for seed in range(30):
        row = de.rule_out(_scored(60, seed), [0.9], resamples=200, seed=seed).iloc[0]
        inside += row["avoided_low"] <= expected <= row["avoided_high"]
    assert inside >= 24


def test_wrong_input_is_named():
    scored = _scored(12)
    with pytest.raises(ParameterError, match="f1"):
        de.Rule("f1")
    with pytest.raises(ParameterError, match="sensitivity at 0"):
        de.rule_out(scored, [0.0])
    with pytest.raises(CohortError, match="outside fold 0"):
        de.rule_out(scored.assign(label=np.where(scored["fold"] == 1, 0, scored["label"])))
    with pytest.raises(CohortError, match="twice"):
        de.decision_curve(scored.assign(patient_id="P"))


def test_genes_that_cannot_be_judged_are_named():
    good = _scored(24).assign(gene="good")
    lop = good.assign(gene="lopsided", label=np.where(good["fold"] == 1, 0, good["label"]))
    rare = good.assign(gene="rare", label=np.r_[1, np.zeros(23, int)])
    kept, left_out = de.judgeable(pd.concat([good, lop, rare]), 2)
    assert set(kept["gene"]) == {"good"} and left_out["gene"].tolist() == ["lopsided", "rare"]
    assert left_out["reason"].tolist() == ["outside one of the folds a class has no patient",
                                           "fewer than 2 patients in a class"]  # fmt: skip
    assert left_out["n_pos"].tolist() == [4, 1]
    with pytest.raises(CohortError):
        de.operating_points(lop, [de.Rule()])
    de.operating_points(kept, [de.Rule()])
