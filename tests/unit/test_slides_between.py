"""Windows between tiles: where they lie, and that kept tiles cover them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.slides.tiles.between import windows_between
from deeplrhe_utils.slides.tiles.grid import make_grid


def grid(width=4000, height=3000, mpp=0.2527, target=0.5, side=512, stride=0, edge="inside"):
    tiles = make_grid(width, height, mpp, target, side, "s", stride_px=stride, edge=edge)
    return tiles.assign(tile_id=[f"s_{c}_{r}" for c, r in zip(tiles["column"], tiles["row"], strict=True)])


def test_a_block_of_four_has_five_windows_between_at_half_a_tile():
    kept = grid().query("column < 2 and row < 2")
    found = windows_between(kept, 2)
    assert len(found) == 5
    assert found["tile_id"].tolist() == [
        f"{kept['tile_id'].iloc[i]}~{o}/2" for i, o in ((0, "1.0"), (0, "0.1"), (0, "1.1"), (1, "0.1"), (2, "1.0"))
    ]
    x = kept["x_l0_px"].unique()
    assert set(found["x_l0_px"]) == {*x, x[0] + (x[1] - x[0]) // 2}


def test_no_window_is_made_of_one_tile_of_diagonal_neighbours_or_of_no_steps():
    kept = grid()
    assert windows_between(kept.iloc[:1], 4).empty and windows_between(grid(stride=1024), 2).empty
    assert windows_between(kept.query("column == row and row < 2"), 2).empty
    assert windows_between(kept, 1).empty and list(windows_between(kept, 1)) == list(kept)
    assert windows_between(kept.iloc[:0], 3).empty
    for steps in (0, 9):
        with pytest.raises(ParameterError, match="divided"):
            windows_between(kept, steps)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5),
    st.sampled_from([0, 300, 512, 600, 1024]),
    st.sampled_from(["inside", "cover"]),
    st.floats(0.2, 0.6),
    st.integers(0, 2**32 - 1),
)
def test_kept_tiles_cover_every_window_between(steps, stride, edge, mpp, seed):
    tiles = grid(mpp=mpp, stride=stride, edge=edge)
    kept = tiles[np.random.default_rng(seed).random(len(tiles)) < 0.7]
    found = windows_between(kept, steps)
    assert not pd.concat([kept, found])["tile_id"].duplicated().any()
    covered = np.zeros((3000, 4000), bool)
    for row in kept.itertuples():
        covered[
            row.y_l0_px : row.y_l0_px + int(row.size_l0_px) + 1, row.x_l0_px : row.x_l0_px + int(row.size_l0_px) + 1
        ] = 1
    for row in found.itertuples():
        side = int(row.size_l0_px)
        assert covered[row.y_l0_px : row.y_l0_px + side, row.x_l0_px : row.x_l0_px + side].all()
