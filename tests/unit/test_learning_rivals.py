"""Other methods on the same folds: one row per method, patient and gene, and figures that show them."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import TABLES
from deeplrhe_utils.evaluation.auc.compare import paired_differences
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig
from deeplrhe_utils.learning.recipes.recipe import TrainConfig
from deeplrhe_utils.learning.rivals import rivals
from deeplrhe_utils.learning.rivals.mil import MilConfig
from deeplrhe_utils.learning.training import fold
from deeplrhe_utils.learning.training.crossfit import cross_fit
from deeplrhe_utils.learning.training.trainer import start_at_prevalence
from deeplrhe_utils.reporting.figures import learning
from tests.tile_store import folds_of

NETWORK = NetworkConfig(("X", "Y"), kernels=8, stages=1)
RECIPE = TrainConfig(1, 8, crop_px=32, precision="float32")


@pytest.fixture
def ground(small, tmp_path):
    """Two targets whose classes are in both halves of every fold."""
    tiles, frame, _ = small
    status = frame["patient_id"].str[1:].astype(int).to_numpy() // 2 % 2
    y = np.stack([status, 1 - status], axis=1).astype(np.float32)
    return rivals.Ground({0: tiles, 1: tiles}, frame, y, folds_of(frame), tmp_path / "rivals", 1,
                         {"input_mpp": 0.5, "normalization": "none"}, "cpu")  # fmt: skip


def complete(rows, methods, genes=2, patients=6):
    """Every method × patient × gene once, in the table's contract."""
    found = conform(rows, TABLES["rivals"])
    assert found.groupby("method").size().to_dict() == dict.fromkeys(methods, patients * genes)
    assert found["score"].between(0, 1).all()


def test_ablations_differ_in_one_switch_and_score_everybody(ground):
    rows, curves = rivals.ablations(ground, NETWORK, RECIPE)
    complete(rows, rivals.ABLATIONS)
    assert set(curves) == {f"{name}, fold {f}" for name in rivals.ABLATIONS for f in (0, 1)}
    wide = rows.pivot(index=["patient_id", "gene"], columns="method", values="score")
    assert not np.allclose(wide["same, short"], wide["no shortcuts"])
    assert not np.allclose(wide["same, short"], wide["no batch norm"])


def test_an_arm_that_cannot_be_trained_costs_the_others_nothing(ground, capsys):
    hopeless = rivals.Ground(**{**vars(ground), "targets": np.ones_like(ground.targets)})
    assert list(rivals.on_arms({"none": ground, "dcgmm": hopeless}, NETWORK, RECIPE)) == ["none"]
    assert "dcgmm gives no result" in capsys.readouterr().out


def test_another_seed_scores_the_same_tiles_otherwise(ground):
    def train(folder, seed, quiet):
        return rivals.Ground(**{**vars(ground), "folder": folder, "seed": seed}).fit("x", NETWORK, RECIPE)

    first = train(ground.folder / "05", 1, True)
    rows, agree, files = rivals.other_seeds(train, first, ground.folder / "05", 1, 3)
    assert [set(own["method"]) for own in rows] == [{"same, seed 2"}, {"same, seed 3"}]
    assert {path.parts[-3] for path in files} == {"05-seed-2", "05-seed-3"} and list(agree["gene"]) == ["X", "Y"] * 2
    assert agree["rank correlation"].between(-1, 0.999).all() and (agree["tiles"] == len(ground.tiles)).all()
    assert rivals.other_seeds(train, first, ground.folder, 1, 1)[1].empty


def test_one_network_per_gene_scores_that_gene(ground):
    complete(rivals.one_by_one(ground, NETWORK, RECIPE, ["X", "Y"]), ["one network per gene"])
    hopeless = rivals.Ground(**{**vars(ground), "targets": np.ones_like(ground.targets)})
    assert rivals.one_by_one(hopeless, NETWORK, RECIPE, ["X"]).empty


def test_inception_sees_so_many_tiles_of_each_patient(ground):
    one_fold = rivals.Ground(**{**vars(ground), "splits": ground.splits[ground.splits["fold"] == 0]})
    rows = rivals.inception(one_fold, ["X", "Y"], "sigmoid", epochs=1, batch_size=6, tiles_each=1)
    complete(rows, ["Inception v3 (short)"], patients=3)


def test_how_many_folds_are_trained_at_a_time_changes_no_byte(ground, tmp_path):
    """Threads share torch's own generator; each fold's first weights must come from its own seed all the same."""
    found = []
    for abreast in (1, 2):
        given = (ground.stores, ground.tiles, ground.targets, ground.splits, NETWORK, RECIPE)
        where = {"folder": tmp_path / str(abreast), "view": ground.view, "device": "cpu", "abreast": abreast}
        fits = cross_fit(*given, seed=1, quiet=True, **where)
        found.append((fits.predictions, [file.read_bytes() for file in fits.files]))
    pd.testing.assert_frame_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] and len(found[0][1]) == 2


def test_training_starts_at_each_targets_prevalence():
    layer = torch.nn.Linear(3, 2)
    targets = np.array([[1, 0], [1, np.nan], [0, np.nan], [np.nan, 0]], np.float32)
    start_at_prevalence(layer, targets, "sigmoid")
    np.testing.assert_allclose(torch.sigmoid(layer.bias).detach(), [2.5 / 4, 0.5 / 3], rtol=1e-5)
    start_at_prevalence(layer, targets, "softmax")
    np.testing.assert_allclose(layer.bias.exp().detach(), [2.5 / 4, 0.5 / 3], rtol=1e-5)


def test_attention_and_ridge_read_the_features_they_are_given(ground):
    random = np.random.default_rng(0)
    features = pd.DataFrame(random.normal(size=(len(ground.tiles), 4)), index=ground.tiles["tile_id"])
    features[0] += 3 * ground.targets[:, 0]
    rows, weights = rivals.attention(ground, ["X", "Y"], features, "given features", MilConfig(epochs=2))
    complete(rows, ["attention over given features", "mean over given features"])
    sums = weights.merge(ground.tiles).groupby(["patient_id", "gene"])["weight"].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    assert len(weights) == 24 * 2
    found = rivals.ridge(ground, ["X", "Y"], features, "given features")
    complete(found, ["ridge on given features"])
    truth = pd.Series(ground.targets[:, 0], ground.tiles["patient_id"]).groupby(level=0).first()
    own = found[found["gene"] == "X"].set_index("patient_id")["score"]
    fold = found[found["gene"] == "X"].set_index("patient_id")["fold"]
    for f in (0, 1):
        assert own[(truth == 1) & (fold == f)].min() > own[(truth == 0) & (fold == f)].max()


def test_the_figure_has_a_panel_per_gene_and_a_row_per_method(ground):
    names = [f"P{i}" for i in range(12)]
    random = np.random.default_rng(0)
    labels = pd.DataFrame([{"patient_id": n, "gene": g, "status": i % 2} for i, n in enumerate(names) for g in "AB"])

    def arm():
        return pd.DataFrame(
            [{"patient_id": n, "gene": g, "fold": 0, "score": random.random()} for n in names for g in "AB"]
        )

    table = paired_differences(
        {"base": arm(), "one": arm(), "two": arm()}, labels, "base", min_positives=3, resamples=20
    )
    figure = learning.rivals(table, "base")
    shown = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == ["A (6 / 6)", "B (6 / 6)"]
    assert [text.get_text() for text in shown[0].get_yticklabels()] == ["one", "two"]
    lacking = table[(table["arm"] != "one") | (table["gene"] != "B")]
    assert [axes.get_title() for axes in learning.rivals(lacking, "base").axes][:2] == ["A (6 / 6)", "B (6 / 6)"]


def test_search_figures_draw_what_they_are_given():
    rates, losses = np.geomspace(1e-4, 1, 5), np.array([0.7, 0.6, 0.5, 0.9, np.nan])
    figure = learning.range_figure({"flat": (rates, losses)}, {"flat": 1e-2})
    dot = figure.axes[0].lines[1]
    assert float(dot.get_xdata()[0]) == pytest.approx(1e-2) and float(dot.get_ydata()[0]) == 0.5
    many = [f"outer fold {i}" for i in range(25)]
    drawn = learning.range_figure(dict.fromkeys(many, (rates, losses)), dict.fromkeys(many, 1e-2))
    assert len(drawn.axes[0].lines) == 50
    table = pd.DataFrame({"search": many, "auc_valid": 0.7, "auc_test": 0.55})
    axes = learning.winners(table).axes[0]
    assert len(axes.lines) == 26 and [t.get_text() for t in axes.get_yticklabels()] == many
    assert {t.get_text() for t in axes.texts} == {"", "0.70 → 0.55"} and axes.texts[0].xy == (0.55, 0)


def test_watchers_are_called_together_and_tensorboard_writes_when_it_is_there(tmp_path):
    seen = []
    epoch = SimpleNamespace(fold=0, epoch=1, loss=0.5, valid=None, learning_rate=0.1)
    both = fold.together(seen.append, None, seen.append)
    both(epoch)
    assert seen == [epoch, epoch] and fold.together(None, None) is None
    if find_spec("tensorboard") is None:
        assert fold.tensorboard(tmp_path) is None
    else:
        fold.tensorboard(tmp_path)(epoch)
        assert list(tmp_path.glob("fold-0/events*"))
