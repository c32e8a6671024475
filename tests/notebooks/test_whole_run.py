"""All notebooks on a dozen slides: they run, repeat for nothing, survive kills, agree with committed numbers."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from deeplrhe_utils.core.paths import NOTEBOOKS, REPORTS, REPOSITORY
from tests.faults.kill_and_resume import TABLE, disturbed_run
from tests.links import dead_links

GOLDEN = Path(__file__).parents[1] / "golden"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deeplrhe_utils", "run", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True, timeout=1800)


@pytest.fixture(scope="session", params=["ci", pytest.param("smoke", marks=pytest.mark.slow)])
def profile(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def run(profile, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp(profile) / "run"
    done = _run(profile, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_paper_item_is_produced(run):
    with (REPORTS / "paper_map.csv").open() as stream:
        missing = [row["output"] for row in csv.DictReader(stream) if not (run / row["output"]).is_file()]
    assert not missing


def test_auc_table_is_complete_and_labelled_synthetic(run):
    table = pd.read_csv(run / TABLE)
    assert len(table) == 8 and (table["data"] == "SYNTHETIC").all()
    known = table[table["status"] == "estimated"]
    assert len(known) and ((known["ci_low"] <= known["auc"]) & (known["auc"] <= known["ci_high"])).all()
    assert table.loc[table["status"] == "not estimable", "reason"].notna().all()
    seeds = pd.read_csv(run / "tables" / "auc_pooling.csv").dropna(subset="auc")
    assert (seeds["seeds_low"] <= seeds["auc"]).all() and (seeds["auc"] <= seeds["seeds_high"]).all()
    assert (seeds["seeds_low"] < seeds["seeds_high"]).any(), "another seed changed nothing"


def test_every_file_and_tile_is_accounted_for(run):
    ledger = pd.read_csv(run / "tables" / "file_ledger.csv")
    tiles = pd.read_parquet(run / "tables" / "tiles.parquet")
    assert len(ledger) == 15 and ledger["candidates"].sum() == len(tiles)
    assert (tiles["kept"] | tiles["reason"].notna()).all()


def test_numbers_agree_with_the_committed_ones(run, profile):
    """Counts exactly; measured values within the tolerance stored beside each."""
    for stage, expected in json.loads((GOLDEN / f"{profile}.json").read_text()).items():
        numbers = json.loads((run / "numbers" / f"{stage}.json").read_text())
        for name, (value, tolerance) in expected.items():
            got = numbers[name]
            assert abs(got - value) <= tolerance if tolerance else got == value, f"{stage}: {name} {got}, not {value}"


def test_a_second_call_runs_nothing(run, profile):
    done = _run(profile, "--out", str(run))
    assert done.returncode == 0 and done.stdout.count("unchanged") == len(list(NOTEBOOKS.glob("*.ipynb"))), done.stdout


def test_executed_notebooks_are_small_and_without_errors(run):
    for path in (run / "notebooks").glob("*.ipynb"):
        assert path.stat().st_size < 800_000, path.name
        cells = json.loads(path.read_text())["cells"]
        assert not [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"], path.name


def test_every_link_of_the_pages_leads_somewhere(run):
    assert dead_links(run) == []


@pytest.mark.slow
def test_kill_and_resume_gives_the_same_table_byte_for_byte(run, profile, tmp_path):
    """One kill of the kernel and one of the runner; the stages before training are taken from the first run."""
    out = tmp_path / "run"
    shutil.copytree(run, out, symlinks=True)
    for stale in ("05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15"):
        (out / "stages" / f"{stale}.json").unlink()
    for folder in ("models/05", "work/05", "work/09"):
        shutil.rmtree(out / folder)
    (out / TABLE).unlink()
    disturbed_run(out, profile, kills=2, longest_s=9, seed=5)
    assert (out / TABLE).read_bytes() == (run / TABLE).read_bytes()
