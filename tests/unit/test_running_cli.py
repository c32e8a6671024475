"""The command line: exit codes, help, lists; and it starts fast."""

import os
import subprocess
import sys
import unicodedata

import nbformat
import pandas as pd
import pytest
from PIL import Image

from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs import doctor
from deeplrhe_utils.running.plan.notebooks import clean_executed, path_cleaner
from deeplrhe_utils.running.plan.profiles import Profile
from deeplrhe_utils.running.runner.pipeline import Places
from tests.unit.test_slides_resolution import nuclei, write_svs


@pytest.fixture
def where(tmp_path):
    for name in ("notebooks", "profiles", "package"):
        (tmp_path / name).mkdir()
    cell = nbformat.v4.new_code_cell("seed: int = 1  # [none] the seed", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / "01-data.ipynb")
    (tmp_path / "profiles" / "demo.yml").write_text("title: T\ninput: tiles\n")
    return Places(tmp_path / "notebooks", tmp_path / "profiles", tmp_path, tmp_path / "package")


@pytest.mark.parametrize(("arguments", "code", "text"), [
    ([], 0, "usage: deeplrhe"), (["rum"], 2, "invalid choice"), (["run"], 2, "PROFILE"),
    (["run", "dmo"], 2, "Did you mean demo?"), (["run", "demo", "-p", "sed=1"], 2, "Did you mean seed?"),
    (["run", "demo", "--list"], 0, "seed: int = 1  [none] the seed"),
])  # fmt: skip
def test_exit_codes(where, capsys, arguments, code, text):
    assert main(arguments, where) == code
    captured = capsys.readouterr()
    assert text in captured.out + captured.err and "Traceback" not in captured.err


def test_the_command_line_starts_without_heavy_libraries_and_doctor_marks_what_is_short():
    code = "import sys, deeplrhe_utils.running.commands.cli, deeplrhe_utils.running.stage.record; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "openslide", "papermill", "pandas", "matplotlib", "distributed"} & set(loaded)
    profile = Profile("p", "t", "tiles", expect={"memory_gb": 2, "disk_gb": 1, "seconds": 120, "gpu": "recommended"})
    text = doctor.needs(profile, {"memory_gb": 8.0, "disk_gb": 0.5, "gpu": None})
    assert text == "memory 2 GB ok, disk 1 GB SHORT (0.5 GB), about 2 min, GPU recommended SHORT (none)"


def test_private_folders_leave_texts_but_similar_names_stay(tmp_path):
    repository = tmp_path / "repo"
    tidy = path_cleaner(repository / "reports" / "demo", repository)
    assert tidy(f"{repository}/data/x.csv in {repository}.") == "data/x.csv in <repository>."
    assert tidy(f"\x1b[32m{repository}/a.py\x1b[0m") == "\x1b[32ma.py\x1b[0m"
    assert tidy(f"'{repository}/reports/demo/tables'") == "'reports/demo/tables'"
    assert tidy(f"{repository}-2/a {repository}.bak") == f"{repository}-2/a {repository}.bak"


@pytest.fixture
def slides(tmp_path):
    folder = tmp_path / "slides"
    (folder / "sub folder ü").mkdir(parents=True)
    write_svs(folder / "good 20.svs", mpp="0.5", power="20")
    write_svs(folder / "sub folder ü" / "good 40.svs", mpp="0.2527", power="40", levels=((310, 200),))
    write_svs(folder / "doubt 😀.svs", mpp="0.5", power="40", levels=((320, 200),))
    (folder / "notes.txt").write_text("a sidecar")
    return folder


def test_doctor_tells_the_resolution_of_every_slide_of_a_folder(slides, capsys):
    assert main(["doctor", str(slides), "--no-stain-check"]) == 0
    table, summary = capsys.readouterr().out.split("\n\n")
    head, *rows = table.splitlines()
    assert head.split() == ["slide", "vendor", "size", "levels", "reader", "mpp", "source", "objective", "verdict"]
    assert [row.split("  ")[0] for row in rows] == ["doubt 😀.svs", "good 20.svs", "sub folder ü/good 40.svs"]
    starts = {sum(1 + (unicodedata.east_asian_width(c) == "W") for c in row[: row.index("aperio")]) for row in rows}
    assert starts == {head.index("vendor")}
    assert "NOTE: openslide.objective-power: 40×" in rows[0] and rows[1].endswith("fine") and rows[2].endswith("fine")
    counts = "3 files: 2 fine, 1 with contradictions, 0 without resolution, 0 that cannot be read, 0 not H&E.\n"
    assert summary.startswith(counts)
    assert "Mixed resolutions (0.253 to 0.5 µm/px): 1 at 40×, 2 at 20×." in summary


def test_doctor_offers_an_estimate_but_fills_in_nothing(slides, capsys, tmp_path):
    Image.fromarray(nuclei(700, 20, 200)).save(slides / "field, 1.png")
    assert main(["doctor", str(slides), "--csv", str(tmp_path / "out.csv")]) == 1
    out = capsys.readouterr().out
    assert "NO RESOLUTION: the file tells none; estimate 0.2" in out and "give it in mpp_csv if you believe it" in out
    assert out.endswith('slide_id,mpp\n"field, 1",\n')
    table = pd.read_csv(tmp_path / "out.csv").set_index("slide_id")
    assert table.loc["field, 1", ["mpp", "mpp_source"]].isna().all() and table["mpp"].notna().sum() == 3
    assert table.loc["field, 1", "estimated_low"] < table.loc["field, 1", "estimated_mpp"] < 0.4
    assert table["path"].map(lambda p: p.startswith(str(slides))).all()
    assert main(["doctor", str(slides), "--no-estimate"]) == 1
    assert "NO RESOLUTION: the file tells none\n" in (out := capsys.readouterr().out) and "estimate" not in out


def test_doctor_takes_the_skeleton_back_when_it_is_filled(slides, capsys, tmp_path):
    Image.fromarray(nuclei(700, 20, 200)).save(slides / "field, 1.png")
    main(["doctor", str(slides), "--no-estimate"])
    skeleton = capsys.readouterr().out.partition("slide_id,mpp\n")[2]
    (tmp_path / "mpp.csv").write_text("slide_id,mpp\n" + skeleton.replace('",', '",0.25') + "good 20,0.25\nnobody,1\n")
    assert main(["doctor", str(slides), "--mpp-csv", str(tmp_path / "mpp.csv"), "--no-stain-check"]) == 0
    out = capsys.readouterr().out
    assert "4 files: 2 fine, 2 with contradictions" in out and "not here: nobody" in out
    assert any("override" in line and "but 0.25 µm/px is used" in line for line in out.splitlines())


@pytest.mark.parametrize(("arguments", "code", "text"), [
    (["nowhere.svs"], 2, "nowhere.svs is not there"), (["--no-estimate"], 2, "are about slides"),
    (["{slides}", "--mpp-csv", "nowhere.csv"], 2, "nowhere.csv is not there"),
    (["{slides}", "--mpp-csv", "{slides}/notes.txt"], 1, "a header and no rows"),
    (["{slides}/empty"], 1, "There are no slides"),
    (["{slides}/good 20.svs", "{slides}/good 20.svs"], 0, "1 file: 1 fine"),
    (["{slides}", "{slides}/good 20.svs"], 0, "3 files"), (["{slides}/notes.txt"], 1, "neither a slide"),
])  # fmt: skip
def test_doctor_says_what_is_wrong_with_the_command(slides, capsys, arguments, code, text):
    (slides / "empty").mkdir()
    assert main(["doctor", "--no-stain-check", *(a.format(slides=slides) for a in arguments)]) == code
    captured = capsys.readouterr()
    assert text in captured.out + captured.err and "Traceback" not in captured.err


@pytest.mark.parametrize("words", [["--help"], ["score", "--help"], ["run", "smoke", "--list"], ["doctor"]])
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437"])
def test_a_terminal_without_our_characters_stops_nothing(words, encoding):
    command = [sys.executable, "-m", "deeplrhe_utils", *words]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False)
    assert done.returncode == 0 and b"Error" not in done.stderr and done.stdout


def test_lines_of_progress_do_not_stay_in_an_executed_notebook(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("work()"), nbformat.v4.new_code_cell("more()")])
    text = "fold 0: steps of training: 3/9, about 8 s left\nloss 0.3\nslides: 9/9\nreached: 8/9\n"
    book.cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    book.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="tiles described: 4/4\n")]
    nbformat.write(book, tmp_path / "partial.ipynb")
    done = nbformat.read(clean_executed(tmp_path / "partial.ipynb", tmp_path / "a.ipynb", tmp_path, tmp_path), 4)
    assert done.cells[0].outputs[0].text == "loss 0.3\nreached: 8/9\n" and not done.cells[1].outputs
