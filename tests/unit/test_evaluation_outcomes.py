"""Scores of values and of survival: what they say is what a count by hand says, and their intervals are of patients."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import r2_score

from deeplrhe_utils.core.errors import InputError, LabelError
from deeplrhe_utils.evaluation.auc.delong import INFLATION, bound
from deeplrhe_utils.evaluation.auc.resampling import BCA, PERCENTILE, bootstrap_statistic
from deeplrhe_utils.evaluation.referee.outcomes import (
    CONCORDANCE,
    DOUBLED,
    EXPLAINED,
    SPEARMAN,
    SQUARED,
    outcome_metrics,
)
from deeplrhe_utils.evaluation.referee.weighted import (
    weighted_auc_until,
    weighted_concordance,
    weighted_correlation,
    weighted_r2,
)
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs.score import ScoreOptions, score


def survivors(n=60, seed=0, ties=True, effect=0.7):
    draw = np.random.default_rng(seed)
    risk = draw.normal(size=n)
    end, limit = draw.exponential(10 * np.exp(-effect * risk)), draw.exponential(15, n)
    time, event = np.minimum(end, limit), end <= limit
    return (np.ceil(time), event, risk.round(1)) if ties else (time, event, risk)


def counted_concordance(time, event, score):
    won = pairs = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[j] > time[i] or (time[j] == time[i] and not event[j])):
                pairs += 1
                won += 1 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0
    return won / pairs


def counted_auc(time, event, score, until):
    def uncensored(at):
        product = 1.0
        for t in sorted(set(time[~event])):
            if t <= at:
                left, ended = ((time == t) & ~event).sum(), ((time == t) & event).sum()
                product *= 1 - left / ((time >= t).sum() - ended)
        return product

    won = pairs = 0.0
    for i in np.flatnonzero(event & (time <= until)):
        for j in np.flatnonzero(time > until):
            weight = 1 / uncensored(time[i])
            pairs += weight
            won += weight * (1 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0)
    return won / pairs


def test_a_hand_counted_example():
    time, event = np.array([1.0, 2, 2, 3, 4]), np.array([True, True, False, False, True])
    score, once = np.array([5.0, 2, 2, 3, 1]), np.ones((1, 5))
    # pairs: 1 before four others (4 won); 2 before the one censored at 2 (tie), the one at 3 (lost), the one at 4 (won)
    assert weighted_concordance(time, event, score, once)[0] == pytest.approx(5.5 / 7, abs=1e-15)
    # until 2: cases 1 and 2; censored at 2 leaves 1 - 1/3 of them; 5 beats 3 and 1 once; 2 loses to 3, beats 1, × 3/2
    assert weighted_auc_until(time, event, score, once, 2.0)[0] == pytest.approx((2 + 1.5) / (2 + 3), abs=1e-15)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [True, False])
def test_survival_is_as_counted_pair_by_pair_and_a_weight_is_a_copy(seed, ties):
    time, event, risk = survivors(seed=seed, ties=ties)
    weight = np.random.default_rng(seed).multinomial(len(time), np.full(len(time), 1 / len(time)), 3).astype(float)
    weight = np.vstack([np.ones(len(time)), weight])
    at = np.quantile(time[event], 0.5)
    found = weighted_concordance(time, event, risk, weight), weighted_auc_until(time, event, risk, weight, at)
    for k, row in enumerate(weight):
        copies = np.repeat(np.arange(len(time)), row.astype(int))
        own = time[copies], event[copies], risk[copies]
        assert found[0][k] == pytest.approx(counted_concordance(*own), abs=1e-12)
        assert found[1][k] == pytest.approx(counted_auc(*own, at), abs=1e-12)


def test_survival_is_as_lifelines_and_scikit_survival_have_it():
    lifelines = pytest.importorskip("lifelines.utils", reason="lifelines is not in the lock: it holds pandas below 3")
    sksurv = pytest.importorskip("sksurv.metrics", reason="scikit-survival is not in the lock")
    for seed in range(5):
        time, event, risk = survivors(200, seed, ties=seed % 2 == 0)
        once, at = np.ones((1, 200)), np.quantile(time[event], [0.25, 0.5, 0.75])
        c = weighted_concordance(time, event, risk, once)[0]
        both = np.array(list(zip(event, time, strict=True)), dtype=[("event", bool), ("time", float)])
        assert c == pytest.approx(lifelines.concordance_index(time, -risk, event), abs=1e-9)
        assert c == pytest.approx(sksurv.concordance_index_censored(event, time, risk)[0], abs=1e-9)
        ours = [weighted_auc_until(time, event, risk, once, t)[0] for t in at]
        assert ours == pytest.approx(sksurv.cumulative_dynamic_auc(both, both, risk, at)[0], abs=1e-9)


def test_correlation_and_explained_share_are_scipys_and_scikit_learns_and_a_weight_is_a_copy():
    draw = np.random.default_rng(0)
    value = draw.normal(size=50).round(1)
    score = (value / 2 + draw.normal(size=50)).round(1)
    weight = draw.multinomial(50, np.full(50, 1 / 50), 4).astype(float)
    for k, row in enumerate(weight):
        copies = np.repeat(np.arange(50), row.astype(int))
        x, y = value[copies], score[copies]
        assert weighted_correlation(value, score, weight, ranks=True)[k] == pytest.approx(stats.spearmanr(x, y)[0])
        assert weighted_correlation(value, score, weight)[k] == pytest.approx(stats.pearsonr(x, y)[0])
        assert weighted_r2(value, score, weight)[k] == pytest.approx(r2_score(x, y))


def test_intervals_are_scipys_up_to_the_draws():
    draw = np.random.default_rng(3)
    value, score = draw.exponential(size=(2, 80))
    score = score + value
    found = bootstrap_statistic(lambda w: weighted_correlation(value, score, w), 80, resamples=8000)[1]
    for method, name in ((BCA, "BCa"), (PERCENTILE, "percentile")):
        known = stats.bootstrap((value, score), lambda x, y: stats.pearsonr(x, y)[0], paired=True, vectorized=False,
                                n_resamples=4000, method=name, rng=np.random.default_rng(0))  # fmt: skip
        assert found[method] == pytest.approx(tuple(known.confidence_interval), abs=0.02)


def frame(n=60, seed=0, **changes):
    time, event, risk = survivors(n, seed)
    table = {"patient_id": [f"P{i:03d}" for i in range(n)], "gene": "OS", "time": time, "event": event, "score": risk,
             "ranked": risk, "fold": 0}  # fmt: skip
    return pd.DataFrame(table | changes)


def test_of_cross_fitted_scores_the_first_interval_has_twice_the_variance():
    plain, wide = (outcome_metrics(frame(), resamples=200, cross_fitted=flag) for flag in (False, True))
    assert plain["ci_method"].tolist()[:2] == [BCA, PERCENTILE] and wide["ci_method"].tolist()[:2] == [DOUBLED, BCA]
    logit = [np.log(p / (1 - p)) for p in (*wide.iloc[0][["estimate", "ci_high"]], wide.iloc[1]["ci_high"])]
    assert logit[1] - logit[0] == pytest.approx(INFLATION * (logit[2] - logit[0]))
    assert wide.iloc[1].equals(plain.iloc[0])


@pytest.mark.parametrize(("changes", "times", "says"), [
    ({"event": False}, (), ["0 of 60 patients had the event; at least 5"]),
    ({"score": 1.0}, (), ["every patient has the same score"] * 4),
    ({}, (0.5, 999), ["", "0 patients had the event by then and 60", r"and 0 lasted longer; at least 5 of each"]),
])  # fmt: skip
def test_what_is_not_estimable_says_why(changes, times, says):
    found = outcome_metrics(frame(**changes), times=times, resamples=100).drop_duplicates(["metric", "time"])
    assert len(found) == len(says)
    for said, row in zip(says, found.to_dict("records"), strict=True):
        assert (row["status"] == "estimated") == (said == "")
        assert said.replace("\\", "") in (row["reason"] if said else said) and (said == "") == (row["estimate"] > 0)


def test_a_perfect_order_has_an_interval():
    own = frame(time=np.arange(60.0), event=True, ranked=-np.arange(60.0))
    found = outcome_metrics(own, resamples=100, cross_fitted=True)
    assert found.iloc[0]["ci_method"] == DOUBLED and found.iloc[0][["estimate", "ci_low", "ci_high"]].tolist() == [
        1.0,
        *bound(1.0, 60),
    ]
    values = own.drop(columns=["time", "event"]).assign(value=own["score"], ranked=own["score"])
    row = outcome_metrics(values, resamples=100).iloc[0]
    assert row["metric"] == SPEARMAN and row["estimate"] == 1 and 0.8 < row["ci_low"] < 1 == row["ci_high"]


@pytest.fixture
def told(tmp_path):
    def run(table, **options):
        path, lines = tmp_path / "t.csv", []
        table.drop(columns="ranked", errors="ignore").to_csv(path, index=False)
        found = score(path, tmp_path / "out", ScoreOptions(**{"resamples": 200} | options), lines.append)
        return found, "\n".join(lines)

    return run


def test_survival_as_typed_and_the_wrong_way_round_is_said_and_never_turned(told, tmp_path):
    table = frame(200)
    found, lines = told(table, task="survival", times=(5.0, 10.0))
    assert found["metric"].unique().tolist() == [CONCORDANCE, "AUC of ending until"]
    assert sorted(found["time"].dropna().unique()) == [5, 10] and "clearly below" not in lines
    page = (tmp_path / "out" / "index.html").read_text()
    assert 'src="outcomes.png"' in page and "metrics.csv" in page and not (tmp_path / "out" / "auc.csv").exists()
    turned, lines = told(table.assign(score=-table["score"]), task="survival")
    assert (
        turned.iloc[0]["estimate"] == pytest.approx(1 - found.iloc[0]["estimate"]) and "clearly below chance" in lines
    )
    assert "Nothing was turned: check --higher-is" in (tmp_path / "out" / "index.html").read_text()
    right, lines = told(table.assign(score=-table["score"]), task="survival", higher_is="survival")
    assert right.iloc[0]["estimate"] == pytest.approx(found.iloc[0]["estimate"]) and "as a later event" in lines
    words = table.assign(event=table["event"].map({True: "dead", False: "alive"}))
    assert told(words, task="survival", positive="dead")[0].iloc[0]["estimate"] == found.iloc[0]["estimate"]
    typed = ["score", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out")]
    assert main([*typed, "--task", "survival", "--positive", "dead", "--times", "4,8", "--resamples", "100"]) == 0
    assert main([*typed, "--task", "survival", "--times", "4;8"]) == 2
    assert (
        main([*typed, "--task", "survival", "--positive", "dead", "--times", "0"]) == 2
        and main([*typed, "--higher-is", "survival"]) == 2
    )


def test_all_censored_ends_with_1(tmp_path):
    frame(event=False).drop(columns="ranked").to_csv(tmp_path / "t.csv", index=False)
    assert main(["score", str(tmp_path / "t.csv"), "--task", "survival", "--out", str(tmp_path / "out")]) == 1


def test_values_as_typed_and_slides_become_their_patient(told):
    draw = np.random.default_rng(0)
    value = draw.normal(size=60)
    table = pd.DataFrame(
        {"patient_id": np.arange(60).astype(str), "value": value, "score": value / 2 + draw.normal(size=60)}
    )
    found, _ = told(table, task="regression")
    by = found.drop_duplicates("metric").set_index("metric")["estimate"]
    assert by[SPEARMAN] == pytest.approx(stats.spearmanr(table["value"], table["score"])[0])
    assert by[EXPLAINED] == pytest.approx(r2_score(table["value"], table["score"]))
    scaled, _ = told(table.assign(score=1000 * table["score"]), task="regression", any_scale=True)
    assert scaled.drop_duplicates("metric").set_index("metric")["estimate"].to_dict() == pytest.approx(
        {SPEARMAN: by[SPEARMAN], SQUARED: stats.pearsonr(table["value"], table["score"])[0] ** 2})  # fmt: skip
    half = table.assign(score=table["score"] / 2)
    rows = pd.concat([half, table.assign(score=1.5 * table["score"])])
    assert told(rows, task="regression", rows="tile")[0].iloc[0]["estimate"] == pytest.approx(by[SPEARMAN])
    assert "clearly below chance" in told(table.assign(score=-value), task="regression")[1]


@pytest.mark.parametrize(("change", "error", "match"), [
    ({"time": "-1"}, InputError, "line 9: the time is below 0.*-1"),
    ({"time": "soon"}, InputError, "line 9: the time is no number"),
    ({"time": "inf"}, InputError, "line 9: the time is infinite"),
    ({"event": "2"}, LabelError, "line 9, column event: 1 labels are neither"),
    ({"patient_id": "P006"}, LabelError, "1 patients have two times or events"),
    ({"patient_id": "P006", "time": 1.0, "event": True, "score": 9.0}, LabelError, "two times or events"),
])  # fmt: skip
def test_bad_cells_of_survival_are_named(told, change, error, match):
    table = frame().astype(object)
    for name, value in change.items():
        table.loc[7, name] = value
    with pytest.raises(error, match=match):
        told(table, task="survival", rows="tile")


def test_what_is_not_known_is_counted(told):
    table = frame().astype(object)
    table.loc[0, "time"], table.loc[1, "event"], table.loc[2, "score"] = "NA", "", "nan"
    found, lines = told(table, task="survival")
    assert found.iloc[0]["n"] == 57 and "2 rows: no time or event (rows 2, 3)" in lines and "1 rows: no score" in lines
