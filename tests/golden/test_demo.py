"""The committed demo: its headline numbers follow from its own committed predictions and labels."""

import json

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.paths import REPORTS
from deeplrhe_utils.core.schemas import LABELS, METRICS, PREDICTIONS, SPLITS, TILES, read_table
from deeplrhe_utils.evaluation.roc import DELONG, gene_metrics
from deeplrhe_utils.evaluation.splits import check_split

DEMO = REPORTS / "demo"
TOLERANCE = 1e-9  # the same arithmetic on the same table: only the last bits may differ between machines


@pytest.fixture(scope="module")
def tables():
    if not (DEMO / "tables" / "predictions.parquet").is_file():
        pytest.skip("reports/demo has not been made: run `make reproduce`")
    contracts = (LABELS, TILES, SPLITS, PREDICTIONS, METRICS)
    return {t.name: read_table(DEMO / "tables" / f"{t.name}.parquet", t) for t in contracts}


def test_the_paper_size(tables):
    selected = tables["tiles"].query("selected")
    assert selected["slide_id"].nunique() == 180 and len(selected) == 1800
    assert tables["labels"]["gene"].nunique() == 8


def test_auc_table_follows_from_the_predictions(tables):
    numbers = json.loads((DEMO / "numbers" / "06-roc-analysis.json").read_text())
    labels = tables["labels"][tables["labels"]["patient_id"].isin(tables["predictions"]["patient_id"])]
    fresh = gene_metrics(tables["predictions"], labels, units=("patient",), min_positives=numbers["min_positives"],
                         resamples=10)  # fmt: skip
    fresh = fresh[fresh["ci_method"].isin([DELONG, "none"])].set_index("gene")
    committed = pd.read_csv(DEMO / "tables" / "auc_table.csv").set_index("gene")
    for column in ("auc", "ci_low", "ci_high", "p", "p_holm"):
        ours, theirs = (f[column].astype(float).reindex(committed.index) for f in (fresh, committed))
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, equal_nan=True)
    assert (fresh["n_pos"].reindex(committed.index) == committed["n_pos"]).all()
    assert numbers["auc"] == {g: (None if np.isnan(a) else a) for g, a in committed["auc"].items()}


def test_nobody_was_scored_by_a_network_that_knew_them(tables):
    check_split(tables["splits"])
    tested = tables["splits"].query("role == 'test'").set_index("unit_id")["fold"]
    scored = tables["predictions"]
    assert (scored["fold"] == scored["patient_id"].map(tested)).all()


def test_planted_effects_rank_above_the_controls(tables):
    """The strongest planted gene is found; no true control stands out after Holm's adjustment."""
    committed = pd.read_csv(DEMO / "tables" / "auc_table.csv").set_index("gene")
    assert committed.loc["TP53", "ci_low"] > 0.5
    controls = committed.loc[["POLE", "POLD1", "PBRM1", "DNMT3A"]].query("status == 'estimated'")
    assert (controls["p_holm"] > 0.05).all()
