"""What is written when a run ends: documents, page and crate, from the numbers and files that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.evaluation.claims import read_numbers
from deeplrhe_utils.reporting.documents import write_documents
from deeplrhe_utils.running.crate import write_crate
from deeplrhe_utils.running.page import write_page
from deeplrhe_utils.running.profiles import Profile


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
