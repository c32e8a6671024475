"""`deeplrhe judge`: what is planted is found, missed or feigned, in whatever form a pipeline says it."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from PIL import Image

from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.core.tables.contract import conform, write_table
from deeplrhe_utils.core.tables.truth import TRUTH_GENES, TRUTH_PATIENTS, TRUTH_SLIDES, TRUTH_TILES
from deeplrhe_utils.evaluation.auc.deeppath import write_stats
from deeplrhe_utils.evaluation.judging.answers import read_answers
from deeplrhe_utils.evaluation.judging.beside import judge_colours, judge_masks
from deeplrhe_utils.evaluation.judging.planted_cohort import box_means, read_planted
from deeplrhe_utils.evaluation.judging.verdicts import map_rows, verdicts
from deeplrhe_utils.reporting.exports.interop import write_qupath
from deeplrhe_utils.reporting.exports.pyramid import write_score_tiff
from deeplrhe_utils.reporting.heatmaps.bands import Frame
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.slides.outlines.geojson import write_geojson
from deeplrhe_utils.slides.outlines.regions import Region
from deeplrhe_utils.synthetic.plan import ARTEFACTS
from deeplrhe_utils.synthetic.publish import CohortSpec, plan_cohort, write_tables

KINDS = tuple(ARTEFACTS)


def _tiles(slides):
    """Truth tiles of slides whose tumour is the slide without a rim, the left of it the region; one blur, one pen."""
    rows = []
    for s in slides.to_dict("records"):
        side, w, h = 256 / s["mpp"], s["width_l0_px"], s["height_l0_px"]
        shapes = {
            "tumour": shapely.box(0.05 * w, 0.05 * h, 0.95 * w, 0.95 * h),
            "subclone": shapely.box(0.05 * w, 0.05 * h, 0.6 * w, 0.95 * h),
            "blur": shapely.box(0.1 * w, 0.1 * h, 0.45 * w, 0.5 * h),
            "pen": shapely.box(0.5 * w, 0, 0.7 * w, h),
        }
        for row, column in np.ndindex(int(h / side), int(w / side)):
            x, y = column * side, row * side
            box = shapely.box(x, y, x + side, y + side)
            share = {name: shape.intersection(box).area / box.area for name, shape in shapes.items()}
            rows.append({"tile_id": f"{s['slide_id']}_{column}_{row}", "slide_id": s["slide_id"], "column": column,
                         "row": row, "x_l0_px": int(x), "y_l0_px": int(y), "size_l0_px": side, "tissue_fraction": 1.0,
                         "n_tumour_nuclei": 9, "n_lymphocytes": 3, "nuclear_area_um2": 60 + 30 * share["subclone"]}
                        | {f"{k}_fraction": share.get(k, 0.0) for k in ("tumour", "subclone", *KINDS)})  # fmt: skip
        yield s["slide_id"], shapes, rows
        rows = []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tables and masks of a planned cohort; four of five squamous patients have TP53, one of four others has."""
    folder = tmp_path_factory.mktemp("cohort")
    plan = plan_cohort(CohortSpec(n_slides=90, seed=5, normal_share=0.1))
    write_tables(plan, folder)
    truth, rng = folder / "truth", np.random.default_rng(0)
    patients = plan.truth.assign(site_id=plan.truth["patient_id"].str[5:7])
    write_table(patients[[c.name for c in TRUTH_PATIENTS.columns]], TRUTH_PATIENTS, truth / "truth_patients.parquet")
    write_table(plan.slides[[c.name for c in TRUTH_SLIDES.columns]], TRUTH_SLIDES, truth / "truth_slides.parquet")
    tiles = []
    for slide, shapes, rows in _tiles(plan.slides):
        names = {"tumour": "Tumor", "subclone": "Subclone"}
        write_geojson([Region(v, names.get(k, f"Artefact: {k}")) for k, v in shapes.items()],
                      truth / "slides" / f"{slide}.geojson")  # fmt: skip
        tiles += rows
    conform(pd.DataFrame(tiles), TRUTH_TILES).to_parquet(truth / "truth_tiles.parquet")
    mutated = patients[patients["gene"] == "TP53"].set_index("patient_id")["mutated"].astype(bool)
    clinical = pd.read_csv(folder / "clinical.csv", dtype={"site_id": str}).set_index("patient_id")
    squamous = rng.random(len(clinical)) < np.where(mutated[clinical.index], 0.8, 0.25)
    clinical.assign(histology=np.where(squamous, "squamous", "adenocarcinoma")).to_csv(folder / "clinical.csv")
    m = mutated[clinical.index].to_numpy()
    genes = plan.genes.assign(diagnosis_auc=0.5).set_index("gene")
    genes.loc["TP53", "diagnosis_auc"] = 0.5 + (squamous[m].mean() - squamous[~m].mean()) / 2
    write_table(genes.reset_index(), TRUTH_GENES, truth / "truth_genes.parquet")
    return folder


@pytest.fixture(scope="module")
def cohort(folder):
    return read_planted(folder)


@pytest.fixture(scope="module")
def truth(cohort):
    known = cohort.labels.dropna(subset=["status"])
    return cohort.patients.merge(known[["patient_id", "gene", "status"]], on=["patient_id", "gene"])


def judged(scores, folder, out, *more):
    path = out.with_suffix(".csv")
    scores.to_csv(path, index=False)
    code = main(["judge", str(path), "--truth", str(folder), "--out", str(out), *map(str, more)])
    return code, json.loads((out / "judged.json").read_text())


def of(found, gene, patients="all"):
    return next(r for r in found["genes"] if (r["gene"], r["patients"]) == (gene, patients))


def test_a_perfect_reader_has_the_oracle_and_a_constant_one_nothing(folder, truth, tmp_path, capsys):
    rng = np.random.default_rng(1)
    score = truth["latent"].astype(float).fillna(pd.Series(rng.normal(size=len(truth))))
    code, found = judged(truth.assign(score=score)[["patient_id", "gene", "score"]], folder, tmp_path / "perfect")
    assert code == 0 and found["synthetic"] is True
    for gene in ("TP53", "EGFR", "KRAS"):
        row = of(found, gene)
        assert row["verdict"] == "found" and row["auc"] == pytest.approx(row["oracle_auc"])
    page = (tmp_path / "perfect" / "index.html").read_text()
    assert "SYNTHETIC" in page and "Found. TP53" in page and "no map was judged" in page
    assert sum(row["rows"] for row in found["ledger"]) == len(truth)
    assert any("assume independent scores" in note for note in found["notes"])
    code, found = judged(truth.assign(score=0.5)[["patient_id", "gene", "score"]], folder, tmp_path / "constant")
    assert (
        code == 1 and "TP53 (nuclear area, in a part of the tumour): not estimable; every unit" in found["findings"][0]
    )
    assert {row["verdict"] for row in found["genes"]} == {"not estimable"}


def test_a_reader_of_the_diagnosis_is_seen_through_and_a_control_that_is_found_is_loud(folder, cohort, truth, tmp_path):
    rng = np.random.default_rng(2)
    squamous = truth["patient_id"].map(cohort.clinical["histology"]).eq("squamous").to_numpy()
    score = np.where(truth["gene"] == "POLE", truth["status"].astype(float), squamous) + 1e-3 * rng.random(len(truth))
    _, found = judged(truth.assign(score=score)[["patient_id", "gene", "score"]], folder, tmp_path / "fooled")
    whole, within = of(found, "TP53"), of(found, "TP53", "adenocarcinoma")
    assert whole["verdict"] == "the diagnosis" and whole["ci_low"] > 0.5 and abs(within["auc"] - 0.5) < 0.2
    assert whole["auc"] == pytest.approx(whole["diagnosis_auc"], abs=0.06)
    said = {text.split(".")[0] for text in found["findings"]}
    assert {"FOOLED BY THE DIAGNOSIS, or too few to tell", "FALSE ALARM"} <= said
    assert of(found, "POLE")["verdict"] == "false alarm" and of(found, "EGFR")["verdict"] == "missed"


@pytest.mark.parametrize(("d", "whole", "within", "more", "verdict"), [
    (2.0, (0.7, 0.8, 0.9), (0.6, 0.8, 0.9), {}, "found"), (2.0, (0.4, 0.5, 0.6), (0.4, 0.5, 0.6), {}, "missed"),
    (2.0, (0.1, 0.2, 0.3), (0.1, 0.2, 0.3), {}, "missed"), (2.0, (0.92, 0.95, 0.99), (0.6, 0.8, 0.9), {}, "too good"),
    (2.0, (0.92, 0.95, 0.99), (0.6, 0.8, 0.9), {"site_auc": 0.97}, "the site"),
    (2.0, (0.6, 0.7, 0.8), (0.4, 0.5, 0.6), {"diagnosis_auc": 0.7}, "the diagnosis"),
    (2.0, (0.6, 0.7, 0.8), (0.55, 0.6, 0.8), {"diagnosis_auc": 0.7}, "found"),
    (2.0, (0.8, 0.85, 0.9), (0.4, 0.7, 0.9), {"diagnosis_auc": 0.7}, "found"),
    (2.0, (0.6, 0.7, 0.8), None, {"diagnosis_auc": 0.7}, "the diagnosis"), (2.0, None, None, {}, "not estimable"),
    (0.0, (0.4, 0.5, 0.6), (0.3, 0.5, 0.7), {}, "silent"), (0.0, (0.6, 0.7, 0.8), (0.3, 0.5, 0.7), {}, "false alarm"),
    (0.0, (0.2, 0.3, 0.4), None, {}, "false alarm"), (0.0, (0.4, 0.5, 0.6), (0.6, 0.7, 0.8), {}, "false alarm"),
    (0.0, (0.6, 0.7, 0.8), (0.3, 0.5, 0.7), {"diagnosis_auc": 0.65}, "the diagnosis"),
    (0.0, (0.2, 0.3, 0.4), (0.3, 0.5, 0.7), {"diagnosis_auc": 0.65}, "the diagnosis"),
])  # fmt: skip
def test_every_verdict_follows_from_the_intervals(d, whole, within, more, verdict):
    rows = []
    for patients, ends in (("all", whole), ("adenocarcinoma", within)):
        low, auc, high = ends or [np.nan] * 3
        rows.append({"gene": "G", "role": "r", "d": d, "patients": patients, "ci_low": low, "auc": auc, "ci_high": high,
                     "status": "estimated" if ends else "not estimable", "reason": "few", "p_holm": 0.04,
                     "oracle_auc": 0.9, "bayes_auc": 0.9, "diagnosis_auc": 0.5, "clinical_auc": 0.5,
                     "site_auc": 0.5} | more)  # fmt: skip
    assert verdicts(pd.DataFrame(rows))["verdict"].tolist() == [verdict]


def tile_scores(cohort, side_um=256.0, slides=None, noise=0.3):
    """Scores that follow the region, on a grid of any side that begins elsewhere; the same field for every grid."""
    rows = []
    for name, s in cohort.slides[cohort.slides["subtype"] != "normal"].iloc[:slides].iterrows():
        side, w, h = side_um / s["mpp"], s["width_l0_px"], s["height_l0_px"]
        region = cohort.outlines[name]["subclone"]
        for row, column in np.ndindex(int(h / side), int(w / side)):
            x, y = column * side, row * side
            box = shapely.box(x, y, x + side, y + side)
            u, v = (x + side / 2) * s["mpp"], (y + side / 2) * s["mpp"]
            field = noise * (np.sin(u / 150) + np.cos(v / 190 + u / 300))
            rows.append({"slide_id": name, "gene": "TP53", "x": x, "y": y, "size": side,
                         "score": 0.5 + 0.2 * (region.intersection(box).area / box.area + field)})  # fmt: skip
    return pd.DataFrame(rows)


def map_mean(path, cohort, **options):
    rows = map_rows(read_answers(path, cohort, **options), cohort)
    return rows.set_index("slide_id")["auroc"]


def test_any_grid_gives_nearly_the_same_map_and_a_shifted_one_does_not(cohort, tmp_path):
    means = {}
    for side in (256.0, 192.0, 150.0):
        tile_scores(cohort, side).to_csv(tmp_path / "tiles.csv", index=False)
        rows = map_rows(read_answers(tmp_path / "tiles.csv", cohort), cohort)
        means[side] = rows["auroc"].mean()
        assert rows["drawn_auroc"].mean() > 0.95
    assert 0.75 < means[256.0] < 0.999
    assert max(means.values()) - min(means.values()) < 0.05
    moved = tile_scores(cohort)
    moved["score"] = moved.groupby("slide_id")["score"].transform(lambda s: s.to_numpy()[::-1])
    moved.to_csv(tmp_path / "moved.csv", index=False)
    assert map_mean(tmp_path / "moved.csv", cohort).mean() < 0.4


def as_geojson(table, folder, cohort):
    for slide, own in table.groupby("slide_id"):
        tiles = own.rename(columns={"x": "x_l0_px", "y": "y_l0_px", "size": "size_l0_px", "score": "TP53"})
        write_qupath(tiles.assign(tile_id="t").drop(columns=["slide_id", "gene"]), folder / f"{slide}.geojson")


def as_score_property(table, folder, cohort):
    for slide, own in table.groupby("slide_id"):
        features = [{"type": "Feature", "geometry": json.loads(shapely.to_geojson(shapely.box(r.x, r.y, r.x + r.size_,
                     r.y + r.size_))), "properties": {"score": r.score, "classification": {"name": "TP53"}}}
                    for r in own.rename(columns={"size": "size_"}).itertuples()]  # fmt: skip
        (folder / f"{slide}.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def grids(table):
    for slide, own in table.groupby("slide_id"):
        side = own["size"].iloc[0]
        row, column = (np.rint(own[name] / side).astype(int) for name in ("y", "x"))
        values = np.full((row.max() + 1, column.max() + 1), np.nan)
        values[row, column] = own["score"]
        yield slide, values, side


def as_tiff_with_a_scale(table, folder, cohort):
    for slide, values, side in grids(table):
        padded = np.pad(values, ((2, 0), (1, 0)), constant_values=np.nan)  # nothing is measured there
        tifffile.imwrite(folder / f"{slide}+TP53.tif", padded.astype(np.float32))
        (folder / f"{slide}+TP53.json").write_text(json.dumps({"step": side, "x": -side, "y": -2 * side}))


def as_fine_tiff_over_the_slide(table, folder, cohort):
    for slide, values, side in grids(table):
        step = side / 32
        w, h = (round(n / step) for n in cohort.slides.loc[slide, ["width_l0_px", "height_l0_px"]].astype(float))
        fine = np.full((h, w), np.nan, np.float32)
        own = np.kron(values, np.ones((32, 32)))
        fine[: own.shape[0], : own.shape[1]] = own[:h, :w]
        tifffile.imwrite(folder / f"{slide}+TP53.tif", fine)


def as_png_in_a_folder_of_the_gene(table, folder, cohort):
    (folder / "TP53").mkdir()
    for slide, values, side in grids(table):
        numbers = np.pad(np.nan_to_num(values * 60000 + 1), ((0, 3), (0, 3))).astype(np.uint16)  # 0: not measured
        Image.fromarray(numbers).save(folder / "TP53" / f"{slide}.png")
        (folder / "TP53" / f"{slide}.json").write_text(json.dumps({"step": side, "x": 0, "y": 0}))


def as_our_score8(table, folder, cohort):
    for slide, values, side in grids(table):
        s = cohort.slides.loc[slide]
        frame = Frame(s["width_l0_px"], s["height_l0_px"], s["mpp"], values.shape[1], values.shape[0], side, side)
        write_score_tiff(folder / f"{slide}+TP53.score8.ome.tiff", [values], frame, name=slide, kind="uint8")


@pytest.mark.parametrize(("write", "apart"), [
    (as_geojson, 1e-6), (as_score_property, 1e-6), (as_tiff_with_a_scale, 1e-6), (as_our_score8, 0.03),
    (as_png_in_a_folder_of_the_gene, 1e-3), (as_fine_tiff_over_the_slide, 0.1),
])  # fmt: skip
def test_geojson_and_pictures_say_what_the_csv_says(cohort, tmp_path, write, apart):
    table = tile_scores(cohort, slides=12).query("index % 5 > 0")
    table.to_csv(tmp_path / "tiles.csv", index=False)
    (tmp_path / "maps").mkdir()
    write(table, tmp_path / "maps", cohort)
    plain, other = (map_mean(tmp_path / name, cohort) for name in ("tiles.csv", "maps"))
    assert len(other) == len(plain) and (other - plain).abs().max() < apart


def test_names_of_tiles_tell_their_place_in_parquet_and_in_deeppaths_list(cohort, tmp_path):
    table = tile_scores(cohort, slides=10)
    table.to_csv(tmp_path / "tiles.csv", index=False)
    number = (table[["x", "y"]].div(table["size"], axis=0)).round().astype(int)
    table["tile_id"] = table["slide_id"] + "_" + number["x"].astype(str) + "_" + number["y"].astype(str)
    table["patient_id"] = table["slide_id"].str[:12]
    table.drop(columns=["x", "y", "size"]).to_parquet(tmp_path / "predictions.parquet")
    write_stats(table, cohort.labels, tmp_path / "out_filename_Stats.txt")
    plain = map_mean(tmp_path / "tiles.csv", cohort)
    pd.testing.assert_series_equal(map_mean(tmp_path / "predictions.parquet", cohort), plain)
    stats = map_mean(tmp_path / "out_filename_Stats.txt", cohort, classes=["TP53"])
    pd.testing.assert_series_equal(stats, plain[stats.index], atol=1e-6)
    assert len(stats) >= 8


def test_masks_that_are_the_truth_are_perfect_in_any_form_and_others_are_not(folder, cohort, tmp_path):
    forms = {name: tmp_path / name for name in ("outlines", "pictures", "kept", "nothing")}
    for path in forms.values():
        path.mkdir()
    for slide, shapes in cohort.outlines.items():
        write_geojson([Region(shapes[k], f"Artefact: {k}") for k in ("blur", "pen")],
                      forms["outlines"] / f"{slide}.geojson")  # fmt: skip
        w, h = cohort.slides.loc[slide, ["width_l0_px", "height_l0_px"]].astype(int)
        both = np.zeros((h // 8, w // 8), bool)
        for kind in ("blur", "pen"):
            x0, y0, x1, y1 = (round(b / 8) for b in shapes[kind].bounds)
            mask = np.zeros_like(both)
            mask[y0:y1, x0:x1] = True
            both |= mask
            Image.fromarray(mask).save(forms["pictures"] / f"{slide}+{kind}.png")
        Image.fromarray(~both).save(forms["kept"] / f"{slide}+tissue.png")
        (forms["nothing"] / f"{slide}.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    found = {name: judge_masks(path, cohort)[0].set_index("artefact") for name, path in forms.items()}
    for kind in ("blur", "pen", "any"):
        assert found["outlines"].loc[kind, ["precision", "recall"]].tolist() == [1, 1]
        assert found["pictures"].loc[kind, ["precision", "recall"]].min() > 0.95
    assert found["outlines"].loc["pen", "affected"] > 50 and not found["outlines"].loc["fold", "looked_for"]
    assert found["kept"].loc["any", "recall"] > 0.9 and "kept" not in found["kept"].index
    assert found["nothing"].loc["any", ["seen", "recall", "dropped"]].tolist() == [0, 0, 0]


def test_tiles_of_sites_that_differ_are_told_apart_and_equal_ones_not(cohort, tmp_path):
    rng = np.random.default_rng(3)
    for slide, site in cohort.slides["site_id"].items():
        for name, shift in (("raw", 5 * int(site)), ("even", 0)):
            folder = tmp_path / name / slide
            folder.mkdir(parents=True)
            tile = np.clip(rng.normal((150 - shift, 90, 140 + shift), 8, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(tile).save(folder / "0.png")
    raw, even = (judge_colours(tmp_path / name, cohort)[0] for name in ("raw", "even"))
    assert raw["between"] > 20 > 2 > even["between"] and raw["neighbour"] > 0.9


def test_means_over_boxes_are_exact():
    values = np.random.default_rng(4).random((5, 7))
    fine = np.kron(values, np.ones((10, 10)))
    low, high = np.array([[0.3, 0.1], [2.0, 1.5], [-1.0, 0.0]]), np.array([[1.2, 3.4], [7.0, 5.0], [1.0, 2.0]])
    expected = [fine[1:34, 3:12].mean(), fine[15:50, 20:70].mean(), fine[0:20, 0:10].mean() / 2]
    np.testing.assert_allclose(box_means(values, low, high), expected)


@pytest.mark.parametrize(("change", "message"), [
    (lambda t: t.assign(slide_id="S" + t["slide_id"]), "scores no slide of a tumour of this cohort"),
    (lambda t: t.assign(patient_id="SYNT-99-9999"), "is another patient's"),
    (lambda t: t.drop(columns="slide_id"), "names neither slides nor patients"),
    (lambda t: t.assign(slide_id=np.where(t.index == 2, "", t["slide_id"])), "1 of .* rows name no slide"),
    (lambda t: t.drop(columns="score"), "lacks the column score"),
    (lambda t: t.assign(gene="BRCA1"), "no row with a score and a label"),
    (lambda t: t.assign(score="high"), "the score is no number"),
    (lambda t: t.assign(score=np.inf), "infinite"),
    (lambda t: t.assign(x=np.where(t.index == 3, np.nan, t["x"])), "line 5: no place and size"),
    (lambda t: t.assign(size=0), "sizes above 0"),
    (lambda t: t.drop(columns="size"), "tells x and not width, height"),
    (lambda t: t.assign(x=t["x"] * 4, y=t["y"] * 4), "lie outside their slides"),
    (lambda t: t.assign(x=t["x"] / 4, y=t["y"] / 4, size=t["size"] / 4), "another frame"),
    (lambda t: pd.concat([t, t.iloc[:1].assign(score=0.9)]), "contradicts itself in rows of one tile"),
    (lambda t: t.assign(patient_id=t["slide_id"].str[:12], slide_id=""), "tells x and not slide_id"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_place(cohort, tmp_path, change, message):
    path = tmp_path / "tiles.csv"
    change(tile_scores(cohort, slides=4)).to_csv(path, index=False)
    with pytest.raises(CompendiumError, match=message):
        read_answers(path, cohort)


def test_rows_that_do_not_count_are_counted_and_named(folder, cohort, tmp_path):
    table = tile_scores(cohort, slides=30)
    normal = cohort.slides.index[cohort.slides["subtype"] == "normal"][0]
    n = len(table)
    strange, lung = table.iloc[:5].assign(slide_id="ELSEWHERE-1"), table.iloc[:3].assign(slide_id=f"{normal}.svs")
    table.loc[0, "score"] = np.nan
    table["slide_id"] += ".svs"
    both = pd.concat([table, table.iloc[1:3], strange, lung])
    _, found = judged(both, folder, tmp_path / "rows")
    rows = {row["outcome"]: row["rows"] for row in found["ledger"]}
    known = set(cohort.labels.dropna(subset=["status"]).query("gene == 'TP53'")["patient_id"])
    silent = int((~table["slide_id"].str[:12].isin(known)).sum())
    assert sum(rows.values()) == len(both) and rows["no slide of this cohort"] == 5 and rows["used"] == n - 1 - silent
    assert rows["a slide of normal lung"] == 3 and rows["repeats another row"] == 2 and rows["no score"] == 1
    assert any(re.search(r"slides of 90 without a score", note) for note in found["notes"])
    assert any("Labelled and without any score: EGFR" in note for note in found["notes"])
    assert any("TP53 map points at the region" in text for text in found["findings"])


def test_pictures_that_are_no_maps_and_folders_that_are_no_cohort_are_refused(folder, cohort, tmp_path, capsys):
    slide = cohort.slides.index[0]
    for name, picture, message in (("colour", np.zeros((40, 60, 3), np.uint8), "3 channels"),
                                   ("aspect", np.ones((9, 400), np.uint8), "does not fit its slide")):  # fmt: skip
        (tmp_path / name).mkdir()
        Image.fromarray(picture).save(tmp_path / name / f"{slide}+TP53.png")
        with pytest.raises(CompendiumError, match=message):
            read_answers(tmp_path / name, cohort)
    (tmp_path / "twice").mkdir()
    for name in (f"{slide}+TP53.png", f"{slide}+TP53.score.tif"):
        tifffile.imwrite(tmp_path / "twice" / name, np.ones((40, 60), np.float32))
    Image.fromarray(np.ones((40, 60), np.uint8)).save(tmp_path / "twice" / f"{slide}+TP53.png")
    for step, message in ((32, "scores a slide twice"), (0, "is no map.*step 0"), ("wide", "could not convert")):
        (tmp_path / "twice" / f"{slide}+TP53.score.json").write_text(json.dumps({"step": step}))
        (tmp_path / "twice" / f"{slide}+TP53.json").write_text(json.dumps({"step": 32}))
        with pytest.raises(CompendiumError, match=message):
            read_answers(tmp_path / "twice", cohort)
    (tmp_path / "broken").mkdir()
    for name in (f"{slide}+TP53.png", f"{slide}.geojson", f"{slide}.tif"):
        (tmp_path / "broken" / name).write_bytes(b"no picture")
        with pytest.raises(CompendiumError, match=re.escape(slide)):
            read_answers(tmp_path / "broken" / name, cohort)
    scores = tmp_path / "scores.csv"
    tile_scores(cohort, slides=2).to_csv(scores, index=False)
    assert main(["judge", str(scores), "--truth", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "`deeplrhe synth demo --out DIR`" in capsys.readouterr().err
    for option in ("--masks", "--tiles"):
        given = ["judge", str(scores), "--truth", str(folder), option, str(tmp_path / "colour")]
        (tmp_path / "colour" / f"{slide}+TP53.png").unlink(missing_ok=True)
        assert main([*given, "--out", str(tmp_path / "out")]) == 1
        assert "of a slide of this cohort" in capsys.readouterr().err
    assert not (tmp_path / "out" / "index.html").exists()
