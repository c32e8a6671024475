"""What this machine has, and what each profile needs; and what slides tell of their resolution."""

from __future__ import annotations

import platform
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import CompendiumError, InputError, ParameterError
from deeplrhe_utils.core.files import check_new_file
from deeplrhe_utils.core.text import on_one_line
from deeplrhe_utils.running.machine.provenance import (
    cpu_model,
    gpu_name,
    library_versions,
    memory_limit_bytes,
    usable_cores,
)
from deeplrhe_utils.running.plan.profiles import Profile, load_profile, profile_names

if TYPE_CHECKING:
    from deeplrhe_utils.slides.reading.resolution import Handle

_GB = 1e9
FINE, CONTRADICTION, UNRESOLVED, UNREADABLE = "fine", "contradiction", "no resolution", "cannot be read"
NOT_HE: Final = "not H&E"
_SHOWN: Final = ("slide", "vendor", "size", "levels", "reader", "mpp", "source", "objective", "verdict")


def examine(out: Path, profiles: Path = places.PROFILES) -> str:
    """Versions, OpenSlide, GPU, cores, memory and free disk, then every profile's needs against them.

    Parameters
    ----------
    out : where a run would be kept; its disk is the one that counts
    profiles : folder of the profiles
    """
    machine = measure(out)
    lines = ["Machine", *_rows(_machine_rows(machine)), "", "Versions", *_rows(_version_rows()), "", "Profiles"]
    lines += [_profile_line(name, profiles, machine) for name in profile_names(profiles)]
    return "\n".join(lines)


def measure(out: Path) -> dict[str, Any]:
    """Cores, memory [GB], free disk at `out` [GB] and GPU."""
    folder = out.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return {
        "cores": usable_cores(),
        "memory_gb": memory_limit_bytes() / _GB,
        "disk_gb": shutil.disk_usage(folder).free / _GB,
        "gpu": gpu_name() or _torch_gpu(),
    }


def _machine_rows(machine: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("platform", platform.platform()),
        ("processor", f"{cpu_model()}, {machine['cores']} cores"),
        ("memory", f"{machine['memory_gb']:.1f} GB"),
        ("free disk", f"{machine['disk_gb']:.1f} GB"),
        ("GPU", machine["gpu"] or "none"),
    ]


def _version_rows() -> list[tuple[str, str]]:
    rows = [(name, version or "NOT INSTALLED") for name, version in library_versions().items()]
    return [*rows, ("OpenSlide library", openslide_version()), ("torch and torchvision", torch_state())]


def openslide_version() -> str:
    """Version of the OpenSlide library, or why it does not load."""
    try:
        import openslide
    except (ImportError, OSError) as error:
        return f"DOES NOT LOAD: {error}"
    return str(openslide.__library_version__)


def torch_state() -> str:
    """Whether torch and torchvision import together (builds from two indexes do not)."""
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        return f"DO NOT LOAD: {error}. Install both from one index"
    device = f"CUDA {torch.version.cuda}" if torch.cuda.is_available() else "CPU"
    return f"{torch.__version__} and {torchvision.__version__} load, on {device}"


def _torch_gpu() -> str | None:
    try:
        import torch
    except (ImportError, OSError):
        return None
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    return "Apple MPS" if torch.backends.mps.is_available() else None


def _profile_line(name: str, folder: Path, machine: dict[str, Any]) -> str:
    try:
        profile = load_profile(name, folder)
    except CompendiumError as error:
        return f"  {name:<12} BROKEN: {error}"
    return f"  {name:<12} {needs(profile, machine)}"


def needs(profile: Profile, machine: dict[str, Any]) -> str:
    """What a profile needs, each need marked ok or short.

    >>> needs(Profile("smoke", "t", "synthetic", expect={"disk_gb": 1}), {"disk_gb": 0.5, "gpu": None})
    'disk 1 GB SHORT (0.5 GB)'
    """
    expect, parts = profile.expect, []
    for key, label in (("memory_gb", "memory"), ("disk_gb", "disk")):
        if key in expect:
            short = expect[key] > machine[key]
            parts.append(f"{label} {expect[key]:g} GB " + (f"SHORT ({machine[key]:.1f} GB)" if short else "ok"))
    if "seconds" in expect:
        minutes = expect["seconds"] / 60
        parts.append(f"about {minutes:.0f} min" if minutes < 120 else f"about {minutes / 60:.0f} h")
    if "gpu" in expect:
        short = expect["gpu"] == "recommended" and not machine["gpu"]
        parts.append(f"GPU {expect['gpu']}" + (" SHORT (none)" if short else " ok"))
    parts += [f"-p {key}=… ({meaning})" for key, meaning in profile.required.items()]
    return ", ".join(parts) or "nothing declared"


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:<24} {value}" for name, value in rows]


def examine_slides(
    paths: Sequence[Path],
    mpp_csv: Path | None = None,
    csv: Path | None = None,
    *,
    estimate: bool = True,
    stain_check: bool = True,
) -> tuple[str, bool]:
    """What every slide tells of its resolution, whether that holds together, and what to do.

    Parameters
    ----------
    paths : slides, and folders that are searched by the rules of `scan_slides`
    mpp_csv : resolutions that the user gives (columns slide_id,mpp [µm/px])
    csv : where the whole table is written: full paths, all evidence, estimates
    estimate : whether slides without resolution, or with one that was given, get an estimate from their nuclei. It is
        shown, never used.
    stain_check : whether slides that are not H&E are told (`stain_of`)

    Returns (text, good): a table with a line per file, and a summary; whether every file opens and has a usable
    resolution.
    Raises ParameterError: a path is not there, or `csv` is. InputError: there is no slide, or `mpp_csv` is wrong.
    """
    from deeplrhe_utils.slides.files.inventory import count_kinds, read_mpp_overrides

    for path in (*paths, *([mpp_csv] if mpp_csv else [])):
        if not path.exists():
            raise ParameterError(f"{on_one_line(str(path))} is not there", fix="Check the path")
    if csv:
        check_new_file(csv)
    overrides = read_mpp_overrides(mpp_csv) if mpp_csv else {}
    files, side = _slide_files(paths)
    if not files:
        got = ", ".join(on_one_line(str(p)) for p in paths)
        raise InputError("There are no slides in what was given", got=f"{got}: {count_kinds(side)}" if side else got)
    rows = [
        {"slide": name} | _examine(path, overrides.get(slide_id), estimate, stain_check) | {"slide_id": slide_id}
        for path, (name, slide_id) in files.items()
    ]
    if csv:
        _write_csv(rows, csv)
    unused = sorted(set(overrides) - {slide_id for _, slide_id in files.values()})
    text = "\n".join([*_table(rows), "", *_summary(rows, unused, side)])
    return text, all(row["status"] in (FINE, CONTRADICTION) for row in rows)


def _slide_files(paths: Sequence[Path]) -> tuple[dict[Path, tuple[str, str]], list[Path]]:
    """Every file once, with the name it is shown by (relative to the given folder) and its slide_id; side files."""
    from deeplrhe_utils.slides.files.inventory import ambiguous_names, find_files

    found: dict[Path, tuple[str, str]] = {}
    side: list[Path] = []
    for given in paths:
        if not given.is_dir():
            found.setdefault(given.absolute(), (given.name, given.stem))
            continue
        listing = find_files(given)
        side += listing.side
        renamed = ambiguous_names((p for p in listing.slides if p.suffix.lower() != ".dcm"), given)
        for path in listing.slides:
            found.setdefault(path.absolute(), (str(path.relative_to(given)), renamed.get(path, path.stem)))
    return found, side


def _examine(path: Path, override: float | None, estimate: bool, stain_check: bool) -> dict[str, Any]:
    """One row: what is known, `status` and `verdict`; whatever is wrong with a file ends up there."""
    from deeplrhe_utils.slides.files.inventory import open_and_test
    from deeplrhe_utils.slides.files.nuclear_size import doubt_of
    from deeplrhe_utils.slides.reading.opening import open_handle

    row: dict[str, Any] = {"path": str(path), "slide_id": path.stem, "status": UNREADABLE}
    try:
        with open_handle(path) as handle:
            row |= _told(handle, override)
        row |= open_and_test(path, override)
        if estimate and override and (doubt := doubt_of(path, override)):
            row["resolution_note"] = "; ".join(filter(None, (row["resolution_note"], doubt)))
    except (CompendiumError, OSError, ValueError, MemoryError) as error:
        if row["status"] == UNRESOLVED:
            row["verdict"] = f"NO RESOLUTION: {row['resolution_note'] or 'the file tells none'}"
            row |= _estimated(path) if estimate else {}
            row |= _stained(path, 0.5) if stain_check else {}
        else:
            row |= {"status": UNREADABLE, "verdict": f"CANNOT BE READ: {error}"}
        return row
    if stain_check and (foreign := _stained(path, row["mpp"])):
        return row | foreign
    row["status"] = CONTRADICTION if row["resolution_note"] else FINE
    row["verdict"] = f"NOTE: {row['resolution_note']}" if row["resolution_note"] else "fine"
    return row


def _stained(path: Path, mpp: float) -> dict[str, Any]:
    """What a slide is that is not H&E; nothing of one that is."""
    from deeplrhe_utils.slides.quality.stains import HE, stain_of
    from deeplrhe_utils.slides.reading.reader import Slide

    try:
        with Slide(path, mpp) as slide:
            found = stain_of(slide)
    except CompendiumError as error:
        return {"status": UNREADABLE, "verdict": f"CANNOT BE READ: {error}"}
    return {} if found.kind == HE else {"status": NOT_HE, "verdict": f"NOT H&E: {found.sentence()}"}


def _told(handle: Handle, override: float | None) -> dict[str, Any]:
    """Size, levels, objective and evidence; `status` is that of a file without resolution until one is found."""
    from deeplrhe_utils.slides.reading.resolution import PROPERTY_POWER, resolution_evidence, resolution_note, vendor_of

    evidence = resolution_evidence(handle, override)
    used = any(e.verdict == "used" for e in evidence)
    return {
        "vendor": vendor_of(handle),
        "size": "{} × {}".format(*handle.dimensions),
        "levels": handle.level_count,
        "objective": handle.properties.get(PROPERTY_POWER),
        "evidence": " | ".join(f"{e.verdict}: {e.detail}" for e in evidence),
        "resolution_note": resolution_note(evidence),
        "status": UNREADABLE if used else UNRESOLVED,
    }


def _estimated(path: Path) -> dict[str, Any]:
    """The estimate from nuclei as columns of its own: `mpp` stays empty, for nothing may take it for the truth."""
    from deeplrhe_utils.slides.files.nuclear_size import estimate_slide

    try:
        found = estimate_slide(path)
    except CompendiumError as error:
        return {"status": UNREADABLE, "estimate": f"CANNOT BE READ: {error}"}
    if found is None:
        return {"estimate": "no estimate: too few nuclei stand out"}
    numbers = {"estimated_mpp": found.mpp, "estimated_low": found.low, "estimated_high": found.high}
    return {"estimate": found.sentence()} | numbers


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Aligned lines; the last column is as long as it is."""
    cells = [list(_SHOWN), *([_cell(row, column) for column in _SHOWN] for row in rows)]
    widths = [max(_width(line[i]) for line in cells) for i in range(len(_SHOWN) - 1)] + [0]
    padded = (zip(line, widths, strict=True) for line in cells)
    return ["  ".join(text + " " * (width - _width(text)) for text, width in line).rstrip() for line in padded]


def _cell(row: dict[str, Any], column: str) -> str:
    value = row.get("mpp_source" if column == "source" else column)
    if column == "reader" and value:
        value = value.partition(" (")[0]  # the reason is in the file of --csv
    if column == "mpp" and value is not None:
        return f"{value:.4g}"
    if column == "verdict" and row.get("estimate"):
        value = f"{value}; {row['estimate']}"
    return "–" if value is None else on_one_line(str(value))


def _width(text: str) -> int:
    """Columns that a text takes on a terminal: East Asian characters and most emoji take two, accents none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _summary(rows: list[dict[str, Any]], unused: list[str], side: list[Path]) -> Iterator[str]:
    from deeplrhe_utils.slides.files.inventory import count_kinds

    count = Counter(row["status"] for row in rows)
    noun = "file" if len(rows) == 1 else "files"
    yield (
        f"{len(rows)} {noun}: {count[FINE]} fine, {count[CONTRADICTION]} with contradictions, "
        f"{count[UNRESOLVED]} without resolution, {count[UNREADABLE]} that cannot be read, {count[NOT_HE]} not H&E."
    )
    if side:
        yield f"Side files, which are no slides: {count_kinds(side)}"
    if count[NOT_HE]:
        yield "Not H&E: `run`, `predict` and `normalize` leave such slides out, unless the check is switched off."
    yield from _mixture(rows)
    if count[CONTRADICTION]:
        yield "With contradictions: the resolution shown is used; if it is wrong, give the right one in mpp_csv."
    if unused:
        yield f"The table of resolutions names slides that are not here: {on_one_line(', '.join(unused))}"
    if count[UNRESOLVED]:
        yield "Without resolution: write the scanner's µm/px behind each comma, save as CSV, give it as mpp_csv:"
        yield "slide_id,mpp"
        yield from (f"{_quoted(row['slide_id'])}," for row in rows if row["status"] == UNRESOLVED)


def _mixture(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Whether slides of several objectives lie together, by the resolution that is used."""
    from deeplrhe_utils.slides.files.nuclear_size import objective_of

    known = [row["mpp"] for row in rows if row["status"] in (FINE, CONTRADICTION)]
    groups = Counter(objective_of(mpp, mpp) for mpp in known)
    named = [f"{groups[power]} at {power}×" for power in sorted(filter(None, groups), reverse=True)]
    named += [f"{groups[None]} at another resolution"] if groups[None] else []
    if len(named) > 1:
        spread = f"{min(known):.3g} to {max(known):.3g} µm/px"
        yield f"Mixed resolutions ({spread}): {', '.join(named)}. Tiles are cut at target_mpp, whatever the slide's."


def _quoted(text: str) -> str:
    text = on_one_line(text)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"') or text != text.strip() else text


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    import pandas as pd

    from deeplrhe_utils.core.tables.foreign import write_sheet

    first = ["slide", "slide_id", "path", "status", "vendor", "size", "levels", "reader", "mpp", "mpp_source"]
    first += ["objective", "resolution_note", "evidence", "estimate", "estimated_mpp", "estimated_low"]
    names = [*first, "estimated_high", "verdict"]
    table = pd.DataFrame([[_storable(row.get(name)) for name in names] for row in rows], columns=names)
    write_sheet(table, path)


def _storable(value: object) -> object:
    """File names that are no Unicode hold halves of characters, which no file can."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
