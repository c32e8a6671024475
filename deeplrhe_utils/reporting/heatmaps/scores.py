"""Which scores a heat map may show: those of kept windows of one slide, from models that had not seen its patient.

Everything is checked before anything is drawn: a map of wrong windows looks as good as a map of right ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import InputError, LeakError
from deeplrhe_utils.core.text import said
from deeplrhe_utils.core.units import exact_ratio

PLACE: Final = ["tile_id", "x_l0_px", "y_l0_px", "size_l0_px"]
_STRANGE: Final = "unknown"
_ROUNDED: Final = 1e-6
"""Relative difference of two tile sizes that is rounding, not another resolution."""


@dataclass(frozen=True)
class GeneWindows:
    """Windows of one slide with their scores for one gene.

    Attributes
    ----------
    table : tile_id, x_l0_px, y_l0_px, size_l0_px [level-0 px], score: the mean over folds or seeds, null where none
    scores : (n, k): score by each of k folds or seeds, NaN where it gave none
    folds : what the k columns are
    ledger : outcome, windows: every kept window and every score of the slide once
    """

    table: pd.DataFrame
    scores: NDArray[np.float64]
    folds: list[Any]
    ledger: pd.DataFrame


def windows_of(tiles: pd.DataFrame, predictions: pd.DataFrame, slide_id: str, gene: str) -> GeneWindows:
    """Kept windows of a slide and their scores.

    Parameters
    ----------
    tiles : table TILES
    predictions : table PREDICTIONS; where a tile was scored by several folds or seeds, one row each, told apart by
        `fold`

    Returns GeneWindows: with as many rows as the slide has kept windows; scores of windows that were dropped are left
    out and counted.

    Raises InputError: there is no such slide, or two of its name; no window was kept; nobody scored the gene; a score
    is of a tile that does not exist, stands twice for one fold, or is no probability.
    """
    own = tiles[tiles["slide_id"] == slide_id]
    kept = _kept(own, slide_id)
    scored = predictions[(predictions["slide_id"] == slide_id) & (predictions["gene"] == gene)]
    if scored.empty or scored["score"].isna().all():
        raise _no_score(predictions, slide_id, gene)
    _check_scores(scored, own, slide_id, gene)
    wide = scored.pivot(index="tile_id", columns="fold", values="score").astype(float)
    scores = wide.reindex(kept["tile_id"]).to_numpy(float)
    known = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, scores, 0).sum(axis=1) / known.sum(axis=1)
    return GeneWindows(kept.assign(score=mean), scores, list(wide.columns), _ledger(kept, scored, known))


def windows_in(windows: pd.DataFrame, slide_id: str, gene: str) -> GeneWindows:
    """The same from a table with a column per gene (`SlideScores.windows`).

    Raises InputError: there is no such slide, or two of its name; nobody scored the gene; a score is no probability.
    """
    own = _kept(windows[windows["slide_id"] == slide_id].assign(kept=True), slide_id)
    genes = [c for c in windows.columns if c not in (*PLACE, "slide_id")]
    scores = windows.loc[windows["slide_id"] == slide_id, ["tile_id", *genes]]
    long = scores.melt("tile_id", var_name="gene", value_name="score").assign(slide_id=slide_id, fold=0)
    return windows_of(own.assign(slide_id=slide_id, kept=True), long, slide_id, gene)


def networks_in(dense: pd.DataFrame, slide_id: str, gene: str) -> GeneWindows:
    """The same from all networks' scores (`SlideScores.dense`).

    Parameters
    ----------
    dense : a row per window and network: tile_id, slide_id, x_l0_px, y_l0_px, size_l0_px, network and a column per gene

    Returns GeneWindows: `folds` are the networks' numbers.

    Raises InputError: as :func:`windows_of`.
    """
    own = dense[dense["slide_id"] == slide_id]
    places = own.drop_duplicates("tile_id")[[*PLACE, "slide_id"]].assign(kept=True)
    if gene not in own or gene in (*PLACE, "slide_id"):
        raise InputError(f"Nobody scored {said(gene)} on slide {said(slide_id)}", expected="a gene of the run")
    scores = own[["tile_id", "network", gene]].set_axis(["tile_id", "fold", "score"], axis=1)
    return windows_of(places, scores.assign(slide_id=slide_id, gene=gene), slide_id, gene)


def _kept(own: pd.DataFrame, slide_id: str) -> pd.DataFrame:
    if own.empty:
        raise InputError(f"There is no slide {said(slide_id)} among the tiles")
    if (again := own["tile_id"].duplicated()).any():
        raise InputError(f"Tiles of slide {said(slide_id)} stand twice: two slides have one name",
                         got=said(own.loc[again, "tile_id"].iloc[0]), expected="one row a tile",
                         fix="Rename one of the files")  # fmt: skip
    kept = own.loc[own["kept"].astype(bool), PLACE].reset_index(drop=True)
    if kept.empty:
        why = own["reason"].value_counts().to_dict() if "reason" in own else {}
        got = ", ".join(f"{n} {name}" for name, n in why.items()) or f"{len(own)} dropped windows"
        raise InputError(f"No window of slide {said(slide_id)} was kept: there is nothing to draw", got=got)
    return kept


def _no_score(predictions: pd.DataFrame, slide_id: str, gene: str) -> InputError:
    here = predictions[(predictions["slide_id"] == slide_id) & predictions["score"].notna()]
    names = [said(name) for name in here["gene"].drop_duplicates()[:20]]
    return InputError(f"Nobody scored {said(gene)} on slide {said(slide_id)}",
                      expected=", ".join(names) or "a slide with scores; this one has none")  # fmt: skip


def _check_scores(scored: pd.DataFrame, own: pd.DataFrame, slide_id: str, gene: str) -> None:
    what = f"{said(gene)} on slide {said(slide_id)}"
    lost = scored.loc[~scored["tile_id"].isin(own["tile_id"]), "tile_id"]
    if len(lost):
        raise InputError(f"{len(lost)} scores for {what} are of tiles that do not exist", got=said(lost.iloc[0]),
                         expected="tiles of the tiles table", fix="Take both tables of one run")  # fmt: skip
    if (again := scored.duplicated(["tile_id", "fold"])).any():
        raise InputError(f"A tile was scored twice by one fold for {what}",
                         got=said(scored.loc[again, "tile_id"].iloc[0]))  # fmt: skip
    values = scored["score"].dropna().to_numpy(float)
    if not ((values >= 0) & (values <= 1)).all():
        wrong = values[~((values >= 0) & (values <= 1))][0]
        raise InputError(f"A score for {what} is no probability", got=wrong, expected="0 to 1, or null")


def _ledger(kept: pd.DataFrame, scored: pd.DataFrame, known: NDArray[np.bool_]) -> pd.DataFrame:
    """Every kept window once, then every score of a window that was dropped."""
    named = kept["tile_id"].isin(scored["tile_id"]).to_numpy()
    drawn = known.any(axis=1)
    dropped = scored.loc[~scored["tile_id"].isin(kept["tile_id"]), "tile_id"].nunique()
    rows = [("drawn", drawn.sum()), ("scored as unknown (null)", (named & ~drawn).sum()),
            ("never scored", (~named).sum()), ("scored, but dropped by a filter: left out", dropped)]  # fmt: skip
    return pd.DataFrame([(name, int(n)) for name, n in rows], columns=["outcome", "windows"])


def check_scale(tiles: pd.DataFrame, mpp: float, target_mpp: float, tile_px: int) -> None:
    """Raise :class:`InputError` unless windows are as large as tiles of `tile_px` at `target_mpp` are at `mpp` [µm/px].

    A table that was made at another resolution has its windows in wrong places, and still inside the slide.
    """
    expected = float(tile_px * exact_ratio(target_mpp, mpp))
    size = tiles["size_l0_px"].to_numpy(float)
    wrong = ~(np.abs(size - expected) <= _ROUNDED * expected)
    if wrong.any():
        raise InputError("The windows are not of this slide's resolution",
                         got=f"{size[wrong][0]:g} level-0 px a side ({int(wrong.sum())} of {len(size)} windows)",
                         expected=f"{expected:g}: {tile_px} px at {target_mpp:g} µm/px on a slide of {mpp:g} µm/px",
                         fix="Tile the slide again, or correct its mpp")  # fmt: skip


def check_held_out(predictions: pd.DataFrame, splits: pd.DataFrame, *, scheme: str = "patient") -> None:
    """Leak alarm for stored scores: each was given by a fold that held its patient out for testing.

    Parameters
    ----------
    predictions, splits : tables PREDICTIONS and SPLITS
    scheme : the split scheme of the folds

    Raises LeakError: a score is of a fold that trained on, or chose its model by, the patient; or that does not know
    the patient.

    `score_slides` and `load_model` raise this
    alarm from the model card when scores are made; scores read back from a table have no such guard but this one and
    `check_cards`.
    """
    unit = {"patient": "patient_id", "site": "patient_id", "slide": "slide_id", "tile": "tile_id"}.get(scheme)
    if unit is None or not (splits["scheme"] == scheme).any():
        raise InputError("There is no such split scheme", got=scheme, expected=", ".join(splits["scheme"].unique()))
    roles = splits[splits["scheme"] == scheme][["fold", "unit_id", "role"]]
    asked = predictions[predictions["score"].notna()][["fold", unit]].drop_duplicates()
    found = asked.merge(roles, left_on=["fold", unit], right_on=["fold", "unit_id"], how="left")
    leaked = found[found["role"].fillna(_STRANGE) != "test"]
    if len(leaked):
        first = leaked.fillna({"role": _STRANGE}).iloc[0]
        raise LeakError(f"{len(leaked)} {unit.removesuffix('_id')}s have scores of a fold that did not hold them out",
                        got=f"{said(first[unit])} is {first['role']} in fold {first['fold']}",
                        expected="role test", fix="Draw scores of the fold that held the patient out")  # fmt: skip
