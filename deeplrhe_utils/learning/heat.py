"""Scores for heat maps: every kept window of a slide, by a network that did not train on its patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deeplrhe_utils.core.errors import InputError, LeakError, ModelError
from deeplrhe_utils.core.files import atomic_path, read_json, safe_name, write_json
from deeplrhe_utils.learning.models import DeepLrhe, load_model
from deeplrhe_utils.learning.training import score_arrays
from deeplrhe_utils.slides.pixels import open_row, read_pixels, shrink
from deeplrhe_utils.stain.dcgmm import ColourStatistics, apply
from deeplrhe_utils.stain.dcgmm_net import load_net
from deeplrhe_utils.stain.normalize import Normalizer

if TYPE_CHECKING:
    import pandas as pd

THUMBNAIL_PX = 480
_COORDINATES = ["tile_id", "slide_id", "x_l0_px", "y_l0_px", "size_l0_px"]


@dataclass
class SlideScores:
    """Window scores of some slides, with what is needed to draw them.

    Attributes
    ----------
    genes : targets that have a score on at least one slide
    windows : DataFrame
        tile_id, slide_id, x_l0_px, y_l0_px, size_l0_px and one column per gene (null: no network could score it).
    thumbnails : slide_id → uint8 RGB (h, w, 3)
    sizes : slide_id → (width, height) [level-0 px]
    examples : slide_id → one tile before and after normalization
    notes : what was left out, and why
    stored : read back from a folder; then :meth:`save` writes nothing, because JPEGs lose a little each time
    """

    genes: list[str]
    windows: pd.DataFrame
    thumbnails: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    examples: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stored: bool = False

    def save(self, folder: Path) -> list[Path]:
        """Write everything to `folder`, so that maps can be drawn where the slides are not; return the files."""
        if self.stored:
            return sorted(p for p in folder.iterdir() if p.is_file())
        table = folder / "windows.parquet"
        with atomic_path(table) as part:
            self.windows.to_parquet(part, index=False)
        written = [
            table,
            write_json(folder / "slides.json", {"genes": self.genes, "sizes": self.sizes, "notes": self.notes}),
        ]
        for name, picture in self.thumbnails.items():
            pictures = {"slide": picture, "tile": self.examples[name][0], "normalized": self.examples[name][1]}
            written += [_write_jpeg(heat_file(folder, name, f"-{kind}.jpg"), image) for kind, image in pictures.items()]
        return written


def heat_file(folder: Path, slide_id: str, ending: str) -> Path:
    """A file that belongs to one slide's heat map."""
    return folder / f"{safe_name(slide_id)}{ending}"


def _write_jpeg(path: Path, image: NDArray[np.uint8]) -> Path:
    with atomic_path(path) as part:
        Image.fromarray(image).save(part, "JPEG", quality=85)
    return path


def stored_scores(folder: Path) -> SlideScores:
    """Read what :meth:`SlideScores.save` wrote."""
    import pandas as pd

    if not (folder / "slides.json").is_file():
        raise InputError(f"There are no stored heat-map scores in {folder}", fix="Run notebook 07 where the slides are")
    facts = read_json(folder / "slides.json")
    stored = SlideScores(facts["genes"], pd.read_parquet(folder / "windows.parquet"), notes=facts["notes"], stored=True)
    for name, size in facts["sizes"].items():
        kinds = [
            np.asarray(Image.open(heat_file(folder, name, f"-{kind}.jpg"))) for kind in ("slide", "tile", "normalized")
        ]
        stored.thumbnails[name], stored.sizes[name] = kinds[0], (int(size[0]), int(size[1]))
        stored.examples[name] = (kinds[1], kinds[2])
    return stored


def load_normalizer(models: Path, *, minimum_tissue_px: float, covariance: str) -> Normalizer:
    """The colour network, reference and cohort statistics that notebook 04 left in `models`/04."""
    folder = models / "04"
    if not (folder / "dcgmm.safetensors").is_file():
        raise ModelError(f"The stain network of the model is missing: {folder}/dcgmm.safetensors",
                         fix="Keep the folders 04 and 05 of a run's models together")  # fmt: skip
    reference, cohort = (ColourStatistics.from_json(read_json(folder / f"{n}.json")) for n in ("reference", "cohort"))
    return Normalizer(load_net(folder / "dcgmm.safetensors"), reference, cohort, minimum_tissue_px, covariance)


@dataclass(frozen=True)
class HeatScorer:
    """Reads, normalizes and scores windows of whole slides.

    Attributes
    ----------
    normalizer : Normalizer or None (colours as they are)
    tile_px, store_px : side of a window as read, and as handed to the network [px]
    target_mpp : resolution of a window as read [µm/px]
    device : torch device name, or "auto"
    """

    normalizer: Normalizer | None
    tile_px: int
    store_px: int
    target_mpp: float
    device: str = "auto"

    def check(self, card: dict[str, Any]) -> None:
        """Raise :class:`ModelError` when a network was trained at another magnification or in other colours."""
        mpp = self.target_mpp * self.tile_px / min(self.store_px, self.tile_px)
        colours = "dcgmm" if self.normalizer else "none"
        if abs(card["input_mpp"] / mpp - 1) > 0.02 or card["normalization"] != colours:
            raise ModelError("The model was trained on other pixels than these windows have",
                             got=f"{mpp:g} µm/px, normalization {colours}",
                             expected=f"{card['input_mpp']:g} µm/px, normalization {card['normalization']}",
                             fix="Set target_mpp, tile_px, store_px, normalization as in the model's run")  # fmt: skip

    def score(
        self, model: DeepLrhe, slide: dict[str, Any], tiles: pd.DataFrame
    ) -> tuple[NDArray[np.float32], tuple[Any, Any]]:
        """Scores (n, T) of one slide's windows, and one window before and after normalization.

        Colour statistics come from the slide's selected tiles, as in notebook 04.
        """
        selected = tiles[tiles["selected"]]
        plan = self.normalizer.plan(read_pixels(slide, selected, self.tile_px))[0] if self.normalizer else None
        example: list[NDArray[np.uint8]] = []

        def batch(indices: Sequence[int]) -> NDArray[np.uint8]:
            raw = read_pixels(slide, tiles.iloc[list(indices)], self.tile_px)
            new = [apply(self.normalizer.net, plan, t) for t in raw] if self.normalizer and plan else raw
            example[:] = example or [shrink(raw[0], 256), shrink(new[0], 256)]
            return np.stack([shrink(tile, self.store_px) for tile in new])

        scores = score_arrays(model, batch, len(tiles), batch_size=16, device=self.device)
        return scores, (example[0], example[1])


def score_slides(
    slides: pd.DataFrame,
    tiles: pd.DataFrame,
    models_of: dict[str, Path],
    genes: Sequence[str],
    scorer: HeatScorer,
    n_shown: int,
) -> SlideScores:
    """Score the kept windows of up to `n_shown` slides.

    Parameters
    ----------
    slides, tiles : DataFrame
        The tables, with absolute slide paths.
    models_of : patient_id → model file
        The network that may score the patient; patients without one are noted and left out.
    genes : all targets of the run
    """
    import pandas as pd

    notes: list[str] = []
    parts: list[pd.DataFrame] = []
    result = SlideScores([], pd.DataFrame(columns=[*_COORDINATES, *genes]))
    for row in slides[slides["status"] == "ok"].to_dict("records"):
        name, kept = row["slide_id"], tiles[(tiles["slide_id"] == row["slide_id"]) & tiles["kept"]]
        if reason := _left_out(row, kept, models_of, len(parts) < n_shown):
            notes.append(f"{name}: {reason}")
            continue
        try:
            model, card = load_model(models_of[row["patient_id"]], score_patients=[row["patient_id"]])
        except LeakError as error:
            notes.append(f"{name}: {error}")
            continue
        scorer.check(card)
        scores, result.examples[name] = scorer.score(model, row, kept)
        frame = kept[_COORDINATES].reset_index(drop=True)
        for i, (gene, usable) in enumerate(zip(model.config.targets, card["usable"], strict=True)):
            frame[gene] = scores[:, i].astype(float) if usable else np.nan
        parts.append(frame)
        with open_row(row) as slide:
            result.thumbnails[name] = slide.thumbnail(THUMBNAIL_PX)
        result.sizes[name] = (int(row["width_l0_px"]), int(row["height_l0_px"]))
    if parts:
        result.windows = pd.concat(parts, ignore_index=True)
    scored = [g for g in result.windows.columns if g not in _COORDINATES and result.windows[g].notna().any()]
    result.genes = [g for g in genes if g in scored] or scored
    result.notes = notes
    return result


def _left_out(row: dict[str, Any], kept: pd.DataFrame, models_of: dict[str, Path], room: bool) -> str:
    """Why a slide gets no map ("" when it gets one)."""
    if kept.empty:
        return "no window was kept"
    if row["patient_id"] not in models_of:
        return "no network held the patient out (no label, or the fold could not be trained)"
    return "" if room else "not drawn (n_shown)"
