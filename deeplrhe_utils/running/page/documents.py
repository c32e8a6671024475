"""Checklists, model card and datasheet of a run, filled from its own numbers; what a run does not know is said."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.core.text import on_one_line, share_text

if TYPE_CHECKING:
    from deeplrhe_utils.evaluation.audits.claims import Numbers

FOLDER: Final = "documents"
TITLES: Final = {"tripod-ai": "TRIPOD+AI checklist", "claim": "CLAIM checklist"}
SOURCES: Final = {
    "tripod-ai": "Items after Collins G. S. et al. *BMJ* 385, e078378 (2024), in our words.",
    "claim": "Items after CLAIM, 2024 update, Tejani A. S. et al. *Radiol. Artif. Intell.* 6 (2024), in our words.",
}
UNKNOWN: Final = "not in this run"
_MARKDOWN: Final = re.compile(r"[<>\[\]`|$]")
_PLACE: Final = re.compile(r"\{(\d\d):([\w.]+)\}")


def fill(text: str, numbers: Numbers, shown: Callable[[str], str] = str) -> str:
    """Put a run's numbers where ``{06:n_patients}`` asks for number `n_patients` of stage 06.

    A number that the run lacks becomes :data:`UNKNOWN`; lists are joined by commas, and so are numbers by name. What
    they say passes through `shown`.
    """

    def value(match: re.Match[str]) -> str:
        found = numbers.get(match[1], *match[2].split("."))
        return UNKNOWN if found is None else shown(_words(found))

    return _PLACE.sub(value, text)


def _in_markdown(words: str) -> str:
    """Words that Markdown takes neither for a tag, a link, code or a formula nor for the end of a table's cell."""
    return _MARKDOWN.sub(r"\\\g<0>", on_one_line(words) if not words.isprintable() else words)


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {'not estimable' if item is None else share_text(item)}" for key, item in value.items()
        )
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write_documents(templates: Path, numbers: Numbers, root: Path, synthetic: bool) -> list[Path]:
    """Write every document of `templates` below ``documents/`` of a run folder.

    Parameters
    ----------
    templates : Markdown texts, and checklists as CSV with the columns item, asks, answer, where
    numbers : of the run
    root : run folder
    synthetic : whether the run's slides are synthetic; every document then says so in its second line

    Returns The files, sorted.

    Raises InputError: no template, or a checklist of other columns.
    """
    written = []
    writers: dict[str, Callable[[Path], str]] = {".md": _text, ".csv": _checklist}
    for path in sorted(templates.glob("*.*")):
        head, _, body = fill(writers[path.suffix](path), numbers, _in_markdown).partition("\n")
        label = (
            "\n\n*SYNTHETIC data: this says how the pipeline works, not what lung tissue shows.*\n"
            if synthetic
            else "\n"
        )
        written.append(write_text(root / FOLDER / f"{path.stem}.md", f"{head}{label}{body}"))
    if not written:
        raise InputError(f"{templates} holds no document", expected="*.md and *.csv")
    return written


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _checklist(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or set(rows[0]) != {"item", "asks", "answer", "where"}:
        raise InputError(f"{path} is no checklist", expected="item, asks, answer, where")
    lines = [
        f"# {TITLES[path.stem]}",
        "",
        SOURCES[path.stem],
        "",
        "| Item | Asks | Answer | Where |",
        "|---|---|---|---|",
    ]
    lines += [f"| {r['item']} | {r['asks']} | {r['answer']} | {r['where']} |" for r in rows]
    return "\n".join(lines) + "\n"
