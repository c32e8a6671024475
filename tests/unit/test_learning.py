"""The residual identity, the tile store, and models that refuse what they must not score."""

import os

import numpy as np
import pandas as pd
import pytest
import torch

from deeplrhe_utils.core.errors import InputError, ModelError
from deeplrhe_utils.learning.networks import deeplrhe
from deeplrhe_utils.learning.recipes import losses
from deeplrhe_utils.learning.tiles import store
from tests.tile_store import write_store


def test_residual_block_is_the_identity_of_the_paper():
    """C[l+2] = σ(B[l+2] + C[l]) with B[l+2] = 0 gives C[l] wherever C[l] ≥ 0 (paper, Residual Network)."""
    block = deeplrhe.ResidualBlock(4, 4, 1, residual=True, batch_norm=False).eval()
    torch.nn.init.zeros_(block.second.weight)
    torch.nn.init.zeros_(block.second.bias)
    c = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(c.clamp_min(0)), c.clamp_min(0))
    assert torch.equal(block(c), torch.relu(c))
    without = deeplrhe.ResidualBlock(4, 4, 1, residual=False, batch_norm=False).eval()
    torch.nn.init.zeros_(without.second.weight)
    torch.nn.init.zeros_(without.second.bias)
    assert float(without(c).abs().sum()) == 0


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_first_stage_has_the_papers_kernels(kernel_size, batch_norm):
    config = deeplrhe.NetworkConfig(("A", "B"), kernel_size=kernel_size, batch_norm=batch_norm)
    net = deeplrhe.DeepLrhe(config)
    assert tuple(net.stem[0].weight.shape) == (32, 3, kernel_size, kernel_size)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) is batch_norm
    assert net.eval()(torch.rand(2, 3, 65, 70)).shape == (2, 2)


def test_layer_table_counts_every_weight():
    net = deeplrhe.DeepLrhe(deeplrhe.NetworkConfig(("A",)))
    assert sum(n for *_, n in deeplrhe.layer_table(net, 64)) == sum(p.numel() for p in net.parameters())


def test_targets_repeat_the_patient_and_keep_null(small):
    _, frame, y = small
    assert y.shape == (24, 3) and np.isnan(y[:, 2]).all()
    assert (y[:, 0] == frame["slide_id"].str[1:].astype(int) % 2).all()
    assert losses.trainable_targets(y).tolist() == [True, False, False]


def test_leak_alarm(tmp_path):
    path = tmp_path / "m.safetensors"
    deeplrhe.save_model(
        deeplrhe.DeepLrhe(deeplrhe.NetworkConfig(("X",))), path, trained_on=["PATIENT-ONE"], card={"usable": [True]}
    )
    assert deeplrhe.load_model(path, score_patients=["P2"])[1]["usable"] == [True]
    with pytest.raises(ModelError, match="trained on 1 patients it is asked to score"):
        deeplrhe.load_model(path, score_patients=["P2", "PATIENT-ONE"])
    assert b"PATIENT-ONE" not in path.read_bytes()
    tumour = tmp_path / "tumour.safetensors"
    network = deeplrhe.DeepLrhe(deeplrhe.NetworkConfig(("X",)))
    deeplrhe.save_model(network, tumour, trained_on=["TCGA-05-4244-01"], card={})
    for unit in ("TCGA-05-4244-11", "TCGA-05-4244"):  # normal tissue of the same patient, or the patient
        with pytest.raises(ModelError, match="asked to score"):
            deeplrhe.load_model(tumour, score_patients=[unit])


def test_store_refuses_a_mismatch(tmp_path):
    tiles, frame = write_store(tmp_path, np.random.default_rng(0), n_slides=2)
    assert tiles.read([5, 0]).shape == (2, 48, 48, 3)
    with pytest.raises(InputError, match="does not match"):
        store.TileStore(tmp_path, frame.iloc[:-1])
    with pytest.raises(InputError, match="cannot be read"):
        store.TileStore(tmp_path, frame.assign(slide_id="gone"))
    with pytest.raises(InputError, match="No tile"):
        store.TileStore(tmp_path, frame.iloc[:0])


def test_a_store_is_hashed_once_per_process_and_again_when_it_changes(tmp_path):
    tiles = pd.DataFrame({"slide_id": ["a", "a"], "tile_id": ["a1", "a2"]})
    file = store.write_tiles(tmp_path, "a", np.zeros((2, 8, 8, 3), np.uint8))
    first, times = store.TileStore(tmp_path, tiles).fingerprint(), file.stat()
    with file.open("r+b") as stream:  # behind the back of size and time: what is not read again cannot be seen
        stream.seek(-1, os.SEEK_END)
        stream.write(b"x")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.TileStore(tmp_path, tiles).fingerprint() == first
    store.write_tiles(tmp_path, "a", np.ones((2, 8, 8, 3), np.uint8))
    assert store.TileStore(tmp_path, tiles).fingerprint() != first
