"""What a viewer needs of one slide: its windows and scores, its place, and pixels from the slide or a thumbnail."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from openslide import AbstractSlide, ImageSlide
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from deeplrhe_utils.core.errors import InputError, ParameterError, SlideError
from deeplrhe_utils.core.files import safe_name
from deeplrhe_utils.reporting.exports.export import ZOOM
from deeplrhe_utils.reporting.exports.pyramid import read_deep_zoom
from deeplrhe_utils.reporting.heatmaps.bands import PALETTES
from deeplrhe_utils.slides.reading.opening import open_handle

if TYPE_CHECKING:
    from deeplrhe_utils.learning.scoring.heat import SlideScores

TILE_PX: Final = 254  # with one pixel of overlap on each side 256, which decodes well
OVERLAP_PX: Final = 1
_STEPS: Final = 256
_JPEG_QUALITY: Final = 80


def colour_ramp(palette: str) -> list[str]:
    """256 colours ``#rrggbb`` from score 0 to score 1.

    Raises InputError: there is no such palette.
    """
    import matplotlib
    from matplotlib.colors import to_hex

    if palette not in PALETTES:
        raise InputError("Unknown palette", got=palette, expected=" | ".join(PALETTES))
    return [to_hex(colour) for colour in matplotlib.colormaps[PALETTES[palette]](np.linspace(0, 1, _STEPS))]


@dataclass(frozen=True)
class SlideView:
    """One scored slide.

    Attributes
    ----------
    fold : the fold whose network, which never saw the patient, gave the scores; "" when a given model did
    width_l0_px, height_l0_px : the slide [level-0 px]
    mpp : resolution of level 0 [µm/px]
    windows : tile_id, x_l0_px, y_l0_px, size_l0_px and one column per gene (null: not scored), index 0 … n - 1
    thumbnail : uint8 RGB (h, w, 3): the whole slide
    path : the slide, when it is on this machine; else the thumbnail is all there is to see
    """

    slide_id: str
    patient_id: str
    fold: str
    width_l0_px: int
    height_l0_px: int
    mpp: float | None
    windows: pd.DataFrame
    thumbnail: NDArray[np.uint8]
    path: Path | None

    def from_thumbnail(self) -> SlideView:
        """The same, with the thumbnail in the place of the slide."""
        return replace(self, path=None)


def slide_views(
    scores: SlideScores, slides: pd.DataFrame, fold_of: Mapping[str, str], folder: Path | None = None
) -> list[SlideView]:
    """The slides that were scored, in the order of the table.

    Parameters
    ----------
    scores : from notebook 07 (`stored_scores`)
    slides : table SLIDES with absolute paths; a path that is no file on this machine becomes None
    fold_of : patient_id → fold that held the patient out
    folder : where notebook 07 left Deep Zoom pictures (`reporting.exports.export`); of a slide that
        is not on this machine, they show more than its thumbnail

    Raises InputError: a scored slide is not in the table, is there twice, or has another size than when it was scored.
    """
    known = set(map(str, slides["slide_id"]))
    lost = sorted(set(map(str, scores.windows["slide_id"])) - known)
    twice = sorted(slides.loc[slides["slide_id"].duplicated(), "slide_id"].astype(str))
    if lost or twice:
        raise InputError("Scored slides and the slides table do not agree", got=", ".join((lost + twice)[:5]),
                         expected="every scored slide once in the table", fix="Run notebook 07 again")  # fmt: skip
    parts = {str(name): part for name, part in scores.windows.groupby("slide_id", sort=False)}
    return [
        _view(row, parts[str(row["slide_id"])], scores, fold_of, folder)
        for row in slides.to_dict("records")
        if str(row["slide_id"]) in parts
    ]


def _view(
    row: dict[Any, Any], windows: pd.DataFrame, scores: SlideScores, fold_of: Mapping[str, str], folder: Path | None
) -> SlideView:
    name, path = str(row["slide_id"]), Path(str(row["path"]))
    size = scores.sizes[name]
    table = tuple(row[side] for side in ("width_l0_px", "height_l0_px"))
    if not pd.isna(list(table)).any() and tuple(map(int, table)) != size:
        raise InputError(f"Slide {name} has another size than when it was scored", got=f"{table} level-0 px",
                         expected=f"{size}", fix="Run notebook 07 again")  # fmt: skip
    mpp = None if pd.isna(row["mpp"]) else float(row["mpp"])
    patient = str(row["patient_id"])
    zoom = folder / f"{safe_name(name)}{ZOOM}" if folder is not None else None
    here = path if path.is_file() else None
    larger = here is None and zoom is not None and zoom.is_file()
    picture = read_deep_zoom(zoom) if larger and zoom is not None else scores.thumbnails[name]
    return SlideView(name, patient, str(fold_of.get(patient, "")), *size, mpp, windows.reset_index(drop=True),
                     picture, here)  # fmt: skip


class Pixels:
    """Deep Zoom tiles and regions of one slide, read on demand; a context manager.

    Parameters
    ----------
    view : its file is read when it is on this machine, else its thumbnail, which is then enlarged

    Attributes
    ----------
    size : (width, height) of the picture that is read [px]
    scale : (x, y)
        Level-0 pixels per pixel of the picture that is read: 1 for a slide, more for a thumbnail. The two differ a
        little, because the sides of a thumbnail are whole pixels.

    Raises SlideError: the file cannot be opened.
    """

    def __init__(self, view: SlideView) -> None:
        self._handle: AbstractSlide = (
            open_handle(view.path) if view.path else ImageSlide(Image.fromarray(view.thumbnail))
        )
        self.name, self.size = view.slide_id, self._handle.dimensions
        self.scale = view.width_l0_px / self.size[0], view.height_l0_px / self.size[1]
        # limit_bounds would shift everything by the bounds; our frame is OpenSlide's full canvas
        self._pyramid = DeepZoomGenerator(self._handle, tile_size=TILE_PX, overlap=OVERLAP_PX, limit_bounds=False)

    def __enter__(self) -> Pixels:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        self._handle.close()

    def tile(self, level: int, column: int, row: int) -> bytes:
        """One tile as JPEG.

        Raises ParameterError: there is no such tile. SlideError: it cannot be decoded.
        """
        try:
            picture = self._pyramid.get_tile(level, (column, row))
        except ValueError as error:
            raise ParameterError(f"Slide {self.name} has no such tile", got=(level, column, row)) from error
        except Exception as error:  # OpenSlide raises a type per format library
            raise SlideError(f"A tile of slide {self.name} cannot be decoded ({error})") from error
        return _jpeg(picture)

    def region(self, x_l0_px: float, y_l0_px: float, side_l0_px: float, out_px: int) -> NDArray[np.uint8]:
        """A square around any place, white beyond the slide's edge.

        Parameters
        ----------
        x_l0_px, y_l0_px, side_l0_px : top left corner and side [level-0 px]
        out_px : side of the result [px]

        Returns uint8 RGB (out_px, out_px, 3).
        """
        across, down = self.scale
        factor = max(1.0, side_l0_px / across / out_px)
        level = self._handle.get_best_level_for_downsample(factor)
        step = self._handle.level_downsamples[level]
        corner = (round(x_l0_px / across), round(y_l0_px / down))
        size = max(1, round(side_l0_px / across / step)), max(1, round(side_l0_px / down / step))
        try:
            found = self._handle.read_region(corner, level, size)
        except Exception as error:  # OpenSlide raises a type per format library
            raise SlideError(f"A region of slide {self.name} cannot be decoded ({error})") from error
        ground = Image.new("RGBA", found.size, (255, 255, 255, 255))
        ground.alpha_composite(found.convert("RGBA"))
        return np.asarray(ground.convert("RGB").resize((out_px, out_px), Image.Resampling.BOX), np.uint8)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def overview_jpeg(view: SlideView) -> bytes:
    """The thumbnail as JPEG: what is seen before the first tile comes."""
    return _jpeg(Image.fromarray(view.thumbnail))


def neighbours(windows: pd.DataFrame, place: int) -> NDArray[np.int64]:
    """Numbers of the windows that touch or overlap window `place`, without itself.

    Parameters
    ----------
    windows : x_l0_px, y_l0_px, size_l0_px [level-0 px]
    place : row number

    Windows of a grid with a fractional pitch lie up to a pixel apart; they still count as touching.
    """
    x, y, size = (windows[name].to_numpy(float) for name in ("x_l0_px", "y_l0_px", "size_l0_px"))
    gap_x = np.maximum(x, x[place]) - np.minimum(x + size, x[place] + size[place])
    gap_y = np.maximum(y, y[place]) - np.minimum(y + size, y[place] + size[place])
    touching = (gap_x <= 1) & (gap_y <= 1)
    touching[place] = False
    return np.flatnonzero(touching)
