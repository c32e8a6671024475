"""Kill a real smoke run at random moments, kernel and runner in turn, until it ends; compare the AUC table."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from deeplrhe_utils.core.paths import REPOSITORY

TABLE = "tables/auc_table.csv"


def start(out: Path, profile: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "deeplrhe_utils", "run", profile, "--out", str(out)]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=stream, stderr=subprocess.STDOUT)


def kernel_pid(out: Path) -> int | None:
    try:
        return json.loads((out / ".runner.json").read_text())["kernels"].popitem()[1]["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def kill_once(run: subprocess.Popen[bytes], out: Path, target: str) -> str:
    """SIGKILL the kernel (falling back to the runner between kernels); say what was hit."""
    pid = kernel_pid(out) if target == "kernel" else run.pid
    hit = target if pid else "runner"
    try:
        os.kill(pid or run.pid, signal.SIGKILL)
    except ProcessLookupError:
        hit = "nothing"
    run.wait(timeout=120)
    return hit


def disturbed_run(out: Path, profile: str, kills: int, longest_s: float, seed: int) -> list[str]:
    """Run `profile` into `out`, killed `kills` times after a random time, then undisturbed to its end."""
    moments, report, log = random.Random(seed), [], out.with_suffix(".log")
    for number in range(kills):
        run = start(out, profile, log)
        wait = moments.uniform(3, longest_s)
        try:
            run.wait(timeout=wait)
            report.append(f"{number + 1}: ended before the kill at {wait:.0f} s")
        except subprocess.TimeoutExpired:
            report.append(f"{number + 1}: after {wait:.0f} s, {kill_once(run, out, ('kernel', 'runner')[number % 2])}")
        print(report[-1], flush=True)
    last = start(out, profile, log)
    if last.wait(timeout=900):
        raise SystemExit(f"the run did not recover: see {log}")
    time.sleep(0.1)
    return report
