"""Normalizing one 512 px tile: ours against torchstain, torch-staintools and stainx; one thread and two, PyTorch all.

Interleaved rounds over 32 tiles of MoNuSeg lung fields; what ours makes eagerly, compiled and in bfloat16 is compared
before anything is timed. ``--paper`` adds the released network (0.5 s a tile).
"""

from __future__ import annotations

import subprocess
import sys
import time

import _stain_data as data
import cv2
import numpy as np
import torch
from _harness import RESULTS, compare, interleaved, show, timed, versions, write

from deeplrhe_utils.core.files import read_json
from deeplrhe_utils.stain.dcgmm.fit import fit_responsibilities
from deeplrhe_utils.stain.dcgmm.maps import map_to
from deeplrhe_utils.stain.dcgmm.net import PAPER, DcgmmNet
from deeplrhe_utils.stain.dcgmm.statistics import collect, density_scale
from deeplrhe_utils.stain.dcgmm.transform import StainTransform, apply
from deeplrhe_utils.stain.methods.baselines import Macenko

ROUNDS, SIDE = 9, 512
GOALS = {2: {"compiled": 4.0, "eager": 2.0}, 1: {"compiled": 3.0, "eager": 1.7}}


def tiles() -> list[data.Tile]:
    """32 tiles: 512 px windows, 122 px apart, of two fields."""
    places = [(y, x) for y in range(0, 488, 122) for x in range(0, 488, 122)]
    fields = [data.field(name) for name in (data.FIELDS[0], data.FIELDS[3])]
    return [np.ascontiguousarray(f[y : y + SIDE, x : x + SIDE]) for f in fields for y, x in places]


def agree(first: StainTransform, other: StainTransform, work: list[data.Tile]) -> dict[str, float]:
    """Largest and mean difference in grey levels."""
    away = [np.abs(apply(first, t).astype(int) - apply(other, t)) for t in work[::4]]
    return {"largest": float(max(a.max() for a in away)), "mean": float(np.mean([a.mean() for a in away]))}


def measure(threads: int, paper: bool) -> None:
    """One process per number of threads, because PyTorch and OpenCV keep theirs."""
    data.require()
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)  # OpenCV's threads would wait for PyTorch's, which spin
    work, template = tiles(), data.field(data.TEMPLATE)
    net, _ = fit_responsibilities(work[::2], [density_scale([t]) for t in work[::2]], steps=60)
    colour_map = map_to(collect(net, work[:16]), collect(net, data.quarters(template)))
    modes = {"eager": {}, "compiled": {"compiled": True}, "compiled, bfloat16": {"compiled": True, "bf16": True}}
    ours = {name: StainTransform(net, colour_map, **options) for name, options in modes.items()}
    start = time.perf_counter()
    apply(ours["compiled"], work[0])
    facts: dict = {"compile_s": time.perf_counter() - start, "threads": threads, "tiles": len(work)}
    facts["agreement"] = {name: agree(ours["eager"], one, work) for name, one in ours.items()}
    ways = {name: (lambda one=one: [apply(one, t) for t in work]) for name, one in ours.items()}
    for kind in ("macenko", "reinhard"):
        if (peer := data.torchstain(kind, template)) is not None:
            ways[f"torchstain {kind}"] = lambda peer=peer: [peer(t) for t in work]
    for name, normalize in data.other_normalizers(template).items():
        ways[name] = lambda normalize=normalize: [normalize(t) for t in work]
    macenko = Macenko()
    numpy_map = macenko.map_to(macenko.measure(work[:16]), macenko.measure([template]))
    ways["our Macenko, per slide (NumPy)"] = lambda: [macenko.apply(numpy_map, t) for t in work]
    ways["statistics of a tile"] = lambda: [collect(net, [t]) for t in work]
    ways["copying the tile"] = lambda: [t.copy() for t in work]
    if paper:
        own = DcgmmNet(PAPER).eval()
        stats = collect(own, [work[0]])
        slow = StainTransform(own, map_to(stats, collect(own, data.quarters(template)), PAPER))
        ways["paper's network, eager"] = lambda: [apply(slow, t) for t in work[:1]]
    rates = interleaved({name: (lambda way=way: timed(lambda: len(way()))) for name, way in ways.items()}, ROUNDS)
    base = "torchstain macenko" if "torchstain macenko" in rates else "eager"
    facts["rows"] = compare(rates, base)
    show(f"{SIDE} px tiles, {threads} thread(s)", facts["rows"], "tiles/s", base)
    ratio = {row["way"]: row["ratio"] for row in facts["rows"]}
    facts["goals"] = [{"way": way, "goal": goal, "ratio": ratio[way], "reached": ratio[way] >= goal}
                      for way, goal in GOALS[threads].items()] if base != "eager" else []  # fmt: skip
    for row in facts["goals"]:
        end = "reached" if row["reached"] else "NOT reached"
        print(f"  {row['way']}: {row['ratio']:.2f} x, goal {row['goal']}: {end}")
    print("  against eager, grey levels:", facts["agreement"])
    write(
        f"stain_apply_{threads}",
        {**facts, "versions": versions("torchstain", "torch-staintools", "stainx", "torch", "opencv-python-headless")},
    )


def main(paper: bool) -> None:
    """Two and one threads, gathered in one file."""
    for threads in (2, 1):
        subprocess.run([sys.executable, __file__, f"--threads={threads}", *(["--paper"] if paper else [])], check=True)
    parts = {f"{n} threads": read_json(RESULTS / f"stain_apply_{n}.json") for n in (2, 1)}
    write("stain_apply", parts)
    for threads in (2, 1):
        (RESULTS / f"stain_apply_{threads}.json").unlink()


if __name__ == "__main__":
    chosen = [int(a.removeprefix("--threads=")) for a in sys.argv if a.startswith("--threads=")]
    measure(chosen[0], "--paper" in sys.argv) if chosen else main("--paper" in sys.argv)
