"""Tables inside README files are rendered from data, and are up to date."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import tempfile
from pathlib import Path

import pytest

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.paths import REFERENCE_DATA, REPORTS, REPOSITORY
from deeplrhe_utils.core.tables.schemas import TABLES
from deeplrhe_utils.core.tables.truth import TRUTH_TABLES
from deeplrhe_utils.running.stage.story import story

_SPEC = importlib.util.spec_from_file_location("readme", REPOSITORY / ".ci" / "readme.py")
readme = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(readme)
DOCUMENTS, REPORTED, RESULTS, refreshed = readme.DOCUMENTS, readme.REPORTED, readme.RESULTS, readme.refreshed

HEADER = "gene,n_pos,n_neg,status,auc,ci_low,ci_high,ci_method,p,reason,p_holm,data\n"
TP53 = "TP53,80,79,estimated,0.8765,0.8123,0.9214,DeLong,0.00001,,0.00008,SYNTHETIC\n"
PBRM1 = "PBRM1,2,150,not estimable,,,,none,,2 positive patients,,SYNTHETIC\n"


@pytest.fixture
def auc_csv(tmp_path: Path) -> Path:
    path = tmp_path / "auc_table.csv"
    path.write_text(HEADER + TP53 + PBRM1, encoding="utf-8")
    return path


def test_what_runs_show_of_real_patients_is_the_committed_report():
    for name in ("real_arms.csv", "image_beyond_clinical.csv"):
        assert (REFERENCE_DATA / name).read_bytes() == (REPORTS / "tcga-features" / "tables" / name).read_bytes()


def test_real_patients_are_told_where_an_arm_an_interval_or_a_group_is_missing(tmp_path):
    """As a run without a clinical record, or of one diagnosis, leaves them."""
    (tmp_path / "without_a_slide.csv").write_text("gene,auc,ci_low,ci_high\nTP53,0.669,0.639,0.697\n")
    rows = "TP53,both diagnoses,image,0.709,0.665,0.749\nTP53,adenocarcinoma,clinical,0.5,,\n"
    (tmp_path / "real_arms.csv").write_text("gene,patients,arm,auc,ci_low,ci_high\n" + rows)
    text = readme.real_table(tmp_path, REPORTED)
    assert "| TP53 | 0.87 | 0.67 [0.64, 0.70] | 0.71 [0.67, 0.75] | – | – | – | – |" in text


def test_results_are_labelled_synthetic_and_rounded(auc_csv):
    lines = readme.results_table(auc_csv).splitlines()
    assert lines[0] == "| SYNTHETIC | TP53 | PBRM1 |" and lines[2] == "| AUC, 95 % interval | 0.88 [0.81, 0.92] | – |"
    assert lines[3:] == ["| mutated / wild type | 80 / 79 | 2 / 150 |", "| p (Holm) | < 0.001 | – |"]


def test_findings_are_told_by_part_and_the_readme_stays_short():
    said = {"findings": {"claims": "Of 24 statements 4 are <contradicted>."}}
    with tempfile.TemporaryDirectory(dir=REPORTS) as folder:
        (Path(folder) / "numbers").mkdir()
        assert "make reproduce" in readme.told(Path(folder)) and "make reproduce" in readme.hero(Path(folder))
        (Path(folder) / "numbers" / "14-claims-ledger.json").write_text(json.dumps(said))
        book = f"reports/{Path(folder).name}/notebooks/14-claims-ledger.ipynb"
        line = f"- *What is claimed.* Of 24 statements 4 are \\<contradicted\\>. [14]({book})"
        assert readme.told(Path(folder)) == line
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 110


def test_real_results_are_never_labelled_synthetic(auc_csv):
    auc_csv.write_text(HEADER + TP53 + PBRM1.replace("SYNTHETIC", "real"), encoding="utf-8")
    with pytest.raises(InputError, match=r"not synthetic.*Got: real"):
        readme.results_table(auc_csv)


def test_without_a_run_the_table_says_how_to_make_one(tmp_path):
    assert "make reproduce" in readme.results_table(tmp_path / "none.csv")


@pytest.mark.parametrize(("text", "word"), [("", "is empty"), (HEADER, "is empty"), ("gene\nTP53\n", "lacks auc")])
def test_a_damaged_table_is_an_error(auc_csv, text, word):
    auc_csv.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=word):
        readme.results_table(auc_csv)


def test_the_tour_tells_what_the_committed_demo_found():
    with (REFERENCE_DATA / "findings.csv").open(encoding="utf-8", newline="") as stream:
        told = [(row["stage"], row["name"], row["sentence"]) for row in csv.DictReader(stream)]
    assert told == [(one.stage, one.name, one.sentence) for one in story(REPORTS / "demo")] and len(told) == 10
    picture = REPORTS / "demo" / "figures" / "side_by_side.png"
    assert (REPOSITORY / "docs" / "figures" / picture.name).read_bytes() == picture.read_bytes()


def test_blocks_are_replaced_and_nothing_else(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("a\n\n<!-- dictionary:begin -->\nnot rendered\n<!-- dictionary:end -->\n\nb\n", encoding="utf-8")
    assert readme.refresh(path) and not readme.refresh(path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("a\n\n<!-- dictionary:begin -->\n") and text.endswith("<!-- dictionary:end -->\n\nb\n")
    assert "not rendered" not in text


@pytest.mark.parametrize(
    ("text", "word"), [("<!-- x:begin -->\n", "nobody renders"), ("<!-- dictionary:begin -->\n", "has no end")]
)
def test_a_broken_block_is_an_error(text, word):
    with pytest.raises(InputError, match=word):
        readme.render(text, {"dictionary": lambda: "t"}, "README.md")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_documents_are_up_to_date(path, tmp_path):
    """With the results of now, or with the committed ones: another machine's demo differs in last digits."""
    if "<!-- results:begin -->" in path.read_text(encoding="utf-8") and not RESULTS.is_file():
        pytest.skip("reports/demo has not been made yet: run `make reproduce`, then `make docs`")
    committed = tmp_path / "auc_table.csv"
    committed.write_bytes(_staged(RESULTS) or RESULTS.read_bytes() if RESULTS.is_file() else b"")
    allowed = {refreshed(path), refreshed(path, results=committed)} if RESULTS.is_file() else {refreshed(path)}
    assert path.read_text(encoding="utf-8") in allowed, f"{path.name} is out of date: run `make docs`"


def _staged(path: Path) -> bytes:
    """The file as git has it, or nothing."""
    name = path.relative_to(REPOSITORY).as_posix()
    try:
        done = subprocess.run(["git", "show", f":{name}"], cwd=REPOSITORY, capture_output=True, check=False, timeout=30)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def test_the_dictionary_lists_every_column():
    text = readme.dictionary()
    assert all(f"| {c.name} |" in text for t in (*TABLES.values(), *TRUTH_TABLES.values()) for c in t.columns)
