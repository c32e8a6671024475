"""One call for all files of a gene's heat map on a slide: what is drawn is checked, bounded in memory, and listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.reporting.contours import Contour, map_contours, window_contours
from deeplrhe_utils.reporting.export_folder import ExportFolder, map_stem
from deeplrhe_utils.reporting.heat_picture import write_png, write_scores, write_svg
from deeplrhe_utils.reporting.heat_pyramid import write_deep_zoom
from deeplrhe_utils.reporting.heat_scores import PLACE, GeneWindows
from deeplrhe_utils.reporting.heat_tiff import write_overlay_tiff, write_score_tiff
from deeplrhe_utils.reporting.heatmaps import Band, Frame, colour_map, heat_bands, overlay
from deeplrhe_utils.reporting.interop import write_deeppath_areas, write_imagescope, write_qupath, write_qupath_contours


@dataclass(frozen=True)
class MapStyle:
    """How a map is computed and coloured.

    Attributes
    ----------
    weights : see :func:`~deeplrhe_utils.reporting.heatmaps.heat_bands`; ``uniform`` is the paper's
    palette : ``paper`` or ``perceptual``
    opacity : of the map over the slide [0–1]
    thresholds : of the outlines
    """

    weights: str = "uniform"
    palette: str = "paper"
    opacity: float = 0.5
    thresholds: tuple[float, ...] = (0.5,)


@dataclass(frozen=True)
class SlideMap:
    """A gene's map on a slide, ready to be drawn band by band.

    Attributes
    ----------
    windows : windows and scores (:func:`~deeplrhe_utils.reporting.heat_scores.windows_of`)
    frame : where the map lies
    slide_id, gene : names; any text
    picture : (rows, columns, 3), uint8, optional: the slide, of the frame's shape; without it overlays lie on white
    origin_l0_px : (x, y)
        Corner that QuPath counts from (:mod:`~deeplrhe_utils.reporting.interop`); other files use the full canvas.
    """

    windows: GeneWindows
    frame: Frame
    slide_id: str
    gene: str
    picture: NDArray[np.uint8] | None = None
    style: MapStyle = MapStyle()
    origin_l0_px: tuple[int, int] = (0, 0)

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
            if self.picture is None:
                yield colour_map(band.mean, self.style.palette)
            else:
                part = self.picture[band.top_px : band.top_px + len(band.mean)]
                yield overlay(part, band.mean, palette=self.style.palette, opacity=self.style.opacity)  # type: ignore[arg-type]

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
    write_qupath(scored, path, origin_l0_px=one.origin_l0_px, colour_by=one.gene, palette=one.style.palette)


def _outlines(one: SlideMap, path: Path) -> None:
    write_qupath_contours(one.contours(), path, gene=one.gene, mpp=one.frame.mpp, origin_l0_px=one.origin_l0_px,
                          palette=one.style.palette)  # fmt: skip


def _score_tiff(one: SlideMap, path: Path, *, kind: str, sd: bool = False) -> None:
    bands: Iterator[Any] = (band.sd for band in one.bands()) if sd else one.bands()
    what = "standard deviation over folds or seeds" if sd else "mean score"
    about = {"gene": one.gene, "slide_id": one.slide_id, "map": what, "weights": one.style.weights,
             "folds": ", ".join(map(str, one.windows.folds))}  # fmt: skip
    write_score_tiff(path, bands, one.frame, name=f"{one.slide_id} {one.gene}: {what}", kind=kind, about=about)


def _overlay_tiff(one: SlideMap, path: Path) -> None:
    write_overlay_tiff(path, one.strips(), one.frame, name=f"{one.slide_id} {one.gene}")


def _png(one: SlideMap, path: Path) -> None:
    how = f"{one.style.weights} weights, {len(one.windows.folds)} network{'s' * (len(one.windows.folds) != 1)}"
    write_png(path, one.overlaid(), one.frame, gene=one.gene, slide_id=one.slide_id, palette=one.style.palette,
              label=f"probability ({how})")  # fmt: skip


def _svg(one: SlideMap, path: Path) -> None:
    write_svg(path, one.overlaid(), one.frame, one.windows.table, gene=one.gene, slide_id=one.slide_id,
              palette=one.style.palette)  # fmt: skip


def _parquet(one: SlideMap, path: Path) -> None:
    table = one.windows.table.rename(columns={"score": one.gene})
    write_scores(table, path, one.frame, slide_id=one.slide_id, about={"gene": one.gene})


def _deeppath(one: SlideMap, path: Path) -> None:
    write_deeppath_areas(one.contours()[0], one.mean(), one.frame, path, slide_id=one.slide_id)


FORMATS: Final[dict[str, Callable[[SlideMap, Path], Any]]] = {
    ".tiles.geojson": _tiles,
    ".contours.geojson": _outlines,
    ".imagescope.xml": lambda one, path: write_imagescope(one.contours(), path, gene=one.gene, mpp=one.frame.mpp),
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
    stem : the slide's part of the file names (:func:`~deeplrhe_utils.reporting.export_folder.file_stems`)
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
