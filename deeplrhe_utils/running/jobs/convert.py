"""``deeplrhe convert``: vectors from one program's layout to another's, or from slides by an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.features.layouts import ATLASPATCH, CLAM, STAMP, TRIDENT, h5_place, write_h5
from deeplrhe_utils.acquisition.features.neutral import FULL_POWER_UM, L0_PX, SlideVectors, whole_array
from deeplrhe_utils.acquisition.features.tables import find_vectors, write_vector_table
from deeplrhe_utils.core.errors import CompendiumError, InputError, ParameterError
from deeplrhe_utils.core.files import held
from deeplrhe_utils.core.seeds import integer_seed
from deeplrhe_utils.core.text import counted, told
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, build_network
from deeplrhe_utils.learning.probes.bank import tile_bank
from deeplrhe_utils.learning.probes.sources import BANK
from deeplrhe_utils.learning.scoring.features import tile_features
from deeplrhe_utils.slides.files.inventory import scan_slides
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.pixels import read_pixels
from deeplrhe_utils.slides.tiles.screening import ScreenRules, screen_or_reason
from deeplrhe_utils.slides.tiles.tiling import TilingRules, tile_or_reason

VECTOR_LAYOUTS: Final = {
    "trident": TRIDENT,
    "clam": CLAM,
    "stamp": STAMP,
    "atlaspatch": ATLASPATCH,
    "parquet": "Parquet",
}
_Tell = Callable[[str], None]


@dataclass(frozen=True)
class ConvertOptions:
    """What becomes of vectors, or of slides.

    Attributes
    ----------
    to : key of :data:`VECTOR_LAYOUTS`
    network : ``bank`` or an architecture (``timm/…``, ``resnet50``): the input are slides, which it describes; empty:
        the input are vectors
    weights, device : of the network
    mpp, tile_px : of the tiles that it sees [µm/px, px]
    slides : folder of the slides, which tell the resolution that µm need
    encoder, patches : as of `read_h5`
    """

    to: str = "trident"
    network: str = ""
    weights: str = "imagenet"
    device: str = "auto"
    mpp: float = 0.5
    tile_px: int = 256
    slides: Path | None = None
    encoder: str = ""
    patches: Path | None = None

    def __post_init__(self) -> None:
        if self.to not in VECTOR_LAYOUTS:
            raise ParameterError("There is no such layout", got=self.to, expected=" | ".join(VECTOR_LAYOUTS))


def convert(path: Path, out: Path, options: ConvertOptions, tell: _Tell = print) -> list[Path]:
    """Write the vectors of `path` to `out`; files that stand there are kept, and counted.

    Returns the files, one a slide, or one table. Raises InputError: as `find_vectors` and `write_h5`; no slide could be
    described. Slides that cannot be are named and left out.
    """
    folder = path if options.network else options.slides
    rows = [] if folder is None else scan_slides(folder, hash_files=False).to_dict("records")
    usable = {row["slide_id"]: row for row in rows if row["status"] == "ok"}
    for row in rows:
        if row["status"] != "ok" and options.network:
            tell(f"{row['slide_id']}: left out, because {row['reason']}")
    written, kept = [], 0
    given = [] if options.network else find_vectors(path, encoder=options.encoder, patches=options.patches)
    slides: list[Any] = list(usable.values()) if options.network else given
    with held(out, "convert"):
        if options.to == "parquet":
            found = [one for item in told("slides", slides) if (one := _vectors_of(item, options, tell))]
            if not found:
                raise InputError(f"No slide of {path} could be described")
            resolution = {name: float(row["mpp"]) for name, row in usable.items()}
            written = [write_vector_table(found, out / "features.parquet", resolution)]
            tell(f"{counted(len(found), 'slide')} in one table: {written[0]}")
            return written
        for item in told("slides", slides):
            ready = isinstance(item, SlideVectors)
            name, encoder = (item.slide_id, item.encoder) if ready else (str(item["slide_id"]), _named(options))
            target = h5_place(_folder(out, options), VECTOR_LAYOUTS[options.to], name, encoder)
            if target.is_file():
                written.append(target)
                kept += 1
            elif one := _vectors_of(item, options, tell):
                mpp = usable.get(name, {}).get("mpp")
                written.append(write_h5(one, _folder(out, options), VECTOR_LAYOUTS[options.to], mpp=mpp))
    if not written:
        raise InputError(f"No slide of {path} could be described")
    tell(f"{counted(len(written), 'slide')} in the layout of {VECTOR_LAYOUTS[options.to]}, {kept} of them kept: {out}")
    return written


def _named(options: ConvertOptions) -> str:
    """The encoder's name, as other programs write it."""
    return options.network.removeprefix("timm/")


def _folder(out: Path, options: ConvertOptions) -> Path:
    """TRIDENT names folders after magnification, tile and overlap; other layouts need none."""
    if options.to != "trident" or not options.network:
        return out
    return out / f"{round(FULL_POWER_UM / options.mpp)}x_{options.tile_px}px_0px_overlap"


def _vectors_of(
    item: SlideVectors | Mapping[str, Any], options: ConvertOptions, tell: _Tell
) -> SlideVectors | None:  # fmt: skip
    if isinstance(item, SlideVectors):
        return item
    try:
        return described_slide(dict(item), options)
    except CompendiumError as error:
        tell(f"{item['slide_id']}: left out, because {error}")
        return None


def described_slide(row: dict[str, Any], options: ConvertOptions) -> SlideVectors:
    """Tissue tiles of a slide, as `predict` finds them, described by an encoder.

    Parameters
    ----------
    row : of table SLIDES, with an absolute path

    Raises InputError, SlideError: the slide has no tile that is worth describing, or a tile cannot be read.
    """
    side: dict[str, Any] = {"target_mpp": options.mpp, "tile_px": options.tile_px}
    tiles, reason, _ = tile_or_reason(row, TilingRules(**side))
    if not reason:
        tiles, reason = screen_or_reason((row, tiles), ScreenRules(**side))
    tiles = tiles[tiles["kept"]].reset_index(drop=True)
    if reason or tiles.empty:
        raise InputError(f"Slide {row['slide_id']} has no tile to describe", got=reason or "no tissue")

    def batch(numbers: Any) -> NDArray[np.uint8]:
        return np.stack(read_pixels(row, tiles.iloc[list(numbers)], options.tile_px))

    if options.network == BANK:
        found = np.array([tile_bank(batch([i])[0], options.mpp) for i in range(len(tiles))], np.float32)
    else:
        torch.manual_seed(integer_seed(0, "backbone"))
        network = build_network(NetworkConfig(("none",), architecture=options.network, weights=options.weights))
        found = tile_features(network, batch, len(tiles), device=options.device)
    with Slide(row["path"], row["mpp"]) as slide:
        (width, height), mpp = slide.dimensions, slide.mpp
    size = float(tiles["size_l0_px"].iloc[0])
    about = {"patch_size": options.tile_px, "patch_size_level0": round(size), "overlap": 0, "level0_width": width,
             "level0_height": height, "level0_magnification": round(FULL_POWER_UM / mpp),
             "target_magnification": round(FULL_POWER_UM / options.mpp)}  # fmt: skip
    return SlideVectors(
        str(row["slide_id"]), Path(row["path"]), "deeplrhe", len(found), found.shape[1], found.dtype,
        whole_array(found),
        encoder=_named(options), places=tiles[["x_l0_px", "y_l0_px"]].to_numpy(np.int64),
        unit=L0_PX, size=size, power=FULL_POWER_UM / mpp, about=about,
    )  # fmt: skip
