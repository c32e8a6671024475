"""What ``deeplrhe normalize`` is asked and given: options, slides, and folders of tiles that stand for one slide each.

The rule, folder by folder: where there is a slide, the slides of the folder are meant, and pictures beside them are
left out (thumbnails, labels). Where there is none, the pictures of the folder are the tiles of one slide, which has
the folder's name.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.files import path_text, safe_name
from deeplrhe_utils.core.units import PLAUSIBLE_MPP
from deeplrhe_utils.slides.decoding.sampling import on_white
from deeplrhe_utils.slides.files.inventory import ambiguous_names, count_kinds, find_files, read_mpp_overrides
from deeplrhe_utils.slides.reading import dicom
from deeplrhe_utils.slides.reading.opening import READ_ERRORS, UNFINISHED
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.grid import EDGES, INSIDE
from deeplrhe_utils.stain.methods.normalize import BASELINES, MINIMUM_TILES, NORMALIZATIONS

Picture = NDArray[np.uint8]

TILE_LIMIT_PX: Final = 4096
"""Pictures with a longer side than this are no tiles [px]."""
NORMALIZER, TABLE = "normalizer", "normalize.csv"
"""What lies in the output folder beside the results."""
_SLIDE_ENDINGS: Final = frozenset(
    {".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu"}
)
_PICTURE_ENDINGS: Final = frozenset({".jpeg", ".jpg", ".png", ".tif", ".tiff"})
_NEVER_SLIDES: Final = frozenset({".jpeg", ".jpg", ".png"})
_MODES: Final = ("RGB", "RGBA", "LA", "L", "P")
_SLIDE, _TILE, _UNCLEAR, _OTHER = "slide", "tile", "unclear", "other"


TILES, OME_TIFF = "tiles", "ome-tiff"
_FORMATS: Final = (TILES, OME_TIFF)


@dataclass(frozen=True)
class NormalizeOptions:
    """What the user asked for; the command's defaults.

    Attributes
    ----------
    method : one of `METHODS`; empty is "dcgmm"
    model : folder of a normalizer that is used instead of a fit
    reference : see `reference_source`; empty takes the medoid
    format : {"tiles", "ome-tiff"}
    mpp : resolution of the output [µm/px], 0 for each slide's own. Default: 0.5 of tiles, its own of OME-TIFF.
    mpp_csv : table slide_id,mpp [µm/px] of slides whose files tell no resolution, or a wrong one
    tile_px : side of the tiles [px]
    edge : tiles at the right and lower edge of a slide, see `make_grid`; of OME-TIFF every pixel is written
    quality : JPEG quality of OME-TIFF; default 90
    lossless : OME-TIFF without loss
    statistics_tiles : most tiles that a slide's statistics come from
    fit_steps, seed : of the fit; default 300 and 0
    white : take the glass off every slide
    compiled : compile the pixel arithmetic
    thin_slide : {"error", "cohort"}; leave slides of too little tissue unchanged, or map them with the statistics of
        all. Default: "error", or the model's.
    stain_check : leave out what is not H&E (`check_stain`)
    """

    method: str = ""
    model: Path | None = None
    reference: str = ""
    format: str = TILES
    mpp: float | None = None
    mpp_csv: Path | None = None
    tile_px: int = 512
    edge: str = INSIDE
    quality: int | None = None
    lossless: bool = False
    statistics_tiles: int = 32
    fit_steps: int | None = None
    seed: int | None = None
    white: bool = False
    compiled: bool = False
    thin_slide: str | None = None
    stain_check: bool = True

    def check(self) -> None:
        """Raise :class:`ParameterError` for what is unknown, out of range, or contradicts itself."""
        known = {"--method": (self.method or NORMALIZATIONS[0], NORMALIZATIONS), "--format": (self.format, _FORMATS),
                 "--edge": (self.edge, EDGES),
                 "--thin-slide": (self.thin_slide or "error", ("error", "cohort"))}  # fmt: skip
        for name, (value, legal) in known.items():
            if value not in legal:
                raise ParameterError(f"{name} is unknown", got=value, expected=", ".join(legal))
        limits = {"--tile-px": (self.tile_px, 128, 2048), "--fit-steps": (self.fit_steps, 10, 100_000),
                  "--statistics-tiles": (self.statistics_tiles, MINIMUM_TILES, 1024),
                  "--quality": (self.quality, 1, 100), "--seed": (self.seed, 0, 2**63)}  # fmt: skip
        for name, (number, low, high) in limits.items():
            if number is not None and not low <= number <= high:
                raise ParameterError(f"{name} is out of range", got=number, expected=f"{low} to {high}")
        if self.wanted_mpp and not PLAUSIBLE_MPP[0] <= self.wanted_mpp <= PLAUSIBLE_MPP[1]:
            legal_mpp = "{:g} to {:g} µm/px, or 0 for each slide's own".format(*PLAUSIBLE_MPP)
            raise ParameterError("--mpp is out of range", got=self.mpp, expected=legal_mpp)
        self._check_together()

    def _check_together(self) -> None:
        if self.edge != INSIDE and self.format == OME_TIFF:
            raise ParameterError("--edge is about --format tiles", expected="OME-TIFF has every pixel of a slide")
        if self.format == OME_TIFF and self.tile_px % 16:
            raise ParameterError("TIFF does not allow such tiles", got=f"--tile-px {self.tile_px}",
                                 expected="a multiple of 16")  # fmt: skip
        if self.format == TILES and (self.quality is not None or self.lossless):
            raise ParameterError("--quality and --lossless are about --format ome-tiff", expected="PNG has no loss")
        if self.model and (self.method or self.fit_steps or self.white or self.seed is not None):
            raise ParameterError("A model is used as it was fitted", got="--model with a parameter of the fit",
                                 fix="Leave out --method, --fit-steps, --seed and --white, or --model")  # fmt: skip
        if self.method in BASELINES and (self.white or self.compiled or self.fit_steps):
            raise ParameterError(f"{self.method} has no network", got="--white, --compile or --fit-steps",
                                 fix="Leave them out, or take --method dcgmm")  # fmt: skip

    @property
    def wanted_mpp(self) -> float:
        """Resolution of the output [µm/px]; 0 for each slide's own."""
        return self.mpp if self.mpp is not None else 0.5 if self.format == TILES else 0.0


@dataclass(frozen=True)
class SlideFile:
    """A whole slide: the name of its results, its file, and a resolution to believe instead of the file's [µm/px]."""

    name: str
    path: Path
    mpp: float | None = None

    def open(self) -> Slide:
        """The slide; errors are those of `Slide`."""
        return Slide(self.path, self.mpp)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file alone."""
        return (self.path,)


@dataclass(frozen=True)
class PictureFolder:
    """Pictures that are the tiles of one slide: the name of their results, their folder (or file), and they."""

    name: str
    path: Path
    files: tuple[Path, ...]

    def target(self, file: Path) -> str:
        """Name of a tile's result: its own, as PNG."""
        return f"{safe_name(path_text(file.stem))}.png"


Source = SlideFile | PictureFolder


class Found(NamedTuple):
    """What is to be normalized, in order; pictures beside slides; slides and pictures that cannot be read; the rest."""

    sources: list[Source]
    left_out: list[Path]
    unread: list[Path]
    side: list[Path]


def find_sources(paths: Sequence[Path]) -> Found:
    """Slides and tile folders in what was given; a picture given by itself is a slide of one tile.

    Parameters
    ----------
    paths : slides, pictures, and folders, which are searched with all below them; side files are passed
        over (`find_files`)

    Raises ParameterError: a path is not there. InputError: there is nothing to normalize, or two results would have one
    name.
    """
    found: dict[Path, Source] = {}
    left_out, unread, side = [], [], []
    for path in paths:
        if not path.exists():
            raise ParameterError(f"{path_text(path)} is not there", fix="Check the path")
        inside = _in_folder(path) if path.is_dir() else Found([_source_of(path)], [], [], [])
        left_out += inside.left_out
        unread += inside.unread
        side += inside.side
        for source in inside.sources:
            found.setdefault(source.path.resolve(), source)
    if not found:
        raise InputError(
            "There is nothing to normalize in what was given",
            got=", ".join(map(path_text, paths)) + (f"; cannot be read: {count_kinds(unread)}" if unread else ""),
            expected="slides, folders of slides, or folders of PNG, JPEG or TIFF tiles",
        )
    _check_names(list(found.values()))
    return Found(list(found.values()), left_out, unread, side)


def with_resolutions(sources: Sequence[Source], mpp_csv: Path) -> tuple[list[Source], list[str]]:
    """Sources with the resolutions of a table (`read_mpp_overrides`).

    Returns (sources, unused): the sources, and the slides of the table that are none of them.
    """
    given = read_mpp_overrides(mpp_csv)
    ids = [source.path.stem if source.name == _stem(source.path) else source.name for source in sources]
    pairs = zip(sources, ids, strict=True)
    new = [replace(s, mpp=given.get(i)) if isinstance(s, SlideFile) else s for s, i in pairs]
    return new, sorted(set(given) - set(ids))


def _source_of(path: Path) -> Source:
    """One file as a slide, or, when it is a picture without a slide's structure, as a slide of one tile."""
    tile = _kind(path) == _TILE
    return PictureFolder(_stem(path), path, (path,)) if tile else SlideFile(_stem(path), path)


def reference_source(text: str, sources: Sequence[Source]) -> Source:
    """The reference that a user means: the name or file of an input, or a slide, picture or folder elsewhere.

    Raises ParameterError: it is neither an input nor a path, or a folder of more than one slide.
    """
    path = Path(text)
    for source in sources:
        if source.name == text or (path.exists() and source.path.resolve() == path.resolve()):
            return source
    if not path.exists():
        names = ", ".join(source.name for source in list(sources)[:5])
        raise ParameterError(
            "The reference is none of the inputs, and no file", got=text, expected=f"{names}, … or a slide or picture"
        )
    (first, *others) = find_sources([path]).sources
    if others:
        raise ParameterError("The reference is one slide", got=f"{1 + len(others)} in {text}", fix="Name one of them")
    return first


def check_places(sources: Sequence[Source], paths: Sequence[Path], out: Path) -> None:
    """Make sure that no result can be taken for an input, or be written over one.

    Raises ParameterError: the output folder lies in an input folder, or a result would lie where an input is.
    """
    place = out.resolve()
    for path in paths:
        if path.is_dir() and place.is_relative_to(path.resolve()):
            raise ParameterError(
                f"The output folder {path_text(out)} lies in the input folder {path_text(path)}",
                fix="Choose an --out outside of it: results would be taken for inputs",
            )
    for source in sources:
        for target in (place / safe_name(source.name), place / f"{safe_name(source.name)}.ome.tif"):
            if source.path.resolve().is_relative_to(target):
                raise ParameterError(
                    f"The result of {path_text(source.path)} would be written over it", fix="Choose another --out"
                )


def state_of(source: Source) -> list[list[str | int]]:
    """What changes when a source is replaced: name, size [bytes] and time of change [ns] of every file; its mpp."""
    found: list[list[str | int]] = [[str(source.mpp)]] if isinstance(source, SlideFile) else []
    for file in source.files:
        status = file.stat() if file.exists() else None
        state = (-1, -1) if status is None else (status.st_size, status.st_mtime_ns)
        found.append([path_text(file.name), *state])
    return found


def read_picture(path: Path) -> Picture:
    """One tile as uint8 RGB (H, W, 3); what is transparent becomes white.

    Raises InputError: it cannot be decoded, is larger than :data:`TILE_LIMIT_PX`, or has other than 8 bits per channel.
    """
    name = path_text(path.name)
    try:
        with Image.open(path) as image:
            if max(image.size) > TILE_LIMIT_PX:
                raise InputError(f"Tile {name} is too large", got=f"{image.width} × {image.height} px",
                                 expected=f"at most {TILE_LIMIT_PX} a side", fix="Cut it")  # fmt: skip
            if image.mode not in _MODES:
                raise InputError(f"Tile {name} has the pixel type {image.mode}", expected="8-bit RGB",
                                 fix="Convert it")  # fmt: skip
            clear = "A" in image.mode or "transparency" in image.info
            return on_white(np.asarray(image.convert("RGBA"))) if clear else np.asarray(image.convert("RGB"))
    except (*READ_ERRORS, Image.DecompressionBombError) as error:
        raise InputError(f"Tile {name} cannot be read ({error})", fix="Copy it again, or remove it") from error


def many_pages(path: Path) -> bool:
    """Whether a picture that can be read holds more than one page; only the first is."""
    with Image.open(path) as image:
        return getattr(image, "n_frames", 1) > 1


def _in_folder(folder: Path) -> Found:
    by_parent: dict[Path, list[Path]] = {}
    listing = find_files(folder)
    for path in listing.slides:
        by_parent.setdefault(path.parent, []).append(path)
    sources, left_out, unread, side = Found([], [], [], listing.side)
    slides: list[Path] = []
    for parent, files in sorted(by_parent.items()):
        kinds = [_kind(path) for path in files]
        of = {kind: [path for path, k in zip(files, kinds, strict=True) if k in (kind, _UNCLEAR)] for kind in kinds}
        unread += [path for path, kind in zip(files, kinds, strict=True) if kind == _OTHER]
        if _SLIDE in kinds or _TILE not in kinds:
            slides += of.get(_SLIDE, of.get(_UNCLEAR, []))
            left_out += [path for path, kind in zip(files, kinds, strict=True) if kind == _TILE]
        else:
            sources.append(PictureFolder(path_text(parent.resolve().name), parent, tuple(of[_TILE])))
    parts = {part for first, every in dicom.series_of(slides).items() for part in every if part != first}
    slides = [path for path in slides if path not in parts]
    renamed = ambiguous_names(slides, folder)
    sources += [SlideFile(renamed.get(path, _stem(path)), path) for path in slides]
    return Found(sorted(sources, key=lambda source: source.path), left_out, unread, side)


def _kind(path: Path) -> str:
    """Slide, tile, a picture that is too large or cannot be read, or something else."""
    ending = path.suffix.lower()
    if ending in UNFINISHED:
        return _OTHER
    if ending in _SLIDE_ENDINGS or (ending not in _NEVER_SLIDES and _known_to_openslide(path)):
        return _SLIDE
    if ending not in _PICTURE_ENDINGS:
        return _OTHER
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about size and metadata
            with Image.open(path) as image:
                return _TILE if max(image.size) <= TILE_LIMIT_PX else _UNCLEAR
    except (*READ_ERRORS, Image.DecompressionBombError):
        return _UNCLEAR


def _known_to_openslide(path: Path) -> bool:
    try:
        return openslide.OpenSlide.detect_format(path) is not None
    except READ_ERRORS:
        return False


def _check_names(sources: Sequence[Source]) -> None:
    taken = {NORMALIZER.casefold(): "this command's own files", TABLE.casefold(): "this command's own table"}
    for source in sources:
        name = safe_name(source.name).casefold()  # some file systems take a and A for the same
        if name in taken:
            raise InputError(
                f"Two results would have the name {source.name}",
                got=f"{taken[name]} and {path_text(source.path)}",
                fix="Rename one, or normalize them into two folders (the second with --model of the first)",
            )
        taken[name] = path_text(source.path)
        if isinstance(source, PictureFolder):
            _check_tiles(source)


def _check_tiles(source: PictureFolder) -> None:
    taken: dict[str, Path] = {}
    for file in source.files:
        name = source.target(file).casefold()
        if name in taken:
            raise InputError(
                f"Two tiles of {path_text(source.path)} would have the name {source.target(file)}",
                got=f"{path_text(taken[name].name)} and {path_text(file.name)}",
                fix="Rename one",
            )
        taken[name] = file


def _stem(path: Path) -> str:
    stem = path_text(path.stem)
    return stem[:-4] if stem.lower().endswith(".ome") else stem
