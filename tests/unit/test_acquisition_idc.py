"""CPTAC from the Imaging Data Commons: index, listing, cohort, download and inventory against stand-ins."""

import hashlib
import json
import threading

import pandas as pd
import pyarrow as pa
import pytest

from deeplrhe_utils.acquisition.cohort.files import read_cohort, read_cohort_files
from deeplrhe_utils.acquisition.idc.index import IDC_INDEX, PinnedIndex, fetch_index, read_index
from deeplrhe_utils.acquisition.idc.listing import list_series
from deeplrhe_utils.acquisition.labels.labels import attach_labels, read_labels
from deeplrhe_utils.acquisition.services.manifest import read_manifest
from deeplrhe_utils.acquisition.services.transfer import PartsDigest
from deeplrhe_utils.acquisition.services.web import Patience, Service
from deeplrhe_utils.core.errors import InputError, ParameterError, RunError, ServiceError
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs.cohort import CPTAC_STUDIES
from deeplrhe_utils.running.jobs.cohort_run import Services, ready_cohort
from deeplrhe_utils.slides.files.inventory import scan_slides
from tests.stand_ins.cbioportal import CBioPortalStandIn, study_from_labels
from tests.stand_ins.gdc import GdcStandIn, Offered
from tests.stand_ins.idc import SCHEMA, make_series, write_index

GENES = ("TP53", "EGFR")
PROFILED = ["C3L-00001", "C3N-00002", "11LU013"]
PATIENTS = [*PROFILED, "C3L-00004"]
QUICK = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=0.02)


@pytest.fixture(scope="module")
def commons(tmp_path_factory):
    """Rows and files of eleven series: tumours, normal tissue, "HE", a derived series, another organ."""
    folder = tmp_path_factory.mktemp("bucket")
    made = [make_series(folder, p, i, part=3000 if i == 1 else 0) for p in PATIENTS for i in (1, 2)]
    made += [make_series(folder, "C3L-00001", 3, SeriesDescription="HE normal"),
             make_series(folder, "C3N-00002", 3, SeriesDescription="HE", PatientAge=None),
             make_series(folder, "C3L-09999", 1, collection_id="cptac_ucec")]  # fmt: skip
    rows = [row for row, _ in made]
    for row in rows:
        if row["PatientID"] == "C3N-00002":
            row["collection_id"] = "cptac_lscc"
    derived = rows[0] | {"SeriesInstanceUID": "1.2", "crdc_series_uuid": "0" * 8, "analysis_result_id": "BAMF"}
    return [*rows, derived, rows[0] | {"Modality": "CT"}], [file for _, files in made for file in files]


@pytest.fixture
def run(commons, tmp_path, capsys):
    """Calls a command against the stand-ins; what it said."""
    rows, files = commons
    calls = [(p.replace("11LU", "X11LU"), gene, i % 2, "Missense_Mutation; R158L" if i % 2 else None)
             for i, p in enumerate(PROFILED) for gene in GENES]  # fmt: skip
    table = pd.DataFrame(calls, columns=["patient_id", "gene", "status", "variant_class"]).astype({"status": "Int64"})
    own = [table[table["patient_id"] != "C3N-00002"], table[table["patient_id"] == "C3N-00002"]]
    studies = [study_from_labels(part, study) for part, study in zip(own, CPTAC_STUDIES, strict=True)]
    index = write_index(tmp_path / "index.whl", rows)
    with GdcStandIn(list(files), bucket=True, keys_a_page=1) as bucket, CBioPortalStandIn(studies) as portal:

        def call(command, *arguments, code=0):
            where = ["--bucket", bucket.url]
            where += ["--index", index, "--cbioportal", portal.url, "--genes", ",".join(GENES)] * (command == "cohort")
            assert main([command, *map(str, arguments), *map(str, where)]) == code
            said = capsys.readouterr()
            assert "Traceback" not in said.err
            return said.out + said.err

        call.bucket, call.index = bucket, index
        yield call


def test_cptac_goes_from_the_index_to_slides_with_labels(tmp_path, run):
    """The road a reader takes: cohort, download, inventory; each series is one slide of its patient."""
    said = run("cohort", "cptac", "--out", tmp_path / "cohort")
    assert "6 slides of 3 patients" in said and "1 series, of 1 patients, do not say" in said
    cohort = read_cohort(tmp_path / "cohort" / "cohort.json")
    assert cohort.patients == sorted(PROFILED) and cohort.chosen["sample_code"].eq("01").all()
    assert dict(zip(cohort.chosen["patient_id"], cohort.chosen["subtype"], strict=True)) == {
        "C3L-00001": "adenocarcinoma", "C3N-00002": "squamous", "11LU013": "adenocarcinoma"}  # fmt: skip
    assert cohort.flow["slides"].tolist() == [10, 9, 9, 8, 8, 8, 6]
    assert "neither tumour nor normal" in cohort.flow["reason"][1] and cohort.flow.loc[0, ["LUAD", "LUSC"]].sum() == 10
    _, facts = read_cohort_files(tmp_path / "cohort" / "cohort.json")
    assert facts["release"].endswith("25.0.5-0-gstandin") and facts["source"]["studies"] == list(CPTAC_STUDIES)
    assert facts["source"]["index"]["sha256"] == hashlib.sha256(run.index.read_bytes()).hexdigest()
    assert cohort.clinical.set_index("patient_id").loc["C3L-00001", ["age_years", "sex"]].tolist() == [61.0, "female"]
    manifest = read_manifest(tmp_path / "cohort" / "manifest.txt")
    assert set(manifest["id"]) == set(cohort.chosen["file_id"]) and len(manifest) == 12
    assert manifest["md5"].str.contains("-").sum() == 6 and manifest["size"].sum() == cohort.chosen["bytes"].sum()

    slides = tmp_path / "slides"
    run("download", tmp_path / "cohort" / "manifest.txt", "--out", slides)
    for row in manifest.to_dict("records"):
        assert (slides / row["id"] / row["filename"]).read_bytes() == run.bucket.file(
            row["id"], row["filename"]
        ).bytes()
    asked = len(run.bucket.log)
    assert "12 present" in run("download", tmp_path / "cohort" / "manifest.txt", "--out", slides)
    assert len(run.bucket.log) == asked

    found = scan_slides(slides, hash_files=False)
    used = found[found["status"] == "ok"]
    assert len(found) == 12 and len(used) == 6 and used["reader"].eq("openslide (format dicom)").all()
    assert sorted(used["patient_id"].unique()) == sorted(PROFILED) and used["slide_id"].is_unique
    labels = read_labels(tmp_path / "cohort" / "cohort-labels.csv", GENES)
    assert attach_labels(used, labels).sentence.startswith("3 of 3 labelled patients have a usable slide")


def test_all_of_cptac_takes_patients_without_labels_and_a_run_of_tcga_refuses_series(tmp_path, run):
    assert "8 slides of 4 patients" in run("cohort", "cptac-all", "--out", tmp_path / "all")
    cohort = read_cohort(tmp_path / "all" / "cohort.json")
    assert cohort.labels.set_index("patient_id").loc["C3L-00004", "status"].isna().all()
    with pytest.raises(ParameterError, match="DICOM series"):
        ready_cohort(tmp_path / "run", cohort.rule, Services(), given=tmp_path / "all" / "cohort.json")
    said = run("download", tmp_path / "all" / "manifest.txt", "--out", tmp_path / "s", "--repair", code=2)
    assert "--repair asks the GDC" in said and not (tmp_path / "s").exists()


def test_series_that_the_bucket_has_not_as_the_index_are_left_out_and_named(tmp_path, run):
    """Withdrawn, cut, and changed: three series of three patients."""
    one, other, third = run.bucket.files[0:6:2]
    run.bucket.files.remove(one)
    run.bucket.files[:] = [f for f in run.bucket.files if f.file_id != other.file_id]
    run.bucket.files[run.bucket.files.index(third)] = Offered(third.file_id, third.file_name, third.bytes() + b"\0\0")
    said = run("cohort", "cptac-all", "--out", tmp_path / "out")
    assert "5 slides of 3 patients" in said and "3 series are not in the bucket as the index lists them" in said
    assert "1 file of" in said and "0 files of 0 bytes instead of 2" in said
    excluded = pd.read_csv(tmp_path / "out" / "excluded.csv").set_index("file_id")["reason"]
    assert excluded[[one.file_id, other.file_id, third.file_id]].eq("files not known").all()


def test_a_bucket_that_cannot_be_had_is_not_asked_for_every_series():
    with (
        GdcStandIn([], bucket=True, page_fault=lambda h: h.json({}, 500) or True) as bucket,
        Service(bucket.url, QUICK) as service,
        pytest.raises(ServiceError, match="did not answer"),
    ):
        list_series(service, {str(i): (1, 1) for i in range(500)})
    assert len(bucket.gets) < 100


def test_a_series_withdrawn_after_the_cohort_was_chosen_is_named_with_the_next_move(tmp_path, run):
    run("cohort", "cptac", "--out", tmp_path / "cohort")
    gone = run.bucket.files.pop(0)
    said = run("download", tmp_path / "cohort" / "manifest.txt", "--out", tmp_path / "s", code=1)
    assert f"failed: {gone.file_name}" in said and "11 verified, 1 failed" in said
    assert "Not in the bucket: 1. If the manifest is old, choose the cohort again." in said


@pytest.mark.parametrize(("content", "says"), [
    ("<html>Sign in</html>", "does not answer with a listing"),
    ("<!DOCTYPE a [<!ENTITY b 'c'>]><ListBucketResult>&b;</ListBucketResult>", "does not answer with a listing"),
    ("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>", "does not answer with a listing"),
    ("<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>1</NextContinuationToken>"
     "</ListBucketResult>", "without end"),
    ("<ListBucketResult>" + " " * (5 << 20), "does not answer with a listing"), ("<ListBucketResult", "listing"),
])  # fmt: skip
def test_a_listing_that_is_none_or_is_cut_is_refused(commons, content, says):
    series = commons[1][0].file_id
    with (
        GdcStandIn(commons[1], bucket=True, page_fault=lambda h: h.xml(content) or True) as bucket,
        Service(bucket.url, QUICK) as service,
        pytest.raises(ServiceError, match=says),
    ):
        list_series(service, {series: (2, 1)})


@pytest.mark.parametrize(("name", "etag", "problem"), [
    ("../../evil.dcm", "", "no plain file name"), ("notes.txt", "", "no DICOM file"), ("a.dcm", "abc", "no DICOM file"),
    ("a.dcm", "0" * 32 + "-7", "uploaded in 7 parts"),
])  # fmt: skip
def test_entries_that_no_manifest_can_hold_cost_their_series(monkeypatch, commons, name, etag, problem):
    series = commons[1][0].file_id
    file = Offered(series, name, b"12345678")
    if etag:
        monkeypatch.setattr(Offered, "etag", property(lambda _: etag))
    with GdcStandIn([file], bucket=True) as bucket, Service(bucket.url, QUICK) as service:
        found = list_series(service, {series: (1, 8)})
    assert problem in found.lost[series] and found.files.empty


def test_etags_of_parts_are_those_of_s3_however_the_bytes_come():
    data = bytes(range(256)) * 40
    for part, step in ((1000, 7), (10240, 10240), (20000, 999), (512, 512)):
        digest = PartsDigest(part)
        for i in range(0, len(data), step):
            digest.update(data[i : i + step])
        assert digest.hexdigest() == f"{Offered('i', 'n', data, part=part).etag}x{part}"


def test_a_file_of_parts_is_verified_by_its_parts(tmp_path, run):
    """One byte of the second part is another: the size is right, the ETag is not."""
    run("cohort", "cptac-all", "--out", tmp_path / "cohort")
    bad = next(f for f in run.bucket.files if f.part and f.size > 2 * f.part)
    wrong = bytearray(bad.bytes())
    wrong[bad.part + 5] ^= 1
    place = run.bucket.files.index(bad)
    run.bucket.files[place] = Offered(bad.file_id, bad.file_name, bytes(wrong), md5="-")
    said = run("download", tmp_path / "cohort" / "manifest.txt", "--out", tmp_path / "s", "--retries", 1, code=1)
    assert "MD5 of the parts' MD5s" in said and not (tmp_path / "s" / bad.file_id / bad.file_name).exists()
    run.bucket.files[place] = bad
    run("download", tmp_path / "cohort" / "manifest.txt", "--out", tmp_path / "s")
    assert (tmp_path / "s" / bad.file_id / bad.file_name).read_bytes() == bad.bytes()


def test_the_pinned_index_is_fetched_once_and_another_file_is_refused(tmp_path, monkeypatch, commons):
    """By the real pip, from a folder."""
    wheel = write_index(tmp_path / "shelf" / IDC_INDEX.name, commons[0])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    pin = PinnedIndex(IDC_INDEX.version, hashlib.sha256(wheel.read_bytes()).hexdigest())
    path = fetch_index(tmp_path / "cache", pin)
    assert path.read_bytes() == wheel.read_bytes() and [p.name for p in path.parent.iterdir()] == [pin.name]
    wheel.unlink()
    assert fetch_index(tmp_path / "cache", pin) == path
    with pytest.raises(RunError, match="pip could not fetch idc-index-data"):
        fetch_index(tmp_path / "other", pin)
    assert not list((tmp_path / "other").iterdir())
    with pytest.raises(InputError, match="not the index of the IDC that is pinned"):
        fetch_index(tmp_path / "cache")


def test_an_index_of_another_version_or_no_index_is_refused_by_what_it_lacks(tmp_path, commons):
    rows = commons[0]
    older = pa.schema([field for field in SCHEMA if field.name != "analysis_result_id"], SCHEMA.metadata)
    cases = {
        "lacks analysis_result_id": write_index(tmp_path / "old.parquet", rows, older),
        "lists no slides": write_index(tmp_path / "none.parquet", [rows[0] | {"Modality": "CT"}]),
        "series without PatientID": write_index(tmp_path / "null.parquet", [rows[0] | {"PatientID": None}]),
    }
    (tmp_path / "text.parquet").write_text("no Parquet")
    (tmp_path / "cut.whl").write_bytes(write_index(tmp_path / "w.whl", rows).read_bytes()[:900])
    cases |= {"is no index": tmp_path / "text.parquet", "no index of": tmp_path / "cut.whl"}
    cases["no index"] = tmp_path / "nowhere.parquet"
    for says, path in cases.items():
        with pytest.raises(InputError, match=says):
            read_index(path)


def test_contradictions_of_a_patients_series_leave_the_value_unknown(tmp_path, commons):
    rows = [dict(commons[0][0]), commons[0][1] | {"PatientAge": "070Y", "PatientSex": None}]
    clinical = read_index(write_index(tmp_path / "i.parquet", rows)).clinical
    assert pd.isna(clinical.loc[0, "age_years"]) and clinical.loc[0, "sex"] == "female"


def test_listings_are_asked_for_side_by_side_and_stay_in_order(commons):
    rows, files = commons
    wanted = {r["crdc_series_uuid"]: (2, round(r["series_size_MB"] * 1e6)) for r in rows[:8]}
    with GdcStandIn(files, bucket=True) as bucket, Service(bucket.url, QUICK) as service:
        several, alone = list_series(service, wanted), list_series(service, wanted, jobs=1)
    assert several.files.equals(alone.files) and list(dict.fromkeys(several.files["id"])) == list(wanted)
    assert several.fingerprints() == alone.fingerprints() and len(set(several.fingerprints().values())) == 8
    assert not several.lost and threading.active_count() < 20 and json.dumps(several.fingerprints())
