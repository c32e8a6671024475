"""Which slides are there: every file of a folder, usable or excluded with a reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import openslide
import pandas as pd

from deeplrhe_utils.acquisition.barcodes import parse_name
from deeplrhe_utils.core.errors import CompendiumError, InputError, SlideError
from deeplrhe_utils.core.files import path_text, sha256_file, sha256_text
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.tables.schemas import SLIDES
from deeplrhe_utils.core.text import on_one_line
from deeplrhe_utils.core.units import PLAUSIBLE_MPP
from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.files.nuclear_size import doubt_of
from deeplrhe_utils.slides.outlines.find import ANNOTATION_ENDINGS, annotation_names, find_annotation
from deeplrhe_utils.slides.quality.stains import check_stain
from deeplrhe_utils.slides.reading import dicom
from deeplrhe_utils.slides.reading.opening import UNFINISHED, check_finished, open_handle
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.reading.resolution import vendor_of

_ENDINGS: Final = UNFINISHED | {
    ".svs", ".svslide", ".tif", ".tiff", ".btf", ".ndpi", ".mrxs", ".scn", ".bif", ".dcm", ".vms", ".vmu", ".czi",
    ".jpg", ".jpeg", ".png",
    ".qptiff", ".isyntax", ".vsi", ".lif", ".zvi", ".jp2", ".j2k", ".webp", ".bmp", ".gif", ".kfb", ".sdpc",
}  # fmt: skip
"""What calls itself a slide or picture, whether it can be read or not (last line)."""
_BEGINNINGS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG", b"\xff\xd8\xff")
_TEST_PX: Final = 256


_Row = dict[str, Any]
_Spread = Callable[[Callable[[Path], _Row], list[Path], Callable[[Path, str], _Row]], list[_Row]]
"""``spread(describe, paths, otherwise)``: a row per path, ``otherwise(path, reason)`` where describing it failed."""


def _in_turn(describe: Callable[[Path], _Row], paths: list[Path], _: Callable[[Path, str], _Row]) -> list[_Row]:
    return [describe(path) for path in paths]


def scan_slides(
    slides_dir: Path,
    *,
    mpp_csv: str = "",
    annotations_dir: str = "",
    hash_files: bool = True,
    only: Collection[Path] | None = None,
    stain_check: bool = False,
    spread: _Spread = _in_turn,
) -> pd.DataFrame:
    """List every file under a folder as a slide, usable or excluded with a reason.

    Sub-folders are included, also linked ones (`find_files`). What is no slide is not listed, but counted in
    ``frame.attrs["sidecar_files"]``, and named in ``"side_files"`` if it is not hidden. Unfinished downloads
    (`UNFINISHED`) are excluded and never opened. The files of one DICOM series in one folder are one slide: the
    first that holds a level stands for all, the others are excluded; where file names are only identifiers, slide and
    patient are what the file says (`names_of`). A file is used only if it opens,
    has a resolution, and one of three test tiles can be decoded (other damage is told tile by tile later on). Of files
    that show the same slide (OpenSlide's quickhash-1, else SHA-256), or have the same name in one folder, the first by
    path is used. Different files of one name in several folders get the folder before their name, which
    ``frame.attrs["renamed"]`` tells. Annotation files that belong to no slide are ``frame.attrs["unmatched"]``.
    What the file says of its resolution may contradict itself: the slide stays, with a note
    (`resolution_note`).

    Parameters
    ----------
    slides_dir : folder, or one file
    mpp_csv : CSV with the columns slide_id,mpp [µm/px] that overrides the files' resolutions; empty for none. Overrides
        that name no slide found are listed in ``frame.attrs["unused_overrides"]``.
    annotations_dir : folder of the outlines (`find_annotation`); empty for
        beside each slide
    hash_files : whether to compute SHA-256 of each file (reads it once)
    stain_check : exclude slides that are not H&E (`check_stain`)
    only : files below the folder that count, as if there were no others: a folder may hold more than a cohort
    spread : how the files are shared among processes (:data:`_Spread`); one after the other by default

    Returns table SLIDES, sorted by path; paths are absolute.
    Raises InputError: the folder is missing or holds no file that could be a slide; `mpp_csv` or `annotations_dir` is
    wrong.
    """
    slides_dir = Path(slides_dir).resolve()
    if not slides_dir.exists():
        raise InputError(f"The slides folder {slides_dir} is not there", fix="Check slides_dir")
    outlines = Path(annotations_dir).resolve() if annotations_dir else None
    if outlines is not None and not outlines.is_dir():
        raise InputError(f"The annotations folder {outlines} is not there", fix="Check annotations_dir")
    overrides = read_mpp_overrides(Path(mpp_csv)) if mpp_csv else {}
    files, side = find_files(slides_dir) if slides_dir.is_dir() else Listing([slides_dir], [])
    if only is not None:
        wanted = {Path(path).resolve() for path in only}
        files, side = [path for path in files if path.resolve() in wanted], []
    if not files:
        raise InputError(
            f"The slides folder {slides_dir} holds no slides", fix="Put slides into it or check slides_dir"
        )
    series = dicom.series_of(files)
    parts = {part: first for first, every in series.items() for part in every if part != first}
    whole = [path for path in files if path not in parts]
    renamed = ambiguous_names(whole, slides_dir)
    describe = partial(_describe, overrides=overrides, outlines=outlines, hash_files=hash_files, renamed=renamed,
                       stain_check=stain_check)  # fmt: skip
    found = dict(zip(whole, spread(describe, whole, partial(_failed, renamed=renamed)), strict=True))
    rows = [_part(path, parts[path]) if path in parts else found[path] for path in files]
    _note_missing_levels(found, series)
    _exclude_duplicates(rows)
    frame = conform(pd.DataFrame([{k: v for k, v in r.items() if k != "same"} for r in rows]), SLIDES)
    frame.attrs["sidecar_files"] = len(side)
    frame.attrs["side_files"] = _visible(side, slides_dir)
    frame.attrs["renamed"] = sorted(renamed.values())
    beside = [name for name in frame.attrs["side_files"] if _is_drawn(name)]
    drawn = _visible(outlines.rglob("*"), outlines) if outlines else beside
    used = set(frame["annotation"].dropna())
    frame.attrs["unmatched"] = [name for name in drawn if str((outlines or slides_dir) / name) not in used]
    frame.attrs["unused_overrides"] = sorted(set(overrides) - set(frame["slide_id"]))
    return frame


class Listing(NamedTuple):
    """Files under a folder in path order: candidate slides, and what is none (side files)."""

    slides: list[Path]
    side: list[Path]


def find_files(folder: Path) -> Listing:
    """Sort every file under a folder; the one listing of all commands.

    A candidate calls itself a slide or picture by its ending, or begins like TIFF, DICOM, JPEG or PNG. Side files are
    all others (tables, outlines, checksums, archives, DICOMDIR), hidden files, masks (``-mask.png`` and the like) and
    the data folders of MIRAX slides. Linked folders are searched once, those that lead back above the folder never.
    """
    found = Listing([], [])
    for path in sorted(_walk(folder)):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        mirax_data = any(p.with_suffix(".mrxs").is_file() for p in path.parents if p != folder and folder in p.parents)
        found[hidden or mirax_data or _is_mask(path) or not _may_be_slide(path)].append(path)
    return found


def count_kinds(paths: Collection[Path]) -> str:
    """How many files, and of which endings: ``3 (2 .md5, 1 DICOMDIR)``."""
    count = Counter(path.suffix.lower() or on_one_line(path.name) for path in paths)
    return f"{len(paths)} ({', '.join(f'{number} {kind}' for kind, number in sorted(count.items()))})"


def _walk(folder: Path) -> Iterator[Path]:
    seen = {real for real in folder.resolve().parents}
    starts = [folder]
    while starts:
        for place, folders, names in os.walk(starts.pop(0)):
            if (real := Path(place).resolve()) in seen:
                folders.clear()
                continue
            seen.add(real)
            starts += sorted(link for name in folders if (link := Path(place, name)).is_symlink())
            yield from (path for name in names if (path := Path(place, name)).is_file() or path.is_symlink())


def _may_be_slide(path: Path) -> bool:
    if path.suffix.lower() in _ENDINGS:
        return True
    try:
        with open(path, "rb") as stream:
            head = stream.read(132)
    except OSError:
        return path.suffix == ""
    return head.startswith(_BEGINNINGS) or (head[128:] == b"DICM" and path.name.upper() != "DICOMDIR")


def _is_mask(path: Path) -> bool:
    """A picture that says by its name that it is the mask of a slide beside it."""
    return path.name.lower().endswith(tuple(ending for ending in ANNOTATION_ENDINGS if "mask" in ending))


def _is_drawn(name: str) -> bool:
    """Whether a file is named like an annotation, also in an archive."""
    return bool(annotation_names(Path(name.removesuffix(".zip")).name))


def _visible(paths: Iterable[Path], folder: Path) -> list[str]:
    """Names of files relative to a folder; hidden ones and folders are left out."""
    inside = sorted(path.relative_to(folder) for path in paths if path.is_file())
    return [path_text(path) for path in inside if not any(part.startswith(".") for part in path.parts)]


def ambiguous_names(paths: Iterable[Path], folder: Path) -> dict[Path, str]:
    """slide_ids of files that share their name with a different file in another folder: the folder stands before it."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(_own_name(path)[0], []).append(path)
    named: dict[Path, str] = {}
    for name, group in groups.items():
        for path in group if len({path.parent for path in group}) > 1 and _differ(group) else ():
            longer = "_".join((*map(path_text, path.parent.relative_to(folder).parts), name))
            taken = longer != name and (longer in groups or longer in named.values())
            named[path] = f"{longer}_{sha256_text(path_text(path.relative_to(folder)))[:6]}" if taken else longer
    return named


def _differ(paths: Iterable[Path]) -> bool:
    try:
        return len({path.stat().st_size for path in paths}) > 1 or len({sha256_file(path) for path in paths}) > 1
    except OSError:
        return True


def read_mpp_overrides(path: Path) -> dict[str, float]:
    """Read a table of resolutions.

    Parameters
    ----------
    path : CSV with exactly the columns slide_id and mpp [µm/px]

    Returns resolution by slide_id.
    Raises InputError: missing file, other columns, a repeated slide, a value that is no number or not plausible; the
    line is named.
    """
    table = read_foreign(path, InputError)
    if sorted(table.columns) != ["mpp", "slide_id"]:
        raise InputError(f"{path} has other columns", got=", ".join(table.columns), expected="slide_id,mpp")
    overrides: dict[str, float] = {}
    for line, slide_id, text in zip(table.index, table["slide_id"], table["mpp"], strict=True):
        where = f"{path}, line {line}, slide {slide_id or '(empty)'}"
        if not slide_id or slide_id in overrides:
            raise InputError(f"{where}: the slide_id is {'repeated' if slide_id else 'empty'}")
        overrides[slide_id] = _plausible(text, where)
    return overrides


def _plausible(text: str, where: str) -> float:
    expected = f"a number of {PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g} µm/px"
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{where}: mpp is not a number", got=repr(text), expected=expected) from error
    if not PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1]:
        raise InputError(f"{where}: mpp is implausible", got=text, expected=expected)
    return value


def _own_name(path: Path) -> tuple[str, str]:
    """Slide and owner (or "") as the file tells them."""
    return dicom.names_of(path) or (path_text(path.stem), "")


def _about(path: Path, renamed: Mapping[Path, str] | None = None) -> _Row:
    """What a file's name and size say."""
    own, owner = _own_name(path)
    name, told = (renamed or {}).get(path, own), parse_name(own)
    patient, site, sample = told.patient_id or owner or name, told.site_id, told.sample_type
    normal = own[:5].upper() in ("TCGA-", "SYNT-") and (told.sample_code or "").startswith("1")
    if normal:  # what is known of a patient's tumour is not known of this tissue
        patient = f"{told.patient_id}-{told.sample_code}"
    row: _Row = {"slide_id": name, "patient_id": patient, "site_id": site, "path": path_text(path), "annotation": None}
    row |= {"site_code": told.site_code, "subtype": "normal" if normal else None}
    return row | {"bytes": path.stat().st_size if path.exists() else 0, "sample_type": sample, "same": None}


def _failed(path: Path, reason: str, renamed: Mapping[Path, str]) -> _Row:
    return _about(path, renamed) | {"status": "excluded", "reason": f"The file could not be examined: {reason}"}


def _part(path: Path, first: Path) -> _Row:
    reason = f"The file is a part of the DICOM series of {first.name}, which stands for the whole slide."
    return _about(path) | {"status": "excluded", "reason": reason}


def _note_missing_levels(found: dict[Path, _Row], series: dict[Path, list[Path]]) -> None:
    """Say so, in place, where a DICOM slide opens without the level that was scanned."""
    for first, every in series.items():
        if found[first]["status"] == "ok" and dicom.lacks_full_resolution(every):
            own = found[first].get("resolution_note")
            note = "every level of the DICOM series says that it was resampled: the scanned one may be missing"
            found[first]["resolution_note"] = f"{own}; {note}" if own else note


def _describe(
    path: Path, overrides: dict[str, float], outlines: Path | None, hash_files: bool, renamed: Mapping[Path, str],
    stain_check: bool,
) -> _Row:  # fmt: skip
    """One row of table SLIDES (and ``same``, what tells two files of one slide)."""
    row = _about(path, renamed) | {"status": "ok"}
    slide_id = row["slide_id"]
    try:
        check_finished(path)
        if row["path"] != str(path):
            raise SlideError(f"The name of {row['path']} is not valid UTF-8", fix="Rename the file")
        outline = find_annotation(outlines, slide_id) if outlines else find_annotation(path.parent, _own_name(path)[0])
        row["annotation"] = None if outline is None else str(outline)
        if hash_files and os.access(path, os.R_OK):
            row["sha256"] = sha256_file(path)
        row |= open_and_test(path, overrides.get(slide_id), stain_check)
        if slide_id in overrides and (doubt := doubt_of(path, overrides[slide_id])):
            row["resolution_note"] = "; ".join(filter(None, (row["resolution_note"], doubt)))
    except (CompendiumError, OSError) as error:
        row |= {"status": "excluded", "reason": str(error)} | _what_is_known(path)
    row["same"] = row["same"] or row.get("sha256")
    return row


def open_and_test(path: Path, override: float | None, stain_check: bool = False) -> dict[str, Any]:
    """Open and read three tiles (first, middle, last); it is an error if none can be decoded, or it is not H&E."""
    with Slide(path, override) as slide:
        width, height = slide.dimensions
        side = min(_TEST_PX, width, height)
        places = [(int((width - side) * part), int((height - side) * part)) for part in (0.0, 0.5, 1.0)]
        found = list(slide.read_tiles([Square(x, y, side) for x, y in places], side))
        failures = [tile for tile in found if isinstance(tile, SlideError)]
        if len(failures) == len(found):
            raise failures[0]
        if stain_check:
            check_stain(slide)
        return {
            "vendor": slide.vendor,
            "width_l0_px": width,
            "height_l0_px": height,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "resolution_note": slide.resolution_note,
            "reader": slide.reader,
            "same": slide.quickhash,
        }


def _what_is_known(path: Path) -> dict[str, Any]:
    """Vendor and size of an excluded file, if it may be opened and opens at all."""
    try:
        handle = open_handle(path)
    except CompendiumError:
        return {}
    with handle:
        width, height = handle.dimensions
        same = handle.properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
        return {"vendor": vendor_of(handle), "width_l0_px": width, "height_l0_px": height, "same": same}


def _exclude_duplicates(rows: list[dict[str, Any]]) -> None:
    """Keep the first usable file of every slide, in place."""
    by_content: dict[str, str] = {}
    by_name: dict[str, str] = {}
    for row in rows:
        if row["status"] != "ok":
            continue
        first = by_content.get(row["same"] or row["path"]) or by_name.get(row["slide_id"])
        if first is None:
            by_content[row["same"] or row["path"]] = by_name[row["slide_id"]] = row["path"]
        else:
            same = "shows the same slide as" if row["same"] in by_content else "has the same slide_id as"
            row |= {"status": "excluded", "reason": f"The file {same} {first}, which is used instead."}
