"""Tiles: nothing lost, background, tumour and noise judged, the draw seeded."""

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import TILES
from deeplrhe_utils.slides.files.inventory import barcode_fields, scan_slides
from deeplrhe_utils.slides.quality.blur import noise_mask, noise_ratio
from deeplrhe_utils.slides.quality.tissue import blank_mask
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.tiles.screening import ScreenRules, screen_slide
from deeplrhe_utils.slides.tiles.tiling import TilingRules, select_tiles, tile_slide

RULES = TilingRules(tile_px=128)
SCREEN = ScreenRules(tile_px=128, max_noise=0.5)


def blurred(tile, mpp=0.5):
    return noise_ratio(tile, mpp).blur_fraction


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


def test_arguments_travel_to_worker_processes(row):
    assert pickle.loads(pickle.dumps((tile_slide, row, RULES)))[1] == row


def test_without_an_outline_no_tile_is_outside_the_tumour(row):
    tiles = tile_slide({**row, "annotation": None}, RULES)
    assert tiles["tumour_fraction"].isna().all() and not (tiles["reason"] == "outside-tumour").any()


def test_background_comes_before_tumour_and_the_cuts_act(row):
    strict = tile_slide(row, replace(RULES, max_background=-1.0))
    assert (strict["reason"] == "background").all()


def test_screening_fills_noise_for_kept_tiles_only(row, tiles):
    screened = screen_slide(row, tiles, SCREEN)
    assert screened["tile_id"].tolist() == tiles["tile_id"].tolist()
    assert screened.loc[tiles["kept"], "noise_ratio"].notna().all()
    assert screened.loc[~tiles["kept"], "noise_ratio"].isna().all()
    dropped = screen_slide(row, tiles, replace(SCREEN, max_noise=-1))
    assert (dropped.loc[tiles["kept"], "reason"] == "noise").all() and not dropped["kept"].any()
    with pytest.raises(ParameterError, match="another slide"):
        screen_slide(row, tiles.assign(slide_id="other"), SCREEN)


def test_ink_drops_a_tile_before_noise_does(row, tiles, monkeypatch):
    clean = screen_slide(row, tiles, SCREEN)
    assert clean.loc[tiles["kept"], "pen_fraction"].between(0, 1).all()
    assert clean.loc[~tiles["kept"], "pen_fraction"].isna().all() and not (clean["reason"] == "pen").any()
    first = tiles.loc[tiles["kept"].idxmax()]
    x, y, side = (int(first[c]) for c in ("x_l0_px", "y_l0_px", "size_l0_px"))
    read = Slide.read_band

    def inked(slide, *place, **how):
        strip = read(slide, *place, **how)
        x0, y0, x1, y1 = (
            round(v / strip.step_l0_px) for v in (x, y - strip.top_l0_px, x + side, y + side - strip.top_l0_px)
        )
        part = strip.pixels[max(y0, 0) : y1, x0:x1]
        part[:] = (part * 10.0 ** -np.array([0.95, 0.55, 0.10])).astype(np.uint8)
        return strip

    monkeypatch.setattr(Slide, "read_band", inked)
    for max_noise in (1.0, -1.0):  # also where every tile counts as noisy
        screened = screen_slide(row, tiles, replace(SCREEN, max_noise=max_noise)).set_index("tile_id")
        assert screened.loc[first["tile_id"], "reason"] == "pen" and not screened.loc[first["tile_id"], "kept"]
        assert screened.loc[first["tile_id"], "pen_fraction"] > 0.8
        assert (screened["reason"] == "pen").sum() == 1 and (screened["kept"] == screened["reason"].isna()).all()
        assert len(screened) == len(tiles) and screened.loc[first["tile_id"], "noise_ratio"] is pd.NA  # never decoded
    tolerant = screen_slide(row, tiles, replace(SCREEN, max_noise=1.0, max_pen=1.0, max_fold=1.0, max_bubble=1.0))
    assert (tolerant["kept"] == tiles["kept"]).all()


def test_the_draw_depends_on_the_seed_and_the_slide_alone(tiles):
    other = tiles.assign(slide_id="B", tile_id="B" + tiles["tile_id"])
    both = pd.concat([other, tiles], ignore_index=True)
    alone = select_tiles(tiles, 2, 5)
    chosen = set(alone.loc[alone["selected"], "tile_id"])
    mixed = select_tiles(both.sample(frac=1, random_state=1), 2, 5)
    assert len(chosen) == 2 and chosen == set(mixed.loc[mixed["selected"] & (mixed["slide_id"] != "B"), "tile_id"])
    assert alone.loc[alone["selected"], "kept"].all()
    assert (select_tiles(tiles, 0, 5)["selected"] == tiles["kept"]).all()
    with pytest.raises(ParameterError):
        select_tiles(tiles, -1, 5)


def textured(seed=0, side=256):
    """Nuclei-like dots on pink, sharp."""
    rng = generator(seed, "texture")
    image = np.full((side, side, 3), (214, 150, 190), np.uint8)
    for x, y in rng.integers(0, side, (side * side // 220, 2)):
        cv2.circle(image, (int(x), int(y)), 4, (90, 60, 140), -1, cv2.LINE_AA)
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def test_background_is_a_share_of_bright_pixels():
    tile = textured()
    tile[:, :64] = 245
    assert blank_mask(tile).mean() == pytest.approx(0.25, abs=0.02)
    assert blank_mask(np.full((8, 8, 3), 220, np.uint8)).all()
    assert not blank_mask(np.full((8, 8, 3), 219, np.uint8)).any()


def test_sharp_tissue_is_clean_and_defocus_is_found_at_any_resolution():
    sharp = textured()
    assert noise_ratio(sharp).ratio == 0.0
    for sigma_um in (2, 3, 4):
        assert blurred(cv2.GaussianBlur(sharp, (0, 0), sigma_um / 0.5)) == 1.0
    fine = cv2.resize(sharp, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    assert blurred(fine, 0.25) == 0.0
    assert blurred(cv2.GaussianBlur(fine, (0, 0), 2.5 / 0.25), 0.25) == 1.0


def test_noise_adds_blank_and_blurred_area():
    tile = textured()
    tile[:64] = 250
    blurred = cv2.GaussianBlur(tile, (0, 0), 6)
    weight = np.clip((np.arange(256)[None, :, None] - 96) / 32, 0, 1)  # focus fades, without a seam
    tile = (tile * (1 - weight) + blurred * weight).astype(np.uint8)
    noise, mask = noise_ratio(tile), noise_mask(tile)
    assert noise.blank_fraction == pytest.approx(0.25, abs=0.02)
    assert noise.blur_fraction == pytest.approx(0.5, abs=0.1)
    assert noise.ratio == pytest.approx(np.mean(mask > 0)) and set(np.unique(mask)) == {0, 1, 2}
    glass = noise_ratio(np.full((128, 128, 3), 250, np.uint8))
    assert glass == (1.0, 0.0, 1.0)


def test_real_fields_are_sharp_and_their_blurred_copies_are_not(shared_data):
    for path in sorted((shared_data / "monuseg_tcga_lung").glob("*.tif")):
        with Slide(path, mpp=0.25) as slide:
            tile = slide.read_tile(0, 0, 1000, 500)
        assert blurred(tile) < 0.05, path.name
        assert blurred(cv2.GaussianBlur(tile, (0, 0), 4)) > 0.95, path.name


def test_monuseg_fields_are_small_slides(shared_data, tmp_path):
    folder = shared_data / "monuseg_tcga_lung"
    table = tmp_path / "mpp.csv"
    table.write_text("slide_id,mpp\n" + "".join(f"{p.stem},0.25\n" for p in folder.glob("*.tif")))
    slides = scan_slides(folder, mpp_csv=str(table))
    assert len(slides) == 5 and (slides["status"] == "ok").all() and (slides["mpp_source"] == "override").all()
    assert slides.attrs["sidecar_files"] == 4 and set(slides["sample_type"]) == {"diagnostic", "frozen"}
    for row in slides.to_dict("records"):
        assert len(tile_slide(row, TilingRules(tile_px=248))) == 4
        with pytest.raises(InputError, match="at most 500"):
            tile_slide(row, TilingRules())


@pytest.mark.parametrize(("name", "expected"), [
    ("SYNT-07-0042-01Z-00-DX1", ("SYNT-07-0042", "07", "diagnostic")),
    ("TCGA-44-2665-01B-06-BS6", ("TCGA-44-2665", "44", "frozen")), ("TCGA-44-2665", ("TCGA-44-2665", "44", None)),
    ("TCGA-44-26655", ("TCGA-44-26655", None, None)), ("slide 7 ü", ("slide 7 ü", None, None)),
])  # fmt: skip
def test_names_tell_patient_site_and_sample(name, expected):
    assert barcode_fields(name) == expected
