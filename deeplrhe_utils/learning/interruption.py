"""SIGTERM as a polite request: finish the step, save the state, end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.learning.processes import Group


class Stop(CompendiumError):
    """Training was told to end, and saved its state."""


@contextmanager
def stop_signal(wanted: bool, group: Group) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come; the former handler is put back afterwards.

    Only the first process of a group listens. The others ignore the signal: were they to leave, the first would wait
    for them in the middle of a step that it then cannot save.
    """
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()

    def note(_number: int, _frame: Any) -> None:
        came.set()

    former = signal.signal(signal.SIGTERM, note if group.first else signal.SIG_IGN)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, former)
