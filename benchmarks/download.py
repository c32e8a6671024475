"""One file of 2 GB over loopback: ``deeplrhe download`` against curl, and against curl that verifies as well.

The service is the tests' stand-in, in a process of its own, and sends with sendfile. Plain curl neither hashes nor
brings the file to the disk before it calls it done; ours does both, so the second peer is curl, then md5sum, then sync.
Python's start (about a second) is not counted.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from _harness import compare, interleaved, show, timed, versions, write

from deeplrhe_utils.core.paths import REPOSITORY

SIZE, ROUNDS, GOAL = 2_000_000_000, 5, 0.8
SERVE = """
import sys, time
from pathlib import Path
from tests.stand_ins.gdc import GdcStandIn, offered
folder = Path(sys.argv[1])
with GdcStandIn([offered("TCGA-55-8514-01A-01-TS1.svs", folder / "content")]) as service:
    service.manifest(folder / "manifest.txt")
    print(service.url, flush=True)
    time.sleep(1e6)
"""


def make(path: Path) -> None:
    with path.open("wb") as stream:
        for _ in range(SIZE // 1_000_000):
            stream.write(os.urandom(1_000_000))


FETCH = """
import sys, time
from pathlib import Path
from deeplrhe_utils.running.jobs.download import DownloadOptions, fetch_manifest
from deeplrhe_utils.acquisition.services.download import all_done
folder = Path(sys.argv[1])
start = time.perf_counter()
report = fetch_manifest(DownloadOptions(folder / "manifest.txt", folder / "ours", sys.argv[2]), lambda _: None)
assert all_done(report["status"])
print(time.perf_counter() - start)
"""


def ours(folder: Path, url: str) -> float:
    """Seconds of the transfer in a process of its own."""
    shutil.rmtree(folder / "ours", ignore_errors=True)
    done = subprocess.run([sys.executable, "-c", FETCH, str(folder), url], check=True, capture_output=True, text=True)
    return float(done.stdout)


def curl(folder: Path, address: str, *, verify: bool) -> None:
    place = folder / "curl"
    place.unlink(missing_ok=True)
    subprocess.run(["curl", "--silent", "--fail", "--output", str(place), address], check=True)
    if verify:
        subprocess.run(["md5sum", str(place)], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["sync", str(place)], check=True)


def main() -> None:
    """Compare the bytes once, then time."""
    folder = Path(
        tempfile.mkdtemp(prefix="download-", dir=REPOSITORY / "build" if (REPOSITORY / "build").is_dir() else None)
    )
    make(folder / "content")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        file_id, name = (folder / "manifest.txt").read_text().splitlines()[1].split("\t")[:2]
        address = f"{url}/data/{file_id}"
        subprocess.run([sys.executable, "-c", "import deeplrhe_utils.running.jobs.download"], check=True)
        idle_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        ours(folder, url)
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        subprocess.run(["cmp", str(folder / "content"), str(folder / "ours" / file_id / name)], check=True)
        ways = {
            "ours": lambda: SIZE / 1e6 / ours(folder, url),
            "curl": lambda: timed(lambda: curl(folder, address, verify=False) or SIZE // 1_000_000),
            "curl, md5sum, sync": lambda: timed(lambda: curl(folder, address, verify=True) or SIZE // 1_000_000),
        }
        rates = interleaved(ways, ROUNDS)
    finally:
        server.kill()
        shutil.rmtree(folder)
    tables = {peer: compare(rates, peer) for peer in ("curl", "curl, md5sum, sync")}
    for peer, rows in tables.items():
        show("one file of 2 GB over loopback, two cores", rows, "MB/s", peer)
    found = next(row["ratio"] for row in tables["curl"] if row["way"] == "ours")
    print(f"  {found:.2f} of plain curl, goal {GOAL}: {'reached' if found >= GOAL else 'NOT reached'}")
    print(f"  peak memory {peak_mb:.0f} MB (python alone, without a file to fetch: {idle_mb:.0f} MB)")
    goal = {"what": "ratio to curl", "goal": GOAL, "found": found, "reached": found >= GOAL}
    write(
        "download", {"rows": tables, "goals": [goal], "bytes": SIZE, "peak_mb": peak_mb, "versions": versions("httpx")}
    )


if __name__ == "__main__":
    main()
