"""`deeplrhe normalize`: colours come to the reference, no seams, one row per slide, resumable, never half a file."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from deeplrhe_utils.core import text
from deeplrhe_utils.core.errors import InputError, ModelError, ParameterError, RunError, SlideError
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.normalize import job
from deeplrhe_utils.running.normalize import write as restain_write
from deeplrhe_utils.running.normalize.job import LEDGER_COLUMNS, normalize
from deeplrhe_utils.running.normalize.sources import (
    NormalizeOptions,
    PictureFolder,
    SlideFile,
    find_sources,
    reference_source,
)
from deeplrhe_utils.running.normalize.tissue import frame_of, spread_places
from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.stain.methods.normalize import Plan, load_normalizer
from tests.stain_tiles import painted
from tests.tiff_slides import overwrite_tile, write_jpeg_slide

GLASS, TILE = 246, 128
SMALL = {"tile_px": TILE, "mpp": 0.25}
QUICK = NormalizeOptions(method="reinhard", **SMALL)  # needs no fit
WHOLE = {"format": "ome-tiff", "tile_px": TILE}


def quiet(_):
    pass


def picture(lab, seed=0):
    """Tissue of one laboratory, 576 × 576 px, in the middle of glass: uint8 RGB (800, 1100, 3)."""
    rows = [np.concatenate([painted(lab, seed + 3 * i + j) for j in range(3)], axis=1) for i in range(3)]
    slide = np.full((800, 1100, 3), GLASS, np.uint8)
    slide[100:676, 60:636] = np.concatenate(rows)
    return slide


def write(path, lab, seed=0, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_jpeg_slide(path, picture(lab, seed), subsampling=(1, 1), quality=95, **how)


def tissue_colour(pixels):
    """Mean optical density of tissue, (3,)."""
    density = -np.log((np.concatenate([p.reshape(-1, 3) for p in pixels]) + 1.0) / 256)
    return density[density.mean(1) > 0.15].mean(0)


def read_slide(path):
    with Slide(path) as slide:
        return slide.read_band(0, slide.dimensions[1], 1).pixels


def read_tiles(folder):
    return {p.name: np.asarray(Image.open(p)) for p in sorted(folder.glob("*.png"))}


def table(out):
    with open(out / "normalize.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(tuple(row) == LEDGER_COLUMNS for row in rows)
    return {row["slide"]: row for row in rows}


def leftovers(out):
    return [p.name for p in out.rglob("*") if ".part" in p.name]


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two slides of two laboratories; nothing may be written there."""
    folder = tmp_path_factory.mktemp("slides")
    write(folder / "one.svs", "lab 1")
    write(folder / "two.svs", "lab 2", seed=50)
    return folder


@pytest.fixture(scope="module")
def fitted(slides, tmp_path_factory):
    """(out, rows, lines) of a DCGMM of 20 steps, tiles, fitted on both slides to the first."""
    out, lines = tmp_path_factory.mktemp("fitted") / "out", []
    rows = normalize([slides], out, NormalizeOptions(fit_steps=20, reference="one", **SMALL), lines.append)
    return out, rows, lines


# Tiles
def test_tissue_tiles_come_out_with_their_places(fitted):
    out, rows, lines = fitted
    assert [(r["slide"], r["status"], r["output"], r["mpp"]) for r in rows] == [
        ("one", "written", "one", "0.25"), ("two", "written", "two", "0.25"),
    ]  # fmt: skip
    with open(out / "two" / "tiles.csv", newline="") as stream:
        places = list(csv.DictReader(stream))
    assert [p["file"] for p in places] == sorted(read_tiles(out / "two"), key=lambda n: (n[9:], n))
    assert len(places) == int(rows[1]["n_tiles"]) and 20 <= len(places) < 48  # bare glass gives no tile
    for place in places:
        assert place["file"] == f"x{int(place['x_l0_px']):07d}_y{int(place['y_l0_px']):07d}.png"
        assert (place["size_l0_px"], place["mpp"]) == ("128", "0.25")
    assert lines[0] == "Fitting dcgmm on 2 slides" and lines[1].endswith("reference: one")
    assert lines[2].startswith("1/2  one  written, ") and lines[4].startswith("2 slides: 2 written.")


def test_colours_come_to_the_reference_and_the_reference_stays(fitted, slides):
    out, _, _ = fitted
    one, two = (list(read_tiles(out / name).values()) for name in ("one", "two"))
    before = tissue_colour([read_slide(slides / "two.svs")]) - tissue_colour([read_slide(slides / "one.svs")])
    after = tissue_colour(two) - tissue_colour(one)
    assert np.abs(after).max() < 0.1 * np.abs(before).max()
    with Slide(slides / "one.svs") as slide:
        for name, tile in read_tiles(out / "one").items():
            assert np.array_equal(tile, slide.read_tile(int(name[1:8]), int(name[10:17]), TILE, TILE))


def test_tiles_are_those_of_the_saved_normalizer(fitted, slides):
    out, rows, _ = fitted
    normalizer = load_normalizer(out / "normalizer")
    assert {row["normalizer"] for row in rows} == {normalizer.digest()}
    tiles = read_tiles(out / "two")
    with Slide(slides / "two.svs") as slide:
        squares = sorted((int(n[10:17]), int(n[1:8]), n) for n in tiles)
        source = list(slide.read_tiles([Square(x, y, TILE) for y, x, _ in squares], TILE))
    plan = normalizer.plan([source[i] for i in spread_places(len(source), 32)], "two")
    assert plan.digest() == rows[1]["map"] and plan.n_used == int(rows[1]["n_statistics_tiles"])
    for pixels, (_, _, name) in zip(source, squares, strict=True):
        assert np.array_equal(plan(pixels), tiles[name])


def test_a_model_is_used_as_it_is(fitted, slides, tmp_path):
    out, rows, _ = fitted
    again = normalize(
        [slides / "two.svs"], tmp_path / "out", NormalizeOptions(model=out / "normalizer", **SMALL), quiet
    )
    assert [(r["normalizer"], r["map"]) for r in again] == [(rows[1]["normalizer"], rows[1]["map"])]
    new, old = read_tiles(tmp_path / "out" / "two"), read_tiles(out / "two")
    assert new.keys() == old.keys() and all(np.array_equal(new[k], old[k]) for k in new)
    other = normalize(
        [slides / "one.svs"], tmp_path / "ref",
        NormalizeOptions(model=out / "normalizer", reference=str(slides / "two.svs"), **SMALL), quiet,
    )  # fmt: skip
    assert other[0]["normalizer"] != rows[0]["normalizer"]
    goal, got = (tissue_colour(list(read_tiles(f).values())) for f in (out / "one", tmp_path / "ref" / "one"))
    assert np.abs(got - tissue_colour([read_slide(slides / "two.svs")])).max() < 0.05 < np.abs(got - goal).max()
    coarse = NormalizeOptions(model=out / "normalizer", tile_px=TILE, mpp=0.3)
    (row,) = normalize([slides / "two.svs"], tmp_path / "coarse", coarse, quiet)
    assert "fitted at 0.25 µm/px, this is 0.3" in row["warnings"]
    names = []
    for edge in ("inside", "cover"):
        large = NormalizeOptions(model=out / "normalizer", tile_px=512, mpp=0.25, edge=edge)
        normalize([slides / "two.svs"], tmp_path / edge, large, quiet)
        names.append(set(read_tiles(tmp_path / edge / "two")))
    assert names[0] == {"x0000000_y0000000.png"} and {"x0000000_y0000288.png"} < names[1] > names[0]
    with pytest.raises(ParameterError, match="--edge is about"):
        normalize([slides / "two.svs"], tmp_path / "no", NormalizeOptions(edge="cover", **WHOLE), quiet)


@pytest.mark.parametrize(("method", "whole"), [("reinhard", True), ("macenko", True), ("vahadane", False)])
def test_the_classical_methods(slides, tmp_path, method, whole):
    how = WHOLE | {"lossless": True} if whole else SMALL
    recipe = NormalizeOptions(method=method, reference="one", **how)
    rows = normalize([slides], tmp_path / "out", recipe, quiet)
    assert [r["status"] for r in rows] == ["written", "written"]
    out = tmp_path / "out" / rows[1]["output"]
    new = [read_slide(out)] if out.is_file() else list(read_tiles(out).values())
    goal, source = (tissue_colour([read_slide(slides / f"{name}.svs")]) for name in ("one", "two"))
    assert np.abs(tissue_colour(new) - goal).max() < 0.35 * np.abs(source - goal).max()
    assert load_normalizer(tmp_path / "out" / "normalizer").method.name == method


# Whole slides
@pytest.fixture(scope="module")
def whole(fitted, slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    recipe = NormalizeOptions(model=fitted[0] / "normalizer", lossless=True, **WHOLE)
    return out, normalize([slides], out, recipe, quiet)


def test_a_whole_slide_is_what_the_whole_picture_would_be(whole, slides):
    """Pieces see as far as the network does: no seam, because there is nothing a seam could be made of."""
    out, rows = whole
    assert [(r["status"], r["output"], r["n_tiles"]) for r in rows] == [
        ("written", "one.ome.tif", ""), ("written", "two.ome.tif", ""),
    ]  # fmt: skip
    source, new = read_slide(slides / "two.svs"), read_slide(out / "two.ome.tif")
    assert new.shape == source.shape == (800, 1100, 3)
    with Slide(out / "two.ome.tif") as slide:
        assert slide.mpp == pytest.approx(0.25)
    with tifffile.TiffFile(out / "two.ome.tif") as file:
        assert len(file.series[0].levels) == 2 and file.pages[0].tilewidth == TILE
    same, inside = plan_of(out, slides / "two.svs")(source), slice(32, -32)
    assert np.array_equal(new[inside, inside], same[inside, inside])
    assert np.abs(new.astype(int) - same).max() <= 1
    assert np.array_equal(new[:, 672:], source[:, 672:])  # pieces 1 and 2 of 512 px are partly and wholly glass


def plan_of(out, path):
    """The plan that the command made for a slide."""
    from deeplrhe_utils.running.normalize.tissue import Readings

    recipe = NormalizeOptions(model=out / "normalizer", lossless=True, **WHOLE)
    tiles = Readings(recipe).tiles(SlideFile(path.stem, path))
    return load_normalizer(out / "normalizer").plan(tiles, path.stem)


def test_jpeg_keeps_colours_and_is_smaller(fitted, whole, slides, tmp_path):
    recipe = NormalizeOptions(model=fitted[0] / "normalizer", quality=85, **WHOLE)
    normalize([slides / "two.svs"], tmp_path, recipe, quiet)
    made, exact = (folder / "two.ome.tif" for folder in (tmp_path, whole[0]))
    assert made.stat().st_size < exact.stat().st_size / 2
    assert np.abs(read_slide(made).mean((0, 1)) - read_slide(exact).mean((0, 1))).max() < 1


def test_another_resolution_averages_whole_pixels(slides, tmp_path):
    recipe = NormalizeOptions(method="reinhard", mpp=0.55, lossless=True, **WHOLE)
    (row,) = normalize([slides / "one.svs"], tmp_path, recipe, quiet)
    assert row["mpp"] == "0.5" and "written at 0.5 µm/px, the nearest" in row["warnings"]
    source, new = read_slide(slides / "one.svs"), read_slide(tmp_path / "one.ome.tif")
    assert new.shape == (400, 550, 3)
    assert np.abs(cv2.resize(source, (550, 400), interpolation=cv2.INTER_AREA).astype(int) - new).mean() < 1
    with Slide(slides / "one.svs") as slide:
        with pytest.raises(SlideError, match="coarser than the resolution asked for"):
            frame_of(slide, 0.1)
        with pytest.raises(SlideError, match="Nothing is left"):
            frame_of(slide, 999)


class Shout:
    """A plan that marks what it has painted, and how large the pieces are."""

    def __init__(self):
        self.sizes = set()

    def __call__(self, tile):
        self.sizes.add(tile.shape[:2])
        return np.where(tile > 200, tile, 255 - tile).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (5, 700), (512, 512), (513, 511), (1100, 530)])
def test_any_size_is_put_together_again(shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 200, (*shape, 3), np.uint8)
    path = write_jpeg_slide(tmp_path / "a.svs", pixels, quality=95)
    shout = Shout()
    with Slide(path) as slide:
        frame = frame_of(slide, 0.0)
        assert (frame.height_px, frame.width_px) == shape
        bands = restain_write._Bands(slide, frame, 256)
        plan = Plan("n", shout, record={})
        new = np.concatenate(list(restain_write._painted_bands(bands, plan)))
        assert np.array_equal(new, shout(slide.read_band(0, shape[0], 1).pixels))
    assert shout.sizes <= {(320, 320), (64, 2048), shape}  # pieces of one size: none is compiled anew


# Folders of tiles
def write_tiles(folder, lab, n=12, ending="png", seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(painted(lab, seed + i)).save(folder / f"tile {i}.{ending}")
    return folder


def test_a_folder_of_pictures_is_one_slide_and_every_picture_comes_out(tmp_path):
    write_tiles(tmp_path / "in" / "A", "lab 1")
    write_tiles(tmp_path / "in" / "B", "lab 2", ending="jpg", seed=30)
    write_tiles(tmp_path / "in", "lab 3", ending="tif", seed=60)
    Image.fromarray(np.full((192, 192, 3), GLASS, np.uint8)).save(tmp_path / "in" / "B" / "glass.png")
    (tmp_path / "in" / "B" / "notes.xyz").write_text("no picture")
    lines = []
    rows = normalize(
        [tmp_path / "in"], tmp_path / "out", NormalizeOptions(method="reinhard", reference="A"), lines.append
    )
    assert [(r["slide"], r["n_tiles"]) for r in rows] == [("in", 12), ("A", 12), ("B", 13)]
    assert lines[0] == "Side files, which are no slides: 1 (1 .xyz)"
    new = read_tiles(tmp_path / "out" / "B")
    assert len(new) == 13 and (new["glass.png"] == GLASS).all()
    with open(tmp_path / "out" / "B" / "tiles.csv", newline="") as stream:
        told = {r["source"]: r["file"] for r in csv.DictReader(stream)}
    assert len(told) == 13 and set(told.values()) == set(new) and all(" " not in name for name in new)
    old = [np.asarray(Image.open(p)) for p in (tmp_path / "in" / "B").glob("*.jpg")]
    goal = tissue_colour([np.asarray(Image.open(p)) for p in (tmp_path / "in" / "A").glob("*")])
    assert np.abs(tissue_colour(list(new.values())) - goal).max() < 0.2 * np.abs(tissue_colour(old) - goal).max()


@pytest.mark.parametrize("how", [SMALL, WHOLE, {}])
def test_long_writing_says_how_far_it_is(slides, tmp_path, monkeypatch, capsys, how):
    monkeypatch.setattr(text, "SHORT_S", 0.0)  # everything is long
    write_tiles(tmp_path / "in" / "two", "lab 1")
    source = slides / "two.svs" if how else tmp_path / "in" / "two"
    normalize([source], tmp_path / "out", NormalizeOptions(method="reinhard", **how), quiet)
    lines = re.findall(r"^parts of two written: (\d+)/(\d+)", capsys.readouterr().out, re.MULTILINE)
    assert lines and lines[-1][0] == lines[-1][1]


def test_pictures_that_cannot_be_read_are_counted_and_fail_and_many_pages_are_told(tmp_path, capsys):
    write_tiles(tmp_path / "in" / "A", "lab 1")
    first, second = (Image.fromarray(painted("lab 1", seed)) for seed in (0, 1))
    first.save(tmp_path / "in" / "A" / "pages.tif", save_all=True, append_images=[second])
    command = ["normalize", "--method", "reinhard", "--reference", "A", "--out", str(tmp_path / "out")]
    command.append(str(tmp_path / "in"))
    assert main(command) == 0 and "1 of 13 pictures hold several pages" in capsys.readouterr().out
    write_tiles(tmp_path / "in" / "B", "lab 1", n=3, ending="webp")
    write_tiles(tmp_path / "in" / "B", "lab 1", n=2, ending="bmp")
    write_tiles(tmp_path / "in" / "A", "lab 1", n=1, ending="gif")
    assert main(command) == 1
    rows = list(csv.DictReader((tmp_path / "out" / "normalize.csv").open()))
    failed = [row["note"] for row in rows if row["status"] == "failed"]
    kinds = ["1 (1 .gif)", "5 (2 .bmp, 3 .webp)"]
    assert failed == [f"files of kinds that cannot be read: {kind}" for kind in kinds]
    out = capsys.readouterr().out
    assert all(kind in out for kind in kinds)
    capsys.readouterr()
    assert main([*command[:-1], str(tmp_path / "in" / "B")]) == 1 and kinds[1] in capsys.readouterr().err


def test_one_picture_is_a_slide_and_another_may_be_the_reference(tmp_path):
    Image.fromarray(picture("lab 1")[100:676, 60:636]).save(tmp_path / "field.png")
    Image.fromarray(picture("lab 2", 40)[100:676, 60:636]).save(tmp_path / "goal.tif")
    recipe = NormalizeOptions(method="reinhard", reference=str(tmp_path / "goal.tif"), thin_slide="cohort")
    (row,) = normalize([tmp_path / "field.png"], tmp_path / "out", recipe, quiet)
    assert (row["status"], row["n_tiles"]) == ("written", 1)
    (new,) = read_tiles(tmp_path / "out" / "field").values()
    assert np.abs(tissue_colour([new]) - tissue_colour([np.asarray(Image.open(tmp_path / "goal.tif"))])).max() < 0.06


def test_a_picture_that_cannot_be_normalized_is_named(tmp_path):
    write_tiles(tmp_path / "in" / "good", "lab 1")
    for name in ("cut", "deep", "tiny"):
        write_tiles(tmp_path / "in" / name, "lab 2")
    cut = tmp_path / "in" / "cut" / "tile 3.png"
    cut.write_bytes(cut.read_bytes()[:3000])
    Image.fromarray(np.full((64, 64), 9000, np.uint16)).save(tmp_path / "in" / "deep" / "tile 4.png")
    recipe = NormalizeOptions(method="reinhard")
    rows = {r["slide"]: r for r in normalize([tmp_path / "in"], tmp_path / "out", recipe, quiet)}
    assert [rows[n]["status"] for n in ("good", "cut", "deep", "tiny")] == ["written", "failed", "failed", "written"]
    assert "tile 3.png cannot be read" in rows["cut"]["note"]
    assert "tile 4.png has the pixel type I;16" in rows["deep"]["note"]
    assert not (tmp_path / "out" / "cut").exists() and not leftovers(tmp_path / "out")


def test_transparent_places_of_a_tile_become_white(tmp_path):
    tile = np.dstack([painted("lab 1"), np.full((192, 192), 255, np.uint8)])
    tile[:40, :, :3], tile[:40, :, 3] = 0, 0
    Image.fromarray(tile).save(tmp_path / "a.png")
    assert (job.find_sources([tmp_path / "a.png"]).sources[0].files) == (tmp_path / "a.png",)
    from deeplrhe_utils.running.normalize.sources import read_picture

    assert (read_picture(tmp_path / "a.png")[:40] == 255).all()


# What is found
def test_pictures_beside_slides_are_no_tiles(slides, tmp_path):
    folder = tmp_path / "in"
    write(folder / "a.svs", "lab 1")
    write(folder / "deep" / "b.svs", "lab 1")
    write_tiles(folder, "lab 1", n=2)
    write_tiles(folder / "tiles", "lab 1", n=2)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "tiles" / "x-mask.png")
    (folder / "labels.csv").write_text("a sidecar")
    (folder / "Thumbs.db").write_bytes(b"\0\1")
    found = find_sources([folder, folder / "a.svs"])
    assert [(type(s), s.name) for s in found.sources] == [(SlideFile, "a"), (SlideFile, "b"), (PictureFolder, "tiles")]
    assert sorted(p.name for p in found.left_out) == ["tile 0.png", "tile 1.png"]
    assert [f.name for f in found.sources[2].files] == ["tile 0.png", "tile 1.png"]


def test_a_dicom_slide_of_several_files_is_one(shared_data):
    names = [s.path.name for s in find_sources([shared_data / "slides"]).sources if s.path.suffix == ".dcm"]
    assert names == ["highdicom_sm_image.dcm", "openslide_python_boxes_0.dcm"]


def test_the_reference_is_an_input_or_a_file(slides, tmp_path):
    sources = find_sources([slides]).sources
    assert reference_source("two", sources) is sources[1] is reference_source(str(slides / "two.svs"), sources)
    with pytest.raises(ParameterError, match=r"none of the inputs.*nobody.*one, two"):
        reference_source("nobody", sources)
    with pytest.raises(ParameterError, match="The reference is one slide"):
        reference_source(str(slides), sources[:0])


def test_two_results_of_one_name_are_refused_before_anything_is_written(tmp_path):
    for name in ("a/same.svs", "b/SAME.svs"):
        write(tmp_path / "in" / name, "lab 1")
    with pytest.raises(InputError, match=r"the name SAME.*same\.svs and .*SAME\.svs"):
        normalize([tmp_path / "in"], tmp_path / "out", QUICK, quiet)
    tiles = write_tiles(tmp_path / "tiles", "lab 1", n=2)
    Image.fromarray(painted("lab 1")).save(tiles / "tile 0.jpg")
    with pytest.raises(InputError, match=r"Two tiles.*tile 0\.jpg and tile 0\.png"):
        normalize([tiles], tmp_path / "out", QUICK, quiet)
    with pytest.raises(InputError, match="name normalizer"):
        normalize([write_tiles(tmp_path / "normalizer", "lab 1", n=2)], tmp_path / "out", QUICK, quiet)
    assert not (tmp_path / "out").exists()


def test_results_never_lie_among_inputs_or_over_them(tmp_path):
    folder = write(tmp_path / "in" / "a.svs", "lab 1").parent
    for out in (folder, folder / "out", folder / ".." / "in"):
        with pytest.raises(ParameterError, match="lies in the input folder"):
            normalize([folder], out, QUICK, quiet)
    tiles = write_tiles(tmp_path / "tiles", "lab 1", n=2)
    with pytest.raises(ParameterError, match="written over it"):
        normalize([tiles], tmp_path, QUICK, quiet)
    assert sorted(p.name for p in folder.iterdir()) == ["a.svs"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "tiles"]


# What goes wrong
def test_a_bad_slide_costs_itself_only(tmp_path, capsys):
    folder = write(tmp_path / "in" / "good.svs", "lab 1").parent
    write(folder / "silent.tif", "lab 1", aperio=False)
    (folder / "broken.svs").write_bytes(b"II*\0 no slide at all")
    (folder / "empty.ndpi").write_bytes(b"")
    arguments = ["normalize", str(folder), "--out", str(tmp_path / "out"), "--method", "reinhard"]
    assert main([*arguments, "--tile-px", "128", "--mpp", "0.25"]) == 1
    rows = table(tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "good": "written", "silent": "failed", "broken": "failed", "empty": "failed",
    }  # fmt: skip
    assert "no microns per pixel" in rows["silent"]["note"] and "is empty" in rows["empty"]["note"]
    out = capsys.readouterr().out
    assert "4/4  silent  failed: Slide silent.tif has no microns" in out
    assert "4 slides: 1 written, 3 failed." in out and "Traceback" not in out


def test_a_table_gives_the_resolutions_that_files_do_not_tell(tmp_path):
    path = write(tmp_path / "silent.tif", "lab 1", aperio=False)
    (tmp_path / "mpp.csv").write_text("slide_id,mpp\nsilent,0.25\nnobody,1\n")
    lines = []
    for how in (SMALL, WHOLE):
        recipe = NormalizeOptions(method="reinhard", mpp_csv=tmp_path / "mpp.csv", **how)
        (row,) = normalize([path], tmp_path / how.get("format", "tiles"), recipe, lines.append)
        assert (row["status"], row["mpp"]) == ("written", "0.25")
    assert lines[0] == "The table of resolutions names slides that are not here: nobody"


def test_where_nothing_can_be_fitted_every_slide_has_its_row(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.svs").write_bytes(b"nothing")
    arguments = ["normalize", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--method", "reinhard"]
    assert main(arguments) == 1
    assert "Nothing that was given can be used for a fit" in capsys.readouterr().err
    assert {row["status"] for row in table(tmp_path / "out").values()} == {"failed"}
    assert main([*arguments, "--model", str(tmp_path)]) == 2


def test_damaged_places_are_told(tmp_path):
    path = write(tmp_path / "in" / "a.svs", "lab 1")
    overwrite_tile(path, 0, lambda stream: b"\0" * len(stream))
    (row,) = normalize([path], tmp_path / "tiles", QUICK, quiet)
    assert row["status"] == "written" and "cannot be decoded" in row["warnings"]
    (row,) = normalize([path], tmp_path / "whole", NormalizeOptions(method="reinhard", lossless=True, **WHOLE), quiet)
    assert row["status"] == "written" and "7.45% of the slide cannot be decoded and is white" in row["warnings"]
    new = read_slide(tmp_path / "whole" / "a.ome.tif")
    assert (new[:256, :256] == 255).all() and (new[256:512, 60:256] < 200).any()


@pytest.mark.parametrize("how", [SMALL, WHOLE], ids=["tiles", "whole"])
@pytest.mark.parametrize("kind", ["glass", "grey"])
def test_what_cannot_be_normalized_is_written_unchanged_and_says_why(slides, tmp_path, how, kind):
    pixels = picture("lab 1")
    pixels = np.full_like(pixels, GLASS) if kind == "glass" else pixels.mean(-1, keepdims=True).astype(np.uint8)
    path = write_jpeg_slide(tmp_path / "odd.svs", np.broadcast_to(pixels, (800, 1100, 3)), rgb=True)
    recipe = NormalizeOptions(method="reinhard", reference="one", lossless="format" in how, stain_check=False, **how)
    rows = normalize([slides, path], tmp_path / "out", recipe, quiet)
    assert [r["status"] for r in rows] == ["written", "written", "unchanged"]
    assert rows[2]["map"] == "none" and ("no tissue" if kind == "glass" else "grey") in rows[2]["note"]
    if "format" in how:
        assert np.array_equal(read_slide(tmp_path / "out" / "odd.ome.tif"), read_slide(path))
    else:
        new = read_tiles(tmp_path / "out" / "odd")
        assert len(new) == rows[2]["n_tiles"] and bool(new) == (kind == "grey")
        with Slide(path) as slide:
            for name, tile in new.items():
                assert np.array_equal(tile, slide.read_tile(int(name[1:8]), int(name[10:17]), TILE, TILE))


def test_a_thin_slide_is_left_alone_or_mapped_with_the_cohort(slide_factory, slides, tmp_path):
    thin = slide_factory(40)
    for rule, status in ((None, "unchanged"), ("error", "unchanged"), ("cohort", "written")):
        recipe = NormalizeOptions(method="reinhard", tile_px=TILE, thin_slide=rule)
        rows = normalize([slides, thin], tmp_path / str(rule), recipe, quiet)
        assert rows[2]["status"] == status and int(rows[2]["n_tiles"]) >= 2
        assert ("cohort statistics" if rule == "cohort" else "too little tissue") in rows[2]["note"]


def test_a_slide_smaller_than_a_tile_fails_as_tiles_and_passes_whole(slides, tmp_path):
    small = write_jpeg_slide(tmp_path / "small.svs", picture("lab 2")[100:220, 60:180])
    rows = normalize([slides, small], tmp_path / "tiles", QUICK, quiet)
    assert rows[2]["status"] == "failed" and "Choose tile_px of at most 120" in rows[2]["note"]
    rows = normalize([slides, small], tmp_path / "whole", NormalizeOptions(method="reinhard", **WHOLE), quiet)
    assert rows[2]["status"] == "unchanged" and read_slide(tmp_path / "whole" / "small.ome.tif").shape == (120, 120, 3)


def test_a_slide_that_is_replaced_meanwhile_leaves_nothing(slides, tmp_path, monkeypatch):
    path = write(tmp_path / "a.svs", "lab 1")
    paint = restain_write._painted

    def replaced(*arguments):
        os.utime(path)
        return paint(*arguments)

    monkeypatch.setattr(restain_write, "_painted", replaced)
    rows = normalize([slides, path], tmp_path / "out", NormalizeOptions(method="reinhard", **WHOLE), quiet)
    assert rows[2]["status"] == "failed" and "changed or replaced" in rows[2]["note"]
    assert not (tmp_path / "out" / "a.ome.tif").exists() and not leftovers(tmp_path / "out")


def test_a_full_disk_ends_the_call_and_keeps_what_is_finished(slides, tmp_path, monkeypatch):
    write_one = restain_write._write_png

    def full(item):
        if "two" in item[0].parent.name:
            raise OSError(28, "No space left on device")
        write_one(item)

    monkeypatch.setattr(restain_write, "_write_png", full)
    with pytest.raises(RunError, match=r"The disk is full.*finished slides are kept"):
        normalize([slides], tmp_path / "out", QUICK, quiet)
    assert list(table(tmp_path / "out")) == ["one"] and not leftovers(tmp_path / "out")


# Again
def test_finished_slides_are_kept_and_the_fit_is_not_repeated(slides, tmp_path, monkeypatch):
    out = tmp_path / "out"
    recipe = NormalizeOptions(fit_steps=10, method="density", **SMALL)
    first = normalize([slides], out, recipe, quiet)
    written = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    monkeypatch.setattr("deeplrhe_utils.running.normalize.fit.fit", None)
    lines = []
    again = normalize([slides], out, recipe, lines.append)
    assert [{k: str(v) for k, v in row.items()} for row in first] == again
    assert lines[1:3] == ["1/2  one  kept (written earlier)", "2/2  two  kept (written earlier)"]
    assert written == {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}


def test_what_is_missing_or_has_changed_is_done_again(slides, tmp_path):
    folder, out, lines = tmp_path / "in", tmp_path / "out", []
    for name in ("one", "two"):
        write(folder / f"{name}.svs", "lab 1")
    normalize([folder], out, QUICK, quiet)
    model = NormalizeOptions(model=out / "normalizer", **SMALL)

    def status(recipe=model):
        lines.clear()
        normalize([folder], out, recipe, lines.append)
        return [line.split("  ")[2].split(" ")[0].strip(",") for line in lines if line[1] == "/"]

    assert status() == ["kept", "kept"]
    with pytest.raises(ModelError, match="cannot be read"):
        status(NormalizeOptions(model=tmp_path, **SMALL))
    assert status() == ["kept", "kept"]
    for file in (out / "two").iterdir():
        file.unlink()
    (out / "two").rmdir()
    assert status() == ["kept", "written"]
    os.utime(folder / "one.svs")
    assert status() == ["written", "kept"]
    assert status(NormalizeOptions(model=out / "normalizer", mpp=0.25, tile_px=192)) == ["written", "written"]
    assert {p.shape for p in read_tiles(out / "one").values()} == {(192, 192, 3)}
    (folder / "one.svs").write_bytes(b"broken meanwhile")
    assert status(NormalizeOptions(model=out / "normalizer", mpp=0.25, tile_px=192)) == ["failed:", "kept"]
    assert "is still there" in table(out)["one"]["note"] and (out / "one").is_dir()


def test_one_folder_holds_one_normalization(slides, tmp_path):
    out = tmp_path / "out"
    (one,) = normalize([slides / "one.svs"], out, QUICK, quiet)
    with pytest.raises(ParameterError, match=r"normalized in another way.*add slides with --model"):
        normalize([slides / "two.svs"], out, QUICK, quiet)
    assert list(table(out)) == ["one"]
    (two,) = normalize([slides / "two.svs"], out, NormalizeOptions(model=out / "normalizer", **SMALL), quiet)
    assert two["normalizer"] == one["normalizer"] and list(table(out)) == ["two", "one"]


def test_a_call_without_the_model_fits_although_one_with_it_was_here(slides, tmp_path):
    normalize([slides / "one.svs"], tmp_path / "first", QUICK, quiet)
    out = tmp_path / "out"
    with_model = normalize([slides], out, NormalizeOptions(model=tmp_path / "first" / "normalizer", **SMALL), quiet)
    fitted_here = normalize([slides], out, QUICK, quiet)
    assert with_model[0]["normalizer"] != fitted_here[0]["normalizer"]


def test_files_of_others_are_neither_deleted_nor_overwritten(slides, tmp_path):
    for name in ("one", "normalize.csv", "normalizer"):
        out = tmp_path / f"with {name}"
        (out / name).mkdir(parents=True)
        (out / name / "mine.txt").write_text("mine")
        with pytest.raises(ParameterError, match=rf"has not written.*Got: {name}"):
            normalize([slides], out, QUICK, quiet)
        assert (out / name / "mine.txt").read_text() == "mine"
    normalize([slides], tmp_path / "out", QUICK, quiet)
    (tmp_path / "out" / "normalize.csv").write_text("a;b\n1;2\n")
    with pytest.raises(ParameterError, match="not as this command has written it"):
        normalize([slides], tmp_path / "out", QUICK, quiet)


@pytest.mark.parametrize("whole", [False, True], ids=["tiles", "whole"])
def test_a_killed_command_leaves_no_half_result_and_resumes(tmp_path, whole):
    source = np.concatenate([picture("lab 1")] * 2)
    path = write_jpeg_slide(tmp_path / "big.svs", np.concatenate([source] * 3, axis=1), subsampling=(1, 1))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "deeplrhe_utils", "normalize", str(path), "--out", str(out), "--tile-px", "128"]
    command += ["--method", "vahadane", *(["--format", "ome-tiff", "--lossless"] if whole else ["--mpp", "0.25"])]
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob(".big*part*")):
        time.sleep(0.01)
    killed = process.poll() is None
    if killed:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert killed and not list(out.glob("big*")) and not (out / "normalize.csv").exists()
    assert main(command[3:]) == 0
    assert not list(out.glob(".big*")) and table(out)["big"]["status"] == "written"


# The command
@pytest.mark.parametrize(("arguments", "code", "text"), [
    (["nowhere.svs"], 2, "nowhere.svs is not there"),
    (["{slides}", "--method", "magic"], 2, "--method is unknown. Got: magic. Expected: dcgmm, paper"),
    (["{slides}", "--format", "zarr"], 2, "tiles, ome-tiff"),
    (["{slides}", "--thin-slide", "drop"], 2, "error, cohort"), (["{slides}", "--tile-px", "32"], 2, "128 to 2048"),
    (["{slides}", "--tile-px", "200", "--format", "ome-tiff"], 2, "a multiple of 16"),
    (["{slides}", "--mpp", "nan"], 2, "--mpp is out of range"), (["{slides}", "--fit-steps", "0"], 2, "10 to 100000"),
    (["{slides}", "--statistics-tiles", "4"], 2, "8 to 1024"),
    (["{slides}", "--quality", "95"], 2, "about --format ome-tiff"),
    (["{slides}", "--lossless"], 2, "about --format ome-tiff"),
    (["{slides}", "--format", "ome-tiff", "--quality", "0"], 2, "1 to 100"),
    (["{slides}", "--format", "ome-tiff", "--lossless", "--quality", "9"], 2, "not allowed with"),
    (["{slides}", "--model", "m", "--seed", "0"], 2, "used as it was fitted"),
    (["{slides}", "--method", "macenko", "--white"], 2, "macenko has no network"),
    (["{slides}", "--model", "nowhere"], 1, "nowhere/normalizer.json cannot be read"),
    (["{slides}", "--method", "reinhard", "--reference", "nobody"], 2, "none of the inputs"),
    (["{slides}/empty"], 1, "There is nothing to normalize"),
    (["{slides}/tiles", "--format", "ome-tiff"], 2, "cannot be put together"), ([], 2, "SLIDE_OR_FOLDER"),
])  # fmt: skip
def test_the_command_says_what_is_wrong(tmp_path, capsys, arguments, code, text):
    folder = tmp_path / "in"
    (folder / "empty").mkdir(parents=True)
    (folder / "a.svs").write_bytes(b"II*\0")
    write_tiles(folder / "tiles", "lab 1", n=1)
    out = tmp_path / "out"
    assert main(["normalize", *(a.format(slides=folder) for a in arguments), "--out", str(out)]) == code
    captured = capsys.readouterr()
    assert text in captured.out + captured.err and "Traceback" not in captured.err
    assert not list(out.glob("*/")) and not list(out.glob("*.tif"))


def test_a_real_slide_comes_to_a_real_field(shared_data, tmp_path):
    slide = shared_data / "slides" / "CMU-1-Small-Region.svs"
    field = shared_data / "monuseg_tcga_lung" / "TCGA-21-5784-01Z-00-DX1.tif"
    recipe = NormalizeOptions(reference=str(field), fit_steps=20, format="ome-tiff", lossless=True, tile_px=256)
    (row,) = normalize([slide], tmp_path / "whole", recipe, quiet)
    assert row["status"] == "written" and row["warnings"] == ""
    source, new = read_slide(slide), read_slide(tmp_path / "whole" / row["output"])
    assert new.shape == source.shape
    goal = tissue_colour([np.asarray(Image.open(field).convert("RGB"))])
    before, after = (np.abs(tissue_colour([p]) - goal).max() for p in (source, new))
    assert after < 0.15 * before
    glass = -np.log((source + 1.0) / 256).mean(-1) < 0.05
    assert glass.mean() > 0.5 and np.abs(new.astype(int) - source)[glass].max() <= 3
