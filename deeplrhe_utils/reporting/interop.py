"""Files for other programs: tile scores as QuPath GeoJSON, in level-0 pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplrhe_utils.core.files import write_text

if TYPE_CHECKING:
    import pandas as pd


def write_qupath(tiles: pd.DataFrame, path: Path) -> Path:
    """Write tiles with measurements as a QuPath feature collection (drag it onto the slide in QuPath).

    Parameters
    ----------
    tiles : DataFrame
        Columns tile_id, x_l0_px, y_l0_px, size_l0_px, and one column per gene with scores (NaN is left out).
    """
    genes = [c for c in tiles.columns if c not in {"tile_id", "x_l0_px", "y_l0_px", "size_l0_px"}]
    features = [_feature(row, genes) for row in tiles.to_dict("records")]
    collection = {"type": "FeatureCollection", "features": features}
    return write_text(path, json.dumps(collection, allow_nan=False, separators=(",", ":")) + "\n")


def _feature(row: dict[str, Any], genes: list[str]) -> dict[str, Any]:
    x, y, size = float(row["x_l0_px"]), float(row["y_l0_px"]), float(row["size_l0_px"])
    ring = [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]
    measured = {f"{gene} probability": float(row[gene]) for gene in genes if row[gene] == row[gene]}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "tile", "name": str(row["tile_id"]), "measurements": measured},
    }
