"""Normal lung, adenocarcinoma, squamous carcinoma: labels by sample, votes of tiles, a reader that must find them."""

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.tables.schemas import LUNG_CLASSES
from deeplrhe_utils.evaluation.auc.table import gene_metrics, headline_rows
from deeplrhe_utils.evaluation.splits.folds import patient_folds
from deeplrhe_utils.learning.rivals.classes import (
    class_labels,
    class_scores,
    multinomial_rows,
    slide_classes,
)


def slides(n=8):
    """`n` patients, tumours of two kinds in turn; every second one has normal lung, too, a sample of its own."""
    rows = [(f"S{i}", f"SYNT-01-{i:04d}", LUNG_CLASSES[1 + i % 2]) for i in range(n)]
    rows += [(f"N{i}", f"SYNT-01-{i:04d}-11", "normal") for i in range(0, n, 2)]
    return pd.DataFrame(rows, columns=["slide_id", "patient_id", "subtype"])


def tiles(table, each=5):
    rows = table.loc[table.index.repeat(each)].reset_index(drop=True)
    return rows.assign(tile_id=[f"{s}_{i}" for i, s in enumerate(rows["slide_id"])])


def test_a_sample_has_one_class_and_what_cannot_be_told_has_none():
    table = slides()
    labels = class_labels(table)
    assert labels.groupby("patient_id")["status"].sum().eq(1).all() and len(labels) == 12 * 3
    assert labels[labels["status"] == 1].set_index("patient_id")["gene"].to_dict() == dict(
        zip(table["patient_id"], table["subtype"], strict=True)
    )
    both = pd.concat([table, table.iloc[[0]].assign(subtype="normal")])  # one unit of two classes is neither
    assert table["patient_id"].iloc[0] not in set(class_labels(both)["patient_id"])
    assert set(class_labels(table.assign(subtype=table["subtype"].where(table["subtype"] != "normal")))["gene"]) == set(
        LUNG_CLASSES[1:]
    )
    assert set(class_labels(table.iloc[[0, 1, 2, 3, 8]])["gene"]) == set(LUNG_CLASSES[1:])  # one sample of normal lung
    assert class_labels(table[table["subtype"] == "normal"]).empty


@pytest.mark.parametrize(("shift", "least", "most"), [(4.0, 0.98, 1.0), (0.0, 0.2, 0.8)])
def test_the_regression_finds_classes_that_show_and_no_others(shift, least, most):
    table = slides(40)
    own, labels = tiles(table), class_labels(table)
    random = generator(1, "classes")
    features = random.standard_normal((len(own), 6))
    features[np.arange(len(own)), own["subtype"].map(LUNG_CLASSES.index)] += shift
    rows = multinomial_rows(pd.DataFrame(features), own, labels, patient_folds(labels, 2, seed=1))
    assert rows.groupby("tile_id")["score"].sum().to_numpy() == pytest.approx(1)
    assert len(rows) == len(own) * 3 and not rows.duplicated(["tile_id", "gene"]).any()
    told = slide_classes(rows, labels, "regression")
    assert list(told["slide_id"]) == sorted(own["slide_id"].unique()) and told["n_tiles"].eq(5).all()
    auc = headline_rows(gene_metrics(class_scores(told), labels, units=("patient",), seed=1))["auc"].astype(float)
    assert auc.between(least, most).all()
    if shift:
        assert (told["called"] == told["truth"]).all() and (told["voted"] == told["truth"]).all()


def test_mean_and_vote_may_differ_and_say_by_how_much():
    scores = {"a": (0.9, 0.1), "b": (0.45, 0.55), "c": (0.45, 0.55)}
    rows = pd.DataFrame([("S0", "P0", 0, tile, kind, p) for tile, both in scores.items()
                         for kind, p in zip(LUNG_CLASSES[1:], both, strict=True)],
                        columns=["slide_id", "patient_id", "fold", "tile_id", "gene", "score"])  # fmt: skip
    labels = pd.DataFrame({"patient_id": "P0", "gene": LUNG_CLASSES[1:], "status": [1, 0]})
    (told,) = slide_classes(rows, labels, "network").to_dict("records")
    assert (told["called"], told["voted"], told["truth"]) == ("adenocarcinoma", "squamous", "adenocarcinoma")
    assert told["adenocarcinoma"] == pytest.approx(0.6) and told["vote_share"] == pytest.approx(2 / 3)
