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
from deeplrhe_utils.learning.normalizing import UNCHANGED, keep, normalizer_of_model, statistics_rows
from deeplrhe_utils.learning.training import score_arrays
from deeplrhe_utils.slides.pixels import open_row, read_pixels, shrink
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


@dataclass(frozen=True)
class HeatScorer:
    """Reads, normalizes and scores windows of whole slides.

    Attributes
    ----------
    normalization : method that notebook 04 used, or "none"
    tile_px, store_px : side of a window as read, and as handed to the network [px]
    target_mpp : resolution of a window as read [µm/px]
    statistics_tiles : most tiles a slide's colour statistics come from, as in notebook 04
    device : torch device name, or "auto"
    """

    normalization: str
    tile_px: int
    store_px: int
    target_mpp: float
    statistics_tiles: int = 32
    device: str = "auto"

    def normalizer_for(self, file: Path, card: dict[str, Any]) -> Normalizer | None:
        """The normalizer that belongs to a model file, or None for colours as they are.

        Raises
        ------
        ModelError
            The network was trained at another magnification, in other colours, or with another normalizer.
        """
        mpp = self.target_mpp * self.tile_px / min(self.store_px, self.tile_px)
        if abs(card["input_mpp"] / mpp - 1) > 0.02 or card["normalization"] != self.normalization:
            raise ModelError("The model was trained on other pixels than these windows have",
                             got=f"{mpp:g} µm/px, normalization {self.normalization}",
                             expected=f"{card['input_mpp']:g} µm/px, normalization {card['normalization']}",
                             fix="Set target_mpp, tile_px, store_px, normalization as in the model's run")  # fmt: skip
        if self.normalization == UNCHANGED:
            return None
        normalizer = normalizer_of_model(file)
        if normalizer.digest() != card.get("stain"):
            raise ModelError(f"The stain normalizer beside {file.name} is not the one it was trained with",
                             got=normalizer.digest(), expected=str(card.get("stain")),
                             fix="Keep a model's folders 04 and 05 together, or run 04 and 05 again")  # fmt: skip
        return normalizer

    def score(
        self, model: DeepLrhe, normalizer: Normalizer | None, slide: dict[str, Any], tiles: pd.DataFrame
    ) -> tuple[NDArray[np.float32], tuple[Any, Any], str]:
        """Scores (n, T) of one slide's kept windows, one window before and after, and whose colours were used.

        Colour statistics come from the slide's own tiles, as in notebook 04.
        """
        plan = keep()
        if normalizer is not None:
            seen = statistics_rows(tiles, self.statistics_tiles)
            plan = normalizer.plan_or_keep(read_pixels(slide, seen, self.tile_px), str(slide["slide_id"]))
        example: list[NDArray[np.uint8]] = []

        def batch(indices: Sequence[int]) -> NDArray[np.uint8]:
            raw = read_pixels(slide, tiles.iloc[list(indices)], self.tile_px)
            new = [plan(tile) for tile in raw]
            example[:] = example or [shrink(raw[0], 256), shrink(new[0], 256)]
            return np.stack([shrink(tile, self.store_px) for tile in new])

        scores = score_arrays(model, batch, len(tiles), batch_size=16, device=self.device)
        return scores, (example[0], example[1]), plan.note


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
        normalizer = scorer.normalizer_for(models_of[row["patient_id"]], card)
        scores, result.examples[name], note = scorer.score(model, normalizer, row, kept)
        if note.startswith("left unchanged"):
            notes.append(f"{name}: colours {note}")
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
