"""Negative controls: models that know one thing find that thing and nothing else."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.acquisition.labels.mutation_files import by_gene_calls, read_deeppath_labels
from deeplrhe_utils.core.errors import InputError, LabelError
from deeplrhe_utils.evaluation.audits import controls, covariates
from deeplrhe_utils.evaluation.splits.folds import patient_folds
from deeplrhe_utils.learning.tiles.store import ShuffledStore, TileStore, write_tiles
from deeplrhe_utils.reporting.audit_figures import audits as audit_figures


@pytest.fixture(scope="module")
def cohort():
    """120 patients of six sites; gene A follows the site, B is independent of everything, C goes with B."""
    random = np.random.default_rng(0)
    site = np.array([f"S{i % 6}" for i in range(120)])
    patients = [f"P{i:03d}" for i in range(120)]
    a = random.random(120) < np.where(site < "S3", 0.8, 0.15)
    b = random.random(120) < 0.4
    c = b ^ (random.random(120) < 0.1)
    rows = [{"patient_id": p, "gene": g, "status": int(v[i])} for i, p in enumerate(patients)
            for g, v in (("A", a), ("B", b), ("C", c))]  # fmt: skip
    labels = pd.DataFrame(rows).astype({"status": "Int64"})
    return labels, pd.Series(site, patients), patient_folds(labels, 2, seed=1)


def _auc(scores, labels, gene):
    joined = scores.merge(labels.dropna(), on=["patient_id", "gene"]).query("gene == @gene")
    return roc_auc_score(joined["status"].astype(int), joined["score"])


def test_uneven_sites_are_found_and_the_p_is_that_of_a_permutation(cohort):
    labels, sites, _ = cohort
    table = controls.mutation_by_site(labels, sites, draws=999).set_index("gene")
    assert table.loc["A", "p_holm"] < 0.01 and table.loc["B", "p"] > 0.05
    own = labels[labels["gene"] == "B"]
    counts = pd.crosstab(own["status"].astype(int), own["patient_id"].map(sites).to_numpy())
    chi2 = stats.chi2_contingency(counts, correction=False)
    assert table.loc["B", "cramers_v"] == pytest.approx(np.sqrt(chi2.statistic / 120))
    assert table.loc["B", "p"] == pytest.approx(chi2.pvalue, abs=0.06)
    lost = controls.mutation_by_site(labels, sites.drop("P000"), draws=99).set_index("gene")
    assert (lost["left_out"] == 1).all()


def test_inside_a_site_the_site_tells_nothing(cohort):
    labels, sites, _ = cohort
    frame = labels[labels["gene"] == "A"].iloc[:60].rename(columns={"status": "label"})
    frame = frame.assign(site=frame["patient_id"].map(sites), label=frame["label"].astype(int))
    frame["score"] = frame.groupby("site")["label"].transform("mean")
    found = controls.within_auc(frame, "site", resamples=200)
    assert found["auc"] == 0.5 and 0 < found["share"] < 1
    brute, pairs = 0.0, 0
    random = np.random.default_rng(0)
    frame["score"] = np.round(random.random(len(frame)), 1)
    for _, part in frame.groupby("site"):
        for p in part.loc[part["label"] == 1, "score"]:
            for n in part.loc[part["label"] == 0, "score"]:
                brute, pairs = brute + (1.0 if p > n else 0.5 if p == n else 0.0), pairs + 1
    found = controls.within_auc(frame, "site", resamples=200)
    assert found["auc"] == pytest.approx(brute / pairs) and found["pairs"] == pairs
    alone = frame.assign(site=frame["patient_id"])
    assert np.isnan(controls.within_auc(alone, "site", resamples=50)["auc"])


def test_a_companion_that_explains_everything_is_exposed(cohort):
    labels, _, _ = cohort
    random = np.random.default_rng(4)
    b = labels[labels["gene"] == "B"].set_index("patient_id")["status"].astype(int)
    score = b + random.normal(size=len(b))  # the score reads B alone
    rows = labels.rename(columns={"status": "label"}).assign(score=labels["patient_id"].map(score), fold=0)
    rows["label"] = rows["label"].astype(int)
    assert _auc(rows.drop(columns="label"), labels, "C") > 0.65, "C looks predictable"
    found = controls.stratified_by_gene(rows, labels, least=3).set_index(["gene", "given", "given_status"])
    for status in (0, 1):
        row = found.loc[("C", "B", status)]
        assert row["ci_low"] < 0.5 < row["ci_high"]
    kept = found.loc[("B", "A", 0)]
    assert kept["ci_low"] > 0.5, "B itself survives"


def test_co_mutation_finds_what_goes_together(cohort):
    labels, _, _ = cohort
    table = controls.co_mutation(labels).set_index(["first", "second"])
    assert table.loc[("B", "C"), "p_holm"] < 1e-6 and table.loc[("A", "B"), "p_holm"] > 0.05
    assert table[["both", "first_only", "second_only", "neither"]].sum(axis=1).eq(120).all()
    alone = controls.co_mutation(labels[labels["gene"] == "A"])
    assert alone.empty and list(alone) == list(controls.CO_MUTATION_COLUMNS)


def test_call_tables_that_are_none_are_named(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_text("TCGA-05-4244-0\tTP53\rnonsense\r")
    with pytest.raises(LabelError, match="line 2"):
        read_deeppath_labels(bad)
    bad.write_text("STUDY_ID\tSAMPLE_ID\tTP53\nx\tcase 7\tWT\n")
    with pytest.raises(LabelError, match="no TCGA barcode"):
        by_gene_calls(bad)
    with pytest.raises(LabelError, match=r"lacks columns.*EGFR"):
        by_gene_calls(bad, ["EGFR"])


def test_covariates_that_explain_a_score_are_exposed(tmp_path):
    random = np.random.default_rng(0)
    purity = random.random(200)
    label = (random.random(200) < purity).astype(int)
    names = [f"P{i:03d}" for i in range(200)]
    scored = pd.DataFrame({"patient_id": names, "gene": "A", "label": label, "score": purity})
    file = tmp_path / "covariates.csv"
    pd.DataFrame({"patient_id": names[:190], "purity": purity[:190]}).to_csv(file, index=False)
    row = covariates.covariate_table(scored, covariates.read_covariates(file), resamples=200).iloc[0]
    assert row["patients"] == 190 and row["missing"] == 10
    assert row["auc_of_covariate"] == row["auc_all"] and row["correlation"] == pytest.approx(1)
    assert row["auc_within_thirds"] < row["auc_all"] - 0.1
    assert covariates.covariate_table(scored, None).empty
    file.write_text("patient_id,purity\na,0.5\na,0.6\n")
    with pytest.raises(InputError, match="repeats the patient a"):
        covariates.read_covariates(file)
    file.write_text("patient_id,purity\na,high\n")
    with pytest.raises(InputError, match=r"line 2, column purity.*Got: high"):
        covariates.read_covariates(file)


def test_shuffled_pixels_keep_colours_and_nothing_else(tmp_path):
    random = np.random.default_rng(0)
    tiles = random.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    tiles[:, :4] //= 4
    write_tiles(tmp_path, "s", tiles)
    store = TileStore(tmp_path, pd.DataFrame({"slide_id": "s", "tile_id": list("abc")}))
    mixed = ShuffledStore(store, seed=1)
    assert len(mixed) == 3 and mixed.side_px == 8 and mixed.fingerprint() != store.fingerprint()
    both = mixed.read([2, 0]), mixed.read([0, 1, 2])
    np.testing.assert_array_equal(both[0], both[1][[2, 0]])
    assert (np.sort(both[1].reshape(3, -1), 1) == np.sort(tiles.reshape(3, -1), 1)).all()
    top, bottom = (both[1][:, rows].mean() for rows in (slice(0, 4), slice(4, 8)))
    assert abs(top - bottom) < 25 < abs(tiles[:, :4].mean() - tiles[:, 4:].mean())
    np.testing.assert_array_equal(ShuffledStore(store, seed=1).read([1]), mixed.read([1]))
    assert (ShuffledStore(store, seed=2).read([1]) != mixed.read([1])).any()


def test_figures_show_every_arm_and_survive_nothing():
    rows = [{"arm": a, "gene": g, "auc": x, "ci_low": 0.4, "ci_high": 0.8, "n_pos": 4, "n_neg": 6}
            for g in ("A", "B") for a, x in (("ours", 0.7), ("tissue", 0.6), ("glass", np.nan))]  # fmt: skip
    figure = audit_figures.arms(pd.DataFrame(rows), ["ours", "tissue", "glass"])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["ours", "tissue", "glass"]
    assert "not estimable" in [t.get_text() for t in figure.axes[0].texts]
    empty = pd.DataFrame(rows).assign(auc=np.nan)
    assert "No gene" in audit_figures.arms(empty, ["ours"]).texts[0].get_text()


@pytest.mark.parametrize(("passed", "p", "said"), [
    (True, 0.001, "that cannot see it, glass only finds A 0.70"), (True, 0.3, "none finds anything; silent: "),
    (False, 0.3, "finds nothing in whole tissue"),
])  # fmt: skip
def test_what_blind_arms_find_is_told_and_alarms(passed, p, said):
    rows = [{"arm": arm, "gene": g, "auc": 0.7, "ci_low": 0.6, "ci_high": 0.8, "n_pos": 4, "n_neg": 6, "p": q}
            for arm, q in (("tissue", 0.002), ("glass only", p), ("stain alone", 0.4)) for g in "AB"]  # fmt: skip
    table = pd.DataFrame(rows)
    assert said in controls.blind_sentence(table, passed)
    quiet = table.assign(auc=table["auc"] - 0.1 * (table["arm"] == "stain alone"))
    for given, alarm in ((quiet, p < 0.05), (table, True)):  # stain alone that reads as well as tissue is an alarm, too
        assert controls.blind_alarm(given, {"glass only": p}, passed)[0] is (alarm if passed else None)
