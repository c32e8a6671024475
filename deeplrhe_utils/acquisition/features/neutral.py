"""The neutral form of one slide's vectors: where each comes from, in what unit, and how they are read without loading.

A slide's file may hold 100,000 vectors of 1,536 numbers; they pass through memory in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError

L0_PX: Final = "l0_px"
UM: Final = "um"
BLOCK_ROWS: Final = 4096
"""Vectors that are read at once."""
FULL_POWER_UM: Final = 10.0
"""µm/px times objective power: what a nominal magnification means, 40x = 0.25 µm/px."""


@dataclass(frozen=True)
class SlideVectors:
    """The vectors of one slide.

    Attributes
    ----------
    slide_id, path : the slide's name, and the file that holds its vectors
    layout : name of the program whose layout it is
    encoder : as the file or its folder declares it; empty where nothing does
    count, width, dtype : vectors, numbers in each, and their type in the file
    places : (count, 2) or None: upper left corner of each tile, x before y, as the file has it
    unit : of the places times `step`: :data:`L0_PX`, :data:`UM`, or empty where the file does not tell
    step : units in one number of the file (STAMP's first files counted 224 to 256 µm)
    size : side of a tile, in the same unit; NaN where the file does not tell
    power : magnification of level 0 that the file declares; NaN without
    about : what else the file declares, by its own names
    notes : what a reader should know, a sentence each
    blocks : reads the vectors, from the first, in blocks of the file's type
    """

    slide_id: str
    path: Path
    layout: str
    count: int
    width: int
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[NDArray[Any]]]
    encoder: str = ""
    places: NDArray[Any] | None = None
    unit: str = ""
    step: float = 1.0
    size: float = float("nan")
    power: float = float("nan")
    about: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def read(self) -> NDArray[Any]:
        """All vectors, (count, width), of the file's type."""
        out, at = np.empty((self.count, self.width), self.dtype), 0
        for block in self.blocks():
            out[at : at + len(block)] = block
            at += len(block)
        if at != self.count:
            raise InputError(f"{self.path} changed while it was read", got=f"{at} vectors", expected=str(self.count))
        return out

    def size_um(self, mpp: float | None = None) -> float:
        """Side of a tile [µm]: as told, else by the slide's `mpp`, else by the declared magnification; NaN without."""
        if self.unit == UM:
            return self.size
        return self.size * (FULL_POWER_UM / self.power if mpp is None else mpp) if self.unit else float("nan")

    def windows(self, mpp: float | None = None) -> pd.DataFrame:
        """Places on the slide: x_l0_px, y_l0_px, size_l0_px, float64, a row per vector.

        Parameters
        ----------
        mpp : level-0 resolution of the slide [µm/px], which places in µm need

        Raises InputError: the file tells no places, or no unit, or they are in µm and `mpp` is unknown.
        """
        if self.places is None:
            raise InputError(f"{self.path} does not tell where its vectors come from", expected="coordinates of tiles")
        if not self.unit or np.isnan(self.size):
            raise InputError(f"{self.path} tells where its {self.layout} tiles begin, but not how large they are",
                             fix="Give the folder of CLAM's patch files, which hold patch_size and patch_level, as "
                             "--patches")  # fmt: skip
        if self.unit == UM and mpp is None:
            raise InputError(f"{self.path} counts in µm, and the resolution of slide {self.slide_id} is not known",
                             fix="Give the folder of the slides as --slides")  # fmt: skip
        scale = self.step / float(mpp) if self.unit == UM and mpp else self.step
        x, y = np.asarray(self.places, np.float64).T * scale
        side = self.size / float(mpp) if self.unit == UM and mpp else self.size
        return pd.DataFrame({"x_l0_px": x, "y_l0_px": y, "size_l0_px": side})


def axis_gaps(places: NDArray[Any]) -> NDArray[np.float64]:
    """Distances of neighbouring columns, and of neighbouring rows, of tiles at `places` (n, 2)."""
    return np.concatenate([np.diff(np.unique(column)) for column in np.asarray(places, np.float64).T])


def whole_array(array: NDArray[Any]) -> Callable[[], Iterator[NDArray[Any]]]:
    """Blocks of an array that is in memory, or mapped into it."""
    return lambda: (np.asarray(array[i : i + BLOCK_ROWS]) for i in range(0, len(array), BLOCK_ROWS))
