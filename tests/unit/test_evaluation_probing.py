"""Probes find what is there, by p-values that are uniform where nothing is, and say when they cannot tell."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.evaluation.audits import probing
from deeplrhe_utils.learning.probes.readers import kernel_held_out, partitions, ridge_held_out


def cohort(n=80, shift=1.2, seed=0, sites=4):
    """Patients × 5 features; gene A moves the first by `shift`, B moves none; C is unknown in half and rare."""
    random = np.random.default_rng(seed)
    a, b = (random.random(n) < p for p in (0.4, 0.3))
    x = random.normal(size=(n, 5))
    x[:, 0] += shift * a
    people = [f"P{i:03d}" for i in range(n)]
    rows = [{"patient_id": p, "gene": g, "status": v} for i, p in enumerate(people)
            for g, v in (("A", int(a[i])), ("B", int(b[i])), ("C", 1 if i < 2 else pd.NA if i % 2 else 0))]  # fmt: skip
    labels = pd.DataFrame(rows).astype({"status": "Int64"})
    return pd.DataFrame(x, index=people), labels, pd.Series([f"S{i % sites}" for i in range(n)], people)


def test_auc_counts_pairs_of_a_fold_only_and_ties_half():
    random = np.random.default_rng(0)
    label, score = (random.integers(0, 2, (60, 3)).astype(float), random.integers(0, 6, (60, 3)).astype(float))
    fold = np.arange(60) % 3
    for column, found in enumerate(probing.auc_within_folds(label, score, fold)):
        won = pairs = 0
        for f in range(3):
            y, s = label[fold == f, column], score[fold == f, column]
            won, pairs = won + roc_auc_score(y, s) * y.sum() * (1 - y).sum(), pairs + y.sum() * (1 - y).sum()
        assert found == pytest.approx(won / pairs)
    shifted = score + 100 * fold[:, None]  # another scale in each fold changes nothing
    np.testing.assert_allclose(
        probing.auc_within_folds(label, shifted, fold), probing.auc_within_folds(label, score, fold)
    )


def test_what_is_planted_is_found_and_what_is_rare_is_said():
    x, labels, _ = cohort()
    table = probing.probe(x, labels, partitions(80, 2, 5, 1), draws=99, seed=1, min_positives=5).set_index("gene")
    assert table.loc["A", "p"] == 0.01 and table.loc["A", "auc"] > table.loc["A", "null_high"]
    assert table.loc["A", "ci_low"] < table.loc["A", "auc"] < table.loc["A", "ci_high"]
    assert table.loc["C", "status"] == "fewer than 5 patients of a class" and np.isnan(table.loc["C", "auc"])
    assert probing.verdict_of(table.reset_index(), "A")[0] and probing.verdict_of(table.reset_index())[0]
    for gene in ("B", "C"):
        good, sentence = probing.verdict_of(table.reset_index(), gene)
        assert not good and sentence.startswith("not informative")


@pytest.mark.parametrize("fold", [[0] * 4 + [1] * 4, [0, 1, 1, 1, 1, 1, 1, 1]], ids=["no pair", "few pairs"])
def test_what_cannot_be_compared_is_no_finding(fold):
    """Where a fold holds one class only there is no AUC, neither of true labels nor of some exchanges."""
    x = pd.DataFrame(np.arange(8.0)[:, None], [f"P{i}" for i in range(8)])
    labels = pd.DataFrame({"patient_id": x.index, "gene": "A", "status": pd.array([1] * 4 + [0] * 4, "Int64")})
    table = probing.probe(x, labels, np.array([fold]), draws=99).iloc[0]
    assert (table["status"] == "estimated") == (fold[1] == 1) and not table["p"] < 0.01
    assert np.isfinite(table[["p", "null_low", "null_mean"]].astype(float)).all() == (fold[1] == 1)
    assert len(probing.paired_probe({"a": x, "b": x}, "a", labels, np.array([fold]), draws=19)) == 2 * (fold[1] == 1)
    settings = [("a", x.to_numpy(), ridge_held_out)] * 2
    found = probing.optimism_of_search(settings, labels, list(x.index), np.array([fold]))
    assert found["flat"].notna().all() and found["nested"].notna().all()


def test_p_is_uniform_and_intervals_cover_where_nothing_is_planted():
    found = [
        probing.probe(*cohort(60, 0.0, seed)[:2], partitions(60, 2, 3, seed), draws=99, seed=seed)
        for seed in range(120)
    ]
    both = pd.concat(found).query("gene != 'C'")
    assert stats.kstest(both["p"], "uniform").pvalue > 0.01
    assert both["null_mean"].mean() == pytest.approx(0.5, abs=0.01)
    assert 0.9 < ((both["ci_low"] < 0.5) & (both["ci_high"] > 0.5)).mean() <= 1


def test_exchange_inside_strata_leaves_what_the_stratum_tells():
    _, labels, sites = cohort(shift=0.0)
    on_site = labels[labels["gene"] == "A"].assign(status=lambda f: f["patient_id"].map(sites).eq("S0").astype("Int64"))
    knows = pd.get_dummies(sites).astype(float)
    cut = partitions(80, 2, 4, 1)
    free = probing.probe(knows, on_site, cut, draws=99).iloc[0]
    within = probing.probe(knows, on_site, cut, draws=99, strata=sites).iloc[0]
    assert free["p"] == 0.01 and within["p"] == 1.0 and within["null_mean"] == pytest.approx(within["auc"])
    moved = probing.exchanged_labels(np.arange(80.0), 5, 1, sites.to_numpy(str))
    assert (np.sort(moved, 0) == np.arange(80.0)[:, None]).all() and (moved % 4 == moved[:, :1] % 4).all()


def test_tiles_divided_leak_what_patients_divided_do_not():
    random = np.random.default_rng(3)
    x, labels, _ = cohort(40, 0.0, 3)
    owner = np.repeat(np.arange(40), 5)
    tiles = pd.DataFrame(x.to_numpy()[owner] * 3 + random.normal(size=(200, 5)))
    people = pd.Series(x.index.to_numpy()[owner])
    ask = {"draws": 30, "patients": people, "read": lambda *a: kernel_held_out(*a, width=0.3)}
    only = labels[labels["gene"] == "A"]
    by_tile = probing.probe(tiles, only, partitions(200, 2, 3, 1), **ask).iloc[0]
    by_patient = probing.probe(tiles, only, partitions(200, 2, 3, 1, owner), **ask).iloc[0]
    assert by_tile["null_mean"] > 0.8 and by_patient["null_mean"] == pytest.approx(0.5, abs=0.05)
    assert by_tile["auc"] > by_patient["auc"] + 0.2


def test_a_better_arm_is_told_from_its_base_and_the_base_from_itself_is_not():
    x, labels, _ = cohort(shift=1.5)
    noisy = x.assign(**{"0": 0}).rename(columns=str)
    noisy.iloc[:, 0] = np.random.default_rng(9).normal(size=80)
    table = probing.paired_probe({"with": x, "without": noisy}, "without", labels, partitions(80, 2, 5, 1), draws=99)
    table = table.set_index(["arm", "gene"])
    assert table.loc[("with", "A"), "p"] <= 0.05 and table.loc[("with", "A"), "ci_low"] > 0
    assert (table.loc["without", "difference"] == 0).all()


def test_sites_are_told_only_where_features_know_them():
    x, _, sites = cohort(sites=4)
    tinted = x.assign(tint=sites.map({"S0": 3.0, "S1": 0.0, "S2": -3.0, "S3": 6.0}))
    told, blind = (probing.class_told(f, sites, draws=60) for f in (tinted, x))
    assert told["p"] < 0.05 < blind["p"] and told["named"] > told["chance_high"] > told["chance"]
    few = probing.class_told(x, sites, least=50)
    assert np.isnan(few["p"]) and few["patients_left_out"] == 80


def test_held_out_rows_are_one_per_tile_and_gene_of_known_patients():
    x, labels, _ = cohort()
    tiles = pd.DataFrame({"tile_id": [f"t{i}" for i in range(80)], "slide_id": "s", "patient_id": x.index})
    fold = np.arange(80) % 2
    rows = probing.held_out_rows(x, tiles, labels, fold, ridge_held_out)
    assert rows.groupby("gene").size().to_dict() == {"A": 80, "B": 80, "C": 41}
    joined = rows.merge(labels, on=["patient_id", "gene"]).query("gene == 'A' and fold == 1")
    assert roc_auc_score(joined["status"].astype(int), joined["score"]) > 0.7


def test_a_search_on_noise_pretends_to_gain_and_nesting_does_not():
    x, labels, _ = cohort(60, 0.0, 2)
    random = np.random.default_rng(0)
    settings = [(f"s{i}", random.normal(size=(60, 3)), ridge_held_out) for i in range(30)]
    genes = labels[labels["gene"] != "C"]
    table = probing.optimism_of_search(settings, genes, list(x.index), partitions(60, 2, 20, 1), seed=1)
    assert len(table) == 20 and (table["flat"] >= table["typical"]).all()
    assert table["flat"].mean() > 0.6 and abs(table["nested"].mean() - 0.5) < 0.06
    assert table["optimism"].mean() == pytest.approx((table["flat"] - table["nested"]).mean())


@pytest.mark.parametrize(("sites", "divided"), [(4, ["patients", "sites"]), (2, ["patients"])])
def test_whole_sites_are_held_out_where_they_outnumber_the_folds(sites, divided):
    x, labels, site = cohort(sites=sites)
    table = probing.gain_by_division({"a": x, "b": x}, "a", labels, partitions(80, 2, 3, 1), site, draws=19, seed=1)
    assert list(table["divided"].unique()) == divided and set(table["arm"]) == {"a", "b"}
