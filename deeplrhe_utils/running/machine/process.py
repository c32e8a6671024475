"""What a process is told before its libraries load: one level of instructions, and a heap that keeps its pages.

``python -m deeplrhe_utils.running.machine.process COMMAND …`` becomes that command with these settings: `make lab` and
Binder start so. A notebook that was opened otherwise computes at the level of its processor, and says so.
"""

from __future__ import annotations

import os
import sys
from typing import Final

LEVEL_HELD: Final = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    # MKL promises the same bits on processors of every maker for this branch alone
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    # NumPy's names from 2.4 on, and those before; it passes over what it does not know
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL",
    "OPENCV_CPU_DISABLE": "AVX512F,AVX512-COMMON,AVX512-SKX,AVX512-CNL,AVX512-CLX,AVX512-ICL",
    "OPENCV_IPP": "avx2",
}
"""Holds the libraries at what every x86-64 processor with AVX2 has (docs/training.md: what that keeps, what not)."""

STEADY: Final = {
    # threads that spin while they wait make a busy machine a hundred times slower
    "GOMP_SPINCOUNT": "10000",
    # memory that is freed between two batches is asked for again at once: to return it costs a fault for every page
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
}
"""What every process of a run gets, whatever its level of instructions."""


def is_held() -> bool:
    """Whether this process was started with :data:`LEVEL_HELD`."""
    return all(os.environ.get(name) == value for name, value in LEVEL_HELD.items())


if __name__ == "__main__":
    os.execvpe(sys.argv[1], sys.argv[1:], os.environ | STEADY | LEVEL_HELD)  # noqa: S606
