"""``deeplrhe score``: anybody's scores in, AUCs and their like with intervals, figures and a short page out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from deeplrhe_utils.acquisition.labels.labels import read_labels
from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.files import atomic_path, claim, write_text
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.core.text import escaped, share_text, shortened, with_ends
from deeplrhe_utils.evaluation.auc.deeppath import is_stats, read_classes, read_stats
from deeplrhe_utils.evaluation.auc.peers import STAMP_WHY, read_peer
from deeplrhe_utils.evaluation.auc.score_file import OUTCOMES, Scores, parse_columns, pooled, read_scores
from deeplrhe_utils.evaluation.auc.table import curve, gene_metrics, headline_rows
from deeplrhe_utils.evaluation.auc.units import AGGREGATION_RULES, UNITS, aggregate, align_folds, with_labels
from deeplrhe_utils.evaluation.referee.outcomes import EXPLAINED, outcome_metrics, patient_outcomes, turned
from deeplrhe_utils.running.page.html import page, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORE_COLUMNS: Final = [
    "gene", "unit", "auc", "ci_low", "ci_high", "ci_method", "n_pos", "n_neg", "p", "p_holm", "p_fdr",
    "average_precision", "status", "reason",
]  # fmt: skip
"""Columns of ``auc.csv``, a row per gene, unit and interval method."""
_DRAWN: Final = 12
_WRITTEN: Final = ("auc.csv", "metrics.csv", "ledger.csv", "roc.png", "calibration.png", "outcomes.png", "index.html")
_Tell = Callable[[str], None]


@dataclass(frozen=True)
class ScoreOptions:
    """What is asked of a table of scores.

    Attributes
    ----------
    task : classification, regression or survival; empty: what the file's layout says, else classification
    higher_is : risk or survival: which a higher score means, where the task is survival
    times : at which to give the AUC of survival; empty: quartiles of the times of events
    unit : patient, slide, tile or all
    rule : how tiles become a unit's score
    labels : table of labels (patient_id and a column per gene) instead of the file's own
    classes : DeepPATH's file of class names
    columns : such as ``label=outcome,score=ndka``; then no other program's layout is looked for
    positive, negative : words for labels (or events) 1 and 0; of another program the class that counts as 1
    rows : slide or tile: what a row is, where no column names it
    genes : columns of `labels` to read; empty: those that look like gene symbols
    any_scale : whether scores outside [0, 1], or of another scale than the values, are taken
    min_positives, resamples, seed : as for `gene_metrics`
    """

    task: str = ""
    higher_is: str = "risk"
    times: tuple[float, ...] = ()
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
        if self.task not in ("", *OUTCOMES):
            raise ParameterError("Unknown task", got=self.task, expected=" | ".join(OUTCOMES))
        if wrong := [time for time in self.times if not time > 0]:
            raise ParameterError("A time is not above 0", got=wrong[0])
        if self.negative and not self.positive:
            raise ParameterError("--negative names words for 0, and --positive none for 1", fix="Name both")
        if self.rule not in AGGREGATION_RULES:
            raise ParameterError("Unknown rule", got=self.rule, expected=" | ".join(AGGREGATION_RULES))
        if self.resamples < 100:
            raise ParameterError("An interval needs more draws", got=self.resamples, expected="100 or more")


def score(
    paths: Path | Sequence[Path], out: Path, options: ScoreOptions | None = None, tell: _Tell = print
) -> pd.DataFrame:  # fmt: skip
    """Score a table; write ``auc.csv`` (of values and survival ``metrics.csv``), ``ledger.csv``, figures and a page.

    Parameters
    ----------
    paths : a CSV (`read_scores`), DeepPATH's ``out_filename_Stats.txt``, or files or a folder of `read_peer`
    out : folder of the results; files of those names are replaced if an earlier call wrote them
    tell : receives lines of text

    Returns what ``auc.csv`` or ``metrics.csv`` receives.
    Raises InputError, LabelError, ParameterError: as the readers; a unit that the file does not name.
    """
    options = options or ScoreOptions()
    paths = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    title = f"Scores of {shortened([path.name or str(path) for path in paths])}"
    scores, own = _read(paths, options)
    claim(out, "score", _WRITTEN)
    scores = pooled(scores)
    by_class = scores.task == "classification"
    units = scores.units if options.unit == "all" else (options.unit,)
    if missing := [unit for unit in units if unit not in scores.units]:
        raise ParameterError(f"{paths[0]} names no {missing[0]}s", expected=" | ".join((*scores.units, "all")),
                             fix=f"Add a column {missing[0]}_id")  # fmt: skip
    for name in _WRITTEN:  # of an earlier call, perhaps of another task
        (out / name).unlink(missing_ok=True)
    if by_class:
        found = gene_metrics(scores.predictions, scores.labels, units=units, min_positives=options.min_positives,
                             resamples=options.resamples, seed=options.seed, rule=options.rule,
                             cross_fitted=scores.cross_fitted)[SCORE_COLUMNS]  # fmt: skip
        first = found[found.index.isin(headline_rows(found).index) | (found["unit"] != "patient")]
        _draw(scores, found, units[0], options, out)
    else:
        patients = patient_outcomes(scores.predictions, scores.labels, options.rule)
        found = outcome_metrics(patients, times=options.times, own_scale=not options.any_scale, seed=options.seed,
                                least=options.min_positives, resamples=options.resamples,
                                cross_fitted=scores.cross_fitted)  # fmt: skip
        first = found.drop_duplicates(["gene", "metric", "time"])
        scores = replace(scores, notes=(*scores.notes, *turned(found)))
        _draw_outcomes(patients, first, out)
    for note in scores.notes:
        tell(f"Note: {note}")
    for row in scores.ledger.itertuples():
        tell(f"{row.rows:>9,} rows: {row.outcome}" + (f" ({row.examples})" if row.examples else ""))
    for row in first.to_dict("records"):
        tell(_sentence(row))
    if len(own):  # after ours: never the ones to read
        own = own.rename(columns={"estimate": "auc"} if by_class else {})
        own = own.assign(unit="patient", metric=EXPLAINED, status="as STAMP reports")
        found = pd.concat([found, own[[name for name in found if name in own]]], ignore_index=True)
    write_sheet(found, out / ("auc.csv" if by_class else "metrics.csv"))
    write_sheet(scores.ledger, out / "ledger.csv")
    write_text(out / "index.html", _page(title, scores, found, options, out))
    tell(f"Results: {out / 'index.html'}")
    return found


def _read(paths: list[Path], options: ScoreOptions) -> tuple[Scores, pd.DataFrame]:
    """The scores, and what the program that wrote them says of them."""
    if len(paths) == 1 and is_stats(paths[0]):
        if options.labels or options.columns or options.positive or options.rows or options.any_scale or options.task:
            raise ParameterError("DeepPATH's file carries its own labels and scores", fix="Leave --labels, --columns, "
                                 "--positive, --rows, --any-scale and --task out")  # fmt: skip
        return read_stats(paths[0], read_classes(options.classes) if options.classes else ()), pd.DataFrame()
    names = read_classes(options.classes) if options.classes else ()
    found = read_peer(paths, positive=options.positive, classes=names, as_is=bool(options.columns))
    task = options.task or found.task or "classification"
    if found.task and task != found.task:
        raise ParameterError(f"{found.path} is {found.layout}'s, of a {found.task}", got=f"--task {task}")
    known = found.layout and task == "classification"
    if names and not (known and found.layout != "STAMP"):
        raise ParameterError("--classes belongs to files of DeepPATH, CLAM and Slideflow", got=found.path)
    if task != "classification" and (options.labels or options.unit != "patient"):
        raise ParameterError(f"For {task} patients count, and columns of the file itself", fix="Leave --labels and "
                             "--unit out")  # fmt: skip
    if task != "survival" and (options.higher_is != "risk" or options.times):
        raise ParameterError("--higher-is and --times belong to --task survival", got=task)
    labels = read_labels(options.labels, options.genes) if options.labels else None
    scores = read_scores(
        found.path, columns=parse_columns(options.columns), positive="" if known else options.positive,
        negative=() if known else options.negative, labels=labels, a_row=options.rows or found.a_row,
        any_scale=options.any_scale, table=found.table, task=task,
    )  # fmt: skip
    notes = [*found.notes, *(labels.attrs["notes"] if labels is not None else ()), *scores.notes]
    notes += [STAMP_WHY] if len(found.own) else []
    if task == "survival":
        later = options.higher_is == "survival"
        notes.append(f"A higher score is read as {'a later' if later else 'an earlier'} event (--higher-is).")
        if later:
            scores = replace(scores, predictions=scores.predictions.assign(score=-scores.predictions["score"]))
    fitted = scores.cross_fitted or found.cross_fitted
    return replace(scores, notes=tuple(notes), cross_fitted=fitted), found.own


def _sentence(row: dict[str, Any]) -> str:
    head = f"{row['gene']}, {row.get('unit', 'patient')}: "
    if row["status"] != "estimated":
        return head + f"{row.get('metric', '')} not estimable; {row['reason']}".strip()
    if "auc" in row:
        auc, low, high = (share_text(row[name], 3) for name in ("auc", "ci_low", "ci_high"))
        return (
            head + f"AUC {auc} [{low}, {high}] ({row['n_pos']} positive, {row['n_neg']} negative; {row['ci_method']})"
        )
    events = "" if pd.isna(row["n_events"]) else f", {row['n_events']:.0f} events"
    return head + f"{_metric(row)} {with_ends(row, 'estimate', 3)} ({row['n']} patients{events}; {row['ci_method']})"


def _metric(row: dict[str, Any]) -> str:
    return row["metric"] if pd.isna(row["time"]) else f"{row['metric']} {row['time']:g}"


def _draw_outcomes(patients: pd.DataFrame, first: pd.DataFrame, out: Path) -> None:
    from deeplrhe_utils.reporting.audit_figures import outcomes

    kept = first.loc[first["status"] == "estimated", "gene"].drop_duplicates().head(_DRAWN)
    if len(kept):
        _save(outcomes.outcome_panels(patients[patients["gene"].isin(kept)], first), out / "outcomes.png")


def _draw(scores: Scores, found: pd.DataFrame, unit: str, options: ScoreOptions, out: Path) -> None:
    """Figures of the genes that have an AUC."""
    from deeplrhe_utils.evaluation.precision.calibration import reliability
    from deeplrhe_utils.reporting.audit_figures import precision
    from deeplrhe_utils.reporting.figures import style

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


def _page(title: str, scores: Scores, found: pd.DataFrame, options: ScoreOptions, out: Path) -> str:
    lines = [
        f"<h1>{escaped(title)}</h1>",
        f'<p class="soft">{options.resamples:,} draws, seed {options.seed}; intervals: 95 %. Nothing is estimated '
        f"with fewer than {options.min_positives} patients in a class, or events.</p>",
        *(f"<p>{escaped(note)}</p>" for note in scores.notes),
    ]  # fmt: skip
    if len(scores.units) > 1:
        lines.append(
            f"<p>Scores of tiles or slides become a patient's score by the rule “{escaped(options.rule)}”.</p>"
        )
    kept = found["gene"][found["status"] == "estimated"].nunique()
    drawn = f"; the first {_DRAWN} of {kept}" if kept > _DRAWN else ""
    for name, heading, said in (
        ("roc.png", "ROC curves", f"pointwise 95 % band, patients resampled{drawn}"),
        ("calibration.png", "Calibration by patient", f"bins of equal counts of patients, Wilson 95 %{drawn}"),
        ("outcomes.png", "Scores and outcomes", f"patients; of survival the AUC at each time{drawn}"),
    ):
        if (out / name).is_file():
            picture = f'<img src="{name}" alt="{heading}: {said}" style="width: auto; max-width: 100%">'
            lines.append(f"<h2>{heading}</h2><figure>{picture}<figcaption>{said}</figcaption></figure>")
    by_class = scores.task == "classification"
    lines += ["<h2>Area under the ROC curve</h2>" if by_class else "<h2>Estimates</h2>",
              table(found.dropna(axis=1, how="all")), "<h2>Rows of the file</h2>", table(scores.ledger)]  # fmt: skip
    name = "auc.csv" if by_class else "metrics.csv"
    lines.append(f'<p><a href="{name}">{name}</a> · <a href="ledger.csv">ledger.csv</a></p>')
    return page(title, "\n".join(lines))
