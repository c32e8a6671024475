"""One function over many items: a plain loop, a local Dask cluster, or any scheduler by its address."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from deeplrhe_utils.core.errors import CompendiumError, RunError

Item = TypeVar("Item")
Result = TypeVar("Result")
PROGRESS_S = 10.0


def map_tasks(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = 1,
    scheduler: str = "",
    label: str = "",
) -> list[Result]:
    """``[function(item) for item in items]``, spread over processes or machines.

    Parameters
    ----------
    function : callable
        A function of a module (workers import it by name); it must not depend on order or state.
    items : iterable
        Arguments, one per task; small, since they travel to the workers.
    workers : int
        Local processes; 1 or less is a plain loop in this process.
    scheduler : str
        Address of a running Dask scheduler (``tcp://host:8786``); wins over `workers`.
    label : str
        Prefix of the progress line ``label: k/n``, printed at most every 10 s; "" prints none.

    Returns
    -------
    list
        Results in the order of `items`, whatever the number of workers.

    Raises
    ------
    CompendiumError
        As the function raised it, with the item named.
    RunError
        For every other exception, with the item named and the original as its cause.
    """
    todo = list(items)
    if (not scheduler and workers <= 1) or not todo:
        return _loop(function, todo, label)
    with _client(min(workers, len(todo)), scheduler) as client:
        return _gather(client, function, todo, label)


def _loop(function: Callable[[Item], Result], todo: list[Item], label: str) -> list[Result]:
    progress, results = _Progress(label, len(todo)), []
    for item in todo:
        try:
            results.append(function(item))
        except Exception as error:
            raise _named(error, item, label) from error
        progress.step()
    return results


def _gather(client: Any, function: Callable[[Item], Result], todo: list[Item], label: str) -> list[Result]:
    from distributed import as_completed

    progress = _Progress(label, len(todo))
    futures = client.map(function, todo, pure=False, retries=0)
    position = {future.key: n for n, future in enumerate(futures)}
    results: dict[int, Result] = {}
    for future in as_completed(futures):
        n = position[future.key]
        try:
            results[n] = future.result()
        except Exception as error:
            client.cancel(futures)
            raise _named(error, todo[n], label) from error
        progress.step()
    return [results[n] for n in range(len(todo))]


_RETURNED_FROM = str(32 * 2**20)
_WORKER_ENVIRONMENT = {
    # Dask returns freed memory from 64 kB on; image arrays then fault every page anew, which doubles the time
    "MALLOC_TRIM_THRESHOLD_": _RETURNED_FROM,
    "MALLOC_MMAP_THRESHOLD_": _RETURNED_FROM,
    # one worker per core already: more threads only fight over it
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
}


@contextmanager
def _client(workers: int, scheduler: str) -> Iterator[Any]:
    """A Dask client; its own cluster, if any, is closed with it."""
    import dask
    from distributed import Client, LocalCluster

    for name in ("distributed", "distributed.nanny", "distributed.worker", "distributed.scheduler", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler:
        with _connect(Client, scheduler) as client:
            yield client
        return
    # a task whose worker dies is not tried again: the cause (memory, a crash) would only repeat
    settings = {
        "logging.distributed": "critical",
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": _WORKER_ENVIRONMENT,
    }
    scratch = tempfile.TemporaryDirectory(prefix="deeplrhe-dask-", ignore_cleanup_errors=True)
    with scratch as folder, dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )
        with cluster, Client(cluster) as client:
            yield client


def _connect(client: Any, scheduler: str) -> Any:
    try:
        return client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        what = f"There is no Dask scheduler at {scheduler}"
        raise RunError(what, got=error, expected="an address such as tcp://host:8786") from error


def _named(error: Exception, item: Any, label: str) -> CompendiumError:
    where = f"{label or 'task'}, item {str(item)[:200]}"
    if isinstance(error, CompendiumError):
        error.args = (f"{where}: {error}",)
        return error
    if type(error).__name__ == "KilledWorker":
        return RunError(f"{where}: the worker process died", fix="Memory may be short: use fewer workers")
    return RunError(f"{where}: {type(error).__name__}: {error}")


class _Progress:
    """Prints ``label: k/n`` now and then, and at the end."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done, self.last = label, total, 0, time.monotonic()

    def step(self) -> None:
        """Count one finished task."""
        self.done += 1
        now = time.monotonic()
        if self.label and (self.done == self.total or now - self.last >= PROGRESS_S):
            self.last = now
            print(f"{self.label}: {self.done}/{self.total}", flush=True)
