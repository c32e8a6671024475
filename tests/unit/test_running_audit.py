"""The referee for vectors: what is planted in them is found, what is wrong with them is named, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.acquisition.features.layouts import TRIDENT, write_h5
from deeplrhe_utils.acquisition.features.neutral import L0_PX, SlideVectors, whole_array
from deeplrhe_utils.acquisition.features.tables import find_vectors
from deeplrhe_utils.core.text import escaped
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs.audit import FILES, AuditOptions, audit_features
from deeplrhe_utils.synthetic.plan import CohortSpec, plan_cohort
from deeplrhe_utils.synthetic.slide import write_slide

SITES, PATIENTS, TILES, WIDTH = ("05", "18", "22", "34"), 80, 16, 12
QUICK = {"repeats": 2, "draws": 60, "attention_draws": 3, "folds": 4, "tiles": 8, "variables": ("age_years", "sex")}


def planted(folder, *, gene=2.0, site=0.0, seed=1, spoil=None):
    """TRIDENT files of a cohort in which TP53 shows in a quarter of the tiles, and every site in all; labels beside."""
    random = np.random.default_rng(seed)
    axes = random.normal(size=(2 + len(SITES), WIDTH))
    names = [f"TCGA-{SITES[i % 4]}-{1000 + i}-01Z-00-DX1" for i in range(PATIENTS)]
    tp53, sex = random.integers(0, 2, PATIENTS), random.integers(0, 2, PATIENTS)
    for i, name in enumerate(names):
        x = 3 * axes[1] + random.normal(size=(TILES, WIDTH)) + 0.5 * random.normal(size=WIDTH) + site * axes[2 + i % 4]
        x[: TILES // 4] += gene * tp53[i] * axes[0]
        places = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) * 512
        x = x.astype(np.float32) if spoil is None else spoil(i, x.astype(np.float32))
        one = SlideVectors(name, Path(name), "ours", len(x), WIDTH, x.dtype, whole_array(x), encoder="uni_v2",
                           places=places, unit=L0_PX, size=512.0, power=40.0)  # fmt: skip
        write_h5(one, folder / "vectors", TRIDENT)
    people = [name[:12] for name in names]
    table = pd.DataFrame({"patient_id": people, "TP53": tp53, "KRAS": random.integers(0, 2, PATIENTS)})
    table.to_csv(folder / "labels.csv", index=False)
    rows = pd.DataFrame(
        {"patient_id": people, "age": random.integers(40, 80, PATIENTS), "sex": np.array(["male", "female"])[sex]}
    )
    rows.assign(site_id=[n[5:7] for n in names], histology="adenocarcinoma").to_csv(
        folder / "clinical.csv", index=False
    )
    return folder / "vectors"


def audit(folder, out="out", lines=None, **options):
    return audit_features(folder / "vectors", folder / out, AuditOptions(
        labels=folder / "labels.csv", clinical=folder / "clinical.csv", **(QUICK | options)),
        (lines if lines is not None else []).append)  # fmt: skip


def auc(result, arm, gene):
    return next(r for r in result["arms"] if (r["arm"], r["gene"]) == (arm, gene))


def test_a_planted_gene_is_found_and_another_is_not(tmp_path):
    planted(tmp_path)
    lines: list[str] = []
    result = audit(tmp_path, lines=lines)
    for arm, least in {
        "image": 0.8,
        "image, hospitals held out": 0.8,
        "image + clinical": 0.8,
        "attention MIL": 0.6,
    }.items():
        seen, silent = auc(result, arm, "TP53"), auc(result, arm, "KRAS")
        assert seen["auc"] > least and seen["auc"] > seen["null_high"] and seen["ci_low"] > least - 0.2
        assert silent["auc"] < 0.7 and silent["ci_low"] < 0.5
    assert auc(result, "clinical", "TP53")["auc"] < 0.7
    assert result["control_passed"] and any("add to TP53" in line for line in lines)
    assert result["facts"]["encoder"] == "uni_v2" and result["facts"]["licence"] == "CC-BY-NC-ND-4.0"
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_file() and p.name[0] != ".") == sorted(FILES)
    page = (tmp_path / "out" / "index.html").read_text()
    assert all(escaped(line) in page for line in result["findings"])
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["findings"] == result["findings"]


def test_nothing_planted_is_not_informative_and_the_page_says_so(tmp_path):
    planted(tmp_path, gene=0)
    result = audit(tmp_path, attention_draws=0)
    assert not result["control_passed"] and "no AUC of these vectors may be interpreted" in result["findings"][0]
    assert all(r["arm"] != "attention MIL" for r in result["arms"])


@pytest.mark.parametrize(("site", "named"), [(0.0, (0, 0.45)), (2.0, (0.8, 1))])
def test_a_planted_site_is_read_and_lowers_the_index(tmp_path, site, named):
    planted(tmp_path, site=site, gene=1.0)
    found = audit(tmp_path, attention_draws=0)["site"]
    index = next(r for r in found["robustness"] if r["classes_of"] == "TP53")
    assert named[0] <= found["told"]["named"] <= named[1]
    assert (found["told"]["p"] < 0.05) == (index["p"] < 0.05) == (site > 0)


def test_the_same_call_gives_the_same_answer(tmp_path):
    planted(tmp_path)
    first, again = (audit(tmp_path, out, draws=19, repeats=1, attention_draws=1, folds=2) for out in "ab")
    assert first["arms"] == again["arms"] and first["site"] == again["site"]


def test_everything_that_is_wrong_is_named(tmp_path):
    def spoil(i, x):
        if i == 1:
            x[3, 2] = np.nan
        if i == 2:
            x[:] = 7
        if i == 3:
            x[:] = 7
        return x

    folder = planted(tmp_path, spoil=spoil)
    gone = sorted(folder.rglob("*.h5"))[-1]
    gone.unlink()
    with h5py.File(sorted(folder.rglob("*.h5"))[5], "a") as f:
        f["coords"].attrs["patch_size_level0"] = 2048
    doubts = " ".join(audit(tmp_path, attention_draws=0)["doubts"])
    for says in (
        "1 vectors hold what is no finite number", "has the same vectors as", "1 labelled patient without vectors",
        gone.stem[:12], "uni_v2 gives 1536 numbers, these vectors have 12", "512 µm wide",
        "said to be 2048 wide and lie 512 apart", "licensed CC-BY-NC-ND-4.0",
    ):  # fmt: skip
        assert says in doubts, says


def test_slides_that_are_there_but_have_no_vectors_are_counted(tmp_path):
    planted(tmp_path)
    plan = plan_cohort(CohortSpec(n_slides=1, seed=3, grid_columns=1, grid_rows=1, tile_px=64))
    write_slide(plan, plan.slides["slide_id"].iloc[0], tmp_path / "slides")
    doubts = audit(tmp_path, attention_draws=0, slides=tmp_path / "slides")["doubts"]
    assert f"1 of 1 slides have no vectors: {plan.slides['slide_id'].iloc[0]}." in doubts


def test_a_leaky_split_is_named_beside(tmp_path):
    folder = planted(tmp_path)
    names = sorted(path.stem for path in folder.rglob("*.h5"))
    rows = [*names[:40], names[50]], [*names[40:], names[0][:12] + "-01Z-00-DX2"]
    pd.DataFrame({"train": pd.Series(rows[0]), "test": pd.Series(rows[1])}).to_csv(tmp_path / "splits_0.csv")
    findings = audit(tmp_path, attention_draws=0, splits=tmp_path / "splits_0.csv")["findings"]
    told = " ".join(line for line in findings if line.startswith("Split splits_0.csv, clam: "))
    assert "4.9 % of the test slides are of a patient that is also in training (2 of 41" in told
    assert "of a site that is also in training" in told and "Units with two roles: 1 in fold 0" in told


def test_attention_is_drawn_where_places_are_known(tmp_path):
    planted(tmp_path)
    maps = audit(tmp_path, maps=2)["maps"]
    assert len(maps) == 2 * 2 * 3 and all((tmp_path / "out" / m).is_file() for m in maps)
    tiles = json.loads((tmp_path / "out" / next(m for m in maps if m.endswith("+TP53.tiles.geojson"))).read_text())
    ranks = [f["properties"]["measurements"]["TP53 rank of attention"] for f in tiles["features"]]
    assert len(ranks) == TILES and min(ranks) > 0 and max(ranks) == 1


def test_names_of_others_are_escaped_and_strangers_are_refused(tmp_path, capsys):
    folder = planted(tmp_path)
    first = sorted(folder.rglob("*.h5"))[0]
    first.rename(first.with_name("<script>alert(1)<_script>.h5"))
    call = ["audit", "features", str(folder), "--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "o")]
    few = ["--draws", "19", "--repeats", "1", "--attention-draws", "0"]
    assert main([*call, *few]) == 0
    assert "<script>" not in (tmp_path / "o" / "index.html").read_text()
    (tmp_path / "other.csv").write_text("patient_id,TP53\nX-1,1\nX-2,0\n")
    call[call.index("--labels") + 1] = str(tmp_path / "other.csv")
    assert main([*call, *few]) == 1 and "Nobody has both vectors and a label" in capsys.readouterr().err
    assert main([*call, "--folds", "1"]) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "arms.csv").write_text("precious")
    call[-1] = str(tmp_path / "mine")
    assert main([*call, *few]) == 2 and (tmp_path / "mine" / "arms.csv").read_text() == "precious"


def strangers(folder, count=60, sites=(), name="X"):
    """Vectors without a TCGA name, in one table; the label shows in them."""
    random = np.random.default_rng(4)
    label = random.integers(0, 2, count)
    x = random.normal(size=(count, WIDTH)) + 2 * label[:, None] * random.normal(size=WIDTH)
    table = pd.DataFrame(x).add_prefix("f")
    table.insert(0, "slide_id", [f"{name}{i:02d}" for i in range(count)])
    table.to_csv(folder / "vectors", index=False)
    (folder / "vectors").rename(folder / "vectors.csv")
    return pd.DataFrame({"slide_id": table["slide_id"], "label": label})


def audited(folder, labels, **more):
    labels.to_csv(folder / "l.csv", index=False)
    lines = []
    asked = QUICK | {"attention_draws": 0, "genes": ("label",)} | more
    options = AuditOptions(labels=folder / "l.csv", **asked)
    return audit_features(folder / "vectors.csv", folder / "out", options, lines.append), " ".join(lines)


def test_a_cohort_without_hospitals_is_audited_and_the_page_says_what_is_missing(tmp_path):
    result, told = audited(tmp_path, strangers(tmp_path))
    assert auc(result, "image", "label")["auc"] > 0.9 and result["site"]["told"]["named"] is None
    assert "No hospitals could be held out" in told and "Whether the site can be read is not known" in told
    assert "NaN" not in (tmp_path / "out" / "audit.json").read_text()


def test_sites_of_the_labels_and_of_the_clinical_table_count(tmp_path):
    labels = strangers(tmp_path).assign(site_id=lambda t: np.arange(len(t)) % 5)
    assert audited(tmp_path, labels)[0]["site"]["told"]["sites"] == 5
    rows = labels.rename(columns={"slide_id": "patient_id"}).assign(hospital=lambda t: np.arange(len(t)) % 3)
    rows.drop(columns=["label", "site_id"]).to_csv(tmp_path / "c.csv", index=False)
    result, _ = audited(tmp_path, labels, clinical=tmp_path / "c.csv")
    assert result["site"]["told"]["sites"] == 3 and any("held out" in r["arm"] for r in result["arms"]) is False


@pytest.mark.parametrize("column", ["case_id", "PATIENT", "patient", "submitter_id"])
def test_two_slides_of_a_patient_are_one_whatever_the_column_is_called(tmp_path, column):
    labels = strangers(tmp_path)
    labels[column] = [f"C{i // 2:02d}" for i in range(60)]
    labels["label"] = labels.groupby(column)["label"].transform("first")
    result, told = audited(tmp_path, labels.assign(slide_id=labels["slide_id"] + ".svs"))
    assert "60 slides, 30 patients with vectors and a label" in told and result["facts"]["patients"] == 30


def test_many_targets_can_pass_holm_and_a_perfect_reader_has_an_interval(tmp_path):
    labels = strangers(tmp_path)
    for i in range(14):
        labels[f"T{i}"] = labels["label"]
    result, told = audited(tmp_path, labels, genes=tuple(f"T{i}" for i in range(14)), draws=19, repeats=1)
    assert "Positive control passed" in told and "not shown to be: none" in told
    row = auc(result, "image", "T0")
    assert row["auc"] > 0.97 and 0.75 < row["ci_low"] < row["auc"] <= row["ci_high"]


def test_a_file_without_a_vector_is_left_out_and_counted(tmp_path):
    folder = planted(tmp_path)
    first = sorted(folder.rglob("*.h5"))[0]
    with h5py.File(first, "w") as f:
        f["features"], f["coords"] = np.zeros((0,), np.float32), np.zeros((0, 2), np.int64)
    result = audit(tmp_path, attention_draws=0)
    assert f"1 files hold no vector and were left out: {first.stem}." in result["doubts"]
    assert result["facts"]["slides"] == PATIENTS - 1


def test_a_gene_that_a_fold_cannot_learn_has_no_attention_auc(tmp_path):
    planted(tmp_path)
    table = pd.read_csv(tmp_path / "labels.csv")
    table["RARE"] = 0
    table.loc[:1, "RARE"] = 1
    table.to_csv(tmp_path / "labels.csv", index=False)
    result = audit(tmp_path, min_positives=2)
    rare = [r for r in result["arms"] if (r["arm"], r["gene"]) == ("attention MIL", "RARE")]
    assert all(r["auc"] is None and "not estimable" in r["status"] for r in rare)
    assert auc(result, "attention MIL", "TP53")["auc"] > 0.6


def test_convert_turns_layouts_into_one_another_and_keeps_what_stands(tmp_path, capsys):
    source = planted(tmp_path)
    for to, home in (("clam", "a"), ("atlaspatch", "b"), ("parquet", "c")):
        assert main(["convert", str(source), "--to", to, "--out", str(tmp_path / home)]) == 0
        got = {
            one.slide_id: one
            for one in find_vectors(tmp_path / home if to != "parquet" else tmp_path / home / "features.parquet")
        }
        for one in find_vectors(source):
            np.testing.assert_array_equal(got[one.slide_id].read(), one.read())
            np.testing.assert_allclose(got[one.slide_id].windows(), one.windows())
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*.h5")}
    assert main(["convert", str(source), "--to", "clam", "--out", str(tmp_path / "a")]) == 0
    assert "80 of them kept" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*.h5")}
    assert main(["convert", str(source), "--to", "atlaspatch", "--out", str(tmp_path / "a")]) == 0
    assert "0 of them kept" in capsys.readouterr().out, "another layout is another file"
    assert main(["convert", str(source), "--to", "stamp", "--out", str(tmp_path / "d")]) == 1
    assert "resolution of slide" in capsys.readouterr().err
    assert main(["convert", str(source), "--to", "tridant", "--out", str(tmp_path / "e")]) == 2


@pytest.mark.parametrize("network", ["bank", "resnet18"])
def test_slides_are_described_in_tridents_layout(tmp_path, network):
    plan = plan_cohort(CohortSpec(n_slides=1, seed=3, grid_columns=5, grid_rows=4, tile_px=128, artefact_rate=0))
    name = plan.slides["slide_id"].iloc[0]
    write_slide(plan, name, tmp_path / "slides")
    (tmp_path / "slides" / "broken.svs").write_bytes(b"II*\0")
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "slides"), "--network", network, "--weights", "none", "--tile-px", "128",
                 "--out", str(out)]) == 0  # fmt: skip
    (one,) = find_vectors(out)
    assert one.path == out / "20x_128px_0px_overlap" / f"features_{network}" / f"{name}.h5"
    assert one.count > 3 and one.width == {"bank": 45, "resnet18": 512}[network] and np.isfinite(one.read()).all()
    assert one.size_um() == pytest.approx(64, rel=0.02) and one.about["target_magnification"] == 20
