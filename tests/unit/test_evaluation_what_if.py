"""Three questions of the explorer, by hand."""

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.evaluation.precision import what_if
from deeplrhe_utils.evaluation.precision.power import half_width


def test_without_its_highest_windows_a_mean_falls_and_one_window_stays():
    scores = pd.DataFrame({"slide_id": ["a"] * 4 + ["b"], "score": [0.1, 0.9, 0.5, 0.3, 0.7]})
    found = what_if.without_highest(scores, (0.0, 0.25, 1.0))
    assert found[found["slide_id"] == "a"]["mean"].tolist() == pytest.approx([0.45, 0.3, 0.1])
    assert found[found["slide_id"] == "b"]["windows"].tolist() == [1, 1, 1]


def test_a_cut_counts_only_the_tiles_below_it():
    n = 20
    names, label = [f"P{i:02d}" for i in range(n)], np.arange(n) % 2
    tiles = pd.DataFrame({"tile_id": [f"{p}_{k}" for p in names for k in "ab"], "background_fraction": [0.2, 0.6] * n})
    scores = np.stack([label * 0.5 + 0.2, 0.7 - label * 0.5], axis=1).ravel() + np.arange(2 * n) * 1e-4
    twice = np.repeat(names, 2)
    predictions = pd.DataFrame({"tile_id": tiles["tile_id"], "slide_id": twice, "patient_id": twice, "gene": "G",
                                "score": scores, "fold": 0, "model_hash": "x"})  # fmt: skip
    labels = pd.DataFrame({"patient_id": names, "gene": "G", "status": pd.array(label, "Int64")})
    found = what_if.at_cuts(tiles, predictions, labels, 3, cuts=(0.1, 0.3, 0.5, 0.75)).set_index("cut")
    assert found.index.tolist() == [0.3, 0.75] and found["tiles"].tolist() == [n, 2 * n]
    assert found.loc[0.3, "auc"] == 1.0 and found.loc[0.75, "auc"] < 1.0
    counts = what_if.at_counts(0.25, [0.8], (4, 200))
    assert counts["patients"].tolist() == [200] and counts["half_width"][0] == pytest.approx(
        half_width(0.8, 50, 150) * 2**0.5
    )
    asked = what_if.what_if_sentences(what_if.without_highest(pd.DataFrame({"slide_id": ["s"], "score": [0.5]})),
                                      found.reset_index(), counts, "G")  # fmt: skip
    assert list(asked) == ["what drives s?", "another cut of background?", "how many patients, at AUC 0.80?"]
    assert asked["another cut of background?"]["at most 30%"].startswith(
        "20 tiles of 20 patients would stay; AUC of G 1.00"
    )
