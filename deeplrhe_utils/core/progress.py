"""How far a long computation has come, for the terminal and for notebooks."""

from __future__ import annotations

import time

PROGRESS_S = 10.0


class Progress:
    """Prints ``label: k/n, about 80 s left``, at most every 10 s; `label` "" prints nothing.

    The last line, ``label: n/n``, is always printed, unless `brief`: then only what takes long is told at all.
    """

    def __init__(self, label: str, total: int, *, brief: bool = False) -> None:
        self._label, self._total, self._told = label, total, not brief
        self._done, self._began = 0, time.monotonic()
        self._last = self._began

    def step(self) -> None:
        """Count one finished task."""
        self._done += 1
        now, over = time.monotonic(), self._done == self._total
        if not self._label or not (self._told if over else now - self._last >= PROGRESS_S):
            return
        self._last, self._told = now, True
        left = (now - self._began) / self._done * (self._total - self._done)
        print(f"{self._label}: {self._done}/{self._total}" + f", about {left:.0f} s left" * (not over), flush=True)
