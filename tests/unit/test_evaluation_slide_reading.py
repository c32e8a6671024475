"""Extreme windows and slide summaries: against hand-made tables, slow definitions, and the committed demo."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.tables import slide_reading as reading
from deeplrhe_utils.evaluation.tables.slide_reading import (
    disjoint,
    display_order,
    extreme_tiles,
    morans_i,
    shared_area,
    slide_summary,
)  # fmt: skip
from deeplrhe_utils.slides.outlines.regions import Region, Regions
from deeplrhe_utils.slides.tiles.grid import make_grid


def cohort(scores):
    """Predictions and tiles of one slide a patient; `scores`: patient → scores of its tiles."""
    rows = [
        {"tile_id": f"{p}_{i}_0", "slide_id": f"S-{p}", "patient_id": p, "score": s, "x_l0_px": 512 * i, "y_l0_px": 64,
         "size_l0_px": 512.0, "kept": True}
        for p, own in scores.items() for i, s in enumerate(own)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    predictions = frame[["tile_id", "slide_id", "patient_id", "score"]].assign(gene="TP53", fold=0)
    return predictions, frame.drop(columns="score")


def slides_of(*names, **changes):
    row = {"status": "ok", "reason": None, "mpp": 0.25, "width_l0_px": 9000, "height_l0_px": 9000} | changes
    return pd.DataFrame([{"slide_id": f"S-{n}", "patient_id": n} | row for n in names])


def sides(table):
    return [table.loc[table["side"] == s, "tile_id"].tolist() for s in ("top", "bottom")]


def test_the_extremes_of_a_small_cohort():
    predictions, tiles = cohort({"A": [0.9, 0.8, 0.1], "B": [0.7, 0.05], "C": [0.6]})
    labels = pd.DataFrame({"patient_id": ["A", "B"], "gene": "TP53", "status": [1, 0]})
    found = extreme_tiles(predictions, tiles, "TP53", 2, slides=slides_of("A", "B", "C"), labels=labels)
    assert sides(found.table) == [["A_0_0", "B_0_0"], ["B_1_0", "A_2_0"]]
    assert found.table["rank"].tolist() == [1, 2, 1, 2] and found.table["label"].tolist() == [1, 0, 0, 1]
    assert found.table["x_um"].tolist() == [0, 0, 128, 256] and set(found.table["size_um"]) == {128.0}
    assert found.sentence == (
        "The 2 highest and the 2 lowest of 6 windows scored for TP53 (3 patients), at most 1 window of a patient on "
        "each side: 2 patients are shown."
    )


def test_every_score_is_in_the_ledger_once_and_unknown_labels_stay_unknown():
    predictions, tiles = cohort({"A": [0.9, None, 0.8], "B": [0.5, 0.4]})
    tiles.loc[tiles["tile_id"] == "B_1_0", "kept"] = False
    labels = pd.DataFrame({"patient_id": ["A"], "gene": ["KRAS"], "status": [1]})
    found = extreme_tiles(predictions, tiles, "TP53", 1, slides=slides_of("A", "B", mpp=None), labels=labels)
    assert found.ledger["windows"].tolist() == [2, 1, 1, 1] and found.ledger["windows"].sum() == len(predictions)
    assert sides(found.table) == [["A_0_0"], ["B_0_0"]]
    assert found.table["label"].isna().all() and found.table["x_um"].isna().all()
    assert "label" not in extreme_tiles(predictions, tiles, "TP53", 1).table


def by_definition(predictions, n):
    """Slow and plain: pick one window a side in turn, always the most extreme that is still allowed."""
    order = sorted(predictions.itertuples(), key=lambda r: (-r.score, r.tile_id))
    top, bottom, high, low = [], [], -1, len(order)
    for _ in range(n):
        for chosen in (top, bottom):
            places = range(high + 1, low) if chosen is top else range(low - 1, high, -1)
            mine = [i for i in places if all(order[i].patient_id != order[j].patient_id for j in chosen)]
            if mine:
                chosen.append(mine[0])
                high, low = (mine[0], low) if chosen is top else (high, mine[0])
    return [[order[i].tile_id for i in places] for places in (top, bottom)]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from("ABCDEF"), st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1),
    st.integers(1, 6), st.randoms(use_true_random=False),
)  # fmt: skip
def test_extremes_are_those_of_the_definition_whatever_the_order_of_rows(scores, n, random):
    predictions, tiles = cohort({p: [s / 4 for s in own] for p, own in scores.items()})
    expected = by_definition(predictions, n)
    places = list(range(len(predictions)))
    random.shuffle(places)
    found = extreme_tiles(predictions.iloc[places], tiles.iloc[places[::-1]], "TP53", n).table
    assert sides(found) == expected
    assert not found["tile_id"].duplicated().any()
    assert found.groupby(["side", "patient_id"]).size().max() == 1
    top, bottom = (found.loc[found["side"] == s, "score"] for s in ("top", "bottom"))
    assert not len(bottom) or top.min() >= bottom.max()


@pytest.mark.parametrize(("change", "message"), [
    (lambda p, t: (p.assign(gene="KRAS"), t), "Nobody scored TP53"),
    (lambda p, t: (p.assign(score=None), t), "Nobody scored TP53"),
    (lambda p, t: (p.assign(score=1.5), t), "no probability"),
    (lambda p, t: (p.assign(score=np.inf), t), "no probability"),
    (lambda p, t: (p.assign(score="high"), t), "no numbers"), (lambda p, t: (pd.concat([p, p]), t), "scored twice"),
    (lambda p, t: (p, pd.concat([t, t])), "in the tiles table twice"),
    (lambda p, t: (p, t.iloc[1:]), "1 scores of TP53 are not of the tiles table"),
    (lambda p, t: (p, t.assign(patient_id="Z")), "3 scores of TP53 are not of the tiles table"),
])  # fmt: skip
def test_extremes_of_wrong_tables_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        extreme_tiles(*change(*cohort({"A": [0.9, 0.8], "B": [0.7]})), "TP53", 1)


def test_extremes_refuse_wrong_numbers_unknown_slides_and_two_labels():
    tables = cohort({"A": [0.9, 0.8], "B": [0.7]})
    with pytest.raises(ParameterError, match="at least one"):
        extreme_tiles(*tables, "TP53", 0)
    with pytest.raises(InputError, match=r"Got: S-B\."):
        extreme_tiles(*tables, "TP53", 1, slides=slides_of("A"))
    twice = pd.DataFrame({"patient_id": ["A", "A"], "gene": "TP53", "status": [1, 0]})
    with pytest.raises(InputError, match="two labels"):
        extreme_tiles(*tables, "TP53", 1, labels=twice)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.sampled_from([3, 5, 8.5])), max_size=15))
def test_what_windows_cover_is_their_union_and_nothing_twice(rows):
    x, y, size = np.array(rows, float).reshape(-1, 3).T
    union = shapely.union_all(shapely.box(x, y, x + size, y + size))
    found = disjoint(x, y, size)
    assert shapely.area(found).sum() == pytest.approx(union.area)
    assert shapely.union_all(found).symmetric_difference(union).area == pytest.approx(0, abs=1e-9)
    outline = shapely.Point(20, 20).buffer(13).union(shapely.box(0, 0, 6, 3))
    assert shared_area(found, outline) == pytest.approx(union.intersection(outline).area)


def moran_by_hand(tiles, score):
    corners = tiles[["x_l0_px", "y_l0_px", "size_l0_px"]].to_numpy(float)
    pairs = []
    for i, j in combinations(range(len(tiles)), 2):
        gaps = [
            max(corners[i][k], corners[j][k]) - min(corners[i][k] + corners[i][2], corners[j][k] + corners[j][2])
            for k in (0, 1)
        ]
        if max(gaps) <= 1:
            pairs += [(i, j), (j, i)]
    members = sorted({i for i, _ in pairs})
    z = {i: score[i] - np.mean([score[k] for k in members]) for i in members}
    return len(members) / len(pairs) * sum(z[i] * z[j] for i, j in pairs) / sum(z[i] ** 2 for i in members)


@pytest.mark.parametrize(("mpp", "stride"), [(0.25, 64), (0.2527, 64), (0.5, 32)])
def test_moran_is_that_of_the_definition(mpp, stride):
    tiles = make_grid(1237, 811, mpp, 0.5, 64, stride_px=stride)
    score = generator(1, "moran").random(len(tiles))
    chosen = np.flatnonzero(score > 0.3)
    tiles, score = tiles.iloc[chosen], score[chosen]
    place = [tiles[c].to_numpy(float) for c in ("x_l0_px", "y_l0_px", "size_l0_px")]
    assert morans_i(*place, score) == pytest.approx(moran_by_hand(tiles, score))


def test_moran_tells_halves_from_a_chessboard_and_from_chance():
    x, y = (a.ravel() * 10.0 for a in np.meshgrid(np.arange(20), np.arange(20)))
    size = np.full(400, 10.0)
    assert morans_i(x, y, size, (x < 100) * 1.0) > 0.9
    rows = np.array([morans_i(x, y, size, generator(i, "chance").random(400)) for i in range(60)])
    assert abs(rows.mean() + 1 / 399) < 4 * rows.std() / np.sqrt(60)
    in_line = np.arange(10) * 10.0
    assert morans_i(in_line, 0 * in_line, size[:10], np.arange(10) % 2.0) == pytest.approx(-1)
    ramp = np.linspace(0, 0.5, 10)
    far = morans_i(np.r_[in_line, 5000], np.zeros(11), size[:11], np.r_[ramp, 1])
    assert far == pytest.approx(morans_i(in_line, 0 * in_line, size[:10], ramp))  # who has no neighbour, does not count
    assert np.isnan(morans_i(x, y, size, np.full(400, 0.7)))
    assert np.isnan(morans_i(x * 5, y * 5, size, x / 200))  # nobody touches


def plane(scores, slide="S-A"):
    """Windows of 10 px in a square, row by row."""
    side = round(np.sqrt(len(scores)))
    i = np.arange(side * side)
    return pd.DataFrame({"tile_id": [f"{slide}_{k}" for k in i], "slide_id": slide, "x_l0_px": i % side * 10,
                         "y_l0_px": i // side * 10, "size_l0_px": 10.0, "TP53": scores})  # fmt: skip


def tumour(geometry, name="Tumor"):
    return {"S-A": Regions([Region(geometry, name)])}


def test_a_summary_by_hand():
    scores = [0.9, 0.8, 0.1, 0.2, 0.9, 0.7, 0.1, 0.3, 0.6, 0.6, 0.2, None, 0.1, 0.2, 0.3, 0.4]
    outline = tumour(shapely.box(0, 0, 20, 26))  # of the fourth row nothing, of the third 60 %
    row = slide_summary(plane(scores), slides_of("A"), "TP53", outline).iloc[0]
    known = np.array([s for s in scores if s is not None])
    assert (row["n_windows"], row["n_scored"], row["n_inside"], row["n_outside"]) == (16, 15, 6, 9)
    assert row["mean"] == pytest.approx(known.mean()) and row["share_high"] == pytest.approx(6 / 15)
    assert [row[c] for c in ("p10", "median", "p90")] == pytest.approx(np.quantile(known, [0.1, 0.5, 0.9]).tolist())
    assert row["scored_mm2"] == pytest.approx(1500 * (0.25 / 1000) ** 2)
    assert row["outline_auroc"] == 1.0 and row["outline_scored"] == pytest.approx(1)
    assert row["dice"] == pytest.approx(2 * 520 / (600 + 520))
    assert row["dice_if_all"] == pytest.approx(2 * 520 / (1500 + 520))
    assert row["note"] == "" and row["outline_note"] == ""
    at_a_score = slide_summary(plane(scores), slides_of("A"), "TP53", outline, threshold=0.9).iloc[0]
    assert at_a_score["share_high"] == pytest.approx(2 / 15)  # from the threshold on
    assert at_a_score["dice"] == pytest.approx(2 * 200 / (200 + 520))


def test_what_cannot_be_said_is_null_and_says_why():
    windows = pd.concat([plane([0.4] * 4), plane([None] * 4, "S-B")])
    slides = pd.concat([slides_of("A", "B", mpp=None), slides_of("C"), slides_of("D", status="excluded", reason="pen")])
    labels = pd.DataFrame({"patient_id": ["A", "B"], "gene": "TP53", "status": pd.array([0, None], "Int64")})
    found = slide_summary(windows, slides, "TP53", tumour(shapely.box(0, 0, 90, 5)), labels=labels)
    assert found["slide_id"].tolist() == ["S-A", "S-B", "S-C", "S-D"] and found["label"].tolist()[0] == 0
    assert found["n_windows"].tolist() == [4, 4, 0, 0] and found["n_scored"].tolist() == [4, 0, 0, 0]
    assert found.loc[0, ["scored_mm2", "moran_i", "outline_auroc"]].isna().all() and found["label"].isna().sum() == 3
    assert found["note"].tolist()[1:] == ["no window was scored", "no window was scored", "pen"]
    assert "Moran" in found["note"][0] and "resolution" in found["note"][0]
    assert found["outline_note"][0] == "no AUROC: 2 scored windows inside, at least 3 are needed"
    assert found["outline_scored"][0] == pytest.approx(100 / 450) and found["dice"][0] == 0


@pytest.mark.parametrize(("regions", "note"), [
    (None, "no outline"), ({"S-A": None}, "no outline"), (tumour(shapely.Polygon()), "the outline has no area"),
    (tumour(shapely.box(0, 0, 5, 5), "Stroma"), "No annotated region is a tumour"),
    (tumour(shapely.box(500, 500, 600, 600)), "no AUROC: 0 scored windows inside"),
])  # fmt: skip
def test_an_outline_that_tells_nothing_is_named(regions, note):
    row = slide_summary(plane(np.linspace(0, 1, 16)), slides_of("A"), "TP53", regions).iloc[0]
    assert np.isnan(row["outline_auroc"]) and row["outline_note"].startswith(note)
    assert row["n_scored"] == 16 and row["moran_i"] > 0


def test_windows_that_overlap_are_counted_once():
    tiles = make_grid(400, 400, 0.5, 0.5, 64, stride_px=16)
    windows = tiles.assign(slide_id="S-A", tile_id=[f"t{i}" for i in range(len(tiles))], TP53=0.9)
    row = slide_summary(windows, slides_of("A"), "TP53", tumour(shapely.box(0, 0, 100, 100))).iloc[0]
    assert row["scored_mm2"] == pytest.approx(400 * 400 * (0.25 / 1000) ** 2)
    assert row["dice"] == row["dice_if_all"] == pytest.approx(2 * 1e4 / (16e4 + 1e4))


@pytest.mark.parametrize(("change", "message"), [
    ({"TP53": 2.0}, "no probability"), ({"slide_id": "S-Z"}, "once in the slides table"),
    ({"tile_id": "one"}, "stands twice"), ({"x_l0_px": 8995}, "outside slide S-A"),
    ({"y_l0_px": -1}, "outside slide S-A"), ({"size_l0_px": np.nan}, "outside slide S-A"),
])  # fmt: skip
def test_wrong_windows_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        slide_summary(plane(np.linspace(0, 1, 4)).assign(**change), slides_of("A"), "TP53")


def test_wrong_arguments_are_refused():
    windows = plane(np.linspace(0, 1, 4))
    with pytest.raises(ParameterError, match="probability"):
        slide_summary(windows, slides_of("A"), "TP53", threshold=1.5)
    for gene in ("KRAS", "x_l0_px", "<b>\n$x$"):
        with pytest.raises(InputError, match="Nobody scored"):
            slide_summary(windows, slides_of("A"), gene)
    for slides in (slides_of("A", "A"), slides_of("A", status="excluded")):
        with pytest.raises(InputError, match="once in the slides table"):
            slide_summary(windows, slides, "TP53")


def test_slides_are_drawn_large_ones_first_and_then_spread_over_labels_classes_and_sites():
    n = 24
    slides = pd.DataFrame({"slide_id": [f"S{i}" for i in range(n)], "patient_id": [f"P{i}" for i in range(n)],
                           "site_id": [f"{i // 8}" for i in range(n)], "subtype": ["a", "b"] * (n // 2),
                           "width_l0_px": 100, "height_l0_px": 100})  # fmt: skip
    slides.loc[17, "width_l0_px"] = 900
    labels = pd.DataFrame({"patient_id": slides["patient_id"], "gene": "TP53",
                           "status": pd.array([i // 2 % 2 for i in range(n)], "Int64")})  # fmt: skip
    order = display_order(slides, labels, "TP53")
    assert sorted(order["slide_id"]) == sorted(slides["slide_id"]) and order["slide_id"].iloc[0] == "S17"
    first = order.iloc[1:9].merge(labels)
    assert (
        first.groupby(["subtype", "status"]).size().between(1, 3).all()
        and len(first.groupby(["subtype", "status"])) == 4
    )
    assert first["site_id"].nunique() == 3
    assert display_order(slides, None, "")["slide_id"].iloc[0] == "S17"


@pytest.mark.parametrize(("moran", "happened", "said"), [
    ([0.3, 0.1], False, "on 2 of 2 slides."), ([0.3, -0.5], True, ", not on S1."), ([np.nan] * 2, None, "of 0 slides"),
])  # fmt: skip
def test_maps_without_neighbourhood_are_named(moran, happened, said):
    table = pd.DataFrame({"slide_id": ["S0", "S1"], "moran_i": moran, "n_scored": 9, "mean": [0.2, 0.6],
                          "outline_auroc": [0.7, np.nan]})  # fmt: skip
    found, text = reading.neighbourless(table)
    assert found is happened and said in text
    assert "higher than those outside on 1 of 1." in reading.summary_sentence(table)
    assert reading.summary_sentence(table.assign(mean=np.nan)) == "No slide has a score."


@pytest.mark.parametrize(("blur", "happened"), [([0.5, 0.1], True), ([0.12, 0.1], False), ([np.nan, 0.1], None)])
def test_artefacts_on_one_side_only_are_told(blur, happened):
    chosen = pd.DataFrame({"tile_id": ["a", "b"], "side": ["highest", "lowest"]})
    assert reading.unlike_sides(chosen, chosen[["tile_id"]].assign(blur_fraction=blur))[0] is happened
