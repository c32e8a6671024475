"""Maps of any size: the paper's mean exactly, weights, uncertainty, and what may be drawn at all."""

import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplrhe_utils.core.errors import InputError, LeakError, ModelError, ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.learning.networks.cards import check_cards, hash_patient
from deeplrhe_utils.reporting.heatmaps import bands as heatmaps
from deeplrhe_utils.reporting.heatmaps import scores as heat_scores
from deeplrhe_utils.reporting.heatmaps.bands import Frame, heat_bands, heat_map
from deeplrhe_utils.slides.tiles.grid import make_grid


def stacked(bands):
    bands = list(bands)
    assert [b.top_px for b in bands] == list(np.cumsum([0, *[len(b.mean) for b in bands[:-1]]]))
    return np.concatenate([b.mean for b in bands])


def boxes(*rows):
    return pd.DataFrame(rows, columns=["x_l0_px", "y_l0_px", "size_l0_px"])


def by_hand(tiles, scores, frame, weight):
    """Pixel by pixel, window by window: slow and plain."""
    out = np.full(frame.shape, np.nan)
    for i in range(frame.rows):
        for j in range(frame.columns):
            y, x = (i + 0.5) * frame.step_y, (j + 0.5) * frame.step_x
            total = norm = 0.0
            for row, score in zip(tiles.itertuples(), scores, strict=True):
                u, v = ((a - b) / row.size_l0_px for a, b in ((x, row.x_l0_px), (y, row.y_l0_px)))
                if 0 <= u < 1 and 0 <= v < 1 and not np.isnan(score):
                    w = weight(u - 0.5) * weight(v - 0.5)
                    total, norm = total + w * score, norm + w
            out[i, j] = total / norm if norm else np.nan
    return out


BY_HAND = {
    "uniform": lambda u: 1.0,
    "triangular": lambda u: max(1 - 2 * abs(u), 1e-3),
    "gaussian": lambda u: np.exp(-((6 * u) ** 2) / 2),
}


@pytest.mark.parametrize("stride", [64, 24, 9])
@pytest.mark.parametrize("mpp", [0.2527, 0.5])
def test_bands_are_the_papers_mean_whatever_their_height(stride, mpp):
    tiles = make_grid(1237, 811, mpp, 0.5, 64, stride_px=stride, edge="cover")
    scores = generator(1, "scores").random(len(tiles))
    scores[::7] = np.nan
    for frame in (Frame.fit(1237, 811, mpp, (97, 143)), Frame.at(1237, 811, mpp, 3.0)):
        expected = heatmaps.accumulate(
            tiles, scores, round(frame.columns * frame.step_x), round(frame.rows * frame.step_y), frame.shape
        )
        for band_px in (1, 10, 1000):
            found = stacked(heat_bands(tiles, scores, frame, band_px=band_px))
            np.testing.assert_allclose(found, expected, atol=1e-6)
        assert np.isnan(expected).any() or stride < 64


@pytest.mark.parametrize("weights", BY_HAND)
def test_weights_are_those_of_the_definition(weights):
    tiles = boxes((0, 0, 20.0), (7, 3, 20.0), (14, 3, 20.0), (29, 17, 8.5), (3, 21, 15.25))
    scores = np.array([0.1, 0.9, np.nan, 0.4, 0.7])
    for frame in (Frame.fit(41, 39, 0.5, (20, 23)), Frame.fit(41, 39, 0.5, (11, 13))):
        expected = by_hand(tiles, scores, frame, BY_HAND[weights])
        found = stacked(heat_bands(tiles, scores, frame, weights=weights, band_px=4))
        np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.floats(5, 39)), min_size=1, max_size=12),
    st.sampled_from(sorted(BY_HAND)), st.integers(0, 1000),
)  # fmt: skip
def test_a_map_stays_between_its_scores_and_is_bare_where_no_window_is(rows, weights, seed):
    tiles, frame = boxes(*rows), Frame.fit(100, 100, 0.5, (50, 40))
    scores = generator(seed, "any").random(len(tiles))
    found = heat_map(tiles, scores, frame, weights=weights)
    known = ~np.isnan(found.mean)
    assert (known == (found.windows > 0)).all() and known.any()
    assert found.mean[known].min() >= scores.min() - 1e-6 and found.mean[known].max() <= scores.max() + 1e-6
    same = heat_map(tiles, np.full(len(tiles), 0.3), frame, weights=weights).mean
    np.testing.assert_allclose(same[known], 0.3, atol=1e-6)


def test_triangles_on_half_overlapping_windows_make_a_ramp_without_steps():
    tiles = boxes(*((x, 0, 40.0) for x in range(0, 180, 20)))
    scores = np.linspace(0, 1, len(tiles))
    frame = Frame.fit(200, 40, 0.5, (40, 200))
    smooth = heat_map(tiles, scores, frame, weights="triangular").mean[20, 20:180]
    steps = heat_map(tiles, scores, frame).mean[20, 20:180]
    assert np.abs(np.diff(smooth)).max() < 0.01 < 0.1 < np.abs(np.diff(steps)).max()
    np.testing.assert_allclose(smooth, np.interp(np.arange(20.5, 180), 20 + 20 * np.arange(9), scores), atol=1e-6)


def test_uncertainty_is_the_spread_of_the_folds_maps_and_none_of_equal_folds():
    tiles = make_grid(300, 200, 0.5, 0.5, 64, stride_px=32)
    scores = generator(3, "folds").random((len(tiles), 4))
    scores[:5, 1:] = np.nan
    scores[5:9] = np.nan
    frame = Frame.fit(300, 200, 0.5, (50, 75))
    maps = np.stack([heat_map(tiles, column, frame).mean for column in scores.T]).astype(float)
    found = heat_map(tiles, scores, frame)
    number = (~np.isnan(maps)).sum(axis=0)
    with warnings.catch_warnings(action="ignore"):  # of pixels that nobody scored
        mean, sd = np.nanmean(maps, axis=0), np.nanstd(maps, axis=0, ddof=1)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.sd[number > 1], sd[number > 1], atol=1e-6)
    assert np.isnan(found.sd[number < 2]).all() and (number == 1).any() and (number > 1).any()
    assert np.isnan(heat_map(tiles, scores[:, 0], frame).sd).all(), "one fold has no spread"
    tiles = make_grid(128, 128, 0.5, 0.5, 64)
    same = np.repeat(generator(4, "x").random((len(tiles), 1)), 3, axis=1)
    assert (heat_map(tiles, same, Frame.fit(128, 128, 0.5, (32, 32))).sd == 0).all()


def test_nothing_measured_is_a_bare_map_and_a_slide_of_one_pixel_has_one():
    frame = Frame.at(1000, 500, 0.25, 5.0)
    assert frame.shape == (25, 50)
    assert np.isnan(heat_map(boxes(), np.zeros(0), frame).mean).all()
    one = heat_map(boxes((0, 0, 1.0)), np.array([0.75]), Frame.at(1, 1, 0.25, 8.0))
    assert one.mean.tolist() == [[0.75]]


BAD = {
    "outside its slide": (boxes((90, 0, 20.0)), [0.5]),
    "2 of 2 windows": (boxes((-1, 0, 20.0), (0, 0, np.nan)), [0.5, 0.5]),
    "not of one number": (boxes((0, 0, 20.0)), [0.5, 0.5]),
    "no probability": (boxes((0, 0, 20.0)), [1.2]),
    "would vanish": (boxes((0, 0, 1.5)), [0.5]),
}


@pytest.mark.parametrize("said", BAD)
def test_wrong_windows_and_scores_are_refused(said):
    tiles, scores = BAD[said]
    with pytest.raises(InputError, match=said):
        heat_map(tiles, np.array(scores), Frame.fit(100, 100, 0.5, (50, 50)))


def test_infinite_scores_unknown_weights_and_impossible_frames_are_refused():
    frame = Frame.fit(100, 100, 0.5, (50, 50))
    for value in (np.inf, -np.inf, -0.1):
        with pytest.raises(InputError, match="no probability"):
            heat_map(boxes((0, 0, 20.0)), np.array([value]), frame)
    with pytest.raises(ParameterError, match="gaussian"):
        heat_map(boxes(), np.zeros(0), frame, weights="cosine")
    for bad in (lambda: Frame.fit(0, 5, 0.5, (1, 1)), lambda: Frame.fit(5, 5, 0.5, (0, 1)),
                lambda: Frame.at(5, 5, 0.0, 8), lambda: Frame.at(5, 5, float("nan"), 8)):  # fmt: skip
        with pytest.raises(InputError):
            bad()
    with pytest.raises(ParameterError):
        Frame.at(5, 5, 0.5, -1)


def lightness(palette):
    """CIELAB L* of a colour map, by the definition."""
    rgb = matplotlib.colormaps[palette](np.linspace(0, 1, 256))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, y * 24389 / 27)


def test_palettes_get_lighter_or_red_and_colours_follow_their_limits():
    for palette in (heatmaps.PALETTES["perceptual"], heatmaps.UNCERTAINTY):
        assert (np.diff(lightness(palette)) > 0).all()
    assert not (np.diff(lightness(heatmaps.PALETTES["paper"])) > 0).all(), "why there is another"
    low, high = heatmaps.colour_map(np.array([0.0, 1.0]), "paper").astype(int)
    assert low[2] > low[0] and high[0] > high[2]
    found = heatmaps.colour_map(np.array([np.nan, 0.2, 0.4, 9.0]), "uncertainty", 0.2, 0.4)
    ends = heatmaps.colour_map(np.array([0.0, 1.0]), "uncertainty")
    assert (found == [[255] * 3, ends[0], ends[1], ends[1]]).all()
    with pytest.raises(InputError, match="Unknown palette"):
        heatmaps.colour_map(np.zeros(1), "jet")


@pytest.mark.parametrize(("known", "scores", "base", "factor"), [
    ([1, 0, 0, 0, np.nan], [0.2, 0.25, 0.3, np.nan], 0.25, 2), ([1, 1], [0.1, 0.3], 0.2, 4),
    ([0, 1], [1e-9, 0.999999], 0.5, 64), ([], [0.5, 0.5], 0.5, 2), ([1], [np.nan], None, 4), ([], [], None, 4),
])  # fmt: skip
def test_a_scale_is_in_odds_of_the_cohort_and_symmetric(known, scores, base, factor):
    scale = heatmaps.Scale.around(np.array(scores, float), np.array(known, float))
    assert scale.base == (base and pytest.approx(base)) and scale.factor == factor
    if base is None:
        assert scale.place(np.array([0.3, np.nan])).tolist()[0] == 0.3 and scale.ticks[1] == "1"
        return
    assert scale.place(np.array([base, scale.score(factor), scale.score(1 / factor)])) == pytest.approx([0.5, 1, 0])
    place = scale.place(np.array([0.0, 1.0, np.nan]))
    assert place[:2].tolist() == [0, 1] and np.isnan(place[2]) and scale.ticks[0] == f"1/{factor} ×"


def tables(slide="s1", patient="p1"):
    rows = [(f"{slide}_{c}_0", c * 100, c != 3, None if c != 3 else "pen") for c in range(5)]
    tiles = pd.DataFrame(rows, columns=["tile_id", "x_l0_px", "kept", "reason"])
    tiles = tiles.assign(slide_id=slide, patient_id=patient, y_l0_px=0, size_l0_px=100.0)
    scored = [(f"{slide}_{c}_0", fold, score) for c, fold, score in
              [(0, 0, 0.2), (0, 1, 0.4), (1, 0, None), (1, 1, None), (3, 0, 0.9), (4, 1, 0.5)]]  # fmt: skip
    predictions = pd.DataFrame(scored, columns=["tile_id", "fold", "score"]).astype({"score": "Float64"})
    return tiles, predictions.assign(slide_id=slide, patient_id=patient, gene="TP53", model_hash="m")


def test_every_kept_window_and_every_score_is_counted_once():
    tiles, predictions = tables()
    found = heat_scores.windows_of(tiles, predictions, "s1", "TP53")
    assert found.folds == [0, 1] and found.table["tile_id"].tolist() == ["s1_0_0", "s1_1_0", "s1_2_0", "s1_4_0"]
    np.testing.assert_allclose(found.table["score"], [0.3, np.nan, np.nan, 0.5])
    assert found.ledger["windows"].tolist() == [2, 1, 1, 1]
    assert found.ledger["windows"][:3].sum() == tiles["kept"].sum()


def test_a_wide_table_gives_the_same_windows():
    tiles, predictions = tables()
    narrow = heat_scores.windows_of(tiles, predictions[predictions["fold"] == 1], "s1", "TP53")
    wide = narrow.table.rename(columns={"score": "TP53"}).assign(slide_id="s1", EGFR=np.nan)
    again = heat_scores.windows_in(wide, "s1", "TP53")
    pd.testing.assert_frame_equal(again.table, narrow.table)
    np.testing.assert_array_equal(again.scores, narrow.scores)
    with pytest.raises(InputError, match="Nobody scored EGFR"):
        heat_scores.windows_in(wide, "s1", "EGFR")


def change(frame, column, value, rows=slice(None)):
    changed = frame.copy()
    changed[column] = changed[column].astype(object)
    changed.loc[changed.index[rows], column] = value
    return changed.infer_objects()


WRONG = {
    "There is no slide s2": lambda t, p: (t, p, "s2", "TP53"),
    "two slides have one name": lambda t, p: (pd.concat([t, t]), p, "s1", "TP53"),
    "No window of slide s1 was kept.*Got: 1 pen": lambda t, p: (t.assign(kept=False), p, "s1", "TP53"),
    "Nobody scored EGFR.*Expected: TP53": lambda t, p: (t, p, "s1", "EGFR"),
    "Nobody scored TP53.*none": lambda t, p: (t, p.assign(score=pd.NA), "s1", "TP53"),
    "tiles that do not exist.*ghost": lambda t, p: (t, change(p, "tile_id", "ghost", [0]), "s1", "TP53"),
    "scored twice by one fold": lambda t, p: (t, p.assign(fold=0), "s1", "TP53"),
    "no probability": lambda t, p: (t, change(p, "score", 1.5, [0]), "s1", "TP53"),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_tables_are_refused_by_name(message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        heat_scores.windows_of(*WRONG[message](*tables()))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "../../x", "a\0b\n", "x" * 300])
def test_hostile_names_are_one_short_line_in_messages(name):
    tiles, predictions = tables()
    with pytest.raises(InputError) as caught:
        heat_scores.windows_of(tiles, predictions, name, "TP53")
    with pytest.raises(InputError) as other:
        heat_scores.windows_of(tiles, predictions, "s1", name)
    for text in (str(caught.value), str(other.value)):
        assert text.isprintable() and len(text) < 300


def test_tables_of_another_resolution_are_noticed():
    tiles = make_grid(20_000, 10_000, 0.2527, 0.5, 512)
    heat_scores.check_scale(tiles, 0.2527, 0.5, 512)
    for wrong in ((0.25, 0.5, 512), (0.2527, 0.5, 299), (0.2527, 0.25, 512), (0.5, 0.5, 512)):
        with pytest.raises(InputError, match="not of this slide's resolution"):
            heat_scores.check_scale(tiles, *wrong)


def splits(*rows):
    return pd.DataFrame(rows, columns=["fold", "unit_id", "role"]).assign(scheme="patient")


def test_the_leak_alarm_rings_for_stored_scores_and_for_the_models_card():
    _, predictions = tables()
    held = splits((0, "p1", "test"), (1, "p1", "test"))
    heat_scores.check_held_out(predictions, held)
    for role in ("train", "valid"):
        with pytest.raises(LeakError, match=f"p1 is {role} in fold 1"):
            heat_scores.check_held_out(predictions, splits((0, "p1", "test"), (1, "p1", role)))
    with pytest.raises(LeakError, match="p1 is unknown in fold"):
        heat_scores.check_held_out(predictions, splits((0, "p2", "test")))
    heat_scores.check_held_out(predictions.assign(score=pd.NA), splits((0, "p2", "test")))  # nothing is drawn
    with pytest.raises(InputError, match="no such split scheme"):
        heat_scores.check_held_out(predictions, held, scheme="site")
    _, predictions = tables()
    check_cards(predictions, {"m": {"patients": [hash_patient("p2")]}})
    with pytest.raises(LeakError, match=r"trained on 1 patients.*p1"):
        check_cards(predictions, {"m": {"patients": [hash_patient("p1")]}})
    with pytest.raises(ModelError, match="not known on whom"):
        check_cards(predictions, {})
