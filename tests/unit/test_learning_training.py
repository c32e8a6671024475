"""Training: seeded, masked, resumable to the bit, stopped politely, refusing what cannot be trained."""

import copy
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from deeplrhe_utils.core.errors import CohortError, LabelError, LeakError, ModelError, ParameterError, RunError
from deeplrhe_utils.learning.networks import deeplrhe
from deeplrhe_utils.learning.recipes import checkpoints, losses, processes, scoring
from deeplrhe_utils.learning.recipes.checkpoints import Stop
from deeplrhe_utils.learning.recipes.recipe import DEEPPATH, DEEPPATH_NETWORK, TrainConfig, uses_bfloat16
from deeplrhe_utils.learning.tiles import store
from deeplrhe_utils.learning.tiles.sampling import epoch_order
from deeplrhe_utils.learning.training import crossfit, fold, launch, trainer
from deeplrhe_utils.learning.training.trainer import Part, Run
from tests.tile_store import both_classes, folds_of, write_store

NETWORK = deeplrhe.NetworkConfig(("X", "Y", "Z"), kernels=8, stages=2)
TINY = replace(NETWORK, stages=1)
RECIPE = TrainConfig(epochs=12, batch_size=8, crop_px=32, learning_rate=1e-2, precision="float32")
VIEW = {"input_mpp": 0.5, "normalization": "none"}


def quiet(_line):
    pass


def part_of(frame, y, patients=None):
    at = np.arange(len(frame)) if patients is None else np.flatnonzero(frame["patient_id"].isin(patients))
    return Part(at, y[at], frame["patient_id"].iloc[at].tolist())


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def scores_of(model, tiles, **kinds):
    return scoring.score_arrays(model, lambda i: tiles.read(list(i)), len(tiles), **kinds)


def test_training_learns_is_seeded_and_ignores_unknown_labels(small):
    tiles, frame, y = small
    run = lambda seed: fold.train_fold(tiles, part_of(frame, y), NETWORK, RECIPE, seed=seed, fold=0, report=quiet)  # noqa: E731
    first = run(1)
    scores = scores_of(first.model, tiles)
    assert scores[y[:, 0] == 1, 0].min() > scores[y[:, 0] == 0, 0].max()
    assert first.progress.history[-1] < first.progress.history[0]
    assert equal(first.model, run(1).model)
    assert run(2).progress.history != first.progress.history


def test_bfloat16_learns_the_same_and_scores_do_not_tie(small):
    tiles, frame, y = small
    recipe = replace(RECIPE, precision="bfloat16")
    trained = fold.train_fold(tiles, part_of(frame, y), NETWORK, recipe, seed=1, fold=0, report=quiet)
    low, full = (scores_of(trained.model, tiles, precision=p) for p in ("bfloat16", "float32"))
    assert low[y[:, 0] == 1, 0].min() > low[y[:, 0] == 0, 0].max()
    assert np.abs(low - full).max() < 0.05
    assert len(np.unique(low[:, 1])) == len(tiles)  # of a gene without an effect: scores near 1 tie in float32 itself


@pytest.mark.parametrize("kind", ["plain", "ema, dropout, accumulation, validation, stain jitter"])
def test_a_stopped_run_resumes_to_the_bit(small, tmp_path, kind, monkeypatch):
    """Stopped after any step, a run gives the same weights, curves and averages as one that was left alone."""
    tiles, frame, y = small
    rich = kind != "plain"
    recipe = replace(RECIPE, epochs=3, checkpoint_seconds=0)
    network, valid = NETWORK, None
    if rich:
        recipe = replace(recipe, ema=0.9, accumulate=2, stain_jitter=0.1, optimiser="rmsprop_tf", learning_rate=1e-3)
        network, valid = replace(NETWORK, dropout=0.3), part_of(frame, y, ["P4", "P5"])
    train = part_of(frame, y, ["P0", "P1", "P2", "P3"])
    kinds = {"seed": 3, "fold": 1, "report": quiet, "valid": valid}
    undisturbed = fold.train_fold(tiles, train, network, recipe, **kinds)
    state = tmp_path / "state.safetensors"
    for stop_after in (1, 2, 3, 4):  # two steps an epoch: inside epochs and between them
        count = iter(range(100))
        monkeypatch.setattr(fold, "stop_signal", _stops(lambda c=count, s=stop_after: next(c) + 1 >= s))
        with pytest.raises(Stop, match="goes on from there"):
            fold.train_fold(tiles, train, network, recipe, state_file=state, fingerprint="f", **kinds)
        monkeypatch.setattr(fold, "stop_signal", _stops(lambda: False))
        resumed = fold.train_fold(tiles, train, network, recipe, state_file=state, fingerprint="f", **kinds)
        assert equal(resumed.model, undisturbed.model) and resumed.progress == undisturbed.progress
        for name, weights in undisturbed.others.items():
            assert all(torch.equal(resumed.others[name][k], v) for k, v in weights.items())
        state.unlink()


def _stops(answer):
    from contextlib import contextmanager

    @contextmanager
    def stand_in(_wanted, _group):
        yield answer

    return stand_in


def test_sigterm_saves_and_ends(small, tmp_path):
    tiles, frame, y = small
    state = tmp_path / "s.safetensors"
    with pytest.raises(Stop, match="told to end after fold 0, epoch 2"):
        fold.train_fold(tiles, part_of(frame, y), TINY, RECIPE, seed=0, fold=0, state_file=state, fingerprint="f",
                            report=lambda _line: os.kill(os.getpid(), signal.SIGTERM))  # fmt: skip
    assert checkpoints.load_state(state, "f").progress.epoch == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_state_of_another_run_or_a_damaged_one_is_not_resumed(small, tmp_path):
    tiles, frame, y = small
    state, lines = tmp_path / "s.safetensors", []
    kinds = {"seed": 0, "fold": 0, "state_file": state, "report": lines.append}
    recipe = replace(RECIPE, epochs=2, checkpoint_seconds=0)
    fold.train_fold(tiles, part_of(frame, y), TINY, recipe, fingerprint="a", **kinds)
    assert checkpoints.load_state(state, "a") is not None and checkpoints.load_state(state, "b") is None
    state.write_bytes(state.read_bytes()[:-50])
    assert checkpoints.load_state(state, "a") is None
    lines.clear()
    fold.train_fold(tiles, part_of(frame, y), TINY, recipe, fingerprint="a", **kinds)
    assert len(lines) == 3 and "starts anew" in lines[0]


def test_early_stopping_keeps_the_best_epoch(small):
    """Validation patients carry the opposite label: every epoch is worse than the first."""
    tiles, frame, y = small
    wrong = part_of(frame, 1 - y, ["P4", "P5"])
    train = part_of(frame, y, ["P0", "P1", "P2", "P3"])
    recipe = replace(RECIPE, patience=3, schedule="constant")
    trained = fold.train_fold(tiles, train, NETWORK, recipe, seed=1, fold=0, valid=wrong, report=quiet)
    done = trained.progress
    assert done.best_epoch == int(np.argmin(done.valid)) and len(done.valid) == done.best_epoch + 4
    assert not all(torch.equal(trained.model.state_dict()[k], v) for k, v in trained.others["last"].items())
    with pytest.raises(ParameterError, match="no validation patients"):
        fold.train_fold(tiles, train, NETWORK, recipe, seed=1, fold=0, report=quiet)


def test_a_fold_without_two_classes_is_refused(small):
    tiles, _, y = small
    with pytest.raises(CohortError, match="no target with both classes"):
        fold.train_fold(
            tiles, Part(np.arange(24), y[:, 1:]), deeplrhe.NetworkConfig(("Y", "Z")), RECIPE, seed=0, fold=1
        )
    with pytest.raises(CohortError, match="0 training tiles"):
        fold.train_fold(tiles, Part(np.arange(0), y[:0]), NETWORK, RECIPE, seed=0, fold=1)


def test_diverging_loss_names_the_place_and_the_tiles(small):
    tiles, frame, y = small
    network = replace(TINY, batch_norm=False)
    with pytest.raises(ModelError, match=r"fold 3, epoch \d+, step \d+ \(tiles S\d_\d"):
        fold.train_fold(tiles, part_of(frame, y), network, replace(RECIPE, learning_rate=1e30), seed=0, fold=3,
                            report=quiet)  # fmt: skip


def test_constant_tiles_train_to_finite_weights(tmp_path):
    tiles, frame = write_store(tmp_path, np.random.default_rng(0))
    for s in range(6):
        store.write_tiles(tmp_path, f"S{s}", np.full((4, 48, 48, 3), 243, np.uint8))
    y = np.tile(np.repeat([[0.0], [1.0]], 4, axis=0), (3, 1)).astype(np.float32)
    trained = fold.train_fold(store.TileStore(tmp_path, frame), part_of(frame, y), deeplrhe.NetworkConfig(("X",)),
                                  replace(RECIPE, epochs=2), seed=0, fold=0, report=quiet)  # fmt: skip
    assert np.isfinite(scores_of(trained.model, tiles)).all()


def test_out_of_memory_says_which_batch_fits():
    def attempt(size):
        if size > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    error = trainer.explain_memory(attempt, 16, 16)
    assert "batch_size to 2" in str(error) and "accumulate to 8" in str(error)
    assert "not even one" in str(trainer.explain_memory(lambda n: attempt(9), 16, 16))
    assert not trainer.is_out_of_memory(RuntimeError("shapes differ"))


def test_memory_shortage_in_training_is_explained(small, monkeypatch):
    tiles, frame, y = small
    forward = deeplrhe.DeepLrhe.forward

    def small_memory(self, x):
        if len(x) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(self, x)

    monkeypatch.setattr(deeplrhe.DeepLrhe, "forward", small_memory)
    with pytest.raises(ModelError, match="accumulate to 2"):
        fold.train_fold(tiles, part_of(frame, y), TINY, RECIPE, seed=0, fold=0, report=quiet)


def test_accumulated_parts_give_the_whole_step(small):
    """Without batch normalization the parts of a step add up to the step."""
    tiles, frame, y = small
    network = replace(TINY, batch_norm=False)
    run = lambda parts: fold.train_fold(  # noqa: E731
        tiles, part_of(frame, y), network, replace(RECIPE, epochs=2, accumulate=parts), seed=0, fold=0, report=quiet
    )
    for a, b in zip(run(1).model.state_dict().values(), run(3).model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("balance", ["patient", "class"])
def test_balanced_training_learns(small, balance):
    tiles, frame, y = small
    recipe = replace(RECIPE, balance=balance, tiles_per_patient=3 if balance == "patient" else 0)
    trained = fold.train_fold(tiles, part_of(frame, y), NETWORK, recipe, seed=1, fold=0, report=quiet)
    scores = scores_of(trained.model, tiles)
    assert scores[y[:, 0] == 1, 0].min() > scores[y[:, 0] == 0, 0].max()


def test_inception_trains_with_its_auxiliary_head_and_the_published_recipe(small):
    tiles, frame, y = small
    network = deeplrhe.NetworkConfig(("X", "Y", "Z"), **DEEPPATH_NETWORK)
    recipe = replace(DEEPPATH, epochs=1, batch_size=8, crop_px=75, learning_rate=1e-3)
    few = part_of(frame, y, ["P0", "P1"])
    trained = fold.train_fold(tiles, few, network, recipe, seed=0, fold=0, report=quiet)
    assert np.isfinite(trained.progress.history).all() and set(trained.others) == {"last"}


def test_finished_folds_are_reused_only_when_nothing_changed(small, tmp_path):
    tiles, frame, y = small
    file = tmp_path / "fold-0.safetensors"
    parts = {role: part_of(frame, y, who) for role, who in (("train", ["P0", "P1"]), ("valid", []), ("test", ["P5"]))}
    fit = lambda epochs, seed=1, own=tiles: fold.fit_part(  # noqa: E731
        fold.Job(TINY, replace(RECIPE, epochs=epochs), seed, VIEW, {}), own, parts, file, 0, quiet=True
    )
    first = fit(1)
    stamp = file.stat().st_mtime_ns
    assert fit(1).model_hash == first.model_hash and file.stat().st_mtime_ns == stamp
    assert len(fit(2).history) == 2 and not list(tmp_path.glob("state/*"))
    store.write_tiles(tmp_path / "tiles", "S0", np.zeros((4, 48, 48, 3), np.uint8))
    second = fit(2, own=store.TileStore(tmp_path / "tiles", frame))
    assert second.model_hash != first.model_hash
    file.write_bytes(file.read_bytes()[:-30])
    assert fit(2, own=store.TileStore(tmp_path / "tiles", frame)).model_hash == second.model_hash


def test_validation_patients_are_refused_for_scoring_too(small, tmp_path):
    tiles, frame, y = small
    people = {"train": ["P0", "P1"], "valid": ["P4", "P5"], "test": ["P4"]}
    parts = {role: part_of(frame, y, who) for role, who in people.items()}
    job = fold.Job(TINY, replace(RECIPE, epochs=1), 0, VIEW, {})
    with pytest.raises(LeakError, match="P4"):
        fold.fit_part(job, tiles, parts, tmp_path / "m.safetensors", 0, quiet=True)


def test_cross_fit_scores_everybody_once_and_only_the_tiles_in_use(small, tmp_path):
    tiles, frame, _ = small
    use = np.arange(24) % 2 == 0
    kinds = {"folder": tmp_path / "m", "seed": 1, "view": VIEW, "use": use, "quiet": True}
    arguments = ({0: tiles, 1: tiles}, frame, both_classes(frame), folds_of(frame), TINY, TrainConfig(1, 8, crop_px=32))
    fits = crossfit.cross_fit(*arguments, **kinds)
    assert len(fits.predictions) == 12 * 3 and not fits.predictions.duplicated(["tile_id", "gene"]).any()
    assert set(fits.predictions["tile_id"]) == set(frame.loc[use, "tile_id"]) and len(fits.files) == 2
    stamps = [f.stat().st_mtime_ns for f in fits.files]
    again = crossfit.cross_fit(*arguments, **kinds)
    assert [f.stat().st_mtime_ns for f in again.files] == stamps
    assert again.predictions.equals(fits.predictions)


def test_folds_side_by_side_are_the_folds_alone_and_stop_together(small, tmp_path):
    tiles, frame, _ = small
    arguments = ({0: tiles, 1: tiles}, frame, both_classes(frame), folds_of(frame), replace(TINY, dropout=0.2))
    kinds = {"seed": 1, "view": VIEW, "device": "cpu", "quiet": True}
    recipe = TrainConfig(2, 8, crop_px=32, precision="float32")
    one, two = (crossfit.cross_fit(*arguments, recipe, folder=tmp_path / str(n), abreast=n, **kinds) for n in (1, 2))
    assert one.predictions.equals(two.predictions) and one.history == two.history

    def fails(epoch):
        if epoch.fold == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crossfit.cross_fit(*arguments, replace(recipe, epochs=1500), folder=tmp_path / "s", abreast=2, watch=fails,
                           **kinds)  # fmt: skip
    assert not (tmp_path / "s" / "fold-1.safetensors").exists()  # it left with the other
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_cross_fit_without_any_two_classes_is_refused(small, tmp_path):
    tiles, frame, y = small
    with pytest.raises(CohortError, match="both classes"):
        crossfit.cross_fit({0: tiles, 1: tiles}, frame, np.ones_like(y), folds_of(frame), NETWORK, RECIPE,
                           folder=tmp_path, seed=1, view={})  # fmt: skip


def test_two_runs_on_one_folder_are_refused(small, tmp_path):
    from filelock import FileLock

    tiles, frame, _ = small
    with (
        FileLock(tmp_path.parent / f".{tmp_path.name}.lock"),
        pytest.raises(RunError, match="Another process is training"),
    ):
        crossfit.cross_fit({0: tiles, 1: tiles}, frame, both_classes(frame), folds_of(frame), TINY, RECIPE,
                           folder=tmp_path, seed=1, view=VIEW)  # fmt: skip


def test_processes_change_results_by_rounding_only(small, tmp_path):
    """Two gloo processes share every step: batch normalization, dropout and loss are those of the whole step."""
    tiles, frame, _ = small
    network = replace(NETWORK, dropout=0.2)
    recipe = replace(RECIPE, epochs=3, ema=0.9, accumulate=2, batch_size=5)
    arguments = ({0: tiles, 1: tiles}, frame, both_classes(frame), folds_of(frame), network, recipe)
    kinds = {"seed": 1, "view": VIEW, "device": "cpu", "quiet": True}
    one = crossfit.cross_fit(*arguments, folder=tmp_path / "one", **kinds)
    two = crossfit.cross_fit(
        *arguments, folder=tmp_path / "two", launch="torchrun --standalone --nproc-per-node 2", **kinds
    )
    assert deeplrhe.read_card(two.files[0])["processes"] == 2
    for name, curve in one.history.items():
        np.testing.assert_allclose(two.history[name], curve, rtol=2e-3)
    merged = one.predictions.merge(two.predictions, on=["tile_id", "gene"])
    assert len(merged) == len(one.predictions) and np.abs(merged["score_x"] - merged["score_y"]).max() < 0.02


def test_a_launch_that_fails_says_why(small, tmp_path):
    tiles, frame, _ = small
    arguments = ({0: tiles, 1: tiles}, frame, both_classes(frame), folds_of(frame), TINY)
    kinds = {"folder": tmp_path, "seed": 1, "view": VIEW, "device": "cpu", "quiet": True}
    with pytest.raises(ParameterError, match="torchrun"):
        crossfit.cross_fit(*arguments, RECIPE, launch="mpirun python", **kinds)
    bad = replace(RECIPE, learning_rate=1e30)
    with pytest.raises(RunError, match="The loss is"):
        crossfit.cross_fit(*arguments[:4], replace(TINY, batch_norm=False), bad,
                           launch="torchrun --standalone --nproc-per-node 1", **kinds)  # fmt: skip
    with pytest.raises(RunError, match="cannot be started"):
        launch.run_elsewhere("no-such-command torchrun", tmp_path / "job")


@pytest.mark.parametrize("kind", losses.LOSSES)
def test_losses_ignore_the_unknown_and_equal_their_formula(kind):
    y = np.array([[1, np.nan], [0, 1], [0, np.nan], [0, 0]], np.float32)
    loss = losses.make_loss(kind, "sigmoid", y, ceiling=10.0)
    z = torch.tensor([[0.3, 5.0], [-1.0, 0.2], [2.0, -7.0], [0.1, 0.4]], dtype=torch.float64)
    expected = 0.0
    for i in range(4):
        for t in range(2):
            if np.isnan(y[i, t]):
                continue
            p = 1 / (1 + np.exp(-float(z[i, t])))
            right = p if y[i, t] == 1 else 1 - p
            weight = {"bce": 1.0, "weighted_bce": (3.0 if t == 0 else 1.0) if y[i, t] == 1 else 1.0,
                      "focal": (1 - right) ** 2}[kind]  # fmt: skip
            expected -= weight * np.log(right)
    assert float(loss.sum(z, torch.from_numpy(y))) == pytest.approx(expected, rel=1e-5)
    assert loss.weight(torch.from_numpy(y)) == 6


def test_label_smoothing_moves_towards_even_odds():
    y = torch.tensor([[1.0, 0.0, 0.0]])
    soft = losses.make_loss("bce", "softmax", y.numpy(), ceiling=1.0, smoothing=0.1)
    z = torch.tensor([[2.0, 0.0, -1.0]])
    p = z.softmax(1)[0].log()
    assert float(soft.sum(z, y)) == pytest.approx(-float((0.9 + 0.1 / 3) * p[0] + 0.1 / 3 * (p[1] + p[2])), rel=1e-5)
    sigmoid = losses.Loss("bce", "sigmoid", torch.ones(1, dtype=torch.bool), torch.ones(1), 0.1)
    one = float(sigmoid.sum(torch.tensor([[0.7]]), torch.tensor([[1.0]])))
    q = 1 / (1 + np.exp(-0.7))
    assert one == pytest.approx(-(0.95 * np.log(q) + 0.05 * np.log(1 - q)), rel=1e-5)


def test_validation_loss_is_the_patients():
    scores = np.array([[0.2], [0.6], [0.9]], np.float32)
    y = np.array([[1], [1], [0]], np.float32)
    value = scoring.patient_log_loss(scores, y, ["A", "A", "B"], np.array([True]))
    assert value == pytest.approx(-(np.log(0.4) + np.log(0.1)) / 2, rel=1e-5)
    with pytest.raises(CohortError, match="No validation patient"):
        scoring.patient_log_loss(scores, np.full_like(y, np.nan), ["A", "A", "B"], np.array([True]))


@pytest.mark.parametrize("kind", ["torch's", "timm's"])
def test_shared_batch_norm_equals_the_layers_own(kind, monkeypatch):
    """One process that believes it is a group: outputs, gradients and running averages are those of the layer."""
    layer = torch.nn.BatchNorm2d(5)
    if kind == "timm's":
        layer = pytest.importorskip("timm").layers.BatchNormAct2d(5, act_layer=torch.nn.ReLU6)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.uniform_(-1, 1)
    twin = copy.deepcopy(layer)
    monkeypatch.setattr(processes.dist, "all_reduce", lambda tensor: None)
    monkeypatch.setattr(processes, "DistributedDataParallel", lambda model, **_: model)
    processes.shared(torch.nn.Sequential(twin), processes.Group(0, 2), torch.device("cpu"))
    x = (3 * torch.randn(4, 5, 6, 7) + 2).to(memory_format=torch.channels_last)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    weight = torch.randn(4, 5, 6, 7)
    for own, x_own in zip((layer, twin), inputs, strict=True):
        (own(x_own) * weight).sum().backward()
    torch.testing.assert_close(twin(x), layer(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-3, atol=1e-5)
    for a, b in zip((*twin.parameters(), *twin.buffers()), (*layer.parameters(), *layer.buffers()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("count", "size", "accumulate"), [(16, 1, 1), (5, 2, 3), (7, 3, 4)])
def test_parts_of_a_step_do_not_depend_on_the_processes(count, size, accumulate, small):
    """Every tile belongs to one process and part; all processes have as many parts, each of at least one tile."""
    tiles, frame, y = small
    recipe = replace(RECIPE, accumulate=accumulate, batch_size=8)
    run = Run(tiles, part_of(frame, y), TINY, recipe, 0, 0, None, torch.device("cpu"))
    shares = []
    for rank in range(size):
        run.group = processes.Group(rank, size)
        shares.append(run._parts(count))
    assert len({len(parts) for parts in shares}) == 1
    rows = [range(part.start, part.stop) for parts in shares for part in parts]
    assert all(len(part) for part in rows) and sorted(i for part in rows for i in part) == list(range(count))
    for parts in zip(*shares, strict=True):  # one part of the step: neighbouring rows, whoever has them
        whole = sorted(i for part in parts for i in range(part.start, part.stop))
        assert whole == list(range(whole[0], whole[-1] + 1))


def test_softmax_needs_exactly_one_class_a_tile_and_recipes_must_be_legal():
    for bad in ([[1, 1], [0, 1]], [[0, 0], [0, 1]], [[1, np.nan], [0, 1]]):
        with pytest.raises(LabelError, match="exactly one class"):
            losses.make_loss("bce", "softmax", np.array(bad, np.float32), ceiling=1.0)
    for bad in ({"loss": "hinge"}, {"optimiser": "adam"}, {"epochs": 0}, {"balance": "patient"}, {"precision": "half"}):
        with pytest.raises(ParameterError):
            TrainConfig(**bad)
    assert uses_bfloat16("bfloat16", torch.device("cpu")) and not uses_bfloat16("float32", torch.device("cpu"))


def test_class_balance_draws_classes_equally_often():
    y = np.eye(3, dtype=np.float32)[np.repeat([0, 1, 2], (80, 15, 5))]
    order = epoch_order(np.random.default_rng(0), y, balance="class")
    drawn = np.mean([y[epoch_order(np.random.default_rng(s), y, balance="class")].mean(0) for s in range(50)], axis=0)
    assert len(order) == 100 and np.abs(drawn - 1 / 3).max() < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_own_moments_are_float32_whatever_the_tiles_are(dtype):
    x = (3 * torch.randn(4, 5, 32, 33) + 2).to(dtype).to(memory_format=torch.channels_last)
    mean, variance = processes._own_moments(x)
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(mean, x.double().mean((0, 2, 3)).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(variance, x.double().var((0, 2, 3), correction=0).float(), rtol=1e-3, atol=1e-4)
