"""Checklists, model card and datasheet of a run, filled from its own numbers; what a run does not know is said."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.core.text import in_markdown, share_text

if TYPE_CHECKING:
    from deeplrhe_utils.evaluation.audits.claims import Numbers

FOLDER: Final = "documents"
TITLES: Final = {"tripod-ai": "TRIPOD+AI checklist", "claim": "CLAIM checklist"}
SOURCES: Final = {
    "tripod-ai": "Items after Collins G. S. et al. *BMJ* 385, e078378 (2024), in our words.",
    "claim": "Items after CLAIM, 2024 update, Tejani A. S. et al. *Radiol. Artif. Intell.* 6 (2024), in our words.",
}
UNKNOWN: Final = "not in this run"
_PLACE: Final = re.compile(r"\{([?!]?)(\d\d)(?::([\w.]+))?\}")
_SYNTHETIC: Final = "SYNTHETIC data: this says how the pipeline works, not what lung tissue shows."
_CONDITION: Final = re.compile(r"(?:\{[?!][^}]*\})+")
_IN_RUN: Final = ("notebooks/", "tables/", "numbers/", "models/", "figures/")


def fill(text: str, numbers: Numbers, shown: Callable[[str], str] = str) -> str:
    """Put a run's numbers where ``{06:n_patients}`` asks for number `n_patients` of stage 06.

    A number that the run lacks becomes :data:`UNKNOWN`; lists are joined by commas, and so are numbers by name. What
    they say passes through `shown`. ``{?06}`` and ``{?07:given_model}`` are conditions, ``{!06}`` the opposite: nothing
    where the run has the stage's numbers, or this one, else :data:`UNKNOWN`.
    """

    def value(match: re.Match[str]) -> str:
        found = numbers.get(match[2], *(match[3] or "").split(".")) if match[3] else numbers.get(match[2])
        if match[1]:
            return UNKNOWN if (found is None) == (match[1] == "?") else ""
        return UNKNOWN if found is None else shown(_words(found))

    return _PLACE.sub(value, text)


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
    templates : Markdown texts, of which a paragraph that begins with a condition (:func:`fill`) is left out where this
        does not hold, and checklists as CSV with the columns item, asks, answer, where
    numbers : of the run
    root : run folder; an item of a checklist whose places below it are not there is not answered
    synthetic : whether the run's slides are synthetic; every document then says so in its second line, as it does when
        the networks that scored them learned on synthetic slides

    Returns The files, sorted.

    Raises InputError: no template, or a checklist of other columns.
    """
    written = []
    warning = _SYNTHETIC if synthetic else numbers.get("07", "warning")
    writers: dict[str, Callable[[Path, Path, Numbers], str]] = {".md": _text, ".csv": _checklist}
    for path in sorted(templates.glob("*.*")):
        head, _, body = writers[path.suffix](path, root, numbers).partition("\n")
        label = f"\n\n*{in_markdown(str(warning))}*\n" if warning else "\n"
        written.append(write_text(root / FOLDER / f"{path.stem}.md", f"{head}{label}{body}"))
    if not written:
        raise InputError(f"{templates} holds no document", expected="*.md and *.csv")
    return written


def _text(path: Path, _: Path, numbers: Numbers) -> str:
    paragraphs = path.read_text(encoding="utf-8").split("\n\n")
    kept = [p for p in paragraphs if not (found := _CONDITION.match(p)) or UNKNOWN not in fill(found[0], numbers)]
    return fill("\n\n".join(kept).rstrip() + "\n", numbers, in_markdown)


def _there(row: dict[str, str], root: Path) -> dict[str, str]:
    """A row of a checklist as it holds for a run folder: places that lie in it, and no answer where none does."""
    parts = re.split(r"(, | to )", row["where"])
    names, folder = [], ""
    for name in parts[::2]:
        folder = name.rpartition("/")[0] + "/" if "/" in name else folder if name[:2].isdigit() else ""
        names.append(name if "/" in name or not folder else folder + name)
    wanted = [name for name in names if name.startswith(_IN_RUN)]
    lost = [name for name in wanted if not any((root / f"{name}{end}").exists() for end in ("", ".ipynb"))]
    if not lost:
        return row
    left = [name for name in names if name not in lost]
    answer = row["answer"] if len(lost) < len(wanted) else UNKNOWN.capitalize()
    return {**row, "answer": answer, "where": ", ".join(left) or "–"}


def _checklist(path: Path, root: Path, numbers: Numbers) -> str:
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
    lines += [f"| {r['item']} | {r['asks']} | {r['answer']} | {r['where']} |" for r in (_there(r, root) for r in rows)]
    return fill("\n".join(lines) + "\n", numbers, in_markdown)
