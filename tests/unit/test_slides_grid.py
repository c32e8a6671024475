"""The grid has no gaps, no overlaps and no drift."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.slides.tiles.grid import make_grid

mpps = st.sampled_from([0.25, 0.2527, 0.499, 0.5, 0.5026, 0.2325, 1.0, 0.121547])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(600, 60_000), st.integers(600, 20_000), mpps, st.sampled_from([0.5, 0.25, 1.0]), st.integers(256, 600)
)
def test_tiles_neither_gap_nor_overlap_and_stay_inside(width, height, mpp, target, tile_px):
    side = tile_px * Fraction(str(target)) / Fraction(str(mpp))
    if side > min(width, height):
        with pytest.raises(InputError, match="No tile fits"):
            make_grid(width, height, mpp, target, tile_px)
        return
    grid = make_grid(width, height, mpp, target, tile_px)
    columns, rows = grid["column"].max() + 1, grid["row"].max() + 1
    assert len(grid) == columns * rows == int(width / side) * int(height / side)
    assert not grid.duplicated(["column", "row"]).any()
    for axis, place in (("column", "x_l0_px"), ("row", "y_l0_px")):
        corners = grid.drop_duplicates(axis).sort_values(axis)[place].tolist()
        assert all(abs(x - i * side) < 1 for i, x in enumerate(corners))  # no drift, so neither gap nor overlap
    assert (grid["x_l0_px"] + float(side)).max() <= width + 1e-6
    assert (grid["y_l0_px"] + float(side)).max() <= height + 1e-6
    assert width - columns * side < side and height - rows * side < side  # nothing that fits is left out


@settings(max_examples=40, deadline=None)
@given(mpps, st.integers(1000, 9000))
def test_a_corner_leads_back_to_its_tile(mpp, width):
    grid = make_grid(width, 1500, mpp, 0.5, 128)
    side = 128 * Fraction("0.5") / Fraction(str(mpp))
    for tile in grid.itertuples():
        assert int((Fraction(tile.x_l0_px) + side / 2) / side) == tile.column
        assert int((Fraction(tile.y_l0_px) + side / 2) / side) == tile.row


def test_a_slide_that_is_too_small_is_told_the_largest_tile_and_wrong_rules_are_refused():
    with pytest.raises(InputError, match=r"500 × 500 px.*512.*at most 500"):
        make_grid(1000, 1000, 0.25, 0.5, 512, "TCGA-21-5784-01Z-00-DX1")
    assert len(make_grid(1000, 1000, 0.25, 0.5, 248)) == 4
    assert len(make_grid(1000, 1000, 0.25, 0.5, 500)) == 1
    with pytest.raises(ParameterError, match="inside or cover"):
        make_grid(5000, 5000, 0.5, 0.5, 512, edge="clip")
    with pytest.raises(ParameterError, match="stride -1"):
        make_grid(5000, 5000, 0.5, 0.5, 512, stride_px=-1)


@pytest.mark.parametrize("bad", [(0, 10, 0.5, 0.5, 5), (10, 10, -1, 0.5, 5), (10, 10, 0.5, 0.5, 0)])
def test_sizes_must_be_positive(bad):
    with pytest.raises(ParameterError):
        make_grid(*bad)


@settings(max_examples=60, deadline=None)
@given(st.integers(2000, 30_000), st.integers(2000, 9_000), mpps, st.integers(64, 256), st.integers(32, 256))
def test_with_overlap_every_pixel_of_the_slide_is_covered(width, height, mpp, tile_px, stride_px):
    stride_px = min(stride_px, tile_px)
    grid = make_grid(width, height, mpp, 0.5, tile_px, stride_px=stride_px, edge="cover")
    side, step = (px * Fraction("0.5") / Fraction(str(mpp)) for px in (tile_px, stride_px))
    for axis, place, length in (("column", "x_l0_px", width), ("row", "y_l0_px", height)):
        corners = grid.drop_duplicates(axis).sort_values(axis)[place].tolist()
        assert corners[0] == 0 and corners == sorted(corners)
        assert all(b - a < step + 1 and b - a <= side + 1 for a, b in itertools.pairwise(corners))
        assert length - 1 < corners[-1] + side <= length  # the last tile ends at the edge, and not beyond
