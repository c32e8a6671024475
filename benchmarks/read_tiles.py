"""512 px tiles at 0.5 um/px from a JPEG slide, one core: ours against the readers that others use.

    python benchmarks/read_tiles.py [--rounds 7] [--tiles 44]

Before anything is timed, every way's tiles are compared with OpenSlide + area averaging.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import simplejpeg
from _harness import at_both_levels, compare, importable, interleaved, one_core, show, timed, versions
from _slides import write_420, write_real
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from deeplrhe_utils.slides.decoding.sampling import Box, Square
from deeplrhe_utils.slides.reading.reader import Slide

OUT_PX = 512
OTHER_PLACE = 10  # grey levels of mean difference: not the same job
Reader = Callable[[], list[np.ndarray]]


def area(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[0] == OUT_PX:
        return pixels
    return cv2.resize(pixels, (OUT_PX, OUT_PX), interpolation=cv2.INTER_AREA)


def readers(path: Path, squares: list[Square]) -> dict[str, Reader]:
    """Every way to the same tiles that this environment has."""
    side = int(squares[0].size_l0_px)
    handle = openslide.OpenSlide(path)
    slide = Slide(path)
    ways: dict[str, Reader] = {"deeplrhe_utils": lambda: list(slide.read_tiles(squares, OUT_PX))}

    def regions() -> Any:
        return (handle.read_region((s.x_l0_px, s.y_l0_px), 0, (side, side)) for s in squares)

    ways["OpenSlide + PIL"] = lambda: [
        np.asarray(r.convert("RGB").resize((OUT_PX, OUT_PX), Image.Resampling.BICUBIC)) for r in regions()
    ]
    ways["OpenSlide + OpenCV area"] = lambda: [area(cv2.cvtColor(np.asarray(r), cv2.COLOR_RGBA2RGB)) for r in regions()]
    ways["OpenSlide DeepZoomGenerator"] = _deep_zoom(handle, squares, side)
    ways |= _peers(path, squares, side)
    return ways


def _deep_zoom(handle: openslide.OpenSlide, squares: list[Square], side: int) -> Reader:
    zoom = DeepZoomGenerator(handle, tile_size=OUT_PX, overlap=0, limit_bounds=False)
    level = zoom.level_count - 1 - (side // OUT_PX).bit_length() + 1
    return lambda: [np.asarray(zoom.get_tile(level, (s.x_l0_px // side, s.y_l0_px // side))) for s in squares]


def _peers(path: Path, squares: list[Square], side: int) -> dict[str, Reader]:
    ways: dict[str, Reader] = {}
    if importable("tiffslide"):
        import tiffslide

        tiff = tiffslide.TiffSlide(path)
        ways["tiffslide + area"] = lambda: [
            area(tiff.read_region((s.x_l0_px, s.y_l0_px), 0, (side, side), as_array=True)) for s in squares
        ]
    if importable("fastslide"):
        import fastslide

        fast = fastslide.FastSlide.from_file_path(str(path))
        ways["fastslide + area"] = lambda: [
            area(np.ascontiguousarray(fast.read_region((s.x_l0_px, s.y_l0_px), 0, (side, side)).numpy()[..., :3]))
            for s in squares
        ]
    if importable("cucim"):
        from cucim import CuImage

        image = CuImage(str(path))
        ways["cuCIM (CPU) + area"] = lambda: [
            area(np.asarray(image.read_region((s.x_l0_px, s.y_l0_px), (side, side), 0))) for s in squares
        ]
    if importable("histolab"):
        from histolab.slide import Slide as HistolabSlide
        from histolab.types import CoordinatePair

        other = HistolabSlide(str(path), processed_path="")

        def histolab() -> list[np.ndarray]:
            tiles = (
                other.extract_tile(
                    CoordinatePair(s.x_l0_px, s.y_l0_px, s.x_l0_px + side, s.y_l0_px + side), (OUT_PX, OUT_PX), level=0
                )
                for s in squares
            )
            return [np.asarray(tile.image.convert("RGB")) for tile in tiles]

        ways["histolab extract_tile"] = histolab
    return ways


def pure_decode(path: Path, squares: list[Square]) -> Callable[[], int]:
    """The limit: libjpeg-turbo on the compressed tiles of the same area, each once; counts tiles of OUT_PX."""
    slide = Slide(path)
    jpeg = slide._source._jpeg
    level = jpeg.levels[0]
    scale = int(squares[0].size_l0_px) // OUT_PX
    keys = {k for s in squares for k in jpeg.keys(Box(0, scale, s.x_l0_px, s.y_l0_px, *2 * (int(s.size_l0_px),)))}
    d = level.directory
    places = [(int(d.offsets[i]), int(d.counts[i])) for i in sorted(r * d.columns + c for _, _, c, r in keys)]
    with path.open("rb") as file:
        streams = [level.prefix + os.pread(file.fileno(), count, offset)[2:] for offset, count in places]
    height, width = d.tile_height // scale, d.tile_width // scale
    buffer = np.empty((height, width, 3), np.uint8)
    tiles = len(streams) * d.tile_height * d.tile_width / squares[0].size_l0_px ** 2  # of the same area

    def decode() -> float:
        for stream in streams:
            simplejpeg.decode_jpeg(stream, min_height=height, min_width=width, min_factor=scale, buffer=buffer)
        return tiles

    return decode


def measure(title: str, path: Path, size: int, count: int, rounds: int) -> dict[str, Any]:
    """One slide: compare the pixels, then the rates."""
    across = min(Slide(path).dimensions[0] // size, 11)
    squares = [Square(x * size, y * size, size) for y in range(-(-count // across)) for x in range(across)][:count]
    ways = readers(path, squares)
    reference = ways["OpenSlide + OpenCV area"]()
    differences: dict[str, float] = {}
    for name, way in list(ways.items()):
        try:
            differences[name] = float(
                np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(way(), reference, strict=True)])
            )
        except Exception as error:  # a peer that fails must not take the others with it
            print(f"{name} is not measured here: {type(error).__name__}: {error}")
            del ways[name]
    wrong = [name for name, value in differences.items() if value > OTHER_PLACE]
    for name in wrong:
        print(f"{name} reads another place or resolution here (mean difference {differences[name]:.0f}): not compared")
    timers: dict[str, Callable[[], float]] = {
        name: (lambda way=way: timed(lambda: len(way()))) for name, way in ways.items() if name not in wrong
    }
    limit = pure_decode(path, squares)
    timers["pure decode (limit)"] = lambda: timed(limit)
    rates = interleaved(timers, rounds)
    rows = compare(rates, "OpenSlide + PIL")
    show(title, rows, "tiles/s", "OpenSlide + PIL")
    own, best = rates["deeplrhe_utils"], rates["pure decode (limit)"]
    share = float(np.median([a / b for a, b in zip(own, best, strict=True)]))
    print(f"  share of the pure decode rate: {share:.2f}; mean |difference| from OpenSlide + area: "
          + ", ".join(f"{name} {value:.2f}" for name, value in differences.items()))  # fmt: skip
    against = {name: float(np.median([a / b for a, b in zip(own, rates[name], strict=True)])) for name in rates}
    return {"rows": rows, "share_of_pure_decode": share, "ours_over": against, "mean_difference": differences}


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiles", type=int, default=44)
    options = parser.parse_args()
    core = one_core()
    result: dict[str, Any] = {"rounds": options.rounds, "tiles": options.tiles, "core": core, "threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        at40 = write_real(Path(folder) / "real40.svs", 50, 0.25, pyramid=False)
        at20 = write_real(Path(folder) / "real20.svs", 50, 0.5, pyramid=False, seed=1)
        other = write_420(Path(folder) / "chroma40.svs", 12_000, 0.25)
        result["from_40x"] = measure("40x slide, 4:4:4 RGB JPEG as scanned", at40, 1024, options.tiles, options.rounds)
        result["from_20x"] = measure("20x slide, 4:4:4 RGB JPEG as scanned", at20, 512, options.tiles, options.rounds)
        result["from_40x_420"] = measure("40x slide, 4:2:0 YCbCr JPEG", other, 1024, options.tiles, options.rounds)
        odd = 1012  # 0.2527 um/px, a common Aperio resolution: 1013.06 px a tile, not twice 512
        result["from_0.2527"] = measure("0.2527 um/px: no whole ratio", at40, odd, options.tiles, options.rounds)
    result["versions"] = versions(
        "openslide-python", "openslide-bin", "pillow", "opencv-python-headless", "simplejpeg", "tiffslide", "fastslide",
        "cucim-cu12", "histolab",
    )  # fmt: skip
    return result


if __name__ == "__main__":
    at_both_levels("read_tiles", main)
