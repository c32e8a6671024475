"""kill -9 in the middle of training: started again, the run ends with the same file, bit for bit."""

import random
import signal
import subprocess
import sys
import time

import pytest

from deeplrhe_utils.core.paths import REPOSITORY

COMMAND = [sys.executable, "-m", "tests.faults.train_once"]


def begin(folder):
    return subprocess.Popen([*COMMAND, str(folder)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def wait_for_state(folder, process, limit_s=120):
    """Until the run has saved a state, or ended."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until and process.poll() is None:
        if list(folder.glob("state/*.safetensors")):
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_bit(tmp_path):
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    left_alone = begin(undisturbed)
    lines = left_alone.communicate(timeout=300)[0].splitlines()
    assert left_alone.returncode == 0 and lines[-1].startswith("hash")
    moments, killed = random.Random(4), 0
    for _ in range(3):
        process = begin(disturbed)
        wait_for_state(disturbed, process)
        time.sleep(moments.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        killed += process.returncode == -signal.SIGKILL
    last = begin(disturbed)
    out = last.communicate(timeout=300)[0]
    assert last.returncode == 0 and killed >= 1 and "goes on in epoch" in out
    assert out.splitlines()[-1] == lines[-1]
    assert (disturbed / "fold-0.safetensors").read_bytes() == (undisturbed / "fold-0.safetensors").read_bytes()
    assert not list(disturbed.glob("**/*.part*")) and not (disturbed / "state").exists()
