"""What is wrong with files of vectors is found and named: other encoders, other scales, shifted places, twins, NaN."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.acquisition.features.cohort import vector_slides
from deeplrhe_utils.acquisition.features.neutral import L0_PX, UM, SlideVectors, whole_array
from deeplrhe_utils.evaluation.referee.feature_files import (
    describe,
    encoder_doubts,
    files_fingerprint,
    known_encoder,
    place_doubts,
)
from deeplrhe_utils.slides.tiles.tiling import TilingRules, tile_slide
from deeplrhe_utils.synthetic.plan import CohortSpec, plan_cohort
from deeplrhe_utils.synthetic.slide import write_slide


def vectors(name, array, **known):
    return SlideVectors(name, Path(f"{name}.h5"), "TRIDENT", *array.shape, array.dtype, whole_array(array), **known)


def cohort(common=1.0, slides=30, dims=64, seed=1, mixed=(), **known):
    """Slides of one encoder, whose mean vectors have `common` of one profile; those of `mixed` come from another."""
    random = np.random.default_rng(seed)
    profiles = random.normal(size=(2, dims))
    return [vectors(f"s{i:02d}", (common * profiles[int(i in mixed)] + random.normal(size=dims)
                                  + random.normal(size=(20 + i, dims))).astype(np.float32), **known)
            for i in range(slides)]  # fmt: skip


@pytest.mark.parametrize("common", [1, 5])
@pytest.mark.parametrize("mixed", [(), (4, 11, 20)])
def test_slides_of_another_encoder_of_the_same_width_are_named(common, mixed):
    found = cohort(common, mixed=mixed)
    doubts = encoder_doubts(found, describe(found, most=5).slides)
    assert len(doubts) == bool(mixed)
    if mixed:
        assert "3 slides have mean vectors unlike all others" in doubts[0] and "s04, s11, s20" in doubts[0]


@pytest.mark.parametrize(("change", "says"), [
    ({"encoder": "uni_v2"}, "2 encoders (not told: 29 slides, uni_v2: 1 slides)"),
    ({"layout": "STAMP"}, "2 layouts"), ({"size": 1024.0}, "from 128 to 256 µm wide"),
    ({"dtype": np.dtype("f2")}, "2 number types"),
])  # fmt: skip
def test_declared_differences_are_named(change, says):
    found = cohort(2, unit=L0_PX, size=512.0, power=40.0, places=np.zeros((1, 2)))
    found[3] = replace(found[3], **change)
    assert any(says in doubt for doubt in encoder_doubts(found, describe(found, most=5).slides))


def test_a_known_encoder_has_a_licence_a_width_and_a_size():
    assert known_encoder("mahmood-uni2-3f2a")["licence"] == "CC-BY-NC-ND-4.0"
    assert known_encoder("STAMP-extract-001_01-10-2023_xiyuewang-ctranspath-7c998680")["encoder"] == "ctranspath"
    assert known_encoder("uni")["encoder"] == "uni_v1" and known_encoder("hoptimus0")["licence"] == "Apache-2.0"
    assert known_encoder("") is None and known_encoder("unicorn") is None
    found = cohort(2, encoder="virchow2", unit=L0_PX, size=512.0, power=40.0, places=np.zeros((1, 2)))
    doubts = " ".join(encoder_doubts(found, describe(found, most=5).slides))
    assert "virchow2 gives 2560 numbers, these vectors have 64" in doubts
    assert "meant for tiles of 112 µm (224 px at 20x); these are 128 µm wide" in doubts


def test_one_pass_gives_means_samples_twins_and_what_is_not_finite():
    found = cohort(1, slides=4)
    array = found[1].read()
    array[3, 2], array[:, 5] = np.nan, 7
    found[1] = vectors("s01", array)
    found[2] = vectors("s02", found[0].read())
    told = describe(found, most=8)
    assert told.slides["not_finite"].tolist() == [0, 1, 0, 0] and told.slides["twin_of"].tolist()[2] == "s00"
    np.testing.assert_allclose(told.means.loc["s01"], np.delete(array, 3, 0).mean(0), rtol=1e-5)
    assert np.isfinite(told.sample).all() and pd.Series(told.owner).value_counts()[["s00", "s03"]].tolist() == [8, 8]
    again = describe(found[::-1], most=8)
    np.testing.assert_array_equal(
        np.sort(told.sample[told.owner == "s03"], 0), np.sort(again.sample[again.owner == "s03"], 0)
    )
    flat = [vectors(n, np.hstack([found[0].read(), np.ones((20, 1), "f4")])) for n in ("a", "b")]
    assert describe(flat, most=3).constant == 1


def test_the_fingerprint_is_of_names_and_bytes(tmp_path):
    files = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for file in files:
        file.write_bytes(file.name.encode())
    found = [replace(one, path=file) for one, file in zip(cohort(slides=2), files, strict=True)]
    first = files_fingerprint(vector_slides(found))
    files[1].write_bytes(b"other")
    assert files_fingerprint(vector_slides(found)) != first and len(first) == 16


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A planted slide and the places of its tissue tiles."""
    folder = tmp_path_factory.mktemp("slide")
    plan = plan_cohort(CohortSpec(n_slides=1, seed=3, grid_columns=14, grid_rows=8, tile_px=128, artefact_rate=0))
    name = plan.slides["slide_id"].iloc[0]
    row = {"slide_id": name, "patient_id": "p", "path": str(write_slide(plan, name, folder)),
           "mpp": float(plan.slides["mpp"].iloc[0])}  # fmt: skip
    tiles = tile_slide(row, TilingRules(tile_px=128))
    return row, tiles[tiles["background_fraction"] < 0.3]


def placed(slide, move=0.0, scale=1.0, **known):
    row, tiles = slide
    side = float(tiles["size_l0_px"].iloc[0])
    places = tiles[["x_l0_px", "y_l0_px"]].to_numpy(float) * scale + move * side
    x = np.ones((len(tiles), 3), np.float32)
    return vectors(row["slide_id"], x, **{"places": places, "unit": L0_PX, "size": side * scale} | known)


def test_places_that_fit_the_slide_raise_no_doubt(slide):
    mpp = slide[0]["mpp"]
    assert place_doubts(placed(slide, power=10 / mpp), slide[0]) == []
    in_um = placed(slide, unit=UM, step=mpp, size=64.0)
    assert place_doubts(in_um, slide[0]) == [] and place_doubts(placed(slide), None) == []


@pytest.mark.parametrize(("change", "says"), [
    ({"move": 3.0}, "seem to be shifted|beyond the slide"), ({"move": -2.0}, "shifted"),
    ({"scale": 2.0}, "beyond the slide"), ({"scale": 0.5}, "tissue"), ({"power": 80.0}, "as wide as meant"),
    ({"about": {"level0_width": 5, "level0_height": 7}}, "the file says 5 × 7 px"),
    ({"size": 640.0}, "said to be 640 wide and lie"),
    ({"power": 40.0, "about": {"patch_size": 300, "target_magnification": 40}}, "level-0 px, not"),
])  # fmt: skip
def test_a_shift_another_scale_and_another_slide_are_found(slide, change, says):
    assert any(pd.Series([d]).str.contains(says).iloc[0] for d in place_doubts(placed(slide, **change), slide[0]))


def test_a_slide_that_cannot_be_opened_is_a_doubt_and_no_crash(slide, tmp_path):
    row = slide[0] | {"path": str(tmp_path / "gone.svs")}
    assert "could not be asked" in place_doubts(placed(slide), row)[0]
