"""From slide to score: reading, normalizing and the network alone, and all of them at once.

One slide of real tissue, 256 tiles of 256 µm (512 px at 0.5 µm/px, read at the network's 256 px from 40×), normalized
by DCGMM and scored by the network of the committed demo in batches of 16. Every part alone has as many threads as the
whole, one torch thread inside each; the network also the usual way, a batch at a time on all of torch's threads. The
whole counts everything from opening the files to the last score, colour statistics of the slide included. Before
anything is timed, its scores are held against those of the parts one after the other: they must be the same bits.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch is loaded

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from _harness import RESULTS, interleaved, timed, versions, write
from _slides import write_real

from deeplrhe_utils.core.files import read_json
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.learning.networks.deeplrhe import TileNetwork, load_model, save_model
from deeplrhe_utils.learning.recipes.scoring import probabilities, ready_network, score_arrays
from deeplrhe_utils.learning.scoring.prediction import ScoreTask, SlideScorer, score_slide
from deeplrhe_utils.learning.tiles.normalizing import normalizer_of_model, statistics_rows
from deeplrhe_utils.slides.tiles.grid import make_grid
from deeplrhe_utils.slides.tiles.pixels import read_pixels

ROUNDS, THREADS, BATCH, ACROSS, SIDE, GOAL = 5, 2, 16, 16, 256, 0.85
MODEL = REPOSITORY / "reports" / "demo" / "models" / "05" / "fold-0.safetensors"
READ, NORMALIZE, NETWORK, USUAL = "reading", "normalizing", "network", "network, the usual way"
BOTH, PLAIN, WHOLE, BEFORE = (
    "reading + normalizing",
    "slide to score, unchanged colours",
    "slide to score",
    "read ahead",
)


def make_task(folder: Path, precision: str) -> tuple[ScoreTask, ScoreTask]:
    """The slide to score: with its normalizer, and with a model that wants colours as they are."""
    native = -(-ACROSS * 1024 // 240)
    slide = {"slide_id": "slide", "patient_id": "nobody", "mpp": 0.25}
    slide["path"] = str(write_real(folder / "slide.svs", native, 0.25, pyramid=False))
    tiles = make_grid(native * 240, native * 240, 0.25, 0.5, 512, "slide")
    tiles = tiles.assign(slide_id="slide", path=None, selected=False, tile_id=[f"{i}" for i in range(len(tiles))])
    network, card = load_model(MODEL)
    kept = {name: card[name] for name in ("usable", "input_mpp", "input_px", "stain")} | {
        "recipe": {"precision": precision}
    }
    files = {kind: folder / kind / "05" / "fold-0.safetensors" for kind in ("none", "dcgmm")}
    for kind, file in files.items():
        save_model(network, file, trained_on=[], card=kept | {"normalization": kind})
    normalizer_of_model(MODEL).save(folder / "dcgmm" / "04" / "fold-0")
    scorer = SlideScorer("dcgmm", 512, SIDE, 0.5, device="cpu", threads=THREADS, batch_size=BATCH)
    whole = ScoreTask(slide, tiles, files["dcgmm"], scorer)
    return whole, replace(whole, model=files["none"], scorer=replace(scorer, normalization="none"))


class Parts:
    """What is done with one batch, stage by stage, on tiles that lie in memory."""

    def __init__(self, task: ScoreTask, network: TileNetwork, low: bool) -> None:
        self.task, self.network, self.low = task, network, low
        seen = read_pixels(task.slide, statistics_rows(task.tiles, 32), SIDE)
        start = time.perf_counter()
        self.plan = normalizer_of_model(task.model).plan(seen, "slide")
        self.statistics_s = time.perf_counter() - start
        self.raw = [self.read(start) for start in self.starts]
        self.small = [self.normalize(i) for i in range(len(self.raw))]

    @property
    def starts(self) -> range:
        return range(0, len(self.task.tiles), BATCH)

    def read(self, start: int) -> list[np.ndarray]:
        return read_pixels(self.task.slide, self.task.tiles.iloc[start : start + BATCH], SIDE)

    def colour(self, tiles: list[np.ndarray]) -> np.ndarray:
        return np.stack([self.plan(tile) for tile in tiles])

    def normalize(self, number: int) -> np.ndarray:
        return self.colour(self.raw[number])

    def score(self, number: int) -> np.ndarray:
        return probabilities(self.network, self.small[number], self.low)


def ways_of(task: ScoreTask, plain: ScoreTask, parts: Parts, low: bool) -> dict[str, Callable[[], float]]:
    """Tiles per second of every way."""
    count, batches = len(task.tiles), range(len(parts.raw))

    def on(threads: int, work: Callable[[int], Any], items: range) -> Callable[[], float]:
        pool = ThreadPoolExecutor(threads, "bench", torch.set_num_threads, (1,))
        return lambda: timed(lambda: len(list(pool.map(work, items))) and count)

    def usual() -> float:
        return timed(lambda: len([parts.score(i) for i in batches]) and count)

    def before() -> float:
        def batch(i: Any) -> np.ndarray:
            return parts.colour(read_pixels(task.slide, task.tiles.iloc[list(i)], SIDE))

        precision = "bfloat16" if low else "float32"
        return timed(lambda: len(score_arrays(parts.network, batch, count, batch_size=BATCH, precision=precision)))

    ways: dict[str, Callable[[], float]] = {}
    for threads in (1, THREADS):
        ways[f"{READ}, {threads}"] = on(threads, parts.read, parts.starts)
        ways[f"{NORMALIZE}, {threads}"] = on(threads, parts.normalize, batches)
        ways[f"{NETWORK}, {threads}"] = on(threads, parts.score, batches)
        ways[f"{BOTH}, {threads}"] = on(threads, lambda start: parts.colour(parts.read(start)), parts.starts)
    ways[USUAL], ways[BEFORE] = usual, before
    ways[PLAIN] = lambda: timed(lambda: len(score_slide(plain).scores))
    ways[WHOLE] = lambda: timed(lambda: len(score_slide(task).scores))
    return ways


def ratios(rates: Mapping[str, list[float]], way: str, parts: list[str]) -> dict[str, Any]:
    """Median, least and greatest of a way's rate over that of the slowest part in the same round."""
    found = [a / min(p) for a, *p in zip(rates[way], *(rates[part] for part in parts), strict=True)]
    return {"way": way, "slower_of": parts, "ratio": statistics.median(found), "least": min(found),
            "greatest": max(found), "goal": GOAL, "reached": statistics.median(found) >= GOAL}  # fmt: skip


def of_the_sum(rates: Mapping[str, list[float]], way: str, parts: list[str]) -> dict[str, Any]:
    """A way's rate over what its parts allow one after the other: on a CPU they share the cores, so that none hides."""
    found = [a * sum(1 / p for p in own) for a, *own in zip(rates[way], *(rates[part] for part in parts), strict=True)]
    return {"way": way, "sum_of": parts, "ratio": statistics.median(found), "least": min(found), "greatest": max(found)}


def measure(precision: str, rounds: int) -> None:
    """One precision, in a process of its own."""
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(1)
    started, low = time.perf_counter(), precision == "bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        task, plain = make_task(Path(folder), precision)
        network = ready_network(load_model(task.model)[0], "cpu")
        with ThreadPoolExecutor(1, "bench", torch.set_num_threads, (1,)) as pool:
            parts = pool.submit(Parts, task, network, low).result()
            apart = np.concatenate(list(pool.map(parts.score, range(len(parts.small)))))
        torch.set_num_threads(THREADS)
        assert np.array_equal(apart, score_slide(task).scores), "the whole gives other scores than its parts"
        rates = interleaved(ways_of(task, plain, parts, low), rounds)
    two, one = ([f"{name}, {n}" for name in (READ, NETWORK)] for n in (THREADS, 1))
    facts: dict[str, Any] = {
        "tiles": len(task.tiles), "threads": THREADS, "torch_threads_inside_each": 1, "rounds": rounds,
        "statistics_s": parts.statistics_s, "tiles_per_s": {way: statistics.median(r) for way, r in rates.items()},
        "spread": {way: [min(r), max(r)] for way, r in rates.items()},
        "ratios": [
            ratios(rates, PLAIN, two), ratios(rates, PLAIN, [two[0], USUAL]), ratios(rates, PLAIN, one),
            ratios(rates, WHOLE, two), ratios(rates, WHOLE, [two[0], USUAL]), ratios(rates, WHOLE, one),
            ratios(rates, WHOLE, [f"{BOTH}, {THREADS}", two[1]]), ratios(rates, WHOLE, [f"{BOTH}, 1", one[1]]),
            ratios(rates, WHOLE, [BEFORE]),
        ],
        "of_the_sum": [of_the_sum(rates, PLAIN, two), of_the_sum(rates, WHOLE, [*two, f"{NORMALIZE}, {THREADS}"])],
    }  # fmt: skip
    print(f"\n{precision}, {len(task.tiles)} tiles, {THREADS} threads; colour statistics {parts.statistics_s:.2f} s")
    for way, rate in facts["tiles_per_s"].items():
        print(f"  {way:36}{rate:8.1f} tiles/s ({min(rates[way]):.1f} - {max(rates[way]):.1f})")
    for row in facts["ratios"]:
        print(f"  {row['way']} / slower of {row['slower_of']}: {row['ratio']:.2f} ({row['least']:.2f} - "
              f"{row['greatest']:.2f}){'' if row['reached'] else '  below ' + str(GOAL)}")  # fmt: skip
    for row in facts["of_the_sum"]:
        print(f"  {row['way']} / {' + '.join(row['sum_of'])}: {row['ratio']:.2f} ({row['least']:.2f} - "
              f"{row['greatest']:.2f})")  # fmt: skip
    print(f"  same bits as step by step; {time.perf_counter() - started:.0f} s")
    write(f"predict_slide_{precision}", {**facts, "versions": versions("torch", "opencv-python-headless")})


def main(rounds: int) -> None:
    """Both precisions, gathered in one file."""
    kinds = ("float32", "bfloat16")
    for kind in kinds:
        subprocess.run([sys.executable, __file__, f"--precision={kind}", f"--rounds={rounds}"], check=True)
    write("predict_slide", {kind: read_json(RESULTS / f"predict_slide_{kind}.json") for kind in kinds})
    for kind in kinds:
        (RESULTS / f"predict_slide_{kind}.json").unlink()


if __name__ == "__main__":
    given = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
    many = int(given.get("rounds", ROUNDS))
    measure(given["precision"], many) if "precision" in given else main(many)
