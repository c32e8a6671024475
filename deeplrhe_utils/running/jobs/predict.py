"""``deeplrhe predict``: slides in, tile scores of a trained network out; one bad slide ends nothing.

What notebooks 02, 03 and 07 do with their default parameters, slide by slide and without a run folder: the grid, the
quality filter and the scores are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.files import atomic_path, held, sha256_file
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.core.text import counted, on_one_line
from deeplrhe_utils.core.units import PLAUSIBLE_MPP
from deeplrhe_utils.learning.networks.cards import about_network, data_kind, read_card, warning_of
from deeplrhe_utils.learning.scoring.prediction import (
    FAILED,
    SCORED,
    Scored,
    ScoreTask,
    SlideScorer,
    score_slide,
    scorer_of,
)
from deeplrhe_utils.running.machine.engine import map_surviving
from deeplrhe_utils.running.machine.provenance import usable_cores
from deeplrhe_utils.slides.files.inventory import scan_slides
from deeplrhe_utils.slides.tiles.grid import INSIDE
from deeplrhe_utils.slides.tiles.screening import ScreenRules, screen_or_reason
from deeplrhe_utils.slides.tiles.tiling import TilingRules, select_tiles, tile_or_reason, tissue_share

TILES, SLIDES = "tiles.parquet", "slides.csv"
"""What is written: a row per tile and gene, and a row per file."""
EXCLUDED: Final = "excluded"
_DRAWN, _SEED = 10, 1  # as notebook 03 draws: colour statistics come from the drawn tiles first
_PLACES = ["slide_id", "tile_id", "x_l0_px", "y_l0_px", "size_l0_px"]

_Row = dict[str, Any]
_Tell = Callable[[str], None]


@dataclass(frozen=True)
class PredictOptions:
    """How slides are scored; only `mpp` and `mpp_csv` change a tile's score.

    Attributes
    ----------
    mpp : resolution at which tiles are cut, looked at and normalized [µm/px]
    mpp_csv : table of resolutions to believe instead of the files'
    edge : tiles at the right and lower edge, see `make_grid`
    workers, scheduler : as in `map_tasks`; 0 is one process per core
    device : torch device name, or "auto"
    stain_check : leave slides out that are not H&E
    """

    mpp: float = 0.5
    mpp_csv: Path | None = None
    edge: str = INSIDE
    workers: int = 0
    scheduler: str = ""
    device: str = "auto"
    stain_check: bool = True

    def __post_init__(self) -> None:
        if not PLAUSIBLE_MPP[0] <= self.mpp <= PLAUSIBLE_MPP[1]:
            raise ParameterError("The resolution of the tiles makes no sense", got=self.mpp,
                                 expected=f"{PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g} µm/px")  # fmt: skip
        if self.workers < 0:
            raise ParameterError("Illegal number of processes", got=self.workers, expected="0 or more")

    @property
    def spread(self) -> dict[str, Any]:
        """Where the work goes."""
        return {"workers": self.workers or usable_cores(), "scheduler": self.scheduler}


class Treated(NamedTuple):
    """The tiles of one slide that were worth scoring, what scoring gave, and their share of the slide's tissue."""

    tiles: pd.DataFrame
    scored: Scored
    tissue_scored: float = np.nan


def predict(
    slides: Path, model: Path, out: Path, options: PredictOptions | None = None, tell: _Tell = print
) -> pd.DataFrame:
    """Score every tissue tile of slides.

    Parameters
    ----------
    slides : a slide, or a folder (`scan_slides`). The patient of a slide is what
        its name tells.
    model : file written by notebook 05
    out : made if missing. ``tiles.parquet`` receives a row per tile and gene: slide_id, tile_id, x_l0_px, y_l0_px,
        size_l0_px, gene, score (null: the tile cannot be read, or the network could not learn the gene).
    tell : receives which model scores, one line per slide without scores, and a summary

    Returns DataFrame: what ``slides.csv`` receives, a row per file: slide_id, patient_id, path, status ("scored",
    "refused" because the network was trained on the patient, "failed", "excluded"), reason, notes, n_tiles,
    n_unreadable, tissue_scored (share of the slide's tissue in tiles with a score), the mean score of every gene,
    model_hash, model and trained_on (which network, and on what kind of data it was trained).
    Raises ModelError: the model cannot be read, or does not fit tiles of this resolution. InputError: there are no
    slides, or nothing can be written to `out`. RunError: another process writes there.
    """
    options, model = options or PredictOptions(), model.resolve()
    card = read_card(model)
    scorer, about = scorer_of(card, options.mpp, device=options.device), about_network(card, model.name)
    scorer.normalizer_for(model, card)
    for line in filter(None, (about, warning_of([data_kind(card)]))):
        tell(on_one_line(line))
    with held(out, "predict", (TILES, SLIDES)):
        table = _score_all(slides, model, scorer, options, card, out, tell)
    for row in table[table["status"] != SCORED].itertuples():
        tell(on_one_line(f"{row.slide_id}  {row.status}: {row.reason}"))
    count = ", ".join(f"{n} {status}" for status, n in Counter(table["status"]).items())
    if (share := table.set_index("slide_id")["tissue_scored"].dropna()).size:
        least = f", least {share.min():.0%} ({on_one_line(str(share.idxmin()))})" if share.size > 1 else ""
        tell(f"The scored tiles hold {share.median():.0%} of a slide's tissue{least}.")
    tell(f"{counted(len(table), 'file')}: {count}. Tables: {on_one_line(str(out))}")
    return table


def all_scored(table: pd.DataFrame) -> bool:
    """Whether every file of :func:`predict` has scores."""
    return bool((table["status"] == SCORED).all())


def _score_all(
    slides: Path,
    model: Path,
    scorer: SlideScorer,
    options: PredictOptions,
    card: Mapping[str, Any],
    out: Path,
    tell: _Tell,
) -> pd.DataFrame:
    examine = partial(map_surviving, **options.spread, label="files examined")
    found = scan_slides(slides, mpp_csv=str(options.mpp_csv or ""), hash_files=False, spread=examine,
                        stain_check=options.stain_check)  # fmt: skip
    if unused := found.attrs["unused_overrides"]:
        tell(f"The table of resolutions names slides that are not here: {on_one_line(', '.join(unused))}")
    files = found.to_dict("records")
    treated = _treat_all(files, model, scorer, options)
    told = {"model_hash": sha256_file(model)[:16], "model": about_network(card, model.name),
            "trained_on": data_kind(card) or "not told"}  # fmt: skip
    table = pd.DataFrame([_row(row, treated.get(row["path"]), card["config"]["targets"]) | told for row in files])
    _write(treated, table, out)
    return table


def _treat_all(found: Sequence[_Row], model: Path, scorer: SlideScorer, options: PredictOptions) -> dict[str, Treated]:
    """What became of every usable slide, by its path."""
    usable = [row for row in found if row["status"] == "ok"]
    busy = min(options.spread["workers"], len(usable)) or 1
    threads = max(1, usable_cores() // busy) if not options.scheduler else scorer.threads
    treat = partial(treat_slide, model=model, scorer=replace(scorer, threads=threads), edge=options.edge)
    done = map_surviving(treat, usable, _lost, **options.spread, label="slides scored")
    return {row["path"]: one for row, one in zip(usable, done, strict=True)}


def treat_slide(slide: _Row, model: Path, scorer: SlideScorer, edge: str = INSIDE) -> Treated:
    """Lay the grid, find tissue, screen and score one slide.

    Parameters
    ----------
    slide : a row of table SLIDES with an absolute path
    model : file written by notebook 05
    edge : see `make_grid`
    """
    side: dict[str, Any] = {"target_mpp": scorer.target_mpp, "tile_px": scorer.tile_px}
    tiles, reason, _ = tile_or_reason(slide, TilingRules(**side, edge=edge))
    tissue = tiles.attrs.get("tissue_l0_px2", 0.0)
    if not reason:
        tiles, reason = screen_or_reason((slide, tiles), rules=ScreenRules(**side))
    if reason:
        return _lost(slide, reason)
    kept = select_tiles(tiles, _DRAWN, _SEED)[tiles["kept"]].reset_index(drop=True)
    if kept.empty:
        why = ", ".join(f"{n} {name}" for name, n in tiles["reason"].value_counts().items())
        return _lost(slide, f"no tile is worth scoring ({why})")
    scored = score_slide(ScoreTask(slide, kept, model, scorer))
    known = np.isfinite(scored.scores).any(axis=1)
    return Treated(kept[_PLACES], replace(scored, example=None), tissue_share(kept[known], tissue))


def _lost(_: _Row, reason: str) -> Treated:
    nothing = pd.DataFrame(columns=_PLACES)
    return Treated(nothing, Scored(nothing.to_numpy("float32")[:, :0], status=FAILED, reason=reason))


def _row(slide: _Row, treated: Treated | None, genes: Sequence[str]) -> _Row:
    row: _Row = {name: slide[name] for name in ("slide_id", "patient_id", "path")}
    if treated is None:
        return row | {"status": EXCLUDED, "reason": slide["reason"], "notes": "", "n_tiles": 0, "n_unreadable": 0,
                      "tissue_scored": np.nan}  # fmt: skip
    scored = treated.scored
    told = {"status": scored.status, "reason": scored.reason, "notes": "; ".join(scored.notes),
            "n_tiles": len(treated.tiles), "n_unreadable": scored.n_unreadable,
            "tissue_scored": treated.tissue_scored}  # fmt: skip
    mean = pd.DataFrame(scored.scores, columns=list(scored.genes)).astype(float).mean()
    return row | told | {f"mean_{gene}": mean.get(gene, np.nan) for gene in genes}


def _long(treated: Treated) -> pd.DataFrame:
    """A row per tile and gene."""
    tiles = treated.tiles.reset_index(drop=True)
    genes = pd.DataFrame(treated.scored.scores, columns=list(treated.scored.genes))
    wide = pd.concat([tiles, genes], axis=1)
    return wide.melt(_PLACES, list(treated.scored.genes), "gene", "score")


def _write(treated: Mapping[str, Treated], table: pd.DataFrame, out: Path) -> None:
    parts = [_long(one) for one in treated.values() if one.scored.genes]
    empty = pd.DataFrame(columns=[*_PLACES, "gene", "score"])
    with atomic_path(out / TILES) as part:
        (pd.concat(parts, ignore_index=True) if parts else empty).to_parquet(part, index=False)
    write_sheet(table, out / SLIDES)
