"""A small tile store whose first target can be seen, for tests of training."""

import numpy as np
import pandas as pd

from deeplrhe_utils.learning.tiles import store


def write_store(folder, random, n_slides=6, n_tiles=4):
    """A store of bright and dark slides in turn, one per patient, and its table."""
    rows = []
    for s in range(n_slides):
        bright = 90 if s % 2 else 170
        tiles = random.integers(bright - 30, bright + 30, (n_tiles, 48, 48, 3)).astype(np.uint8)
        store.write_tiles(folder, f"S{s}", tiles)
        rows += [{"tile_id": f"S{s}_{t}", "slide_id": f"S{s}", "patient_id": f"P{s}"} for t in range(n_tiles)]
    frame = pd.DataFrame(rows)
    return store.TileStore(folder, frame), frame


def small_store(folder):
    """Six patients: target X is the brightness, Y always 1, Z unknown; (store, table, targets)."""
    tiles, frame = write_store(folder / "tiles", np.random.default_rng(0))
    labels = pd.DataFrame(
        [
            {"patient_id": f"P{s}", "gene": g, "status": v}
            for s in range(6)
            for g, v in (("X", s % 2), ("Y", 1), ("Z", None))
        ]
    )
    labels["status"] = labels["status"].astype("Int64")
    return tiles, frame, store.tile_targets(frame, labels, ["X", "Y", "Z"])


def folds_of(frame):
    """Two folds by patient, in the columns of table SPLITS that matter."""
    names = sorted(frame["patient_id"].unique())
    rows = [(f, p, "test" if i % 2 == f else "train") for f in (0, 1) for i, p in enumerate(names)]
    return pd.DataFrame(rows, columns=["fold", "unit_id", "role"])


def both_classes(frame):
    """Targets whose classes are in both of `folds_of`'s halves."""
    status = frame["patient_id"].str[1:].astype(int).to_numpy() // 2 % 2
    return np.repeat(status[:, None], 3, axis=1).astype(np.float32)
