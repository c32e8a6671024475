"""Can JPEG 2000 slides (TIFF compression 33003, 33005) be read at half size from the low-pass band alone?

    python benchmarks/jpeg_2000.py [--rounds 5]

Three ways to tiles at half the resolution of level 0, OpenSlide + area averaging being the judge: the low-pass band as
it is; the same with the four taps that make it the average of 2 x 2 pixels where the high bands are empty; all bands,
averaged. Slides: fields of MoNuSeg (real 40x) and CMU-1-Small-Region (sharper: 20x, taken for 40x), encoded here at
some ratios of compression, and the real luna_1065626.svs (Aperio, J2K/YUV16 Q=70, 20x).
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import tifffile
from _harness import REAL_SLIDE, SHARED_DATA, compare, interleaved, one_core, show, timed, versions, write
from PIL import Image

SIDE, TILE, ACROSS = 1024, 256, 16
TISSUE = 0.1  # share of coloured pixels; the real slide holds a few small pieces
RATIOS = (40, 20, 12)  # 0.6, 1.2 and 2 bits per pixel
# Synthesis low-pass filter of the 9/7 wavelet (ISO/IEC 15444-1, annex F), from its centre outwards.
G0, G1, G2, G3 = 1.115087052456994, 0.591271763114247, -0.057543526228500, -0.091271763114247
AVERAGE = np.array([G2 + G3, G0 + G1, G1 + G2, G3]) / 2  # of x[2n] and x[2n + 1], from the samples n - 1 to n + 2
EVEN, ODD = np.array([G2, G0, G2, 0]), np.array([G3, G1, G1, G3])
_C = np.arange(256) - 128
RED, BLUE = (91881 * _C + 32768) >> 16, (116130 * _C + 32768) >> 16  # libjpeg's tables, which OpenSlide uses
GREEN_CR, GREEN_CB = -46802 * _C, -22554 * _C + 32768
Pixels = np.ndarray


def boxed(stream: bytes, side: int) -> bytes:
    """The codestream as a JP2 file that calls its components RGB: Pillow leaves YCbCr as it is then."""

    def box(kind: bytes, body: bytes) -> bytes:
        return (8 + len(body)).to_bytes(4, "big") + kind + body

    head = box(b"ihdr", 2 * side.to_bytes(4, "big") + bytes([0, 3, 7, 7, 0, 0]))
    head += box(b"colr", bytes([1, 0, 0, 0, 0, 0, 16]))
    return box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + box(b"jp2h", head) + box(b"jp2c", stream)


def decoded(stream: bytes, side: int, reduce: int) -> Pixels:
    image = Image.open(io.BytesIO(boxed(stream, side)))
    image.reduce = reduce
    return np.asarray(image)


def filtered(band: Pixels, across: Pixels, down: Pixels) -> Pixels:
    """Taps from n - 1 to n + 2; the borders repeat as the wavelet's do: about the first sample, and after the last."""
    padded = cv2.copyMakeBorder(band, 3, 0, 3, 0, cv2.BORDER_REFLECT_101)
    padded = cv2.copyMakeBorder(padded, 0, 3, 0, 3, cv2.BORDER_REFLECT)
    return cv2.sepFilter2D(padded, -1, across, down, anchor=(1, 1))[3:-3, 3:-3]


def rgb(y: Pixels, chroma: Pixels) -> Pixels:
    """OpenSlide's conversion; chroma has half the width, and is repeated."""
    cb, cr = chroma[..., 0], chroma[..., 1]
    add = np.stack([RED[cr], (GREEN_CB[cb] + GREEN_CR[cr]) >> 16, BLUE[cb]], -1).astype(np.int16)
    add = np.repeat(add, y.shape[1] // add.shape[1], axis=1)
    return np.clip(y[..., None] + add, 0, 255).astype(np.uint8)


class Way:
    """One way to read squares at half their size, from a file's index and streams."""

    def __init__(self, path: Path, how: str) -> None:
        self.how, self.file = how, path.read_bytes()
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            self.side, self.across = page.tilewidth, -(-page.imagewidth // page.tilewidth)
            self.ycbcr, self.where = (
                page.compression == 33003,
                list(zip(page.dataoffsets, page.databytecounts, strict=True)),
            )

    def tile(self, stream: bytes) -> Pixels:
        pixels = decoded(stream, self.side, self.how != "all bands")
        if not self.ycbcr:
            return filtered(pixels, AVERAGE, AVERAGE) if self.how == "low band, corrected" else pixels
        y, chroma = pixels[..., 0], np.ascontiguousarray(pixels[:, ::2, 1:])  # 4:2:2, repeated by the decoder
        if self.how != "low band, corrected":
            return rgb(y, chroma)
        full = np.empty((*y.shape, 2), np.uint8)  # across, chroma has no pixels to average: it is interpolated
        full[:, ::2], full[:, 1::2] = filtered(chroma, EVEN, AVERAGE), filtered(chroma, ODD, AVERAGE)
        return rgb(filtered(y, AVERAGE, AVERAGE), full)

    def square(self, x: int, y: int, side: int, halve: bool = True) -> Pixels:
        def one(column: int, row: int) -> Pixels:
            start, count = self.where[row * self.across + column]
            return self.tile(self.file[start : start + count])

        columns, rows = (range(first // self.side, (first + side) // self.side) for first in (x, y))
        whole = np.concatenate([np.concatenate([one(column, row) for column in columns], axis=1) for row in rows])
        return area(whole) if self.how == "all bands" and halve else whole


def area(pixels: Pixels) -> Pixels:
    return cv2.resize(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 2), interpolation=cv2.INTER_AREA)


def pieces(image: Pixels) -> list[Pixels]:
    steps = [range(0, length - TILE + 1, TILE) for length in image.shape[:2]]
    return [np.ascontiguousarray(image[y : y + TILE, x : x + TILE, :3]) for y in steps[0] for x in steps[1]]


def encode(pixels: Pixels, ratio: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(
        out, "JPEG2000", no_jp2=True, irreversible=True, mct=1, quality_mode="rates", quality_layers=[ratio]
    )
    return out.getvalue()


def slide(path: Path, tiles: list[Pixels], ratio: int) -> Path:
    streams, side = [encode(tile, ratio) for tile in tiles], ACROSS * TILE
    order = np.random.default_rng(0).integers(0, len(tiles), ACROSS**2)
    text = f"Aperio Image Library v12\n{side}x{side} [0,0 {side}x{side}] ({TILE}x{TILE}) J2K|AppMag = 40|MPP = 0.25"
    tifffile.imwrite(
        path, (streams[i] for i in order), shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb",
        compression=33005, description=text, metadata=None,
    )  # fmt: skip
    return path


def measure(title: str, path: Path, rounds: int, side: int = SIDE) -> dict[str, Any]:
    handle = openslide.OpenSlide(path)
    handle.set_cache(openslide.OpenSlideCache(0))  # nothing is read twice in a round, and no round is to help the next
    if handle.properties["openslide.vendor"] != "aperio":
        raise SystemExit(f"{title}: OpenSlide does not take it for Aperio's, so there is no judge")

    def region(x: int, y: int) -> Image.Image:
        return handle.read_region((x, y), 0, (side, side)).convert("RGB")

    def usual(x: int, y: int) -> Pixels:
        return np.asarray(region(x, y).resize((side // 2, side // 2), Image.Resampling.BICUBIC))

    steps = [range(0, length - side + 1, side) for length in handle.dimensions]
    judged = {(x, y): np.asarray(region(x, y)) for y in steps[1] for x in steps[0]}
    judged = {c: pixels for c, pixels in judged.items() if np.mean(np.ptp(pixels, axis=-1) > 25) > TISSUE}
    readers = {how: Way(path, how) for how in ("low band", "low band, corrected", "all bands")}
    ways: dict[str, Callable[[int, int], Pixels]] = {"OpenSlide + PIL": usual}
    ways |= {how: lambda x, y, reader=reader: reader.square(x, y, side) for how, reader in readers.items()}
    corners = list(judged)
    errors = {
        name: [np.abs(way(*c).astype(int) - area(pixels)).mean() for c, pixels in judged.items()]
        for name, way in ways.items()
    }
    full = readers["all bands"]
    at_1_1 = max(np.abs(full.square(*c, side, False).astype(int) - p).max() for c, p in judged.items())
    rates = interleaved({n: lambda w=w: timed(lambda: len([w(*c) for c in corners])) for n, w in ways.items()}, rounds)
    rows = compare(rates, "OpenSlide + PIL")
    show(f"{title} ({len(corners)} tiles)", rows, "tiles/s", "OpenSlide + PIL")
    print("  mean |difference| from OpenSlide + area (worst tile): "
          + ", ".join(f"{n} {np.mean(e):.2f} ({max(e):.2f})" for n, e in errors.items())
          + f"; greatest difference at 1:1 {at_1_1}")  # fmt: skip
    difference = {name: {"mean": float(np.mean(e)), "worst_tile": float(max(e))} for name, e in errors.items()}
    return {"rows": rows, "tiles": len(corners), "difference": difference, "greatest_at_1_1": int(at_1_1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not (SHARED_DATA / "monuseg_tcga_lung").is_dir() or not REAL_SLIDE.is_file():
        raise SystemExit("Not measured: monuseg_tcga_lung and slides are not in ../shared/data.")
    result: dict[str, Any] = {"rounds": options.rounds, "core": one_core(), "threads": 1}
    fields = [p for f in sorted((SHARED_DATA / "monuseg_tcga_lung").glob("*.tif")) for p in pieces(tifffile.imread(f))]
    sharp = [p for p in pieces(tifffile.imread(REAL_SLIDE)) if p.mean() < 215]
    with tempfile.TemporaryDirectory() as folder:
        for name, tiles in {"MoNuSeg": fields, "CMU-1": sharp}.items():
            for ratio in RATIOS:
                path = slide(Path(folder) / "slide.svs", tiles, ratio)
                result[f"{name}_1:{ratio}"] = measure(f"{name}, {24 / ratio:.1f} bits per pixel", path, options.rounds)
    result["luna"] = measure("luna_1065626", SHARED_DATA / "slides" / "luna_1065626.svs", options.rounds, 512)
    result["versions"] = versions("openslide-python", "openslide-bin", "pillow", "opencv-python-headless")
    write("jpeg_2000", result)


if __name__ == "__main__":
    main()
