"""DICOM slides written by hand: a series of levels, whose frames are JPEG, JPEG 2000 or bare; dual with TIFF on demand.

What is written is what the Imaging Data Commons' converted files hold (PS3.3 A.32.8, PS3.5 annex A.4): a file per
level, tiles in rows (TILED_FULL), the resolution in the shared functional groups.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

SYNTAXES = {"raw": "1.2.840.10008.1.2.1", "jpeg": "1.2.840.10008.1.2.4.50", "j2k": "1.2.840.10008.1.2.4.91",
            "lossless": "1.2.840.10008.1.2.4.90"}  # fmt: skip
SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
TILE = 256


def element(group: int, number: int, kind: str, value: bytes | str | int | float) -> bytes:
    """One element, explicit VR, little endian."""
    if not isinstance(value, bytes | str):
        value = struct.pack({"US": "<H", "UL": "<I", "FL": "<f"}[kind], value)
    data = value.encode() if isinstance(value, str) else value
    data += (b"\0" if kind in ("UI", "OB", "UN") else b" ") if len(data) % 2 else b""
    head = struct.pack("<HH2s", group, number, kind.encode())
    if kind in ("OB", "SQ", "UN"):
        return head + struct.pack("<HI", 0, len(data)) + data
    return head + struct.pack("<H", len(data)) + data


def sequence(group: int, number: int, *elements: bytes) -> bytes:
    """A sequence of one item."""
    item = b"".join(elements)
    return element(group, number, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)


def encoded(tile: np.ndarray, form: str, photometric: str) -> bytes:
    """A frame: JPEG in RGB or YCbCr; JPEG 2000 with (YBR_ICT, YBR_RCT) or without (RGB) its colour transform."""
    if form == "raw":
        return tile.tobytes()
    out = io.BytesIO()
    if form == "jpeg":
        Image.fromarray(tile).save(out, "JPEG", quality=92, subsampling=0, keep_rgb=photometric == "RGB")
    else:
        ict = form == "j2k"
        Image.fromarray(tile).save(out, "JPEG2000", no_jp2=True, irreversible=ict, mct=int(photometric != "RGB"),
                                   quality_mode="rates", quality_layers=[2 if ict else 0])  # fmt: skip
    return out.getvalue() + (b"\0" if out.tell() % 2 else b"")


def tiles_of(picture: np.ndarray) -> list[np.ndarray]:
    """Tiles in rows; white beyond the edge."""
    height, width = picture.shape[:2]
    whole = np.full((-(-height // TILE) * TILE, -(-width // TILE) * TILE, 3), 255, np.uint8)
    whole[:height, :width] = picture
    return [np.ascontiguousarray(whole[y : y + TILE, x : x + TILE])
            for y in range(0, len(whole), TILE) for x in range(0, whole.shape[1], TILE)]  # fmt: skip


def dicom_bytes(
    picture: np.ndarray, *, form: str = "jpeg", photometric: str = "RGB", series: str = "1.2.3.4.5.6",
    patient: str = "C3L-00001", container: str = "C3L-00001-21", number: int = 1, mpp: float = 0.5,
    resampled: bool = False, frames: list[bytes] | None = None, tile: int = TILE,
) -> tuple[bytes, list[tuple[int, int]]]:  # fmt: skip
    """A level as a file, and (offset, length) of its frames; `frames` that are given, of side `tile`, are kept."""
    height, width = picture.shape[:2]
    if frames is None:
        frames = [encoded(one, form, photometric) for one in tiles_of(picture)]
    instance = f"{series}.{number}"
    meta = b"".join((
        element(0x0002, 0x0001, "OB", b"\0\1"), element(0x0002, 0x0002, "UI", SLIDE_CLASS),
        element(0x0002, 0x0003, "UI", instance), element(0x0002, 0x0010, "UI", SYNTAXES[form]),
        element(0x0002, 0x0012, "UI", "1.2.3.4"),
    ))  # fmt: skip
    kinds = "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED" if resampled else "ORIGINAL\\PRIMARY\\VOLUME\\NONE"
    body = b"".join((
        element(0x0008, 0x0008, "CS", kinds), element(0x0008, 0x0016, "UI", SLIDE_CLASS),
        element(0x0008, 0x0018, "UI", instance), element(0x0008, 0x0060, "CS", "SM"),
        element(0x0010, 0x0020, "LO", patient), element(0x0020, 0x000D, "UI", f"{series}.0"),
        element(0x0020, 0x000E, "UI", series), element(0x0020, 0x0013, "IS", str(number)),
        element(0x0020, 0x0052, "UI", f"{series}.9"), element(0x0020, 0x9311, "CS", "TILED_FULL"),
        element(0x0028, 0x0002, "US", 3), element(0x0028, 0x0004, "CS", photometric),
        element(0x0028, 0x0006, "US", 0), element(0x0028, 0x0008, "IS", str(len(frames))),
        element(0x0028, 0x0010, "US", tile), element(0x0028, 0x0011, "US", tile),
        element(0x0028, 0x0100, "US", 8), element(0x0028, 0x0101, "US", 8), element(0x0028, 0x0102, "US", 7),
        element(0x0028, 0x0103, "US", 0), element(0x0040, 0x0512, "LO", container),
        element(0x0048, 0x0001, "FL", width * mpp / 1000), element(0x0048, 0x0002, "FL", height * mpp / 1000),
        element(0x0048, 0x0006, "UL", width), element(0x0048, 0x0007, "UL", height),
        sequence(0x5200, 0x9229, sequence(0x0028, 0x9110, element(
            0x0028, 0x0030, "DS", f"{mpp / 1000:.6f}\\{mpp / 1000:.6f}"))),
    ))  # fmt: skip
    head = b"\0" * 128 + b"DICM" + element(0x0002, 0x0000, "UL", len(meta)) + meta + body
    if form == "raw":
        start = len(head) + 12
        pixels = element(0x7FE0, 0x0010, "OB", b"".join(frames))
        return head + pixels, [(start + i * len(f), len(f)) for i, f in enumerate(frames)]
    out = bytearray(head + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
    out += struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    places = []
    for frame in frames:
        out += struct.pack("<HHI", 0xFFFE, 0xE000, len(frame))
        places.append((len(out), len(frame)))
        out += frame
    return bytes(out + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)), places


def as_tiff_too(data: bytes, places: list[tuple[int, int]], width: int, height: int, tile: int = TILE) -> bytes:
    """The same file with a TIFF header in its preamble, whose index lies behind the pixels as trailing padding."""
    start = len(data) + 12
    arrays = struct.pack("<3H", 8, 8, 8) + b"\0\0"
    at = {"bits": start, "offsets": start + len(arrays)}
    arrays += struct.pack(f"<{len(places)}I", *(place for place, _ in places))
    at["counts"] = start + len(arrays)
    arrays += struct.pack(f"<{len(places)}I", *(size for _, size in places))
    one = len(places) == 1
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, at["bits"]), (259, 3, 1, 7), (262, 3, 1, 2),
            (277, 3, 1, 3), (284, 3, 1, 1), (322, 3, 1, tile), (323, 3, 1, tile),
            (324, 4, len(places), places[0][0] if one else at["offsets"]),
            (325, 4, len(places), places[0][1] if one else at["counts"])]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    head = struct.pack("<2sHI", b"II", 42, start + len(arrays))
    return head + data[len(head) :] + element(0xFFFC, 0xFFFC, "OB", arrays + directory)


def write_series(
    folder: Path, picture: np.ndarray, names: list[str], *, mpp: float = 0.5, dual: bool = False, **more: object
) -> list[Path]:
    """A file per name: each level half as large as the one before; `dual` files are TIFF as well."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, name in enumerate(names):
        small = Image.fromarray(picture).reduce(2**i) if i else picture
        data, places = dicom_bytes(np.asarray(small), number=i + 1, mpp=mpp * 2**i, resampled=i > 0, **more)
        size = (np.asarray(small).shape[1], np.asarray(small).shape[0])
        (folder / name).write_bytes(as_tiff_too(data, places, *size) if dual else data)
        paths.append(folder / name)
    return paths
