"""Frozen features, gated attention, and a planted tile that attention finds and a mean does not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import CohortError, InputError, LabelError, LeakError, ModelError, ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.table import gene_metrics
from deeplrhe_utils.evaluation.auc.units import align_folds
from deeplrhe_utils.learning.rivals import mil
from deeplrhe_utils.learning.scoring import features

SMALL = mil.MilConfig(embed=8, hidden=4, epochs=3)


pytestmark = pytest.mark.usefixtures("one_thread")


class Colour(torch.nn.Module):
    """Mean colour of a tile, and whether the network was training."""

    def features(self, x):
        colour = x.mean((2, 3))
        return torch.cat([colour, torch.full_like(colour[:, :1], float(self.training))], 1)


# --- features
def test_features_are_those_of_each_tile_in_order(monkeypatch):
    monkeypatch.setattr(features, "FEATURE_BATCH", 3)
    tiles = generator(0, "tiles").integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)
    read = lambda indices: tiles[list(indices)]  # noqa: E731
    found = features.tile_features(Colour().train(), read, 7, device="cpu")
    assert found.dtype == np.float32 and found.shape == (7, 4) and not found[:, 3].any()
    np.testing.assert_allclose(found[:, :3], tiles.mean((1, 2)) / 255, atol=1e-6)


def test_features_that_are_none_are_refused():
    tiles = np.zeros((4, 8, 8, 3), np.uint8)
    network = Colour()
    with pytest.raises(InputError, match="no tile"):
        features.tile_features(network, lambda i: tiles, 0)
    network.features = lambda x: torch.where(torch.arange(len(x))[:, None] == 2, torch.nan, 1.0)
    with pytest.raises(ModelError, match="tile 2 are not finite"):
        features.tile_features(network, lambda i: tiles, 4, device="cpu")


# --- the network
def bags(shape=(3, 5, 6), targets=2, **changes):
    """A random network in evaluation mode, and bags of 5, 3 and 1 tiles."""
    torch.manual_seed(0)
    model = mil.GatedAttention(shape[2], targets, replace(SMALL, **changes)).eval()
    return model, torch.randn(shape), torch.arange(shape[1]) < torch.tensor([[5], [3], [1]])


@pytest.mark.parametrize("pooling", ["gated", "mean"])
@pytest.mark.parametrize("embed", [0, 8])
def test_attention_sums_to_one_and_ignores_order_and_padding(pooling, embed):
    model, x, mask = bags(pooling=pooling, embed=embed)
    logits, attention = model(x, mask)
    assert logits.shape == (3, 2) and attention.shape == (3, 2, 5)
    torch.testing.assert_close(attention.sum(2), torch.ones(3, 2))
    assert not attention.masked_select(~mask[:, None]).any() and (attention[2, :, 0] == 1).all()
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(model(x[:, order], mask[:, order])[0], logits)
    torch.testing.assert_close(model(torch.where(mask[..., None], x, 1e3), mask)[0], logits)
    for i, n in enumerate((5, 3, 1)):
        torch.testing.assert_close(model(x[i : i + 1, :n], mask[i : i + 1, :n])[0][0], logits[i])


def test_mean_pooling_is_the_mean_and_gated_attention_that_of_the_paper():
    model, x, mask = bags(pooling="mean")
    mean = (model.embeddings(x) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(model(x, mask)[0], model.classify(mean))
    model, x, mask = bags()
    h = model.embeddings(x[0])
    v, u = model.content(h)[:, 4:], model.gate(h)[:, 4:]
    weight = torch.softmax((torch.tanh(v) * torch.sigmoid(u)) @ model.weigh[1], 0)
    torch.testing.assert_close(model(x, mask)[1][0, 1], weight)


def test_every_weight_receives_a_gradient_and_genes_have_their_own_attention():
    model, x, mask = bags()
    model(x, mask)[0].square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in model.parameters())
    model.zero_grad()
    model(x, mask)[0][:, 0].sum().backward()
    assert float(model.weigh.grad[0].abs().sum()) > 0 and not model.weigh.grad[1].any()


def test_an_empty_bag_and_impossible_settings_are_refused():
    model, x, mask = bags()
    mask[1] = False
    with pytest.raises(ModelError, match="no tile"):
        model(x, mask)
    for wrong in ({"pooling": "max"}, {"hidden": 0}, {"embed": -1}, {"epochs": 0}, {"dropout": 1.0}):
        with pytest.raises(ParameterError):
            mil.MilConfig(**wrong)


def test_padded_bags_hold_every_tile_once():
    rows, mask = mil.padded(np.array([1, 0, 1, 1]), 2)
    assert rows[mask].tolist() == [1, 0, 2, 3] and mask.sum(1).tolist() == [1, 3]
    for wrong, count in (([0, 2], 3), ([0, 1], 1), ([0, 1], 3)):
        with pytest.raises(CohortError, match="do not match"):
            mil.padded(np.array(wrong), count)


# --- training
def planted(seed, shift=6.0, patients=80, tiles=10, dim=96):
    """Half of the patients are positive: one of their tiles is shifted along a direction nobody knows."""
    random = generator(seed, "planted bags")
    x, patient = random.normal(size=(patients * tiles, dim)), np.repeat(np.arange(patients), tiles)
    label, direction = (np.arange(patients) % 2).astype(np.float32), random.normal(size=dim)
    hit = np.flatnonzero(label) * tiles + random.integers(0, tiles, int(label.sum()))
    x[hit] += shift * direction / np.linalg.norm(direction)
    frame = pd.DataFrame(
        {"tile_id": [f"T{i:04d}" for i in range(len(x))], "patient_id": [f"P{p:03d}" for p in patient]}
    )
    return x.astype(np.float32), frame, label, hit


def two_folds(frame):
    """Both classes, of those that alternate, in both folds; the columns of table SPLITS that matter."""
    names = sorted(frame["patient_id"].unique())
    rows = [(f, p, "test" if i // 2 % 2 == f else "train") for f in (0, 1) for i, p in enumerate(names)]
    return pd.DataFrame(rows, columns=["fold", "unit_id", "role"])


def cross_fit(folder, x, frame, label, config, seed, name="gated"):
    targets = np.repeat(label, len(frame) // len(label))[:, None]
    return mil.cross_fit_bags({0: x, 1: x}, frame, targets, two_folds(frame), ["X"], config, folder=folder, seed=seed,
                              name=name, quiet=True)  # fmt: skip


def auc(fit, label):
    return roc_auc_score(label, align_folds(fit.scores).sort_values("patient_id")["score"])


def test_attention_finds_the_one_tile_that_a_mean_drowns(tmp_path):
    seed = 0
    x, frame, label, hit = planted(seed)
    gated = cross_fit(tmp_path, x, frame, label, mil.MilConfig(), seed)
    mean = cross_fit(tmp_path, x, frame, label, mil.MilConfig(pooling="mean"), seed, name="mean")
    assert auc(gated, label) > 0.85 and auc(gated, label) > auc(mean, label) + 0.08
    weight = gated.attention.set_index("tile_id")["weight"]
    assert (weight[frame["tile_id"].iloc[hit]] > 1 / 10).mean() > 0.8
    np.testing.assert_allclose(weight.groupby(frame.set_index("tile_id")["patient_id"]).sum(), 1, atol=1e-5)
    assert (mean.attention["weight"] - 0.1).abs().max() < 1e-6


def test_exchanged_labels_give_chance(tmp_path):
    found = []
    for seed in range(5):
        x, frame, label, _ = planted(seed)
        label = generator(seed, "exchange").permutation(label)
        found.append(auc(cross_fit(tmp_path, x, frame, label, mil.MilConfig(), seed), label))
    assert 0.35 < np.mean(found) < 0.65


def few(seed=0, patients=8):
    x, frame, label, _ = planted(seed, patients=patients, tiles=4, dim=6)
    return x, frame["patient_id"].factorize(sort=True)[0], label


def fit(x, index, targets, config=SMALL, seed=1):
    return mil.fit_bags(x, index, targets, config, seed=seed, fold=3, report=lambda _: None)


def test_training_is_seeded_and_leaves_unknown_and_one_sided_genes_out():
    x, index, label = few()
    targets = np.stack([label, np.ones(8), np.full(8, np.nan)], 1).astype(np.float32)
    model, history, usable = fit(x, index, targets)
    assert usable.tolist() == [True, False, False] and len(history) == 3 and not model.training
    again = fit(x, index, targets)[0].state_dict()
    assert all(torch.equal(a, again[name]) for name, a in model.state_dict().items())
    assert fit(x, index, targets, seed=2)[1] != history
    targets[:, 1] = np.nan
    other = fit(x, index, targets)[0].state_dict()
    assert all(torch.equal(a, other[name]) for name, a in model.state_dict().items())
    np.testing.assert_allclose(model.mean, x.mean(0), atol=1e-6)


def test_a_patient_without_labels_changes_no_step():
    x, index, label = few()
    targets = label[:, None].copy()
    targets[5] = np.nan
    x2 = x.copy()
    x2[index == 5] = np.roll(x[index == 5], 1, axis=0)  # same mean and spread, other order
    assert fit(x, index, targets)[1] == pytest.approx(fit(x2, index, targets)[1], abs=1e-6)
    assert mil.score_bags(fit(x, index, targets)[0], x, index)[0].shape == (8, 1)


def test_a_cap_draws_real_tiles_only_and_anew():
    index = np.repeat([0, 1, 2], [6, 2, 4])
    rows, mask = mil.padded(index, 3)
    random, seen = generator(0, "cap"), set()
    for _ in range(40):
        few_rows, real = mil._drawn(rows, mask, 3, random)
        assert real.sum(1).tolist() == [3, 2, 3]
        for patient in range(3):
            drawn = few_rows[patient][real[patient]]
            assert len(set(drawn)) == len(drawn) and (index[drawn] == patient).all()
            seen.update(drawn.tolist())
    assert seen == set(range(12))
    x, bag, label = few()
    assert len(fit(x, bag, label[:, None], replace(SMALL, tiles_per_bag=2))[1]) == 3


def test_a_loss_that_is_not_finite_names_the_place():
    x, index, label = few()
    x[index == 2] = np.nan
    with pytest.raises(ModelError, match=r"nan in fold 3, epoch 1, batch 1"):
        fit(x, index, label[:, None])
    with pytest.raises(CohortError, match="Fold 3 has no gene with both classes"):
        fit(x, index, np.ones((8, 1), np.float32))


def test_a_score_does_not_depend_on_who_else_is_scored():
    x, index, label = few()
    x[:, 0] = 3.0  # a constant feature divides nothing by zero
    model = fit(x, index, label[:, None])[0]
    scores, attention = mil.score_bags(model, x, index)
    assert scores.shape == (8, 1) and attention.shape == (32, 1) and np.isfinite(scores).all()
    shuffled = generator(0, "order").permutation(32)
    again, moved = mil.score_bags(model, x[shuffled], index[shuffled])
    np.testing.assert_allclose(again, scores, atol=1e-6)
    np.testing.assert_allclose(moved, attention[shuffled], atol=1e-6)
    alone = mil.score_bags(model, x[index == 6], np.zeros(4, int))[0]
    assert alone[0] == scores[6]
    with pytest.raises(ModelError, match="5 features"):
        mil.score_bags(model, x[:, :5], index)
    x[7, 2] = np.inf
    with pytest.raises(ModelError, match="finite"):
        mil.score_bags(model, x, index)


# --- files and folds
def test_a_kept_network_scores_the_same_and_knows_its_patients(tmp_path):
    x, index, label = few()
    model = fit(x, index, label[:, None])[0]
    path = tmp_path / "bags.safetensors"
    assert len(mil.save_mil(model, path, trained_on=["PATIENT-ONE"], card={"genes": ["X"]})) == 16
    loaded, card = mil.load_mil(path, score_patients=["P2"])
    assert card["genes"] == ["X"] and b"PATIENT-ONE" not in path.read_bytes() and loaded.config == SMALL
    np.testing.assert_array_equal(mil.score_bags(loaded, x, index)[0], mil.score_bags(model, x, index)[0])
    with pytest.raises(LeakError, match="trained on 1 patients it is asked to score"):
        mil.load_mil(path, score_patients=["P2", "PATIENT-ONE"])
    whole = path.read_bytes()
    for damage, match in ((whole[:-9], "cannot be read"), (b"\x80\x04\x95 a pickle, perhaps", "never opened")):
        path.write_bytes(damage)
        with pytest.raises(ModelError, match=match):
            mil.load_mil(path)
    path.write_bytes(whole.replace(b"deeplrhe-mil", b"deeplrhe-xyz"))
    with pytest.raises(ModelError, match="holds no bag network"):
        mil.load_mil(path)
    with pytest.raises(ModelError, match="cannot be read"):
        mil.load_mil(tmp_path / "gone.safetensors")


@pytest.fixture
def cohort():
    """16 patients of 4 tiles; genes: learnable, one-sided, one-sided in one fold only."""
    x, frame, label, _ = planted(0, patients=16, tiles=4, dim=6)
    half = np.where(np.arange(16) // 2 % 2 == 0, label, 1.0)
    targets = np.repeat(np.stack([label, np.ones(16), half], 1), 4, axis=0).astype(np.float32)
    return x, frame, targets


def fit_cohort(cohort, folder, config=SMALL, seed=1, splits=None):
    x, frame, targets = cohort
    splits = two_folds(frame) if splits is None else splits
    return mil.cross_fit_bags({0: x, 1: x}, frame, targets, splits, ["X", "Y", "Z"], config, folder=folder, seed=seed,
                              name="gated attention", quiet=True)  # fmt: skip


def test_every_tested_patient_and_tile_comes_out_once_per_gene(cohort, tmp_path):
    fits = fit_cohort(cohort, tmp_path)
    assert list(fits.scores) == ["patient_id", "gene", "fold", "method", "score", "model_hash"]
    assert len(fits.scores) == 16 * 3 and not fits.scores.duplicated(["patient_id", "gene"]).any()
    assert len(fits.attention) == 64 * 3 and not fits.attention.duplicated(["tile_id", "gene"]).any()
    null = fits.scores.groupby(["gene", "fold"])["score"].agg(lambda s: s.isna().mean()).unstack()
    assert null.to_numpy().tolist() == [[0, 0], [1, 1], [1, 0]]
    assert fits.attention["weight"].isna().mean() == pytest.approx(0.5)
    assert set(fits.scores["method"]) == {"gated attention"} and fits.scores["model_hash"].nunique() == 2
    labels = pd.DataFrame({"patient_id": sorted(cohort[1]["patient_id"].unique()), "gene": "X"})
    table = gene_metrics(fits.scores, labels.assign(status=np.arange(16) % 2), units=("patient",), resamples=20)
    assert set(table["status"]) == {"estimated"} and set(table["n_pos"]) == {8}


def test_finished_folds_are_reused_only_when_nothing_changed(cohort, tmp_path):
    first = fit_cohort(cohort, tmp_path)
    stamps = lambda: [f.stat().st_mtime_ns for f in first.files]  # noqa: E731
    before = stamps()
    again = fit_cohort(cohort, tmp_path)
    assert stamps() == before and again.history == first.history
    pd.testing.assert_frame_equal(again.scores, first.scores)
    x, frame, targets = cohort
    for changed in (
        lambda: fit_cohort(cohort, tmp_path, seed=2),
        lambda: fit_cohort(cohort, tmp_path, config=replace(SMALL, epochs=2)),
        lambda: fit_cohort((x + 1, frame, targets), tmp_path),
        lambda: fit_cohort((x, frame, np.where(targets == 1, 0, 1).astype(np.float32)), tmp_path),
    ):
        changed()
        assert all(now != old for now, old in zip(stamps(), before, strict=True))
        before = stamps()


def test_the_order_of_the_tiles_changes_no_score(cohort, tmp_path):
    x, frame, targets = cohort
    order = np.arange(64).reshape(16, 4)[::-1].ravel()
    moved = fit_cohort((x[order], frame.iloc[order], targets[order]), tmp_path / "moved")
    first = fit_cohort(cohort, tmp_path)
    pd.testing.assert_frame_equal(moved.scores.drop(columns="model_hash"), first.scores.drop(columns="model_hash"),
                                  atol=1e-5)  # fmt: skip
    assert moved.attention["tile_id"].iloc[0] != first.attention["tile_id"].iloc[0]


def test_a_fold_that_cannot_learn_and_a_patient_without_tiles_get_null(cohort, tmp_path):
    x, frame, targets = cohort
    splits = pd.concat([two_folds(frame), pd.DataFrame([(0, "P999", "test")], columns=["fold", "unit_id", "role"])])
    one_sided = targets.copy()
    one_sided[np.repeat(np.arange(16) // 2 % 2 == 1, 4)] = 1  # the training patients of fold 0
    fits = fit_cohort((x, frame, one_sided), tmp_path, splits=splits)
    assert fits.untrained == [0] and len(fits.files) == 1 and len(fits.scores) == 17 * 3
    assert fits.scores.loc[fits.scores["fold"] == 0, "score"].isna().all()
    assert set(fits.scores.loc[fits.scores["fold"] == 0, "model_hash"]) == {"none"}
    fits = fit_cohort(cohort, tmp_path, splits=splits)
    assert fits.scores.query("patient_id == 'P999'")["score"].isna().tolist() == [True] * 3
    with pytest.raises(CohortError, match="both classes"):
        fit_cohort((x, frame, np.ones_like(targets)), tmp_path)


def test_what_does_not_match_is_refused(cohort, tmp_path):
    x, frame, targets = cohort
    with pytest.raises(InputError, match="do not match"):
        fit_cohort((x[:-1], frame, targets), tmp_path)
    with pytest.raises(InputError, match="Fold 2 has no features"):
        fit_cohort(cohort, tmp_path, splits=two_folds(frame).replace({"fold": {1: 2}}))
    torn = targets.copy()
    torn[5, 0] = 1 - torn[5, 0]
    with pytest.raises(LabelError, match="P001 carry different labels"):
        fit_cohort((x, frame, torn), tmp_path)
