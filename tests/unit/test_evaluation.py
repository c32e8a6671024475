"""Splits and ROC statistics against independent oracles."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import CohortError, ParameterError
from deeplrhe_utils.evaluation.auc import compare, resampling, units
from deeplrhe_utils.evaluation.auc import table as roc
from deeplrhe_utils.evaluation.auc.delong import CROSS_FITTED, DELONG, NEWCOMBE, delong, holm, weighted_auc
from deeplrhe_utils.evaluation.precision import power
from deeplrhe_utils.evaluation.splits import folds as splits
from deeplrhe_utils.evaluation.tables import counts as cohort


def _labels(n=60, seed=0, genes=("A", "B", "C"), prevalence=(0.5, 0.2, 0.06)):
    random = np.random.default_rng(seed)
    rows = [
        {"patient_id": f"P{i:03d}", "gene": g, "status": int(random.random() < p)}
        for i in range(n)
        for g, p in zip(genes, prevalence, strict=True)
    ]
    return pd.DataFrame(rows).astype({"status": "Int64"})


@pytest.mark.parametrize("n_folds", [2, 5])
def test_folds_test_everyone_once_and_balance_every_gene(n_folds):
    labels = _labels()
    frame = splits.patient_folds(labels, n_folds, seed=3)
    splits.check_split(frame)
    test = frame[frame["role"] == "test"].set_index("unit_id")["fold"]
    counts = (
        labels[labels["status"] == 1].assign(fold=lambda f: f["patient_id"].map(test)).groupby(["gene", "fold"]).size()
    )
    for gene in ("A", "B", "C"):
        per_fold = counts.get(gene).reindex(range(n_folds), fill_value=0)
        assert per_fold.max() - per_fold.min() <= 2
    assert frame.equals(splits.patient_folds(labels.sample(frac=1, random_state=1), n_folds, seed=3))
    assert not frame.equals(splits.patient_folds(labels, n_folds, seed=4))


def test_overlap_and_gaps_are_caught():
    frame = splits.patient_folds(_labels(10), 2)
    both = pd.concat([frame, frame.iloc[:1].assign(role="train" if frame["role"].iloc[0] == "test" else "test")])
    with pytest.raises(CohortError, match="both sides"):
        splits.check_split(both)
    with pytest.raises(CohortError, match="exactly once"):
        splits.check_split(frame[frame["role"] == "train"])
    with pytest.raises(CohortError, match="at least 2 labelled patients"):
        splits.patient_folds(_labels(1), 2)


def test_delong_variance_reproduces_the_published_interval(shared_data):
    """pROC's published interval for ndka, on the probability scale, from the same structural components."""
    data = pd.read_csv(shared_data / "statistics" / "pROC_aSAH.csv")
    label = (data["outcome"] == "Poor").to_numpy(np.int64)
    score = data["ndka"].to_numpy(float)
    auc, low, high = delong(label, score)
    assert auc == pytest.approx(0.611957994579946, abs=1e-12)
    # undo the logit scale: both ends give back the same standard error, which must be the published one
    published = (0.722670989888189 - 0.501244999271703) / 2
    for end in (low, high):
        shift = abs(np.log(end / (1 - end)) - np.log(auc / (1 - auc)))
        assert shift * auc * (1 - auc) == pytest.approx(published, rel=1e-9)


def test_weighted_auc_equals_scikit_learn_with_ties():
    random = np.random.default_rng(1)
    label = random.integers(0, 2, 80)
    score = np.round(random.random(80), 1)
    weight = random.integers(1, 4, (5, 80)).astype(float)
    expected = [roc_auc_score(label, score, sample_weight=w) for w in weight]
    np.testing.assert_allclose(weighted_auc(label, score, weight), expected, atol=1e-12)


def _predictions(labels, effect=1.0, tiles=4, seed=0):
    random = np.random.default_rng(seed)
    rows = []
    for row in labels.itertuples():
        for t in range(tiles):
            score = 1 / (1 + np.exp(-(effect * float(row.status) + random.normal())))
            names = {"tile_id": f"{row.patient_id}_{t}", "slide_id": f"{row.patient_id}-{t % 2}"}
            rows.append(names | {"patient_id": row.patient_id, "gene": row.gene, "fold": 0, "score": score})
    return pd.DataFrame(rows)


def test_metrics_table_units_refusals_and_holm():
    labels = _labels(prevalence=(0.5, 0.3, 0.02))
    table = roc.gene_metrics(_predictions(labels, 1.5), labels, min_positives=5, resamples=300)
    patient = roc.headline_rows(table).set_index("gene")
    assert patient["ci_method"].to_dict() == {"A": DELONG, "B": NEWCOMBE, "C": "none"}  # B has fewer than 20 positives
    assert patient.loc["C", "status"] == "not estimable" and "at least 5" in patient.loc["C", "reason"]
    assert pd.isna(patient.loc["C", "auc"])
    scores = units.with_labels(units.align_folds(units.aggregate(_predictions(labels, 1.5))), labels)
    one = scores[scores["gene"] == "A"]
    assert patient.loc["A", "auc"] == pytest.approx(roc_auc_score(one["label"].astype(int), one["score"]))
    assert patient.loc["A", "n_pos"] + patient.loc["A", "n_neg"] == 60
    p = patient.loc[["A", "B"], "p"].to_numpy()
    np.testing.assert_allclose(
        patient.loc[["A", "B"], "p_holm"],
        np.minimum(1, np.maximum.accumulate(np.sort(p) * [2, 1]))[p.argsort().argsort()],
    )
    widths = (
        table[table["ci_method"] == resampling.PERCENTILE]
        .assign(w=lambda f: f["ci_high"] - f["ci_low"])
        .set_index(["gene", "unit"])["w"]
    )
    assert widths["A", "tile"] > 0.05, "tile intervals must resample patients, not tiles"


def test_the_headline_of_several_folds_allows_for_them_and_the_usual_interval_stays_beside_it():
    labels = _labels(genes=("A", "B"), prevalence=(0.5, 0.2))
    found = _predictions(labels, 1.5)
    found["fold"] = found["patient_id"].str[-1].astype(int) % 2
    asked = {"units": ("patient",), "resamples": 100}
    table = roc.gene_metrics(found, labels, **asked)
    first = roc.headline_rows(table).set_index("gene")
    assert set(first["ci_method"]) == {CROSS_FITTED} and list(table.drop_duplicates("gene").index) == list(
        table.index[table["p"].notna()]
    )
    usual = table[table["ci_method"] == DELONG].set_index("gene")
    assert (first["auc"] == usual["auc"]).all()
    assert (first["ci_high"] - first["ci_low"] > 1.2 * (usual["ci_high"] - usual["ci_low"])).all()
    assert ((first["p"] <= 0.05) == ((first["ci_low"] > 0.5) | (first["ci_high"] < 0.5))).all()
    told = roc.gene_metrics(found, labels, cross_fitted=False, **asked)
    assert set(roc.headline_rows(told)["ci_method"]) <= {DELONG, NEWCOMBE}
    joined = pd.concat([table.assign(arm="x"), told.assign(arm="y")])
    assert roc.headline_rows(joined).groupby(["arm", "gene"]).size().eq(1).all()


def test_null_labels_and_null_scores_are_left_out_not_turned_to_zero():
    labels = _labels(30)
    labels.loc[labels["patient_id"] == "P000", "status"] = pd.NA
    predictions = _predictions(labels.dropna())
    predictions.loc[predictions["patient_id"] == "P001", "score"] = np.nan
    joined = units.with_labels(units.aggregate(predictions), labels)
    assert not joined["patient_id"].isin(["P000", "P001"]).any()


def test_bootstrap_covers_is_seeded_and_its_band_contains_the_curve():
    labels = _labels(40, genes=("A",), prevalence=(0.5,))
    frame = units.with_labels(units.aggregate(_predictions(labels)), labels)
    first = resampling.bootstrap(frame, resamples=500, seed=1)
    assert first == resampling.bootstrap(frame.sample(frac=1, random_state=0), resamples=500, seed=1)
    for low, high in first.values():
        assert low < roc_auc_score(frame["label"].astype(int), frame["score"]) < high
    line = roc.curve(frame, resamples=100)
    assert line.tpr[0] == 0 and line.tpr[-1] == 1
    assert ((line.low <= line.tpr + 1e-9) & (line.tpr <= line.high + 1e-9)).mean() > 0.9


def test_holm_and_chance_against_known_values():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    assert holm(np.array([])).size == 0
    auc, low, high = delong(np.array([0, 1] * 10), np.zeros(20))
    assert auc == 0.5 and low == high == pytest.approx(0.5)


def test_ledger_counts_in_equal_counts_out_and_confusion_counts_patients_once():
    frame = pd.DataFrame({"kept": [True, False, False], "reason": [None, "noise", None]})
    table = cohort.drop_ledger(frame, frame["kept"])
    assert table["count"].iloc[:-1].sum() == table["count"].iloc[-1] == 3
    assert set(table["outcome"]) == {"kept", "noise", "unstated", "total"}
    labels = pd.DataFrame({"patient_id": ["a", "a", "b", "b"], "gene": ["n", "t"] * 2, "status": [1, 0, 0, 1]})
    scores = pd.DataFrame({"patient_id": ["a", "a", "b", "b"], "gene": ["n", "t"] * 2, "score": [0.9, 0.1, 0.6, 0.4]})
    table = cohort.confusion(scores, labels)
    assert table.loc["n", "n"] == 1 and table.loc["t", "n"] == 1 and table.to_numpy().sum() == 2


def test_an_offset_between_the_folds_networks_does_not_move_the_auc():
    labels = _labels(60, genes=("A",), prevalence=(0.5,))
    plain = _predictions(labels, 1.0)
    plain["fold"] = plain["patient_id"].str[1:].astype(int) % 2
    shifted = plain.assign(score=plain["score"] * 0.5 + 0.5 * plain["fold"])
    first, second = (
        roc.gene_metrics(p, labels, units=("patient",), resamples=50)["auc"].iloc[0] for p in (plain, shifted)
    )
    assert first == second
    joined = units.with_labels(units.aggregate(shifted), labels)
    assert roc_auc_score(joined["label"].astype(int), joined["score"]) < first - 0.05


def test_impossible_requests_are_named_and_a_cohort_without_any_estimable_gene_gets_its_table():
    labels = _labels(10)
    with pytest.raises(ParameterError, match="min_positives"):
        roc.gene_metrics(_predictions(labels), labels, min_positives=0)
    with pytest.raises(ParameterError, match="at least two folds"):
        splits.patient_folds(labels, 1)
    with pytest.raises(CohortError, match="two units of each class"):
        delong(np.array([1, 0, 0]), np.array([0.1, 0.2, 0.3]))
    labels = _labels(6)
    table = roc.gene_metrics(_predictions(labels), labels, units=("patient",), min_positives=50)
    assert (table["status"] == "not estimable").all() and table["auc"].isna().all() and table["p_holm"].isna().all()


def test_two_classes_that_exclude_each_other_are_one_test():
    labels = _labels()
    one = labels[labels["gene"] == labels["gene"].iloc[0]]
    other = one.assign(gene="B", status=1 - one["status"])
    both, scores = pd.concat([one.assign(gene="A"), other]), _predictions(one.assign(gene="A"), 0.5)
    scores = pd.concat([scores, scores.assign(gene="B", score=1 - scores["score"])])
    unlike = pd.concat([one.assign(gene=gene) for gene in "AB"])
    for labelled, tests in ((both, 1), (unlike, 2)):
        found = roc.gene_metrics(scores, labelled, units=("patient",), min_positives=2, resamples=50).dropna(subset="p")
        p, adjusted = found["p"].astype(float), found["p_holm"].astype(float)
        assert len(p) == 2 and np.allclose(adjusted, np.minimum(1, tests * p))


def test_paired_differences_are_those_of_the_same_patients():
    random = np.random.default_rng(0)
    names = [f"P{i:02d}" for i in range(60)]
    status = random.integers(0, 2, 60)
    labels = pd.DataFrame({"patient_id": names, "gene": "X", "status": pd.array(status, dtype="Int64")})
    rare = pd.DataFrame({"patient_id": names, "gene": "R", "status": pd.array([1] * 2 + [0] * 58, dtype="Int64")})

    def arm(noise):
        score = status + random.normal(0, noise, 60)
        rows = {"patient_id": names * 2, "gene": ["X"] * 60 + ["R"] * 60, "fold": 0, "score": np.tile(score, 2)}
        return pd.DataFrame({"tile_id": [f"t{i}" for i in range(120)], **rows})

    arms = {"noise": arm(50.0), "good": arm(0.5)}
    known = pd.concat([labels, rare, labels.assign(gene="nobody scored it")])
    found = compare.paired_differences(arms, known, "noise", min_positives=5, resamples=500, seed=1)
    assert list(found["gene"].unique()) == ["X"], "a gene with too few patients has no difference"
    by = found.set_index("arm")
    for name, frame in arms.items():
        own = frame[frame["gene"] == "X"]
        assert by.loc[name, "auc"] == pytest.approx(roc_auc_score(status, own["score"]))
    assert by.loc["good", "difference"] == pytest.approx(by.loc["good", "auc"] - by.loc["noise", "auc"])
    assert 0 < by.loc["good", "ci_low"] < by.loc["good", "difference"] < by.loc["good", "ci_high"]
    assert (by.loc["noise", ["difference", "ci_low", "ci_high"]] == 0).all()
    alike = compare.paired_differences({"a": arms["good"], "b": arms["good"]}, labels, "a", resamples=50)
    assert (alike[["difference", "ci_low", "ci_high"]] == 0).all(axis=None)


def test_validation_patients_come_from_training_and_share_the_positives():
    names = [f"P{i:03d}" for i in range(80)]
    random = np.random.default_rng(0)
    rows = [
        {"patient_id": n, "gene": g, "status": int(random.random() < p)}
        for n in names
        for g, p in (("A", 0.4), ("B", 0.1))
    ]
    labels = pd.DataFrame(rows).astype({"status": "Int64"})
    folds = splits.patient_folds(labels, 2, seed=3)
    three = splits.with_validation(folds, labels, 0.2, seed=3)
    splits.check_split(three)
    before, after = folds.set_index(["fold", "unit_id"])["role"], three.set_index(["fold", "unit_id"])["role"]
    changed = before[before != after[before.index]]
    assert set(changed) == {"train"} and after[changed.index].eq("valid").all()
    assert after.groupby(["fold", after]).size()[:, "valid"].tolist() == [8, 8]
    wide = labels.pivot(index="patient_id", columns="gene", values="status")
    for fold in (0, 1):
        valid = after[fold][after[fold] == "valid"].index
        assert wide.loc[valid, "A"].sum() >= 2 and len(set(three.loc[three["fold"] == fold, "hash"])) == 1
    assert three.equals(splits.with_validation(folds, labels, 0.2, seed=3))
    with pytest.raises(ParameterError):
        splits.with_validation(folds, labels, 0.9)


@pytest.mark.parametrize(("auc", "estimated", "said"), [
    ((0.9, 0.52, 0.05), 3, "A 0.90 [0.10, 0.95] above what chance reaches; C 0.05 [0.10, 0.95] below what chance"),
    ((0.55, 0.52, None), 2, "A 0.55 [0.10, 0.95] and B 0.52 [0.10, 0.95] inside what chance reaches; C not estimable."),
    ((None,) * 3, 0, "A, B and C have too few labelled patients."),
])  # fmt: skip
def test_the_headline_is_told_hits_and_misses_alike(auc, estimated, said):
    status = ["estimated"] * estimated + ["not estimable"] * (3 - estimated)
    rows = pd.DataFrame({"gene": list("ABC"), "auc": pd.array(auc, "Float64"), "status": status, "n_pos": 20})
    rows = rows.assign(ci_low=0.1, ci_high=0.95, n_neg=40)
    banded = power.with_null_bands(rows, cross_fitted=True)
    assert list(banded["null_low"].isna()) == [value is None for value in auc]
    assert said in roc.headline_sentence(banded)
