"""TCGA's slides, clinical data and cohorts: every file has one fate, numbers add up, published counts are met."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from deeplrhe_utils.acquisition.barcodes import hospitals, parse_name
from deeplrhe_utils.acquisition.cohort import files as cohort_files
from deeplrhe_utils.acquisition.cohort.build import NO_SOURCE, build, check_flow, count_mutations_by_site, draw, spread
from deeplrhe_utils.acquisition.cohort.rules import COHORT_RULES, CPTAC, CohortRule, named_rule
from deeplrhe_utils.acquisition.labels.labels import read_labels
from deeplrhe_utils.acquisition.labels.mutation_files import by_gene_calls
from deeplrhe_utils.acquisition.labels.variants import VariantRule
from deeplrhe_utils.acquisition.services.manifest import read_manifest
from deeplrhe_utils.acquisition.services.tcga_slides import add_fields, notes_of
from deeplrhe_utils.core.errors import CohortError, InputError, ParameterError
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.signing import changed_parts, signed
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import CLINICAL, LABELS

GENES = ("TP53", "EGFR")
PAPER_GENES = ("TP53", "EGFR", "STK11", "POLE", "POLD1", "PBRM1", "DNMT3A", "KRAS")


def uuid(number):
    return f"00000000-0000-4000-8000-{number:012d}"


def offered(n=40, seed=0):
    """Slides of `n` patients: each has some of frozen, diagnostic and normal, of random size."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        patient, project = f"TCGA-{('05', '44', 'L9')[i % 3]}-{i:04d}", ("TCGA-LUAD", "TCGA-LUSC")[i % 2]
        for place in ("01Z-00-DX1", "01A-01-TS1", "01A-01-BS1", "11A-01-TS1", "02A-01-TS1"):
            if random.random() < 0.7:
                rows.append((f"{patient}-{place}.{uuid(len(rows))}.svs", project, int(random.integers(1, 10**9))))
    frame = pd.DataFrame(rows, columns=["file_name", "project_id", "bytes"])
    frame["file_id"] = [uuid(10_000 + i) for i in range(len(frame))]
    return add_fields(frame.assign(md5="0" * 32))


def tables(files, seed=0, missing=0.0):
    """Labels and clinical data of the files' patients."""
    random = np.random.default_rng(seed)
    patients = sorted(files["patient_id"].dropna().unique())
    rows = [(p, g, None if random.random() < missing else int(random.random() < 0.4)) for p in patients for g in GENES]
    labels = pd.DataFrame(rows, columns=["patient_id", "gene", "status"]).assign(source="test")
    clinical = pd.DataFrame({"patient_id": patients, "site_id": [parse_name(p).site_id for p in patients]})
    return conform(labels, LABELS), conform(clinical, CLINICAL)


def made(rule, n=40, missing=0.0):
    files = offered(n)
    return build(files, *tables(files, missing=missing), rule)


@pytest.mark.parametrize(("name", "expected"), [
    ("TCGA-05-4244-01Z-00-DX1.d4ff32cd-38cf-40ea-8213.svs", ("TCGA-05-4244", "Indivumed", "01", "DX", "05")),
    ("TCGA-95-A4VK-01A-01-TSA.29579482-F5BF.svs", ("TCGA-95-A4VK", "Washington University - Emory", "01", "TS", "95")),
    ("TCGA-05-4244-11A-01-MS2.svs", ("TCGA-05-4244", "Indivumed", "11", "MS", "05")),
    ("TCGA-05-4244.svs", ("TCGA-05-4244", "Indivumed", None, None, "05")),
    ("TCGA-05-4244-01A-01-XX1.svs", ("TCGA-05-4244", "Indivumed", "01", None, "05")),
    ("TCGA-05-42445-01A-01-TS1.svs", (None, None, None, None, None)),
    ("tcga-05-4244-01A-01-TS1.svs", ("TCGA-05-4244", "Indivumed", "01", "TS", "05")),
    ("CMU-1-Small-Region.svs", (None, None, None, None, None)),
    ("", (None, None, None, None, None)),
    ("TCGA-02-0001-01A-01-TS1.svs", ("TCGA-02-0001", "02", "01", "TS", "02")),
    ("SYNT-05-4244-01A-01-TS1.svs", ("SYNT-05-4244", "05", "01", "TS", None)),
])  # fmt: skip
def test_what_a_name_tells(name, expected):
    assert tuple(parse_name(name)) == expected


def test_a_code_is_a_project_and_a_hospital_may_have_two():
    """So a "site" read from the barcode is the diagnosis in disguise, and whole codes are no whole hospitals."""
    table = pd.read_csv(REFERENCE_DATA / "hospitals.csv", dtype=str)
    assert table["code"].is_unique and table["project"].isin(["TCGA-LUAD", "TCGA-LUSC"]).all()
    assert hospitals()["18"] == ("Princess Margaret Hospital (Canada)", "TCGA-LUSC")
    assert (table.groupby("hospital")["project"].nunique() == 2).sum() > 20


def test_malformed_names_stay_in_the_list_and_are_named():
    names = ["TCGA-05-4244-01A-01-TS1.svs", "notes.svs", "TCGA-05-4244-01A.svs", "TCGA-44-0001-01Z-00-DX1.svs"]
    projects = ["TCGA-LUAD", None, "TCGA-LUAD", None]
    frame = pd.DataFrame({"file_id": list("abcd"), "file_name": names, "md5": "0" * 32, "bytes": 1})
    files = add_fields(frame.assign(project_id=projects))
    notes = notes_of(files)
    assert files["file_name"].tolist() == names and files["access"].isna().all()
    assert any("2 of 4 names" in note and "notes.svs" in note for note in notes)
    assert any("1 files have no subtype" in note and "TCGA-44-0001" in note for note in notes)
    assert files["subtype"].tolist()[0] == "adenocarcinoma"


def test_subtypes_follow_the_sample_before_the_project():
    names = [f"TCGA-05-000{i}-{code}A-01-TS1.svs" for i, code in enumerate(("01", "11", "02", "20"))]
    frame = pd.DataFrame({"file_name": names, "file_id": names, "md5": "m", "bytes": 1, "project_id": "TCGA-LUSC"})
    assert add_fields(frame)["subtype"].fillna("?").tolist() == ["squamous", "normal", "squamous", "?"]


def units_of(draw):
    strata = [(name,) for name in "abc"[: draw(st.integers(1, 3))]]
    fits = draw(st.lists(st.sets(st.sampled_from(strata), min_size=1), min_size=1, max_size=7))
    return {s: [f"u{i}" for i, own in enumerate(fits) if s in own] for s in strata if any(s in own for own in fits)}


def feasible(units, quota):
    """Whether every stratum can have its quota, by SciPy's matching of slots to units."""
    names = sorted({u for own in units.values() for u in own})
    slots = [s for s, count in zip(sorted(units), quota, strict=True) for _ in range(count)]
    if not slots:
        return True
    edges = csr_matrix([[int(u in units[s]) for u in names] for s in slots])
    return bool((maximum_bipartite_matching(edges, perm_type="column") >= 0).all())


@settings(max_examples=150, deadline=None)
@given(st.composite(units_of)(), st.integers(1, 8))
def test_the_draw_is_as_large_and_as_even_as_any_could_be(units, wanted):
    placed = spread(units, wanted)
    assert all(unit in units[stratum] for unit, stratum in placed.items())
    counts = tuple(sum(s == t for t in placed.values()) for s in sorted(units))
    quotas = [q for q in product(range(wanted + 1), repeat=len(units)) if sum(q) <= wanted and feasible(units, q)]
    most = max(map(sum, quotas))
    assert sum(counts) == most
    assert sorted(counts) == max(sorted(q) for q in quotas if sum(q) == most)


def test_the_draw_takes_units_in_their_order_where_nothing_is_scarce():
    units = {("a",): ["3", "1", "2"], ("b",): ["2", "9", "8"]}
    assert spread(units, 4) == {"3": ("a",), "2": ("b",), "1": ("a",), "9": ("b",)}


PAPER = CohortRule("small", n_slides=16, slides_per_patient=1, sample_codes=("01",), known=("project_id",),
                   strata=("project_id", "sample_type"), needs_labels=True, genes=GENES)  # fmt: skip


OF_TCGA = [rule for rule in COHORT_RULES.values() if rule.projects != CPTAC]


@pytest.mark.parametrize("rule", [PAPER, *OF_TCGA], ids=lambda rule: rule.name)
def test_every_file_has_one_fate_and_the_flow_adds_up(rule):
    n = 300 if rule.name == "paper" else 40
    files = offered(n)
    cohort = made(rule, n, missing=0.1)
    assert sorted(cohort.files["file_id"]) == sorted(files["file_id"])
    assert (cohort.files["in_cohort"] == cohort.files["reason"].isna()).all()
    flow = cohort.flow
    assert flow["slides"].iloc[0] == len(files) and flow["slides"].iloc[-1] == len(cohort.chosen)
    assert flow["dropped"].sum() + len(cohort.chosen) == len(files)
    for row in flow.itertuples():
        told = [int(part.rsplit(": ", 1)[1]) for part in row.reason.split("; ") if part]
        assert sum(told) == row.dropped
    assert flow["patients"].iloc[-1] == len(cohort.patients)
    assert cohort.files["reason"].value_counts().sum() == flow["dropped"].sum()


def test_the_small_paper_cohort_keeps_its_rule():
    cohort = made(PAPER, missing=0.1)
    chosen = cohort.chosen
    assert len(chosen) == chosen["patient_id"].nunique() == 16
    assert set(chosen["sample_code"]) == {"01"}
    assert chosen.groupby(["project_id", "sample_type"]).size().tolist() == [4, 4, 4, 4]
    assert cohort.strata["drawn"].tolist() == cohort.strata["wanted"].tolist() == [4, 4, 4, 4]
    assert cohort.labels["status"].notna().all() and len(cohort.labels) == 16 * 2
    assert cohort.clinical["patient_id"].tolist() == cohort.patients


@pytest.mark.parametrize("name", ["paper", "smallest"])
def test_the_order_of_rows_does_not_matter(name):
    rule = PAPER if name == "paper" else COHORT_RULES["smallest"]
    files = offered()
    labels, clinical = tables(files)
    first = build(files, labels, clinical, rule)
    mixed = [frame.sample(frac=1, random_state=3) for frame in (files, labels, clinical)]
    second = build(*mixed, rule)
    pd.testing.assert_frame_equal(first.files, second.files)
    pd.testing.assert_frame_equal(first.labels, second.labels)
    pd.testing.assert_frame_equal(first.flow, second.flow)


def test_a_file_that_was_not_drawn_can_go_without_effect():
    files = offered()
    labels, clinical = tables(files)
    first = build(files, labels, clinical, PAPER)
    spare = first.files.loc[first.files["reason"].eq("not drawn"), "file_id"]
    again = build(files[~files["file_id"].isin(spare.iloc[:10])], labels, clinical, PAPER)
    assert again.chosen["file_id"].tolist() == first.chosen["file_id"].tolist()


def test_the_seed_draws_and_draws_fairly():
    """Over 150 seeds every patient of a stratum is taken about equally often."""
    files = offered(40)
    files = files[files["sample_code"].eq("01")]
    taken = []
    for seed in range(150):
        reasons, _ = draw(files, CohortRule("r", n_slides=10, slides_per_patient=1, seed=seed))
        taken.append(frozenset(files.loc[reasons.isna(), "patient_id"]))
    assert len(set(taken)) > 140
    eligible = files["patient_id"].unique()
    share = 10 / len(eligible)
    counts = np.array([sum(p in t for t in taken) for p in eligible])
    assert counts.sum() == 1500
    # Of some 40 patients none strays five standard deviations from its expectation.
    assert np.abs(counts - 150 * share).max() < 5 * np.sqrt(150 * share * (1 - share))


def test_the_smallest_are_the_smallest_and_at_most_two_slides_are_of_a_patient():
    files = offered()
    chosen = build(files, *tables(files), COHORT_RULES["smallest"]).chosen
    tumours = files[files["sample_code"].isin(["01", "02"])]
    least = tumours.sort_values("bytes").drop_duplicates("patient_id").head(10)
    assert sorted(chosen["file_id"]) == sorted(least["file_id"])
    cohort = made(CohortRule("two", slides_per_patient=2))
    assert cohort.chosen.groupby("patient_id").size().max() == 2
    assert len(cohort.patients) == 40 and "enough other slides of the patient" in set(cohort.files["reason"].dropna())


def test_too_few_files_and_a_flow_that_does_not_add_up_are_refused():
    rule = CohortRule("many", n_slides=500, slides_per_patient=1, strata=("sample_type",))
    with pytest.raises(CohortError, match=r"many wants 500 slides, and there are 40.*frozen: \d+ available"):
        made(rule)
    flow = made(PAPER).flow
    flow.loc[3, "dropped"] += 1
    with pytest.raises(CohortError, match="does not add up"):
        check_flow(flow)


def test_a_scarce_stratum_leaves_its_share_to_the_others_and_says_so():
    files = offered(30)
    scarce = files["sample_type"].eq("diagnostic") & (files["project_id"] == "TCGA-LUSC")
    files = files[~scarce | files["patient_id"].isin(files.loc[scarce, "patient_id"].unique()[:1])]
    cohort = build(files, *tables(files), CohortRule(**(vars(PAPER) | {"n_slides": 20})))
    assert cohort.strata["drawn"].tolist() == [7, 6, 1, 6] and cohort.strata["available"].tolist()[2] == 1
    assert any("4 places could not be filled" in note for note in cohort.notes)


def test_null_labels_keep_patients_out_only_where_labels_are_needed():
    files = offered(12)
    labels, clinical = tables(files)
    patients = sorted(files["patient_id"].unique())
    labels.loc[labels["patient_id"].eq(patients[0]) & labels["gene"].eq("EGFR"), "status"] = pd.NA
    labels = labels[labels["patient_id"] != patients[1]]
    strict = build(files, labels, clinical, CohortRule("s", needs_labels=True))
    assert set(patients) - set(strict.patients) == set(patients[:2])
    why = strict.files.groupby("patient_id")["reason"].first()
    assert why[patients[0]] == "patient not profiled for every gene" and why[patients[1]] == "patient in no label table"
    loose = build(files, labels, clinical, CohortRule("l"))
    own = loose.labels.set_index(["patient_id", "gene"])
    assert loose.patients == patients and own["status"].isna().sum() == 3
    assert own.loc[(patients[1], "TP53"), "source"] == NO_SOURCE
    one_gene = build(files, labels, clinical, CohortRule("o", needs_labels=True, genes=("TP53",)))
    assert patients[0] in one_gene.patients and set(one_gene.labels["gene"]) == {"TP53"}


def test_hostile_and_controlled_files_are_kept_out_with_a_reason():
    files = offered(6)
    files.loc[0, "access"], files.loc[1, "access"] = "controlled", "open"
    files.loc[2, "file_name"] = "TCGA-05-0001-01A-01-TS1/../../x.svs"
    files.loc[3, "file_id"] = "../../etc"
    cohort = build(files, *tables(files), CohortRule("r"))
    why = cohort.files.set_index("file_name")["reason"]
    assert why[files.loc[0, "file_name"]] == "controlled access" and pd.isna(why[files.loc[1, "file_name"]])
    assert why[files.loc[2, "file_name"]] == why[files.loc[3, "file_name"]] == "name or id cannot be a file"


@pytest.mark.parametrize(
    "wrong",
    [{"n_slides": 0}, {"slides_per_patient": 0}, {"seed": -1}, {"strata": ("colour",)}, {"preparations": ("wax",)},
     {"preparations": ()}, {"genes": ("TP53", "TP53")}],
)  # fmt: skip
def test_impossible_rules_are_refused(wrong):
    with pytest.raises(ParameterError):
        CohortRule("r", **wrong)


def test_nothing_to_choose_from_is_an_error():
    files = offered(4)
    labels, clinical = tables(files)
    for offer, rule, says in (
        (files.iloc[:0], CohortRule("r"), "no file to choose"),
        (files, CohortRule("r", sample_codes=("99",)), "No file fits"),
        (files, CohortRule("r", sample_codes=("99",), n_slides=3, strata=("project_id",)), "there are 0"),
        (files, CohortRule("r", genes=("XYZ",)), "no labels of some genes"),
    ):
        with pytest.raises(CohortError, match=says):
            build(offer, labels, clinical, rule)


def test_mutations_by_site_are_those_counted_by_hand():
    files = pd.DataFrame({"patient_id": ["p1", "p1", "p2", "p3", "p4", None], "site_id": [*"AAABB", None]})
    rows = [("p1", "G", 1), ("p2", "G", None), ("p3", "G", 0), ("p4", "G", 1), ("p9", "G", 1)]
    labels = pd.DataFrame(rows, columns=["patient_id", "gene", "status"]).astype({"status": "Int64"})
    found = count_mutations_by_site(labels, files).set_index("site_id")
    assert found.loc["A", ["positives", "profiled", "patients"]].tolist() == [1, 1, 2]
    assert found.loc["B", ["positives", "profiled", "patients"]].tolist() == [1, 2, 2]
    with pytest.raises(CohortError, match="two sites"):
        count_mutations_by_site(labels, pd.DataFrame({"patient_id": ["p1", "p1"], "site_id": ["A", "B"]}))


def written(folder, rule=PAPER, **changes):
    cohort = made(rule, missing=0.1)
    facts = {"release": "R1", "source": {"tables": {"t.tsv": "0" * 64}}} | changes
    return cohort, cohort_files.save_cohort(folder / "cohort.json", cohort, **facts)


def test_a_cohort_file_gives_back_what_was_written(tmp_path):
    cohort, signature = written(tmp_path / "out")
    found = cohort_files.read_cohort(tmp_path / "out" / "cohort.json")
    for name in ("files", "flow", "strata", "clinical"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(cohort, name))
    assert found.rule == cohort.rule and found.notes == cohort.notes
    key = ["patient_id", "gene"]
    pd.testing.assert_frame_equal(found.labels[[*key, "status"]].sort_values(key, ignore_index=True),
                                  cohort.labels[[*key, "status"]].sort_values(key, ignore_index=True))  # fmt: skip
    assert signature == written(tmp_path / "again")[1]
    assert (tmp_path / "out" / "cohort.json").read_bytes() == (tmp_path / "again" / "cohort.json").read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*cohort_files.BESIDE, "cohort.json"])


def test_the_files_beside_are_what_other_steps_read(tmp_path):
    cohort, _ = written(tmp_path)
    manifest = read_manifest(tmp_path / "manifest.txt")
    assert manifest["filename"].tolist() == cohort.chosen["file_name"].tolist()
    assert manifest["size"].sum() == cohort.chosen["bytes"].sum()
    assert len(read_labels(tmp_path / "cohort-labels.csv", GENES)) == 32
    document = json.loads((tmp_path / "cohort.json").read_text())
    assert document["release"] == "R1" and document["rule"]["seed"] == 1 and document["genes"] == list(GENES)
    assert "status" not in (tmp_path / "cohort.json").read_text()
    chosen, _ = cohort_files.read_cohort_files(tmp_path / "cohort.json")
    pd.testing.assert_frame_equal(chosen, cohort.chosen)


@pytest.mark.parametrize("part", ["rule", "release", "files", "flow", "tables", "source"])
def test_an_edited_cohort_file_is_refused_and_says_where(tmp_path, part):
    written(tmp_path)
    path = tmp_path / "cohort.json"
    document = json.loads(path.read_text())
    document[part] = document[part][:-1] if isinstance(document[part], (list, str)) else document[part] | {"x": 1}
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"edited after it was signed.*in: {part}"):
        cohort_files.read_cohort(path)


@pytest.mark.parametrize("name", cohort_files.BESIDE)
def test_an_edited_or_missing_table_beside_is_refused(tmp_path, name):
    written(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"\n")
    with pytest.raises(InputError, match=f"{name} is not what"):
        cohort_files.read_cohort(tmp_path / "cohort.json")
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"lacks {name}"):
        cohort_files.read_cohort(tmp_path / "cohort.json")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"kind": "deeplrhe cohort"}', b'{"kind": "deeplrhe cohort", "version": 1}',
                b"\xff", b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_cohort_file_is_refused(tmp_path, content):
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InputError):
        cohort_files.read_cohort(tmp_path / "c.json")


def test_another_cohort_and_other_files_are_never_overwritten(tmp_path):
    written(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    written(tmp_path)
    with pytest.raises(ParameterError, match="rule small with seed 1"):
        written(tmp_path, CohortRule(**(vars(PAPER) | {"seed": 2})))
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    (tmp_path / "cohort.json").unlink()
    written(tmp_path)  # the rest of an interrupted attempt
    own = tmp_path / "own"
    own.mkdir()
    (own / "manifest.txt").write_text("my own manifest")
    with pytest.raises(ParameterError, match="is not of this cohort"):
        written(own)
    assert [p.name for p in own.iterdir()] == ["manifest.txt"]


def test_signatures_see_every_change():
    document = signed({"a": [1, {"b": None}], "c": "é"})
    assert changed_parts(document) == [] == changed_parts(json.loads(json.dumps(document)))
    assert changed_parts(document | {"c": "e"}) == ["c"]
    assert changed_parts(document | {"d": 1}) == ["d"]
    assert changed_parts({k: v for k, v in document.items() if k != "a"}) == ["a"]
    assert changed_parts(document | {"signature": "0" * 64}) == ["its signature"]
    assert changed_parts(document | {"digests": None}) == ["a", "c"]
    assert signed(document) == document


def test_the_real_paper_cohort(shared_data):
    """The slides of 2019 with the calls of cBioPortal, as published."""
    folder = shared_data / "tables"
    patients = pd.read_csv(folder / "tcga_cdr_luad_lusc_TCGA-CDR.csv", dtype=str).set_index("bcr_patient_barcode")
    listed = pd.read_csv(folder / "lung_slide_to_mutation_join.tsv", sep="\t", dtype=str)
    listed = listed.rename(columns={"md5sum": "md5", "file_size": "bytes"}).astype({"bytes": "int64"})
    projects = listed["project"].fillna("TCGA-" + listed["file_name"].str[:12].map(patients["type"]))
    files = add_fields(listed[["file_id", "file_name", "md5", "bytes"]].assign(project_id=projects))
    rule = VariantRule(sample_codes=())
    labels = by_gene_calls(folder / "cbioportal_luad_lusc_mutations_by_gene.tsv", PAPER_GENES, rule=rule).labels
    clinical = conform(pd.DataFrame(columns=[c.name for c in CLINICAL.columns]), CLINICAL)
    cohort = build(files, labels, clinical, named_rule("paper", genes=PAPER_GENES))
    assert len(cohort.chosen) == len(cohort.patients) == 180 == cohort.labels["patient_id"].nunique()
    assert cohort.chosen.groupby(["project_id", "sample_type"]).size().tolist() == [45] * 4
    assert cohort.labels["status"].notna().all()
    assert cohort.flow["slides"].tolist()[0] == 3220 and cohort.flow["dropped"].sum() == 3040
