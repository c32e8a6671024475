"""The commands of ``deeplrhe``, a module each: `add_parser` (what may be typed) and `run` (0 success, 1 failure)."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import sys
from functools import partial
from typing import Any, Final, TypeVar

from deeplrhe_utils.core.seeds import MOST_SEED
from deeplrhe_utils.core.text import visible

OK: Final = 0
FAILED: Final = 1

Commands = argparse._SubParsersAction  # what `add_parser` of every command adds to  # noqa: SLF001
Options = TypeVar("Options")


def as_options(kind: type[Options], typed: argparse.Namespace) -> Options:
    """A dataclass of options, filled from the arguments of the same names."""
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(**{field.name: getattr(typed, field.name) for field in fields})


def seed(text: str) -> int:
    """A seed as typed: 0 to :data:`MOST_SEED`."""
    if not text.isdecimal() or int(text) > MOST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: a whole number from 0 to {MOST_SEED}")
    return int(text)


def listed_names(text: str) -> tuple[str, ...]:
    """``"TP53, EGFR"`` as its names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def print_anything() -> None:
    """A character that a terminal lacks, or would obey (of a file name, say), is shown by its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            stream.write = partial(_write_visible, stream)  # type: ignore[method-assign]


def _write_visible(stream: io.TextIOWrapper, text: str) -> int:
    type(stream).write(stream, visible(text))
    return len(text)


def quiet_threads() -> None:
    """Before torch is loaded: threads that spin while they wait make a busy machine many times slower."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
