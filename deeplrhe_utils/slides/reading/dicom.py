"""DICOM slides: which files are one slide, and whose it is, from the first tags of each file.

A whole-slide series has a file per level (and for label and overview), usually named by an identifier that tells
nothing; OpenSlide opens all of them by any one. What tells them apart is read here without touching pixels: OpenSlide
would read every file of the folder again for each file that is opened.
Source: DICOM PS3.5 section 7 and PS3.10 section 7 (how elements are stored), PS3.3 C.8.12.4 (image types of slides).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

ENDING: Final = ".dcm"
_IMAGE_TYPE, _PATIENT, _SERIES, _CONTAINER = (0x0008, 0x0008), (0x0010, 0x0020), (0x0020, 0x000E), (0x0040, 0x0512)
_COLOURS, _PIXELS = (0x0028, 0x0004), (0x7FE0, 0x0010)
NEEDED_TAGS: Final = {
    (0x0008, 0x0008): "ImageType", (0x0008, 0x0018): "SOPInstanceUID", (0x0020, 0x000E): "SeriesInstanceUID",
    (0x0028, 0x0002): "SamplesPerPixel", (0x0028, 0x0004): "PhotometricInterpretation",
    (0x0028, 0x0006): "PlanarConfiguration", (0x0028, 0x0010): "Rows", (0x0028, 0x0011): "Columns",
    (0x0028, 0x0100): "BitsAllocated", (0x0028, 0x0101): "BitsStored", (0x0028, 0x0102): "HighBit",
    (0x0028, 0x0103): "PixelRepresentation", (0x0048, 0x0006): "TotalPixelMatrixColumns",
    (0x0048, 0x0007): "TotalPixelMatrixRows",
}  # fmt: skip
"""Tags without which OpenSlide opens no slide."""
_SYNTAX: Final = (0x0002, 0x0010)
_IMPLICIT: Final = "1.2.840.10008.1.2"
_OTHER_ORDER: Final = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"})  # deflated, big endian
_LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED, _ITEM, _SEQUENCE_END = 0xFFFFFFFF, (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_ITEM_END: Final = (0xFFFE, 0xE00D)
_LONGEST_VALUE: Final = 1024
_LONGEST_HEADER: Final = 1 << 16
_COD: Final = 0xFF52
_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEEPEST: Final = 16
_IDENTIFIER: Final = re.compile(
    r"[0-9]+(\.[0-9]+){3,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE
)  # a DICOM UID, or a UUID
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()-]{0,63}")


class Tags(NamedTuple):
    """What a DICOM file says of itself; empty where it does not.

    `series` SeriesInstanceUID; `patient` PatientID; `container` ContainerIdentifier, the glass slide; `image_type`,
    such as ("DERIVED", "PRIMARY", "VOLUME", "RESAMPLED").
    """

    series: str = ""
    patient: str = ""
    container: str = ""
    image_type: tuple[str, ...] = ()


class _DamagedError(Exception):
    """The bytes are no elements of a DICOM file."""


def _header(path: Path, last: tuple[int, int]) -> dict[tuple[int, int], bytes] | None:
    """What :func:`_elements` finds; None where the file is no DICOM, or damaged before it ends."""
    try:
        with open(path, "rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
            size = stream.seek(0, 2)
            stream.seek(132)
            return _elements(stream, size, last)
    except (OSError, _DamagedError):
        return None


def missing_tags(path: Path) -> list[str]:
    """Which of :data:`NEEDED_TAGS` a DICOM file lacks, such as ``(0028,0010) Rows``; none where it is no DICOM."""
    found = _header(path, max(NEEDED_TAGS))
    lacking = [] if found is None else sorted(set(NEEDED_TAGS) - set(found))
    return [f"({group:04x},{element:04x}) {NEEDED_TAGS[group, element]}" for group, element in lacking]


def read_tags(path: Path) -> Tags | None:
    """The first tags of a DICOM file (a few kB are read); None where the file is none, or damaged before they end."""
    found = _header(path, _CONTAINER)
    if found is None:
        return None
    text = {tag: value.decode("ascii", "replace").strip(" \0") for tag, value in found.items()}
    kinds = tuple(part.strip() for part in text.get(_IMAGE_TYPE, "").split("\\") if part.strip())
    return Tags(text.get(_SERIES, ""), text.get(_PATIENT, ""), text.get(_CONTAINER, ""), kinds)


def series_of(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """DICOM files that are one slide.

    Parameters
    ----------
    paths : files; those that are no DICOM are passed over

    Returns dict: by the file that stands for a slide: all files of its series in the same folder, itself included, in
    order. It is the first that holds a level (image type VOLUME), or the first. OpenSlide does not look into other
    folders.
    """
    groups: dict[tuple[Path, str], list[tuple[Path, Tags]]] = {}
    for path in paths:
        if path.suffix.lower() == ENDING and (tags := read_tags(path)) and tags.series:
            groups.setdefault((path.parent, tags.series), []).append((path, tags))
    return {
        next((p for p, t in members if "VOLUME" in t.image_type), members[0][0]): [p for p, _ in members]
        for members in groups.values()
    }


def levels_of(path: Path) -> list[Path]:
    """Files of the same folder that hold the levels of a DICOM slide, in order of their names; none if it is none."""
    tags = read_tags(path)
    if tags is None:
        return []
    beside = [p for p in sorted(path.parent.iterdir()) if p.suffix.lower() == ENDING or p == path]
    own = [(p, found) for p in beside if (found := read_tags(p)) and found.series == tags.series]
    return [p for p, found in own if "VOLUME" in found.image_type]


def dual_levels(path: Path) -> list[Path]:
    """As :func:`levels_of`, if each has a TIFF header in its preamble, so that it can be read as either; else none."""
    levels = levels_of(path)
    for level in levels:
        with open(level, "rb") as stream:
            if stream.read(4) not in _TIFF:
                return []
    return levels


def hides_ycbcr(path: Path) -> bool:
    """Whether frames are YCbCr in a JPEG 2000 codestream that does not say so: decoders then take it for RGB.

    Converters copied such codestreams out of Aperio's files (TIFF compression 33003) under the photometric
    interpretation YBR_ICT, which promises that the codestream names its transform (openslide#772).
    Source: ISO 15444-1 annex A.6.1 (the marker COD), DICOM PS3.5 section 8.2.4.
    """
    told = (_header(path, _COLOURS) or {}).get(_COLOURS, b"")
    if not told.startswith((b"YBR_ICT", b"YBR_RCT")):
        return False
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(132)
            if _PIXELS not in _elements(stream, size, _PIXELS):
                return False
            _length(stream, explicit=True)
            for _ in range(2):  # past the table of offsets to the first frame
                _tag(stream)
                (length,) = struct.unpack("<I", _bytes(stream, 4))
                start = stream.tell()
                stream.seek(length, 1)
            stream.seek(start)
            return _transform(stream.read(min(length, _LONGEST_HEADER))) == 0
    except (OSError, _DamagedError):
        return False


def _transform(codestream: bytes) -> int | None:
    """Whether a JPEG 2000 codestream says that its components were transformed (1) or not (0); None if it is none."""
    at = 2
    while codestream.startswith(b"\xff\x4f") and at + 9 <= len(codestream):
        marker, length = struct.unpack_from(">HH", codestream, at)
        if marker == _COD:
            return codestream[at + 8]
        at += 2 + length
    return None


def names_of(path: Path) -> tuple[str, str] | None:
    """Slide and patient as tags name them, where the file's own name is only an identifier.

    Returns (slide_id, patient_id) or None: none where the file name is a name, or nothing can be read. The slide is the
    container's identifier, else the series; the patient is empty where none is named. What is no plain name (separators
    of paths, for example) is not used.
    """
    if path.suffix.lower() != ENDING or not _IDENTIFIER.fullmatch(path.stem) or not (tags := read_tags(path)):
        return None
    slide, patient = (text if _PLAIN.fullmatch(text) else "" for text in (tags.container, tags.patient))
    slide = slide or (tags.series if _PLAIN.fullmatch(tags.series) else "")
    return (slide, patient) if slide else None


def lacks_full_resolution(paths: Iterable[Path]) -> bool:
    """Whether every level of a series says that it was resampled: then the scanned one is probably missing."""
    kinds = [tags.image_type for path in paths if (tags := read_tags(path)) and "VOLUME" in tags.image_type]
    return bool(kinds) and all("RESAMPLED" in kind for kind in kinds)


def _elements(stream: BinaryIO, size: int, until: tuple[int, int]) -> dict[tuple[int, int], bytes]:
    """Tags up to one, or to the pixels, with the values of those that are wanted (else empty), in rising order."""
    found: dict[tuple[int, int], bytes] = {}
    explicit, last = True, (0, 0)
    while stream.tell() < size and last < until:
        start = stream.tell()
        tag = _tag(stream)
        if last[0] == 0x0002 and tag[0] != 0x0002:  # the part that says how the rest is stored is over
            syntax = found.get(_SYNTAX, b"").decode("ascii", "replace").strip(" \0")
            if syntax in _OTHER_ORDER:
                raise _DamagedError
            explicit = syntax != _IMPLICIT
        if tag <= last:
            raise _DamagedError
        if tag == _PIXELS:
            return found | {tag: b""}
        length = _length(stream, explicit)
        if tag in (_SYNTAX, _IMAGE_TYPE, _PATIENT, _SERIES, _CONTAINER, _COLOURS) and length <= _LONGEST_VALUE:
            found[tag] = _bytes(stream, length)
        else:
            _skip(stream, length, explicit, size, 0)
            found[tag] = b""
        last = tag
        if stream.tell() <= start:
            raise _DamagedError
    return found


def _skip(stream: BinaryIO, length: int, explicit: bool, size: int, depth: int) -> None:
    """Past a value; one of undefined length is a sequence of items that ends with a delimiter."""
    if length != _UNDEFINED:
        if stream.seek(length, 1) > size:
            raise _DamagedError
        return
    if depth > _DEEPEST:
        raise _DamagedError
    while (tag := _tag(stream)) != _SEQUENCE_END:
        if tag != _ITEM:
            raise _DamagedError
        (inside,) = struct.unpack("<I", _bytes(stream, 4))
        if inside != _UNDEFINED:
            _skip(stream, inside, explicit, size, depth)
            continue
        while _tag(stream) != _ITEM_END:
            _skip(stream, _length(stream, explicit), explicit, size, depth + 1)
        _bytes(stream, 4)
    _bytes(stream, 4)


def _tag(stream: BinaryIO) -> tuple[int, int]:
    group, element = struct.unpack("<HH", _bytes(stream, 4))
    return group, element


def _length(stream: BinaryIO, explicit: bool) -> int:
    if not explicit:
        return int(struct.unpack("<I", _bytes(stream, 4))[0])
    kind, short = struct.unpack("<2sH", _bytes(stream, 4))
    return int(struct.unpack("<I", _bytes(stream, 4))[0]) if kind in _LONG else int(short)


def _bytes(stream: BinaryIO, count: int) -> bytes:
    value = stream.read(count)
    if len(value) != count:
        raise _DamagedError
    return value
