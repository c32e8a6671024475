"""Numbers for people who read slides: the extreme windows of a cohort, and one line about each slide's map.

The windows of a slide are neighbours and share their patient, their stain and often their pixels: they are no sample.
So the unit is the slide, what stands here describes it, and no interval is made of windows. Which scores may be read
at all (of a model that did not train on the patient) is checked where they are made and where they are drawn.

Source: ours; Dice's coefficient after Dice 1945 (Ecology 26:297).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import AnnotationError, InputError, ParameterError
from deeplrhe_utils.core.text import counted, listed, said, shortened
from deeplrhe_utils.evaluation.auc.delong import delong_components
from deeplrhe_utils.slides.outlines.find import tumour_fractions, tumour_outline
from deeplrhe_utils.slides.outlines.regions import Regions

_INSIDE: Final = 0.5
"""A window counts as inside an outline from this share of its area on."""
FEWEST: Final = 3
"""Fewer windows on one side of an outline say nothing about the other, nor fewer with neighbours about agreement."""
_PLACE: Final = ("x_l0_px", "y_l0_px", "size_l0_px")
_NO_GENE: Final = ("tile_id", "slide_id", "patient_id", *_PLACE)


class Extremes(NamedTuple):
    """The extreme windows of a gene, what became of every score, and a sentence for the caption.

    ``table`` : DataFrame, see :func:`extreme_tiles`. ``ledger`` : DataFrame, outcome and windows; each score once.
    ``sentence`` : how many windows of how many patients are shown, of how many.
    """

    table: pd.DataFrame
    ledger: pd.DataFrame
    sentence: str


def extreme_tiles(
    predictions: pd.DataFrame, tiles: pd.DataFrame, gene: str, n: int, *,
    slides: pd.DataFrame | None = None, labels: pd.DataFrame | None = None,
) -> Extremes:  # fmt: skip
    """The windows of a cohort with the highest and the lowest scores for a gene.

    Parameters
    ----------
    predictions, tiles : tables PREDICTIONS and TILES of one run
    n : windows on each side, as far as there are that many; at most one of a patient
    slides : table SLIDES, for the resolution
    labels : table LABELS

    Returns Extremes: ``table``: side (``top`` or ``bottom``), rank (from 1, the most extreme first), tile_id, slide_id,
    patient_id, label (1 mutated, 0 wild type, null not profiled; only with `labels`), score [0–1], x_l0_px, y_l0_px,
    size_l0_px [level-0 px], x_um, y_um, size_um [µm] (null where the resolution is not known).

    Raises ParameterError: `n` is below 1. InputError: nobody scored the gene; a score is of a tile that does not exist,
    is of another slide or patient than its tile, stands twice, or is no probability.

    All windows stand in one order, by score and then by tile_id. The top is taken from its beginning and the bottom
    from its end, one window each in turn, until they meet: none is on both sides, and none of the top has a lower
    score than one of the bottom.
    """
    if n < 1:
        raise ParameterError("Extreme windows: at least one a side", got=n)
    scored = _placed(predictions, tiles, gene)
    known, kept = scored["score"].notna().to_numpy(), scored["kept"].to_numpy(bool)
    order = scored[known & kept].sort_values(["score", "tile_id"], ascending=[False, True], ignore_index=True)
    top, bottom = _ends(order["patient_id"], n)
    table = order.loc[[*top, *bottom]].reset_index(drop=True)
    table.insert(0, "side", ["top"] * len(top) + ["bottom"] * len(bottom))
    table.insert(1, "rank", [*range(1, len(top) + 1), *range(1, len(bottom) + 1)])
    table = _in_um(_labelled(table, labels, gene), slides).drop(columns="kept")
    counts = {"shown": len(table), "between the extremes, or beyond what a patient may have": len(order) - len(table),
              "scored, but dropped by a filter": int((known & ~kept).sum()),
              "not scored (null)": int((~known).sum())}  # fmt: skip
    ledger = pd.DataFrame(list(counts.items()), columns=["outcome", "windows"])
    return Extremes(table, ledger, _sentence(gene, order, table))


def _placed(predictions: pd.DataFrame, tiles: pd.DataFrame, gene: str) -> pd.DataFrame:
    """The scores of a gene, each with the place of its tile."""
    own = predictions.loc[predictions["gene"] == gene, ["tile_id", "slide_id", "patient_id", "score"]]
    if own["score"].isna().all():
        scored = predictions.loc[predictions["score"].notna(), "gene"].drop_duplicates()
        raise InputError(f"Nobody scored {said(gene)}", expected=shortened([said(g) for g in scored], 20))
    for frame, what in ((own, "scored twice"), (tiles, "in the tiles table twice")):
        if (again := frame["tile_id"].duplicated()).any():
            raise InputError(f"A tile is {what}", got=said(frame.loc[again, "tile_id"].iloc[0]))
    own = own.assign(score=_probabilities(own["score"], gene))
    columns = ["tile_id", "slide_id", "patient_id", *_PLACE, "kept"]
    found = own.merge(tiles[columns], on="tile_id", how="left", suffixes=("", "_tile"), validate="one_to_one")
    same = (found["slide_id"] == found["slide_id_tile"]) & (found["patient_id"] == found["patient_id_tile"])
    if not (good := same.fillna(False).to_numpy(bool)).all():
        raise InputError(f"{int((~good).sum())} scores of {said(gene)} are not of the tiles table",
                         got=said(found.loc[~good, "tile_id"].iloc[0]),
                         expected="a tile of the same slide and patient",
                         fix="Take both tables of one run")  # fmt: skip
    return found.drop(columns=["slide_id_tile", "patient_id_tile"])


def _ends(patients: pd.Series, n: int) -> tuple[list[int], list[int]]:
    """Places of the top and of the bottom, most extreme first, in a table that is in order."""
    forward = [int(i) for i in np.flatnonzero(~patients.duplicated())]
    reverse = patients.iloc[::-1]
    backward = [int(i) for i in reverse.index[~reverse.duplicated()]]
    top: list[int] = []
    bottom: list[int] = []
    for k in range(n):
        if k < len(forward) and (not bottom or forward[k] < bottom[-1]):
            top.append(forward[k])
        if k < len(backward) and backward[k] > top[-1]:
            bottom.append(backward[k])
    return top, bottom


def _labelled(table: pd.DataFrame, labels: pd.DataFrame | None, gene: str) -> pd.DataFrame:
    """The same with the patient's label after patient_id."""
    if labels is None:
        return table
    own = labels[labels["gene"] == gene]
    if (again := own["patient_id"].duplicated()).any():
        raise InputError(f"A patient has two labels for {said(gene)}",
                         got=said(own.loc[again, "patient_id"].iloc[0]))  # fmt: skip
    status = table["patient_id"].map(own.set_index("patient_id")["status"]).astype("Int64")
    table.insert(table.columns.get_loc("patient_id") + 1, "label", status)
    return table


def _in_um(table: pd.DataFrame, slides: pd.DataFrame | None) -> pd.DataFrame:
    mpp = np.full(len(table), np.nan)
    if slides is not None:
        resolution = _usable(slides, table["slide_id"])["mpp"].astype("Float64")
        mpp = table["slide_id"].map(resolution).to_numpy(float, na_value=np.nan)
    return table.assign(**{name.replace("_l0_px", "_um"): table[name].to_numpy(float) * mpp for name in _PLACE})


def _sentence(gene: str, order: pd.DataFrame, table: pd.DataFrame) -> str:
    n_top = int((table["side"] == "top").sum())
    return (f"The {n_top} highest and the {len(table) - n_top} lowest of {len(order)} windows scored for "
            f"{said(gene)} ({order['patient_id'].nunique()} patients), at most 1 window of a patient "
            f"on each side: {table['patient_id'].nunique()} patients are shown.")  # fmt: skip


def display_order(slides: pd.DataFrame, labels: pd.DataFrame | None, gene: str) -> pd.DataFrame:
    """Rows of table SLIDES in the order in which they are drawn: what a reader sees first should not be all of a kind.

    Slides of more than four times the median area come first; of the others always the one whose label of `gene` and
    tissue class, and then whose site, were drawn least so far.
    """
    status = labels[labels["gene"] == gene].set_index("patient_id")["status"] if labels is not None else pd.Series()
    area = slides["width_l0_px"].astype(float) * slides["height_l0_px"].astype(float)
    label = slides["patient_id"].map(status.astype("string")).astype("string").fillna("–")
    kinds = list(zip(slides["subtype"].astype("string").fillna("–"), label, strict=True))
    sites, large = slides["site_id"].astype("string").fillna("–").tolist(), (area > 4 * area.median()).tolist()
    seen_kind, seen_site, left, order = Counter[object](), Counter[str](), list(range(len(slides))), []
    while left:
        ranks = [(not large[i], seen_kind[kinds[i]], seen_site[sites[i]], i) for i in left]
        one = min(ranks)[-1]
        seen_kind[kinds[one]] += 1
        seen_site[sites[one]] += 1
        order.append(one)
        left.remove(one)
    return slides.iloc[order]


def slide_summary(
    windows: pd.DataFrame, slides: pd.DataFrame, gene: str, regions: Mapping[str, Regions | None] | None = None,
    threshold: float = 0.5, labels: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """One row per slide about its scores for a gene. The unit is the slide; windows are not independent.

    Parameters
    ----------
    windows : tile_id, slide_id, x_l0_px, y_l0_px, size_l0_px [level-0 px], and the gene's column of scores [0–1], null
        where not scored (`SlideScores.windows`)
    slides : table SLIDES; every row of it is a row of the result
    gene : a column of `windows`
    regions : slide_id → what is drawn on the slide [level-0 px] (`regions_of`)
    threshold : a window is high from this score on
    labels : table LABELS

    Returns DataFrame: slide_id, patient_id, label (only with `labels`), n_windows, n_scored, mean, median, p10, p90 and
    share_high of the scores, scored_mm2 (area under scored windows), moran_i (−1 to 1: how far touching windows agree;
    −1 / (n − 1) is expected where place says nothing; windows that overlap agree because they share pixels), n_inside,
    n_outside (scored windows with at least half, or less, of their area inside the tumour's outline), outline_auroc (of
    windows inside against outside; 0.5 where scores know nothing of the outline), dice (of the outline and the area of
    high windows, both as far as windows were scored), dice_if_all (the same if every window were high), outline_scored
    (share of the outline under scored windows), outline_note, note (why a value is null). In the order of `slides`.

    Raises ParameterError: the threshold is not from 0 to 1. InputError: there is no such gene; windows are of an
    unknown, excluded or ambiguous slide, stand twice, lie outside their slide, or have a score that is no probability.
    """
    if not 0 <= threshold <= 1:
        raise ParameterError("A threshold of scores must be a probability", got=threshold, expected="0 to 1")
    if gene not in windows.columns or gene in _NO_GENE:
        genes = [said(c) for c in windows.columns if c not in _NO_GENE]
        raise InputError(f"Nobody scored {said(gene)}", expected=shortened(genes, 20))
    if (again := windows["tile_id"].duplicated()).any():
        raise InputError("A window stands twice", got=said(windows.loc[again, "tile_id"].iloc[0]))
    _usable(slides, windows["slide_id"])
    parts = {str(name): part for name, part in windows.groupby("slide_id", sort=False)}
    rows = []
    for slide in slides.to_dict("records"):
        own = parts.get(str(slide["slide_id"])) if _ok(slide) else None
        about = {"slide_id": slide["slide_id"], "patient_id": slide["patient_id"]}
        rows.append(about | _summary(slide, windows.iloc[:0] if own is None else own, gene, regions, threshold))
    return _labelled(pd.DataFrame(rows, columns=["slide_id", "patient_id", *_SUMMARY]), labels, gene)


_SUMMARY: Final = ("n_windows", "n_scored", "mean", "median", "p10", "p90", "share_high", "scored_mm2", "moran_i",
                   "n_inside", "n_outside", "outline_auroc", "dice", "dice_if_all", "outline_scored", "outline_note",
                   "note")  # fmt: skip


def _summary(
    slide: Mapping[Any, Any], own: pd.DataFrame, gene: str, regions: Mapping[str, Regions | None] | None,
    threshold: float,
) -> dict[str, Any]:  # fmt: skip
    row: dict[str, Any] = dict.fromkeys(_SUMMARY, np.nan)
    score = _probabilities(own[gene], gene)
    x, y, size = (own[c].to_numpy(float)[~np.isnan(score)] for c in _PLACE)
    score = score[~np.isnan(score)]
    row |= {
        "n_windows": len(own),
        "n_scored": len(score),
        "n_inside": 0,
        "n_outside": 0,
        "outline_note": "",
        "note": "",
    }
    if not len(score):
        why = slide.get("reason") if not _ok(slide) else "no window was scored"
        return row | {"note": "excluded" if pd.isna(why) else str(why), "outline_note": "no window was scored"}
    _check_inside(slide, x, y, size)
    p10, median, p90 = np.quantile(score, [0.1, 0.5, 0.9])
    row |= {"mean": score.mean(), "median": median, "p10": p10, "p90": p90, "share_high": (score >= threshold).mean()}
    covered = disjoint(x, y, size)
    row["moran_i"] = morans_i(x, y, size, score)
    notes = ["no Moran's I: too few windows touch, or all have one score"] if np.isnan(row["moran_i"]) else []
    if pd.isna(mpp := slide["mpp"]):
        notes.append("no area: the resolution is not known")
    else:
        row["scored_mm2"] = shapely.area(covered).sum() * (float(mpp) / 1000) ** 2
    row["note"] = "; ".join(notes)
    return row | _against_outline(str(slide["slide_id"]), regions, covered, (x, y, size), score, threshold)


def _against_outline(
    slide_id: str, regions: Mapping[str, Regions | None] | None, covered: NDArray[np.object_],
    place: tuple[NDArray[np.float64], ...], score: NDArray[np.float64], threshold: float,
) -> dict[str, Any]:  # fmt: skip
    drawn = (regions or {}).get(slide_id)
    if drawn is None:
        return {"outline_note": "no outline"}
    try:
        outline = tumour_outline(drawn)
    except AnnotationError as error:
        return {"outline_note": str(error)}
    if not outline.area > 0:
        return {"outline_note": "the outline has no area"}
    inside = tumour_fractions(outline, *place) >= _INSIDE
    high = disjoint(*(one[score >= threshold] for one in place))
    shared, known = shared_area(high, outline), shared_area(covered, outline)
    found = {"n_inside": int(inside.sum()), "n_outside": int((~inside).sum()), "outline_scored": known / outline.area}
    for name, true, area in (("dice", shared, high), ("dice_if_all", known, covered)):
        whole = shapely.area(area).sum() + known
        found[name] = 2 * true / whole if whole else np.nan
    found["outline_auroc"] = np.nan
    if (fewest := min(found["n_inside"], found["n_outside"])) < FEWEST:
        side = "inside" if fewest == found["n_inside"] else "outside"
        return found | {"outline_note": f"no AUROC: {fewest} scored windows {side}, at least {FEWEST} are needed"}
    return found | {"outline_auroc": float(delong_components(score[inside], score[~inside])[0].mean())}


def _probabilities(values: pd.Series, gene: str) -> NDArray[np.float64]:
    try:
        found = values.to_numpy(float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(f"The scores of {said(gene)} are no numbers ({error})") from error
    wrong = ~np.isnan(found) & ~((found >= 0) & (found <= 1))
    if wrong.any():
        raise InputError(f"A score of {said(gene)} is no probability", got=found[wrong][0], expected="0 to 1, or null")
    return found


def _usable(slides: pd.DataFrame, wanted: pd.Series) -> pd.DataFrame:
    """The rows of usable slides by name; every wanted one is there once."""
    rows = slides[slides["status"] == "ok"]
    twice = rows.loc[rows["slide_id"].duplicated(), "slide_id"]
    asked = set(wanted.unique())
    names = [*sorted(asked - set(rows["slide_id"])), *sorted(asked & set(twice))]
    if names:
        raise InputError("Windows are of slides that are not once in the slides table, and usable",
                         got=shortened([said(name) for name in names]), fix="Take both tables of one run")  # fmt: skip
    return rows.drop_duplicates("slide_id").set_index("slide_id")


def _ok(slide: Mapping[Any, Any]) -> bool:
    return bool(slide["status"] == "ok")


def _check_inside(
    slide: Mapping[Any, Any], x: NDArray[np.float64], y: NDArray[np.float64], size: NDArray[np.float64]
) -> None:
    sides = [np.inf if pd.isna(slide[c]) else float(slide[c]) for c in ("width_l0_px", "height_l0_px")]
    inside = (x >= 0) & (y >= 0) & (size > 0) & (x + size <= sides[0] + 1) & (y + size <= sides[1] + 1)
    if not inside.all():
        i = int(np.flatnonzero(~inside)[0])
        raise InputError(f"A window lies outside slide {said(slide['slide_id'])}",
                         got=f"x={x[i]:g}, y={y[i]:g}, size={size[i]:g} level-0 px",
                         expected=f"inside {sides[0]:g} × {sides[1]:g}")  # fmt: skip


_Floats = NDArray[np.float64]
_MOST_FIELDS: Final = 50_000_000
"""Fields between the edges of windows that are counted at once; windows on a grid have far fewer."""
TOUCHING_PX: Final = 1.0
"""Windows of a fractional pitch begin at whole pixels, so neighbours lie up to one level-0 pixel apart."""


def disjoint(x: _Floats, y: _Floats, size: _Floats) -> NDArray[np.object_]:
    """What squares cover together, as areas that do not overlap: so that nothing is counted twice.

    Parameters
    ----------
    x, y, size : (n,): top left corners and sides [level-0 px]; they may overlap

    Returns ndarray of shapely geometries [level-0 px]: rectangles, one per run along x; the same place is in one of
    them at most.
    """
    if not len(x):
        return np.array([], dtype=object)
    across, down = np.unique([x, x + size]), np.unique([y, y + size])
    if len(across) * len(down) > _MOST_FIELDS:  # windows on no grid: the same areas, but slower
        return np.asarray(shapely.get_parts(shapely.union_all(shapely.box(x, y, x + size, y + size))))
    change = np.zeros((len(down), len(across)), np.int32)
    first, last = np.searchsorted(across, x), np.searchsorted(across, x + size)
    top, below = np.searchsorted(down, y), np.searchsorted(down, y + size)
    for row, column, sign in ((top, first, 1), (below, last, 1), (top, last, -1), (below, first, -1)):
        np.add.at(change, (row, column), sign)
    for axis in (0, 1):  # in place: NumPy's own sums would be of 64 bits, twice
        np.cumsum(change, axis=axis, dtype=np.int32, out=change)
    covered = np.pad(change > 0, ((0, 0), (1, 0)))
    edge = np.diff(covered.astype(np.int8), axis=1)
    (rows, begin), end = np.nonzero(edge == 1), np.nonzero(edge == -1)[1]
    return np.asarray(shapely.box(across[begin], down[rows], across[end], down[rows + 1]))


def shared_area(areas: NDArray[np.object_], outline: BaseGeometry) -> float:
    """Area that areas which do not overlap (of :func:`disjoint`) share with an outline [px²]."""
    shapely.prepare(outline)
    within = shapely.contains_properly(outline, areas)
    across = areas[~within & shapely.intersects(outline, areas)]
    return float(shapely.area(areas[within]).sum() + shapely.area(shapely.intersection(across, outline)).sum())


def morans_i(x: _Floats, y: _Floats, size: _Floats, score: _Floats) -> float:
    """Moran's I of window scores: agreement of windows that touch, at sides or corners, or overlap.

    Parameters
    ----------
    x, y, size : (n,): top left corners and sides [level-0 px]. Windows at most one pixel apart touch.
    score : (n,): finite

    Returns float: about 1 where neighbours agree, −1 / (n − 1) on average where scores are laid out by chance, below it
    where neighbours differ more than others. Each pair of neighbours has weight 1; windows without neighbours are left
    out. NaN where fewer than :data:`FEWEST` windows have neighbours, or all of these have one score.
    """
    half = TOUCHING_PX / 2
    wider = shapely.box(x - half, y - half, x + size + half, y + size + half)
    first, second = shapely.STRtree(wider).query(wider, predicate="intersects")
    first, second = first[first != second], second[first != second]
    several = np.bincount(first, minlength=len(x)) > 0
    z = score - score[several].mean() if several.any() else score
    spread = float((z[several] ** 2).sum())
    if several.sum() < FEWEST or np.ptp(score[several]) == 0:
        return float("nan")
    return float(several.sum() / len(first) * (z[first] * z[second]).sum() / spread)


def summary_sentence(table: pd.DataFrame) -> str:
    """The table of :func:`slide_summary` in one sentence: scores, neighbourhood and outline, slide by slide."""
    low, high = table["mean"].min(), table["mean"].max()
    parts = [f"Mean scores of {counted(len(table), 'slide')} run from {low:.2f} to {high:.2f}"]
    asked = {"moran_i": (0.0, "touching windows agree (Moran's I above 0)"),
             "outline_auroc": (0.5, "windows inside the tumour's outline score higher than those outside")}  # fmt: skip
    for column, (least, what) in asked.items():
        known = table[column].dropna()
        parts += [f"{what} on {(known > least).sum()} of {len(known)}" if len(known) else f"none tells whether {what}"]
    return "; ".join(parts) + "." if table["mean"].notna().any() else "No slide has a score."


def neighbourless(table: pd.DataFrame) -> tuple[bool | None, str]:
    """Whether a map of :func:`slide_summary` has no neighbourhood: Moran's I at most as by chance; and a sentence."""
    known = table.dropna(subset=["moran_i"])
    alone = known[known["moran_i"] <= -1 / (known["n_scored"] - 1).clip(lower=1)]
    text = f"Moran's I lies above its mean by chance on {len(known) - len(alone)} of {counted(len(known), 'slide')}"
    names = f", not on {listed(said(name, 16) for name in alone['slide_id'])}" if len(alone) else ""
    return bool(len(alone)) if len(known) else None, f"{text}{names}."


def unlike_sides(chosen: pd.DataFrame, tiles: pd.DataFrame, most: float = 0.05) -> tuple[bool | None, str]:
    """Whether artefacts' mean shares differ by more than `most` between highest and lowest tiles; and a sentence.

    `chosen` is the table of :func:`extreme_tiles`; tiles that were not measured are left out.
    """
    kinds = [name for name in ("blur", "pen", "fold") if f"{name}_fraction" in tiles]
    both = chosen[["tile_id", "side"]].merge(tiles, on="tile_id")
    means = both.groupby("side")[[f"{name}_fraction" for name in kinds]].mean().astype(float)
    apart = {name: abs(float(means[f"{name}_fraction"].diff().iloc[-1])) for name in kinds}
    known = {name: value for name, value in apart.items() if value == value}
    text = listed(f"{name} {value:.2f}" for name, value in known.items())
    return any(v > most for v in known.values()) if known else None, f"The two sides' mean shares differ by: {text}."
