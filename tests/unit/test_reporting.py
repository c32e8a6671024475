"""Heat maps lie where the scores were measured; exports carry level-0 pixels."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.evaluation.auc.table import Curve
from deeplrhe_utils.reporting.figures import display, style
from deeplrhe_utils.reporting.heatmaps import bands


def _tiles(boxes):
    frame = pd.DataFrame(boxes, columns=["x_l0_px", "y_l0_px", "size_l0_px"])
    return frame.assign(tile_id=[f"t{i}" for i in range(len(frame))])


@pytest.mark.parametrize("size", [1024.0, 512 * 0.5 / 0.2527])
def test_windows_land_on_their_level_0_pixels(size):
    width, height = 6000, 4000
    boxes = [(round(c * size), round(r * size), size) for c in range(3) for r in range(2)]
    scores = np.linspace(0.1, 0.9, 6)
    heat = bands.accumulate(_tiles(boxes), scores, width, height, (400, 600))
    for (x, y, s), score in zip(boxes, scores, strict=True):
        inside = np.abs(heat - score) < 1e-12
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        for edge, value in ((rows[0], y), (rows[-1] + 1, y + s), (columns[0], x), (columns[-1] + 1, x + s)):
            assert abs(edge * 10 - value) <= 5 + 1e-9  # half a map pixel of 10 level-0 pixels
    assert np.isnan(heat[-1, -1])


def test_overlapping_windows_are_averaged_and_unmeasured_stay_bare():
    tiles = _tiles([(0, 0, 20.0), (10, 0, 20.0), (0, 20, 20.0)])
    heat = bands.accumulate(tiles, np.array([0.2, 0.8, np.nan]), 40, 40, (40, 40))
    assert heat[0, 0] == 0.2 and heat[0, 15] == 0.5 and heat[0, 25] == 0.8
    assert np.isnan(heat[30, 5]) and np.isnan(heat[0, 35])
    picture = np.full((40, 40, 3), 200, np.uint8)
    drawn = bands.overlay(picture, heat)
    assert (drawn[30, 5] == 200).all() and drawn[0, 25, 0] > drawn[0, 25, 2] and drawn[0, 5, 2] > drawn[0, 5, 0]


def test_windows_outside_the_slide_and_unknown_palettes_are_refused():
    with pytest.raises(InputError, match="outside its slide"):
        bands.accumulate(_tiles([(30, 0, 20.0)]), np.array([0.5]), 40, 40, (40, 40))
    with pytest.raises(InputError, match="perceptual"):
        bands.overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), palette="jet")


def test_compacting_keeps_line_art_and_shrinks_photographs(tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    figure = style.image_grid([[photo]], ["x"], size=4)
    figure.savefig(tmp_path / "a.png")
    figure.savefig(tmp_path / "a.svg")
    png, svg = (tmp_path / f"a.{s}" for s in ("png", "svg"))
    before = png.stat().st_size, svg.stat().st_size
    display.compact_png(png)
    display.compact_svg(svg)
    assert png.stat().st_size < before[0] and svg.stat().st_size < before[1]
    with Image.open(png) as image:
        assert image.size[0] > 400
    assert b"image/jpeg" in svg.read_bytes()


def test_component_image_blends_memberships():
    gamma = np.zeros((4, 2, 2), np.float32)
    gamma[0] = 1
    assert (style.component_image(gamma) == [0xE8, 0xE4, 0xF0]).all()


def test_noise_image_marks_blank_and_blur():
    tile = np.full((2, 2, 3), 100, np.uint8)
    painted = style.noise_image(tile, np.array([[0, 1], [2, 0]]))
    assert (painted[0, 0] == 100).all() and (painted[0, 1] == 170).all() and painted[1, 0, 0] > painted[1, 0, 2]


def test_the_live_curve_is_for_notebooks_only():
    from deeplrhe_utils.reporting.figures.display import live_curve

    assert live_curve() is None, "there is no notebook here"


def test_a_forest_is_grey_where_one_half_is_covered_and_prints_its_numbers():
    rows = pd.DataFrame({"gene": ["A", "B", "C"], "auc": [0.8, 0.55, np.nan], "ci_low": [0.6, 0.4, np.nan],
                         "ci_high": [0.9, 0.7, np.nan], "null_low": [0.4, 0.4, np.nan], "null_high": [0.6, 0.6, np.nan],
                         "n_pos": [9, 8, 1], "n_neg": 20, "status": ["estimated"] * 2 + ["not estimable"]})  # fmt: skip
    axes = style.auc_forest(rows).axes[0]
    dots = {round(float(line.get_xdata()[0]), 2): line.get_color() for line in axes.lines if line.get_marker() == "o"}
    assert dots[0.8] == style.PALETTE[0] != dots[0.55]
    texts = " ".join(t.get_text() for t in axes.texts)
    assert "0.80 [0.60, 0.90]   9/20" in texts and "1/20" in texts and texts.count("not estimable") == 1


@pytest.mark.parametrize("kinds", [("normal", "adenocarcinoma", "squamous"), ("adenocarcinoma", "squamous")])
def test_classes_have_a_panel_each_with_a_line_per_method_and_one_matrix(kinds):
    line = Curve(*np.linspace(0, 1, 5)[None].repeat(4, 0))
    rows = pd.DataFrame([{"gene": kind, "method": method} for method in "ab" for kind in kinds])
    rows = rows.assign(auc=0.9, ci_low=0.8, ci_high=1.0)
    figure = style.class_curves({m: dict.fromkeys(kinds, line) for m in "ab"}, rows, pd.DataFrame(3, kinds, kinds))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [len(axes.lines) for axes in panels] == [3] * len(kinds) + [0]
    assert len(panels[0].get_legend().get_texts()) == 2
