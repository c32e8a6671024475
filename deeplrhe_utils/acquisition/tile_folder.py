"""A folder of labelled tiles, one sub-folder per class: an input kind of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
from PIL import Image

from deeplrhe_utils.core.errors import InputError, LabelError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.tables.schemas import LABELS, SLIDES, TILES

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})
_NEEDED: Final = ("filename", "label", "group_id")


@dataclass(frozen=True)
class TileFolder:
    """The tables of a tile folder.

    Attributes
    ----------
    slides : table SLIDES; an image counts as a slide of one tile
    tiles : table TILES; one row per readable image
    labels : table LABELS; patient × class, the class names stand in the column gene
    notes : column note: what a reader must know, one sentence per row
    """

    slides: pd.DataFrame
    tiles: pd.DataFrame
    labels: pd.DataFrame
    notes: pd.DataFrame


def scan_tile_folder(data_dir: Path, groups_csv: str = "", refused: Callable[[Path], str] | None = None) -> TileFolder:
    """Read a folder ``<data_dir>/<class>/*.{jpg,jpeg,png,tif}`` of labelled tiles.

    Parameters
    ----------
    data_dir : folder with one sub-folder per class, at least two
    groups_csv : CSV with the columns filename, label, group_id (others are ignored): images of one group come from one
        field of tissue and must never be divided by a split. Empty: ``<data_dir>/groups.csv`` when it is there, else
        every image is its own group, which the notes say.
    refused : why an image that can be decoded must not be used; "" where it may

    Returns tables. Images that cannot be decoded, or are refused, are excluded slides with a reason.
    Raises InputError: missing folder, fewer than two classes, no image, two images of one name, images of different
    sizes, images missing from `groups_csv` or the other way round. LabelError: a group, or an image, with two classes.
    """
    data_dir = Path(data_dir).resolve()
    images = _find_images(data_dir)
    default = data_dir / "groups.csv"
    table = Path(groups_csv) if groups_csv else default if default.is_file() else None
    groups = _read_groups(table, images) if table is not None else {p.stem: p.stem for _, p in images}
    notes = [] if table else ["No groups.csv: every image counts as its own group, so near-copies may be divided."]
    rows = [_describe(path, label, f"group-{groups[path.stem]}", refused) for label, path in images]
    slides = pd.DataFrame(rows)
    usable = slides[slides["status"] == "ok"]
    if usable.empty:
        raise InputError(f"No image under {data_dir} can be used", got=slides["reason"].iloc[0])
    _check_sizes(usable)
    _check_copies(usable)
    labels = _labels(usable, table.name if table else "folder names")
    if len(slides) > len(usable):
        notes.append(f"{len(slides) - len(usable)} images are excluded, such as {slides['reason'].dropna().iloc[0]}")
    return TileFolder(
        conform(slides.drop(columns=["class"]), SLIDES),
        conform(_tiles(usable), TILES),
        labels,
        pd.DataFrame({"note": pd.array(notes, dtype="string")}),
    )


def _check_copies(usable: pd.DataFrame) -> None:
    """The same bytes in two groups would sit on both sides of a split by group."""
    groups = usable.groupby("sha256")["patient_id"].nunique()
    if len(copies := usable[usable["sha256"].isin(groups.index[groups > 1])]):
        names = ", ".join(copies["slide_id"].iloc[:2])
        raise InputError(
            f"{len(copies)} images are byte-identical to an image of another group", got=f"first: {names}",
            expected="copies in one group", fix="Merge the groups or remove the copies",
        )  # fmt: skip


def _find_images(data_dir: Path) -> list[tuple[str, Path]]:
    """(class, file) in path order."""
    if not data_dir.is_dir():
        raise InputError(f"The tile folder {data_dir} is not there", fix="Check data_dir")
    folders = sorted(d for d in data_dir.iterdir() if d.is_dir() and not d.name.startswith("."))
    images = [(d.name, f) for d in folders for f in sorted(d.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES]
    images = [(label, f) for label, f in images if f.is_file() and not f.name.startswith(".")]
    classes = sorted({label for label, _ in images})
    if len(classes) < 2:
        raise InputError(
            f"The tile folder {data_dir} holds images of {len(classes)} classes",
            got=", ".join(classes) or "none",
            expected="one sub-folder per class, at least two",
        )
    seen: dict[str, Path] = {}
    for _, path in images:
        if seen.setdefault(path.stem, path) != path:
            raise InputError(f"Two images share the name {path.stem}", got=f"{seen[path.stem]} and {path}")
    return images


def _read_groups(path: Path, images: list[tuple[str, Path]]) -> dict[str, str]:
    """Group of every image, by file stem; file, folder and table must agree."""
    table = read_foreign(path, InputError, columns=_NEEDED)
    listed: dict[str, tuple[str, str]] = {}
    for name, label, group in zip(*(table[c] for c in _NEEDED), strict=True):
        if listed.setdefault(name, (label, group)) != (label, group):
            raise LabelError(f"{path} lists image {name} twice", got=f"{listed[name]} and {(label, group)}")
    _check_listed(path, images, listed)
    classes: dict[str, str] = {}
    for name, (label, group) in listed.items():
        if classes.setdefault(group, label) != label:
            raise LabelError(f"{path}: group {group} has two classes", got=f"{classes[group]} and {label} ({name})")
    return {f.stem: listed[f.name][1] for _, f in images}


def _check_listed(path: Path, images: list[tuple[str, Path]], listed: Mapping[str, tuple[str, str]]) -> None:
    if absent := [f.name for _, f in images if f.name not in listed]:
        raise InputError(f"{len(absent)} images are not in {path}", got=f"first: {absent[0]}", fix="Add their rows")
    names = {f.name for _, f in images}
    if gone := [name for name in listed if name not in names]:
        raise InputError(f"{len(gone)} images of {path} are not in the folder", got=f"first: {gone[0]}")
    for label, file in images:
        if listed[file.name][0] != label:
            raise LabelError(f"Image {file.name} lies in folder {label}", got=f"{listed[file.name][0]} in {path}")


def _describe(path: Path, label: str, patient: str, refused: Callable[[Path], str] | None) -> dict[str, Any]:
    """One row of table SLIDES, and the image's class."""
    row: dict[str, Any] = {"slide_id": path.stem, "patient_id": patient, "path": str(path), "class": label}
    row |= {"bytes": path.stat().st_size, "vendor": "image", "mpp_source": "not-needed", "status": "ok"}
    try:
        row["sha256"] = sha256_file(path)
        with Image.open(path, formats=("JPEG", "PNG", "TIFF")) as image:
            row["width_l0_px"], row["height_l0_px"] = image.size
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        row |= {"status": "excluded", "reason": f"Image {path.name} cannot be decoded ({error})."}
        return row
    if refused and (reason := refused(path)):
        row |= {"status": "excluded", "reason": reason}
    return row


def _check_sizes(usable: pd.DataFrame) -> None:
    sizes = usable["width_l0_px"].astype(int).astype(str) + " × " + usable["height_l0_px"].astype(int).astype(str)
    common = sizes.mode().iloc[0]
    odd = usable[(sizes != common) | (usable["width_l0_px"] != usable["height_l0_px"])]
    if len(odd):
        first = odd.iloc[0]
        raise InputError(
            f"Image {first['path']} has an odd size ({len(odd)} such images)",
            got=f"{first['width_l0_px']:.0f} × {first['height_l0_px']:.0f} px",
            expected=f"squares of one size; most have {common} px",
        )


def _tiles(usable: pd.DataFrame) -> pd.DataFrame:
    tiles = usable[["slide_id", "patient_id", "path"]].copy()
    tiles["tile_id"] = tiles["slide_id"]
    tiles[["column", "row", "x_l0_px", "y_l0_px"]] = 0
    tiles["size_l0_px"] = usable["width_l0_px"].astype(float)
    tiles["kept"], tiles["selected"] = True, True
    return tiles


def _labels(usable: pd.DataFrame, source: str) -> pd.DataFrame:
    """Patient × class with 1 for the patient's own class and 0 for the others."""
    own = usable[["patient_id", "class"]].drop_duplicates()
    labels = own.merge(pd.DataFrame({"gene": sorted(own["class"].unique())}), how="cross")
    labels["status"] = (labels["class"] == labels["gene"]).astype(int)
    labels["source"] = source
    return conform(labels.drop(columns=["class"]), LABELS)
