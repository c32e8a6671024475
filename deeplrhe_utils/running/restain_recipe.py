"""What can be asked of ``deeplrhe normalize``, and what contradicts itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.units import PLAUSIBLE_MPP
from deeplrhe_utils.stain.normalize import BASELINES, METHODS, MINIMUM_TILES

TILES, OME_TIFF = "tiles", "ome-tiff"
FORMATS: Final = (TILES, OME_TIFF)


@dataclass(frozen=True)
class Recipe:
    """What the user asked for; the command's defaults.

    Attributes
    ----------
    method : str
        One of :data:`~deeplrhe_utils.stain.normalize.METHODS`; empty is "dcgmm".
    model : Path, optional
        Folder of a normalizer that is used instead of a fit.
    reference : str
        See :func:`~deeplrhe_utils.running.restain_sources.reference_source`; empty takes the medoid.
    format : {"tiles", "ome-tiff"}
    mpp : float, optional
        Resolution of the output [µm/px], 0 for each slide's own. Default: 0.5 of tiles, its own of OME-TIFF.
    mpp_csv : Path, optional
        Table slide_id,mpp [µm/px] of slides whose files tell no resolution, or a wrong one.
    tile_px : int
        Side of the tiles [px].
    quality : int, optional
        JPEG quality of OME-TIFF; default 90.
    lossless : bool
        OME-TIFF without loss.
    statistics_tiles : int
        Most tiles that a slide's statistics come from.
    fit_steps, seed : int, optional
        Of the fit; default 300 and 0.
    white : bool
        Take the glass off every slide.
    compiled : bool
        Compile the pixel arithmetic.
    thin_slide : {"error", "cohort"}, optional
        Leave slides of too little tissue unchanged, or map them with the statistics of all. Default: "error", or the
        model's.
    """

    method: str = ""
    model: Path | None = None
    reference: str = ""
    format: str = TILES
    mpp: float | None = None
    mpp_csv: Path | None = None
    tile_px: int = 512
    quality: int | None = None
    lossless: bool = False
    statistics_tiles: int = 32
    fit_steps: int | None = None
    seed: int | None = None
    white: bool = False
    compiled: bool = False
    thin_slide: str | None = None

    def check(self) -> None:
        """Raise :class:`ParameterError` for what is unknown, out of range, or contradicts itself."""
        known = {"--method": (self.method or METHODS[0], METHODS), "--format": (self.format, FORMATS),
                 "--thin-slide": (self.thin_slide or "error", ("error", "cohort"))}  # fmt: skip
        for name, (value, legal) in known.items():
            if value not in legal:
                raise ParameterError(f"{name} is unknown", got=value, expected=", ".join(legal))
        limits = {"--tile-px": (self.tile_px, 128, 2048), "--fit-steps": (self.fit_steps, 10, 100_000),
                  "--statistics-tiles": (self.statistics_tiles, MINIMUM_TILES, 1024),
                  "--quality": (self.quality, 1, 100), "--seed": (self.seed, 0, 2**63)}  # fmt: skip
        for name, (number, low, high) in limits.items():
            if number is not None and not low <= number <= high:
                raise ParameterError(f"{name} is out of range", got=number, expected=f"{low} to {high}")
        if self.wanted_mpp and not PLAUSIBLE_MPP[0] <= self.wanted_mpp <= PLAUSIBLE_MPP[1]:
            legal_mpp = "{:g} to {:g} µm/px, or 0 for each slide's own".format(*PLAUSIBLE_MPP)
            raise ParameterError("--mpp is out of range", got=self.mpp, expected=legal_mpp)
        self._check_together()

    def _check_together(self) -> None:
        if self.format == OME_TIFF and self.tile_px % 16:
            raise ParameterError("TIFF does not allow such tiles", got=f"--tile-px {self.tile_px}",
                                 expected="a multiple of 16")  # fmt: skip
        if self.format == TILES and (self.quality is not None or self.lossless):
            raise ParameterError("--quality and --lossless are about --format ome-tiff", expected="PNG has no loss")
        if self.model and (self.method or self.fit_steps or self.white or self.seed is not None):
            raise ParameterError("A model is used as it was fitted", got="--model with a parameter of the fit",
                                 fix="Leave out --method, --fit-steps, --seed and --white, or --model")  # fmt: skip
        if self.method in BASELINES and (self.white or self.compiled or self.fit_steps):
            raise ParameterError(f"{self.method} has no network", got="--white, --compile or --fit-steps",
                                 fix="Leave them out, or take --method dcgmm")  # fmt: skip

    @property
    def wanted_mpp(self) -> float:
        """Resolution of the output [µm/px]; 0 for each slide's own."""
        return self.mpp if self.mpp is not None else 0.5 if self.format == TILES else 0.0
