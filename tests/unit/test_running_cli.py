"""The command line: exit codes, help, lists; and it starts fast."""

import subprocess
import sys

import nbformat
import pytest

from deeplrhe_utils.running import doctor
from deeplrhe_utils.running.cli import main
from deeplrhe_utils.running.notebooks import path_cleaner
from deeplrhe_utils.running.pipeline import Places
from deeplrhe_utils.running.profiles import Profile


@pytest.fixture
def where(tmp_path):
    for name in ("notebooks", "profiles", "package"):
        (tmp_path / name).mkdir()
    cell = nbformat.v4.new_code_cell("seed: int = 1  # [none] the seed", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "notebooks" / "01-data.ipynb")
    (tmp_path / "profiles" / "demo.yml").write_text("title: T\ninput: tiles\n")
    (tmp_path / "profiles" / "later.yml").write_text("title: T\ninput: tiles\nmissing: the real data\n")
    return Places(tmp_path / "notebooks", tmp_path / "profiles", tmp_path, tmp_path / "package")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 0, "usage: deeplrhe"),
        (["rum"], 2, "invalid choice"),
        (["run"], 2, "PROFILE"),
        (["run", "dmo"], 2, "Did you mean demo?"),
        (["run", "demo", "-p", "sed=1"], 2, "Did you mean seed?"),
        (["run", "demo", "--list"], 0, "seed: int = 1  [none] the seed"),
        (["run", "later"], 1, "the real data"),
        (["run", "later", "--list"], 0, "Not available yet: the real data"),
    ],
)
def test_exit_codes(where, capsys, arguments, code, text):
    assert main(arguments, where) == code
    captured = capsys.readouterr()
    assert text in captured.out + captured.err and "Traceback" not in captured.err


def test_the_command_line_starts_without_heavy_libraries():
    code = "import sys, deeplrhe_utils.running.cli, deeplrhe_utils.running.record; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "openslide", "papermill", "nbconvert", "pandas", "matplotlib", "distributed"} & set(loaded)


def test_doctor_marks_what_is_short():
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
