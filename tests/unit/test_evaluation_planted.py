"""Recovered against planted: the comparison itself is right."""

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.evaluation.audits import recovery
from deeplrhe_utils.evaluation.judging import twin
from deeplrhe_utils.synthetic.publish import CohortSpec, plan_cohort


def truth_tile(tile_id, **shares):
    names = ("tumour", "subclone", "blur", "pen", "fold", "bubble", "hole", "jpeg", "edge", "hair", "dust")
    row = {"tile_id": tile_id, "slide_id": tile_id.rsplit("_", 2)[0]} | {f"{n}_fraction": 0.0 for n in names}
    return row | {f"{n}_fraction": v for n, v in shares.items()}


def test_bayes_auc_is_the_closed_form():
    draws = np.random.default_rng(0).standard_normal((2, 400_000))
    assert recovery.bayes_auc(1.2) == pytest.approx((draws[0] + 1.2 > draws[1]).mean(), abs=0.002)
    assert recovery.bayes_auc(0) == 0.5


def recovery_of(scores, **changes):
    """Recovery of TP53 where the drawn attribute follows the latent, and of KRAS and POLE."""
    plan = plan_cohort(CohortSpec(n_slides=60, seed=4, **changes))
    truth = plan.truth
    latent = truth[truth["gene"] == "TP53"].set_index("patient_id")["latent"].astype(float)
    tiles = pd.DataFrame({"tile_id": [f"{p}_0_0" for p in latent.index], "patient_id": latent.index, "selected": True})
    drawn = pd.DataFrame({"tile_id": tiles["tile_id"], "nuclear_area_um2": np.exp(0.186 * latent.to_numpy())})
    rows = [
        {"gene": g, "auc": a, "ci_low": a - 0.1, "ci_high": a + 0.1, "n_pos": 9, "n_neg": 9} for g, a in scores.items()
    ]
    known = plan.labels[plan.labels["gene"].isin(scores)]
    predictions = pd.DataFrame([{"patient_id": p, "gene": g, "score": 0.5} for p in latent.index for g in scores])
    table = recovery.recovery(pd.DataFrame(rows), truth, drawn, tiles, known, predictions, {"KRAS": 0.6})
    return table.set_index("gene"), truth, known


def test_what_was_drawn_reaches_the_oracle_and_what_cannot_be_seen_is_expected_through_neighbours():
    table, truth, known = recovery_of({"TP53": 0.8, "KRAS": 0.55, "POLE": 0.5})
    one = truth[(truth["gene"] == "TP53")].merge(
        known.dropna(subset=["status"])[["patient_id", "gene"]], on=["patient_id", "gene"]
    )
    above = one.loc[one["mutated"], "latent"].to_numpy(float)[:, None] > one.loc[~one["mutated"], "latent"].to_numpy(
        float
    )
    assert table.loc["TP53", "oracle_auc"] == pytest.approx(above.mean())
    assert table.loc["TP53", "drawn_auc"] == pytest.approx(table.loc["TP53", "oracle_auc"])
    assert table.loc["TP53", "gap"] == pytest.approx(table.loc["TP53", "oracle_auc"] - 0.8)
    assert table.loc["KRAS", "expected_auc"] == 0.6 and np.isnan(table.loc["KRAS", "drawn_auc"])
    assert table.loc["POLE", "expected_auc"] == 0.5 and np.isnan(table.loc["POLE", "oracle_auc"])
    assert table.loc["POLE", "role"] == "control: nothing planted" and "40×" in table.loc["KRAS", "role"]


def test_with_every_effect_at_zero_chance_is_expected_everywhere():
    table, *_ = recovery_of({"TP53": 0.55, "KRAS": 0.5, "POLE": 0.5}, effect_scale=0.0)
    assert table.loc["TP53", "expected_auc"] == 0.5 and table.loc["TP53", "role"] == "control: nothing planted"
    assert table["oracle_auc"].isna().all() and table["drawn_auc"].isna().all()


def test_tiles_of_another_grid_are_refused():
    truth = pd.DataFrame({"tile_id": ["S_0_0"], "x_l0_px": [0], "y_l0_px": [0], "size_l0_px": [512.0]})
    recovery.check_grid(truth, truth)
    for change in ({"size_l0_px": 1024.0}, {"x_l0_px": 3}, {"tile_id": "S_9_9"}):
        with pytest.raises(CohortError, match="not the tiles of the truth"):
            recovery.check_grid(truth.assign(**change), truth)


def maps(scores, inside):
    ids = [f"S_{i}_0" for i in range(len(scores))]
    predictions = pd.DataFrame({"tile_id": ids, "slide_id": "S", "patient_id": "P", "gene": "TP53", "score": scores})
    tiles = pd.DataFrame([truth_tile(i, tumour=1.0, subclone=float(w)) for i, w in zip(ids, inside, strict=True)])
    tiles["nuclear_area_um2"] = [80.0 if w else 60.0 for w in inside]
    patients = pd.DataFrame({"patient_id": ["P"], "gene": ["TP53"], "attribute": ["nuclear_area"], "mutated": [True]})
    return predictions, tiles, patients


def test_a_map_that_points_inside_has_auroc_1_one_that_points_outside_0_and_needs_the_truth():
    for scores, expected in (([0.9, 0.8, 0.2, 0.1], 1.0), ([0.1, 0.2, 0.8, 0.9], 0.0), ([0.5] * 4, 0.5)):
        row = recovery.inside_outside(*maps(scores, [1, 1, 0, 0]), "TP53").iloc[0]
        assert row["auroc"] == expected and row["chance"] == 0.5 and row["drawn_auroc"] == 1.0
        assert row["pointed"] == (scores[0] >= scores[3])
    predictions, tiles, patients = maps([0.9, 0.1], [1, 0])
    with pytest.raises(CohortError, match="S_1_0"):
        recovery.inside_outside(predictions, tiles.iloc[:1], patients, "TP53")


def test_slides_without_both_sides_and_tiles_outside_the_tumour_are_left_out():
    predictions, tiles, patients = maps([0.9, 0.1], [1, 1])
    assert recovery.inside_outside(predictions, tiles, patients, "TP53").empty
    nobody = recovery.inside_outside(predictions[predictions["gene"] == "EGFR"], tiles, patients, "TP53")
    assert nobody[nobody["mutated"]].empty and recovery.patient_mean(nobody, "auroc")[3] == 0
    predictions, tiles, patients = maps([0.9, 0.1, 0.5], [1, 0, 0])
    tiles.loc[2, "tumour_fraction"] = 0.2
    assert recovery.inside_outside(predictions, tiles, patients, "TP53")["n_outside"].iloc[0] == 1


def test_the_filter_is_judged_with_the_same_cut_on_both_sides():
    truth = [truth_tile("S_0_0", blur=0.9), truth_tile("S_1_0", blur=0.25), truth_tile("S_2_0", blur=0.2),
             truth_tile("S_3_0", pen=0.5, fold=0.6), truth_tile("S_4_0", blur=1.0)]  # fmt: skip
    shares = {"fold_fraction": [0.0, 0.0, 0.3, 0.5, np.nan], "bubble_fraction": [0.0, 0.0, 0.0, 0.0, np.nan]}
    tiles = pd.DataFrame({
        "tile_id": [r["tile_id"] for r in truth], "pen_fraction": [0.0, 0.0, 0.0, 0.4, np.nan], **shares,
        "blur_fraction": [0.9, 0.1, 0.3, np.nan, np.nan], "jpeg_fraction": [0.0, 0.0, 0.0, np.nan, np.nan],
        "kept": [False, True, True, False, False],
    })  # fmt: skip
    table = recovery.filter_performance(tiles, pd.DataFrame(truth)).set_index("artefact")
    assert table.loc["blur", ["affected", "seen", "both"]].tolist() == [2, 2, 1]
    assert table.loc["blur", "precision"] == 0.5 and table.loc["blur", "recall"] == 0.5
    assert table.loc["blur", "dropped"] == 0.5  # seen or not, only one of the two affected tiles is gone
    # a tile that 02 dropped does not count; nor, for blur and jpeg, one that was dropped before it was decoded
    assert table["n_tiles"].to_dict() == dict.fromkeys(table.index, 4) | {"blur": 3, "jpeg": 3} and len(table) == 9
    assert table.loc["pen", "recall"] == 1 and table.loc["fold", ["precision", "recall"]].tolist() == [0.5, 1]
    assert np.isnan(table.loc["hole", ["precision", "recall"]].astype(float)).all()
    assert np.isnan(table.loc["bubble", "dropped"])


def agreement(spread, n_sites=12, per_site=6, slides=1, seed=0):
    """Sites whose true means scatter by `spread`, patients by 1 inside a site, slides of a patient alike."""
    rng = np.random.default_rng(seed)
    site = np.repeat([f"{i:02d}" for i in range(n_sites)], per_site * slides)
    patient = np.repeat(np.arange(n_sites * per_site), slides).astype(str)
    means = np.repeat(rng.normal(0, spread, (n_sites, 3)), per_site * slides, axis=0)
    own = np.repeat(rng.normal(0, 1, (n_sites * per_site, 3)), slides, axis=0)
    return recovery.site_agreement(means + own + rng.normal(0, 1e-3, own.shape), site, patient)


def test_site_agreement_is_right_on_average_and_slides_of_one_patient_are_none():
    far = np.mean([agreement(5.0, seed=i)["between"] for i in range(40)])
    near = [agreement(0.0, seed=i) for i in range(40)]
    assert far == pytest.approx(5 * np.sqrt(3), rel=0.1)
    assert np.mean([f["within"] for f in near]) == pytest.approx(np.sqrt(3), rel=0.05)
    assert np.mean([f["between"] for f in near]) < 0.3 * np.sqrt(3)
    assert np.mean([f["neighbour"] for f in near]) == pytest.approx(near[0]["chance"], abs=0.03)
    assert agreement(0.0, slides=3)["neighbour"] < 0.3  # the nearest slide would always be the patient's own
    assert np.isnan(agreement(1.0, n_sites=1)["between"]) and np.isnan(agreement(1.0, per_site=1)["neighbour"])


def test_the_interval_of_a_patient_mean_resamples_patients():
    frame = pd.DataFrame({"patient_id": ["a"] * 50 + ["b", "c"], "auroc": [1.0] * 50 + [0.0, 0.5]})
    mean, low, high, n = recovery.patient_mean(frame, "auroc")
    assert (mean, n) == (0.5, 3) and low == 0 and high == 1  # three patients, however many slides one of them has
    assert recovery.patient_mean(frame, "auroc") == (mean, low, high, n)
    assert recovery.patient_mean(frame.iloc[:0], "auroc")[3] == 0


def test_an_auc_that_the_diagnosis_gives_is_told_from_one_that_the_tissue_gives():
    names = ["gene", "auc", "ci_low", "ci_high"]
    over = pd.DataFrame([("TP53", 0.9, 0.8, 1.0), ("KRAS", 0.72, 0.6, 0.8), ("POLE", 0.5, 0.3, 0.7),
                         ("POLD1", None, None, None), ("EGFR", 0.9, 0.8, 1.0)], columns=names)  # fmt: skip
    within = pd.DataFrame(
        [("KRAS", 0.52, 0.4, 0.64), ("TP53", 0.88, 0.75, 1.0), ("POLE", 0.5, 0.2, 0.8)], columns=names
    )
    alone = pd.Series({"TP53": 0.65, "KRAS": 0.7, "POLE": 0.51, "POLD1": 0.52, "EGFR": 0.63})
    table = recovery.told_by_diagnosis(over, within, alone).set_index("gene")
    assert table["verdict"].str.split("[,;]").str[0].tolist() == [
        "found in the tissue", "found over both diagnoses only", "not found", "cannot be estimated",
        "found over both diagnoses",
    ]  # fmt: skip
    told = table.loc["KRAS", "sentence"]
    assert told.startswith("KRAS: 0.72 [0.60, 0.80] over both diagnoses, where the diagnosis alone gives 0.70; within ")
    assert "adenocarcinoma 0.52 [0.40, 0.64]: found over both" in told
    assert "nan" not in " ".join(table["sentence"])
    said = recovery.told_sentence(table.reset_index(), 160)
    assert "for KRAS (0.72 [0.60, 0.80]; within adenocarcinoma 0.52 [0.40, 0.64]; by the diagnosis alone 0.70)" in said
    assert said.endswith("found in the tissue: TP53 0.88 [0.75, 1.00].")


def test_best_median_and_worst_slides_of_each_class_are_shown_once():
    inside = pd.DataFrame(
        {
            "slide_id": [*"abcdefg"],
            "mutated": [True] * 5 + [False] * 2,
            "n_outside": 2,
            "auroc": [0.0, 1.0, 1.0, 0.6, 0.5, 0.4, 0.4],
            "n_inside": [1, 1, 5, 1, 1, 1, 2],
        }
    )
    shown = recovery.exemplary(inside)
    assert shown["slide_id"].tolist() == ["c", "d", "a", "g"]
    assert shown["rank"].tolist() == ["best", "median", "worst", "best"]
    assert recovery.exemplary(inside.iloc[:0]).empty


@pytest.mark.parametrize(("shift", "slides", "said"), [
    (0.2, 12, "moves the score of TP53 by 0."), (-0.2, 12, "moves the score of TP53 by -0."),
    (0.0, 12, "moves the score of no gene"), (0.2, 1, "No two slides"),
])  # fmt: skip
def test_what_defocus_does_is_measured_within_slides(shift, slides, said):
    random, rows = np.random.default_rng(3), []
    for s in range(slides):
        for k in range(6):
            rows.append({"tile_id": f"S{s}_{k}_0", "slide_id": f"S{s}", "blur": [0.05, 0.5][k % 2],
                         "score": 0.3 + 0.05 * s + shift * (k % 2) + random.normal(0, 0.02)})  # fmt: skip
    table = pd.DataFrame(rows)
    truth = pd.DataFrame([truth_tile(r.tile_id, blur=r.blur) for r in table.itertuples()])
    tiles = table[["tile_id"]].assign(blur_fraction=0.1, kept=[k % 6 == 1 for k in range(len(table))])
    found = recovery.blur_shift(table.assign(gene="TP53"), tiles, truth)
    assert said in recovery.blur_sentence(found) and found["kept"].tolist() == [1 / 3]
    assert found["difference"].iloc[0] == pytest.approx(shift, abs=0.05) and found["n_slides"].tolist() == [slides]
    nobody = recovery.blur_shift(table.iloc[:0].assign(gene="TP53"), tiles, truth)
    assert "No two slides" in recovery.blur_sentence(nobody)


def test_aims_count_every_gene_that_can_be_seen_and_every_artefact():
    within = pd.DataFrame({"gene": ["TP53", "EGFR", "POLE"], "d": [2.0, 1.5, 0.0], "auc": [0.9, None, 0.5],
                           "ci_low": [0.8, None, 0.4], "ci_high": [0.95, None, 0.6], "gap": [0.02, None, 0.0],
                           "expected_auc": [0.92, 0.8, 0.5]})  # fmt: skip
    filtered = pd.DataFrame({"artefact": ["blur", "fold", "dust"], "looked_for": [True, True, False],
                             "recall": [0.95, None, None], "precision": [0.5, 1.0, None]})  # fmt: skip
    table = recovery.judged_aims(within, filtered, ("TP53", 0.85), {"TP53": 0.01, "EGFR": 0.4}, np.nan, np.nan)
    reached = table.set_index("aim")["reached"]
    assert reached.filter(like="EGFR").tolist() == ["not estimable"] * 2 + ["no"]
    assert reached.filter(like="TP53").tolist() == ["yes"] * 4 and reached.filter(like="controls").tolist() == ["yes"]
    assert reached.filter(like="seen").tolist() == ["yes", "no", "not estimable", "yes"]
    assert reached.filter(like="nothing").tolist() == ["not estimable"] and not len(reached.filter(like="exchanged"))


def test_the_twin_has_the_same_labels_and_no_effect_and_exchanged_labels_are_as_many():
    spec = CohortSpec(n_slides=12, seed=7)
    plan = plan_cohort(spec)
    tiles = plan.slides[["slide_id", "patient_id"]].assign(tile_id=plan.slides["slide_id"] + "_0_0", selected=True)
    planned, picked, names = twin.twin_of(spec, plan.labels, tiles, 3, seed=1)
    assert (planned.truth["d"] == 0).all() and set(picked["patient_id"]) <= set(plan.labels["patient_id"])
    assert len(names) == 3 and names == sorted(names) and set(names) <= set(picked["slide_id"])
    assert names == twin.twin_of(spec, plan.labels, tiles, 3, seed=1)[2]
    with pytest.raises(CohortError, match="other labels"):
        twin.twin_of(spec, plan.labels.assign(status=1 - plan.labels["status"]), tiles, 3, seed=1)
    false, known = twin.exchanged_genes(plan.labels, "TP53", 4, seed=1), plan.labels.query("gene == 'TP53'")["status"]
    assert list(false["gene"].unique()) == [f"exchanged {k}" for k in (1, 2, 3, 4)]
    assert (false.groupby("gene")["status"].sum() == known.sum()).all() and false["status"].dtype == known.dtype
