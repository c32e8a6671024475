"""Scores and maps of any pipeline: CSV, Parquet, DeepPATH's list, GeoJSON of tiles, or pictures; in level-0 pixels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.tables.foreign import read_foreign, read_foreign_parquet
from deeplrhe_utils.core.text import counted, shortened
from deeplrhe_utils.evaluation.auc.deeppath import is_stats, read_stats
from deeplrhe_utils.evaluation.auc.score_file import Scores, read_scores
from deeplrhe_utils.evaluation.judging.planted_cohort import PlantedCohort, box_means, truth_places
from deeplrhe_utils.slides.outlines.geojson import read_objects
from deeplrhe_utils.slides.outlines.masks import LARGEST_MASK_PX, PICTURE_ERRORS, mask_scale

TILE_UM: Final = 256.0
"""Side of a tile that is known by its column and row only, unless something else is said [µm]."""
AREAS_OF: Final = (".geojson", ".json")
RASTERS: Final = (".png", ".tif", ".tiff")
_SAME: Final = {"slide": "slide_id", "patient": "patient_id", "x_l0_px": "x", "y_l0_px": "y", "size_l0_px": "size",
                "probability": "score"}  # fmt: skip
_BOX: Final = ["x", "y", "width", "height"]
_SUFFIX: Final = r"\.(?:svs|tiff?|ndpi|mrxs|png|jpe?g)$"
_GRID: Final = re.compile(r"(?:^|[_ ])(\d+)_(\d+)$")
_STEP: Final = re.compile(r'K="step_x_l0_px">([0-9.e+-]+)<.*?K="step_y_l0_px">([0-9.e+-]+)<', re.DOTALL)
_LEAST_REACH: Final = 0.6  # of a slide: sections fill theirs, so tiles that stay within it count in other pixels
_MEASURED: Final = 0.5  # share of a tile that a picture must have measured
_DESCRIPTION: Final = 270  # tag of a TIFF


class Answers(NamedTuple):
    """Scores, and where their tiles lie: tile_id, slide_id, x, y, width, height [level-0 px]; empty: nobody says."""

    scores: Scores
    places: pd.DataFrame


def read_answers(path: Path, cohort: PlantedCohort, classes: Sequence[str] = (), tile_um: float = TILE_UM) -> Answers:
    """Read what a pipeline says of a cohort.

    Parameters
    ----------
    path : CSV or Parquet with score, slide_id or patient_id, gene, and optionally fold, tile_id, and x, y, size (or
        width and height) of tiles; DeepPATH's ``out_filename_Stats.txt``; GeoJSON or a picture of one slide, named
        after it; or a folder of these
    classes : names of DeepPATH's classes: genes
    tile_um : side of tiles that are named by column and row and have no x and y [µm]

    Returns Answers: rows of unknown slides, of slides of normal lung (they say nothing about the patient's tumour) and
    those that `read_scores` sets aside are in the ledger.
    Raises InputError: as the readers; nobody named, a patient who is not the slide's, tiles that lie outside their
    slides or in a corner of all of them (another frame), places in some rows only.
    """
    table, aside = _table(path, cohort, classes)
    table = table.rename(columns={k: v for k, v in _SAME.items() if v not in table})
    if "gene" not in table and "label" in table and table["label"].isin(cohort.genes.index).any():
        table = table.rename(columns={"label": "gene"})
    if not {"slide_id", "patient_id"} & set(table):
        raise InputError(f"{path} names neither slides nor patients", got=", ".join(table.columns),
                         expected="slide_id or patient_id")  # fmt: skip
    if "slide_id" in table and table["slide_id"].ne("").any():
        table = _of_this_cohort(table, cohort, path, aside)
    notes = []
    if "x" not in table and {"tile_id", "slide_id"} <= set(table):
        grid = table["tile_id"].str.extract(_GRID)
        if grid.notna().all(axis=None):
            side = tile_um / table["slide_id"].map(cohort.slides["mpp"]).astype(float)
            table["x"], table["y"], table["size"] = grid[0].astype(float) * side, grid[1].astype(float) * side, side
            notes.append(f"Tiles are known by column and row, and were taken as squares of {tile_um:g} µm (--tile-um).")
    places = _places(table, cohort, path) if "x" in table else pd.DataFrame(columns=["tile_id", "slide_id", *_BOX])
    used = [c for c in ("patient_id", "slide_id", "tile_id", "gene", "score", "fold") if c in table]
    scores = read_scores(path, table=table[used], labels=cohort.labels, any_scale=True)
    ledger = pd.concat([scores.ledger, pd.DataFrame(aside, columns=scores.ledger.columns)], ignore_index=True)
    return Answers(replace(scores, ledger=ledger, notes=(*notes, *scores.notes)), places)


def _of_this_cohort(
    table: pd.DataFrame, cohort: PlantedCohort, path: Path, aside: list[tuple[str, int, str]]
) -> pd.DataFrame:
    slide = table["slide_id"].str.replace(_SUFFIX, "", regex=True)
    if (empty := slide.eq("")).any():
        raise InputError(f"{path}: {int(empty.sum())} of {len(table)} rows name no slide, the others do",
                         got=f"line {empty.idxmax()}", expected="one unit in one file", fix="Divide it")  # fmt: skip
    owner = slide.map(cohort.slides["patient_id"])
    normal = slide.map(cohort.slides["subtype"]).eq("normal").fillna(False).astype(bool)
    for reason, rows in (("no slide of this cohort", owner.isna()), ("a slide of normal lung", normal)):
        if rows.any():
            aside.append((reason, int(rows.sum()), shortened(sorted(set(slide[rows])), 3)))
    keep = owner.notna() & ~normal
    if not keep.any():
        raise InputError(f"{path} scores no slide of a tumour of this cohort", got=shortened(list(slide.unique()), 3),
                         expected=f"such as {cohort.slides.index[0]}", fix="Name the cohort with --truth")  # fmt: skip
    if "patient_id" in table and (wrong := keep & table["patient_id"].ne("") & table["patient_id"].ne(owner)).any():
        line = wrong.idxmax()
        raise InputError(f"{path}, line {line}: {slide[line]} is another patient's", got=table.loc[line, "patient_id"],
                         expected=str(owner[line]))  # fmt: skip
    return table.assign(slide_id=slide, patient_id=owner)[keep].astype({"patient_id": "string", "slide_id": "string"})


def _places(table: pd.DataFrame, cohort: PlantedCohort, path: Path) -> pd.DataFrame:
    """Boxes of the rows' tiles, checked; a tile is called by its place, whatever the table calls it."""
    if "size" in table:
        table["width"] = table["height"] = table["size"]
    if missing := [name for name in ("slide_id", *_BOX) if name not in table or table[name].eq("").all()]:
        raise InputError(f"{path} tells x and not {', '.join(missing)}", got=", ".join(table.columns),
                         expected="slide_id, x, y and size, or width and height [level-0 px]")  # fmt: skip
    box = table[_BOX].apply(pd.to_numeric, errors="coerce").astype(float)
    if (wrong := ~np.isfinite(box).all(axis=1) | (box[["width", "height"]] <= 0).any(axis=1)).any():
        raise InputError(f"{path}, line {wrong.idxmax()}: no place and size", got=" ".join(map(str, table.loc[
            wrong.idxmax(), _BOX])), expected="numbers in every row or in none, sizes above 0")  # fmt: skip
    whole = cohort.slides.loc[table["slide_id"], ["width_l0_px", "height_l0_px"]].to_numpy(float)
    begin, end = box[["x", "y"]].to_numpy(), box[["x", "y"]].to_numpy() + box[["width", "height"]].to_numpy()
    outside = ((begin < -1) | (begin >= whole)).any(axis=1)
    fix = "Give level-0 pixels, counted from the top left corner of the whole slide"
    if outside.any():
        i = int(outside.argmax())
        raise InputError(f"{path}: {int(outside.sum())} tiles lie outside their slides, such as line {table.index[i]}",
                         got=f"x, y {begin[i].tolist()}", fix=fix,
                         expected=f"within {whole[i].tolist()} px ({table['slide_id'].iloc[i]})")  # fmt: skip
    reach = pd.Series((end / whole).max(axis=1)).groupby(table["slide_id"].to_numpy()).max().median()
    if reach < _LEAST_REACH:
        raise InputError(f"{path}: tiles stay in the top left corner of their slides, as in another frame",
                         got=f"they reach to {reach:.0%} of the slide", expected="level-0 pixels", fix=fix)  # fmt: skip
    table["tile_id"] = box.astype("string").agg("_".join, axis=1)
    found = box.assign(tile_id=table["slide_id"] + " " + table["tile_id"], slide_id=table["slide_id"])
    return found.drop_duplicates("tile_id").reset_index(drop=True)


def _table(path: Path, cohort: PlantedCohort, classes: Sequence[str]) -> tuple[pd.DataFrame, list[Any]]:
    """Rows of a file or folder as text, by line, and what its reader has set aside."""
    if path.is_dir() or path.suffix.lower() in (*AREAS_OF, *RASTERS):
        files = pictures_of(path) if path.is_dir() else [path]
        parts = [_of_slide(file, cohort).assign(file=file.name) for file in files]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        if table.empty:
            raise InputError(f"{path} holds no tile with a score", expected="GeoJSON, PNG or TIFF, named after slides",
                             got=shortened([f.name for f in files], 3) or "no such file")  # fmt: skip
        told = table[["slide_id", "gene", "file"]].drop_duplicates()
        if (again := told.duplicated(["slide_id", "gene"])).any():
            raise InputError(f"{path} scores a slide twice for one gene", got=told[again]["file"].iloc[0],
                             expected="one file per slide and gene", fix="Give one kind of file")  # fmt: skip
        return table.astype("string"), []
    if path.suffix.lower() in (".parquet", ".pq"):
        return read_foreign_parquet(path, InputError).astype("string").fillna("").reset_index(drop=True), []
    if is_stats(path):
        stats = read_stats(path, classes)
        left = stats.ledger[stats.ledger["outcome"] != "used"]
        return stats.predictions[["slide_id", "tile_id", "gene", "score"]].astype("string"), left.values.tolist()
    return read_foreign(path, InputError), []


def pictures_of(folder: Path) -> list[Path]:
    """The GeoJSON files and pictures below a folder, without the JSON that stands beside a picture."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (*AREAS_OF, *RASTERS) and p.name[0] != ".")
    beside = {p.with_suffix(".json") for p in files if p.suffix.lower() in RASTERS}
    return [p for p in files if p not in beside]


def slide_and_word(path: Path, slides: Iterable[str], words: Iterable[str]) -> tuple[str, str]:
    """Slide and word (gene, artefact) of ``SLIDE+WORD.png`` or ``WORD/SLIDE.png``; "" for a word that nobody tells."""
    slide = max((s for s in slides if path.name.startswith(s)), key=len, default=re.split(r"[+.]", path.name)[0])
    told = {*re.split(r"[^A-Za-z0-9-]+", path.name.removeprefix(slide)), path.parent.name}
    return slide, next((word for word in words if word in told), "")


def _of_slide(path: Path, cohort: PlantedCohort) -> pd.DataFrame:
    """Scores of one GeoJSON file, or of a picture over the truth's tiles: slide_id, gene, score, and where they lie."""
    slide, gene = slide_and_word(path, cohort.slides.index, cohort.genes.index)
    if slide not in cohort.slides.index:
        return pd.DataFrame({"slide_id": [slide], "gene": gene, "score": ""} | dict.fromkeys(_BOX, "0"))
    if path.suffix.lower() in AREAS_OF:
        return pd.DataFrame([row for region, told in read_objects(path) for row in _scored(region, told, slide, gene)])
    values, low, high = raster_and_tiles(path, cohort, slide)
    known = values > 0 if values.dtype.kind in "iu" else np.isfinite(values)  # as in our exports
    share = box_means(known, low, high)
    with np.errstate(invalid="ignore"):
        score = box_means(np.where(known, values, 0), low, high) / share
    own = truth_places(cohort, slide).drop(columns="tile_id").assign(gene=gene, score=score)
    return own[share >= _MEASURED]


def _scored(region: Any, told: dict[str, Any], slide: str, gene: str) -> list[dict[str, Any]]:
    x0, y0, x1, y1 = region.geometry.bounds
    place = {"slide_id": slide, "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    measured = told.get("measurements")
    if isinstance(measured, list):  # QuPath before 0.4
        measured = {m.get("name"): m.get("value") for m in measured if isinstance(m, dict)}
    measured = measured if isinstance(measured, dict) else {}
    scores = {str(name).removesuffix(" probability"): value for name, value in measured.items()}
    if (one := told.get("score", told.get("probability"))) is not None:
        scores[str(told.get("gene") or gene or region.classification)] = one
    return [place | {"gene": name, "score": value} for name, value in scores.items()]


def raster_and_tiles(path: Path, cohort: PlantedCohort, slide: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A one-channel PNG or TIFF over a slide, and corners of the truth's tiles in it, (n, 2) each [px of the picture].

    The size of a pixel is that of ``NAME.json`` beside it (``{"step": 32, "x": 0, "y": 0}``, level-0 px), or what our
    OME-TIFF says; else the picture covers the whole slide. Raises InputError: no picture of one channel, too large;
    AnnotationError: without a scale, and of another aspect than the slide.
    """
    beside, values = path.with_suffix(".json"), None
    try:
        with Image.open(path, formats=("PNG", "TIFF")) as image:
            found = _STEP.search(str(getattr(image, "tag_v2", {}).get(_DESCRIPTION, "")))
            if image.width * image.height <= LARGEST_MASK_PX and len(image.getbands()) == 1:
                values = np.asarray(image)
            got = f"{image.width} × {image.height} px of {len(image.getbands())} channels"
        told = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        step = np.array([told["step"]] * 2 if told else found.groups() if found else [0, 0], float)
        origin = np.array([told.get("x", 0), told.get("y", 0)], float)
    except PICTURE_ERRORS as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {str(error)[:80]})",
                         expected='a PNG or TIFF, and a scale beside it such as {"step": 32}') from error  # fmt: skip
    if values is None or (told and not (step > 0).all()):
        raise InputError(f"{path} is no map", got=f"{got}, step {step[0]:g}",
                         expected=f"one channel of at most {LARGEST_MASK_PX:,} px, a step above 0",
                         fix="Export scores, not their colours, and at a larger downsample")  # fmt: skip
    if not step.all():
        whole = cohort.slides.loc[slide, ["width_l0_px", "height_l0_px"]].to_numpy(int)
        step = mask_scale(values.shape, (int(whole[0]), int(whole[1])), path.name)
    tiles = truth_places(cohort, slide)
    low = (tiles[["x", "y"]].to_numpy() - origin) / step
    return values, low, low + tiles[["width", "height"]].to_numpy() / step


def missing_note(cohort: PlantedCohort, scored: Iterable[str], what: str = "a score") -> list[str]:
    """A sentence on the slides of tumours that are not among `scored`, if there are any."""
    tumours = cohort.slides.index[cohort.slides["subtype"] != "normal"]
    lost = sorted(set(tumours) - set(scored))
    return [f"{counted(len(lost), 'slide')} of {len(tumours)} without {what}: {shortened(lost, 3)}."] if lost else []
