"""The paper's tuning protocol: every point once, resumable, the same for any number of workers, honest when nested."""

from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import CohortError, ParameterError
from deeplrhe_utils.evaluation.optimism import MACRO, optimism
from deeplrhe_utils.learning import search, search_range, search_trial
from deeplrhe_utils.learning.models import NetworkConfig
from deeplrhe_utils.learning.recipe import TrainConfig
from deeplrhe_utils.learning.trainer import Part
from tests.tile_store import write_store

SPACE = search.Space((4, 8), (1,), (8,), ("bce", "focal"), coarse=(0.1, 0.5), decays=(0.01,), fine=(1.0, 2.0))


def folds(names):
    rows = [(f, n, "test" if (i // 2) % 2 == f else "train") for f in (0, 1) for i, n in enumerate(names)]
    return pd.DataFrame(rows, columns=["fold", "unit_id", "role"])


@pytest.fixture
def study(tmp_path):
    tiles, frame = write_store(tmp_path / "tiles", np.random.default_rng(0), n_slides=16, n_tiles=2)
    status = frame["slide_id"].str[1:].astype(int).to_numpy() % 2
    y = np.stack([status, 1 - status], axis=1).astype(np.float32)
    names = sorted(frame["patient_id"].unique(), key=lambda n: int(n[1:]))
    recipe = TrainConfig(2, 8, crop_px=32, precision="float32")
    return search_trial.Study({0: tiles.folder, 1: tiles.folder}, frame, y, folds(names), np.ones(len(frame), bool),
                              NetworkConfig(("X", "Y")), recipe, seed=5)  # fmt: skip


def test_the_range_test_finds_where_the_loss_stops_falling(study):
    store = search_trial.open_store(study, 0)
    at = np.arange(len(store))
    part = Part(at, study.targets, study.tiles["patient_id"].tolist())
    network = replace(study.network, kernels=8, stages=1, batch_norm=False)
    found = search_range.range_test(store, part, network, study.recipe, seed=0, tiles=32, high=100.0)
    assert 1e-4 < found.threshold < 10 and len(found.rates) == len(found.losses)
    low = int(np.nanargmin(found.losses))
    assert found.threshold == found.rates[low] and found.losses[low] < found.losses[0]
    after = found.losses[low + 1 :]
    assert np.isnan(after).any() or np.nanmax(after) > found.losses[low], "the rate never became too high"
    again = search_range.range_test(store, part, network, study.recipe, seed=0, tiles=32, high=100.0)
    np.testing.assert_array_equal(found.losses, again.losses)


def test_the_protocol_tries_every_point_once_and_improves(study, tmp_path):
    searcher = search.Searcher(tmp_path / "search", quiet=True)
    chosen = search.select(searcher, study, SPACE, "flat", range_tiles=16)
    assert chosen.trace.groupby("phase").size().to_dict() == {"grid": 4, "coarse": 2, "fine": 4}
    assert not chosen.trace.duplicated(["phase", "kernels", "loss", "learning_rate", "weight_decay"]).any()
    assert chosen.value == chosen.trace["value"].max() >= 0.9
    assert set(chosen.parameters) == {*search.GRID, "learning_rate", "weight_decay"}
    assert len(chosen.scores) == 16 * 2 and chosen.scores["fold"].nunique() == 2
    ran = searcher.ran
    again = search.select(searcher, study, SPACE, "flat", range_tiles=16)
    assert searcher.ran == ran, "finished trials were run again"
    assert again.parameters == chosen.parameters
    pd.testing.assert_frame_equal(again.trace, chosen.trace)


def test_a_killed_search_goes_on_and_ends_the_same(study, tmp_path, monkeypatch):
    undisturbed = search.select(search.Searcher(tmp_path / "a", quiet=True), study, SPACE, "flat", range_tiles=16)
    real, left = search.evaluate, iter(range(3))

    def dies(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt  # as a kill: the trial stays "running" in the journal
        return real(*arguments)

    monkeypatch.setattr(search, "evaluate", dies)
    with pytest.raises(KeyboardInterrupt):
        search.select(search.Searcher(tmp_path / "b", quiet=True), study, SPACE, "flat", range_tiles=16)
    monkeypatch.setattr(search, "evaluate", real)
    searcher = search.Searcher(tmp_path / "b", quiet=True)
    resumed = search.select(searcher, study, SPACE, "flat", range_tiles=16)
    assert searcher.ran == 10 - 3
    pd.testing.assert_frame_equal(resumed.trace, undisturbed.trace)
    pd.testing.assert_frame_equal(resumed.scores, undisturbed.scores)


def test_the_number_of_workers_changes_nothing(study, tmp_path):
    space = replace(SPACE, coarse=(0.1,), fine=(1.0,))
    one, two = (search.select(search.Searcher(tmp_path / str(n), n, quiet=True), study, space, "flat", range_tiles=16)
                for n in (1, 2))  # fmt: skip
    pd.testing.assert_frame_equal(one.trace, two.trace)
    pd.testing.assert_frame_equal(one.scores, two.scores)


def test_other_data_or_another_recipe_is_another_study(study, tmp_path):
    searcher = search.Searcher(tmp_path, quiet=True)
    values = {"kernels": [4]}
    searcher.grid(study, "g", values, {"stages": 1})
    searcher.grid(replace(study, seed=6), "g", values, {"stages": 1})
    searcher.grid(study, "g", values, {"stages": 2})
    assert searcher.ran == 3
    journal = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal"))
    )
    assert len(optuna.get_all_study_names(journal)) == 3


def test_nested_selection_never_sees_the_test_patients(study, tmp_path):
    searcher = search.Searcher(tmp_path, quiet=True)
    space = replace(SPACE, kernels=(8,), coarse=(0.3,), fine=(1.0,))
    train = {f: study.splits.query("fold == @f and role == 'train'")["unit_id"].tolist() for f in (0, 1)}
    inner = {f: folds(names) for f, names in train.items()}
    outcome, chosen = search.nested(searcher, study, space, inner, range_tiles=16)
    assert set(chosen) == {0, 1} and len(outcome.scores) == 16 * 2
    for fold, selection in chosen.items():
        assert set(selection.scores["patient_id"]) == set(train[fold])
        tested = outcome.scores[outcome.scores["fold"] == fold]["patient_id"]
        assert not set(tested) & set(train[fold])
    with pytest.raises(ParameterError, match="test patients"):
        search.nested(searcher, study, space, {0: folds(sorted(set(study.tiles["patient_id"])))})


def test_a_trial_that_diverges_is_recorded_and_never_wins(study, tmp_path):
    searcher = search.Searcher(tmp_path, quiet=True)
    fixed = {"kernels": 4, "stages": 1, "batch_norm": False}
    trials = searcher.grid(study, "g", {"learning_rate": [1e-3, 1e30]}, fixed)
    rows = trials.rows("flat", "coarse").set_index("learning_rate")
    assert rows.loc[1e30, "value"] == 0 and "The loss is" in rows.loc[1e30, "note"]
    assert trials.best().params["learning_rate"] == 1e-3


def test_a_search_without_two_classes_says_so(study):
    constant = replace(study, targets=np.ones_like(study.targets))
    with pytest.raises(CohortError, match="both classes"):
        search_trial.evaluate(constant, {"kernels": 4, "stages": 1})


def test_optimism_is_the_difference_on_the_same_patients():
    random = np.random.default_rng(0)
    names = [f"P{i:02d}" for i in range(60)]
    label = np.arange(60) % 2
    labels = pd.DataFrame({"patient_id": names, "gene": "X", "status": label}).astype({"status": "Int64"})
    rows = lambda score: pd.DataFrame({"patient_id": names, "gene": "X", "fold": np.arange(60) // 30, "score": score})  # noqa: E731
    noise = random.normal(size=60)
    table = optimism(rows(label + 0.5 * noise), rows(noise), labels, resamples=300)
    one, mean = table.iloc[0], table.iloc[1]
    assert one["gene"] == "X" and mean["gene"] == MACRO and one["optimism"] == mean["optimism"]
    assert one["auc_flat"] > 0.9 and abs(one["auc_nested"] - 0.5) < 0.2
    assert one["ci_low"] < one["optimism"] < one["ci_high"] and one["ci_low"] > 0
    same = optimism(rows(noise), rows(noise), labels, resamples=50)
    assert (same[["optimism", "ci_low", "ci_high"]] == 0).all().all()
    with pytest.raises(CohortError, match="other patients"):
        optimism(rows(noise), rows(noise).iloc[1:], labels)
