"""The survey: shares of a mask that is known, whatever the level, the bands, the grid and the damage."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplrhe_utils.slides.quality import survey as survey_module
from deeplrhe_utils.slides.quality.artefacts import CONTEXT_UM, SurveyRules, artefact_masks
from deeplrhe_utils.slides.quality.survey import glass_of, survey
from deeplrhe_utils.slides.quality.tissue import CLEAN_UM, background_mask
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.grid import COVER, INSIDE, make_grid
from deeplrhe_utils.slides.tiles.tiling import TilingRules, tile_slide
from tests.tiff_slides import damage, write_jpeg_slide

WIDTH, HEIGHT = 1280, 2048  # a multiple of the survey's pixels, so that no edge is left out
GLASS, DARK = 240, 60
PLANTED = ((200, 312, 744, 1000), (1016, 1496, 1280, 1904))  # left, top, right, bottom: multiples of 8, as its pixels


def planted(rectangles=PLANTED, width=WIDTH, height=HEIGHT):
    picture = np.full((height, width, 3), GLASS, np.uint8)
    for left, top, right, bottom in rectangles:
        picture[top:bottom, left:right] = DARK
    return picture


def dark(rgb, _mpp):
    """What covers half a pixel or more of the survey."""
    return {"dark": rgb.mean(axis=2) < (GLASS + DARK) / 2, "bright": rgb.mean(axis=2) >= (GLASS + DARK) / 2}


def analytic(tiles, rectangles=PLANTED):
    """Share of each tile inside the rectangles, by plane geometry."""
    x, y, side = (tiles[c].to_numpy(float) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    area = np.zeros(len(tiles))
    for left, top, right, bottom in rectangles:
        across = np.minimum(x + side, right) - np.maximum(x, left)
        down = np.minimum(y + side, bottom) - np.maximum(y, top)
        area += np.maximum(across, 0) * np.maximum(down, 0)
    return area / side**2


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    """One slide for each set of levels."""
    folder, paths = tmp_path_factory.mktemp("planted"), {}
    for levels in ((1,), (1, 4)):
        name = f"levels{len(levels)}.svs"
        paths[levels] = write_jpeg_slide(folder / name, planted(), levels=levels, quality=95, subsampling=(1, 1))
    return paths


@pytest.fixture
def bands(monkeypatch):
    """The heights [level-0 px] and sizes [px] of the strips that were read."""
    seen, read = [], Slide.read_band

    def watched(slide, top, height, factor, **how):
        strip = read(slide, top, height, factor, **how)
        seen.append((top, height, strip.pixels.shape))
        return strip

    monkeypatch.setattr(Slide, "read_band", watched)
    return seen


@pytest.mark.parametrize("levels", [(1,), (1, 4)])
@pytest.mark.parametrize("mpp", [0.25, 0.2527, 0.9])
@pytest.mark.parametrize("grid", [{}, {"stride_px": 56, "edge": COVER}], ids=str)
def test_shares_are_those_of_plane_geometry(slide_path, levels, mpp, grid):
    with Slide(slide_path[levels], mpp=mpp) as slide:
        tiles = make_grid(WIDTH, HEIGHT, mpp, 1.0 if mpp > 0.5 else 0.5, 96, **grid)
        found = survey(slide, tiles, dark, context_um=10)
    expected = analytic(tiles)
    assert 0 < (expected > 0).mean() < 1 and ((expected > 0.01) & (expected < 0.99)).any()
    np.testing.assert_allclose(found["dark"], expected, atol=1e-9)
    np.testing.assert_allclose(found["bright"], 1 - expected, atol=1e-9)


def test_edges_between_pixels_cost_at_most_half_a_pixel_along_them(tmp_path):
    rectangle = (203, 309, 747, 1001)
    path = write_jpeg_slide(tmp_path / "a.svs", planted((rectangle,)), quality=95, subsampling=(1, 1))
    with Slide(path, mpp=0.25) as slide:
        tiles = make_grid(*slide.dimensions, 0.25, 0.5, 128)
        found = survey(slide, tiles, dark, context_um=10)["dark"].to_numpy()
    expected = analytic(tiles, (rectangle,))
    assert np.abs(found - expected).max() <= 2 * 256 * 4 / 256**2 and not np.allclose(found, expected, atol=1e-4)
    assert set(found[(expected == 0) | (expected == 1)]) <= {0.0, 1.0}


@pytest.mark.parametrize(("width", "height"), [(1283, 1029), (1025, 1031), (777, 1030)])
def test_what_hangs_over_the_last_pixel_of_the_survey_counts_neither_way(tmp_path, width, height):
    path = write_jpeg_slide(tmp_path / "a.svs", planted(((0, 0, width, height),), width, height))
    with Slide(path, mpp=0.25) as slide:
        tiles = make_grid(width, height, 0.25, 0.5, 96, edge=COVER)
        assert (tiles["x_l0_px"] + tiles["size_l0_px"]).max() == width
        found = survey(slide, tiles, dark, context_um=10)
    assert (found["dark"] == 1).all() and (found["bright"] == 0).all()


def test_a_picture_of_glass_alone_is_glass_in_every_tile(tmp_path):
    path = write_jpeg_slide(tmp_path / "a.svs", planted(()))
    with Slide(path, mpp=0.25) as slide:
        tiles = make_grid(*slide.dimensions, 0.25, 0.5, 96, edge=COVER)
        glass = glass_of(slide)
        found = survey(slide, tiles, lambda rgb, mpp: {"background": background_mask(rgb, glass=glass, mpp=mpp)},
                       context_um=CLEAN_UM)  # fmt: skip
    assert glass.found and np.abs(glass.level - GLASS).max() <= 1
    assert len(found) == len(tiles) and (found["background"] == 1).all()


def test_the_resolution_told_to_the_masks_is_that_of_the_picture(slide_path):
    told = []

    def masks(rgb, mpp):
        told.append((mpp, rgb.shape))
        return dark(rgb, mpp)

    for mpp, survey_mpp, expected in ((0.25, 2.0, 2.0), (0.2527, 2.0, 8 * 0.2527), (0.5, 4.0, 4.0), (0.5, 0.1, 0.5)):
        with Slide(slide_path[(1,)], mpp=mpp) as slide:
            survey(slide, make_grid(WIDTH, HEIGHT, mpp, 0.5, 96), masks, context_um=0, survey_mpp=survey_mpp)
        assert told and all(one == pytest.approx(expected) for one, _ in told)
        assert told[0][1][1] == WIDTH // round(expected / mpp), "the whole width"
        told.clear()


def busy():
    """Places around the cut of the background, 2 µm wide, so that every step of the clean-up has something to do."""
    values = np.random.default_rng(0).integers(170, 241, (HEIGHT // 8, WIDTH // 8, 1)) + np.array([10, -20, 10])
    values[:40] = GLASS
    return np.clip(np.repeat(np.repeat(values, 8, axis=0), 8, axis=1), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("mpp", [0.25, 0.2527, 0.5])
def test_bands_do_not_change_the_background_where_the_context_is_as_wide_as_the_clean_up(tmp_path, monkeypatch, mpp):
    path = write_jpeg_slide(tmp_path / "a.svs", busy(), quality=97, subsampling=(1, 1))
    with Slide(path, mpp=mpp) as slide:
        glass = glass_of(slide)
        tiles = make_grid(WIDTH, HEIGHT, mpp, 0.5, 96)

        def shares_with(band_px, context_um):
            monkeypatch.setattr(survey_module, "_BAND_PX", band_px)
            return survey(slide, tiles, lambda rgb, at: {"background": background_mask(rgb, glass=glass, mpp=at)},
                          context_um=context_um)["background"].to_numpy()  # fmt: skip

        whole = shares_with(10**9, CLEAN_UM)
        assert 0.1 < whole.mean() < 0.9
        for band_px in (1, 30_000, 60_000):
            np.testing.assert_allclose(shares_with(band_px, CLEAN_UM), whole, atol=1e-12)
        assert not np.allclose(shares_with(1, 0.0), whole), "without context the bands would show"


def test_bands_do_not_change_the_background_of_a_wider_clean_up(tmp_path, monkeypatch):
    path = write_jpeg_slide(tmp_path / "a.svs", busy(), quality=97, subsampling=(1, 1))
    row = {"slide_id": "a", "patient_id": "p", "path": str(path), "mpp": 0.25, "annotation": None}
    rules = TilingRules(tile_px=96, survey=SurveyRules(clean_um=4 * CLEAN_UM))
    found = []
    for band_px in (1, 10**9):
        monkeypatch.setattr(survey_module, "_BAND_PX", band_px)
        found.append(tile_slide(row, rules)["background_fraction"].to_numpy(float))
    np.testing.assert_allclose(*found, atol=1e-12)


def grown(rgb, mpp):
    """A mask that looks 40 µm up and down."""
    import cv2

    mask = dark(rgb, mpp)["dark"].astype(np.uint8)
    return {"grown": cv2.dilate(mask, np.ones((2 * round(40 / mpp) + 1, 1), np.uint8)).astype(bool)}


@pytest.mark.parametrize("context_um", [44, 100, 5000])
def test_rows_are_grouped_into_bands_without_a_trace(slide_path, monkeypatch, bands, context_um):
    expected = tuple((left, top - 160, right, bottom + 160) for left, top, right, bottom in PLANTED)
    with Slide(slide_path[(1,)], mpp=0.25) as slide:
        tiles = make_grid(WIDTH, HEIGHT, 0.25, 0.5, 96)
        monkeypatch.setattr(survey_module, "_BAND_PX", 1)
        single = survey(slide, tiles, grown, context_um=context_um)
        assert len(bands) == tiles["row"].nunique(), "a band for each row"
        monkeypatch.setattr(survey_module, "_BAND_PX", 10**9)
        bands.clear()
        whole = survey(slide, tiles, grown, context_um=context_um)
        assert len(bands) == 1
    np.testing.assert_allclose(single["grown"], analytic(tiles, expected), atol=1e-9)
    pd.testing.assert_frame_equal(single, whole, rtol=0, atol=1e-12)


def with_artefacts():
    """A strip of 0.5 × 2 mm at 0.5 µm/px: pale tissue, a bar of blue ink, a ring of air, each over several rows."""
    import cv2

    picture = np.full((4096, 1024, 3), (214, 170, 200), np.uint8)
    picture[:200] = GLASS
    cv2.circle(picture, (600, 2900), 400, (90, 76, 88), 20)
    ink = 10.0 ** -np.array([0.95, 0.55, 0.10])
    picture[500:1700, 300:520] = picture[500:1700, 300:520] * ink
    return picture


def test_ink_and_bubbles_over_several_rows_do_not_depend_on_the_bands(tmp_path, monkeypatch):
    path = write_jpeg_slide(tmp_path / "a.svs", with_artefacts(), quality=95, subsampling=(1, 1))
    with Slide(path, mpp=0.5) as slide:
        glass, tiles = glass_of(slide), make_grid(*slide.dimensions, 0.5, 0.5, 128)
        found = []
        for band_px in (1, 10**9):
            monkeypatch.setattr(survey_module, "_BAND_PX", band_px)
            found.append(survey(slide, tiles, lambda rgb, mpp: artefact_masks(rgb, mpp, glass), context_um=CONTEXT_UM))
    rows, whole = found
    assert list(whole.columns) == ["pen", "fold", "bubble"]
    for name, rectangle in (("pen", (300, 500, 520, 1700)), ("bubble", (190, 2490, 1010, 3310))):
        area = whole[name].sum() * 128**2
        ideal = (rectangle[2] - rectangle[0]) * (rectangle[3] - rectangle[1]) * (1 if name == "pen" else np.pi / 4)
        assert area == pytest.approx(ideal, rel=0.1)
        np.testing.assert_allclose(rows[name], whole[name], atol=0.02)


def test_a_band_stays_within_its_limit_and_touches_what_it_must(slide_path, monkeypatch, bands):
    limit = 14_000
    monkeypatch.setattr(survey_module, "_BAND_PX", limit)
    with Slide(slide_path[(1,)], mpp=0.25) as slide:
        tiles = make_grid(WIDTH, HEIGHT, 0.25, 0.5, 64)  # 16 rows
        found = survey(slide, tiles, dark, context_um=20)
    assert 2 < len(bands) < 16 and max(shape[0] * shape[1] for _, _, shape in bands) <= limit
    np.testing.assert_allclose(found["dark"], analytic(tiles), atol=1e-9)
    tops = [top for top, _, _ in bands]
    assert tops[0] == 0 and tops == sorted(tops)
    assert all(b[0] <= a[0] + a[1] for a, b in pairwise(bands)), "neighbouring bands meet"


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_subset_of_tiles_gives_the_shares_of_all(slide_path, data):
    with Slide(slide_path[(1, 4)], mpp=0.25) as slide:
        tiles = make_grid(WIDTH, HEIGHT, 0.25, 0.5, 96)
        tiles.index = tiles.index * 3 + 100  # labels, not places
        rows = data.draw(st.lists(st.sampled_from(list(tiles.index)), min_size=1, unique=True))
        some = tiles.loc[sorted(rows)]
        found = survey(slide, some, grown, context_um=44)
        whole = survey(slide, tiles, grown, context_um=44)
    assert found.index.equals(some.index)
    pd.testing.assert_frame_equal(found, whole.loc[some.index], rtol=0, atol=1e-12)


def test_what_lies_between_kept_rows_is_not_read_and_nothing_for_no_tiles(slide_path, bands):
    with Slide(slide_path[(1,)], mpp=0.25) as slide:
        tiles = make_grid(WIDTH, HEIGHT, 0.25, 0.5, 64)
        assert len(survey(slide, tiles.iloc[:0], dark, context_um=10)) == 0
    assert bands == []
    with Slide(slide_path[(1,)], mpp=0.25) as slide:
        tiles = make_grid(WIDTH, HEIGHT, 0.25, 0.5, 64)
        kept = tiles[tiles["row"].isin([0, 1, 7, 15]) & (tiles["column"] > 2)]
        found = survey(slide, kept, dark, context_um=10)  # 40 px
    assert [(top, top + height) for top, height, _ in bands] == [(0, 296), (856, 1064), (1880, 2088)]
    np.testing.assert_allclose(found["dark"], analytic(kept), atol=1e-9)
    assert found.index.equals(kept.index)


@pytest.mark.parametrize("band_px", [1, 10**9])
@pytest.mark.parametrize("edge", [INSIDE, COVER])
def test_a_damaged_native_tile_is_null_for_the_tiles_on_it_and_known_for_all_others(
    tmp_path, monkeypatch, band_px, edge
):
    path = write_jpeg_slide(tmp_path / "a.svs", planted(), quality=95, subsampling=(1, 1))
    damage(path, 5 * 3 + 2)  # column 2, row 3 of five columns: 512 to 768 across, 768 to 1024 down
    monkeypatch.setattr(survey_module, "_BAND_PX", band_px)
    with Slide(path, mpp=0.25) as slide:
        tiles = make_grid(WIDTH, HEIGHT, 0.25, 0.5, 96, edge=edge)
        found = survey(slide, tiles, dark, context_um=30)
    x, y, side = tiles["x_l0_px"], tiles["y_l0_px"], tiles["size_l0_px"]
    hit = ((x < 768) & (x + side > 512) & (y < 1024) & (y + side > 768)).to_numpy()
    assert 0 < hit.sum() < 10 and list(found.columns) == ["dark", "bright"]
    assert (found.isna().all(axis=1) == hit).all() and (found.isna().any(axis=1) == hit).all()
    # Tile by tile the corner is rounded to the survey's pixels: exact where it lies on them.
    aligned = ((x % 8 == 0) & (y % 8 == 0)).to_numpy() & ~hit
    np.testing.assert_allclose(found.loc[aligned, "dark"], analytic(tiles)[aligned], atol=1e-9)
    np.testing.assert_allclose(found.loc[~hit, "dark"], analytic(tiles)[~hit], atol=2 * 4 / 192)


def test_glass_is_known_of_a_damaged_slide_and_nothing_decoded_gives_nulls_in_every_column(tmp_path):
    path = write_jpeg_slide(tmp_path / "a.svs", planted(), quality=95, subsampling=(1, 1))
    with Slide(path, mpp=0.25) as slide:
        before = glass_of(slide)
    damage(path, 0)
    with Slide(path, mpp=0.25) as slide:
        after = glass_of(slide)
    assert before.found and after.found and np.array_equal(before.level, after.level)
    path = write_jpeg_slide(tmp_path / "a.svs", planted(width=512, height=512, rectangles=()))
    for number in range(4):
        damage(path, number)
    with Slide(path, mpp=0.25) as slide:
        found = survey(slide, make_grid(512, 512, 0.25, 0.5, 64), dark, context_um=30)
    assert found.shape == (16, 2) and found.isna().all(axis=None) and all(kind == "float64" for kind in found.dtypes)
