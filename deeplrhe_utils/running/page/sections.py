"""Sections of the report page that show tables and files of a run as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.text import escaped, p_text, share_text
from deeplrhe_utils.running.page.html import cell, link, pixels_of, rows_table, url
from deeplrhe_utils.running.stage.story import Told, findings, story, worries

_CAPTION: Final = re.compile(r"\*\*(Figure[^*]*)\*\*\s*(\S.*?)(?:\n\s*\n|\Z)", re.DOTALL)
_DRAWN: Final = re.compile(r"run\.figure\(\s*f?[\"']([\w.-]+)[\"']")
_MARKS: Final = re.compile(r"[*`]|(?<!\w)_|_(?!\w)")
_CLAIM: Final = ("id", "statement", "source", "reported", "found", "interval", "verdict", "traced_to")
_SHORT_ALT: Final = 160


def stages(root: Path, report: dict[str, Any]) -> str:
    """Every stage: what became of it, how long it took, and its executed notebook."""
    rows = []
    for name, stage in report["stages"].items():
        status = stage["status"] + (f": {stage['reason']}" if stage.get("reason") else "")
        peak = stage.get("peak_memory_bytes")
        numbers = [str(stage.get("seconds", "")), f"{peak / 1e6:.0f} MB" if peak else "", _short(stage.get("commit"))]
        linked = f"<td>{link(root, f'notebooks/{name}.ipynb', 'notebook')}</td>"
        rows.append(cell(name) + cell(status) + "".join(cell(number, "number") for number in numbers) + linked)
    head = ("Stage", "Status", "Seconds", "Peak memory", "Commit", "Executed notebook")
    return rows_table(head, rows, "stages") if rows else ""


def _short(commit: str | None) -> str:
    return f"{commit[:10]}{'+' * commit.endswith('+')}" if commit else ""


def auc(root: Path, unit: str = "patients") -> str:
    """The AUC table: every column of the file, the interval beside its AUC; `unit` is what was scored, in words."""
    found = _read(root, "tables/auc_table.csv")
    if isinstance(found, str):
        return found
    if not {"gene", "auc", "ci_low", "ci_high"} <= set(found[0]):
        return _as_is(found)
    rows = [_auc_row(line) for line in found]
    note = f"AUC of {unit} with its 95 % interval, positive and negative {unit}, and p against 0.5 (Holm-adjusted)."
    more = link(root, "tables/auc_table.csv", "auc_table.csv")
    head = ("Target", "AUC", "95 % interval", "Positive / negative", "p", "p (Holm)", "Status")
    return f'{rows_table(head, rows, "AUC by target")}<p class="soft">{note} All columns: {more}.</p>'


def _auc_row(line: Mapping[str, str]) -> str:
    auc, low, high = (_number(line[name], share_text) for name in ("auc", "ci_low", "ci_high"))
    counts = " / ".join(line.get(name) or "–" for name in ("n_pos", "n_neg"))
    status = ": ".join(line[name] for name in ("status", "reason") if line.get(name))
    numbers = (auc, f"{low} to {high}" if low != "–" else "–", counts,
               *(_number(line.get(name, ""), p_text) for name in ("p", "p_holm")))  # fmt: skip
    return cell(line["gene"]) + "".join(cell(number, "number") for number in numbers) + cell(status)


def _number(content: str, shown: Callable[[float], str]) -> str:
    try:
        return shown(float(content))
    except (TypeError, ValueError):
        return content or "–"


def claims(root: Path) -> str:
    """The claims ledger of notebook 14, each verdict with the numbers that it was traced to."""
    found = _read(root, "tables/claims.csv")
    if isinstance(found, str):
        return found
    if not set(_CLAIM) <= set(found[0]):
        return _as_is(found)
    rows = []
    for line in found:
        traced = " ".join(_traced(root, one) for one in line["traced_to"].split("; ") if one)
        verdict = f'<td><span class="badge">{escaped(line["verdict"])}</span></td>'
        source = f'<span class="soft">({escaped(line["source"])})</span>'
        said = f'<td class="long">{escaped(line["statement"])} {source}</td>'
        middle = "".join(cell(line[name]) for name in ("reported", "found", "interval"))
        rows.append(cell(line["id"]) + said + middle + verdict + f"<td>{traced or '–'}</td>")
    head = ("Claim", "Statement", "Reported", "This run", "Interval", "Verdict", "Traced to")
    return (
        rows_table(head, rows, "claims")
        + f'<p class="soft">As a file: {link(root, "tables/claims.csv", "claims.csv")}.</p>'
    )


def _traced(root: Path, trace: str) -> str:
    """A number file and the key in it; linked only when it is a file of this run's numbers."""
    name, _, key = trace.partition("#")
    known = re.fullmatch(r"(numbers|tables)/[\w.-]+", name) is not None
    file = name.rpartition("/")[2].removesuffix(".json")
    stage = file[:2] if file[:2].isdigit() else file
    return (link(root, name, f"{stage}: {key}") if known else "") or escaped(trace)


def opening(root: Path) -> str:
    """At most ten findings, part by part, each linked to its figure below or to its notebook; and the worries."""
    told, parts = story(root), []
    for part in dict.fromkeys(one.part for one in told):
        items = [f"<li>{escaped(one.sentence)} {_place(root, one)}</li>" for one in told if one.part == part]
        parts.append(f"<h3>{escaped(part)}</h3><ul>{''.join(items)}</ul>")
    if asked := worries(root):
        came = [one for one in asked if one["happened"]]
        items = [f"<li>{escaped(one['sentence'])} {_notebook(root, one['stage'])}</li>" for one in came]
        open_ = sum(one["happened"] is None for one in asked)
        head = f"Of {len(asked)} things that would worry us, {len(came)} happened, and {open_} cannot be told here"
        parts.append(f"<details><summary>{head}</summary><ul>{''.join(items)}</ul></details>")
    return "".join(parts)


def _place(root: Path, one: Told) -> str:
    drawn = (root / "figures" / f"{one.name}.png").is_file()
    figure = f'<a href="#figure-{escaped(one.name)}">figure</a> · ' if drawn else ""
    return f'<span class="soft">({figure}{_notebook(root, one.stage)})</span>'


def _notebook(root: Path, stage: str) -> str:
    return link(root, f"notebooks/{stage}.ipynb", f"notebook {stage[:2]}")


def gallery(root: Path) -> str:
    """Every figure below its finding, notebook by notebook, with the caption that its notebook gives it."""
    said, sentences = _captions(root / "notebooks"), {name: text for (_, name), text in findings(root).items()}
    order = {name: place for place, name in enumerate(said)}
    figures = []
    for png in sorted((root / "figures").glob("*.png"), key=lambda path: (order.get(path.stem, len(order)), path.name)):
        svg, address = link(root, f"figures/{png.stem}.svg", "SVG"), url(f"figures/{png.name}")
        found, caption = sentences.get(png.stem, ""), said.get(png.stem, "")
        alt = escaped((found or caption or png.stem.replace("_", " "))[:_SHORT_ALT])
        size = "".join(f' {name}="{value}"' for name, value in zip(("width", "height"), pixels_of(png), strict=False))
        files = " · ".join(one for one in (link(root, f"figures/{png.name}", "PNG"), svg) if one)
        shown = f'<a href="{address}"><img src="{address}" alt="{alt}" loading="lazy"{size}></a>'
        text = f"<b>{escaped(found or png.stem.replace('_', ' '))}</b><br>{escaped(caption)}"
        figures.append(
            f'<figure id="figure-{escaped(png.stem)}">{shown}<figcaption>{text} {files}</figcaption></figure>'
        )
    return f'<div class="gallery">{"".join(figures)}</div>' if figures else ""


def _captions(folder: Path) -> dict[str, str]:
    """Figure name → the caption that follows it in an executed notebook, as plain text."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.ipynb")):
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            sources = [("".join(c["source"]), c["cell_type"]) for c in cells]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the figure is shown without a caption; the notebook itself is linked under its stage
        for (code, kind), (words, _) in pairwise(sources):
            said = _CAPTION.match(words) if kind == "code" else None
            if said:
                caption = _MARKS.sub("", f"{said[1]} {said[2]}".replace("\n", " "))
                found |= dict.fromkeys(_DRAWN.findall(code), caption)
    return found


def files(root: Path, folder: str) -> str:
    """Links to the files of a folder."""
    names = sorted(p.relative_to(root).as_posix() for p in (root / folder).glob("*") if p.is_file())
    items = [f"<li>{link(root, name, Path(name).name)}</li>" for name in names if not Path(name).name.startswith(".")]
    return f'<ul class="files">{"".join(items)}</ul>' if items else ""


def _read(root: Path, name: str) -> list[dict[str, str]] | str:
    """Rows of a CSV file as text; "" when it is not there or empty, a sentence when it cannot be read."""
    path = root / name
    if not path.is_file():
        return ""
    try:
        return read_foreign(path, InputError, may_be_empty=True).to_dict("records") or ""
    except InputError as error:
        return f"<p>{escaped(name)} cannot be read ({escaped(error)}).</p>"


def _as_is(rows: list[dict[str, str]]) -> str:
    return rows_table(list(rows[0]), ["".join(cell(str(value)) for value in line.values()) for line in rows])
