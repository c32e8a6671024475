"""Label-free features measure what was drawn; closed-form readers score held-out units and look at nothing else."""

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.learning.probes import readers, sources
from deeplrhe_utils.learning.probes.bank import FEATURES, STAIN, tile_bank
from deeplrhe_utils.learning.tiles.store import TileStore, write_tiles

PINK, BLUE = (225, 160, 190), (70, 50, 130)


def drawn(radius_um=4.0, count=60, side=256, mpp=1.0, axes=1.0, pink=PINK, blue=BLUE, seed=0, small=0):
    """Tissue with `count` elliptic nuclei on a jittered grid, `small` of them of 2.6 µm, dark; drawn at 4×, shrunk."""
    random, scale = np.random.default_rng(seed), 4
    big = np.full((side * scale, side * scale, 3), pink, np.uint8)
    across = int(np.ceil(np.sqrt(count)))
    step = side * scale / across
    for i in range(count):
        x, y = ((np.array([i % across, i // across]) + 0.5 + random.uniform(-0.12, 0.12, 2)) * step).astype(int)
        is_small = i < small
        long = (2.6 if is_small else radius_um) / mpp * scale
        sides = (max(1, round(long)), max(1, round(long * (1 if is_small else axes))))
        colour = (40, 25, 90) if is_small else blue
        cv2.ellipse(big, (int(x), int(y)), sides, float(random.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return cv2.resize(big, (side, side), interpolation=cv2.INTER_AREA)


def bank(**how):
    mpp = how.get("mpp", 1.0)
    return dict(zip(FEATURES, tile_bank(drawn(**how), mpp), strict=True))


def test_nuclei_have_the_number_and_area_that_were_drawn():
    for mpp, side in ((1.0, 256), (0.5, 512)):
        found = bank(mpp=mpp, side=side)
        assert np.expm1(found["nuclei_per_mm2"]) == pytest.approx(60 / 0.256**2, rel=0.05), mpp
        assert np.exp(found["area_mean"]) == pytest.approx(np.pi * 4**2, rel=0.25), mpp
        assert found["large_round"] > 0.85


@pytest.mark.parametrize(("feature", "less", "more"), [
    ("area_mean", {"radius_um": 3.6}, {"radius_um": 4.6}),
    ("area_p90", {"radius_um": 3.6}, {"radius_um": 4.6}),
    ("nuclei_per_mm2", {"count": 40}, {"count": 70}),
    ("nuclear_share", {"count": 40}, {"count": 70}),
    ("neighbour_mean", {"count": 70}, {"count": 40}),
    ("spindle_share", {"axes": 1.0}, {"axes": 0.35, "radius_um": 6.0}),
    ("large_round", {"axes": 0.65}, {"axes": 1.0}),
    ("small_share", {"small": 5}, {"small": 30}),
    ("small_per_mm2", {"small": 5}, {"small": 30}),
    ("nuclear_h", {"blue": (120, 100, 170)}, {"blue": (60, 40, 120)}),
    ("e_mean", {"pink": (235, 190, 210)}, {"pink": (220, 130, 175)}),
])  # fmt: skip
def test_a_feature_moves_with_what_it_is_named_after(feature, less, more):
    low, high = ([bank(seed=s, **how)[feature] for s in range(3)] for how in (less, more))
    assert max(low) < min(high)


def test_texture_bands_and_coherence_answer_to_scale_and_direction():
    x = np.mgrid[:256, :256][1]
    stripes = {um: np.uint8(190 + 30 * np.sin(x / um))[..., None].repeat(3, 2) for um in (2, 8)}
    fine, coarse = (dict(zip(FEATURES, tile_bank(t, 1.0), strict=True)) for t in stripes.values())
    assert fine["h_band_1_2"] - fine["h_band_8_16"] > coarse["h_band_1_2"] - coarse["h_band_8_16"] + 0.5
    noise = np.random.default_rng(0).normal(190, 25, (256, 256, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2)
    assert coarse["coherence"] > 0.8 > dict(zip(FEATURES, tile_bank(noise, 1.0), strict=True))["coherence"]


def test_glass_and_ink_have_finite_numbers():
    for value in (255, 250, 0):
        row = tile_bank(np.full((64, 64, 3), value, np.uint8), 1.0)
        assert np.isfinite(row).all() and (value < 200 or not row.any())


def test_shuffled_pixels_keep_the_stain():
    tile = drawn()
    mixed = np.random.default_rng(0).permutation(tile.reshape(-1, 3)).reshape(tile.shape)
    one, other = (dict(zip(FEATURES, tile_bank(t, 1.0), strict=True)) for t in (tile, mixed))
    assert all(one[name] == pytest.approx(other[name], abs=0.02) for name in STAIN)
    assert one["area_mean"] > other["area_mean"] + 0.3


def test_ridge_is_scikit_learns_and_never_sees_the_held_out_label():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 6)), random.integers(0, 2, (40, 3)).astype(float)
    fold = np.arange(40) % 2
    scores = readers.ridge_held_out(x, y, fold, penalty=0.5)
    for held in (0, 1):
        own, other = x[fold != held], x[fold == held]
        mean, sd = own.mean(0), own.std(0)
        scaled = ((own - mean) / sd).clip(-4, 4)
        unit = (np.linalg.svd(scaled - scaled.mean(0), compute_uv=False) ** 2).mean()
        model = Ridge(alpha=0.5 * unit).fit(scaled, y[fold != held])
        expected = model.predict(((other - mean) / sd).clip(-4, 4)) - y[fold != held].mean(0)
        np.testing.assert_allclose(scores[fold == held], expected, atol=1e-9)
        changed = np.where((fold == held)[:, None], 1 - y, y)
        np.testing.assert_array_equal(
            readers.ridge_held_out(x, changed, fold, penalty=0.5)[fold == held], scores[fold == held]
        )


def test_kernel_reader_is_kernel_ridge_and_memorizes_when_narrow():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(30, 4)), random.integers(0, 2, (30, 1)).astype(float)
    fold = np.arange(30) % 2
    scores = readers.kernel_held_out(x, y, fold, width=1.0, penalty=0.1)
    own, other = x[fold == 1], x[fold == 0]
    mean, sd = own.mean(0), own.std(0)
    model = KernelRidge(alpha=0.1, kernel="rbf", gamma=1 / (2 * 4)).fit(
        (own - mean) / sd, y[fold == 1] - y[fold == 1].mean()
    )
    np.testing.assert_allclose(scores[fold == 0], model.predict((other - mean) / sd), atol=1e-9)
    twice = np.vstack([x, x + 1e-6])  # every unit has a copy on the other side
    found = readers.kernel_held_out(twice, np.vstack([y, y]), np.arange(60) // 30, width=0.1)
    assert np.corrcoef(found[:30, 0], y[:, 0])[0, 1] > 0.95


def test_divisions_are_even_look_at_no_label_and_keep_groups_whole():
    folds = readers.partitions(31, 3, 4, seed=5)
    assert folds.shape == (4, 31) and all(np.bincount(f).tolist() == [11, 10, 10] for f in folds)
    assert (folds[0] != folds[1]).any() and (folds == readers.partitions(31, 3, 4, seed=5)).all()
    groups = np.repeat(np.arange(8), [9, 1, 2, 3, 4, 5, 2, 5])
    for fold in readers.partitions(31, 2, 6, seed=5, groups=groups):
        assert all(len(set(fold[groups == g])) == 1 for g in range(8)) and min(np.bincount(fold)) >= 9


def test_features_come_from_bank_encoder_or_file_and_a_bad_file_is_named(tmp_path):
    names = ["s_0_0", "s_1_0"]
    write_tiles(tmp_path / "tiles", "s", np.stack([drawn(count=n) for n in (20, 60)]))
    store = TileStore(tmp_path / "tiles", pd.DataFrame({"slide_id": "s", "tile_id": names}))
    table = sources.feature_table("bank", store, 1.0)
    assert table.index.tolist() == names and list(table) == list(FEATURES)
    np.testing.assert_array_equal(table.to_numpy()[1], tile_bank(drawn(count=60), 1.0))
    one = sources.feature_table("deeplrhe", store, 1.0, weights="none", seed=3)
    assert one.shape[0] == 2 and one.equals(sources.feature_table("deeplrhe", store, 1.0, weights="none", seed=3))
    for source, whole in (("bank", table), ("deeplrhe", one)):  # the second tile alone is the second row
        lone = sources.feature_table(source, store, 1.0, only=[1], weights="none", seed=3)
        pd.testing.assert_frame_equal(lone, whole.iloc[[1]], rtol=1e-4)
    frame = pd.DataFrame({"tile_id": names[::-1], "a": [1.0, 2.0]})
    for suffix, write in ((".csv", frame.to_csv), (".parquet", frame.to_parquet)):
        write(tmp_path / f"own{suffix}", index=False)
        assert sources.feature_table(str(tmp_path / f"own{suffix}"), store, 0)["a"].tolist() == [2.0, 1.0]
    for bad, said in ((frame.iloc[:1], "lack tiles"), (frame.assign(a=["x", "1"]), "no finite number"),
                      (pd.concat([frame, frame]), "each tile once")):  # fmt: skip
        bad.to_csv(tmp_path / "bad.csv", index=False)
        with pytest.raises(InputError, match=said):
            sources.feature_table(str(tmp_path / "bad.csv"), store, 0)
