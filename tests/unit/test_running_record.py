"""What a notebook writes is atomic, on record, and the same bytes every time."""

import json
import math

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import InputError, ParameterError, RunError, SchemaError, SmallCohortError
from deeplrhe_utils.core.files import read_json
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.core.tables.contract import write_table
from deeplrhe_utils.core.tables.truth import TRUTH_PATIENTS
from deeplrhe_utils.running.machine.lock import RunLock, check_free
from deeplrhe_utils.running.stage.record import run_folder, start_run
from deeplrhe_utils.running.stage.state import LARGE_BYTES, begin_by_hand, declared_files, fingerprint
from deeplrhe_utils.running.stage.story import story, worries

matplotlib.use("Agg")


@pytest.fixture
def run(tmp_path):
    return start_run("02-tiling", str(tmp_path / "out"))


def test_run_folders_start_at_the_repository_and_paths_are_relative_inside(run, tmp_path):
    inside = run.paths.work / "a.svs"
    assert run.relative(inside) == "work/a.svs" and run.resolve("work/a.svs") == inside
    assert run.relative(tmp_path / "b.svs") == str(tmp_path / "b.svs") == str(run.resolve(str(tmp_path / "b.svs")))
    assert run_folder("") == REPOSITORY / "reports" / "smoke"
    assert run_folder("reports/../reports/x") == REPOSITORY / "reports" / "x"
    assert run_folder("/data/run").as_posix() == "/data/run"
    with pytest.raises(ParameterError, match="NN-name"):
        start_run("tiling", "")


def test_the_truth_is_closed_to_notebooks_before_08(run, tmp_path):
    row = {"patient_id": "P", "gene": "TP53", "site_id": "01", "mutated": True, "d": 2.0}
    late = start_run("08-planted-truth", str(tmp_path / "out"))
    write_table(pd.DataFrame([row]), TRUTH_PATIENTS, late.paths.truth / "truth_patients.parquet")
    assert late.read_truth("truth_patients")["d"].tolist() == [2.0]
    with pytest.raises(RunError, match="Stage 02 asks for the planted truth"):
        run.read_truth("truth_patients")
    with pytest.raises(ParameterError, match="no table"):
        run.read("truth_patients")
    with pytest.raises(ParameterError, match="no truth table"):
        late.read_truth("slides")


def test_tables_are_checked_and_come_back_and_csv_keeps_floats_and_line_ends(run):
    labels = pd.DataFrame({"patient_id": ["a"], "gene": ["TP53"], "status": [1], "source": ["s"]})
    path = run.write("labels", labels)
    assert path == run.paths.tables / "labels.parquet" and run.read("labels")["status"].tolist() == [1]
    with pytest.raises(ParameterError, match="no table 'lables'"):
        run.write("lables", labels)
    with pytest.raises(SchemaError, match="missing"):
        run.read("tiles")
    path = run.write_csv("auc_table", pd.DataFrame({"auc": [0.1 + 0.2, 1 / 3], "gene": ["é", ""]}))
    assert path.read_bytes() == "auc,gene\n0.30000000000000004,é\n0.3333333333333333,\n".encode()


def test_numbers_merge_within_one_stage_and_stay_json(run, tmp_path):
    run.numbers({"n": np.int64(3), "auc": np.float32(0.5), "nan": float("nan"), "list": np.array([1.0, math.inf])})
    run.numbers({"more": True, "missing": pd.NA})
    path = run.paths.numbers / "02-tiling.json"
    expected = {"n": 3, "auc": 0.5, "nan": None, "list": [1.0, None], "more": True, "missing": None}
    assert json.loads(path.read_text()) == expected
    assert run.number_of("02-tiling", "n") == 3
    again = start_run("02-tiling", str(tmp_path / "out"))
    again.numbers({"n": 4})
    assert json.loads(path.read_text()) == {"n": 4}, "numbers of an earlier attempt do not linger"
    with pytest.raises(InputError, match=r"no number 'm'\. Expected: n"):
        run.number_of("02-tiling", "m")
    with pytest.raises(InputError, match="Run the notebook 01-data first"):
        run.number_of("01-data", "n")


def test_figures_are_the_same_bytes_for_the_same_figure(run):
    import matplotlib.pyplot as plt

    def draw():
        figure, axes = plt.subplots()
        axes.plot([0, 1], [0, 1], clip_on=True)
        png = run.figure("fig1", figure)
        plt.close(figure)
        return png.read_bytes(), png.with_suffix(".svg").read_bytes()

    assert draw() == draw()
    with pytest.raises(ParameterError, match="no slash"):
        run.figure("../fig", plt.figure())


def test_outputs_are_listed_file_by_file(run, capsys):
    (run.paths.work / "slides").mkdir(parents=True)
    for name in ("b.svs", "a.svs"):
        (run.paths.work / "slides" / name).write_bytes(b"12")
    run.declare(run.paths.work / "slides")
    run.numbers({"n": 1})
    run.finish()
    listed = json.loads((run.paths.stages / "02.outputs.json").read_text())
    assert listed == ["numbers/02-tiling.json", "work/slides/a.svs", "work/slides/b.svs"]
    assert "| `work/slides/` (2 files) | 4 B |" in capsys.readouterr().out
    assert declared_files(run.paths.root, ["work/slides/"]) == listed[1:]
    for wrong in (run.paths.root.parent, run.paths.root, run.paths.work / "gone"):
        with pytest.raises(RunError):
            run.declare(wrong)


def test_an_output_has_one_owner(tmp_path):
    out = str(tmp_path)
    frame = pd.DataFrame({"patient_id": ["a"], "gene": ["TP53"], "status": [1], "source": ["01"]})
    first = start_run("01-data", out)
    first.write("labels", frame)
    first.finish()
    with pytest.raises(RunError, match="output of stage 01"):
        start_run("03-x", out).write("labels", frame.assign(source="03"))
    again = start_run("01-data", out)
    again.write("labels", frame.assign(source="again"))
    assert again.read("labels")["source"].tolist() == ["again"]


def test_a_folder_in_use_by_a_live_runner_is_refused(tmp_path, monkeypatch):
    with RunLock(tmp_path):
        monkeypatch.setattr("os.getpid", lambda: -1)
        with pytest.raises(RunError, match="in use by process"):
            check_free(tmp_path)
        monkeypatch.undo()
    check_free(tmp_path)


def test_by_hand_partial_work_of_other_parameters_is_dropped(tmp_path, monkeypatch):
    cell = nbformat.v4.new_code_cell("seed: int = 1", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "05-x.ipynb")
    monkeypatch.setattr("deeplrhe_utils.core.paths.NOTEBOOKS", tmp_path)
    part = tmp_path / "out" / "work" / "05" / "fold-0.json"

    def survives(seed):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("{}")
        begin_by_hand("05-x", tmp_path / "out", {"seed": seed})
        return part.exists()

    assert [survives(seed) for seed in (1, 1, 2, 2)] == [False, True, False, True]
    with pytest.raises(ParameterError, match="seed"):
        survives("no integer")


def test_fingerprints_see_content_names_and_times(tmp_path):
    small = tmp_path / "a.csv"
    small.write_text("1")
    first = fingerprint(small)
    small.write_text("2")
    assert fingerprint(small) != first and fingerprint(tmp_path / "none") == "missing"
    folder = fingerprint(tmp_path)
    small.rename(tmp_path / "b.csv")
    assert fingerprint(tmp_path) != folder
    big = tmp_path / "big"
    with big.open("wb") as stream:
        stream.truncate(LARGE_BYTES + 1)
    assert fingerprint(big)[1] == LARGE_BYTES + 1


def test_a_missing_table_is_explained_by_the_stage_that_writes_it_and_by_no_other(tmp_path):
    run = start_run("12-power-and-precision", str(tmp_path / "run"))
    run.paths.stages.mkdir()
    (run.paths.stages / "06.skipped").write_text("An AUC needs patients of both classes\n")
    with pytest.raises(SmallCohortError, match="Stage 06 was skipped: An AUC needs"):
        run.read("metrics")
    with pytest.raises(SmallCohortError, match="Stage 06 was skipped"):
        run.number_of("06-roc-analysis", "unit")
    with pytest.raises(SchemaError, match="tiles is missing"):
        run.read("tiles")
    run.paths.numbers.mkdir()
    (run.paths.numbers / "06-roc-analysis.json").write_text('{"unit": "patients"}')
    assert run.number_of("06-roc-analysis", "unit") == "patients", "it was run by hand since"


def test_what_a_notebook_says_is_kept_shown_and_told_in_order(tmp_path, capsys):
    for stage, said in (("14-claims-ledger", {"reported_allowed": "Four are contradicted."}),
                        ("10-leakage-audit", {"leakage_capacity": "0.84 <b>by tile</b>."})):  # fmt: skip
        run = start_run(stage, str(tmp_path / "run"))
        for name, sentence in said.items():
            run.found(name, sentence)
        run.answer(None, "nobody knows.")
        run.answer(True, "2 of 3 came.")
        run.remember("nothing", *said)
        run.numbers({"other": 1})
        run.finish()
    shown = capsys.readouterr().out
    assert "**0.84 \\<b\\>by tile\\</b\\>.**" in shown and "**It cannot be told here.** Nobody knows." in shown
    assert "**It happened.** 2 of 3 came." in shown and "1. Four are contradicted." in shown
    told = story(tmp_path / "run")
    assert [(one.stage[:2], one.name) for one in told] == [("14", "reported_allowed"), ("10", "leakage_capacity")]
    assert [one["happened"] for one in worries(tmp_path / "run")] == [None, True] * 2
    assert [one.name for one in story(tmp_path / "run", most=1)] == ["reported_allowed"]
    numbers = read_json(tmp_path / "run" / "numbers" / "14-claims-ledger.json")
    assert numbers["remember"] == ["reported_allowed"] and numbers["other"] == 1
    with pytest.raises(ParameterError, match="no sentence"):
        run.found("x", "no end")
