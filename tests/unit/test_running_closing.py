"""Documents, crate and CODECHECK file of a run: filled from its numbers, honest, and judged by others' rules."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.core.paths import PROFILES, REFERENCE_DATA, REPOSITORY
from deeplrhe_utils.evaluation.audits.claims import Numbers, read_numbers
from deeplrhe_utils.running.page import closing
from deeplrhe_utils.running.page.closing import close_run, write_codecheck, write_crate
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


@pytest.fixture
def ended(tmp_path):
    """A run folder with a finished, a failed and a skipped notebook, closed; and what ``run.json`` says of it."""
    values = {"seed": 1, "genes": ["TP53", "EGFR"], "rates": [0.5], "none": [], "held": True, "labels_csv": "l.csv"}
    outputs = dict.fromkeys(("figures/a b.png", "numbers/06-roc-analysis.json", "work/big"), "0" * 64)
    report = REPORT | {"status": "failed", "versions": {"numpy": "2.0"}, "stages": {
        "06-roc-analysis": {"status": "finished", "seconds": 90.5, "finished": "2026-01-01T00:10:00+00:00",
                            "commit": "abc+", "parameters": values, "inputs": {"labels_csv": ["", 3, 4]},
                            "outputs": outputs},
        "07-heat-maps": {"status": "failed", "seconds": 2.0, "finished": "2026-01-01T00:12:00+00:00",
                         "reason": "ValueError: no", "parameters": {}, "inputs": {}},
        "08-planted-truth": {"status": "skipped", "reason": "no truth", "parameters": {}},
        "14-claims-ledger": {"status": "waiting", "parameters": {}},
    }}  # fmt: skip
    ledger = [
        "\ufeffid,verdict,traced_to",
        "C01,compatible,numbers/06-roc-analysis.json#n_patients; numbers/00.json#x",
        "C02,needs TCGA,not in this run",
    ]
    for name, text in (
        ("numbers/06-roc-analysis.json", '{"n_patients": 3, "findings": {"a b": "It is ≥ 3: all.", "lost": "No."}}'),
        ("tables/claims.csv", "\n".join(ledger)),
        ("figures/a b.png", "x"),
        ("notebooks/06-roc-analysis.ipynb", "{}"),
        ("notebooks/07-heat-maps.ipynb", "of before"),
        ("work/big", "y"),
        ("run.json", "{}"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    close_run(tmp_path, load_profile("smoke", PROFILES), report)
    return tmp_path, report


def graph_of(root):
    return {e["@id"]: e for e in json.loads((root / "ro-crate-metadata.json").read_text(encoding="utf-8"))["@graph"]}


def test_the_crate_lists_every_file_with_its_hash_and_is_read_back(ended):
    root, _ = ended
    page = (root / "index.html").read_text(encoding="utf-8")
    assert "documents/model-card.md" in page and "A &lt;run&gt;" not in page
    library = pytest.importorskip("rocrate.rocrate", reason="the library that reads crates is the extra `oracles`")
    crate = library.ROCrate(root)
    files = {e.id: e for e in crate.get_entities() if e.type == "File"}
    expected = {"numbers/06-roc-analysis.json", "figures/a%20b.png", "run.json", "index.html", "codecheck.yml",
                "tables/claims.csv", "notebooks/06-roc-analysis.ipynb", "notebooks/07-heat-maps.ipynb",
                *(f"documents/{n}.md" for n in ("README", "datasheet", "model-card", *ITEMS))}  # fmt: skip
    assert {name for name in files if not name.startswith("page/")} == expected
    assert files["index.html"]["sha256"] == sha256_file(root / "index.html")
    assert files["figures/a%20b.png"]["description"] == "Notebook 06: It is ≥ 3: all."
    run = next(e for e in crate.get_entities() if e.id == "#run")
    assert {r.id for r in run["result"]} == set(files) and run["name"] == "run smoke"
    assert str(root) not in json.dumps(graph_of(root)), "no machine path"


def test_every_notebook_at_work_is_an_action_with_parameters_files_and_times(ended):
    graph = graph_of(ended[0])
    steps = {name.removeprefix("#run-"): e for name, e in graph.items() if name.startswith("#run-")}
    assert set(steps) == {"06-roc-analysis", "07-heat-maps"}, "skipped and waiting ones were not at work"
    assert graph["./"]["mentions"] == [{"@id": name} for name in ("#run", *(f"#run-{name}" for name in steps))]
    done, failed = steps.values()
    assert (done["startTime"], done["endTime"]) == ("2026-01-01T00:08:29+00:00", "2026-01-01T00:10:00+00:00")
    assert done["description"] == "finished; 3 files on record, 2 of them here", "work/ is not in the crate"
    results = [one["@id"] for one in done["result"]]
    assert results == ["notebooks/06-roc-analysis.ipynb", "figures/a%20b.png", "numbers/06-roc-analysis.json"]
    assert all(len(graph[name]["sha256"]) == 64 for name in results)
    values = {graph[one["@id"]]["name"]: graph[one["@id"]] for one in done["object"]}
    assert {name: one["value"] for name, one in values.items()} == {
        "seed": 1, "genes": ["TP53", "EGFR"], "rates": 0.5, "none": [], "held": True, "labels_csv": "l.csv"
    }  # fmt: skip
    slots = {name: graph[one["exampleOfWork"]["@id"]] for name, one in values.items()}
    kinds = {name: (slot["additionalType"], "multipleValues" in slot) for name, slot in slots.items()}
    assert kinds == {"seed": ("Integer", False), "genes": ("Text", True), "rates": ("Float", True),
                     "none": ("Text", True), "held": ("Boolean", False), "labels_csv": ("Text", False)}  # fmt: skip
    assert "3,\n  4" in values["labels_csv"]["description"]
    tool = graph[done["instrument"]["@id"]]
    assert (
        tool["version"] == "0+abc+"
        and graph["#deeplrhe"]["version"] == "0+abc"
        and {one["@id"] for one in tool["input"]} == {s["@id"] for s in slots.values()}
    )
    assert failed["actionStatus"].endswith("FailedActionStatus") and failed["error"] == "ValueError: no"
    assert failed["result"] == [] and failed["endTime"] == "2026-01-01T00:12:00+00:00"
    assert graph["#deeplrhe"]["softwareRequirements"] == ["numpy==2.0"]


CONTEXT = "https://w3id.org/ro/crate/1.3/context"


def judge(root, graph, cache):
    """What the validator holds against a crate: check → sentences; it asks its cache alone, never the network.

    In the cache is the context of RO-Crate 1.3 as the library rocrate ships it. The validator knows RO-Crate 1.3, and
    of Process Run Crate the version 0.5, whose rules build on RO-Crate 1.1: of that profile its own rules count. It
    need not check its own profiles.
    """
    services = pytest.importorskip("rocrate_validator.services", reason="it is in the extra `oracles`")
    sessions = pytest.importorskip("requests_cache", reason="the validator brings it")
    requests = pytest.importorskip("requests", reason="the validator brings it")
    urllib3 = pytest.importorskip("urllib3", reason="requests brings it")
    shipped = pytest.importorskip("rocrate", reason="it is in the extra `oracles`")

    class Shipped(requests.adapters.HTTPAdapter):
        def send(self, request, **_):
            assert request.url == CONTEXT
            body = (Path(shipped.__file__).parent / "data" / "ro-crate.jsonld").open("rb")
            kind = {"Content-Type": "application/ld+json"}
            return self.build_response(request, urllib3.HTTPResponse(body, kind, 200, preload_content=False))

    with sessions.CachedSession(str(cache), backend="sqlite", expire_after=-1) as session:
        session.mount("https://", Shipped())
        assert session.get(CONTEXT).json()["@id"] == CONTEXT
    (root / "ro-crate-metadata.json").write_text(json.dumps({"@context": CONTEXT, "@graph": graph}), encoding="utf-8")
    found = {}
    for profile, own in (("ro-crate-1.3", False), ("process-run-crate", True)):
        settings = services.ValidationSettings(
            rocrate_uri=str(root), profile_identifier=profile, requirement_severity="REQUIRED", offline=True,
            cache_path=cache, disable_inherited_profiles_issue_reporting=own, validate_profile_checks=False,
        )  # fmt: skip
        result = services.validate(settings)
        assert len(result.executed_checks) > 30
        for issue in result.get_issues():
            found.setdefault(issue.check.identifier, []).append(issue.message)
    return found


def test_the_validator_finds_nothing_and_finds_what_is_broken(ended, tmp_path_factory):
    root, _ = ended
    graph, cache = graph_of(root), tmp_path_factory.mktemp("cache") / "contexts"
    assert judge(root, list(graph.values()), cache) == {}
    (root / "run.json").unlink()
    del graph["#run-06-roc-analysis"]["instrument"], graph["#deeplrhe"]["version"]
    said = " ".join(text for texts in judge(root, list(graph.values()), cache).values() for text in texts)
    assert "instrument" in said and "`version`" in said and "run.json" in said


@pytest.mark.slow
def test_the_validator_finds_nothing_in_the_committed_demo(tmp_path):
    demo = REPOSITORY / "reports" / "demo"
    if not (demo / "run.json").is_file():
        pytest.skip("reports/demo has not been made: run `make reproduce`")
    shutil.copytree(demo, tmp_path / "demo")
    write_crate(tmp_path / "demo", json.loads((demo / "run.json").read_text(encoding="utf-8")), True)
    assert judge(tmp_path / "demo", list(graph_of(tmp_path / "demo").values()), tmp_path / "contexts") == {}


def broken_rules(file):
    """Rules of CODECHECK's specification 2.0 (codecheckers/register, rules-2.0.yml) that ``codecheck.yml`` breaks."""
    text = file.read_text(encoding="utf-8")
    told = yaml.safe_load(text)
    paper, files = told.get("paper", {}), [item.get("file", "") for item in told.get("manifest", [])]
    people = [*paper.get("authors", []), *told.get("codechecker", [])]
    orcids = [person["ORCID"] for person in people if "ORCID" in person]
    kept = {
        "CC-CFG-002": text.startswith("---\n"),
        "CC-CFG-003": file.name == "codecheck.yml",
        "CC-CFG-004": isinstance(told.get("manifest"), list),
        "CC-CFG-005": all(files),
        "CC-CFG-006": not any(re.search(r"^(/|~|[A-Za-z]:)|(^|/)\.\.(/|$)", name) for name in files),
        "CC-CFG-007": all(item.get("comment", "").strip() for item in told["manifest"]),
        "CC-CFG-008": bool(told.get("codechecker")),
        "CC-CFG-011": bool(told.get("report")),
        "CC-CFG-015": told.get("version") == "https://codecheck.org.uk/spec/config/2.0/",
        "CC-CFG-017": bool(paper.get("title", "").strip()),
        "CC-CFG-018": bool(paper.get("authors")),
        "CC-CFG-019": all(author.get("name", "").strip() for author in paper.get("authors", [])),
        "CC-CFG-020": all("ORCID" in author for author in paper.get("authors", [])),
        "CC-CFG-021": bool(paper.get("reference", "").strip()),
        "CC-CFG-022": not re.search(r"\.pdf($|[?#])", paper.get("reference", ""), re.I),
        "CC-CFG-023": not re.search(r"FIXME|TODO|XXXX|0000-0000-0000-0000", text, re.I),
        "CC-CFG-024": bool(told.get("summary")),
        "CC-CFG-025": bool(told.get("certificate")),
        "CC-CFG-027": bool(re.fullmatch(r"https?://\S+", paper.get("reference", ""))),
        "CC-MET-001": all(re.fullmatch(r"(\d{4}-){3}\d{3}[\dX]", orcid) for orcid in orcids),
        "CC-BUN-001": all((file.parent / name).is_file() for name in files),
    }
    return {rule for rule, holds in kept.items() if not holds}


BY_OTHERS = {"CC-CFG-008", "CC-CFG-011", "CC-CFG-024", "CC-CFG-025"}
"""What a codechecker adds."""
NO_ORCID = {"CC-CFG-020"}
"""Authors who have none in CITATION.cff are given none."""


def test_the_authors_part_of_a_codecheck_keeps_the_rules(ended):
    root, _ = ended
    told = yaml.safe_load((root / "codecheck.yml").read_text(encoding="utf-8"))
    assert broken_rules(root / "codecheck.yml") <= BY_OTHERS | NO_ORCID
    assert told["manifest"] == [
        {"file": "figures/a b.png", "comment": "Notebook 06: It is ≥ 3: all."},
        {"file": "numbers/06-roc-analysis.json", "comment": "Numbers behind the claims C01 (compatible)"},
    ]
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert told["paper"]["title"] == cited["title"] and told["repository"] == cited["repository-code"]
    assert "`run smoke` at commit abc. SYNTHETIC" in told["source"]


def test_a_codecheck_of_the_committed_demo_lists_what_it_claims(tmp_path):
    demo = REPOSITORY / "reports" / "demo"
    if not (demo / "run.json").is_file():
        pytest.skip("reports/demo has not been made: run `make reproduce`")
    shutil.copytree(demo, tmp_path / "demo")
    file = write_codecheck(tmp_path / "demo", json.loads((demo / "run.json").read_text(encoding="utf-8")), True)
    assert broken_rules(file) <= BY_OTHERS | NO_ORCID
    listed = {item["file"]: item["comment"] for item in yaml.safe_load(file.read_text(encoding="utf-8"))["manifest"]}
    assert "C01 (" in listed["numbers/12-power-and-precision.json"] and "figures/fig6_roc.png" in listed
    for name in [name for name in listed if name.startswith(("figures/", "tables/"))]:
        (tmp_path / "demo" / name).unlink()
    (tmp_path / "demo" / "tables" / "claims.csv").unlink(missing_ok=True)
    assert write_codecheck(tmp_path / "demo", REPORT, True) is None and not file.exists(), "nothing is left to check"


def test_authors_with_an_orcid_are_given_it_and_a_doi_is_the_reference(ended, monkeypatch):
    root, report = ended
    person = {"given-names": "Josiah", "family-names": "Carberry", "orcid": "https://orcid.org/0000-0002-1825-0097"}
    cited = {"title": "T", "authors": [person], "repository-code": "https://example.org/r", "doi": "10.5072/1"}
    (root / "CITATION.cff").write_text(yaml.safe_dump(cited), encoding="utf-8")
    monkeypatch.setattr(closing, "REPOSITORY", root)
    file = write_codecheck(root, report, False)
    assert broken_rules(file) == BY_OTHERS
    paper = yaml.safe_load(file.read_text(encoding="utf-8"))["paper"]
    assert paper["authors"] == [{"name": "Josiah Carberry", "ORCID": "0000-0002-1825-0097"}]
    assert paper["reference"] == "https://doi.org/10.5072/1"


@pytest.mark.parametrize("text", ["id,verdict\nC01,compatible\n", 'id,verdict,traced_to\n"C01\n'])
def test_a_damaged_ledger_is_named(ended, text):
    root, report = ended
    (root / "tables" / "claims.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="is no ledger of claims"):
        write_codecheck(root, report, True)


def test_a_run_without_numbers_gets_a_page_and_no_documents(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    close_run(tmp_path, load_profile("smoke", PROFILES), REPORT)
    assert not (tmp_path / "documents").exists() and (tmp_path / "index.html").is_file()
