"""The findings of a run in the order that tells its story; the sentences are those of its notebooks."""

from __future__ import annotations

import csv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core.files import read_json
from deeplrhe_utils.core.paths import REFERENCE_DATA

MOST: Final = 10


@dataclass(frozen=True)
class Told:
    """One finding: the part of the story, the notebook that computed it, its figure or table, the sentence."""

    part: str
    stage: str
    name: str
    sentence: str


def findings(root: Path) -> dict[tuple[str, str], str]:
    """(stage, figure or table) → sentence, for every finding in ``numbers/`` of the run folder `root`."""
    said = {stage: numbers.get("findings") for stage, numbers in _numbers(root)}
    return {(stage, k): text for stage, own in said.items() if isinstance(own, dict) for k, text in own.items()}


def worries(root: Path) -> list[dict[str, Any]]:
    """Every worry that a notebook of the run answered: stage, happened (None: cannot be told here), sentence."""
    return [{"stage": stage, **one} for stage, said in _numbers(root) for one in said.get("worries") or ()]


def _numbers(root: Path) -> list[tuple[str, dict[str, Any]]]:
    read = []
    for path in sorted((root / "numbers").glob("[0-9][0-9]-*.json")):
        with suppress(OSError, ValueError):  # the page names a damaged file where it shows its numbers
            read.append((path.stem, read_json(path)))
    return read


def story(root: Path, most: int = MOST) -> list[Told]:
    """At most `most` findings of the run in `root`, in the order of ``data/reference/story.csv``.

    Those that the run lacks are left out; where there are too many, the list's reserve goes first.
    """
    found = findings(root)
    with (REFERENCE_DATA / "story.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (row["stage"], row["name"]) in found]
    while len(rows) > most:
        rows.remove(next((row for row in reversed(rows) if row["reserve"] == "1"), rows[-1]))
    return [Told(r["part"], r["stage"], r["name"], found[r["stage"], r["name"]]) for r in rows]
