"""Tiles of one slide as pictures in one file: an Arrow table with an encoded image per row.

The tiles table holds coordinates, and pixels are read from the slide when they are needed. Where that is too
slow (many epochs over every tile, slides on a network disk) they can be kept: one Arrow IPC file per slide
(Feather v2; pandas, polars, R and DuckDB open it), one row per tile, the image as a PNG or JPEG stream. The
file is memory-mapped, any row is read alone, and there is never a file per tile.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.files import atomic_path, safe_name
from deeplrhe_utils.slides.sampling import Rgb, Square

PNG, JPEG = "png", "jpeg"
ENCODINGS: Final = (PNG, JPEG)
JPEG_QUALITY: Final = 95
"""With 4:4:4 chroma; the mean difference is about one grey level. PNG loses nothing and is four times as large."""
_ROWS_PER_BATCH: Final = 64
_SCHEMA: Final = pa.schema(
    [
        ("tile_id", pa.string()),
        ("x_l0_px", pa.int64()),
        ("y_l0_px", pa.int64()),
        ("size_l0_px", pa.float64()),
        ("image", pa.large_binary()),
    ]
)


def pictures_path(folder: Path, slide_id: str) -> Path:
    """File of one slide's pictures inside a folder."""
    return folder / f"{safe_name(slide_id)}.arrow"


class PictureWriter:
    """Write one slide's tiles as they come; a context manager. The file appears when the block ends without error.

    Parameters
    ----------
    path : Path
        File to write.
    encoding : str
        ``png`` (lossless) or ``jpeg`` (quality 95, 4:4:4).
    about : mapping of str to str
        Kept as the file's metadata (slide, resolution, side).
    """

    def __init__(self, path: Path, encoding: str, about: dict[str, str] | None = None) -> None:
        if encoding not in ENCODINGS:
            raise ParameterError("There is no such encoding of tiles", got=encoding, expected=" or ".join(ENCODINGS))
        self.encoding, self._path = encoding, path
        self._rows: list[dict[str, object]] = []
        self._schema = _SCHEMA.with_metadata({"encoding": encoding, **(about or {})})

    def __enter__(self) -> Self:
        self._atomic = atomic_path(self._path)
        self._sink = pa.OSFile(str(self._atomic.__enter__()), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        return self

    def add(self, tile_id: str, x_l0_px: int, y_l0_px: int, size_l0_px: float, pixels: Rgb) -> None:
        """Append one tile (H, W, 3), uint8 RGB."""
        place = {"tile_id": tile_id, "x_l0_px": x_l0_px, "y_l0_px": y_l0_px, "size_l0_px": size_l0_px}
        self._rows.append({**place, "image": encode(pixels, self.encoding)})
        if len(self._rows) >= _ROWS_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._rows:
                self._flush()
            self._writer.close()
            self._sink.close()
        except BaseException as problem:  # a full disk shows here: the part file must go, and the error must come
            self._atomic.__exit__(type(problem), problem, problem.__traceback__)
            raise
        self._atomic.__exit__(kind, error, trace)


class Pictures:
    """The pictures of one slide, memory-mapped; any tile is read alone.

    Parameters
    ----------
    path : Path
        Written by :class:`PictureWriter`.

    Attributes
    ----------
    encoding : str
        ``png`` or ``jpeg``.
    about : dict of str to str
        The file's metadata.
    tile_ids : list of str
        The tiles in the order of the file.

    Raises
    ------
    InputError
        The file is missing or no such table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path), "r"))
            metadata = self._file.schema.metadata or {}
            self.about = {key.decode(): value.decode() for key, value in metadata.items()}
            self.encoding = self.about["encoding"]
            self._batches = [self._file.get_batch(i) for i in range(self._file.num_record_batches)]
            _check(self._file.schema, self._batches)
            names = [batch.column("tile_id").to_pylist() for batch in self._batches]
        except (OSError, pa.ArrowException, KeyError) as error:
            raise InputError(
                f"The stored tiles {path} cannot be read ({error})", fix="Run notebook 03 again"
            ) from error
        self.tile_ids: list[str] = [name for batch in names for name in batch]
        self._where = {name: (b, i) for b, batch in enumerate(names) for i, name in enumerate(batch)}

    def __len__(self) -> int:
        return len(self.tile_ids)

    def _cell(self, tile_id: str, column: str) -> pa.Scalar:
        if tile_id not in self._where:
            raise InputError(f"The stored tiles {self.path.name} hold no tile {tile_id}", fix="Run notebook 03 again")
        batch, row = self._where[tile_id]
        return self._batches[batch].column(column)[row]

    def square(self, tile_id: str) -> Square:
        """Where a tile lies. Raises InputError where the file holds no such tile."""
        return Square(*(self._cell(tile_id, column).as_py() for column in ("x_l0_px", "y_l0_px", "size_l0_px")))

    def stream(self, tile_id: str) -> bytes:
        """The encoded image of one tile. Raises InputError where the file holds no such tile."""
        return bytes(self._cell(tile_id, "image").as_buffer())

    def read(self, tile_ids: Iterable[str]) -> list[Rgb]:
        """Tiles (H, W, 3), uint8 RGB, in the order asked for.

        Raises
        ------
        InputError
            The file holds no such tile, or its image is damaged.
        """
        return [self._decoded(name) for name in tile_ids]

    def _decoded(self, tile_id: str) -> Rgb:
        try:
            return decode(self.stream(tile_id), self.encoding)
        except ValueError as error:
            what = f"Tile {tile_id} of the stored tiles {self.path.name} is damaged ({error})"
            raise InputError(what, fix="Run notebook 03 again") from error


def _check(schema: pa.Schema, batches: list[pa.RecordBatch]) -> None:
    """Refuse other tables, and damage that would let Arrow read beyond the file."""
    if not schema.equals(_SCHEMA):
        raise pa.ArrowInvalid("another table than that of stored tiles")
    for batch in batches:
        batch.validate(full=True)
        if batch.column("image").null_count:
            raise pa.ArrowInvalid("a tile without an image")


def encode(pixels: Rgb, encoding: str) -> bytes:
    """A tile as a PNG or JPEG stream."""
    if encoding == JPEG:
        pixels = np.ascontiguousarray(pixels)
        return bytes(simplejpeg.encode_jpeg(pixels, JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"))
    _, stream = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return stream.tobytes()


def decode(stream: bytes, encoding: str) -> Rgb:
    """Pixels of a stream that :func:`encode` made; ValueError where it is damaged."""
    if encoding == JPEG:
        return np.asarray(simplejpeg.decode_jpeg(stream, colorspace="RGB"), np.uint8)
    pixels = cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_COLOR_RGB) if stream else None
    if pixels is None:
        raise ValueError("no PNG image")
    return np.asarray(pixels, np.uint8)
