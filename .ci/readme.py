"""Tables inside Markdown files, rendered from data: ``python .ci/readme.py`` (``make docs``).

A block stands between ``<!-- name:begin -->`` and ``<!-- name:end -->``. Blocks: `results` (the committed demo's AUC
table), `found` (what it found), `real` (real patients), `reported` (the papers' values), `dictionary` (the tables'
contracts).
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
from deeplrhe_utils.core.tables.truth import dictionary

RESULTS: Final = places.REPORTS / "demo" / "tables" / "auc_table.csv"
NUMBERS: Final = places.REPORTS / "demo" / "numbers"
REAL: Final = places.REPORTS / "tcga-features" / "tables"
REPORTED: Final = places.REFERENCE_DATA / "reported_auc.csv"
DOCUMENTS: Final = (places.REPOSITORY / "README.md", places.REPOSITORY / "data" / "README.md")
_NO_RESULTS: Final = "The demo has not been run yet: `make reproduce` writes the numbers, `make docs` this table."
_SMALLEST_P: Final = 0.001
_SAID_ALONE: Final = 0.6  # from this AUC of the diagnosis alone on a gene is named
_NEEDED: Final = {"gene", "auc", "ci_low", "ci_high", "ci_method", "n_pos", "n_neg", "p_holm", "status", "data"}
_BEGIN: Final = re.compile(r"^<!-- (?P<name>[a-z]+):begin -->$", re.MULTILINE)


def results_table(csv_path: Path) -> str:
    """The AUC table of a synthetic run as Markdown.

    Parameters
    ----------
    csv_path : ``tables/auc_table.csv`` of a run: one row per gene, unit patient

    Returns str: a sentence that says what is shown, and a table: gene, AUC, 95 % interval, positive and negative
    patients, Holm-adjusted p, status. A sentence alone when the file does not exist.

    Raises InputError: the table lacks a column, is empty, or holds data that are not marked SYNTHETIC.
    """
    if not csv_path.is_file():
        return _NO_RESULTS
    rows = _read(csv_path, _NEEDED)
    if other := sorted({row["data"] for row in rows} - {"SYNTHETIC"}):
        what = f"{csv_path} holds data that are not synthetic, and the table would be labelled so"
        raise InputError(what, got=", ".join(other), expected="SYNTHETIC in every row")
    methods = sorted({row["ci_method"] for row in rows} - {"none", ""})
    lines = [
        f"**Synthetic data.** Unit: patient. 95 % interval: {'; '.join(methods) or 'none'}. p: two-sided against "
        "AUC 0.5, Holm-adjusted over the estimable genes.",
        "",
        "| Gene | AUC (synthetic) | 95 % interval | Positive | Negative | p (Holm) | Status |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_result_row(row) for row in rows])


def _result_row(row: Mapping[str, str]) -> str:
    estimated = row["status"] == "estimated"
    auc = f"{float(row['auc']):.2f}" if estimated else "–"
    interval = f"{float(row['ci_low']):.2f}–{float(row['ci_high']):.2f}" if estimated else "–"
    cells = [row["gene"], auc, interval, row["n_pos"], row["n_neg"], _p(row["p_holm"]), row["status"]]
    return f"| {' | '.join(cells)} |"


def _p(text: str) -> str:
    if not text:
        return "–"
    value = float(text)
    return f"< {_SMALLEST_P}" if value < _SMALLEST_P else f"{value:.3f}"


def found_text(folder: Path) -> str:
    """What a synthetic run found, in sentences computed from its numbers (``numbers/*.json``).

    A sentence alone when the run has not been made.
    """
    if not (folder / "10-leakage-audit.json").is_file():
        return _NO_RESULTS
    planted, tuning, leak = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
                             for name in ("08-planted-truth", "09-tuning", "10-leakage-audit"))  # fmt: skip
    probed = {gene: row["auc"] for gene, row in planted["probes"]["planted"].items() if row["auc"] is not None}
    each = "; ".join(
        f"{gene} {own['auc']:.2f} ({own['expected_auc']:.2f}, probe {_auc(probed.get(gene))})"
        for gene, own in planted["within"].items()
        if own["auc"] is not None and planted["oracle"].get(gene)
    )
    told = "; ".join(
        f"{gene} {own['over']:.2f} over both diagnoses, where the diagnosis alone gives {own['alone']:.2f}, "
        f"{_auc(own['inside'])} within adenocarcinoma: {own['verdict']}"
        for gene, own in planted["fooled"].items()
        if own["over"] is not None and own["alone"] > _SAID_ALONE
    )
    low, high = tuning["optimism_interval"]
    by = {unit: leak["exchanged"][f"{unit} at width {leak['width']:g}"] for unit in ("tile", "patient")}
    most = max(value for name, value in leak["exchanged"].items() if name.startswith("tile "))
    said = {
        "Recovered of what was planted": "AUC by patient among adenocarcinomas, synthetic; in brackets what can be "
        f"known of these very patients, and a closed-form probe of label-free features. {each}. "
        f"{planted['aims_reached']} of {planted['aims']} aims reached ({_notebook('08-planted-truth')}).",
        "Who is fooled by the diagnosis": f"in these patients, as in real ones, mutations go with it. {told}.",
        "The map": f"for {planted['gene_of_region']} it points at the planted region with an AUROC of "
        f"{planted['auroc_inside']:.2f} inside against outside; drawn there: {planted['auroc_drawn']:.2f}.",
        "Labels that mean nothing": f"exchanged among patients, they reach a mean AUC of {by['tile']:.2f} when tiles "
        f"are divided, as in the paper ({most:.2f} with a reader that memorises more), and of {by['patient']:.2f} when "
        f"patients are ({_notebook('10-leakage-audit')}).",
        "Choosing settings": "on the patients that one reports, as the paper did, pretends to gain "
        f"{tuning['optimism']:.2f} of mean AUC [{_plain(low)}, {_plain(high)}] over {tuning['divisions']} divisions "
        f"({_notebook('09-tuning')}).",
    }  # fmt: skip
    return "\n".join(f"- **{head}.** {text[0].upper()}{text[1:]}" for head, text in said.items())


def _plain(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _auc(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _notebook(name: str) -> str:
    return f"[{name[:2]}](reports/demo/notebooks/{name}.ipynb)"


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
        "**Real patients.** Unit: patient; AUC with its 95 % interval. Diagnosis: counts of all profiled patients."
        " Columns 4 to 7: ridge on published features, 8: on the record.",
        "",
        "| Gene | Reported, other slides | Diagnosis alone | Image, both diagnoses | hospitals held out "
        "| Image, within adenocarcinoma | hospitals held out | Age, sex, smoking, stage, within it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for gene in [gene for gene in said if gene in alone]:
        found = [_interval(arms.get((*column, gene))) for column in columns]
        lines.append(f"| {gene} | {said[gene] or '–'} | {_interval(alone[gene])} | {' | '.join(found)} |")
    return "\n".join(lines)


def real_findings(folder: Path) -> str:
    """What a run on real features found, in sentences computed from its numbers (``numbers/*.json``)."""
    if not (folder / "13-diagnosis-alone.json").is_file():
        return ""
    alone, leak = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
                   for name in ("13-diagnosis-alone", "10-leakage-audit"))  # fmt: skip
    within = alone["beyond_clinical"].get("adenocarcinoma", {})
    enough = [f"{gene} (reported {row['reported']:.3f}, diagnosis {row['auc']:.3f})"
              for gene, row in alone["alone"].items() if 0 < (row["reported"] or 0) <= row["ci_high"]]  # fmt: skip
    beyond = [f"{gene} {row['difference']:+.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
              for gene, row in within.items()
              if row["p_holm"] < 0.05 and row["difference"] > 0]  # fmt: skip
    split = {gene: own for gene, own in leak["auc_by_gene"].items() if {"tile", "patient"} <= set(own)}
    widest = max(split, key=lambda gene: split[gene]["tile"] - split[gene]["patient"])
    mean = {unit: sum(own[unit] for own in split.values()) / len(split) for unit in ("tile", "patient")}
    told = alone["alone"][widest]["reported"]
    said = {
        "In TCGA the diagnosis alone gives as much as was reported for": f"{', '.join(enough) or 'no gene'}.",
        "Within adenocarcinoma the image adds to age, sex, smoking and stage for": f"{', '.join(beyond) or 'no gene'} "
        f"(p < 0.05 after Holm, of {len(within)} genes).",
        "Dividing regions in place of patients": f"lifts the mean AUC of a kernel reader from {mean['patient']:.2f} to "
        f"{mean['tile']:.2f}, most that of {widest}, from {split[widest]['patient']:.2f} to {split[widest]['tile']:.2f}"
        f"{f' (reported {told:.3f})' if told else ''}.",
    }  # fmt: skip
    return "\n".join(f"- **{head}** {text}" for head, text in said.items())


def _interval(row: Mapping[str, str] | None) -> str:
    if row is None or not (row["auc"] and row["ci_low"] and row["ci_high"]):
        return "–"
    auc, low, high = (float(row[name]) for name in ("auc", "ci_low", "ci_high"))
    return f"{auc:.2f} [{low:.2f}, {high:.2f}]"


def reported_table(csv_path: Path) -> str:
    """The papers' reported AUCs as Markdown.

    Parameters
    ----------
    csv_path : ``data/reference/reported_auc.csv``: gene, reported_auc (empty where nothing was reported), source
    """
    rows = _read(csv_path, {"gene", "reported_auc", "source"})
    lines = ["| Gene | Reported AUC | Where |", "|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['gene']} | {row['reported_auc'] or 'not reported'} | {row['source']} |")
    return "\n".join(lines)


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
        done.append(f"{text[position : begin.end()]}\n\n{blocks[name]().strip()}\n\n{mark}")
        position = end + len(mark)
    return "".join(done) + text[position:]


def refreshed(path: Path, results: Path = RESULTS, reported: Path = REPORTED) -> str:
    """What the Markdown file at `path` should say, with all its blocks rendered from the data of now."""
    blocks: dict[str, Callable[[], str]] = {
        "results": lambda: results_table(results),
        "found": lambda: found_text(NUMBERS),
        "real": lambda: f"{real_table(REAL, reported)}\n\n{real_findings(REAL.with_name('numbers'))}",
        "reported": lambda: reported_table(reported),
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
