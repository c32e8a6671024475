"""The figure of extreme windows: right pictures, right places, every window there, nothing broken by names."""

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from PIL import Image

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.evaluation.tables.slide_reading import extreme_tiles
from deeplrhe_utils.reporting.explorer.extreme_tiles import extreme_figure, wanted
from deeplrhe_utils.slides.tiles.grid import make_grid
from deeplrhe_utils.slides.tiles.pixels import open_row, peek, read_pixels

SIZE = (4000, 2000)


def chosen_of(n_top, n_bottom, **changes):
    rows = [
        {"side": side, "rank": rank + 1, "tile_id": f"S{i}_0_0", "slide_id": f"S{i}", "patient_id": f"P{i}",
         "label": [1, 0, None][i % 3], "score": 0.9 - 0.05 * i, "x_l0_px": 100 * i, "y_l0_px": 300,
         "size_l0_px": 512.0, "size_um": 256.0}
        for i, (side, rank) in enumerate((s, k) for s, n in (("top", n_top), ("bottom", n_bottom)) for k in range(n))
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"label": "Int64"}).assign(**changes)


def pictures_of(chosen):
    """A colour of its own for every tile and every slide."""
    tiles = {t: np.full((8, 8, 3), (10 + 9 * i, 0, 0), np.uint8) for i, t in enumerate(chosen["tile_id"])}
    slides = {s: np.full((20, 40, 3), (0, 10 + 9 * i, 0), np.uint8) for i, s in enumerate(chosen["slide_id"])}
    return tiles, slides, dict.fromkeys(chosen["slide_id"], SIZE)


def texts(figure):
    return [one.get_text() for one in figure.texts]


def rendered(figure):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(buffer, format="png", dpi=60)
        figure.savefig(io.BytesIO(), format="svg")
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_every_window_is_shown_beside_its_slide_with_its_place_framed():
    chosen = chosen_of(5, 3)
    figure = extreme_figure(chosen, *pictures_of(chosen), gene="TP53", columns=3)
    assert len(figure.axes) == 16
    for i, row in enumerate(chosen.to_dict("records")):
        tile, place = figure.axes[2 * i : 2 * i + 2]
        assert tuple(tile.images[0].get_array()[0, 0]) == (10 + 9 * i, 0, 0)
        assert tuple(place.images[0].get_array()[0, 0]) == (0, 10 + 9 * i, 0)
        assert place.images[0].get_extent() == [0, 4000, 2000, 0] and place.get_ylim() == (2000, 0)
        frames = [p for p in place.patches if isinstance(p, Rectangle)]
        assert {(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in frames} == {(100.0 * i, 300, 512, 512)}
        assert {row["tile_id"], row["patient_id"]} <= set(texts(figure))
    scores = [t for t in texts(figure) if "score 0." in t]
    assert scores[:3] == ["1.  score 0.900   ■ mutated", "2.  score 0.850   □ wild type",
                          "3.  score 0.800   ? not profiled"]  # fmt: skip
    assert [t for t in texts(figure) if t.endswith("scores")] == ["highest scores", "lowest scores"]
    rendered(figure)


def test_the_frame_lies_on_the_pixels_of_the_window():
    """A slide that is red where the window is: on the page the frame encloses the red, and nothing else."""
    chosen = chosen_of(1, 0, x_l0_px=1000, y_l0_px=400, size_l0_px=800.0)
    slide = np.zeros((200, 400, 3), np.uint8) + np.uint8(200)
    slide[40:120, 100:180] = (255, 0, 0)
    figure = extreme_figure(chosen, {}, {"S0": slide}, {"S0": SIZE}, gene="TP53", columns=1)
    place = figure.axes[1]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    frame = place.patches[0].get_window_extent()
    page = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    rows, columns = np.nonzero((page[..., 0] > 220) & (page[..., 1] < 60))
    height = page.shape[0]
    found = np.array([columns.min(), columns.max() + 1, height - rows.max() - 1, height - rows.min()])
    assert np.abs(found - [frame.x0, frame.x1, frame.y0, frame.y1]).max() <= 4  # the frame's own line covers the edge


def test_small_windows_get_a_ring_and_large_ones_none():
    for size, rings in ((SIZE, 0), ((80_000, 40_000), 1)):
        chosen = chosen_of(1, 0)
        tiles, slides, _ = pictures_of(chosen)
        figure = extreme_figure(chosen, tiles, slides, {"S0": size}, gene="TP53")
        lines = figure.axes[1].lines
        assert len(lines) == rings
        if rings:
            assert (lines[0].get_xdata()[0], lines[0].get_ydata()[0]) == (256, 556)


def test_scale_bars_are_true_and_absent_where_the_resolution_is_unknown():
    chosen = chosen_of(1, 0)
    tile = extreme_figure(chosen, *pictures_of(chosen), gene="TP53").axes[0]
    first, last = tile.lines[0].get_xdata()
    assert (last - first) * 256 == pytest.approx(50) and tile.texts[0].get_text() == "50 µm"
    chosen = chosen.assign(size_um=np.nan)
    assert not extreme_figure(chosen, *pictures_of(chosen), gene="TP53").axes[0].lines


def test_what_has_no_picture_says_so():
    chosen = chosen_of(2, 1)
    figure = extreme_figure(chosen, {}, {}, dict.fromkeys(chosen["slide_id"], SIZE), gene="TP53")
    said = [axes.texts[0].get_text() for axes in figure.axes]
    assert said == ["no picture\nof the tile", "no picture\nof the slide"] * 3
    assert "label" not in chosen.drop(columns="label")
    bare = chosen.drop(columns="label")
    assert not [t for t in texts(extreme_figure(bare, *pictures_of(bare), gene="TP53")) if "mutated" in t]


@pytest.mark.parametrize("name", ["$x_1", "$\\frac{$", "<b>&amp;\n", "\u202etxt", "中国", "\x00", "y" * 300])
def test_hostile_names_break_nothing(name):
    chosen = chosen_of(1, 1)
    chosen.loc[0, ["tile_id", "slide_id", "patient_id"]] = name
    figure = extreme_figure(chosen, *pictures_of(chosen), gene=name)
    assert all(t.isprintable() and len(t) <= 60 for t in texts(figure))
    assert rendered(figure).std() > 0


def test_wrong_arguments_are_refused():
    chosen = chosen_of(1, 1)
    parts = pictures_of(chosen)
    with pytest.raises(InputError, match="no window"):
        extreme_figure(chosen.iloc[:0], *parts, gene="TP53")
    for change in ({"x_l0_px": 3900}, {"y_l0_px": -1}, {"size_l0_px": np.nan}):
        with pytest.raises(InputError, match="outside its slide"):
            extreme_figure(chosen.assign(**change), *parts, gene="TP53")
    with pytest.raises(InputError, match="not in the tiles table"):
        wanted(chosen, chosen.iloc[:1])


def test_from_scores_to_figure_on_a_real_slide(shared_data):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    row = {"slide_id": "real", "patient_id": "real", "status": "ok", "mpp": 0.499, "path": str(path)}
    grid = make_grid(2220, 2967, 0.499, 0.5, 256)
    names = [f"real_{i}" for i in range(len(grid))]
    tiles = grid.assign(tile_id=names, slide_id="real", patient_id=names, kept=True, path=None)
    predictions = tiles[["tile_id", "slide_id", "patient_id"]].assign(gene="TP53", score=np.linspace(0, 1, len(tiles)))
    found = extreme_tiles(predictions, tiles, "TP53", 2, slides=pd.DataFrame([row]))
    asked = wanted(found.table, tiles)
    assert list(asked) == ["real"] and set(asked["real"]["tile_id"]) == {names[i] for i in (0, 1, -2, -1)}
    pictures = dict(zip(asked["real"]["tile_id"], peek(row, asked["real"], 96), strict=True))
    whole = dict(zip(asked["real"]["tile_id"], read_pixels(row, asked["real"], 256), strict=True))
    with open_row(row) as slide:
        thumbnails = {"real": slide.thumbnail(200)}
    figure = extreme_figure(found.table, pictures, thumbnails, {"real": (2220, 2967)}, gene="TP53", columns=2)
    assert len(figure.axes) == 8 and not [a for axes in figure.axes for a in axes.texts if "no picture" in a.get_text()]
    for name, picture in whole.items():  # the small picture is the window's
        assert np.abs(picture.mean(axis=(0, 1)) - pictures[name].mean(axis=(0, 1))).max() < 3
    rendered(figure)
