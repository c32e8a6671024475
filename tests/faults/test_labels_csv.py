"""Label tables: line ends and marks of any editor are read, anything else is refused by cell."""

import pandas as pd
import pytest

from deeplrhe_utils.acquisition.barcodes import patient_of
from deeplrhe_utils.acquisition.labels.labels import attach_labels, read_labels, with_label_patients
from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.paths import REFERENCE_DATA


def write(folder, text, encoding="utf-8"):
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_and_byte_order_marks_make_no_difference(tmp_path, newline, encoding):
    text = newline.join(["patient_id,TP53,EGFR", "P1,1,0", "P2,,1", "P3, 0 ,", ""])
    table = read_labels(write(tmp_path, text, encoding), ["TP53", "EGFR"])
    status = table.pivot(index="patient_id", columns="gene", values="status")
    assert status["TP53"].tolist() == [1, pd.NA, 0] or status["TP53"].isna().tolist() == [False, True, False]
    assert status["EGFR"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(("text", "says"), [
    ("", "empty"), ("patient_id,TP53\n", "no rows"),
    ("patient_id,TP53\nP1,2\n", "line 2, column TP53.*Got: 2 .*0 .wild type"),
    ("patient_id,TP53\nP1,1\nP2,yes\n", "line 3, column TP53.*yes"),
    ("patient_id,TP53\nP1,1\nP1,0\n", "line 3.*P1 contradicts line 2"),
    ("patient_id,TP53\nP1,1\nP1,\n", "contradicts"), ("patient_id,EGFR\nP1,1\n", "no column for TP53.*EGFR"),
    ("case,TP53\nP1,1\n", "names no patients"), ("patient_id\nP1\n", "no gene column"),
    ("patient_id,TP53\n,1\n", "line 2: patient_id is empty"), ("patient_id,TP53,TP53\nP1,1,1\n", "repeated"),
    ("patient_id,TP53\nP1,1,0\n", "line 2: 3 cells"),
    ("slide_id,patient_id,TP53\nS,P1,1\nS,P2,1\n", "slide S belongs to P1 and to P2"),
    ("patient_id,TP53\nP1,\0\n", "not a text file"), ('patient_id,TP53\n"P1,1\n', "not valid CSV"),
])  # fmt: skip
def test_anything_else_is_refused_and_named(tmp_path, text, says):
    with pytest.raises(LabelError, match=says):
        read_labels(write(tmp_path, text), ["TP53"])


def test_other_encodings_and_missing_files_are_refused(tmp_path):
    with pytest.raises(LabelError, match="UTF-8"):
        read_labels(write(tmp_path, "patient_id,TP53\nMüller,1\n", "latin-1"), ["TP53"])
    with pytest.raises(LabelError, match="not there"):
        read_labels(tmp_path / "nowhere.csv", ["TP53"])


def test_rows_that_agree_are_merged_and_slides_alone_name_patients_by_their_barcode(tmp_path):
    path = write(tmp_path, "patient_id,slide_id,TP53,KRAS\nP1,A,1,0\nP1,B,1,0\nP2,C,0,\n")
    table = read_labels(path)
    assert len(table) == 4 and set(table["gene"]) == {"TP53", "KRAS"}
    slides = pd.DataFrame({"slide_id": ["A", "B", "C.ome", "D"], "patient_id": "own"})
    slides["path"] = "/in/" + slides["slide_id"] + ".tif"
    got, notes = with_label_patients(slides, path)
    assert got["patient_id"].tolist() == ["P1", "P1", "own", "own"] and "not found: C" in notes[0]
    write(tmp_path, "slide_id,patient_id,TP53\nA.tif,P1,1\nC.ome.tif,P2,0\nD,P3,0\n")
    got, notes = with_label_patients(slides, path)
    assert got["patient_id"].tolist() == ["P1", "own", "P2", "P3"]
    assert notes == [
        "2 slides of labels_csv are named with the ending of their file, such as A.tif: they were met by it."
    ]
    write(tmp_path, "patient_id,slide_id,TP53,KRAS\nP1,A,1,0\nP1,B,1,0\nP2,C,0,\n")
    assert len(read_labels(path, ["KRAS"])) == 2
    path = write(tmp_path, "slide_id,TP53\nTCGA-21-5784-01Z-00-DX1,1\nTCGA-21-5784-01A-01-TS1,1\ncase 7,0\n")
    assert sorted(read_labels(path)["patient_id"]) == ["TCGA-21-5784", "case 7"]
    assert patient_of("tcga-21-5784-01Z") == "TCGA-21-5784"


def test_values_are_those_of_scores_and_words_for_unknown_are_counted(tmp_path):
    table = read_labels(
        write(tmp_path, "patient_id,TP53\nA,1.0\nB,0.0\nC,TRUE\nD,false\nE,NaN\nF,[Not Available]\nG,NaN\n")
    )
    assert table["status"].fillna(-1).tolist() == [1, 0, 1, 0, -1, -1, -1]
    assert table.attrs["notes"] == ["These labels are unknown: NaN (2 rows), [Not Available] (1 row)."]


def test_genes_are_named_or_look_like_it_and_others_are_listed(tmp_path):
    path = write(tmp_path, "patient_id,sex,AGE,TP53,HLA-A,C9orf72,stage II,outcome\nA,1,60,1,0,1,x,1\n")
    table = read_labels(path)
    assert list(table["gene"]) == ["TP53", "HLA-A", "C9orf72"]
    assert "not taken as genes: sex, AGE, stage II, outcome." in table.attrs["notes"][0]
    assert list(read_labels(path, ["sex", "outcome"])["gene"]) == ["sex", "outcome"]
    assert list(read_labels(write(tmp_path, "patient_id,age,outcome\nA,7,1\n"))["gene"]) == ["outcome"], "the only one"
    for text in ("patient_id,sex\nA,1\n", ",patient_id\n0,A\n", "patient_id,one,two\nA,1,1\n"):
        with pytest.raises(LabelError, match="no gene column"):
            read_labels(write(tmp_path, text))


def test_lines_are_those_of_an_editor_and_barcodes_are_cut(tmp_path):
    text = 'patient_id,TP53,note\nTCGA-05-4000-01A,1,"two\nlines"\n\n\ntcga-05-4001-01,0,\nC,x,\n'
    with pytest.raises(LabelError, match=r"line 7, column TP53.*Got: x"):
        read_labels(write(tmp_path, text))
    table = read_labels(write(tmp_path, text.replace("x", "0")))
    assert list(table["patient_id"]) == ["TCGA-05-4000", "TCGA-05-4001", "C"]
    assert "2 names in patient_id are TCGA barcodes" in table.attrs["notes"][-1]


def test_labels_and_slides_that_do_not_meet_are_told(tmp_path):
    labels = read_labels(write(tmp_path, "patient_id,TP53\nP1,1\nP2,0\n"))
    slides = pd.DataFrame(
        {"slide_id": ["A", "B", "C"], "patient_id": ["P1", "P3", "P2"], "status": ["ok", "ok", "excluded"]}
    )
    match = attach_labels(slides, labels)
    assert match.unknown_patients == ["P2"] and match.unlabelled_slides == ["B"]
    assert match.sentence.startswith("1 of 2 labelled patients") and "(not: P2)" in match.sentence
    with pytest.raises(LabelError, match="No label belongs"):
        attach_labels(slides[slides["patient_id"] == "P3"], labels)


ALIASES = "patient_id,STK11,LKB1,TP53\nP1,1,0,0\nP2,0,0,1\n"
LONG = "patient_id,gene,status\nP1,LKB1,0\nP1,STK11,1\n"


@pytest.mark.parametrize(("text", "genes", "says"), [
    (ALIASES, ["STK11"], "LKB1 is another name of STK11, and STK11 is read: check"),
    (ALIASES, ["LKB1", "TP53"], "LKB1 is another name of STK11."),
    (LONG, ["STK11"], "and STK11 is read: check"),
    ("patient_id,HER1\nP1,1\n", [], "HER1 is another name of EGFR."),
    (ALIASES, ["TP53"], ""), ("patient_id,STK11,EGFR\nP1,1,0\n", [], ""), ("patient_id,p53,TP53\nP1,1,0\n", [], ""),
])  # fmt: skip
def test_another_name_of_a_gene_is_told(tmp_path, text, genes, says):
    told = [note for note in read_labels(write(tmp_path, text), genes).attrs["notes"] if "another name" in note]
    assert len(told) == bool(says) and all(says in note for note in told)


@pytest.mark.parametrize(("text", "genes"), [(ALIASES, []), (ALIASES, ["LKB1", "STK11"]), (LONG, []),
                                             ("patient_id,POLE1,POLE\nP1,1,0\n", [])])  # fmt: skip
def test_two_names_of_one_gene_are_refused(tmp_path, text, genes):
    with pytest.raises(LabelError, match=r"names one gene twice.*Got: (STK11 and|LKB1 and|POLE1 and POLE).*, both"):
        read_labels(write(tmp_path, text), genes)


def test_the_table_of_names_leads_to_symbols():
    table = pd.read_csv(REFERENCE_DATA / "gene_aliases.csv", dtype=str)
    assert not set(table["alias"]) & set(table["symbol"]) and table["alias"].is_unique and table.notna().all(axis=None)
