"""Feed the slide reader damaged files until something breaks: ``python -m tests.faults.fuzz_reader --seconds 240``.

Every file is a mutation of a good one, read in a child process with limits on memory and time. The reader may
refuse a file or a tile with an error that names it; it may not crash, hang, use more memory than the limit or
raise anything else.
"""

from __future__ import annotations

import argparse
import faulthandler
import multiprocessing as mp
import os
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from deeplrhe_utils.core.errors import CompendiumError, InputError
from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.tiling import TilingRules, tile_slide

MEMORY_BYTES = 3_000_000_000  # address space, of which the libraries map about 1 GB
SECONDS_PER_FILE = 20
EXTREME = (0, 1, 2, 7, 60_000, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFF0)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One damaged copy: flipped bytes, absurd numbers in the index, holes, cuts, repeated or moved parts."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        kind = rng.choice(["bits", "number", "number", "hole", "cut", "copy", "head", "jpeg"])
        at = _somewhere(out, rng)
        if kind == "bits":
            for place in rng.integers(0, len(out), int(rng.integers(1, 40))):
                out[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == "number":  # aligned as tags are
            at -= at % 2
            out[at : at + 4] = int(rng.choice(EXTREME)).to_bytes(4, "little")
        elif kind == "hole":
            length = int(rng.integers(1, 2000))
            out[at : at + length] = bytes([int(rng.choice([0, 255]))]) * len(out[at : at + length])
        elif kind == "cut":
            del out[max(16, at) :]
        elif kind == "copy":
            source, length = _somewhere(out, rng), int(rng.integers(1, 500))
            out[at : at + length] = out[source : source + length]
        elif kind == "head":
            out[int(rng.integers(0, 16))] = int(rng.integers(0, 256))
        elif kind == "jpeg":  # the frame header of some tile claims another size
            starts = [i for i in range(0, min(len(out), 200_000)) if out[i : i + 2] == b"\xff\xc0"]
            if starts:
                place = int(rng.choice(starts)) + 5
                out[place : place + 4] = int(rng.choice([60_000, 480, 8])).to_bytes(2, "big") * 2
        if len(out) < 32:
            break
    return bytes(out)


def _somewhere(data: bytearray, rng: np.random.Generator) -> int:
    """A place, half of the time in the last or first 4 kB, where TIFF keeps its index."""
    where = rng.random()
    if where < 0.35:
        return max(0, len(data) - 1 - int(rng.integers(0, min(4096, len(data)))))
    if where < 0.5:
        return int(rng.integers(0, min(4096, len(data))))
    return int(rng.integers(0, len(data)))


def exercise(path: Path) -> str:
    """Read a file in every way; what came of it, in a word. Anything but our own errors escapes."""
    try:
        with Slide(path, mpp=0.5) as slide:
            width, height = slide.dimensions
            side = min(256, width, height)
            squares = [Square(x, y, side) for x in (0, (width - side) // 2, width - side) for y in (0, height - side)]
            found = [tile for out in (side, max(1, side // 2)) for tile in slide.read_tiles(squares, out)]
            bad = sum(isinstance(tile, CompendiumError) for tile in found)
            for tile in found:
                assert isinstance(tile, CompendiumError) or (tile.ndim == 3 and tile.dtype == np.uint8), tile
            if width * height < 50_000_000:
                assert slide.thumbnail(64, damaged=(1, 2, 3)).shape[2] == 3
        if width * height < 50_000_000:
            row = {"slide_id": "x", "patient_id": "x", "path": str(path), "mpp": 0.5}
            tiles = tile_slide(row, TilingRules(tile_px=min(256, side)))
            assert tiles["kept"].notna().all()
    except InputError as error:
        assert str(error).strip()
        return "refused"
    return "whole" if not bad else "in part"


def _child(path: Path, seed: int, first: int, sources: list[Path], report: mp.connection.Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - libtiff writes to it
    os.dup2(sys.stderr.fileno(), 2)
    faulthandler.disable()
    originals = [source.read_bytes() for source in sources]
    number = first
    while True:
        rng = np.random.default_rng([seed, number])
        which = int(rng.integers(0, len(sources)))
        file = path / f"mutant{sources[which].suffix}"
        file.write_bytes(mutate(originals[which], rng))
        report.send((number, "started"))
        signal.alarm(SECONDS_PER_FILE)  # not caught: a hang ends the child
        try:
            outcome = exercise(file)
        except BaseException as error:
            outcome = f"ESCAPED {type(error).__name__}: {error}"
        signal.alarm(0)
        report.send((number, outcome))
        number += 1


def fuzz(
    folder: Path, sources: list[Path], *, seed: int, files: int = 0, seconds: float = 0
) -> tuple[Counter, list[str]]:
    """Counts by outcome, and the findings: mutations that crashed, hung or raised something else.

    A finding's number and the seed make the file again: ``mutate(original, default_rng([seed, number]))``.
    """
    context, counts, findings = mp.get_context("fork"), Counter(), []
    end, number = time.monotonic() + (seconds or 1e9), 0
    while time.monotonic() < end and (not files or number < files):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(folder, seed, number, sources, theirs))
        child.start()
        theirs.close()
        try:
            while time.monotonic() < end and (not files or number < files):
                number, outcome = ours.recv()
                if outcome == "started":
                    continue
                counts[outcome.split(":")[0]] += 1
                findings += [f"{number}: {outcome}"] if outcome.startswith("ESCAPED") else []
                number += 1
        except EOFError:
            child.join()
            counts["CRASHED"] += 1
            findings.append(f"{number}: the process ended with code {child.exitcode}")
            number += 1
        child.kill()
        child.join()
    return counts, findings


def main() -> int:
    """Fuzz for a while; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", type=Path, help="good slides to damage")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="for the damaged file")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    counts, findings = fuzz(options.folder, options.sources, seed=options.seed, seconds=options.seconds)
    print(dict(counts), *findings, sep="\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
