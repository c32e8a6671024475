"""Features in place of slides, through every notebook: planted vectors of invented TCGA patients, stand-in calls."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.running.commands.cli import main
from tests.stand_ins.cbioportal import CBioPortalStandIn, study_from_labels

CODES = {"luad": ("05", "44", "55"), "lusc": ("21", "22", "33")}
BRIEF = {"05.mil_epochs": 80, "06.resamples": 200, "09.search_divisions": 2, "09.tuning_positives": 5,
         "10.leak_draws": 19,
         "10.resamples": 200, "11.probe_draws": 99, "11.probe_repeats": 2, "11.resamples": 200, "12.coverage_draws": 50,
         "12.coverage_boots": 10, "12.crossfit_draws": 50, "12.resamples": 200, "13.probe_draws": 99,
         "13.probe_repeats": 2, "n_folds": 2, "min_positives": 3}  # fmt: skip


def cohort(seed, n=96):
    """Patients, their labels and vectors: TP53 shows in the vectors, KRAS goes with the diagnosis alone."""
    random = np.random.default_rng(seed)
    rows, vectors, names = [], [], []
    for i in range(n):
        kind = "luad" if i % 2 else "lusc"
        patient = f"TCGA-{CODES[kind][i % 3]}-{seed}{i:03d}"
        shows = int(random.random() < 0.5)
        rows += [(patient, "TP53", shows), (patient, "KRAS", int(random.random() < (0.6 if kind == "luad" else 0.05)))]
        mean = np.r_[3.0 * shows, 3.0 * (kind == "luad"), np.zeros(6)]
        vectors.append(random.normal(size=(4, 8)) + mean)
        names.append(f"{patient}-01Z-00-DX1")
    labels = pd.DataFrame(rows, columns=["patient_id", "gene", "status"]).astype({"status": "Int64"})
    return labels, names, np.concatenate(vectors).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    here = tmp_path_factory.mktemp("features")
    labels, names, vectors = cohort(1)
    np.savez(here / "here.npz", slide=names, features=vectors, n_regions=np.full(len(names), 4))
    other, there, more = cohort(2, 60)
    np.savez(here / "there.npz", slide=there, features=more, n_regions=np.full(len(there), 4))
    other.pivot(index="patient_id", columns="gene", values="status").to_csv(here / "there.csv")
    clinical = labels[["patient_id"]].drop_duplicates().assign(age=60, smoking="never")
    clinical.to_csv(here / "clinical.csv", index=False)
    of = labels["patient_id"].str[5:7].isin(CODES["luad"])
    studies = [study_from_labels(part.assign(source="t"), f"{kind}_tcga_pan_can_atlas_2018", cancer_type=kind)
               for kind, part in (("luad", labels[of]), ("lusc", labels[~of]))]  # fmt: skip
    with CBioPortalStandIn(studies) as portal:
        asked = {**BRIEF, "features_path": here / "here.npz", "cbioportal_endpoint": portal.url, "genes": "TP53,KRAS",
                 "clinical_csv": here / "clinical.csv"}  # fmt: skip
        words = [text for name, value in asked.items() for text in ("-p", f"{name}={value}")]
        assert main(["run", "tcga-features", "--out", str(here / "run"), *words]) == 0
    return here / "run"


def test_notebooks_that_need_pixels_say_so_and_the_others_finish(run):
    stages = json.loads((run / "run.json").read_text())["stages"]
    skipped = [name[:2] for name, stage in stages.items() if stage["status"] == "skipped" and stage["reason"]]
    assert skipped == ["02", "03", "04", "07", "08", "15"]
    assert {stage["status"] for stage in stages.values()} == {"finished", "skipped"}
    assert json.loads((run / "numbers" / "05-gpu-training.json").read_text())["device"] in ("cpu", "cuda")
    page = (run / "index.html").read_text()
    # two captions, of notebooks 12 and 14, say that what they show is planted
    assert "Traceback" not in page and "Synthetic data:" not in page and page.count("SYNTHETIC") <= 2


def test_what_shows_is_found_and_what_goes_with_the_diagnosis_is_told(run):
    table = pd.read_csv(run / "tables" / "auc_table.csv").set_index("gene")
    assert table.loc["TP53", "ci_low"] > 0.6 and table.loc["KRAS", "auc"] > 0.6
    within = pd.read_csv(run / "tables" / "auc_within.csv").set_index(["within", "gene"])["auc"]
    assert within["diagnosis", "TP53"] > 0.7 and within["diagnosis", "KRAS"] < table.loc["KRAS", "auc"] - 0.1
    arms = pd.read_csv(run / "tables" / "real_arms.csv").set_index(["patients", "arm", "gene"])
    assert arms.loc[("both diagnoses", "diagnosis alone", "KRAS"), "p"] == 0.01
    assert (
        arms.loc[("adenocarcinoma", "image", "KRAS"), "p"] > 0.05 > arms.loc[("adenocarcinoma", "image", "TP53"), "p"]
    )
    assert arms.loc[("both diagnoses", "image", "adenocarcinoma"), "auc"] > 0.9
    gain = pd.read_csv(run / "tables" / "image_beyond_clinical.csv").set_index(["patients", "gene"])
    assert gain.loc[("both diagnoses", "TP53"), "ci_low"] > 0 > gain.loc[("both diagnoses", "KRAS"), "ci_low"]


def test_readers_go_to_whole_other_hospitals_and_to_another_cohort(run):
    rivals = set(pd.read_csv(run / "tables" / "rivals.csv")["arm"])
    assert {
        "attention, sites held out",
        "mean, sites held out",
        "ridge, sites held out",
        "ridge on given features",
    } <= rivals
    other, out = run.parent / "other", run.parent / "external"
    asked = [f"features_path={run.parent / 'there.npz'}", f"labels_csv={run.parent / 'there.csv'}", "genes=TP53,KRAS"]
    words = [text for word in asked for text in ("-p", word)]
    assert main(["run", "features", "--out", str(other), "--to", "04", *words]) == 0
    assert main(["external", "--model", str(run), "--on", str(other), "--out", str(out)]) == 0
    external = pd.read_csv(out / "external.csv").set_index(["where", "patients", "gene"])
    row = external.loc[("other", "all patients", "TP53")]
    assert row["ci_low"] > 0.6 and row[["n_pos", "n_neg"]].sum() == 60


@pytest.mark.parametrize("code", ["05", None], ids=["one diagnosis", "no barcodes"])
def test_one_diagnosis_and_slides_of_strangers_are_not_called_both_diagnoses(tmp_path, code):
    names = [f"TCGA-{code}-{i:04d}-01Z-00-DX1" if code else f"slide {i}" for i in range(40)]
    people = [name[:12] if code else f"case {i // 2}" for i, name in enumerate(names)]
    np.savez(tmp_path / "x.npz", slide=names, features=np.random.default_rng(3).normal(size=(40, 8)))
    labels = {"slide_id": names, "patient_id": people, "TP53": np.arange(40) // 2 % 2, "KRAS": np.arange(40) // 4 % 2}
    pd.DataFrame(labels).to_csv(tmp_path / "labels.csv", index=False)
    words = [f"features_path={tmp_path / 'x.npz'}", f"labels_csv={tmp_path / 'labels.csv'}",
             *(f"{name}={value}" for name, value in BRIEF.items() if name[:2] in ("05", "13", "n_", "mi"))]  # fmt: skip
    asked = [text for word in words for text in ("-p", word)]
    assert main(["run", "features", "--out", str(tmp_path / "run"), "--only", "01,05,13", *asked]) == 0
    arms = pd.read_csv(tmp_path / "run" / "tables" / "real_arms.csv")
    assert set(zip(arms["patients"], arms["arm"], strict=True)) == {
        ("adenocarcinoma" if code else "all patients", "image")}  # fmt: skip
    assert arms["auc"].notna().all() and arms[["n_pos", "n_neg"]].sum(axis=1).eq(40 if code else 20).all()
    assert pd.read_csv(tmp_path / "run" / "tables" / "image_beyond_clinical.csv").empty


def test_a_licence_is_asked_for_before_anything_is_fetched(tmp_path, capfd):
    assert main(["run", "tcga-features", "--out", str(tmp_path / "run"), "--only", "01"]) == 1
    said = capfd.readouterr()
    assert "Commons Clause" in said.err + said.out and "-p accept_licence=true" in said.err + said.out
