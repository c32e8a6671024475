"""The report page opened from disk: by keyboard, narrow and wide, light and dark, printed, with hostile names."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeplrhe_utils.core.paths import PROFILES
from deeplrhe_utils.reporting.explorer.views import colour_ramp
from deeplrhe_utils.running.page.page import write_page
from deeplrhe_utils.running.plan.profiles import load_profile
from tests.browser.run_folder import AWAY, GENES, HEIGHT, HERE, SIDE, WIDTH, report, score

FOCUS = """[document.activeElement.id || document.activeElement.tagName,
            getComputedStyle(document.activeElement).outlineStyle]"""
READY = "document.querySelector('#heat-view canvas') && document.getElementById('heat-picks').children.length > 0"
CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8").partition("\n")[2]
# The colour of the map's layer at a place of the slide [share of its width and height].
PIXEL = """([x, y]) => {
  const layers = [...document.querySelectorAll('#heat-view canvas')], layer = layers[layers.length - 1];
  const box = layer.getBoundingClientRect(), ratio = layer.width / box.width;
  const [w, h] = [%d, %d], scale = Math.min(box.width / w, box.height / h);
  const left = (box.width - w * scale) / 2 + x * w * scale, top = (box.height - h * scale) / 2 + y * h * scale;
  return [...layer.getContext('2d').getImageData(Math.round(left * ratio), Math.round(top * ratio), 1, 1).data];
}""" % (WIDTH, HEIGHT)  # noqa: UP031


@pytest.fixture
def address(finished_run):
    return write_page(finished_run, load_profile("smoke", PROFILES), report(finished_run)).as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_reads_well_without_network(address, watch, width, scheme):
    seen = watch(width=width, color_scheme=scheme)
    seen.page.goto(address, wait_until="load")
    seen.page.wait_for_function(READY)
    seen.shot(f"page-{width}-{scheme}")
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"
    count, bad = seen.page.evaluate(CONTRAST)
    assert count > 60 and bad == []
    assert seen.problems == [] and all(url.startswith(("file:", "blob:", "data:")) for url in seen.asked)
    first = seen.page.locator("body").inner_text().strip()
    assert first.startswith(("Skip to the results", "Synthetic data"))
    assert "A run" in first or "A dozen" in first


def test_the_map_has_the_scores_colours_and_hostile_names_stay_text(address, watch):
    seen = watch()
    seen.page.goto(address)
    seen.page.wait_for_function(READY)
    page = seen.page
    page.locator("#heat-slide").select_option(label=HERE)
    page.locator("#heat-opacity").fill("1")
    page.wait_for_timeout(300)
    _compare(page, gene=0, unscored=True)
    page.locator("#heat-gene").select_option(label=GENES[1])
    page.wait_for_timeout(300)
    _compare(page, gene=1, unscored=False)
    page.locator("#heat-threshold").fill("0.5")
    page.wait_for_timeout(200)
    assert page.evaluate(PIXEL, [3.5 / 4, 2.5 / 3])[3] == 0, "a window below the threshold is bare"
    page.locator("#heat-slide").select_option(label=AWAY)
    page.wait_for_function("document.getElementById('heat-chosen').textContent === ''")
    assert page.locator("td script, td b, td i, li b").count() == 0
    assert "alert(3)" in page.locator("#claims ~ .scroll").inner_text()
    assert page.locator("a[href*='passwd']").count() == 0
    assert seen.problems == []


def _compare(page, gene: int, unscored: bool) -> None:
    colours = colour_ramp("paper")
    for column, row in ((0, 0), (1, 0), (3, 0), (2, 1), (3, 2)):
        found = page.evaluate(PIXEL, [(column + 0.5) * SIDE / WIDTH, (row + 0.5) * SIDE / HEIGHT])
        if unscored and (column, row) == (0, 0):
            assert found[3] == 0, "what was not scored stays bare"
            continue
        expected = colours[int(round(score(column, row, gene), 3) * 256)]
        red, green, blue, alpha = found
        assert (f"#{red:02x}{green:02x}{blue:02x}", alpha) == (expected, 255), (column, row)


def test_it_works_by_keyboard_alone(address, watch):
    seen = watch()
    seen.page.goto(address)
    page = seen.page
    page.wait_for_function(READY)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = []
    while len(reached) < 80:
        page.keyboard.press("Tab")
        name, ring = page.evaluate(FOCUS)
        if name == "BODY":
            break
        reached.append(name)
        assert ring != "none", f"the focus on {name} cannot be seen"
    order = ["heat-slide", "heat-gene", "heat-palette", "heat-opacity", "heat-threshold", "heat-in", "heat-whole"]
    assert [name for name in reached if name in order] == order
    page.locator("#heat-picks button").first.focus()
    page.keyboard.press("Enter")
    assert "TP53 0.958" in page.locator("#heat-chosen").inner_text()
    view = page.locator("#heat-view [role=application]")
    view.focus()
    page.keyboard.press("0")
    page.wait_for_timeout(900)
    before = page.evaluate(PIXEL, [0.9, 0.9])
    for key in "rfd":  # OpenSeadragon would turn, mirror and move the slide, and its map would not follow
        page.keyboard.press(key)
    page.wait_for_timeout(900)
    assert page.evaluate(PIXEL, [0.9, 0.9]) == before
    for key in ("+", "+", "ArrowRight"):
        page.keyboard.press(key)
    page.wait_for_timeout(900)
    assert page.evaluate(PIXEL, [0.6, 0.2]) != before and seen.problems == []


def test_a_click_reads_the_window(address, watch):
    seen = watch()
    seen.page.goto(address)
    page = seen.page
    page.wait_for_function(READY)
    page.locator("#heat-slide").select_option(label=HERE)
    page.wait_for_timeout(300)
    page.locator("#heat-view").scroll_into_view_if_needed()
    box = page.locator("#heat-view").bounding_box()
    scale = min(box["width"] / WIDTH, box["height"] / HEIGHT)
    x = box["x"] + box["width"] / 2 + (2.5 * SIDE - WIDTH / 2) * scale
    y = box["y"] + box["height"] / 2 + (1.5 * SIDE - HEIGHT / 2) * scale
    page.mouse.click(x, y)
    page.wait_for_function("document.getElementById('heat-chosen').textContent !== ''")
    said = page.locator("#heat-chosen").inner_text()
    assert f"TP53 {score(2, 1, 0):.3f}" in said and f"x {2 * SIDE}, y {SIDE}" in said and seen.problems == []


def test_it_prints_without_the_live_parts(address, watch, tmp_path):
    seen = watch()
    seen.page.goto(address)
    seen.page.wait_for_function(READY)
    seen.page.emulate_media(media="print")
    assert not seen.page.locator("#heat-viewer").is_visible() and not seen.page.locator("nav").is_visible()
    assert seen.page.locator("#auc").is_visible()
    assert len(seen.page.pdf()) > 10_000


def test_a_run_that_failed_at_once_still_has_a_page(tmp_path, watch):
    root = tmp_path / "run"
    page = write_page(root, load_profile("smoke", PROFILES), report(root, "failed"))
    seen = watch()
    seen.page.goto(page.as_uri())
    assert "Stages without a result: 07-heat-maps (failed)" in seen.page.locator("main").inner_text()
    assert seen.problems == [] and not (root / "page").exists()
