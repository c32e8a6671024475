"""Mutation labels from files: formats are recognised, damaged ones refused, and null is never 0."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplrhe_utils.acquisition.barcodes import parse_name
from deeplrhe_utils.acquisition.labels.agreement import label_agreement
from deeplrhe_utils.acquisition.labels.calls import VARIANT_COLUMNS, all_profiled, call_patients
from deeplrhe_utils.acquisition.labels.labels import read_labels
from deeplrhe_utils.acquisition.labels.mutation_files import by_gene_calls, read_mutations
from deeplrhe_utils.acquisition.labels.variants import NON_SILENT, VariantRule, classes_of_change, judge, read_drivers
from deeplrhe_utils.core.errors import CompendiumError, LabelError, ParameterError
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import LABELS
from deeplrhe_utils.running.commands.cli import main

HEADER = "Hugo_Symbol\tTumor_Sample_Barcode\tVariant_Classification\tHGVSp_Short\tMutation_Status"
MAF = "\n".join([
    "#version 2.4", HEADER,
    "TP53\tTCGA-05-0001-01A-01D-1\tMissense_Mutation\tp.R158L\tSomatic",
    "TP53\tTCGA-05-0002-01A-01D-1\tSilent\tp.T125=\tSomatic",
    "EGFR\tTCGA-05-0002-01A-01D-1\tIn_Frame_Del\tp.E746_A750del\tSomatic",
    "TP53\tTCGA-05-0003-06A-01D-1\tNonsense_Mutation\tp.R213*\tSomatic",
    "TP53\tTCGA-05-0004-01A-01D-1\tMissense_Mutation\tp.R175H\tGermline",
    "TTN\tTCGA-05-0004-01A-01D-1\tMissense_Mutation\tp.A1V\tSomatic",
]) + "\n"  # fmt: skip
BY_GENE = (
    "STUDY_ID\tSAMPLE_ID\tTP53\tEGFR\n"
    "s\tTCGA-05-0001-01\tR158L X224_splice\tWT\n"
    "s\tTCGA-05-0002-01\tT125=\tL858R\n"
    "s\tTCGA-05-0003-01\tNS\tNS\n"
)


def write(tmp_path, text, name="file.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def statuses(calls, gene="TP53"):
    own = calls.labels[calls.labels["gene"] == gene].set_index("patient_id")["status"]
    return {patient[-1]: None if pd.isna(value) else int(value) for patient, value in own.items()}


def variants(*rows):
    table = [(f"{p}-01", p, gene, change, kind, None) for p, gene, change, kind in rows]
    return pd.DataFrame(table, columns=list(VARIANT_COLUMNS))


# ---- the rule
def test_the_rule_counts_deeppaths_nine_classes_and_codes_are_read():
    assert len(NON_SILENT) == 9 and {"Splice_Site", "Translation_Start_Site"} < NON_SILENT
    table = variants(*[("p", "G", "", kind) for kind in [*sorted(NON_SILENT), "Silent", "Intron", "Splice_Region"]])
    assert judge(table, VariantRule())["counts"].tolist() == [True] * 9 + [False] * 3
    names = ["TCGA-05-4244-01", "TCGA-05-4244-02A", "TCGA-05-4244", "TCGA-95-7039-0", "P1-01"]
    assert [parse_name(name).sample_code for name in names] == ["01", "02", None, None, None]


@pytest.mark.parametrize(("more", "message"), [
    ({"classes": frozenset({"Missense"})}, "Unknown variant class.*Missense"),
    ({"classes": frozenset()}, "counts no class"), ({"sample_codes": ("1",)}, "two digits"),
])  # fmt: skip
def test_rules_that_mean_nothing_are_refused(more, message):
    with pytest.raises(ParameterError, match=message):
        VariantRule(**more)


def test_classes_that_nobody_defined_are_null_and_named_never_0(tmp_path):
    table = variants(("a", "G", "p.X1", "Odd"), ("b", "G", "", None), ("c", "G", "A1V", "Missense_Mutation"))
    found = judge(table, VariantRule())
    assert found["counts"].isna().tolist() == [True, True, False]
    assert found["fate"].tolist() == ["class unknown: Odd", "class unknown: none, change not given", "counted"]
    calls = read_mutations(write(tmp_path, MAF.replace("Silent", "Weird")), ["TP53", "EGFR"])
    assert statuses(calls)["2"] is None and statuses(calls, "EGFR")["2"] == 1
    assert any("1 variants cannot be judged" in note and "Weird: 1" in note for note in calls.notes)
    assert statuses(read_mutations(write(tmp_path, BY_GENE.replace("L858R", "MUTATED"))), "EGFR")["2"] is None


def test_a_class_that_a_change_leaves_open_counts_only_if_all_readings_do():
    table = variants(("a", "G", "K1fs", "Frame_Shift_Del/Frame_Shift_Ins"))
    assert judge(table, VariantRule())["counts"].tolist() == [True]
    assert judge(table, VariantRule(classes=frozenset({"Frame_Shift_Del"})))["counts"].isna().all()
    assert judge(table, VariantRule(classes=frozenset({"Splice_Site"})))["counts"].tolist() == [False]


def test_a_list_of_drivers(tmp_path):
    path = write(tmp_path, "gene,protein_change\nEGFR,p.L858R\nTP53,any\n")
    drivers = read_drivers(path)
    table = variants(("a", "EGFR", "p.L858R", "Missense_Mutation"), ("b", "EGFR", "A1V", "Missense_Mutation"),
                     ("c", "TP53", "R158L", "Missense_Mutation"), ("d", "TP53", "T125T", "Silent"))  # fmt: skip
    assert judge(table, VariantRule(drivers=drivers))["counts"].tolist() == [True, False, True, False]
    for text, message in [
        ("gene,change\nA,B\n", "lacks columns protein_change"),
        ("gene,protein_change\nA,\n", "line 2"),
    ]:
        with pytest.raises(LabelError, match=message):
            read_drivers(write(tmp_path, text))


@pytest.mark.parametrize(("change", "classes"), [
    ("L858R", "Missense_Mutation"), ("p.L858R", "Missense_Mutation"), ("p.(L858R)", "Missense_Mutation"),
    ("R213*", "Nonsense_Mutation"), ("X470_splice", "Splice_Site"), ("T125=", "Synonymous_Change"),
    ("T125T", "Synonymous_Change"), ("K139Rfs*31", "Frame_Shift_Del/Frame_Shift_Ins"),
    ("D1010fs", "Frame_Shift_Del/Frame_Shift_Ins"), ("E746_A750del", "In_Frame_Del"), ("P191del", "In_Frame_Del"),
    ("ELREA746del", "In_Frame_Del"), ("A767_V769dup", "In_Frame_Ins"), ("D770_N771insGL", "In_Frame_Ins"),
    ("770_771insGL", "In_Frame_Ins"), ("T751_I759delinsN", "In_Frame_Del"), ("G776delinsVC", "In_Frame_Ins"),
    ("V157_Y158delinsDD", "In_Frame_Del/In_Frame_Ins/Missense_Mutation"), ("*935Lext*7", "Nonstop_Mutation"),
    ("GPG*171delext*18", "In_Frame_Del/Nonstop_Mutation"), ("M1V", "Missense_Mutation/Translation_Start_Site"),
    ("MUTATED", ""), ("", ""), (".", ""), (None, ""), ("L858", ""), ("promoter", ""), ("L858R;G12C", ""),
])  # fmt: skip
def test_classes_are_read_off_changes_where_they_can_be(change, classes):
    assert classes_of_change(change) == classes


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("123"), st.sampled_from(["01", "02"]), st.booleans(),
                          st.lists(st.sampled_from(["Missense_Mutation", "Silent", "Silent/Splice_Site"]), max_size=2)),
                min_size=1, max_size=6, unique_by=lambda row: row[:2]))  # fmt: skip
def test_the_label_of_a_patient_follows_from_its_samples(rows):
    """The oracle is the sentence in the docstring, sample by sample."""
    names = [f"TCGA-05-000{p}-{code}" for p, code, _, _ in rows]
    found = [(name, name[:12], "G", "A1V", kind, None)
             for name, (_, _, _, kinds) in zip(names, rows, strict=True) for kind in kinds]  # fmt: skip
    profiled = pd.DataFrame([(name, name[:12], "G", row[2]) for name, row in zip(names, rows, strict=True)],
                            columns=["sample_id", "patient_id", "gene", "profiled"])  # fmt: skip
    calls = call_patients(pd.DataFrame(found, columns=list(VARIANT_COLUMNS)), profiled,
                          VariantRule(), "x")  # fmt: skip
    expected: dict[str, int | None] = {}
    for name, (_, code, ready, kinds) in zip(names, rows, strict=True):
        one = 1 if "Missense_Mutation" in kinds else None if "Silent/Splice_Site" in kinds or not ready else 0
        so_far = expected.setdefault(name[11], None)
        if code == "01" and one is not None:
            expected[name[11]] = max(one, so_far or 0)
    assert statuses(calls, "G") == expected
    totals = calls.ledger.groupby("kind")["n"].sum()
    assert totals["sample"] == len(rows) and totals.get("variant", 0) == len(found)


def test_a_sample_of_two_patients_and_repeated_samples_are_refused():
    torn = pd.concat([all_profiled(["s"], ["a"], ["G"]), all_profiled(["s"], ["b"], ["H"])])
    with pytest.raises(LabelError, match="s belongs to 2 patients"):
        call_patients(variants(), torn, VariantRule(), "x")
    with pytest.raises(LabelError, match="lists s twice"):
        call_patients(variants(), all_profiled(["s", "s"], ["a", "a"], ["G"]), VariantRule(), "x")
    other = variants(("b", "G", "A1V", "Missense_Mutation")).assign(sample_id="s")
    with pytest.raises(LabelError, match="belongs to a, but one of its variants to another patient"):
        call_patients(other, all_profiled(["s"], ["a"], ["G"]), VariantRule(), "x")
    with pytest.raises(LabelError, match="names no samples"):
        call_patients(variants(), all_profiled([], [], ["G"]), VariantRule(), "x")


# ---- a MAF
def test_a_maf_alone_says_what_it_cannot_tell(tmp_path):
    calls = read_mutations(write(tmp_path, MAF), ["TP53", "EGFR"])
    assert calls.form == "a MAF" and conform(calls.labels, LABELS).equals(calls.labels)
    assert statuses(calls) == {"1": 1, "2": 0, "3": None, "4": 0}, "3 is a metastasis, 4 germline"
    assert any("labels are those of the 4 patients it names" in note for note in calls.notes)
    fates = calls.ledger.set_index("fate")["n"]
    assert fates["not somatic: Germline"] == fates["gene not asked for"] == fates["sample left out by the rule"] == 1
    assert calls.ledger.groupby("kind")["n"].sum().to_dict() == {"variant": 6, "sample": 4}


def test_a_gene_without_any_row_is_null_unless_profiled_says_otherwise(tmp_path):
    path = write(tmp_path, MAF)
    alone = read_mutations(path, ["TP53", "POLE"])
    assert set(statuses(alone, "POLE").values()) == {None} and any("No variant of POLE" in n for n in alone.notes)
    listed = read_mutations(path, ["TP53", "POLE"], profiled=["TCGA-05-0001", "TCGA-05-0002-01", "TCGA-05-0009"])
    assert statuses(listed, "POLE") == {"1": 0, "2": 0, "3": None, "4": None, "9": 0}
    assert statuses(listed) == {"1": 1, "2": 0, "3": None, "4": None, "9": 0}


def test_profiled_patients_and_samples_meet_barcodes_of_any_length(tmp_path):
    short = MAF.replace("-01A-01D-1", "").replace("-06A-01D-1", "")
    for names in (["TCGA-05-0001", "TCGA-05-0009"], ["TCGA-05-0001-01", "TCGA-05-0009-01"]):
        for text in (MAF, short):
            calls = read_mutations(write(tmp_path, text), ["EGFR"], profiled=names)
            got = statuses(calls, "EGFR")
            assert got["1"] == 0 and got["9"] == 0 and got["2"] == 1 and got["4"] is None and calls.conflicts.empty


def test_a_mutation_of_an_unlisted_patient_is_believed_and_told(tmp_path):
    calls = read_mutations(write(tmp_path, MAF), ["TP53", "EGFR"], profiled=["TCGA-05-0002"])
    assert statuses(calls)["1"] == 1 and statuses(calls, "EGFR")["1"] is None
    assert any("not said to be profiled (TCGA-05-0001-01" in note for note in calls.notes)
    with pytest.raises(LabelError, match="list of profiled patients is empty"):
        read_mutations(write(tmp_path, MAF), ["TP53"], profiled=[])


@pytest.mark.parametrize("damage", [
    lambda t: b"\xef\xbb\xbf" + t.encode(), lambda t: t.replace("\n", "\r\n").encode(),
    lambda t: t.replace("\n", "\r").encode(), lambda t: gzip.compress(t.encode()), lambda t: t.rstrip("\n").encode(),
    lambda t: t.replace("#version 2.4\n", "").encode(), lambda t: ("\n\n" + t).encode(),
], ids=["BOM", "CRLF", "CR", "gzip", "no last line end", "no comment", "blank lines"])  # fmt: skip
@pytest.mark.parametrize("text", [MAF, BY_GENE], ids=["MAF", "by gene"])
def test_harmless_differences_change_nothing(tmp_path, text, damage):
    plain = read_mutations(write(tmp_path, text), ["TP53", "EGFR"]).labels
    other = read_mutations(write(tmp_path, damage(text)), ["TP53", "EGFR"]).labels
    assert other.equals(plain)


GZIPPED = gzip.compress((MAF * 50).encode())


@pytest.mark.parametrize(("data", "message"), [
    (b"", "is empty"), (b"#version 2.4\n", "is empty"), (b"\n \n", "is empty"),
    (GZIPPED[: len(GZIPPED) // 2], "damaged or unfinished gzip"), (GZIPPED[:2], "damaged or unfinished gzip"),
    (GZIPPED[:40] + b"\0" * 40 + GZIPPED[80:], "damaged or unfinished gzip"), (MAF.encode("utf-16"), "not UTF-8"),
    (MAF.replace("R158L", "Ä").encode("latin-1"), "not UTF-8"), (b"Hugo\0Symbol\n", "not a text file"),
    (b"<!DOCTYPE html><html>502</html>", "web page"), (b"  <html>", "web page"),
    (b'{"message": "no"}', "web page or a service's answer"), (HEADER.encode(), "no rows"),
    ((HEADER + "\n").encode(), "no rows"),
    (MAF.replace("Variant_Classification", "Class").encode(), "lacks columns.*Variant_Classification"),
    (MAF.replace("HGVSp_Short", "Hugo_Symbol").encode(), "line 2: repeated column name.*Hugo_Symbol"),
    (MAF[:-20].encode(), "line 8: 3 cells.*5, as in the header.*unfinished"),
    (MAF.replace("\tSomatic\n", "\tSomatic\tx\n", 1).encode(), "line 3: 6 cells.*Name every column"),
    (MAF.replace("TP53\tTCGA-05-0001", "\tTCGA-05-0001").encode(), "line 3: no gene or no sample"),
    (b"patient_id,TP53\na,1\n", "none of the known formats"), (b"a\tb\tc\n1\t2\t3\n", "none of the known formats"),
])  # fmt: skip
def test_damaged_files_are_refused_with_what_is_wrong(tmp_path, data, message):
    with pytest.raises(LabelError, match=message) as caught:
        read_mutations(write(tmp_path, data), ["TP53"])
    assert "Traceback" not in str(caught.value)


def test_a_missing_file_and_too_many_genes(tmp_path):
    with pytest.raises(LabelError, match="is not there"):
        read_mutations(tmp_path / "nothing.maf")
    many = HEADER + "\n" + "\n".join(f"G{i}\tTCGA-05-0001\tSilent\t\t" for i in range(501))
    with pytest.raises(LabelError, match=r"names 501 genes.*Name the genes"):
        read_mutations(write(tmp_path, many))
    assert statuses(read_mutations(write(tmp_path, many), ["G3"]), "G3") == {"1": 0}


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=300), gz=st.booleans(), header=st.booleans())
def test_no_bytes_make_it_fail_in_another_way(tmp_path_factory, data, gz, header):
    data = HEADER.encode() + b"\n" + data if header else data
    path = tmp_path_factory.mktemp("any") / "x.maf"
    path.write_bytes(gzip.compress(data) if gz else data)
    try:
        calls = read_mutations(path)
    except CompendiumError:
        return
    assert len(calls.labels)


# ---- the table by gene and DeepPATH's list
def test_the_table_by_gene_and_its_contradictions(tmp_path):
    calls = read_mutations(write(tmp_path, BY_GENE))
    assert calls.form == "cBioPortal's table of mutations by gene"
    assert statuses(calls) == {"1": 1, "2": 0, "3": None} and statuses(calls, "EGFR") == {"1": 0, "2": 1, "3": None}
    assert any("1 patient × gene pairs are wild type although" in note and "TP53 1" in note for note in calls.notes)
    counted = VariantRule(classes=NON_SILENT | {"Synonymous_Change"})
    assert statuses(by_gene_calls(write(tmp_path, BY_GENE), rule=counted))["2"] == 1
    for old, new, message in [("R158L X", "WT X", "contradicts itself"), ("R158L X", "NS X", "contradicts itself"),
                              ("L858R", "", "empty call"),
                              ("0002-01", "0001-01", "twice")]:  # fmt: skip
        with pytest.raises(LabelError, match=message):
            read_mutations(write(tmp_path, BY_GENE.replace(old, new)))
    with pytest.raises(LabelError, match="tells itself who was profiled"):
        read_mutations(write(tmp_path, BY_GENE), profiled=["TCGA-05-0001"])


def test_deeppaths_list_needs_to_be_told_who_was_profiled(tmp_path):
    path = write(tmp_path, "TCGA-05-0001-0\tTP53\rTCGA-05-0002-0\tEGFR\r")
    alone = read_mutations(path)
    assert alone.form == "DeepPATH's list of labels" and statuses(alone) == {"1": 1, "2": 0}
    told = read_mutations(path, ["TP53", "POLE"], profiled=["TCGA-05-0001", "TCGA-05-0009"])
    assert statuses(told) == {"1": 1, "2": None, "9": 0} and set(statuses(told, "POLE").values()) == {None}
    with pytest.raises(LabelError, match="states no variant classes"):
        read_mutations(path, rule=VariantRule(classes=frozenset({"Missense_Mutation"})))


# ---- the command
def label(capsys, *arguments, code=0):
    assert main(["labels", *map(str, arguments)]) == code
    said = capsys.readouterr()
    return said.out + said.err


def test_files_become_a_table_that_runs_take(tmp_path, capsys):
    """A patient of two files is 1 if any says so; what nobody tells stays empty."""
    first = write(tmp_path, MAF, "a.maf")
    second = write(
        tmp_path, MAF.replace("TP53\tTCGA-05-0002", "TTN\tTCGA-05-0002").replace("Germline", "Somatic"), "b.maf"
    )
    told = label(capsys, first, second, "--genes", "TP53,EGFR", "--out", tmp_path / "l.csv", "--compare", first)
    assert "a MAF" in told and "not somatic: Germline" in told and "both_mutated" in told and "4 patients" in told
    table = read_labels(tmp_path / "l.csv", ["TP53", "EGFR"])
    own = table[table["gene"] == "TP53"].set_index("patient_id")["status"]
    assert own.fillna(-1).tolist() == [1, 0, -1, 1], "4 is germline in the first file and somatic in the second"
    assert "exists" in label(capsys, first, "--genes", "TP53", "--out", tmp_path / "l.csv", code=2)


def test_who_was_profiled_and_which_changes_count_can_be_given(tmp_path, capsys):
    maf, names = write(tmp_path, MAF, "a.maf"), write(tmp_path, "TCGA-05-0002\nTCGA-05-0009\n", "names.txt")
    drivers = write(tmp_path, "gene,protein_change\nTP53,R175H\n", "drivers.csv")
    label(capsys, maf, "--genes", "TP53", "--out", tmp_path / "l.csv", "--profiled", names, "--drivers", drivers)
    own = read_labels(tmp_path / "l.csv").set_index("patient_id")["status"].fillna(-1).to_dict()
    assert own == {f"TCGA-05-000{i}": value for i, value in ((1, -1), (2, 0), (3, -1), (4, -1), (9, 0))}


# ---- real files
def test_the_real_maf_counted_by_hand(shared_data):
    path = shared_data / "tables" / "tcgamutations_luad_selected_genes.maf.tsv"
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    place = {name: lines[0].index(name) for name in ("Hugo_Symbol", "Tumor_Sample_Barcode", "Variant_Classification")}
    by_hand = {(row[place["Tumor_Sample_Barcode"]], row[place["Hugo_Symbol"]]) for row in lines[1:]
               if row[place["Variant_Classification"]] in NON_SILENT}  # fmt: skip
    calls = read_mutations(path)
    mine = calls.labels[calls.labels["status"].eq(1)]
    assert set(zip(mine["patient_id"], mine["gene"], strict=True)) == by_hand
    assert calls.labels["patient_id"].nunique() == 489 and calls.labels["gene"].nunique() == 18
    assert calls.ledger.query("kind == 'variant'")["n"].sum() == len(lines) - 1 == 1537


def test_every_change_in_the_real_table_has_a_class(shared_data):
    path = shared_data / "tables" / "cbioportal_luad_lusc_mutations_by_gene.tsv"
    calls = read_mutations(path)
    assert len(calls.labels) == 1053 * 30 and calls.labels["status"].isna().sum() == 3 * 30
    assert calls.labels["variant_class"].notna().tolist() == calls.labels["status"].eq(1).fillna(False).tolist()
    tp53 = calls.labels.query("gene == 'TP53'")
    luad = tp53[
        tp53["patient_id"].isin(by_gene_calls(path, ["TP53"], ["luad_tcga_pan_can_atlas_2018"]).labels["patient_id"])
    ]
    assert luad["status"].sum() == 287, "and 8 more with T125= or Q331= alone"


def test_real_sources_agree_as_the_page_says(shared_data):
    """The table in docs/mutation-labels.md, cell by cell."""
    tables = shared_data / "tables"
    page = (REPOSITORY / "docs" / "mutation-labels.md").read_text(encoding="utf-8")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.count(",") >= 6
    ]
    printed = {row[0]: [[int(n) for n in cell.split(", ")] for cell in row[1:]] for row in cells if len(row) == 4}
    genes = [name for name in printed if name.isupper()]
    assert len(genes) == 10
    luad = ["luad_tcga_pan_can_atlas_2018"]
    portal = by_gene_calls(tables / "cbioportal_luad_lusc_mutations_by_gene.tsv", genes, luad)
    listed = read_mutations(tables / "labels_r3.txt")
    maf = read_mutations(tables / "tcgamutations_luad_selected_genes.maf.tsv", genes)
    columns = ["both_mutated", "first_only", "second_only"]
    for place, (first, second) in enumerate([(portal, listed), (portal, maf), (listed, maf)]):
        counts = label_agreement(first.labels, second.labels, genes).set_index("gene")
        assert {gene: printed[gene][place] for gene in genes} == counts[columns].T.to_dict("list")
        assert printed["All ten"][place] == counts[columns].sum().tolist()
    positive = [int(c.labels.query("gene == 'TP53'")["status"].sum()) for c in (portal, listed, maf)]
    assert positive == [287, 280, 287]


# ---- a MAF as it is delivered
def case(n, gene, kind="Missense_Mutation", passed="PASS"):
    head = HEADER.replace("Mutation_Status", "FILTER")
    return f"#version 2.4\n{head}\n{gene}\tTCGA-05-000{n}-01A-01D-1\t{kind}\tp.R1L\t{passed}\n"


def test_files_of_cases_are_one_table_in_a_row_or_in_a_folder(tmp_path):
    cases = [case(1, "TP53"), case(2, "KRAS"), HEADER + "\n", case(3, "TP53", "Silent")]
    swapped = "Tumor_Sample_Barcode\tHugo_Symbol\tVariant_Classification\nTCGA-05-0004-01A\tTP53\tMissense_Mutation\n"
    row = read_mutations(write(tmp_path, "".join([*cases, swapped])), ["TP53", "KRAS"])
    assert statuses(row) == {"1": 1, "2": 0, "3": 0, "4": 1} and statuses(row, "KRAS") == {
        "1": 0,
        "2": 1,
        "3": 0,
        "4": 0,
    }
    for n, text in enumerate([*cases, swapped]):
        place = tmp_path / "delivered" / f"case-{n}"
        place.mkdir(parents=True)
        write(place, gzip.compress(text.encode()) if n % 2 else text, "x.wxs.MAF.gz" if n % 2 else "x.maf")
        write(place, "id\tcategory\n", "annotations.txt")
    folder = read_mutations(tmp_path / "delivered", ["TP53", "KRAS"])
    assert folder.labels.drop(columns="source").equals(row.labels.drop(columns="source"))
    assert (
        folder.notes[0] == "5 MAFs of the folder are read as one; 5 other files."
        and "1 file without" in folder.notes[-1]
    )
    (tmp_path / "delivered" / "none").mkdir()
    with pytest.raises(LabelError, match="holds no MAF"):
        read_mutations(tmp_path / "delivered" / "none", ["TP53"])


def test_who_was_sequenced_stands_in_the_file(tmp_path):
    listed = "#sequenced_samples: TCGA-05-0001-01 TCGA-05-0009-01\n"
    calls = read_mutations(write(tmp_path, listed + case(1, "TP53") + case(2, "KRAS")), ["TP53", "KRAS"])
    assert statuses(calls) == {"1": 1, "2": None, "9": 0} and statuses(calls, "KRAS") == {"1": 0, "2": 1, "9": 0}
    assert any("2 names are listed as #sequenced_samples" in note for note in calls.notes)
    given = read_mutations(write(tmp_path, listed + case(1, "TP53")), ["TP53"], profiled=["TCGA-05-0007"])
    assert statuses(given) == {"1": 1, "7": 0}, "who is given counts"
    assert statuses(read_mutations(write(tmp_path, listed + HEADER + "\n"), ["TP53"])) == {"1": 0, "9": 0}


def test_what_did_not_pass_the_filter_does_not_count_and_is_told(tmp_path):
    text = "".join(case(n, "TP53", passed=p) for n, p in enumerate(("PASS", ".", "", "panel_of_normals", "oxog;wga")))
    calls = read_mutations(write(tmp_path, text), ["TP53"])
    assert statuses(calls) == {"0": 1, "1": 1, "2": 1, "3": 0, "4": 0}
    assert "2 variants do not count, because FILTER is not PASS (oxog;wga 1, panel_of_normals 1)." in calls.notes
