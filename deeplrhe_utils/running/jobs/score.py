"""``deeplrhe score``: anybody's scores in, AUCs with intervals, figures and a short page out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplrhe_utils.acquisition.labels.labels import read_labels
from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.files import atomic_path, claim, write_text
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.core.text import escaped, share_text
from deeplrhe_utils.evaluation.auc.deeppath import is_stats, read_classes, read_stats
from deeplrhe_utils.evaluation.auc.score_file import Scores, parse_columns, pooled, read_scores
from deeplrhe_utils.evaluation.auc.table import curve, gene_metrics, headline_rows
from deeplrhe_utils.evaluation.auc.units import AGGREGATION_RULES, UNITS, aggregate, align_folds, with_labels
from deeplrhe_utils.running.page.html import page, table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SCORE_COLUMNS: Final = [
    "gene", "unit", "auc", "ci_low", "ci_high", "ci_method", "n_pos", "n_neg", "p", "p_holm", "p_fdr",
    "average_precision", "status", "reason",
]  # fmt: skip
"""Columns of ``auc.csv``, a row per gene, unit and interval method."""
_DRAWN: Final = 12
_Tell = Callable[[str], None]


@dataclass(frozen=True)
class ScoreOptions:
    """What is asked of a table of scores.

    Attributes
    ----------
    unit : patient, slide, tile or all
    rule : how tiles become a unit's score
    labels : table of labels (patient_id and a column per gene) instead of the file's own
    classes : DeepPATH's file of class names
    columns : such as ``label=outcome,score=ndka``
    positive, negative : words for labels 1 and 0
    rows : slide or tile: what a row is, where no column names it
    genes : columns of `labels` to read; empty: those that look like gene symbols
    any_scale : whether scores outside [0, 1] are taken
    min_positives, resamples, seed : as for `gene_metrics`
    """

    unit: str = "patient"
    rule: str = "mean"
    labels: Path | None = None
    classes: Path | None = None
    columns: str = ""
    positive: str = ""
    negative: tuple[str, ...] = ()
    rows: str = ""
    genes: tuple[str, ...] = ()
    any_scale: bool = False
    min_positives: int = 5
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.unit not in (*UNITS, "all"):
            raise ParameterError("Unknown unit", got=self.unit, expected=" | ".join((*UNITS, "all")))
        if self.negative and not self.positive:
            raise ParameterError("--negative names words for 0, and --positive none for 1", fix="Name both")
        if self.rule not in AGGREGATION_RULES:
            raise ParameterError("Unknown rule", got=self.rule, expected=" | ".join(AGGREGATION_RULES))
        if self.resamples < 100:
            raise ParameterError("An interval needs more draws", got=self.resamples, expected="100 or more")


def score(path: Path, out: Path, options: ScoreOptions | None = None, tell: _Tell = print) -> pd.DataFrame:
    """Score a table and write ``auc.csv``, ``ledger.csv``, ``roc.png``, ``calibration.png`` and ``index.html``.

    Parameters
    ----------
    path : a CSV (`read_scores`) or DeepPATH's ``out_filename_Stats.txt``
    out : folder of the results; files of those names are replaced if an earlier call wrote them
    tell : receives lines of text

    Returns what ``auc.csv`` receives.
    Raises InputError, LabelError, ParameterError: as the readers; a unit that the file does not name.
    """
    options = options or ScoreOptions()
    scores = _read(path, options)
    claim(out, "score", ("auc.csv", "ledger.csv", "roc.png", "calibration.png", "index.html"))
    cross_fitted = scores.predictions["fold"].nunique() > 1
    scores = pooled(scores)
    units = scores.units if options.unit == "all" else (options.unit,)
    if missing := [unit for unit in units if unit not in scores.units]:
        raise ParameterError(f"{path} names no {missing[0]}s", expected=" | ".join((*scores.units, "all")),
                             fix=f"Add a column {missing[0]}_id")  # fmt: skip
    for note in scores.notes:
        tell(f"Note: {note}")
    for row in scores.ledger.itertuples():
        tell(f"{row.rows:>9,} rows: {row.outcome}" + (f" ({row.examples})" if row.examples else ""))
    found = gene_metrics(scores.predictions, scores.labels, units=units, min_positives=options.min_positives,
                         resamples=options.resamples, seed=options.seed, rule=options.rule,
                         cross_fitted=cross_fitted)[SCORE_COLUMNS]  # fmt: skip
    for row in found[found.index.isin(headline_rows(found).index) | (found["unit"] != "patient")].to_dict("records"):
        tell(_sentence(row))
    write_sheet(found, out / "auc.csv")
    write_sheet(scores.ledger, out / "ledger.csv")
    _draw(scores, found, units[0], options, out)
    write_text(out / "index.html", _page(path, scores, found, options, out))
    tell(f"Results: {out / 'index.html'}")
    return found


def _read(path: Path, options: ScoreOptions) -> Scores:
    if is_stats(path):
        if options.labels or options.columns or options.positive or options.rows or options.any_scale:
            raise ParameterError("DeepPATH's file carries its own labels and scores",
                                 fix="Leave --labels, --columns, --positive, --rows and --any-scale out")  # fmt: skip
        return read_stats(path, read_classes(options.classes) if options.classes else ())
    if options.classes:
        raise ParameterError("--classes belongs to DeepPATH's out_filename_Stats.txt", got=path)
    labels = read_labels(options.labels, options.genes) if options.labels else None
    scores = read_scores(
        path, columns=parse_columns(options.columns), positive=options.positive, negative=options.negative,
        labels=labels, a_row=options.rows, any_scale=options.any_scale,
    )  # fmt: skip
    return scores if labels is None else replace(scores, notes=(*labels.attrs["notes"], *scores.notes))


def _sentence(row: dict[str, Any]) -> str:
    head = f"{row['gene']}, {row['unit']}: "
    if row["status"] != "estimated":
        return head + f"not estimable; {row['reason']}"
    auc, low, high = (share_text(row[name], 3) for name in ("auc", "ci_low", "ci_high"))
    return head + f"AUC {auc} [{low}, {high}] ({row['n_pos']} positive, {row['n_neg']} negative; {row['ci_method']})"


def _draw(scores: Scores, found: pd.DataFrame, unit: str, options: ScoreOptions, out: Path) -> None:
    """Figures of the genes that have an AUC; without one, older figures are removed: they would belong to others."""
    from deeplrhe_utils.evaluation.precision.calibration import reliability
    from deeplrhe_utils.reporting.audit_figures import precision
    from deeplrhe_utils.reporting.figures import style

    for name in ("roc.png", "calibration.png"):
        (out / name).unlink(missing_ok=True)
    best = found[(found["unit"] == unit) & (found["status"] == "estimated")].drop_duplicates("gene").head(_DRAWN)
    if best.empty:
        return
    ranked = with_labels(align_folds(aggregate(scores.predictions, unit, options.rule)), scores.labels)
    curves = {g: curve(ranked[ranked["gene"] == g], resamples=200, seed=options.seed) for g in best["gene"]}
    _save(style.roc(curves, best, f"{unit}s"), out / "roc.png")
    if scores.probabilities:
        panels = {}
        plain = with_labels(aggregate(scores.predictions, "patient", options.rule), scores.labels)
        for gene in best["gene"]:
            own = plain[plain["gene"] == gene]
            bins = reliability(own["label"].to_numpy(int), own["score"].to_numpy(float))
            panels[gene] = {"as given": bins}
        _save(precision.calibration(panels), out / "calibration.png")


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as part:
        figure.savefig(part, dpi=150, format="png")


def _page(path: Path, scores: Scores, found: pd.DataFrame, options: ScoreOptions, out: Path) -> str:
    lines = [
        f"<h1>Scores of {escaped(Path(path).name)}</h1>",
        f'<p class="soft">{options.resamples:,} draws, seed {options.seed}; intervals: 95 %. AUCs with fewer than '
        f"{options.min_positives} patients in a class are not estimable.</p>",
        *(f"<p>{escaped(note)}</p>" for note in scores.notes),
    ]  # fmt: skip
    if len(scores.units) > 1:
        lines.append(
            f"<p>Scores of tiles or slides become a patient's score by the rule “{escaped(options.rule)}”.</p>"
        )
    kept = found["gene"][found["status"] == "estimated"].nunique()
    drawn = f"; the first {_DRAWN} of {kept}" if kept > _DRAWN else ""
    for name, title, said in (
        ("roc.png", "ROC curves", f"pointwise 95 % band, patients resampled{drawn}"),
        ("calibration.png", "Calibration by patient", f"bins of equal counts of patients, Wilson 95 %{drawn}"),
    ):
        if (out / name).is_file():
            picture = f'<img src="{name}" alt="{title}: {said}" style="width: auto; max-width: 100%">'
            lines.append(f"<h2>{title}</h2><figure>{picture}<figcaption>{said}</figcaption></figure>")
    lines += ["<h2>Area under the ROC curve</h2>", table(found.dropna(axis=1, how="all")),
              "<h2>Rows of the file</h2>", table(scores.ledger)]  # fmt: skip
    lines.append('<p><a href="auc.csv">auc.csv</a> · <a href="ledger.csv">ledger.csv</a></p>')
    return page(f"Scores of {Path(path).name}", "\n".join(lines))
