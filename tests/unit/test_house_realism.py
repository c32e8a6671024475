"""The script that compares synthetic with real fields, and the page that shows it."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import fields

import numpy as np
import pytest

from deeplrhe_utils.core.errors import AnnotationError, InputError, ParameterError
from deeplrhe_utils.core.files import write_json
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.synthetic.genes import ODDS_RATIOS, neighbour_auc, population, site_only_auc
from deeplrhe_utils.synthetic.paint import tissue
from deeplrhe_utils.synthetic.paint.regions import SUBCLONE_SHARE
from deeplrhe_utils.synthetic.plan import ARTEFACTS
from deeplrhe_utils.synthetic.publish import (
    EFFECTS,
    GENES,
    PRESETS,
    CohortSpec,
    plan_cohort,
    write_slide,
    write_tables,
    write_truth,
)

PAGE = REPOSITORY / "docs" / "synthetic-cohort.md"


@pytest.fixture(scope="module")
def script():
    path = REPOSITORY / "benchmarks" / "compare_with_real.py"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("compare_with_real", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
    sys.path.remove(str(path.parent))


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
    assert np.allclose(script.outline_areas(rings, mpp), [4])
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
    monkeypatch.setattr(script.tissue, "TUMOUR_DENSITY_PER_MM2", 3000.0)
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
    people = population()
    for gene, (*known, attribute, where, d, bayes, ratio, _) in rows.items():
        shares = [people.prevalence(gene, histology) for histology in ("adenocarcinoma", "squamous")]
        told = [*shares, people.diagnosis_auc(gene), people.clinical_auc(gene)]
        assert [float(cell) for cell in known] == pytest.approx(told, abs=0.0006)
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
    others = ["TP53", "EGFR", "STK11"]
    assert told == pytest.approx(neighbour_auc("KRAS", others, population(), histology="adenocarcinoma"), abs=0.01)
    by_site = re.search(r"0.50 for c = 0,\s*([\d.]+) for c = 0.5, ([\d.]+) for c = 1", PAGE.read_text("utf-8"))
    prevalence = population().prevalence("KRAS")
    assert [float(v) for v in by_site.groups()] == [round(site_only_auc(prevalence, c), 2) for c in (0.5, 1.0)]


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
    assert f"{tissue.TUMOUR_DENSITY_PER_MM2:,.0f} per mm²" in text
    assert f"median area of {tissue.TUMOUR_AREA_UM2:.0f} µm²" in text
    assert f"{100 * tissue.LYMPHOCYTE_SHARE:.0f} % of lymphocytes and tumour cells" in text
    assert f"cuts off {100 * SUBCLONE_SHARE:.0f} % of the tumour" in text


def test_the_pages_blocks_are_filled():
    text = PAGE.read_text(encoding="utf-8")
    for block, begins in (("comparison", "| Quantity |"), ("chromatin", "Rank correlation")):
        inside = text.split(f"<!-- {block}:begin -->")[1].split(f"<!-- {block}:end -->")[0]
        assert inside.strip().startswith(begins), f"run benchmarks/compare_with_real.py: {block} is empty"
