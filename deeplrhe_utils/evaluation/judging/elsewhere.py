"""Another planted cohort, painted and read without a run folder: patients whom a finished run has never seen."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.learning.networks.deeplrhe import read_card
from deeplrhe_utils.learning.probes.bank import FEATURES, tile_bank
from deeplrhe_utils.learning.scoring.prediction import ScoreTask, score_slide, scorer_of
from deeplrhe_utils.slides.tiles.pixels import one_opencv_thread, read_pixels
from deeplrhe_utils.synthetic.plan import CohortPlan, CohortSpec
from deeplrhe_utils.synthetic.slide import slide_recipe, write_slide

_Drawn = tuple[dict[str, Any], pd.DataFrame]


def shifted(spec: CohortSpec, n_slides: int, seed: int) -> CohortSpec:
    """A cohort that differs from `spec` as another hospital's does, and in known ways.

    One laboratory that `spec` does not have (stain, camera, scanner), and the shares of the two diagnoses exchanged,
    hence other tissue and other shares of mutated patients. What a mutation does to tissue is the same.
    """
    return replace(spec, n_slides=n_slides, n_patients=0, seed=seed, n_sites=1, squamous_share=1 - spec.squamous_share,
                   normal_share=0.0, n_showcase=0)  # fmt: skip


@contextmanager
def _painted(plan: CohortPlan, slide_id: str, most: int) -> Iterator[_Drawn]:
    """A slide's row and at most `most` of its tiles that are at least half tumour; the draw depends on its name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_slide(plan, slide_id, folder, folder)
        tiles = pd.read_parquet(folder / f"{slide_id}.parquet").query("tumour_fraction >= 0.5")
        order = generator(plan.spec.seed, "tiles", slide_id).permutation(len(tiles))[:most]
        tiles = tiles.iloc[np.sort(order)].assign(path=None, kept=True, selected=True)
        row = {
            "path": str(path),
            "slide_id": slide_id,
            "mpp": slide_recipe(plan, slide_id).mpp,
            "mpp_source": "metadata",
        }
        yield row, tiles


def planted_tiles(plan: CohortPlan, slide_id: str, most: int, side_px: int) -> list[NDArray[np.uint8]]:
    """At most `most` tiles of a planted slide that are at least half tumour, uint8 RGB (side_px, side_px, 3)."""
    with _painted(plan, slide_id, most) as (row, tiles):
        return list(read_pixels(row, tiles, side_px))


def told_elsewhere(
    plan: CohortPlan, slide_id: str, *, most: int, side_px: int, models: Sequence[Path] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What probes and frozen networks are told by a slide, painted into a folder that is thrown away.

    Parameters
    ----------
    most : tiles, at least half of them tumour
    side_px : side at which a tile is described [px]
    models : files that notebook 05 wrote

    Returns
    -------
    features : DataFrame
        The bank (`FEATURES`) of each tile and its patient_id.
    scores : DataFrame
        patient_id, gene, model, score: the mean over tiles, per network.
    """
    patient = str(plan.slides.set_index("slide_id").loc[slide_id, "patient_id"])
    parts = [pd.DataFrame(columns=["patient_id", "gene", "model", "score"])]
    with _painted(plan, slide_id, most) as (row, tiles):
        pixels = read_pixels(row, tiles, side_px)
        with one_opencv_thread():
            rows = [tile_bank(tile, plan.spec.tile_px * 0.5 / side_px) for tile in pixels]
        # planted patients of two cohorts can have one name, and none of these was learned from
        who = row | {"patient_id": f"elsewhere {patient}"}
        for file in models if len(tiles) else ():
            scorer = scorer_of(read_card(file), 0.5, plan.spec.tile_px, device="cpu", threads=1)
            found = score_slide(ScoreTask(who, tiles, file, scorer))
            mean = pd.DataFrame(found.scores, columns=list(found.genes)).mean()
            parts.append(
                mean.rename_axis("gene").rename("score").reset_index().assign(patient_id=patient, model=file.stem)
            )
    features = pd.DataFrame(np.array(rows).reshape(-1, len(FEATURES)), columns=list(FEATURES)).assign(
        patient_id=patient
    )
    return features, pd.concat(parts, ignore_index=True)
