"""Documents and crate of a run: filled from its numbers, honest about what it lacks, readable by RO-Crate's library."""

import csv
import json
import re
from pathlib import Path

import pytest

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.core.paths import PROFILES, REFERENCE_DATA, REPOSITORY
from deeplrhe_utils.evaluation.audits.claims import Numbers, read_numbers
from deeplrhe_utils.running.page.closing import close_run
from deeplrhe_utils.running.page.documents import STATUSES, UNKNOWN, fill, write_documents
from deeplrhe_utils.running.plan.profiles import load_profile

REPORT = {"title": "A <run>", "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T01:00:00+00:00",
          "status": "finished", "command": "run smoke", "package_version": "0", "git": {"commit": "abc"},
          "stages": {}}  # fmt: skip
FOLDER = REFERENCE_DATA / "documents"
ITEMS = {
    "claim": [str(i) for i in range(1, 45)],
    "probast-ai": [f"{part}{domain}.{question}" for part, sizes in (("D", (3, 4, 4, 5)), ("E", (3, 4, 4, 7)))
                   for domain, size in enumerate(sizes, start=1) for question in range(1, size + 1)],
    "reforms": [f"{module}{'abcdefg'[i]}" for module, size in enumerate((3, 5, 7, 3, 6, 3, 3, 2), start=1)
                for i in range(size)],
    "stard-ai": [f"{i}{part}" for i in range(1, 41)
                 for part in {15: "abcd", 16: "abc", 17: "ab", 26: "ab", 40: "ab"}.get(i, [""])],
    "tripod-ai": [str(i) for i in range(1, 28)],
}  # fmt: skip


def checklist(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


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
    assert [f.stem for f in files] == ["README", *sorted([*ITEMS, "datasheet", "model-card"])]
    for file in files:
        if file.stem == "README":
            continue  # which speaks of what is not in a run
        text = file.read_text()
        rows = text.partition("| Item |")[2] if file.stem in ITEMS else text
        assert "SYNTHETIC" in text.splitlines()[2] and "{" not in text and UNKNOWN not in rows.lower(), file


def test_every_item_of_every_checklist_is_asked_and_answered():
    for name, items in ITEMS.items():
        rows = checklist(name)
        assert [row["item"] for row in rows] == items, name
        for row in rows:
            assert all(row.values()) and row["status"] in STATUSES, row
            begins = {"no": ("No: ", "Partly: "), "not applicable": "Not applicable, because ", "yes": ""}
            assert row["answer"].startswith(begins[row["status"]]), row
            assert row["status"] != "yes" or not row["answer"].startswith(("No:", "Partly:", "Not ap")), row


def adherence(folder: Path) -> dict[str, list[int]]:
    """Counts of yes, no and not applicable that README.md states, and that each checklist states of itself."""
    lines = (folder / "documents" / "README.md").read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| [")]
    counts = {re.search(r"\((.+)\.md\)", one)[1]: list(map(int, numbers)) for one, *numbers, _, _ in cells}
    for name, (yes, no, other) in counts.items():
        text = (folder / "documents" / f"{name}.md").read_text()
        assert f"apply: {yes} of {yes + no} (" in text and f"No: {no}," in text and f"not applicable: {other}." in text
    return counts


def test_adherence_is_counted_and_a_run_without_its_numbers_loses_it(tmp_path):
    """Every place is there, and every number asked for; then the numbers of notebook 06 are lost, then the places."""
    asked = re.findall(r"\{(\d\d):([\w.]+)\}", "".join((FOLDER / f"{name}.csv").read_text() for name in ITEMS))
    known = {f"{stage}-x": {} for stage, _ in asked}
    for stage, name in asked:
        *path, last = name.split(".")
        place = known[f"{stage}-x"]
        for part in path:
            place = place.setdefault(part, {})
        place[last] = 1
    for row in (row for name in ITEMS for row in checklist(name)):
        for place in re.findall(r"\b(?:notebooks|tables|numbers|models|figures)/[\w.-]*|\b\d\d-[\w-]+", row["where"]):
            file = tmp_path / (f"notebooks/{place}.ipynb" if place[:2].isdigit() else place)
            file.parent.mkdir(parents=True, exist_ok=True)
            if not place.endswith("/"):
                file.touch()
    write_documents(FOLDER, Numbers(known), tmp_path, synthetic=False)
    whole = adherence(tmp_path)
    assert whole == {name: [sum(row["status"] == s for row in checklist(name)) for s in STATUSES] for name in ITEMS}
    lost = {stage: values for stage, values in known.items() if stage != "06-x"}
    write_documents(FOLDER, Numbers(lost), tmp_path, synthetic=True)
    less = adherence(tmp_path)
    (tmp_path / "nothing").mkdir()
    write_documents(FOLDER, Numbers(lost), tmp_path / "nothing", synthetic=False)
    least = adherence(tmp_path / "nothing")
    for name, items in ITEMS.items():
        assert least[name][0] < less[name][0] < whole[name][0], name
        assert {sum(counts[name]) for counts in (whole, less, least)} == {len(items)}
        assert least[name][2] == whole[name][2], "what does not apply never applied"
    assert "SYNTHETIC" in (tmp_path / "documents" / "README.md").read_text().splitlines()[2]
    text = (tmp_path / "documents" / "README.md").read_text()
    (row,) = [line for line in text.splitlines() if "51.4" in line and line.startswith("| ")]
    assert "(claim.md)" in row and "51.4" not in row.split(" | ")[4] and "10.1111/jebm.70141" in text


def test_a_no_marks_its_domain_of_probast(tmp_path):
    write_documents(FOLDER, Numbers({"01-x": {"input_kind": "synthetic"}}), tmp_path, synthetic=True)
    text = (tmp_path / "documents" / "probast-ai.md").read_text()
    told = re.search(r"quality: (.*); high risk of bias: (.*) \(1", text)
    marked = {row.split(" | ")[0].strip("| ")[:2] for row in text.splitlines() if " | no | " in row}
    assert {*told[1].split(", "), *told[2].split(", ")} == marked and {"D1", "E1", "D4", "E4"} <= marked


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
    rows = [row for row in rows if len(row) == 5]
    for *_, where in rows:
        named = [one.strip(" |") for one in where.split(",")]
        assert all((tmp_path / f"{n}.ipynb").exists() for n in named if n.startswith(("notebooks/0", "notebooks/1")))
        assert not any(n.startswith(("tables/", "models/")) and n != "tables/" for n in named)
    assert sum(answer == "Not in this run" for *_, answer, _ in rows) > 30


def test_a_checklist_of_other_columns_is_refused(tmp_path):
    (tmp_path / "claim.csv").write_text("item,asks\n1,x\n")
    with pytest.raises(InputError, match="is no checklist"):
        write_documents(tmp_path, Numbers({}), tmp_path / "out", synthetic=False)
    (tmp_path / "claim.csv").write_text("item,asks,answer,where,status\n1,x,y,z,perhaps\n")
    with pytest.raises(InputError, match="perhaps"):
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
                *(f"documents/{n}.md" for n in ("README", "datasheet", "model-card", *ITEMS))}  # fmt: skip
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
