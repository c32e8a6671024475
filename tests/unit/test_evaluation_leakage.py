"""Leakage: counted by hand, simulated where the truth is known, and measured on real lists and real tiles."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import CohortError, LeakError, ParameterError
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.evaluation.auc import compare
from deeplrhe_utils.evaluation.audits import leakage, near_duplicates
from deeplrhe_utils.evaluation.splits import folds
from deeplrhe_utils.reporting.audit_figures import audits as audit_figures


def cohort(n=40, tiles=6, seed=0, genes=("A", "B", "C")):
    random = np.random.default_rng(seed)
    rows = [(f"P{p:02d}", f"P{p:02d}-{t % 2}", f"P{p:02d}-{t % 2}_{t}") for p in range(n) for t in range(tiles)]
    labels = [(f"P{p:02d}", g, int(random.random() < 0.5)) for p in range(n) for g in genes]
    frame = pd.DataFrame(labels, columns=["patient_id", "gene", "status"]).astype({"status": "Int64"})
    return pd.DataFrame(rows, columns=["patient_id", "slide_id", "tile_id"]), frame


def test_shared_patients_by_hand():
    tiles = pd.DataFrame({"patient_id": list("aabbc"), "slide_id": list("vvwxy"), "tile_id": list("12345")})
    roles = {"v": "test", "w": "test", "x": "train", "y": "train"}
    frame = pd.DataFrame([("slide", 0, s, r) for s, r in roles.items()], columns=["scheme", "fold", "unit_id", "role"])
    (row,) = leakage.shared_patients(frame, tiles).to_dict("records")
    assert row == {"scheme": "slide", "fold": 0, "patients": 2, "shared": 1, "units": 3, "leaked": 1, "share": 1 / 3}
    valid = frame.assign(role=frame["role"].where(frame["unit_id"] != "x", "valid"))
    assert leakage.shared_patients(valid, tiles)["shared"].tolist() == [0]  # validation is not training


@pytest.mark.parametrize(("scheme", "all_shared"), [("tile", True), ("patient", False)])
def test_a_random_split_of_tiles_shares_nearly_every_patient(scheme, all_shared):
    tiles, labels = cohort()
    found = leakage.shared_patients(folds.unit_folds(tiles, labels, scheme, 2, 1, stratify=False), tiles)
    expected = 1 - 0.5**5  # a tested tile's patient has five more tiles, each in training with probability one half
    assert (found["share"] - expected).abs().max() < 0.05 if all_shared else (found["shared"] == 0).all()


def test_units_take_the_patients_place_and_give_it_back():
    tiles, _ = cohort()
    assert (leakage.as_units(tiles, "slide")["patient_id"] == tiles["slide_id"]).all()
    pd.testing.assert_frame_equal(leakage.as_units(tiles, "site"), tiles)
    scored = leakage.as_units(tiles, "tile").assign(gene="A", fold=0, score=0.5)
    assert (leakage.with_patients(scored, tiles)["patient_id"] == tiles["patient_id"]).all()
    with pytest.raises(CohortError, match="not in the tiles table"):
        leakage.with_patients(scored, tiles.iloc[1:])


def predictions(tiles, labels, frame, effect, memory, seed=0):
    """Scores of a network that sees `effect` of the label and remembers `memory` of patients it was trained on."""
    random = np.random.default_rng(seed)
    wide = labels.pivot(index="patient_id", columns="gene", values="status").astype(float)
    test = folds.roles_of(frame[frame["role"] == "test"], tiles)
    train = folds.roles_of(frame[frame["role"] == "train"], tiles)[["fold", "patient_id"]].drop_duplicates()
    shared = test.merge(train, on=["fold", "patient_id"], how="left", indicator=True)["_merge"].eq("both")
    parts = []
    for gene in wide:
        status = wide.loc[test["patient_id"], gene].to_numpy()
        logit = (effect + memory * shared.to_numpy()) * status + random.normal(size=len(test)) + 3 * test["fold"]
        scored = test.assign(gene=gene, score=1 / (1 + np.exp(-logit)))
        parts.append(scored[["tile_id", "slide_id", "patient_id", "gene", "fold", "score"]])
    return pd.concat(parts, ignore_index=True)


def arms_of(memory, seed=0, effect=0.3, n=60):
    tiles, labels = cohort(n, seed=seed)
    made = {s: folds.unit_folds(tiles, labels, s, 2, seed) for s in ("tile", "slide", "patient")}
    return {s: predictions(tiles, labels, f, effect, memory, seed) for s, f in made.items()}, labels


def test_inflation_is_found_where_there_is_memory():
    arms, labels = arms_of(1.0)
    found = compare.inflation(arms, labels, resamples=300)
    macro = found[found["gene"] == compare.MACRO].set_index(["unit", "scheme"])
    for unit in ("patient", "tile"):
        assert macro.loc[(unit, "tile"), "inflation_low"] > 0 and macro.loc[(unit, "patient"), "inflation"] == 0
        assert macro.loc[(unit, "tile"), "inflation"] > 0.1
    assert macro.loc[("patient", "tile"), "n_pos"] == 60


def test_intervals_of_inflation_cover_zero_where_nothing_leaks():
    """Without memory the difference is luck: 95 % intervals of the mean over genes miss 0 in about one of twenty."""
    missed, draws = 0, 24
    for seed in range(draws):
        tiles, labels = cohort(40, 2, seed)
        made = {s: folds.unit_folds(tiles, labels, s, 2, seed) for s in ("tile", "patient")}
        arms = {s: predictions(tiles, labels, f, 0.3, 0.0, seed) for s, f in made.items()}
        found = compare.inflation(arms, labels, units=("patient",), resamples=200, seed=seed)
        row = found[(found["gene"] == compare.MACRO) & (found["scheme"] == "tile")].iloc[0]
        missed += not row["inflation_low"] <= 0 <= row["inflation_high"]
    assert missed <= stats.binom.ppf(0.999, draws, 0.05)


def test_auc_of_every_arm_is_scikit_learns_and_offsets_between_folds_do_not_matter():
    arms, labels = arms_of(0.5)
    found = compare.inflation(arms, labels, resamples=50).set_index(["unit", "scheme", "gene"])
    truth = labels.set_index(["patient_id", "gene"])["status"].astype(int)
    for unit, keys in (("tile", ["tile_id", "patient_id"]), ("patient", ["patient_id"])):
        one = arms["slide"][arms["slide"]["gene"] == "B"].copy()
        wild = one["patient_id"].map(lambda p: truth[p, "B"] == 0)
        for fold, rows in one.groupby("fold"):
            other = rows.loc[wild[rows.index], "score"].to_numpy()
            place = [((s > other).sum() + 0.5 * (s == other).sum()) / len(other) for s in rows["score"]]
            one.loc[one["fold"] == fold, "score"] = place
        mean = one.groupby(keys, as_index=False)["score"].mean()
        label = [truth[p, "B"] for p in mean["patient_id"]]
        row = found.loc[(unit, "slide", "B")]
        assert row["auc"] == pytest.approx(roc_auc_score(label, mean["score"]), abs=1e-12)
        assert row["ci_low"] < row["auc"] < row["ci_high"]
    moved = {s: f.assign(score=f["score"] ** (1 + f["fold"])) for s, f in arms.items()}
    again = compare.inflation(moved, labels, resamples=50).set_index(["unit", "scheme", "gene"])
    pd.testing.assert_frame_equal(again, found)


def test_genes_and_patients_that_cannot_be_compared_are_left_out():
    arms, labels = arms_of(0.5)
    rare = labels.assign(status=labels["status"].where((labels["gene"] != "C") | (labels["patient_id"] < "P04"), 0))
    found = compare.inflation(arms, rare, resamples=20)
    assert set(found["gene"]) == {"A", "B", compare.MACRO}
    less = arms | {"tile": arms["tile"][arms["tile"]["patient_id"] != "P00"]}
    counts = compare.inflation(less, labels, resamples=20).query("gene == 'A'")[["n_pos", "n_neg"]].sum(axis=1)
    assert (counts == 59).all()
    with pytest.raises(ParameterError, match="is missing"):
        compare.inflation(arms, labels, "site")
    with pytest.raises(ParameterError, match="by patient or by tile"):
        compare.inflation(arms, labels, units=("slide",))


def test_the_published_card_drops_by_008():
    card = pd.read_csv(REFERENCE_DATA / "deeppath_card.csv")
    assert len(card) == 10 and card["source"].notna().all()
    found = leakage.card_drop(card)
    assert round(found["mean"], 3) == 0.080 and found["lower"] == 9
    low, high = stats.ttest_rel(card["auc_valid"], card["auc_test"]).confidence_interval()
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-12)


def scenes(n, seed=0, side=96):
    """Smooth random pictures of one stain each."""
    random = np.random.default_rng(seed)
    low = random.normal(size=(n, 6, 6, 3)) * 25 + random.uniform(120, 200, (n, 1, 1, 3))
    small = [Image.fromarray(np.clip(x, 0, 255).astype(np.uint8)) for x in low]
    return np.stack([np.asarray(x.resize((side, side), Image.Resampling.BICUBIC)) for x in small])


def test_copies_have_distance_zero_however_they_are_turned():
    pictures = scenes(4)
    turned = [np.rot90(p, k)[:, ::f] for p in pictures for k in range(4) for f in (1, -1)]
    found = near_duplicates.describe_tiles(np.stack([*pictures, *turned]))
    pairs = near_duplicates.pairs_between(found, np.arange(4), np.arange(4, 36))
    assert len(pairs) == 32
    assert ((pairs[:, 1].astype(int) - 4) // 8 == pairs[:, 0].astype(int)).all()
    assert pairs[:, 2:].max() < 0.002


def test_compression_and_small_shifts_stay_copies_and_strangers_do_not(tmp_path):
    pictures = scenes(60, seed=1, side=128)
    stored = []
    for i, picture in enumerate(pictures[:30]):
        Image.fromarray(np.roll(picture, 1, axis=0)).save(tmp_path / f"{i}.jpg", quality=75)
        stored.append(np.asarray(Image.open(tmp_path / f"{i}.jpg")))
    found = near_duplicates.describe_tiles(np.concatenate([pictures, np.stack(stored)]))
    pairs = near_duplicates.pairs_between(found, np.arange(60), np.arange(60, 90))
    assert sorted(pairs[:, 0].astype(int)) == list(range(30))
    assert (pairs[:, 1] - 60 == pairs[:, 0]).all()


def test_the_tree_finds_what_all_pairs_find():
    found = near_duplicates.describe_tiles(np.concatenate([scenes(80, 2), scenes(80, 2)[::-1] // 2 * 2]))
    first, second = np.arange(0, 160, 2), np.arange(1, 160, 2)
    for kind, (colour_cut, layout_cut) in near_duplicates.CUTS.items():
        colour = np.sqrt(((found.colour[first][:, None] - found.colour[second][None]) ** 2).mean(2))
        turned = near_duplicates.orientations(found.layout[first])
        apart = np.sqrt(((turned[:, :, None] - found.layout[second][None, None]) ** 2).mean((3, 4, 5))).min(0)
        i, j = np.nonzero((colour <= colour_cut) & (apart <= layout_cut))
        pairs = near_duplicates.pairs_between(found, first, second, kind)
        assert len(i) > 0 and sorted(map(tuple, pairs[:, :2])) == sorted(zip(first[i], second[j], strict=True))


def test_near_duplicates_across_a_split_are_named():
    tiles, labels = cohort(10, tiles=2)
    pictures = scenes(20, 3)
    pictures[1] = np.rot90(pictures[0])  # both of P00
    found = near_duplicates.describe_all(pictures.__getitem__, np.arange(20))
    by_tile = pd.DataFrame({"scheme": "tile", "fold": 0, "unit_id": tiles["tile_id"],
                            "role": ["train", "test"] * 10})  # fmt: skip
    (row,) = near_duplicates.across(found, by_tile, tiles).to_dict("records")
    assert (row["tested"], row["other"], row["role"], row["same_patient"]) == ("P00-1_1", "P00-0_0", "train", True)
    assert near_duplicates.across(found, folds.unit_folds(tiles, labels, "patient"), tiles).empty
    with pytest.raises(CohortError, match="one descriptor"):
        near_duplicates.across(found, by_tile, tiles.iloc[1:])


def test_fields_of_real_tiles_are_found(shared_data):
    """LC25000 by its published groups, with the cuts as they are (a fifth of them, for speed)."""
    groups = pd.read_csv(shared_data / "lc25000" / "groups.csv")
    code = (groups["label"] + groups["group_id"].astype(str)).factorize()[0]
    part = np.random.default_rng(0).random(code.max() + 1) > 0.8
    groups, code = groups[part[code]], code[part[code]]
    files = [shared_data / "lc25000" / row.label / row.filename for row in groups.itertuples()]

    def opened(at):
        return np.stack([np.asarray(Image.open(files[k]).convert("RGB")) for k in at])

    found = near_duplicates.describe_all(opened, np.arange(len(files)))
    every = np.arange(len(files))
    same = sum(k * (k - 1) // 2 for k in np.bincount(code))
    for kind, precision, recall in (("copy", 0.97, 0.10), ("field", 0.93, 0.35)):
        pairs = near_duplicates.pairs_between(found, every, every, kind)
        pairs = pairs[pairs[:, 0] < pairs[:, 1], :2].astype(int)
        right = code[pairs[:, 0]] == code[pairs[:, 1]]
        assert right.mean() >= precision and right.sum() / same >= recall


@pytest.mark.parametrize(("scheme", "both"), [("tile", True), ("patient", False)])
def test_training_sees_units_as_patients_and_its_alarm_stays_for_true_ones(scheme, both):
    """What notebook 10 hands to the cross-fit: parts by unit, no leak alarm; with true patients it would ring."""
    from deeplrhe_utils.learning.networks.cards import hash_patient, refuse_leak
    from deeplrhe_utils.learning.training.launch import fold_parts

    tiles, labels = cohort()
    frame = folds.unit_folds(tiles, labels, scheme, 2, 1, stratify=False)
    parts = fold_parts(leakage.as_units(tiles, scheme), np.zeros((len(tiles), 1), np.float32), frame, 0, None)
    train, test = (parts[role] for role in ("train", "test"))
    assert len(train.indices) + len(test.indices) == len(tiles) and not set(train.indices) & set(test.indices)
    refuse_leak({"patients": list(map(hash_patient, train.patients))}, test.patients, "fold-0")
    trained = {hash_patient(tiles["patient_id"][i]) for i in train.indices}
    tested = sorted({tiles["patient_id"][i] for i in test.indices})
    if both:
        with pytest.raises(LeakError):
            refuse_leak({"patients": trained}, tested, "fold-0")
    else:
        refuse_leak({"patients": trained}, tested, "fold-0")


def test_figures_show_what_they_are_given(tmp_path):
    arms, labels = arms_of(0.5, n=30)
    table = compare.inflation(arms, labels, resamples=20)
    figure = audit_figures.schemes(table)
    assert [a.get_title() for a in figure.axes] == ["counted by patient", "counted by tile"]
    drawn = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 4]
    by_tile = table.query("unit == 'patient' and scheme == 'tile'")["auc"].sort_values()
    assert any(np.allclose(sorted(x), by_tile) for x in drawn), "the mean first, then the genes"
