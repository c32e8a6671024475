"""Tiles: nothing lost, background, tumour and noise judged, the draw seeded."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.acquisition.barcodes import parse_name, patient_of
from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import TILES
from deeplrhe_utils.slides.files.inventory import scan_slides
from deeplrhe_utils.slides.tiles.tiling import (
    TilingRules,
    central_place,
    outlines_of,
    select_tiles,
    tile_slide,
    tissue_share,
)
from tests.tiff_slides import write_jpeg_slide

RULES = TilingRules(tile_px=128)


@pytest.fixture(scope="module")
def row(slide_factory):
    path = slide_factory(40)
    slides = scan_slides(path.parent)
    return slides[slides["slide_id"] == path.stem].to_dict("records")[0]


@pytest.fixture(scope="module")
def tiles(row):
    return tile_slide(row, RULES)


def test_every_candidate_is_in_the_table_once_with_a_reason_or_kept(tiles):
    conform(tiles, TILES)
    assert len(tiles) == 6 and tiles["tile_id"].is_unique
    assert (tiles["kept"] == tiles["reason"].isna()).all() and not tiles["selected"].any()
    assert (tiles["background_fraction"].between(0, 1) & tiles["tumour_fraction"].between(0, 1)).all()
    assert (tiles.loc[tiles["kept"], "tumour_fraction"] >= 0.5).all()
    assert tiles["kept"].sum() >= 2


def test_an_outline_that_cannot_be_read_is_left_out_and_told(row, tmp_path):
    (broken := tmp_path / "broken.geojson").write_text("{")
    rows = {"good": row, "bare": row | {"annotation": None}, "bad": row | {"annotation": str(broken)},
            "gone": row | {"path": str(tmp_path / "none.svs")}}  # fmt: skip
    found, notes = outlines_of(rows, rows, "slide", ())
    assert set(found) == {"good", "bare"} and len(found["good"]) and found["bare"] is None
    assert [note.split(":")[0] for note in notes] == ["bad", "gone"] and "left out" in notes[0]


@pytest.mark.parametrize(("stride", "edge", "share"), [
    (0, "inside", 0.75), (0, "cover", 1.0), (128, "inside", 1.0), (512, "inside", 0.375), (512, "cover", 1.0),
])  # fmt: skip
def test_the_tissue_of_the_whole_slide_is_known_also_where_no_tile_lies(tmp_path, stride, edge, share):
    """Columns of tissue at both ends of the slide, the right one half beyond the last whole tile."""
    picture = np.full((512, 896, 3), 246, np.uint8)
    picture[:, :256] = picture[:, 640:] = (170, 110, 160)
    path = write_jpeg_slide(tmp_path / "s.svs", picture)
    row = {"slide_id": "s", "patient_id": "p", "path": str(path), "mpp": 0.5, "annotation": None}
    tiles = tile_slide(row, TilingRules(tile_px=256, stride_px=stride, edge=edge, max_background=1.0))
    whole = tiles.attrs["tissue_l0_px2"]
    assert whole == pytest.approx(512 * 512, rel=0.03)
    assert tissue_share(tiles, whole) == pytest.approx(share, abs=0.03)
    assert tissue_share(tiles.iloc[:0], whole) == 0 and np.isnan(tissue_share(tiles, 0.0))


def test_arguments_travel_to_worker_processes(row):
    assert pickle.loads(pickle.dumps((tile_slide, row, RULES)))[1] == row


def test_without_an_outline_no_tile_is_outside_the_tumour_and_background_comes_first(row):
    tiles = tile_slide({**row, "annotation": None}, RULES)
    assert tiles["tumour_fraction"].isna().all() and not (tiles["reason"] == "outside-tumour").any()
    strict = tile_slide(row, replace(RULES, max_background=-1.0))
    assert (strict["reason"] == "background").all()


def test_the_draw_depends_on_the_seed_and_the_slide_alone(tiles):
    other = tiles.assign(slide_id="B", tile_id="B" + tiles["tile_id"])
    both = pd.concat([other, tiles], ignore_index=True)
    alone = select_tiles(tiles, 2, 5)
    chosen = set(alone.loc[alone["selected"], "tile_id"])
    mixed = select_tiles(both.sample(frac=1, random_state=1), 2, 5)
    assert len(chosen) == 2 and chosen == set(mixed.loc[mixed["selected"] & (mixed["slide_id"] != "B"), "tile_id"])
    assert alone.loc[alone["selected"], "kept"].all()
    assert (select_tiles(tiles, 0, 5)["selected"] == tiles["kept"]).all()
    one = both.assign(patient_id="P")
    drawn = [frozenset(one.loc[select_tiles(one, 2, seed, "patient_id")["selected"], "tile_id"]) for seed in range(5)]
    assert {len(names) for names in drawn} == {2} and len(set(drawn)) > 1
    with pytest.raises(ParameterError):
        select_tiles(tiles, -1, 5)


@pytest.mark.parametrize(("name", "expected"), [
    ("SYNT-07-0042-01Z-00-DX1", ("SYNT-07-0042", "07", "diagnostic")),
    ("TCGA-44-2665-01B-06-BS6", ("TCGA-44-2665", "Christiana Healthcare", "frozen")),
        ("TCGA-44-2665", ("TCGA-44-2665", "Christiana Healthcare", None)),
    ("TCGA-44-26655", ("TCGA-44-26655", None, None)), ("slide 7 ü", ("slide 7 ü", None, None)),
    ("tcga-44-2665-01z-00-dx1", ("TCGA-44-2665", "Christiana Healthcare", "diagnostic")),
])  # fmt: skip
def test_names_tell_patient_site_and_sample(name, expected):
    told = parse_name(name)
    assert (patient_of(name), told.site_id, told.sample_type) == expected


def test_many_repairs_are_counted_and_the_first_are_named(row, tmp_path):
    bow = [[0, 0], [900, 900], [900, 0], [0, 900], [0, 0]]  # crosses itself, so every one is repaired
    area = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [bow]}, "properties": {"name": "T"}}
    path = tmp_path / "outline.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [area] * 127}))
    (note,) = tile_slide({**row, "annotation": str(path)}, RULES).attrs["notes"]
    assert note.startswith("127 repaired: T (") and note.endswith(" and 124 more") and note.count("T (") == 3


def test_the_middle_of_a_slide_is_shown_and_not_its_glass():
    places = pd.DataFrame([(x, y) for x in range(5) for y in range(5)], columns=["x_l0_px", "y_l0_px"])
    tiles = places.assign(background_fraction=np.where((places == 2).all(axis=1), 0.9, 0.1))
    row = tiles.iloc[central_place(tiles)]
    assert abs(row["x_l0_px"] - 2) + abs(row["y_l0_px"] - 2) == 1
    nowhere = pd.array([pd.NA] * 3, "Float64")
    assert central_place(tiles.iloc[:3].assign(x_l0_px=nowhere, y_l0_px=nowhere, background_fraction=nowhere)) == 0
