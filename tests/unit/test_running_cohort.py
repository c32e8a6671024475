"""``deeplrhe cohort`` against stand-ins of the services."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from deeplrhe_utils.acquisition.cohort.files import read_cohort, read_cohort_files
from deeplrhe_utils.acquisition.cohort.rules import CohortRule
from deeplrhe_utils.acquisition.labels.labels import attach_labels, read_labels
from deeplrhe_utils.acquisition.services.manifest import read_manifest
from deeplrhe_utils.core.files import MARKER
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs import cohort as command
from deeplrhe_utils.running.jobs.cohort import CHOSEN, EVERYBODY, WHOLE, Gathered, Services
from tests.stand_ins.cbioportal import CBioPortalStandIn, study_from_labels
from tests.stand_ins.gdc import GdcStandIn
from tests.stand_ins.gdc import offered as on_offer

GENES = ("TP53", "EGFR")
WRITTEN = {"cohort.json", "cohort-labels.csv", "cohort-clinical.csv", "manifest.txt", "flow.csv", "excluded.csv",
           "prevalence.csv", "sites.csv", "flow.png", "prevalence.png", "sites.png"}  # fmt: skip


def patients(n):
    """(barcode, project): sites and projects in turn."""
    return [(f"TCGA-{('05', '44', '21')[i % 3]}-{i:04d}", ("TCGA-LUAD", "TCGA-LUSC")[i % 2]) for i in range(n)]


def names(patient):
    places = ("01Z-00-DX1", "01A-01-TS1", "11A-01-TS1")
    return [f"{patient}-{place}.{hashlib.md5((patient + place).encode()).hexdigest()}.svs" for place in places]


@pytest.fixture
def services():
    """24 patients of whom one is not profiled and one is in no study, as the GDC and cBioPortal would offer them."""
    random = np.random.default_rng(0)
    slides = [(name, project) for patient, project in patients(24) for name in names(patient)]
    files = [on_offer(n, n.encode(), project=p, strategy="Diagnostic Slide" if "-DX" in n else "Tissue Slide")
             for n, p in slides]  # fmt: skip
    cases = [{"id": p, "case_id": p, "submitter_id": p, "project": {"project_id": project},
              "demographic": {"gender": "female", "vital_status": "Dead"},
              "diagnoses": [{"ajcc_pathologic_stage": "Stage IIB", "age_at_diagnosis": 24000}]}
             for p, project in patients(24)]  # fmt: skip
    rows = [(p, g, None if i == 22 else int(random.random() < 0.5), project)
            for i, (p, project) in enumerate(patients(23)) for g in GENES]  # fmt: skip
    labels = pd.DataFrame(rows, columns=["patient_id", "gene", "status", "project"]).astype({"status": "Int64"})
    labels["variant_class"] = labels["status"].map({1: "Missense_Mutation; R158L"})
    parts = [own.drop(columns="project") for _, own in labels.groupby("project")]
    studies = [study_from_labels(part, study) for part, study in zip(parts, command.STUDIES, strict=True)]
    with GdcStandIn(files, cases=cases) as gdc, CBioPortalStandIn(studies) as portal:
        gdc.labels = labels
        yield gdc, portal


@pytest.fixture
def run(services, capsys):
    """Calls the command with the stand-ins' addresses; what it said."""
    gdc, portal = services

    def call(*arguments, code=0):
        where = {"--gdc": gdc.url, "--cbioportal": portal.url}
        added = [text for name, url in where.items() if name not in arguments for text in (name, url)]
        assert main(["cohort", *map(str, arguments), *added]) == code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return said.out + said.err

    return call


def test_the_command_writes_a_cohort_that_other_steps_read(tmp_path, services, run):
    gdc, _ = services
    out = tmp_path / "out"
    said = run("paper", "--n", 12, "--out", out, "--genes", "TP53,EGFR", "--seed", 3)
    assert {p.name for p in out.iterdir()} == WRITTEN | {MARKER}
    assert "12 slides of 12 patients" in said and "patient not profiled for every gene: 2" in said
    cohort = read_cohort(out / "cohort.json")
    assert cohort.rule.seed == 3 and cohort.strata["drawn"].tolist() == [3, 3, 3, 3]
    assert read_manifest(out / "manifest.txt")["filename"].tolist() == cohort.chosen["file_name"].tolist()
    labels = read_labels(out / "cohort-labels.csv", GENES)
    planted = gdc.labels.set_index(["patient_id", "gene"])["status"]
    own = labels.set_index(["patient_id", "gene"])["status"]
    assert own.tolist() == planted.loc[own.index].tolist()
    slides = cohort.chosen.assign(status="ok", slide_id=cohort.chosen["file_name"])
    assert attach_labels(slides, labels).sentence.startswith("12 of 12 labelled patients have a usable slide")
    assert cohort.clinical["sex"].eq("female").all() and cohort.clinical["stage"].eq("II").all()
    assert cohort.chosen["access"].eq("open").all()
    _, facts = read_cohort_files(out / "cohort.json")
    assert facts["release"] == gdc.release and facts["source"]["query"]["filters"]
    assert facts["source"]["gdc"] == gdc.url
    assert not gdc.log  # nothing was fetched


def test_the_same_command_gives_the_same_files_and_another_does_not_replace_them(tmp_path, run):
    out = tmp_path / "out"
    run("smallest", "--out", out, "--genes", "TP53")
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.suffix != ".png"}
    run("smallest", "--out", out, "--genes", "TP53")
    said = run("smallest", "--n", 5, "--out", out, "--genes", "TP53", code=2)
    assert "Another cohort stands in" in said
    assert before == {p.name: p.read_bytes() for p in out.iterdir() if p.suffix != ".png"}


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["paprr"], 2, "no such cohort rule"), (["all", "--n", "3"], 2, "takes every slide"),
    (["paper", "--seed", "-1"], 2, "seed"), (["paper", "--n", "0"], 2, "at least 1"),
    (["paper", "--genes", "TP53,TP53"], 2, "named twice"), (["paper", "--genes", "XYZ"], 1, "XYZ"),
    (["paper", "--genes", "TP53"], 1, "wants 180 slides"),
])  # fmt: skip
def test_what_cannot_be_is_said_and_nothing_is_written(tmp_path, run, arguments, code, says):
    said = run(*arguments, "--out", tmp_path / "out", code=code)
    assert says in said
    assert not (tmp_path / "out" / "cohort.json").exists() and not (tmp_path / "out" / "manifest.txt").exists()


def gathered_of(statuses):
    """LUAD patients p0… with a slide each; the last one has none. `statuses` of one gene."""
    frame = pd.DataFrame({"patient_id": [f"p{i}" for i in range(len(statuses))], "gene": "G", "status": statuses})
    files = pd.DataFrame({"patient_id": frame["patient_id"][:-1], "project_id": "TCGA-LUAD"})
    return Gathered(files, frame.astype({"status": "Int64"}).assign(source="t"), pd.DataFrame(), "R")


def test_prevalences_are_wilsons_and_leave_the_unprofiled_out():
    gathered = gathered_of([1, 0, 0, None, 1])
    made = type("Made", (), {"rule": CohortRule("r", genes=("G",)), "labels": gathered.labels.iloc[:4]})
    table = command.prevalences(gathered, made).set_index(["project", "group"])
    assert table.loc[(WHOLE, EVERYBODY), ["mutated", "profiled", "percent"]].tolist() == [2, 4, 50.0]
    assert table.loc[("TCGA-LUAD", EVERYBODY), ["mutated", "profiled"]].tolist() == [1, 3]
    own = table.loc[(WHOLE, CHOSEN)]
    ends = stats.binomtest(1, 3).proportion_ci(0.95, "wilson")
    assert own[["ci_low", "ci_high"]].tolist() == pytest.approx([100 * ends.low, 100 * ends.high])


def test_the_default_services_are_public_and_one_that_is_none_is_a_failure(tmp_path, services, run):
    gdc, portal = services
    for wrong in (("--gdc", portal.url), ("--cbioportal", gdc.url)):
        said = run("paper", "--out", tmp_path / "o", "--genes", "TP53", *wrong, code=1)
        assert "ServiceError" in said and [p.name for p in (tmp_path / "o").iterdir()] == [MARKER]
    assert Services().gdc.startswith("https://") and Services().query.is_file()
    assert json.loads(Services().query.read_text())["filters"]


def test_drivers_alone_can_count(tmp_path, run):
    """R158L is the only change: as a driver of one gene it counts there and nowhere else."""
    drivers = tmp_path / "drivers.csv"
    drivers.write_text(f"gene,protein_change\n{GENES[0]},R158L\n")
    run("all", "--genes", ",".join(GENES), "--out", tmp_path / "all", "--drivers", drivers)
    run("all", "--genes", ",".join(GENES), "--out", tmp_path / "plain")
    some, every = (pd.read_csv(tmp_path / name / "cohort-labels.csv") for name in ("all", "plain"))
    assert some[GENES[0]].equals(every[GENES[0]]) and every[GENES[1]].sum() > 0 == some[GENES[1]].sum()
