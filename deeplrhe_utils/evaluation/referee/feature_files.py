"""Are files of vectors complete, of one encoder, and where they say they are?"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.features.neutral import FULL_POWER_UM, SlideVectors, axis_gaps
from deeplrhe_utils.core.errors import InputError, SlideError
from deeplrhe_utils.core.files import sha256_text
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.text import Countdown, shortened
from deeplrhe_utils.slides.quality.survey import glass_of
from deeplrhe_utils.slides.quality.tissue import background_mask, shares
from deeplrhe_utils.slides.reading.reader import Slide

_COMMON: Final = 0.2  # below it mean vectors have nothing in common, and no slide can be told apart
_SCALE_APART: Final = 1.1
_ON_TISSUE: Final = 0.5
_GAIN, _LEAST_TILES = 0.15, 30
_REACH: Final = 4  # tile sides by which places are moved to see whether they would fit the tissue better
_THUMBNAIL_PX: Final = 1024


class Described(NamedTuple):
    """One pass over all vectors.

    Attributes
    ----------
    slides : a row per slide: slide_id, vectors, not_finite, alike (correlation of its mean vector with the median over
        slides), length (of its mean vector, over the median), twin_of (a slide with the same vectors)
    means : slides × features, mean of the finite vectors
    sample, owner : float32 (m, D) and its slide (m,): at most so many of each slide
    constant : number of features that are the same everywhere
    """

    slides: pd.DataFrame
    means: pd.DataFrame
    sample: NDArray[np.float32]
    owner: NDArray[np.str_]
    constant: int


def describe(found: Sequence[SlideVectors], *, most: int, seed: int = 0) -> Described:
    """Read all vectors once, block by block; the draw of a slide depends on the seed and its name alone."""
    progress = Countdown("slides of vectors", len(found), brief=True)
    rows, means, parts = [], [], []
    low, high = np.full(found[0].width, np.inf), np.full(found[0].width, -np.inf)
    twins: dict[tuple[int, str], str] = {}
    for one in found:
        drawn = np.sort(generator(seed, "vectors of a slide", one.slide_id).permutation(one.count)[:most])
        total, at, lost, kept, digest = np.zeros(one.width), 0, 0, [], hashlib.sha256()
        for block in one.blocks():
            digest.update(np.ascontiguousarray(block).data)
            values = np.asarray(block, np.float32)
            own = np.asarray(np.isfinite(values).all(axis=1))
            lost += int((~own).sum())
            here = drawn[(drawn >= at) & (drawn < at + len(values))] - at
            kept.append(values[here[own[here]]])
            if own.any():
                total += values[own].sum(0, dtype=np.float64)
                low, high = np.minimum(low, values[own].min(0)), np.maximum(high, values[own].max(0))
            at += len(values)
        key = (one.count, digest.hexdigest())
        rows.append({"slide_id": one.slide_id, "vectors": one.count, "not_finite": lost, "twin_of": twins.get(key)})
        twins.setdefault(key, one.slide_id)
        means.append(total / max(one.count - lost, 1) if lost < one.count else np.full(one.width, np.nan))
        parts.append(np.concatenate(kept))
        progress.step()
    table = pd.DataFrame(rows)
    whole = pd.DataFrame(np.array(means), index=pd.Index(table["slide_id"], name="slide_id"))
    middle = whole.median()
    size = np.linalg.norm(whole, axis=1)
    table["alike"] = whole.T.corrwith(middle).to_numpy() if whole.shape[1] > 2 else np.nan
    table["length"] = size / np.nanmedian(size) if np.nanmedian(size) > 0 else np.nan
    owner = np.repeat(table["slide_id"].to_numpy(str), [len(p) for p in parts])
    return Described(table, whole, np.concatenate(parts), owner, int((high == low).sum()))


def files_fingerprint(slides: pd.DataFrame) -> str:
    """First 16 hex characters of SHA-256 over every slide's name and its file's SHA-256: which files these were.

    Parameters
    ----------
    slides : slide_id and sha256, as of `vector_slides`, in the order of names
    """
    return sha256_text("\n".join(slides["slide_id"].str.cat(slides["sha256"], sep=" ")))[:16]


def known_encoder(declared: str) -> dict[str, str] | None:
    """Row of ``data/reference/encoders.csv`` whose name, or another name, `declared` holds; the longest counts."""
    with (REFERENCE_DATA / "encoders.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = {n: row for row in rows for n in (row["encoder"], *filter(None, row["also"].split("|")))}
    text = declared.lower()
    held = [n for n in names if n == text or (len(n) > 3 and n in text)]
    return names[max(held, key=len)] if held else None


def encoder_doubts(found: Sequence[SlideVectors], described: pd.DataFrame) -> list[str]:
    """What speaks against one encoder at one size, a sentence each; `described` is :class:`Described` ``.slides``."""
    doubts = []
    for what, values in (("encoders", {one.slide_id: one.encoder for one in found}),
                         ("layouts", {one.slide_id: one.layout for one in found}),
                         ("number types", {one.slide_id: str(one.dtype) for one in found})):  # fmt: skip
        counts = pd.Series(values).value_counts()
        if len(counts) > 1:
            listing = ", ".join(f"{name or 'not told'}: {n} slides" for name, n in counts.items())
            doubts.append(f"The files are of {len(counts)} {what} ({listing}).")
    sides = pd.Series({one.slide_id: one.size_um() for one in found}).dropna()
    if len(sides) and sides.max() / sides.min() > _SCALE_APART:
        doubts.append(f"Tiles are from {sides.min():.0f} to {sides.max():.0f} µm wide, such as those of "
                      f"{sides.idxmin()} and {sides.idxmax()}: slides were not described at one scale.")  # fmt: skip
    alike, length = (described.set_index("slide_id")[name] for name in ("alike", "length"))
    usual, spread = alike.median(), 1.4826 * (alike - alike.median()).abs().median()
    odd = alike.index[
        (alike < min(usual / 2, usual - 4 * spread)) & (usual > _COMMON) | (length > 3) | (length < 1 / 3)
    ]
    if len(odd):
        doubts.append(f"{len(odd)} slides have mean vectors unlike all others (another encoder, or other pixels): "
                      f"{shortened(list(map(str, odd)), 3)}.")  # fmt: skip
    known = known_encoder(found[0].encoder)
    if known is None:
        return doubts
    if int(known["features"]) != found[0].width:
        doubts.append(f"{known['encoder']} gives {known['features']} numbers, these vectors have {found[0].width}.")
    wanted = int(known["tile_px"]) * FULL_POWER_UM / float(known["magnification"])
    if len(sides) and not 1 / _SCALE_APART < sides.median() / wanted < _SCALE_APART:
        doubts.append(f"{known['encoder']} is meant for tiles of {wanted:.0f} µm ({known['tile_px']} px at "
                      f"{known['magnification']}x); these are {sides.median():.0f} µm wide.")  # fmt: skip
    return doubts


def place_doubts(one: SlideVectors, slide: Mapping[str, Any] | None) -> list[str]:
    """What speaks against the places of a slide's vectors, a sentence each.

    Parameters
    ----------
    slide : its row of table SLIDES with an absolute path; None: only what the file itself tells is checked
    """
    if one.places is None or not one.unit or not one.count:
        return []
    doubts, told = [], one.about
    stride = _stride(one, one.places) * one.step
    if not 0.4 < stride / one.size < 1.6:
        doubts.append(f"{one.slide_id}: tiles are said to be {one.size:g} wide and lie {stride:g} apart.")
    if all(isinstance(told.get(n), int | float) and told[n] for n in ("patch_size", "target_magnification")):
        wanted = float(told["patch_size"]) * one.power / float(told["target_magnification"])
        if not 1 / _SCALE_APART < one.size / wanted < _SCALE_APART:
            doubts.append(f"{one.slide_id}: {told['patch_size']} px at {told['target_magnification']}x on a slide of "
                          f"{one.power:g}x are {wanted:.0f} level-0 px, not {one.size:g}.")  # fmt: skip
    width, height = (float(told.get(f"level0_{name}") or np.inf) for name in ("width", "height"))
    if slide is None:
        if one.unit != "um" and _outside(one.windows(), width, height):
            doubts.append(f"{one.slide_id}: tiles lie beyond the slide's {width:.0f} × {height:.0f} px.")
        return doubts
    try:
        with Slide(slide["path"], slide.get("mpp")) as opened:
            return doubts + _against_slide(one, opened, (width, height))
    except (SlideError, InputError) as error:
        return [*doubts, f"{one.slide_id}: its slide could not be asked: {error}"]


def _stride(one: SlideVectors, places: NDArray[Any]) -> float:
    gaps = axis_gaps(places)
    return float(np.median(gaps)) if len(gaps) else one.size / one.step


def _outside(windows: pd.DataFrame, width: float, height: float) -> bool:
    """Whether more than the last, incomplete tiles lie outside."""
    side = windows["size_l0_px"]
    return bool(((windows["x_l0_px"] + side / 2 > width) | (windows["y_l0_px"] + side / 2 > height)).any())


def _against_slide(one: SlideVectors, slide: Slide, told: tuple[float, float]) -> list[str]:
    doubts, (width, height) = [], slide.dimensions
    if np.isfinite(told).all() and told != (width, height):
        doubts.append(
            f"{one.slide_id}: the file says {told[0]:.0f} × {told[1]:.0f} px, the slide has {width} × {height}."
        )
    if not np.isnan(one.power):
        apart = one.power * slide.mpp / FULL_POWER_UM
        if not 1 / 1.25 < apart < 1.25:
            doubts.append(f"{one.slide_id}: the file says {one.power:g}x, the slide {slide.mpp:.3f} µm/px: its tiles "
                          f"are {apart:.2f} times as wide as meant.")  # fmt: skip
    windows = one.windows(slide.mpp)
    if _outside(windows, width, height):
        doubts.append(f"{one.slide_id}: tiles lie beyond the slide's {width} × {height} px.")
    picture = slide.thumbnail(_THUMBNAIL_PX)
    step = width / picture.shape[1]
    tissue = ~background_mask(picture, glass=glass_of(slide), mpp=slide.mpp * step)
    x, y, side = (windows[c].to_numpy() / step for c in ("x_l0_px", "y_l0_px", "size_l0_px"))

    def covered(right: int, down: int) -> float:
        boxes = np.stack([x + right * side, y + down * side, x + (right + 1) * side, y + (down + 1) * side], 1)
        return float(np.nan_to_num(shares(tissue, boxes)).mean())

    moved = {(i, j): covered(i, j) for i in range(-_REACH, _REACH + 1) for j in range(-_REACH, _REACH + 1)}
    here, best = moved[0, 0], max(moved, key=lambda at: moved[at])
    if here < _ON_TISSUE:
        doubts.append(f"{one.slide_id}: only {here:.0%} of its tiles' area is tissue.")
    if one.count >= _LEAST_TILES and moved[best] - here > _GAIN:
        doubts.append(f"{one.slide_id}: moved by {best[0]} and {best[1]} tile sides its tiles would lie on tissue with "
                      f"{moved[best]:.0%} of their area, not {here:.0%}: the places seem to be shifted.")  # fmt: skip
    return doubts
