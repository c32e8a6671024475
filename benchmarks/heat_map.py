"""Heat maps from cached scores, one core: a slide of 100,000 × 100,000 px, a demo slide, and the naive way.

    python benchmarks/heat_map.py [--rounds 5]

The large slide is drawn in a process of its own, so that its peak memory is its own; the file is read back and held
against the windows' formula at random pixels. The finer map of notebook 07 has the windows between the tiles as well,
four times as many, Gaussian weights, and the scores of two networks, which gives a mean and a spread; it is held
against its own formula at random pixels, too. The naive way writes each window's score to its pixels at full
resolution, divides, and takes the map's pixels from it; its memory for the large slide is computed, not spent.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from _harness import compare, interleaved, one_core, show, timed, versions, write

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.reporting.exports.interop import write_qupath
from deeplrhe_utils.reporting.exports.pyramid import write_score_tiff
from deeplrhe_utils.reporting.heatmaps.bands import Frame, heat_bands, heat_map
from deeplrhe_utils.reporting.heatmaps.contours import window_contours
from deeplrhe_utils.slides.tiles.between import windows_between
from deeplrhe_utils.slides.tiles.grid import make_grid

LARGE, MPP, MAP_MPP = 100_000, 0.25, 8.0
FINER = "finer map, two networks"
DEMO = (3400, 2280, 0.5)  # the first slide of the committed demo


def cached(width: int, height: int, mpp: float, stride_px: int) -> tuple[pd.DataFrame, np.ndarray]:
    tiles = make_grid(width, height, mpp, 0.5, 512, stride_px=stride_px)
    tiles = tiles.assign(tile_id=[f"s_{c}_{r}" for c, r in zip(tiles["column"], tiles["row"], strict=True)])
    return tiles, generator(1, "heat map benchmark").random(len(tiles))


def finer(width: int, height: int, mpp: float, networks: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Tiles and the windows between them at half their distance, and a column of scores for every network."""
    tiles, _ = cached(width, height, mpp, 512)
    windows = pd.concat([tiles, windows_between(tiles, 2)], ignore_index=True)
    return windows, generator(3, "finer map").random((len(windows), networks))


def peak_mb() -> float:
    """Peak resident memory of this process so far [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def large(stride_px: int, kind: str, weights: str, map_mpp: float, answer: Any) -> None:
    """Draw the large slide here, a fresh process; answer with seconds and megabytes."""
    one_core()
    tiles, scores = cached(LARGE, LARGE, MPP, stride_px)
    frame, before = Frame.at(LARGE, LARGE, MPP, map_mpp), peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        bands = heat_bands(tiles, scores, frame, weights=weights)
        path = write_score_tiff(Path(folder) / "a.ome.tiff", bands, frame, name="large", kind=kind)
        seconds, peak = time.perf_counter() - start, peak_mb()
        worst = verify(tifffile.imread(path, level=0), tiles, scores, frame, kind) if weights == "uniform" else None
        size = path.stat().st_size
    answer.put({
        "windows": len(tiles), "stride_px": stride_px, "map_px": frame.columns, "map_mpp": map_mpp, "kind": kind,
        "weights": weights, "seconds": seconds, "peak_mb": peak, "peak_mb_before": before, "file_mb": size / 2**20,
        "largest_difference": worst,
    })  # fmt: skip


def large_finer(side: int, map_mpp: float, networks: int, answer: Any) -> None:
    """The finer map of a large slide, mean and spread drawn and the mean written; a fresh process, as above."""
    one_core()
    windows, scores = finer(side, side, MPP, networks)
    frame, before = Frame.at(side, side, MPP, map_mpp), peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        bands = heat_bands(windows, scores, frame, weights="gaussian")
        path = write_score_tiff(Path(folder) / "a.ome.tiff", bands, frame, name="finer", kind="float32")
        seconds, peak = time.perf_counter() - start, peak_mb()
        worst = verify_finer(tifffile.imread(path, level=0), windows, scores, frame)
    answer.put({
        "windows": len(windows), "scores": scores.size, "stride_px": 256, "map_px": frame.columns, "map_mpp": map_mpp,
        "kind": "float32", "weights": "gaussian", "networks": networks, "slide_px": side, "seconds": seconds,
        "peak_mb": peak, "peak_mb_before": before, "largest_difference": worst,
    })  # fmt: skip


def verify(stored: np.ndarray, tiles: pd.DataFrame, scores: np.ndarray, frame: Frame, kind: str) -> float:
    """Largest difference to the mean of the windows that cover a pixel's centre, at 300 random pixels."""
    rng = generator(2, "where to look")
    x, y, size = (tiles[c].to_numpy(float) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    worst = 0.0
    for row, column in rng.integers(0, frame.rows, (300, 2)):
        cx, cy = (column + 0.5) * frame.step_x, (row + 0.5) * frame.step_y
        over = (x <= cx) & (cx < x + size) & (y <= cy) & (cy < y + size)
        found = float(stored[row, column])
        found = found if kind == "float32" else (found - 1) / 254 if found else np.nan
        assert np.isnan(found) == (not over.any())
        worst = max(worst, abs(found - scores[over].mean()) if over.any() else 0.0)
    assert worst <= (1e-6 if kind == "float32" else 0.5 / 254 + 1e-6)
    return worst


def verify_finer(stored: np.ndarray, windows: pd.DataFrame, scores: np.ndarray, frame: Frame) -> float:
    """Largest difference to the networks' mean of Gaussian-weighted means (side: six sigma), at 300 random pixels."""
    rng = generator(4, "where to look")
    x, y, size = (windows[c].to_numpy(float) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    worst, met = 0.0, 0
    for row, column in rng.integers(0, frame.rows, (300, 2)):
        cx, cy = (column + 0.5) * frame.step_x, (row + 0.5) * frame.step_y
        u, v = (cx - x) / size - 0.5, (cy - y) / size - 0.5
        over = (u >= -0.5) & (u < 0.5) & (v >= -0.5) & (v < 0.5)
        assert np.isnan(stored[row, column]) == (not over.any())
        if over.any():
            weight = np.exp(-18 * (u[over] ** 2 + v[over] ** 2))
            worst = max(worst, abs(float(stored[row, column]) - (weight @ scores[over] / weight.sum()).mean()))
            met += 1
    assert met > 100 and worst <= 1e-6
    return worst


def naive(tiles: pd.DataFrame, scores: np.ndarray, size: tuple[int, int], frame: Frame) -> np.ndarray:
    """Full resolution: add, count, divide; then the pixel at each map pixel's centre."""
    total, count = np.zeros(size[::-1]), np.zeros(size[::-1])
    for x, y, side, score in zip(tiles["x_l0_px"], tiles["y_l0_px"], tiles["size_l0_px"], scores, strict=True):
        part = slice(int(y), round(y + side)), slice(int(x), round(x + side))
        total[part] += score
        count[part] += 1
    with np.errstate(invalid="ignore"):
        mean = total / count
    rows = ((np.arange(frame.rows) + 0.5) * frame.step_y).astype(int)
    columns = ((np.arange(frame.columns) + 0.5) * frame.step_x).astype(int)
    return mean[rows][:, columns]


def demo(rounds: int) -> dict[str, Any]:
    width, height, mpp = DEMO
    tiles, scores = cached(width, height, mpp, 512)
    frame = Frame.fit(width, height, mpp, (322, 480))
    np.testing.assert_allclose(
        heat_map(tiles, scores, frame).mean, naive(tiles, scores, (width, height), frame), atol=1e-6
    )
    windows, both = finer(width, height, mpp, 2)
    folder = Path(tempfile.mkdtemp())

    def with_tiff() -> int:
        bands = heat_bands(tiles, scores, frame)
        write_score_tiff(folder / "a.ome.tiff", bands, frame, name="demo")
        return 1

    ways = {
        "map": lambda: timed(lambda: len(heat_map(tiles, scores, frame)) and 1),
        "map and pyramidal OME-TIFF": lambda: timed(with_tiff),
        FINER: lambda: timed(lambda: len(heat_map(windows, both, frame, weights="gaussian")) and 1),
        "naive, full resolution": lambda: timed(lambda: len(naive(tiles, scores, (width, height), frame)) and 1),
    }
    rows = compare(interleaved(ways, rounds), "naive, full resolution")
    show("a demo slide", rows, "maps/s", "naive")
    (folder / "a.ome.tiff").unlink()
    folder.rmdir()
    return {row["way"]: {"seconds": 1 / row["rate"], "x_naive": row["ratio"]} for row in rows}


def middle(rounds: int) -> dict[str, Any]:
    """The largest slide that the naive way can hold here in about 1.6 GB."""
    side = 10_000
    tiles, scores = cached(side, side, MPP, 256)
    frame = Frame.at(side, side, MPP, MAP_MPP)
    found = heat_map(tiles, scores, frame).mean
    np.testing.assert_allclose(found[:-1, :-1], naive(tiles, scores, (side, side), frame_inside(frame)),
                               atol=1e-6)  # fmt: skip
    ways = {
        "map": lambda: timed(lambda: len(heat_map(tiles, scores, frame)) and 1),
        "naive, full resolution": lambda: timed(
            lambda: len(naive(tiles, scores, (side, side), frame_inside(frame))) and 1
        ),
    }
    rows = compare(interleaved(ways, rounds), "naive, full resolution")
    show(f"{side} x {side} px", rows, "maps/s", "naive")
    return {row["way"]: {"seconds": 1 / row["rate"], "x_naive": row["ratio"]} for row in rows}


def frame_inside(frame: Frame) -> Frame:
    """The frame without its last column and row, whose centres may lie outside the slide."""
    return Frame(frame.width_l0_px, frame.height_l0_px, frame.mpp, frame.columns - 1, frame.rows - 1, frame.step_x,
                 frame.step_y)  # fmt: skip


def vectors() -> dict[str, float]:
    tiles, scores = cached(LARGE, LARGE, MPP, 256)
    start = time.perf_counter()
    window_contours(tiles, scores, [0.5, 0.7])
    outlines = time.perf_counter() - start
    table = tiles[["tile_id", "x_l0_px", "y_l0_px", "size_l0_px"]].assign(TP53=scores)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_qupath(table, Path(folder) / "a.geojson", colour_by="TP53")
        return {"windows": len(tiles), "two exact outlines [s]": outlines, "GeoJSON [s]": time.perf_counter() - start}


def in_own_process(work: Callable[..., None], *what: Any) -> dict[str, Any]:
    """What `work` answers, in a process of its own."""
    context = mp.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=work, args=(*what, answer))
    process.start()
    found = answer.get(timeout=600)
    process.join()
    about = (f"{found['windows']:7} windows, stride {found['stride_px']:3}, {found['weights']:10} {found['kind']:7} "
             f"{found['map_px']:5} px map, {found.get('networks', 1)} networks")  # fmt: skip
    print(
        f"  {about}: {found['seconds']:5.2f} s, {found['peak_mb']:4.0f} MB ({found['peak_mb_before']:.0f} before)",
        flush=True,
    )
    return found


def goals(slides: list[dict[str, Any]], small: dict[str, Any]) -> list[dict[str, Any]]:
    """The slowest and the largest of the large maps, and the slower map of the demo slide, beside what was aimed at."""
    found = [("large slide [s]", 10.0, max(row["seconds"] for row in slides)),
             ("large slide, peak [MB]", 500.0, max(row["peak_mb"] for row in slides)),
             ("demo slide [s]", 0.2, max(small[way]["seconds"] for way in ("map", FINER)))]  # fmt: skip
    for what, goal, value in found:
        print(f"  {what}: {value:.3g}, goal {goal:g}: {'reached' if value <= goal else 'NOT reached'}")
    return [{"what": what, "goal": goal, "found": value, "reached": value <= goal} for what, goal, value in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds, load = parser.parse_args().rounds, os.getloadavg()[0]
    print(f"{LARGE} x {LARGE} px at {MPP} µm/px: map and pyramidal OME-TIFF")
    cases = [(512, "float32", "uniform", 8.0), (256, "float32", "uniform", 8.0), (256, "float32", "gaussian", 8.0),
             (128, "uint8", "triangular", 8.0), (256, "uint8", "uniform", 4.0)]  # fmt: skip
    slides = [in_own_process(large, *case) for case in cases]
    slides += [in_own_process(large_finer, LARGE, map_mpp, 2) for map_mpp in (8.0, 4.0)]
    naive_gb = LARGE**2 * 2 * 8 / 2**30
    print(f"  naive at full resolution: {naive_gb:.0f} GB (computed)")
    one_core()
    small = demo(rounds)
    write("heat_map", {
        "slide_px": LARGE, "large": slides, "naive_large_gb_computed": naive_gb, "demo": small,
        "10000_px": middle(min(rounds, 3)), "vectors": vectors(), "goals": goals(slides, small),
        "load_before": load, "versions": versions("numpy", "tifffile", "shapely", "simplejpeg"),
    })  # fmt: skip


if __name__ == "__main__":
    main()
