"""Nothing of others is deleted or changed, whatever a folder holds and whatever command is pointed at it."""

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.files import MARKER, claim
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs.synth import write_synthetic_cohort
from deeplrhe_utils.running.stage.state import CHANGED
from deeplrhe_utils.synthetic.publish import CohortSpec
from tests.faults.runner_house import House

MODEL = REPOSITORY / "reports" / "demo" / "models" / "05" / "fold-0.safetensors"
# what commands write, delete, or look at, beside what people keep in folders
NAMES = [
    "page/mine.js", "page/slide-000.js", "work/01/photo.svs", "work/mine", "models/02/mine.h5", "stages/01.json",
    "stages/01.outputs.json", "tables/auc.csv", "numbers/01-first.json", "cohort/list.csv", "cohort.json", "flow.csv",
    "run.json", "index.html", "auc.csv", "roc.png", "ledger.csv", "tiles.parquet", "slides.csv", "normalize.csv",
    "normalizer/request.json", "S1/x0000000_y0000000.png", "S1/mine.txt", "slides/.a.12.part.svs", "truth/mine.csv",
    "labels.csv", "download.csv", "repairs.csv", "manifest.txt", ".lock/x", "thesis.docx", "out.json",
    "genes.csv", "judged.json", "planted.png", "audit.json", "folds.csv",
]  # fmt: skip
CONTENTS = [b"", b"mine", b"{}", b"[]", b'["thesis.docx", "../x"]', b'{"commands": "run"}', b"patient_id,TP53\nA,1\n"]
trees = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(CONTENTS), min_size=1, max_size=6)


def snapshot(folder):
    """Every file with its bytes and times; directories by name."""
    found = {}
    for top, _, files in os.walk(folder):
        for name in files:
            path = Path(top) / name
            found[path.relative_to(folder).as_posix()] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def plant(folder, tree):
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return snapshot(folder)


@pytest.fixture(scope="module")
def given_files(tmp_path_factory, slide_factory):
    """Inputs that every command would work on, and the tiny compendium."""
    base = tmp_path_factory.mktemp("inputs")
    pictures = base / "S1"
    pictures.mkdir()
    shutil.copy(slide_factory(20), base / "S1.svs")
    scores = pd.DataFrame(
        {"patient_id": list("ABCDEFGHIJKL"), "label": [0, 1] * 6, "score": [i / 12 for i in range(12)]}
    )
    scores.to_csv(base / "scores.csv", index=False)
    scores[["patient_id"]].assign(TP53=scores["label"]).to_csv(base / "labels_in.csv", index=False)
    (base / "split.csv").write_text("train,test\nTCGA-05-0001,TCGA-05-0002\n")
    (base / "maf.txt").write_text("Hugo_Symbol\tVariant_Classification\tTumor_Sample_Barcode\n"
                                  "TP53\tMissense_Mutation\tTCGA-05-4244-01A\n")  # fmt: skip
    (base / "manifest.txt").write_text("id\tfilename\tmd5\tsize\tstate\n"
                                       f"ac0973ee-07f8-536e-842d-17ab763e64d5\ta\t{0:032}\t5\treleased\n")  # fmt: skip
    small = CohortSpec(n_slides=4, seed=3, grid_columns=2, grid_rows=1, tile_px=128)
    plan = write_synthetic_cohort(small, base / "planted", workers=1)
    plan.truth.assign(score=0.5)[["patient_id", "gene", "score"]].to_csv(base / "said.csv", index=False)
    return base, House(tmp_path_factory.mktemp("house"))


def commands(base, out):
    """What a person may type, each pointed at `out`; services are at an address where nobody listens."""
    nobody = "http://127.0.0.1:9"
    return {
        "run": ["run", "tiny", "--out", out],
        "run --fresh": ["run", "tiny", "--fresh", "--only", "02", "--out", out],
        "predict": ["predict", base / "S1.svs", "--model", MODEL, "--workers", "1", "--out", out],
        "normalize": ["normalize", base / "S1.svs", "--method", "reinhard", "--out", out],
        "score": ["score", base / "scores.csv", "--resamples", "100", "--out", out],
        "synth": ["synth", "smoke", "-p", "n_slides=3", "-p", "grid_columns=1", "-p", "grid_rows=1", "--out", out],
        "judge": ["judge", base / "said.csv", "--truth", base / "planted", "--out", out],
        "cohort": ["cohort", "paper", "--gdc", nobody, "--cbioportal", nobody, "--out", out],
        "download": ["download", base / "manifest.txt", "--endpoint", nobody, "--retries", "1", "--out", out],
        "labels": ["labels", base / "maf.txt", "--genes", "TP53", "--out", out / "labels.csv"],
        "split --audit": ["split", "--audit", base / "split.csv", "--out", out],
        "split": ["split", base / "labels_in.csv", "--out", out / "out.json"],
        "doctor": ["doctor", base / "S1.svs", "--no-estimate", "--csv", out / "slides.csv"],
    }  # fmt: skip


COMMANDS = list(commands(Path("a"), Path("b")))


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=trees)
@example(tree={"work/01/photo.svs": b"mine", "page/mine.js": b"mine", "models/02/mine.h5": b"mine", "auc.csv": b"mine"})
@example(tree={"cohort.json": b"{}", "run.json": b"{}", "normalizer/request.json": b"{}", "stages/01.json": b"{}"})
def test_no_command_touches_a_foreign_file(given_files, monkeypatch, command, tree):
    base, house = given_files
    monkeypatch.setattr("deeplrhe_utils.running.jobs.cohort.gather", lambda *_: _no())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        before = plant(out, tree)
        code = main([str(word) for word in commands(base, out)[command]], house.places)
        after = snapshot(out)
        assert {name: after.get(name) for name in before} == before, "a foreign file was changed or deleted"
        if command.startswith("run"):
            assert code == 2 and set(after) == set(before), "a folder that is no run is left alone"


def _no():
    raise InputError("The service is not there")


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=trees)
@example(tree={name: b"mine" for name in NAMES if name.startswith(("work", "models", "page", "cohort"))})
def test_what_is_added_to_a_run_survives_everything_that_the_run_does(tmp_path_factory, tree):
    """Changed parameters, --fresh and a stage that is skipped: files of others keep their bytes."""
    house = House(tmp_path_factory.mktemp("house"))
    house.run()
    ours = snapshot(house.out)
    # a file of the run's own name is the run's, and so is one that its page gave that name
    theirs = {n: c for n, c in tree.items() if n not in ours and n != "page/slide-000.js"}
    theirs = {n: c for n, c in theirs.items() if not n.startswith((".lock", "stages/")) and n != "tables/auc.csv"}
    before = plant(house.out, theirs)
    _age(house.out, 10**10)  # the stages had ended long ago
    for overrides, more in ((("times=2",), {}), ((), {"fresh": True})):
        house.run(*overrides, **more)
    for name in theirs:
        found = [path for path in (house.out / name, *(house.out / CHANGED / name).parent.glob("*")) if path.is_file()]
        assert before[name][0] in [path.read_bytes() for path in found], f"{name} is lost"


def _age(root, by_ns):
    """Move the time at which stages were at work into the past: nobody can set the times of change of files."""
    from deeplrhe_utils.core.files import read_json, write_json

    for path in (root / "stages").glob("[0-9][0-9].json"):
        record = read_json(path)
        if "lived" in record:
            write_json(path, record | {"lived": [moment - by_ns for moment in record["lived"]]})


def test_partial_results_of_a_stage_are_its_own_and_go(tmp_path):
    """Under another key they are deleted; in a copy of the run, which has other times, too, or set aside."""
    cell = """from deeplrhe_utils.running.stage.record import start_run
run = start_run("01-first", run_dir)
for folder in (run.paths.work / "01", run.paths.models / "01"):
    folder.mkdir(parents=True, exist_ok=True)
    assert not (folder / "part.bin").exists(), "a partial result of other parameters"
    (folder / "part.bin").write_text(word)
run.numbers({"n": 1})"""
    house = House(tmp_path, {"01-first": [cell]})
    house.run("word=ab")
    house.run("word=cd")
    assert (house.out / "work" / "01" / "part.bin").read_text() == "cd" and not (house.out / CHANGED).exists()
    _age(house.out, 10**12)  # as if copied: models are known by the crate's hash, the rest is set aside, not used
    house.run("word=ab")
    assert (house.out / CHANGED / "work" / "01" / "part.bin").read_text() == "cd"
    assert not (house.out / CHANGED / "models").exists() and (house.out / "models" / "01" / "part.bin").is_file()


@pytest.mark.parametrize("kind", ["file", "read-only", "below a file"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_known_before_the_work(
    given_files, tmp_path, capsys, monkeypatch, command, kind
):
    base, house = given_files
    out = tmp_path / "out"
    if kind == "read-only":
        out.mkdir(mode=0o500)
        if os.access(out, os.W_OK):  # the administrator may write everywhere: as on a read-only disk
            monkeypatch.setattr(Path, "mkdir", _read_only(Path.mkdir, out))
            monkeypatch.setattr(Path, "write_bytes", _read_only(Path.write_bytes, out))
    else:
        out.write_text("mine")
        out = out if kind == "file" else out / "below"
    words = commands(base, out)[command]
    if command in ("labels", "split", "doctor") and kind == "file":
        words[-1] = out
    assert main([str(word) for word in words], house.places) in (1, 2)
    said = capsys.readouterr()
    assert "Traceback" not in said.err and str(out) in said.err


def _read_only(method, folder):
    def refuse(path, *arguments, **more):
        if path == folder or folder in path.parents:
            raise OSError(30, "Read-only file system", str(path))
        return method(path, *arguments, **more)

    return refuse


def test_claims_are_of_commands_and_of_names(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    claim(tmp_path, "score", ("auc.csv",))
    claim(tmp_path, "predict", ("slides.csv",))
    (tmp_path / "auc.csv").write_text("written")
    claim(tmp_path, "score", ("auc.csv",))  # its own
    for command, names in itertools.product(("run", "download"), (None, ("auc.csv",))):
        with pytest.raises(ParameterError, match=f"`deeplrhe {command}` has not written"):
            claim(tmp_path, command, names)
    (tmp_path / MARKER).unlink()
    with pytest.raises(ParameterError, match="auc"):
        claim(tmp_path, "score", ("auc.csv",))


@pytest.mark.parametrize("seed", ["-1", "1.5", "99999999999999999999999", "x"])
@pytest.mark.parametrize("command", ["score", "split", "normalize", "synth", "cohort"])
def test_seeds_are_checked_everywhere(given_files, tmp_path, capsys, command, seed):
    base, _ = given_files
    words = [*commands(base, tmp_path / "out")[command], "--seed", seed]
    assert main([str(word) for word in words]) == 2
    assert "is no seed" in capsys.readouterr().err and not (tmp_path / "out").exists()
