"""The committed demo: its headline numbers follow from its own committed predictions and labels."""

import json

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.core.paths import REPORTS
from deeplrhe_utils.core.tables.contract import conform, read_table
from deeplrhe_utils.core.tables.schemas import LABELS, METRICS, PREDICTIONS, SPLITS, TILES
from deeplrhe_utils.core.tables.truth import TRUTH_TABLES
from deeplrhe_utils.evaluation.auc.table import gene_metrics, headline_rows
from deeplrhe_utils.evaluation.audits import recovery
from deeplrhe_utils.evaluation.splits.folds import check_split
from deeplrhe_utils.learning.networks.deeplrhe import read_card
from deeplrhe_utils.learning.scoring.heat import stored_scores
from deeplrhe_utils.synthetic.publish import CohortSpec, plan_cohort

DEMO = REPORTS / "demo"
TOLERANCE = 1e-9  # the same arithmetic on the same table: only the last bits may differ between machines


@pytest.fixture(scope="module")
def tables():
    if not (DEMO / "tables" / "predictions.parquet").is_file():
        pytest.skip("reports/demo has not been made: run `make reproduce`")
    contracts = (LABELS, TILES, SPLITS, PREDICTIONS)
    metrics = pd.read_parquet(DEMO / "tables" / "metrics.parquet").drop(columns="p_permutation", errors="ignore")
    return {t.name: read_table(DEMO / "tables" / f"{t.name}.parquet", t) for t in contracts} | {
        "metrics": conform(metrics, METRICS)
    }


def test_the_paper_size(tables):
    tumours = tables["tiles"].query("selected").merge(tables["labels"][["patient_id"]].drop_duplicates())
    slides, count = tumours["slide_id"].nunique(), len(tumours)
    assert 175 <= slides <= 180 and 1300 < count <= 1800  # a small tumour has fewer than ten tiles, or none left
    assert tables["labels"]["gene"].nunique() == 8


def test_auc_table_follows_from_the_predictions(tables):
    numbers = json.loads((DEMO / "numbers" / "06-roc-analysis.json").read_text())
    labels = tables["labels"][tables["labels"]["patient_id"].isin(tables["predictions"]["patient_id"])]
    fresh = gene_metrics(tables["predictions"], labels, units=("patient",), min_positives=numbers["min_positives"],
                         resamples=10)  # fmt: skip
    committed = pd.read_csv(DEMO / "tables" / "auc_table.csv")
    fresh = committed[["gene", "ci_method"]].merge(fresh, on=["gene", "ci_method"], validate="one_to_one")
    committed, fresh = committed.set_index("gene"), fresh.set_index("gene")
    for column in ("auc", "ci_low", "ci_high", "p", "p_holm"):
        ours, theirs = (f[column].astype(float).reindex(committed.index) for f in (fresh, committed))
        if column.startswith("p"):  # only the headline of today has a p
            theirs = theirs.where(ours.notna())
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, equal_nan=True)
    assert (fresh["n_pos"].reindex(committed.index) == committed["n_pos"]).all()
    assert numbers["auc"] == {g: (None if np.isnan(a) else a) for g, a in committed["auc"].items()}


def test_nobody_was_scored_by_a_network_that_knew_them(tables):
    check_split(tables["splits"])
    tested = tables["splits"].query("role == 'test'").set_index("unit_id")["fold"]
    scored = tables["predictions"]
    assert (scored["fold"] == scored["patient_id"].map(tested)).all()


def test_no_heat_map_shows_a_score_of_a_network_that_knew_the_patient(tables):
    stored = stored_scores(DEMO / "heatmaps")  # the leak alarm rings here, too
    cards = {sha256_file(file)[:16]: read_card(file) for file in (DEMO / "models" / "05").glob("fold-*.safetensors")}
    assert len(cards) == 2 and all(stored.cards[name]["patients"] == card["patients"] for name, card in cards.items())
    assert set(stored.dense["network"]) == {1, 2} and stored.dense["tile_id"].nunique() > len(stored.windows)
    shared = stored.windows.melt(["tile_id"], ["TP53"], value_name="map").merge(
        tables["predictions"].query("gene == 'TP53'")[["tile_id", "score"]]
    )
    assert len(shared) > 20
    np.testing.assert_allclose(shared["map"], shared["score"], atol=1e-3)  # other batches: the last digits


def test_planted_effects_rank_above_the_controls(tables):
    """The strongest planted gene is found; no true control stands out after Holm's adjustment."""
    committed = pd.read_csv(DEMO / "tables" / "auc_table.csv").set_index("gene")
    assert committed.loc["TP53", "ci_low"] > 0.5
    controls = committed.loc[["POLE", "POLD1", "PBRM1", "DNMT3A"]].query("status == 'estimated'")
    assert (controls["p_holm"] > 0.05).all()


def demo_spec():
    return CohortSpec(**json.loads((DEMO / "numbers" / "01-data-acquisition.json").read_text())["spec"])


@pytest.fixture(scope="module")
def truth():
    if not (DEMO / "truth" / "truth_tiles.parquet").is_file():
        pytest.skip("reports/demo has no truth: run `make reproduce`")
    return {t.name: read_table(DEMO / "truth" / f"{t.name}.parquet", t) for t in TRUTH_TABLES.values()}


def test_the_comparison_with_the_truth_follows_from_the_committed_tables(tables, truth):
    stored = pd.read_csv(DEMO / "tables" / "planted_recovery.csv")
    first = plan_cohort(demo_spec()).clinical.query("histology == 'adenocarcinoma'")["patient_id"]
    for group, committed in stored.groupby("patients"):
        own = [tables[name] for name in ("labels", "predictions")]
        labels, predictions = (t[t["patient_id"].isin(first)] if group == "adenocarcinoma" else t for t in own)
        rows = headline_rows(
            gene_metrics(predictions, labels, units=("patient",), min_positives=5, resamples=100, seed=1)
        )
        fresh = recovery.recovery(
            rows, truth["truth_patients"], truth["truth_tiles"], tables["tiles"], labels, predictions,
            dict(committed.set_index("gene")["expected_auc"]),
        ).set_index("gene")  # fmt: skip
        for column in ("d", "bayes_auc", "oracle_auc", "drawn_auc", "expected_auc", "auc", "gap"):
            theirs = committed.set_index("gene")[column].reindex(fresh.index)
            np.testing.assert_allclose(fresh[column], theirs, atol=TOLERANCE)
    filtered = recovery.filter_performance(tables["tiles"], truth["truth_tiles"])
    pd.testing.assert_frame_equal(filtered, pd.read_csv(DEMO / "tables" / "planted_filter.csv"), check_dtype=False)
    recovery.check_grid(tables["tiles"], truth["truth_tiles"])


def test_the_committed_truth_is_the_planned_one(truth):
    plan = plan_cohort(demo_spec())
    ours = plan.truth.sort_values(["patient_id", "gene"], ignore_index=True)
    theirs = truth["truth_patients"].sort_values(["patient_id", "gene"], ignore_index=True)
    np.testing.assert_allclose(ours["latent"].astype(float), theirs["latent"].astype(float), atol=TOLERANCE)
    assert (ours["mutated"].to_numpy(bool) == theirs["mutated"].to_numpy(bool)).all()


def test_aims_are_judged_as_they_are_stated():
    aims = pd.read_csv(DEMO / "tables" / "planted_aims.csv")
    met = np.where(aims["sense"] == "at least", aims["value"] >= aims["bound"], aims["value"] <= aims["bound"])
    assert (aims["reached"] == np.where(aims["value"].isna(), "not estimable", np.where(met, "yes", "no"))).all()
