"""Compare a synthetic cohort with fields of real tissue; draw the figures of ``docs/synthetic-cohort.md``.

Usage: python benchmarks/compare_with_real.py --real DIR --cohort DIR [--side-by-side FILE]

Real: RGB TIFF images at about 0.25 µm/px, each with an ImageScope XML of nuclear outlines beside it, or without.
Synthetic: a cohort of one section per slide, such as ``deeplrhe synth demo`` writes. The table goes to standard output
and into the page. Statistics of real pixels are published; real pixels never are: the only picture that holds some
(--side-by-side) is refused inside this repository.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Final
from unittest.mock import patch
from xml.etree import ElementTree

import cv2
import numpy as np
import pandas as pd
import shapely.ops
from _realism import (
    DPI,
    OUTLINES,
    Curves,
    Panel,
    Points,
    area_curves,
    colour_curves,
    compare,
    dark_grain,
    describe_fields,
    detail_curves,
    distributions,
    envelope,
    outline_areas,
    plate,
)
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree
from shapely import LineString
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import AnnotationError, CompendiumError, InputError, ParameterError
from deeplrhe_utils.core.files import atomic_path, read_json, write_text
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.slides.outlines.geojson import read_geojson
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.synthetic.paint import tissue
from deeplrhe_utils.synthetic.paint.artefacts import ARTEFACT_KINDS
from deeplrhe_utils.synthetic.publish import (
    RENDERER_VERSION,
    CohortPlan,
    CohortSpec,
    plan_cohort,
    slide_recipe,
    write_slide,
)
from deeplrhe_utils.synthetic.slide import section_stream

DOCS: Final = REPOSITORY / "docs"
FIELD_UM: Final = 250  # side of a field: 1,000 px at 40×, 500 px at 20×
REAL_MPP: Final = 0.25  # of a real field whose outlines do not tell it
CLEAN: Final = 0.999
COLOURS_OF_A_PICTURE: Final = 200
PICTURE_PX: Final = 236
ROWS: Final = {
    "od_red_p50": "optical density of tissue in red, median",
    "od_green_p50": "optical density of tissue in green, median",
    "od_blue_p50": "optical density of tissue in blue, median",
    "od_red_p95": "optical density of tissue in red, 95th percentile",
    "od_green_p95": "optical density of tissue in green, 95th percentile",
    "od_blue_p95": "optical density of tissue in blue, 95th percentile",
    "hue_p5": "hue of tissue, 5th percentile [°]",
    "hue_p50": "hue of tissue, median [°]",
    "hue_p95": "hue of tissue, 95th percentile [°]",
    "tissue_share": "tissue / field [0–1]",
    "detail": "standard deviation of the Laplacian [grey levels]",
    "jpeg_bytes_per_px": "JPEG at quality 75 [bytes/px]",
    "area_median": "nuclear area, median [µm²]",
    "area_p90": "nuclear area, 90th percentile [µm²]",
    "nuclei_per_mm2": "nuclei [1/mm²]",
}
_DIGITS: Final = {"od": 2, "hue": 0, "tissue": 2, "detail": 1, "jpeg": 2, "area": 0, "nuclei": 0}  # by first word


@dataclass(frozen=True)
class Field:
    """A square of tissue: pixels, resolution [µm/px], and areas of its nuclei [µm²] where they are known."""

    name: str
    pixels: NDArray[np.uint8]
    mpp: float
    areas: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Cohort:
    """A synthetic cohort on disk: folder, plan, and truth of slides and tiles in one table."""

    folder: Path
    plan: CohortPlan
    tiles: pd.DataFrame

    def slide(self, slide_id: str) -> Slide:
        """An open slide at its true resolution."""
        mpp = self.plan.slides.set_index("slide_id").at[slide_id, "mpp"]
        return Slide(self.folder / "slides" / f"{slide_id}.svs", float(mpp))


def read_outlines(path: Path) -> tuple[list[NDArray[np.float64]], float]:
    """Vertices [px] of every region of an ImageScope XML file, and its resolution [µm/px].

    Raises
    ------
    AnnotationError
        Not such a file, or one that declares a document type or an entity: nothing here needs either, and they
        are how XML makes a parser open other files or run out of memory.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
            raise AnnotationError(f"Annotation {path.name} declares a document type or an entity", expected="neither")
        root = ElementTree.fromstring(text)
        mpp = float(root.get("MicronsPerPixel", "0"))
        rings = [
            np.array([(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iter("Vertex")]).reshape(-1, 2)
            for region in root.iter("Region")
        ]
    except (OSError, UnicodeDecodeError, ElementTree.ParseError, KeyError, ValueError) as error:
        raise AnnotationError(f"Annotation {path.name} is no ImageScope XML ({error})") from error
    return rings, mpp if mpp > 0 else REAL_MPP


def read_real(folder: Path) -> list[Field]:
    """The real fields of a folder, in order of their names."""
    found = []
    for path in sorted(folder.glob("*.tif")):
        pixels = np.asarray(Image.open(path, formats=["TIFF"]).convert("RGB"))
        areas, mpp = None, REAL_MPP
        if path.with_suffix(".xml").is_file():
            rings, mpp = read_outlines(path.with_suffix(".xml"))
            areas = outline_areas(rings, mpp)
        found.append(Field(path.stem, pixels, mpp, areas))
    if not found:
        raise InputError(f"{folder} holds no real field", expected="*.tif")
    return found


def halved(field: Field) -> Field:
    """The same field at half the resolution, by averaging."""
    height, width = field.pixels.shape[:2]
    small = cv2.resize(field.pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return replace(field, pixels=np.asarray(small, np.uint8), mpp=2 * field.mpp)


def read_cohort(folder: Path) -> Cohort:
    """Plan and truth of a cohort; :class:`ParameterError` if another renderer drew it or slides hold many sections."""
    if not (folder / "cohort.json").is_file():
        raise InputError(f"{folder} holds no cohort", expected="cohort.json", fix="deeplrhe synth demo --out DIR")
    facts = read_json(folder / "cohort.json")
    if facts["renderer"] != RENDERER_VERSION:
        raise ParameterError(
            f"{folder} was drawn by another renderer", got=facts["renderer"], expected=str(RENDERER_VERSION)
        )
    spec = CohortSpec(**facts["spec"] | {"effects": tuple((gene, d) for gene, d in facts["spec"]["effects"])})
    if spec.level0_px or spec.sections_across * spec.sections_down > 1:
        raise ParameterError(f"Slides of {folder} hold several sections", expected="one, as in demo and smoke")
    slides = pd.read_parquet(folder / "truth" / "truth_slides.parquet")
    tiles = pd.read_parquet(folder / "truth" / "truth_tiles.parquet").merge(slides, on="slide_id")
    return Cohort(folder, plan_cohort(spec), tiles)


def clean_tiles(cohort: Cohort) -> pd.DataFrame:
    """Tiles that lie in the tumour and under no artefact."""
    tiles = cohort.tiles
    damaged = tiles[[f"{kind}_fraction" for kind in ARTEFACT_KINDS]].sum(axis=1)
    return tiles[(tiles["tumour_fraction"] > CLEAN) & (damaged == 0)]


def draw_tiles(cohort: Cohort, objective: int, most: int, seed: int) -> pd.DataFrame:
    """One clean tile of each of at most `most` slides scanned with that objective, sites taking turns."""
    tiles = clean_tiles(cohort)
    tiles = tiles[tiles["objective"] == objective]
    order = generator(seed, "fields", objective).permutation(len(tiles))
    one = tiles.iloc[order].drop_duplicates("slide_id")
    turn = one.groupby("site_id").cumcount()
    return one.assign(turn=turn).sort_values(["turn", "site_id"]).head(most)


def synthetic_field(cohort: Cohort, tile: pd.Series, *, nuclei: bool) -> Field:
    """The middle of a tile, level-0 pixels as they are; with the nuclei that were drawn there if asked."""
    side = FIELD_UM * int(tile["objective"]) // 10
    margin = (float(tile["size_l0_px"]) - side) / 2
    x, y = int(tile["x_l0_px"] + margin), int(tile["y_l0_px"] + margin)
    with cohort.slide(tile["slide_id"]) as slide:
        pixels = slide.read_tile(x, y, side, side)
    areas = None
    if nuclei:
        drawn = nuclei_of(cohort, tile["slide_id"])
        size = float(tile["size_l0_px"])  # corners in the table are rounded down
        whole = inside(drawn, tile["column"] * size, tile["row"] * size, size)
        again = int((whole["kind"] == "tumour").sum())
        if again != tile["n_tumour_nuclei"]:
            what = f"{cohort.folder} was drawn by other code: tile {tile['tile_id']} has other nuclei when drawn again"
            raise ParameterError(what, got=again, expected=str(tile["n_tumour_nuclei"]), fix="Make the cohort anew")
        areas = inside(drawn, x, y, side)["area"].to_numpy()
    return Field(str(tile["slide_id"]), pixels, float(tile["mpp"]), areas)


def nuclei_of(cohort: Cohort, slide_id: str) -> pd.DataFrame:
    """Kind, centre [level-0 px] and area [µm²] of every nucleus of a slide, of all kinds: the section drawn again."""
    recipe = slide_recipe(cohort.plan, slide_id)
    seed, scale = cohort.plan.spec.seed, recipe.tissue.scale
    with patch.object(tissue, "stamp", wraps=tissue.stamp) as stamped:
        tissue.draw_tissue(recipe.tissue, lambda name: section_stream(seed, slide_id, 0, name))
    drawn = [call.args[1] for call in stamped.call_args_list if call.args[1].kind not in ("red cell", "cytoplasm")]
    parts = [
        pd.DataFrame({"kind": n.kind, "x": n.x_px * scale, "y": n.y_px * scale, "area": n.area_um2}) for n in drawn
    ]
    return pd.concat(parts, ignore_index=True)


def inside(nuclei: pd.DataFrame, x: float, y: float, side: float) -> pd.DataFrame:
    """Those whose centre lies in a square [level-0 px]."""
    return nuclei[nuclei["x"].between(x, x + side) & nuclei["y"].between(y, y + side)]


def described(fields: Sequence[Field]) -> pd.DataFrame:
    """One row per field: colour, detail, size as JPEG, and nuclei where they are known."""
    table = describe_fields((f.name, f.pixels) for f in fields)
    areas = [f.areas if f.areas is not None else np.zeros(0) for f in fields]
    table["area_median"] = [float(np.median(a)) if len(a) else math.nan for a in areas]
    table["area_p90"] = [float(np.percentile(a, 90)) if len(a) else math.nan for a in areas]
    mm2 = [f.pixels.shape[0] * f.pixels.shape[1] * (f.mpp / 1000) ** 2 for f in fields]
    table["nuclei_per_mm2"] = [len(a) / s if len(a) else math.nan for a, s in zip(areas, mm2, strict=True)]
    return table


def markdown(tables: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> str:
    """Real and synthetic rows of each resolution as one table of ranges and medians."""
    lines = ["| Quantity | Scan | Real: range | Real: median | Synthetic: range | Synthetic: median | Inside |"]
    lines.append("|---|---|---|---|---|---|---|")
    for scan, (real, synthetic) in tables.items():
        rows = compare(real, synthetic).set_index("quantity")
        for quantity, words in ROWS.items():
            row = rows.loc[quantity]
            if row["n_real"] and row["n_synthetic"]:
                cells = [words, scan]
                for side in ("real", "synthetic"):
                    low, middle, high = (number(quantity, row[f"{side}_{end}"]) for end in ("low", "median", "high"))
                    cells += [f"{low} to {high}", middle]
                cells.append(f"{100 * row['overlap']:.0f} %")
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chromatin_sentence(fields: Sequence[Field], planted: Sequence[float]) -> str:
    """How well the contrast of fine chromatin that was drawn can be read from 40× fields, in three ways."""
    readings = {
        "every pixel": [f.pixels for f in fields],
        "averaged 2 × 2": [halved(f).pixels for f in fields],
        "every second pixel": [np.ascontiguousarray(f.pixels[::2, ::2]) for f in fields],
    }
    truth = pd.Series(planted)
    found = [f"{pd.Series([dark_grain(i) for i in images]).corr(truth, method='spearman'):.2f} ({words})"
             for words, images in readings.items()]  # fmt: skip
    return (
        "Rank correlation of the contrast that was drawn with the contrast between neighbouring pixels in the darkest "
        f"15 % of a field: {', '.join(found)}; {len(fields)} fields, 40×.".replace("-", "−")
    )


def number(quantity: str, value: float) -> str:
    """A value with as many digits as it deserves."""
    return f"{value:,.{_DIGITS[quantity.split('_')[0]]}f}".replace("-", "−")


def distribution_figure(
    scans: dict[str, tuple[list[Field], list[Field]]], tables: dict[str, tuple[pd.DataFrame, pd.DataFrame]]
) -> Figure:
    """Colour at both resolutions, then nuclei and detail, then one value per field."""
    names = {f"od_{c}": f"optical density, {c}" for c in ("red", "green", "blue")} | {"hue": "hue"}
    grid: list[list[Curves | Points]] = []
    for scan, (real, synthetic) in scans.items():
        row: list[Curves | Points] = []
        lines, band = colour_curves(pairs(real)), envelope(colour_curves(pairs(synthetic)))
        for quantity, title in names.items():
            r, s = (table[table["quantity"] == quantity] for table in (lines, band))
            label, limits = ("hue [°], red is 0", (-140, 20)) if quantity == "hue" else ("log10", (0, 1.25))
            row.append(Curves(r, s, f"{title}, {scan}", label, limits=limits))
        grid.append(row)
    real, synthetic = next(iter(scans.values()))
    areas = [{f.name: f.areas for f in side if f.areas is not None} for side in (real, synthetic)]
    detail = {
        scan: [detail_curves(pairs(side), side[0].mpp) for side in sides] for scan, sides in scans.items()
    }  # real fields differ by 2 % in resolution
    curves = [Curves(area_curves(areas[0]), envelope(area_curves(areas[1])), "nuclear area", "µm²", True)]
    curves += [
        Curves(r, envelope(s), f"contrast by size, {scan}", "width of stripes [µm]", True)
        for scan, (r, s) in detail.items()
    ]
    grid.append([*curves, points(tables, "40×", "nuclei_per_mm2", "nuclei per mm²")])
    what = {"detail": "Laplacian", "jpeg_bytes_per_px": "JPEG, bytes per px"}
    grid.append([points(tables, scan, q, f"{t}, {scan}") for q, t in what.items() for scan in scans])
    return distributions(grid)


def pairs(fields: Sequence[Field]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Names and pixels."""
    return ((f.name, f.pixels) for f in fields)


def points(tables: dict[str, tuple[pd.DataFrame, pd.DataFrame]], scan: str, quantity: str, title: str) -> Points:
    """One value per field of both sides."""
    real, synthetic = (t[quantity].dropna().to_numpy(float) for t in tables[scan])
    return Points(real, synthetic, float(np.median(real)), float(np.median(synthetic)), title, "")


def picture(cohort: Cohort, tile: pd.Series, title: str, mpp: float, px: int = PICTURE_PX) -> Panel:
    """A part of a tile at a resolution: at 40× that with most tumour nuclei, else that with the strongest contrast."""
    side, size = px * mpp / float(tile["mpp"]), float(tile["size_l0_px"])
    corner = np.array([tile["x_l0_px"], tile["y_l0_px"]], float)
    corners = [(corner + (size - side) * np.array(s)).astype(int) for s in product(np.linspace(0, 1, 5), repeat=2)]
    with cohort.slide(tile["slide_id"]) as slide:
        images = [slide.read_tile(int(x), int(y), side, px) for x, y in corners]
    worth = [float(image.mean(axis=2).std()) for image in images]
    if tile["objective"] == 40:
        nuclei = nuclei_of(cohort, tile["slide_id"]).query("kind == 'tumour'")
        worth = [float(len(inside(nuclei, x, y, side))) for x, y in corners]
    return Panel(images[int(np.argmax(worth))], title, mpp)


def typical(tiles: pd.DataFrame) -> pd.Series:
    """The tile whose share of tissue and number of tumour nuclei are nearest to four fifths up the rank."""
    rank = tiles[["tissue_fraction", "n_tumour_nuclei"]].rank(pct=True)
    return tiles.loc[(rank - [0.5, 0.8]).abs().sum(axis=1).idxmin()]


def field_rows(cohort: Cohort) -> list[tuple[str, list[Panel]]]:
    """Subtypes at 20×, details at 40×, sites, and whole slides."""
    tiles = clean_tiles(cohort)
    diagnostic = tiles[tiles["sample_type"] == "diagnostic"]
    at = {power: diagnostic[diagnostic["objective"] == power] for power in (20, 40)}
    kinds = ("adenocarcinoma", "squamous")
    twenty = [picture(cohort, typical(at[20][at[20]["subtype"] == k]), k, 0.5) for k in kinds]
    frozen = tiles[(tiles["sample_type"] == "frozen") & (tiles["objective"] == 20)]
    twenty += [picture(cohort, typical(frozen), "frozen", 0.5), normal_lung(cohort)]
    forty = [picture(cohort, typical(at[40][at[40]["subtype"] == k]), k, 0.25) for k in kinds]
    contrast = at[40]["chromatin_contrast"]
    for words, value in (("weakest fine chromatin", contrast.min()), ("strongest fine chromatin", contrast.max())):
        forty.append(picture(cohort, typical(at[40][contrast == value]), f"{words}: {value:.2f}", 0.25))
    sites = [s for s in sorted(diagnostic["site_id"].unique()) if (at[20]["site_id"] == s).any()][1::2][:4]
    stains = [picture(cohort, typical(at[20][at[20]["site_id"] == s]), f"site {s}", 1.0) for s in sites]
    return [
        ("20× scans, 0.5 µm/px", twenty),
        ("40× scans, 0.25 µm/px", forty),
        ("Sites, 20× scans at 1 µm/px", stains),
        ("Whole slides: true tumour (yellow), part of it with regional effects (green), delivered outline (dashed)",
         [whole_slide(cohort, s, 2 * PICTURE_PX + 6) for s in example_slides(cohort)]),
    ]  # fmt: skip


def normal_lung(cohort: Cohort) -> Panel:
    """A slide of normal lung of the same patients; most cohorts have none, so one is drawn."""
    plan = plan_cohort(replace(cohort.plan.spec, normal_share=1.0, artefact_rate=0.0))
    slides = plan.slides[(plan.slides["subtype"] == "normal") & (plan.slides["objective"] == 20)]
    row = slides.iloc[0]
    side = PICTURE_PX * 0.5 / float(row["mpp"])
    with tempfile.TemporaryDirectory() as folder:
        path = write_slide(plan, row["slide_id"], Path(folder))
        slide = Slide(path, float(row["mpp"]))
        x, y = (int(0.4 * length) for length in slide.dimensions)
        image = slide.read_tile(x, y, side, PICTURE_PX)
        slide.close()
    return Panel(image, "normal lung", 0.5)


def example_slides(cohort: Cohort) -> list[str]:
    """One slide of each subtype without any artefact."""
    slides = cohort.plan.slides
    clean = slides[slides[[f"n_{k}" for k in ARTEFACT_KINDS]].sum(axis=1) == 0]
    clean = clean[(clean["objective"] == 20) & (clean["subtype"] != "normal")]
    return [str(group["slide_id"].iloc[1]) for _, group in clean.groupby("subtype")]


def whole_slide(cohort: Cohort, slide_id: str, wide_px: int) -> Panel:
    """A slide with its true and its delivered outlines."""
    with cohort.slide(slide_id) as slide:
        image = slide.thumbnail(wide_px)
        factor = image.shape[1] / slide.dimensions[0]
        mpp = slide.mpp / factor
    truth = sorted((c, g) for c, g in truth_of(cohort, slide_id) if c in ("Subclone", "Tumor"))  # the tint first
    outlines = [(c, r) for c, g in truth for r in rings(g, factor)]
    for region in read_geojson(cohort.folder / "slides" / f"{slide_id}.geojson"):
        outlines += [("delivered", ring) for ring in rings(region.geometry, factor)]
    return Panel(
        image, f"{cohort.plan.slides.set_index('slide_id').at[slide_id, 'subtype']}, {slide_id}", mpp, outlines
    )


def truth_of(cohort: Cohort, slide_id: str) -> list[tuple[str, BaseGeometry]]:
    """Classification and outline [level-0 px] of everything the truth of a slide holds."""
    path = cohort.folder / "truth" / "slides" / f"{slide_id}.geojson"
    return [(r.classification, r.geometry) for r in read_geojson(path)]


def rings(geometry: BaseGeometry, factor: float, corner: tuple[float, float] = (0.0, 0.0)) -> list[NDArray[np.float64]]:
    """Outlines of an area, in px of a picture."""
    parts = getattr(geometry, "geoms", [geometry])
    lines: list[LineString] = [line for part in parts for line in (part.exterior, *part.interiors)]
    return [(np.asarray(line.coords) - corner) * factor for line in lines]


def artefact_rows(cohort: Cohort, wide: int = 316, high: int = 220, mpp: float = 1.0) -> list[tuple[str, list[Panel]]]:
    """Each kind of artefact at the middle of a picture, half of it inside its true outline."""
    found = []
    for kind in ARTEFACT_KINDS:
        slides = cohort.plan.slides[(cohort.plan.slides[f"n_{kind}"] > 0) & (cohort.plan.slides["objective"] == 20)]
        slide_id = str(slides["slide_id"].iloc[0])
        outline = next(g for c, g in truth_of(cohort, slide_id) if c == f"Artefact: {kind}")
        with cohort.slide(slide_id) as slide:
            factor = slide.mpp / mpp
            size = np.array([wide, high]) / factor
            centre = np.array(shapely.ops.nearest_points(outline.boundary, middle_of(slide.dimensions))[0].coords[0])
            corner = np.clip(centre - size / 2, 0, np.array(slide.dimensions) - wide / factor - 1).astype(int)
            square = slide.read_tile(int(corner[0]), int(corner[1]), wide / factor, wide)
        shown = [("artefact", ring) for ring in rings(outline, factor, (float(corner[0]), float(corner[1])))]
        found.append(Panel(square[:high], kind, mpp, shown))
    rows = [found[i : i + 3] for i in range(0, len(found), 3)]
    return [("" if i else "Artefacts and their true outlines, 20× scans at 1 µm/px", row) for i, row in enumerate(rows)]


def middle_of(size: tuple[int, int]) -> shapely.Point:
    """The middle of a slide [level-0 px]."""
    return shapely.Point(size[0] / 2, size[1] / 2)


def side_by_side(scans: dict[str, tuple[list[Field], list[Field]]], px: int = 320) -> Figure:
    """Real fields above as many synthetic ones, at both resolutions, pixel by pixel."""
    rows = []
    for scan, (real, synthetic) in scans.items():
        for words, fields in (("Real", real), ("Synthetic", synthetic[: len(real)])):
            rows.append((f"{words}, {scan}", [Panel(f.pixels[:px, :px], f.name, f.mpp) for f in fields]))
    return plate(rows)


def outside_repository(path: Path) -> Path:
    """The path itself; :class:`ParameterError` if it lies inside the repository, through whatever link."""
    if path.resolve().is_relative_to(REPOSITORY.resolve()):
        what = "Real pixels are never kept in this repository"
        raise ParameterError(what, got=path, expected="a file somewhere else")
    return path


def save(figure: Figure, path: Path, colours: int = 0) -> None:
    """Write a figure as PNG at its own dpi, with a palette of that many colours if any."""
    with io.BytesIO() as whole, atomic_path(path) as part:
        figure.savefig(whole, format="png", dpi=DPI)
        image = Image.open(whole).convert("RGB")
        if colours:
            image = _few_colours(image, colours)
        image.save(part, format="PNG", optimize=True)


def _few_colours(image: Image.Image, colours: int) -> Image.Image:
    """So many colours of a picture, and those of text and outlines besides: thin lines are few pixels."""
    own = image.quantize(colours, method=Image.Quantize.MEDIANCUT).getpalette() or []
    extra = [to_rgb(c) for c in ("black", "white", "#808080", *(colour for colour, _ in OUTLINES.values()))]
    palette = np.vstack([np.reshape(own[: 3 * colours], (-1, 3)), np.rint(255 * np.array(extra))])
    pixels = np.asarray(image)
    nearest = cKDTree(palette).query(pixels.reshape(-1, 3))[1]
    few = Image.fromarray(nearest.reshape(pixels.shape[:2]).astype(np.uint8), mode="P")
    few.putpalette(palette.astype(int).ravel().tolist())
    return few


def build_parser() -> argparse.ArgumentParser:
    """Arguments of this script."""
    parser = argparse.ArgumentParser(
        description="Compare a synthetic cohort with real fields; draw the page's figures."
    )
    parser.add_argument("--real", type=Path, metavar="DIR", help="real fields: *.tif, and *.xml beside")
    parser.add_argument("--cohort", type=Path, metavar="DIR", help="a cohort of one section per slide")
    parser.add_argument("--out", type=Path, default=DOCS / "figures", metavar="DIR", help="folder of the figures")
    parser.add_argument(
        "--page", type=Path, default=DOCS / "synthetic-cohort.md", metavar="FILE", help="gets the table"
    )
    parser.add_argument("--slides", type=int, default=40, metavar="N", help="at most so many fields per resolution")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which tiles become fields")
    parser.add_argument("--side-by-side", type=Path, metavar="FILE", help="holds real pixels: outside this repository")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, draw, print; 0 success, 1 failure."""
    options = build_parser().parse_args(argv)
    if not (options.real and options.cohort):
        print("Nothing was compared: give --real and --cohort, two folders.")
        return 0
    try:
        if options.side_by_side:
            outside_repository(options.side_by_side)
        run(options)
    except CompendiumError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(options: argparse.Namespace) -> None:
    """Everything after the arguments are checked."""
    real, cohort = read_real(options.real), read_cohort(options.cohort)
    scans: dict[str, tuple[list[Field], list[Field]]] = {}
    for objective, side in ((40, real), (20, [halved(f) for f in real])):
        tiles = draw_tiles(cohort, objective, options.slides, options.seed)
        drawn = [synthetic_field(cohort, tile, nuclei=objective == 40) for _, tile in tiles.iterrows()]
        known = side if objective == 40 else [replace(f, areas=None) for f in side]  # nuclei are counted once
        scans[f"{objective}×"] = known, drawn
        if objective == 40:
            chromatin = chromatin_sentence(drawn, tiles["chromatin_contrast"].astype(float).tolist())
    tables = {scan: (described(r), described(s)) for scan, (r, s) in scans.items()}
    table = markdown(tables)
    print(table, "", chromatin, sep="\n")
    if options.page.is_file():
        text = options.page.read_text(encoding="utf-8")
        for name, new in (("comparison", table), ("chromatin", chromatin)):
            head, _, rest = text.partition(f"<!-- {name}:begin -->")
            tail = rest.partition(f"<!-- {name}:end -->")[2]
            text = f"{head}<!-- {name}:begin -->\n\n{new.strip()}\n\n<!-- {name}:end -->{tail}"
        write_text(options.page, text)
    options.out.mkdir(parents=True, exist_ok=True)
    save(distribution_figure(scans, tables), options.out / "distributions.png", COLOURS_OF_A_PICTURE)
    save(plate(field_rows(cohort)), options.out / "synthetic-fields.png", COLOURS_OF_A_PICTURE)
    save(plate(artefact_rows(cohort)), options.out / "synthetic-artefacts.png", COLOURS_OF_A_PICTURE)
    if options.side_by_side:
        save(side_by_side(scans), options.side_by_side)


if __name__ == "__main__":
    sys.exit(main())
