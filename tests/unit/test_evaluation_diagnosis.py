"""What is known without a slide: counts against patients, planted confounding, and another cohort."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.evaluation.audits import diagnosis
from deeplrhe_utils.evaluation.audits.probing import paired_probe, probe
from deeplrhe_utils.learning.probes.readers import partitions, ridge_held_out
from deeplrhe_utils.reporting.audit_figures.audits import ARMS_KNOWN, known_without


def test_a_stratum_ranks_as_its_patients_one_by_one_would():
    """Counts are enough: every patient's leave-one-out share, made the long way, gives the same AUC."""
    random = np.random.default_rng(3)
    site = random.integers(0, 9, 200)
    label = (random.random(200) < np.linspace(0.1, 0.8, 9)[site]).astype(int)
    counts = pd.DataFrame({"s": site, "mutated": label, "profiled": 1})
    share = [(label[(site == s) & (np.arange(200) != i)].sum() + 4 * label.mean()) / ((site == s).sum() - 1 + 4)
             for i, s in enumerate(site)]  # fmt: skip
    found = diagnosis.told_by(counts, "s")
    assert found["auc"] == pytest.approx(roc_auc_score(label, share), abs=1e-12) and found["auc"] > 0.65
    two = diagnosis.told_by(counts.assign(s=counts["s"] > 4), "s")
    assert two["auc"] == pytest.approx(roc_auc_score(label, site > 4), abs=1e-12)
    assert (two["n_pos"], two["n_neg"]) == (label.sum(), 200 - label.sum())
    assert np.isnan(diagnosis.told_by(counts.assign(mutated=0), "s")["auc"])
    assert diagnosis.told_by(counts.assign(s="one"), "s")["auc"] == 0.5


def test_a_hospital_that_tells_nothing_lies_a_little_below_one_half():
    random = np.random.default_rng(5)
    draws = ({"s": random.integers(0, 20, 400), "mutated": random.random(400) < 0.3, "profiled": 1} for _ in range(40))
    aucs = [diagnosis.told_by(pd.DataFrame(one), "s")["auc"] for one in draws]
    assert 0.42 < np.mean(aucs) < 0.5


def planted(seed, n=240, effect=0.0, size=12):
    """Features that show the diagnosis, a gene that depends on it and, with `effect`, on one feature of its own."""
    random = np.random.default_rng(seed)
    kind = np.arange(n) % 2
    x = random.normal(size=(n, size))
    x[:, 0] += 3 * kind
    label = (random.random(n) < 1 / (1 + np.exp(1.4 - 2 * kind - effect * x[:, 1]))).astype(float)
    names = pd.Index([f"P{seed}-{i:03d}" for i in range(n)], name="patient_id")
    labels = pd.DataFrame({"patient_id": names, "gene": "G", "status": pd.array(label, "Int64"), "source": "t"})
    return pd.DataFrame(x, names), labels, pd.Series(kind, names)


def test_a_reader_fooled_by_the_diagnosis_finds_nothing_within_it():
    ps, fooled = [], []
    for seed in range(24):
        x, labels, kind = planted(seed)
        cut = partitions(len(x), 2, 3, seed)
        fooled.append(probe(x, labels, cut, draws=19, seed=seed)["auc"].iloc[0])
        ps.append(probe(x, labels, cut, draws=99, seed=seed, strata=kind)["p"].iloc[0])
    assert stats.kstest(ps, "uniform").pvalue > 0.01 and np.mean(fooled) > 0.62
    x, labels, kind = planted(1, effect=1.5)
    cut = partitions(len(x), 2, 3, 1)
    assert probe(x, labels, cut, draws=99, seed=1, strata=kind)["p"].iloc[0] < 0.05


def test_clinical_columns_say_what_is_unknown_and_two_readers_are_added_with_equal_spread():
    clinical = pd.DataFrame({"patient_id": ["a", "b", "c"], "age": [60.0, None, 70.0], "sex": ["male", "female", None],
                             "empty": [None] * 3})  # fmt: skip
    found = diagnosis.clinical_columns(clinical, pd.Index(["c", "b", "a", "z"]), ["age", "sex", "empty"])
    assert found["age"].tolist() == [70, 65, 60, 65] and found["age: unknown"].tolist() == [0, 1, 0, 1]
    assert found["sex: male"].tolist() == [0, 0, 1, 0] and not any("empty" in c for c in found)
    x, labels, _ = planted(4, effect=2.0)
    label, cut = labels["status"].to_numpy(float)[:, None], partitions(len(x), 2, 1, 1)[0]
    both = diagnosis.fused_held_out(x.to_numpy(), label, cut, first=1)
    parts = [ridge_held_out(x.to_numpy()[:, s], label, cut) for s in (np.s_[:1], np.s_[1:])]
    for fold in (0, 1):
        own = cut == fold
        np.testing.assert_allclose(both[own], sum(p[own] / p[own].std() for p in parts))
    gain = paired_probe({"kind": x.iloc[:, :1], "both": x}, "kind", labels, partitions(len(x), 2, 3, 1), draws=99,
                        read={"both": lambda f, y, c: diagnosis.fused_held_out(f, y, c, first=1)})  # fmt: skip
    assert gain.set_index("arm").loc["both", "p"] < 0.05
    with pytest.raises(CohortError, match="same patients"):
        paired_probe({"kind": x.iloc[:, :1], "both": x.iloc[::-1]}, "kind", labels, cut[None], draws=19)


def test_the_figure_shows_every_arm_that_is_there():
    row = {"gene": "G", "auc": 0.7, "ci_low": 0.6, "ci_high": 0.8, "null_low": 0.4, "null_high": 0.6}
    table = pd.DataFrame([{**row, "arm": arm} for arm in ARMS_KNOWN[:3]])
    table.loc[0, ["ci_low", "ci_high", "null_low", "null_high"]] = np.nan
    figure = known_without(table)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(table["arm"])
