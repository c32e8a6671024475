"""The one normalizer of a call of ``deeplrhe normalize``: a model's, an earlier call's, or a fit over all slides."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Final

from deeplrhe_utils.core.errors import CompendiumError, InputError, ModelError, ParameterError, RunError
from deeplrhe_utils.core.files import read_json, sha256_text, write_json
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.text import counted
from deeplrhe_utils.running.normalize.sources import NormalizeOptions, Picture, Source, state_of
from deeplrhe_utils.running.normalize.tissue import Readings, spread_places
from deeplrhe_utils.stain.dcgmm.checks import check_colours, has_tissue, tissue_px
from deeplrhe_utils.stain.dcgmm.method import Dcgmm
from deeplrhe_utils.stain.methods.normalize import (
    FIT_TILES,
    MINIMUM_TILES,
    MINIMUM_TISSUE_PX,
    NORMALIZATIONS,
    Normalizer,
    check_reference,
    load_normalizer,
    make_normalizer,
)
from deeplrhe_utils.stain.methods.reference import SlideColour, choose_reference, slide_colour

DEFAULT_STEPS: Final = 300
_REQUEST: Final = "request.json"


def prepare(
    sources: Sequence[Source],
    options: NormalizeOptions,
    reference: Source | None,
    readings: Readings,
    folder: Path,
    tell: Callable[[str], None],
) -> Normalizer:
    """The normalizer: the model's, the one that the same request left in `folder`, or a new fit; nothing is written.

    `tell` receives a line before a fit begins.

    Raises ModelError, StainError, InputError: the model cannot be read; no source holds tissue; the reference cannot be
    read or matched to. ParameterError: the model has no network that could be compiled.
    """
    if options.model is not None:
        made = load_normalizer(options.model)
        made = made if reference is None else _with_reference(made, reference, readings)
        made = dataclasses.replace(made, on_thin_slide=options.thin_slide or made.on_thin_slide)
    elif (earlier := _earlier(folder, request_of(sources, options, reference))) is not None:
        made = earlier
    else:
        tell(f"Fitting {options.method or NORMALIZATIONS[0]} on {counted(len(sources), 'slide')}")
        if len(sources) == 1 and reference in (None, *sources):
            tell("It is its own reference, so its colours stay: name another with --reference")
        made = fit(sources, options, reference, readings)
    if not options.compiled:
        return made
    if not isinstance(made.method, Dcgmm):
        raise ParameterError(f"{made.method.name} has no network that could be compiled", fix="Leave out --compile")
    return dataclasses.replace(made, method=dataclasses.replace(made.method, compiled=True))


def fit(
    sources: Sequence[Source], options: NormalizeOptions, reference: Source | None, readings: Readings
) -> Normalizer:
    """Fit over all sources, on at most 24 of their tiles; sources that cannot be read are passed over.

    Raises InputError, StainError: no source can be used, or the reference cannot.
    """
    seed = options.seed or 0
    ordered = sorted(sources, key=lambda source: source.name)
    drawn = [ordered[i] for i in generator(seed, "stain-fit").permutation(len(ordered))]
    colours, thin, pool = _colours_and_pool(drawn, readings)
    if reference is None:
        chosen = choose_reference({name: colour for name, colour in colours.items() if name not in thin} or colours)
        reference = next(source for source in sources if source.name == chosen)
    facts = {
        "reference": reference.name, "fitted_on": sorted({name for _, name in pool}),
        "mpp": options.wanted_mpp or None,
    }  # fmt: skip
    return make_normalizer(
        options.method or NORMALIZATIONS[0], [tile for tile, _ in pool], [colours[name].scale for _, name in pool],
        readings.tiles(reference), steps=options.fit_steps or DEFAULT_STEPS, seed=seed, white=options.white,
        facts=facts, on_thin_slide=options.thin_slide or "error",
    )  # fmt: skip


def _colours_and_pool(
    drawn: Sequence[Source], readings: Readings
) -> tuple[dict[str, SlideColour], set[str], list[tuple[Picture, str]]]:
    """Colour of every source, those with little tissue, and one tile of each in turn until there are enough."""
    share = ceil(FIT_TILES / len(drawn))
    colours: dict[str, SlideColour] = {}
    thin: set[str] = set()
    turns: list[list[tuple[Picture, str]]] = [[] for _ in range(share)]
    reasons: list[str] = []
    for source in drawn:
        usable, reason = _usable(source, readings)
        reasons.append(reason)
        if usable:
            colours[source.name] = slide_colour(usable)
        if len(usable) < MINIMUM_TILES or sum(map(tissue_px, usable)) < MINIMUM_TISSUE_PX:
            thin.add(source.name)
        for turn, place in enumerate(spread_places(len(usable), share)):
            if len(turns[turn]) < FIT_TILES:
                turns[turn].append((usable[place], source.name))
    pool = [pair for turn in turns for pair in turn][:FIT_TILES]
    if not pool:
        raise InputError("Nothing that was given can be used for a fit", got=reasons[0].rstrip("."),
                         fix="Give slides of H&E, or a model")  # fmt: skip
    return colours, thin, pool


def _usable(source: Source, readings: Readings) -> tuple[list[Picture], str]:
    """Tiles of a source that a fit may see, and why there are none."""
    try:
        usable = [tile for tile in readings.tiles(source) if has_tissue(tile)]
        check_colours(usable, source.name) if usable else None
    except RunError:
        raise
    except (CompendiumError, OSError) as error:
        return [], str(error)
    return usable, "" if usable else f"{source.name} has no tissue"


def _with_reference(normalizer: Normalizer, reference: Source, readings: Readings) -> Normalizer:
    """The normalizer with another reference, measured with its method."""
    goal = normalizer.method.measure([tile for tile in readings.tiles(reference) if has_tissue(tile)])
    check_reference(goal)
    return dataclasses.replace(normalizer, reference=goal, facts={**normalizer.facts, "reference": reference.name})


def request_of(sources: Sequence[Source], options: NormalizeOptions, reference: Source | None) -> str:
    """A hash of everything that decides what a fit gives: inputs, reference and parameters."""
    told = {
        "inputs": sorted([source.name, state_of(source)] for source in sources),
        "reference": None if reference is None else [reference.name, state_of(reference)],
        "fit": [options.method or NORMALIZATIONS[0], options.fit_steps or DEFAULT_STEPS, options.seed or 0,
                options.white],
        "pixels": [options.format, options.wanted_mpp, options.tile_px, options.edge,
                   options.statistics_tiles],
        "thin": options.thin_slide or "error", "model": None if options.model is None else str(options.model.resolve()),
    }  # fmt: skip
    return sha256_text(json.dumps(told, sort_keys=True))


def keep_fit(normalizer: Normalizer, folder: Path, request: str) -> None:
    """Save a normalizer and what was asked for."""
    normalizer.save(folder)
    write_json(folder / _REQUEST, {"request": request, "normalizer": normalizer.digest()})


def is_ours(folder: Path) -> bool:
    """Whether :func:`keep_fit` wrote here."""
    return (folder / _REQUEST).is_file()


def _earlier(folder: Path, request: str) -> Normalizer | None:
    """The normalizer of an earlier call with the same request, if it is whole."""
    try:
        told = read_json(folder / _REQUEST)
        if told["request"] != request:
            return None
        found = load_normalizer(folder)
    except (OSError, ValueError, KeyError, TypeError, ModelError):
        return None
    return found if found.digest() == told["normalizer"] else None
