"""Feed the readers of foreign files damaged ones until something breaks.

``python -m tests.faults.fuzz_reader --seconds 240 --folder X GOOD_SLIDE …``, or ``--reader NAME --files 10000
--folder X`` for a reader of :data:`READERS`. Every file is a mutation of a good one, read in a child process with
limits on memory and time. The reader may refuse a file or a tile with an error that names it; it may not crash, hang,
use more memory than the limit or raise anything else.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gzip
import json
import multiprocessing as mp
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image

from deeplrhe_utils.core.errors import CompendiumError, InputError
from deeplrhe_utils.slides.decoding import tiff_index
from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.outlines.find import check_no_nuclei, read_annotation, told_classes, tumour_outline
from deeplrhe_utils.slides.reading.dicom import missing_tags, names_of, series_of
from deeplrhe_utils.slides.reading.opening import open_handle
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.reading.resolution import resolution_evidence, resolution_note
from deeplrhe_utils.slides.tiles.tiling import TilingRules, tile_slide

MEMORY_BYTES = 3_000_000_000  # address space, of which the libraries map about 1 GB
SECONDS_PER_FILE = 20
EXTREME = (0, 1, 2, 7, 60_000, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFF0)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One damaged copy: flipped bytes, absurd numbers in the index, holes, cuts, repeated or moved parts."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        kind = rng.choice(["bits", "number", "number", "hole", "cut", "copy", "head", "jpeg"])
        at = _somewhere(out, rng)
        if kind == "bits":
            for place in rng.integers(0, len(out), int(rng.integers(1, 40))):
                out[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == "number":  # aligned as tags are
            at -= at % 2
            out[at : at + 4] = int(rng.choice(EXTREME)).to_bytes(4, "little")
        elif kind == "hole":
            length = int(rng.integers(1, 2000))
            out[at : at + length] = bytes([int(rng.choice([0, 255]))]) * len(out[at : at + length])
        elif kind == "cut":
            del out[max(16, at) :]
        elif kind == "copy":
            source, length = _somewhere(out, rng), int(rng.integers(1, 500))
            out[at : at + length] = out[source : source + length]
        elif kind == "head":
            out[int(rng.integers(0, 16))] = int(rng.integers(0, 256))
        elif kind == "jpeg":  # the frame header of some tile claims another size
            starts = [i for i in range(0, min(len(out), 200_000)) if out[i : i + 2] == b"\xff\xc0"]
            if starts:
                place = int(rng.choice(starts)) + 5
                out[place : place + 4] = int(rng.choice([60_000, 480, 8])).to_bytes(2, "big") * 2
        if len(out) < 32:
            break
    return bytes(out)


def _somewhere(data: bytearray, rng: np.random.Generator) -> int:
    """A place, half of the time in the last or first 4 kB, where TIFF keeps its index."""
    where = rng.random()
    if where < 0.35:
        return max(0, len(data) - 1 - int(rng.integers(0, min(4096, len(data)))))
    if where < 0.5:
        return int(rng.integers(0, min(4096, len(data))))
    return int(rng.integers(0, len(data)))


def exercise(path: Path) -> str:
    """Read a file in every way; what came of it, in a word. Anything but our own errors escapes."""
    try:
        with Slide(path, mpp=0.5) as slide:
            width, height = slide.dimensions
            side = min(256, width, height)
            squares = [Square(x, y, side) for x in (0, (width - side) // 2, width - side) for y in (0, height - side)]
            found = [tile for out in (side, max(1, side // 2)) for tile in slide.read_tiles(squares, out)]
            bad = sum(isinstance(tile, CompendiumError) for tile in found)
            for tile in found:
                assert isinstance(tile, CompendiumError) or (tile.ndim == 3 and tile.dtype == np.uint8), tile
            if width * height < 50_000_000:
                assert slide.thumbnail(64, damaged=(1, 2, 3)).shape[2] == 3
        if width * height < 50_000_000:
            row = {"slide_id": "x", "patient_id": "x", "path": str(path), "mpp": 0.5}
            tiles = tile_slide(row, TilingRules(tile_px=min(256, side)))
            assert tiles["kept"].notna().all()
    except InputError as error:
        assert str(error).strip()
        return "refused"
    return "whole" if not bad else "in part"


WORDS = (
    b"NaN", b"1e999", b"-1", b"null", b"true", b"[", b"]", b"{", b"}", b"{}", b'"', b"'", b"<", b">", b"/>", b"&x;",
    b"\0", b"\xff", b"9" * 400, b"type", b"<!DOCTYPE x>", b"<a>" * 300, b"[" * 3000, b"PhysicalSizeX", b"<!--", b"&#0;",
)  # fmt: skip


def mutate_text(data: bytes, rng: np.random.Generator) -> bytes:
    """One damaged copy of a text: words put in, parts cut, repeated or moved, bytes changed."""
    out = bytearray(data)
    for _ in range(min(5, int(rng.geometric(0.5)))):
        at, kind = int(rng.integers(0, len(out) + 1)), rng.choice(["word", "word", "cut", "repeat", "move", "bits"])
        stop = at + int(rng.integers(0, 40))
        if kind == "word":
            out[at : min(stop, at + int(rng.integers(0, 12)))] = WORDS[int(rng.integers(len(WORDS)))]
        elif kind == "cut":
            del out[at:stop]
        elif kind == "repeat":
            out[at:at] = out[at:stop] * int(rng.choice([1, 2, 50]))
        elif kind == "move":
            place = int(rng.integers(0, len(out) + 1))
            out[place:place] = out[at : at + int(rng.integers(0, 200))]
        elif len(out):
            out[at % len(out)] = int(rng.integers(0, 256))
    return bytes(out)


VALUES = (None, True, -1, 0, 1e308, 10**400, "", "x", "annotation", "Polygon", "GeometryCollection", [], [[]], {},
          [0, 0], [[0, 0], [1, 1]], {"type": "Feature"}, {"type": "Point", "coordinates": [1, 2]})  # fmt: skip


def mutate_json(data: bytes, rng: np.random.Generator) -> bytes:
    """One damaged copy of JSON: half of the time as text, else values replaced, removed, repeated or put elsewhere."""
    if rng.random() < 0.5 or not data.startswith(b"{"):
        return mutate_text(data, rng)
    document = json.loads(data)
    for _ in range(int(rng.integers(1, 4))):
        places = [(document, key) for key in document]
        for holder, key in places:  # grows while it is walked
            inner = holder[key]
            keys = inner if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
            places += [(inner, inside) for inside in keys]
        if not places:
            break
        (holder, key), (other, there) = (places[int(rng.integers(len(places)))] for _ in range(2))
        kind = rng.choice(["value", "value", "remove", "repeat", "move"])
        if kind == "remove":
            del holder[key]
        elif kind == "repeat" and isinstance(holder, list):
            holder[key:key] = [holder[key]] * 3
        else:
            new = other[there] if kind == "move" else VALUES[int(rng.integers(len(VALUES)))]
            holder[key] = json.loads(json.dumps(new))
    return json.dumps(document).encode()


ATTRIBUTES = (
    b"",
    b"NaN",
    b"-1",
    b"0",
    b"1e9",
    b"1e400",
    b"3",
    b"9",
    b"x",
    b"None",
    b"_2",
    b"Tumor",
    b"Dot",
    b"Rectangle",
)


def mutate_xml(data: bytes, rng: np.random.Generator) -> bytes:
    """One damaged copy of XML: half of the time as text, else attributes replaced, tags removed, repeated or moved."""
    if rng.random() < 0.5 or b"\0" in data:
        return mutate_text(data, rng)
    out = data
    for _ in range(int(rng.integers(1, 5))):
        kind = rng.choice(["attribute", "attribute", "remove", "repeat", "move"])
        found = [m.span(1) for m in re.finditer(rb'"([^"]*)"' if kind == "attribute" else rb"(<[^<>?]*/>)", out)]
        if not found:
            break
        (start, stop), (there, _) = (found[int(rng.integers(len(found)))] for _ in range(2))
        tag = out[start:stop]
        if kind == "attribute":
            out = out[:start] + ATTRIBUTES[int(rng.integers(len(ATTRIBUTES)))] + out[stop:]
        elif kind == "remove":
            out = out[:start] + out[stop:]
        elif kind == "repeat":
            out = out[:start] + tag * int(rng.choice([2, 300])) + out[stop:]
        else:
            out = out[:there] + tag + out[there:]
    return out


POLYGON = b'{"type":"Polygon","coordinates":[[[0,0],[90,0],[90,90],[0,90],[0,0]],[[5,5],[9,5],[9,9],[5,5]]]}'
FEATURE = (
    b'{"type":"Feature","id":"PathAnnotationObject","geometry":%s,"properties":{"objectType":"annotation","name":"a",'
    b'"classification":{"name":"Tumor"},"metadata":{"note":"n"}}}'
)
COLLECTION = b'{"type":"GeometryCollection","geometries":[%s,{"type":"Point","coordinates":[1,2]}]}' % POLYGON
GEOJSON = b'{"type":"FeatureCollection","features":[%s,%s]}' % (FEATURE % POLYGON, FEATURE % COLLECTION)
CAMELYON = (
    b'{"positive":[{"name":"a","vertices":[[0,0],[90,0],[90,90]]}],"negative":[{"vertices":[[50,5],[60,5],[60,9]]}]}'
)
VERTICES = b'<Vertex X="0" Y="0"/><Vertex X="90" Y="0"/><Vertex X="90.5" Y="90"/>'
IMAGESCOPE = (
    b'<?xml version="1.0" encoding="UTF-8"?><Annotations><Annotation Name="Tumor"><Attributes><Attribute Name="a" '
    b'Value="b"/></Attributes><Regions><Region Id="1" Type="0" Text="t" NegativeROA="0"><Vertices>%s</Vertices>'
    b'</Region><Region Id="2" Type="2" NegativeROA="1"><Vertices>%s</Vertices></Region></Regions>'
    b"</Annotation></Annotations>"
) % (VERTICES, VERTICES)
ASAP = (
    b'<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="Acinar"><Coordinates>'
    b'<Coordinate Order="0" X="0" Y="0"/><Coordinate Order="1" X="9" Y="0"/><Coordinate Order="2" X="9" Y="9"/>'
    b'</Coordinates></Annotation></Annotations><AnnotationGroups><Group Name="Acinar" PartOfGroup="Tumor"/>'
    b'<Group Name="Tumor" PartOfGroup="None"/></AnnotationGroups></ASAP_Annotations>'
)
OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image '
    'ID="Image:0"><Pixels PhysicalSizeX="0.5" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="0.5" '
    'SizeX="100" SizeY="80"/></Image><Image><Pixels SizeX="10" SizeY="8" PhysicalSizeX="5" PhysicalSizeXUnit="µm"/>'
    "</Image></OME>"
).encode()
IMAGEJ = b"ImageJ=1.53t\nimages=1\nunit=micron\nloop=false\n"


def read_outline(path: Path) -> str:
    """Read an annotation, with all that follows from it."""
    regions = read_annotation(
        path, slide_px=(64, 48), tumour_classes=("Acinar", "Tumor") if path.stat().st_size % 2 else ()
    )
    assert all(region.geometry.is_valid and region.geometry.area > 0 for region in regions)
    told_classes(regions)
    check_no_nuclei(regions, 0.25, path.name)
    return "whole" if tumour_outline(regions).area > 0 and not regions.left_out else "in part"


def read_description(path: Path) -> str:
    """What a TIFF's description tells of the resolution."""
    told = {"openslide.vendor": "generic-tiff", "tiff.ImageDescription": path.read_bytes().decode("utf-8", "replace"),
            "tiff.ResolutionUnit": "none", "tiff.XResolution": "2", "tiff.YResolution": "2"}  # fmt: skip
    handle = SimpleNamespace(properties=told, dimensions=(100, 80), level_dimensions=((100, 80),))
    evidence = resolution_evidence(handle)
    resolution_note(evidence)
    return "whole" if any(one.verdict == "used" for one in evidence) else "in part"


def read_header(path: Path) -> str:
    """What a DICOM header tells."""
    names_of(path.rename(path.with_name("1.2.3.4.5.dcm")))
    missing_tags(path.with_name("1.2.3.4.5.dcm"))
    return "whole" if series_of([path.with_name("1.2.3.4.5.dcm")]) else "in part"


def read_index(path: Path) -> str:
    """The index of a TIFF, and the file opened by it."""
    counted = 0
    with open(path, "rb") as stream:
        for read in (tiff_index.read_layouts, tiff_index.read_tiled_directories):
            with contextlib.suppress(tiff_index.TiffIndexError):
                counted += len(read(stream.fileno()))
    with open_handle(path) as handle:
        resolution_note(resolution_evidence(handle))
    return "whole" if counted else "in part"


class Reader(NamedTuple):
    """How good files of a kind are written into a folder, damaged, and read."""

    write: Callable[[Path], object]
    mutate: Callable[[bytes, np.random.Generator], bytes] = mutate_text
    read: Callable[[Path], str] = read_outline


def _texts(**texts: bytes) -> Callable[[Path], object]:
    return lambda folder: [(folder / name.replace("_", ".")).write_bytes(text) for name, text in texts.items()]


def _write_masks(folder: Path) -> None:
    pixels = np.zeros((12, 16), np.uint8)
    pixels[2:9, 3:12] = 1
    for name in ("a.png", "b.tif"):
        Image.fromarray(pixels).save(folder / name)


def _write_tiffs(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3)).astype(np.uint8)
    where = {"photometric": "rgb", "description": OME, "metadata": None, "extratags": [(274, "H", 1, 1, True)]}
    tifffile.imwrite(folder / "a.tif", pixels, tile=(64, 64), **where)
    tifffile.imwrite(folder / "b.tif", pixels, tile=(64, 64), bigtiff=True, byteorder=">", **where)
    tifffile.imwrite(folder / "c.tif", pixels, compression="lzw", **where)


def _write_dicom(folder: Path) -> None:
    from tests.unit.test_slides_inventory_layouts import element, undefined, write_dicom

    inner = undefined(element(0x0020, 0x000E, b"UI", b"1.2.3"))
    write_dicom(folder / "a.dcm", middle=inner)
    write_dicom(folder / "b.dcm", kind="RESAMPLED")


READERS = {
    "geojson": Reader(_texts(a_geojson=GEOJSON, b_json=CAMELYON, c_gz=gzip.compress(GEOJSON, mtime=0)), mutate_json),
    "xml": Reader(_texts(a_xml=IMAGESCOPE, b_xml=ASAP, c_xml=IMAGESCOPE.decode().encode("utf-16")), mutate_xml),
    "description": Reader(_texts(a_txt=OME, b_txt=IMAGEJ), mutate_xml, read_description),
    "dicom": Reader(_write_dicom, lambda data, rng: mutate_header(data, rng), read_header),
    "mask": Reader(_write_masks, lambda data, rng: mutate_header(data, rng)),
    "tiff": Reader(_write_tiffs, lambda data, rng: mutate(data, rng), read_index),
}
"""The small readers; slides themselves have :func:`mutate` and :func:`exercise`."""


def mutate_header(data: bytes, rng: np.random.Generator) -> bytes:
    """One damaged copy of a small binary file, as text or as an index."""
    return (mutate if rng.random() < 0.5 and len(data) > 40 else mutate_text)(data, rng)


def fuzz_small(folder: Path, name: str, *, seed: int, files: int) -> tuple[Counter, list[str]]:
    """:func:`fuzz` of a reader of :data:`READERS`."""
    good, mutants = folder / "good", folder / "mutants"
    for place in (good, mutants):
        place.mkdir(parents=True, exist_ok=True)
    reader = READERS[name]
    reader.write(good)
    return fuzz(mutants, sorted(good.iterdir()), seed=seed, files=files, reader=reader)


def _guarded(read: Callable[[Path], str], path: Path) -> str:
    try:
        return read(path)
    except CompendiumError as error:
        assert str(error).strip()
        return "refused"


def _child(
    path: Path, seed: int, first: int, sources: list[Path], reader: Reader, report: mp.connection.Connection
) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - libtiff writes to it
    os.dup2(sys.stderr.fileno(), 2)
    faulthandler.disable()
    originals = [source.read_bytes() for source in sources]
    number = first
    while True:
        rng = np.random.default_rng([seed, number])
        which = int(rng.integers(0, len(sources)))
        file = path / f"mutant{sources[which].suffix}"
        file.write_bytes(reader.mutate(originals[which], rng))
        report.send((number, "started"))
        signal.alarm(SECONDS_PER_FILE)  # not caught: a hang ends the child
        try:
            outcome = _guarded(reader.read, file)
        except BaseException as error:
            outcome = f"ESCAPED {type(error).__name__}: {error}"
        signal.alarm(0)
        report.send((number, outcome))
        number += 1


def fuzz(
    folder: Path, sources: list[Path], *, seed: int, files: int = 0, seconds: float = 0, reader: Reader | None = None
) -> tuple[Counter, list[str]]:
    """Counts by outcome, and the findings: mutations that crashed, hung or raised something else.

    A finding's number and the seed make the file again: ``mutate(original, default_rng([seed, number]))``.
    """
    reader = reader or Reader(lambda _: None, mutate, exercise)
    context, counts, findings = mp.get_context("fork"), Counter(), []
    end, number = time.monotonic() + (seconds or 1e9), 0
    while time.monotonic() < end and (not files or number < files):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(folder, seed, number, sources, reader, theirs))
        child.start()
        theirs.close()
        try:
            while time.monotonic() < end and (not files or number < files):
                number, outcome = ours.recv()
                if outcome == "started":
                    continue
                counts[outcome.split(":")[0]] += 1
                findings += [f"{number}: {outcome}"] if outcome.startswith("ESCAPED") else []
                number += 1
        except EOFError:
            child.join()
            counts["CRASHED"] += 1
            findings.append(f"{number}: the process ended with code {child.exitcode}")
            number += 1
        child.kill()
        child.join()
    return counts, findings


def main() -> int:
    """Fuzz for a while; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", type=Path, help="good slides to damage")
    parser.add_argument("--reader", choices=sorted(READERS), help="a small reader, which needs no sources")
    parser.add_argument("--files", type=int, default=10_000, help="how many, of a small reader")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="for the damaged file")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.reader:
        counts, findings = fuzz_small(options.folder, options.reader, seed=options.seed, files=options.files)
    else:
        counts, findings = fuzz(options.folder, options.sources, seed=options.seed, seconds=options.seconds)
    print(dict(counts), *findings, sep="\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
