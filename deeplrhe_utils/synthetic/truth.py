"""The truth of a synthetic slide: where things are, and what was drawn in each tile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import affine_transform
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.files import atomic_path, write_json
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.truth import TRUTH_TILES
from deeplrhe_utils.core.units import exact_ratio
from deeplrhe_utils.synthetic.paint.artefacts import ARTEFACT_KINDS, Artefact
from deeplrhe_utils.synthetic.paint.regions import COARSE
from deeplrhe_utils.synthetic.paint.tissue import Tissue

if TYPE_CHECKING:
    import pandas as pd

TILE_MPP: Final = 0.5  # truth tiles are laid at 0.5 µm/px, as notebook 02 lays its candidates
_COLOURS: Final = {"Tumor": [200, 0, 0], "Subclone": [150, 0, 200]}
_SHARES: Final = ("tumour", "subclone", *ARTEFACT_KINDS)


def feature(outline: BaseGeometry, name: str, **properties: Any) -> dict[str, Any]:
    """One QuPath annotation; coordinates rounded to 0.1 px."""
    kind = {"name": name, "color": _COLOURS.get(name, [90, 90, 90])}
    about = {"objectType": "annotation", "name": name, "classification": kind, **properties}
    return {"type": "Feature", "geometry": mapping(shapely.set_precision(outline, 0.1)), "properties": about}


def write_outlines(path: Path, features: list[dict[str, Any]]) -> Path:
    """A QuPath FeatureCollection in level-0 px, atomically."""
    return write_json(path, {"type": "FeatureCollection", "features": features})


def to_level0(outline: BaseGeometry, scale: int, offset: tuple[int, int]) -> BaseGeometry:
    """Canvas px → level-0 px."""
    return affine_transform(outline, [scale, 0, 0, scale, *offset])


def drawn_outline(outline: BaseGeometry, error_px: float, rng: np.random.Generator) -> BaseGeometry:
    """An outline as a careful hand would draw it: slightly beside the true one.

    Parameters
    ----------
    outline : shapely geometry of polygons
    error_px : standard deviation of the distance between drawn and true line [px of `outline`]; 0 gives it unchanged
    """
    if error_px == 0 or outline.is_empty:
        return outline
    parts = []
    for part in getattr(outline, "geoms", [outline]):
        ring = shapely.get_coordinates(part.exterior)[:-1]
        along = np.roll(ring, -1, axis=0) - np.roll(ring, 1, axis=0)
        angle = np.cumsum(steps := np.hypot(*along.T)) / steps.sum() * 2 * np.pi
        orders, error = np.arange(1, 9), min(error_px, 0.12 * np.sqrt(part.area))  # a crumb is drawn with more care
        waves = rng.normal(0, 1, (2, len(orders), 1))
        wobble = (waves[0] * np.cos(orders[:, None] * angle) + waves[1] * np.sin(orders[:, None] * angle)).sum(axis=0)
        outwards = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.maximum(steps, 1e-9)[:, None]
        parts.append(shapely.Polygon(ring + outwards * (wobble * error / np.sqrt(len(orders)))[:, None]).buffer(0))
    return shapely.union_all(parts)


class SlideTruth:
    """Collects the truth of one slide, section by section.

    Parameters
    ----------
    size_l0_px : (width, height)
    mpp : level-0 resolution [µm/px]
    tile_px : side of a truth tile [px at 0.5 µm/px]
    scale : level-0 px per canvas px
    """

    def __init__(self, slide_id: str, size_l0_px: tuple[int, int], mpp: float, tile_px: int, scale: int) -> None:
        self._slide_id, self._mpp, self._scale = slide_id, mpp, scale
        self._side = tile_px * exact_ratio(TILE_MPP, mpp)
        self._columns, self._rows = (int(length / self._side) for length in size_l0_px)
        n = self._columns * self._rows
        self._area = {name: np.zeros(n) for name in (*_SHARES, "tissue", "room")}
        self._sums = {name: np.zeros(n) for name in ("tumour_nuclei", "nuclear_area", "lymphocytes")}
        row, column = np.divmod(np.arange(n), max(self._columns, 1))
        corners = np.stack([column, row, column + 1, row + 1], axis=1) * float(self._side)
        self._boxes = shapely.box(*corners.T)
        self._tree = shapely.STRtree(self._boxes)
        self.features: list[dict[str, Any]] = []

    def add(self, tissue: Tissue, artefacts: list[Artefact], offset: tuple[int, int]) -> None:
        """Count one section whose top left corner lies at `offset` [level-0 px]."""
        regions = tissue.regions
        none: dict[str, float] = {}
        shapes = [("tumour", "Tumor", regions.tumour_outline, none)]
        shapes += [("subclone", "Subclone", regions.subclone_outline, none)]
        shapes += [(a.kind, f"Artefact: {a.kind}", a.outline, {"strength": a.strength}) for a in artefacts]
        kinds: dict[str, list[BaseGeometry]] = {}
        for key, name, outline, properties in shapes:
            if not outline.is_empty:
                placed = to_level0(outline, self._scale, offset)
                self.features.append(feature(placed, name, **properties))
                kinds.setdefault(key, []).append(placed)
        for key, placed in kinds.items():
            whole = shapely.union_all(placed)  # two that overlap cover their common part once
            touched = self._tree.query(whole)
            self._area[key][touched] += shapely.area(shapely.intersection(self._boxes[touched], whole))
        self._count("tumour_nuclei", tissue.tumour_nuclei.x_px, tissue.tumour_nuclei.y_px, offset)
        areas = tissue.tumour_nuclei.area_um2
        self._count("nuclear_area", tissue.tumour_nuclei.x_px, tissue.tumour_nuclei.y_px, offset, areas)
        self._count("lymphocytes", tissue.lymphocytes.x_px, tissue.lymphocytes.y_px, offset)
        self._mask_area("room", tissue.cell_room, offset)
        self._mask_area("tissue", regions.tissue * (1 - regions.open_space) > 0.5, offset)

    def _tiles_of(self, x: NDArray[Any], y: NDArray[Any], offset: tuple[int, int]) -> NDArray[np.int64]:
        """Tile index of canvas points; -1 outside the grid."""
        column = ((x * self._scale + offset[0]) / float(self._side)).astype(np.int64)
        row = ((y * self._scale + offset[1]) / float(self._side)).astype(np.int64)
        inside = (column < self._columns) & (row < self._rows)
        return np.where(inside, row * self._columns + column, -1)

    def _count(
        self, name: str, x: NDArray[np.float64], y: NDArray[np.float64], offset: tuple[int, int],
        weight: NDArray[np.float64] | None = None,
    ) -> None:  # fmt: skip
        tile = self._tiles_of(x, y, offset)
        inside = tile >= 0
        n = len(self._sums[name])
        self._sums[name] += np.bincount(tile[inside], None if weight is None else weight[inside], minlength=n)

    def _mask_area(self, name: str, mask: NDArray[np.bool_], offset: tuple[int, int]) -> None:
        y, x = np.nonzero(mask)
        tile = self._tiles_of((x + 0.5) * COARSE, (y + 0.5) * COARSE, offset)
        cells = np.bincount(tile[tile >= 0], minlength=len(self._area[name]))
        self._area[name] += cells * (COARSE * self._scale) ** 2

    def table(self, chromatin_contrast: float | None) -> pd.DataFrame:
        """Rows of table TRUTH_TILES; `chromatin_contrast` is null at 20×, where the detail does not exist."""
        import pandas as pd

        side, sums = float(self._side), self._sums
        row, column = np.divmod(np.arange(len(self._boxes)), max(self._columns, 1))
        frame = pd.DataFrame({"slide_id": self._slide_id, "column": column, "row": row})
        frame["tile_id"] = [f"{self._slide_id}_{c}_{r}" for c, r in zip(column, row, strict=True)]
        frame["x_l0_px"] = [int(c * self._side) for c in column.tolist()]
        frame["y_l0_px"] = [int(r * self._side) for r in row.tolist()]
        frame["size_l0_px"] = side
        for name in ("tissue", *_SHARES):
            frame[f"{name}_fraction"] = np.minimum(self._area[name] / side**2, 1)
        frame["n_tumour_nuclei"], frame["n_lymphocytes"] = (
            sums[k].astype(np.int64) for k in ("tumour_nuclei", "lymphocytes")
        )
        room_mm2 = self._area["room"] * (self._mpp / 1000) ** 2
        cells = sums["tumour_nuclei"] + sums["lymphocytes"]
        frame["nuclear_area_um2"] = _ratio(sums["nuclear_area"], sums["tumour_nuclei"])
        frame["nuclear_density_per_mm2"] = _ratio(sums["tumour_nuclei"], np.where(room_mm2 > 1e-3, room_mm2, 0))
        frame["lymphocyte_share"] = _ratio(sums["lymphocytes"], cells)
        frame["chromatin_contrast"] = chromatin_contrast
        return conform(frame, TRUTH_TILES)

    def write(self, folder: Path, chromatin_contrast: float | None) -> list[Path]:
        """Write ``<slide_id>.geojson`` (masks, level-0 px) and ``<slide_id>.parquet`` (tiles)."""
        masks = write_outlines(folder / f"{self._slide_id}.geojson", self.features)
        tiles = folder / f"{self._slide_id}.parquet"
        with atomic_path(tiles) as part:
            self.table(chromatin_contrast).to_parquet(part, index=False)
        return [masks, tiles]


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Element-wise quotient, NaN where `below` is 0."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
