"""The paper's tuning protocol: every point once, resumable, the same for any number of workers, honest when nested."""

from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from filelock import FileLock

from deeplrhe_utils.core.errors import CohortError, ModelError, ParameterError, RunError
from deeplrhe_utils.evaluation.auc.compare import MACRO, judging_genes, optimism
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig
from deeplrhe_utils.learning.recipes.recipe import TrainConfig
from deeplrhe_utils.learning.rivals import protocol, ranges
from deeplrhe_utils.learning.training.trainer import Part
from tests.tile_store import write_store

SPACE = protocol.Space((4, 8), (1,), (8,), ("bce", "focal"), coarse=(0.1, 0.5), decays=(0.01,), fine=(1.0, 2.0))


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
    return protocol.Study({0: tiles.folder, 1: tiles.folder}, frame, y, folds(names), np.ones(len(frame), bool),
                              NetworkConfig(("X", "Y")), recipe, seed=5)  # fmt: skip


def test_the_range_test_finds_where_the_loss_stops_falling(study, monkeypatch):
    monkeypatch.setattr(ranges, "HIGHEST", 100.0)
    store = protocol.open_store(study, 0)
    at = np.arange(len(store))
    part = Part(at, study.targets, study.tiles["patient_id"].tolist())
    network = replace(study.network, kernels=8, stages=1, batch_norm=False)
    found = ranges.range_test(store, part, network, study.recipe, seed=0, tiles=32)
    assert 1e-4 < found.threshold < 10 and len(found.rates) == len(found.losses)
    low = int(np.nanargmin(found.losses))
    assert found.threshold >= found.rates[low] and found.losses[low] < found.losses[0]
    after = found.losses[low + 1 :]
    assert np.isnan(after).any() or np.nanmax(after) > found.losses[low], "the rate never became too high"
    again = ranges.range_test(store, part, network, study.recipe, seed=0, tiles=32)
    np.testing.assert_array_equal(found.losses, again.losses)


@pytest.mark.parametrize("fall", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_the_threshold_of_a_noisy_curve_hardly_depends_on_the_noise(fall, noise):
    at = np.linspace(-5, 0, 40)
    shape = 0.69 - fall / (1 + np.exp(-4 * (at + 2.7))) + 0.6 * np.maximum(0, at + 1.2) ** 2  # rises from 10^-1.2 on
    found, lowest = [], []
    for seed in range(100):
        losses = shape + np.random.default_rng(seed).normal(0, noise, 40)
        smooth = np.array([np.average(losses[: k + 1], weights=0.7 ** np.arange(k, -1, -1.0)) for k in range(40)])
        found.append(at[ranges.last_before_rise(losses, smooth)])
        lowest.append(at[smooth.argmin()])
    spread = [float(np.ptp(np.quantile(tried, [0.05, 0.95]))) for tried in (found, lowest)]
    assert np.quantile(found, 0.05) > -2 and np.max(found) < -0.3 and spread[0] < 1
    assert fall or spread[1] > 3, "the lowest value would have done"


@pytest.mark.parametrize("finite", [1, 2])
def test_a_curve_that_diverges_at_once_has_a_threshold_all_the_same(finite):
    losses = np.where(np.arange(40) < finite, 0.7, np.nan)
    assert ranges.last_before_rise(losses, losses) == finite - 1


def test_the_small_sample_holds_both_classes():
    targets = np.zeros((1000, 3), np.float32)
    targets[:3, 0], targets[7, 1], targets[:, 2] = 1, 1, np.nan
    for seed in range(20):
        drawn = ranges.draw_sample(targets, 8, np.random.default_rng(seed))
        assert len(set(drawn)) == 8 and set(drawn) >= {0, 1, 2} and list(drawn) == sorted(drawn)
    np.testing.assert_array_equal(drawn, ranges.draw_sample(targets, 8, np.random.default_rng(seed)))
    assert len(ranges.draw_sample(targets[:5], 8, np.random.default_rng(0))) == 5
    assert len(ranges.draw_sample(targets[10:], 8, np.random.default_rng(0))) == 8


def test_the_protocol_tries_every_point_once_and_improves(study, tmp_path):
    searcher = protocol.Searcher(tmp_path / "search")
    chosen = protocol.select(searcher, study, SPACE, "flat", range_tiles=16)
    assert chosen.trace.groupby("phase").size().to_dict() == {"grid": 4, "coarse": 2, "fine": 4}
    assert not chosen.trace.duplicated(["phase", "kernels", "loss", "learning_rate", "weight_decay"]).any()
    assert chosen.value == chosen.trace["value"].max() >= 0.9
    assert set(chosen.parameters) == {*protocol.GRID, "learning_rate", "weight_decay"}
    assert len(chosen.scores) == 16 * 2 and chosen.scores["fold"].nunique() == 2
    ran = searcher.ran
    again = protocol.select(searcher, study, SPACE, "flat", range_tiles=16)
    assert searcher.ran == ran, "finished trials were run again"
    assert again.parameters == chosen.parameters
    pd.testing.assert_frame_equal(again.trace, chosen.trace)


@pytest.mark.parametrize("kills", [[1], [0, 2]], ids=str)
def test_a_killed_search_goes_on_and_ends_the_same(study, tmp_path, monkeypatch, kills):
    values, fixed = {"kernels": [4, 8], "loss": ["bce", "focal"]}, {"stages": 1}
    undisturbed = protocol.Searcher(tmp_path / "a").grid(study, "g", values, fixed)
    real = protocol.evaluate
    for more in kills:
        left = iter(range(more))

        def dies(*arguments, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt  # as a kill: the trial stays "running", those after it "waiting"
            return real(*arguments)

        monkeypatch.setattr(protocol, "evaluate", dies)
        with pytest.raises(KeyboardInterrupt):
            protocol.Searcher(tmp_path / "b").grid(study, "g", values, fixed)
    monkeypatch.setattr(protocol, "evaluate", real)
    searcher = protocol.Searcher(tmp_path / "b")
    resumed = searcher.grid(study, "g", values, fixed)
    assert searcher.ran == 4 - sum(kills)
    pd.testing.assert_frame_equal(resumed.rows("flat", "grid"), undisturbed.rows("flat", "grid"))
    pd.testing.assert_frame_equal(resumed.scores(resumed.best()), undisturbed.scores(undisturbed.best()))


def test_two_searches_in_one_folder_are_refused(study, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(RunError, match="Another process is searching in"):
        protocol.Searcher(tmp_path).grid(study, "g", {"kernels": [4]}, {"stages": 1})


def test_the_range_test_computes_with_the_study_s_threads(study, tmp_path, monkeypatch):
    seen, before = [], torch.get_num_threads()
    real = protocol.range_test
    monkeypatch.setattr(protocol, "range_test", lambda *a, **k: seen.append(torch.get_num_threads()) or real(*a, **k))
    space = protocol.Space((4,), (1,), (8,), ("bce",), coarse=(0.1,), decays=(0.01,), fine=(1.0,))
    protocol.select(protocol.Searcher(tmp_path), replace(study, threads=2), space, "flat", range_tiles=16)
    assert seen == [2] and torch.get_num_threads() == before


def test_a_loss_that_a_softmax_head_does_not_have_is_refused(study, tmp_path):
    softmax = replace(study, network=replace(study.network, head="softmax"))
    with pytest.raises(ParameterError, match="weighted_bce"):
        protocol.select(protocol.Searcher(tmp_path), softmax, replace(SPACE, loss=("bce", "weighted_bce")), "flat")


def test_the_number_of_workers_changes_nothing(study, tmp_path):
    space = replace(SPACE, coarse=(0.1,), fine=(1.0,))
    searchers = [protocol.Searcher(tmp_path / str(n), n) for n in (1, 2)]
    one, two = (protocol.select(searcher, study, space, "flat", range_tiles=16) for searcher in searchers)
    pd.testing.assert_frame_equal(one.trace, two.trace)
    pd.testing.assert_frame_equal(one.scores, two.scores)


def test_other_data_or_another_recipe_is_another_study(study, tmp_path):
    searcher = protocol.Searcher(tmp_path)
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
    searcher = protocol.Searcher(tmp_path)
    space = replace(SPACE, kernels=(8,), coarse=(0.3,), fine=(1.0,))
    train = {f: study.splits.query("fold == @f and role == 'train'")["unit_id"].tolist() for f in (0, 1)}
    inner = {f: folds(names) for f, names in train.items()}
    outcome, chosen = protocol.nested(searcher, study, space, inner, range_tiles=16)
    assert set(chosen) == {0, 1} and len(outcome.scores) == 16 * 2
    for fold, selection in chosen.items():
        assert set(selection.scores["patient_id"]) == set(train[fold])
        tested = outcome.scores[outcome.scores["fold"] == fold]["patient_id"]
        assert not set(tested) & set(train[fold])
    with pytest.raises(ParameterError, match="test patients"):
        protocol.nested(searcher, study, space, {0: folds(sorted(set(study.tiles["patient_id"])))})


def test_a_trial_that_diverges_is_recorded_and_never_wins(study, tmp_path):
    searcher = protocol.Searcher(tmp_path)
    fixed = {"kernels": 4, "stages": 1, "batch_norm": False}
    trials = searcher.grid(study, "g", {"learning_rate": [1e-3, 1e30]}, fixed)
    rows = trials.rows("flat", "coarse").set_index("learning_rate")
    assert np.isnan(rows.loc[1e30, "value"]) and "The loss is" in rows.loc[1e30, "note"]
    assert rows.loc[1e-3, "note"] == "" and trials.best().params["learning_rate"] == 1e-3
    again = protocol.Searcher(tmp_path)
    assert len(again.grid(study, "g", {"learning_rate": [1e-3, 1e30]}, fixed).finished()) == 2 and again.ran == 0


def test_an_auc_of_zero_is_not_a_divergence(study, tmp_path, monkeypatch):
    rows = pd.DataFrame({"patient_id": ["P0"], "gene": ["X"], "fold": [0], "score": [0.5]})
    told = {4: protocol.Outcome(0.0, (0.0,), rows), 2: protocol.Outcome(float("nan"), (), rows, "diverged")}
    monkeypatch.setattr(protocol, "evaluate", lambda _, parameters: told[parameters["kernels"]])
    best = protocol.Searcher(tmp_path).grid(study, "g", {"kernels": [2, 4]}, {}).best()
    assert best.params == {"kernels": 4} and best.value == 0


def test_an_outer_test_that_diverges_names_its_fold(study, tmp_path, monkeypatch):
    real = protocol.evaluate
    gone = protocol.Outcome(float("nan"), (), pd.DataFrame(columns=["patient_id"]), "The loss is inf")
    monkeypatch.setattr(protocol, "evaluate", lambda s, p: gone if s.splits["fold"].nunique() == 1 else real(s, p))
    space = protocol.Space((4,), (1,), (8,), ("bce",), coarse=(0.1,), decays=(0.01,), fine=(1.0,))
    inner = {1: folds(study.splits.query("fold == 1 and role == 'train'")["unit_id"].tolist())}
    with pytest.raises(ModelError, match=r"outer fold 1 .*The loss is inf"):
        protocol.nested(protocol.Searcher(tmp_path), study, space, inner, range_tiles=16)


def test_a_gene_that_a_fold_could_not_learn_has_no_scores():
    part = Part(np.arange(4), np.zeros((4, 2), np.float32), ["P0", "P0", "P1", "P1"])
    scores = np.array([[0.1, 0.5], [0.3, 0.5], [0.6, 0.5], [0.8, 0.5]], np.float32)
    rows = protocol.patient_scores(part, scores, ("X", "Y"), 1, np.array([True, False]))
    assert rows.groupby("gene")["score"].count().to_dict() == {"X": 2, "Y": 0} and len(rows) == 4
    np.testing.assert_allclose(rows.loc[rows["gene"] == "X", "score"], [0.2, 0.7], rtol=1e-6)


def test_a_search_without_two_classes_says_so(study):
    constant = replace(study, targets=np.ones_like(study.targets))
    with pytest.raises(CohortError, match="both classes"):
        protocol.evaluate(constant, {"kernels": 4, "stages": 1})


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
    partly = rows(np.where(np.arange(60) < 30, noise, np.nan))
    some = optimism(rows(noise), partly, labels, resamples=50)
    assert (some["optimism"] == 0).all() and some.loc[0, ["n_pos", "n_neg"]].tolist() == [15, 15]
    with pytest.raises(CohortError, match="no patient in common"):
        optimism(rows(np.where(np.arange(60) < 30, np.nan, noise)), partly, labels)


def test_genes_judge_where_every_part_of_every_fold_has_both_classes():
    names = [f"P{i}" for i in range(16)]
    half, even = np.arange(16) // 8, np.arange(16) % 2
    status = {"even": even, "half": half, "none": [None] * 16, "rare": (np.arange(16) < 2).astype(int),
              "gaps": np.where(half == 0, None, even)}  # fmt: skip
    rows = [
        {"patient_id": n, "gene": g, "status": s} for g, own in status.items() for n, s in zip(names, own, strict=True)
    ]
    labels = pd.DataFrame(rows).astype({"status": "Int64"})
    halves = pd.DataFrame(
        [(f, n, "test" if (i // 8) == f else "train") for f in (0, 1) for i, n in enumerate(names)],
        columns=["fold", "unit_id", "role"],
    )
    assert judging_genes(labels, [], 4) == ["even", "half", "gaps"]
    assert judging_genes(labels, [], 2) == ["even", "half", "rare", "gaps"]
    assert judging_genes(labels, [halves], 4) == ["even"]
    assert judging_genes(labels, [folds(names)], 4) == ["even", "half", "gaps"]
    assert judging_genes(labels, [folds(names), halves], 4) == ["even"]
    assert judging_genes(labels.assign(status=pd.NA), [halves], 4) == []
    assert judging_genes(labels.iloc[:0], [halves], 4) == []
