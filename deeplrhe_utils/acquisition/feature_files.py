"""Features in place of slides: vectors that somebody's encoder left, an input kind of its own.

One file for all slides (NPZ, Parquet or CSV), or a folder with one file a slide (``.npy``, ``.npz``, ``.pt``). Nothing
is unpickled: of a ``.pt`` file only the shape is read from its pickle, opcode by opcode, and the numbers beside it.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.barcodes import SlideName, parse_name
from deeplrhe_utils.acquisition.labels.labels import with_label_patients
from deeplrhe_utils.acquisition.services.tcga_slides import NORMAL_CODE, tumour_of_site
from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.tables.schemas import SLIDES, TILES
from deeplrhe_utils.core.text import shortened

_EACH: Final = (".npy", ".npz", ".pt")
_TABLES: Final = (".parquet", ".csv")
_COUNTS: Final = ("n_regions", "n_tiles")
_STORED: Final = {"FloatStorage": np.float32, "HalfStorage": np.float16, "DoubleStorage": np.float64}

_DAMAGED: Final = (OSError, ValueError, LookupError, EOFError, StopIteration, NotImplementedError, zipfile.BadZipFile)


class FeatureFiles(NamedTuple):
    """What was read.

    Attributes
    ----------
    slides, tiles : tables SLIDES and TILES; a tile is a vector, whose place is not known. Slides of normal tissue, by
        their TCGA barcode, are excluded, and none of their vectors is selected.
    vectors : float32, a row per tile_id and a column per feature
    note : a sentence on what was found
    """

    slides: pd.DataFrame
    tiles: pd.DataFrame
    vectors: pd.DataFrame
    note: str


def read_features(path: Path, owners: Path | None = None) -> FeatureFiles:
    """Read the vectors of a cohort.

    Parameters
    ----------
    path : a ``.npz`` with slide (S,), features (N, D) and, unless N = S, n_regions or n_tiles (S,), slide after slide;
        a ``.parquet`` or ``.csv`` with slide_id and numbers, a row per vector; or a folder, searched with its
        sub-folders, of files ``<slide_id>.npy`` | ``.npz`` | ``.pt``, each an array (n, D) or (D,)
    owners : a table of labels, whose column slide_id tells patients

    Slides are named as files are: the hospital is that of a TCGA barcode, and so is the patient that `owners` does not
    tell; else the slide is its own patient. Raises InputError: nothing there, a slide twice or without a vector, arrays
    of other shapes or another number of features, a column that is none, a number that is not finite.
    """
    path = Path(path)
    parts = dict(sorted(_folder(path) if path.is_dir() else _one_file(path)))
    if not parts:
        raise InputError(f"{path} holds no features", expected=f"files {', '.join(_EACH)} named like slides")
    widths = {name: array.shape[1] for name, (array, _) in parts.items()}
    width = next(iter(widths.values()))
    if other := [name for name, own in widths.items() if own != width]:
        raise InputError(f"The slides of {path} have different numbers of features: {shortened(other, 3)}",
                         got=widths[other[0]], expected=f"{width}, as of {next(iter(widths))}")  # fmt: skip
    if empty := [name for name, (array, _) in parts.items() if not len(array)]:
        raise InputError(f"{len(empty)} slides of {path} have no vector: {shortened(empty, 3)}")
    if wrong := [name for name, (array, _) in parts.items() if not _finite(array)]:
        raise InputError(f"{len(wrong)} slides of {path} have a vector of no finite numbers: {shortened(wrong, 3)}",
                         fix="Leave these slides out, or make their features again")  # fmt: skip
    vectors = np.concatenate([array.astype(np.float32) for array, _ in parts.values()])
    counts = [len(array) for array, _ in parts.values()]
    owner = np.repeat(list(parts), counts)
    place = np.concatenate([np.arange(n) for n in counts])
    tile_ids = [f"{slide}_{i}" for slide, i in zip(owner, place, strict=True)]
    slides = _slides({name: file for name, (_, file) in parts.items()})
    slides = slides if owners is None else with_label_patients(slides, owners)[0]
    patients = dict(zip(slides["slide_id"], slides["patient_id"], strict=True))
    usable = np.isin(owner, slides.loc[slides["status"] == "ok", "slide_id"].to_numpy(str))
    tiles = pd.DataFrame({"tile_id": tile_ids, "slide_id": owner, "patient_id": [patients[s] for s in owner],
                          "kept": usable, "selected": usable})  # fmt: skip
    people = slides["patient_id"].nunique()
    note = (f"{len(vectors):,} vectors of {width} numbers, {len(parts)} slides, {people} patients; "
            "where in a slide a vector comes from is not known, so there are no heat maps.")  # fmt: skip
    table = pd.DataFrame(vectors, index=pd.Index(tile_ids, name="tile_id"), columns=[f"f{i}" for i in range(width)])
    return FeatureFiles(slides, conform(tiles, TILES), table, note)


def _finite(array: NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        return array.dtype.kind in "fiu" and bool(np.isfinite(array.astype(np.float32)).all())


def _slides(files: dict[str, Path]) -> pd.DataFrame:
    told = {name: parse_name(name) for name in files}
    hashed = {file: sha256_file(file) for file in set(files.values())}
    rows = [{"slide_id": name, "patient_id": told[name].patient_id or name, "site_id": told[name].site_id,
             "site_code": told[name].site_code, "path": str(file), "sha256": hashed[file], "bytes": file.stat().st_size,
             "mpp_source": "not-needed", "sample_type": told[name].sample_type,
             **_kind(told[name])} for name, file in files.items()]  # fmt: skip
    return conform(pd.DataFrame(rows), SLIDES)


def _kind(told: SlideName) -> dict[str, str | None]:
    if told.sample_code != NORMAL_CODE:
        return {"status": "ok", "subtype": tumour_of_site(told.site_code)}
    return {"status": "excluded", "subtype": "normal", "reason": "normal tissue: it would be averaged with the tumour"}


def _folder(folder: Path) -> Iterator[tuple[str, tuple[NDArray[Any], Path]]]:
    seen: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _EACH and not p.name.startswith(".")):
        if path.stem in seen:
            raise InputError(f"Two files hold the features of slide {path.stem}", got=f"{seen[path.stem]}, {path}",
                             fix="Leave one away, or name the file that is meant")  # fmt: skip
        seen[path.stem] = path
        array = _array(path)
        if array.ndim not in (1, 2):
            raise InputError(f"{path} holds no vectors", got=f"shape {array.shape}", expected="(n, D) or (D,)")
        yield path.stem, (np.atleast_2d(array), path)


def _one_file(path: Path) -> Iterator[tuple[str, tuple[NDArray[Any], Path]]]:
    if path.suffix in _TABLES:
        frame = _parquet(path) if path.suffix == ".parquet" else read_foreign(path, InputError)
        if "slide_id" not in frame or frame["slide_id"].replace("", pd.NA).isna().any():
            raise InputError(f"{path} does not name the slide of every row", got=", ".join(map(str, frame.columns[:5])),
                             expected="a column slide_id, and numbers")  # fmt: skip
        values = frame.drop(columns="slide_id").apply(pd.to_numeric, errors="coerce")
        if words := [str(c) for c in values if values[c].isna().all() or str(c).startswith("(column ")]:
            raise InputError(f"{path} has columns that are no features: {shortened(words, 3)}",
                             expected="slide_id and named columns of numbers", fix="Remove them")  # fmt: skip
        for name, rows in values.groupby(frame["slide_id"].astype(str), sort=False):
            yield str(name), (rows.to_numpy(np.float32), path)
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
        yield str(name), (part, path)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as cause:
        raise InputError(f"{path} cannot be read ({cause})", expected="a Parquet table") from cause


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
