"""Spike-in: does the quality filter see artefacts that are painted into clean fields of the run itself?

Works on any slides, real ones too, because the truth is what was painted. Each field is its own control: what is found
in its untouched twin is a false alarm (or something real that was there before; look at it). The painter here shares
no code with the painter of the synthetic cohort, and paints otherwise on purpose: defocus is a uniform disc, not a
Gaussian; ink is streaky and has other hues; the second layer of a fold is mirrored at its edge, not shifted; a bubble
is no circle, its rim is uneven and has a bright line inside; JPEG is cut out anywhere.

The detectors are the run's own, each at its resolution: blur and JPEG look at the field as at a tile, JPEG with blocks
as wide as those of its scan (the field enlarged, without the finer detail of a true one); ink, folds and bubbles are
painted at 1 µm/px and looked for at `ARTEFACT_MPP`.

Sensitivity is the share of painted fields of which at least :data:`SEEN_SHARE` is called, a false alarm the same of
twins, at the cuts of the run. The AUC moves one cut of the detector from strict to lenient (:data:`LADDERS`). Fields of
one slide resemble one another, and the Wilson intervals do not know: read them as too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.text import counted, listed
from deeplrhe_utils.evaluation.precision.power import wilson
from deeplrhe_utils.slides.quality.artefacts import ARTEFACT_MPP, SurveyRules, artefact_masks, bubble_mask
from deeplrhe_utils.slides.quality.blocks import JPEG_EXCESS, JPEG_PX, JPEG_RATIO, LEAST_BLOCK_PX, blockiness
from deeplrhe_utils.slides.quality.blur import BLUR_CUT, sharpness
from deeplrhe_utils.slides.quality.pen import pen_mask
from deeplrhe_utils.slides.quality.tissue import GLASS_FALLBACK, SlideGlass
from deeplrhe_utils.slides.tiles.screening import ScreenRules, blank_of

_Rgb = NDArray[np.uint8]
_Map = NDArray[np.float32]

STRENGTHS: Final[Mapping[str, tuple[float, ...]]] = {
    "blur": (1.0, 2.0, 4.0),
    **{f"pen {ink}": (0.6, 0.9, 1.2) for ink in ("blue", "green", "black", "red")},
    "fold": (0.7, 1.0), "bubble": (0.2, 0.4, 0.6), "jpeg": (20.0, 10.0, 5.0),
}  # fmt: skip
"""What is painted: defocus [µm, standard deviation], ink [optical density × ink], second layer [share], rim [optical
density], JPEG quality."""
LADDERS: Final[Mapping[str, tuple[float, ...]]] = {
    "blur": (0.002, 0.004, 0.008, 0.012, 0.018, 0.027, 0.04, 0.06),
    "pen": (1.0, 0.8, 0.65, 0.55, 0.45, 0.38, 0.32, 0.25),
    "fold": (3.0, 2.4, 2.1, 1.8, 1.65, 1.5, 1.35, 1.2),
    "bubble": (0.5, 0.35, 0.25, 0.18, 0.12, 0.09, 0.06, 0.04),
    "jpeg": (9.0, 7.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.0),
}
"""Cuts of each detector, strict to lenient: sharpness, density of ink, ratio of a fold, density of a rim, excess."""
SEEN_SHARE: Final = 0.05
"""Share of a field that must be called for the field to count as seen [0–1]."""
_PAINT_MPP: Final = 1.0  # for ink, folds and bubbles [µm/px]
_INKS: Final = {
    "pen blue": (0.90, 0.62, 0.22), "pen green": (0.95, 0.38, 0.62),
    "pen black": (0.88, 0.85, 0.76), "pen red": (0.09, 0.92, 0.72),
}  # fmt: skip  # optical density (log10) of R, G, B at strength 1


class _Field(NamedTuple):
    """A field with its resolution [µm/px], white level, block of JPEG [px], and number."""

    pixels: _Rgb
    mpp: float
    glass: SlideGlass
    block_px: float
    number: int

    def reduced(self, mpp: float) -> _Field:
        """Area averaged to `mpp` [µm/px], or itself if it is no finer."""
        height, width = (max(1, round(n * self.mpp / max(mpp, self.mpp))) for n in self.pixels.shape[:2])
        small = cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA)
        return self._replace(pixels=np.asarray(small, np.uint8), mpp=self.mpp * self.pixels.shape[1] / width)


def spike_in(
    fields: Sequence[_Rgb], mpp: float, *, seed: int, glasses: Sequence[SlideGlass] | None = None,
    blocks_px: Sequence[float] | None = None, rules: SurveyRules | None = None, blur_cut: float = BLUR_CUT,
    kinds: Sequence[str] = tuple(STRENGTHS),
) -> pd.DataFrame:  # fmt: skip
    """Paint artefacts into clean fields and count what the detectors find.

    Parameters
    ----------
    fields : sequence of ndarray, shape (side, side, 3), uint8
        RGB fields without artefacts, with tissue; folds and bubbles deserve 500 µm or more.
    mpp : resolution of the fields, that of the run's tiles [µm/px], up to 1
    seed : seed; each field, kind and strength has its own stream
    glasses : white level of each field's slide; without it `GLASS_FALLBACK`
    blocks_px : side of a block of JPEG in each field [px]: 8 × the slide's resolution / `mpp`; 8 without it. Fields of
        blocks below `LEAST_PX` are not assessed for JPEG, as in the run.
    rules, blur_cut
        Thresholds of the run: for background, ink, folds and bubbles; and blur [sharpness].

    Returns DataFrame: kind, strength, n (fields assessed), sensitivity and false_alarms with ``_low`` and ``_high``
    (shares, Wilson's 95 % intervals), auc (of the ladder; chance is 0.5). All but n are NaN where no field is assessed.

    Raises ParameterError: there are no fields, glasses or blocks are not one per field.
    """
    if not len(fields):
        raise ParameterError("A spike-in needs at least one field", got=0)
    glasses = [SlideGlass(np.full(3, GLASS_FALLBACK), False)] * len(fields) if glasses is None else glasses
    blocks_px = [JPEG_PX] * len(fields) if blocks_px is None else blocks_px
    if not len(fields) == len(glasses) == len(blocks_px):
        raise ParameterError("Not one glass and block per field", got=(len(fields), len(glasses), len(blocks_px)))
    rules = rules or SurveyRules()
    cuts = {"blur": blur_cut, "pen": rules.pen_density, "fold": rules.fold_ratio, "bubble": rules.rim_density,
            "jpeg": JPEG_EXCESS}  # fmt: skip
    whole = [_Field(*one, i) for i, one in enumerate(zip(fields, [mpp] * len(fields), glasses, blocks_px, strict=True))]
    coarse = [one.reduced(_PAINT_MPP) for one in whole]
    closely = {"blur": whole, "jpeg": [one for one in whole if one.block_px >= LEAST_BLOCK_PX]}
    rows = []
    twins: dict[str, NDArray[np.float64]] = {}
    for kind in kinds:
        clean = closely.get(short := kind.split()[0], coarse)
        ladder = sorted({*LADDERS[short], cuts[short]}, reverse=short != "blur")
        if short not in twins:
            twins[short] = _shares(clean, short, ladder, rules)
        alarm = twins[short] >= SEEN_SHARE
        for strength in STRENGTHS[kind]:
            painted = (_painted(kind, one, strength, seed) for one in clean)
            found = _shares(painted, short, ladder, rules) >= SEEN_SHARE
            rows.append({"kind": kind, "strength": strength, **_row(found, alarm, ladder.index(cuts[short]))})
    return pd.DataFrame(rows)


def told_by_filter(table: pd.DataFrame) -> str:
    """What the table of :func:`spike_in` says, in a sentence."""
    table = table[table["n"] > 0].assign(name=table["kind"] + " " + table["strength"].map("{:g}".format))
    if table.empty:
        return "No clean field was found to paint an artefact into."
    n, everywhere = int(table["n"].max()), int((table["sensitivity"] == 1).sum())
    faint = listed(table.loc[table["sensitivity"] < 0.5, "name"])
    alarmed = listed(table.loc[table["false_alarms"] > 0, "kind"].drop_duplicates())
    return (
        f"{everywhere} of {len(table)} kinds and strengths painted into up to {counted(n, 'clean field')} are seen in "
        f"all ({n} of {n} means a share above {wilson(n, n)[0]:.2f}); seen in fewer than half: {faint}; "
        f"false alarms: {alarmed}."
    )


def _painted(kind: str, one: _Field, strength: float, seed: int) -> _Field:
    rng = generator(seed, "spike", kind, str(strength), one.number)
    return one._replace(pixels=paint(kind, one.pixels, one.mpp, strength, rng, one.glass, one.block_px)[0])


def _row(found: NDArray[np.bool_], alarm: NDArray[np.bool_], step: int) -> dict[str, object]:
    """Sensitivity and false alarms at the run's cut, AUC over the ladder."""
    row: dict[str, object] = {"n": (n := len(found))}
    for name, hits in (("sensitivity", found), ("false_alarms", alarm)):
        seen = int(hits[:, step].sum())
        low, high = wilson(seen, n)
        row |= {name: seen / n if n else np.nan, f"{name}_low": low, f"{name}_high": high}
    # The score of a field is the number of steps that call it: the earlier it is called, the surer.
    score = np.concatenate([found.sum(axis=1), alarm.sum(axis=1)])
    return row | {"auc": float(roc_auc_score(np.repeat([1, 0], n), score)) if n else np.nan}


def _shares(fields: Iterable[_Field], short: str, ladder: Sequence[float], rules: SurveyRules) -> NDArray[np.float64]:
    """Share of each field that is called at each step, shape (fields, steps)."""
    detect = {"blur": _blur_shares, "jpeg": _jpeg_shares}.get(short, _survey_shares)
    return np.array([detect(one, short, ladder, rules) for one in fields], np.float64).reshape(-1, len(ladder))


def _survey_shares(one: _Field, short: str, ladder: Sequence[float], rules: SurveyRules) -> list[float]:
    """Share of ink, folds or bubbles; only folds need to know of the others."""
    rgb, mpp, glass, *_ = one.reduced(ARTEFACT_MPP)
    looks: dict[str, Callable[[SurveyRules], NDArray[np.bool_]]] = {
        "pen": lambda r: pen_mask(rgb, mpp, red=r.red_pen, glass=glass, density=r.pen_density),
        "fold": lambda r: artefact_masks(rgb, mpp, glass, r)["fold"],
        "bubble": lambda r: bubble_mask(rgb, mpp, glass, rim_density=r.rim_density, rim_neutral=r.rim_neutral),
    }
    return [float(looks[short](_at(rules, short, cut)).mean()) for cut in ladder]


def _at(rules: SurveyRules, short: str, cut: float) -> SurveyRules:
    """The rules with one cut moved; a fold goes on in proportion to where it begins."""
    if short != "fold":
        return replace(rules, pen_density=cut) if short == "pen" else replace(rules, rim_density=cut)
    grown = 1 + (cut - 1) * (rules.fold_grown - 1) / (rules.fold_ratio - 1)
    return replace(rules, fold_ratio=cut, fold_grown=grown)


def _blur_shares(one: _Field, short: str, ladder: Sequence[float], rules: SurveyRules) -> list[float]:
    """Share of the blocks that can be judged."""
    blank = blank_of(one.pixels, one.glass, ScreenRules(target_mpp=one.mpp, survey=rules))
    values = sharpness(one.pixels, one.mpp, ~blank)
    known = values[np.isfinite(values)]
    return [float((known < cut).mean()) if known.size else 0.0 for cut in ladder]


def _jpeg_shares(one: _Field, short: str, ladder: Sequence[float], rules: SurveyRules) -> list[float]:
    excess, ratio = blockiness(one.pixels, one.block_px)
    return [float(((excess >= cut) & (ratio >= JPEG_RATIO)).mean()) for cut in ladder]


def paint(
    kind: str, field: _Rgb, mpp: float, strength: float, rng: np.random.Generator, glass: SlideGlass,
    block_px: float = JPEG_PX,
) -> tuple[_Rgb, NDArray[np.bool_]]:  # fmt: skip
    """Paint one artefact into a field.

    Parameters
    ----------
    kind : of :data:`STRENGTHS`, which also tells the unit of `strength`
    field : ndarray, shape (height, width, 3), uint8: RGB; not changed
    mpp, strength : resolution [µm/px]; how strong
    rng : place, shape and hue
    glass, block_px
        White level; side of a block of JPEG in the field [px].

    Returns picture, mask : ndarray, shape (height, width, 3), uint8, and (height, width), bool: the painted field, and
    where the artefact lies.
    """
    painters: dict[str, Callable[..., tuple[_Map, _Map]]] = {"blur": _defocus, "fold": _fold, "bubble": _bubble}
    if kind in _INKS:
        light, weight = _ink(field, mpp, strength, rng, np.array(_INKS[kind]))
    elif kind == "jpeg":
        light, weight = _jpeg(field, strength, rng, block_px)
    else:
        light, weight = painters[kind](field, mpp, strength, rng, np.asarray(glass.level, np.float32))
    mixed = field * (1 - weight[..., None]) + light * weight[..., None]
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8), weight > 0.5


def _stroke(shape: tuple[int, ...], mpp: float, width_um: float, edge_um: float, rng: np.random.Generator) -> _Map:
    """A bent line through the field, 1 inside, with a soft edge."""
    height, width = shape[:2]
    angle, size = rng.uniform(0, np.pi), np.hypot(height, width)
    centre = np.array([width, height]) * rng.uniform(0.35, 0.65, 2)
    along, aside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    t = np.linspace(-1, 1, 60)[:, None]
    bend = rng.uniform(-0.25, 0.25) * min(size, 600 / mpp)
    points = centre + along * t * size / 2 + aside * bend * t**2
    canvas = np.zeros((height, width), np.uint8)
    thickness = max(1, round(width_um / mpp))
    cv2.polylines(canvas, [np.rint(points * 8).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, shift=3)
    soft = cv2.GaussianBlur((canvas / 255).astype(np.float32), (0, 0), max(edge_um / mpp, 0.3))
    return np.asarray(soft, np.float32)


def _light(exponent: _Map) -> _Map:
    """Ten to the power of minus a density."""
    return np.asarray(cv2.exp(np.ascontiguousarray(exponent) * np.float32(np.log(10))), np.float32)


def _clouds(shape: tuple[int, ...], mpp: float, scale_um: float, rng: np.random.Generator) -> _Map:
    """Smooth noise of unit variance."""
    size = max(2, round(shape[0] * mpp / scale_um) + 2), max(2, round(shape[1] * mpp / scale_um) + 2)
    coarse = rng.standard_normal(size).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def _ink(
    field: _Rgb, mpp: float, strength: float, rng: np.random.Generator, ink: NDArray[np.float64]
) -> tuple[_Map, _Map]:
    density = ink * np.exp(rng.normal(0, 0.1, 3)) * strength
    streaks = np.clip(1 + 0.1 * _clouds(field.shape, mpp, 30.0, rng), 0.75, 1.3)
    light = field * _light(-streaks[..., None] * density.astype(np.float32))
    return light, _stroke(field.shape, mpp, rng.uniform(80, 180), rng.uniform(1, 5), rng)


def _defocus(field: _Rgb, mpp: float, strength: float, rng: np.random.Generator, white: _Map) -> tuple[_Map, _Map]:
    radius = 2 * strength / mpp  # a uniform disc of radius r has a standard deviation of r / 2 along each axis
    reach = int(np.ceil(radius)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    light = cv2.filter2D(field, cv2.CV_32F, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    half = 0.35 * min(field.shape[:2]) * mpp
    return np.asarray(light, np.float32), _stroke(field.shape, mpp, 2 * half, 15.0, rng)


def _fold(field: _Rgb, mpp: float, strength: float, rng: np.random.Generator, white: _Map) -> tuple[_Map, _Map]:
    flipped = cv2.GaussianBlur(cv2.flip(field, int(rng.integers(2))), (0, 0), 1.0 / mpp)  # lies out of focus
    light = field * cv2.pow((flipped.astype(np.float32) + 1) / (white + 1), strength)
    return np.asarray(light, np.float32), _stroke(field.shape, mpp, rng.uniform(35, 80), rng.uniform(0.5, 2), rng)


def _bubble(field: _Rgb, mpp: float, strength: float, rng: np.random.Generator, white: _Map) -> tuple[_Map, _Map]:
    height, width = field.shape[:2]
    reach = min(height, width) * mpp
    radius = rng.uniform(0.2, 0.36) * min(reach, 700.0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    dx, dy = (x - width * rng.uniform(0.42, 0.58)) * mpp, (y - height * rng.uniform(0.42, 0.58)) * mpp
    angle = np.arctan2(dy, dx)
    edge = radius * (1 + 0.06 * np.cos(2 * angle + rng.uniform(0, 7)) + 0.03 * np.cos(3 * angle + rng.uniform(0, 7)))
    depth = edge - np.hypot(dx, dy)  # inside the edge, µm
    rim_um = rng.uniform(8, 16)
    dark = np.exp(-(((depth - rim_um / 2) / (rim_um / 2)) ** 4)) * (1 + 0.2 * np.cos(angle + rng.uniform(0, 7)))
    bright = np.exp(-(((depth - 1.6 * rim_um) / (rim_um / 3)) ** 2))
    inside = cv2.GaussianBlur(field, (0, 0), 0.8 / mpp).astype(np.float32)
    light = (inside * 0.85 + white * 0.15) * _light((0.05 * bright - strength * dark).astype(np.float32))[..., None]
    return light.astype(np.float32), np.clip(depth / mpp + 0.5, 0, 1).astype(np.float32)


def _jpeg(field: _Rgb, strength: float, rng: np.random.Generator, block_px: float) -> tuple[_Map, _Map]:
    height, width = field.shape[:2]
    h, w = (round(n * rng.uniform(0.45, 0.7)) for n in (height, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    light, weight = field.astype(np.float32), np.zeros((height, width), np.float32)
    part = cv2.cvtColor(field[top : top + h, left : left + w], cv2.COLOR_RGB2BGR)
    scan = round(w * JPEG_PX / block_px), round(h * JPEG_PX / block_px)
    finer, coarser = (cv2.INTER_CUBIC, cv2.INTER_AREA)[:: 1 if block_px <= JPEG_PX else -1]
    part = cv2.resize(part, scan, interpolation=finer)
    stream = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, int(strength)])[1]
    part = cv2.resize(np.asarray(cv2.imdecode(stream, cv2.IMREAD_COLOR)), (w, h), interpolation=coarser)
    light[top : top + h, left : left + w] = cv2.cvtColor(part, cv2.COLOR_BGR2RGB)
    weight[top : top + h, left : left + w] = 1
    return light, weight
