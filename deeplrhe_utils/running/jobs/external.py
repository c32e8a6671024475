"""``deeplrhe external``: the frozen networks and probes of one run, on the patients of another, and back again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from deeplrhe_utils.core.errors import CohortError, CompendiumError, InputError, ModelError, ParameterError
from deeplrhe_utils.core.files import atomic_path, claim, read_json, write_text
from deeplrhe_utils.core.paths import RunPaths
from deeplrhe_utils.core.tables.contract import read_table
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.core.tables.schemas import CLINICAL, LABELS, PREDICTIONS, SLIDES, TILES
from deeplrhe_utils.core.text import escaped, on_one_line
from deeplrhe_utils.evaluation.auc.units import aggregate, align_folds, with_labels
from deeplrhe_utils.evaluation.precision.calibration import reliability
from deeplrhe_utils.evaluation.precision.decision import decision_curve
from deeplrhe_utils.evaluation.precision.external import (
    ALL_PATIENTS,
    judge_groups,
    networks_elsewhere,
    probe_elsewhere,
    transfer_sentence,
)
from deeplrhe_utils.learning.networks.cards import data_kind
from deeplrhe_utils.learning.networks.deeplrhe import read_card
from deeplrhe_utils.learning.probes.readers import means_by_patient, partitions
from deeplrhe_utils.learning.scoring.prediction import SCORED, ScoreTask, not_scored, score_slide, scorer_of
from deeplrhe_utils.learning.tiles.normalizing import statistics_rows
from deeplrhe_utils.reporting.audit_figures.precision import transfer_figure, usefulness
from deeplrhe_utils.running.machine.engine import map_surviving
from deeplrhe_utils.running.machine.provenance import usable_cores
from deeplrhe_utils.running.page.html import page, table
from deeplrhe_utils.running.stage.results import label_free

TRANSFER, SCORES, LEFT_OUT, CURVES = "external.csv", "scores.csv", "left_out.csv", "net_benefit.csv"
_SHOWN: Final = {"external.png": "AUC, slope and O/E elsewhere", "usefulness.png": "calibration and net benefit"}
NETWORKS, PROBE = "networks", "probe"
_KEYS: Final = ["model", "where", "reader", "patients"]
_SAME: Final = {"02-tiling": ("target_mpp", "tile_px"), "04-dcgmm-normalization": ("store_px", "probe_features")}
_DRAWN: Final = 4  # genes whose curves are drawn


@dataclass(frozen=True)
class ExternalOptions:
    """How a run is tried on another's patients.

    Attributes
    ----------
    min_positives : least patients of each class, at least 2
    folds, repeats : divisions of a run's own patients, for the probe's map to probabilities
    workers : processes; 0 is one per core; never changes a result
    device : torch device name, or "auto"
    seed : fixes everything random
    """

    min_positives: int = 5
    folds: int = 5
    repeats: int = 10
    workers: int = 0
    device: str = "auto"
    seed: int = 1

    def __post_init__(self) -> None:
        for name, least in {"min_positives": 2, "folds": 2, "repeats": 1, "workers": 0}.items():
            if getattr(self, name) < least:
                raise ParameterError(f"--{name.replace('_', '-')} is too small", got=getattr(self, name),
                                     expected=f"{least} or more")  # fmt: skip


class FinishedRun:
    """What a finished run has for others: its patients, tiles, features and networks.

    Raises InputError: `root` is no run folder, or notebooks 01 to 04 have not run there, or their heavy files are gone.
    """

    def __init__(self, root: Path) -> None:
        self.paths, self.name = RunPaths(root), root.resolve().name
        missing = [n for n in ("slides", "labels", "tiles") if not (self.paths.tables / f"{n}.parquet").is_file()]
        if missing:
            raise InputError(f"{root} is no run that another can be tried on", got=f"no table {', '.join(missing)}",
                             expected="a run folder in which notebooks 01 to 04 have run",
                             fix="deeplrhe run PROFILE --to 04 --out " + str(root))  # fmt: skip
        self.labels, self.tiles = (read_table(self.paths.tables / f"{n}.parquet", t)
                                   for n, t in (("labels", LABELS), ("tiles", TILES)))  # fmt: skip

    def number_of(self, stage: str, name: str) -> Any:
        """A number that a stage wrote, None where it did not."""
        file = self.paths.numbers / f"{stage}.json"
        return read_json(file).get(name) if file.is_file() else None

    @property
    def people(self) -> set[str]:
        """Everybody with a tile or a label."""
        return {*self.tiles["patient_id"], *self.labels["patient_id"]}

    @cached_property
    def features(self) -> pd.DataFrame:
        """Mean label-free features (unchanged colours) of each patient, of selected tiles."""
        tiles = self.tiles[self.tiles["selected"]]
        try:
            return means_by_patient(label_free(self, "none", tiles["tile_id"]), tiles["patient_id"])
        except FileNotFoundError as cause:
            raise InputError(f"The run {self.name} has no label-free features", got=str(cause),
                             fix="Run its notebook 04 on this machine: they are not committed") from cause  # fmt: skip

    @cached_property
    def histology(self) -> pd.Series:
        """Diagnosis by patient, where clinical data tell it."""
        file = self.paths.tables / "clinical.parquet"
        told = read_table(file, CLINICAL) if file.is_file() else pd.DataFrame(columns=["patient_id", "histology"])
        return told.set_index("patient_id")["histology"]

    @property
    def networks(self) -> list[Path]:
        """One network per fold, of the first seed."""
        return sorted((self.paths.models / "05").glob("fold-*.safetensors"))

    @property
    def warning(self) -> str:
        """What must be said before a number of this run is read."""
        try:
            kinds = {data_kind(read_card(file)) for file in self.networks[:1]}
        except ModelError:  # it is told where the networks are tried
            kinds = set()
        synthetic = self.number_of("01-data-acquisition", "input_kind") == "synthetic" or "synthetic" in kinds
        return f"{self.name} is SYNTHETIC: its numbers show how the pipeline works." if synthetic else ""

    @cached_property
    def slide_rows(self) -> dict[str, dict[str, Any]]:
        """Usable slides by name, with absolute paths."""
        slides = read_table(self.paths.tables / "slides.parquet", SLIDES)
        slides = slides[slides["status"] == "ok"]
        paths = [os.path.normpath(self.paths.root.resolve() / str(path)) for path in slides["path"]]
        return slides.assign(path=paths).set_index("slide_id", drop=False).to_dict("index")


def external(
    model: Path, other: Path, out: Path, options: ExternalOptions | None = None, tell: Callable[[str], None] = print
) -> pd.DataFrame:
    """Try what run `model` learned on the patients of run `other`, and what `other` learned, if anything, on `model`'s.

    Parameters
    ----------
    model, other : run folders (`deeplrhe run`); of `other` notebooks 01 to 04 suffice
    out : receives ``external.csv`` (as returned), ``scores.csv`` (patient_id, gene, probability, label),
        ``left_out.csv`` (who was not judged, and why), ``net_benefit.csv``, pictures and ``index.html``

    Returns DataFrame: model, where, reader ("networks", "probe"), patients (all, or adenocarcinomas), and
    `TRANSFER_COLUMNS`. Patients whom both runs have are left out.
    Raises InputError: a folder is no such run. CohortError: nobody is left to judge; no reader could be tried.
    """
    options = options or ExternalOptions()
    runs = FinishedRun(model), FinishedRun(other)
    if not runs[1].people - runs[0].people:
        raise CohortError("The two runs have the same patients: nothing is external", got=f"{model} and {other}",
                          fix="Give a run of another cohort as --on")  # fmt: skip
    claim(out, "external", (TRANSFER, SCORES, LEFT_OUT, CURVES, *_SHOWN, "index.html"))
    notes = [run.warning for run in runs if run.warning]
    for note in notes:
        tell(on_one_line(note))
    warned = len(notes)
    found, scores, lost = [], [], []
    for own, there in (runs, runs[::-1]):
        for reader, said, at_home, left in _readers(own, there, options, notes):
            keys = {"model": own.name, "where": there.name, "reader": reader}
            lost.append(left.assign(**keys))
            scores.append(with_labels(said, there.labels).assign(**keys))
            rows = judge_groups(said, at_home, there.labels, (own.histology, there.histology), options.min_positives)
            found.append(rows.assign(**keys))
            for group, part in rows.groupby("patients", sort=False):
                tell(on_one_line(f"{own.name} → {there.name}, {reader}, {group}: {transfer_sentence(part)}"))
    for note in notes[warned:]:
        tell(on_one_line(note))
    if not found:
        raise CohortError("No reader could be tried elsewhere", got="; ".join(notes) or "neither features nor networks",
                          fix="Run notebook 04 (features) in both runs, or 05 (networks) in the first")  # fmt: skip
    judged = pd.concat(found, ignore_index=True)
    judged = judged[[*_KEYS, *(column for column in judged if column not in _KEYS)]]
    _write(judged, pd.concat(scores), pd.concat(lost), notes, out, options)
    return judged


_Tried = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]
"""Probabilities elsewhere; own held-out scores with labels; who was left out."""


def _readers(
    own: FinishedRun, there: FinishedRun, options: ExternalOptions, notes: list[str]
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
    """Each reader of `own` that can be tried: its name, and what it says."""
    both = sorted(own.people & there.people)
    strangers = there.people - own.people
    for reader, use in ((NETWORKS, _networks), (PROBE, _probe)):
        try:
            _check_same(own, there)
            said, at_home, left = use(own, there, strangers, options)
        except CompendiumError as error:
            notes.append(f"{own.name} → {there.name}: the {reader} could not be tried: {error}")
            continue
        silent = sorted((strangers & set(there.labels["patient_id"])) - set(said["patient_id"]))
        known = _left([(p, f"a patient of {own.name}, too") for p in both] + [(p, "no score") for p in silent])
        yield reader, said, at_home, pd.concat([left, known], ignore_index=True)


def _check_same(own: FinishedRun, there: FinishedRun) -> None:
    """Tiles and features of both runs mean the same."""
    for stage, names in _SAME.items():
        for name in names:
            a, b = own.number_of(stage, name), there.number_of(stage, name)
            if a != b:
                raise CohortError(f"The runs differ in {name} of {stage}", got=b, expected=f"{a}, as in {own.name}",
                                  fix=f"Run {there.name} again with -p {name}={a}")  # fmt: skip


def _probe(own: FinishedRun, there: FinishedRun, strangers: set[str], options: ExternalOptions) -> _Tried:
    elsewhere = there.features[there.features.index.isin(strangers)]
    cut = partitions(len(own.features), options.folds, options.repeats, options.seed)
    said = probe_elsewhere(own.features, own.labels, elsewhere, cut, options.min_positives)
    return said[~said["here"]], with_labels(said[said["here"]], own.labels), _left([])


def _networks(own: FinishedRun, there: FinishedRun, strangers: set[str], options: ExternalOptions) -> _Tried:
    if not own.networks:
        raise InputError(f"The run {own.name} has no networks of tiles",
                         fix="Run its notebook 05, if it has slides or tiles and no given features")  # fmt: skip
    held = aggregate(read_table(own.paths.tables / "predictions.parquet", PREDICTIONS))
    scored, lost = _scored(own, there, strangers, options)
    said = networks_elsewhere(scored, with_labels(held, own.labels))
    return said, with_labels(align_folds(held), own.labels), _left(lost)


_Pairs = list[tuple[str, str]]


def _scored(
    own: FinishedRun, there: FinishedRun, strangers: set[str], options: ExternalOptions
) -> tuple[pd.DataFrame, _Pairs]:
    """Per network, patient and gene the mean score of the selected tiles; and slides without one, with the reason."""
    cards = {file: read_card(file) for file in own.networks}
    first, workers = next(iter(cards.values())), options.workers or usable_cores()
    scorer = scorer_of(first, own.number_of("02-tiling", "target_mpp"), own.number_of("02-tiling", "tile_px"),
                       statistics_tiles=own.number_of("04-dcgmm-normalization", "statistics_tiles"),
                       device=options.device, threads=max(1, usable_cores() // workers))  # fmt: skip
    tasks, lost = [], []
    asked = there.tiles["patient_id"].isin(strangers & set(there.labels["patient_id"]))
    for name, part in there.tiles[there.tiles["kept"] & asked].groupby("slide_id", sort=True):
        drawn = part[part["selected"]]
        if drawn.empty or name not in there.slide_rows:
            lost.append((str(name), "no tile was selected there" if drawn.empty else "the slide is excluded there"))
            continue
        # the slide's colours come from more tiles than are scored, as in notebook 04
        tiles = pd.concat([drawn, statistics_rows(part, scorer.statistics_tiles)]).drop_duplicates("tile_id")
        tasks += [ScoreTask(there.slide_rows[str(name)], tiles, file.resolve(), scorer) for file in cards]
    done = map_surviving(score_slide, tasks, not_scored, workers=workers, label="slides × networks scored")
    rows = []
    for task, result in zip(tasks, done, strict=True):
        drawn = task.tiles["selected"].to_numpy(bool)
        if result.status != SCORED or not np.isfinite(result.scores[drawn]).any():
            lost.append((f"{task.slide['slide_id']} by {task.model.name}", result.reason or "no tile could be read"))
            continue
        long = pd.DataFrame(result.scores[drawn], columns=list(result.genes)).melt(var_name="gene", value_name="score")
        rows.append(long.assign(patient_id=str(task.slide["patient_id"]), model=task.model.name))
    empty = pd.DataFrame(columns=["gene", "score", "patient_id", "model"])
    tiles = pd.concat(rows, ignore_index=True) if rows else empty
    return tiles.dropna(subset=["score"]).groupby(["model", "gene", "patient_id"], as_index=False)["score"].mean(), lost


def _left(pairs: _Pairs) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["unit", "reason"])


def _write(
    judged: pd.DataFrame,
    scores: pd.DataFrame,
    lost: pd.DataFrame,
    notes: list[str],
    out: Path,
    options: ExternalOptions,
) -> None:
    write_sheet(judged, out / TRANSFER)
    write_sheet(scores[["model", "where", "reader", "patient_id", "gene", "score", "label"]], out / SCORES)
    write_sheet(
        lost[["model", "where", "reader", "unit", "reason"]].rename(columns={"unit": "patient or slide"}),
        out / LEFT_OUT,
    )
    done = judged[(judged["status"] == "estimated") & (judged["patients"] == ALL_PATIENTS)]
    keys, curves, bins = ["model", "where", "reader", "gene"], {}, {}
    own = dict(iter(scores.groupby(keys, sort=False)))
    for row in done.sort_values("auc", ascending=False).to_dict("records"):
        mine = own[tuple(row[key] for key in keys)]
        name = f"{row['gene']}, {row['reader']}, {row['model']} → {row['where']}"
        curves[name] = {"frozen": decision_curve(mine.assign(fold=0), seed=options.seed)}
        bins[name] = {"frozen": reliability(mine["label"].to_numpy(np.int64), mine["score"].to_numpy(float), 5)}
    flat = [t["frozen"].assign(curve=name) for name, t in curves.items()]
    write_sheet(pd.concat(flat) if flat else pd.DataFrame(columns=["threshold", "curve"]), out / CURVES)
    drawn = list(curves)[:_DRAWN]
    pictures = {"external.png": transfer_figure(judged)}
    if drawn:
        pictures["usefulness.png"] = usefulness({n: bins[n] for n in drawn}, {n: curves[n] for n in drawn})
    for file, figure in pictures.items():
        with atomic_path(out / file) as part:
            figure.savefig(part, dpi=150, format="png")
    said = [f"<p>{escaped(note)}</p>" for note in notes]
    said += [f"<p><b>{escaped(', '.join(names))}</b>: {escaped(transfer_sentence(rows))}</p>"
             for names, rows in judged.groupby(_KEYS, sort=False)]  # fmt: skip
    images = [f'<figure><img src="{file}" alt="{_SHOWN[file]}" style="width: auto; max-width: 100%"></figure>'
              for file in pictures]  # fmt: skip
    links = " · ".join(f'<a href="{n}">{n}</a>' for n in (TRANSFER, SCORES, LEFT_OUT, CURVES))
    body = ["<h1>External validation</h1>", *said, *images, table(judged.round(3)), f"<p>{links}</p>"]
    write_text(out / "index.html", page("External validation", "\n".join(body)))
