"""Scores for heat maps: every kept window of a slide, by a network that did not train on its patient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from deeplrhe_utils.core.errors import InputError, LeakError
from deeplrhe_utils.core.files import atomic_path, read_json, safe_name, write_json
from deeplrhe_utils.learning.networks.cards import (
    DENSE_FACTS,
    check_dense,
    facts_of,
    hash_patient,
    read_card,
    refuse_leak,
)
from deeplrhe_utils.learning.scoring.prediction import (
    Scored,
    ScoreTask,
    SlideScorer,
    Spread,
    in_turn,
    not_scored,
    score_slide,
)
from deeplrhe_utils.slides.tiles.between import windows_between
from deeplrhe_utils.slides.tiles.pixels import open_row
from deeplrhe_utils.slides.tiles.tiling import tissue_share

THUMBNAIL_PX: Final = 480
PICTURES: Final = ("slide", "tile", "normalized")
DAMAGED: Final = (200, 0, 0)
"""Colour of places of a thumbnail that cannot be decoded."""
_COORDINATES = ["tile_id", "slide_id", "x_l0_px", "y_l0_px", "size_l0_px"]


@dataclass
class SlideScores:
    """Window scores of some slides, with what is needed to draw them.

    Attributes
    ----------
    genes : targets that have a score on at least one slide
    windows : the tiles' scores by the first network: tile_id, slide_id, x_l0_px, y_l0_px, size_l0_px and one column per
        gene (null: no network could score it)
    dense : all scores, of tiles and of windows between them, by all networks: a row per window and network with the
        same columns and patient_id, on_grid (a tile), network (from 1) and model_hash
    thumbnails : slide_id → uint8 RGB (h, w, 3)
    sizes : slide_id → (width, height) [level-0 px]
    examples : slide_id → one tile before and after normalization
    cards : hash of a model → what its card tells (`facts_of`), of every network in `dense`
    tissue : slide_id → share of its tissue that lies in tiles with a score [0–1]
    notes : what was left out, and why
    stored : read back from a folder; then :meth:`save` writes nothing, because JPEGs lose a little each time
    """

    genes: list[str]
    windows: pd.DataFrame
    dense: pd.DataFrame
    thumbnails: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    examples: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    tissue: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stored: bool = False

    def measure_tissue(self, tiles: pd.DataFrame, whole_l0_px2: Mapping[str, float]) -> None:
        """Fill `tissue` from table TILES and the tissue of whole slides (`tissue.csv` of notebook 02)."""
        known = self.windows[self.windows[self.genes].notna().any(axis=1)] if self.genes else self.windows.iloc[:0]
        for name, own in tiles[tiles["tile_id"].isin(known["tile_id"])].groupby("slide_id"):
            if whole_l0_px2.get(str(name), 0.0) > 0:
                self.tissue[str(name)] = tissue_share(own, whole_l0_px2[str(name)])

    def save(self, folder: Path) -> list[Path]:
        """Write everything to `folder`, so that maps can be drawn where the slides are not; return the files."""
        tables = [folder / "windows.parquet", folder / "dense.parquet"]
        pictures = [heat_file(folder, name, f"-{kind}.jpg") for name in self.thumbnails for kind in PICTURES]
        if self.stored:
            return [*tables, folder / "slides.json", *pictures]
        for path, table in zip(tables, (self.windows, self.dense), strict=True):
            with atomic_path(path) as part:
                table.to_parquet(part, index=False)
        facts = {"genes": self.genes, "sizes": self.sizes, "cards": self.cards, "tissue": self.tissue,
                 "notes": self.notes}  # fmt: skip
        written = [*tables, write_json(folder / "slides.json", facts)]
        for name, picture in self.thumbnails.items():
            images = (picture, *self.examples[name])
            for kind, image in zip(PICTURES, images, strict=True):
                written.append(_write_jpeg(heat_file(folder, name, f"-{kind}.jpg"), image))
        return written


def heat_file(folder: Path, slide_id: str, ending: str) -> Path:
    """A file that belongs to one slide's heat map."""
    return folder / f"{safe_name(slide_id)}{ending}"


def _write_jpeg(path: Path, image: NDArray[np.uint8]) -> Path:
    with atomic_path(path) as part:
        Image.fromarray(image).save(part, "JPEG", quality=85)
    return path


def stored_scores(folder: Path) -> SlideScores:
    """Read what :meth:`SlideScores.save` wrote; `windows` is taken from the table of all scores.

    Raises InputError: there is nothing, or it is of an earlier version. LeakError, ModelError: a score is of a network
    that was trained on its patient, or of one without a card.
    """
    if not all((folder / name).is_file() for name in ("slides.json", "dense.parquet")):
        raise InputError(f"There are no stored heat-map scores in {folder}", fix="Run notebook 07 where the slides are")
    facts, dense = read_json(folder / "slides.json"), pd.read_parquet(folder / "dense.parquet")
    check_dense(dense, facts)
    stored = SlideScores(facts["genes"], _first(dense), dense, cards=facts["cards"], notes=facts["notes"], stored=True)
    stored.tissue = facts.get("tissue", {})
    for name, size in facts["sizes"].items():
        kinds = [np.asarray(Image.open(heat_file(folder, name, f"-{kind}.jpg"))) for kind in PICTURES]
        stored.thumbnails[name], stored.sizes[name] = kinds[0], (int(size[0]), int(size[1]))
        stored.examples[name] = (kinds[1], kinds[2])
    return stored


def _first(dense: pd.DataFrame) -> pd.DataFrame:
    """The tiles' scores by the first network."""
    first = dense[dense["on_grid"].astype(bool) & (dense["network"] == 1)]
    return first.drop(columns=DENSE_FACTS).reset_index(drop=True)


def networks_of_run(models: Path, splits: pd.DataFrame, n_seeds: int) -> dict[str, tuple[Path, ...]]:
    """Which networks of a run may score whom: those of the fold that held the patient out, the first seed's first.

    Parameters
    ----------
    models : holds ``05`` and ``05-seed-2`` … as notebook 05 leaves them
    splits : table SPLITS, units are patients or samples
    n_seeds : networks per fold

    Returns dict: unit_id → files. Empty where the fold's first network is missing: the others do not stand in for it.
    """
    folders = [models / "05", *(models / f"05-seed-{k}" for k in range(2, n_seeds + 1))]
    tested = splits.loc[splits["role"] == "test", ["unit_id", "fold"]].drop_duplicates()
    found = {}
    for unit, fold in zip(tested["unit_id"].astype(str), tested["fold"], strict=True):
        files = [folder / f"fold-{fold}.safetensors" for folder in folders]
        found[unit] = tuple(f for f in files if f.is_file()) if files[0].is_file() else ()
    return found


def networks_that_may(path: Path, patients: Iterable[str]) -> dict[str, tuple[Path, ...]]:
    """Which of some given networks may score whom.

    Parameters
    ----------
    path : a model file, or a folder with ``fold-*.safetensors``

    Returns dict: patient → files whose card does not know the patient, in the order of their names. With a single file
    every patient gets it, so that a refusal is told slide by slide.

    Raises InputError: the folder holds no network.
    """
    if not path.is_dir():
        return dict.fromkeys(patients, (path,))
    cards = {file: set(read_card(file)["patients"]) for file in sorted(path.glob("fold-*.safetensors"))}
    if not cards:
        raise InputError(f"The folder {path} holds no network", expected="files fold-*.safetensors",
                         fix="Give a folder such as models/05 of a run, or a single file")  # fmt: skip
    return {p: tuple(file for file, seen in cards.items() if hash_patient(p) not in seen) for p in patients}


def score_slides(
    slides: pd.DataFrame,
    tiles: pd.DataFrame,
    models_of: Mapping[str, Sequence[Path]],
    genes: Sequence[str],
    scorer: SlideScorer,
    n_shown: int,
    spread: Spread = in_turn,
    steps: int = 1,
) -> SlideScores:
    """Score the kept tiles of up to `n_shown` slides, and windows between them.

    Parameters
    ----------
    slides, tiles : the tables, with absolute slide paths
    models_of : patient_id → model files
        The networks that may score the patient, the one whose scores count first; patients without one are noted and
        left out.
    genes : all targets of the run
    n_shown : most slides that are scored, in the order of the table
    spread : how the slides are shared among processes (`Spread`); one after
        the other by default
    steps : windows between tiles (`windows_between`); 1 scores the tiles alone

    Raises ModelError: a model cannot be read, or was trained on other pixels than the windows have.
    """
    card_of = cache(read_card)
    notes: dict[str, list[str]] = {}
    tasks: list[ScoreTask] = []
    for row in slides[slides["status"] == "ok"].to_dict("records"):
        name, patient = str(row["slide_id"]), str(row["patient_id"])
        kept, files = tiles[(tiles["slide_id"] == name) & tiles["kept"]], models_of.get(patient, ())
        room = len({task.slide["slide_id"] for task in tasks}) < n_shown
        reason = _left_out(kept, files, patient, room, card_of)
        notes[name] = [reason] if reason else []
        if not reason:
            between = windows_between(kept, steps if kept["path"].isna().all() else 1)
            tasks += [ScoreTask(row, kept, file.resolve(), scorer, between) for file in files]
    for file in sorted({task.model for task in tasks}):
        scorer.normalizer_for(file, card_of(file))  # a wrong model ends the run before any slide is read
    result = SlideScores([], _no_scores(genes), _no_scores([*DENSE_FACTS, *genes]))
    parts: list[pd.DataFrame] = []
    for task, found in zip(tasks, spread(score_slide, tasks, not_scored), strict=True):
        name, files = str(task.slide["slide_id"]), models_of[str(task.slide["patient_id"])]
        number = [file.resolve() for file in files].index(task.model) + 1
        said = [found.reason] if found.reason else list(found.notes)
        notes[name] += said if number == 1 else [f"network {number}: {note}" for note in said]
        if found.example is None:
            continue
        if number > 1 and name not in result.sizes:
            notes[name].append(f"scores of network {number} are left out, because the first gave none")
            continue
        parts.append(_scores_of(task, found, number))
        result.cards[found.model_hash] = facts_of(card_of(task.model), task.model)
        if number == 1:
            with open_row(task.slide) as slide:
                result.thumbnails[name] = slide.thumbnail(_thumbnail_px(task), damaged=DAMAGED)
            result.examples[name] = found.example
            result.sizes[name] = (int(task.slide["width_l0_px"]), int(task.slide["height_l0_px"]))
    if parts:
        result.dense = pd.concat(parts, ignore_index=True)
        result.windows = _first(result.dense)
    scored = [g for g in result.windows.columns if g not in _COORDINATES and result.windows[g].notna().any()]
    result.genes = [g for g in genes if g in scored] or scored
    result.notes = [f"{name}: {note}" for name, found in notes.items() for note in found]
    return result


def _no_scores(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=[*_COORDINATES, *columns])


def _thumbnail_px(task: ScoreTask) -> int:
    """Longer side of a slide's picture: a map pixel must not be wider than half a window, or windows would vanish."""
    longest = max(int(task.slide["width_l0_px"]), int(task.slide["height_l0_px"]))
    return max(THUMBNAIL_PX, min(longest, math.ceil(2 * longest / float(task.tiles["size_l0_px"].min()))))


def _scores_of(task: ScoreTask, found: Scored, number: int) -> pd.DataFrame:
    """Rows of :attr:`SlideScores.dense` by one network."""
    frame = pd.concat([part[_COORDINATES] for part in task.windows], ignore_index=True)
    facts = {"patient_id": str(task.slide["patient_id"]), "on_grid": frame.index < len(task.tiles), "network": number,
             "model_hash": found.model_hash}  # fmt: skip
    return frame.assign(**facts, **dict(zip(found.genes, found.scores.T.astype(float), strict=True)))


def _left_out(
    kept: pd.DataFrame, files: Sequence[Path], patient: str, room: bool, card_of: Callable[[Path], dict[str, Any]]
) -> str:
    """Why a slide gets no map ("" when it gets one)."""
    if kept.empty:
        return "no window was kept"
    if not files:
        return "no network held the patient out (no label, or the fold could not be trained)"
    if not room:
        return "not drawn (n_shown)"
    try:
        for file in files:
            refuse_leak(card_of(file), [patient], file.name)
    except LeakError as error:
        return str(error)
    return ""
