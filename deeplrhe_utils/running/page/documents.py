"""Checklists, model card and datasheet of a run, filled from its own numbers; what a run does not know is said."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.core.text import in_markdown, share_text

if TYPE_CHECKING:
    from deeplrhe_utils.evaluation.audits.claims import Numbers

FOLDER: Final = "documents"
TITLES: Final = {
    "claim": "CLAIM checklist",
    "probast-ai": "PROBAST+AI signalling questions",
    "reforms": "REFORMS checklist",
    "stard-ai": "STARD-AI checklist",
    "tripod-ai": "TRIPOD+AI checklist",
}
SOURCES: Final = {
    "claim": "Items after CLAIM, 2024 update, Tejani A. S. et al. *Radiol. Artif. Intell.* 6 (2024), in our words.",
    "probast-ai": "Questions after Moons K. G. M. et al. *BMJ* 388, e082505 (2025), in our words: D1 to D4 on "
    "development, E1 to E4 on evaluation. They were read in a public transcription, not in the article, and are "
    "numbered in its order. They ask how a study was done; *yes* speaks for it.",
    "reforms": "Items after Kapoor S. et al. *Sci. Adv.* 10, eadk3452 (2024), in our words. They were read in a public "
    "transcription, and in part in the article's Table 1.",
    "stard-ai": "Items after Sounderajah V. et al. *Nat. Med.* 31, 3283–3289 (2025), in our words: 40, five of them in "
    "parts. They were read in a public transcription of its Table 2.",
    "tripod-ai": "Items after Collins G. S. et al. *BMJ* 385, e078378 (2024), in our words.",
}
STATUSES: Final = ("yes", "no", "not applicable")
FIELD: Final = (
    "Others report for CLAIM a median of 51.4 % (quartiles 46.2 % and 57.9 %) in 501 articles of leading imaging "
    "journals ([10.1111/jebm.70141](https://doi.org/10.1111/jebm.70141)). They judged what articles print, by the 42 "
    "items of CLAIM's first version; we count our own answers to the update's 44. It is not one measurement."
)
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
        does not hold, and checklists as CSV with the columns item, asks, answer, where, status (one of `STATUSES`)
    numbers : of the run
    root : run folder; an item of a checklist whose places below it are not there, or whose answer lacks a number, is
        not answered and counts as "no"
    synthetic : whether the run's slides are synthetic; every document then says so in its second line, as it does when
        the networks that scored them learned on synthetic slides

    Returns The files, sorted; with a checklist among them also ``README.md``, which says how far each is adhered to.

    Raises InputError: no template, or a checklist of other columns or of another status.
    """
    warning = _SYNTHETIC if synthetic else numbers.get("07", "warning")
    label = f"\n\n*{in_markdown(str(warning))}*\n" if warning else "\n"
    texts = {path.stem: _text(path, numbers) for path in templates.glob("*.md")}
    counts = {}
    for path in templates.glob("*.csv"):
        rows = _answered(path, root, numbers)
        counts[path.stem] = Counter(row["status"] for row in rows)
        texts[path.stem] = _checklist(path.stem, rows, counts[path.stem])
    if not texts:
        raise InputError(f"{templates} holds no document", expected="*.md and *.csv")
    if counts:
        texts["README"] = _adherence(counts)
    parts = {name: texts[name].partition("\n") for name in sorted(texts)}
    return [write_text(root / FOLDER / f"{n}.md", f"{head}{label}{body}") for n, (head, _, body) in parts.items()]


def _text(path: Path, numbers: Numbers) -> str:
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
    answer = row["answer"] if len(lost) < len(wanted) or row["status"] != "yes" else UNKNOWN.capitalize()
    return {**row, "answer": answer, "where": ", ".join(left) or "–"}


def _answered(path: Path, root: Path, numbers: Numbers) -> list[dict[str, str]]:
    """The rows of a checklist with this run's answers; a "yes" that lacks its places or a number has become a "no"."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or set(rows[0]) != {"item", "asks", "answer", "where", "status"}:
        raise InputError(f"{path} is no checklist", expected="item, asks, answer, where, status")
    if strange := {row["status"] for row in rows} - set(STATUSES):
        raise InputError(f"{path} has a status that is none", got=sorted(strange), expected=", ".join(STATUSES))
    answered = []
    for row in (_there(row, root) for row in rows):
        answer = fill(row["answer"], numbers, in_markdown)
        lost = row["status"] == "yes" and UNKNOWN in answer.lower()
        answered.append({**row, "answer": answer, "status": "no" if lost else row["status"]})
    return answered


def _share(count: Counter[str]) -> str:
    applies = count["yes"] + count["no"]
    return f"{count['yes']} of {applies} ({100 * count['yes'] / applies:.0f} %)" if applies else "–"


def _checklist(name: str, rows: list[dict[str, str]], count: Counter[str]) -> str:
    told = [
        f"**Adherence, by our own count, of the items that apply: {_share(count)}.** No: {count['no']}, among them "
        f"what is partly answered or not in this run; not applicable: {count['not applicable']}."
    ]
    if name == "claim":
        told.append(FIELD)
    if name == "probast-ai":
        high = sorted({row["item"].partition(".")[0] for row in rows if row["status"] == "no"})
        development, evaluation = (", ".join(one for one in high if one[0] == part) or "none" for part in "DE")
        told.append(
            f"Read strictly, one *no* marks its domain. High concern about quality: {development}; high risk of bias: "
            f"{evaluation} (1 participants and data, 2 predictors, 3 outcome, 4 analysis)."
        )
    cells = [[row[key] for key in ("item", "asks", "status", "answer", "where")] for row in rows]
    table = _table(["Item", "Asks", "Status", "Answer", "Where"], cells)
    return "\n\n".join([f"# {TITLES[name]}", SOURCES[name], *told, table]) + "\n"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


def _adherence(counts: dict[str, Counter[str]]) -> str:
    """How far each checklist is adhered to; what others report of their field stands in a column of its own."""
    columns = ["Checklist", *(status.capitalize() for status in STATUSES), "Ours, of what applies", "Median of others"]
    rows = [
        [f"[{TITLES[name]}]({name}.md)", *(str(counts[name][s]) for s in STATUSES), _share(counts[name]),
         "51.4 % of articles' items" if name == "claim" else "–"]
        for name in sorted(counts)
    ]  # fmt: skip
    rule = "What is partly answered, or not in this run, counts as no. Nobody but us has checked the answers."
    return "\n\n".join(["# How far this run adheres to checklists", rule, _table(columns, rows), FIELD]) + "\n"
