"""The commands of ``deeplrhe``, a module each: `add_parser` (what may be typed) and `run` (0 success, 1 failure)."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from typing import Any, Final, TypeVar

OK: Final = 0
FAILED: Final = 1

Commands = argparse._SubParsersAction  # what `add_parser` of every command adds to  # noqa: SLF001
Options = TypeVar("Options")


def as_options(kind: type[Options], typed: argparse.Namespace) -> Options:
    """A dataclass of options, filled from the arguments of the same names."""
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(**{field.name: getattr(typed, field.name) for field in fields})


def listed_names(text: str) -> tuple[str, ...]:
    """``"TP53, EGFR"`` as its names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def say(text: str) -> None:
    """Print at once; a terminal that lacks a character of a file name must not stop us."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def quiet_threads() -> None:
    """Before torch is loaded: threads that spin while they wait make a busy machine many times slower."""
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
