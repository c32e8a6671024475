"""Slides to measure on: real JPEG tiles of CMU-1-Small-Region.svs (Aperio, 240 px, quality 30), repeated at random.

The tiles are copied as they are, so Huffman tables, colour coding and content are a scanner's; only their order is not.
``4:2:0`` slides are re-encoded (256 px, quality 80, YCbCr), as most other scanners write.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import tifffile
from _harness import REAL_SLIDE

_DESCRIPTION = "Aperio Image Library v10\n{s}x{s} [0,0 {s}x{s}] ({t}x{t}) JPEG/RGB Q={q}|AppMag = {power}|MPP = {mpp}"
_PHOTOMETRIC, _RGB = 262, 2


def real_tiles() -> tuple[list[bytes], bytes]:
    """(abbreviated streams of the whole 240 px tiles, JPEG tables)."""
    if not REAL_SLIDE.is_file():
        raise SystemExit("Not measured: the real slide CMU-1-Small-Region.svs is not in ../shared/data/slides.")
    data = REAL_SLIDE.read_bytes()
    with tifffile.TiffFile(REAL_SLIDE) as tiff:
        page = tiff.pages[0]
        across = -(-page.imagewidth // page.tilewidth)
        whole = [r * across + c for r in range(page.imagelength // 240) for c in range(page.imagewidth // 240)]
        streams = [data[page.dataoffsets[i] : page.dataoffsets[i] + page.databytecounts[i]] for i in whole]
        return streams, page.jpegtables


def write_real(path: Path, tiles_across: int, mpp: float, pyramid: bool, seed: int = 0) -> Path:
    """A square slide of real tiles; with a pyramid, levels 4 and 16 times coarser (re-encoded)."""
    streams, tables = real_tiles()
    order = np.random.default_rng(seed).integers(0, len(streams), tiles_across**2)
    side = tiles_across * 240
    power = round(10 / mpp)
    text = _DESCRIPTION.format(s=side, t=240, q=30, power=power, mpp=mpp)
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            (streams[i] for i in order), shape=(side, side, 3), dtype=np.uint8, tile=(240, 240), photometric="rgb",
            compression="jpeg", jpegtables=tables, subsampling=(1, 1), description=text, metadata=None,
        )  # fmt: skip
        if pyramid:
            coarse = _coarse(streams, tables, order, tiles_across)
            for level in (coarse, cv2.resize(coarse, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)):
                writer.write(
                    level, photometric="rgb", compression="jpeg", tile=(240, 240), subfiletype=1, metadata=None,
                    compressionargs={"level": 80},
                )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as tiff:  # the streams hold RGB, and the tag must say so
        tiff.pages[0].tags[_PHOTOMETRIC].overwrite(_RGB)
    return path


def _coarse(streams: list[bytes], tables: bytes, order: np.ndarray, across: int) -> np.ndarray:
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    head = b"\xff\xd8" + adobe + tables[2:-2]
    small = [simplejpeg.decode_jpeg(head + s[2:], min_height=60, min_width=60, min_factor=4) for s in streams]
    rows = [np.concatenate([small[i] for i in order[r * across : (r + 1) * across]], axis=1) for r in range(across)]
    return np.ascontiguousarray(np.concatenate(rows))


def write_420(path: Path, side: int, mpp: float, seed: int = 0) -> Path:
    """A square slide of the same tissue, re-encoded as YCbCr 4:2:0 in tiles of 256 px, with a coarser level."""
    streams, tables = real_tiles()
    head = b"\xff\xd8" + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + tables[2:-2]
    pictures = [cv2.resize(simplejpeg.decode_jpeg(head + s[2:]), (256, 256)) for s in streams]
    encoded = [simplejpeg.encode_jpeg(np.ascontiguousarray(p), quality=80, colorsubsampling="420") for p in pictures]
    across = side // 256
    order = np.random.default_rng(seed).integers(0, len(streams), across**2)
    text = _DESCRIPTION.format(s=across * 256, t=256, q=80, power=round(10 / mpp), mpp=mpp)

    def tiles() -> Iterator[bytes]:
        return (encoded[i] for i in order)

    with tifffile.TiffWriter(path) as writer:
        writer.write(
            tiles(), shape=(across * 256, across * 256, 3), dtype=np.uint8, tile=(256, 256), photometric="ycbcr",
            compression="jpeg", subsampling=(2, 2), description=text, metadata=None,
        )  # fmt: skip
    return path
