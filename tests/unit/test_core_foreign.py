"""Tables that others wrote: nothing is guessed or shifted, lines are an editor's, formulas go out and come back."""

import io
import random

import pandas as pd
import pytest

from deeplrhe_utils.acquisition.labels.labels import read_labels, with_label_patients
from deeplrhe_utils.acquisition.labels.mutation_files import read_deeppath_labels, read_mutations
from deeplrhe_utils.acquisition.labels.variants import read_drivers
from deeplrhe_utils.acquisition.services.manifest import read_manifest
from deeplrhe_utils.core.errors import CompendiumError, InputError
from deeplrhe_utils.core.tables.foreign import foreign_lines, guarded, read_foreign, unguarded, write_sheet
from deeplrhe_utils.evaluation.auc.deeppath import is_stats, read_classes, read_stats
from deeplrhe_utils.evaluation.auc.score_file import read_scores
from deeplrhe_utils.evaluation.audits.covariates import read_covariates
from deeplrhe_utils.evaluation.precision.readers import read_calls
from deeplrhe_utils.evaluation.splits.published import read_any_split
from deeplrhe_utils.running.jobs.split import SplitOptions, read_split_labels
from deeplrhe_utils.slides.files.inventory import read_mpp_overrides


def write(folder, text, name="t.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(("text", "says"), [
    ("patient_id,score\nP1,S1,0.4\n", "line 2: 3 cells.*P1 | S1 | 0.4.*2, as in the header.*row names"),
    ("a,b\n1,2,\n", "line 2: 3 cells.*separators at the end"), ("a,b\n1,2\n\n3\n", "line 4: 1 cells.*unfinished"),
    ("a,b\n1,2\n# note\n", "line 3: 1 cells"), ("a,b,a\n1,2,3\n", "line 1: repeated column name.*Got: a"),
    ("\n\na, a\n1,2\n", "line 3: repeated"), ("a;b\n1;2\n", "divides its cells by ';'"), ("a\tb\n1\t2\n", r"by '\\t'"),
    ("# note alone\n\n", "is empty"), ('a,b\n1,"2\n', "line 2: not valid CSV"), ("<html><body>", "web page"),
    ("a,b\n1,2\n".encode("utf-16"), "not UTF-8 text but UTF-16"), (b"PK\x03\x04rest", "but an Excel workbook"),
    ("a,b\n1,\xe4\n".encode("latin-1"), "not UTF-8 text"), (b"a,b\n1,\0\n", "not a text file"),
])  # fmt: skip
def test_whatever_would_shift_or_guess_is_refused_by_line(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_foreign(write(tmp_path, text), InputError)


@pytest.mark.parametrize(("text", "columns", "lines"), [
    ("a,b\n1,2\n", ["a", "b"], [2]), ("# made by x\n#y,z\n a ,b\n1,2\n\n\n1,2\n", ["a", "b"], [4, 7]),
    (',a,b\n0,1,2\n1,1,2\n', ["(column 1)", "a", "b"], [2, 3]), ("a,b,\n1,2,\n1,2,\n", ["a", "b"], [2, 3]),
    ('a,b\n"1","2"\n"1\n","\n2"\n1,2\n', ["a", "b"], [2, 3, 6]), ("\ufeffa,b\r1,2\r\r1,2", ["a", "b"], [2, 4]),
])  # fmt: skip
def test_row_names_comments_and_blank_lines_shift_nothing(tmp_path, text, columns, lines):
    table = read_foreign(write(tmp_path, text))
    assert list(table) == columns and list(table.index) == lines
    assert set(table["a"]) == {"1"} and set(table["b"]) == {"2"}


HOSTILE = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "'=x",
    "''=x",
    "'",
    "-",
    "- 1",
    "=",
    "plain",
    "a=b",
    "-0.5",
]
HOSTILE += ["+1e-3", ".5", "12 %", "", "'quoted'"]


def test_formulas_are_guarded_and_come_back(tmp_path):
    frame = pd.DataFrame({"id": HOSTILE, "=gene": range(len(HOSTILE)), "value": [-0.5] * len(HOSTILE)})
    path = write_sheet(frame, tmp_path / "t.csv")
    shown = pd.read_csv(path, dtype=str, keep_default_na=False)
    risky = [cell for cell in [*shown["id"], *shown.columns] if cell[:1] in tuple("=+-@\t\r") and cell]
    assert risky == ["-0.5", "+1e-3"] and set(shown["value"]) == {"-0.5"}
    back = read_foreign(path)
    assert back["id"].tolist() == HOSTILE and list(back) == list(frame)
    assert all(unguarded(guarded(text)) == text for text in [*HOSTILE, "\t=x", "\r", "'\tx"])
    plain = pd.DataFrame({"a": ["x", None, "0"], "b": [1, 2, 3]}).astype({"b": "Int64"})
    text = io.StringIO()
    plain.to_csv(text, index=False)
    assert write_sheet(plain, path).read_text() == text.getvalue()


def test_names_one_per_line(tmp_path):
    assert foreign_lines(write(tmp_path, "\ufeff# who\r\nP1\r\n\r\n P2 \r\n")) == ["P1", "P2"]
    with pytest.raises(InputError, match="not UTF-8"):
        foreign_lines(write(tmp_path, b"\xff\xfeP\0"))


# ---- whatever the bytes: a table, or an error of ours
MAF = (
    "#version 2.4\n#sequenced_samples: TCGA-05-0001-01 TCGA-05-0003-01\n"
    + 2 * (
        "Hugo_Symbol\tTumor_Sample_Barcode\tVariant_Classification\tHGVSp_Short\tFILTER\n"
        "TP53\tTCGA-05-0001-01A\tMissense_Mutation\tp.R1L\tPASS\nKRAS\tTCGA-05-0002-01A\tOdd\t\tpanel\n"
    )
)  # fmt: skip
SEEDS = {
    read_scores: "patient_id,slide_id,tile_id,gene,label,score,fold\nP1,S1,1,TP53,1,0.5,a\nP2,S2,2,TP53,0,0.25,a\n",
    read_labels: 'patient_id,slide_id,TP53,EGFR,age\nTCGA-05-0001-01A,S1,1,0,7\n"P2",S2,NA,1.0,8\n',
    lambda path: read_any_split(path): ",train,val,test\n0,S1,S2,S3.svs\n1,S4,,\n",
    lambda path: read_any_split(path, path): "case_id,slide_id,X,fold_0,fold_1\nA,S,1,test,train\nB,T,0,train,val\n",
    lambda path: read_split_labels(path, SplitOptions("slide")): "slide_id,gene,status\nA,TP53,1\nB,TP53,0\n",
    lambda path: with_label_patients(pd.DataFrame({"slide_id": ["S"], "patient_id": ["P"], "path": ["S.svs"]}), path):
        "slide_id,patient_id,TP53\nS.svs,P,1\n",
    read_mpp_overrides: "slide_id,mpp\nS1,0.5\nS2,0.25\n", read_covariates: "patient_id,purity\nP1,0.5\nP2,\n",
    read_calls: "case_id,truth,reader,call,score\nA,1,model,,0.7\nA,1,Ann,1,\n",
    read_drivers: "gene,protein_change\nEGFR,p.L858R\nTP53,any\n",
    read_manifest: f"id\tfilename\tmd5\tsize\tstate\nx\ta.svs\t{'0' * 32}\t5\tlive\n", foreign_lines: "P1\nP2\n",
    read_mutations: MAF,
    lambda path: read_mutations(path, ["TP53"]): "STUDY_ID\tSAMPLE_ID\tTP53\ns\tTCGA-05-0001-01\tR1L\n",
    read_deeppath_labels: "TCGA-05-0001-0\tTP53\rTCGA-05-0002-0\tEGFR\r", read_classes: "LUAD\nLUSC\n",
    lambda path: is_stats(path) and read_stats(path):
        "test_TCGA-05-0001-01A_3_4.dat\tTrue\t[ 0.1  0.6  0.3 ]\t0.6\tlabels: \t1\n" * 2,
}  # fmt: skip
PIECES = [
    b",",
    b"\t",
    b"\n",
    b"\r",
    b'"',
    b"#",
    b"'",
    b"=",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\x1f\x8b",
    b"-",
    b"1",
    b"nan",
]
PIECES += [b"inf", b"1e999", b" ", b"\xc2\xa0", "ßİ".encode(), b"NA", b"\x0b", b"\x85", b"gene", b"status"]


def mutated(text, draw):
    """`text` after one to eight changes of bytes, lines or cells."""
    data = bytearray(text.encode())
    for _ in range(draw.randint(1, 8)):
        at, kind = draw.randint(0, len(data)), draw.randint(0, 5)
        if kind == 0:
            data[at:at] = draw.choice(PIECES)
        elif kind == 1:
            del data[at : at + draw.choice([1, 1, 3, 20])]
        elif kind == 2 and data:
            data[at % len(data)] = draw.randint(0, 255)
        elif kind == 3:
            lines = data.split(b"\n")
            lines.insert(draw.randint(0, len(lines)), draw.choice(lines))
            data = bytearray(b"\n".join(lines))
        elif kind == 4:
            lines = data.split(b"\n")
            del lines[draw.randrange(len(lines))]
            data = bytearray(b"\n".join(lines))
        else:
            start = draw.randint(0, len(data))
            data[at:at] = data[start : start + 12]
    return bytes(data)


def fuzz(folder, n):
    """Feed every reader `n` mutated tables; how many were read. Any error but ours fails with its input."""
    read = 0
    for place, (reader, text) in enumerate(SEEDS.items()):
        reader(write(folder, text))
        for seed in range(n):
            data = mutated(text, random.Random(f"{place} {seed}"))
            try:
                reader(write(folder, data))
                read += 1
            except CompendiumError as error:
                assert str(error)
            except Exception as error:
                raise AssertionError(f"reader {place}, seed {seed}: {error!r}\n{data!r}") from error
    return read


def test_no_damage_makes_a_reader_fail_in_another_way(tmp_path):
    assert fuzz(tmp_path, 20) > 20


@pytest.mark.slow
def test_no_damage_of_thirty_thousand_makes_a_reader_fail_in_another_way(tmp_path):
    assert fuzz(tmp_path, 2_000) > 2_000
