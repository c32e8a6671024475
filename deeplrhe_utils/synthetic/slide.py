"""One synthetic slide, from its recipe to an SVS file and its truth."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.files import sha256_text
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.slides.tiles.pixels import one_opencv_thread
from deeplrhe_utils.synthetic.paint.artefacts import ARTEFACT_KINDS, Artefact, add_artefacts, place_artefacts
from deeplrhe_utils.synthetic.paint.label import associated_images
from deeplrhe_utils.synthetic.paint.light import Light
from deeplrhe_utils.synthetic.paint.svs import HEADER_BYTES, TILE_SIZE_PX, SvsWriter, aperio_description
from deeplrhe_utils.synthetic.paint.tissue import CHROMATIN_CONTRAST, Tissue, TissueRecipe, draw_tissue, glass
from deeplrhe_utils.synthetic.plan import CohortPlan
from deeplrhe_utils.synthetic.truth import SlideTruth, drawn_outline, feature, to_level0, write_outlines

RENDERER_VERSION: Final = 6  # raise it whenever the same recipe draws other pixels
PYRAMID_STEP: Final = 4
_LAST_LEVEL_PX: Final = 2048  # levels are added until the longer side is at most this
_CLASSIC_LIMIT_PX: Final = 6e9  # beyond it a file may pass 4 GB, so it becomes a BigTIFF


@dataclass(frozen=True)
class SlideRecipe:
    """Everything that decides the bytes of one slide and of its truth.

    Attributes
    ----------
    slide_id, site_id, seed : who it is and where its randomness comes from
    tissue : recipe of a section; width and height are those of a whole section
    size_l0_px, section_l0_px : (width, height) of the slide and of a section [level-0 px]
    mpp, objective : level-0 resolution [µm/px] and objective power
    mpp_in_metadata, power_in_metadata : whether the file tells them
    artefacts : (kind, number) pairs
    outline_error_um : how far the delivered tumour outline departs from the true one
    tile_px : side of a truth tile [px at 0.5 µm/px]
    """

    slide_id: str
    site_id: str
    seed: int
    tissue: TissueRecipe
    size_l0_px: tuple[int, int]
    section_l0_px: tuple[int, int]
    mpp: float
    objective: int
    mpp_in_metadata: bool
    power_in_metadata: bool
    jpeg_quality: int
    artefacts: tuple[tuple[str, int], ...]
    outline_error_um: float
    tile_px: int
    renderer: int = RENDERER_VERSION

    @property
    def fingerprint(self) -> str:
        """First 16 characters of a hash over the whole recipe; stored in the slide."""
        return sha256_text(json.dumps(asdict(self), sort_keys=True))[:16]

    @property
    def told_mpp(self) -> float | None:
        """The resolution [µm/px] where the file tells it."""
        return self.mpp if self.mpp_in_metadata else None

    @property
    def level_sizes(self) -> list[tuple[int, int]]:
        """(width, height) of the pyramid's levels [px], from full resolution down."""
        sizes = [self.size_l0_px]
        while max(sizes[-1]) > _LAST_LEVEL_PX or len(sizes) == 1:
            width, height = sizes[-1]
            sizes.append((max(1, width // PYRAMID_STEP), max(1, height // PYRAMID_STEP)))
        return sizes


def slide_recipe(plan: CohortPlan, slide_id: str) -> SlideRecipe:
    """Collect what decides the bytes of one slide.

    Parameters
    ----------
    slide_id : one of ``plan.slides.slide_id``

    Raises ParameterError: the plan has no such slide.
    """
    rows = plan.slides[plan.slides["slide_id"] == slide_id]
    if rows.empty:
        raise ParameterError(f"Slide {slide_id} is not in the plan", expected="one of plan.slides.slide_id")
    row = rows.iloc[0]
    scale = int(row["objective"]) // 20
    section = (int(row["section_l0_px_w"]), int(row["section_l0_px_h"]))
    tissue = TissueRecipe(
        width_px=section[0] // scale,
        height_px=section[1] // scale,
        mpp=float(row["mpp"]) * scale,
        scale=scale,
        tumour_share=float(row["tumour_share"]),
        subtype=str(row["subtype"]),
        form=str(row["form"]),
        frozen=row["sample_type"] == "frozen",
        **plan.factors(str(row["patient_id"])),
    )
    return SlideRecipe(
        slide_id=slide_id,
        site_id=str(row["site_id"]),
        seed=plan.spec.seed,
        tissue=tissue,
        size_l0_px=(int(row["width_l0_px"]), int(row["height_l0_px"])),
        section_l0_px=section,
        mpp=float(row["mpp"]),
        objective=int(row["objective"]),
        mpp_in_metadata=bool(row["mpp_in_metadata"]),
        power_in_metadata=bool(row["power_in_metadata"]),
        jpeg_quality=int(row["jpeg_quality"]),
        artefacts=tuple((kind, int(row[f"n_{kind}"])) for kind in ARTEFACT_KINDS),
        outline_error_um=float(plan.spec.outline_error_um),
        tile_px=plan.spec.tile_px,
    )


def write_slide(plan: CohortPlan, slide_id: str, folder: Path, truth_folder: Path | None = None) -> Path:
    """Render one slide, its delivered tumour outline and its truth; a complete slide of the same recipe is kept.

    Writes into `folder` ``<slide_id>.geojson`` (the outline as a pathologist would draw it; QuPath style, level-0 px,
    classification "Tumor"; none for normal lung) and ``<slide_id>.svs`` (Aperio-style: JPEG tiles of 256 px, levels
    1 : 4 apart, thumbnail, label and macro image); into `truth_folder` the true masks and tiles (:class:`SlideTruth`).
    All appear by atomic
    rename, the slide last, and repeat byte for byte, whatever the order of slides or the number of processes, on the
    same machine type and library versions. Memory is that of one section.

    Parameters
    ----------
    slide_id : one of ``plan.slides.slide_id``
    folder, truth_folder : made if missing; without `truth_folder` no truth is written

    Returns the slide.
    Raises ParameterError: the plan has no such slide.
    """
    recipe = slide_recipe(plan, slide_id)
    path = Path(folder) / f"{slide_id}.svs"
    outline = path.with_suffix(".geojson")
    truth_files = [Path(truth_folder) / f"{slide_id}{end}" for end in (".geojson", ".parquet")] if truth_folder else []
    outlines = [] if recipe.tissue.subtype == "normal" else [outline]
    if all(f.is_file() for f in (*outlines, *truth_files)) and _is_current(path, recipe):
        return path
    truth = SlideTruth(slide_id, recipe.size_l0_px, recipe.mpp, recipe.tile_px, recipe.tissue.scale)
    drawn: list[dict[str, object]] = []
    big = recipe.size_l0_px[0] * recipe.size_l0_px[1] > _CLASSIC_LIMIT_PX
    writer = SvsWriter(path, recipe.level_sizes, _description(recipe), mpp=recipe.told_mpp, big=big)
    with one_opencv_thread(), writer as out:
        pyramid = _Pyramid(out, recipe)
        for offset, tissue, artefacts, bands in _sections(recipe):
            truth.add(tissue, artefacts, offset)
            drawn += _delivered(recipe, tissue, offset)
            pyramid.add(bands, offset)
        thumbnail = pyramid.finish()
        for name, image in associated_images(recipe.slide_id, recipe.site_id, thumbnail).items():
            out.add_image(name, image)
        if truth_folder:
            contrast = CHROMATIN_CONTRAST * recipe.tissue.chromatin_texture if recipe.tissue.scale > 1 else None
            truth.write(Path(truth_folder), contrast)
        if outlines:
            write_outlines(outline, drawn)
    return path


def _is_current(path: Path, recipe: SlideRecipe) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        return recipe.fingerprint.encode() in stream.read(HEADER_BYTES)


def _description(recipe: SlideRecipe) -> str:
    """The Aperio text: resolution where the scanner tells it, and the place of the image on the glass."""
    rng = generator(recipe.seed, "scan", recipe.slide_id)
    width, height = recipe.size_l0_px
    left, top = (int(v) for v in rng.integers(0, 400, 2))
    fields: dict[str, str | float] = {
        "ScanScope ID": f"SYNT{recipe.site_id}",
        "Filename": recipe.slide_id,
        "Left": round(float(rng.uniform(20, 30)), 4),
        "Top": round(float(rng.uniform(15, 25)), 4),
    }
    power = float(recipe.objective) if recipe.power_in_metadata else None
    scanned, note = (left, top, left + width, top + height), f"Recipe = {recipe.fingerprint}"
    return aperio_description(
        width, height, quality=recipe.jpeg_quality, mpp=recipe.told_mpp, power=power, scanned=scanned,
        fields=fields, note=note,
    )  # fmt: skip


def _sections(
    recipe: SlideRecipe,
) -> Iterator[tuple[tuple[int, int], Tissue, list[Artefact], Iterator[NDArray[np.uint8]]]]:
    """Offset [level-0 px], tissue, artefacts and scan bands of each section; one section lives at a time."""
    (width, height), (step_x, step_y) = recipe.size_l0_px, recipe.section_l0_px
    corners = [(x, y) for y in range(0, height, step_y) for x in range(0, width, step_x)]
    light = Light.of(recipe.seed, recipe.site_id, recipe.slide_id)
    inside = [i for i, (x, y) in enumerate(corners) if _on_glass_centre(x + step_x / 2, y + step_y / 2, width, height)]
    where = []
    for kind, i in [(kind, i) for kind, number in recipe.artefacts for i in range(number)]:
        place = section_stream(recipe.seed, recipe.slide_id, i, f"place of {kind}")
        where.append((kind, inside[int(place.integers(len(inside)))]))
    for i, (x, y) in enumerate(corners):
        scale = recipe.tissue.scale
        canvas = (min(step_x, width - x) // scale, min(step_y, height - y) // scale)
        section = replace(recipe.tissue, width_px=canvas[0], height_px=canvas[1])
        streams = partial(section_stream, recipe.seed, recipe.slide_id, i)
        tissue = draw_tissue(section, streams) if i in inside else glass(section)
        counts = {kind: where.count((kind, i)) for kind in ARTEFACT_KINDS}
        artefacts = place_artefacts(counts, tissue.regions, canvas, section.mpp, streams)
        overlay = add_artefacts(tissue, artefacts, section.mpp, streams)
        bands = light.bands(tissue, overlay, streams("scanner noise"))
        yield (x, y), tissue, artefacts, _with_damage(bands, artefacts, scale)


def section_stream(seed: int, slide_id: str, section: int, name: str) -> np.random.Generator:
    """A stream that does not know the site, so that a patient who moves keeps their tissue."""
    return generator(seed, "section", slide_id[:5] + slide_id[8:], section, name)


def _on_glass_centre(x: float, y: float, width: int, height: int) -> bool:
    """Tissue lies in the ellipse that the slide holds; sections outside it are bare glass."""
    return (2 * x / width - 1) ** 2 + (2 * y / height - 1) ** 2 <= 1


def _with_damage(
    bands: Iterator[NDArray[np.uint8]], artefacts: list[Artefact], scale: int
) -> Iterator[NDArray[np.uint8]]:
    """Bands of the scan with damaged compression inside the ``jpeg`` artefacts."""
    damaged = [(np.array(a.outline.bounds) * scale, a.strength) for a in artefacts
               if a.kind == "jpeg" and not a.outline.is_empty]  # fmt: skip
    top = 0
    for band in bands:
        for (x0, y0, x1, y1), quality in damaged:
            rows = slice(max(int(y0) - top, 0), max(min(int(y1) - top, len(band)), 0))
            window = band[rows, int(x0) : int(x1)]
            if window.size:
                stream = cv2.imencode(".jpg", window, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
                window[:] = np.asarray(cv2.imdecode(stream, cv2.IMREAD_COLOR))
        yield band
        top += len(band)


class _Pyramid:
    """Cuts sections into JPEG tiles of levels 0 and 1 as they come; smaller levels are collected and cut at the end.

    Sections start at multiples of 1,024 level-0 px, so that their tiles on both levels are whole.
    """

    def __init__(self, out: SvsWriter, recipe: SlideRecipe) -> None:
        self._out, self._quality = out, recipe.jpeg_quality
        self._streams_level_1 = len(recipe.level_sizes) > 2  # it may be too large to keep
        sizes = [(0, 0), *recipe.level_sizes[2:]] if self._streams_level_1 else recipe.level_sizes[1:]
        self._collected = [np.full((height, width, 3), 240, np.uint8) for width, height in sizes]

    def add(self, bands: Iterable[NDArray[np.uint8]], offset: tuple[int, int]) -> None:
        """Take one section, given as bands of 256 rows, whose corner lies at `offset` [level-0 px]."""
        parts, row = [], offset[1] // TILE_SIZE_PX
        for band in bands:
            self._put_row(0, offset[0] // TILE_SIZE_PX, row, band)
            parts.append(_shrunk(band))
            row += 1
        small = np.concatenate(parts)
        x, y = offset[0] // PYRAMID_STEP, offset[1] // PYRAMID_STEP
        if self._streams_level_1:
            for i, top in enumerate(range(0, len(small), TILE_SIZE_PX)):
                self._put_row(1, x // TILE_SIZE_PX, y // TILE_SIZE_PX + i, small[top : top + TILE_SIZE_PX])
        for level in self._collected:
            if level.size:
                level[y : y + small.shape[0], x : x + small.shape[1]] = small
            small, x, y = _shrunk(small), x // PYRAMID_STEP, y // PYRAMID_STEP

    def finish(self) -> NDArray[np.uint8]:
        """Put the collected levels; return the smallest."""
        for number, level in enumerate(self._collected, start=1):
            for i, top in enumerate(range(0, len(level), TILE_SIZE_PX)):
                self._put_row(number, 0, i, level[top : top + TILE_SIZE_PX])
        return self._collected[-1]

    def _put_row(self, level: int, column: int, row: int, image: NDArray[np.uint8]) -> None:
        """One row of tiles; the last ones are padded by repeating the edge."""
        down, right = -image.shape[0] % TILE_SIZE_PX, -image.shape[1] % TILE_SIZE_PX
        padded = np.asarray(cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE), np.uint8)
        for i, left in enumerate(range(0, padded.shape[1], TILE_SIZE_PX)):
            bgr = cv2.cvtColor(padded[:, left : left + TILE_SIZE_PX], cv2.COLOR_RGB2BGR)
            stream = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self._quality])[1]
            self._out.put(level, column + i, row, stream.tobytes())


def _shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image at a quarter of its size, by averaging; what does not fill a pixel is cut."""
    height, width = max(1, image.shape[0] // PYRAMID_STEP), max(1, image.shape[1] // PYRAMID_STEP)
    whole = image[: height * PYRAMID_STEP, : width * PYRAMID_STEP]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _delivered(recipe: SlideRecipe, tissue: Tissue, offset: tuple[int, int]) -> list[dict[str, object]]:
    """The tumour outline of one section as it is handed out, level-0 px."""
    outline = tissue.regions.tumour_outline
    if outline.is_empty:
        return []
    rng = section_stream(recipe.seed, recipe.slide_id, 0, f"outline at {offset}")
    drawn = drawn_outline(outline, recipe.outline_error_um / recipe.tissue.mpp, rng)
    return [feature(to_level0(drawn, recipe.tissue.scale, offset), "Tumor")]
