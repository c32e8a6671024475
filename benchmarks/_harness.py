"""Time several ways of doing one thing, fairly: interleaved rounds on one core, medians of ratios, and the spread."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deeplrhe_utils.core.files import read_json
from deeplrhe_utils.running.machine.process import LEVEL_HELD, is_held

RESULTS = Path(__file__).resolve().parent / "results"
SHARED_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
REAL_SLIDE = SHARED_DATA / "slides" / "CMU-1-Small-Region.svs"


def one_core() -> int:
    """Bind this process to one core and its libraries to one thread; the core's number."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    import cv2

    cv2.setNumThreads(1)
    return core


def interleaved(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Rates (whatever a way returns) of every way in every round; the order turns by one from round to round."""
    names, rates = list(ways), {name: [] for name in ways}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rates[name].append(ways[name]())
    return rates


def timed(work: Callable[[], int]) -> float:
    """Units per second of one call, which returns how many units it did."""
    start = time.perf_counter()
    units = work()
    return units / (time.perf_counter() - start)


def compare(rates: Mapping[str, list[float]], reference: str) -> list[dict[str, Any]]:
    """Per way: median rate, and median, least and greatest of its ratio to the reference in the same round."""
    rows = []
    for name, own in rates.items():
        ratios = [a / b for a, b in zip(own, rates[reference], strict=True)]
        rows.append({
            "way": name, "rate": statistics.median(own), "ratio": statistics.median(ratios),
            "ratio_least": min(ratios), "ratio_greatest": max(ratios),
        })  # fmt: skip
    return sorted(rows, key=lambda row: row["ratio"])


def show(title: str, rows: list[dict[str, Any]], unit: str, reference: str) -> None:
    """Print a comparison."""
    print(f"\n{title}\n{'':38}{unit:>12}   x {reference} (least - greatest)")
    for row in rows:
        spread = f"({row['ratio_least']:.2f} - {row['ratio_greatest']:.2f})"
        print(f"  {row['way']:36}{row['rate']:12.1f}   {row['ratio']:.2f} {spread}", flush=True)


@lru_cache
def importable(peer: str, seconds: float = 60) -> bool:
    """Whether a peer can be imported; tried in a process of its own, because one was seen that never came back."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", f"import {peer}"], capture_output=True, text=True, timeout=seconds
        )
        why = "" if tried.returncode == 0 else (tried.stderr.strip() or "it crashes").splitlines()[-1]
    except subprocess.TimeoutExpired:
        why = f"importing it takes more than {seconds:.0f} s"
    if why:
        print(f"{peer} is not measured: {why}", flush=True)
    return not why


def at_both_levels(name: str, measure: Callable[[], Mapping[str, Any]]) -> None:
    """Measure with the processor's own instructions, and held at AVX2 as `deeplrhe run` does; one file with both."""
    if is_held():
        write(f"{name}_avx2", measure())
        return
    print("As the processor can:")
    result = dict(measure())
    print("\nHeld at AVX2:", flush=True)
    subprocess.run([sys.executable, *sys.argv], check=True, env=os.environ | LEVEL_HELD)
    held = RESULTS / f"{name}_avx2.json"
    write(name, {**result, "held_at_avx2": read_json(held)})
    held.unlink()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def write(name: str, result: Mapping[str, Any]) -> Path:
    """Keep a result as JSON beside the benchmarks, with what it ran on."""
    RESULTS.mkdir(exist_ok=True)
    about = {"processor": processor(), "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**result, "machine": about}, indent=2, sort_keys=True) + "\n")
    print(f"\n{path.name} written")
    return path


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
