"""``deeplrhe cohort``: from tables written here, from stand-ins of the services, and from the real tables."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from deeplrhe_utils.acquisition.cohort_files import read_cohort, read_cohort_files
from deeplrhe_utils.acquisition.cohort_rules import CohortRule, named_rule
from deeplrhe_utils.acquisition.labels import attach_labels, read_labels
from deeplrhe_utils.acquisition.manifest import read_manifest
from deeplrhe_utils.running import cohort as command
from deeplrhe_utils.running.cli import main
from deeplrhe_utils.running.cohort import CDR_CSV, CHOSEN, EVERYBODY, WHOLE, Gathered, Services, Tables, gather
from tests.stand_ins.cbioportal import CBioPortalStandIn, study_from_labels
from tests.stand_ins.gdc import GdcStandIn
from tests.stand_ins.gdc import offered as on_offer

GENES = ("TP53", "EGFR")
CDR_HEADER = (
    "bcr_patient_barcode,type,age_at_initial_pathologic_diagnosis,gender,ajcc_pathologic_tumor_stage,vital_status"
)
WRITTEN = {"cohort.json", "cohort-labels.csv", "cohort-clinical.csv", "manifest.txt", "flow.csv", "excluded.csv",
           "prevalence.csv", "sites.csv", "flow.png", "prevalence.png", "sites.png"}  # fmt: skip


def patients(n):
    """(barcode, project): sites and projects in turn."""
    return [(f"TCGA-{('05', '44', '21')[i % 3]}-{i:04d}", ("TCGA-LUAD", "TCGA-LUSC")[i % 2]) for i in range(n)]


def names(patient):
    places = ("01Z-00-DX1", "01A-01-TS1", "11A-01-TS1")
    return [f"{patient}-{place}.{hashlib.md5((patient + place).encode()).hexdigest()}.svs" for place in places]


@pytest.fixture
def published(tmp_path):
    """A folder of tables as others publish them: 24 patients, of whom one is not profiled and one is in no table."""
    folder = tmp_path / "tables"
    folder.mkdir()
    random = np.random.default_rng(0)
    slides, calls, cdr = [], [], []
    for i, (patient, project) in enumerate(patients(24)):
        for name in names(patient):
            digest = hashlib.md5(name.encode()).hexdigest()
            file_id = f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"
            slides.append((file_id, name, digest, str(random.integers(10**6, 10**9)), project if i % 5 else ""))
        cdr.append((patient, project[5:], "60.0" if i else "", "MALE", "Stage IB", "Alive"))
        if i < 23:
            mutated = ["NS" if i == 22 else "R158L" if random.random() < 0.5 else "WT" for _ in GENES]
            calls.append((f"{project[5:].lower()}_tcga_pan_can_atlas_2018", f"{patient}-01", *mutated))
    write(folder / command.SLIDES_TSV, ("file_id", "file_name", "md5sum", "file_size", "project"), slides)
    write(folder / command.CALLS_TSV, ("STUDY_ID", "SAMPLE_ID", *GENES), calls)
    write(folder / CDR_CSV, CDR_HEADER.split(","), cdr, ",")
    return folder


def write(path, header, rows, between="\t"):
    path.write_text("\n".join(between.join(row) for row in (header, *rows)) + "\n")


def run(capsys, *arguments, code=0):
    assert main(["cohort", *map(str, arguments)]) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.out + said.err


def test_the_command_writes_a_cohort_that_other_steps_read(tmp_path, published, capsys):
    out = tmp_path / "out"
    said = run(capsys, "paper", "--n", 12, "--out", out, "--tables", published, "--genes", "TP53,EGFR", "--seed", 3)
    assert {p.name for p in out.iterdir()} == WRITTEN
    assert "12 slides of 12 patients" in said and "patient not profiled for every gene: 2" in said
    cohort = read_cohort(out / "cohort.json")
    assert cohort.rule.seed == 3 and cohort.strata["drawn"].tolist() == [3, 3, 3, 3]
    assert read_manifest(out / "manifest.txt")["filename"].tolist() == cohort.chosen["file_name"].tolist()
    labels = read_labels(out / "cohort-labels.csv", GENES)
    slides = cohort.chosen.assign(status="ok", slide_id=cohort.chosen["file_name"])
    assert attach_labels(slides, labels).sentence.startswith("12 of 12 labelled patients have a usable slide")
    _, facts = read_cohort_files(out / "cohort.json")
    digest = hashlib.sha256((published / CDR_CSV).read_bytes()).hexdigest()
    assert facts["source"]["tables"][CDR_CSV] == digest and facts["release"].startswith("none stated")


def test_the_labels_are_those_of_the_table(published):
    gathered = gather(Tables(published), GENES)
    raw = pd.read_csv(published / command.CALLS_TSV, sep="\t", keep_default_na=False)
    for row in raw.itertuples():
        own = gathered.labels[gathered.labels["patient_id"] == row.SAMPLE_ID[:12]].set_index("gene")["status"]
        for gene in GENES:
            expected = {"WT": 0, "NS": None}.get(getattr(row, gene), 1)
            assert pd.isna(own[gene]) if expected is None else own[gene] == expected
    assert any("have no project there; 0 still have none" in note for note in gathered.notes)


def test_the_same_command_gives_the_same_files_and_another_does_not_replace_them(tmp_path, published, capsys):
    out = tmp_path / "out"
    run(capsys, "smallest", "--out", out, "--tables", published, "--genes", "TP53")
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.suffix != ".png"}
    run(capsys, "smallest", "--out", out, "--tables", published, "--genes", "TP53")
    said = run(capsys, "smallest", "--n", 5, "--out", out, "--tables", published, "--genes", "TP53", code=2)
    assert "Another cohort stands in" in said
    assert before == {p.name: p.read_bytes() for p in out.iterdir() if p.suffix != ".png"}


def test_a_manifest_says_which_files_are_offered(tmp_path, published, capsys):
    some = names(patients(1)[0][0])
    digest = "0" * 32
    rows = [(f"00000000-0000-4000-8000-00000000000{i}", name, digest, "5", "live") for i, name in enumerate(some)]
    write(tmp_path / "m.txt", ("id", "filename", "md5", "size", "state"), rows)
    said = run(capsys, "coudray", "--out", tmp_path / "o", "--tables", published, "--manifest", tmp_path / "m.txt",
               "--genes", "TP53")  # fmt: skip
    assert "diagnostic slide: 1" in said
    assert read_cohort(tmp_path / "o" / "cohort.json").chosen["subtype"].tolist() == ["adenocarcinoma", "normal"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["paprr"], 2, "no such cohort rule"),
        (["all", "--n", "3"], 2, "takes every slide"),
        (["paper", "--seed", "-1"], 2, "seed"),
        (["paper", "--n", "0"], 2, "at least 1"),
        (["paper", "--genes", "TP53,TP53"], 2, "named twice"),
        (["paper", "--genes", "XYZ"], 1, "XYZ"),
        (["paper", "--genes", "TP53"], 1, "wants 180 slides"),
        (["paper", "--gdc", "http://127.0.0.1:1"], 2, "not from both"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(tmp_path, published, capsys, arguments, code, says):
    said = run(capsys, *arguments, "--out", tmp_path / "out", "--tables", published, code=code)
    assert says in said
    assert not (tmp_path / "out" / "cohort.json").exists() and not (tmp_path / "out" / "manifest.txt").exists()


def test_missing_and_wrong_tables_are_named(tmp_path, published, capsys):
    assert "is no folder" in run(capsys, "paper", "--out", tmp_path, "--tables", tmp_path / "none", code=2)
    assert "--manifest needs --tables" in run(capsys, "paper", "--out", tmp_path, "--manifest", "m.txt", code=2)
    (published / command.SLIDES_TSV).write_text("<html>not found</html>\n")
    assert "lacks columns" in run(capsys, "paper", "--out", tmp_path, "--tables", published, code=1)
    (published / CDR_CSV).unlink()
    assert f"{CDR_CSV} is not there" in run(capsys, "paper", "--out", tmp_path, "--tables", published, code=1)


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


@pytest.fixture
def services(tmp_path, published):
    """The same patients, as stand-ins of the GDC and of cBioPortal offer them."""
    labels = gather(Tables(published), GENES).labels
    slides = [(name, project) for patient, project in patients(24) for name in names(patient)]
    files = [on_offer(n, n.encode(), project=p, strategy="Diagnostic Slide" if "-DX" in n else "Tissue Slide")
             for n, p in slides]  # fmt: skip
    cases = [{"id": p, "case_id": p, "submitter_id": p, "project": {"project_id": project},
              "demographic": {"gender": "female", "vital_status": "Dead"},
              "diagnoses": [{"ajcc_pathologic_stage": "Stage IIB", "age_at_diagnosis": 24000}]}
             for p, project in patients(24)]  # fmt: skip
    projects = dict(patients(24))
    parts = [labels[labels["patient_id"].map(projects) == project] for project in ("TCGA-LUAD", "TCGA-LUSC")]
    studies = [study_from_labels(part, study) for part, study in zip(parts, command.STUDIES, strict=True)]
    with GdcStandIn(files, cases=cases) as gdc, CBioPortalStandIn(studies) as portal:
        yield gdc, portal


def test_the_services_give_the_cohort_that_the_tables_give(tmp_path, published, services, capsys):
    gdc, portal = services
    common = ("--n", 12, "--genes", "TP53,EGFR", "--seed", 3)
    run(capsys, "paper", "--out", tmp_path / "a", "--gdc", gdc.url, "--cbioportal", portal.url, *common)
    run(capsys, "paper", "--out", tmp_path / "b", "--tables", published, *common)
    first, second = (read_cohort(tmp_path / name / "cohort.json") for name in "ab")
    assert first.chosen["file_name"].tolist() == second.chosen["file_name"].tolist()
    assert (tmp_path / "a" / "cohort-labels.csv").read_bytes() == (tmp_path / "b" / "cohort-labels.csv").read_bytes()
    assert first.clinical["sex"].eq("female").all() and first.clinical["stage"].eq("II").all()
    assert first.chosen["access"].eq("open").all()
    _, facts = read_cohort_files(tmp_path / "a" / "cohort.json")
    assert facts["release"] == gdc.release and facts["source"]["query"]["filters"]
    assert facts["source"]["gdc"] == gdc.url
    assert not gdc.log  # nothing was fetched


def test_a_service_that_is_none_is_a_failure_and_writes_nothing(tmp_path, services, capsys):
    gdc, portal = services
    for wrong in ({"gdc": portal.url}, {"cbioportal": gdc.url}):
        where = {"gdc": gdc.url, "cbioportal": portal.url} | wrong
        options = [text for name, url in where.items() for text in (f"--{name}", url)]
        said = run(capsys, "paper", "--out", tmp_path / "o", "--genes", "TP53", *options, code=1)
        assert "ServiceError" in said and not (tmp_path / "o").exists()


def test_the_default_services_are_the_public_ones():
    assert Services().gdc.startswith("https://") and Services().query.is_file()
    assert json.loads(Services().query.read_text())["filters"]


def test_the_real_tables_today(tmp_path, shared_data, capsys):
    said = run(capsys, "paper", "--out", tmp_path, "--tables", shared_data / "tables")
    assert "3220" in said and "180 slides of 180 patients" in said
    table = pd.read_csv(tmp_path / "prevalence.csv").set_index(["project", "gene", "group"])
    assert table.loc[(WHOLE, "TP53", EVERYBODY), "profiled"] == 1050
    assert table.xs(CHOSEN, level="group").loc[WHOLE, "profiled"].eq(180).all()
    again = gather(Tables(shared_data / "tables"))
    assert named_rule("paper").n_slides == 180 and len(again.files) == 3220


def test_drivers_alone_can_count(published, tmp_path, capsys):
    """R158L is the only change of the table: as a driver of one gene it counts there and nowhere else."""
    drivers = tmp_path / "drivers.csv"
    drivers.write_text(f"gene,protein_change\n{GENES[0]},R158L\n")
    run(
        capsys,
        "all",
        "--tables",
        published,
        "--genes",
        ",".join(GENES),
        "--out",
        tmp_path / "all",
        "--drivers",
        drivers,
    )
    run(capsys, "all", "--tables", published, "--genes", ",".join(GENES), "--out", tmp_path / "plain")
    some, every = (pd.read_csv(tmp_path / name / "cohort-labels.csv") for name in ("all", "plain"))
    assert some[GENES[0]].equals(every[GENES[0]]) and every[GENES[1]].sum() > 0 == some[GENES[1]].sum()
