"""Where label-free tile features come from: the bank, an encoder with weights from elsewhere, or a file."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.seeds import integer_seed
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.text import Countdown
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, build_network
from deeplrhe_utils.learning.probes.bank import FEATURES, tile_bank
from deeplrhe_utils.learning.scoring.features import tile_features
from deeplrhe_utils.learning.tiles.store import TileStore
from deeplrhe_utils.slides.tiles.pixels import one_opencv_thread

BANK: Final = "bank"
TABLE_SUFFIXES: Final = (".parquet", ".csv")
"""Of a file of features; it knows the tiles of this run as they are, and no others of the same name."""
UNKNOWN_MPP: Final = 0.5
"""Resolution that tiles without one are given [µm/px]: "micrometres" of the bank are then half pixels."""


def bank_table(store: TileStore, mpp: float, *, only: Iterable[int] | None = None, workers: int = 2) -> pd.DataFrame:
    """The bank of every stored tile (or of those numbered in `only`), a row each by tile_id."""
    numbers = list(range(len(store)) if only is None else only)
    progress = Countdown("tiles described", len(numbers), brief=True)
    rows = []
    with one_opencv_thread(), ThreadPoolExecutor(workers, "bank") as pool:
        for row in pool.map(lambda i: tile_bank(store.read([i])[0], mpp or UNKNOWN_MPP), numbers):
            rows.append(row)
            progress.step()
    index = pd.Index([store.tile_ids[i] for i in numbers], name="tile_id")
    return pd.DataFrame(np.array(rows).reshape(-1, len(FEATURES)), index=index, columns=list(FEATURES))


def feature_table(
    source: str, store: TileStore, mpp: float, *, only: Iterable[int] | None = None, weights: str = "imagenet",
    seed: int = 0, device: str = "auto",
) -> pd.DataFrame:  # fmt: skip
    """Label-free features of every stored tile (or of those numbered in `only`), a row each by tile_id.

    Parameters
    ----------
    source : "bank"; a .parquet or .csv file with tile_id and numbers; else the name of an architecture (timm/…)
    mpp : resolution of the stored tiles [µm/px], 0 where it is not known
    weights, seed, device : of an encoder; seed matters where `weights` is none

    Raises InputError: a file lacks a tile, names one twice, or holds something that is no finite number.
    """
    if source == BANK:
        return bank_table(store, mpp, only=only)
    numbers = list(range(len(store)) if only is None else only)
    names = [store.tile_ids[i] for i in numbers]
    if source.endswith(TABLE_SUFFIXES):
        return _from_file(Path(source), names)
    torch.manual_seed(integer_seed(seed, "backbone"))
    network = build_network(NetworkConfig(("none",), architecture=source, weights=weights))
    found = tile_features(network, lambda i: store.read([numbers[k] for k in i]), len(numbers), device=device)
    return pd.DataFrame(found, index=pd.Index(names, name="tile_id")).rename(columns=str)


def _from_file(path: Path, tile_ids: list[str]) -> pd.DataFrame:
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else read_foreign(path)
    if "tile_id" not in frame or frame["tile_id"].duplicated().any():
        raise InputError(f"The features {path} do not name each tile once", got=", ".join(map(str, frame.columns[:5])),
                         expected="a column tile_id without repeats, and numbers")  # fmt: skip
    frame = frame.set_index(frame["tile_id"].astype(str)).drop(columns="tile_id").rename_axis("tile_id")
    if missing := [name for name in tile_ids if name not in frame.index]:
        got = f"{len(missing)} of {len(tile_ids)} missing"
        raise InputError(f"The features {path} lack tiles of this run", got=got,
                         expected=f"a row for {missing[0]}")  # fmt: skip
    values = frame.loc[tile_ids].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(values.to_numpy(np.float64)).all():
        raise InputError(f"The features {path} hold something that is no finite number", fix="Leave that column out")
    return values
