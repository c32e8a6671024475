"""``deeplrhe judge``: what any pipeline found of a synthetic cohort's truth, as tables, sentences and a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplrhe_utils.core.files import atomic_path, claim, write_json, write_text
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.core.text import escaped, share_text
from deeplrhe_utils.evaluation.auc.deeppath import read_classes
from deeplrhe_utils.evaluation.auc.score_file import pooled
from deeplrhe_utils.evaluation.judging import answers as reader
from deeplrhe_utils.evaluation.judging import beside, verdicts
from deeplrhe_utils.evaluation.judging.planted_cohort import read_planted
from deeplrhe_utils.running.page.html import page, table

if TYPE_CHECKING:
    import pandas as pd

JUDGED: Final = ("judged.json", "genes.csv", "maps.csv", "filter.csv", "sites.csv", "ledger.csv", "planted.png",
                 "index.html")  # fmt: skip
_SYNTHETIC: Final = "SYNTHETIC: painted slides. This says how a pipeline works, not what lung tissue shows."
_TITLES: Final = {
    "genes": "AUC by patient, over all patients and within a diagnosis",
    "filter": "Filter, by kind of artefact", "sites": "Colour distance between sites [grey levels]",
    "ledger": "Rows of the file",
}  # fmt: skip


@dataclass(frozen=True)
class JudgeOptions:
    """What is to be judged beside the scores.

    Attributes
    ----------
    truth : folder of the cohort, as ``deeplrhe synth`` wrote it
    maps : tile scores or heat maps, where they are not in the scores' file
    masks : folder of what was flagged or kept; None: not judged
    tiles, raw_tiles : folders of tiles after and before normalization
    classes, tile_um : as for `read_answers`
    min_positives : least patients in each class for an AUC
    """

    truth: Path
    maps: Path | None = None
    masks: Path | None = None
    tiles: Path | None = None
    raw_tiles: Path | None = None
    classes: Path | None = None
    tile_um: float = reader.TILE_UM
    min_positives: int = 3


def judge_answers(path: Path, out: Path, options: JudgeOptions, tell: Callable[[str], None] = print) -> pd.DataFrame:
    """Judge predictions and write the files of :data:`JUDGED`; returns what ``genes.csv`` receives.

    Parameters
    ----------
    path : predictions, see `read_answers`
    out : folder of the results; files of those names are replaced if an earlier call wrote them

    Raises InputError, AnnotationError, LabelError, ParameterError: as the readers.
    """
    import pandas as pd

    cohort = read_planted(options.truth)
    classes = read_classes(options.classes) if options.classes else ()
    said = reader.read_answers(path, cohort, classes, options.tile_um)
    drawn = reader.read_answers(options.maps, cohort, classes, options.tile_um) if options.maps else said
    claim(out, "judge", JUDGED)
    cross_fitted = said.scores.predictions["fold"].nunique() > 1
    scores = pooled(said.scores)
    genes = verdicts.gene_table(scores, cohort, cross_fitted=cross_fitted, min_positives=options.min_positives)
    found = verdicts.verdicts(genes)
    sentences, notes = list(found["sentence"]), list(scores.notes)
    if "slide" in scores.units:
        notes += reader.missing_note(cohort, scores.predictions["slide_id"])
    tables = {"genes": genes.merge(found[["gene", "verdict"]], on="gene")}
    if len(drawn.places):
        tables["maps"] = verdicts.map_rows(drawn, cohort)
        region = cohort.patients.loc[(cohort.patients["where"] == "region") & (cohort.patients["d"] > 0), "gene"]
        sentences += verdicts.map_sentences(tables["maps"], region.drop_duplicates())
    else:
        notes.append("No tile has a place, so no map was judged: give x, y and size, or --maps.")
    if options.masks:
        tables["filter"], more = beside.judge_masks(options.masks, cohort)
        sentences += [_filter_sentence(row) for row in tables["filter"].to_dict("records")]
        notes += more
    sites = {}
    for when, folder in (("before", options.raw_tiles), ("after", options.tiles)):
        if folder:
            sites[when], more = beside.judge_colours(folder, cohort)
            sentences.append(f"Colour {when} normalization: {sites[when]['between']:.1f} grey levels between sites, "
                             f"{sites[when]['within']:.1f} within them; the most similar patient is of the same site "
                             f"in {sites[when]['neighbour']:.0%}, by chance {sites[when]['chance']:.0%}.")  # fmt: skip
            notes += more
    if sites:
        tables["sites"] = pd.DataFrame(sites).T.rename_axis("when").reset_index()
    read = {path: said, options.maps or path: drawn}
    tables["ledger"] = pd.concat([one.scores.ledger.assign(file=name.name) for name, one in read.items()])
    for name in JUDGED:
        (out / name).unlink(missing_ok=True)
    for name, frame in tables.items():
        write_sheet(frame, out / f"{name}.csv")
    records = {name: json.loads(frame.to_json(orient="records", double_precision=15)) for name, frame in tables.items()}
    write_json(out / "judged.json", {"synthetic": True, "findings": sentences, "notes": notes, **records})
    _draw(tables, out / "planted.png")
    write_text(out / "index.html", _page(path, sentences, notes, tables))
    rows = [f"{row.rows:>9,} rows of {row.file}: {row.outcome}" + (f" ({row.examples})" if row.examples else "")
            for row in tables["ledger"].itertuples()]  # fmt: skip
    for line in [*(f"Note: {note}" for note in notes), *rows, *sentences, f"Results: {out / 'index.html'}"]:
        tell(line)
    return tables["genes"]


def _filter_sentence(row: dict[str, Any]) -> str:
    n, share = (
        row["affected"],
        {key: share_text(row[key]).replace("nan", "–") for key in ("precision", "recall", "dropped")},
    )
    found = (f"recall {share['recall']} of {n} affected tiles, precision {share['precision']} of "
             f"{row['seen']:.0f} flagged; {share['dropped']} of the affected are gone.")  # fmt: skip
    return f"Filter, {row['artefact']}: " + (found if row["looked_for"] else f"not looked for by name; affected: {n}.")


def _draw(tables: dict[str, pd.DataFrame], path: Path) -> None:
    from deeplrhe_utils.reporting.audit_figures import planted
    from deeplrhe_utils.reporting.figures.style import new_figure

    figure = new_figure(9.5, 4.6, 0.8)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    genes = tables["genes"]
    planted.draw_recovery(left, genes[genes["patients"] == verdicts.EVERYBODY].reset_index(drop=True))
    if "maps" in tables and len(maps := tables["maps"]):
        gene = maps["gene"].iloc[0]
        planted.draw_inside(right, maps[maps["gene"] == gene], gene)
    else:
        right.set_axis_off()
    with atomic_path(path) as part:
        figure.savefig(part, dpi=150, format="png")


def _page(path: Path, sentences: list[str], notes: list[str], tables: dict[str, pd.DataFrame]) -> str:
    findings, remarks = ("".join(f"<li>{escaped(text)}</li>" for text in texts) for texts in (sentences, notes))
    lines = [f"<h1>Planted and found: {escaped(path.name)}</h1>", f'<p class="banner">{_SYNTHETIC}</p>',
             f"<h2>Findings</h2><ul>{findings}</ul><h2>Notes</h2><ul>{remarks}</ul>",
             '<h2>Figure</h2><figure><img src="planted.png" alt="AUC per gene beside what was planted, and maps" '
             'style="max-height: none"><figcaption>SYNTHETIC. Left: AUC by patient, 95 %; mutated/wild type in '
             "brackets. Right: a dot per slide; triangle: a perfect reader.</figcaption></figure>"]  # fmt: skip
    for name, frame in tables.items():
        if name in _TITLES:
            shown = frame[_SHOWN].sort_values("gene", kind="stable") if name == "genes" else frame
            lines += [f"<h2>{_TITLES[name]}</h2>", table(shown, _TITLES[name])]
    lines.append(" · ".join(f'<a href="{n}">{n}</a>' for n in [*(f"{n}.csv" for n in tables), "judged.json"]))
    return page(f"Planted and found: {path.name}", "\n".join(lines))


_SHOWN: Final = ["gene", "verdict", "patients", "n_pos", "n_neg", "auc", "ci_low", "ci_high", "p_holm", "oracle_auc",
                 "bayes_auc", "diagnosis_auc", "clinical_auc", "site_auc"]  # fmt: skip
