"""Notebooks 02 and 03 on one slide, one core: open, tissue, grid, quality, stored tiles; and how it scales.

    python benchmarks/tile_slide.py [--rounds 3] [--stress SLIDE]

The straightforward way does the same work with OpenSlide: every candidate is read at full size, judged by the
same measures, and what is kept is written as a picture file of its own. Decisions are compared before anything is
timed; they may differ near a threshold, because the straightforward way sees no context beyond the tile.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
from _harness import compare, interleaved, one_core, show, timed, write
from _slides import write_420, write_real
from PIL import Image

from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.quality.artefacts import artefact_masks
from deeplrhe_utils.slides.quality.blocks import jpeg_damage
from deeplrhe_utils.slides.quality.blur import noise_ratio
from deeplrhe_utils.slides.quality.tissue import background_mask, glass_level
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.grid import make_grid
from deeplrhe_utils.slides.tiles.screening import ScreenRules, screen_slide
from deeplrhe_utils.slides.tiles.tiling import TilingRules, tile_slide

# The slide is real tissue in a random order, so folds and bubbles cannot be judged: nothing is dropped for them.
RULES, SCREEN = TilingRules(), ScreenRules(max_fold=1.0, max_bubble=1.0, max_pen=1.0)


def row_of(path: Path) -> dict[str, Any]:
    return {"slide_id": path.stem, "patient_id": "p", "path": str(path), "mpp": None, "annotation": None}


def ours(path: Path) -> Any:
    return screen_slide(row_of(path), tile_slide(row_of(path), RULES), SCREEN)


def straightforward(path: Path, pictures: Path | None) -> list[bool]:
    """The same with OpenSlide alone, tile by tile."""
    handle, kept = openslide.OpenSlide(path), []
    mpp = float(handle.properties[openslide.PROPERTY_NAME_MPP_X])
    glass = glass_level(np.asarray(handle.get_thumbnail((1024, 1024)).convert("RGB")))
    for tile in make_grid(*handle.dimensions, mpp, 0.5, 512).itertuples():
        side = round(tile.size_l0_px)
        region = handle.read_region((tile.x_l0_px, tile.y_l0_px), 0, (side, side)).convert("RGB")
        pixels = np.asarray(region if side == 512 else region.resize((512, 512), Image.Resampling.BOX))
        small = cv2.resize(pixels, (128, 128), interpolation=cv2.INTER_AREA)
        background = background_mask(small, glass=glass, rules=RULES.survey)
        if background.mean() > RULES.max_background:
            kept.append(False)
            continue
        artefact_masks(small, 2.0, glass, SCREEN.survey)
        blank = cv2.resize(background.astype(np.uint8), (512, 512), interpolation=cv2.INTER_NEAREST).astype(bool)
        noise = noise_ratio(pixels, 0.5, SCREEN.blur_cut, blank=blank)
        fine = noise.ratio <= SCREEN.max_noise and jpeg_damage(pixels, 8 * mpp / 0.5) <= SCREEN.max_jpeg
        kept.append(fine)
        if fine and pictures is not None:
            Image.fromarray(pixels).save(pictures / f"{tile.column}_{tile.row}.jpg", quality=95, subsampling=0)
    return kept


def measure(title: str, path: Path, rounds: int, folder: Path) -> dict[str, Any]:
    """One slide: agreement of the decisions, then the rates in candidate tiles per second."""
    table, theirs = ours(path), straightforward(path, None)
    kept = table[table["kept"]]
    agree = float((table["kept"].to_numpy(bool) == np.array(theirs)).mean())
    print(f"\n{title}: {len(table)} candidates, {len(kept)} kept, decisions agree in {agree:.3f}")
    squares = [Square(int(t.x_l0_px), int(t.y_l0_px), float(t.size_l0_px)) for t in kept.itertuples()]
    slide = Slide(path)
    (folder / "files").mkdir(exist_ok=True)
    n = len(table)
    ways = {
        "deeplrhe_utils, coordinates only": lambda: timed(lambda: len(ours(path))),
        "straightforward, coordinates only": lambda: timed(lambda: len(straightforward(path, None))),
        "straightforward, tiles kept as JPEG": lambda: timed(lambda: len(straightforward(path, folder / "files"))),
        "kept tiles read alone (ours)": lambda: timed(
            lambda: n * len(list(slide.read_tiles(squares, 512))) // len(kept)
        ),
    }
    rates = interleaved(ways, rounds)
    rows = compare(rates, "straightforward, tiles kept as JPEG")
    show(title, rows, "tiles/s", "straightforward with JPEG")

    def over(a: str, b: str) -> float:
        return float(np.median([x / y for x, y in zip(rates[a], rates[b], strict=True)]))

    ratios = {
        "coordinates_over_straightforward": over(
            "deeplrhe_utils, coordinates only", "straightforward, coordinates only"
        ),
        "time_over_reading_kept_tiles": 1 / over("deeplrhe_utils, coordinates only", "kept tiles read alone (ours)"),
    }
    print(*(f"  {name}: {value:.2f}" for name, value in ratios.items()), sep="\n")
    return {"rows": rows, "ratios": ratios, "candidates": n, "kept": len(kept), "agreement": agree}


def _one(path: str, back: Any) -> None:
    start = time.perf_counter()
    table = ours(Path(path))
    seconds = time.perf_counter() - start
    # Not ru_maxrss, which a process inherits from the one that started it.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    back.put((path, len(table), int(table["kept"].sum()), seconds, int(peak.split()[1]) * 1.024e-3))


def scale(paths: list[Path]) -> list[dict[str, Any]]:
    """Time and peak memory of slides of different size, each in a process of its own."""
    rows, context = [], mp.get_context("spawn")
    print("\nscale (one process each)")
    for path in paths:
        back = context.Queue()
        process = context.Process(target=_one, args=(str(path), back))
        process.start()
        _, n, kept, seconds, memory = back.get()
        process.join()
        rows.append({"slide": path.stem, "candidates": n, "kept": kept, "seconds": seconds, "peak_mb": memory})
        each = 1e3 * seconds / n
        print(f"  {path.stem:18}{n:8} candidates{kept:8} kept{seconds:9.1f} s{each:8.2f} ms each{memory:7.0f} MB")
    return rows


def workers(path: Path, copies: int = 6) -> float:
    """Slides per second of two worker processes over those of one, the start of the workers not counted."""
    rates = {}
    for count in (1, 2):
        with mp.get_context("spawn").Pool(count) as pool:
            pool.map(_work, [str(path)] * count)  # imports, and the first touch of memory
            rates[count] = timed(lambda pool=pool: len(pool.map(_work, [str(path)] * copies, chunksize=1)))
    print(f"\ntwo workers over one: {rates[2] / rates[1]:.2f}")
    return rates[2] / rates[1]


def _work(path: str) -> int:
    cv2.setNumThreads(1)
    return len(ours(Path(path)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stress", type=Path, default=None, help="slide of `deeplrhe synth stress`, for the scale")
    options = parser.parse_args()
    result: dict[str, Any] = {"rounds": options.rounds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        at40 = write_real(folder / "real40.svs", 100, 0.25, pyramid=True)
        result["workers_two_over_one"] = workers(at40)
        sizes = [write_real(folder / f"real40_{n}.svs", n, 0.25, pyramid=True) for n in (50, 100, 200)]
        result["scale"] = scale([*sizes, *([options.stress] if options.stress else [])])
        result["core"] = one_core()
        at20 = write_real(folder / "real20.svs", 60, 0.5, pyramid=True, seed=1)
        chroma = write_420(folder / "chroma40.svs", 12_000, 0.25)
        result["from_40x"] = measure("40x slide with levels 4 and 16", at40, options.rounds, folder)
        result["from_20x"] = measure("20x slide with levels 4 and 16", at20, options.rounds, folder)
        result["from_40x_420_no_pyramid"] = measure("40x 4:2:0 slide of one level", chroma, options.rounds, folder)
    write("tile_slide", result)


if __name__ == "__main__":
    main()
