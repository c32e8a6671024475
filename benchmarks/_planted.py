"""Tiles of planted slides, painted into a folder that is thrown away."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.learning.probes.bank import FEATURES, tile_bank
from deeplrhe_utils.slides.tiles.pixels import one_opencv_thread, read_pixels
from deeplrhe_utils.synthetic.plan import CohortPlan
from deeplrhe_utils.synthetic.slide import slide_recipe, write_slide


def planted_tiles(plan: CohortPlan, slide_id: str, most: int, side_px: int) -> list[np.ndarray]:
    """At most `most` tiles of a slide, uint8 RGB, that are at least half tumour; the draw depends on its name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_slide(plan, slide_id, folder, folder)
        tiles = pd.read_parquet(folder / f"{slide_id}.parquet").query("tumour_fraction >= 0.5").assign(path=None)
        order = generator(plan.spec.seed, "tiles", slide_id).permutation(len(tiles))[:most]
        row = {"path": str(path), "mpp": slide_recipe(plan, slide_id).mpp}
        return read_pixels(row, tiles.iloc[np.sort(order)], side_px)


def described(plan: CohortPlan, slide_id: str, most: int, side_px: int) -> pd.DataFrame:
    """The bank of label-free features of :func:`planted_tiles`, and the patient_id of each."""
    tiles = planted_tiles(plan, slide_id, most, side_px)
    with one_opencv_thread():
        rows = [tile_bank(tile, plan.spec.tile_px * 0.5 / side_px) for tile in tiles]
    patient = plan.slides.set_index("slide_id").loc[slide_id, "patient_id"]
    return pd.DataFrame(rows, columns=list(FEATURES)).assign(patient_id=patient)
