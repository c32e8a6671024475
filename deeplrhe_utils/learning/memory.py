"""Out of memory: which batch size would have fitted."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Final

import torch

from deeplrhe_utils.core.errors import ModelError

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


_MMAP: Final = (-3, "MALLOC_MMAP_THRESHOLD_", 32 * 2**20)
_TRIM: Final = (-1, "MALLOC_TRIM_THRESHOLD_", 2**30)


@contextlib.contextmanager
def kept_heap() -> Iterator[None]:
    """Let glibc keep what a step of training frees, for the next step will ask for the same.

    A run's notebooks return freed blocks early, which keeps memory low while many slides pass through. In training that
    costs a page fault for every page of every activation, nearly half of the time. Where the two variables are not set
    glibc adapts by itself, and elsewhere there is no glibc: nothing is done then.
    """
    settings = [(option, os.environ.get(name, ""), kept) for option, name, kept in (_MMAP, _TRIM)]
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if not all(before.isdigit() for _, before, _ in settings) or not hasattr(library, "mallopt"):
        yield
        return
    for option, _, kept in settings:
        library.mallopt(option, kept)  # type: ignore[union-attr]
    try:
        yield
    finally:
        for option, before, _ in settings:
            library.mallopt(option, int(before))  # type: ignore[union-attr]
        library.malloc_trim(0)  # type: ignore[union-attr]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch failed for lack of memory (on a CPU it raises a plain RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error).lower() for sign in _SIGNS)


def explain_memory(attempt: Callable[[int], None] | None, failed: int, batch_size: int) -> ModelError:
    """The error to raise, after halving the batch until one pass fits.

    Parameters
    ----------
    attempt : callable, or None
        Runs one pass of so many tiles; raises when memory is too small. None where no attempt can be made.
    failed : tiles in one pass that did not fit
    batch_size : tiles of a whole step, as the recipe has it
    """
    what = f"Memory is too small for {failed} tiles in one pass"
    if attempt is None:
        return ModelError(what, got=f"batch_size {batch_size}", fix="Halve batch_size, or double accumulate")
    fits = _largest(attempt, failed // 2)
    if not fits:
        return ModelError(what, got=f"batch_size {batch_size}; not even one tile fits",
                          fix="Lower crop_px or kernels, or take a machine with more memory")  # fmt: skip
    parts = -(-failed // fits)
    return ModelError(what, got=f"batch_size {batch_size}", expected=f"at most {fits} tiles in one pass",
                      fix=f"Set accumulate to {parts} times what it is (batch normalization then sees a part), "
                          f"or batch_size to {fits}")  # fmt: skip


def _largest(attempt: Callable[[int], None], size: int) -> int:
    while size:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            size //= 2
        else:
            return size
    return 0
