"""Synthetic slides are what their plan declares: readable, repeatable, and true to their truth."""

import hashlib
from functools import partial
from itertools import pairwise

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest
import shapely
import tiffslide

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.tables.contract import read_table
from deeplrhe_utils.core.tables.truth import TRUTH_PATIENTS, TRUTH_SLIDES, TRUTH_TILES
from deeplrhe_utils.slides.outlines.find import tumour_outline
from deeplrhe_utils.slides.outlines.geojson import read_geojson
from deeplrhe_utils.slides.tiles.grid import make_grid
from deeplrhe_utils.synthetic import slide as synthetic_slide
from deeplrhe_utils.synthetic.paint.artefacts import ARTEFACT_KINDS, Artefact, add_artefacts, place_artefacts
from deeplrhe_utils.synthetic.paint.light import Light, camera_matrix, stain_matrix
from deeplrhe_utils.synthetic.paint.nuclei import DENSITY_UNIT, Nuclei, add_chromatin, hexagonal_points, masters, stamp
from deeplrhe_utils.synthetic.paint.regions import SUBCLONE_SHARE, areas_of, draw_regions
from deeplrhe_utils.synthetic.paint.tissue import (
    TUMOUR_DENSITY_PER_MM2,
    TissueRecipe,
    at_points,
    draw_tissue,
    enlarge_rows,
)
from deeplrhe_utils.synthetic.publish import (
    CohortSpec,
    plan_cohort,
    slide_recipe,
    write_checksums,
    write_slide,
    write_tables,
    write_truth,
)
from deeplrhe_utils.synthetic.truth import drawn_outline


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def streams(name):
    return generator(0, "test", name)


def rgb(slide, level):
    return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"))


@pytest.mark.parametrize("objective", [20, 40])
def test_openslide_reads_an_aperio_slide_of_the_planned_size(small_plan, slide_factory, objective):
    path = slide_factory(objective)
    row = small_plan.slides.set_index("slide_id").loc[path.stem]
    with openslide.OpenSlide(path) as slide:
        told = slide.properties
        assert told["openslide.vendor"] == "aperio"
        assert ("openslide.mpp-x" in told) == row["mpp_in_metadata"]
        assert float(told.get("openslide.mpp-x", row["mpp"])) == pytest.approx(row["mpp"])
        assert told.get("openslide.objective-power", "none") == (str(objective) if row["power_in_metadata"] else "none")
        assert slide.dimensions == (row["width_l0_px"], row["height_l0_px"])
        assert slide.level_downsamples == pytest.approx((1.0, 4.0), abs=0.01)
        assert set(slide.associated_images) == {"thumbnail", "label", "macro"}
        assert int(told["aperio.OriginalWidth"]) >= slide.dimensions[0]
        full, small = rgb(slide, 0), rgb(slide, 1)
    reduced = cv2.resize(full, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
    difference = reduced.astype(int) - small
    assert np.abs(difference).mean() < 11 and np.abs(difference.mean(axis=(0, 1))).max() < 1  # JPEG, but no bias
    assert full.std() > 25 and full[:6, :6].min() > 190  # tissue inside, glass in the corner


@pytest.mark.parametrize("objective", [20, 40])
def test_tiffslide_agrees_with_openslide_on_pixels_and_properties(slide_factory, objective):
    path = slide_factory(objective)
    with openslide.OpenSlide(path) as ours, tiffslide.TiffSlide(path) as theirs:
        assert theirs.level_dimensions == ours.level_dimensions
        for name in ("openslide.vendor", "openslide.objective-power", "openslide.mpp-x"):
            told = theirs.properties.get(name.replace("openslide", "tiffslide"))
            assert str(told) == ours.properties.get(name) or float(told) == float(ours.properties[name])
        for level in range(ours.level_count):
            other = np.asarray(theirs.read_region((0, 0), level, theirs.level_dimensions[level]))
            assert np.abs(other[..., :3].astype(int) - rgb(ours, level)).mean() < 1


def test_the_resolution_is_told_or_hidden_as_planned(tmp_path):
    plan = plan_cohort(CohortSpec(n_slides=12, seed=1, grid_columns=1, grid_rows=1, tile_px=128))
    silent = plan.slides[~plan.slides["power_in_metadata"]]
    power_only = plan.slides[~plan.slides["mpp_in_metadata"] & plan.slides["power_in_metadata"]]
    assert len(silent) == 1 and len(power_only) >= 1
    for row, expected in ((silent.iloc[0], (None, None)), (power_only.iloc[0], (None, "20"))):
        with openslide.OpenSlide(write_slide(plan, row["slide_id"], tmp_path)) as slide:
            told = [slide.properties.get(f"openslide.{name}") for name in ("mpp-x", "objective-power")]
            assert tuple(told) == expected and "tiff.XResolution" not in slide.properties
    files = {p.name: p for p in write_tables(plan, tmp_path)}
    overrides = pd.read_csv(files["mpp_overrides.csv"])
    assert overrides["slide_id"].tolist() == silent["slide_id"].tolist()
    assert overrides["mpp"].tolist() == [float(silent["mpp"].iloc[0])]
    labels = pd.read_csv(files["labels.csv"])
    assert len(labels) == plan.slides["patient_id"].nunique() and labels["TP53"].dropna().isin([0, 1]).all()


def test_the_same_slide_has_the_same_bytes_out_of_order(small_plan, tmp_path):
    chosen = small_plan.slides["slide_id"].iloc[[0, 4, 7]].tolist()
    forwards = [digest(write_slide(small_plan, s, tmp_path / "a", tmp_path / "ta")) for s in chosen]
    backwards = [digest(write_slide(small_plan, s, tmp_path / "b", tmp_path / "tb")) for s in reversed(chosen)]
    assert forwards == backwards[::-1] and len(set(forwards)) == 3
    for folders in (("a", "b"), ("ta", "tb")):
        names = {p.name for p in (tmp_path / folders[0]).iterdir()}
        assert names == {p.name for p in (tmp_path / folders[1]).iterdir()}
        assert all(digest(tmp_path / folders[0] / n) == digest(tmp_path / folders[1] / n) for n in names)


def test_the_number_of_threads_changes_no_byte(tmp_path):
    plan = plan_cohort(CohortSpec(n_slides=2, seed=1, grid_columns=5, grid_rows=4, tile_px=256))
    before = cv2.getNumThreads()
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            for slide_id in plan.slides["slide_id"]:
                write_slide(plan, slide_id, tmp_path / str(threads))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    for slide_id in plan.slides["slide_id"]:
        assert digest(tmp_path / "1" / f"{slide_id}.svs") == digest(tmp_path / "4" / f"{slide_id}.svs")


def test_a_complete_slide_is_kept_one_of_another_recipe_is_not_and_an_unknown_one_is_refused(small_plan, tmp_path):
    slide_id = small_plan.slides["slide_id"].iloc[0]
    path = write_slide(small_plan, slide_id, tmp_path)
    before = path.stat().st_mtime_ns
    assert write_slide(small_plan, slide_id, tmp_path).stat().st_mtime_ns == before
    assert write_slide(small_plan, slide_id, tmp_path, tmp_path / "truth").stat().st_mtime_ns > before  # truth missed
    other = plan_cohort(CohortSpec(n_slides=12, seed=8, grid_columns=3, grid_rows=2, tile_px=128))
    same_name = other.slides["slide_id"].iloc[0]
    (tmp_path / f"{same_name}.svs").write_bytes(path.read_bytes())
    (tmp_path / f"{same_name}.geojson").write_text("{}")
    assert digest(write_slide(other, same_name, tmp_path)) != digest(path)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    with pytest.raises(ParameterError, match="SYNT-99"):
        slide_recipe(small_plan, "SYNT-99-9999-01Z-00-DX1")


def test_a_slide_of_several_sections_has_whole_levels_and_bare_corners(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_slide, "_LAST_LEVEL_PX", 200)  # as many levels as a large slide has
    spec = CohortSpec(n_slides=4, seed=2, grid_columns=4, grid_rows=4, tile_px=128, sections_across=4, sections_down=3)
    plan = plan_cohort(spec)
    row = plan.slides[plan.slides["objective"] == 20].iloc[0]
    with openslide.OpenSlide(write_slide(plan, row["slide_id"], tmp_path, tmp_path)) as slide:
        assert slide.dimensions == (4096, 3072) and slide.level_count >= 3
        full = rgb(slide, 0)
        for level in range(1, slide.level_count):
            small = rgb(slide, level)
            reduced = cv2.resize(full, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
            assert np.abs(reduced.astype(int) - small).mean() < 11
    assert full[:1000, :1000].min() > 190 and full[1024:2048, 1024:2048].min() < 120
    tiles = pd.read_parquet(tmp_path / f"{row['slide_id']}.parquet")
    assert len(tiles) == 32 * 24 and tiles["tumour_fraction"].iloc[0] == 0 and tiles["tumour_fraction"].max() == 1


def outlines(path, name):
    return shapely.union_all([a.geometry for a in read_geojson(path) if a.classification == name])


def test_the_delivered_outline_is_near_the_true_one_and_exact_on_demand(tmp_path):
    shares = {}
    for error_um in (0.0, 10.0):
        spec = CohortSpec(n_slides=1, seed=5, grid_columns=3, grid_rows=2, tile_px=256, outline_error_um=error_um)
        plan = plan_cohort(spec)
        slide_id = plan.slides["slide_id"].iloc[0]
        path = write_slide(plan, slide_id, tmp_path / "s", tmp_path / "t")
        drawn = tumour_outline(read_geojson(path.with_suffix(".geojson")))
        true = outlines(tmp_path / "t" / f"{slide_id}.geojson", "Tumor")
        shares[error_um] = drawn.symmetric_difference(true).area / true.area
        row = plan.slides.iloc[0]
        tissue = draw_tissue(
            slide_recipe(plan, slide_id).tissue, partial(synthetic_slide.section_stream, 5, slide_id, 0)
        )
        drawn_l0 = tissue.regions.outline.area * (int(row["objective"]) // 20) ** 2
        assert true.area / drawn_l0 == pytest.approx(row["tumour_share"], abs=0.01)
        part = outlines(tmp_path / "t" / f"{slide_id}.geojson", "Subclone")
        assert part.area / true.area == pytest.approx(SUBCLONE_SHARE, abs=0.01)
        assert part.difference(true).area < 0.001 * true.area
    assert shares[0.0] < 1e-3 < 0.01 < shares[10.0] < 0.35


def test_truth_tiles_are_the_tiles_of_notebook_02_and_their_numbers_add_up(tmp_path):
    plan = plan_cohort(CohortSpec(n_slides=12, seed=1, grid_columns=3, grid_rows=2, tile_px=128))
    for slide_id in plan.slides["slide_id"]:
        write_slide(plan, slide_id, tmp_path / "slides", tmp_path / "truth")
    write_truth(plan, tmp_path / "truth", tmp_path)
    tiles = read_table(tmp_path / "truth_tiles.parquet", TRUTH_TILES)
    patients = read_table(tmp_path / "truth_patients.parquet", TRUTH_PATIENTS)
    slides = read_table(tmp_path / "truth_slides.parquet", TRUTH_SLIDES).set_index("slide_id")
    assert len(patients) == 8 * plan.slides["patient_id"].nunique() and len(slides) == 12
    for slide_id, rows in tiles.groupby("slide_id"):
        row = slides.loc[slide_id]
        grid = make_grid(row["width_l0_px"], row["height_l0_px"], float(row["mpp"]), 0.5, 128)
        ours = rows[["column", "row", "x_l0_px", "y_l0_px", "size_l0_px"]].astype(float).to_numpy()
        np.testing.assert_allclose(ours, grid.astype(float).to_numpy())
        assert (rows["subclone_fraction"] <= rows["tumour_fraction"] + 1e-6).all()
        assert rows["chromatin_contrast"].isna().all() == (row["objective"] == 20)
    listed = write_checksums(tmp_path).read_text().splitlines()
    assert len(listed) == sum(p.is_file() for p in tmp_path.rglob("*")) - 1


def recipe(scale=1, width=800, height=800, form="resection", subtype="squamous", share=0.7, **factors):
    return TissueRecipe(width, height, 0.5, scale, share, subtype, form, False, **factors)


def nuclear_statistics(**factors):
    """Mean area [µm²] of tumour nuclei inside and outside the subclone, their number, and the number of lymphocytes."""
    tissue = draw_tissue(recipe(**factors), streams)
    blobs = (tissue.nuclei > 0.4 * DENSITY_UNIT).astype(np.uint8)
    _, _, stats, centres = cv2.connectedComponentsWithStats(blobs)
    areas = stats[1:, cv2.CC_STAT_AREA] * 0.25
    column, row = (np.clip((centres[1:, i] / 4).astype(int), 0, 199) for i in (0, 1))
    inside, tumour = tissue.regions.subclone[row, column] > 0.5, tissue.regions.nest[row, column] > 0.6
    large = (areas > 28) & (areas < 180) & tumour
    black = (tissue.nuclei > 1.05 * DENSITY_UNIT).sum() * 0.25
    return areas[large & inside].mean(), areas[large & ~inside].mean(), int(large.sum()), black


def test_planted_attributes_are_visible_in_the_pixels_and_leave_the_regions_alone():
    thin = {"nuclear_density": 0.5}  # few nuclei touch, so most blobs are one nucleus
    inside, outside, number, black = nuclear_statistics(**thin)
    larger = nuclear_statistics(nuclear_area=1.45, **thin)
    assert larger[0] > 1.2 * inside and larger[1] == pytest.approx(outside, rel=0.05)  # in the subclone only
    assert nuclear_statistics(nuclear_density=0.375)[2] < 0.9 * number
    fewer, more = (nuclear_statistics(lymphocyte_share=s, **thin)[3] for s in (0.4, 1.8))
    assert 1.3 * fewer < black < more / 1.3
    plain, planted = (draw_tissue(recipe(nuclear_area=f, lymphocyte_share=1 / f), streams).regions for f in (1, 1.5))
    np.testing.assert_array_equal(plain.nest, planted.nest)
    assert plain.tumour_outline.equals(planted.tumour_outline)


def chromatin_energy(contrast, average):
    """Variance of fine detail inside nuclei in transmitted light, at 0.25 µm/px or averaged to 0.5; and mean light."""
    density = np.zeros((256, 256), np.uint16)
    n = 60
    xy = generator(0, "places").uniform(10, 118, (2, n))
    flat = np.full(n, 0.8)
    stamp(density, Nuclei("tumour", *xy, np.full(n, 60.0), np.full(n, 1.2), np.zeros(n), flat), 0.5, 2, streams("s"))
    body = density > 0.4 * DENSITY_UNIT
    add_chromatin(density, contrast)
    light = 10 ** (-0.71 * density.astype(np.float32) / DENSITY_UNIT)
    if average:
        light, body = (
            cv2.resize(a.astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA) for a in (light, body)
        )
    detail = cv2.Laplacian(light, cv2.CV_32F)[np.asarray(body) > 0.99]
    return float(detail.var()), float(light[np.asarray(body) > 0.99].mean())


def test_fine_chromatin_is_seen_at_40x_alone():
    fine = [chromatin_energy(c, average=False) for c in (0.14, 0.28)]
    coarse = [chromatin_energy(c, average=True) for c in (0.14, 0.28)]
    assert fine[1][0] > 2.5 * fine[0][0]
    assert coarse[1][0] < 1.2 * coarse[0][0]
    assert coarse[1][1] == pytest.approx(coarse[0][1], rel=0.01)  # brightness does not tell either
    small, large = (draw_tissue(recipe(chromatin_texture=f), streams).nuclei for f in (0.5, 2.0))
    np.testing.assert_array_equal(small, large)
    small, large = (draw_tissue(recipe(scale=2, chromatin_texture=f), streams).nuclei for f in (0.5, 2.0))
    assert not np.array_equal(small, large)


def artefact_pixels(kind):
    """The section as scanned without and with one artefact, its mask on the canvas, and its strength."""
    pictures, one = [], None
    for wanted in ({}, {kind: 1}):
        tissue = draw_tissue(recipe(width=1200, height=1200), streams)
        placed = place_artefacts(wanted, tissue.regions, (1200, 1200), 0.5, streams)
        overlay = add_artefacts(tissue, placed, 0.5, streams)
        bands = Light.of(0, "01", "slide").bands(tissue, overlay, streams("noise"))
        pictures.append(np.concatenate(list(synthetic_slide._with_damage(bands, placed, 1))))
        one = placed[0] if placed else one
    mask = np.zeros((1200, 1200), np.uint8)
    for polygon in getattr(one.outline, "geoms", [one.outline]):
        cv2.fillPoly(mask, [np.round(shapely.get_coordinates(polygon.exterior)).astype(np.int32)], 1)
    return *pictures, mask.astype(bool), one


@pytest.mark.parametrize("kind", ARTEFACT_KINDS)
def test_an_artefact_changes_the_picture_inside_its_mask_and_nowhere_else(kind):
    before, after, mask, _ = artefact_pixels(kind)
    changed = np.abs(after.astype(int) - before).max(axis=2)
    around = cv2.dilate(mask.astype(np.uint8), np.ones((31, 31))).astype(bool)
    assert changed[mask].mean() > 5 and changed[~around].max() <= 1  # one more layer is one more rounding
    sharp = [cv2.Laplacian(p.astype(np.float32), cv2.CV_32F)[mask].var() for p in (before, after)]
    light = [p[mask].mean() for p in (before, after)]
    if kind == "blur":
        assert sharp[1] < 0.5 * sharp[0]
    if kind == "hole":
        assert after[mask].mean() > 225
    if kind in ("fold", "pen"):
        assert light[1] < light[0] - 20


@pytest.mark.parametrize(
    ("form", "pieces"), [("resection", {1}), ("wedge", {1}), ("biopsy", {1, 2, 3}), ("pieces", {3, 4, 5, 6})]
)
@pytest.mark.parametrize("size", [(3300, 2200), (460, 300), (1600, 3000)])
def test_the_tumour_covers_the_planned_share_of_a_section_of_the_planned_form(form, pieces, size):
    for seed, share in enumerate((0.25, 0.5, 0.8)):
        regions = draw_regions(*size, 0.5, tumour_share=share, subtype="squamous", form=form, frozen=False,
                               rng=generator(seed, form))  # fmt: skip
        whole, tumour, part = regions.outline, regions.tumour_outline, regions.subclone_outline
        assert len(getattr(whole, "geoms", [whole])) in pieces
        assert tumour.area / whole.area == pytest.approx(share, abs=0.01)
        assert part.area / tumour.area == pytest.approx(SUBCLONE_SHARE, abs=0.01)
        assert tumour.difference(whole).area < 1e-3 * whole.area and shapely.box(0, 0, *size).contains(whole)
        drawn = drawn_outline(tumour, 20.0, generator(seed))
        assert drawn.is_valid and drawn.symmetric_difference(tumour).area < 0.5 * tumour.area
    if form == "wedge":  # a straight cut: the longest side of the hull is a large part of the width
        corners = shapely.get_coordinates(shapely.convex_hull(whole.simplify(4)))
        assert np.hypot(*np.diff(corners, axis=0).T).max() > 0.4 * size[0]


@pytest.mark.parametrize(("subtype", "stretch"), [("adenocarcinoma", 1.35), ("squamous", 1.7)])
def test_a_row_of_upright_nuclei_lines_every_gland_and_nest(subtype, stretch):
    tissue = draw_tissue(recipe(width=1600, height=1600, subtype=subtype), streams)
    regions, nuclei = tissue.regions, tissue.tumour_nuclei
    points = np.stack([nuclei.x_px, nuclei.y_px], axis=1)
    depth, lumen = at_points(regions.depth, points), tissue.cell_room & (regions.scattered < 0.5)
    row = (depth > 2) & (depth < 9)
    in_row = row.sum() / (tissue.cell_room & (regions.depth > 2) & (regions.depth < 9)).sum()
    deeper = (depth > 9.5) & (at_points(regions.scattered, points) < 0.5)
    towards_lumen = deeper.sum() / max((lumen & (regions.depth > 9.5)).sum(), 1)
    inside = at_points(regions.scattered, points) > 0.5
    if subtype == "adenocarcinoma":
        assert in_row > 4 * towards_lumen  # apical cytoplasm holds next to none
    else:
        assert in_row > 1.3 * inside.sum() / (tissue.cell_room & (regions.scattered > 0.5)).sum()
    slope = [at_points(g, points)[row] for g in np.gradient(cv2.GaussianBlur(regions.depth, (0, 0), 1.5))]
    upright = np.abs(np.cos(nuclei.angle[row] - np.arctan2(*slope)))
    assert np.median(upright) > 0.9 and np.median(nuclei.elongation[row]) > stretch


@pytest.mark.parametrize("subtype", ["adenocarcinoma", "squamous"])
def test_each_factor_moves_its_own_attribute_and_no_other(subtype):
    def drawn(**factors):
        tissue = draw_tissue(recipe(width=1600, height=1600, subtype=subtype, **factors), streams)
        nuclei, room = tissue.tumour_nuclei, tissue.cell_room.sum()
        inside = at_points(tissue.regions.subclone, np.stack([nuclei.x_px, nuclei.y_px], axis=1)) > 0.5
        n, lymphocytes = len(nuclei.x_px), len(tissue.lymphocytes.x_px)
        return (
            nuclei.area_um2[inside].mean(),
            nuclei.area_um2[~inside].mean(),
            n / room,
            lymphocytes / (n + lymphocytes),
        )

    plain = drawn()
    assert plain[2] * 1e6 / 4 == pytest.approx(TUMOUR_DENSITY_PER_MM2, rel=0.02)  # a pixel of the mask is 4 µm²
    for factors, expected in (({"nuclear_area": 1.45}, (1.45, 1, 1, 1)), ({"nuclear_density": 0.6}, (1, 1, 0.6, 1)),
                              ({"nuclear_density": 1.4}, (1, 1, 1.4, 1)),
                              ({"lymphocyte_share": 0.5}, (1, 1, 1, 0.5))):  # fmt: skip
        np.testing.assert_allclose(np.divide(drawn(**factors), plain), expected, rtol=0.04)


def test_alveoli_are_closed_and_their_walls_hold_nuclei():
    tissue = draw_tissue(recipe(width=2000, height=1600, subtype="normal", share=0), streams)
    air = (tissue.regions.open_space > 0.5) & (tissue.regions.bronchus < -50)
    _, _, stats, _ = cv2.connectedComponentsWithStats(air.astype(np.uint8))
    areas = np.sort(stats[1:, cv2.CC_STAT_AREA])[::-1] * 4.0  # µm²
    large = areas[areas > 3000]
    assert len(large) > 12 and large[0] < 0.2 * large.sum()  # many, and none that leaks into its neighbours
    wall = (tissue.regions.tissue > 0.9) & (tissue.regions.open_space < 0.3)
    nuclei = cv2.resize(
        (tissue.nuclei > 0.4 * DENSITY_UNIT).astype(np.float32), wall.shape[::-1], interpolation=cv2.INTER_AREA
    )
    assert 0.05 < nuclei[wall].mean() < 0.5


def test_sections_hold_vessels_with_red_cells_pigment_pearls_and_now_and_then_a_bronchus():
    found = []
    for seed in range(6):
        tissue = draw_tissue(recipe(width=2400, height=2000, share=0.4), lambda name, s=seed: generator(s, name))
        regions = tissue.regions
        found.append([(tissue.blood > 0.3 * DENSITY_UNIT).mean(), (tissue.soot > 0.3 * DENSITY_UNIT).mean(),
                      regions.keratin.mean(), (regions.bronchus > 0).mean()])  # fmt: skip
    some = np.array(found) > 1e-4
    assert some[:, 0].all() and some[:, 1:3].sum() > 6 and 0 < some[:, 3].sum() < 6
    light = np.concatenate(
        list(Light.of(0, "01", "s").bands(tissue, add_artefacts(tissue, [], 0.5, streams), streams("n")))
    )
    red = light[(tissue.blood > 0.5 * DENSITY_UNIT) & (tissue.nuclei == 0)].mean(axis=0)
    pink = light[(tissue.eosin > 0.3 * DENSITY_UNIT) & (tissue.nuclei == 0) & (tissue.blood == 0)].mean(axis=0)
    assert red[0] > red[2] and (red[2] - red[1]) / (red[0] - red[1]) < 0.6 * (pink[2] - pink[1]) / (pink[0] - pink[1])


def test_every_artefact_is_in_the_truth_and_blur_takes_ink_with_it(tmp_path):
    plan = plan_cohort(CohortSpec(n_slides=12, seed=3, grid_columns=3, grid_rows=2, tile_px=128, artefact_rate=10))
    seen = set()
    for slide_id in plan.slides["slide_id"].iloc[[0, 1, 11]]:
        write_slide(plan, slide_id, tmp_path, tmp_path)
        row, tiles = plan.slides.set_index("slide_id").loc[slide_id], pd.read_parquet(tmp_path / f"{slide_id}.parquet")
        told = [a.classification for a in read_geojson(tmp_path / f"{slide_id}.geojson")]
        for kind in ARTEFACT_KINDS:
            assert told.count(f"Artefact: {kind}") <= row[f"n_{kind}"]
            assert (tiles[f"{kind}_fraction"].sum() > 0) <= (row[f"n_{kind}"] > 0)
            seen |= {kind} if tiles[f"{kind}_fraction"].sum() > 0 else set()
    assert seen == set(ARTEFACT_KINDS)
    tissue = draw_tissue(recipe(width=1200, height=1200), streams)
    stroke, disc = shapely.box(580, 0, 640, 1200), shapely.Point(600, 600).buffer(300)
    sharp, soft = (add_artefacts(tissue, [Artefact("pen", stroke, 1.0), *more], 0.5, streams).pen
                   for more in ([], [Artefact("blur", disc, 3.0)]))  # fmt: skip
    steep = [np.abs(np.diff(p[500:700].astype(int), axis=1)).max() for p in (sharp, soft)]
    assert steep[1] < 0.4 * steep[0] and np.array_equal(sharp[:200], soft[:200])


def test_lattice_points_keep_their_density_and_sites_differ_more_than_their_slides():
    points = hexagonal_points(generator(0, "lattice"), 1000, 800, 20, 0.2)
    assert len(points) == pytest.approx(1000 * 800 * 2 / (np.sqrt(3) * 400), rel=0.05)
    area = (masters("tumour") > 0.2).sum(axis=(1, 2)).mean()
    assert area == pytest.approx(np.pi * 18**2, rel=0.1)
    own = np.array([stain_matrix(1, "03", f"slide {i}") for i in range(30)])
    sites = np.array([stain_matrix(1, f"{i:02d}", "slide 0") for i in range(12)])
    assert sites.std(axis=0).mean() > 2 * own.std(axis=0).mean()
    camera = camera_matrix(1, "03")
    np.testing.assert_allclose(camera.sum(axis=1), 1)
    assert (np.diag(camera) > 0.9).all() and (camera >= 0).all()


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_bands_of_an_enlarged_image_join_without_a_seam(factor):
    image = generator(0, "image").standard_normal((40, 30), dtype=np.float32)
    whole = enlarge_rows(image, 0, 40 * factor, factor)
    cuts = [0, 7 * factor, 16 * factor, 40 * factor]
    bands = [enlarge_rows(image, a, b, factor) for a, b in pairwise(cuts)]
    np.testing.assert_allclose(np.vstack(bands), whole, atol=1e-5)


def test_what_is_left_of_shapes_that_were_cut_is_areas():
    square, line = shapely.box(0, 0, 4, 4), shapely.LineString([(9, 9), (9, 12)])
    left = areas_of(shapely.GeometryCollection([square, line, shapely.Point(20, 20)]))
    assert left.equals(square) and areas_of(square) is square
    drawn_outline(areas_of(shapely.GeometryCollection([square, line])), 1.0, generator(0, "hand"))
