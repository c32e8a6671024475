"""cBioPortal's service against a stand-in: profiled, mutated and unknown are three things; bad answers are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplrhe_utils.acquisition.labels.mutation_files import by_gene_calls
from deeplrhe_utils.acquisition.labels.variants import VariantRule
from deeplrhe_utils.acquisition.services.cbioportal import CBioPortal, labels
from deeplrhe_utils.acquisition.services.web import Patience, Service
from deeplrhe_utils.core.errors import LabelError, ServiceError
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import LABELS
from tests.stand_ins.cbioportal import (
    CBioPortalStandIn,
    Study,
    entrez_of,
    key_of,
    mutation,
    study_from_labels,
    study_from_recorded,
)

NAME = "luad_small"
PROFILE = f"molecular-profiles/{NAME}_mutations"
RECORDED = "luad_tcga_pan_can_atlas_2018"
SAMPLES = {
    "TCGA-05-0001-01": "TCGA-05-0001", "TCGA-05-0002-01": "TCGA-05-0002", "TCGA-05-0003-01": "TCGA-05-0003",
    "TCGA-05-0003-02": "TCGA-05-0003", "TCGA-05-0004-01": "TCGA-05-0004", "TCGA-05-0005-06": "TCGA-05-0005",
}  # fmt: skip


def found(number: int, symbol: str, change: str, kind: str, code: str = "01", **more):
    patient = f"TCGA-05-{number:04d}"
    return mutation(NAME, f"{patient}-{code}", patient, symbol, change, kind, **more)


def small(**more) -> Study:
    """Patient 1 mutated, 2 silent only, 3 differs between samples, 4 not sequenced, 5 metastasis only."""
    study = Study(
        NAME, dict(SAMPLES), [s for s in SAMPLES if s != "TCGA-05-0004-01"],
        [found(1, "TP53", "R158L", "Missense_Mutation"), found(1, "TP53", "X224_splice", "Splice_Site"),
         found(2, "TP53", "T125=", "Silent"), found(3, "TP53", "R213*", "Nonsense_Mutation", "02"),
         found(5, "EGFR", "L858R", "Missense_Mutation", "06")],
        panel_of=dict.fromkeys(SAMPLES, "WES"), genes=["TP53", "EGFR", "STK11"],
    )  # fmt: skip
    for name, value in more.items():
        setattr(study, name, value)
    return study


@pytest.fixture
def served():
    """``portal = served(study, ...)``: a client of a stand-in that never waits; ``portal.stand_in`` is the server."""
    opened = []

    def serve(*studies: Study, page: int = 100_000, attempts: int = 4, **more):
        stand_in = CBioPortalStandIn(studies, **more)
        service = Service(stand_in.__enter__().url, Patience(attempts=attempts), sleep=lambda _: None)
        opened.extend((service, stand_in))
        portal = CBioPortal(service, page=page)
        portal.stand_in = stand_in
        return portal

    yield serve
    for thing in opened:
        thing.__exit__(None, None, None)


def statuses(calls, gene="TP53"):
    own = calls.labels[calls.labels["gene"] == gene].set_index("patient_id")["status"]
    return {patient[-1]: None if pd.isna(value) else int(value) for patient, value in own.items()}


def test_profiled_mutated_and_unknown_are_three_things(served):
    calls = labels(served(small()), [NAME], ["TP53", "EGFR"])
    assert statuses(calls) == {"1": 1, "2": 0, "3": 0, "4": None, "5": None}
    assert statuses(calls, "EGFR") == {"1": 0, "2": 0, "3": 0, "4": None, "5": None}
    row = calls.labels.query("patient_id == 'TCGA-05-0001' and gene == 'TP53'").iloc[0]
    assert row["variant_class"] == "Missense_Mutation; R158L | Splice_Site; X224_splice"
    assert row["source"] == f"cBioPortal {NAME}"
    assert conform(calls.labels, LABELS).equals(calls.labels) and calls.form == "cBioPortal's service"
    notes = " ".join(calls.notes)
    assert "5 of 6 samples are sequenced" in notes and "2 samples are left out by their code" in notes
    assert "1 patients have left-out samples only and no status (TCGA-05-0005)" in notes
    assert calls.conflicts.empty


def test_all_samples_of_a_patient_and_where_they_differ(served):
    calls = labels(served(small()), [NAME], ["TP53", "EGFR"], VariantRule(sample_codes=()))
    assert statuses(calls) == {"1": 1, "2": 0, "3": 1, "4": None, "5": 0}
    assert statuses(calls, "EGFR")["5"] == 1
    expected = [["TCGA-05-0003", "TP53", "TCGA-05-0003-01", 0], ["TCGA-05-0003", "TP53", "TCGA-05-0003-02", 1]]
    assert calls.conflicts.to_numpy().tolist() == expected
    assert any("1 patient × gene pairs differ between samples" in note for note in calls.notes)


def test_a_gene_that_the_panel_lacks_is_null_not_0(served):
    study = small(panel_of=dict.fromkeys(SAMPLES, "SMALL"), panels={"SMALL": ["TP53"]})
    calls = labels(served(study), [NAME], ["TP53", "STK11"])
    assert statuses(calls) == {"1": 1, "2": 0, "3": 0, "4": None, "5": None}
    assert set(statuses(calls, "STK11").values()) == {None}
    assert any("Panel SMALL lacks STK11" in note for note in calls.notes)


def test_germline_variants_and_unknown_classes(served):
    study = small()
    study.mutations += [found(2, "TP53", "R175H", "Missense_Mutation", mutationStatus="GERMLINE"),
                        found(3, "EGFR", "L1", "Odd_Class")]  # fmt: skip
    portal = served(study)
    assert statuses(labels(portal, [NAME], ["TP53"]))["2"] == 0, "germline does not count"
    calls = labels(portal, [NAME], ["EGFR"])
    assert statuses(calls, "EGFR")["3"] is None and any("class unknown: Odd_Class: 1" in note for note in calls.notes)


@pytest.mark.parametrize("page", [1, 2, 4, 5, 6])
def test_pages_count_from_0_and_lose_nothing(served, page):
    portal = served(small(), page=page)
    rows = portal.mutations(NAME + "_mutations", NAME + "_all", portal.genes(["TP53", "EGFR"]))
    assert rows["protein_change"].tolist() == ["R158L", "X224_splice", "T125=", "R213*", "L858R"]
    asked = sum("mutations/fetch" in place for _, place, *_ in portal.stand_in.log)
    assert asked == 5 // page + 1, "a page that is not full is the last"


def test_pages_that_overlap_or_overflow_are_refused(served):
    mixed = [found(n % 3 + 1, "TP53", f"R{n}L", "Missense_Mutation") for n in range(40)]
    portal = served(small(mutations=mixed), page=15, shuffled=True)
    with pytest.raises(ServiceError, match="share mutations"):
        labels(portal, [NAME], ["TP53"])
    portal = served(small(mutations=mixed), page=15, unpaged=True)
    with pytest.raises(ServiceError, match="more than a page"):
        labels(portal, [NAME], ["TP53"])


def test_unknown_and_ambiguous_genes_are_named_together(served):
    portal = served(small(), twins=frozenset({"EGFR"}), aliases={"STK11": "LKB1"})
    with pytest.raises(LabelError, match=r"LKB1 \(now STK11\); polE"):
        portal.genes(["TP53", "LKB1", "polE"])
    with pytest.raises(LabelError, match=r"several genes.*EGFR"):
        portal.genes(["TP53", "EGFR"])
    assert portal.genes(["STK11", "TP53", "STK11"]) == {"STK11": 6794, "TP53": 7157}
    with pytest.raises(LabelError, match="No gene"):
        portal.genes([])


def test_a_burst_of_503_passes_and_a_lasting_one_does_not(served):
    assert statuses(labels(served(small(), failing=3), [NAME], ["TP53"]))["1"] == 1
    with pytest.raises(ServiceError, match="503"):
        labels(served(small(), failing=10_000), [NAME], ["TP53"])


def test_404_names_the_study_and_identifiers_stay_in_their_place(served):
    portal = served(small())
    with pytest.raises(ServiceError, match="Study not found: nowhere"):
        portal.sample_lists("nowhere")
    with pytest.raises(ServiceError, match=r"Study not found: \.\./genes"):
        portal.sample_lists("../genes")
    for name in ("", ".", ".."):
        with pytest.raises(LabelError, match="only dots"):
            portal.sample_ids(name)


def test_studies_are_asked_once_and_patients_are_in_one(served):
    other = small(study_id="luad_other")
    portal = served(small(), other)
    with pytest.raises(LabelError, match="each once"):
        labels(portal, [NAME, NAME], ["TP53"])
    with pytest.raises(LabelError, match="each once"):
        labels(portal, [], ["TP53"])
    with pytest.raises(LabelError, match="5 patients are in several of the studies"):
        labels(portal, [NAME, "luad_other"], ["TP53"])


@pytest.mark.parametrize(("place", "answer"), [
    (f"sample-lists/{NAME}_sequenced/sample-ids", {"message": "odd"}),
    (f"sample-lists/{NAME}_sequenced/sample-ids", ["TCGA-05-0001-01", "TCGA-99-9999-01"]),
    (f"sample-lists/{NAME}_sequenced/sample-ids", [1, 2]), ("genes/fetch", "TP53"),
    ("genes/fetch", [{"hugoGeneSymbol": "TP53", "entrezGeneId": "7157"}]),
    (f"{PROFILE}/mutations/fetch", [{"sampleId": "a"}]),
    (f"{PROFILE}/mutations/fetch", [{"sampleId": "a", "patientId": "b", "entrezGeneId": 1}]),
    (f"{PROFILE}/gene-panel-data/fetch", [None]), (f"studies/{NAME}/sample-lists", None),
])  # fmt: skip
def test_answers_of_another_form_are_refused(served, place, answer):
    portal = served(small(), override={place: answer})
    with pytest.raises(ServiceError):
        labels(portal, [NAME], ["TP53"])


def test_a_study_without_what_labels_need(served):
    lists = [{"sampleListId": f"{NAME}_all"}]
    with pytest.raises(LabelError, match=f"no sample list {NAME}_sequenced"):
        labels(served(small(), override={f"studies/{NAME}/sample-lists": lists}), [NAME], ["TP53"])
    with pytest.raises(LabelError, match="0 profiles of mutations"):
        labels(served(small(), override={f"studies/{NAME}/molecular-profiles": []}), [NAME], ["TP53"])


STATUS = st.sampled_from([0, 1, None])


def test_the_service_gives_back_the_labels_it_was_built_from(served):
    portal = served(small())
    genes = ["TP53", "EGFR", "MADE_UP"]

    @settings(max_examples=25, deadline=None, database=None)
    @given(st.lists(st.tuples(STATUS, STATUS, STATUS), min_size=1, max_size=8))
    def holds(rows):
        cells = [(f"TCGA-05-{i:04d}", g, s) for i, row in enumerate(rows) for g, s in zip(genes, row, strict=True)]
        table = pd.DataFrame(cells, columns=["patient_id", "gene", "status"]).astype({"status": "Int64"})
        portal.stand_in.by_id = {NAME: study_from_labels(table, NAME)}
        calls = labels(portal, [NAME], genes)
        assert calls.labels[["patient_id", "gene"]].equals(table[["patient_id", "gene"]].astype("string"))
        assert calls.labels["status"].equals(table["status"])

    holds()


def test_the_stand_in_answers_as_the_recorded_service(served, shared_data):
    folder = shared_data / "api" / "cbioportal_recorded"
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")}
    portal = served(study_from_recorded(folder))
    service = portal._service
    assert service.get(f"studies/{RECORDED}") == read["study"]
    assert portal.sample_ids(f"{RECORDED}_sequenced") == read["sample_ids"]
    assert service.get(f"molecular-profiles/{RECORDED}_mutations") == read["profile"]
    assert service.get("genes/4233") == read["gene-4233"] and portal.genes(["MET"]) == {"MET": 4233}
    path = f"molecular-profiles/{RECORDED}_mutations/mutations"
    hits = service.get(path, sampleListId=f"{RECORDED}_sequenced", entrezGeneId=4233, projection="DETAILED")
    assert hits == read["mutations-4233"]
    made = mutation(RECORDED, hits[0]["sampleId"], hits[0]["patientId"], "MET", "H476Y", "Missense_Mutation")
    assert set(made) <= set(hits[0])
    assert set(hits[0]) - set(made) <= {"refseqMrnaId", "proteinPosStart", "proteinPosEnd"}
    assert made["uniqueSampleKey"] == hits[0]["uniqueSampleKey"] == key_of("TCGA-05-4403-01", RECORDED)
    assert all(entrez_of(g["hugoGeneSymbol"]) == g["entrezGeneId"] for name, g in read.items() if name[:5] == "gene-")


def test_every_request_is_in_the_published_contract(served, shared_data):
    """Paths, query parameters, their values and the fields of bodies; the contract is read, not copied."""
    contract = json.loads((shared_data / "api" / "cbioportal_public_swagger.json").read_text(encoding="utf-8"))
    study = small(panel_of=dict.fromkeys(SAMPLES, "SMALL"), panels={"SMALL": ["TP53"]})
    portal = served(study, aliases={"TP53": "OLD"})
    labels(portal, [NAME], ["TP53"])
    with pytest.raises(LabelError):
        portal.genes(["OLD"])
    assert len(portal.stand_in.log) == 9
    for method, place, body, query in portal.stand_in.log:
        pattern, operation = operation_of(contract, method, place)
        known = {p["name"]: p for p in operation["parameters"] if p["in"] == "query"}
        for name, value in query.items():
            assert name in known, f"{pattern} has no parameter {name}"
            assert value in known[name].get("enum", [value]), f"{pattern} knows no {name}={value}"
            assert not value.isdecimal() or int(value) <= known[name].get("maximum", int(value))
        wanted = [p["schema"] for p in operation["parameters"] if p["in"] == "body"]
        assert bool(wanted) == (body is not None), pattern
        if isinstance(body, dict):
            fields = contract["definitions"][wanted[0]["$ref"].split("/")[-1]]["properties"]
            assert set(body) <= set(fields), pattern
        elif body is not None:
            assert wanted[0]["type"] == "array"


def operation_of(contract, method, place):
    """The contract's pattern and operation for a request; literal parts win over parameters."""
    fits = [
        pattern
        for pattern, operations in contract["paths"].items()
        if method.lower() in operations and re.fullmatch(re.sub(r"{\w+}", "[^/]+", pattern), "/" + place)
    ]
    assert fits, f"{method} {place} is not in the contract"
    best = min(fits, key=lambda pattern: pattern.count("{"))
    return best, contract["paths"][best][method.lower()]


def test_recorded_mutations_make_the_labels_of_the_published_table(served, shared_data):
    """Two real sources: the service's 21 MET mutations, and the table by gene that was downloaded from it."""
    calls = labels(served(study_from_recorded(shared_data / "api" / "cbioportal_recorded")), [RECORDED], ["MET"])
    table = by_gene_calls(
        shared_data / "tables" / "cbioportal_luad_lusc_mutations_by_gene.tsv", ["MET"], [RECORDED]
    ).labels
    mine = calls.labels.set_index("patient_id")["status"]
    theirs = table.set_index("patient_id")["status"]
    assert len(mine) == 566 and mine.notna().all() and mine.sum() == theirs.sum() > 0
    assert mine.sort_index().equals(theirs.sort_index())
