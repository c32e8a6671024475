"""Pyramids written while an image streams by: levels of half the size each, and Deep Zoom of an overlay.

Pixel (row, column) of the full image is map pixel (row, column) of a `Frame`.
Level k has sides ⌈side / 2^k⌉, and each of its pixels covers 2^k × 2^k of the full image's.

Source: Deep Zoom as described by Microsoft (schema 2008). The same calls give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import cv2
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError, ParameterError, RunError, SlideError
from deeplrhe_utils.core.files import atomic_path, write_text
from deeplrhe_utils.reporting.heatmaps.bands import Band, Frame
from deeplrhe_utils.slides.files.ome_tiff import SOFTWARE, PyramidLevel, Spool, deflated, linked, ome_xml, padded_tiles

_Pixels = NDArray[Any]
_TILE_PX: Final = 256
MOST_PIXELS: Final = 100_000_000
"""Largest picture that :func:`read_deep_zoom` holds in memory (300 MB)."""
_FACTS: Final = re.compile(r'(TileSize|Overlap|Format|Width|Height)="(\w+)"')
_TILE_FILE: Final = re.compile(r"\d+/\d+_\d+\.(jpg|png)")


def write_deep_zoom(
    path: Path, strips: Iterable[NDArray[np.uint8]], frame: Frame, *, encoding: str = "jpeg", quality: int = 90
) -> Path:
    """Write an RGB overlay as Deep Zoom: ``NAME.dzi`` and the folder ``NAME_files`` beside it.

    Parameters
    ----------
    path : target, ``*.dzi``; a folder of that name is replaced when the new one is complete
    strips : uint8 (rows, columns, 3), from the top
    encoding : ``jpeg`` (colour at full resolution) or ``png``
    quality : of JPEG, 1 to 100

    Returns Path: `path`.
    """
    if encoding not in ("jpeg", "png") or not 1 <= quality <= 100:
        raise ParameterError("Deep Zoom cannot be written so", got=f"{encoding}, quality {quality}",
                             expected="jpeg | png, quality 1 to 100")  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes, ending = level_sizes(frame.columns, frame.rows), "jpg" if encoding == "jpeg" else "png"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".dzi-") as work:
        folders = [Path(work) / "tiles" / str(len(sizes) - 1 - k) for k in range(len(sizes))]
        sinks = [_picture_sink(folder, ending, quality) for folder in folders]
        levels = [PyramidLevel((_TILE_PX, size[0], 3), np.uint8, sink, halved)
                  for size, sink in zip(sizes, sinks, strict=True)]  # fmt: skip
        stream(strips, frame, levels)
        _replace(Path(work) / "tiles", path)
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" '
        f'TileSize="{_TILE_PX}" Overlap="0" Format="{ending}"><Size Width="{frame.columns}" Height="{frame.rows}"/>'
        "</Image>\n"
    )
    return write_text(path, text)


def deep_zoom_facts(path: Path) -> dict[str, str]:
    """TileSize, Overlap, Format, Width and Height of a Deep Zoom file, of any writer.

    Raises InputError: it says something else, or cannot be read.
    """
    try:
        found = dict(_FACTS.findall(path.read_text(encoding="utf-8")[:2000]))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    numbers = [found.get(name, "") for name in ("TileSize", "Overlap", "Width", "Height")]
    whole = all(re.fullmatch(r"\d{1,7}", number) for number in numbers)
    if not whole or found.get("Format") not in ("jpg", "jpeg", "png"):
        raise InputError(f"{path} describes no Deep Zoom picture", fix="Write it again with notebook 07")
    return found


def read_deep_zoom(path: Path) -> NDArray[np.uint8]:
    """The full picture of a file that :func:`write_deep_zoom` wrote, (height, width, 3) uint8 RGB.

    Raises InputError: the picture is damaged, of another writer, or larger than :data:`MOST_PIXELS`.
    """
    facts = deep_zoom_facts(path)
    width, height = int(facts["Width"]), int(facts["Height"])
    if facts["TileSize"] != str(_TILE_PX) or facts["Overlap"] != "0" or not 0 < width * height <= MOST_PIXELS:
        got = f"{width} × {height} px, tiles of {facts['TileSize']} px"
        raise InputError(f"{path} is not read into memory", got=got,
                         expected=f"at most {MOST_PIXELS} px, tiles of {_TILE_PX} px without overlap")  # fmt: skip
    folder = path.with_name(f"{path.stem}_files") / str(len(level_sizes(width, height)) - 1)
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _TILE_PX):
        for left in range(0, width, _TILE_PX):
            tile = cv2.imread(str(folder / f"{left // _TILE_PX}_{top // _TILE_PX}.{facts['Format']}"))
            place = picture[top : top + _TILE_PX, left : left + _TILE_PX]
            if tile is None or tile.shape != place.shape:
                raise InputError(f"A tile of {path} is missing or damaged", got=f"column {left // _TILE_PX}, row "
                                 f"{top // _TILE_PX}", fix="Write it again with notebook 07")  # fmt: skip
            place[:] = cv2.cvtColor(tile, cv2.COLOR_BGR2RGB)
    return picture


def _replace(tiles: Path, path: Path) -> None:
    """Move finished tiles beside `path`, where nothing or an earlier Deep Zoom image may stand."""
    target = path.with_name(f"{path.stem}_files")
    if target.exists():
        files = [f.relative_to(target).as_posix() for f in target.rglob("*") if not f.is_dir()]
        if strange := [name for name in files if not _TILE_FILE.fullmatch(name)]:
            raise InputError(f"{target} is not a Deep Zoom folder, so it is not replaced", got=strange[0],
                             fix="Move it away, or write elsewhere")  # fmt: skip
        shutil.rmtree(target)
    tiles.replace(target)


def level_sizes(columns: int, rows: int) -> list[tuple[int, int]]:
    """(width, height) [px] of the levels of a Deep Zoom image, the full one first and a single pixel last."""
    count = math.ceil(math.log2(max(columns, rows))) + 1 if max(columns, rows) > 1 else 1
    return [(-(-columns >> k), -(-rows >> k)) for k in range(count)]


def halved(pixels: _Pixels) -> _Pixels:
    """Average 2 × 2 pixels, of scores (NaN is left out) or of uint8 colours (rounded); an odd last one stands alone."""
    odd = [(0, n % 2) for n in pixels.shape[:2]] + [(0, 0)] * (pixels.ndim - 2)
    whole = np.pad(pixels, odd, mode="edge")
    four = np.stack([whole[y::2, x::2] for y in (0, 1) for x in (0, 1)])
    if pixels.dtype == np.uint8:
        return np.asarray((four.sum(axis=0, dtype=np.uint16) + 2) >> 2, np.uint8)
    known = ~np.isnan(four)
    number = known.sum(axis=0)
    total = np.where(known, four, 0).sum(axis=0, dtype=np.float64)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)


def stream(strips: Iterable[_Pixels], frame: Frame, levels: list[PyramidLevel]) -> None:
    """Feed all rows of an image to its first level, and by it to the others.

    Raises SlideError: a strip has another shape or type, or the strips do not add up to the frame.
    """
    linked(levels)
    top = 0
    for strip in strips:
        if not levels[0].fits(strip) or top + len(strip) > frame.rows:
            raise SlideError(f"A band of a map does not fit, from row {top} on", got=f"{strip.dtype} {strip.shape}",
                             expected=f"at most {frame.rows - top} rows of {frame.columns} px")  # fmt: skip
        levels[0].take(strip)
        top += len(strip)
    if top != frame.rows:
        raise SlideError("The bands of a map end too early", got=f"{top} rows", expected=f"{frame.rows} rows")
    levels[0].finish()


def _picture_sink(folder: Path, ending: str, quality: int) -> Callable[[_Pixels], None]:
    """Writes each row of tiles of a Deep Zoom level as ``column_row.ending``; tiles at the edge are smaller."""
    folder.mkdir(parents=True)
    number = 0

    def take(band: _Pixels) -> None:
        nonlocal number
        for column, left in enumerate(range(0, band.shape[1], _TILE_PX)):
            tile = np.ascontiguousarray(band[:, left : left + _TILE_PX])
            (folder / f"{column}_{number}.{ending}").write_bytes(_picture(tile, ending, quality))
        number += 1

    return take


def _picture(tile: NDArray[np.uint8], ending: str, quality: int) -> bytes:
    if ending == "jpg":
        return bytes(simplejpeg.encode_jpeg(tile, quality, "RGB", "444"))
    done, data = cv2.imencode(".png", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR))
    if not done:
        raise RunError("A tile could not be encoded as PNG", got=tile.shape)
    return data.tobytes()


_SMALLEST_LEVEL_PX: Final = 512
"""Levels are added to a TIFF until the larger side is at most this."""
_KINDS: Final = ("float32", "uint8")
UNMEASURED: Final = {"float32": "NaN is not measured", "uint8": "0 is not measured; score = (value − 1) / 254"}
_CLASSIC_BYTES: Final = 1 << 31


def write_score_tiff(
    path: Path, bands: Iterable[Band | _Pixels], frame: Frame, *, name: str, kind: str = "float32",
    about: Mapping[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write a map as a single-channel pyramidal OME-TIFF.

    Parameters
    ----------
    path : target, by convention ``*.ome.tiff``; it appears when it is complete
    bands : of `Band` (their mean is written) or of arrays (rows, columns),
        from the top; NaN where nothing was measured
    frame : where the map lies; bands must add up to its shape
    name : name of the image, any text; characters that XML forbids are replaced
    kind : ``float32``: scores as they are, NaN where not measured. ``uint8``: 0 where not measured, and 1 to 255 for
        scores 0 to 1 in steps of 1/254. A pixel of a lower level is the mean of those of its four that were measured.
    about : facts for the file's annotations, such as gene and model

    Returns Path: `path`.

    Raises ParameterError: no such kind, or a score outside 0 to 1 for ``uint8``. SlideError: the bands do not add up to
    the frame. RunError: the disk is full.
    """
    if kind not in _KINDS:
        raise ParameterError("A score map cannot be of this kind", got=kind, expected=" | ".join(_KINDS))
    rows = (np.asarray(band.mean if isinstance(band, Band) else band, np.float32) for band in bands)
    facts = {"values": UNMEASURED[kind], **_place(frame), **(about or {})}
    return _write_tiff(path, rows, frame, _Format(kind, 1, _as_bytes if kind == "uint8" else _as_is), name, facts)


def write_overlay_tiff(path: Path, strips: Iterable[NDArray[np.uint8]], frame: Frame, *, name: str) -> Path:
    """Write an RGB overlay as a pyramidal OME-TIFF without loss; `strips` are uint8 (rows, columns, 3), from the top.

    Other parameters, result and errors are those of :func:`write_score_tiff`.
    """
    facts = {"values": "sRGB", **_place(frame)}
    return _write_tiff(path, strips, frame, _Format("uint8", 3, _as_is), name, facts)


@dataclass(frozen=True)
class _Format:
    """Sample type and count of a TIFF, and how the values of a band become its samples."""

    dtype: str
    samples: int
    encode: Callable[[_Pixels], _Pixels]


def _as_is(pixels: _Pixels) -> _Pixels:
    return pixels


def _as_bytes(scores: _Pixels) -> _Pixels:
    known = ~np.isnan(scores)
    if known.any() and not (scores[known].min() >= 0 and scores[known].max() <= 1):
        raise ParameterError("A score does not fit into a byte", got=f"{scores[known].min()} to {scores[known].max()}",
                             expected="0 to 1", fix="Write it as float32")  # fmt: skip
    return np.where(known, np.rint(np.where(known, scores, 0) * 254) + 1, 0).astype(np.uint8)


class _Tiles(Spool):
    """Rows of tiles of one level, encoded; and their hash."""

    def __init__(self, file: IO[bytes], form: _Format) -> None:
        super().__init__(file)
        self._encode, self.digest = form.encode, hashlib.sha256()

    def take(self, band: _Pixels) -> None:
        for tile in padded_tiles(self._encode(band), _TILE_PX):
            self.digest.update(tile.tobytes())
            self.add(deflated(tile) if tile.dtype == np.uint8 else zlib.compress(tile.astype("<f4").tobytes(), 3))


def _write_tiff(
    path: Path, strips: Iterable[_Pixels], frame: Frame, form: _Format, name: str, facts: Mapping[str, str]
) -> Path:
    path = Path(path)
    sizes = [s for s in level_sizes(frame.columns, frame.rows) if max(s) > _SMALLEST_LEVEL_PX // 2]
    sizes = sizes or [(frame.columns, frame.rows)]
    depth = (3,) if form.samples == 3 else ()
    dtype = np.uint8 if form.samples == 3 else np.float32  # lower levels are averaged as scores, then made bytes
    with atomic_path(path) as part, ExitStack() as stack:
        spools = [_Tiles(stack.enter_context(tempfile.TemporaryFile(dir=path.parent)), form) for _ in sizes]
        levels = [PyramidLevel((_TILE_PX, size[0], *depth), dtype, spool.take, halved)
                  for size, spool in zip(sizes, spools, strict=True)]  # fmt: skip
        stream(strips, frame, levels)
        made = uuid.uuid5(uuid.NAMESPACE_OID, spools[0].digest.hexdigest() + name + json.dumps(facts, sort_keys=True))
        sides, kind = (frame.mpp * frame.step_x, frame.mpp * frame.step_y), form.dtype.replace("float32", "float")
        text = ome_xml(name, sizes[0], sides, samples=form.samples, kind=kind, uuid=str(made), facts=facts)
        big = sum(w * h for w, h in sizes) * form.samples * np.dtype(form.dtype).itemsize > _CLASSIC_BYTES
        with tifffile.TiffWriter(part, bigtiff=big, byteorder="<", ome=False, shaped=False) as writer:
            for k, (size, spool) in enumerate(zip(sizes, spools, strict=True)):
                own = {"subfiletype": 1} if k else {"description": text.encode(), "subifds": len(sizes) - 1}
                writer.write(spool.tiles(), shape=(size[1], size[0], *depth), **_tags(form, frame, 2**k), **own)
    return path


def _tags(form: _Format, frame: Frame, scale: int) -> dict[str, Any]:
    per_cm = tuple(1e4 / (frame.mpp * step * scale) for step in (frame.step_x, frame.step_y))
    return {
        "dtype": np.dtype(form.dtype), "tile": (_TILE_PX, _TILE_PX), "compression": "adobe_deflate",
        "predictor": form.dtype == "uint8", "photometric": "rgb" if form.samples == 3 else "minisblack",
        "planarconfig": "contig" if form.samples == 3 else None, "resolution": per_cm, "resolutionunit": "centimeter",
        "metadata": None, "software": SOFTWARE,
    }  # fmt: skip


def _place(frame: Frame) -> dict[str, str]:
    return {
        "frame": "level-0 pixels of OpenSlide's full canvas; the map begins at 0, 0",
        "step_x_l0_px": repr(float(frame.step_x)), "step_y_l0_px": repr(float(frame.step_y)),
        "slide_width_l0_px": str(frame.width_l0_px), "slide_height_l0_px": str(frame.height_l0_px),
        "slide_mpp": repr(float(frame.mpp)),
    }  # fmt: skip
