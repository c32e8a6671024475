"""The residual identity, masked losses, seeded training, and models that refuse what they must not score."""

import numpy as np
import pandas as pd
import pytest
import torch

from deeplrhe_utils.core.errors import CohortError, InputError, ModelError
from deeplrhe_utils.learning import crossfit, models, store, targets, training


def test_residual_block_is_the_identity_of_the_paper():
    """C[l+2] = σ(B[l+2] + C[l]) with B[l+2] = 0 gives C[l] wherever C[l] ≥ 0 (paper, Residual Network)."""
    block = models.ResidualBlock(4, 4, 1, residual=True, batch_norm=False).eval()
    torch.nn.init.zeros_(block.second.weight)
    torch.nn.init.zeros_(block.second.bias)
    c = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(c.clamp_min(0)), c.clamp_min(0))
    assert torch.equal(block(c), torch.relu(c))
    without = models.ResidualBlock(4, 4, 1, residual=False, batch_norm=False).eval()
    torch.nn.init.zeros_(without.second.weight)
    torch.nn.init.zeros_(without.second.bias)
    assert float(without(c).abs().sum()) == 0


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_first_stage_has_the_papers_kernels(kernel_size, batch_norm):
    config = models.NetworkConfig(("A", "B"), kernel_size=kernel_size, batch_norm=batch_norm)
    net = models.DeepLrhe(config)
    assert tuple(net.stem[0].weight.shape) == (32, 3, kernel_size, kernel_size)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) is batch_norm
    assert net.eval()(torch.rand(2, 3, 65, 70)).shape == (2, 2)


def test_layer_table_counts_every_weight():
    net = models.DeepLrhe(models.NetworkConfig(("A",)))
    assert sum(n for _, _, n in models.layer_table(net, 64)) == sum(p.numel() for p in net.parameters())


def _store(folder, random, n_slides=6, n_tiles=4):
    rows = []
    for s in range(n_slides):
        bright = 90 if s % 2 else 170
        tiles = random.integers(bright - 30, bright + 30, (n_tiles, 48, 48, 3)).astype(np.uint8)
        store.write_tiles(folder, f"S{s}", tiles)
        rows += [{"tile_id": f"S{s}_{t}", "slide_id": f"S{s}", "patient_id": f"P{s}"} for t in range(n_tiles)]
    frame = pd.DataFrame(rows)
    return store.TileStore(folder, frame), frame


@pytest.fixture
def small(tmp_path):
    tiles, frame = _store(tmp_path / "tiles", np.random.default_rng(0))
    labels = pd.DataFrame(
        [
            {"patient_id": f"P{s}", "gene": g, "status": v}
            for s in range(6)
            for g, v in (("X", s % 2), ("Y", 1), ("Z", None))
        ]
    )
    labels["status"] = labels["status"].astype("Int64")
    return tiles, frame, targets.tile_targets(frame, labels, ["X", "Y", "Z"])


def test_targets_repeat_the_patient_and_keep_null(small):
    _, frame, y = small
    assert y.shape == (24, 3) and np.isnan(y[:, 2]).all()
    assert (y[:, 0] == frame["slide_id"].str[1:].astype(int) % 2).all()
    assert training.trainable_targets(y).tolist() == [True, False, False]


def test_training_learns_is_seeded_and_ignores_unknown_labels(small):
    tiles, _, y = small
    network = models.NetworkConfig(("X", "Y", "Z"), kernels=8, stages=2)
    recipe = training.TrainConfig(epochs=12, batch_size=8, crop_px=32, learning_rate=1e-2)
    run = lambda seed: training.train_fold(  # noqa: E731
        tiles, np.arange(24), y, network, recipe, seed=seed, fold=0, report=lambda _: None
    )
    model, history = run(1)
    scores = training.score_arrays(model, lambda i: tiles.read(list(i)), 24)
    assert scores[y[:, 0] == 1, 0].min() > scores[y[:, 0] == 0, 0].max()
    assert history[-1] < history[0]
    again, _ = run(1)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert run(2)[1] != history


def test_a_fold_without_two_classes_is_refused(small):
    tiles, _, y = small
    with pytest.raises(CohortError, match="no target with both classes"):
        training.train_fold(
            tiles, np.arange(24), y[:, 1:], models.NetworkConfig(("Y", "Z")), training.TrainConfig(1), seed=0, fold=1
        )


def test_diverging_loss_names_the_place(small):
    tiles, _, y = small
    recipe = training.TrainConfig(epochs=30, batch_size=8, crop_px=32, learning_rate=1e30)
    network = models.NetworkConfig(("X", "Y", "Z"), kernels=8, stages=1, batch_norm=False)
    with pytest.raises(ModelError, match=r"fold 3, epoch \d+"):
        training.train_fold(tiles, np.arange(24), y, network, recipe, seed=0, fold=3, report=lambda _: None)


def test_finished_folds_are_reused_only_when_nothing_changed(small, tmp_path):
    tiles, frame, y = small
    network = models.NetworkConfig(("X", "Y", "Z"), kernels=8, stages=1)
    file, keep = (
        tmp_path / "fold-0.safetensors",
        {
            "patients": ["P0", "P1"],
            "score_patients": ["P5"],
            "fold": 0,
            "view": {"input_mpp": 0.5, "normalization": "none"},
        },
    )
    indices = np.flatnonzero(frame["patient_id"].isin(["P0", "P1"]))
    fit = lambda epochs, seed=1: training.fit_or_load(  # noqa: E731
        file, tiles, indices, y[indices], network, training.TrainConfig(epochs=epochs, crop_px=32), seed=seed, **keep
    )
    first = fit(1)
    stamp = file.stat().st_mtime_ns
    assert fit(1).model_hash == first.model_hash and file.stat().st_mtime_ns == stamp
    assert len(fit(2).history) == 2
    store.write_tiles(tmp_path / "tiles", "S0", np.zeros((4, 48, 48, 3), np.uint8))
    assert fit(2).model_hash != first.model_hash


def folds_of(frame):
    """Two folds by patient, in the columns of table SPLITS that matter."""
    names = sorted(frame["patient_id"].unique())
    rows = [(f, p, "test" if i % 2 == f else "train") for f in (0, 1) for i, p in enumerate(names)]
    return pd.DataFrame(rows, columns=["fold", "unit_id", "role"])


def test_cross_fit_scores_everybody_once_and_only_the_tiles_in_use(small, tmp_path):
    tiles, frame, _ = small
    network = models.NetworkConfig(("X", "Y", "Z"), kernels=8, stages=1)
    use = np.arange(24) % 2 == 0
    kinds = {"folder": tmp_path, "seed": 1, "view": {"input_mpp": 0.5, "normalization": "none"}, "use": use}
    status = frame["patient_id"].str[1:].astype(int).to_numpy() // 2 % 2  # both classes in both folds
    y = np.repeat(status[:, None], 3, axis=1).astype(np.float32)
    both = {0: tiles, 1: tiles}
    fits = crossfit.cross_fit(both, frame, y, folds_of(frame), network, training.TrainConfig(1, 8, crop_px=32), **kinds)
    assert len(fits.predictions) == 12 * 3 and not fits.predictions.duplicated(["tile_id", "gene"]).any()
    assert set(fits.predictions["tile_id"]) == set(frame.loc[use, "tile_id"]) and len(fits.files) == 2
    stamps = [f.stat().st_mtime_ns for f in fits.files]
    again = crossfit.cross_fit(
        both, frame, y, folds_of(frame), network, training.TrainConfig(1, 8, crop_px=32), **kinds
    )
    assert [f.stat().st_mtime_ns for f in again.files] == stamps
    pd.testing.assert_frame_equal(again.predictions, fits.predictions)


def test_cross_fit_without_any_two_classes_is_refused(small, tmp_path):
    tiles, frame, y = small
    kinds = {"folder": tmp_path, "seed": 1, "view": {}}
    with pytest.raises(CohortError, match="both classes"):
        crossfit.cross_fit({0: tiles, 1: tiles}, frame, np.ones_like(y), folds_of(frame),
                           models.NetworkConfig(("X", "Y", "Z")), training.TrainConfig(1), **kinds)  # fmt: skip


def test_leak_alarm_damage_and_foreign_files(tmp_path):
    path = tmp_path / "m.safetensors"
    models.save_model(
        models.DeepLrhe(models.NetworkConfig(("X",))), path, trained_on=["PATIENT-ONE"], card={"usable": [True]}
    )
    assert models.load_model(path, score_patients=["P2"])[1]["usable"] == [True]
    with pytest.raises(ModelError, match="trained on 1 patients it is asked to score"):
        models.load_model(path, score_patients=["P2", "PATIENT-ONE"])
    assert b"PATIENT-ONE" not in path.read_bytes()
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04\x95 not a safetensors file")
    with pytest.raises(ModelError, match="never opened"):
        models.load_model(tmp_path / "pickle.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError):
        models.load_model(path)


def test_store_refuses_a_mismatch(tmp_path):
    tiles, frame = _store(tmp_path, np.random.default_rng(0), n_slides=2)
    assert tiles.read([5, 0]).shape == (2, 48, 48, 3)
    with pytest.raises(InputError, match="does not match"):
        store.TileStore(tmp_path, frame.iloc[:-1])
    with pytest.raises(InputError, match="cannot be read"):
        store.TileStore(tmp_path, frame.assign(slide_id="gone"))
    with pytest.raises(InputError, match="No tile"):
        store.TileStore(tmp_path, frame.iloc[:0])
