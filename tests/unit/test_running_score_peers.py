"""What STAMP, CLAM and Slideflow write is scored as it is, and what cannot be said of it is refused by name."""

import pickle
import random
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import r2_score, roc_auc_score

from deeplrhe_utils.core.errors import CompendiumError, InputError, LabelError, ParameterError
from deeplrhe_utils.evaluation.auc.delong import CROSS_FITTED
from deeplrhe_utils.evaluation.auc.peers import STAMP_FOLDS, STAMP_TEST, read_peer
from deeplrhe_utils.evaluation.auc.table import headline_rows
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs.score import ScoreOptions, score
from tests.unit.test_core_foreign import mutated

PATIENTS = [f"TCGA-05-{4000 + i}" for i in range(80)]
SLIDES = [f"{name}-01Z-00-DX1.ABC" for name in PATIENTS]
QUICK = ScoreOptions(resamples=100)


def drawn(rows, classes, seed=0):
    """True classes, and probabilities that know something of them."""
    draw = np.random.default_rng(seed)
    truth = np.arange(rows) % len(classes)
    odds = np.exp(draw.normal(size=(rows, len(classes))) + 1.2 * (truth[:, None] == np.arange(len(classes))))
    return truth, odds / odds.sum(1, keepdims=True)


def stamp(ids=PATIENTS, classes=("MUT", "WT"), target="KRAS", seed=0):
    truth, share = drawn(len(ids), classes, seed)
    named = [classes[k] for k in truth]
    return pd.DataFrame({
        "PATIENT": ids, target: named, "pred": [classes[k] for k in share.argmax(1)],
        **{f"{target}_{name}": share[:, k] for k, name in enumerate(classes)},
        "loss": -np.log(share[np.arange(len(ids)), truth]),
    }).sort_values("loss")  # fmt: skip


def clam(ids=SLIDES, classes=2, seed=0):
    truth, share = drawn(len(ids), range(classes), seed)
    return pd.DataFrame({"slide_id": ids, "Y": truth.astype(float), "Y_hat": share.argmax(1).astype(float),
                         **{f"p_{k}": share[:, k] for k in range(classes)}})  # fmt: skip


def values(ids=PATIENTS, seed=0):
    draw = np.random.default_rng(seed)
    value = draw.normal(size=len(ids))
    return pd.DataFrame({"PATIENT": ids, "TMB": value, "pred": value / 2 + draw.normal(size=len(ids)) / 2, "loss": ""})


def survival(ids=PATIENTS, seed=0):
    draw = np.random.default_rng(seed)
    risk, limit = draw.normal(size=len(ids)), draw.exponential(2, len(ids))
    time = draw.exponential(np.exp(-risk))
    return pd.DataFrame({"PATIENT": ids, "pred_score": risk, "time": np.minimum(time, limit),
                         "event": (time < limit).astype(float), "cut_off=0.1": ""})  # fmt: skip


def folds(folder, table, names, k=4):
    """`table` divided into k files, named by folder (``{}/…``) or file; sorted as it was."""
    whole = table.sort_index()
    for i in range(k):
        path = folder / names.format(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.iloc[i * len(whole) // k : (i + 1) * len(whole) // k].to_csv(path, index=False)
    return folder


def first(found):
    return found.drop_duplicates("gene").set_index("gene")


@pytest.fixture
def said(tmp_path):
    lines = []

    def run(paths, **options):
        lines.clear()
        return score(paths, tmp_path / "out", ScoreOptions(**{"resamples": 100} | options), lines.append)

    run.lines = lines
    return run


def test_a_folder_of_stamp_is_scored_by_patient_and_stamps_own_numbers_stand_below(tmp_path, said):
    table = stamp()
    folder = folds(tmp_path / "run", table, "split-{}/patient-preds.csv")
    found = said(folder)
    row, parts = found.iloc[0], [pd.read_csv(path) for path in sorted(folder.glob("*/*.csv"))]
    assert (row["gene"], row["ci_method"], row["n_pos"]) == ("KRAS", CROSS_FITTED, 40)
    ranked = pd.concat([own.assign(r=own["KRAS_MUT"].rank()) for own in parts])
    assert row["auc"] == pytest.approx(roc_auc_score(ranked["KRAS"] == "MUT", ranked["r"]), abs=1e-12)
    assert any("STAMP, classification" in line for line in said.lines) and any(
        "The class called MUT" in x for x in said.lines
    )
    aucs = [roc_auc_score(own["KRAS"] == "MUT", own["KRAS_MUT"]) for own in parts]
    half = stats.t.ppf(0.975, 3) * np.std(aucs, ddof=1) / 2
    theirs = found[found["ci_method"].str.startswith("STAMP")]
    assert list(theirs["ci_method"]) == [STAMP_FOLDS, *(f"{STAMP_TEST}, split-{k}" for k in range(4))]
    assert theirs.iloc[0][["auc", "ci_low", "ci_high"]].tolist() == pytest.approx(
        [np.mean(aucs), np.mean(aucs) - half, np.mean(aucs) + half])  # fmt: skip
    own = parts[1]
    p = stats.ttest_ind(*(own.loc[own["KRAS"] == name, "KRAS_MUT"] for name in ("MUT", "WT"))).pvalue
    assert theirs.iloc[2]["p"] == pytest.approx(p) and set(theirs["status"]) == {"as STAMP reports"}
    assert set(headline_rows(found[found["status"] == "estimated"])["ci_method"]) == {CROSS_FITTED}
    page = (tmp_path / "out" / "index.html").read_text()
    assert STAMP_FOLDS in page and "how far these few differ" in page
    files = sorted(folder.glob("*/*.csv"))
    assert said(files)["auc"].tolist() == found["auc"].tolist(), "files, or their folder"


@pytest.mark.parametrize(("positive", "gene", "count"), [("", "KRAS", 20), ("wt", "KRAS", 60), ("MUT", "KRAS", 20)])
def test_the_class_that_counts_as_1_is_named_or_the_one_that_reads_like_it(tmp_path, said, positive, gene, count):
    table = pd.concat([stamp(), stamp([f"P{i}" for i in range(80)], seed=1)])
    table = table[(table["KRAS"] == "WT") | (table["PATIENT"].str[-1].astype(int) < 5)]
    table = pd.concat([table[table["KRAS"] == "WT"].head(60), table[table["KRAS"] == "MUT"].head(20)])
    table.to_csv(tmp_path / "patient-preds.csv", index=False)
    row = said(tmp_path / "patient-preds.csv", positive=positive).iloc[0]
    assert (row["gene"], row["n_pos"], row["n_neg"]) == (gene, count, 80 - count)
    assert row["auc"] == pytest.approx(roc_auc_score(table["KRAS"] == "MUT", table["KRAS_MUT"]))
    other = table.rename(columns={"KRAS_MUT": "KRAS_left", "KRAS_WT": "KRAS_right"})
    other["KRAS"] = other["KRAS"].map({"MUT": "left", "WT": "right"})
    other.to_csv(tmp_path / "other.csv", index=False)
    assert positive != "" or said(tmp_path / "other.csv").iloc[0]["n_pos"] == 20, "else the rarer one"


def test_several_classes_each_against_the_rest(tmp_path, said):
    table = stamp(classes=("LUAD", "LUSC", "NSCLC_NOS"), target="TYPE")
    table.to_csv(tmp_path / "t.csv", index=False)
    rows = first(said(tmp_path / "t.csv"))
    assert list(rows.index) == ["LUAD", "LUSC", "NSCLC_NOS"]
    for name, row in rows.iterrows():
        assert row["auc"] == pytest.approx(roc_auc_score(table["TYPE"] == name, table[f"TYPE_{name}"]))
    assert any("240 rows: used" in line for line in said.lines) and any("against the rest" in x for x in said.lines)
    assert list(first(said(tmp_path / "t.csv", positive="lusc")).index) == ["LUSC"]
    clam(classes=3).to_csv(tmp_path / "c.csv", index=False)
    (tmp_path / "names.txt").write_text("LUAD\nLUSC\nother\n")
    assert list(first(said(tmp_path / "c.csv")).index) == ["class 0", "class 1", "class 2"]
    assert list(first(said(tmp_path / "c.csv", classes=tmp_path / "names.txt")).index) == ["LUAD", "LUSC", "other"]
    assert list(first(said(tmp_path / "c.csv", positive="2")).index) == ["class 2"]


def test_values_and_survival_of_stamp_need_no_option(tmp_path, said):
    table = values()
    found = said(folds(tmp_path / "values", table, "split-{}/patient-preds.csv"))
    r2 = found[found["metric"].str.startswith("R²")].set_index("ci_method")["estimate"]
    assert r2.iloc[0] == pytest.approx(r2_score(table["TMB"], table["pred"]), abs=1e-12)
    parts = [table.iloc[20 * k : 20 * k + 20] for k in range(4)]
    assert r2[STAMP_FOLDS] == pytest.approx(np.mean([r2_score(part["TMB"], part["pred"]) for part in parts]))
    table = survival()
    table.loc[3, ["time", "event"]] = None
    folder = folds(tmp_path / "survival", table, "split-{}/patient-preds.csv")
    one = pd.read_csv(folder / "split-1" / "patient-preds.csv").rename(columns={"cut_off=0.1": "cut_off=0.2"})
    one.to_csv(folder / "split-1" / "patient-preds.csv", index=False)
    found = said(folder)
    assert found.iloc[0]["metric"] == "Harrell's C" and found.iloc[0]["estimate"] > 0.6 and found.iloc[0]["n"] == 79
    assert any("1 rows: no time or event (rows 5 of split-0)" in line for line in said.lines)
    assert main(["score", str(folder), "--task", "classification", "--out", str(tmp_path / "out")]) == 2


@pytest.mark.parametrize(("names", "cross_fitted"), [("fold_{}.csv", True), ("EVAL_{}/fold_0.csv", True)])
def test_folds_of_clam(tmp_path, said, names, cross_fitted):
    folder = folds(tmp_path / "eval", clam(), names)
    found = said(folder if "/" not in names else sorted(folder.glob("*/*.csv")), unit="all")
    assert found.iloc[0]["ci_method"] == CROSS_FITTED and set(found["unit"]) == {"patient", "slide"}
    assert found.iloc[0]["n_pos"] + found.iloc[0]["n_neg"] == 80


def test_files_that_score_the_same_patients_are_no_folds(tmp_path, said):
    whole = clam()
    for k in range(3):  # Monte Carlo cross-validation, CLAM's own
        whole.assign(p_1=whole["p_1"] ** (1 + k)).sample(60, random_state=k).to_csv(tmp_path / f"fold_{k}.csv")
    for k in range(3):
        part = pd.read_csv(tmp_path / f"fold_{k}.csv", index_col=0)
        part.to_csv(tmp_path / f"fold_{k}.csv", index=False)
    parts = pd.concat([pd.read_csv(tmp_path / f"fold_{k}.csv") for k in range(3)])
    row = said(tmp_path).iloc[0]
    mean = parts.groupby("slide_id")[["Y", "p_1"]].mean()
    assert row["auc"] == pytest.approx(roc_auc_score(mean["Y"], mean["p_1"])) and row["ci_method"] == CROSS_FITTED
    assert any(re.search(r"Note: \d\d of \d\d patients are in several files", line) for line in said.lines)
    for k in range(3):  # models of one training on a cohort of its own
        whole.assign(p_1=whole["p_1"] ** (1 + k)).to_csv(tmp_path / f"fold_{k}.csv", index=False)
    assert said(tmp_path).iloc[0]["ci_method"] != CROSS_FITTED
    assert any("Every patient is in all files" in line for line in said.lines)


def test_a_real_file_of_slideflow(shared_data, tmp_path, said):
    path = next((shared_data / "features" / "formats" / "slideflow_mil").rglob("predictions.parquet"))
    table = pd.read_parquet(path)
    row = said(path).iloc[0]
    assert row["auc"] == pytest.approx(roc_auc_score(table["y_true"], table["y_pred1"]), abs=1e-12)
    assert (row["n_pos"], row["n_neg"]) == (26, 26) and any("Slideflow" in line for line in said.lines)
    assert any("patients of their own" in line for line in said.lines)
    two = table.index[table["y_true"] == 1][:2]
    table["case_id"] = table["slide"].where(~table.index.isin(two), "one patient")
    table.to_parquet(tmp_path / "named.parquet")
    assert said(tmp_path / "named.parquet").iloc[0]["n_pos"] == 25
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        said(tmp_path / "cut.parquet")


@pytest.mark.parametrize("layout", ["stamp", "clam", "slideflow", "plain"])
def test_several_rows_of_a_slide(tmp_path, said, layout):
    table = {"stamp": lambda: stamp(), "clam": lambda: clam(),
             "slideflow": lambda: clam().drop(columns="Y_hat").rename(
                 columns={"slide_id": "slide", "Y": "y_true", "p_0": "y_pred0", "p_1": "y_pred1"}),
             "plain": lambda: clam().set_axis(["slide_id", "label", "x", "y", "score"], axis=1).assign(
                 patient_id=PATIENTS)}[layout]()  # fmt: skip
    score_of, truth = {"stamp": ("KRAS_MUT", "KRAS"), "clam": ("p_1", "Y"), "slideflow": ("y_pred1", "y_true"),
                       "plain": ("score", "label")}[layout]  # fmt: skip
    again = pd.concat([table, table.assign(**{score_of: table[score_of] ** 2})])
    again.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match="--rows tile"):
        said(tmp_path / "rows.csv")
    mean = again.groupby(table.columns[0]).agg({score_of: "mean", truth: "first"})
    row = said(tmp_path / "rows.csv", rows="tile").iloc[0]
    assert row["auc"] == pytest.approx(roc_auc_score(mean[truth].isin(["MUT", 1]), mean[score_of]))


def test_columns_that_are_named_win(tmp_path, said):
    stamp().to_csv(tmp_path / "t.csv", index=False)
    found = said(tmp_path / "t.csv", columns="patient_id=PATIENT,label=KRAS,score=KRAS_WT", positive="WT")
    assert not any("Recognised" in line for line in said.lines)
    assert found.iloc[0]["auc"] == pytest.approx(said(tmp_path / "t.csv").iloc[0]["auc"])
    assert any("Recognised" in line for line in said.lines)
    labels = pd.DataFrame({"patient_id": PATIENTS, "KRAS": np.arange(80) % 4 == 0}).astype({"KRAS": int})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    assert said(tmp_path / "t.csv", labels=tmp_path / "labels.csv").iloc[0]["n_pos"] == 20


@pytest.mark.parametrize(("change", "options", "error", "match"), [
    ({"KRAS": "G12C"}, {}, LabelError, r"line 9, column KRAS: there is no column of this class.*G12C.*MUT and WT"),
    ({"KRAS_MUT": "much"}, {}, InputError, "line 9: the score is no number"),
    ({"PATIENT": ""}, {}, InputError, "line 9: the patient_id is empty"),
    ({"PATIENT": "TWICE"}, {}, LabelError, "1 patients have two labels"),
    ({}, {"positive": "G12D"}, ParameterError, "no class 'G12D'.*MUT | WT"),
    ({}, {"task": "survival"}, ParameterError, "STAMP's, of a classification"),
    ({}, {"classes": True}, ParameterError, "--classes belongs to"),
    ({}, {"times": (3.0,)}, ParameterError, "--times belong to --task survival"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path, said, change, options, error, match):
    table = stamp().astype(object).reset_index(drop=True)
    table.loc[3, "PATIENT"] = "TWICE"
    table.loc[3, "KRAS"] = "WT" if table.loc[7, "KRAS"] == "MUT" else "MUT"
    for name, value in change.items():
        table.loc[7, name] = value
    table.to_csv(tmp_path / "t.csv", index=False)
    if "classes" in options:
        (tmp_path / "names.txt").write_text("a\nb\n")
        options = {"classes": tmp_path / "names.txt"}
    with pytest.raises(error, match=match):
        said(tmp_path / "t.csv", **options)


def test_unknown_truth_and_lost_scores_are_counted(tmp_path, said):
    table = stamp().reset_index(drop=True).astype(object)
    table.loc[:2, "KRAS"], table.loc[5, "KRAS_MUT"] = "", "nan"
    table.to_csv(tmp_path / "t.csv", index=False)
    said(tmp_path / "t.csv")
    told = "\n".join(said.lines)
    assert "76 rows: used" in told and "3 rows: no label" in told and "1 rows: no score (rows 7)" in told


def test_row_names_are_no_patients(tmp_path, said):
    table = stamp(ids=PATIENTS[:40] * 2)
    table = table.drop_duplicates(["PATIENT", "KRAS"])
    table.to_csv(tmp_path / "t.csv")
    row = said(tmp_path / "t.csv", rows="tile").iloc[0]
    assert row["n_pos"] + row["n_neg"] == 40


def test_one_class_is_not_estimable(tmp_path):
    table = stamp()
    table[table["KRAS"] == "MUT"].to_csv(tmp_path / "t.csv", index=False)
    out = tmp_path / "out"
    assert main(["score", str(tmp_path / "t.csv"), "--out", str(out), "--resamples", "100"]) == 1
    assert pd.read_csv(out / "auc.csv")["status"].tolist() == ["not estimable"]


def test_files_that_hold_no_scores_or_run_code_are_refused_by_name(tmp_path, said):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    (tmp_path / "split_0_results.pkl").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "test_metrics_summary.json").write_text('{"auroc": {"mean": 0.8}}')
    clam().to_csv(tmp_path / "a.csv", index=False)
    clam(classes=3).to_csv(tmp_path / "b.csv", index=False)
    for paths, match in [("split_0_results.pkl", "nothing is unpickled.*fold_0.csv"),
                         ("test_metrics_summary.json", "no score of a patient"),
                         (".", "no score file that is known")]:  # fmt: skip
        with pytest.raises(InputError, match=match):
            said(tmp_path / paths)
    assert not (tmp_path / "opened").exists()
    with pytest.raises(InputError, match=r"b.csv has other columns than"):
        said([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_no_damage_makes_a_peers_reader_fail_in_another_way(tmp_path):
    read = 0
    for place, table in enumerate([stamp().head(6), clam().head(6), clam(classes=3).head(6), values(), survival()]):
        path = tmp_path / "t.csv"
        for seed in range(60):
            path.write_bytes(mutated(table.to_csv(index=False), random.Random(f"{place} {seed}")))
            try:
                read_peer([path])
                score(path, tmp_path / "out", QUICK, lambda _: None)
                read += 1
            except CompendiumError as error:
                assert str(error)
    assert read > 10, "or only refusals were tried"
