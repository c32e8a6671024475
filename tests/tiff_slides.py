"""Small tiled-JPEG slides of every kind, written by tifffile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

APERIO = "Aperio Image Library v11\n{w}x{h} [0,0 {w}x{h}] (256x256) JPEG Q=80|AppMag = 40|MPP = 0.25"


def tissue_like(height: int, width: int, seed: int = 0) -> np.ndarray:
    """RGB noise with structure at several scales, in the colours of H&E: hard for JPEG and for chroma."""
    import cv2

    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 235, np.float32)
    for sigma, weight in ((1.5, 60), (4, 90), (12, 120)):
        noise = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), sigma)
        picture -= weight * np.clip(noise / noise.std(), 0, 2)[..., None] * np.array([0.5, 0.8, 0.4], np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_jpeg_slide(
    path: Path, pixels: np.ndarray, *, tile: int = 256, subsampling: tuple[int, int] = (2, 2), quality: int = 85,
    rgb: bool = False, levels: tuple[int, ...] = (1,), missing: tuple[int, ...] = (), bigtiff: bool = False,
    byteorder: str = "<", aperio: bool = True, icc: bytes | None = None,
) -> Path:  # fmt: skip
    """Write a pyramid as tiled JPEG: `levels` are downsamples, `missing` the level-0 tiles that are not stored."""
    height, width = pixels.shape[:2]
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as writer:
        for down in levels:
            level = pixels[: height // down * down, : width // down * down]
            level = level.reshape(height // down, down, width // down, down, 3).mean((1, 3)).round().astype(np.uint8)
            writer.write(
                _tiles(level, tile, missing if down == 1 else ()), shape=level.shape, dtype=np.uint8, tile=(tile, tile),
                photometric="rgb", compression="jpeg", subsampling=(1, 1) if rgb else subsampling,
                compressionargs={"level": quality, **({"outcolorspace": "rgb"} if rgb else {})},
                subfiletype=0 if down == 1 else 1, metadata=None, iccprofile=icc,
                description=APERIO.format(w=width, h=height) if aperio else None,
            )  # fmt: skip
    return path


def overwrite_tile(path: Path, number: int, change: Callable[[bytes], bytes], level: int = 0) -> None:
    """Change the compressed bytes of one native tile in place."""
    with tifffile.TiffFile(path) as tiff:
        start, count = tiff.pages[level].dataoffsets[number], tiff.pages[level].databytecounts[number]
    data = bytearray(path.read_bytes())
    data[start : start + count] = change(bytes(data[start : start + count]))
    path.write_bytes(data)


def damage(path: Path, number: int, level: int = 0) -> None:
    """Zero the second half of one native tile."""
    overwrite_tile(path, number, lambda stream: stream[: len(stream) // 2].ljust(len(stream), b"\0"), level)


def _tiles(level: np.ndarray, tile: int, missing: tuple[int, ...]):
    height, width = level.shape[:2]
    padded = np.pad(level, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    places = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    for number, (y, x) in enumerate(places):
        yield None if number in missing else np.ascontiguousarray(padded[y : y + tile, x : x + tile])
