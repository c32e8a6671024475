"""Documents and crate of a run: filled from its numbers, honest about what it lacks, readable by RO-Crate's library."""

import json

import pytest

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.core.paths import PROFILES, REFERENCE_DATA, REPOSITORY
from deeplrhe_utils.evaluation.audits.claims import Numbers, read_numbers
from deeplrhe_utils.running.page.closing import close_run
from deeplrhe_utils.running.page.documents import UNKNOWN, fill, write_documents
from deeplrhe_utils.running.plan.profiles import load_profile

REPORT = {"title": "A <run>", "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T01:00:00+00:00",
          "status": "finished", "command": "run smoke", "package_version": "0", "git": {"commit": "abc"},
          "stages": {}}  # fmt: skip


def test_numbers_are_filled_in_and_gaps_are_said():
    numbers = Numbers(
        {"06-roc-analysis": {"n_patients": 1234, "not_estimable": ["POLE", "KRAS"], "auc": {"TP53": 0.8}}}
    )
    text = "{06:n_patients} patients; {06:not_estimable}; {06:auc.TP53}; {07:gene}; {braces} stay"
    assert fill(text, numbers) == f"1,234 patients; POLE, KRAS; 0.8; {UNKNOWN}; {{braces}} stay"
    assert numbers.asked[0] == "numbers/06-roc-analysis.json#n_patients"


def test_no_name_is_markdown_in_a_document(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "card.md").write_text("# Card\n| {01:genes} |\n")
    genes = ["TP53", "<b>", r"\<i>", "[a](javascript:b)", "a|b\n\u202e", "`$x$`", "_a_ *b*"]
    names = Numbers({"01-data-acquisition": {"genes": genes}})
    (file,) = write_documents(tmp_path / "in", names, tmp_path, synthetic=False)
    shown = r"| TP53, \<b\>, \\\\\<i\>, \[a\](javascript:b), a\|b\\n\\u202e, \`\$x\$\`, \_a\_ \*b\* |"
    assert file.read_text().splitlines()[-1] == shown


def test_every_document_of_the_committed_demo_is_filled(tmp_path):
    numbers = REPOSITORY / "reports" / "demo" / "numbers"
    if not numbers.is_dir():
        pytest.skip("reports/demo has not been made: run `make reproduce`")
    for name in ("notebooks", "tables", "numbers", "models"):
        (tmp_path / name).symlink_to(numbers.with_name(name))
    files = write_documents(REFERENCE_DATA / "documents", read_numbers(numbers), tmp_path, synthetic=True)
    assert [f.stem for f in files] == ["claim", "datasheet", "model-card", "tripod-ai"]
    for file in files:
        text = file.read_text()
        assert "SYNTHETIC" in text.splitlines()[2] and "{" not in text and UNKNOWN not in text.lower(), file
    rows = [line for line in files[3].read_text().splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in rows[1:]] == [str(i) for i in range(1, 28)]
    rows = [line for line in files[0].read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 44


def test_documents_tell_the_run_that_was(tmp_path):
    """A given network and no labels: nothing of training or AUCs, and no place that is not there."""
    warning = "The network learned on SYNTHETIC tissue."
    numbers = Numbers(
        {"01-x": {"input_kind": "slides"}, "07-x": {"given_model": "m", "networks": ["N"], "warning": warning}}
    )
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "02-tiling.ipynb").touch()
    texts = {f.stem: f.read_text() for f in write_documents(REFERENCE_DATA / "documents", numbers, tmp_path, False)}
    assert all(text.splitlines()[2] == f"*{warning}*" for text in texts.values())
    card = texts["model-card"]
    assert "given to this run, not trained in it: `m`. N." in card and "Not judged here" in card
    assert not any(word in card for word in ("epochs", "AUC", "folds", UNKNOWN))
    rows = [
        line.split(" | ") for name in ("claim", "tripod-ai") for line in texts[name].splitlines() if line[:3] != "| I"
    ]
    rows = [row for row in rows if len(row) == 4]
    for *_, where in rows:
        named = [one.strip(" |") for one in where.split(",")]
        assert all((tmp_path / f"{n}.ipynb").exists() for n in named if n.startswith(("notebooks/0", "notebooks/1")))
        assert not any(n.startswith(("tables/", "models/")) and n != "tables/" for n in named)
    assert sum(answer == "Not in this run" for _, _, answer, _ in rows) > 30


def test_a_checklist_of_other_columns_is_refused(tmp_path):
    (tmp_path / "claim.csv").write_text("item,asks\n1,x\n")
    with pytest.raises(InputError, match="is no checklist"):
        write_documents(tmp_path, Numbers({}), tmp_path / "out", synthetic=False)
    with pytest.raises(InputError, match="holds no document"):
        write_documents(tmp_path / "nothing", Numbers({}), tmp_path / "out", synthetic=False)


def test_the_crate_lists_every_file_with_its_hash_and_is_read_back(tmp_path):
    for name, text in (
        ("numbers/06-roc-analysis.json", '{"n_patients": 3}'),
        ("figures/a b.png", "x"),
        ("work/big", "y"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "run.json").write_text("{}")
    page = close_run(tmp_path, load_profile("smoke", PROFILES), REPORT)
    assert "documents/model-card.md" in page.read_text() and "A &lt;run&gt;" not in page.read_text()
    library = pytest.importorskip("rocrate.rocrate", reason="the library that reads crates is the extra `oracles`")
    crate = library.ROCrate(tmp_path)
    files = {e.id: e for e in crate.get_entities() if e.type == "File"}
    expected = {"numbers/06-roc-analysis.json", "figures/a%20b.png", "run.json", "index.html",
                *(f"documents/{n}.md" for n in ("claim", "datasheet", "model-card", "tripod-ai"))}  # fmt: skip
    assert set(files) == expected
    assert files["index.html"]["sha256"] == sha256_file(page)
    run = next(e for e in crate.get_entities() if e.type == "CreateAction")
    assert {r.id for r in run["result"]} == expected and run["name"] == "run smoke"
    graph = json.loads((tmp_path / "ro-crate-metadata.json").read_text())["@graph"]
    assert str(tmp_path) not in json.dumps(graph), "no machine path"


def test_a_run_without_numbers_gets_a_page_and_no_documents(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    close_run(tmp_path, load_profile("smoke", PROFILES), REPORT)
    assert not (tmp_path / "documents").exists() and (tmp_path / "index.html").is_file()
