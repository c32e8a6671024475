"""What is written when a run ends: documents, page and crate, from the numbers and files that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from deeplrhe_utils.core.files import sha256_file, write_json
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.evaluation.audits.claims import read_numbers
from deeplrhe_utils.running.page.documents import write_documents
from deeplrhe_utils.running.page.page import write_page
from deeplrhe_utils.running.plan.profiles import Profile
from deeplrhe_utils.running.stage.state import CRATE

FOLDERS: Final = ("figures", "heatmaps", "tables", "numbers", "notebooks", "models", "documents")
_VERSION: Final = "https://w3id.org/ro/crate/1.1"
_CODE: Final = "https://spdx.org/licenses/MIT"
_FIGURES: Final = "https://creativecommons.org/licenses/by/4.0/"


def write_crate(root: Path, report: dict[str, Any], synthetic: bool) -> Path:
    """Write ``ro-crate-metadata.json`` of a finished run folder; nothing is copied.

    Ours, because the one library for it is on PyPI alone and a run must work in conda and on Binder; a test reads the
    result back with that library.

    Parameters
    ----------
    report : content of ``run.json``
    synthetic : said in the description

    Returns the file: RO-Crate 1.1, one entity per file that a run leaves, with its SHA-256, and one CreateAction for
    the run.
    """
    found = (p for name in FOLDERS for p in (root / name).rglob("*") if p.is_file() and not p.name.startswith("."))
    paths = [*sorted(found), *(root / name for name in ("run.json", "index.html") if (root / name).is_file())]
    files = [_file(root, path) for path in paths]
    links = [{"@id": entity["@id"]} for entity in files]
    done = "Completed" if report["status"] == "finished" else "Failed"
    graph = [
        {"@id": CRATE, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": {"@id": _VERSION}},
        {"@id": "./", "@type": "Dataset", "name": report["title"], "license": {"@id": _FIGURES}, "hasPart": links,
         "description": ("SYNTHETIC data. " if synthetic else "") + "Results of the DeepLRHE compendium.",
         "datePublished": report.get("finished") or report["started"], "mentions": {"@id": "#run"}},
        {"@id": "#deeplrhe", "@type": "SoftwareApplication", "name": "DeepLRHE compendium", "license": {"@id": _CODE},
         "version": report["package_version"], "softwareVersion": report["git"].get("commit") or "unknown"},
        {"@id": "#run", "@type": "CreateAction", "name": report["command"], "instrument": {"@id": "#deeplrhe"},
         "startTime": report["started"], "endTime": report.get("finished") or "", "result": links,
         "actionStatus": {"@id": f"http://schema.org/{done}ActionStatus"}},
        {"@id": _FIGURES, "@type": "CreativeWork", "name": "Creative Commons Attribution 4.0 International"},
        {"@id": _CODE, "@type": "CreativeWork", "name": "MIT License"},
        *files,
    ]  # fmt: skip
    return write_json(root / CRATE, {"@context": f"{_VERSION}/context", "@graph": graph})


def _file(root: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(root).as_posix()
    return {"@id": quote(name), "@type": "File", "name": name, "contentSize": str(path.stat().st_size),
            "sha256": sha256_file(path)}  # fmt: skip


def close_run(root: Path, profile: Profile, report: dict[str, Any]) -> Path:
    """Write ``documents/``, ``index.html`` and ``ro-crate-metadata.json``; return the page.

    A run without any number yet (stopped in its first stage) gets no documents.
    """
    synthetic = profile.input == "synthetic"
    if any((root / "numbers").glob("*.json")):
        write_documents(REFERENCE_DATA / "documents", read_numbers(root / "numbers"), root, synthetic)
    page = write_page(root, profile, report)
    write_crate(root, report, synthetic)
    return page
