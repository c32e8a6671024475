"""Scores for heat maps: every kept window of a slide, by a network that did not train on its patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deeplrhe_utils.core.errors import InputError, LeakError
from deeplrhe_utils.core.files import atomic_path, read_json, safe_name, write_json
from deeplrhe_utils.learning.models import read_card, refuse_leak
from deeplrhe_utils.learning.prediction import Scored, ScoreTask, SlideScorer, Spread, in_turn, not_scored, score_slide
from deeplrhe_utils.slides.between import windows_between
from deeplrhe_utils.slides.pixels import open_row

if TYPE_CHECKING:
    import pandas as pd

THUMBNAIL_PX: Final = 480
DAMAGED: Final = (200, 0, 0)
"""Colour of places of a thumbnail that cannot be decoded."""
_COORDINATES = ["tile_id", "slide_id", "x_l0_px", "y_l0_px", "size_l0_px"]
_FACTS: Final = ["patient_id", "on_grid", "network", "model_hash"]


@dataclass
class SlideScores:
    """Window scores of some slides, with what is needed to draw them.

    Attributes
    ----------
    genes : targets that have a score on at least one slide
    windows : DataFrame
        The tiles' scores by the first network: tile_id, slide_id, x_l0_px, y_l0_px, size_l0_px and one column per gene
        (null: no network could score it).
    dense : DataFrame
        All scores, of tiles and of windows between them, by all networks: a row per window and network with the same
        columns and patient_id, on_grid (a tile), network (from 1) and model_hash.
    thumbnails : slide_id → uint8 RGB (h, w, 3)
    sizes : slide_id → (width, height) [level-0 px]
    examples : slide_id → one tile before and after normalization
    notes : what was left out, and why
    stored : read back from a folder; then :meth:`save` writes nothing, because JPEGs lose a little each time
    """

    genes: list[str]
    windows: pd.DataFrame
    dense: pd.DataFrame
    thumbnails: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    examples: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stored: bool = False

    def save(self, folder: Path) -> list[Path]:
        """Write everything to `folder`, so that maps can be drawn where the slides are not; return the files."""
        if self.stored:
            return sorted(p for p in folder.iterdir() if p.is_file())
        written = [
            _write_table(folder / "windows.parquet", self.windows),
            _write_table(folder / "dense.parquet", self.dense),
            write_json(folder / "slides.json", {"genes": self.genes, "sizes": self.sizes, "notes": self.notes}),
        ]
        for name, picture in self.thumbnails.items():
            pictures = {"slide": picture, "tile": self.examples[name][0], "normalized": self.examples[name][1]}
            written += [_write_jpeg(heat_file(folder, name, f"-{kind}.jpg"), image) for kind, image in pictures.items()]
        return written


def heat_file(folder: Path, slide_id: str, ending: str) -> Path:
    """A file that belongs to one slide's heat map."""
    return folder / f"{safe_name(slide_id)}{ending}"


def _write_table(path: Path, table: pd.DataFrame) -> Path:
    with atomic_path(path) as part:
        table.to_parquet(part, index=False)
    return path


def _write_jpeg(path: Path, image: NDArray[np.uint8]) -> Path:
    with atomic_path(path) as part:
        Image.fromarray(image).save(part, "JPEG", quality=85)
    return path


def stored_scores(folder: Path) -> SlideScores:
    """Read what :meth:`SlideScores.save` wrote."""
    import pandas as pd

    if not all((folder / name).is_file() for name in ("slides.json", "windows.parquet", "dense.parquet")):
        raise InputError(f"There are no stored heat-map scores in {folder}", fix="Run notebook 07 where the slides are")
    facts = read_json(folder / "slides.json")
    windows, dense = (pd.read_parquet(folder / f"{name}.parquet") for name in ("windows", "dense"))
    stored = SlideScores(facts["genes"], windows, dense, notes=facts["notes"], stored=True)
    for name, size in facts["sizes"].items():
        kinds = [
            np.asarray(Image.open(heat_file(folder, name, f"-{kind}.jpg"))) for kind in ("slide", "tile", "normalized")
        ]
        stored.thumbnails[name], stored.sizes[name] = kinds[0], (int(size[0]), int(size[1]))
        stored.examples[name] = (kinds[1], kinds[2])
    return stored


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
    slides, tiles : DataFrame
        The tables, with absolute slide paths.
    models_of : patient_id → model files
        The networks that may score the patient, the one whose scores count first; patients without one are noted and
        left out.
    genes : all targets of the run
    scorer : SlideScorer
    n_shown : most slides that are scored, in the order of the table
    spread : callable
        How the slides are shared among processes (:data:`~deeplrhe_utils.learning.prediction.Spread`); one after the
        other by default.
    steps : int
        Windows between tiles (:func:`~deeplrhe_utils.slides.between.windows_between`); 1 scores the tiles alone.

    Raises
    ------
    ModelError
        A model cannot be read, or was trained on other pixels than the windows have.
    """
    import pandas as pd

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
    result = SlideScores([], _no_scores(genes), _no_scores([*_FACTS, *genes]))
    parts: list[pd.DataFrame] = []
    for task, found in zip(tasks, spread(score_slide, tasks, not_scored), strict=True):
        name, files = str(task.slide["slide_id"]), models_of[str(task.slide["patient_id"])]
        number = [file.resolve() for file in files].index(task.model) + 1
        said = [found.reason] if found.reason else list(found.notes)
        notes[name] += said if number == 1 else [f"network {number}: {note}" for note in said]
        if found.example is None:
            continue
        parts.append(_scores_of(task, found, number))
        if name not in result.sizes:
            with open_row(task.slide) as slide:
                result.thumbnails[name] = slide.thumbnail(THUMBNAIL_PX, damaged=DAMAGED)
            result.examples[name] = found.example
            result.sizes[name] = (int(task.slide["width_l0_px"]), int(task.slide["height_l0_px"]))
    if parts:
        result.dense = pd.concat(parts, ignore_index=True)
        first = result.dense[result.dense["on_grid"] & (result.dense["network"] == 1)]
        result.windows = first.drop(columns=_FACTS).reset_index(drop=True)
    scored = [g for g in result.windows.columns if g not in _COORDINATES and result.windows[g].notna().any()]
    result.genes = [g for g in genes if g in scored] or scored
    result.notes = [f"{name}: {note}" for name, found in notes.items() for note in found]
    return result


def _no_scores(columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns=[*_COORDINATES, *columns])


def _scores_of(task: ScoreTask, found: Scored, number: int) -> pd.DataFrame:
    """Rows of :attr:`SlideScores.dense` by one network."""
    import pandas as pd

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
