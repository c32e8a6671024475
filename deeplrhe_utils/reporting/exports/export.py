"""One call for all files of a gene's heat map on a slide: what is drawn is checked, bounded in memory, and listed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.files import read_json, safe_name, sha256_file, sha256_text, write_json
from deeplrhe_utils.core.text import said
from deeplrhe_utils.learning.scoring.heat import DAMAGED
from deeplrhe_utils.reporting.exports.interop import (
    write_deeppath_areas,
    write_imagescope,
    write_qupath,
    write_qupath_contours,
)
from deeplrhe_utils.reporting.exports.picture import write_png, write_scores, write_svg
from deeplrhe_utils.reporting.exports.pyramid import write_deep_zoom, write_overlay_tiff, write_score_tiff
from deeplrhe_utils.reporting.heatmaps.bands import AS_SCORED, Band, Frame, Scale, colour_map, heat_bands, overlay
from deeplrhe_utils.reporting.heatmaps.contours import Contour, map_contours, window_contours
from deeplrhe_utils.reporting.heatmaps.scores import PLACE, GeneWindows
from deeplrhe_utils.slides.tiles.pixels import open_row


@dataclass(frozen=True)
class MapStyle:
    """How a map is computed and coloured.

    Attributes
    ----------
    weights : see `heat_bands`; ``uniform`` is the paper's
    palette : ``paper`` or ``perceptual``
    opacity : of the map over the slide [0–1]
    thresholds : of the outlines
    scale : where on the palette a score lies
    measure : what a score is, for colour bars and measurements
    """

    weights: str = "uniform"
    palette: str = "paper"
    opacity: float = 0.5
    thresholds: tuple[float, ...] = (0.5,)
    scale: Scale = AS_SCORED
    measure: str = "probability"


@dataclass(frozen=True)
class SlideMap:
    """A gene's map on a slide, ready to be drawn band by band.

    Attributes
    ----------
    windows : windows and scores (`windows_of`)
    frame : where the map lies
    slide_id, gene : names; any text
    picture : (rows, columns, 3), uint8, optional: the slide, of the frame's shape; without it overlays lie on white
    origin_l0_px : (x, y)
        Corner that QuPath counts from (`reporting.exports.interop`); other files use the full canvas.
    scored_by : which network gave the scores, trained on what (`about_networks`); every file that has room says it
    """

    windows: GeneWindows
    frame: Frame
    slide_id: str
    gene: str
    picture: NDArray[np.uint8] | None = None
    style: MapStyle = MapStyle()
    origin_l0_px: tuple[int, int] = (0, 0)
    scored_by: str = ""

    def __post_init__(self) -> None:
        if self.picture is not None and self.picture.shape != (*self.frame.shape, 3):
            raise InputError("The picture of a slide does not fit its map", got=self.picture.shape,
                             expected=f"{(*self.frame.shape, 3)}", fix="Make the frame with Frame.fit")  # fmt: skip
        if self.gene in PLACE:
            raise InputError("A gene has the name of a column of places", got=self.gene, fix="Rename it")
        if not 0 <= self.style.opacity <= 1:
            raise ParameterError("The opacity of a map is out of range", got=self.style.opacity, expected="0 to 1")

    def bands(self) -> Iterator[Band]:
        """The map, from the top."""
        return heat_bands(self.windows.table, self.windows.scores, self.frame, weights=self.style.weights)

    def strips(self) -> Iterator[NDArray[np.uint8]]:
        """The coloured map over the slide, from the top; on white, in full colour, where there is no picture."""
        for band in self.bands():
            place = self.style.scale.place(band.mean)
            if self.picture is None:
                yield colour_map(place, self.style.palette)
            else:
                part = self.picture[band.top_px : band.top_px + len(band.mean)]
                yield overlay(part, place, palette=self.style.palette, opacity=self.style.opacity)

    def overlaid(self) -> NDArray[np.uint8]:
        """All of :meth:`strips`, in memory."""
        return np.concatenate(list(self.strips()))

    def mean(self) -> NDArray[np.float32]:
        """The whole map, in memory."""
        return np.concatenate([band.mean for band in self.bands()])

    def contours(self) -> list[Contour]:
        """Outlines at the style's thresholds: exact for uniform weights, else those of the map's pixels."""
        if self.style.weights == "uniform":
            return window_contours(
                self.windows.table, self.windows.table["score"].to_numpy(float), self.style.thresholds
            )
        return map_contours(self.mean(), self.frame, self.style.thresholds)


def _tiles(one: SlideMap, path: Path) -> None:
    scored = one.windows.table.rename(columns={"score": one.gene})
    write_qupath(scored, path, origin_l0_px=one.origin_l0_px, colour_by=one.gene, palette=one.style.palette,
                 scored_by=one.scored_by, measure=one.style.measure)  # fmt: skip


def _outlines(one: SlideMap, path: Path) -> None:
    write_qupath_contours(one.contours(), path, gene=one.gene, mpp=one.frame.mpp, origin_l0_px=one.origin_l0_px,
                          palette=one.style.palette, scored_by=one.scored_by)  # fmt: skip


def _score_tiff(one: SlideMap, path: Path, *, kind: str, sd: bool = False) -> None:
    bands: Iterator[Any] = (band.sd for band in one.bands()) if sd else one.bands()
    what = "standard deviation over folds or seeds" if sd else "mean score"
    about = {"gene": one.gene, "slide_id": one.slide_id, "map": what, "weights": one.style.weights,
             "folds": ", ".join(map(str, one.windows.folds)), "scored_by": one.scored_by}  # fmt: skip
    write_score_tiff(path, bands, one.frame, name=f"{one.slide_id} {one.gene}: {what}", kind=kind, about=about)


def _overlay_tiff(one: SlideMap, path: Path) -> None:
    name = f"{one.slide_id} {one.gene}" + f". {one.scored_by}" * bool(one.scored_by)
    write_overlay_tiff(path, one.strips(), one.frame, name=name)


def _png(one: SlideMap, path: Path) -> None:
    how = f"{one.style.weights} weights, {len(one.windows.folds)} network{'s' * (len(one.windows.folds) != 1)}"
    write_png(path, one.overlaid(), one.frame, gene=one.gene, slide_id=one.slide_id, palette=one.style.palette,
              label=f"{one.style.measure} ({how})", scored_by=one.scored_by)  # fmt: skip


def _svg(one: SlideMap, path: Path) -> None:
    write_svg(path, one.overlaid(), one.frame, one.windows.table, gene=one.gene, slide_id=one.slide_id,
              palette=one.style.palette, scored_by=one.scored_by)  # fmt: skip


def _parquet(one: SlideMap, path: Path) -> None:
    table = one.windows.table.rename(columns={"score": one.gene})
    write_scores(table, path, one.frame, slide_id=one.slide_id, about={"gene": one.gene, "scored_by": one.scored_by})


def _deeppath(one: SlideMap, path: Path) -> None:
    write_deeppath_areas(one.contours()[0], one.mean(), path, slide_id=one.slide_id)


FORMATS: Final[dict[str, Callable[[SlideMap, Path], Any]]] = {
    ".tiles.geojson": _tiles,
    ".contours.geojson": _outlines,
    ".imagescope.xml": lambda one, path: write_imagescope(
        one.contours(), path, gene=one.gene, mpp=one.frame.mpp, scored_by=one.scored_by
    ),
    ".score.ome.tiff": partial(_score_tiff, kind="float32"),
    ".score8.ome.tiff": partial(_score_tiff, kind="uint8"),
    ".sd.ome.tiff": partial(_score_tiff, kind="float32", sd=True),
    ".overlay.ome.tiff": _overlay_tiff,
    ".dzi": lambda one, path: write_deep_zoom(path, one.strips(), one.frame),
    ".png": _png,
    ".svg": _svg,
    ".parquet": _parquet,
    ".deeppath.csv": _deeppath,
}
"""Ending of a file → how it is written. GeoJSON counts from `origin_l0_px`, all others from the full canvas' corner."""


def export_map(one: SlideMap, folder: ExportFolder, stem: str, formats: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """Write the files of one map.

    Parameters
    ----------
    stem : the slide's part of the file names
    formats : endings of :data:`FORMATS`. A map of standard deviations (``.sd.ome.tiff``) needs scores of two folds or
        seeds and is left out where there is one.

    Returns list of Path: what was written, in the order of `formats`.

    Raises ParameterError: there is no such format. InputError: a file of that name is not ours; or as the map's own
    functions say.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ParameterError("There is no such export", got=", ".join(unknown), expected=", ".join(FORMATS))
    several = one.windows.scores.shape[1] > 1
    chosen = [name for name in formats if several or name != ".sd.ome.tiff"]
    base = map_stem(stem, one.gene)
    return [folder.write(f"{base}{ending}", partial(FORMATS[ending], one)) for ending in chosen]


ALL_GENES: Final = ".geojson"
ZOOM: Final = "-slide.dzi"


def check_exports(formats: Sequence[str], map_px: int, deep_zoom_px: int) -> None:
    """Raise :class:`ParameterError` unless :func:`export_slide` can write these; ask before scores are made."""
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ParameterError("There is no such export", got=", ".join(unknown), expected=", ".join(FORMATS))
    if map_px < 1 or deep_zoom_px < 0:
        raise ParameterError("A picture has a side of at least one pixel", got=f"{map_px} and {deep_zoom_px}")


def export_slide(
    slide: Mapping[str, Any],
    tiles: pd.DataFrame,
    genes: Sequence[str],
    one: SlideMap | None,
    folder: ExportFolder,
    formats: Sequence[str],
    *,
    map_px: int,
    deep_zoom_px: int = 0,
    scored_by: str = "",
) -> list[Path]:
    """Write the files of one slide.

    Parameters
    ----------
    slide : its row of table SLIDES, with an absolute path
    tiles : its tiles: tile_id, x_l0_px, y_l0_px, size_l0_px and a column per gene (null: not scored)
    genes : columns that go into ``SLIDE.geojson``, which QuPath shows as tiles with measurements
    one : the gene's map; it is computed again at the resolution of the exports. Without it there are tiles only.
    formats : of `FORMATS`
    map_px, deep_zoom_px : longer side [px] of the exported map (more, where windows would be smaller than its pixels),
        and of the slide's Deep Zoom picture ``SLIDE-slide.dzi`` (0: none). The picture is held in memory, 3 bytes a
        pixel.
    scored_by : see :class:`SlideMap`

    Returns list of Path: files, and the tile folders of Deep Zoom pictures.

    Raises InputError: a file of that name was not written by an export, or was changed since.
    """
    check_exports(formats, map_px, deep_zoom_px)
    stem, written = safe_name(str(slide["slide_id"])), []
    with open_row(slide) as opened:
        corner = opened.bounds_l0_px[0], opened.bounds_l0_px[1]
        size, mpp = opened.dimensions, float(slide["mpp"])
        table = tiles[[*PLACE, *genes]]
        whole_table = partial(write_qupath, table, origin_l0_px=corner, scored_by=scored_by)
        written.append(folder.write(f"{stem}{ALL_GENES}", whole_table))
        if one is not None:
            side = float(one.windows.table["size_l0_px"].min())  # map pixels wider than windows would lose some
            picture = opened.thumbnail(max(map_px, math.ceil(max(size) / side)), damaged=DAMAGED)
            frame = Frame.fit(*size, mpp, picture.shape[:2])
            large = replace(one, frame=frame, picture=picture, origin_l0_px=corner, scored_by=scored_by)
            written += export_map(large, folder, stem, formats)
        if deep_zoom_px:
            whole = opened.thumbnail(deep_zoom_px, damaged=DAMAGED)
            frame = Frame.fit(*size, mpp, whole.shape[:2])
            written.append(
                folder.write(f"{stem}{ZOOM}", partial(write_deep_zoom, strips=[whole], frame=frame, quality=80))
            )
    return [*written, *(path.with_name(f"{path.stem}_files") for path in written if path.suffix == ".dzi")]


INDEX: Final = "exports.json"
"""Name and SHA-256 of every file that was written to the folder."""
MOST_CHARACTERS: Final = 150
"""Of a stem, so that endings and temporary names fit into the 255 that file systems allow."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_+~-][A-Za-z0-9_+~.-]{0,199}")


def map_stem(slide_stem: str, gene: str) -> str:
    """Stem of the files of one gene's map; different slides and genes never share one.

    >>> map_stem("slide-1", "TP53")
    'slide-1+TP53'
    """
    plain = f"{slide_stem}+{safe_name(gene)}"
    if len(plain) <= MOST_CHARACTERS and "+" not in slide_stem + gene:
        return plain
    return f"{plain[:MOST_CHARACTERS]}~{sha256_text(chr(0).join((slide_stem, gene)))[:8]}"


class ExportFolder:
    """Writes files, remembers what it wrote, and replaces only what still is as it was written.

    Parameters
    ----------
    folder : made when the first file is written
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def write(self, name: str, writer: Callable[[Path], Any]) -> Path:
        """Let `writer` write the file `name`; return its path.

        Raises InputError: the name is no plain file name, or a file of that name was not written by this class or was
        changed since.
        """
        if not _PLAIN.fullmatch(name) or name.casefold() == INDEX:
            raise InputError("This is no name for an export", got=said(name), expected="letters, digits, _ + ~ . -")
        path, known = self.folder / name, self._index()
        if path.is_symlink() or (path.exists() and not (path.is_file() and known.get(name) == sha256_file(path))):
            raise InputError(f"{path} was not written by this export, or was changed since, so it is not replaced",
                             fix="Move it away, or export to another folder")  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        writer(path)
        write_json(self.folder / INDEX, {**self._index(), name: sha256_file(path)})
        return path

    def _index(self) -> dict[str, str]:
        file = self.folder / INDEX
        if not file.is_file():
            return {}
        try:
            found = read_json(file)
        except (ValueError, OSError) as error:
            raise InputError(f"{file} cannot be read ({said(error)})", fix="Move the folder away") from error
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise InputError(f"{file} is no list of exports", fix="Move the folder away")
        return found
