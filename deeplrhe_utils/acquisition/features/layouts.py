"""HDF5 files of tile vectors as TRIDENT, CLAM, STAMP and AtlasPatch write them.

Sources: the writers of TRIDENT 0.3 (`save_h5`), CLAM (`extract_features_fp.py`), STAMP 1 to 2.4 (`preprocessing`) and
AtlasPatch 1.2 (`H5PatchWriter`), and their own readers. Links out of the file are not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.features.neutral import BLOCK_ROWS, FULL_POWER_UM, L0_PX, UM, SlideVectors, axis_gaps
from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import atomic_path, safe_name

TRIDENT, CLAM, STAMP, ATLASPATCH = "TRIDENT", "CLAM", "STAMP", "AtlasPatch"
_OLD_STRIDE, _OLD_UM = 224, 256.0
_DAMAGED: Final = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)


def read_h5(path: Path, *, encoder: str = "", patches: Path | None = None) -> SlideVectors | None:
    """The vectors of one HDF5 file, its layout told by what is inside; None for a file of places without vectors.

    Parameters
    ----------
    encoder : which of an AtlasPatch file's encoders
    patches : folder of CLAM's patch files, which alone know the scale of its features; without it, a folder `patches`
        beside or above the file is looked into

    Raises InputError: damaged, another layout, several encoders and none chosen, places that do not fit the vectors,
    a unit that cannot be told.
    """
    try:
        with h5py.File(path, "r") as file:
            for name in ("features", "slide_features", "feats", "coords", "augmented"):
                _check_inside(path, file, name)
            if isinstance(file.get("features"), h5py.Group) or "slide_features" in file:
                return _atlaspatch(path, file, encoder)
            name = next((n for n in ("feats", "features") if n in file), "")
            if not name:
                if "coords" in file:
                    return None
                raise InputError(f"{path} is no file of features", got=", ".join(file) or "nothing inside",
                                 expected="features, feats, or features/<encoder>")  # fmt: skip
            return _stamp(path, file) if name == "feats" else _trident_or_clam(path, file, patches)
    except InputError:
        raise
    except _DAMAGED as cause:
        raise InputError(f"{path} cannot be read ({cause})", expected="an HDF5 file of features") from cause


def _stored(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """A plain array inside the file; what points elsewhere is refused."""
    _check_inside(path, file, name)
    data = file[name]
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiub":
        raise InputError(f"{path}: {name} is no array of numbers", got=getattr(data, "dtype", type(data).__name__))
    if data.is_virtual or data.external:
        raise InputError(f"{path} keeps {name} in another file", fix="Write one file that holds everything")
    return data


def _check_inside(path: Path, file: h5py.File, name: str) -> None:
    """Only hard links are followed: soft ones may lead to another file in two steps."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:depth]), getlink=True) if "/".join(parts[: depth - 1]) in (*file, "") else None
        if link is not None and not isinstance(link, h5py.HardLink):
            raise InputError(f"{path} keeps {name} elsewhere, behind a link", got=type(link).__name__,
                             fix="Write one file that holds everything")  # fmt: skip


def _blocks(path: Path, name: str, rows: NDArray[np.bool_] | None = None) -> Iterator[NDArray[Any]]:
    with h5py.File(path, "r") as file:
        data = _stored(path, file, name)
        if data.ndim == 1:
            yield data[:][None]
            return
        for start in range(0, data.shape[-2], BLOCK_ROWS):
            block = data[(0,) * (data.ndim - 2) + (slice(start, start + BLOCK_ROWS),)]
            yield block if rows is None else block[rows[start : start + BLOCK_ROWS]]


def _vectors(
    path: Path, file: h5py.File, name: str, layout: str, rows: NDArray[np.bool_] | None = None, **known: Any
) -> SlideVectors:  # fmt: skip
    """What all layouts share; `rows` (count,) leaves the others out."""
    data = _stored(path, file, name)
    shape = data.shape[1:] if data.ndim == 3 and data.shape[0] == 1 else data.shape
    if len(shape) not in (1, 2):
        raise InputError(f"{path} holds no vectors", got=f"{name} {data.shape}", expected="(n, D) or (D,)")
    count = 0 if not data.size else 1 if len(shape) == 1 else shape[0]
    places, notes = known.pop("places", None), known.pop("notes", ())
    if places is not None and count == 1 != len(places):
        places = None
    if len(shape) == 1 or known.get("about", {}).get("feat_type") in ("slide", "patient"):
        places = None  # one vector for all of them
    elif places is not None and len(places) != count:
        raise InputError(f"{path} has {count} vectors and {len(places)} places", expected="a place for each vector")
    if rows is not None and not rows.all():
        notes = (*notes, f"{int((~rows).sum())} vectors of augmented tiles were left out")
        count, places = int(rows.sum()), None if places is None else places[rows]
    if places is not None and len(places):
        if not np.isfinite(places).all() or places.min() < 0:
            raise InputError(f"{path} has tiles outside the slide", got=f"least coordinate {places.min()}")
        if again := count - len(np.unique(places, axis=0)):
            notes = (*notes, f"{again} tiles stand at a place that another tile has")
    return SlideVectors(known.pop("slide_id", path.stem), path, layout, count, int(shape[-1]), data.dtype,
                        partial(_blocks, path, name, rows), places=places, notes=tuple(notes), **known)  # fmt: skip


def _told(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as plain values."""
    out = {}
    for name, value in attributes.items():
        plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        out[name] = plain.decode("utf-8", "replace") if isinstance(plain, bytes) else plain
    return out


def _number(told: Mapping[str, Any], name: str) -> float:
    try:
        value = float(told[name])
    except (KeyError, TypeError, ValueError):
        return float("nan")
    return value if value > 0 else float("nan")


def _trident_or_clam(path: Path, file: h5py.File, patches: Path | None) -> SlideVectors:
    folder = path.parent.name
    encoder = next((folder.removeprefix(p) for p in ("slide_features_", "features_") if folder.startswith(p)), "")
    encoder = encoder or str(_told(file["features"].attrs).get("encoder", ""))
    if "coords" not in file:
        return _vectors(path, file, "features", CLAM, encoder=encoder)
    coords = _stored(path, file, "coords")
    told, places = _told(coords.attrs), coords[:]
    if "patch_size_level0" in told:
        side, power = _number(told, "patch_size_level0"), _number(told, "level0_magnification")
        return _vectors(path, file, "features", TRIDENT, encoder=encoder, places=places, unit=L0_PX, about=told,
                        size=side, power=power)  # fmt: skip
    beside = _patch_file(path, patches)
    if "patch_size" not in told and beside is not None:
        with h5py.File(beside, "r") as other:
            theirs = _stored(beside, other, "coords")
            if theirs.shape != places.shape or not np.array_equal(theirs[:], places):
                raise InputError(f"The places of {path} are not those of {beside}", got=f"{len(places)} tiles",
                                 expected=f"the {len(theirs)} tiles of the patch file, in its order",
                                 fix="Give the patch files that these features were made from")  # fmt: skip
            told = _told(theirs.attrs)
    side = _number(told, "patch_size") * _downsample(told)
    return _vectors(path, file, "features", CLAM, encoder=encoder, places=places, about=told, size=side,
                    unit="" if np.isnan(side) else L0_PX)  # fmt: skip


def _downsample(told: Mapping[str, Any]) -> float:
    """Level-0 pixels per pixel of the level that CLAM cut patches from; NaN where it is not told."""
    if told.get("patch_level") == 0:
        return 1.0
    value = told.get("downsample")
    return float(np.atleast_1d(value)[0]) if value is not None else float("nan")


def _patch_file(path: Path, patches: Path | None) -> Path | None:
    folders = [patches] if patches is not None else [up / "patches" for up in path.parents[:3]]
    return next((f for folder in folders if (f := folder / f"{path.stem}.h5").is_file() and f != path), None)


def _stamp(path: Path, file: h5py.File) -> SlideVectors:
    told = _told(file.attrs)
    known: dict[str, Any] = {"encoder": str(told.get("encoder", told.get("extractor", ""))), "about": told}
    if "coords" in file and told.get("feat_type", "tile") == "tile":
        places = _stored(path, file, "coords")[:]
        side, old = _number(told, "tile_size_um"), _number(told, "tile_size")
        if np.isnan(side) and told.get("unit") == "um":
            side = old
        if not np.isnan(side):
            known |= {"places": places, "unit": UM, "size": side}
        elif round(old if not np.isnan(old) else _stride(places)) == _OLD_STRIDE:
            known |= {"places": places, "unit": UM, "size": _OLD_UM, "step": _OLD_UM / _OLD_STRIDE}
        else:
            raise InputError(f"{path} does not tell the unit of its places", got=f"a stride of {_stride(places):g}",
                             expected=f"tile_size_um, or STAMP's first unit, in which tiles are {_OLD_STRIDE} apart",
                             fix="Extract the features again")  # fmt: skip
    rows = ~_stored(path, file, "augmented")[:].astype(bool) if "augmented" in file else None
    if rows is not None and rows.shape != (len(file["feats"]),):
        raise InputError(f"{path} does not say of every vector whether it is augmented", got=str(rows.shape))
    return _vectors(path, file, "feats", STAMP, rows, **known)


def _stride(places: NDArray[Any]) -> float:
    """Least distance of two tiles along an axis; NaN without."""
    gaps = axis_gaps(places)
    return float(gaps.min()) if len(gaps) else float("nan")


def _atlaspatch(path: Path, file: h5py.File, encoder: str) -> SlideVectors:
    group = "features" if "features" in file else "slide_features"
    names = [n for n in file[group] if not n.startswith("__tmp_")]
    if encoder and encoder not in names:
        raise InputError(f"{path} has no vectors of {encoder}", got=", ".join(names) or "none", fix="Name another one")
    if len(names) != 1 and not encoder:
        raise InputError(f"{path} holds the vectors of {len(names)} encoders", got=", ".join(names) or "none",
                         fix="Name one: --encoder NAME")  # fmt: skip
    chosen, told = encoder or names[0], _told(file.attrs)
    known: dict[str, Any] = {}
    if group == "features":
        coords = _stored(path, file, "coords")[:]
        if coords.ndim != 2 or coords.shape[1] < 2:
            raise InputError(f"{path} has no places", got=f"coords {coords.shape}", expected="(n, 5)")
        side = _number(told, "patch_size_level0")
        known = {"places": coords[:, :2], "unit": L0_PX, "size": side, "power": _number(told, "level0_magnification")}
        told["reads"] = coords[:, 2:]
    return _vectors(path, file, f"{group}/{chosen}", ATLASPATCH, encoder=chosen, about=told, **known)


def h5_place(folder: Path, layout: str, slide_id: str, encoder: str) -> Path:
    """Where :func:`write_h5` puts a slide's vectors."""
    inside = {TRIDENT: f"features_{safe_name(encoder or 'unknown')}", CLAM: "h5_files"}.get(layout, "")
    return folder / inside / f"{safe_name(slide_id)}.h5"


def write_h5(vectors: SlideVectors, folder: Path, layout: str, *, mpp: float | None = None) -> Path:
    """Write vectors in another program's layout, one file a slide; type and numbers stay as they are.

    Parameters
    ----------
    folder : receives ``features_<encoder>/`` (TRIDENT), ``h5_files/`` and ``patches/`` (CLAM), or the file itself
    layout : :data:`TRIDENT`, :data:`CLAM`, :data:`STAMP` or :data:`ATLASPATCH`
    mpp : level-0 resolution [µm/px], needed between µm and pixels

    Returns the file. Raises InputError: places are not known, or need `mpp`.
    """
    target = h5_place(folder, layout, vectors.slide_id, vectors.encoder)
    stem = target.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as part, h5py.File(part, "w") as file:
        _WRITERS[layout](vectors, file, mpp)
    if layout == CLAM and vectors.places is not None:
        (folder / "patches").mkdir(exist_ok=True)
        with atomic_path(folder / "patches" / stem) as part, h5py.File(part, "w") as file:
            side = _whole_windows(vectors, mpp)[1]
            file["coords"] = _whole_windows(vectors, mpp)[0]
            own = {"patch_size": side, "patch_level": 0, "downsample": [1.0, 1.0], "name": vectors.slide_id}
            file["coords"].attrs.update(vectors.about if vectors.layout == CLAM else own)
    return target


def _data(vectors: SlideVectors, file: h5py.File, name: str) -> None:
    data = file.create_dataset(name, (vectors.count, vectors.width), vectors.dtype,
                               chunks=(min(max(vectors.count, 1), 256), vectors.width))  # fmt: skip
    at = 0
    for block in vectors.blocks():
        data[at : at + len(block)] = block
        at += len(block)


def _whole_windows(vectors: SlideVectors, mpp: float | None) -> tuple[NDArray[Any], int]:
    """Corners in level-0 pixels, of the file's type where they are whole already, and the side of a tile."""
    windows = vectors.windows(mpp)
    if vectors.unit == L0_PX and vectors.places is not None and vectors.places.dtype.kind in "iu":
        return vectors.places, round(vectors.size)
    return np.round(windows[["x_l0_px", "y_l0_px"]].to_numpy()).astype(np.int64), round(windows["size_l0_px"].iloc[0])


def _facts(vectors: SlideVectors, side: int, mpp: float | None) -> dict[str, Any]:
    """Attributes that TRIDENT and AtlasPatch share: as the file tells them, else of tiles cut at level 0."""
    power = vectors.power if not np.isnan(vectors.power) else FULL_POWER_UM / mpp if mpp else float("nan")
    if np.isnan(power):
        raise InputError(f"The magnification of slide {vectors.slide_id} is not known, and this layout tells it",
                         fix="Give the folder of the slides as --slides")  # fmt: skip
    seen = int(vectors.about.get("patch_size", side))
    own = {"patch_size": seen, "patch_size_level0": side, "level0_magnification": round(power),
           "target_magnification": round(power * seen / side), "overlap": 0}  # fmt: skip
    kept = {name: vectors.about[name] for name in (*own, "level0_width", "level0_height") if name in vectors.about}
    return own | (kept if "patch_size_level0" in kept else {}) | {"name": vectors.slide_id}


def _as_trident(vectors: SlideVectors, file: h5py.File, mpp: float | None) -> None:
    places, side = _whole_windows(vectors, mpp)
    _data(vectors, file, "features")
    file["coords"] = places if vectors.layout == TRIDENT else places.astype(np.int64)
    file["coords"].attrs.update(vectors.about if vectors.layout == TRIDENT else _facts(vectors, side, mpp))
    file["features"].attrs.update({"name": vectors.slide_id, "encoder": vectors.encoder})


def _as_clam(vectors: SlideVectors, file: h5py.File, mpp: float | None) -> None:
    _data(vectors, file, "features")
    if vectors.places is not None:
        places = _whole_windows(vectors, mpp)[0]
        file["coords"] = places if vectors.layout == CLAM else places.astype(np.int32)


def _as_stamp(vectors: SlideVectors, file: h5py.File, mpp: float | None) -> None:
    _data(vectors, file, "feats")
    if vectors.places is None:
        file.attrs.update({"extractor": vectors.encoder, "feat_type": "slide"})
        return
    if vectors.layout == STAMP:
        file["coords"] = vectors.places
        file.attrs.update(vectors.about)
        return
    if mpp is None:
        raise InputError(f"STAMP counts in µm, and the resolution of slide {vectors.slide_id} is not known",
                         fix="Give the folder of the slides as --slides")  # fmt: skip
    windows = vectors.windows(mpp)
    file["coords"] = windows[["x_l0_px", "y_l0_px"]].to_numpy() * mpp
    side = float(windows["size_l0_px"].iloc[0] * mpp) if len(windows) else vectors.size_um(mpp)
    told = {"stamp_version": "2.4.0", "extractor": vectors.encoder, "unit": "um", "tile_size_um": side,
            "tile_size_px": int(vectors.about.get("patch_size", round(vectors.size))), "feat_type": "tile"}  # fmt: skip
    file.attrs.update(told)


def _as_atlaspatch(vectors: SlideVectors, file: h5py.File, mpp: float | None) -> None:
    places, side = _whole_windows(vectors, mpp)
    _data(vectors, file, f"features/{vectors.encoder or 'unknown'}")
    reads = vectors.about.get("reads", np.tile([side, side, 0], (vectors.count, 1)))
    file["coords"] = np.hstack([places.astype(np.int32), np.asarray(reads, np.int32).reshape(-1, 3)])
    told = {name: value for name, value in vectors.about.items() if name != "reads"}
    file.attrs.update(told if vectors.layout == ATLASPATCH else _facts(vectors, side, mpp))


_WRITERS: Final[dict[str, Callable[[SlideVectors, h5py.File, float | None], None]]] = {
    TRIDENT: _as_trident, CLAM: _as_clam, STAMP: _as_stamp, ATLASPATCH: _as_atlaspatch,
}  # fmt: skip
