"""Figures of attributions draw what they are given, on the scale that they say."""

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.learning.attribution.maps import Attribution, Cam, Integrated
from deeplrhe_utils.learning.attribution.sanity import SanityCheck
from deeplrhe_utils.reporting.figures.attribution import attribution_rows

SIDE = 64


def made(number, empty=False):
    random = np.random.default_rng(number)
    signed = np.zeros((SIDE, SIDE), np.float32) if empty else random.normal(0, 0.01, (SIDE, SIDE)).astype(np.float32)
    cells = np.zeros((4, 4), np.float32) if empty else random.normal(0, 0.1, (4, 4)).astype(np.float32)
    picture = np.kron(np.maximum(cells, 0), np.ones((16, 16), np.float32))
    gradients = Integrated(signed, 0.0, 0.0, 0.0, 9)
    return Attribution("TP53", 0.8364, 1.63, gradients, Cam(picture, cells, "blocks", "even"))


def check_of(count):
    others = [made(100 + i) for i in range(count)]
    return SanityCheck(pd.DataFrame(), [o.integrated.map for o in others], [0.1 * o.cam.map for o in others],
                       ("classify",))  # fmt: skip


@pytest.fixture
def tiles():
    return [np.random.default_rng(9).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)] * 2


def panels(figure):
    return [strip.axes for strip in figure.subfigs]


def test_a_row_per_tile_and_two_columns_per_method(tiles, tmp_path):
    found = [made(0), made(1)]
    figure = attribution_rows(tiles, found, ["slide A, x 512, y 1024", "slide B"], check_of(2))
    figure.savefig(tmp_path / "rows.png")
    rows = panels(figure)
    assert [len(row) for row in rows] == [5, 5]
    assert figure.subfigs[0].get_suptitle() == "TP53 score 0.836 · slide A, x 512, y 1024"
    labels = [axes.get_xlabel().replace("\n", " ") for axes in rows[0]]
    assert labels[0] == "tile, 64 × 64 px" and labels[1].startswith("integrated gradients ±")
    assert [("random weights" in text) for text in labels] == [False, False, False, True, True]
    np.testing.assert_array_equal(rows[0][0].images[0].get_array(), tiles[0])


def test_colours_are_symmetric_and_the_number_below_is_their_end(tiles):
    figure = attribution_rows(tiles[:1], [made(0)], ["A"], check_of(1))
    gradients, cam, random, random_cam = panels(figure)[0][1:]
    low, high = gradients.images[0].get_clim()
    sums = made(0).integrated.map.reshape(16, 4, 16, 4).sum((1, 3))
    assert low == -high and f"±{high:.2g} logit\nper 4 × 4 px" in gradients.get_xlabel()
    np.testing.assert_allclose(gradients.images[0].get_array(), sums, atol=1e-6)
    assert (np.abs(sums) > high).mean() <= 0.01  # one square in 200 at most is drawn in the end colour, and one more
    assert cam.images[1].get_clim() == (0, pytest.approx(made(0).cam.map.max()))
    assert random.images[0].get_clim()[1] != high and random_cam.images[1].get_clim()[1] < cam.images[1].get_clim()[1]


def test_an_empty_map_is_drawn_too(tiles, tmp_path):
    figure = attribution_rows(tiles[:1], [made(0, empty=True)], ["A"], check_of(1))
    figure.savefig(tmp_path / "empty.png")
    assert panels(figure)[0][1].images[0].get_clim() == (-1, 1)


def test_hostile_places_are_text_and_long_ones_are_cut(tiles, tmp_path):
    figure = attribution_rows(tiles, [made(0), made(1)], ["$\\frac{ <b>../x", "word " * 90], check_of(2))
    figure.savefig(tmp_path / "hostile.png")
    assert "$\\frac{ <b>../x" in figure.subfigs[0].get_suptitle() and len(figure.subfigs[1].get_suptitle()) < 140
