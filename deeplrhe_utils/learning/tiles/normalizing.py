"""Normalize a cohort fold by fold: fitted on training patients only, every slide read once.

Source: ours. A stain network sees no label, but it does see pixels; fitted on everybody, it would carry something of
the test patients into training. So every fold has a normalizer of its own, and its own store of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import StainError, ThinTissueError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.text import Countdown
from deeplrhe_utils.learning.tiles.store import write_tiles
from deeplrhe_utils.slides.tiles.pixels import read_ahead
from deeplrhe_utils.stain.dcgmm.checks import has_tissue
from deeplrhe_utils.stain.methods.normalize import DCGMM_VARIANTS, Normalizer, Plan, load_normalizer, make_normalizer
from deeplrhe_utils.stain.methods.reference import SlideColour, choose_reference, slide_colour

_Tile = NDArray[np.uint8]
Reader = Callable[["pd.DataFrame"], list[_Tile]]
"""From rows of table TILES, all of one unit, to their pixels."""

UNCHANGED: Final = "none"
_BLOCK: Final = 32
NEIGHBOURS: Final = {"Reinhard": "reinhard", "Macenko": "macenko", "Vahadane": "vahadane", "density only": "density",
                     "DCGMM": "dcgmm", "DCGMM, as published": "paper"}  # fmt: skip
ALL: Final = 0
"""The fold of a cohort that nothing is trained on: its normalizer may see everybody."""


@dataclass(frozen=True)
class StainRecipe:
    """What a normalizer is fitted with; attributes as in `make_normalizer`.

    `fit_tiles` is how many tiles are drawn, at most one of each unit.
    """

    method: str = "dcgmm"
    components: int = 4
    covariance: str = "full"
    reference: str = ""
    fit_tiles: int = 24
    steps: int = 300
    seed: int = 0
    minimum_tiles: int = 8
    minimum_tissue_px: float = 200_000.0


def train_units(units: Mapping[str, str], splits: pd.DataFrame | None) -> dict[int, list[str]]:
    """Units (unit → patient) of the training patients of every fold, sorted; all of them, as fold 0, without splits."""
    if splits is None or splits.empty:
        return {ALL: sorted(units)}
    train = splits[splits["role"] == "train"]
    patients = {int(fold): set(rows["unit_id"]) for fold, rows in train.groupby("fold")}
    return {fold: sorted(u for u, p in units.items() if p in members) for fold, members in patients.items()}


def survey_units(groups: Mapping[str, pd.DataFrame], read: Reader, tiles_each: int) -> dict[str, SlideColour]:
    """Colour of every unit from its first tiles; the next unit is read while this one is measured."""
    parts = {name: part.head(tiles_each) for name, part in groups.items()}
    return {name: slide_colour(tiles) for name, tiles in _read_units(parts, read)}


def fit_fold(
    recipe: StainRecipe,
    colours: Mapping[str, SlideColour],
    groups: Mapping[str, pd.DataFrame],
    read: Reader,
    train: Sequence[str],
    trace: list[float] | None = None,
    statistics_tiles: int = 32,
) -> Normalizer:
    """Fit one normalizer on the units of training patients.

    Parameters
    ----------
    recipe : its `reference` names a unit (any, if a person chose it); empty takes the medoid of the *training* units
    colours, groups, read : survey, rows of the tiles table and pixels of every unit
    train : units that may be seen
    trace : receives the loss per step
    statistics_tiles : most tiles the reference's statistics come from

    Raises StainError: no training unit holds tissue, or the named reference is no unit.
    """
    known = {name: colours[name] for name in train if np.isfinite(colours[name].scale)}
    chosen = recipe.reference or choose_reference(known)
    if chosen not in groups:
        raise StainError("The reference is no slide of this cohort", got=chosen, expected="a slide with selected tiles",
                         fix=f"Look it up in the tiles table, for example {next(iter(groups), 'none')}")  # fmt: skip
    random = generator(recipe.seed, "stain-fit")
    names = sorted(known)
    drawn = [names[i] for i in random.permutation(len(names))]
    pool, scales, used = [], [], []
    for name in drawn:
        (tile,) = read(groups[name].sample(1, random_state=int(random.integers(2**31))))
        if has_tissue(tile):
            pool.append(tile)
            scales.append(known[name].scale)
            used.append(name)
        if len(pool) == recipe.fit_tiles:
            break
    own = DCGMM_VARIANTS.get(recipe.method)
    config = None if own is None else replace(own, components=recipe.components)
    if config is not None and recipe.method == "dcgmm":
        config = replace(config, covariance=recipe.covariance)
    facts = {"reference": chosen, "fitted_on": used}
    target = read(statistics_rows(groups[chosen], statistics_tiles))
    try:
        return make_normalizer(
            recipe.method, pool, scales, target, config=config, steps=recipe.steps, seed=recipe.seed,
            trace=trace, facts=facts, minimum_tiles=recipe.minimum_tiles,
            minimum_tissue_px=recipe.minimum_tissue_px, on_thin_slide="cohort",
        )  # fmt: skip
    except ThinTissueError as error:
        if recipe.reference:  # somebody chose it: that is a mistake to mend, no small cohort
            raise StainError(str(error)) from error
        raise


def fit_neighbours(recipe: StainRecipe, own: Normalizer, fit: Callable[[StainRecipe], Normalizer]) -> dict[str, Any]:
    """Name → Normalizer of the methods that `own`, made by `recipe`, is compared with: None is no method.

    One that cannot be fitted is left out, and a line says why.
    """
    found: dict[str, Any] = {UNCHANGED: None}
    for name, method in NEIGHBOURS.items():
        if method == "paper" != recipe.method:
            continue
        try:
            found[name] = own if method == recipe.method else fit(replace(recipe, method=method))
        except StainError as error:
            print(f"{name} could not be fitted and is left out: {error}")
    return found


def statistics_rows(part: pd.DataFrame, most: int) -> pd.DataFrame:
    """The rows a unit's statistics come from: the selected tiles, then other kept ones, evenly, at most `most` in all.

    Parameters
    ----------
    part : kept rows of table TILES, all of one unit
    most : 32 tiles give a slide's colours to a fraction of a grey level
    """
    chosen = part[part["selected"]]
    rest = part[~part["selected"]].sort_values(["row", "column", "tile_id"])
    first, second = _evenly(chosen, most), _evenly(rest, most - len(chosen))
    return pd.concat([first, second]) if len(second) else first


def _evenly(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` rows, evenly spaced, in their order."""
    count = max(0, min(most, len(rows)))
    return rows if count == len(rows) else rows.iloc[np.linspace(0, len(rows) - 1, count).round().astype(int)]


@dataclass
class Stored:
    """What storing a cohort left: one row per unit and arm, and a few tiles of some units to look at.

    Attributes
    ----------
    records : unit, arm, fold, n_tiles, n_used, n_skipped, note, warnings, map
    colours : (arm, fold) → unit → SlideColour of the stored tiles
    """

    records: pd.DataFrame
    colours: dict[tuple[str, int], dict[str, SlideColour]] = field(default_factory=dict)


def arm_folder(folder: Path, arm: str, fold: int) -> Path:
    """Where the tiles of one arm (method, or "none") and fold are stored."""
    return folder / UNCHANGED if arm == UNCHANGED else folder / f"{arm}-fold-{fold}"


def store_units(
    folder: Path,
    groups: Mapping[str, pd.DataFrame],
    read: Reader,
    arms: Mapping[tuple[str, int], Normalizer | None],
    *,
    statistics_tiles: int,
    watched: int = 4,
    workers: int = 2,
) -> Stored:
    """Read every unit once, normalize its selected tiles for every arm and fold, and store them as they were read.

    Parameters
    ----------
    folder : receives a folder per arm and fold, each with one array per slide
    groups : unit → kept rows of table TILES: what is stored is the selected ones, in this order
    arms : (arm, fold) → Normalizer, or None to leave colours as they are
    statistics_tiles : most tiles a unit's statistics come from
    watched : tiles of each unit whose colour after normalization is kept
    workers : units at a time; never changes a result
    """
    parts = {name: statistics_rows(part, statistics_tiles) for name, part in groups.items()}
    progress = Countdown("slides normalized", len(parts), brief=True)

    def one(name: str) -> tuple[list[dict[str, Any]], dict[tuple[str, int], SlideColour]]:
        tiles = read(parts[name])
        chosen = groups[name][groups[name]["selected"]].reset_index(drop=True)
        plans = {key: keep_normalizer() if n is None else n.plan_or_keep(tiles, name) for key, n in arms.items()}
        new: dict[tuple[str, int], list[_Tile]] = {key: [] for key in arms}
        for tile in _selected(chosen, dict(zip(parts[name]["tile_id"], tiles, strict=True)), read):
            for key, plan in plans.items():
                new[key].append(plan(tile))
        for (arm, fold), own in new.items():
            for slide_id, index in chosen.groupby("slide_id").groups.items():
                write_tiles(arm_folder(folder, arm, fold), str(slide_id), np.stack([own[i] for i in index]))
        rows = [{"unit": name, "arm": arm, "fold": fold, "n_tiles": len(chosen), "n_used": plan.n_used,
                 "n_skipped": plan.n_skipped, "note": plan.note, "warnings": "; ".join(plan.warnings),
                 "map": plan.digest()} for (arm, fold), plan in plans.items()]  # fmt: skip
        return rows, {key: slide_colour(own[:watched]) for key, own in new.items()}

    rows: list[dict[str, Any]] = []
    stored = Stored(pd.DataFrame(), {key: {} for key in arms})
    with single_threads(workers) as pool:
        for name, (own, colours) in zip(parts, pool.map(one, parts), strict=True):
            rows += own
            for key, colour in colours.items():
                stored.colours[key][name] = colour
            progress.step()
    stored.records = pd.DataFrame(rows)
    return stored


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """`count` threads inside each of which torch has one: their number never changes a result."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "units", torch.set_num_threads, (1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _selected(chosen: pd.DataFrame, known: Mapping[str, _Tile], read: Reader) -> Iterator[_Tile]:
    """Selected tiles in order; those that gave no statistics are read now, few at a time."""
    for start in range(0, len(chosen), _BLOCK):
        block = chosen.iloc[start : start + _BLOCK]
        missing = block[~block["tile_id"].isin(known)]
        fresh = dict(zip(missing["tile_id"], read(missing), strict=True)) if len(missing) else {}
        yield from (known[name] if name in known else fresh[name] for name in block["tile_id"])


def keep_normalizer() -> Plan:
    """The plan that leaves colours as they are."""
    return Plan("not normalized", lambda tile: tile)


def _read_units(parts: Mapping[str, pd.DataFrame], read: Reader) -> Iterator[tuple[str, list[_Tile]]]:
    """(unit, pixels), the next unit decoded while the caller works on this one."""
    yield from zip(parts, read_ahead(read, parts.values()), strict=True)


def fold_folder(models: Path, fold: int | str) -> Path:
    """Folder of one fold's normalizer below a run's models; a model ``05/fold-1.safetensors`` belongs to fold-1."""
    return models / "04" / (fold if isinstance(fold, str) else f"fold-{fold}")


def normalizer_of_model(model: Path) -> Normalizer:
    """The normalizer that belongs to a trained network ``…/models/05/fold-N.safetensors``."""
    return load_normalizer(fold_folder(model.resolve().parents[1], model.stem))
