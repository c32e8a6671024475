"""Spike-in: does the quality filter see artefacts that are painted into clean fields of the run itself?

Works on any slides, real ones too, because the truth is what was painted. Each field is its own control: what is found
in its untouched twin is a false alarm (or something real that was there before; look at it). The painter here shares
no code with the painter of the synthetic cohort, and paints otherwise on purpose: defocus is a uniform disc, not a
Gaussian; ink is streaky and has other hues; the second layer of a fold is mirrored at its edge, not shifted; a bubble
is no circle, its rim is uneven and has a bright line inside; JPEG is cut out anywhere.

Sensitivity is the share of painted fields of which at least ``seen_share`` is called, a false alarm the same of twins,
at the cuts of the run. The ROC moves one cut of the detector from strict to lenient (:data:`LADDERS`). Fields of one
slide resemble one another, and the Wilson intervals do not know: read them as too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.slides.artefacts import ARTEFACT_MPP, SurveyRules, artefact_masks, bubble_mask
from deeplrhe_utils.slides.blocks import JPEG_EXCESS, JPEG_RATIO, blockiness
from deeplrhe_utils.slides.pen import pen_mask
from deeplrhe_utils.slides.quality import BLUR_CUT, sharpness
from deeplrhe_utils.slides.tissue import GLASS_FALLBACK, Glass, background_mask

if TYPE_CHECKING:
    import pandas as pd

Rgb = NDArray[np.uint8]
Map = NDArray[np.float32]

STRENGTHS: Final[Mapping[str, tuple[float, ...]]] = {
    "blur": (1.0, 2.0, 4.0),
    "pen blue": (0.6, 0.9, 1.2),
    "pen green": (0.6, 0.9, 1.2),
    "pen black": (0.6, 0.9, 1.2),
    "pen red": (0.6, 0.9, 1.2),
    "fold": (0.7, 1.0),
    "bubble": (0.2, 0.4, 0.6),
    "jpeg": (20.0, 10.0, 5.0),
}
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
_INKS: Final = {
    "pen blue": (0.90, 0.62, 0.22),
    "pen green": (0.95, 0.38, 0.62),
    "pen black": (0.88, 0.85, 0.76),
    "pen red": (0.09, 0.92, 0.72),
}  # optical density (log10) of R, G, B at strength 1


@dataclass(frozen=True)
class SpikeIn:
    """Result of :func:`spike_in`.

    Attributes
    ----------
    table : DataFrame
        kind, strength, n, sensitivity, sensitivity_low, sensitivity_high, false_alarms, false_alarms_low,
        false_alarms_high (shares with Wilson's 95 % intervals), auc (of the ladder; chance is 0.5).
    roc : DataFrame
        kind, strength, cut, false_positive_rate, true_positive_rate: one row per step of the ladder.
    """

    table: pd.DataFrame
    roc: pd.DataFrame


def spike_in(
    fields: Sequence[Rgb],
    mpp: float,
    *,
    seed: int,
    glasses: Sequence[Glass] | None = None,
    kinds: Sequence[str] = tuple(STRENGTHS),
    rules: SurveyRules | None = None,
    blur_cut: float = BLUR_CUT,
    jpeg_excess: float = JPEG_EXCESS,
    seen_share: float = SEEN_SHARE,
) -> SpikeIn:
    """Paint artefacts into clean fields and count what the detectors find.

    Parameters
    ----------
    fields : sequence of ndarray, shape (height, width, 3), uint8
        RGB fields without artefacts, with tissue, of any size; folds and bubbles deserve 500 µm or more.
    mpp : float
        Resolution of the fields [µm/px], up to 1.
    seed : int
        Seed; each field, kind and strength has its own stream.
    glasses : sequence of Glass, optional
        White level of each field's slide; without it the fallback of
        :func:`~deeplrhe_utils.slides.tissue.glass_level`.
    kinds : sequence of str
        Of :data:`STRENGTHS`.
    rules : SurveyRules, optional
        Thresholds of the run for ink, folds and bubbles.
    blur_cut, jpeg_excess : float
        Those of the run for blur [sharpness] and JPEG [grey levels].
    seen_share : float
        Share of a field that must be called [0–1].

    Returns
    -------
    SpikeIn

    Raises
    ------
    ParameterError
        There are no fields, or a kind is unknown.
    """
    import pandas as pd

    if not len(fields):
        raise ParameterError("A spike-in needs at least one field", got=0)
    if unknown := sorted(set(kinds) - set(STRENGTHS)):
        raise ParameterError("Unknown artefact", got=unknown, expected=" | ".join(STRENGTHS))
    level = glasses or [Glass(np.full(3, GLASS_FALLBACK), False)] * len(fields)
    rules = rules or SurveyRules()
    cuts = {"blur": blur_cut, "pen": rules.pen_density, "fold": rules.fold_ratio, "bubble": rules.rim_density,
            "jpeg": jpeg_excess}  # fmt: skip
    rows, points = [], []
    twins: dict[str, NDArray[np.float64]] = {}
    for kind in kinds:
        short = kind.split()[0]
        ladder = sorted({*LADDERS[short], cuts[short]}, reverse=short != "blur")
        step = ladder.index(cuts[short])
        if short not in twins:
            twins[short] = _shares(zip(fields, level, strict=True), short, mpp, ladder, rules)
        for strength in STRENGTHS[kind]:
            painted = (
                (paint(kind, field, mpp, strength, generator(seed, "spike", kind, str(strength), i), glass)[0], glass)
                for i, (field, glass) in enumerate(zip(fields, level, strict=True))
            )
            found = _shares(painted, short, mpp, ladder, rules) >= seen_share
            alarm = twins[short] >= seen_share
            rows.append({"kind": kind, "strength": strength, **_row(found, alarm, step)})
            points += [
                {"kind": kind, "strength": strength, "cut": cut, "false_positive_rate": float(alarm[:, i].mean()),
                 "true_positive_rate": float(found[:, i].mean())} for i, cut in enumerate(ladder)
            ]  # fmt: skip
    return SpikeIn(pd.DataFrame(rows), pd.DataFrame(points))


def _row(found: NDArray[np.bool_], alarm: NDArray[np.bool_], step: int) -> dict[str, object]:
    """Sensitivity and false alarms at the run's cut, AUC over the ladder."""
    row: dict[str, object] = {"n": len(found)}
    for name, hits in (("sensitivity", found[:, step]), ("false_alarms", alarm[:, step])):
        interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
        row |= {name: float(hits.mean()), f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
    # The score of a field is the number of steps that call it: the earlier it is called, the surer.
    score = np.concatenate([found.sum(axis=1), alarm.sum(axis=1)])
    return row | {"auc": float(roc_auc_score(np.repeat([1, 0], len(found)), score))}


def _shares(
    pictures: Iterator[tuple[Rgb, Glass]] | zip[tuple[Rgb, Glass]],
    short: str,
    mpp: float,
    ladder: Sequence[float],
    rules: SurveyRules,
) -> NDArray[np.float64]:
    """Share of each picture that is called at each step, shape (pictures, steps)."""
    detect = {"blur": _blur_shares, "jpeg": _jpeg_shares}.get(short)
    if detect is not None:
        return np.array([detect(picture, glass, mpp, ladder) for picture, glass in pictures])
    name = {"pen": "pen_density", "fold": "fold_ratio", "bubble": "rim_density"}[short]
    steps = [_at(rules, name, cut) for cut in ladder]
    small = ((_survey(picture, mpp), glass) for picture, glass in pictures)
    scale = max(ARTEFACT_MPP, mpp)
    return np.array([[_called(short, s, scale, g, rule) for rule in steps] for s, g in small])


def _called(short: str, survey: Rgb, mpp: float, glass: Glass, rules: SurveyRules) -> float:
    """Share of a survey picture that one detector calls; only folds need to know of ink and bubbles."""
    if short == "pen":
        return float(pen_mask(survey, mpp, red=rules.red_pen, glass=glass, density=rules.pen_density).mean())
    if short == "bubble":
        found = bubble_mask(survey, mpp, glass, rim_density=rules.rim_density, rim_neutral=rules.rim_neutral)
        return float(found.mean())
    return float(artefact_masks(survey, mpp, glass, rules)["fold"].mean())


def _at(rules: SurveyRules, name: str, cut: float) -> SurveyRules:
    """The rules with one cut moved; a fold goes on in proportion to where it begins."""
    if name != "fold_ratio":
        return replace(rules, pen_density=cut) if name == "pen_density" else replace(rules, rim_density=cut)
    grown = 1 + (cut - 1) * (rules.fold_grown - 1) / (rules.fold_ratio - 1)
    return replace(rules, fold_ratio=cut, fold_grown=grown)


def _survey(picture: Rgb, mpp: float) -> Rgb:
    factor = mpp / max(ARTEFACT_MPP, mpp)
    size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _blur_shares(picture: Rgb, glass: Glass, mpp: float, ladder: Sequence[float]) -> list[float]:
    """Share of the blocks that can be judged."""
    blank = background_mask(picture, glass=glass, mpp=mpp)
    values = sharpness(picture, mpp, ~blank)
    known = values[np.isfinite(values)]
    return [float((known < cut).mean()) if known.size else 0.0 for cut in ladder]


def _jpeg_shares(picture: Rgb, glass: Glass, mpp: float, ladder: Sequence[float]) -> list[float]:
    excess, ratio = blockiness(picture)
    return [float(((excess >= cut) & (ratio >= JPEG_RATIO)).mean()) for cut in ladder]


def paint(
    kind: str, field: Rgb, mpp: float, strength: float, rng: np.random.Generator, glass: Glass
) -> tuple[Rgb, NDArray[np.bool_]]:
    """Paint one artefact into a field.

    Parameters
    ----------
    kind : str
        Of :data:`STRENGTHS`, which also tells the unit of `strength`.
    field : ndarray, shape (height, width, 3), uint8
        RGB; not changed.
    mpp : float
        Resolution [µm/px].
    strength : float
        How strong.
    rng : numpy Generator
        Place, shape and hue.
    glass : Glass
        White level.

    Returns
    -------
    picture : ndarray, shape (height, width, 3), uint8
    mask : ndarray, shape (height, width), bool
        Where the artefact lies.
    """
    painters: dict[str, Callable[..., tuple[Map, Map]]] = {
        "blur": _defocus, "fold": _fold, "bubble": _bubble, "jpeg": _jpeg,
    }  # fmt: skip
    white = np.asarray(glass.level, np.float32)
    if kind in _INKS:
        light, weight = _ink(field, mpp, strength, rng, np.array(_INKS[kind]))
    else:
        light, weight = painters[kind](field, mpp, strength, rng, white)
    mixed = field * (1 - weight[..., None]) + light * weight[..., None]
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8), weight > 0.5


def _stroke(shape: tuple[int, ...], mpp: float, width_um: float, edge_um: float, rng: np.random.Generator) -> Map:
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
    return _soft((canvas / 255).astype(np.float32), edge_um, mpp)


def _soft(weight: Map, edge_um: float, mpp: float) -> Map:
    return np.asarray(cv2.GaussianBlur(weight, (0, 0), max(edge_um / mpp, 0.3)), np.float32)


def _light(exponent: Map) -> Map:
    """Ten to the power of minus a density."""
    return np.asarray(cv2.exp(np.ascontiguousarray(exponent) * np.float32(np.log(10))), np.float32)


def _clouds(shape: tuple[int, ...], mpp: float, scale_um: float, rng: np.random.Generator) -> Map:
    """Smooth noise of unit variance."""
    size = max(2, round(shape[0] * mpp / scale_um) + 2), max(2, round(shape[1] * mpp / scale_um) + 2)
    coarse = rng.standard_normal(size).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def _ink(
    field: Rgb, mpp: float, strength: float, rng: np.random.Generator, ink: NDArray[np.float64]
) -> tuple[Map, Map]:
    density = ink * np.exp(rng.normal(0, 0.1, 3)) * strength
    streaks = np.clip(1 + 0.1 * _clouds(field.shape, mpp, 30.0, rng), 0.75, 1.3)
    light = field * _light(-streaks[..., None] * density.astype(np.float32))
    return light, _stroke(field.shape, mpp, rng.uniform(80, 180), rng.uniform(1, 5), rng)


def _defocus(field: Rgb, mpp: float, strength: float, rng: np.random.Generator, white: Map) -> tuple[Map, Map]:
    radius = 2 * strength / mpp  # a uniform disc of radius r has a standard deviation of r / 2 along each axis
    reach = int(np.ceil(radius)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)
    light = cv2.filter2D(field, cv2.CV_32F, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    half = 0.35 * min(field.shape[:2]) * mpp
    return np.asarray(light, np.float32), _stroke(field.shape, mpp, 2 * half, 15.0, rng)


def _fold(field: Rgb, mpp: float, strength: float, rng: np.random.Generator, white: Map) -> tuple[Map, Map]:
    flipped = cv2.GaussianBlur(cv2.flip(field, int(rng.integers(2))), (0, 0), 1.0 / mpp)  # lies out of focus
    light = field * cv2.pow((flipped.astype(np.float32) + 1) / (white + 1), strength)
    return np.asarray(light, np.float32), _stroke(field.shape, mpp, rng.uniform(35, 80), rng.uniform(0.5, 2), rng)


def _bubble(field: Rgb, mpp: float, strength: float, rng: np.random.Generator, white: Map) -> tuple[Map, Map]:
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


def _jpeg(field: Rgb, mpp: float, strength: float, rng: np.random.Generator, white: Map) -> tuple[Map, Map]:
    height, width = field.shape[:2]
    h, w = (round(n * rng.uniform(0.45, 0.7)) for n in (height, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    light, weight = field.astype(np.float32), np.zeros((height, width), np.float32)
    part = np.ascontiguousarray(field[top : top + h, left : left + w])
    stream = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, int(strength)])[1]
    light[top : top + h, left : left + w] = np.asarray(cv2.imdecode(stream, cv2.IMREAD_COLOR))
    weight[top : top + h, left : left + w] = 1
    return light, weight
