"""Screening: every cut acts in its order, what is dropped early is not decoded, what stays kept is what is stored."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import TILES
from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.quality.blur import Noise
from deeplrhe_utils.slides.quality.survey import glass_of
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles import screening
from deeplrhe_utils.slides.tiles.screening import (
    ScreenRules,
    blank_of,
    clean_tiles,
    not_screened,
    screen_or_reason,
    screen_slide,
    surroundings,
)  # fmt: skip
from deeplrhe_utils.slides.tiles.tiling import TilingRules, tile_slide
from tests.tiff_slides import damage, tissue_like, write_jpeg_slide

SIDE = 1024  # 8 × 8 tiles of 64 px at 0.5 µm/px
TILING = TilingRules(tile_px=64, max_background=1.0)
RULES = ScreenRules(tile_px=64, max_noise=1.0, max_jpeg=1.0)
MEASURED = ["pen_fraction", "fold_fraction", "bubble_fraction", "blur_fraction", "noise_ratio", "jpeg_fraction"]


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    path = write_jpeg_slide(tmp_path_factory.mktemp("slide") / "s.svs", tissue_like(SIDE, SIDE), levels=(1, 4))
    return {"slide_id": "s", "patient_id": "p", "path": str(path), "mpp": 0.25, "annotation": None}


@pytest.fixture(scope="module")
def tiles(row):
    candidates = tile_slide(row, TILING)
    assert len(candidates) == 64 and candidates["kept"].all()
    return candidates


@pytest.fixture(scope="module")
def half(row, tiles):
    """A cut of noise that drops half of the tiles."""
    return float(screen_slide(row, tiles, RULES)["noise_ratio"].median())


@pytest.fixture
def decoded(monkeypatch):
    """Squares that were read tile by tile; the last is the one at hand."""
    seen, read = [], Slide.read_tiles

    def watched(slide, squares, out_px):
        for square, picture in zip(squares, read(slide, squares, out_px), strict=True):
            seen.append(square)
            yield picture

    monkeypatch.setattr(Slide, "read_tiles", watched)
    return seen


def plant(monkeypatch, decoded, table):
    """Let the detectors find what `table` says: a row per tile_id, NaN in pen for what cannot be decoded."""

    def survey(_slide, kept, *_, **__):
        own = table.loc[kept["tile_id"], ["pen", "fold", "bubble"]]
        return own.set_index(kept.index)

    def at_hand():
        return table[(table["x"] == decoded[-1].x_l0_px) & (table["y"] == decoded[-1].y_l0_px)].iloc[0]

    monkeypatch.setattr(screening, "survey", survey)
    monkeypatch.setattr(screening, "noise_ratio", lambda *_, **__: Noise(0.0, 0.01, float(at_hand()["noise"])))
    monkeypatch.setattr(screening, "jpeg_damage", lambda *_, **__: float(at_hand()["jpeg"]))


def nothing_found(tiles):
    table = pd.DataFrame(0.0, index=tiles["tile_id"], columns=["pen", "fold", "bubble", "noise", "jpeg"])
    return table.assign(x=tiles["x_l0_px"].to_numpy(), y=tiles["y_l0_px"].to_numpy())


FAULTS = ("unreadable", "pen", "fold", "bubble", "noise", "jpeg")
CUTS = ScreenRules(tile_px=64, max_pen=0.1, max_fold=0.2, max_bubble=0.3, max_noise=0.4, max_jpeg=0.5)


def test_the_first_reason_wins_in_every_combination_of_faults(row, tiles, decoded, monkeypatch):
    table, expected = nothing_found(tiles), {}
    for tile_id, present in zip(table.index, product((False, True), repeat=6), strict=True):  # 64 tiles, 64 mixtures
        faults = [name for name, there in zip(FAULTS, present, strict=True) if there]
        expected[tile_id] = faults[0] if faults else None
        for name in faults:
            if name == "unreadable":
                table.loc[tile_id, "bubble"] = np.nan
            elif not (name == "bubble" and "unreadable" in faults):
                table.loc[tile_id, name] = 0.9
    plant(monkeypatch, decoded, table)
    screened = screen_slide(row, tiles, CUTS)
    reasons = screened["reason"].astype(object).where(screened["reason"].notna(), None)
    found = dict(zip(screened["tile_id"], reasons, strict=True))
    assert found == expected
    assert (screened["kept"] == screened["reason"].isna()).all()
    counts = screened["reason"].value_counts().to_dict()
    assert counts == {"unreadable": 32, "pen": 16, "fold": 8, "bubble": 4, "noise": 2, "jpeg": 1}
    # What the survey dropped was never decoded, and its noise stays null.
    late = screened["reason"].isna() | screened["reason"].isin(["noise", "jpeg"])
    assert [(s.x_l0_px, s.y_l0_px) for s in decoded] == list(
        zip(screened.loc[late, "x_l0_px"], screened.loc[late, "y_l0_px"], strict=True)
    )
    assert screened.loc[~late, MEASURED[3:]].isna().all(axis=None)
    assert screened.loc[late, MEASURED].notna().all(axis=None)


@pytest.mark.parametrize(("name", "largest"), [
    ("pen", "max_pen"), ("fold", "max_fold"), ("bubble", "max_bubble"), ("noise", "max_noise"), ("jpeg", "max_jpeg"),
])  # fmt: skip
def test_a_share_above_the_largest_value_drops_a_tile_and_the_largest_value_itself_does_not(
    row, tiles, decoded, monkeypatch, name, largest
):
    table = nothing_found(tiles)
    table.iloc[3, table.columns.get_loc(name)] = 0.625
    plant(monkeypatch, decoded, table)
    assert screen_slide(row, tiles, replace(CUTS, **{largest: 0.625}))["kept"].all()
    dropped = screen_slide(row, tiles, replace(CUTS, **{largest: float(np.nextafter(0.625, 0))}))
    assert dropped.index[~dropped["kept"]].tolist() == [3] and dropped.loc[3, "reason"] == name
    column = {"noise": "noise_ratio"}.get(name, f"{name}_fraction")
    assert dropped.loc[3, column] == 0.625 and (dropped[column].drop(3) == 0).all()


@pytest.mark.parametrize("name", ["pen", "fold", "bubble", "jpeg"])
def test_with_the_real_detectors_a_cut_below_nought_drops_every_tile_for_its_reason(row, tiles, name):
    screened = screen_slide(row, tiles, replace(RULES, **{f"max_{name}": -1.0}))
    assert (screened["reason"] == name).all() and screened[f"{name}_fraction"].between(0, 1).all()


def test_a_tile_that_only_fails_at_full_size_is_unreadable_but_one_with_ink_on_it_has_ink(
    row, tiles, tmp_path, decoded, monkeypatch
):
    path = write_jpeg_slide(tmp_path / "s.svs", tissue_like(SIDE, SIDE), levels=(1, 4))
    damage(path, 5)  # 256 to 512 both ways: four tiles, and the survey reads level 1
    table = nothing_found(tiles)
    table.loc["s_2_2", "pen"] = 0.9
    table.loc["s_3_2", ["noise", "jpeg"]] = 0.9
    plant(monkeypatch, decoded, table)
    screened = screen_slide({**row, "path": str(path)}, tiles, CUTS)
    reasons = screened.set_index("tile_id")["reason"].dropna().to_dict()
    assert reasons == {"s_2_2": "pen", "s_3_2": "unreadable", "s_2_3": "unreadable", "s_3_3": "unreadable"}
    lost = screened[screened["reason"] == "unreadable"]
    assert lost[MEASURED[3:]].isna().all(axis=None) and lost[MEASURED[:3]].notna().all(axis=None)


def test_what_was_dropped_before_keeps_its_reason_and_is_not_looked_at(row, tiles, decoded):
    before = tiles.copy()
    before.loc[[0, 9, 63], "kept"] = False
    before.loc[[0, 9, 63], "reason"] = ["background", "outside-tumour", "unreadable"]
    screened = screen_slide(row, before, RULES)
    assert screened.loc[[0, 9, 63], "reason"].tolist() == ["background", "outside-tumour", "unreadable"]
    assert screened.loc[[0, 9, 63], MEASURED].isna().all(axis=None) and not screened.loc[[0, 9, 63], "kept"].any()
    assert len(decoded) == 61 and not {(0, 0), (128, 128), (896, 896)} & {tuple(s)[:2] for s in decoded}
    whole = screen_slide(row, tiles, RULES)
    rest = ~whole.index.isin([0, 9, 63])
    pd.testing.assert_frame_equal(screened[rest], whole[rest])


def test_a_slide_without_kept_tiles_is_passed_on_and_tiles_of_another_are_refused(row, tiles, decoded):
    before = tiles.assign(kept=False, reason="background")
    screened = screen_slide(row, before, RULES)
    pd.testing.assert_frame_equal(screened, conform(before, TILES))
    assert decoded == []
    strange = tiles.copy()
    strange.loc[5, "slide_id"] = "t"
    with pytest.raises(ParameterError, match="another slide"):
        screen_or_reason(({**row, "path": "/nowhere.svs"}, strange), rules=RULES)


def test_rows_keep_their_order_whatever_it_is_and_the_callers_table_is_left_alone(row, tiles, half):
    mixed = tiles.sample(frac=1, random_state=3)
    mixed.index = mixed.index * 7 + 1000
    before = mixed.copy(deep=True)
    found = screen_slide(row, mixed, replace(RULES, max_noise=half))
    pd.testing.assert_frame_equal(mixed, before)
    assert found["tile_id"].tolist() == mixed["tile_id"].tolist()
    ordered = screen_slide(row, tiles, replace(RULES, max_noise=half))
    assert ordered["kept"].any() and not ordered["kept"].all()
    pd.testing.assert_frame_equal(found.set_index("tile_id").loc[tiles["tile_id"]], ordered.set_index("tile_id"))


def test_the_result_keeps_the_contract_and_unknown_is_null_not_a_number_that_is_none(row, tiles):
    screened = screen_slide(row, tiles, replace(RULES, max_pen=-1.0))
    conform(screened, TILES)
    assert screened["noise_ratio"].isna().all() and (screened["noise_ratio"].array._mask).all()
    assert screened["kept"].dtype == "boolean" and screened["pen_fraction"].dtype == "Float64"


def test_the_numbers_of_a_sharp_and_of_a_defocused_half_and_of_bare_glass(tmp_path):
    import cv2

    picture = tissue_like(SIDE, SIDE)
    picture[:, 512:] = cv2.GaussianBlur(picture, (0, 0), 20)[:, 512:]  # 5 µm
    picture[512:, :512] = 243
    path = write_jpeg_slide(tmp_path / "s.svs", picture, quality=95)
    row = {"slide_id": "s", "patient_id": "p", "path": str(path), "mpp": 0.25, "annotation": None}
    screened = screen_slide(row, tile_slide(row, TILING), replace(RULES, max_noise=0.75)).set_index(["column", "row"])
    inner = [(c, r) for c in range(8) for r in range(8) if c not in (3, 4) and r not in (3, 4)]
    for c, r in inner:
        tile = screened.loc[(c, r)]
        if c > 4:
            assert tile["blur_fraction"] > 0.9 and tile["reason"] == "noise" and tile["noise_ratio"] > 0.9
        elif r > 4:
            assert tile["noise_ratio"] == pytest.approx(1) and tile["reason"] == "noise"
        else:
            assert tile["blur_fraction"] < 0.1 and tile["kept"]


def test_blank_areas_of_a_tile_are_found_at_survey_resolution_whatever_its_own(tmp_path):
    path = write_jpeg_slide(tmp_path / "s.svs", np.full((512, 512, 3), 242, np.uint8))
    with Slide(path, mpp=0.25) as slide:
        glass = glass_of(slide)
    for mpp, side in ((0.5, 256), (0.25, 512), (2.0, 64), (4.0, 32), (0.5, 250)):
        tile = np.full((side, side, 3), (180, 110, 170), np.uint8)
        tile[:, : side // 2] = 242
        blank = blank_of(tile, glass, replace(RULES, target_mpp=mpp))
        assert blank.shape == (side, side) and blank.dtype == bool
        # Within a pixel of the survey (2 µm) and of the tile.
        assert blank.mean() == pytest.approx(0.5, abs=max(2 / mpp, 1) / side + 1e-9), (mpp, side)
        assert blank[:, : side // 4].all() and not blank[:, -(side // 4) :].any()


def test_a_slide_that_has_gone_costs_its_kept_tiles_with_the_reason(row, tiles, tmp_path):
    before = tiles.copy()
    before.loc[[1, 2], "kept"] = False
    before.loc[[1, 2], "reason"] = "background"
    pair = ({**row, "path": str(tmp_path / "gone.svs")}, before.iloc[::-1])
    found, reason = screen_or_reason(pair, rules=RULES)
    assert "gone.svs" in reason
    again, told = not_screened(pair, reason)
    pd.testing.assert_frame_equal(found, again)
    assert told == reason and found["tile_id"].tolist() == before["tile_id"].tolist()[::-1]
    assert not found["kept"].any() and found[MEASURED].isna().all(axis=None)
    assert found["reason"].value_counts().to_dict() == {"unreadable": 62, "background": 2}
    good, empty = screen_or_reason((row, tiles), rules=RULES)
    assert empty == "" and good["kept"].all()
    pd.testing.assert_frame_equal(good, screen_slide(row, tiles, RULES))


@pytest.mark.parametrize(("mpp", "target_mpp"), [(0.2, 0.5), (0.25, 0.75), (0.25, 1.0)])
def test_a_scan_so_fine_that_blocks_of_jpeg_cannot_be_seen_is_screened_for_all_else(tmp_path, mpp, target_mpp):
    path = write_jpeg_slide(tmp_path / "s.svs", tissue_like(700, 700))
    row = {"slide_id": "s", "patient_id": "p", "path": str(path), "mpp": mpp, "annotation": None}
    candidates = tile_slide(row, TilingRules(tile_px=64, target_mpp=target_mpp, max_background=1.0))
    rules = replace(RULES, target_mpp=target_mpp, max_jpeg=-1.0)
    screened, reason = screen_or_reason((row, candidates), rules=rules)
    assert reason == "" and screened["kept"].all() and len(screened) == len(candidates)
    assert screened["jpeg_fraction"].isna().all(), "not assessed is not nought, and drops nothing"
    assert screened[MEASURED[:5]].notna().all(axis=None)


def table_of(slides=("a", "b", "c"), columns=4, rows=4, size=100.0, **values):
    """A screened table in which nothing was found, all tiles kept."""
    places = [(s, c, r) for s in slides for r in range(rows) for c in range(columns)]
    frame = pd.DataFrame(places, columns=["slide_id", "column", "row"])
    frame["tile_id"] = [f"{s}_{c}_{r}" for s, c, r in places]
    frame = frame.assign(
        patient_id="p", x_l0_px=(frame["column"] * size).astype(int), y_l0_px=(frame["row"] * size).astype(int),
        size_l0_px=size, kept=True, selected=False, background_fraction=0.1,
        **dict.fromkeys(MEASURED, 0.0),
    )  # fmt: skip
    return conform(frame.assign(**values), TILES)


def test_clean_tiles_come_slide_by_slide_and_the_draw_is_the_seeds_alone():
    tiles = table_of()
    chosen = clean_tiles(tiles, 7, seed=1)
    assert len(chosen) == 7 and chosen["tile_id"].is_unique
    for first in (0, 3):  # one of every slide before a second of any
        assert sorted(chosen["slide_id"].iloc[first : first + 3]) == ["a", "b", "c"]
    mixed = clean_tiles(tiles.sample(frac=1, random_state=5), 7, seed=1)
    assert mixed["tile_id"].tolist() == chosen["tile_id"].tolist()
    assert chosen["tile_id"].tolist()[:2] == clean_tiles(tiles, 2, seed=1)["tile_id"].tolist()
    assert sorted(clean_tiles(tiles, 999, seed=1)["tile_id"]) == sorted(tiles["tile_id"])
    draws = {tuple(clean_tiles(tiles, 3, seed=s)["tile_id"]) for s in range(20)}
    assert len(draws) > 10, "another seed, another draw"
    assert len({tile for draw in draws for tile in draw}) > 20, "and any tile may be drawn"


@pytest.mark.parametrize("name", [n for n in MEASURED if n != "noise_ratio"])
def test_a_tile_with_five_per_cent_of_anything_is_not_clean(name):
    tiles = table_of(("a",), 1, 3)
    tiles[name] = pd.array([0.05, 0.2, 0.0499], dtype="Float64")
    assert clean_tiles(tiles, 3, 0)["tile_id"].tolist() == ["a_0_2"]
    tiles["kept"] = pd.array([True, True, False], dtype="boolean")
    assert len(clean_tiles(tiles, 3, 0)) == 0


def test_half_of_a_clean_tile_is_tissue_and_what_is_unknown_does_no_harm():
    tiles = table_of(("a",), 1, 4)
    tiles["background_fraction"] = pd.array([None, 0.51, 0.5, 0.0], dtype="Float64")
    tiles["tumour_fraction"] = pd.array([None] * 4, dtype="Float64")
    tiles.loc[2, "jpeg_fraction"] = pd.NA
    assert sorted(clean_tiles(tiles, 4, 0)["tile_id"]) == ["a_0_2", "a_0_3"]
    assert len(clean_tiles(tiles.iloc[:0], 3, 0)) == 0 and len(clean_tiles(tiles, 0, 0)) == 0


@pytest.mark.parametrize(("reach", "clean"), [(0.0, 48), (0.5, 40), (1.0, 40), (1.1, 24), (3.0, 0)])
@pytest.mark.parametrize("how", ["pen", "unreadable"])
def test_within_reach_of_a_clean_tile_nothing_was_found_unless_nothing_else_is_left(reach, clean, how):
    tiles = table_of(("a",), 7, 7)
    middle = tiles.index[tiles["tile_id"] == "a_3_3"]
    if how == "pen":
        tiles.loc[middle, "pen_fraction"] = 0.06
    else:
        tiles.loc[middle, ["kept", "reason"]] = [False, "unreadable"]
    # Tiles c columns or rows apart leave a gap of c − 1 sides.
    steps = np.maximum((tiles["column"] - 3).abs(), (tiles["row"] - 3).abs())
    clear = set(tiles.loc[(steps - 1 >= reach) & (steps > 0), "tile_id"])
    assert len(clear) == clean
    assert set(clean_tiles(tiles, 99, 0, reach)["tile_id"]) == (clear or set(tiles["tile_id"]) - {"a_3_3"})
    other = table_of(("a", "b"), 7, 7)
    other.loc[(other["slide_id"] == "a"), "fold_fraction"] = 0.5
    assert len(clean_tiles(other, 99, 0, 9.0)) == 49, "what was found on another slide does not matter"


@pytest.mark.parametrize("reach", [0.0, 1.0])
def test_reach_does_not_depend_on_the_rounding_of_corners(reach):
    clear = []
    for size in (1024.0, 512 * 0.5 / 0.2527):
        tiles = table_of(("a",), 7, 7, size)
        tiles.loc[tiles["tile_id"] == "a_3_3", "pen_fraction"] = 1.0
        clear.append(set(clean_tiles(tiles, 99, 0, reach)["tile_id"]))
    assert clear[0] == clear[1]


def place_of(monkeypatch):
    """The squares that single reads ask for."""
    asked, read = [], Slide.read_tile

    def watched(slide, *place):
        asked.append(place)
        return read(slide, *place)

    monkeypatch.setattr(Slide, "read_tile", watched)
    return asked


@pytest.mark.parametrize(("column", "line", "corner"), [
    (0, 0, (0, 0)), (7, 0, (524, 0)), (0, 7, (0, 524)), (7, 7, (524, 524)), (3, 4, (198, 326)),
])  # fmt: skip
def test_surroundings_are_centred_and_moved_inside_the_slide(row, tiles, monkeypatch, column, line, corner):
    asked = place_of(monkeypatch)
    tile = tiles.set_index("tile_id").loc[f"s_{column}_{line}"]
    picture, mpp, glass, _ = surroundings(row, tile, 0.5, width_um=125)  # 500 px
    assert asked == [(*corner, 500, 250)] and picture.shape == (250, 250, 3) and mpp == 0.25 * 500 / 250
    with Slide(row["path"], mpp=0.25) as slide:
        assert np.array_equal(picture, slide.read_tile(*corner, 500, 250))
        assert np.array_equal(glass.level, glass_of(slide).level)


@pytest.mark.parametrize(("mpp", "width_um", "side", "out"), [
    (2.0, 1024, 1024, 128),  # more than the slide: all of it
    (0.1, 50, 200, 200),  # finer than the slide: the slide
    (0.3, 50, 200, 167),  # 166.7: what comes out is told exactly
    (300.0, 50, 200, 1),
])  # fmt: skip
def test_the_resolution_told_is_that_of_the_picture(row, tiles, mpp, width_um, side, out):
    picture, told, _, _ = surroundings(row, tiles.iloc[27], mpp, width_um=width_um)
    assert picture.shape == (out, out, 3) and told == 0.25 * side / out


def test_surroundings_and_a_fractional_resolution_stay_inside(row):
    odd = {**row, "mpp": 0.2527}
    tiles = tile_slide(odd, TILING)
    for tile in (tiles.iloc[0], tiles.iloc[-1]):
        for width_um in (50, 100.3, 10_000):
            picture, mpp, _, _ = surroundings(odd, tile, 1.0, width_um)
            assert picture.shape[0] * mpp <= min(width_um, SIDE * 0.2527) + 1e-9
            assert picture.shape[0] * mpp > min(width_um, SIDE * 0.2527) - 0.2527
    assert Square(0, 0, 1.0) == (0, 0, 1.0)
