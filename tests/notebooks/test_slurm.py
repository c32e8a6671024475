"""The recipes of docs/clusters.md and docs/training.md, run in a SLURM of one node that this file starts for itself."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.learning.networks import deeplrhe
from deeplrhe_utils.learning.recipes.recipe import TrainConfig
from deeplrhe_utils.learning.training import crossfit
from tests.tile_store import both_classes, folds_of

pytestmark = pytest.mark.slow
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "scancel")
SLOTS = 4  # whatever the machine has
CONF = """ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={control}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} RealMemory=32000
PartitionName=cpu Nodes=ALL Default=YES State=UP
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def awaited(what: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.5)
    return found


def output(*command: str) -> str:
    return subprocess.run(command, text=True, capture_output=True, timeout=60).stdout.strip()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Path]:
    """A folder with a running SLURM (variable SLURM_CONF is set); everything it writes is in there."""
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        pytest.skip(f"SLURM is not installed: no {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)")
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().partition(".")[0]
    conf, key = folder / "slurm.conf", folder / "key"
    conf.write_text(CONF.format(host=host, user=getpass.getuser(), folder=folder, control=free_port(), node=free_port(),
                                slots=SLOTS))  # fmt: skip
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    own = [f"--{name}={folder}/munge.{name}" for name in ("pid-file", "log-file", "seed-file")]
    daemons = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.sock", f"--key-file={key}", *own],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    with pytest.MonkeyPatch.context() as patch, ExitStack() as running:
        patch.setenv("SLURM_CONF", str(conf))
        for command in daemons:
            log = running.enter_context((folder / f"{command[0]}.log").open("w"))
            process = subprocess.Popen(command, stdout=log, stderr=log)
            running.callback(process.wait, timeout=30)
            running.callback(process.terminate)
            assert command[0] != "munged" or awaited((folder / "munge.sock").exists, 30)
        if not awaited(lambda: output("sinfo", "-h", "-o", "%T") == "idle", 60):
            pytest.fail("".join((folder / f"{command[0]}.log").read_text() for command in daemons))
        running.callback(output, "scancel", "--full", f"--user={getpass.getuser()}")
        yield folder


def recipe(document: str, mark: str) -> str:
    """The block of a document of ours that contains `mark`."""
    blocks = re.findall(r"```\w*\n(.*?)```", (REPOSITORY / "docs" / document).read_text(), re.DOTALL)
    (found,) = (block for block in blocks if mark in block)
    return found


def batch(script: str, folder: Path) -> str:
    """Submit and wait; what it printed."""
    (folder / "job.sh").write_text(script)
    done = subprocess.run(["sbatch", "--wait", f"--output={folder}/job.log", folder / "job.sh"], timeout=1800)
    said = (folder / "job.log").read_text()
    assert done.returncode == 0, said
    return said


def contents(run: Path) -> dict[str, bytes]:
    """Slides, truth, tables, figures and numbers; notebooks and records tell times."""
    kinds = ("work", "truth", "tables", "figures", "numbers")
    return {str(p.relative_to(run)): p.read_bytes() for kind in kinds for p in (run / kind).rglob("*") if p.is_file()}


def test_workers_that_slurm_starts_give_the_bytes_of_one_process(slurm, tmp_path):
    """Synthetic slides written, taken stock of, tiled and screened: as one job, and by the workers of dask-jobqueue."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed (pip install dask-jobqueue)")
    home, python = "/shared/deeplrhe", f"{sys.executable} -m deeplrhe_utils"
    job = recipe("clusters.md", "run slides -p slides_dir=/data/slides -p labels_csv").replace(home, str(REPOSITORY))
    job = re.sub(
        r"\.venv/bin/deeplrhe run slides .*", f"{python} run ci --to 03 --out {tmp_path}/one -p workers=1", job
    )
    job = job.replace("--cpus-per-task=16", f"--cpus-per-task={SLOTS}")
    assert "Done in" in batch(job, tmp_path)

    code = recipe("clusters.md", "SLURMCluster(").replace("{home}/.venv/bin/python", sys.executable)
    (tmp_path / "cluster.py").write_text(code.replace(home, str(REPOSITORY)))
    with subprocess.Popen([sys.executable, "cluster.py"], cwd=tmp_path, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as cluster:  # fmt: skip
        try:
            address = cluster.stdout.readline().strip()
            command = [sys.executable, "-m", "deeplrhe_utils", "run", "ci", "--to", "03", "--out", f"{tmp_path}/many"]
            done = subprocess.run([*command, "-p", f"scheduler={address}", "-p", "determinism=on"], cwd=REPOSITORY,
                                  text=True, capture_output=True, timeout=1800)  # fmt: skip
        finally:
            cluster.communicate("\n", timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("slurm-*.out"))) >= 2, "jobs ran"
    one, many = contents(tmp_path / "one"), contents(tmp_path / "many")
    assert one.keys() == many.keys()
    assert [name for name, data in one.items() if data != many[name]] == []
    assert sum(name.endswith(".svs") for name in one) >= 15


def test_srun_starts_the_processes_of_a_training(slurm, small, tmp_path, monkeypatch):
    tiles, frame, _ = small
    monkeypatch.setenv("PET_RDZV_ENDPOINT", f"127.0.0.1:{free_port()}")
    launch = re.search(r'"launch=(srun .*?)"', recipe("training.md", "srun torchrun"))[1]
    launch = launch.replace("--nnodes 2 --nproc-per-node 4", "--nnodes 1 --nproc-per-node 2")
    network = deeplrhe.NetworkConfig(("X", "Y", "Z"), kernels=8, stages=1)
    brief = replace(TrainConfig(), epochs=2, batch_size=8, crop_px=32, precision="float32")
    kinds = {"seed": 1, "view": {"input_mpp": 0.5, "normalization": "none"}, "device": "cpu", "quiet": True}
    arguments = ({0: tiles, 1: tiles}, frame, both_classes(frame), folds_of(frame), network, brief)
    found = crossfit.cross_fit(*arguments, folder=tmp_path / "models", launch=launch, **kinds)
    assert {deeplrhe.read_card(file)["processes"] for file in found.files} == {2}
