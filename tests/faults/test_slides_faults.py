"""Damaged, hostile and odd slides: excluded or served, each with its reason; never a crash, never a silent fill."""

import os
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import shapely

from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.decoding.tiff_index import TiffIndexError, read_tiled_directories
from deeplrhe_utils.slides.files.inventory import scan_slides
from deeplrhe_utils.slides.outlines.geojson import write_geojson
from deeplrhe_utils.slides.outlines.regions import Region
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.screening import ScreenRules, screen_or_reason
from deeplrhe_utils.slides.tiles.tiling import TilingRules, slide_outline, tile_or_reason, tile_slide
from tests.faults.fuzz_reader import fuzz
from tests.tiff_slides import overwrite_tile, tissue_like, write_jpeg_slide

PICTURE = tissue_like(1100, 1000)
RULES = TilingRules(tile_px=256, target_mpp=0.25)
SCREEN = ScreenRules(tile_px=256, target_mpp=0.25)


def row_of(path, **more):
    return {"slide_id": path.stem, "patient_id": "p", "path": str(path), "mpp": 0.25, "annotation": None, **more}


@pytest.mark.parametrize("share", [0.001, 0.05, 0.4, 0.8, 0.9999])
def test_a_slide_cut_anywhere_is_excluded_or_its_lost_tiles_are_told(tmp_path, share):
    good = write_jpeg_slide(tmp_path / "good.svs", PICTURE)
    (tmp_path / "all").mkdir()
    cut = tmp_path / "all" / "cut.svs"
    cut.write_bytes(good.read_bytes()[: int(good.stat().st_size * share)])
    slides = scan_slides(tmp_path / "all")
    assert len(slides) == 1
    if slides["status"].iloc[0] == "excluded":
        assert "cut.svs" in slides["reason"].iloc[0]
        return
    tiles, reason, _ = tile_or_reason(row_of(cut), RULES)
    whole, _, _ = tile_or_reason(row_of(good), RULES)
    assert reason == "" and len(tiles) == len(whole)
    served = tiles["reason"] != "unreadable"
    assert not served.all() and tiles.loc[served.fillna(True), "background_fraction"].notna().all()
    with Slide(cut) as damaged, Slide(good) as original:  # what is served is what was there
        squares = [Square(int(t.x_l0_px), int(t.y_l0_px), 256) for t in tiles.itertuples()]
        for a, b in zip(damaged.read_tiles(squares, 256), original.read_tiles(squares, 256), strict=True):
            assert isinstance(a, SlideError) or np.array_equal(a, b)


def claim(height, width):
    """A change of the frame header: the JPEG claims another size."""

    def change(stream):
        at = stream.index(b"\xff\xc0") + 5
        return stream[:at] + struct.pack(">HH", height, width) + stream[at + 4 :]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (claim(60_000, 60_000), "60000 × 60000 px, expected 256 × 256"),
        (claim(512, 512), "512 × 512 px, expected 256 × 256"),  # would fit the buffer at half scale
        (lambda s: b"\0" * len(s), "no JPEG stream"),
        (lambda s: s[:60] + b"\xff" * (len(s) - 60), "native tile at column 1, row 1"),
        (lambda s: s[:2] + b"\xff\xe0\xff\xff" + s[6:], "native tile at column 1, row 1"),
    ],
)
def test_a_lying_or_damaged_jpeg_costs_its_tile_with_the_reason(tmp_path, change, says):
    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE)
    overwrite_tile(path, 5, change)
    with Slide(path) as slide:
        for out in (256, 128):
            found = list(slide.read_tiles([Square(0, 0, 256), Square(256, 256, 256), Square(512, 512, 256)], out))
            assert [isinstance(tile, SlideError) for tile in found] == [False, True, False]
            assert says in str(found[1])
    tiles = tile_slide(row_of(path), RULES)
    assert tiles.loc[tiles["reason"] == "unreadable", "tile_id"].tolist() == ["slide_1_1"]


def edit_directory(path, edit):
    """Let `edit(data, offset, entries)` change the first directory of a little-endian classic TIFF."""
    data = bytearray(path.read_bytes())
    offset = struct.unpack_from("<I", data, 4)[0]
    edit(data, offset, struct.unpack_from("<H", data, offset)[0])
    path.write_bytes(data)


def cyclic(data, offset, entries):
    struct.pack_into("<I", data, offset + 2 + 12 * entries, offset)


def many_tags(data, offset, _):
    struct.pack_into("<H", data, offset, 0xFFFF)


def many_offsets(data, offset, entries):
    for i in range(entries):
        tag = struct.unpack_from("<H", data, offset + 2 + 12 * i)[0]
        if tag in (324, 325):
            struct.pack_into("<I", data, offset + 2 + 12 * i + 4, 0xFFFFFFF0)


def huge(data, offset, entries):
    for i in range(entries):
        tag = struct.unpack_from("<H", data, offset + 2 + 12 * i)[0]
        if tag in (256, 257):
            struct.pack_into("<HII", data, offset + 2 + 12 * i + 2, 4, 1, 0x7FFFFFFF)


@pytest.mark.parametrize(("edit", "says"), [
    (cyclic, "follows itself"), (many_tags, "65535 tags|would lie"),
    (many_offsets, "4294967280 values"), (huge, "tiles"),
])  # fmt: skip
def test_an_index_that_cannot_be_true_is_refused_before_anything_is_allocated(tmp_path, edit, says):
    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE)
    edit_directory(path, edit)
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(TiffIndexError, match=says):
        read_tiled_directories(descriptor)
    os.close(descriptor)
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000,) * 2)\n"
        "from pathlib import Path; from deeplrhe_utils.slides.files.inventory import scan_slides\n"
        "slides = scan_slides(Path(sys.argv[1])); print(len(slides), slides['status'].iloc[0])"
    )
    told = subprocess.run([sys.executable, "-c", limited, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert told.returncode == 0 and told.stdout.startswith("1 "), told.stderr


def test_a_slide_of_glass_gives_no_tile_and_says_background(tmp_path):
    glass = np.full((1100, 1000, 3), (243, 242, 244), np.uint8)
    glass += np.random.default_rng(0).integers(0, 3, glass.shape, dtype=np.uint8)
    tiles, reason, _ = tile_or_reason(row_of(write_jpeg_slide(tmp_path / "glass.svs", glass)), RULES)
    assert reason == "" and (tiles["reason"] == "background").all()
    screened, _ = screen_or_reason((row_of(tmp_path / "glass.svs"), tiles), rules=SCREEN)
    assert len(screened) == len(tiles) and not screened["kept"].any()


@pytest.mark.parametrize(
    ("square", "inside"), [((2000, 2000, 3000, 3000), 0), ((-500, -500, -10, -10), 0), ((0, 0, 512, 512), 4)]
)
def test_an_outline_without_tissue_or_outside_the_slide_keeps_nothing_and_says_so(tmp_path, square, inside):
    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE)
    outline = write_geojson([Region(shapely.box(*square), "Tumor")], tmp_path / "slide.geojson")
    tiles = tile_slide(row_of(path, annotation=str(outline)), RULES)
    assert tiles["kept"].sum() == inside
    assert (tiles.loc[~tiles["kept"], "reason"] == "outside-tumour").all()


@pytest.mark.parametrize(
    ("classes", "rows", "told"), [
        ((), {0}, "tumour Adenocarcinoma; not tumour Field B"), (("field B",), {1}, "tumour Field B; not tumour Adeno"),
        (("Field B", "adenocarcinoma"), {0, 1}, "tumour Adenocarcinoma, Field B; not tumour –"),
    ],
)  # fmt: skip
def test_the_classes_that_count_are_words_or_the_users_and_are_told(tmp_path, classes, rows, told):
    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE)
    drawn = [Region(shapely.box(0, 0, 512, 256), "Adenocarcinoma"), Region(shapely.box(0, 256, 512, 512), "Field B")]
    outline = write_geojson(drawn, tmp_path / "slide.geojson")
    tiles, reason, notes = tile_or_reason(row_of(path, annotation=str(outline)), replace(RULES, tumour_classes=classes))
    assert set(tiles.loc[tiles["kept"], "row"]) == rows and reason == ""
    assert notes[0].startswith(f"classes of the outlines: {told}")
    with Slide(path) as slide:
        area = slide_outline(row_of(path, annotation=str(outline)), slide, tumour_classes=classes).area
    assert area == 512 * 256 * len(rows)


def test_outlines_of_nuclei_cost_their_slide_with_the_reason(tmp_path):
    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE)
    drawn = [Region(shapely.box(20 * i, 0, 20 * i + 15, 15), "Tumor") for i in range(24)]
    outline = write_geojson(drawn, tmp_path / "slide.geojson")
    tiles, reason, _ = tile_or_reason(row_of(path, annotation=str(outline)), RULES)
    assert len(tiles) == 0 and "slide.geojson look like nuclei" in reason and "24 areas" in reason


def test_an_outline_that_cannot_be_read_costs_its_slide_with_the_reason(tmp_path):
    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE)
    (tmp_path / "slide.xml").write_text("<!DOCTYPE x [<!ENTITY a 'aaaa'>]><x>&a;</x>")
    slides = scan_slides(tmp_path)
    assert slides["status"].tolist() == ["ok"] and slides["annotation"].iloc[0].endswith("slide.xml")
    tiles, reason, _ = tile_or_reason(row_of(path, annotation=slides["annotation"].iloc[0]), RULES)
    assert len(tiles) == 0 and "slide.xml" in reason


def test_a_file_replaced_while_it_is_tiled_is_excluded_and_not_mixed(tmp_path, monkeypatch):
    path = write_jpeg_slide(tmp_path / "slide.svs", PICTURE)
    other = write_jpeg_slide(tmp_path / "other.svs", PICTURE[::-1].copy())
    read = Slide.read_band

    def replaced_meanwhile(slide, *place, **how):
        if other.exists():
            other.replace(path)
        return read(slide, *place, **how)

    whole = tile_slide(row_of(path), RULES)
    monkeypatch.setattr(Slide, "read_band", replaced_meanwhile)
    tiles, reason, _ = tile_or_reason(row_of(path), RULES)
    assert len(tiles) == 0 and "changed or replaced" in reason
    write_jpeg_slide(other, PICTURE)
    screened, reason = screen_or_reason((row_of(path), whole.assign(kept=True, reason=pd.NA)), rules=SCREEN)
    assert "changed or replaced" in reason and (screened["reason"] == "unreadable").all()


@pytest.mark.parametrize(
    "name", ["two words.svs", "Größe µm.svs", "🫁 lung.svs", "two\nlines.svs", "'quoted'; rm -rf.svs", "-p.svs"]
)
def test_names_of_every_kind_are_served(tmp_path, name):
    write_jpeg_slide(tmp_path / "x.svs", PICTURE).replace(tmp_path / f"{name}.svs")
    slides = scan_slides(tmp_path)
    assert slides["status"].tolist() == ["ok"] and slides["slide_id"].iloc[0] == name
    row = slides.to_dict("records")[0]
    tiles, reason, _ = tile_or_reason(row, RULES)
    screened, why = screen_or_reason((row, tiles), rules=SCREEN)
    assert (reason, why) == ("", "") and screened["tile_id"].is_unique


@pytest.mark.slow
def test_mutated_slides_are_refused_or_served_and_nothing_else(tmp_path, shared_data):
    sources = [
        write_jpeg_slide(tmp_path / "a.svs", tissue_like(700, 600), levels=(1, 2), quality=60),
        write_jpeg_slide(tmp_path / "b.svs", tissue_like(700, 600), bigtiff=True, rgb=True, quality=60),
        shared_data / "slides/CMU-1-Small-Region.svs",
        shared_data / "slides/openslide_python_boxes.tiff",
    ]
    (tmp_path / "mutants").mkdir()
    counts, findings = fuzz(tmp_path / "mutants", sources, seed=11, files=60)
    assert findings == [] and sum(counts.values()) == 60
    assert min(counts["refused"], counts["in part"], counts["whole"]) > 0, "the mutations reach every depth"
