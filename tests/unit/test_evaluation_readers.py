"""Reader studies: published counts, textbook κ and McNemar, and rows that are wrong."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from deeplrhe_utils.core.errors import CohortError, InputError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.resampling import redraw
from deeplrhe_utils.evaluation.precision import readers as rd


def _wide(**columns):
    return pd.DataFrame(columns, index=pd.Index(range(len(columns["truth"])), name="case_id"))


def _file(tmp_path, text):
    path = tmp_path / "readers.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_articles_overlap_of_errors():
    """18 errors of the model, 9 of them shared; 54 cases wrong by a reader, 45 of them right by the model."""
    truth = np.zeros(170, int)
    model, first, second = truth.copy(), truth.copy(), truth.copy()
    model[:18] = 1
    first[9:40] = 1
    second[30:63] = 1
    found = rd.error_overlap(_wide(truth=truth, model=model, a=first, b=second))
    assert found[["count", "total"]].to_numpy().tolist() == [[9, 18], [45, 54]]
    assert found["share"].tolist() == pytest.approx([0.5, 0.8333], abs=1e-4)
    assert found[["ci_low", "ci_high"]].to_numpy().ravel() == pytest.approx([0.29, 0.71, 0.71, 0.91], abs=0.005)


def test_kappa_is_cohens_its_bootstrap_that_of_a_loop_and_none_where_all_is_called_alike():
    """Two readers of 50 grant applications: both yes 20, both no 15, one only 5 and 10: κ = 0.4."""
    a = np.repeat([1, 1, 0, 0], [20, 5, 10, 15])
    b = np.repeat([1, 0, 1, 0], [20, 5, 10, 15])
    found = rd.reader_agreement(_wide(truth=a, model=a, other=b), resamples=400, seed=2).iloc[0]
    assert found["kappa"] == pytest.approx(0.4) and found["agreed"] == pytest.approx(0.7)
    weight = redraw(generator(2, "reader study"), 50, 400)[1:]
    slow = [cohen_kappa_score(np.repeat(a, w.astype(int)), np.repeat(b, w.astype(int))) for w in weight]
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    found = rd.reader_agreement(_wide(truth=[0, 1, 0], model=[0, 0, 0], other=[0, 0, 0]), resamples=20).iloc[0]
    assert np.isnan(found["kappa"]) and found["agreed"] == 1 and found["undefined"] == 20


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 8), (5, 5)])
def test_mcnemar_is_the_binomial_sum(b, c):
    from math import comb

    n = b + c
    tail = sum(comb(n, k) for k in range(min(b, c) + 1)) / 2**n
    assert rd.mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail))


def test_differences_are_paired_and_counted():
    truth = np.array([1] * 10 + [0] * 10)
    model, other = truth.copy(), truth.copy()
    model[[0, 10]] = [0, 1]
    other[[1, 2, 3]] = 0
    found = rd.reader_differences(_wide(truth=truth, model=model, other=other), resamples=500).set_index("measure")
    assert found["n_cases"].tolist() == [20, 10, 10]
    assert found["difference"].tolist() == pytest.approx([0.05, 0.2, -0.1])
    assert found.loc["sensitivity", ["only_model", "only_other"]].tolist() == [3, 1]
    assert found.loc["sensitivity", "p"] == pytest.approx(0.625)
    assert ((found["ci_low"] <= found["difference"]) & (found["difference"] <= found["ci_high"])).all()
    same = rd.reader_differences(_wide(truth=truth, model=model, other=model), resamples=50)
    assert (same[["difference", "ci_low", "ci_high"]] == 0).all(axis=None) and (same["p"] == 1).all()


def test_a_cases_file_is_read_and_the_models_score_becomes_a_call(tmp_path):
    text = "case_id,truth,reader,call,score\nA,1,model,,0.7\nB,0,model,,0.2\nA,1,Ann, 1,\nB,0,Ann,1,\nC,1,Ann,0,\n"
    calls = rd.read_calls(_file(tmp_path, text))
    assert calls.loc[calls["reader"] == "model", "call"].tolist() == [1, 0]
    wide, left_out = rd.shared_cases(calls)
    assert list(wide.columns) == ["truth", "model", "Ann"] and left_out == ["C"]
    assert wide.loc["B"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(("text", "says"), [
    ("case_id,truth,reader\nA,1,model\n", "lacks columns.*call"), ("case_id,truth,reader,call\n", "no rows"),
    ("case_id,truth,reader,call\nA,1,model,1\nA,1,Ann,yes\n", "line 3: call 'yes' is not 0 or 1"),
    ("case_id,truth,reader,call\nA,,model,1\n", "line 2: truth '' is not"),
    ("case_id,truth,reader,call\nA,1,Ann,1\nA,1,Ann,1\n", "line 3: Ann called A before"),
    ("case_id,truth,reader,call\nA,1,Ann,1\nA,0,model,1\n", "line 3: A has another truth"),
    ("case_id,truth,reader,call\n,1,Ann,1\n", "line 2: empty case_id"),
    ("case_id,truth,reader,call,score\nA,1,model,,1.7\n", "line 2: score '1.7' is not in"),
    ("case_id,truth,reader,call\n" + "A,2,model,1\n" * 9, "and 12 more"), ("", "is empty"),
])  # fmt: skip
def test_bad_rows_are_named(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        rd.read_calls(_file(tmp_path, text))


def test_a_study_needs_the_model_a_reader_and_a_shared_case():
    calls = pd.DataFrame({"case_id": ["A", "B"], "truth": 1, "reader": ["Ann", "Bob"], "call": 1})
    with pytest.raises(CohortError, match="Ann, Bob"):
        rd.shared_cases(calls)
    with pytest.raises(CohortError, match="No case was called"):
        rd.shared_cases(calls.assign(reader=["Ann", "model"]))
    with pytest.raises(InputError, match="is not there"):
        rd.read_calls("/nowhere/readers.csv")


def test_simulated_readers_have_the_skill_and_the_likeness_that_was_asked_for():
    cases = pd.DataFrame({"case_id": range(8000), "truth": np.arange(8000) % 2})
    calls = rd.simulated_readers(cases, 2, sensitivity=0.8, specificity=0.95, alike=0.7, seed=1)
    assert calls["reader"].str.endswith("(SIMULATED)").all()
    first, second = (own["call"].to_numpy() for _, own in calls.groupby("reader"))
    truth = cases["truth"].to_numpy()
    assert first[truth == 1].mean() == pytest.approx(0.8, abs=0.025)
    assert second[truth == 0].mean() == pytest.approx(0.05, abs=0.015)
    wrong = (first != truth)[truth == 1], (second != truth)[truth == 1]
    assert (wrong[0] & wrong[1]).mean() > 1.8 * wrong[0].mean() * wrong[1].mean(), "they err on the same cases"
