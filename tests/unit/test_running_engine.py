"""Mapping over workers gives what a loop gives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from deeplrhe_utils.core.errors import RunError, SlideError
from deeplrhe_utils.running.machine import engine
from deeplrhe_utils.running.machine.engine import map_surviving, map_tasks
from deeplrhe_utils.running.machine.process import LEVEL_HELD


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
    assert out.endswith("squares: 7/7\n") and err == "" and map_tasks(square, [], workers=workers) == []


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


def reported(item, reason):
    return item, reason


def die_on_two(x):
    if x == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def die_once(marker):
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_costs_its_own_result_only(workers):
    found = map_surviving(fail, [1, 2, 3], reported, workers=workers)
    assert found == [1, (2, "ValueError: odd one out"), 3]
    assert map_surviving(refuse, ["a"], reported) == [("a", "slide is cut short. Got: a.")]


def test_a_poisoned_item_is_given_up_the_others_are_done_and_one_that_kills_once_is_repeated(capfd, tmp_path):
    found = map_surviving(die_on_two, range(8), reported, workers=2)
    assert found == [0, 1, (2, "the worker process died"), 3, 4, 5, 6, 7]
    assert capfd.readouterr().err == ""
    assert map_surviving(die_once, [tmp_path / "a", tmp_path / "b"], reported, workers=2) == ["done", "done"]


def test_where_nothing_may_fail_a_dead_worker_ends_the_run_with_the_item_s_name():
    with pytest.raises(RunError, match=r"slides, item 2: the worker process died.*use fewer workers"):
        map_tasks(die_on_two, [1, 2, 3], workers=2, label="slides")


def slow(x):
    time.sleep(1.5 * x)
    return x


def test_a_scheduler_that_goes_away_is_no_fault_of_the_items():
    from distributed import LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0")
    threading.Timer(1.0, cluster.close).start()
    with pytest.raises(RunError, match="connection to the Dask scheduler was lost"):
        map_surviving(slow, [0, 1, 2, 3], reported, scheduler=cluster.scheduler_address)


def test_a_cluster_that_starts_workers_only_for_waiting_tasks_is_waited_for():
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, processes=True, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        cluster.adapt(minimum=0, maximum=1, interval="200ms")
        assert map_tasks(square, [3, 4], scheduler=cluster.scheduler_address) == [9, 16]


def test_workers_at_another_level_of_instructions_are_refused_where_the_same_bytes_are_promised(monkeypatch):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster:
        for name, value in LEVEL_HELD.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(RunError, match=r"results would differ in rounding.*determinism=off"):
            map_tasks(square, [1], scheduler=cluster.scheduler_address)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster:
        assert map_tasks(square, [3], scheduler=cluster.scheduler_address) == [9]


def test_a_scheduler_behind_tls_needs_only_the_configuration_of_dask(tmp_path):
    """Scheduler, worker and client each started as docs/clusters.md says, with the same file of settings."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("openssl, which makes the certificate, is not installed")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=deeplrhe",
                    "-keyout", key, "-out", certificate], check=True, capture_output=True)  # fmt: skip
    pair = {"cert": str(certificate), "key": str(key)}
    tls = {"ca-file": str(certificate), "scheduler": pair, "worker": pair, "client": pair}
    (tmp_path / "tls.yaml").write_text(json.dumps({"distributed": {"comm": {"require-encryption": True, "tls": tls}}}))
    configured = {**os.environ, "DASK_CONFIG": str(tmp_path / "tls.yaml")}
    told, dask = tmp_path / "scheduler.json", [sys.executable, "-m", "dask"]
    quiet = {"env": configured, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
         "--scheduler-file", str(told)], **quiet)  # fmt: skip
    worker = subprocess.Popen([*dask, "worker", "--scheduler-file", str(told), "--no-dashboard", "--no-nanny",
                               "--nthreads", "1", "--local-directory", str(tmp_path)], **quiet)  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not told.is_file() and time.monotonic() < until:
            time.sleep(0.1)
        address = json.loads(told.read_text())["address"]
        assert address.startswith("tls://")
        code = "from deeplrhe_utils.running.machine.engine import map_tasks; import math, sys; " \
               "print(map_tasks(math.factorial, [3, 4], scheduler=sys.argv[1]))"  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code, address], env=configured, text=True, capture_output=True, timeout=60
        )
        assert done.stdout == "[6, 24]\n", done.stderr
        with pytest.raises(RunError, match=r"TLS configuration.*docs/clusters\.md"):
            map_tasks(square, [1], scheduler=address)
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait(timeout=30)


def test_a_scheduler_without_workers_is_told(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(engine, "WORKERS_S", 1)
    with (
        LocalCluster(n_workers=0, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(RunError, match="no workers after 1 s"),
    ):
        map_tasks(square, [1], scheduler=cluster.scheduler_address)
