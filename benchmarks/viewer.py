"""The viewers of notebook 15 in JupyterLab and of the report page, both OpenSeadragon, in one headless Chromium.

    python benchmarks/viewer.py [--run DIR] [--rounds 5]

Both show the first slide of a finished run (default: reports/smoke, of `make smoke`), and are measured by turns.
First paint: from running the cell, or from opening the page, to the first canvas that is not white. Frames: a drag with
a turn of the wheel at every tenth frame, the same events for both; milliseconds from frame to frame, with the browser's
limit of 60 frames a second off. Page: from opening index.html from disk to the load event. The run is not changed:
notebook 15 works on a copy of its tables and maps. Chromium may read files from file:// here, or nobody could see
whether the page's canvas is white. Where there is no browser, no JupyterLab or no run, it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _harness import compare, interleaved, show, versions, write

from deeplrhe_utils.core.paths import REPORTS, REPOSITORY

sys.path.insert(0, str(REPOSITORY))  # the browser tests start Chromium and JupyterLab in the same way
from tests.browser.lab import DRAWN, FIRST_PAINT, FRAMES, VIEWER, chromium, find_chromium, jupyterlab, run_all

OURS, PEER, LOADED = "notebook 15", "report page", "report page, load event"
NEEDED = ("index.html", "page/report.js", "heatmaps/slides.json", "tables/slides.parquet", "run.json")
COPIED, LINKED = ("tables", "heatmaps", "numbers"), ("work", "models", "truth")
SIZE = {"width": 1400, "height": 1100}
FRAMES_A_ROUND = 100
GOALS_MS = {"first paint": (OURS, 1000.0), "frame": (OURS, 100.0), "page": (LOADED, 2000.0)}
BUSY_LOAD = 0.5
"""Mean length of the machine's queue in the last minute, above which other work slows what is measured."""
VIEW = "#heat-view .openseadragon-canvas"
PAINTED = """() => {
  DRAWN
  const look = () => {
    const canvas = document.querySelector("#heat-view canvas");
    if (canvas && canvas.width > 300 && drawn(canvas)) window.painted = performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}""".replace("DRAWN", DRAWN)
LOAD_MS = "() => performance.getEntriesByType('navigation')[0].loadEventEnd"
PIXELS = "selector => document.querySelector(selector).toDataURL()"


def missing(run: Path) -> str:
    """Why nothing can be measured here; "" when everything is there."""
    for module in ("playwright", "jupyterlab", "anywidget"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    if find_chromium() is None:
        return "there is no Chromium on this machine (set CHROMIUM to its path)"
    lacks = [name for name in NEEDED if not (run / name).is_file()]
    return f"{run} is no finished run, it has no {', no '.join(lacks)}; run `make smoke` first" if lacks else ""


def copied(run: Path, place: Path) -> Path:
    """What notebook 15 reads and writes, as a copy; slides and models are only read, and linked."""
    place.mkdir()
    for name in COPIED:
        shutil.copytree(run / name, place / name)
    for name in filter(lambda one: (run / one).is_dir(), LINKED):
        (place / name).symlink_to((run / name).resolve(), target_is_directory=True)
    return place


class Sides:
    """Two pages of one browser: the notebook, which stays open, and the report page, opened anew each time."""

    def __init__(self, browser: Any, lab: str, index: str) -> None:
        self.index = index
        self.book, self.page = (browser.new_context(viewport=SIZE).new_page() for _ in range(2))
        run_all(self.book, lab, "15-explorer")
        self.page.goto(index)  # once before it counts, as the notebook's cell has run once

    def first_ours(self) -> float:
        self.book.bring_to_front()
        found = self.book.evaluate(FIRST_PAINT, VIEWER)
        assert found > 0, "the viewer's canvas stayed white"
        return found

    def first_peer(self) -> float:
        self.page.bring_to_front()
        page = self.page.context.new_page()
        page.add_init_script(f"({PAINTED})()")
        page.goto(self.index)
        page.wait_for_function("window.painted > 0")
        found = page.evaluate("window.painted")
        page.close()
        return found

    def loaded(self) -> float:
        page = self.page.context.new_page()
        page.goto(self.index, wait_until="load")
        page.wait_for_function(f"({LOAD_MS})() > 0")
        found = page.evaluate(LOAD_MS)
        page.close()
        return found

    def frames(self, page: Any, selector: str, canvas: str) -> list[float]:
        page.bring_to_front()
        page.locator(selector).scroll_into_view_if_needed()
        page.wait_for_timeout(700)  # tiles that the last change asked for
        before = page.evaluate(PIXELS, canvas)
        gaps = page.evaluate(FRAMES, [selector, FRAMES_A_ROUND])
        assert page.evaluate(PIXELS, canvas) != before, "nothing moved: these frames mean nothing"
        return gaps


def frames_by_turns(sides: Sides, rounds: int) -> dict[str, list[list[float]]]:
    ways = {
        OURS: lambda: sides.frames(sides.book, VIEWER, f"{VIEWER} canvas"),
        PEER: lambda: sides.frames(sides.page, VIEW, "#heat-view canvas"),
    }
    return interleaved(ways, rounds)  # type: ignore[arg-type]


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median_ms": statistics.median(values), "least_ms": min(values), "greatest_ms": max(values),
            "n": len(values)}  # fmt: skip


def frame_rows(gaps: Mapping[str, list[list[float]]]) -> dict[str, Any]:
    """Median and 95th percentile over all frames of all rounds."""
    together = {way: np.concatenate(own) for way, own in gaps.items()}
    return {
        way: {"median_ms": float(np.median(own)), "p95_ms": float(np.percentile(own, 95)), "n": len(own)}
        for way, own in together.items()
    }


def goals(found: Mapping[str, float]) -> list[dict[str, Any]]:
    rows = []
    for what, (_, goal) in GOALS_MS.items():
        reached = bool(found[what] <= goal)
        rows.append({"what": f"{what}, median [ms]", "goal": goal, "found": found[what], "reached": reached})
        print(f"  {what}: {found[what]:.1f} ms, goal {goal:.0f} ms: {'reached' if reached else 'NOT reached'}")
    return rows


def measure(run: Path, rounds: int) -> dict[str, Any]:
    """All figures of one run."""
    flags = ("--disable-frame-rate-limit", "--disable-gpu-vsync", "--allow-file-access-from-files")
    with tempfile.TemporaryDirectory(prefix="viewer-") as folder:
        place = Path(folder)
        program = find_chromium()
        assert program is not None
        with (
            jupyterlab(place, copied(run, place / "run"), ["15-explorer"]) as lab,
            chromium(program, *flags) as browser,
        ):
            sides = Sides(browser, lab, (run / "index.html").resolve().as_uri())
            times = interleaved({OURS: sides.first_ours, PEER: sides.first_peer, LOADED: sides.loaded}, rounds)
            gaps = frames_by_turns(sides, rounds)
            version = browser.version
    first = compare({way: times[way] for way in (OURS, PEER)}, PEER)
    frames = compare({way: [statistics.median(one) for one in own] for way, own in gaps.items()}, PEER)
    show("first paint", first, "ms", PEER)
    show("a frame while panning and zooming (medians of rounds)", frames, "ms", PEER)
    return {"first_paint": {way: spread(times[way]) for way in (OURS, PEER)}, "first_paint_ratios": first,
            "frames": frame_rows(gaps), "frame_ratios": frames, "page_load": spread(times[LOADED]),
            "browser": version}  # fmt: skip


def report(result: dict[str, Any], run: Path, load: float, seconds: float) -> None:
    """Print what is beside the ratios, and keep all of it."""
    for way, row in result["frames"].items():
        print(f"  {way:36}median {row['median_ms']:.1f}, 95th percentile {row['p95_ms']:.1f} ms, {row['n']} frames")
    own = result["first_paint"][OURS]["median_ms"], result["frames"][OURS]["median_ms"]
    reached = goals(dict(zip(GOALS_MS, (*own, result["page_load"]["median_ms"]), strict=True)))
    busy = load > BUSY_LOAD
    if busy:
        print(f"  The machine was busy before it began (load {load:.1f}): times are too long, ratios hold better")
    about = {"run": run.name, "load_before": load, "busy": busy, "seconds": seconds, "canvas": SIZE}
    write(
        "viewer", {**result, **about, "goals": reached, "versions": versions("playwright", "jupyterlab", "anywidget")}
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a finished run (default: reports/smoke)")
    parser.add_argument("--rounds", type=int, default=5, help="repeats, each with 100 frames of both viewers")
    given = parser.parse_args()
    run = given.run or REPORTS / "smoke"
    if why := missing(run):
        print(f"Not measured: {why}.")
        return 1 if given.run else 0  # `make bench` goes on without it, as it does without a peer
    load, began = os.getloadavg()[0], time.perf_counter()
    result = measure(run, max(given.rounds, 3))
    report(result, run, load, time.perf_counter() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
