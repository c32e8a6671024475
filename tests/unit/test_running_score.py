"""`deeplrhe score`: a table in, AUCs out; what is wrong with a table is named, counted and never dropped silently."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.acquisition.labels.labels import read_labels
from deeplrhe_utils.core.errors import InputError, LabelError, ParameterError
from deeplrhe_utils.evaluation.auc.deeppath import is_stats, read_classes, read_stats, write_stats
from deeplrhe_utils.evaluation.auc.delong import CROSS_FITTED, DELONG, NEWCOMBE
from deeplrhe_utils.evaluation.auc.score_file import DEPENDENT, INDEPENDENT, read_scores
from deeplrhe_utils.evaluation.auc.units import aggregate
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs.score import SCORE_COLUMNS, ScoreOptions, score


def _table(patients=40, tiles=3, seed=0):
    random = np.random.default_rng(seed)
    rows = []
    for i in range(patients):
        label = int(i % 3 == 0)
        for t in range(tiles):
            value = 1 / (1 + np.exp(-(random.normal() + label)))
            slide = f"P{i:02d}-{t % 2}"
            rows.append({"patient_id": f"P{i:02d}", "slide_id": slide, "tile_id": f"{slide}_{t}_0",
                         "gene": "TP53", "label": label, "score": round(value, 4)})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def csv(tmp_path):
    def write(table, name="scores.csv", **options):
        path = tmp_path / name
        table.to_csv(path, index=False, **options)
        return path

    return write


def test_the_published_marker_comes_out(shared_data, tmp_path):
    lines = []
    options = ScoreOptions(columns="label=outcome,score=ndka", positive="Poor", any_scale=True)
    found = score(shared_data / "statistics" / "pROC_aSAH.csv", tmp_path / "out", options, lines.append)
    row = found[found["ci_method"] == DELONG].iloc[0]
    assert row["auc"] == pytest.approx(0.611957994579946, abs=1e-12)
    assert (row["n_pos"], row["n_neg"]) == (41, 72)
    assert "every row counts as a patient" in lines[0] and not (tmp_path / "out" / "calibration.png").exists()
    assert (tmp_path / "out" / "roc.png").stat().st_size > 10_000


def test_files_units_and_methods(csv, tmp_path):
    table = _table()
    out = tmp_path / "out"
    assert main(["score", str(csv(table)), "--out", str(out), "--unit", "all", "--resamples", "200"]) == 0
    found = pd.read_csv(out / "auc.csv")
    assert list(found) == SCORE_COLUMNS
    assert found.groupby("unit")["ci_method"].nunique().to_dict() == {"patient": 4, "slide": 2, "tile": 2}
    mean = table.groupby("patient_id")[["label", "score"]].mean()
    first = found[found["unit"] == "patient"].iloc[0]
    assert first["auc"] == pytest.approx(roc_auc_score(mean["label"].astype(int), mean["score"]))
    tile = found[found["unit"] == "tile"].iloc[0]
    assert tile["auc"] == pytest.approx(roc_auc_score(table["label"], table["score"])) and tile["n_pos"] == 42
    page = (out / "index.html").read_text()
    assert "TP53" in page and 'src="roc.png"' in page and 'src="calibration.png"' in page
    ledger = pd.read_csv(out / "ledger.csv")
    assert ledger["rows"].sum() == len(table)


def test_whatever_is_set_aside_is_counted(csv):
    table = _table().astype({"score": object, "label": object})
    table.loc[0, "score"], table.loc[1, "score"] = "", "NaN"
    table.loc[table["patient_id"] == "P05", "label"] = "NA"
    table = pd.concat([table, table.iloc[[20, 21]]])
    scores = read_scores(csv(table))
    counts = scores.ledger.set_index("outcome")["rows"].to_dict()
    assert counts == {"used": 120 - 2 - 3, "no score": 2, "repeats another row": 2, "no label": 3}
    assert sum(counts.values()) == len(table) and len(scores.predictions) == counts["used"]
    assert scores.ledger.set_index("outcome").loc["no score", "examples"] == "rows 2, 3"


@pytest.mark.parametrize(("change", "error", "match"), [
    ({"score": 1.3}, InputError, r"1 scores are no probabilities.*1.3 in line 9.*--any-scale"),
    ({"score": "high"}, InputError, r"line 9: the score is no number.*high"),
    ({"score": "inf"}, InputError, r"line 9: the score is infinite"),
    ({"label": "Poor"}, LabelError, r"line 9, column label: 1 labels are neither 0 nor 1.*Poor.*--positive"),
    ({"label": 1}, LabelError, r"1 patients have two labels for one gene.*P02, TP53"),
    ({"tile_id": ""}, InputError, r"1 of 120 rows name no tile.*line 9"),
    ({"tile_id": "P02-0_0_0", "slide_id": "P02-0"}, InputError, r"itself in rows of one tile.* line 8.*2 rows"),
    ({"fold": "1"}, InputError, r"119 of 120 rows name no fold"),
    ({"patient_id": " "}, InputError, r"line 9: the patient_id is empty"),
])  # fmt: skip
def test_bad_cells_are_named(csv, change, error, match):
    table = _table().astype(object)
    for column, value in change.items():
        table.loc[7, column] = value
    with pytest.raises(error, match=match):
        read_scores(csv(table))


def test_bad_files_are_named(tmp_path, csv):
    with pytest.raises(InputError, match="is not there"):
        read_scores(tmp_path / "nowhere.csv")
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    with pytest.raises(InputError, match="is empty"):
        read_scores(empty)
    with pytest.raises(InputError, match="a header and no rows"):
        read_scores(csv(_table().head(0)))
    with pytest.raises(InputError, match=r"lacks the column label.*--columns label=NAME"):
        read_scores(csv(_table().drop(columns="label")))
    with pytest.raises(ParameterError, match="no column outcome"):
        read_scores(csv(_table()), columns={"label": "outcome"})
    with pytest.raises(LabelError, match="no label is 'Bad'"):
        read_scores(csv(_table()), positive="Bad")
    with pytest.raises(InputError, match="no row with a score and a label"):
        read_scores(csv(_table().assign(label="")))


def test_line_ends_byte_order_mark_words_for_labels_and_tiles_numbered_slide_by_slide(csv, tmp_path):
    table = _table().assign(label=lambda f: f["label"].map({1: "TRUE", 0: "false"}))
    path = csv(table, lineterminator="\r\n", encoding="utf-8-sig")
    assert read_scores(path).labels["status"].sum() == 14
    table = _table().assign(tile_id=lambda f: f["tile_id"].str.split("_").str[1])
    assert len(read_scores(csv(table)).predictions) == len(table)


def test_one_class_one_patient_and_constant_scores(csv, tmp_path):
    table = _table()
    for name, part in (("one class", table[table["label"] == 1]), ("one patient", table.head(3))):
        assert main(["score", str(csv(part)), "--out", str(tmp_path / name)]) == 1
        found = pd.read_csv(tmp_path / name / "auc.csv")
        assert found["status"].eq("not estimable").all() and found["reason"].str.contains("at least 5").all()
        assert not (tmp_path / name / "roc.png").exists()
    found = score(csv(table.assign(score=0.5)), tmp_path / "constant", ScoreOptions(resamples=100), lambda _: None)
    assert found["auc"].isna().all() and found["reason"].str.contains("the same score").all()


def test_labels_of_another_file(csv, tmp_path):
    table = _table()
    labels = tmp_path / "labels.csv"
    names = [f"P{i:02d}" for i in range(1, 45)]
    pd.DataFrame({"patient_id": names, "TP53": [int(i % 3 == 0) for i in range(1, 45)]}).to_csv(labels, index=False)
    lines = []
    found = score(
        csv(table.drop(columns="label")), tmp_path / "out", ScoreOptions(labels=labels, resamples=100), lines.append
    )
    assert any("5 labels belong to patients without a score, such as P40" in line for line in lines)
    assert any(re.search(r"3 rows: no label \(rows 2, 3, 4\)", line) for line in lines)
    assert found.iloc[0]["n_pos"] + found.iloc[0]["n_neg"] == 39


def test_folds_are_ranked_where_they_are_alike_and_pooled_where_not(csv, tmp_path):
    table = _table().assign(fold=lambda f: np.where(f["patient_id"].str[1:].astype(int) % 2, "second", "first"))
    second = table["fold"].eq("second")
    shifted = table.assign(score=table["score"] * 0.4 + 0.5 * second)
    lines: list[str] = []
    quiet = ScoreOptions(resamples=100)
    aucs = [score(csv(t), tmp_path / "out", quiet, lines.append)["auc"].iloc[0] for t in (table, shifted)]
    assert aucs[0] == aucs[1] and any("ranked within their fold" in line for line in lines)
    perfect = table.assign(score=table["label"] * 0.8 + 0.1, fold=table["patient_id"])  # leave one out
    assert score(csv(perfect), tmp_path / "out", quiet, lines.append)["auc"].iloc[0] == 1
    assert any("pooled as they are" in line for line in lines)
    assert "pooled as they are" in (tmp_path / "out" / "index.html").read_text()
    unlike = table.assign(fold=np.where(table["label"].eq(1) | second, "a", "b"))
    one = table.drop(columns="fold")
    aucs = [score(csv(t), tmp_path / "out", quiet, lines.append)["auc"].iloc[0] for t in (unlike, one)]
    assert aucs[0] == aucs[1]
    torn = table.assign(fold=np.arange(len(table)) % 2)
    with pytest.raises(InputError, match="40 patients are in two folds"):
        read_scores(csv(torn))


@pytest.mark.parametrize(
    "fold, note, method",
    [(None, INDEPENDENT, NEWCOMBE), ("two", DEPENDENT, CROSS_FITTED), ("one out", DEPENDENT, CROSS_FITTED)],
)
def test_with_folds_the_interval_allows_for_cross_fitting_and_without_it_says_what_it_assumes(
    csv, tmp_path, fold, note, method
):
    table = _table()
    if fold:
        table["fold"] = table["patient_id"].str[1:].astype(int) % (2 if fold == "two" else 100)
    lines: list[str] = []
    found = score(csv(table), tmp_path / "out", ScoreOptions(resamples=100), lines.append)
    assert found.iloc[0]["ci_method"] == method and pd.notna(found.iloc[0]["p"]) and found["p"].notna().sum() == 1
    assert f"Note: {note}" in lines and any(method in line for line in lines if line.startswith("TP53"))
    assert (note == DEPENDENT) == (DELONG in set(found["ci_method"]) and len(found) == 5)
    assert ("assume independent scores" in (tmp_path / "out" / "index.html").read_text()) == (note == INDEPENDENT)


def test_what_other_labels_and_separators_mean_is_said(csv, tmp_path):
    table = _table().assign(label=lambda f: f["label"].map({1: "Poor", 0: "Good"}))
    table.loc[table["patient_id"] == "P01", "label"] = "not tested"
    scores = read_scores(csv(table), positive="Poor")
    assert scores.notes[:2] == ("These labels count as 0: Good (75 rows).",
                                "These labels are unknown: not tested (3 rows).")  # fmt: skip
    with pytest.raises(InputError, match="divides its cells by ';'"):
        read_scores(csv(_table(), sep=";"))
    path = csv(_table())
    path.write_text(path.read_text().replace("\n", "\n\n", 1).replace(",0.", ",x0.", 1))
    with pytest.raises(InputError, match="line 3: the score is no number"):
        read_scores(path)


@pytest.mark.parametrize(("more", "says"), [
    ({}, r"neither of the words that were named. Got: Good \(69 rows\), unclear call \(3 rows\).*--negative"),
    ({"negative": ["Good"]}, r"Got: unclear call \(3 rows\)"), ({"negative": ["Good", "unclear call"]}, ""),
])  # fmt: skip
def test_a_third_word_is_never_wild_type(csv, more, says):
    table = _table().assign(label=lambda f: f["label"].map({1: "Poor", 0: "Good"}))
    table.loc[table["patient_id"] == "P00", "label"] = "POOR"
    for patient, word in (("P01", "unclear call"), ("P02", "[Not Available]"), ("P04", "N/A")):
        table.loc[table["patient_id"] == patient, "label"] = word
    if says:
        with pytest.raises(LabelError, match=says):
            read_scores(csv(table), positive="poor", **more)
        return
    scores = read_scores(csv(table), positive="poor", **more)
    assert scores.labels["status"].sum() == 14 and scores.labels["patient_id"].nunique() == 38
    assert scores.notes == ("These labels count as 0: Good (69 rows), unclear call (3 rows).",
                            "These labels are unknown: [Not Available] (3 rows), N/A (3 rows).")  # fmt: skip


@pytest.mark.parametrize("case", [str, str.lower])
@pytest.mark.parametrize("name", ["{}-01Z-00-DX{}", "{}-0{}"])
def test_barcodes_of_slides_and_samples_count_as_their_patient(csv, case, name):
    table = _table(patients=12, tiles=4)
    number = table.groupby("patient_id").cumcount() + 1
    patient = "TCGA-05-40" + table["patient_id"].str[1:]
    table = table.drop(columns=["slide_id", "tile_id"])
    own = read_scores(csv(table.assign(patient_id=patient, slide_id=patient + number.astype(str))))
    table["patient_id"] = [case(name.format(p, n)) for p, n in zip(patient, number, strict=True)]
    scores = read_scores(csv(table))
    assert scores.labels.equals(own.labels) and scores.units == ("patient", "slide")
    assert aggregate(scores.predictions).equals(aggregate(own.predictions))
    assert "48 names in patient_id" in scores.notes[0] and "12 patients" in scores.notes[0]
    wide = own.labels.pivot(index="patient_id", columns="gene", values="status").rename(lambda p: case(f"{p}-01A"))
    labels = read_labels(csv(wide.reset_index(), "labels.csv"))
    assert set(read_scores(csv(table), labels=labels).predictions["patient_id"]) == set(patient)


def test_rows_of_one_slide_say_what_helps(csv, tmp_path):
    path = csv(_table().drop(columns="tile_id"))
    with pytest.raises(InputError, match=r"has several rows of one slide, such as line 2\..*--rows tile"):
        read_scores(path)
    out = ["--out", str(tmp_path / "out"), "--resamples", "100"]
    assert main(["score", str(path), *out]) == 1 and main(["score", str(path), *out, "--rows", "tile"]) == 0
    whole = aggregate(read_scores(csv(_table())).predictions)
    assert aggregate(read_scores(path, a_row="tile").predictions)["score"].equals(whole["score"])
    assert main(["score", str(path), *out, "--rows", "tile", "--negative", "0"]) == 2, "one word is named"


def test_labels_elsewhere_win_and_silent_genes_are_named(csv, tmp_path):
    table = _table()
    wide = pd.DataFrame({"patient_id": table["patient_id"].unique(), "TP53": 0, "EGFR": 1})
    wide.loc[:9, "TP53"] = 1
    labels = read_labels(csv(wide, "labels.csv"))
    notes = read_scores(csv(table), labels=labels).notes
    assert notes == (
        "The file has labels of its own; those of --labels count.",
        "Labelled and without any score: EGFR.",
    )


def test_a_wish_that_makes_no_sense_is_refused(csv, tmp_path):
    path = str(csv(_table(tiles=1).drop(columns=["tile_id", "slide_id"])))
    assert main(["score", path, "--unit", "tile", "--out", str(tmp_path)]) == 2
    assert main(["score", path, "--unit", "cell", "--out", str(tmp_path)]) == 2
    assert main(["score", path, "--columns", "outcome", "--out", str(tmp_path)]) == 2
    assert main(["score", path, "--classes", path, "--out", str(tmp_path)]) == 2
    assert main(["score", path, "--resamples", "5", "--out", str(tmp_path)]) == 2


def test_hostile_names_are_text_on_the_page(csv, tmp_path):
    table = _table().assign(gene="<script>$\\bad$</script>")
    score(csv(table), tmp_path / "out", ScoreOptions(resamples=100), lambda _: None)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


SOFTMAX = """\
test_TCGA-05-0001-01A-01-TS1.abc_3_4.dat\tTrue\t[ 0.1   0.6   0.3 ]\t0.667\tlabels: \t1
test_TCGA-05-0001-01A-01-TS1.abc_3_5.dat\tFalse\t[ 0.0  0.25  0.75 ]\t0.25\tlabels: \t1
test_TCGA-05-0001-11A-01-TS1.def_1_1.dat\tTrue\t[ 0.0  0.2  0.8 ]\t0.8\tlabels: \t2
test_TCGA-05-0002-01A-01-TS1.ghi_0_0.dat\tTrue\t[ 0.6  0.1  0.3 ]\t0.75\tlabels: \t2
test_TCGA-05-0002-01A-01-TS1.ghi_0_1.dat\tTrue\t[ 0.0  0.1  0.9 ]\t0.9\tlabels: \t2
test_TCGA-05-0002-01A-01-TS1.ghi_0_1.dat\tTrue\t[ 0.0  0.1  0.9 ]\t0.9\tlabels: \t2
"""


def test_deeppath_softmax_by_hand(tmp_path):
    path = tmp_path / "out_filename_Stats.txt"
    path.write_text(SOFTMAX)
    names = tmp_path / "classes.txt"
    names.write_bytes(b"LUAD\rLUSC\r")
    assert is_stats(path) and read_classes(names) == ["LUAD", "LUSC"]
    scores = read_stats(path, read_classes(names))
    counts = scores.ledger.set_index("outcome")["rows"].to_dict()
    assert counts == {"used": 4, "repeats another tile": 1, "background of 0.5 or more": 1}
    patient = aggregate(scores.predictions).set_index(["gene", "patient_id"])["score"]
    assert patient["LUAD", "TCGA-05-0001, class 1"] == pytest.approx((0.6 / 0.9 + 0.25) / 2)
    assert patient["LUSC", "TCGA-05-0001, class 2"] == pytest.approx(0.8)
    assert "1 patients have slides of several classes" in scores.notes[0]
    status = scores.labels.set_index(["gene", "patient_id"])["status"]
    assert status["LUSC", "TCGA-05-0002"] == 1 and status["LUAD", "TCGA-05-0002"] == 0


def test_slides_without_barcodes_are_patients_of_their_own(tmp_path):
    path = tmp_path / "out_filename_Stats.txt"
    path.write_text("".join(f"CASE-2019-000{i}_1_1.jpeg\t[0 {i % 2}]\t[0 0.{i}]\n" for i in range(1, 9)))
    assert is_stats(path)
    scores = read_stats(path)
    assert scores.predictions["patient_id"].nunique() == 8 and "no TCGA barcodes" in scores.notes[0]
    csv = tmp_path / "scores.csv"
    csv.write_text("patient_id,label,score [0-1]\na,1,0.5\n")
    assert not is_stats(csv)


@pytest.mark.parametrize(
    ("text", "match"),
    [("test_x_1_2.dat True 0.5\n", "line 1 is not DeepPATH's"), ("no coordinates [0 1]\n", "line 1 is not DeepPATH's"),
     ("test_x_1_2.dat True [0 0.4 0.6] 0.6\n", "does not tell the true class"),
     ("test_x_1_2.dat True [0 0.4 0.6] 0.6 labels: 1\ntest_x_1_3.dat True [0 1] 1 labels: 1\n", "different forms"),
     ("test_x_1_2.dat True [0 nan 0.6] 0.6 labels: 1\n", "line 1 holds no probabilities"),
     ("test_x_1_2.dat True [0, 0.4, 0.6] 0.6 labels: 1\n", "line 1 is not DeepPATH's"),
     ("test_x_1_2.jpeg [0 1 0] [0 3.2 0.1]\n", "line 1 holds no probabilities"),
     ("TCGA-05-0001-01_1_2.jpeg [0 1] [0 0.3]\nTCGA-05-0001-01_1_3.jpeg [0 0] [0 0.3]\n", "different labels")],
)  # fmt: skip
def test_deeppath_lines_that_cannot_be_read(tmp_path, text, match):
    path = tmp_path / "out_filename_Stats.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=match):
        read_stats(path)


def test_what_deeppath_writes_and_reads_back(tmp_path):
    random = np.random.default_rng(0)
    rows = [{"tile_id": f"TCGA-0{p}-0001-01A-01-TS1_{t}_0", "slide_id": f"TCGA-0{p}-0001-01A-01-TS1",
             "patient_id": f"TCGA-0{p}-0001", "gene": g, "fold": 0, "score": random.random()}
            for p in range(1, 9) for t in range(3) for g in ("TP53", "KRAS")]  # fmt: skip
    predictions = pd.DataFrame(rows)
    labels = predictions[["patient_id", "gene"]].drop_duplicates()
    labels["status"] = pd.array((labels["patient_id"].str[6].astype(int) % 2).tolist(), dtype="Int64")
    labels.iloc[0, 2] = pd.NA
    path = tmp_path / "out_filename_Stats.txt"
    assert write_stats(predictions, labels, path) == 3, "the patient with an unknown label has three tiles"
    back = read_stats(path, read_classes(tmp_path / "labels.txt"))
    key = ["tile_id", "gene"]
    both = back.predictions.merge(predictions, on=key, suffixes=("", "_was"))
    assert len(both) == len(predictions) - 6
    np.testing.assert_allclose(both["score"], both["score_was"], atol=1e-7)
    assert (both["patient_id"] == both["patient_id_was"]).all()
    found = score(path, tmp_path / "out", ScoreOptions(min_positives=2, resamples=100), lambda _: None)
    assert set(found["gene"]) == {"class 1", "class 2"} and found["status"].eq("estimated").all()
    again = score(path, tmp_path / "out", ScoreOptions(min_positives=2, resamples=100, classes=tmp_path / "labels.txt"),
                  lambda _: None)  # fmt: skip
    assert set(again["gene"]) == {"TP53", "KRAS"}
