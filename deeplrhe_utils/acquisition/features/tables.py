"""Files of vectors: a folder with one file a slide, or one table or array file for all; nothing is unpickled.

Of a ``.pt`` file only the shape is read from its pickle, opcode by opcode, and the numbers beside it.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.features.layouts import read_h5
from deeplrhe_utils.acquisition.features.neutral import BLOCK_ROWS, L0_PX, SlideVectors, whole_array
from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import atomic_path
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.text import shortened

_H5: Final = (".h5", ".hdf5")
_EACH: Final = (".npy", ".npz", ".pt", *_H5)
_TABLES: Final = (".parquet", ".csv")
_COUNTS: Final = ("n_regions", "n_tiles")
_PLACES: Final = ["x_l0_px", "y_l0_px", "size_l0_px"]
_STORED: Final = {"FloatStorage": np.float32, "HalfStorage": np.float16, "DoubleStorage": np.float64}
_SMALL: Final = 1 << 28  # bytes of numbers up to which a table is read at once, and its slides are views of it
_PLAIN: Final = "plain"
_OURS: Final = "Parquet"

_DAMAGED: Final = (OSError, ValueError, LookupError, EOFError, StopIteration, NotImplementedError, zipfile.BadZipFile)


def find_vectors(
    path: Path, *, encoder: str = "", patches: Path | None = None, empty: bool = False
) -> list[SlideVectors]:  # fmt: skip
    """The vectors of every slide, by name; nothing but their shapes and places is read.

    Parameters
    ----------
    path : a ``.npz`` with slide (S,), features (N, D) and, unless N = S, n_regions or n_tiles (S,), slide after slide;
        a ``.parquet`` or ``.csv`` with slide_id, optionally x_l0_px, y_l0_px and size_l0_px, and numbers, a row per
        vector; or a folder, searched with its sub-folders, of files ``<slide_id>.npy`` | ``.npz`` | ``.pt``, each an
        array (n, D) or (D,), or HDF5 files of TRIDENT, CLAM, STAMP or AtlasPatch (`read_h5`)
    encoder, patches : as for `read_h5`
    empty : whether slides without a vector are returned, too; else they are an error

    Raises InputError: nothing there, a slide twice or without a vector, arrays of other shapes or another number of
    features, a column that is none; as `read_h5`.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} is not there", fix="Check the path")
    found = sorted(_folder(path, encoder, patches) if path.is_dir() else _one_file(path, encoder, patches),
                   key=lambda one: one.slide_id)  # fmt: skip
    if not found:
        raise InputError(f"{path} holds no features", expected=f"files {', '.join(_EACH)} named like slides")
    some = next((one for one in found if one.count), found[0])
    width = some.width
    if other := [one for one in found if one.count and one.width != width]:
        raise InputError(f"The slides of {path} have different numbers of features: "
                         f"{shortened([one.slide_id for one in other], 3)}", got=other[0].width,
                         expected=f"{width}, as of {some.slide_id}")  # fmt: skip
    bare = [one.slide_id for one in found if not one.count]
    if bare and (not empty or len(bare) == len(found)):
        raise InputError(f"{len(bare)} slides of {path} have no vector: {shortened(bare, 3)}",
                         fix="Leave their files out")  # fmt: skip
    return found


def _array_of(name: str, path: Path, array: NDArray[Any], blocks: Callable[[], Iterator[NDArray[Any]]]) -> SlideVectors:
    if array.ndim not in (1, 2):
        raise InputError(f"{path} holds no vectors", got=f"shape {array.shape}", expected="(n, D) or (D,)")
    count, width = np.atleast_2d(array).shape
    return SlideVectors(name, path, _PLAIN, count, width, array.dtype, blocks)


def _again(path: Path) -> Iterator[NDArray[Any]]:
    yield from whole_array(np.atleast_2d(_array(path)))()


def _folder(folder: Path, encoder: str, patches: Path | None) -> Iterator[SlideVectors]:
    seen: dict[str, Path] = {}
    files = sorted(p for p in folder.rglob("*") if p.suffix in _EACH and not p.name.startswith(".")
                   and not p.name.endswith(".index.npz"))  # of Slideflow: places, no vectors  # fmt: skip
    whole = {f.stem for f in files if f.suffix in _H5 and f.parent.name == "h5_files"}
    for path in files:
        if path.suffix == ".pt" and path.parent.name == "pt_files" and path.stem in whole:
            continue  # CLAM writes the same numbers twice
        one = read_h5(path, encoder=encoder, patches=patches) if path.suffix in _H5 else _array_of(
            path.stem, path, _array(path), partial(_again, path))  # fmt: skip
        if one is None:
            continue
        if path.stem in seen:
            raise InputError(f"Two files hold the features of slide {path.stem}", got=f"{seen[path.stem]}, {path}",
                             fix="Leave one away, or name the file or the encoder's folder that is meant")  # fmt: skip
        seen[path.stem] = path
        yield one


def _one_file(path: Path, encoder: str, patches: Path | None) -> Iterator[SlideVectors]:
    if path.suffix in _H5:
        if (one := read_h5(path, encoder=encoder, patches=patches)) is not None:
            yield one
        return
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    if path.suffix in _TABLES:
        frame = read_foreign(path, InputError)
        _check_names(path, frame, list(map(str, frame.columns)))
        places = [c for c in _PLACES if c in frame]
        values = frame.drop(columns="slide_id").apply(pd.to_numeric, errors="coerce")
        if words := [str(c) for c in values if values[c].isna().all() or str(c).startswith("(column ")]:
            raise _no_features(path, words)
        for name, rows in values.groupby(frame["slide_id"].astype(str), sort=False):
            yield _of_table(str(name), path, rows.drop(columns=places).to_numpy(np.float32), rows[places])
        return
    arrays = _npz(path)
    if not {"slide", "features"} <= set(arrays):
        raise InputError(f"{path} is no file of features", got=", ".join(arrays) or "nothing",
                         expected="arrays slide, features and, unless a slide is one vector, n_regions")  # fmt: skip
    names, features = arrays["slide"].astype(str), arrays["features"]
    counts = next((arrays[c] for c in _COUNTS if c in arrays), np.ones(len(names), int))
    whole = counts.dtype.kind in "iu" and counts.ndim == names.ndim == 1 and (counts >= 0).all()
    fits = whole and len(names) == len(counts) == len(set(names)) and counts.sum() == len(features)
    if not fits or features.ndim != 2:
        raise InputError(f"The arrays of {path} do not fit", got=f"{len(names)} slides ({len(set(names))} names), "
                         f"{counts.sum()} vectors counted, features {features.shape}",
                         expected="each slide once, and as many vectors as the counts add up to")  # fmt: skip
    for name, part in zip(names, np.split(features, np.cumsum(counts)[:-1]), strict=True):
        yield _array_of(str(name), path, part, whole_array(part))


def _check_names(path: Path, frame: pd.DataFrame, columns: list[str]) -> None:
    if "slide_id" not in frame or frame["slide_id"].replace("", pd.NA).isna().any():
        raise InputError(f"{path} does not name the slide of every row", got=", ".join(columns[:5]),
                         expected="a column slide_id, and numbers")  # fmt: skip


def _no_features(path: Path, columns: list[str]) -> InputError:
    return InputError(f"{path} has columns that are no features: {shortened(columns, 3)}",
                      expected="slide_id and named columns of numbers", fix="Remove them")  # fmt: skip


def _of_table(
    name: str, path: Path, values: NDArray[Any], places: pd.DataFrame, encoder: str = "",
    blocks: Callable[[], Iterator[NDArray[Any]]] | None = None,
) -> SlideVectors:  # fmt: skip
    """A slide of a table; its places count where all three columns are there."""
    known: dict[str, Any] = {}
    if list(places) == _PLACES:
        side = places["size_l0_px"].unique()
        if len(side) != 1:
            raise InputError(f"The tiles of slide {name} in {path} have {len(side)} sizes", expected="one size_l0_px")
        known = {"places": places[_PLACES[:2]].to_numpy(), "unit": L0_PX, "size": float(side[0])}
    return SlideVectors(name, path, _OURS, len(places), values.shape[1], values.dtype, blocks or whole_array(values),
                        encoder=encoder, **known)  # fmt: skip


def _parquet(path: Path) -> Iterator[SlideVectors]:
    try:
        file = pq.ParquetFile(path, memory_map=True)
        schema = file.schema_arrow
        encoder = (schema.metadata or {}).get(b"encoder", b"").decode("utf-8", "replace")
        keys = [c for c in ("slide_id", *_PLACES) if c in schema.names]
        frame = file.read(columns=keys).to_pandas()
        _check_names(path, frame, schema.names)
        names = [c for c in schema.names if c not in {*keys, "tile_id"} and not c.startswith("__index")]
        if words := [c for c in names if not _numeric(schema.field(c).type)]:
            raise _no_features(path, words)
        kind = np.result_type(*(schema.field(c).type.to_pandas_dtype() for c in names))
        places = [c for c in _PLACES if c in frame]
        small = len(frame) * len(names) * kind.itemsize <= _SMALL
        whole = np.concatenate(list(_batches(path, names, kind, None))) if small else np.empty((0, len(names)), kind)
    except (OSError, ValueError, pa.ArrowException) as cause:
        raise InputError(f"{path} cannot be read ({cause})", expected="a Parquet table") from cause
    for name, rows in frame.reset_index(drop=True).groupby("slide_id", sort=False):
        own = rows.index.to_numpy()
        blocks = None if small else partial(_batches, path, names, kind, own)
        yield _of_table(str(name), path, whole[own] if small else whole, rows[places], encoder, blocks)


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _batches(
    path: Path, names: list[str], kind: np.dtype[Any], rows: NDArray[np.intp] | None
) -> Iterator[NDArray[Any]]:
    """Numbers of those rows, in the order of the file, block by block; only row groups that hold them are read."""
    file = pq.ParquetFile(path, memory_map=True)
    ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
    groups = range(len(ends)) if rows is None else np.unique(np.searchsorted(ends, rows, side="right")).tolist()
    for group in groups:
        at = int(ends[group] - file.metadata.row_group(group).num_rows)
        for batch in file.iter_batches(BLOCK_ROWS, row_groups=[group], columns=names, use_threads=False):
            here = slice(None) if rows is None else rows[(rows >= at) & (rows < at + len(batch))] - at
            at += len(batch)
            if rows is None or len(here):  # type: ignore[arg-type]
                yield np.stack([batch.column(c).to_numpy(zero_copy_only=False) for c in names], 1)[here].astype(kind)


def write_vector_table(slides: list[SlideVectors], path: Path, mpp: dict[str, float] | None = None) -> Path:
    """Write vectors as one Parquet table: slide_id, places where they are known of all, and a column per feature.

    Parameters
    ----------
    mpp : slide → level-0 resolution [µm/px], which places in µm need
    """
    placed = all(one.places is not None and one.unit for one in slides)
    kind = pa.from_numpy_dtype(np.result_type(*(one.dtype for one in slides)))
    keys = [("slide_id", pa.string()), *((c, pa.float64()) for c in _PLACES if placed)]
    columns = [(f"f{i}", kind) for i in range(slides[0].width)]
    schema = pa.schema([*keys, *columns], metadata={"encoder": slides[0].encoder})
    with atomic_path(path) as part, pq.ParquetWriter(part, schema) as writer:
        for one in slides:
            windows, at = (one.windows((mpp or {}).get(one.slide_id)) if placed else pd.DataFrame()), 0
            for block in one.blocks():
                place = [pa.array(windows[c].to_numpy()[at : at + len(block)]) for c in windows]
                cells = [pa.array(column, kind) for column in np.ascontiguousarray(block.T)]
                name = pa.array([one.slide_id] * len(block), pa.string())
                writer.write_table(pa.Table.from_arrays([name, *place, *cells], schema=schema))
                at += len(block)
    return path


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (*_DAMAGED, AttributeError) as cause:
        raise InputError(f"{path} cannot be read ({cause})", expected="an NPZ file without objects") from cause


def _array(path: Path) -> NDArray[Any]:
    if path.suffix == ".pt":
        return _tensor(path)
    if path.suffix == ".npz":
        arrays = _npz(path)
        if len(arrays) != 1:
            raise InputError(f"{path} holds {len(arrays)} arrays", got=", ".join(arrays), expected="one array a slide")
        return next(iter(arrays.values()))
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as cause:
        raise InputError(f"{path} cannot be read ({cause})", expected="an array without objects") from cause


def _tensor(path: Path) -> NDArray[Any]:
    """A tensor that `torch.save` wrote: type and shape by the opcodes of its pickle, which is not run."""
    try:
        with zipfile.ZipFile(path) as archive:
            (listed,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            steps = [(code.name, value) for code, value, _ in pickletools.genops(archive.read(listed))]
            data = archive.read(listed.removesuffix(".pkl") + "/0")
        if (tensors := sum(name == "BINPERSID" for name, _ in steps)) != 1:
            raise ValueError(f"{tensors} tensors")
        words = [str(v).split()[-1] for name, v in steps if name in ("GLOBAL", "STACK_GLOBAL")]
        kind = next(_STORED[w] for w in words if w in _STORED)
        after = steps[next(i for i, (name, _) in enumerate(steps) if name == "BINPERSID") + 1 :]
        numbers = [int(str(v)) for name, v in after if name in ("BININT", "BININT1", "BININT2")]
        ends = next(i for i, (name, _) in enumerate(after) if name.startswith("TUPLE"))
        rank = sum(name in ("BININT", "BININT1", "BININT2") for name, _ in after[:ends]) - 1
        start, shape, strides = numbers[0], numbers[1 : 1 + rank], numbers[1 + rank : 1 + 2 * rank]
        count = int(np.prod(shape))
        if start or strides != [int(np.prod(shape[i + 1 :])) for i in range(rank)]:
            raise ValueError("a view of another tensor")
        return np.frombuffer(data, np.dtype(kind).newbyteorder("<"), count).reshape(shape)
    except _DAMAGED as cause:
        raise InputError(f"{path} is no plain tensor ({cause or 'unknown layout'})", expected="one dense tensor of "
                         "floats, as torch.save writes it since version 1.6") from cause  # fmt: skip
