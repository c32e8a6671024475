"""The synthetic cohort is what its plan declares."""

import hashlib
import math
from itertools import pairwise

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest

from deeplrhe_utils.acquisition.svs import SvsLevel, write_svs
from deeplrhe_utils.acquisition.synthetic import EFFECTS, GENES, plan_cohort, slide_recipe, write_slide
from deeplrhe_utils.acquisition.synthetic_cohort import PREVALENCE, planned_positives
from deeplrhe_utils.acquisition.synthetic_nuclei import hexagonal_points, masters
from deeplrhe_utils.acquisition.synthetic_tissue import TissueRecipe, draw_tissue, enlarge_rows
from deeplrhe_utils.core.errors import ParameterError, SlideError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.slides.annotations import read_geojson, tumour_outline
from deeplrhe_utils.slides.reader import Slide


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_plan_depends_on_nothing_but_its_arguments():
    first, second, other = plan_cohort(20, 3), plan_cohort(20, 3), plan_cohort(20, 4)
    for name in ("slides", "labels", "clinical", "truth"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    assert not first.truth.equals(other.truth)


@pytest.mark.parametrize("n_slides", [1, 2, 12, 13, 180])
def test_a_plan_has_as_many_slides_as_asked_and_about_eight_patients_per_nine(n_slides):
    plan = plan_cohort(n_slides, 0)
    assert len(plan.slides) == plan.slides["slide_id"].nunique() == n_slides
    assert len(plan.clinical) == max(1, round(n_slides * 8 / 9)) == plan.slides["patient_id"].nunique()
    assert plan.slides.groupby("patient_id").size().max() <= 2
    assert len(plan.labels) == len(plan.clinical) * len(GENES)


def test_barcodes_have_the_structure_of_tcga_and_cannot_be_taken_for_it():
    plan = plan_cohort(180, 1)
    pattern = r"SYNT-\d{2}-\d{4}-(01Z-00-DX|01A-01-TS)\d"
    assert plan.slides["slide_id"].str.fullmatch(pattern).all()
    assert (plan.slides["slide_id"].str[:12] == plan.slides["patient_id"]).all()
    assert (plan.slides["slide_id"].str[5:7] == plan.slides["site_id"]).all()
    assert plan.slides["site_id"].nunique() == 12


def test_scanners_are_mixed_as_declared():
    slides = plan_cohort(180, 0).slides
    assert 0.15 < (slides["objective"] == 40).mean() < 0.35
    assert set(slides.loc[slides["objective"] == 40, "mpp"]) == {0.25, 0.2527}
    assert set(slides.loc[slides["objective"] == 20, "mpp"]) == {0.5}
    assert slides.groupby("site_id")["mpp"].nunique().max() == 1


@pytest.mark.parametrize("seed", range(5))
def test_prevalences_are_exact_and_egfr_excludes_kras(seed):
    truth = plan_cohort(180, seed).truth
    for gene in GENES:
        assert truth[f"mutated_{gene}"].sum() == round(PREVALENCE[gene] * 160)
    assert not (truth["mutated_EGFR"] & truth["mutated_KRAS"]).any()


def test_a_dozen_slides_still_have_both_classes_of_the_strong_genes():
    status = plan_cohort(12, 0).labels.pivot(index="patient_id", columns="gene", values="status")
    assert status["TP53"].sum() >= 6 and (status["TP53"] == 0).sum() >= 5
    assert status["EGFR"].sum() >= 4 and (status["EGFR"] == 0).sum() >= 6
    assert planned_positives("TP53", 1) == 1 and planned_positives("EGFR", 1) == 0


def test_labels_agree_with_the_truth_where_profiled_and_hide_a_few():
    plan = plan_cohort(180, 2)
    for gene, rows in plan.labels.groupby("gene"):
        true = plan.truth.set_index("patient_id")[f"mutated_{gene}"].reindex(rows["patient_id"])
        known = rows["status"].notna().to_numpy()
        assert (rows["status"][known].astype(int).to_numpy() == true.to_numpy()[known].astype(int)).all()
        assert 1 <= (~known).sum() <= 4


def test_latents_reach_the_bayes_auc_on_average():
    def auc(gene, seed):
        truth = plan_cohort(180, seed).truth
        positive = truth.loc[truth[f"mutated_{gene}"], f"latent_{gene}"].to_numpy()
        negative = truth.loc[~truth[f"mutated_{gene}"], f"latent_{gene}"].to_numpy()
        return (positive[:, None] > negative[None, :]).mean()

    for gene, effect in EFFECTS.items():
        expected = 0.5 * (1 + math.erf(effect.d / 2))
        assert effect.bayes_auc == pytest.approx(expected)
        assert np.mean([auc(gene, s) for s in range(8)]) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("name", "value"), [("n_slides", 0), ("seed", -1), ("tile_px", 8), ("grid_rows", 0)])
def test_numbers_out_of_range_are_refused_by_name(name, value):
    arguments = {"n_slides": 12, "seed": 0, name: value}
    with pytest.raises(ParameterError, match=name):
        plan_cohort(**arguments)


@pytest.mark.parametrize("objective", [20, 40])
def test_openslide_reads_an_aperio_slide_of_the_planned_size(small_plan, slide_factory, objective):
    path = slide_factory(objective)
    row = small_plan.slides.set_index("slide_id").loc[path.stem]
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(row["mpp"])
        assert slide.properties["openslide.objective-power"] == str(objective)
        assert slide.dimensions == (row["width_l0_px"], row["height_l0_px"])
        assert slide.level_downsamples == (1.0, 4.0)
        full = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        small = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]).convert("RGB"))
    reduced = cv2.resize(full, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
    difference = reduced.astype(int) - small
    assert np.abs(difference).mean() < 9 and np.abs(difference.mean(axis=(0, 1))).max() < 1  # JPEG, but no bias
    assert full.std() > 25 and full[:6, :6].min() > 190  # tissue inside, glass in the corner


def test_the_same_slide_has_the_same_bytes_out_of_order(small_plan, tmp_path):
    chosen = small_plan.slides["slide_id"].iloc[[0, 4, 7]].tolist()
    forwards = [digest(write_slide(small_plan, s, tmp_path / "a")) for s in chosen]
    backwards = [digest(write_slide(small_plan, s, tmp_path / "b")) for s in reversed(chosen)]
    assert forwards == backwards[::-1] and len(set(forwards)) == 3
    outlines = [(tmp_path / f / f"{chosen[0]}.geojson").read_bytes() for f in "ab"]
    assert outlines[0] == outlines[1]


def test_a_complete_slide_is_kept_and_one_of_another_recipe_is_not(small_plan, tmp_path):
    slide_id = small_plan.slides["slide_id"].iloc[0]
    path = write_slide(small_plan, slide_id, tmp_path)
    before = path.stat().st_mtime_ns
    assert write_slide(small_plan, slide_id, tmp_path).stat().st_mtime_ns == before
    other = plan_cohort(12, 8, grid_columns=3, grid_rows=2, tile_px=128)
    same_name = other.slides["slide_id"].iloc[0]
    (tmp_path / f"{same_name}.svs").write_bytes(path.read_bytes())
    (tmp_path / f"{same_name}.geojson").write_text("{}")
    assert digest(write_slide(other, same_name, tmp_path)) != digest(path)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_an_unknown_slide_is_refused(small_plan):
    with pytest.raises(ParameterError, match="SYNT-99"):
        slide_recipe(small_plan, "SYNT-99-9999-01Z-00-DX1")


def test_the_tumour_outline_covers_the_planned_share(small_plan, slide_factory):
    path = slide_factory(20)
    outline = tumour_outline(read_geojson(path.with_suffix(".geojson")))
    with Slide(path) as slide:
        share = outline.area / (slide.dimensions[0] * slide.dimensions[1])
    planned = small_plan.slides.set_index("slide_id").loc[path.stem, "tumour_share"]
    assert share == pytest.approx(planned, abs=0.04)


def nuclear_statistics(**factors):
    """Mean area [µm²] of tumour nuclei, their number, and the area as dark as lymphocytes [µm²].

    Cells are drawn at half the density, so that few nuclei touch and most blobs are one nucleus.
    """
    density = 0.5 * factors.pop("nuclear_density", 1.0)
    recipe = TissueRecipe(800, 800, 0.5, 0.7, "squamous", False, nuclear_density=density, **factors)
    haematoxylin = draw_tissue(recipe, generator(0, "test")).haematoxylin
    _, _, stats, _ = cv2.connectedComponentsWithStats((haematoxylin > 0.4).astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA] * 0.25
    large = areas[(areas > 40) & (areas < 180)]
    return large.mean(), len(large), (haematoxylin > 1.0).sum() * 0.25


def test_planted_attributes_are_visible_in_the_pixels():
    area, number, black = nuclear_statistics()
    assert nuclear_statistics(nuclear_area=1.45)[0] > 1.2 * area
    assert nuclear_statistics(nuclear_density=0.75)[1] < 0.9 * number
    fewer, more = (nuclear_statistics(lymphocyte_share=s)[2] for s in (0.4, 1.8))
    assert 1.3 * fewer < black < more / 1.3


def test_lattice_points_keep_their_density_and_masters_their_size():
    points = hexagonal_points(generator(0, "lattice"), 1000, 800, 20, 0.2)
    assert len(points) == pytest.approx(1000 * 800 * 2 / (np.sqrt(3) * 400), rel=0.05)
    area = (masters("tumour") > 0.2).sum(axis=(1, 2)).mean()
    assert area == pytest.approx(np.pi * 18**2, rel=0.1)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_bands_of_an_enlarged_image_join_without_a_seam(factor):
    image = generator(0, "image").standard_normal((40, 30), dtype=np.float32)
    whole = enlarge_rows(image, 0, 40 * factor, factor)
    cuts = [0, 7 * factor, 16 * factor, 40 * factor]
    bands = [enlarge_rows(image, a, b, factor) for a, b in pairwise(cuts)]
    np.testing.assert_allclose(np.vstack(bands), whole, atol=1e-5)


def test_a_level_with_too_few_tiles_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(SlideError, match="wrong number of tiles"):
        write_svs(tmp_path / "a.svs", [SvsLevel(512, 512, [b"x"] * 3)], "Aperio Image Library")
    assert list(tmp_path.iterdir()) == []


def test_declared_prevalences_are_those_of_the_public_calls(shared_data):
    calls = pd.read_csv(
        shared_data / "tables/cbioportal_luad_lusc_mutations_by_gene.tsv", sep="\t", dtype=str, keep_default_na=False
    )
    calls = calls[calls["STUDY_ID"].str.startswith("luad")]
    for gene in GENES:
        profiled = calls.loc[calls[gene] != "NS", gene]
        changed = profiled.map(lambda cell: any(c != "WT" and not c.endswith("=") for c in cell.split()))
        assert changed.mean() == pytest.approx(PREVALENCE[gene], abs=0.0005), gene
