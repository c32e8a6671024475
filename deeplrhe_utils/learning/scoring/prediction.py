"""From slide to score: tiles are read, normalized and scored in one go, and none is written.

A few threads take batches in turn, and each carries its batch all the way: while one reads, another normalizes or
scores, so that no core waits for a slower stage. Inside each of them torch has one thread. Sums are then rounded in
one order, and a slide's scores are the same bits whatever the number of threads, processes or machines. At most one
batch per thread is in memory, whatever the number of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError, LeakError, ModelError, ParameterError, StainError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.learning.networks.deeplrhe import TileNetwork, load_model, read_card
from deeplrhe_utils.learning.recipes.recipe import scoring_precision
from deeplrhe_utils.learning.recipes.scoring import probabilities, ready_network
from deeplrhe_utils.learning.tiles.normalizing import (
    UNCHANGED,
    keep_normalizer,
    normalizer_of_model,
    single_threads,
    statistics_rows,
)
from deeplrhe_utils.slides.tiles.pixels import open_row, read_pixels, shrink
from deeplrhe_utils.stain.methods.normalize import Normalizer, Plan

_Tile = NDArray[np.uint8]
SCORED, REFUSED, FAILED = "scored", "refused", "failed"
"""Status of a slide: some tiles have scores; the model knows its patient; nothing could be read or scored."""
EXAMPLE_PX: Final = 256


@dataclass(frozen=True)
class SlideScorer:
    """What a slide's tiles become before the network sees them, and how they are scored.

    Attributes
    ----------
    normalization : method that notebook 04 used, or "none"
    tile_px, store_px : side of a tile of the grid, and as it is read, normalized and handed to the network [px]; never
        larger than in the grid
    target_mpp : resolution of the grid [µm/px]
    statistics_tiles : most tiles a slide's colour statistics come from, as in notebook 04
    device : torch device name, or "auto"
    threads : batches of one slide that are worked on at a time; never changes a score
    batch_size : tiles per batch; may change the last digit of a score
    """

    normalization: str
    tile_px: int
    store_px: int
    target_mpp: float
    statistics_tiles: int = 32
    device: str = "auto"
    threads: int = 2
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("threads", "batch_size"):
            if getattr(self, name) < 1:
                raise ParameterError(f"Illegal {name}", got=getattr(self, name), expected="1 or more")

    @property
    def read_px(self) -> int:
        """Side at which a tile is read and normalized [px]."""
        return min(self.tile_px, self.store_px)

    def normalizer_for(self, file: Path, card: dict[str, Any]) -> Normalizer | None:
        """The normalizer that belongs to a model file, or None for colours as they are.

        Raises ModelError: the network was trained at another magnification, in other colours, or with another
        normalizer.
        """
        mpp = self.target_mpp * self.tile_px / self.read_px
        if abs(card["input_mpp"] / mpp - 1) > 0.02 or card["normalization"] != self.normalization:
            raise ModelError("The model was trained on other pixels than these windows have",
                             got=f"{mpp:g} µm/px, normalization {self.normalization}",
                             expected=f"{card['input_mpp']:g} µm/px, normalization {card['normalization']}",
                             fix="Set target_mpp, tile_px, store_px, normalization as in the model's run")  # fmt: skip
        if self.normalization == UNCHANGED:
            return None
        normalizer = normalizer_of_model(file)
        if normalizer.digest() != card.get("stain"):
            raise ModelError(f"The stain normalizer beside {file.name} is not the one it was trained with",
                             got=normalizer.digest(), expected=str(card.get("stain")),
                             fix="Keep a model's folders 04 and 05 together, or run 04 and 05 again")  # fmt: skip
        return normalizer


def scorer_of(card: Mapping[str, Any], target_mpp: float, tile_px: int = 0, **more: Any) -> SlideScorer:
    """The scorer that a model's card asks for: its colours, its input, and tiles of the field of view it learned on.

    Parameters
    ----------
    target_mpp : resolution at which tiles are read [µm/px]
    tile_px : side of tiles that are cut already [px]; 0 takes the side that fits
    more : other attributes of :class:`SlideScorer`

    Raises ModelError: the card lacks a fact, or names no resolution; the tiles show more or less than the network saw.
    """
    if missing := [name for name in ("input_px", "input_mpp", "normalization", "usable") if name not in card]:
        raise ModelError("The model's card is not complete", got=f"no {', '.join(missing)}",
                         fix="Give a file that notebook 05 wrote")  # fmt: skip
    if not card["input_mpp"]:
        raise ModelError("The model was trained on a folder of tiles, whose resolution is not known",
                         fix="Give a model that was trained on slides")  # fmt: skip
    field_um = card["input_px"] * card["input_mpp"]
    side = round(field_um / target_mpp)
    if tile_px not in (0, side):
        raise ModelError("The tiles do not fit the model: it learned on another field of view",
                         got=f"tile_px {tile_px} at target_mpp {target_mpp:g}: {tile_px * target_mpp:g} µm",
                         expected=f"{field_um:g} µm", fix=f"Cut tiles that fit: -p tile_px={side}, or "
                         f"-p target_mpp={field_um / tile_px:.6g}")  # fmt: skip
    return SlideScorer(card["normalization"], side, card["input_px"], target_mpp, **more)


@dataclass(frozen=True)
class ScoreTask:
    """One slide to score; can be pickled.

    Attributes
    ----------
    slide : its row of table SLIDES, with an absolute path
    tiles : its rows of table TILES that are to be scored
    model : file written by notebook 05; its normalizer lies in ``04`` beside ``05``
    between : further windows to score, after `tiles` and without any influence on their scores
    """

    slide: dict[str, Any]
    tiles: pd.DataFrame
    model: Path
    scorer: SlideScorer
    between: pd.DataFrame | None = None

    @property
    def windows(self) -> list[pd.DataFrame]:
        """What is scored: the tiles, then the windows between them."""
        return [self.tiles] if self.between is None else [self.tiles, self.between]

    @property
    def batches(self) -> list[pd.DataFrame]:
        """The windows in batches; none holds tiles and windows between them, so that these change no tile's score."""
        size = self.scorer.batch_size
        return [part.iloc[start : start + size] for part in self.windows for start in range(0, len(part), size)]


@dataclass(frozen=True)
class Scored:
    """What scoring one slide gave.

    Attributes
    ----------
    scores : probabilities, float32 (n, T), a row per tile of the task, then per window between, in its order
        NaN for tiles that could not be read and for genes that the network could not learn.
    genes : names of the T columns
    status : "scored", "refused" (the network was trained on the patient) or "failed"
    reason : why it is not "scored"
    notes : what else a reader should know: unreadable tiles, colours left unchanged
    n_unreadable : tiles that could not be read
    example : one tile before and after normalization, uint8 RGB, at most 256 px
    model_hash : first 16 hex characters of the model file's SHA-256
    """

    scores: NDArray[np.float32]
    genes: tuple[str, ...] = ()
    status: str = SCORED
    reason: str = ""
    notes: tuple[str, ...] = ()
    n_unreadable: int = 0
    example: tuple[_Tile, _Tile] | None = None
    model_hash: str = ""


Spread = Callable[[Callable[[ScoreTask], Scored], list[ScoreTask], Callable[[ScoreTask, str], Scored]], "list[Scored]"]
"""``spread(score_slide, tasks, not_scored)``: a result per task, ``not_scored(task, reason)`` where scoring failed."""


def in_turn(
    score: Callable[[ScoreTask], Scored], tasks: list[ScoreTask], _: Callable[[ScoreTask, str], Scored]
) -> list[Scored]:
    """Slides one after the other, in this process."""
    return [score(task) for task in tasks]


def not_scored(task: ScoreTask, reason: str, status: str = FAILED) -> Scored:
    """What :func:`score_slide` gives for a slide without scores: NaN for every tile, in no column."""
    return Scored(np.full((sum(map(len, task.windows)), 0), np.nan, np.float32), status=status, reason=reason)


def score_slide(task: ScoreTask) -> Scored:
    """Score the tiles of one slide, straight from the file.

    What is wrong with the slide is a status and a reason; a tile that cannot be read costs itself alone.

    Raises ModelError: the model or its normalizer cannot be read, or was trained on other pixels: no slide could be
    scored.
    """
    try:
        model, card = load_model(task.model, score_patients=[str(task.slide["patient_id"])])
    except LeakError as error:
        return not_scored(task, str(error), REFUSED)
    normalizer = task.scorer.normalizer_for(task.model, card)
    try:
        with open_row(task.slide):  # what cannot be opened is not tried tile by tile
            pass
        return _score(task, model, card, normalizer)
    except (InputError, StainError) as error:
        return not_scored(task, str(error))


def seen_tiles(task: ScoreTask, rows: pd.DataFrame) -> list[_Tile]:
    """Tiles as the task's network sees them: read and normalized as for :func:`score_slide`.

    Parameters
    ----------
    rows : some of the task's tiles

    Returns list of uint8 RGB (store_px, store_px, 3), in the order of `rows`.

    Raises SlideError, InputError: a tile cannot be read. ModelError: the model or its normalizer cannot be read, or was
    trained on other pixels.
    """
    plan = _plan(task, task.scorer.normalizer_for(task.model, read_card(task.model)))
    return [plan(tile) for tile in read_pixels(task.slide, rows, task.scorer.read_px)]


def _score(task: ScoreTask, model: TileNetwork, card: dict[str, Any], normalizer: Normalizer | None) -> Scored:
    scorer, genes = task.scorer, model.config.targets
    model = ready_network(model, scorer.device)
    low = scoring_precision(card.get("recipe", {}).get("precision", "float32")) == "bfloat16"
    with single_threads(scorer.threads) as pool:
        plan = pool.submit(_plan, task, normalizer).result()

        def batch(rows: pd.DataFrame) -> tuple[NDArray[np.float32], list[InputError]]:
            found = _read(task.slide, rows, scorer.read_px)
            good = {i: tile for i, tile in enumerate(found) if not isinstance(tile, InputError)}
            scores = np.full((len(found), len(genes)), np.nan, np.float32)
            if good:
                seen = np.stack([plan(tile) for tile in good.values()])
                scores[list(good)] = found_scores = probabilities(model, seen, low)
                if not np.isfinite(found_scores).all():
                    raise ModelError(f"The model {task.model} gives scores that are not finite",
                                     fix="Train again, or give another file")  # fmt: skip
            return scores, [tile for tile in found if isinstance(tile, InputError)]

        done = list(pool.map(batch, task.batches))
        faults = [fault for _, found in done for fault in found]
        count = sum(map(len, task.windows))
        if len(faults) == count:
            return not_scored(task, f"no tile could be read: {faults[0]}" if faults else "there is no tile to score")
        scores = np.concatenate([part for part, _ in done])
        example = pool.submit(_example, task, plan, int(np.argmax(np.isfinite(scores[:, 0])))).result()
    notes = [f"{len(faults)} of {count} tiles could not be read: {faults[0]}"] if faults else []
    notes += [f"colours {plan.note}"] if plan.note.startswith("left unchanged") else []
    scores[:, ~np.asarray(card["usable"], bool)] = np.nan
    digest = sha256_file(task.model)[:16]
    return Scored(scores, genes, notes=tuple(notes), n_unreadable=len(faults), example=example, model_hash=digest)


def _plan(task: ScoreTask, normalizer: Normalizer | None) -> Plan:
    """How the slide is normalized: by the statistics of its own tiles, as in notebook 04."""
    if normalizer is None:
        return keep_normalizer()
    rows = statistics_rows(task.tiles, task.scorer.statistics_tiles)
    seen = [tile for tile in _read(task.slide, rows, task.scorer.read_px) if not isinstance(tile, InputError)]
    return normalizer.plan_or_keep(seen, str(task.slide["slide_id"]))


def _read(slide: dict[str, Any], rows: pd.DataFrame, side_px: int) -> list[_Tile | InputError]:
    """Pixels of the tiles, in order; where one cannot be read, the reason in its place."""
    try:
        return list(read_pixels(slide, rows, side_px))
    except InputError as error:
        if len(rows) == 1:
            return [error]
        return [found for i in range(len(rows)) for found in _read(slide, rows.iloc[[i]], side_px)]


def _example(task: ScoreTask, plan: Plan, number: int) -> tuple[_Tile, _Tile]:
    row = task.windows[-1].iloc[[number - len(task.tiles)]] if number >= len(task.tiles) else task.tiles.iloc[[number]]
    (raw,) = read_pixels(task.slide, row, task.scorer.read_px)
    return shrink(raw, EXAMPLE_PX), shrink(plan(raw), EXAMPLE_PX)
