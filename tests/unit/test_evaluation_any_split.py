"""Splits of other programs: read as they are, written byte for byte, and audited against counts made by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from deeplrhe_utils.core.errors import CohortError, InputError, LabelError, ParameterError
from deeplrhe_utils.evaluation.audits.leakage import audit_split
from deeplrhe_utils.evaluation.splits import files, folds
from deeplrhe_utils.evaluation.splits.published import read_any_split, write_any_split
from deeplrhe_utils.running.commands.cli import main

ROLES = ["train", "val", "test"]


def slides(n=12):
    """Two slides of each of n/2 patients."""
    return [f"TCGA-05-{i // 2:04d}-01Z-00-DX{i % 2 + 1}.{i:08x}" for i in range(n)]


def dealt(n=12, n_folds=3):
    """Role of each slide in each fold, as Patho-Bench writes them; patients stay whole."""
    return {f"fold_{f}": [ROLES[2 if i // 2 % n_folds == f else 1 if i // 2 % n_folds == (f + 1) % n_folds else 0]
                          for i in range(n)] for f in range(n_folds)}  # fmt: skip


def pathobench(folder, n=12, **more):
    frame = pd.DataFrame({"case_id": [s[:12] for s in slides(n)], "slide_id": slides(n),
                          "EGFR": [str(i // 2 % 2) for i in range(n)], **dealt(n), **more})  # fmt: skip
    frame.to_csv(folder / "k=all.tsv", sep="\t", index=False)
    return folder / "k=all.tsv"


def clam(folder, n=12, ending="", boolean=False, columns=ROLES):
    for fold, roles in enumerate(dealt(n).values()):
        names = pd.Series([s + ending for s in slides(n)])
        lists = {c: pd.Series(names[np.array(roles) == c].tolist(), dtype=object) for c in columns}
        table = pd.DataFrame(lists) if not boolean else pd.DataFrame({c: names.isin(lists[c]) for c in columns})
        table = table.set_axis(names) if boolean else table
        table.to_csv(folder / f"splits_{fold}{'_bool' * boolean}.csv")
    return folder


def tables(folder, n=12):
    frame = pd.DataFrame({"case_id": [s[:12] for s in slides(n)], "slide_id": slides(n), "role": dealt(n)["fold_0"]})
    for role, part in frame.groupby("role"):
        part.drop(columns="role").to_csv(folder / f"set-{role}.csv", index=False)
    (folder / "set-test_other.csv").write_text("slide_id\nelsewhere\n")
    return folder


def same(found, columns=("fold", "unit_id", "role")):
    return sorted(found.splits[list(columns)].itertuples(index=False, name=None))


@pytest.mark.parametrize("make", [
    pathobench, clam, lambda d: clam(d, ending=".svs"), lambda d: clam(d, boolean=True),
    lambda d: clam(d, boolean=True, ending=".SVS"), lambda d: (clam(d, 4, boolean=True), clam(d))[1],
])  # fmt: skip
def test_every_layout_tells_the_same_folds(tmp_path, make):
    found = read_any_split(make(tmp_path))
    expected = [(f, s, {"val": "valid"}.get(r, r)) for f, roles in enumerate(dealt().values())
                for s, r in zip(slides(), roles, strict=True)]  # fmt: skip
    assert same(found) == sorted(expected) and set(found.splits["scheme"]) == {"slide"}
    assert dict(found.units[["slide_id", "patient_id"]].to_numpy()) == {s: s[:12] for s in slides()}
    hashes = folds.hashed(pd.DataFrame(expected, columns=["fold", "unit_id", "role"]))
    assert set(found.splits["hash"]) == set(hashes["hash"])


def test_tables_of_train_val_and_test_by_folder_or_by_name(tmp_path):
    found = read_any_split(tables(tmp_path))
    assert found.notes == ["Not read: set-test_other.csv."] and found.splits["fold"].eq(0).all()
    listed = read_any_split([tmp_path / f"set-{role}.csv" for role in ("test", "train", "val")])
    assert same(found) == same(listed) and found.splits["role"].value_counts().to_dict() == {
        "train": 4, "valid": 4, "test": 4}  # fmt: skip
    (tmp_path / "set-val.csv").unlink()
    assert set(read_any_split(tmp_path).splits["role"]) == {"train", "test"}
    pd.read_csv(tmp_path / "set-test.csv").drop(columns="slide_id").to_csv(tmp_path / "set-test.csv", index=False)
    with pytest.raises(InputError, match="others only patients"):
        read_any_split(tmp_path)


def test_names_without_patients_meet_a_table_of_labels(tmp_path):
    clam(tmp_path)
    for path in tmp_path.glob("*.csv"):
        path.write_text(path.read_text().replace("TCGA-05-", "case_"))
    found = read_any_split(tmp_path)
    assert found.units["patient_id"].isna().all()
    with pytest.raises(InputError, match="The patient of 12 of 12 units is unknown"):
        audit_split(found.splits, found.units)
    names = found.units["slide_id"]
    owners = pd.DataFrame({"case_id": names.str[:6], "slide_id": names + ".svs", "label": ["x", "y"] * 6})
    owners[1:].to_csv(tmp_path / "labels.txt", index=False)
    told = read_any_split(tmp_path, tmp_path / "labels.txt")
    assert told.notes == [f"1 of 12 have no row in {tmp_path / 'labels.txt'}: {names[0]}."]
    assert told.units["patient_id"].isna().sum() == 1 and told.units["label"].nunique() == 2
    people = pd.DataFrame({"patient_id": names[:6], "gene": "TP53", "status": [0, 1] * 3})
    people.to_csv(tmp_path / "long.csv", index=False)
    own = read_any_split(tmp_path, tmp_path / "long.csv")  # the names are patients, says the table
    assert set(own.splits["scheme"]) == {"patient"} and own.units["TP53"].notna().sum() == 6


@pytest.mark.parametrize("form", ["long", "by slide", "by patient", "tabs"])
def test_labels_of_any_form_meet_slides_and_patients(tmp_path, form):
    clam(tmp_path)
    wide = pd.DataFrame(
        {"slide_id": slides(), "patient_id": [s[:12] for s in slides()], "EGFR": [i // 2 % 2 for i in range(12)]}
    )
    table = {
        "long": wide.rename(columns={"EGFR": "status"}).assign(gene="EGFR"),
        "tabs": wide,
        "by slide": wide.drop(columns="patient_id"),
        "by patient": wide.drop(columns="slide_id"),
    }[form]
    table.to_csv(tmp_path / "labels.txt", index=False, sep="\t" if form == "tabs" else ",")
    patients = folds.splits_table("patient", np.array(sorted(set(wide["patient_id"]))), np.arange(6) % 2, 2, 0)
    files.write_split(tmp_path / "a.json", patients)
    for given, n in ((tmp_path, 12), (tmp_path / "a.json", 6)):
        found = read_any_split(given, tmp_path / "labels.txt")
        told = dict(found.units[["patient_id", "EGFR"]].to_numpy())
        assert found.notes == [] and len(found.units) == n
        assert told == {p: str(e) for p, e in wide[["patient_id", "EGFR"]].to_numpy()}


def test_signed_splits_and_clams_lists_of_patients(tmp_path):
    names = [f"TCGA-05-{i:04d}" for i in range(6)]
    frame = folds.splits_table("patient", np.array(names), np.arange(6) % 2, 2, 5)
    files.write_split(tmp_path / "a.json", frame)
    assert write_any_split(tmp_path / "c", "clam", frame, pd.DataFrame({"patient_id": names})).startswith("CLAM")
    read = [read_any_split(tmp_path / name) for name in ("a.json", "c")]
    assert same(read[0]) == same(read[1]) and {r.splits["scheme"].iloc[0] for r in read} == {"patient"}
    assert read[0].units["patient_id"].tolist() == names


@pytest.mark.parametrize("names", [slides(), [s.replace("TCGA", "SYNT") for s in slides()], list("abcdefghijkl")])
def test_a_signed_split_of_slides_is_one_of_slides(tmp_path, names):
    frame = folds.splits_table("slide", np.array(names), np.arange(12) % 2, 2, 5)
    files.write_split(tmp_path / "a.json", frame)
    write_any_split(tmp_path / "c", "clam", frame, pd.DataFrame({"slide_id": names, "patient_id": "P"}))
    for given in ("a.json", "c"):
        read = read_any_split(tmp_path / given)
        assert set(read.splits["scheme"]) == {"slide"} and sorted(read.units["slide_id"]) == names
        assert read.units["patient_id"].nunique() == (6 if len(names[0]) > 1 else 0)


def test_samples_of_a_patient_count_as_the_patient(tmp_path):
    names = np.array(["TCGA-05-0001-01", "TCGA-05-0001-11", "TCGA-05-0002-01", "TCGA-05-0003-01"])
    for fold, twice in (([0, 0, 1, 0], 0), ([0, 1, 1, 0], 1)):
        files.write_split(tmp_path / "a.json", folds.splits_table("patient", names, np.array(fold), 2, 5))
        read = read_any_split(tmp_path / "a.json")
        found = audit_split(read.splits, read.units)
        assert len(read.units) == 3 and found.folds["twice"].eq(0).all()
        assert found.folds["two_roles"].eq(twice).all() and found.leaks == bool(twice)


@pytest.mark.parametrize(("make", "layout"), [(pathobench, "pathobench"), (clam, "clam")])
def test_what_is_read_is_written_byte_for_byte(tmp_path, make, layout):
    source = make(tmp_path)
    found = read_any_split(source)
    write_any_split(tmp_path / "again", layout, found.splits, found.units)
    for path in [source] if source.is_file() else sorted(source.glob("*.csv")):
        twin = tmp_path / "again" if source.is_file() else tmp_path / "again" / path.name
        assert twin.read_bytes() == path.read_bytes()


def test_the_real_files_are_written_byte_for_byte(tmp_path, shared_data):
    for folder, layout in (("pathobench_format", "pathobench"), ("hipt_10fold", "clam")):
        found = read_any_split(shared_data / "splits" / folder)
        write_any_split(tmp_path / layout, layout, found.splits, found.units)
    (genuine,) = (shared_data / "splits/pathobench_format").glob("*.tsv")
    assert (tmp_path / "pathobench").read_bytes() == genuine.read_bytes()
    for fold in range(10):
        name = f"splits_{fold}.csv"
        assert (tmp_path / "clam" / name).read_bytes() == (shared_data / "splits/hipt_10fold" / name).read_bytes()


HEAD = "case_id\tslide_id\tx\tfold_0\n"
BROKEN = {
    "a.csv": [("a,b\n1,2\n", "no split that is known here. Got: a, b"), ("", "is empty"),
              (",train,val,test\n", "a header and no rows"), (",train,test\n0,a\n", "2 cells"),
              (",train,train,test\n0,a,b,c\n", "repeated column"), ("<html>", "web page"), (b"\xff\xfe", "UTF-16"),
              (",train,test\na,True,Fals\n", "column test: 1 cells are unknown. Got: Fals"),
              (",train,test\na,True,False\n,False,True\n", "line 3: the name is empty"),
              (",train,test\na,False,False\n", "gives no unit a role")],
    "b.tsv": [(HEAD + "P\tS\t1\ttrian\n", "line 2, column fold_0: 1 roles are unknown. Got: trian"),
              (HEAD + "P\t\t1\ttrain\n", "slide_id is empty"), ("fold_0\tx\ntrain\t1\n", "names no slides"),
              (HEAD + "P\tS\t1\ttrain\nQ\tS\t1\ttrain\n", "S belongs to two patients. Got: P and Q")],
    "c.json": [("{", "cannot be read as JSON"), ('{"kind": "x"}', "is no split file"), (b"\x93NUMPY", "as JSON")],
    "d.npy": [(b"\x93NUMPY", "a file named .npy")],
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "says"), [(n, *one) for n, each in BROKEN.items() for one in each])
def test_damaged_and_other_files_are_refused(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        read_any_split(path)


def test_folders_that_are_no_split_are_refused(tmp_path):
    for given, says in ((tmp_path / "none", "is not there"), (tmp_path, "no CSV or TSV")):
        with pytest.raises(InputError, match=says):
            read_any_split(given)
    for name in ("a_train.csv", "a_test.csv", "b_train.csv", "b_test.csv", "train_test.csv"):
        (tmp_path / name).write_text("slide_id\nS\n")
    with pytest.raises(InputError, match=r"2 divisions: a_\*\.csv, b_\*\.csv"):
        read_any_split(tmp_path)
    with pytest.raises(InputError, match="tells no role"):
        read_any_split([tmp_path / "a_train.csv", tmp_path / "train_test.csv"])
    (tmp_path / "splits_0.csv").write_text(",train,test\n0,a,b\n")
    (tmp_path / "splits_2.csv").write_text(",train,test\n0,b,a\n")
    found = read_any_split(tmp_path)
    assert found.notes == [f"There is no splits_1.csv in {tmp_path}."] and set(found.splits["fold"]) == {0, 2}


@pytest.mark.parametrize("name", ["a\tb", "a\nb", '"a', "=cmd|calc!A1", "@SUM(A1)", "-x"])
@pytest.mark.parametrize("layout", ["pathobench", "clam"])
def test_names_that_a_layout_cannot_hold_are_refused(tmp_path, layout, name):
    units = pd.DataFrame({"slide_id": ["S", name], "patient_id": ["P", "Q"]})
    frame = folds.splits_table("slide", units["slide_id"].to_numpy(), np.arange(2), 2, 0)
    with pytest.raises(ParameterError, match="cannot be written as"):
        write_any_split(tmp_path / "out", layout, frame, units)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_refused(tmp_path):
    units = pd.DataFrame({"patient_id": ["P", "Q"]})
    frame = folds.splits_table("patient", units["patient_id"].to_numpy(), np.arange(2), 2, 0)
    for layout, given in (("pathobench", frame), ("xml", frame), ("clam", frame.assign(scheme="tile"))):
        with pytest.raises(ParameterError, match="cannot be written as"):
            write_any_split(tmp_path / "out", layout, given, units)
    with pytest.raises(CohortError, match="twice in a fold"):
        write_any_split(tmp_path / "out", "clam", pd.concat([frame, frame]), units)


# ---- the audit
def audited(rows, patients, **columns):
    """Audit of (fold, slide, role) and slide → patient."""
    splits = pd.DataFrame(rows, columns=["fold", "unit_id", "role"]).assign(scheme="slide", seed=0)
    units = pd.DataFrame({"slide_id": list(patients), "patient_id": list(patients.values()), **columns})
    return audit_split(folds.hashed(splits), units)


def test_the_audit_by_hand():
    patients = dict(zip("abcdefg", "PPQQRST", strict=True))
    first = [(0, "a", "test"), (0, "b", "train"), (0, "c", "test"), (0, "d", "valid"), (0, "e", "test"),
             (0, "f", "train"), (0, "f", "train"), (0, "g", "train"), (0, "g", "valid")]  # fmt: skip
    second = [(1, s, "test" if s in "eg" else "train") for s in "abcefg"]
    found = audited(first + second, patients, site_id=["x", "x", "y", "y", "z", "z", None])
    one, two = found.folds.to_dict("records")
    assert (one["train"], one["valid"], one["test"], one["test_patients"]) == (3, 2, 3, 3)
    assert (one["in_train_share"], one["in_valid_share"]) == (1 / 3, 1 / 3)
    assert one["site_in_train_share"] == 2 / 3  # x of a, z of e; y is in validation only
    assert (one["twice"], one["two_roles"], one["without_role"]) == (1, 1, 0)
    assert (two["in_train_share"], two["without_role"], two["site_in_train_share"]) == (0, 1, 1)  # g has no site
    said = "\n".join(found.findings)
    assert found.leaks and "WARNING: 16.7 % of the test slides are of a patient that is also in training (0.0 to 33.3 %"
    assert "most in fold 0: 1 of 3, of 1 patient)" in said and "Units with two roles: 1 in fold 0." in said
    assert "Units named twice: 1 in fold 0." in said and "Units without a role: 1 in fold 1." in said
    assert "1 of 4 tested patients are tested in more than one fold, one of them in 2" in said
    assert "3 slides of 7 are never tested" in said and "No label is known" in said


def test_a_clean_split_is_clean(tmp_path):
    read = read_any_split(pathobench(tmp_path))
    found = audit_split(read.splits, read.units)
    assert not found.leaks and "No patient of the test side is also in training." in found.findings
    assert not any("WARNING" in text or text.startswith("Units") for text in found.findings)


@pytest.mark.parametrize(
    ("tested", "verdict"), [(slice(0, 20), "more than chance deals"), (slice(0, 40, 2), "as chance")]
)
def test_labels_are_compared_with_what_chance_deals(tested, verdict):
    names = [f"s{i}" for i in range(40)]
    test = set(names[tested])
    rows = [(0, s, "test" if s in test else "train") for s in names]
    status = ["1"] * 20 + ["0"] * 18 + ["NA", ""]
    found = audited(rows, dict(zip(names, names, strict=True)), EGFR=status)
    (row,) = found.labels.to_dict("records")
    n, k = row["test_known"], row["test"]
    assert (row["label"], row["value"], row["test_known"] + row["train_known"]) == ("EGFR", "1", 38)
    law = stats.hypergeom(38, 20, n)
    assert (row["expected"], row["expected_sd"]) == pytest.approx((law.mean(), law.std()))
    every = np.arange(n + 1)
    assert row["p"] == pytest.approx(law.pmf(every)[law.pmf(every) <= law.pmf(k) * (1 + 1e-9)].sum())
    assert verdict in found.findings[-1]


def test_targets_that_are_not_there():
    units = pd.DataFrame({"slide_id": ["a", "b"], "patient_id": ["P", "Q"]})
    frame = folds.splits_table("slide", np.array(["a", "b"]), np.arange(2), 2, 0)
    with pytest.raises(LabelError, match="have a column TP53"):
        audit_split(frame, units, ["TP53"])


# ---- as typed
def run(capsys, *words):
    code = main(["split", *map(str, words)])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out + said.err


def test_audit_as_typed(tmp_path, capsys):
    code, said = run(capsys, "--audit", pathobench(tmp_path), "--out", tmp_path / "o")
    assert code == 0 and "12 slides of 6 patients, 3 folds, read as: pathobench." in said
    assert [line.split() for line in said.splitlines() if line.split()[:2] == ["EGFR", "1"]] == [
        ["EGFR", "1", "0.5", "0.5", "0.5"]
    ]
    told = json.loads((tmp_path / "o/audit.json").read_text())
    assert told["leaks"] is False and all(text in said for text in told["findings"])
    assert len(pd.read_csv(tmp_path / "o/folds.csv")) == 3 and len(pd.read_csv(tmp_path / "o/labels.csv")) == 3
    (tmp_path / "k").mkdir()
    torn = pathobench(tmp_path / "k", fold_0=["train", "test"] * 6)
    code, said = run(capsys, torn.parent, "--audit", "--genes", "EGFR")
    assert code == 1 and "WARNING: 33.3 % of the test slides are of a patient that is also in training" in said
    sites = pd.DataFrame({"patient_id": sorted({s[:12] for s in slides()}), "site_id": list("abcdef")})
    sites.to_csv(tmp_path / "s.csv", index=False)
    code, said = run(capsys, "--audit", tmp_path / "k=all.tsv", "--sites", tmp_path / "s.csv")
    assert code == 0 and "No site of the test side is also in training." in said
    assert run(capsys, "--audit", tables(tmp_path / "k") / "set-train.csv")[0] == 1
    assert run(capsys, tmp_path / "s.csv", tmp_path / "s.csv")[0] == 2


def test_sites_of_a_signed_split_are_asked(tmp_path, capsys):
    names = np.array([f"P{i}" for i in range(8)])
    sites = {name: f"S{i % 4}" for i, name in enumerate(names)}
    files.write_split(tmp_path / "a.json", folds.splits_table("site", names, np.arange(8) % 2, 2, 0), sites=sites)
    code, said = run(capsys, "--audit", tmp_path / "a.json")
    assert (
        code == 0
        and "\n8 patients, 2 folds, read as: signed." in said
        and "No site of the test side is also in training." in said
    )


@pytest.mark.parametrize("scheme", ["patient", "slide", "site"])
@pytest.mark.parametrize("layout", ["pathobench", "clam"])
def test_other_layouts_as_typed(tmp_path, capsys, monkeypatch, scheme, layout):
    monkeypatch.chdir(tmp_path)
    names = [f"TCGA-{('05', '44', '50', '55')[i % 4]}-{i // 2:04d}-01Z-00-DX{i % 2}" for i in range(40)]
    labels = pd.DataFrame({"slide_id": names, "patient_id": [f"TCGA-{n[5:12]}" for n in names]})
    labels["EGFR"] = [int(n[8:12], 10) % 2 for n in names]
    labels.to_csv("l.csv", index=False)
    assert run(capsys, "l.csv", "--scheme", scheme, "--folds", 2)[0] == 0
    code, said = run(capsys, "l.csv", "--scheme", scheme, "--folds", 2, "--format", layout)
    assert code == 0 and "layout does not keep" in said
    out = f"l-{scheme}-{'clam' if layout == 'clam' else 'k=all.tsv'}"
    theirs, ours = read_any_split(tmp_path / out), read_any_split(tmp_path / f"l-{scheme}-split.json")
    roles = theirs.splits.merge(theirs.units, left_on="unit_id", right_on="slide_id")
    name = "slide_id" if scheme == "slide" else "patient_id"
    got = set(roles[["fold", name, "role"]].itertuples(index=False, name=None))
    assert got == set(ours.splits[["fold", "unit_id", "role"]].itertuples(index=False, name=None))
    assert set(theirs.units["slide_id"]) == set(names)
    assert run(capsys, "l.csv", "--scheme", scheme, "--format", layout)[0] == 2  # it is there
    assert run(capsys, "l.csv", "--format", layout, "--hashed", "--out", "x")[0] == 2
    labels.drop(columns="slide_id").drop_duplicates().to_csv("p.csv", index=False)
    assert run(capsys, "p.csv", "--format", layout)[0] == (layout == "pathobench")
