"""Normalize slides to a reference, with any method of this room.

Three lines are enough for tiles that lie in memory::

    normalizer = fit_normalizer({"slide 1": tiles_1, "slide 2": tiles_2})
    plan = normalizer.plan(tiles_1, "slide 1")
    new = [plan(tile) for tile in tiles_1]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ModelError, StainError, ThinTissueError
from deeplrhe_utils.core.files import read_json, sha256_text, write_json
from deeplrhe_utils.stain.dcgmm.checks import check_colours, check_tiles, has_tissue
from deeplrhe_utils.stain.dcgmm.fit import fit_responsibilities
from deeplrhe_utils.stain.dcgmm.method import Dcgmm
from deeplrhe_utils.stain.dcgmm.net import DEFAULT, DENSITY, PAPER, DcgmmConfig, load_net, save_net
from deeplrhe_utils.stain.dcgmm.statistics import MINIMUM_SHARE, density_scale
from deeplrhe_utils.stain.methods.baselines import Macenko, Reinhard, Vahadane
from deeplrhe_utils.stain.methods.reference import REFERENCE_PX, choose_reference, survey_colours

_Tile = NDArray[np.uint8]
DCGMM_VARIANTS: Final[dict[str, DcgmmConfig]] = {"dcgmm": DEFAULT, "paper": PAPER, "density": DENSITY}
BASELINES: Final[dict[str, Callable[[], Any]]] = {"reinhard": Reinhard, "macenko": Macenko, "vahadane": Vahadane}
NORMALIZATIONS: Final = (*DCGMM_VARIANTS, *BASELINES)
MINIMUM_TILES: Final = 8
MINIMUM_TISSUE_PX: Final = 200_000.0
NOTED_INK: Final = 0.02
LARGEST_INK: Final = 0.15
FIT_TILES: Final = 24
_NET, _FACTS = "dcgmm.safetensors", "normalizer.json"


@dataclass(frozen=True)
class Normalizer:
    """A method, the reference, and the pooled statistics of the cohort it was fitted on.

    Attributes
    ----------
    reference, cohort : statistics of the method
    minimum_tiles, minimum_tissue_px : below these a slide is thin: its own statistics are not trusted
    on_thin_slide : {"error", "cohort"}, stop there, or map it with the cohort's statistics and say so
    """

    method: Any
    reference: Any
    cohort: Any
    minimum_tiles: int = MINIMUM_TILES
    minimum_tissue_px: float = MINIMUM_TISSUE_PX
    on_thin_slide: str = "error"
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_thin_slide not in ("error", "cohort"):
            raise StainError("Unknown way to treat a slide with little tissue", got=self.on_thin_slide,
                             expected='"error" or "cohort"')  # fmt: skip

    def plan(self, tiles: Sequence[_Tile], name: str = "this slide") -> Plan:
        """Measure one slide and make its map.

        Parameters
        ----------
        tiles : sequence of uint8 RGB (H, W, 3): 32 tissue tiles of the slide, or all it has
        name : for messages

        Raises StainError: no 8-bit RGB; no H&E (grey); too little tissue, when ``on_thin_slide`` is "error"; no map
        possible. The slide is named.
        """
        try:
            return self._plan(tiles, name)
        except StainError as error:
            if name in error.what:
                raise
            raise StainError(f"{name}: {error.what}", got=error.got, expected=error.expected, fix=error.fix) from error

    def _plan(self, tiles: Sequence[_Tile], name: str) -> Plan:
        check_tiles(tiles)
        usable = [tile for tile in tiles if has_tissue(tile)]
        counts = (len(usable), len(tiles) - len(usable))
        if not usable:
            return Plan("left unchanged: no tissue", np.copy, (), None, *counts)
        warnings = check_colours(usable, name)
        if getattr(self.method, "per", "slide") == "tile":
            return Plan("statistics of each tile", self._one_by_one, tuple(warnings), {"per": "tile"}, *counts)
        own, hints = measure_slide(self.method, usable, self.cohort)
        warnings += hints
        note, thin = "own statistics", self._thin(own, len(usable))
        if thin and self.on_thin_slide == "error":
            raise StainError(
                f"{name} has too little tissue for colour statistics of its own", got=thin,
                expected=f"{self.minimum_tiles} tiles and {self.minimum_tissue_px:,.0f} px of tissue",
                fix='Give more tiles, lower the minima, or set on_thin_slide to "cohort"',
            )  # fmt: skip
        if thin:
            own, note = self._of_cohort(own), f"cohort statistics: {thin}"
        stain_map = self.method.map_to(own, self.reference)
        if hint := getattr(stain_map, "note", ""):
            warnings.append(hint)
        return Plan(note, self._painter(stain_map), tuple(warnings), stain_map.to_json(), *counts)

    def plan_or_keep(self, tiles: Sequence[_Tile], name: str = "this slide") -> Plan:
        """:meth:`plan`, or a plan that leaves the slide unchanged and says why: one bad slide ends no cohort."""
        try:
            return self.plan(tiles, name)
        except StainError as error:
            return Plan(f"left unchanged: {error.what}", np.copy, (str(error),), n_skipped=len(tiles))

    def _thin(self, own: Any, n_tiles: int) -> str:
        thin = n_tiles < self.minimum_tiles or own.tissue_px < self.minimum_tissue_px
        return f"{n_tiles} tiles with {own.tissue_px:,.0f} px of tissue" if thin else ""

    def _of_cohort(self, own: Any) -> Any:
        """The cohort's statistics for a thin slide, whose glass stays its own."""
        keeps = isinstance(self.method, Dcgmm) and not self.method.white
        return replace(self.cohort, glass=own.glass) if keeps else self.cohort

    def _painter(self, stain_map: Any) -> Callable[[_Tile], _Tile]:
        if isinstance(self.method, Dcgmm):
            return self.method.painter(stain_map)
        return partial(self.method.apply, stain_map)

    def _one_by_one(self, tile: _Tile) -> _Tile:
        if not has_tissue(tile):
            return tile.copy()
        return self._painter(self.method.map_to(self.method.measure([tile]), self.reference))(tile)

    def digest(self) -> str:
        """Sixteen hex digits over everything that decides what a tile becomes."""
        return sha256_text(json.dumps(self._record(), sort_keys=True))[:16]

    def _record(self) -> dict[str, Any]:
        net = getattr(self.method, "net", None)
        return {
            "method": self.method.name, "white": getattr(self.method, "white", False),
            "net": None if net is None else net.digest(), "config": None if net is None else asdict(net.config),
            "reference": self.reference.to_json(), "cohort": self.cohort.to_json(),
            "minimum_tiles": self.minimum_tiles, "minimum_tissue_px": self.minimum_tissue_px,
            "on_thin_slide": self.on_thin_slide, "facts": self.facts,
        }  # fmt: skip

    def save(self, folder: Path) -> list[Path]:
        """Write network and statistics to `folder`; return the files. :func:`load_normalizer` reads them."""
        files = [write_json(folder / _FACTS, self._record())]
        if isinstance(self.method, Dcgmm):
            files.append(save_net(self.method.net, folder / _NET))
        return files


def load_normalizer(folder: Path) -> Normalizer:
    """Read what :meth:`Normalizer.save` wrote; missing, damaged or mixed files are a :class:`ModelError`."""
    path = folder / _FACTS
    try:
        record = read_json(path)
        name, keep = record["method"], ("minimum_tiles", "minimum_tissue_px", "on_thin_slide", "facts")
        options = {key: record[key] for key in keep}
        sides, net_digest, white = (record["reference"], record["cohort"]), record["net"], bool(record["white"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The stain normalizer {path} cannot be read ({type(error).__name__}: {error})",
                         fix="Keep a model's folders 04 and 05 together, or run 04 again") from error  # fmt: skip
    if name == "dcgmm":
        net = load_net(folder / _NET)
        if net.digest() != net_digest:
            raise ModelError(f"The stain network in {folder} is not the one its statistics were made with",
                             got=net.digest(), expected=net_digest, fix="Run notebook 04 again")  # fmt: skip
        method: Any = Dcgmm(net, white=white)
    elif name in BASELINES:
        method = BASELINES[name]()
    else:
        raise ModelError(f"{path} names an unknown method", got=name, expected=", ".join(("dcgmm", *BASELINES)),
                         fix="Run notebook 04 again")  # fmt: skip
    try:
        reference, cohort = (method.read(side) for side in sides)
        made = Normalizer(method, reference, cohort, **options)
    except StainError as error:
        raise ModelError(f"The stain normalizer {path} is damaged ({error.what})", got=error.got,
                         expected=error.expected, fix="Run notebook 04 again") from error  # fmt: skip
    if name == "dcgmm" and {reference.net, cohort.net} != {net_digest}:
        raise ModelError(f"The statistics in {path} were made with another network", got=f"{reference.net} and "
                         f"{cohort.net}", expected=net_digest, fix="Run notebook 04 again")  # fmt: skip
    return made


def fit_normalizer(
    slides: Mapping[str, Sequence[_Tile]],
    method: str = "dcgmm",
    *,
    reference: str | Sequence[_Tile] = "",
    **options: Any,
) -> Normalizer:
    """Fit a method to slides in memory (those of *training* patients) and take the reference.

    Parameters
    ----------
    slides : name → uint8 RGB tiles (H, W, 3)
        A few tiles of each slide; DCGMM's network is fitted on at most 24 of them.
    method : {"dcgmm", "paper", "density", "reinhard", "macenko", "vahadane"}
    reference : str or tiles
        A slide's name, or tiles of a picture of your own; empty takes the slide nearest to the cohort's median colour.
    options : as in :func:`make_normalizer`

    Raises StainError: unknown method or reference; no tissue; a reference too small or too uniform to be matched to.
    """
    for tiles in slides.values():
        check_tiles(tiles)
    chosen = choose_reference(survey_colours(slides)) if isinstance(reference, str) and not reference else reference
    if isinstance(chosen, str) and chosen not in slides:
        raise StainError("The reference is none of the slides", got=chosen, expected=", ".join(list(slides)[:5]))
    usable = {name: [tile for tile in tiles if has_tissue(tile)] for name, tiles in slides.items()}
    turns = max((len(tiles) for tiles in usable.values()), default=0)
    # one tile of every slide in turn, until there are enough
    drawn = [(tiles[turn], name) for turn in range(turns) for name, tiles in usable.items() if turn < len(tiles)]
    drawn = drawn[:FIT_TILES]
    scales = {name: density_scale(usable[name]) for name in {name for _, name in drawn}}
    target = slides[chosen] if isinstance(chosen, str) else list(chosen)
    facts = {"reference": chosen if isinstance(chosen, str) else "given by the user", "fitted_on": sorted(slides)}
    return make_normalizer(method, [t for t, _ in drawn], [scales[n] for _, n in drawn], target, facts=facts, **options)


def make_normalizer(
    method: str,
    pool: Sequence[_Tile],
    scales: Sequence[float],
    target: Sequence[_Tile],
    *,
    config: DcgmmConfig | None = None,
    steps: int = 300,
    seed: int = 0,
    white: bool = False,
    trace: list[float] | None = None,
    **options: Any,
) -> Normalizer:
    """A normalizer from tiles drawn over the training patients.

    Parameters
    ----------
    method : as in :func:`fit_normalizer`
    pool, scales : uint8 RGB tiles (H, W, 3) and the density scale of each one's slide
        They fit the network, and stand for the cohort.
    target : tiles of the reference
    config : instead of the method's own profile
    steps, seed : of the DCGMM fit
    white : take the glass off every slide (all must show some). The network is fitted on tiles as they are, and the
        cohort has one white level, that of `pool`: a thin slide is mapped with that one.
    trace : receives the loss per step
    options : further attributes of :class:`Normalizer`
    """
    if method not in NORMALIZATIONS:
        raise StainError("Unknown stain normalization", got=method, expected=", ".join(NORMALIZATIONS),
                         fix="Choose one of them")  # fmt: skip
    check_tiles([*pool, *target])
    if not pool:
        raise ThinTissueError("No tile holds enough tissue to fit a normalization", got=0, fix="Give tiles of tissue")
    own = config or DCGMM_VARIANTS.get(method, DEFAULT)
    if white and (method in BASELINES or own.per == "tile"):
        raise StainError("The white level is corrected by DCGMM with statistics per slide only", got=method,
                         fix="Leave white off")  # fmt: skip
    if method in BASELINES:
        made: Any = BASELINES[method]()
    else:
        net, losses = fit_responsibilities(pool, scales, own, steps=steps, seed=seed)
        made = Dcgmm(net, white=white)
        if trace is not None:
            trace.extend(losses)
    cohort, target = made.measure(pool), [tile for tile in target if has_tissue(tile)]
    goal, _ = measure_slide(made, target, cohort)
    check_reference(goal)
    return Normalizer(made, goal, cohort, **options)


def measure_slide(method: Any, tiles: Sequence[_Tile], cohort: Any) -> tuple[Any, list[str]]:
    """A slide's statistics, without ink where the method can tell it, and what to say about that.

    Pixels of no colour of the cohort are ink as long as they are few. Where they are more than 15 % of the tissue, they
    are the stain of a laboratory that the cohort does not know, and all are used.
    """
    if not isinstance(method, Dcgmm):
        return method.measure(tiles), []
    own = method.measure(tiles, cohort)
    share = own.foreign_px / max(own.tissue_px, 1.0)
    strange = f"{share:.0%} of the tissue has no colour of the cohort"
    if share > LARGEST_INK:
        return method.measure(tiles), [f"{strange}; all of it is used"]
    return own, [f"{strange} (ink?) and was left out"] if share > NOTED_INK else []


def check_reference(statistics: Any) -> None:
    """Raise :class:`StainError` when a reference is too small, or lacks a component, to be matched to."""
    if statistics.tissue_px < REFERENCE_PX:
        what, got = "The reference shows too little tissue", f"{statistics.tissue_px:,.0f} px"
        fix = "Give more tiles of it, or another slide"
        raise ThinTissueError(what, got=got, expected=f"{REFERENCE_PX:,.0f} px", fix=fix)
    shares = statistics.shares() if hasattr(statistics, "shares") else np.ones(1)
    if shares.min() < MINIMUM_SHARE:
        raise StainError("A component is missing in the reference", got=f"shares {shares.round(3).tolist()}",
                         expected=f"{MINIMUM_SHARE:.0%} or more each",
                         fix="Choose a reference with nuclei and stroma, or fewer components")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How one slide's tiles are normalized; call it with a tile.

    Attributes
    ----------
    note : whose statistics are used, or why tiles are left unchanged
    warnings : what is unusual about the slide
    record : the map as JSON, or None where there is none
    n_used, n_skipped : tiles that gave statistics, and that had too little tissue to
    """

    note: str
    paint: Callable[[_Tile], _Tile]
    warnings: tuple[str, ...] = ()
    record: dict[str, Any] | None = None
    n_used: int = 0
    n_skipped: int = 0

    def __call__(self, tile: _Tile) -> _Tile:
        """The normalized tile, uint8 RGB (H, W, 3)."""
        return self.paint(tile)

    @property
    def changes(self) -> bool:
        """Whether tiles are changed at all."""
        return self.record is not None

    def digest(self) -> str:
        """Sixteen hex digits of the map, "none" without one."""
        return "none" if self.record is None else sha256_text(json.dumps(self.record, sort_keys=True))[:16]
