"""One function over many items: a plain loop, a local Dask cluster, or any scheduler by its address."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

from deeplrhe_utils.core.errors import CompendiumError, RunError
from deeplrhe_utils.core.text import Countdown
from deeplrhe_utils.running.machine.process import STEADY, is_held

Item = TypeVar("Item")
Result = TypeVar("Result")
WORKERS_S = 120
"""How long a scheduler may be without workers [s]: a queue may have to start them."""


def map_tasks(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 1, scheduler: str = "", label: str = ""
) -> list[Result]:
    """``[function(item) for item in items]``, spread over processes or machines; the first failure ends it.

    Parameters
    ----------
    function : a function of a module (workers import it by name); it must not depend on order or state
    items : arguments, one per task; small, since they travel to the workers
    workers : local processes; 1 or less is a plain loop in this process
    scheduler : address of a running Dask scheduler (``tcp://host:8786``); wins over `workers`
    label : of the progress line (`Countdown`); "" prints none

    Returns results in the order of `items`, whatever the number of workers.
    Raises CompendiumError: as the function raised it, with the item named. RunError: for every other exception, with
    the item named and the original as its cause.
    """
    results: dict[int, Result] = {}
    todo = list(items)
    with closing(_spread(function, todo, workers, scheduler, label)) as ended:  # an error closes the cluster too
        for number, found in ended:
            if isinstance(found, Exception):
                raise _named(found, todo[number], label) from found
            results[number] = found
    return [results[number] for number in range(len(todo))]


def map_surviving(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    otherwise: Callable[[Item, str], Result],
    *,
    workers: int = 1,
    scheduler: str = "",
    label: str = "",
) -> list[Result]:
    """:func:`map_tasks` for items of which one may be poisoned: its failure costs its own result, not the others.

    What stands in its place is ``otherwise(item, reason)``, whatever the exception was. A worker process that
    dies is replaced; what it was at is tried once more, each item alone, so that none is blamed for another;
    what kills its worker again has failed. With one worker and no scheduler everything runs in this process,
    which such an item would kill: use two.

    Returns results in the order of `items`.
    """
    todo = list(items)
    results = dict(_spread(function, todo, workers, scheduler, label))
    for number in sorted(n for n, found in results.items() if _killed(found)):
        ((_, results[number]),) = _spread(function, [todo[number]], 2, scheduler, "")
    ordered = ((item, results[number]) for number, item in enumerate(todo))
    return [otherwise(item, _reason(found)) if isinstance(found, Exception) else found for item, found in ordered]


def _spread(
    function: Callable[[Item], Result], todo: list[Item], workers: int, scheduler: str, label: str
) -> Generator[tuple[int, Result | Exception]]:
    """(position, result or what was raised instead) of every item, as they end."""
    progress = Countdown(label, len(todo))
    if (not scheduler and workers <= 1) or not todo:
        for number, item in enumerate(todo):
            yield number, _tried(function, item)
            progress.step()
        return
    from distributed import as_completed

    with _client(min(workers, len(todo)), scheduler) as client:
        futures = client.map(function, todo, pure=False, retries=0)
        position = {future.key: number for number, future in enumerate(futures)}
        try:
            if scheduler:
                _await_workers(client, scheduler)
            for future in as_completed(futures):
                found = _tried(type(future).result, future)
                if future.status in ("cancelled", "lost"):  # no fault of the item's
                    raise RunError(f"{label or 'tasks'}: the connection to the Dask scheduler was lost", got=found,
                                   fix="Start the scheduler again and repeat the command")  # fmt: skip
                yield position[future.key], found
                progress.step()
        finally:
            client.cancel(futures)


def _tried(function: Callable[[Any], Result], argument: Any) -> Result | Exception:
    try:
        return function(argument)
    except Exception as error:
        return error


_WORKER_ENVIRONMENT = {
    **STEADY,  # Dask would return freed memory from 64 kB on
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
    settings = {
        "logging.distributed": "critical",
        # What a dead worker was at is not sent to the next one, which it might kill with all that waits there.
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
    except (OSError, TypeError, ValueError) as error:  # TypeError: no certificates are configured for tls://
        what = f"There is no Dask scheduler at {scheduler} that can be spoken to"
        expected = "an address such as tcp://host:8786; tls:// needs certificates (docs/clusters.md)"
        raise RunError(what, got=error, expected=expected) from error


def _await_workers(client: Any, scheduler: str) -> None:
    """Wait for the first worker; after the tasks are handed in, because a cluster that adapts starts none before.

    Raises RunError: none came, or this process is held at a level of instructions (`is_held`) and a worker is not.
    """
    try:
        client.wait_for_workers(1, timeout=WORKERS_S)
    except TimeoutError as error:
        raise RunError(
            f"The Dask scheduler at {scheduler} has no workers after {WORKERS_S} s", fix="Start workers"
        ) from error
    if is_held() and not all(client.run(is_held, on_error="ignore").values()):
        raise RunError(
            f"The workers at {scheduler} use all instructions of their processors, this run those of AVX2",
            expected="the same on both sides: results would differ in rounding",
            fix="Start the workers as docs/clusters.md says, or run with -p determinism=off",
        )


def _named(error: Exception, item: Any, label: str) -> CompendiumError:
    where = f"{label or 'task'}, item {str(item)[:200]}"
    if isinstance(error, CompendiumError):
        error.args = (f"{where}: {error}",)
        return error
    return RunError(
        f"{where}: {_reason(error)}", fix="Memory may be short: use fewer workers" if _killed(error) else ""
    )


def _killed(found: object) -> bool:
    return type(found).__name__ == "KilledWorker"


def _reason(error: Exception) -> str:
    if isinstance(error, CompendiumError):
        return str(error)
    if _killed(error):
        return "the worker process died"
    return f"{type(error).__name__}: {error}"
