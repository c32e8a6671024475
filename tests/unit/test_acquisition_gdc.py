"""The GDC's client: paging, old identifiers, tables; against the stand-in and against answers recorded in its guide."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import httpx
import pandas as pd
import pytest

from deeplrhe_utils.acquisition.services import web
from deeplrhe_utils.acquisition.services.gdc import PAGE, Gdc, clinical, read_query, slide_files, stage_of
from deeplrhe_utils.acquisition.services.manifest import name_problem, read_manifest, write_manifest
from deeplrhe_utils.acquisition.services.repair import repair
from deeplrhe_utils.acquisition.services.web import Patience, Service
from deeplrhe_utils.core.errors import InputError, ParameterError, ServiceError
from deeplrhe_utils.core.paths import REPOSITORY
from tests.stand_ins.gdc import GdcStandIn, Offered, offered

# nothing stalls here, and a busy machine must not look like a service that does
QUICK = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=0.02, timeout_s=30)
LUNG = REPOSITORY / "data" / "queries" / "tcga-lung-slides.json"


def slides(count: int) -> list[Offered]:
    kinds = [("01Z-00-DX1", "Diagnostic Slide"), ("01A-01-TS1", "Tissue Slide"), ("11A-01-BS1", "Tissue Slide")]
    made = []
    for i in range(count):
        barcode, strategy = kinds[i % 3]
        project = "TCGA-LUAD" if i % 2 else "TCGA-LUSC"
        made.append(offered(f"TCGA-05-{1000 + i}-{barcode}.{i}.svs", b"x" * i, strategy=strategy, project=project))
    return made


@pytest.fixture
def lung():
    others = [offered("TCGA-A2-0001-01Z-00-DX1.svs", b"", project="TCGA-BRCA"),
              offered("TCGA-05-0001-01Z-00-DX1.svs", b"", access="controlled")]  # fmt: skip
    with GdcStandIn(slides(2 * PAGE + 7) + others) as stand_in:
        yield stand_in


@pytest.fixture
def gdc(lung):
    with Service(lung.url, QUICK) as service:
        yield Gdc(service)


def test_the_query_of_the_repository_finds_every_page_of_open_lung_slides(gdc, lung):
    files = gdc.slide_files(read_query(LUNG))
    assert set(files["file_name"]) == {f.file_name for f in slides(2 * PAGE + 7)}
    assert [int(body["from"]) for body in lung.searches] == [0, PAGE, 2 * PAGE]
    assert {body["sort"] for body in lung.searches} == {"file_id:asc"}
    assert files["subtype"].value_counts().to_dict() == {"normal": 335, "squamous": 336, "adenocarcinoma": 336}
    assert files["sample_type"].isin(["frozen", "diagnostic"]).all() and files["access"].eq("open").all()
    assert not gdc.notes


def test_a_listing_that_changes_is_read_again(gdc, lung):
    def grow(_handler):
        if len(lung.searches) == 1:  # between the first page and the second
            lung.files.append(Offered("0" * 8, "TCGA-05-9999-01Z-00-DX1.svs", b""))  # it belongs on the first one
        return False

    lung.page_fault = grow
    assert len(gdc.slide_files(read_query(LUNG))) == 2 * PAGE + 8
    assert len(lung.searches) == 6


def test_a_listing_that_never_holds_still_is_an_error(gdc, lung):
    def grow(_handler):
        lung.files.append(offered(f"TCGA-05-{9000 + len(lung.files)}-01Z-00-DX1.svs", b""))
        return False

    lung.page_fault = grow
    with pytest.raises(ServiceError, match="changed while it was read, 3 times"):
        gdc.slide_files(read_query(LUNG))


def failing(times: int, answer):
    left = [times]

    def fault(handler) -> bool:
        left[0] -= 1
        if left[0] < 0:
            return False
        answer(handler)
        return True

    return fault


def send(handler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


ANSWERS = {
    "503": lambda h: h.json({"message": "busy"}, 503), "500 without words": lambda h: h.json({}, 500),
    "HTML with status 200": lambda h: send(h, b"<html>login</html>", Content_Type="text/html"),
    "truncated gzip": lambda h: send(h, gzip.compress(b"{}" * 4000)[:20], Content_Encoding="gzip"),
    "truncated JSON": lambda h: send(h, b'{"data": {"hits": ['), "JSON too deep": lambda h: send(h, b"[" * 200_000),
    "reset": lambda h: h.reset(),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_passes_is_waited_for(kind, gdc, lung):
    lung.page_fault = failing(2, ANSWERS[kind])
    assert len(gdc.slide_files(read_query(LUNG))) == 2 * PAGE + 7


NO_JSON = {"HTML with status 200": "text/html", "truncated JSON": "of no stated type", "JSON too deep": "of no stated",
           "truncated gzip": "of no stated"}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(set(ANSWERS) - set(NO_JSON)))
def test_what_does_not_pass_ends_with_its_reason(kind, gdc, lung):
    lung.page_fault = failing(99, ANSWERS[kind])
    with pytest.raises(ServiceError, match=r"did not answer.*attempt 3 of 3"):
        gdc.slide_files(read_query(LUNG))


@pytest.mark.parametrize("kind", NO_JSON)
def test_what_is_no_json_is_asked_for_three_times(kind, lung):
    asked = []
    lung.page_fault = lambda handler: asked.append(1) or ANSWERS[kind](handler) or True
    patience = Patience(attempts=8, first_wait_s=0.01, longest_wait_s=0.02, timeout_s=30)
    with Service(lung.url, patience) as service, pytest.raises(ServiceError, match="not answer with JSON") as caught:
        Gdc(service).slide_files(read_query(LUNG))
    assert len(asked) == 3 and f"3 × {NO_JSON[kind]}" in str(caught.value) and "kept" not in str(caught.value)


@pytest.mark.parametrize(("first", "then", "same"), [
    ("http://h/a", "https://h/b", True), ("http://h:8461/a", "http://h:8461/b", True),
    ("http://h:8461/a", "https://h:9999/b", False), ("http://h/a", "https://h:9999/b", False),
    ("http://h:8461/a", "https://h/b", False), ("https://h/a", "http://h/b", False),
    ("http://h/a", "https://h.evil/b", False),
])  # fmt: skip
def test_where_a_redirect_may_lead(first, then, same):
    assert web._same_place(httpx.URL(first), httpx.URL(then)) is same


def test_refusals_are_final_and_their_words_may_be_nested_deeply(gdc, lung):
    lung.page_fault = failing(1, lambda h: h.json({"message": "bad filter\nsecond line"}, 400))
    with pytest.raises(ServiceError, match=r"HTTP 400: bad filter second line"):
        gdc.slide_files(read_query(LUNG))
    lung.page_fault = failing(1, lambda h: send(h, b"[" * 4096, status=400))
    with pytest.raises(ServiceError, match="HTTP 400") as caught:
        gdc.slide_files(read_query(LUNG))
    assert caught.value.status == 400


def page(*hits: object, total: object = 1) -> dict[str, object]:
    return {"data": {"hits": list(hits), "pagination": {"total": total}}}


@pytest.mark.parametrize(
    "answer",
    [[], {"data": {}}, page({}), "no", page("idle"), page({"id": ["x"]}), page(total=float("inf")),
     {**page(), "warnings": ["x"], "data": {"hits": 3, "pagination": {"total": 1}}}],
)  # fmt: skip
def test_json_of_another_form_is_an_error(answer, gdc, lung):
    lung.page_fault = failing(1, lambda h: h.json(answer))
    with pytest.raises(ServiceError, match="another form"):
        gdc.slide_files(read_query(LUNG))


def test_warnings_are_noted_once_and_the_release_is_told(gdc, lung):
    page = {"data": {"hits": [], "pagination": {"total": 0}}, "warnings": {"fields": "unrecognized values: [md6]"}}
    lung.page_fault = failing(9, lambda h: h.json(page))
    assert gdc.slide_files(read_query(LUNG)).empty and gdc.files("file_id", ["x"]) == []
    assert gdc.notes == ['The GDC warns: {"fields": "unrecognized values: [md6]"}']
    assert gdc.release() == "Data Release 0.0 - stand-in"
    lung.release = ""
    assert gdc.release() == "not stated (API stand-in)"


@pytest.mark.parametrize("text", ["gdc", "ftp://host", "https://", "http://[::1", ""])
def test_addresses_that_are_none(text):
    with pytest.raises(ParameterError, match="address"):
        Service(text)


@pytest.mark.parametrize("text", ["", "[1]", '{"endpoint": "files"}', "{"])
def test_queries_that_are_none(text, tmp_path):
    (tmp_path / "query.json").write_text(text)
    with pytest.raises(InputError, match="query"):
        read_query(tmp_path / "query.json")


def test_patients_of_the_gdc():
    case = {
        "submitter_id": "TCGA-05-4244", "project": {"project_id": "TCGA-LUAD"},
        "demographic": {"gender": "male", "vital_status": "Dead"},
        "diagnoses": [
            {"submitter_id": "a", "age_at_diagnosis": 9000, "ajcc_pathologic_stage": "Stage I",
             "classification_of_tumor": "Prior primary"},
            {"submitter_id": "b", "age_at_diagnosis": 25752, "ajcc_pathologic_stage": "Stage IIIA",
             "classification_of_tumor": "primary"},
        ],
        "exposures": [{"tobacco_smoking_status": "Current Reformed Smoker for < or = 15 yrs"}],
    }  # fmt: skip
    bare = {"submitter_id": "TCGA-05-4245", "demographic": {"gender": "not reported"}, "diagnoses": None,
            "exposures": [{"tobacco_smoking_status": "4"}]}  # fmt: skip
    found = clinical([bare, case], ["TCGA-05-4244", "TCGA-05-4245", "TCGA-05-9999"])
    row = found.table.set_index("patient_id").loc["TCGA-05-4244"]
    assert row["age_years"] == pytest.approx(25752 / 365.25)
    assert row[["site_id", "sex", "histology", "stage", "smoking", "vital_status"]].tolist() == [
        "Indivumed", "male", "adenocarcinoma", "III", "former", "dead"]  # fmt: skip
    assert found.table.set_index("patient_id").loc["TCGA-05-4245"].drop("site_id").isna().all()
    assert "TCGA-05-9999" in found.notes[0] and "smoking 1" in found.notes[1]


def test_clinical_data_are_asked_for_by_barcode(gdc, lung):
    lung.cases = [{"case_id": str(i), "submitter_id": f"TCGA-05-{i}", "demographic": {"gender": "female"}}
                  for i in range(1000, 1300)]  # fmt: skip
    wanted = [f"TCGA-05-{i}" for i in range(1000, 1250)]
    assert gdc.clinical(wanted)["patient_id"].tolist() == wanted
    assert {body["expand"] for body in lung.searches} == {"demographic,diagnoses,exposures,project"}


def test_files_of_another_patient_than_their_name_are_listed():
    hit = offered("TCGA-05-4244-01Z-00-DX1.svs", b"", case="TCGA-05-9999").hit()
    assert "other patients than their names say: TCGA-05-4244" in slide_files([hit]).notes[0]
    with pytest.raises(ServiceError, match="md5sum"):
        slide_files([{k: v for k, v in hit.items() if k != "md5sum"}])


def answer_in_guide(shared_data: Path, after: str) -> object:
    """The first JSON answer that follows a line of the guide."""
    text = (shared_data / "api" / "gdc_docs" / "Search_and_Retrieval.md").read_text(encoding="utf-8")
    block = re.search(r"```\s*json\s*\n(.*?)```", text[text.index(after) :], re.DOTALL)
    assert block is not None
    body = block[1].strip()
    return json.loads(body if body.startswith(("{", "[")) else "{" + body)


def test_recorded_pages_of_files_are_understood(gdc, lung, shared_data):
    recorded = answer_in_guide(shared_data, "files?from=0&size=2&sort=file_size:asc")
    recorded["data"]["pagination"]["total"] = 2  # the guide shows two of 931,947
    lung.page_fault = failing(1, lambda h: h.json(recorded))
    found = gdc.search({"endpoint": "files", "filters": {}, "fields": ["file_name"]})
    assert [hit["file_id"] for hit in found] == [
        "0ab5e358-b1ff-4433-8959-c37c5890d9aa",
        "a8bc2405-b57d-48bb-b241-18b3e28caa56",
    ]


def test_recorded_versions_are_understood(shared_data):
    recorded = answer_in_guide(shared_data, "files/versions/1dd28069")

    class Recorded(Gdc):
        def __init__(self):
            self.service, self.notes = self, []
            self.endpoint = "recorded"

        def get(self, path):
            assert path.startswith("files/versions/")
            return recorded

    ids = ["1dd28069-5777-4ff9-bd2b-d1ba68e88b06", "2a03abac-f1a2-49a9-a57c-7543739dd862"]
    assert Recorded().latest(ids) == {
        ids[0]: "76b3f4d8-c6b7-4662-ac42-1d27d4684281",
        ids[1]: "de0ce84d-c286-405c-a556-39dac14c7c74",
    }


@pytest.mark.parametrize("strict", [False, True])
def test_one_unknown_id_does_not_hide_the_others(strict, gdc, lung):
    lung.strict_versions = strict
    old = [f.file_id for f in lung.files[:90]]
    unknown = [f"{i:08d}-1111-4111-8111-111111111111" for i in (1, 2)]
    assert gdc.latest([*old, *unknown]) == {i: i for i in old}
    assert len(lung.gets) == 3 if not strict else 3 < len(lung.gets) < 30


def test_only_uuids_enter_an_address(gdc, lung):
    assert gdc.latest(["../../status?x=", "../status", "a/b", "", lung.files[0].file_id + "?x"]) == {}
    assert not lung.gets


class Scripted(Gdc):
    """A GDC that answers what it is told to."""

    def __init__(self, versions=(), hits=()):
        self.service, self.notes, self.endpoint = self, [], "scripted"
        self.versions, self.hits = versions, hits

    def get(self, _path):
        if isinstance(self.versions, Exception):
            raise self.versions
        return self.versions

    def files(self, _field, _values):
        return self.hits


ID = "0000b231-7c05-4e2e-8c9e-6d0675bfbb34"


@pytest.mark.parametrize("answer", [[{}], [{"latest_id": ID}], "no", 3, [3], {"message": "?"},
                                    [{"id": 1, "latest_id": ID}], [{"id": ID, "latest_id": 3}]])  # fmt: skip
def test_versions_of_another_form_are_an_error(answer):
    with pytest.raises(ServiceError, match=r"files/versions answers in another form"):
        Scripted(answer).latest([ID])


def test_the_status_decides_and_not_the_words():
    with pytest.raises(ServiceError, match="HTTP 404"):
        Scripted(ServiceError("refused", got="HTTP 400: not HTTP 404", status=400)).latest([ID])
    assert Scripted(ServiceError("refused", got="gone", status=404)).latest([ID]) == {}


@pytest.mark.parametrize(
    "change", [{"md5sum": None}, {"md5sum": "x"}, {"file_size": "3"}, {"file_size": -1}, {"file_size": 10**30},
               {"file_size": True}, {"file_name": None}, {"file_id": 3}]
)  # fmt: skip
def test_files_of_another_form_are_an_error(change):
    file = slides(2)[1]
    manifest = pd.DataFrame([file.row()], columns=["id", "filename", "md5", "size", "state"])
    assert repair(manifest, Scripted([], [file.hit()])).repairs["how"].tolist() == ["unchanged"]
    with pytest.raises(ServiceError, match="files answers in another form"):
        repair(manifest, Scripted([], [{**file.hit(), **change}]))


def test_the_real_manifest_of_2017_is_repaired_by_name(shared_data):
    """Against a stand-in filled with the slides of today: every id and all but one MD5 are others."""
    tables = shared_data / "tables"
    manifest = read_manifest(tables / "gdc_manifest_20170302_003611.txt")
    today = pd.read_csv(tables / "lung_slide_to_mutation_join.tsv", sep="\t", dtype=str, keep_default_na=False)

    class Today(Offered):
        size = property(lambda self: sizes[self.file_id])

    sizes = dict(zip(today["file_id"], today["file_size"].astype(int), strict=True))
    files = [Today(row["file_id"], row["file_name"], b"", md5=row["md5sum"]) for row in today.to_dict("records")]
    with GdcStandIn(files) as stand_in, Service(stand_in.url, QUICK) as service:
        found = repair(manifest, Gdc(service))
    assert len(manifest) == len(found.manifest) == 2167 and not set(manifest["id"]) & set(found.manifest["id"])
    assert found.repairs["how"].eq("file name").all() and not found.repairs["size_differs"].any()
    assert int(found.repairs["md5_differs"].sum()) == 2166


def test_manifests_survive_a_round_trip(tmp_path):
    files = pd.DataFrame([f.row() for f in slides(3)], columns=["id", "filename", "md5", "size", "state"])
    again = read_manifest(write_manifest(tmp_path / "m.txt", files))
    pd.testing.assert_frame_equal(again, files, check_dtype=False)
    with pytest.raises(InputError, match="no plain file name"):
        write_manifest(tmp_path / "n.txt", files.assign(filename=["a.svs", "../b.svs", "c\td.svs"]))
    assert not (tmp_path / "n.txt").exists()


@pytest.mark.parametrize(
    "name", ["a.svs.part", "a.partial", "-rf", ".hidden", "a/b", "a\\b", "a:b", "CON|x", "é.svs", ""]
)
def test_names_that_must_not_become_paths(name):
    assert name_problem("0000b231-7c05-4e2e-8c9e-6d0675bfbb34", name)


@pytest.mark.parametrize(
    "text", ["Stage X", "Stage 0", "I/II NOS", "", "[Not Available]", "Stage IIIAB", "V", "stages I"]
)
def test_no_stage_is_guessed(text):
    assert stage_of(text) is None
