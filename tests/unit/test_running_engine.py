"""Mapping over workers gives what a loop gives."""

import os

import pytest

from deeplrhe_utils.core.errors import RunError, SlideError
from deeplrhe_utils.running.engine import map_tasks


def square(x):
    return x * x


def fail(x):
    if x == 2:
        raise ValueError("odd one out")
    return x


def refuse(x):
    raise SlideError("slide is cut short", got=x)


def process_id(_):
    return os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_order_is_kept_and_progress_is_told(workers, capfd):
    assert map_tasks(square, range(7), workers=workers, label="squares") == [x * x for x in range(7)]
    out, err = capfd.readouterr()
    assert out.endswith("squares: 7/7\n") and err == ""


def test_nothing_to_do():
    assert map_tasks(square, [], workers=4) == []


def test_errors_name_the_item(capfd):
    for workers in (1, 2):
        with pytest.raises(RunError, match="tiles, item 2: ValueError: odd one out"):
            map_tasks(fail, [1, 2, 3], workers=workers, label="tiles")
    with pytest.raises(SlideError, match=r"task, item a: slide is cut short\. Got: a"):
        map_tasks(refuse, ["a"])
    assert capfd.readouterr().err == ""


def test_an_unreachable_scheduler_is_named():
    with pytest.raises(RunError, match=r"no Dask scheduler at nonsense://x"):
        map_tasks(square, [1], scheduler="nonsense://x")


def test_a_running_scheduler_is_used():
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        (pid,) = map_tasks(process_id, [0], scheduler=address)
        assert pid != os.getpid()
        assert map_tasks(square, [3], scheduler=address) == [9], "the scheduler outlives a client"
