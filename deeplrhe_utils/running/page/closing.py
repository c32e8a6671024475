"""What is written when a run ends: documents, page, crate and CODECHECK file, from the numbers and files there are."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import yaml

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import sha256_file, to_json, write_json, write_text
from deeplrhe_utils.core.paths import REFERENCE_DATA, REPOSITORY
from deeplrhe_utils.evaluation.audits.claims import read_numbers
from deeplrhe_utils.running.page.documents import write_documents
from deeplrhe_utils.running.page.page import write_page
from deeplrhe_utils.running.plan.profiles import Profile
from deeplrhe_utils.running.stage.state import CRATE
from deeplrhe_utils.running.stage.story import findings

CODECHECK: Final = "codecheck.yml"
FOLDERS: Final = ("figures", "heatmaps", "tables", "numbers", "notebooks", "models", "truth", "documents", "page")
_SINGLE: Final = ("run.json", "index.html", CODECHECK)
_VERSION: Final = "https://w3id.org/ro/crate/1.3"
_PROFILE: Final = "https://w3id.org/ro/wfrun/process/0.6"
_CODE: Final = "https://spdx.org/licenses/MIT"
_FIGURES: Final = "https://creativecommons.org/licenses/by/4.0/"
_KINDS: Final = {bool: "Boolean", int: "Integer", float: "Float"}
_MEDIA: Final = {
    ".csv": "text/csv", ".geojson": "application/geo+json", ".html": "text/html", ".ipynb": "application/x-ipynb+json",
    ".jpg": "image/jpeg", ".js": "text/javascript", ".json": "application/json", ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet", ".png": "image/png", ".svg": "image/svg+xml", ".tiff": "image/tiff",
    ".txt": "text/plain", ".yml": "application/yaml",
}  # fmt: skip
_CHECKED: Final = "https://codecheck.org.uk/spec/config/2.0/"
_TO_COME: Final = """\
# The authors' part, written by the run. The specification demands the ORCID of every author: where CITATION.cff has
# none, add it there before this is submitted. A codechecker adds: codechecker, report, summary, certificate.
"""


def write_crate(root: Path, report: dict[str, Any], synthetic: bool) -> Path:
    """Write ``ro-crate-metadata.json`` of a finished run folder; nothing is copied.

    Ours, because the one library for it is on PyPI alone and a run must work in conda and on Binder; a test reads the
    result back with that library, and another has it judged by the validator.

    Parameters
    ----------
    report : content of ``run.json``
    synthetic : said in the description

    Returns the file: RO-Crate 1.3, one entity per file that a run leaves, with its SHA-256; a CreateAction for the run
    and one for every notebook that was at work, with parameters, files and times. The profile is Process Run Crate 0.6:
    that of workflows wants a workflow file to be in the crate, and ours is a program. Who typed the command is not
    recorded, so no action has an agent. A notebook's files are those of its record that are in the crate.

    Source: the specification of RO-Crate 1.3, https://w3id.org/ro/crate/1.3, and https://w3id.org/ro/wfrun/process/0.6
    """
    found = (p for name in FOLDERS for p in (root / name).rglob("*") if p.is_file() and not p.name.startswith("."))
    paths = [*sorted(found), *(root / name for name in _SINGLE if (root / name).is_file())]
    said = _described(root)
    files = [_file(root, path, said) for path in paths]
    ours = {entity["name"] for entity in files}
    steps = [e for name, told in report["stages"].items() if "seconds" in told for e in _step(name, told, report, ours)]
    done = "Completed" if report["status"] == "finished" else "Failed"
    run = {"@id": "#run", "@type": "CreateAction", "name": report["command"], "description": report["title"],
           "instrument": {"@id": "#deeplrhe"}, "startTime": report["started"], "result": _links(files),
           "actionStatus": f"http://schema.org/{done}ActionStatus"}  # fmt: skip
    if report.get("finished"):
        run["endTime"] = report["finished"]
    actions = [run, *(entity for entity in steps if entity["@type"] == "CreateAction")]
    graph = [
        {"@id": CRATE, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": {"@id": _VERSION}},
        {"@id": "./", "@type": "Dataset", "name": report["title"], "license": {"@id": _FIGURES},
         "hasPart": _links(files), "mentions": _links(actions), "conformsTo": {"@id": _PROFILE},
         "description": ("SYNTHETIC data. " if synthetic else "") + "Results of the DeepLRHE compendium.",
         "datePublished": report.get("finished") or report["started"]},
        {"@id": _PROFILE, "@type": ["CreativeWork", "Profile"], "name": "Process Run Crate", "version": "0.6"},
        {"@id": "#deeplrhe", "@type": "SoftwareApplication", "name": "DeepLRHE compendium", "license": {"@id": _CODE},
         "url": _cited()["repository-code"], "version": _version(report),
         "softwareRequirements": [f"{name}=={number}" for name, number in report.get("versions", {}).items()]},
        {"@id": _FIGURES, "@type": "CreativeWork", "name": "Creative Commons Attribution 4.0 International",
         "description": "Text, figures and synthetic data may be shared and adapted when they are attributed."},
        {"@id": _CODE, "@type": "CreativeWork", "name": "MIT License", "description": "The code may be used freely."},
        run, *steps, *files,
    ]  # fmt: skip
    return write_json(root / CRATE, {"@context": f"{_VERSION}/context", "@graph": graph})


def _file(root: Path, path: Path, said: dict[str, str]) -> dict[str, Any]:
    name = path.relative_to(root).as_posix()
    known = {"encodingFormat": _MEDIA.get(path.suffix), "description": said.get(name)}
    return {"@id": quote(name), "@type": "File", "name": name, "contentSize": str(path.stat().st_size),
            "sha256": sha256_file(path), **{key: text for key, text in known.items() if text}}  # fmt: skip


def _links(entities: Iterable[dict[str, Any]]) -> Any:
    return _lone([{"@id": entity["@id"]} for entity in entities])


def _lone(values: list[Any]) -> Any:
    """A list, or its only item: the specification wants no list of one."""
    return values[0] if len(values) == 1 else values


def _version(report: dict[str, Any], commit: str = "") -> str:
    """Version and commit, by default that of the run; a "+" at the end says that files differed from it."""
    git = report["git"]
    return f"{report['package_version']}+{commit or (git.get('commit') or 'unknown') + '+' * bool(git.get('dirty'))}"


def _step(name: str, told: dict[str, Any], report: dict[str, Any], ours: set[str]) -> list[dict[str, Any]]:
    """One notebook as a tool, its parameters, their values, and the action that it was; files of `ours` are linked."""
    tool, copy, outputs = f"#{name}", f"notebooks/{name}.ipynb", told.get("outputs", {})
    slots, values = [], []
    for key, value in told["parameters"].items():
        many = isinstance(value, list)
        kind = _KINDS.get(type((value or [""])[0] if many else value), "Text")
        slot = {"@id": f"{tool}/{key}", "@type": "FormalParameter", "name": key, "additionalType": kind}
        slots.append(slot | {"multipleValues": "True"} if many else slot)
        one = {"@id": f"#value-{name}/{key}", "@type": "PropertyValue", "name": key,
               "value": _lone(value) if many else value,
               "exampleOfWork": {"@id": slot["@id"]}}  # fmt: skip
        if key in told.get("inputs", {}):
            one["description"] = f"Fingerprint of what lies there: {to_json(told['inputs'][key]).strip()}"
        values.append(one)
    there, done = sum(file in ours for file in outputs), "outputs" in told
    made = [file for file in (copy, *outputs) if done and file in ours]
    ended = told.get("finished") or report.get("finished")
    action = {"@id": f"#run-{name}", "@type": "CreateAction", "name": f"Notebook {name}", "instrument": {"@id": tool},
              "object": _links(values), "result": _lone([{"@id": quote(file)} for file in made]),
              "actionStatus": f"http://schema.org/{'Completed' if done else 'Failed'}ActionStatus",
              "description": f"{told['status']}; {len(outputs)} files on record, {there} of them here"}  # fmt: skip
    if ended:
        began = datetime.fromisoformat(ended) - timedelta(seconds=told["seconds"])
        action |= {"startTime": began.isoformat(timespec="seconds"), "endTime": ended}
    if not done:
        action["error"] = told.get("reason", "unknown")
    program = {"@id": tool, "@type": "SoftwareApplication", "name": f"Notebook {name}", "input": _links(slots),
               "version": _version(report, told.get("commit", "")),
               "softwareRequirements": {"@id": "#deeplrhe"}}  # fmt: skip
    return [program | {"url": {"@id": quote(copy)}} if copy in ours else program, *slots, action, *values]


def write_codecheck(root: Path, report: dict[str, Any], synthetic: bool) -> Path | None:
    """Write the authors' part of ``codecheck.yml`` of a run folder, or delete it where the run has nothing to check.

    The manifest lists what a codechecker must get again: the figures and tables that a finding describes, and the
    numbers that the claims ledger's verdicts rest on. Title, authors, ORCIDs and addresses are those of CITATION.cff.

    Parameters
    ----------
    report : content of ``run.json``
    synthetic : said in ``source``

    Raises InputError: the ledger, ``tables/claims.csv``, cannot be read.

    Source: CODECHECK configuration file specification 2.0, https://codecheck.org.uk/spec/config/2.0/
    """
    comments = _described(root)
    if not comments:
        (root / CODECHECK).unlink(missing_ok=True)
        return None
    cited, commit = _cited(), report["git"].get("commit") or "unknown"
    authors = []
    for one in cited["authors"]:
        author = {"name": one.get("name") or f"{one['given-names']} {one['family-names']}"}
        authors.append(author | ({"ORCID": one["orcid"].rpartition("/")[2]} if "orcid" in one else {}))
    reference = f"https://doi.org/{cited['doi']}" if "doi" in cited else cited["repository-code"]
    source = "SYNTHETIC slides, painted by notebook 01." if synthetic else "Inputs: their fingerprints are in run.json."
    content = {
        "version": _CHECKED,
        "paper": {"title": cited["title"], "authors": authors, "reference": reference},
        "repository": cited["repository-code"],
        "source": f"Made by `{report['command']}` at commit {commit}. {source}",
        "manifest": [{"file": file, "comment": comments[file]} for file in sorted(comments)],
    }
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=120)
    return write_text(root / CODECHECK, f"---\n{_TO_COME}{text}")


def _described(root: Path) -> dict[str, str]:
    """File → what a finding, or the claims ledger, says of it."""
    said: dict[str, str] = {}
    for (stage, name), sentence in findings(root).items():
        files = (f"figures/{name}.png", f"tables/{name}.csv")
        said |= {file: f"Notebook {stage[:2]}: {sentence}" for file in files if (root / file).is_file()}
    for file, claims in _claims(root / "tables" / "claims.csv").items():
        if (root / file).is_file():
            said[file] = f"Numbers behind the claims {', '.join(claims)}"
    return said


def _claims(ledger: Path) -> dict[str, list[str]]:
    """Number file → claims with their verdicts, of a ledger as notebook 14 writes it; empty where there is none."""
    found: dict[str, list[str]] = {}
    if not ledger.is_file():
        return found
    try:
        with ledger.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        for row in rows:
            for file in dict.fromkeys(place.partition("#")[0] for place in row["traced_to"].split("; ")):
                found.setdefault(file, []).append(f"{row['id']} ({row['verdict']})")
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as cause:
        raise InputError(f"{ledger} is no ledger of claims ({cause!r})", fix="Run notebook 14 again") from cause
    return found


def _cited() -> dict[str, Any]:
    cited: dict[str, Any] = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    return cited


def close_run(root: Path, profile: Profile, report: dict[str, Any]) -> Path:
    """Write ``documents/``, ``index.html``, ``codecheck.yml`` and ``ro-crate-metadata.json``; return the page.

    A run without any number yet (stopped in its first stage) gets no documents.
    """
    synthetic = profile.input == "synthetic"
    if any((root / "numbers").glob("*.json")):
        write_documents(REFERENCE_DATA / "documents", read_numbers(root / "numbers"), root, synthetic)
    page = write_page(root, profile, report)
    write_codecheck(root, report, synthetic)
    write_crate(root, report, synthetic)
    return page
