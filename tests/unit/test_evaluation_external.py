"""A frozen model elsewhere: published sample sizes, planted shifts found again, intervals that cover."""

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from sklearn.linear_model import Ridge

from deeplrhe_utils.core.errors import CohortError, ParameterError
from deeplrhe_utils.evaluation.auc.delong import delong, headline_interval
from deeplrhe_utils.evaluation.precision.external import (
    TRANSFER_COLUMNS,
    WIDTHS,
    frozen_probabilities,
    judge_transfer,
    observed_over_expected,
    own_headline,
    probe_elsewhere,
    required_patients,
    transfer_sentence,
)
from deeplrhe_utils.learning.probes.readers import PENALTY, partitions, standardized

QUANTILES = (np.arange(100_000) + 0.5) / 100_000


def normal(mean, sd):
    return stats.norm.ppf(QUANTILES, mean, sd)


def beta(a, b):
    return special.logit(np.clip(stats.beta.ppf(QUANTILES, a, b), 1e-12, 1 - 1e-12))


# What the authors' own program gives (pmvalsampsize 0.1.0; its documentation and tests). It simulates the slope, walks
# to the standard error of O/E in steps, and rounds that of net benefit.
@pytest.mark.parametrize(
    ("log_odds", "prevalence", "auc", "threshold", "widths", "published"),
    [
        (normal(-5, 2.5), 0.018, 0.8, 0.1, {"oe": 1.0}, {"oe": 905, "slope": 4544, "auc": 4252}),
        (beta(0.5, 0.5), 0.018, 0.8, 0.1, {"oe": 1.0}, {"oe": 905, "slope": 1644, "auc": 4252}),
        (normal(-1.75, 1.22), 0.2, 0.78, 0.1, {}, {"oe": 1538, "slope": 2955, "auc": 511, "net_benefit": 349}),
        (normal(-1.75, 1.22), 0.2, 0.78, 0.3, {}, {"slope": 2955, "net_benefit": 831}),
        (beta(1.33, 1.75), 0.43, 0.8, 0.3, {}, {"oe": 510, "slope": 2136, "auc": 308, "net_benefit": 281}),
    ],
)
def test_sample_sizes_are_the_published_ones(log_odds, prevalence, auc, threshold, widths, published):
    needed = required_patients(log_odds, prevalence, auc, threshold=threshold, widths=WIDTHS | widths)
    for name, number in published.items():
        assert needed[name] == pytest.approx(number, rel=0.005), name
    assert published.get("auc", needed["auc"]) == needed["auc"]


def test_a_criterion_that_nobody_can_meet_is_not_a_number():
    assert np.isnan(required_patients(np.zeros(50), 0.5, 0.6, threshold=0.2)["slope"])
    for wrong in ({"prevalence": 0.0}, {"auc": 1.5}, {"threshold": 1.0}, {"widths": WIDTHS | {"oe": 0.0}}):
        asked = {"prevalence": 0.2, "auc": 0.7, "threshold": 0.1} | wrong
        with pytest.raises(ParameterError):
            required_patients(normal(0, 1), asked.pop("prevalence"), asked.pop("auc"), **asked)


def test_classes_that_the_model_separates_have_an_auc_of_one_and_no_slope():
    label, score = np.repeat([0, 1], 12), np.linspace(0.1, 0.9, 24)
    row = judge_transfer(frame(label, score), OWN).iloc[0]
    assert (row["status"], row["auc"]) == ("estimated", 1.0) and row["ci_low"] < 1 and row["drop"] < 0
    assert (
        row[["slope", "needed_auc"]].isna().all() and np.isfinite(row[["oe", "brier", "needed_oe"]].astype(float)).all()
    )
    assert transfer_sentence(pd.DataFrame([row])).startswith("AUC elsewhere: TP53 1.00")


def drawn(random, n, slope=1.0, shift=0.0):
    """Labels by the true risk, and the probability of a model that is `slope` and `shift` away from it."""
    truth = random.normal(-0.5, 1.2, n)
    label = (random.random(n) < special.expit(truth)).astype(int)
    return label, special.expit((truth - shift) / slope)


def frame(label, score, gene="TP53"):
    return pd.DataFrame(
        {"gene": gene, "patient_id": [f"P{i}" for i in range(len(label))], "label": label, "score": score}
    )


OWN = pd.DataFrame({"gene": ["TP53"], "auc": [0.80], "ci_low": [0.70], "ci_high": [0.88]})


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.5, 0.0), (1.0, 0.8)])
def test_planted_slope_and_prevalence_are_covered(slope, shift):
    random = np.random.default_rng(3)
    label, score = drawn(random, 400_000, slope, shift)
    truth = {"slope": slope, "oe": label.mean() / score.mean()}
    inside = {name: 0 for name in truth}
    for _ in range(60):
        row = judge_transfer(frame(*drawn(random, 150, slope, shift)), OWN).iloc[0]
        for name, value in truth.items():
            inside[name] += row[f"{name}_low"] <= value <= row[f"{name}_high"]
    assert all(count >= 52 for count in inside.values()), inside  # of 60 at 95 %: less in one case of 250
    assert (slope == 1.0) == (row["slope_low"] <= 1 <= row["slope_high"])
    assert shift == 0.0 or row["oe_low"] > 1


def test_the_interval_of_observed_over_expected_covers():
    random = np.random.default_rng(7)
    label, score = drawn(random, 400_000, shift=0.8)
    truth, ends = (
        label.mean() / score.mean(),
        [observed_over_expected(*drawn(random, 150, shift=0.8)) for _ in range(2000)],
    )
    assert 0.93 <= np.mean([low <= truth <= high for _, low, high in ends]) <= 0.965


def test_the_loss_of_auc_is_covered_and_none_is_found_where_none_is():
    random, inside, false = np.random.default_rng(5), 0, 0
    gap = 0.10
    for _ in range(80):
        cohorts = [(np.r_[np.ones(50, int), np.zeros(90, int)],
                    np.r_[random.normal(np.sqrt(2) * stats.norm.ppf(auc), 1, 50), random.normal(0, 1, 90)])
                   for auc in (0.80, 0.80 - gap, 0.80)]  # fmt: skip
        ends = [own_row(label, special.expit(score)) for label, score in cohorts]
        own = pd.DataFrame([ends[0]])
        lost, same = (judge_transfer(frame(label, special.expit(score)), own).iloc[0] for label, score in cohorts[1:])
        inside += lost["drop_low"] <= gap <= lost["drop_high"]
        false += same["drop_low"] > 0 or same["drop_high"] < 0
    assert inside >= 70 and false <= 10  # of 80 at 95 %: less, or more, in one case of 250


def own_row(label, score):
    _, low, high, _ = headline_interval(label, score, cross_fitted=False)
    return {"gene": "TP53", "auc": delong(label, score)[0], "ci_low": low, "ci_high": high}


def test_observed_over_expected_by_hand():
    ratio, low, high = observed_over_expected(np.array([1, 1, 0, 0]), np.array([0.9, 0.5, 0.4, 0.2]))
    spread = np.std([1 / 0.5 - 1.8, 1 / 0.5 - 1, -0.8, -0.4], ddof=1) / 2
    assert ratio == pytest.approx(1.0) and low == pytest.approx(np.exp(-1.959964 * spread), rel=1e-6)
    assert high == pytest.approx(1 / low)


def test_what_cannot_be_judged_says_why_and_nobody_counts_twice():
    label, score = drawn(np.random.default_rng(1), 60)
    few = judge_transfer(frame(label[:6], score[:6]), OWN, least=5)
    assert few["status"].item() == "fewer than 5 patients of a class elsewhere" and few["auc"].isna().all()
    assert list(few) == list(TRANSFER_COLUMNS) and "No gene" in transfer_sentence(few)
    with pytest.raises(CohortError, match="one score per patient"):
        judge_transfer(pd.concat([frame(label, score)] * 2), OWN)
    unknown = judge_transfer(frame(label, score, "EGFR"), OWN)
    assert list(unknown["gene"]) == ["TP53"] and unknown["n_pos"].item() == 0


def test_the_probe_is_the_ridge_of_all_patients_here():
    random = np.random.default_rng(2)
    here, there = random.normal(size=(80, 6)), random.normal(size=(30, 6)) + 0.5
    label = (here[:, 0] + random.normal(size=80) > 0).astype(int)
    names = [f"f{i}" for i in range(6)]
    own = pd.DataFrame(here, index=[f"H{i}" for i in range(80)], columns=names)
    other = pd.DataFrame(there, index=[f"T{i}" for i in range(30)], columns=names)
    labels = pd.DataFrame({"patient_id": own.index, "gene": "TP53", "status": pd.array(label, "Int64")})
    rare = labels.assign(gene="EGFR", status=pd.array([1, 1] + [0] * 78, "Int64"))
    cut = partitions(80, 5, 3, 0)
    said = probe_elsewhere(own, pd.concat([labels, rare]), other, cut)
    assert set(said["gene"]) == {"TP53"} and said["here"].sum() == 80 and (~said["here"]).sum() == 30
    scaled = standardized(np.vstack([here, there]), np.arange(110) < 80)
    power = np.linalg.svd(scaled[:80] - scaled[:80].mean(0), compute_uv=False) ** 2
    fit = Ridge(alpha=PENALTY * power.mean()).fit(scaled[:80], label - label.mean())
    frozen = said.loc[~said["here"], "score"].to_numpy()
    assert stats.spearmanr(fit.predict(scaled[80:]), frozen).statistic == pytest.approx(1)
    assert ((frozen > 0) & (frozen < 1)).all()
    assert own_headline(said[said["here"]].assign(label=label))["auc"].item() > 0.7
    with pytest.raises(CohortError, match="differ"):
        probe_elsewhere(own, labels, other.rename(columns={"f0": "g0"}), cut)


def test_the_map_to_probabilities_is_the_models_own():
    random = np.random.default_rng(4)
    label, score = drawn(random, 4000)
    said = frozen_probabilities(label, 3 * special.logit(score), 3 * special.logit(score[:50]))
    np.testing.assert_allclose(said, score[:50], atol=0.03)


def test_a_gene_that_was_not_found_at_home_is_not_interpreted():
    label, score = drawn(np.random.default_rng(8), 150)
    seen = judge_transfer(frame(label, score), OWN)
    blind = judge_transfer(frame(label, score), OWN.assign(auc=0.55, ci_low=0.45, ci_high=0.65))
    assert transfer_sentence(seen).startswith("AUC elsewhere: TP53 0.")
    assert transfer_sentence(blind) == "Not informative, as the model did not find them among its own patients: TP53."
