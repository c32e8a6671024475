"""`deeplrhe synth`: same bytes for any number of workers, resumable, clear about what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple

import pandas as pd
import pytest
from filelock import FileLock

from deeplrhe_utils.core.errors import ParameterError, RunError
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs import synth
from deeplrhe_utils.slides.files.inventory import scan_slides
from deeplrhe_utils.synthetic.publish import PRESETS, CohortSpec

SMALL = CohortSpec(n_slides=4, seed=3, grid_columns=2, grid_rows=1, tile_px=128)
AS_TYPED = ["n_slides=4", "normal_share=0", "grid_columns=2", "grid_rows=1", "tile_px=128"]


def sums(folder):
    return (folder / "SHA256SUMS").read_text()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "one"
    synth.write_synthetic_cohort(SMALL, folder, workers=1)
    return folder


def test_one_and_two_workers_write_the_same_bytes(cohort, tmp_path):
    synth.write_synthetic_cohort(SMALL, tmp_path / "two", workers=2)
    assert sums(tmp_path / "two") == sums(cohort)
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=cohort, capture_output=True)
    assert done.returncode == 0


def test_a_missing_slide_is_written_again_and_the_others_are_kept(cohort, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(cohort, copy)
    slides = sorted((copy / "slides").glob("*.svs"))
    slides[0].unlink()
    (copy / "slides" / f".{slides[1].stem}.99.part.svs").write_bytes(b"left by a kill")
    kept = slides[1].stat().st_mtime_ns
    synth.write_synthetic_cohort(SMALL, copy, workers=1)
    assert slides[1].stat().st_mtime_ns == kept and sums(copy) == sums(cohort)
    assert not list(copy.rglob(".*.part*"))


def test_a_killed_command_is_resumed_with_the_same_bytes(cohort, tmp_path):
    out = tmp_path / "killed"
    command = [
        sys.executable, "-m", "deeplrhe_utils", "synth", "smoke", "--out", str(out), "--seed", "3", "--workers", "1",
    ]  # fmt: skip
    command += [word for text in AS_TYPED for word in ("-p", text)]
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)
    while process.poll() is None and not list(out.glob("slides/*.svs")):
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True).returncode == 0
    assert sums(out) == sums(cohort)


def test_the_cohort_can_be_used_as_slides_with_labels(cohort):
    assert not (cohort / "mpp_overrides.csv").exists()  # only cohorts of ten slides or more have a silent one
    slides = scan_slides(cohort / "slides")
    assert (slides["status"] == "ok").all() and len(slides) == 4
    labels = pd.read_csv(cohort / "labels.csv")
    assert set(slides["patient_id"]) == set(labels["patient_id"])
    assert json.loads((cohort / "cohort.json").read_text())["spec"]["n_slides"] == 4
    told = (cohort / "README.md").read_text(encoding="utf-8")
    assert "deeplrhe judge SCORES --truth THIS" in told and "| tile_px | 128 |" in told and "`truth/`" in told


def test_a_folder_with_another_cohort_or_another_writer_is_refused(cohort):
    with pytest.raises(ParameterError, match="made in another way: seed"):
        synth.write_synthetic_cohort(synth.make_spec("smoke", AS_TYPED, seed=4), cohort)
    with FileLock(cohort / ".lock"), pytest.raises(RunError, match="Another process"):
        synth.write_synthetic_cohort(SMALL, cohort)


def test_files_of_others_are_neither_deleted_nor_overwritten(tmp_path):
    (tmp_path / ".notes.part.txt").write_text("mine")
    (tmp_path / "labels.csv").write_text("mine")
    with pytest.raises(ParameterError, match=r"has not written.*labels\.csv"):
        synth.write_synthetic_cohort(SMALL, tmp_path)
    assert {p.read_text() for p in tmp_path.iterdir() if p.suffix} == {"mine"}


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 1000))
    with pytest.raises(RunError, match="Too little disk"):
        synth.write_synthetic_cohort(SMALL, tmp_path / "full")
    assert not (tmp_path / "full" / "slides").exists()


def test_parameters_and_effect_sizes_change_a_preset():
    spec = synth.make_spec("demo", ["n_slides=20", "TP53=0.5", "site_confounding=0.4", "EGFR=0"], seed=9)
    assert (spec.n_slides, spec.seed, spec.site_confounding) == (20, 9, 0.4)
    assert spec.effects_in_force["TP53"].d == 0.5 and spec.effects_in_force["EGFR"].d == 0
    assert spec.effects_in_force["STK11"] == PRESETS["demo"].effects_in_force["STK11"]


@pytest.mark.parametrize(("settings", "message"), [
    (["slides=4"], "no cohort parameter 'slides=4'.*n_slides"), (["n_slides"], "no cohort parameter"),
    (["n_slides=many"], "n_slides is not a number"), (["n_slides=0"], "n_slides"),
    (["site_confounding=2"], "site_confounding"), (["POLE=1"], "POLE"), (["outline_error_um=nan"], "outline_error_um"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(settings, message):
    with pytest.raises(ParameterError, match=message):
        synth.make_spec("smoke", settings)


def test_the_command_line_tells_presets_and_exits_with_2(tmp_path, capsys):
    assert main(["synth", "huge", "--out", str(tmp_path)]) == 2
    assert "smoke, demo, paper, stress" in capsys.readouterr().err
    assert main(["synth", "smoke", "--out", str(tmp_path), "-p", "colour=red"]) == 2
    assert main(["synth", "smoke"]) == 2
    arguments = ["synth", "smoke", "--out", str(tmp_path / "new"), "--workers", "1", "-p", "n_slides=1"]
    assert main([*arguments, "-p", "grid_columns=1", "-p", "grid_rows=1", "-p", "tile_px=128"]) == 0
    assert "1 slides of 1 synthetic patients" in capsys.readouterr().out
