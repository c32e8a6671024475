"""What every stain method can do, and what it plans to do with one slide."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.files import sha256_text

Tile = NDArray[np.uint8]


class StainMethod(Protocol):
    """What every method can do; statistics and maps are the method's own, small, and written as JSON."""

    @property
    def name(self) -> str:
        """Name of the method."""

    def measure(self, tiles: Sequence[Tile]) -> Any:
        """Statistics of one slide (with ``tissue_px``); :class:`StainError` without tissue."""

    def read(self, record: dict[str, Any]) -> Any:
        """Statistics from their JSON record."""

    def map_to(self, source: Any, reference: Any) -> Any:
        """The map between two slides."""

    def apply(self, stain_map: Any, tile: Tile) -> Tile:
        """One normalized tile."""


@dataclass(frozen=True)
class Plan:
    """How one slide's tiles are normalized; call it with a tile.

    Attributes
    ----------
    note : whose statistics are used, or why tiles are left unchanged
    warnings : what is unusual about the slide
    record : the map as JSON, or None where there is none
    n_used, n_skipped : tiles that gave statistics, and that had too little tissue to
    """

    note: str
    paint: Callable[[Tile], Tile]
    warnings: tuple[str, ...] = ()
    record: dict[str, Any] | None = None
    n_used: int = 0
    n_skipped: int = 0

    def __call__(self, tile: Tile) -> Tile:
        """The normalized tile, uint8 RGB (H, W, 3)."""
        return self.paint(tile)

    @property
    def changes(self) -> bool:
        """Whether tiles are changed at all."""
        return self.record is not None

    def digest(self) -> str:
        """Sixteen hex digits of the map, "none" without one."""
        return "none" if self.record is None else sha256_text(json.dumps(self.record, sort_keys=True))[:16]
