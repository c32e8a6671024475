"""``deeplrhe split``: from somebody's labels to a signed split, and what it says of labels that are not right."""

import json

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.acquisition.barcodes import parse_name
from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.evaluation.splits import files, folds
from deeplrhe_utils.running.commands.cli import main


def barcodes(n=40, sites=("05", "44", "50", "55")):
    return [f"TCGA-{sites[i % len(sites)]}-{i:04d}" for i in range(n)]


def wide(n=40, seed=0):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({"patient_id": barcodes(n)})
    return frame.assign(TP53=(random.random(n) < 0.5).astype(int), EGFR=(random.random(n) < 0.2).astype(int))


def long(n=40, seed=0):
    return wide(n, seed).melt("patient_id", var_name="gene", value_name="status")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(here, capsys, text, *arguments, code=0, name="l.csv"):
    """Run the command on a labels file; what it printed."""
    if text is not None:
        (here / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["split", name, *arguments]) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.out + said.err


def test_long_and_wide_labels_give_the_same_split(here, capsys):
    first = run(here, capsys, wide().to_csv(index=False), "--seed", "3", "--out", "a.json")
    run(here, capsys, long().sample(frac=1, random_state=0).to_csv(index=False), "--seed", "3", "--out", "b.json")
    assert (here / "a.json").read_bytes() == (here / "b.json").read_bytes()
    frame = files.read_split(here / "a.json")
    labels = long().astype({"status": "Int64"})
    expected = folds.patient_folds(labels, 2, 3)
    assert list(frame["unit_id"]) == list(expected["unit_id"]) and list(frame["role"]) == list(expected["role"])
    assert set(frame["hash"]) == set(expected["hash"])
    assert json.loads((here / "a.json").read_text())["signature"] in first
    test = expected[(expected["role"] == "test") & (expected["fold"] == 0)]["unit_id"]
    counts = wide().set_index("patient_id").loc[test]
    line = next(x for x in first.splitlines() if x.startswith("fold 0"))
    assert line.split()[2:] == ["20", "20", "4", f"{counts['EGFR'].sum()}/20", f"{counts['TP53'].sum()}/20"]


def test_sites_come_from_barcodes_a_column_or_a_file(here, capsys):
    said = run(here, capsys, wide().to_csv(index=False), "--scheme", "site", "--out", "a.json")
    assert "proved optimal" in said and "4 sites" in said
    frame = files.read_split(here / "a.json")
    sites = pd.DataFrame({"patient_id": barcodes()}).assign(site_id=[parse_name(p).site_id for p in barcodes()])
    folds.check_disjoint(frame, sites, "site_id")
    text = wide().assign(centre=sites["site_id"], site_id="one").to_csv(index=False)
    run(here, capsys, text, "--scheme", "site", "--sites", "centre", "--out", "b.json")
    assert (here / "a.json").read_bytes() == (here / "b.json").read_bytes()
    sites.to_csv(here / "s.csv", index=False)
    run(here, capsys, wide().to_csv(index=False), "--scheme", "site", "--sites", "s.csv", "--out", "c.json")
    assert (here / "a.json").read_bytes() == (here / "c.json").read_bytes()


def test_shares_the_default_name_and_hashed_lists_that_can_be_found_again(here, capsys):
    said = run(here, capsys, wide().to_csv(index=False), "--shares", "70/15/15")
    frame = files.read_split(here / "l-patient-split.json")
    assert frame["role"].value_counts().to_dict() == {"train": 28, "valid": 6, "test": 6}
    assert [x.split()[0] for x in said.splitlines()[1:4]] == ["train", "valid", "test"]
    run(here, capsys, wide().to_csv(index=False), "--hashed", "--out", "h.json")
    assert "TCGA" not in (here / "h.json").read_text()
    frame = files.read_split(here / "h.json", names=barcodes())
    assert set(frame["hash"]) == set(folds.patient_folds(long().astype({"status": "Int64"}))["hash"])


@pytest.mark.parametrize("scheme", ["slide", "tile"])
def test_a_split_below_the_patient_warns_and_counts(here, capsys, scheme):
    labels = wide()
    name = labels["patient_id"]
    rows = pd.concat([labels.assign(slide_id=name + f"-01A-01-TS{k}", tile_id=name + f"_{k}") for k in (1, 2, 3)])
    text = rows.drop(columns="patient_id" if scheme == "slide" else []).to_csv(index=False)
    said = run(here, capsys, text, "--scheme", scheme)
    frame = files.read_split(here / f"l-{scheme}-split.json")
    assert frame["unit_id"].nunique() == 120
    members = rows if scheme == "tile" else rows.assign(patient_id=rows["slide_id"].str[:12])
    with pytest.raises(CohortError) as found:
        folds.check_disjoint(frame, members)
    assert f"WARNING: {found.value}" in said


def test_long_barcodes_are_cut_and_unknown_labels_are_named(here, capsys):
    frame = wide().astype(object)
    frame["patient_id"] += "-01A"
    frame.loc[0, ["TP53", "EGFR"]] = ""
    said = run(here, capsys, "\ufeff" + frame.to_csv(index=False).replace("\n", "\r\n"), "--out", "x.json")
    units = set(files.read_split(here / "x.json")["unit_id"])
    assert units == set(barcodes()[1:])
    assert "Left out: 1 patients without any known label (TCGA-05-0000)" in said
    assert "40 names in patient_id are TCGA barcodes" in said and "40 patients" in (here / "x.json").read_text()
    more = frame.assign(sex=0, Group=1)
    assert "not taken as genes: sex, Group" in run(here, capsys, more.to_csv(index=False), "--out", "y.json")
    run(here, capsys, more.to_csv(index=False), "--genes", "TP53,Group", "--hashed", "--out", "z.json")
    assert (
        files.read_split(here / "z.json", names=barcodes()) is not None and "TCGA" not in (here / "z.json").read_text()
    )


HEAD = "patient_id,gene,status\n"
BAD = [
    ("", 1, "is empty"), (HEAD, 1, "a header and no rows"), (b"\xff\xfe", 1, "is not UTF-8 text"),
    (HEAD + "a,TP53,mutated\nb,TP53,0\n", 1, "line 2, column status: 1 labels are neither 0 nor 1"),
    (HEAD + "a,TP53,1\nb,TP53,0\na,TP53,0\n", 1, "line 4, column status: patient a contradicts line 2"),
    (HEAD + "a,TP53,1\n,TP53,0\n", 1, "line 3: patient_id is empty"),
    (HEAD + "a,,1\nb,TP53,0\n", 1, "line 2, column gene: the gene is empty"),
    (HEAD + "a,TP53,\nb,TP53,\n", 1, "holds no known label"), (HEAD + "a,TP53,1\n", 1, "needs at least 2 units"),
    ("patient_id,gene,status,age\na,TP53,1,60\n", 1, "Add or remove: age"),
    ("patient_id,gene\na,TP53\n", 1, "Add or remove: status"),
    ("patient_id,TP53,XY\na,1,6\n", 1, "If this column is no gene"),
    ("name,TP53\na,1\nb,0\n", 1, "names no patients"), ("patient_id,site_id\na,1\nb,0\n", 1, "has no gene column"),
    ("patient_id,TP53,TP53\na,1,1\n", 1, "repeated column name"), ("patient_id,TP53\na,1,1\n", 1, "3 cells"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "says"), BAD)
def test_bad_labels_are_named(here, capsys, text, code, says):
    assert says in run(here, capsys, text, code=code)
    assert not list(here.glob("*.json"))


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["--folds", "1"], 2, "at least two folds"), (["--folds", "two"], 2, "invalid int"),
    (["--folds", "2", "--shares", "70/15/15"], 2, "not allowed with"), (["--shares", "70/15"], 2, "three numbers"),
    (["--shares", "70/20/15"], 2, "add up to 100"), (["--shares", "a/b/c"], 2, "three numbers"),
    (["--scheme", "block"], 2, "invalid choice"), (["--scheme", "slide"], 1, "has no column slide_id"),
    (["--scheme", "site"], 1, "The site of 2 patients is unknown"),
    (["--scheme", "site", "--sites", "nowhere"], 2, "neither a file nor a column"),
    (["--scheme", "site", "--sites", "s.csv"], 1, "does not tell the site of 1 patients"),
    (["--scheme", "site", "--sites", "one.csv"], 1, "at least 2 sites"),
    (["--scheme", "site", "--sites", "torn.csv"], 1, "1 patients belong to two sites"),
])  # fmt: skip
def test_bad_wishes_are_named(here, capsys, arguments, code, says):
    (here / "s.csv").write_text("patient_id,site_id\na,x\n")
    (here / "one.csv").write_text("patient_id,site_id\na,x\nb,x\n")
    (here / "torn.csv").write_text("patient_id,site_id\na,x\nb,x\na,y\n")
    assert says in run(here, capsys, HEAD + "a,TP53,1\nb,TP53,0\n", *arguments, code=code)
    assert not list(here.glob("*.json"))


def test_another_file_is_not_overwritten(here, capsys):
    text = wide().to_csv(index=False)
    run(here, capsys, text, "--out", "x.json", "--seed", "4")
    before = (here / "x.json").read_bytes()
    assert "a split by patient with seed 4" in run(here, capsys, text, "--out", "x.json", code=2)
    assert (here / "x.json").read_bytes() == before
    assert "is not there" in run(here, capsys, None, name="none.csv", code=1)
