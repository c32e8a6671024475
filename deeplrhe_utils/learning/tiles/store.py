"""The tile store: normalized tiles as one ``.npy`` array per slide, read through memory maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import atomic_path, safe_name, sha256_file, sha256_text
from deeplrhe_utils.core.seeds import generator

_OPEN: Final = 64


def store_path(folder: Path, slide_id: str) -> Path:
    """File of one slide's tiles inside a store."""
    return folder / f"{safe_name(slide_id)}.npy"


def write_tiles(folder: Path, slide_id: str, tiles: NDArray[np.uint8]) -> Path:
    """Write one slide's tiles (n, H, W, 3), uint8 RGB, atomically; return the file."""
    path = store_path(folder, slide_id)
    with atomic_path(path) as part:
        np.save(part, tiles, allow_pickle=False)
    return path


@cache
def _hashed(path: Path, *_: int) -> str:
    """A file's SHA-256, read once per process and version."""
    return sha256_file(path)


def _version(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


class TileStore:
    """All selected tiles of a cohort, addressed by one running index.

    Parameters
    ----------
    folder : written by :func:`write_tiles`
    tiles : selected rows of the tiles table, grouped by slide; each slide's array holds its tiles in this order

    Attributes
    ----------
    side_px : side of a stored tile [px]
    tile_ids : name of each tile
    """

    def __init__(self, folder: Path, tiles: pd.DataFrame) -> None:
        self.folder = folder
        self.tile_ids: list[str] = []
        self._files: list[Path] = []
        # few files stay open at a time: a cohort has more slides than a process may have open files
        load = partial(np.load, mmap_mode="r", allow_pickle=False)
        self._array: Callable[[Path], Any] = lru_cache(maxsize=_OPEN)(load)
        self._where: list[tuple[int, int]] = []
        for slide_id, rows in tiles.groupby("slide_id", sort=False):
            path = store_path(folder, str(slide_id))
            try:
                array = self._array(path)
            except (OSError, ValueError) as error:
                raise InputError(f"The stored tiles of slide {slide_id} cannot be read ({error})",
                                 fix="Run notebook 04 again") from error  # fmt: skip
            if len(array) != len(rows):
                raise InputError(f"The store of slide {slide_id} does not match the tiles table", got=len(array),
                                 expected=f"{len(rows)} tiles", fix="Run notebook 04 again")  # fmt: skip
            self.tile_ids += rows["tile_id"].astype(str).tolist()
            self._where += [(len(self._files), i) for i in range(len(array))]
            self._files.append(path)
        if not self._files:
            raise InputError("No tile was selected, so there is nothing to learn from",
                             fix="Loosen the filters of notebooks 02 and 03")  # fmt: skip
        self.side_px = int(self._array(self._files[0]).shape[1])

    def __len__(self) -> int:
        return len(self._where)

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Tiles (n, H, W, 3), uint8 RGB, in the order of `indices`."""
        return np.stack([self._array(self._files[f])[i] for f, i in (self._where[int(j)] for j in indices)])

    def fingerprint(self) -> str:
        """SHA-256 over the store's files, in order: changes when any stored pixel or the tile order changes."""
        return sha256_text("\n".join(_hashed(path, *_version(path)) for path in self._files))


class ShuffledStore(TileStore):
    """The same tiles with their pixels in random order: all colours, no structure. A negative control.

    Parameters
    ----------
    seed : with a tile's name it fixes the order of its pixels, whoever reads it
    """

    def __init__(self, store: TileStore, seed: int) -> None:
        vars(self).update(vars(store))
        self._seed = seed

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """As :meth:`TileStore.read`, each tile's pixels in its own random order."""
        tiles = super().read(indices)
        mixed = [generator(self._seed, "shuffled pixels", self.tile_ids[int(i)]).permutation(tile.reshape(-1, 3))
                 for i, tile in zip(indices, tiles, strict=True)]  # fmt: skip
        return np.stack(mixed).reshape(tiles.shape)

    def fingerprint(self) -> str:
        """As :meth:`TileStore.fingerprint`, and different from that of the store itself."""
        return sha256_text(f"{super().fingerprint()}\nshuffled pixels {self._seed}")


def tile_targets(tiles: pd.DataFrame, labels: pd.DataFrame, genes: Sequence[str]) -> NDArray[np.float32]:
    """(n_tiles, n_genes) of 1, 0 and NaN (not profiled, or a patient without labels), in the order of `tiles`."""
    wide = labels.pivot(index="patient_id", columns="gene", values="status")
    rows = wide.reindex(index=tiles["patient_id"], columns=list(genes))
    return rows.to_numpy(dtype=np.float32, na_value=np.nan)


def prediction_rows(
    tiles: pd.DataFrame,
    genes: Sequence[str],
    scores: NDArray[np.float32],
    usable: NDArray[np.bool_],
    fold: int,
    model_hash: str,
) -> pd.DataFrame:
    """Rows of the predictions table from a score matrix (n_tiles, n_genes); genes not `usable` get null scores."""
    known = np.where(usable, scores, np.nan).astype(np.float64)
    keys = tiles[["tile_id", "slide_id", "patient_id"]]
    parts = [
        keys.assign(gene=gene, fold=fold, score=known[:, i], model_hash=model_hash) for i, gene in enumerate(genes)
    ]
    return pd.concat(parts, ignore_index=True)


def patient_rows(predictions: pd.DataFrame, method: str) -> pd.DataFrame:
    """Rows of table RIVALS from table PREDICTIONS: the mean over each patient's tiles, null where none has a score."""
    keys = ["patient_id", "gene", "fold", "model_hash"]
    return predictions.groupby(keys, as_index=False)["score"].mean().assign(method=method)


def bag_predictions(scores: pd.DataFrame, tiles: pd.DataFrame) -> pd.DataFrame:
    """Table PREDICTIONS from scores of whole patients (table RIVALS): a row per patient and gene, named by the patient.

    Parameters
    ----------
    tiles : tells a slide of each patient; patients without a tile are left out
    """
    slide = tiles.drop_duplicates("patient_id").set_index("patient_id")["slide_id"]
    own = scores[scores["patient_id"].isin(slide.index)]
    keys = own.assign(tile_id=own["patient_id"], slide_id=own["patient_id"].map(slide))
    return keys[["tile_id", "slide_id", "patient_id", "gene", "fold", "score", "model_hash"]].reset_index(drop=True)
