"""What normalization did: agreement between slides, and structure kept within tiles.

Tiles are uint8 RGB, (H, W, 3) or, where no neighbourhood matters, any (..., 3); masks are bool and made on the
source tile (`evaluation.quality.stain_masks`). What a class of fewer than 200 pixels says is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.text import counted, listed
from deeplrhe_utils.evaluation.quality.stain_masks import Mask, Tile, masked, neutral_masks, require_rgb
from deeplrhe_utils.learning.attribution.sanity import ssim
from deeplrhe_utils.learning.tiles.normalizing import keep_normalizer
from deeplrhe_utils.stain.colour import density_to_rgb, optical_density
from deeplrhe_utils.stain.methods.normalize import Normalizer, measure_slide

if TYPE_CHECKING:
    from deeplrhe_utils.stain.methods.reference import SlideColour

_Floats = NDArray[np.float32]

_LEAST_PX: Final = 200
"""Fewest pixels of a class that are measured: the 95th percentile then rests on ten."""

_LEVELS: Final = np.arange(256) / 255.0
_LINEAR: Final = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.4, _LEVELS / 12.92).astype(np.float32)
_XYZ: Final = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)  # ITU-R BT.709 under D65
_XYZ_OF_WHITE_1: Final = np.ascontiguousarray((_XYZ / _XYZ.sum(axis=1, keepdims=True)).T, np.float32)
_GOLDEN_ANGLE: Final = np.pi * (3 - np.sqrt(5))
_DIRECTIONS: Final = 64
SAMPLE_PX: Final = 10_000
"""Most tissue pixels per unit for the Wasserstein distance: they give it to 1–2 % on real fields."""


def mean_colours(colours: Mapping[str, SlideColour]) -> pd.DataFrame:
    """Mean tissue colour in 0–255 (unit, red, green, blue) of the units of a survey that hold tissue."""
    known = {name: 256 * np.exp(-colour.mean) - 1 for name, colour in colours.items() if np.isfinite(colour.mean).all()}
    frame = pd.DataFrame.from_dict(known, orient="index", columns=["red", "green", "blue"])
    return frame.rename_axis("unit").reset_index()


def distance_between(frame: pd.DataFrame) -> float:
    """Spread of mean colours (columns red, green, blue): root of the summed variances [grey levels]."""
    return float(np.sqrt(frame[["red", "green", "blue"]].var(ddof=0).sum()))


def nmi(tile: Tile, mask: Mask) -> float:
    """Normalized median intensity: median(U) / 95th percentile of U, with U = (R + G + B) / 3, in one class.

    Parameters
    ----------
    tile : uint8, (..., 3)
    mask : bool, (...): pixels of the class

    Returns float: in [0, 1]; NaN below 200 px, and where the class is black. Its :func:`colour_spread` over images says
    how well they agree; it also rewards flat pictures, so that :func:`structure` belongs beside it.

    Source: Basavanhally & Madabhushi 2013; Bejnordi 2016.
    """
    values = _grey(masked(tile, mask))
    top = float(np.percentile(values, 95)) if len(values) >= _LEAST_PX else 0.0
    return float(np.median(values)) / top if top > 0 else float("nan")


def colour_spread(values: Sequence[float]) -> tuple[float, float]:
    """Sample standard deviation (n − 1) of the values that are not NaN, and their coefficient of variation SD / mean.

    Both are NaN for fewer than two values.
    """
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return float("nan"), float("nan")
    sd, mean = float(known.std(ddof=1)), float(known.mean())
    return sd, sd / mean if mean else float("nan")


def lab(tile: Tile) -> _Floats:
    """CIE L*a*b* (1976, D65) of sRGB pixels: uint8 (..., 3) to float32 (..., 3), L* in [0, 100].

    Exact to 0.001. Ours, because OpenCV interpolates in a table and is off by 0.16 on average (up to 0.47) on H&E
    tiles, which is more than the seams that are to be measured.
    """
    ratio = _LINEAR[require_rgb(tile)] @ _XYZ_OF_WHITE_1
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), ratio * np.float32(841 / 108) + np.float32(4 / 29))
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def delta_e(first: Tile, second: Tile) -> _Floats:
    """Colour difference ΔE 1976 per pixel: two uint8 (..., 3) to float32 (...); about 2 is just visible."""
    _same_shape(first, second)
    return np.asarray(np.sqrt(((lab(first) - lab(second)) ** 2).sum(axis=-1)), np.float32)


def mean_lab(tile: Tile, mask: Mask) -> NDArray[np.float64]:
    """Mean L*a*b* (3,) of the masked pixels, bool (...), of uint8 (..., 3); NaN below 200 px."""
    chosen = masked(tile, mask)
    return lab(chosen).mean(axis=0, dtype=np.float64) if len(chosen) >= _LEAST_PX else np.full(3, np.nan)


def scatter(colours: Sequence[NDArray[np.float64]]) -> float:
    """Root of the mean squared distance of points (3,) to their centroid; points with NaN are left out.

    NaN with fewer than two points.
    """
    known = np.array([colour for colour in colours if not np.isnan(colour).any()])
    if len(known) < 2:
        return float("nan")
    return float(np.sqrt(((known - known.mean(axis=0)) ** 2).sum(axis=1).mean()))


def colour_slices(pixels: _Floats, seed: int = 0) -> _Floats:
    """Colours (n, 3) seen along 64 directions that cover the sphere evenly, each sorted: (64, n).

    The directions are a Fibonacci lattice turned at random by `seed`: as many independent ones made the distance of
    two real fields vary by 4 % between seeds, the lattice by 0.5 %.
    """
    step = np.arange(_DIRECTIONS)
    height, angle = (step + 0.5) / _DIRECTIONS, step * _GOLDEN_ANGLE  # half a sphere: a line has two directions
    radius = np.sqrt(1 - height**2)
    lattice = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    turn = np.linalg.qr(generator(seed, "colour slices").normal(size=(3, 3)))[0]
    return np.sort((lattice @ turn).astype(np.float32) @ np.asarray(pixels, np.float32).T, axis=1)


def slice_distance(first: _Floats, second: _Floats) -> float:
    """Sliced 1-Wasserstein distance [ΔE] of two :func:`colour_slices`, (64, n) and (64, m), of one seed.

    Exact for any n and m: both quantile functions are steps, and are compared on the grid of the steps of both.
    A shift by v gives about |v| / 2. NaN where n or m is 0.

    Source: Rabin 2011, Bonneel 2015 (sliced distance); ours: in L*a*b*, even directions.
    """
    n, m = first.shape[1], second.shape[1]
    if min(n, m) == 0:
        return float("nan")
    steps = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    gaps = np.abs(first[:, (steps - 1) // m] - second[:, (steps - 1) // n])
    return float((gaps @ (np.diff(steps, prepend=0) / (n * m))).mean())


def _matched(a: _Floats, b: _Floats) -> _Floats:
    """`b` with the mean and SD of `a`; with its mean alone where one is constant and the SD says nothing."""
    constant = np.ptp(a) == 0 or np.ptp(b) == 0
    return (b - b.mean()) * (1.0 if constant else a.std() / b.std()) + a.mean()


def _correlation(a: _Floats, b: _Floats) -> float:
    constant = np.ptp(a) == 0, np.ptp(b) == 0
    return float(all(constant)) if any(constant) else float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def structure(before: Sequence[Tile], after: Sequence[Tile]) -> dict[str, float]:
    """How much of the brightness pattern was kept, over tiles.

    Parameters
    ----------
    before, after : sequence of uint8, (H, W, 3): the same tiles, at least one

    Returns dict: ``correlation`` (Pearson), ``ssim``, and ``cs``, the SSIM after giving the new brightness the mean and
    SD of the old one (it leaves out the change that was wanted): means over tiles. ``correlation_p5``: 5th percentile.
    A constant tile counts as correlation 1 when it stayed constant, else as 0.

    Source: Wang 2004 for the SSIM; ``cs`` ours.
    """
    _corresponding(before, after)
    tiles = np.array([_kept(old, new) for old, new in zip(before, after, strict=True)])
    means = dict(zip(("correlation", "ssim", "cs"), tiles.mean(axis=0).tolist(), strict=True))
    return {**means, "correlation_p5": float(np.percentile(tiles[:, 0], 5))}


def _kept(before: Tile, after: Tile) -> tuple[float, float, float]:
    """Correlation, SSIM and cs of one tile."""
    _same_shape(before, after)
    a, b = _grey(before), _grey(after)
    return _correlation(a, b), ssim(a, b, 255), ssim(a, _matched(a, b), 255)


def seam_error(pairs: Sequence[tuple[Tile, Tile]]) -> dict[str, float]:
    """Colour difference of the same pixels as normalized through two overlapping tiles.

    Parameters
    ----------
    pairs : sequence of (uint8 (..., 3), uint8 (..., 3)): the overlap, cut out of either tile

    Returns dict: ``mean`` over the pairs of their mean ΔE, and ``worst``, the largest of them.
    """
    if not len(pairs):
        raise StainError("There is no overlap to measure", expected="at least one pair of tiles")
    errors = [float(delta_e(first, second).mean(dtype=np.float64)) for first, second in pairs]
    return {"mean": float(np.mean(errors)), "worst": max(errors)}


def glass_change(before: Tile, after: Tile, mask: Mask) -> dict[str, float]:
    """Change of glass: ``mean``, signed, and ``p99`` of its absolute value, of (R + G + B) / 3 [grey levels].

    Both are NaN where the mask (bool, (...)) holds fewer than 200 px of the uint8 (..., 3).
    """
    _same_shape(before, after)
    change = _grey(masked(after, mask)) - _grey(masked(before, mask))
    if len(change) < _LEAST_PX:
        return {"mean": float("nan"), "p99": float("nan")}
    return {"mean": float(change.mean(dtype=np.float64)), "p99": float(np.percentile(np.abs(change), 99))}


def clipped_share(before: Tile, after: Tile) -> float:
    """Share of pixels of which a channel is 0 or 255 after and was not before (uint8 (..., 3); in [0, 1])."""
    _same_shape(before, after)
    was, now = ((tile == 0) | (tile == 255) for tile in (before, after))
    return float((now & ~was).any(axis=-1).mean())


def _grey(pixels: Tile) -> _Floats:
    red, green, blue = (require_rgb(pixels)[..., i].astype(np.float32) for i in range(3))
    return (red + green + blue) / np.float32(3)


def _same_shape(first: Tile, second: Tile) -> None:
    if require_rgb(first).shape != require_rgb(second).shape:
        raise StainError(
            "Two tiles differ in size", got=f"{first.shape} and {second.shape}", expected="the same pixels"
        )


def _corresponding(first: Sequence[Tile], second: Sequence[NDArray[Any]]) -> None:
    if len(first) != len(second) or not len(first):
        got = f"{len(first)} and {len(second)}"
        raise StainError("Two lists of tiles or masks do not correspond", got=got, expected="as many, at least one")


RUIFROK: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
"""Optical density of haematoxylin and eosin in red, green and blue (Ruifrok & Johnston 2001)."""
TURN_DEG: Final = 8.0
"""Most that a version turns a stain's vector [degrees]."""
SCALE: Final = (0.65, 1.5)
"""Least and most of a stain in a version, of what the tile holds."""
ILLUMINANT_OD: Final = 0.06
"""Most that the light of a version adds to a channel [optical density]."""


def planted_versions(tile: Tile, n: int = 5, seed: int = 0) -> list[Tile]:
    """The tile as `n` laboratories might have stained and lit it: what normalization has to undo is then known.

    Optical density is split into haematoxylin and eosin (:data:`RUIFROK`, least squares). In each version either
    vector is turned by up to 8° in a random direction (and kept free of negative absorption), either amount is
    scaled by 0.65–1.5 (even in the logarithm), and an illuminant of 0–0.06 OD per channel is laid over
    everything, glass included. What two stains cannot explain is kept as it is, neither turned nor scaled.

    Parameters
    ----------
    tile : uint8, (..., 3)
    n, seed : version i depends on `seed` and i alone: all tiles of a slide get the same changes

    Returns list of uint8, shape of `tile`: rounded and clipped to 0–255.

    Source: ours. It favours methods whose model is two stains (Macenko): a test not to fail, not the goal.
    """
    stains = RUIFROK / np.linalg.norm(RUIFROK, axis=1, keepdims=True)
    od = optical_density(require_rgb(tile)).astype(np.float64)
    amounts = od @ np.linalg.pinv(stains)
    rest = od - amounts @ stains
    versions = []
    for index in range(n):
        random = generator(seed, "planted stain", index)
        turned = np.stack([_turned(stain, random) for stain in stains])
        scale = np.exp(random.uniform(np.log(SCALE[0]), np.log(SCALE[1]), size=2))
        light = random.uniform(0, ILLUMINANT_OD, size=3)
        versions.append(density_to_rgb((amounts * scale) @ turned + rest + light))
    return versions


def _turned(stain: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """A unit vector at most 8° away from `stain`; cutting negative parts brings it nearer, if anything."""
    aside = random.normal(size=3)
    aside -= (aside @ stain) * stain
    angle = np.radians(TURN_DEG) * random.random()
    turned = np.maximum(np.cos(angle) * stain + np.sin(angle) * aside / np.linalg.norm(aside), 0)
    return np.asarray(turned / np.linalg.norm(turned))


def planted_residual(before: Sequence[Tile], after: Sequence[Tile], mask: Mask) -> float:
    """Share of a planted colour difference that is left: mean pairwise ΔE of versions, after over before.

    Parameters
    ----------
    before, after : sequence of uint8, (..., 3)
        The versions of one tile (:func:`planted_versions`), and each of them normalized.
    mask : bool, (...): pixels that count, tissue for instance; NaN below 200

    Returns float: 0 when all versions came out equal, 1 when nothing was gained.

    Raises StainError: fewer than two versions, unequal numbers or shapes, or versions that did not differ before.
    """
    if len(before) != len(after) or len(before) < 2:
        got = f"{len(before)} before, {len(after)} after"
        raise StainError("A planted stain change needs versions to compare", got=got, expected="2 or more of each")
    if np.count_nonzero(mask) < _LEAST_PX:
        return float("nan")
    was, now = _pairwise(before, mask), _pairwise(after, mask)
    if was == 0:
        raise StainError("The versions of the tile were equal before normalization", fix="Use planted_versions")
    return now / was


def _pairwise(versions: Sequence[Tile], mask: Mask) -> float:
    colours = [masked(version, mask) for version in versions]
    return float(np.mean([delta_e(a, b).mean(dtype=np.float64) for a, b in combinations(colours, 2)]))


_Masks = Mapping[str, Mask]

MEASURES: Final = {
    "nmi_nuclei_cv": "NMI CV, nuclei", "lab_nuclei": "ΔE nuclei", "lab_stroma": "ΔE stroma", "planted": "planted",
    "wasserstein": "to reference", "correlation": "correlation", "cs": "SSIM, matched", "seam": "seam ΔE",
    "glass_p99": "glass, p99", "clipped": "clipped", "left": "left unchanged",
}  # fmt: skip
"""What :func:`judge_method` says that is shown, and its heading."""
_MEASURED: Final = ("nuclei", "stroma")
_MEANS: Final = ("wasserstein", "glass_mean", "glass_p99", "clipped")


def assess(
    before: Sequence[Sequence[Tile]],
    after: Sequence[Sequence[Tile]],
    masks: Sequence[Sequence[_Masks]],
    reference: Sequence[tuple[Tile, _Masks]],
    seed: int = 0,
) -> dict[str, float]:
    """Everything one method did to a cohort.

    Parameters
    ----------
    before, after : sequence over units of sequences of uint8, (H, W, 3)
        The tiles of each unit (slide, field) and the same tiles normalized; `before` twice is "no method".
    masks : same nesting, mapping of str to bool (H, W)
        ``nuclei``, ``stroma``, ``glass`` and ``tissue`` of the *source* tiles
        (`evaluation.quality.stain_masks`).
    reference : sequence of (tile, masks): tiles of what was normalized to, as they are
    seed : draws, with the unit's place, the tissue pixels that are compared: the same ones for all methods

    Returns dict of str to float: ``nmi_nuclei_sd``, ``nmi_nuclei_cv``, ``units_nuclei`` (how many units could be
    measured), ``lab_nuclei``, and the same of stroma: NMI and its spread, spread of the mean colour [ΔE].
    ``wasserstein``: tissue to that of the reference [ΔE]. ``correlation``, ``correlation_p5``, ``ssim``, ``cs``:
    structure over all tiles. ``glass_mean``, ``glass_p99`` [grey levels], ``clipped`` (share). The tiles of a unit are
    pooled, and units weigh the same; those with fewer than 200 px of a class are left out of it, and what too few have
    is NaN.

    Raises StainError: the lists do not correspond, a mask is missing or does not fit, the reference has too little
    tissue.
    """
    _check_nesting(before, after, masks)
    template = _tissue([t for t, _ in reference], [m for _, m in reference], seed, "reference")
    if template is None:
        shown = sum(int(marked["tissue"].sum()) for _, marked in reference)
        raise StainError("The reference has too little tissue to compare colours with", got=f"{shown} px",
                         expected=f"{_LEAST_PX} px or more", fix="Give more tiles of it")  # fmt: skip
    units = []
    for index, (old, new, named) in enumerate(zip(before, after, masks, strict=True)):
        tissue = _tissue(new, named, seed, index)
        far = float("nan") if tissue is None else slice_distance(tissue, template)
        units.append({**_measure(old, new, named), "wasserstein": far})
    return {**_summary(units), **structure(_flat(before), _flat(after))}


def judge_method(
    normalizer: Normalizer | None, units: Mapping[str, Sequence[Tile]], masks: Sequence[Sequence[_Masks]],
    reference: Sequence[tuple[Tile, _Masks]], seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """All that is asked of one method: :func:`assess`, and what it does with planted changes, windows, slides.

    Parameters
    ----------
    normalizer : None leaves colours as they are
    units : slide → its tiles, uint8 (H, W, 3): statistics come from all, the first are judged, one for each mask
    masks, reference, seed : of :func:`assess`

    Returns dict of str to float: also ``planted`` (mean :func:`planted_residual` of each slide's first tile), ``seam``
    (worst :func:`seam_error` of two windows that share half their width), ``left`` (slides left unchanged).
    """
    shown = [list(tiles)[: len(own)] for tiles, own in zip(units.values(), masks, strict=True)]
    keep = keep_normalizer()
    plans = [normalizer.plan_or_keep(t, n) if normalizer else keep for n, t in units.items()]
    lone = normalizer and replace(normalizer, minimum_tiles=1, minimum_tissue_px=0.0)
    rest, overlaps = [], []
    for plan, tiles, own in zip(plans, shown, masks, strict=True):
        versions = planted_versions(tiles[0], seed=seed)
        again = [(lone.plan_or_keep([version]) if lone else keep)(version) for version in versions]
        rest.append(planted_residual(versions, again, own[0]["tissue"]))
        cut = tiles[0].shape[1] // 4
        left, right = (plan(np.ascontiguousarray(tiles[0][:, s])) for s in (np.s_[: 3 * cut], np.s_[cut:]))
        overlaps.append((left[:, cut:], right[:, : 2 * cut]))
    new = [[plan(tile) for tile in tiles] for plan, tiles in zip(plans, shown, strict=True)]
    return {
        **assess(shown, new, masks, reference, seed=seed), "planted": _mean(rest),
        "seam": seam_error(overlaps)["worst"], "left": sum(plan.note.startswith("left unchanged") for plan in plans)
    }  # fmt: skip


def judge_references(
    normalizer: Normalizer, names: Mapping[str, str], tiles_of: Mapping[str, Sequence[Tile]],
    units: Mapping[str, Sequence[Tile]], masks: Sequence[Sequence[_Masks]], seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """:func:`judge_method` with other references: a row per place of `names` (place → slide).

    A slide that cannot be a reference is left out, and a line says why.
    """
    rows = {}
    for place, name in names.items():
        target = tiles_of[name]
        try:
            other = replace(normalizer, reference=measure_slide(normalizer.method, target, normalizer.cohort)[0])
            marked = [(tile, neutral_masks(tile)) for tile in target[: len(masks[0])]]
            rows[place] = {"slide": name, **judge_method(other, units, masks, marked, seed)}
        except StainError as error:
            print(f"{name} cannot be a reference: {error}")
    return pd.DataFrame(rows.values(), pd.Index(list(rows), name="reference"), ["slide", *MEASURES])


def told_by_methods(methods: pd.DataFrame, slides: int) -> str:
    """What DCGMM's convolutions add to the densities alone, in a sentence; `methods`: rows of :func:`judge_method`."""
    rows = [name for name in ("density only", "DCGMM") if name in methods.index]
    known = {"NMI CV of nuclei": "nmi_nuclei_cv", "colours to the reference": "wasserstein", "matched SSIM": "cs"}
    if len(rows) < 2 or methods.loc[rows, list(known.values())].isna().any(axis=None):
        return f"DCGMM cannot be compared with densities alone on {counted(slides, 'slide')}."
    pairs = {what: methods.loc[rows, name].tolist() for what, name in known.items()}
    gained = sum(deep > plain if what == "matched SSIM" else deep < plain for what, (plain, deep) in pairs.items())
    return (
        f"On {counted(slides, 'slide')}, DCGMM's convolutions improve {gained} of 3 measures over densities alone: "
        f"{listed(f'{what} {deep:.4f} against {plain:.4f}' for what, (plain, deep) in pairs.items())}."
    )


def _check_nesting(*nested: Sequence[Sequence[Any]]) -> None:
    counts = [[len(tiles) for tiles in units] for units in nested]
    if not all(counts[0]) or not counts[0] or any(count != counts[0] for count in counts):
        raise StainError(
            "Tiles and masks do not correspond, or a unit has none",
            got="; ".join(f"{len(count)} units of {sorted(set(count))} tiles" for count in counts),
            expected="before, after and masks with the same number of tiles in the same units",
        )


def _flat(units: Sequence[Sequence[Tile]]) -> list[Tile]:
    return [tile for tiles in units for tile in tiles]


def _pooled(tiles: Sequence[Tile], masks: Sequence[_Masks], name: str) -> Tile:
    """Pixels of one class of all tiles of a unit, (n, 3)."""
    for one in masks:
        if name not in one:
            raise StainError(f"A tile has no mask of {name}", got=", ".join(one), fix="Make it with neutral_masks")
    return np.concatenate([masked(tile, one[name]) for tile, one in zip(tiles, masks, strict=True)])


def _tissue(tiles: Sequence[Tile], masks: Sequence[_Masks], seed: int, name: str | int) -> _Floats | None:
    """Sorted colours of a sample of a unit's tissue, or None without enough of it."""
    pixels = _pooled(tiles, masks, "tissue") if tiles else np.empty((0, 3), np.uint8)
    if len(pixels) < _LEAST_PX:
        return None
    if len(pixels) > SAMPLE_PX:
        pixels = pixels[generator(seed, "tissue sample", name).choice(len(pixels), SAMPLE_PX, replace=False)]
    return colour_slices(lab(pixels), seed=seed)


def _measure(before: Sequence[Tile], after: Sequence[Tile], masks: Sequence[_Masks]) -> dict[str, Any]:
    """What the pixels of one unit say, before units are compared."""
    found: dict[str, Any] = {}
    for name in _MEASURED:
        pixels = _pooled(after, masks, name)
        everywhere = np.ones(len(pixels), bool)
        found[f"nmi_{name}"] = nmi(pixels, everywhere)
        found[f"lab_{name}"] = mean_lab(pixels, everywhere)
    old, new = (_pooled(tiles, masks, "glass") for tiles in (before, after))
    glass = glass_change(old, new, np.ones(len(old), bool))
    clipped = [clipped_share(a, b) for a, b in zip(before, after, strict=True)]
    return {**found, "glass_mean": glass["mean"], "glass_p99": glass["p99"], "clipped": float(np.mean(clipped))}


def _summary(units: Sequence[dict[str, Any]]) -> dict[str, float]:
    column = {name: [unit[name] for unit in units] for name in units[0]}
    row: dict[str, float] = {}
    for name in _MEASURED:
        row[f"nmi_{name}_sd"], row[f"nmi_{name}_cv"] = colour_spread(column[f"nmi_{name}"])
        row[f"units_{name}"] = float(np.count_nonzero(~np.isnan(column[f"nmi_{name}"])))
        row[f"lab_{name}"] = scatter(column[f"lab_{name}"])
    return row | {name: _mean(column[name]) for name in _MEANS}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
