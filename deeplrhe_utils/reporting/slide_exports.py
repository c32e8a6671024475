"""What one slide's scores become for other programs: tiles, the drawn map in every format, a picture to zoom into."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.files import safe_name
from deeplrhe_utils.learning.heat import DAMAGED
from deeplrhe_utils.reporting.export_folder import ExportFolder
from deeplrhe_utils.reporting.heat_export import FORMATS, SlideMap, export_map
from deeplrhe_utils.reporting.heat_pyramid import write_deep_zoom
from deeplrhe_utils.reporting.heat_scores import PLACE
from deeplrhe_utils.reporting.heatmaps import Frame
from deeplrhe_utils.reporting.interop import write_qupath
from deeplrhe_utils.slides.pixels import open_row

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
) -> list[Path]:
    """Write the files of one slide.

    Parameters
    ----------
    slide : its row of table SLIDES, with an absolute path
    tiles : its tiles: tile_id, x_l0_px, y_l0_px, size_l0_px and a column per gene (null: not scored)
    genes : columns that go into ``SLIDE.geojson``, which QuPath shows as tiles with measurements
    one : the gene's map; it is computed again at the resolution of the exports. Without it there are tiles only.
    formats : of :data:`~deeplrhe_utils.reporting.heat_export.FORMATS`
    map_px, deep_zoom_px : longer side [px] of the exported map (more, where windows would be smaller than its pixels),
        and of the slide's Deep Zoom picture ``SLIDE-slide.dzi`` (0: none). The picture is held in memory, 3 bytes a
        pixel.

    Returns list of Path: files, and the tile folders of Deep Zoom pictures.

    Raises InputError: a file of that name was not written by an export, or was changed since.
    """
    check_exports(formats, map_px, deep_zoom_px)
    stem, written = safe_name(str(slide["slide_id"])), []
    with open_row(slide) as opened:
        corner = opened.bounds_l0_px[0], opened.bounds_l0_px[1]
        size, mpp = opened.dimensions, float(slide["mpp"])
        table = tiles[[*PLACE, *genes]]
        written.append(folder.write(f"{stem}{ALL_GENES}", lambda path: write_qupath(table, path, origin_l0_px=corner)))
        if one is not None:
            side = float(one.windows.table["size_l0_px"].min())  # map pixels wider than windows would lose some
            picture = opened.thumbnail(max(map_px, math.ceil(max(size) / side)), damaged=DAMAGED)
            frame = Frame.fit(*size, mpp, picture.shape[:2])
            large = replace(one, frame=frame, picture=picture, origin_l0_px=corner)
            written += export_map(large, folder, stem, formats)
        if deep_zoom_px:
            whole = opened.thumbnail(deep_zoom_px, damaged=DAMAGED)
            frame = Frame.fit(*size, mpp, whole.shape[:2])
            written.append(
                folder.write(f"{stem}{ZOOM}", partial(write_deep_zoom, strips=[whole], frame=frame, quality=80))
            )
    return [*written, *(path.with_name(f"{path.stem}_files") for path in written if path.suffix == ".dzi")]
