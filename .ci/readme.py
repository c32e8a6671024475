"""Tables inside Markdown files, rendered from data: ``python .ci/readme.py`` (``make docs``).

A block stands between ``<!-- name:begin -->`` and ``<!-- name:end -->``. Blocks: `hero` and `findings` (what the
committed demo found), `results` (its AUC table), `real` (real patients), `notebooks` (their questions), `dictionary`
(the tables' contracts).
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import CompendiumError, InputError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.core.tables.schemas import TABLES
from deeplrhe_utils.core.tables.truth import TRUTH_TABLES
from deeplrhe_utils.core.text import in_markdown, p_text
from deeplrhe_utils.running.stage.story import findings, story

RUN: Final = places.REPORTS / "demo"
RESULTS: Final = RUN / "tables" / "auc_table.csv"
REAL: Final = places.REPORTS / "tcga-features"
REPORTED: Final = places.REFERENCE_DATA / "reported_auc.csv"
DOCUMENTS: Final = (places.REPOSITORY / "README.md", places.REPOSITORY / "data" / "README.md")
_NO_RESULTS: Final = "The demo has not been run yet: `make reproduce` writes the numbers, `make docs` this table."
_NEEDED: Final = {"gene", "auc", "ci_low", "ci_high", "n_pos", "n_neg", "p_holm", "status", "data"}
_BEGIN: Final = re.compile(r"^<!-- (?P<name>[a-z]+):begin -->$", re.MULTILINE)


def dictionary() -> str:
    """The data dictionary as Markdown, one section per table (embedded in ``data/README.md``)."""
    lines: list[str] = []
    for table in (*TABLES.values(), *TRUTH_TABLES.values()):
        lines += [f"### {table.name}", "", f"A row is {table.row}. Key: {', '.join(table.key)}.", ""]
        lines += ["| Column | Type | Null | Meaning |", "|---|---|---|---|"]
        for c in table.columns:
            meaning = c.meaning + (f" ({' / '.join(c.choices)})" if c.choices else "")
            lines.append(f"| {c.name} | {c.dtype} | {'yes' if c.nullable else 'no'} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def results_table(csv_path: Path) -> str:
    """The AUC table of a synthetic run as Markdown, a column for each gene.

    Parameters
    ----------
    csv_path : ``tables/auc_table.csv`` of a run: one row per gene, unit patient

    Returns str: AUC with its 95 % interval, mutated and wild-type patients, Holm-adjusted p; a sentence alone when the
    file does not exist.

    Raises InputError: the table lacks a column, is empty, or holds data that are not marked SYNTHETIC.
    """
    if not csv_path.is_file():
        return _NO_RESULTS
    rows = _read(csv_path, _NEEDED)
    if other := sorted({row["data"] for row in rows} - {"SYNTHETIC"}):
        what = f"{csv_path} holds data that are not synthetic, and the table would be labelled so"
        raise InputError(what, got=", ".join(other), expected="SYNTHETIC in every row")
    kept = [row if row["status"] == "estimated" else {**row, "auc": "", "p_holm": ""} for row in rows]
    columns = {
        "SYNTHETIC": [row["gene"] for row in rows],
        "---": ["---"] * len(rows),
        "AUC, 95 % interval": [_interval(row) for row in kept],
        "mutated / wild type": [f"{row['n_pos']} / {row['n_neg']}" for row in rows],
        "p (Holm)": [p_text(float(row["p_holm"])) if row["p_holm"] else "–" for row in kept],
    }
    return "\n".join(f"| {head} | {' | '.join(cells)} |" for head, cells in columns.items())


def hero(run: Path) -> str:
    """The figure that sets real patients beside planted ones, and its sentence; nothing before the run has drawn it."""
    said = findings(run).get(("14-claims-ledger", "side_by_side"))
    if said is None:
        return _NO_RESULTS
    figure = (run / "figures" / "side_by_side.png").relative_to(places.REPOSITORY).as_posix()
    return f"![{in_markdown(said)}]({figure})"


def told(run: Path) -> str:
    """The findings of a run, each with its part of the story and its notebook."""
    lines = []
    for one in story(run):
        book = (run / "notebooks" / f"{one.stage}.ipynb").relative_to(places.REPOSITORY).as_posix()
        lines.append(f"- *{one.part}.* {in_markdown(one.sentence)} [{one.stage[:2]}]({book})")
    return "\n".join(lines) or _NO_RESULTS


def notebooks(run: Path) -> str:
    """A line for every notebook: its number, linked to the executed copy, and its question."""
    lines = []
    for path in sorted(places.NOTEBOOKS.glob("[0-9]*.ipynb")):
        cell = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]).splitlines()[0]
        number, question = cell.removeprefix("# ").split(" · ", 1)
        copy = (run / "notebooks" / path.name).relative_to(places.REPOSITORY).as_posix()
        lines.append(f"- [{number}]({copy}) {question}")
    return "\n".join(lines)


def real_table(tables: Path, reported: Path) -> str:
    """Real patients: what the diagnosis alone gives, and what a reader of published features finds.

    Parameters
    ----------
    tables : of a run of profile tcga-features: without_a_slide.csv, real_arms.csv
    reported : as for :func:`reported_table`
    """
    if not (tables / "real_arms.csv").is_file():
        return "Profile `tcga-features` has not been run yet."
    needed = {"gene", "auc", "ci_low", "ci_high"}
    alone = {row["gene"]: row for row in _read(tables / "without_a_slide.csv", needed)}
    rows = _read(tables / "real_arms.csv", needed | {"patients", "arm"})
    arms = {(row["patients"], row["arm"], row["gene"]): row for row in rows}
    said = {row["gene"]: row["reported_auc"] for row in _read(reported, {"gene", "reported_auc"})}
    arm, apart, own = "image", "image, hospitals held out", "adenocarcinoma"
    columns = (("both diagnoses", arm), ("both diagnoses", apart), (own, arm), (own, apart), (own, "clinical"))
    lines = [
        "| Gene | Reported, other slides | Diagnosis alone | Image, both diagnoses | hospitals held out "
        "| Image, within adenocarcinoma | hospitals held out | Age, sex, smoking, stage, within it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for gene in [gene for gene in said if gene in alone]:
        found = [_interval(arms.get((*column, gene))) for column in columns]
        lines.append(f"| {gene} | {said[gene] or '–'} | {_interval(alone[gene])} | {' | '.join(found)} |")
    return "\n".join(lines)


def _interval(row: Mapping[str, str] | None) -> str:
    if row is None or not (row["auc"] and row["ci_low"] and row["ci_high"]):
        return "–"
    auc, low, high = (float(row[name]) for name in ("auc", "ci_low", "ci_high"))
    return f"{auc:.2f} [{low:.2f}, {high:.2f}]"


def _read(path: Path, needed: set[str]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        raise InputError(f"{path} is empty", expected="a header and at least one row")
    if missing := sorted(needed - set(rows[0])):
        raise InputError(f"{path} lacks {', '.join(missing)}", got=", ".join(rows[0]))
    return rows


def render(text: str, blocks: Mapping[str, Callable[[], str]], where: str) -> str:
    """`text` with every marked block replaced by what its function returns.

    Raises InputError: a block has no function of its name, or its end is missing.
    """
    done, position = [], 0
    while begin := _BEGIN.search(text, position):
        name = begin["name"]
        if name not in blocks:
            raise InputError(f"{where} has a block {name!r} that nobody renders", expected=", ".join(blocks))
        mark = f"<!-- {name}:end -->"
        end = text.find(mark, begin.end())
        if end < 0:
            raise InputError(f"{where}: block {name!r} has no end", expected=mark)
        done.append(f"{text[position : begin.end()]}\n{blocks[name]().strip()}\n{mark}")
        position = end + len(mark)
    return "".join(done) + text[position:]


def refreshed(path: Path, results: Path = RESULTS) -> str:
    """What the Markdown file at `path` should say, with all its blocks rendered from the data of now."""
    blocks: dict[str, Callable[[], str]] = {
        "hero": lambda: hero(RUN),
        "findings": lambda: told(RUN),
        "results": lambda: results_table(results),
        "real": lambda: real_table(REAL / "tables", REPORTED),
        "notebooks": lambda: notebooks(RUN),
        "dictionary": dictionary,
    }
    return render(path.read_text(encoding="utf-8"), blocks, path.name)


def refresh(readme_path: Path) -> bool:
    """Render all blocks of a Markdown file in place; return whether anything changed."""
    new = refreshed(readme_path)
    if new == readme_path.read_text(encoding="utf-8"):
        return False
    write_text(readme_path, new)
    return True


def main() -> int:
    """Refresh README.md and data/README.md."""
    try:
        for path in DOCUMENTS:
            print(f"{path.relative_to(places.REPOSITORY)}: {'rendered' if refresh(path) else 'up to date'}")
    except CompendiumError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
