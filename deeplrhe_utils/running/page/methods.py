"""Methods in prose with the run's own numbers, and the limits that these numbers set."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.text import escaped
from deeplrhe_utils.evaluation.audits.claims import Numbers, read_numbers
from deeplrhe_utils.running.page.documents import UNKNOWN, fill

_SETTLED: Final = {"finished", "unchanged", "skipped"}
_REMARKS: Final = 8  # different remarks that are shown of one stage
_OF_A_SLIDE: Final = re.compile(r"^\S+: ")


def methods_section(root: Path) -> str:
    """Paragraphs of HTML, from ``numbers/`` alone; "" for a run without numbers."""
    numbers = _numbers(root)
    if isinstance(numbers, str):
        return numbers
    # one sentence a line: it is shown when every number that it asks for is in the run
    parts = (REFERENCE_DATA / "methods.md").read_text(encoding="utf-8").split("\n\n")
    paragraphs = [" ".join(filter(None, map(_filled(numbers), part.splitlines()))) for part in parts]
    unit = unit_of(root).removesuffix("s")
    return "\n".join(f"<p>{escaped(part.replace('patient', unit))}</p>" for part in paragraphs if part)


def unit_of(root: Path) -> str:
    """What the run's scores are of, in words: patients, or tissue fields."""
    numbers = _numbers(root)
    return str((numbers.get("06", "unit") if isinstance(numbers, Numbers) else None) or "patients")


def limits_section(root: Path, report: dict[str, Any], synthetic: bool) -> str:
    """What the reader must not conclude, as a list in HTML."""
    limits = ["The slides are synthetic; nothing here is a finding about lung tissue."] if synthetic else []
    numbers = _numbers(root)
    if isinstance(numbers, Numbers):
        own = (
            "{?05}A score is the opinion of one network trained once per fold; intervals do not contain the spread "
            "over seeds."
        )
        given = (
            "{?07:given_model}{!06}No score was compared with a label: how good the given network is here is not known."
        )
        limits += ["" if synthetic else str(numbers.get("07", "warning") or ""), *map(_filled(numbers), (own, given))]
    limits = [limit for limit in limits if limit] + [
        "There is no endpoint of treatment in these data: no number here says who responds to a therapy.",
    ]
    if isinstance(numbers, Numbers):
        few = _filled(numbers)("No AUC is given for {06:not_estimable}: too few patients of a class.")
        limits += [few] if few and numbers.get("06", "not_estimable") else []
    limits += remarks(root)
    stages = {name: stage["status"] for name, stage in report["stages"].items()}
    kept = {"stale", "not selected"}  # the second in reports of versions before 1.0
    unsettled = [f"{name} ({status})" for name, status in stages.items() if status not in _SETTLED | kept]
    limits += [f"Stages without a result: {', '.join(unsettled)}."] if unsettled else []
    for status, said in (("stale", "Made by another notebook, code, parameters or inputs, or from results that were"),
                         ("not selected", "Kept from an earlier run, not compared with this one's code")):  # fmt: skip
        names = [name for name, found in stages.items() if found == status]
        limits += [f"{said}: {', '.join(names)}."] if names else []
    return "<ul>" + "".join(f"<li>{escaped(limit)}</li>" for limit in limits) + "</ul>"


def remarks(root: Path) -> list[str]:
    """What notebooks remarked of files and slides, a sentence per notebook, equal remarks together."""
    numbers = _numbers(root)
    told: list[str] = []
    if not isinstance(numbers, Numbers):
        return told
    for stage, of in (("01", "files"), ("02", "tiling"), ("07", "heat maps")):
        notes = numbers.get(stage, "notes") or []
        each = [note for own in notes.values() for note in own] if isinstance(notes, dict) else notes
        found = Counter(_OF_A_SLIDE.sub("", str(note)).rstrip(".") for note in each).most_common()
        shown = [f"{count} × {reason}" if count > 1 else reason for reason, count in found[:_REMARKS]]
        shown += [f"and {len(found) - _REMARKS} more"] if len(found) > _REMARKS else []
        told += [f"Remarks of the {of}: {'; '.join(shown)}."] if found else []
    return told


def _filled(numbers: Numbers) -> Any:
    def filled(sentence: str) -> str:
        """The sentence with its numbers; "" when the run lacks one of them."""
        said = fill(sentence, numbers)
        return "" if UNKNOWN in said else said

    return filled


def _numbers(root: Path) -> Numbers | str:
    """The run's numbers; "" when there are none, a sentence when a file is damaged."""
    folder = root / "numbers"
    if not any(folder.glob("*.json")):
        return ""
    try:
        return read_numbers(folder)
    except InputError as error:
        return f"<p>{escaped(error)}</p>"
