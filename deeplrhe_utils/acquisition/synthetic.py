"""A synthetic cohort with a planted, known truth: slides that any pathology reader can open.

Nothing here is patient data. Identifiers have the structure of TCGA barcodes under the prefix
``SYNT``, which no tissue project uses. The image model is Beer–Lambert: densities of haematoxylin and
eosin, a stain matrix, transmitted light, scanner noise, JPEG.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.svs import HEADER_BYTES, TILE_SIZE_PX, SvsLevel, aperio_description, write_svs
from deeplrhe_utils.acquisition.synthetic_cohort import EFFECTS, GENES, CohortPlan, Effect, plan_cohort
from deeplrhe_utils.acquisition.synthetic_tissue import Tissue, TissueRecipe, draw_tissue, enlarge_rows
from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.files import sha256_text, write_json
from deeplrhe_utils.core.seeds import generator

__all__ = ["EFFECTS", "GENES", "CohortPlan", "Effect", "plan_cohort", "slide_recipe", "stain_matrix", "write_slide"]

RENDERER_VERSION: Final = 1  # raise it whenever the same recipe draws other pixels
_PYRAMID_STEP: Final = 4
_TILE_MPP: Final = 0.5  # tiles are planned at 0.5 µm/px
_INKS: Final = ((0.95, 0.55, 0.10), (0.85, 0.30, 0.75), (0.8, 0.8, 0.8))  # blue, green, black: OD of R, G, B


@dataclass(frozen=True)
class SlideRecipe:
    """Everything that decides the bytes of one slide."""

    slide_id: str
    site_id: str
    seed: int
    tissue: TissueRecipe
    scale: int  # level-0 px per canvas px: 1 at 20×, 2 at 40×
    mpp: float
    objective: int
    jpeg_quality: int
    blur_spots: int
    pen_strokes: int
    spot_px: int
    renderer: int = RENDERER_VERSION

    @property
    def fingerprint(self) -> str:
        """First 16 characters of a hash over the whole recipe; stored in the slide."""
        return sha256_text(json.dumps(asdict(self), sort_keys=True))[:16]


def slide_recipe(plan: CohortPlan, slide_id: str) -> SlideRecipe:
    """Collect what decides the bytes of one slide.

    Parameters
    ----------
    plan : CohortPlan
        The cohort.
    slide_id : str
        One of ``plan.slides.slide_id``.

    Raises
    ------
    ParameterError
        The plan has no such slide.
    """
    rows = plan.slides[plan.slides["slide_id"] == slide_id]
    if rows.empty:
        raise ParameterError(f"Slide {slide_id} is not in the plan", expected="one of plan.slides.slide_id")
    row = rows.iloc[0]
    truth = plan.truth.set_index("patient_id").loc[row["patient_id"]]
    scale = int(row["objective"]) // 20
    tissue = TissueRecipe(
        width_px=int(row["width_l0_px"]) // scale,
        height_px=int(row["height_l0_px"]) // scale,
        mpp=float(row["mpp"]) * scale,
        tumour_share=float(row["tumour_share"]),
        subtype=str(row["subtype"]),
        frozen=row["sample_type"] == "frozen",
        **{e.attribute: float(truth[e.attribute]) for e in EFFECTS.values()},
    )
    return SlideRecipe(
        slide_id=slide_id,
        site_id=str(row["site_id"]),
        seed=plan.seed,
        tissue=tissue,
        scale=scale,
        mpp=float(row["mpp"]),
        objective=int(row["objective"]),
        jpeg_quality=int(row["jpeg_quality"]),
        blur_spots=int(row["blur_spots"]),
        pen_strokes=int(row["pen_strokes"]),
        spot_px=plan.tile_px,
    )


def write_slide(plan: CohortPlan, slide_id: str, folder: Path) -> Path:
    """Render one slide and its tumour outline; a complete slide of the same recipe is kept.

    Writes ``<slide_id>.svs`` (Aperio-style: levels 1:1 and 1:4, JPEG tiles of 256 px, microns per pixel
    and objective power in the description) and, before it, ``<slide_id>.geojson`` (QuPath style, level-0
    px, classification "Tumor"). Both appear by atomic rename and repeat byte for byte, whatever the order
    of slides or the number of processes, on the same machine type and library versions.

    Parameters
    ----------
    plan : CohortPlan
        The cohort.
    slide_id : str
        One of ``plan.slides.slide_id``.
    folder : Path
        Made if missing.

    Returns
    -------
    Path
        The slide.

    Raises
    ------
    ParameterError
        The plan has no such slide.
    """
    recipe = slide_recipe(plan, slide_id)
    path = Path(folder) / f"{slide_id}.svs"
    outline = path.with_suffix(".geojson")
    if outline.is_file() and _is_current(path, recipe):
        return path
    tissue = draw_tissue(recipe.tissue, generator(recipe.seed, "tissue", slide_id))
    write_json(outline, _outline_geojson(tissue, recipe.scale))
    ink = _add_artefacts(recipe, tissue)
    size = (recipe.tissue.width_px * recipe.scale, recipe.tissue.height_px * recipe.scale)
    reduced = np.empty((size[1] // _PYRAMID_STEP, size[0] // _PYRAMID_STEP, 3), np.uint8)
    levels = [
        SvsLevel(*size, _full_tiles(recipe, tissue, ink, reduced)),
        SvsLevel(reduced.shape[1], reduced.shape[0], _reduced_tiles(reduced, recipe.jpeg_quality)),
    ]
    note = f"Recipe = {recipe.fingerprint}"
    q, mpp, power = recipe.jpeg_quality, recipe.mpp, float(recipe.objective)
    return write_svs(path, levels, aperio_description(*size, quality=q, mpp=mpp, power=power, note=note), mpp)


def _is_current(path: Path, recipe: SlideRecipe) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        return recipe.fingerprint.encode() in stream.read(HEADER_BYTES)


def stain_matrix(seed: int, site_id: str, slide_id: str) -> NDArray[np.float64]:
    """Optical density (log10) of unit haematoxylin and unit eosin in R, G and B, shape (2, 3).

    Sites scatter widely around the classical vectors (Ruifrok and Johnston 2001; Macenko et al. 2009), slides of a site
    narrowly around their site; vectors have unit length times an intensity.
    """
    site, slide = generator(seed, "site", site_id, "stain"), generator(seed, "stain", slide_id)
    base = np.array([[0.61, 0.71, 0.35], [0.19, 0.86, 0.44]])
    vectors = base + site.normal(0, 1, (2, 3)) * [[0.07, 0.05, 0.05], [0.05, 0.04, 0.07]]
    vectors = np.clip(vectors + slide.normal(0, 0.012, (2, 3)), 0.02, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    intensity = np.exp(site.normal(0, 0.20, 2) + slide.normal(0, 0.06, 2))
    return vectors * np.clip(intensity, 0.6, 1.6)[:, None]


def _outline_geojson(tissue: Tissue, scale: int) -> dict[str, object]:
    """The tumour outline as a QuPath FeatureCollection, level-0 px."""
    ring = np.round(tissue.outline * scale, 1).tolist()
    properties = {
        "objectType": "annotation",
        "name": "tumour outline",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
    }
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    return {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "geometry": geometry, "properties": properties}],
    }


def _add_artefacts(recipe: SlideRecipe, tissue: Tissue) -> NDArray[np.uint8]:
    """Put blur spots into the densities, in place; return the pen strokes, shape (height, width)."""
    rng = generator(recipe.seed, "artefacts", recipe.slide_id)
    ink = np.zeros(tissue.eosin.shape, np.uint8)
    for _ in range(recipe.blur_spots):
        _blur_spot(tissue, recipe, rng)
    for _ in range(recipe.pen_strokes):
        _pen_stroke(ink, rng)
    return np.asarray(cv2.blur(ink, (5, 5)), np.uint8) if recipe.pen_strokes else ink


def _blur_spot(tissue: Tissue, recipe: SlideRecipe, rng: np.random.Generator) -> None:
    """Defocus (2.5–4 µm) over most of one tile somewhere in the tumour, in place."""
    outline, side = tissue.outline, round(recipe.spot_px * _TILE_MPP / recipe.tissue.mpp)
    centre = outline.mean(axis=0)
    spot = centre + (outline[rng.integers(len(outline))] - centre) * rng.uniform(0.0, 0.6)
    x0, y0 = (int(v // side) * side for v in spot)  # on the tile grid: the truth is a tile, not a smear of four
    sigma_px = rng.uniform(2.5, 4.0) / recipe.tissue.mpp
    mask = np.zeros((side, side), np.float32)
    cv2.ellipse(mask, (side // 2, side // 2), (side * 49 // 100, side * 48 // 100), 0, 0, 360, 1.0, -1)
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), side / 40), np.float32)
    for density in (tissue.haematoxylin, tissue.eosin):
        window = density[y0 : y0 + side, x0 : x0 + side]
        window += mask[: window.shape[0], : window.shape[1]] * (cv2.GaussianBlur(window, (0, 0), sigma_px) - window)


def _pen_stroke(ink: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """A felt-pen stroke across a part of the slide, in place."""
    height, width = ink.shape
    start = rng.uniform(0.1, 0.9, 2) * (width, height)
    step = rng.normal(0, 0.10, (5, 2)) * (width, height)
    points = np.round(np.cumsum(np.vstack([start, step]), axis=0)).astype(np.int32)
    cv2.polylines(ink, [points], False, 230, max(3, min(height, width) // 40), cv2.LINE_AA)


def _light_matrix(recipe: SlideRecipe) -> NDArray[np.float32]:
    """Affine map (3, 4) from densities to the natural logarithm of the light [0–255] in R, G and B."""
    rng = generator(recipe.seed, "lamp", recipe.slide_id)
    ink = np.array(_INKS[int(rng.integers(len(_INKS)))])
    stains = np.vstack([stain_matrix(recipe.seed, recipe.site_id, recipe.slide_id), ink])
    lamp = np.log(generator(recipe.seed, "lamp", recipe.site_id).uniform(238, 247) + rng.normal(0, 1.2, 3))
    return np.hstack([-math.log(10) * stains.T, lamp[:, None]]).astype(np.float32)


def _full_tiles(
    recipe: SlideRecipe, tissue: Tissue, ink: NDArray[np.uint8], reduced: NDArray[np.uint8]
) -> Iterator[bytes]:
    """JPEG tiles of level 0 in row-major order; fills `reduced`, the 1:4 level, on the way."""
    light = _light_matrix(recipe)
    rng = generator(recipe.seed, "scanner noise", recipe.slide_id)
    width, height = ink.shape[1] * recipe.scale, ink.shape[0] * recipe.scale
    noise = _noise_band(rng, width)
    for top in range(0, height, TILE_SIZE_PX):
        rows = min(TILE_SIZE_PX, height - top)
        natural_log = cv2.transform(_band(tissue, ink, top, top + rows, recipe.scale), light)
        shifted = np.roll(noise, int(rng.integers(width)), axis=1)[:rows]
        image = np.asarray(cv2.add(cv2.exp(natural_log), shifted, dtype=cv2.CV_8U), np.uint8)
        small = (width // _PYRAMID_STEP, rows // _PYRAMID_STEP)
        start = top // _PYRAMID_STEP
        reduced[start : start + small[1]] = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        yield from _encode_row(image, recipe.jpeg_quality)


def _noise_band(rng: np.random.Generator, width: int) -> NDArray[np.float32]:
    """Sensor noise of about 2 grey levels, slightly correlated as after demosaicking."""
    noise = rng.standard_normal((TILE_SIZE_PX, width, 3), dtype=np.float32)
    return np.asarray(cv2.blur(noise, (2, 2)), np.float32) * np.float32(3.6)


def _band(tissue: Tissue, ink: NDArray[np.uint8], top: int, bottom: int, scale: int) -> NDArray[np.float32]:
    """Level-0 rows of haematoxylin, eosin and ink density, shape (rows, width, 3)."""
    first, last = max(top // scale - 4, 0), min(bottom // scale + 4, ink.shape[0])
    strokes = ink[first:last].astype(np.float32) / np.float32(255)
    densities = np.dstack([tissue.haematoxylin[first:last], tissue.eosin[first:last], strokes])
    return enlarge_rows(densities, top - first * scale, bottom - first * scale, scale)


def _reduced_tiles(reduced: NDArray[np.uint8], quality: int) -> Iterator[bytes]:
    for top in range(0, reduced.shape[0], TILE_SIZE_PX):
        yield from _encode_row(reduced[top : top + TILE_SIZE_PX], quality)


def _encode_row(image: NDArray[np.uint8], quality: int) -> Iterator[bytes]:
    """JPEG tiles of one row of tiles; the last ones are padded by repeating the edge."""
    down, right = -image.shape[0] % TILE_SIZE_PX, -image.shape[1] % TILE_SIZE_PX
    padded = np.asarray(cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    for left in range(0, padded.shape[1], TILE_SIZE_PX):
        bgr = cv2.cvtColor(padded[:, left : left + TILE_SIZE_PX], cv2.COLOR_RGB2BGR)
        yield cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
