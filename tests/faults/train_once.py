"""Train a small network in a folder: ``python -m tests.faults.train_once FOLDER``, to be killed and started again."""

import sys
from pathlib import Path

import numpy as np
import torch

from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig
from deeplrhe_utils.learning.recipes.recipe import TrainConfig
from deeplrhe_utils.learning.tiles.store import TileStore
from deeplrhe_utils.learning.training.fold import Job, fit_part
from deeplrhe_utils.learning.training.trainer import Part
from tests.tile_store import write_store

RECIPE = TrainConfig(40, 8, crop_px=32, ema=0.9, stain_jitter=0.1, precision="float32", checkpoint_seconds=0)


def train(folder: Path) -> str:
    """Hash of the model file, which depends on every bit of weights and card."""
    torch.set_num_threads(1)
    if not (folder / "tiles").is_dir():
        write_store(folder / "tiles", np.random.default_rng(0))
    _, frame = write_store(folder / "again", np.random.default_rng(0))
    y = np.repeat(np.arange(6) % 2, 4)[:, None].astype(np.float32)
    nobody = Part(np.arange(0), y[:0])
    parts = {"train": Part(np.arange(24), y, frame["patient_id"].tolist()), "valid": nobody, "test": nobody}
    job = Job(NetworkConfig(("X",), kernels=8, stages=1, dropout=0.2), RECIPE, 1, {}, {}, "cpu")
    fitted = fit_part(job, TileStore(folder / "tiles", frame), parts, folder / "fold-0.safetensors", 0)
    return fitted.model_hash


if __name__ == "__main__":
    print("hash", train(Path(sys.argv[1])))
