"""Numbers and figures that compare synthetic with real fields; the script and the page that show them."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deeplrhe_utils.acquisition import synthetic_tissue
from deeplrhe_utils.acquisition.synthetic import (
    EFFECTS,
    GENES,
    PRESETS,
    CohortSpec,
    plan_cohort,
    write_slide,
    write_tables,
    write_truth,
)
from deeplrhe_utils.acquisition.synthetic_cohort import ARTEFACTS
from deeplrhe_utils.acquisition.synthetic_genes import ODDS_RATIOS, PREVALENCE, neighbour_auc
from deeplrhe_utils.acquisition.synthetic_regions import SUBCLONE_SHARE
from deeplrhe_utils.core.errors import AnnotationError, InputError, ParameterError
from deeplrhe_utils.core.files import write_json
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.realism import (
    area_curves,
    colour_curves,
    compare,
    dark_grain,
    describe_fields,
    detail_curves,
    envelope,
    jpeg_bytes_per_pixel,
    outline_areas,
    tissue_colours,
)
from deeplrhe_utils.reporting.realism import Curves, Panel, Points, distributions, plate

PAGE = REPOSITORY / "docs" / "synthetic-cohort.md"


def flat(*rgb: int) -> np.ndarray:
    return np.full((16, 16, 3), rgb, np.uint8)


def noisy(contrast: float, side: int = 64) -> np.ndarray:
    noise = generator(1, "noisy").normal(0, contrast, (side, side, 3))
    return np.clip(150 + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def script():
    path = REPOSITORY / "docs" / "compare_with_real.py"
    spec = importlib.util.spec_from_file_location("compare_with_real", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


# Numbers


@pytest.mark.parametrize(
    ("rgb", "hue"),
    [((200, 0, 0), 0), ((200, 0, 14), -4), ((200, 14, 0), 4), ((100, 0, 200), -90), ((0, 0, 200), -120)],
)
def test_hue_goes_from_purple_to_red_without_a_jump(rgb, hue):
    assert np.allclose(tissue_colours(flat(*rgb))[1], hue, atol=2)
    row = describe_fields([("one", flat(*rgb))]).iloc[0]
    assert row["hue_p5"] == row["hue_p95"] == pytest.approx(hue, abs=2)


def test_only_tissue_is_measured():
    half = np.concatenate([flat(100, 50, 100), flat(250, 250, 250)])
    row = describe_fields([("half", half)]).iloc[0]
    assert row["tissue_share"] == 0.5
    assert row["od_green_p5"] == row["od_green_p95"] == pytest.approx(-np.log10(51 / 256))


def test_a_field_without_tissue_has_no_colour():
    row = describe_fields([("glass", flat(250, 250, 250))]).iloc[0]
    assert row["tissue_share"] == 0 and np.isnan(row["hue_p50"]) and np.isnan(row["od_red_p50"])
    assert not colour_curves([("glass", flat(250, 250, 250))])["value"].any()


def test_noise_makes_a_jpeg_larger_and_a_laplacian_wider():
    fields_ = [noisy(c) for c in (0, 5, 20)]
    sizes = [jpeg_bytes_per_pixel(f) for f in fields_]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2]
    detail = describe_fields(zip("abc", fields_, strict=True))["detail"]
    assert detail.is_monotonic_increasing and detail[0] == 0


def test_areas_of_known_outlines():
    square = np.array([[0, 0], [10, 0], [10, 4], [0, 4.0]])
    triangle = np.array([[0, 0], [6, 0], [0, 8.0]])
    found = outline_areas([square, square[::-1] + 1e6, triangle, square[:2], square[:0]], 0.5)
    assert np.allclose(found, [10, 10, 6])
    assert outline_areas([], 0.25).shape == (0,)


def test_curves_are_shares_and_the_envelope_is_in_order():
    curves = colour_curves((str(c), noisy(c)) for c in (2, 10, 30))
    assert np.allclose(curves.groupby(["field", "quantity"])["value"].sum(), 1)
    band = envelope(curves)
    assert len(band) == len(curves) / 3
    assert (band["low"] <= band["middle"]).all() and (band["middle"] <= band["high"]).all()
    areas = area_curves({"one": np.array([11.0, 11.5, 90.0])})
    top = areas.loc[areas["value"].idxmax()]
    assert top["value"] == pytest.approx(2 / 3) and 9 < top["x"] < 13


@pytest.mark.parametrize("width_um", [1.0, 4.0, 8.0])
def test_contrast_by_size_peaks_at_the_width_of_the_stripes(width_um):
    mpp, x = 0.25, np.arange(512)
    stripes = 128 + 60 * np.sin(np.pi * x * mpp / width_um)
    field = np.broadcast_to(stripes[None, :, None], (512, 512, 3)).astype(np.uint8)
    curve = detail_curves([("stripes", field)], mpp)
    assert curve.loc[curve["value"].idxmax(), "x"] == width_um


def test_sizes_below_two_pixels_are_not_measured():
    assert detail_curves([("a", noisy(5))], 0.25)["x"].min() == 0.5
    assert detail_curves([("a", noisy(5))], 0.5029)["x"].min() == 1.0


def test_grain_is_read_in_the_dark_part_only():
    field, rng = np.full((100, 100, 3), 220, np.uint8), generator(1, "grain")
    field[:, :20] = 90
    assert dark_grain(field) < 0.01
    light, dark = field.copy(), field.copy()
    light[:, 40:] = rng.integers(200, 240, (100, 60, 1))
    dark[:, :20] = rng.integers(70, 110, (100, 20, 1))
    assert dark_grain(light) == pytest.approx(dark_grain(field)) and dark_grain(dark) > 0.2
    assert np.isnan(dark_grain(flat(255, 255, 255)))


def test_ranges_medians_and_overlap():
    real = pd.DataFrame({"field": ["a", "b", "c"], "x": [1.0, 2.0, 6.0], "y": [1.0, np.nan, 3.0], "z": [0.0, 0, 0]})
    synthetic = pd.DataFrame({"field": ["d", "e"], "x": [0.0, 4.0], "y": [3.0, 3.0]})
    rows = compare(real, synthetic).set_index("quantity")
    assert list(rows.index) == ["x", "y"]
    x, y = rows.loc["x"], rows.loc["y"]
    assert (x["real_low"], x["real_median"], x["real_high"], x["overlap"]) == (1, 2, 6, 0.5)
    assert (y["n_real"], y["n_synthetic"], y["real_median"], y["overlap"]) == (2, 2, 2, 1)


# Figures


def test_a_plate_shows_every_pixel():
    image = generator(1, "plate").integers(0, 256, (60, 90, 3)).astype(np.uint8)
    ring = np.array([[10, 10], [40, 10], [40, 40], [10, 10.0]])
    figure = plate([("Heading", [Panel(image, "one", 0.5), Panel(image, "two", 0.5, [("Subclone", ring)])]),
                    ("", [Panel(image[:20, :20], "tiny", 200.0)])])  # fmt: skip
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=figure.dpi)
        drawn = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
    assert drawn.shape[1] == 2 * 90 + 3 * 6
    top = 24 + 16
    assert np.abs(drawn[top : top + 30, 6:60] - image[:30, :54]).max() <= 1


def test_distributions_have_a_panel_each_and_a_legend():
    curves = colour_curves((str(c), noisy(c)) for c in (2, 10))
    red = curves[curves["quantity"] == "od_red"]
    one = Curves(red, envelope(red), "red", "log10", limits=(0, 1))
    area = Curves(red[red["x"] > 0], envelope(red), "by ratio", "µm²", by_ratio=True)
    other = Points(np.array([1.0]), np.array([2.0, 3.0]), 1.0, 2.5, "points", "")
    figure = distributions([[one, area], [other]])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["red", "by ratio", "points", ""] and figure.legends
    assert figure.axes[0].get_xlim() == (0, 1) and figure.axes[1].get_xscale() == "log"


# The script


def test_real_pixels_are_never_written_into_the_repository(script, tmp_path, capsys):
    (tmp_path / "link").symlink_to(REPOSITORY / "docs")
    inside = [
        REPOSITORY / "docs" / "figures" / "x.png",
        tmp_path / "link" / "x.png",
        tmp_path / "link" / ".." / "x.png",
    ]
    for path in inside:
        with pytest.raises(ParameterError, match="never kept in this repository"):
            script.outside_repository(path)
    assert script.outside_repository(tmp_path / "x.png") == tmp_path / "x.png"
    arguments = ["--real", str(tmp_path), "--cohort", str(tmp_path), "--side-by-side", str(inside[0])]
    assert script.main(arguments) == 1
    assert "never kept in this repository" in capsys.readouterr().err and not inside[0].exists()


def test_outlines_of_a_viewer_are_read(script, tmp_path):
    path = tmp_path / "a.xml"
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((0, 0), (4, 0), (4, 4), (0, 4)))
    region = f"<Regions><Region Id='1'><Vertices>{vertices}</Vertices></Region><Region Id='2'/></Regions>"
    path.write_text(f'<Annotations MicronsPerPixel="0.5"><Annotation>{region}</Annotation></Annotations>')
    rings, mpp = script.read_outlines(path)
    assert mpp == 0.5 and [len(r) for r in rings] == [4, 0]
    assert np.allclose(outline_areas(rings, mpp), [4])
    path.write_text(path.read_text().replace("0.5", "0.000"))
    assert script.read_outlines(path)[1] == 0.25


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b "c">]><Annotations>&b;</Annotations>',
        '<?xml version="1.0"?>\n<!doctype a SYSTEM "file:///etc/hostname"><Annotations/>',
        "<Annotations><Region><Vertex X='1'/></Region></Annotations>",
        "<Annotations><Region><Vertex X='one' Y='1'/></Region></Annotations>",
        "<Annotations",
        "",
    ],
)
def test_dangerous_and_broken_outlines_are_refused(script, tmp_path, text):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=r"a\.xml"):
        script.read_outlines(path)
    path.write_text('<?xml version="1.0" encoding="utf-16"?><Annotations/>', encoding="utf-16")
    with pytest.raises(AnnotationError, match=r"a\.xml"):
        script.read_outlines(path)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    plan = plan_cohort(CohortSpec(n_slides=1, n_sites=2, grid_columns=3, grid_rows=2, tile_px=256, artefact_rate=0.0))
    slide_id = plan.slides["slide_id"].iloc[0]
    write_slide(plan, slide_id, folder / "slides", folder / "truth" / "slides")
    write_tables(plan, folder)
    write_truth(plan, folder / "truth" / "slides", folder / "truth")
    return folder, slide_id


def test_nuclei_are_those_of_the_truth(script, cohort):
    folder, slide_id = cohort
    found = script.read_cohort(folder)
    nuclei = script.nuclei_of(found, slide_id)
    assert set(nuclei["kind"]) >= {"tumour", "lymphocyte", "fibroblast"}
    for _, tile in found.tiles.iterrows():
        inside = script.inside(nuclei, tile["x_l0_px"], tile["y_l0_px"], tile["size_l0_px"])
        tumour = inside[inside["kind"] == "tumour"]["area"]
        assert (
            len(tumour) == tile["n_tumour_nuclei"] and (inside["kind"] == "lymphocyte").sum() == tile["n_lymphocytes"]
        )
        assert tumour.empty or tumour.mean() == pytest.approx(tile["nuclear_area_um2"])


def test_a_cohort_of_other_code_is_found_out(script, cohort, monkeypatch):
    found = script.read_cohort(cohort[0])
    tile = found.tiles.sort_values("n_tumour_nuclei").iloc[-1]
    monkeypatch.setattr(script, "FIELD_UM", 100)
    field = script.synthetic_field(found, tile, nuclei=True)
    assert field.pixels.shape[0] == 10 * int(tile["objective"]) and len(field.areas)
    monkeypatch.setattr(script.synthetic_tissue, "TUMOUR_DENSITY_PER_MM2", 3000.0)
    with pytest.raises(ParameterError, match="drawn by other code"):
        script.synthetic_field(found, tile, nuclei=True)
    with pytest.raises(InputError, match="holds no cohort"):
        script.read_cohort(cohort[0] / "slides")


def test_another_renderer_and_several_sections_are_refused(script, cohort, tmp_path):
    facts = script.read_json(cohort[0] / "cohort.json")
    write_json(tmp_path / "cohort.json", facts | {"renderer": 0})
    with pytest.raises(ParameterError, match="another renderer"):
        script.read_cohort(tmp_path)
    write_json(tmp_path / "cohort.json", facts | {"spec": facts["spec"] | {"sections_down": 2}})
    with pytest.raises(ParameterError, match="several sections"):
        script.read_cohort(tmp_path)


def test_few_colours_keep_lines_and_paper(script, tmp_path):
    figure = plate([("Heading", [Panel(noisy(30, 80), "one", 0.5)])])
    script.save(figure, tmp_path / "few.png", 16)
    image = Image.open(tmp_path / "few.png")
    assert image.mode == "P" and image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


# The page


def rows_after(heading: str) -> list[list[str]]:
    """Cells of the first table whose header begins with `heading`, without header and ruler."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_the_pages_genes_are_those_of_the_code():
    rows = {row[0]: row[1:] for row in rows_after("Gene")}
    assert set(rows) == set(GENES)
    for gene, (prevalence, attribute, where, d, bayes, ratio, _) in rows.items():
        assert float(prevalence) == PREVALENCE[gene]
        effect = EFFECTS.get(gene)
        if effect is None:
            assert (attribute, where, float(d), float(bayes), ratio) == ("–", "–", 0, 0.5, "–")
            continue
        assert (attribute, where, float(d)) == (effect.attribute, effect.where, effect.d)
        assert float(bayes) == round(effect.bayes_auc, 3)
        assert float(ratio) == pytest.approx(np.exp(effect.log_step * effect.d), abs=0.006)


def test_the_pages_odds_ratios_and_joint_auc_are_those_of_the_code():
    names = ("EGFR", "STK11", "KRAS")
    found = {(r[0], n): float(c) for r in rows_after("Odds ratio") for n, c in zip(names, r[1:], strict=True) if c}
    assert found == ODDS_RATIOS
    told = float(re.search(r"from TP53, EGFR and STK11 with an AUC of ([\d.]+\d)", PAGE.read_text("utf-8"))[1])
    assert told == pytest.approx(neighbour_auc("KRAS", ["TP53", "EGFR", "STK11"], n=50_000), abs=0.01)


def test_the_page_names_every_parameter_with_its_default():
    told = {}
    for names, _, defaults, _ in rows_after("Name"):
        told |= dict(zip(re.findall(r"`(\w+)`", names), defaults.split(", "), strict=True))
    expected = {f.name: str(f.default) for f in fields(CohortSpec)}
    assert set(told) == set(expected)
    assert {n: v for n, v in told.items() if n != "effects"} == {n: v for n, v in expected.items() if n != "effects"}
    assert told["effects"] == "none" and CohortSpec().effects == ()


def test_the_pages_presets_artefacts_and_scanners_are_those_of_the_code():
    slides = {row[0].strip("`"): int(row[1].split()[0]) for row in rows_after("Preset")}
    assert slides == {name: spec.n_slides for name, spec in PRESETS.items()}
    assert {row[0].strip("`"): float(row[1]) for row in rows_after("Kind")} == ARTEFACTS
    objective, mpp = rows_after("Site | 01 | 02 | 03 | 04 | 05 | 06 | 07 | 08 | 09 | 10 | 11 | 12")
    plan = plan_cohort(PRESETS["demo"]).slides.drop_duplicates("site_id").set_index("site_id").sort_index()
    assert objective[1:] == [f"{power}×" for power in plan["objective"]]
    assert [float(v) for v in mpp[1:]] == list(plan["mpp"])


def test_the_pages_tissue_is_that_of_the_code():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{synthetic_tissue.TUMOUR_DENSITY_PER_MM2:,.0f} per mm²" in text
    assert f"median area of {synthetic_tissue.TUMOUR_AREA_UM2:.0f} µm²" in text
    assert f"{100 * synthetic_tissue.LYMPHOCYTE_SHARE:.0f} % of lymphocytes and tumour cells" in text
    assert f"cuts off {100 * SUBCLONE_SHARE:.0f} % of the tumour" in text


def test_the_pages_blocks_are_filled():
    text = PAGE.read_text(encoding="utf-8")
    for block, begins in (("comparison", "| Quantity |"), ("chromatin", "Rank correlation")):
        inside = text.split(f"<!-- {block}:begin -->")[1].split(f"<!-- {block}:end -->")[0]
        assert inside.strip().startswith(begins), f"run docs/compare_with_real.py: {block} is empty"
