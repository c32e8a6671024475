"""Seeds that depend on names, never on order or on the number of workers."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

MOST_SEED: Final = 2**32 - 1
"""Largest seed that every library takes; the least is 0."""


def seed_sequence(seed: int, *names: str | int) -> np.random.SeedSequence:
    """A :class:`numpy.random.SeedSequence` for one named purpose.

    The same `seed` and `names` (stage, slide, gene …) give the same stream on every machine and in
    every process; different names give independent streams.
    """
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    key = tuple(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))
    return np.random.SeedSequence(entropy=seed, spawn_key=key)


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for one named purpose (see :func:`seed_sequence`)."""
    return np.random.default_rng(seed_sequence(seed, *names))


def integer_seed(seed: int, *names: str | int) -> int:
    """A 63-bit integer seed for libraries that want a number (torch)."""
    return int(seed_sequence(seed, *names).generate_state(1, np.uint64)[0] >> 1)
