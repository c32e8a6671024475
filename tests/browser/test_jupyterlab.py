"""JupyterLab, started for real: notebooks 07 and 15 run, and the explorer answers to mouse and keyboard."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from openslide import OpenSlide

from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.reporting.explorer.views import colour_ramp
from deeplrhe_utils.slides.outlines.find import find_annotation, read_annotation, tumour_fractions, tumour_outline
from tests.browser.lab import FIRST_PAINT, FRAMES, VIEWER, jupyterlab, run_all
from tests.browser.run_folder import AWAY, GENES, HEIGHT, HERE, SIDE, WIDTH, score

pytest.importorskip("anywidget", reason="anywidget, which the viewer is made with, is not installed")
BOOKS = ("07-heat-maps", "15-explorer")
DRAWN = [(400.0, 300.0), (1500.0, 350.0), (1400.0, 1200.0), (500.0, 1100.0)]
"""The outline that is drawn [level-0 px]."""
# The viewer's colour, slide and map together, at a place of the slide [level-0 px] while the whole of it is shown, or
# its middle, so much enlarged.
PIXEL = """([x, y, zoom = 1]) => {
  const box = document.querySelector("VIEWER"), layers = box.querySelectorAll("canvas"), [wide, high] = SIZE;
  const scale = zoom * Math.min(box.clientWidth / wide, box.clientHeight / high), one = new OffscreenCanvas(1, 1);
  const left = box.clientWidth / 2 + (x - wide / 2) * scale, top = box.clientHeight / 2 + (y - high / 2) * scale;
  const pen = one.getContext("2d"), ratio = layers[0].width / box.clientWidth;
  for (const layer of layers) pen.drawImage(layer, -Math.round(left * ratio), -Math.round(top * ratio));
  return { left, top, scale, colour: [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3) };
}""".replace("VIEWER", VIEWER).replace("SIZE", f"[{WIDTH}, {HEIGHT}]")
# JupyterLab's own, on any notebook: nothing that ours could cause or mend.
NOT_OURS = re.compile(r"favicon|api/kernels/.*(404|500)|WebSocket connection")


@pytest.fixture
def lab(finished_run, tmp_path):
    """Address of a JupyterLab of its own, with copies of the notebooks that work on the small run."""
    with jupyterlab(tmp_path, finished_run, BOOKS) as address:
        yield address


@pytest.mark.slow
def test_07_and_the_explorer_in_a_real_jupyterlab(lab, watch, finished_run):
    seen = watch(width=1400, height=1100)
    page = seen.page
    run_all(page, lab, "07-heat-maps")
    assert "Not all slides are on this machine" in page.locator(".jp-Notebook").inner_text()
    page.evaluate("() => window.jupyterapp.commands.execute('kernelmenu:shutdown')")
    run_all(page, lab, "15-explorer")
    first = _first_paint(page)
    _gene_and_opacity(page)
    _tiles(page, finished_run / "work" / "slides" / f"{HERE}.svs")
    seen.shot("lab-tiles")
    _click(page)
    _keyboard(page)
    seen.shot("lab-click")
    _outline(page, finished_run / "outlines")
    seen.shot("lab-outline")
    _notebooks_use_it(finished_run)
    _other_slide(page)
    seen.shot("lab-thumbnail")
    _linked_plots(page)
    seen.shot("lab-linked")
    frames = page.evaluate(FRAMES, [VIEWER, 60])
    print(f"first paint {first:.0f} ms, median frame {statistics.median(frames):.1f} ms")
    assert frames
    assert [problem for problem in seen.problems if not NOT_OURS.search(problem)] == []
    _damaged(page, finished_run / "work" / "slides" / f"{HERE}.svs")
    seen.shot("lab-damaged")


def _first_paint(page) -> float:
    """The cell runs once more; from its first picture on the canvas is not white."""
    page.evaluate("() => { window.define = Object.assign(() => { throw Error('a loader') }, { amd: {} }); }")
    first = page.evaluate(FIRST_PAINT, VIEWER)
    assert first > 0 and page.evaluate("() => delete window.define && typeof OpenSeadragon") == "undefined"
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-below')")  # plots follow the new viewer
    page.locator(VIEWER).scroll_into_view_if_needed()
    page.wait_for_timeout(1500)
    return first


def _menu(page, name: str):
    return page.locator(".widget-dropdown", has=page.locator("label", has_text=re.compile(f"^{name}$"))).locator(
        "select"
    )


def _gene_and_opacity(page) -> None:
    handle = page.locator(".widget-slider", has=page.locator("label", has_text="opacity")).locator("[role=slider]")
    handle.focus()
    handle.press("End")
    for number, gene in enumerate(GENES):
        _menu(page, "gene").select_option(label=gene)
        page.wait_for_timeout(1200)
        for column, row in ((1, 0), (2, 1), (3, 2)):
            found = page.evaluate(PIXEL, [(column + 0.5) * SIDE, (row + 0.5) * SIDE])["colour"]
            expected = colour_ramp("paper")[int(score(column, row, number) * 256)]
            assert "#{:02x}{:02x}{:02x}".format(*found) == expected, (gene, column, row)
    handle.press("Home")
    page.wait_for_timeout(800)
    bare = page.evaluate(PIXEL, [1.5 * SIDE, 0.5 * SIDE])["colour"]
    assert "#{:02x}{:02x}{:02x}".format(*bare) not in colour_ramp("paper"), "with opacity 0 the tissue is seen"


def _tiles(page, path: Path) -> None:
    """Enlarged, the middle of the slide shows its own pixels, which the overview has not."""
    view, far = page.locator(VIEWER), 1.3**10
    for _ in range(10):
        view.press("+")
    page.wait_for_timeout(2500)
    places = [(WIDTH / 2 + 7 * i, HEIGHT / 2 + 7 * k) for i in range(-5, 6) for k in range(-3, 4)]
    seen = np.array([page.evaluate(PIXEL, [x + 0.5, y + 0.5, far])["colour"] for x, y in places])
    with OpenSlide(path) as slide:
        own = np.array([slide.read_region((int(x), int(y)), 0, (1, 1)).getpixel((0, 0))[:3] for x, y in places])
    assert np.abs(seen - own).mean() < 12
    view.press("0")
    page.wait_for_timeout(1500)


def _damaged(page, path: Path) -> None:
    """A slide that opens and has no tile: that is told, and the overview stays."""
    _menu(page, "slide").select_option(label=AWAY)
    page.get_by_text("the slide is not on this machine").wait_for()
    path.write_bytes(path.read_bytes().replace(b"\xff\xd8\xff", b"\0\0\0"))
    _menu(page, "slide").select_option(label=HERE)
    page.locator(".deeplrhe-status", has_text="cannot be decoded").wait_for()
    assert min(page.evaluate(PIXEL, [WIDTH / 2, HEIGHT / 2])["colour"]) < 250


def _keyboard(page) -> None:
    view, told, draw = page.locator(VIEWER), page.locator(".deeplrhe-status"), "Draw the tumour"
    for key, place in (("n", "3_1"), ("p", "2_1"), ("a", "2_1"), ("r", "2_1")):
        view.press(key)  # the last two would add a cell, and turn this one into text, if JupyterLab saw them
        page.get_by_text(f"Window {HERE}_{place}:").wait_for()
    page.get_by_role("button", name=draw).click()
    for keys, words in (
        ("Space", "1 corners"), ("Enter", "at least three corners"), ("Backspace", "0 corners"),
        ("Space ArrowRight Space ArrowDown Space", "3 corners"), ("Escape", "0 corners"),
    ):  # fmt: skip
        for key in keys.split():
            view.press(key, delay=150)
            page.wait_for_timeout(100)
        assert words in told.inner_text()
    page.get_by_role("button", name=draw).click()
    view.press("0")
    page.wait_for_timeout(1500)


def _at(page, x: float, y: float) -> None:
    place, box = page.evaluate(PIXEL, [x, y]), page.locator(VIEWER).bounding_box()
    page.mouse.click(box["x"] + place["left"], box["y"] + place["top"])


def _click(page) -> None:
    _menu(page, "gene").select_option(label=GENES[0])
    _at(page, 2.5 * SIDE, 1.5 * SIDE)
    page.get_by_text(f"Window {HERE}_2_1:").wait_for()
    told = page.locator(".jp-OutputArea-output table", has_text="around").inner_text()
    around = [score(c, r, 0) for c in (1, 2, 3) for r in (0, 1, 2) if (c, r) != (2, 1)]
    assert f"{score(2, 1, 0):.3f}" in told and f"{sum(around) / 8:.3f} (n = 8)" in told and GENES[1] in told
    picture = page.locator(".jp-OutputArea-output img.widget-image")
    assert picture.is_visible() and picture.evaluate("image => image.naturalWidth") > 400


def _outline(page, folder: Path) -> None:
    wanted = DRAWN
    page.get_by_role("button", name="Draw the tumour").click()
    for corner in wanted:
        _at(page, *corner)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Save outline").click()
    page.get_by_text(f"Saved: {HERE}.geojson").wait_for()
    found = find_annotation(folder, HERE)
    assert found is not None
    regions = read_annotation(found)
    outline = tumour_outline(regions)
    assert [region.classification for region in regions] == ["Tumor"]
    expected, pixel = shapely.Polygon(wanted), 1.5 / page.evaluate(PIXEL, [0, 0])["scale"]
    assert outline.hausdorff_distance(expected) <= pixel, "corners lie where they were clicked"
    assert tumour_fractions(outline, [512, 0], [512, 0], [512, 256]).round(2).tolist() == [1.0, 0.0]
    page.get_by_role("button", name="Draw the tumour").click()


def _notebooks_use_it(run: Path) -> None:
    """Notebooks 01 and 02, run for real with the folder of outlines: tiles inside are kept, the others are not."""
    command = [
        sys.executable, "-m", "deeplrhe_utils", "run", "slides", "--to", "02", "--out", str(run / "with-outline"),
    ]  # fmt: skip
    settings = {"slides_dir": run / "work" / "slides", "annotations_dir": run / "outlines", "tile_px": SIDE // 2,
                "max_background": 1.0, "min_tumour": 0.5}  # fmt: skip
    chosen = [word for name, value in settings.items() for word in ("-p", f"{name}={value}")]
    done = subprocess.run([*command, *chosen], capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tiles = pd.read_parquet(run / "with-outline" / "tables" / "candidates.parquet").set_index(["column", "row"])
    assert set(tiles["slide_id"]) == {HERE} and len(tiles) == (WIDTH // SIDE) * (HEIGHT // SIDE)
    expected = shapely.Polygon(DRAWN)
    for (column, row), tile in tiles.iterrows():
        square = shapely.box(column * SIDE, row * SIDE, (column + 1) * SIDE, (row + 1) * SIDE)
        share = square.intersection(expected).area / square.area
        assert tile["tumour_fraction"] == pytest.approx(share, abs=0.02)
        assert tile["kept"] == (tile["tumour_fraction"] >= 0.5)
    assert 0 < tiles["kept"].sum() < len(tiles)


def _other_slide(page) -> None:
    _menu(page, "slide").select_option(label=AWAY)
    page.get_by_text("the slide is not on this machine: its thumbnail is shown").wait_for()
    page.get_by_role("button", name="Draw the tumour").click()
    for corner in ((100, 100), (900, 100), (900, 900), (900, 900)):  # the last two are a double click, which closes
        _at(page, *corner)
    assert "0 corners" in page.locator(".deeplrhe-status").inner_text()
    page.get_by_role("button", name="Save outline").click()
    page.get_by_text("cannot be the name of a file").wait_for()
    page.get_by_role("button", name="Draw the tumour").click()
    _menu(page, "slide").select_option(label=HERE)


def _linked_plots(page) -> None:
    plot = page.locator(".js-plotly-plot").first
    plot.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    point = plot.locator(".scatterlayer .trace").first.locator(".points path").nth(4).bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.wait_for_timeout(500)  # plotly knows a point once it was hovered over
    page.mouse.down()
    page.mouse.up()
    page.locator(".jp-OutputArea-output table", has_text="around").wait_for()
    assert page.get_by_text(f"Window {HERE}_1_1:").is_visible(), "a click on a point shows its window"
    page.locator(VIEWER).scroll_into_view_if_needed()
