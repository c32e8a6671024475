"""Which resolution a slide tells, in how many places, and whether these agree.

A file can tell its resolution several times: OpenSlide's microns per pixel (read off the vendor's own fields), OME-XML,
TIFF resolution tags, objective power. The first plausible one of this order is used, unless the user gives another
(override); what the others say is kept as evidence, so that a slide whose 20× and 40× are mixed up does not pass
unseen.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple
from xml.parsers import expat

import numpy as np
import openslide

from deeplrhe_utils.core.errors import MissingMppError, SlideError
from deeplrhe_utils.core.units import PLAUSIBLE_MPP, mpp_from_objective

Handle = openslide.OpenSlide | openslide.ImageSlide

MAX_MPP_ANISOTROPY: Final = 0.05
CONTRADICTION: Final = 1.3
"""Ratio from which two resolutions contradict each other. Scanners called 40× have 0.22 to 0.28 µm/px and those called
20× 0.44 to 0.56 (at most 1.14 from the convention), while a mix-up of the two is a factor of 2."""
PLAUSIBLE_POWER: Final = (1.0, 100.0)
_SAME: Final = 1e-3
_PYRAMID_TOLERANCE: Final = 0.02
_MICRONS: Final = {"inch": 25400.0, "centimeter": 10000.0}
_TIFF_UNITS: Final = {2: "inch", 3: "centimeter"}
PROPERTY_POWER: Final = str(openslide.PROPERTY_NAME_OBJECTIVE_POWER)
PLAIN_VENDORS: Final = ("generic-tiff", "image")
"""Files of no vendor: the first picture is the slide."""

_OME: Final = re.compile(r"<(?:\w+:)?OME[\s>]")
_IMAGEJ: Final = re.compile(r"^ImageJ=.*?^unit=([^\r\n]+)", re.DOTALL | re.MULTILINE)
_UNITS: Final = {
    "pm": 1e-6, "Å": 1e-4, "Å": 1e-4, "nm": 1e-3, "µm": 1.0, "μm": 1.0, "\ufffdm": 1.0, "\\u00B5m": 1.0, "um": 1.0,
    "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6, "in": 25400.0, "inch": 25400.0,
} | dict.fromkeys(("micron", "microns", "micrometer", "micrometre", "micrometers", "micrometres"), 1.0)  # fmt: skip
"""Micrometres per unit; ``\ufffd`` stands for the µ of a file that is not UTF-8."""
_APERIO_SIZE: Final = re.compile(r"\[\s*\d+\s*,\s*\d+\s+(\d+)\s*x\s*(\d+)\s*\]")


class Resolution(NamedTuple):
    """Level-0 resolution [µm/px] and where it came from (``slides.mpp_source``)."""

    mpp: float
    source: str


class Evidence(NamedTuple):
    """One statement about a slide's level-0 resolution.

    Attributes
    ----------
    source : ``override``, a property's name, ``OME-XML``, ``ImageJ``, ``TIFF tags``, ``Aperio description``,
        ``level k`` or ``pages``
    verdict : ``used``; ``agrees`` with what is used, or ``contradicts`` it by :data:`CONTRADICTION` or more;
        ``implausible``; ``anisotropic`` (more than 5 %)
    detail : the same in words
    """

    source: str
    verdict: str
    detail: str


class _Claim(NamedTuple):
    """One statement before it is judged; `kind` is what ``slides.mpp_source`` calls it."""

    source: str
    kind: str
    x: float | None
    y: float | None
    said: str

    @property
    def plausible(self) -> bool:
        told = self.x is not None and self.y is not None
        return told and all(v is not None and PLAUSIBLE_MPP[0] <= v <= PLAUSIBLE_MPP[1] for v in (self.x, self.y))

    @property
    def isotropic(self) -> bool:
        x, y = self.x or 0.0, self.y or 0.0
        return self.kind == "objective" or abs(x - y) <= MAX_MPP_ANISOTROPY * min(x, y)

    @property
    def mpp(self) -> float:
        return float(np.sqrt((self.x or 0.0) * (self.y or 0.0)))


def vendor_of(handle: Handle) -> str:
    """OpenSlide's vendor, or ``image`` for plain images."""
    return str(handle.properties.get(openslide.PROPERTY_NAME_VENDOR, "image"))


def number(text: str | None) -> float | None:
    """A finite number told as text (a decimal comma counts as a point), else None."""
    value = _told(text)
    return value if value is not None and np.isfinite(value) else None


def _told(text: str | None) -> float | None:
    """Like :func:`number`, but NaN where something is told that is no finite number."""
    if text is None or not text.strip():
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return float("nan")
    return value if np.isfinite(value) else float("nan")


def resolution_of(handle: Handle, name: str, override: float | None = None) -> Resolution:
    """Find a slide's level-0 resolution.

    Order: `override`; microns per pixel of the metadata (of the TIFF tags, for generic TIFF and plain images);
    TIFF tags beside a vendor's metadata; objective power by the convention 10 / power. A value outside
    `PLAUSIBLE_MPP` counts as missing, and the error names it. Contradictions do
    not change the order; :func:`resolution_note` tells them.

    Parameters
    ----------
    name : file name, for messages
    override : resolution to believe instead of the file [µm/px]

    Raises SlideError: horizontal and vertical resolution differ by more than 5 %, or `override` is implausible.
    MissingMppError: no usable resolution.
    """
    if override is not None:
        if not PLAUSIBLE_MPP[0] <= override <= PLAUSIBLE_MPP[1]:
            raise SlideError(f"The resolution given for {name} is implausible", got=override, expected=_range_text())
        return Resolution(float(override), "override")
    claims = _claims(handle)
    first = next((claim for claim in claims if claim.plausible), None)
    if first is None:
        raise _missing(name, claims)
    if not first.isotropic:
        raise SlideError(
            f"Slide {name} has different resolutions across and down",
            got=f"{first.x:g} × {first.y:g} µm/px",
            expected="a difference of at most 5 %",
            fix="Give the right value in mpp_csv",
        )
    return Resolution(float(first.x or 0.0), first.kind)


def resolution_evidence(handle: Handle, override: float | None = None) -> list[Evidence]:
    """Everything that is said about a slide's level-0 resolution, judged against the one that is used.

    Parameters are those of :func:`resolution_of`. The order is that of preference, contradictions in the pyramid
    last.
    """
    claims = _claims(handle)
    if override is not None:
        claims.insert(0, _Claim("override", "override", override, override, f"{override:g} µm/px"))
    first = next((claim for claim in claims if claim.plausible), None)
    judged = [_judge(claim, first) for claim in claims]
    return [*judged, *_reduced(handle, first), *_pyramid(handle), *_other_pictures(handle)]


def resolution_note(evidence: Iterable[Evidence]) -> str | None:
    """What a user should know about a slide's resolution (``slides.resolution_note``).

    Contradictions, and metadata or an override that were refused. Implausible TIFF tags and powers are told only
    where nothing is usable: beside a good resolution they are noise (the tags describe paper).
    """
    found = list(evidence)
    usable = any(e.verdict == "used" for e in found)
    noise = ("TIFF tags", PROPERTY_POWER) if usable else ()
    told = [e for e in found if e.verdict not in ("used", "agrees")]
    return "; ".join(e.detail for e in told if e.verdict != "implausible" or e.source not in noise) or None


def _range_text() -> str:
    return f"{PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g} µm/px"


def _missing(name: str, claims: list[_Claim]) -> MissingMppError:
    told = [f"{c.source}: {c.said}" for c in claims]
    refused = f"; what it claims is not plausible ({_range_text()}): {', '.join(told)}" if told else ""
    return MissingMppError(
        f"Slide {name} has no microns per pixel (openslide.mpp-x and objective power are absent or unusable{refused}), "
        "so tiling at a given resolution is impossible",
        fix="Give it in a CSV with the columns slide_id,mpp (parameter mpp_csv)",
    )


def _judge(claim: _Claim, first: _Claim | None) -> Evidence:
    verdict, detail = "agrees", f"{claim.source}: {claim.said}"
    if not claim.plausible:
        verdict, detail = "implausible", f"{detail}, not plausible ({_range_text()})"
    elif not claim.isotropic:
        verdict, detail = "anisotropic", f"{detail}, different across and down"
    elif claim is first:
        verdict = "used"
    elif first is not None and _factor(claim.mpp, first.mpp) >= CONTRADICTION:
        verdict, detail = "contradicts", f"{detail}, but {first.mpp:.4g} µm/px is used ({_apart(claim.mpp, first.mpp)})"
    return Evidence(claim.source, verdict, detail)


def _factor(a: float, b: float) -> float:
    return max(a / b, b / a)


def _apart(a: float, b: float) -> str:
    """How far two resolutions are apart; a factor near 2 is what mixing up 20× and 40× gives."""
    factor = _factor(a, b)
    mixed = ": are 20× and 40× mixed up?" if 1.6 <= factor <= 2.5 else ""
    return f"a factor of {factor:.2g}{mixed}"


def _claims(handle: Handle) -> list[_Claim]:
    """All statements of the file in order of preference; repetitions are folded into the first."""
    found: list[_Claim] = []
    for claim in _all_claims(handle):
        twin = next((i for i, c in enumerate(found) if c.kind == claim.kind and _same(c, claim)), None)
        if twin is None:
            found.append(claim)
        else:
            found[twin] = found[twin]._replace(said=f"{found[twin].said} (also {claim.source})")
    return found


def _same(a: _Claim, b: _Claim) -> bool:
    pairs = ((a.x, b.x), (a.y, b.y))
    close = all(p is not None and q is not None and abs(p - q) <= _SAME * abs(p) for p, q in pairs)
    return close or a.said.partition(" (also")[0] == b.said


def _all_claims(handle: Handle) -> Iterator[_Claim]:
    properties = handle.properties
    kind = "tiff-tags" if vendor_of(handle) in PLAIN_VENDORS else "metadata"
    x, y = (_told(properties.get(n)) for n in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
    yield from _claim("openslide.mpp", kind, x, y)
    told = _told(properties.get("aperio.MPP"))  # what OpenSlide refuses is not told by it
    yield from _claim("aperio.MPP", "metadata", told, told)
    yield from _claim("OME-XML", "metadata", *_ome(handle))
    yield from _claim("ImageJ", "metadata", *_imagej(handle))
    yield from _claim("TIFF tags", "tiff-tags", *_tags(handle))
    yield from _power(PROPERTY_POWER, _told(properties.get(PROPERTY_POWER)))


def _claim(source: str, kind: str, x: float | None, y: float | None) -> Iterator[_Claim]:
    if x is not None or y is not None:
        both = [("nothing" if v is None else f"{v:g}") for v in (x, y)]
        said = f"{both[0]} µm/px" if both[0] == both[1] else f"{both[0]} × {both[1]} µm/px"
        yield _Claim(source, kind, x, y, said)


def _power(source: str, power: float | None) -> Iterator[_Claim]:
    if power is None:
        return
    sane = PLAUSIBLE_POWER[0] <= power <= PLAUSIBLE_POWER[1]
    mpp = float(mpp_from_objective(power)) if sane else float("nan")
    said = f"{power:g}×, by convention {mpp:g} µm/px" if sane else f"{power:g} as power"
    yield _Claim(source, "objective", mpp, mpp, said)


class _OmePixels:
    """Attributes of the Pixels elements of OME-XML, as far as it can be read; document types are refused."""

    def __init__(self, text: str) -> None:
        self.found: list[dict[str, str]] = []
        parser = expat.ParserCreate(encoding="utf-8")
        parser.StartElementHandler = self._element
        parser.StartDoctypeDeclHandler = self._refuse
        with contextlib.suppress(expat.ExpatError, ValueError):  # ValueError: a document type, or no Unicode
            parser.Parse(text[text.index("<") :].encode("utf-8"), True)

    def _element(self, tag: str, attributes: dict[str, str]) -> None:
        if tag.rpartition(":")[2] == "Pixels":
            self.found.append(attributes)

    def _refuse(self, *_: object) -> None:
        raise ValueError


def _ome_pixels(handle: Handle) -> tuple[dict[str, str], str]:
    """Attributes of the picture in OME-XML that was opened, by its size; else the size of those that are told."""
    text = _description(handle)
    told = _OmePixels(text).found if _OME.search(text) else []
    wanted = tuple(map(str, handle.dimensions))
    sizes = [(pixels.get("SizeX", wanted[0]).strip(), pixels.get("SizeY", wanted[1]).strip()) for pixels in told]
    if wanted in sizes:
        return told[sizes.index(wanted)], ""
    return {}, ", ".join(f"{x} × {y}" for x, y in sizes[:3])


def _ome(handle: Handle) -> tuple[float | None, float | None]:
    """Pixel size in OME-XML of the picture that was opened [µm/px]; the default unit is the micrometre."""
    told = _ome_pixels(handle)[0]
    units = [_UNITS.get(told.get(f"PhysicalSize{axis}Unit", "µm").strip()) for axis in "XY"]
    sizes = [_told(told.get(f"PhysicalSize{axis}")) for axis in "XY"]
    x, y = (None if unit is None or v is None else v * unit for v, unit in zip(sizes, units, strict=True))
    return x, y


def _imagej(handle: Handle) -> tuple[float | None, float | None]:
    """Pixel size that ImageJ writes: resolution tags without a unit, which its description tells [µm/px]."""
    unit = _IMAGEJ.search(_description(handle))
    micrometres = _UNITS.get(unit[1].strip()) if unit and _tags(handle) == (None, None) else None
    x, y = (micrometres / v if micrometres and (v := _told(text)) else None for text in _resolution_tags(handle)[1])
    return x, y


def _plain_tags(handle: Handle) -> dict[int, Any]:
    """TIFF tags of a plain image; JPEG and PNG densities describe paper and are not read."""
    image = getattr(handle, "_image", None) if isinstance(handle, openslide.ImageSlide) else None
    return dict(getattr(image, "tag_v2", None) or {})


def _description(handle: Handle) -> str:
    if told := handle.properties.get("tiff.ImageDescription"):
        return str(told)
    text = str(_plain_tags(handle).get(270) or "")  # Pillow takes every description for Latin-1
    return text.encode("latin-1", "replace").decode("utf-8", "replace")


def _resolution_tags(handle: Handle) -> tuple[str, list[str | None]]:
    """Unit and values of the TIFF resolution tags."""
    if isinstance(handle, openslide.ImageSlide):
        tags = _plain_tags(handle)
        unit = _TIFF_UNITS.get(tags.get(296, 2), "")
        values = [str(tags[t]) if t in tags else None for t in (282, 283)]
    else:  # OpenSlide hands over the tags of the first directory, for these vendors that of an overview
        unit = "" if vendor_of(handle) in ("leica", "ventana") else handle.properties.get("tiff.ResolutionUnit", "")
        values = [handle.properties.get(f"tiff.{axis}Resolution") for axis in "XY"]
    return unit, values


def _tags(handle: Handle) -> tuple[float | None, float | None]:
    """TIFF resolution tags [µm/px]."""
    unit, values = _resolution_tags(handle)
    microns = _MICRONS.get(unit)
    x, y = (None if microns is None or not (v := _told(t)) else microns / v for t in values)
    return x, y


def _reduced(handle: Handle, first: _Claim | None) -> Iterator[Evidence]:
    """An Aperio description of a larger picture: level 0 was dropped, and the told resolution is of what is gone."""
    size = _APERIO_SIZE.search(_description(handle)) if vendor_of(handle) == "aperio" else None
    if size is None or first is None or first.kind != "metadata" or not all(int(v) for v in size.groups()):
        return
    ratios = [int(told) / real for told, real in zip(size.groups(), handle.dimensions, strict=True)]
    if min(ratios) >= CONTRADICTION or max(ratios) <= 1 / CONTRADICTION:
        x, y = (v * r for v, r in zip((first.x or 0.0, first.y or 0.0), ratios, strict=True))
        detail = f"Aperio description: of {size[1]} × {size[2]} px, but level 0 has {handle.dimensions[0]} × "
        detail += f"{handle.dimensions[1]} px; if it was resized, its resolution is {np.sqrt(x * y):.4g} µm/px"
        yield Evidence("Aperio description", "contradicts", detail)


def _other_pictures(handle: Handle) -> Iterator[Evidence]:
    """OME-XML of other pictures than the one that was opened; pages that are not read."""
    own = "{} × {} px".format(*handle.dimensions)
    if others := _ome_pixels(handle)[1]:
        yield Evidence("OME-XML", "contradicts", f"OME-XML: of {others} px, but the picture has {own}: it is not used")
    pages = getattr(getattr(handle, "_image", None), "n_frames", 1) if isinstance(handle, openslide.ImageSlide) else 1
    if pages > 1:
        yield Evidence("pages", "contradicts", f"the file holds {pages} pages, of which the first is read ({own})")


def _pyramid(handle: Handle) -> Iterator[Evidence]:
    """Levels that are reduced differently across and down, beyond what rounding to pixels explains."""
    width, height = handle.dimensions
    for level, (w, h) in enumerate(handle.level_dimensions):
        across, down = width / w, height / h
        if abs(across - down) > min(across, down) * (_PYRAMID_TOLERANCE + 1.5 / min(w, h)):
            detail = f"level {level}: reduced {across:.3g} times across, {down:.3g} times down"
            yield Evidence(f"level {level}", "contradicts", detail)
