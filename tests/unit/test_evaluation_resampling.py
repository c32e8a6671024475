"""AUC intervals against independent oracles: scikit-learn, SciPy's bootstrap, a second DeLong, brute force."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import CohortError, ParameterError
from deeplrhe_utils.evaluation.auc import delong, resampling, units


def _frame(patients=30, tiles=5, effect=0.8, seed=0, step=0.25):
    """Tiles of patients whose scores are correlated within the patient and full of ties."""
    random = np.random.default_rng(seed)
    label = (np.arange(patients) % 3 == 0).astype(int)
    base = effect * label + random.normal(size=patients)
    rows = random.integers(1, 2 * tiles, patients)
    code = np.repeat(np.arange(patients), rows)
    score = np.round((base[code] + random.normal(size=len(code))) / step) * step
    return pd.DataFrame({"patient_id": [f"P{i:03d}" for i in code], "label": label[code], "score": score})


def test_many_data_sets_at_once_equal_one_by_one():
    random = np.random.default_rng(3)
    positive, negative = np.round(random.normal(0.7, 1, (20, 9)), 1), np.round(random.normal(0, 1, (20, 14)), 1)
    positive[0], negative[0] = 5, 0
    many = np.array(delong.delong_many(positive, negative))
    label = np.r_[np.ones(9, np.int64), np.zeros(14, np.int64)]
    one = [delong.delong(label, np.r_[p, n]) for p, n in zip(positive, negative, strict=True)]
    np.testing.assert_allclose(many.T, one, atol=1e-12)


def test_hanley_and_mcneil_is_the_spread_of_exponential_scores():
    random = np.random.default_rng(1)
    positive, negative = random.exponential(3, (20_000, 12)), random.exponential(1, (20_000, 25))
    found = delong.delong_components(positive, negative)[0].mean(-1)  # AUC 3 / (3 + 1)
    assert found.mean() == pytest.approx(0.75, abs=0.002)
    assert delong.hanley_mcneil(0.75, 12, 25) == pytest.approx(found.std(), rel=0.02)


def test_pair_counts_equal_every_comparison_whatever_the_size_of_the_pieces(monkeypatch):
    frame = _frame(12, 4, seed=0)
    code, _ = frame["patient_id"].factorize(sort=True)
    score = frame["score"].to_numpy()
    wins = resampling.count_pairs(score, code, code, (12, 12))
    brute = np.zeros((12, 12))
    for i, j in itertools.product(range(len(score)), repeat=2):
        brute[code[i], code[j]] += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
    np.testing.assert_array_equal(wins, brute)
    frame = _frame(20, 6)
    code, _ = frame["patient_id"].factorize(sort=True)
    whole = resampling.count_pairs(frame["score"].to_numpy(), code, code, (20, 20))
    monkeypatch.setattr(resampling, "_CELLS", 40)
    np.testing.assert_array_equal(resampling.count_pairs(frame["score"].to_numpy(), code, code, (20, 20)), whole)


def test_every_resample_is_the_auc_of_the_redrawn_table():
    """The draws, written out as a table with repeated rows, and given to scikit-learn."""
    frame = _frame()
    fast = resampling.bootstrap_aucs(frame, resamples=25, seed=4)
    weight = resampling.row_weights(frame, 25, 4)
    slow = [roc_auc_score(frame["label"], frame["score"], sample_weight=w) for w in weight]
    np.testing.assert_allclose(fast, slow, atol=1e-12)
    patients = frame.assign(w=weight[0]).drop_duplicates("patient_id")
    assert (patients.groupby("label")["w"].sum() == patients.groupby("label").size()).all(), "strata keep their size"
    assert frame.assign(w=weight[0]).groupby("patient_id")["w"].nunique().eq(1).all(), "a patient comes as a whole"


def test_sorting_and_pairs_give_the_same_intervals(monkeypatch):
    frame = _frame(24, 1)
    by_pairs = resampling.bootstrap(frame, resamples=200, seed=1)
    monkeypatch.setattr(resampling._Patients, "few", property(lambda self: False))
    by_sorting = resampling.bootstrap(frame, resamples=200, seed=1)
    for name, ends in by_pairs.items():
        np.testing.assert_allclose(by_sorting[name], ends, atol=1e-12)


def test_intervals_agree_with_scipys_bootstrap():
    """Two independent samples, BCa and percentile; both sides with Monte Carlo error."""
    random = np.random.default_rng(5)
    positive, negative = random.normal(1.2, 1, 30), random.normal(0, 1, 45)
    names = [f"P{i}" for i in range(75)]
    frame = pd.DataFrame({"patient_id": names, "label": [1] * 30 + [0] * 45, "score": np.r_[positive, negative]})
    ours = resampling.bootstrap(frame, resamples=20_000, seed=2)

    def statistic(a, b, axis):
        return (a[..., :, None] > b[..., None, :]).mean((-1, -2))

    for name, method in ((resampling.PERCENTILE, "percentile"), (resampling.BCA, "BCa")):
        theirs = stats.bootstrap((positive, negative), statistic, n_resamples=20_000, method=method, batch=500,
                                 rng=np.random.default_rng(9)).confidence_interval  # fmt: skip
        np.testing.assert_allclose(ours[name], theirs, atol=0.004)
    assert abs(ours[resampling.BCA][0] - ours[resampling.PERCENTILE][0]) > 0.004, "BCa must correct something here"


def test_at_a_perfect_auc_the_bootstrap_says_what_it_can():
    frame = pd.DataFrame({"patient_id": list("abcd"), "label": [0, 0, 1, 1], "score": [0.1, 0.2, 0.8, 0.9]})
    label, score = frame["label"].to_numpy(np.int64), frame["score"].to_numpy(float)
    assert delong.delong(label, score)[1:] == delong.bound(1.0, 2) == (pytest.approx(0.025**0.5), 1.0)
    assert set(resampling.bootstrap(frame, resamples=100).values()) == {delong.bound(1.0, 2)}
    mirrored = resampling.bootstrap(frame.assign(label=1 - frame["label"]), resamples=100)
    assert set(mirrored.values()) == {delong.bound(0.0, 2)}


def test_many_patients_are_drawn_in_blocks_of_bounded_memory(monkeypatch):
    """Blocks do not change what a draw is."""
    frame = _frame(40, 1)
    monkeypatch.setattr(resampling, "_CELLS", 200)
    weight = resampling.row_weights(frame, 23, 1)
    assert weight.shape == (23, len(frame)) and len(np.unique(weight, axis=0)) == 23
    fast = resampling.bootstrap_aucs(frame, resamples=23, seed=1)
    slow = [roc_auc_score(frame["label"], frame["score"], sample_weight=w) for w in weight]
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_what_cannot_be_resampled_is_named():
    frame = pd.DataFrame({"patient_id": ["a", "a", "b"], "label": [0, 1, 1], "score": [0.1, 0.2, 0.3]})
    with pytest.raises(CohortError, match=r"both labels.*Got: a"):
        resampling.bootstrap_aucs(frame)
    with pytest.raises(CohortError, match=r"both classes.*2 positive, 0 negative"):
        resampling.bootstrap_aucs(frame[frame["label"] == 1])


def _tiles():
    return pd.DataFrame(
        {"tile_id": ["t1", "t2", "t3", "t4", "t5"], "slide_id": ["s1", "s1", "s2", "s2", "s3"],
         "patient_id": [*"aaaab"], "gene": "G", "fold": 0, "score": [0.2, 0.9, 0.6, 0.3, 0.4]}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "expected"), [("mean", [2.0 / 4, 0.4]), ("positive share", [2 / 4, 0.0]), ("top", [1.8 / 3, 0.4])]
)
def test_rules_by_hand(rule, expected):
    found = units.aggregate(_tiles(), "patient", rule)
    np.testing.assert_allclose(found.sort_values("patient_id")["score"], expected)


def test_places_among_wild_types_do_not_depend_on_the_class_mix():
    """Two folds of one model, 10 and 60 % positive: ranks lose AUC, places do not."""
    random, ranked, placed, raw = np.random.default_rng(0), [], [], []
    for _ in range(60):
        fold = np.repeat([0, 1], 90)
        label = (random.random(180) < np.where(fold == 0, 0.1, 0.6)).astype(int)
        names = [f"P{i:03d}" for i in range(180)]
        scores = pd.DataFrame({"patient_id": names, "gene": "G", "fold": fold, "score": random.normal(1.19 * label)})
        labels = pd.DataFrame({"patient_id": names, "gene": "G", "status": label})
        raw.append(roc_auc_score(label, scores["score"]))
        ranked.append(roc_auc_score(label, units.align_folds(scores)["score"]))
        table = units.place_among_negatives(scores.assign(score=scores["score"] + 5 * fold), labels)
        placed.append(roc_auc_score(table["label"].astype(int), table["score"]))
    assert np.mean(raw) == pytest.approx(0.8, abs=0.015) and np.mean(placed) == pytest.approx(np.mean(raw), abs=0.012)
    assert np.mean(ranked) < np.mean(raw) - 0.05
    alone = units.place_among_negatives(scores[:1].assign(fold=9), labels.assign(status=1))
    assert alone["score"].isna().all()


def test_rules_refuse_what_they_cannot_do_and_false_discovery_rates_are_the_known_ones():
    with pytest.raises(ParameterError, match="Unknown rule"):
        units.aggregate(_tiles(), rule="median")
    np.testing.assert_allclose(delong.false_discovery(np.array([0.01, 0.02, 0.03, 0.5])), [0.04, 0.04, 0.04, 0.5])
    assert delong.false_discovery(np.array([])).size == 0
