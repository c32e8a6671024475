"""One method of normalization, judged over a cohort: a row of the table that compares methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation import stain_metrics as metrics
from deeplrhe_utils.evaluation.stain_masks import Mask, Tile, masked

Masks = Mapping[str, Mask]

_MEASURED: Final = ("nuclei", "stroma")
_MEANS: Final = ("wasserstein", "glass_mean", "glass_p99", "clipped")


def assess(
    before: Sequence[Sequence[Tile]],
    after: Sequence[Sequence[Tile]],
    masks: Sequence[Sequence[Masks]],
    reference: Sequence[tuple[Tile, Masks]],
    *,
    sample_px: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """Everything one method did to a cohort.

    Parameters
    ----------
    before, after : sequence over units of sequences of uint8, (H, W, 3)
        The tiles of each unit (slide, field) and the same tiles normalized; `before` twice is "no method".
    masks : same nesting, mapping of str to bool (H, W)
        ``nuclei``, ``stroma``, ``glass`` and ``tissue`` of the *source* tiles
        (:mod:`deeplrhe_utils.evaluation.stain_masks`).
    reference : sequence of (tile, masks): tiles of what was normalized to, as they are
    sample_px : most tissue pixels per unit for the Wasserstein distance: 10,000 give it to 1–2 % on real fields. They
        are drawn by `seed` and the unit's place, so that all methods are judged on the same ones.

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
    template = _tissue([t for t, _ in reference], [m for _, m in reference], sample_px, seed, "reference")
    if template is None:
        shown = sum(int(marked["tissue"].sum()) for _, marked in reference)
        raise StainError("The reference has too little tissue to compare colours with", got=f"{shown} px",
                         expected=f"{metrics.LEAST_PX} px or more", fix="Give more tiles of it")  # fmt: skip
    units = []
    for index, (old, new, named) in enumerate(zip(before, after, masks, strict=True)):
        tissue = _tissue(new, named, sample_px, seed, index)
        far = float("nan") if tissue is None else metrics.slice_distance(tissue, template)
        units.append({**_measure(old, new, named), "wasserstein": far})
    return {**_summary(units), **metrics.structure(_flat(before), _flat(after))}


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


def _pooled(tiles: Sequence[Tile], masks: Sequence[Masks], name: str) -> Tile:
    """Pixels of one class of all tiles of a unit, (n, 3)."""
    for one in masks:
        if name not in one:
            raise StainError(f"A tile has no mask of {name}", got=", ".join(one), fix="Make it with neutral_masks")
    return np.concatenate([masked(tile, one[name]) for tile, one in zip(tiles, masks, strict=True)])


def _tissue(
    tiles: Sequence[Tile], masks: Sequence[Masks], sample_px: int, seed: int, name: str | int
) -> metrics.Floats | None:
    """Sorted colours of a sample of a unit's tissue, or None without enough of it."""
    pixels = _pooled(tiles, masks, "tissue") if tiles else np.empty((0, 3), np.uint8)
    if len(pixels) < metrics.LEAST_PX:
        return None
    if len(pixels) > sample_px:
        pixels = pixels[generator(seed, "tissue sample", name).choice(len(pixels), sample_px, replace=False)]
    return metrics.colour_slices(metrics.lab(pixels), seed=seed)


def _measure(before: Sequence[Tile], after: Sequence[Tile], masks: Sequence[Masks]) -> dict[str, Any]:
    """What the pixels of one unit say, before units are compared."""
    found: dict[str, Any] = {}
    for name in _MEASURED:
        pixels = _pooled(after, masks, name)
        everywhere = np.ones(len(pixels), bool)
        found[f"nmi_{name}"] = metrics.nmi(pixels, everywhere)
        found[f"lab_{name}"] = metrics.mean_lab(pixels, everywhere)
    old, new = (_pooled(tiles, masks, "glass") for tiles in (before, after))
    glass = metrics.glass_change(old, new, np.ones(len(old), bool))
    clipped = [metrics.clipped_share(a, b) for a, b in zip(before, after, strict=True)]
    return {**found, "glass_mean": glass["mean"], "glass_p99": glass["p99"], "clipped": float(np.mean(clipped))}


def _summary(units: Sequence[dict[str, Any]]) -> dict[str, float]:
    column = {name: [unit[name] for unit in units] for name in units[0]}
    row: dict[str, float] = {}
    for name in _MEASURED:
        row[f"nmi_{name}_sd"], row[f"nmi_{name}_cv"] = metrics.spread(column[f"nmi_{name}"])
        row[f"units_{name}"] = float(np.count_nonzero(~np.isnan(column[f"nmi_{name}"])))
        row[f"lab_{name}"] = metrics.scatter(column[f"lab_{name}"])
    return row | {name: _mean(column[name]) for name in _MEANS}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
