"""The spike-in: its painter paints what it says, its table counts what the detectors call."""

import cv2
import numpy as np
import pytest

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.evaluation.quality import spike_in as spike
from deeplrhe_utils.evaluation.quality.spike_in import STRENGTHS, paint, spike_in, told_by_filter
from deeplrhe_utils.slides.quality.artefacts import SurveyRules
from deeplrhe_utils.slides.quality.blocks import LEAST_BLOCK_PX, blockiness
from deeplrhe_utils.slides.quality.tissue import SlideGlass

GLASS = SlideGlass(np.full(3, 242.0), True)
MPP = 0.5


def field(seed=0, side=512):
    """Eosin with sharp nuclei of 8 µm and sensor noise."""
    rng = np.random.default_rng(seed)
    density = 0.25 + 0.05 * cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), 1.2)
    for x, y in rng.integers(0, side, (side**2 // 655, 2)):
        cv2.circle(density, (int(x), int(y)), 8, 0.5 + 0.2 * float(rng.random()), -1, cv2.LINE_AA)
    light = 242 * 10.0 ** -(density[..., None] * np.array([0.5, 1.2, 0.6]))
    return np.clip(np.rint(light + rng.normal(0, 1.5, light.shape)), 0, 255).astype(np.uint8)


FIELDS = [field(seed) for seed in range(3)]


@pytest.mark.parametrize("kind", STRENGTHS)
def test_the_painter_changes_what_it_says_and_nothing_else(kind):
    clean = FIELDS[0].copy()
    picture, mask = paint(kind, clean, MPP, STRENGTHS[kind][-1], np.random.default_rng(1), GLASS)
    again, _ = paint(kind, clean, MPP, STRENGTHS[kind][-1], np.random.default_rng(1), GLASS)
    other, _ = paint(kind, clean, MPP, STRENGTHS[kind][-1], np.random.default_rng(2), GLASS)
    assert (clean == FIELDS[0]).all() and picture.dtype == np.uint8 and mask.dtype == bool
    assert (picture == again).all() and not (picture == other).all()
    assert 0.03 < mask.mean() < 0.97
    changed = np.abs(picture.astype(int) - clean).max(axis=2) > 3
    beside = ~cv2.dilate(mask.astype(np.uint8), np.ones((161, 161), np.uint8)).astype(bool)
    assert changed[mask].mean() > 0.35 and not changed[beside].any()


def test_stronger_is_stronger():
    for kind in ("pen blue", "fold", "bubble"):
        means = [paint(kind, FIELDS[0], MPP, s, np.random.default_rng(1), GLASS)[0].mean() for s in STRENGTHS[kind]]
        assert (np.diff(means) < 0).all(), kind


@pytest.fixture(scope="module")
def result():
    return spike_in(FIELDS, MPP, seed=5, glasses=[GLASS] * 3, kinds=("blur", "pen green", "pen red", "jpeg"))


def test_the_table_tells_what_is_easy_with_wilsons_intervals(result):
    table = result.set_index(["kind", "strength"])
    assert (table["n"] == 3).all() and (table["false_alarms"] == 0).all()
    assert table.loc[("blur", 4.0), "sensitivity"] == 1.0 and table.loc[("jpeg", 5.0), "sensitivity"] == 1.0
    for kind in ("pen green", "pen red"):
        assert table.loc[(kind, 0.9), "sensitivity"] == 1.0 and table.loc[(kind, 0.9), "auc"] == 1.0
    assert table["auc"].between(0, 1).all()
    row = result.iloc[-1]
    z = 1.959963984540054
    assert row["false_alarms_low"] == pytest.approx(0) and row["false_alarms_high"] == pytest.approx(z**2 / (3 + z**2))
    assert row["sensitivity_low"] == pytest.approx(3 / (3 + z**2)) and row["sensitivity_high"] == pytest.approx(1)


def test_the_sentence_names_what_is_not_seen_and_what_cries_wolf(result):
    assert told_by_filter(result).startswith("12 of 12 ")
    assert told_by_filter(result).endswith("seen in fewer than half: none; false alarms: none.")
    told = told_by_filter(result.assign(sensitivity=result["strength"] > 2, false_alarms=result["kind"] == "blur"))
    assert told.startswith("4 of 12 ") and "jpeg" not in told and told.endswith("pen red 1.2; false alarms: blur.")


def test_the_cut_of_the_run_is_the_one_that_counts():
    kinds = ("pen blue",)
    strict = spike_in(FIELDS, MPP, seed=5, kinds=kinds, rules=SurveyRules(pen_density=2.0))
    assert (strict["sensitivity"] == 0).all()
    blind = spike_in(FIELDS, MPP, seed=5, kinds=("blur",), blur_cut=1e-6)
    alarmed = spike_in(FIELDS, MPP, seed=5, kinds=("blur",), blur_cut=10.0)
    assert (blind["sensitivity"] == 0).all() and (alarmed["false_alarms"] == 1).all()


def test_the_same_seed_gives_the_same_table():
    once, twice, other = (spike_in(FIELDS[:2], MPP, seed=s, kinds=("bubble", "fold")) for s in (1, 1, 2))
    assert once.equals(twice)
    assert list(once["kind"]) == ["bubble"] * 3 + ["fold"] * 2 and list(other) == list(once)


def grid_of(picture, clean, mask, about):
    """Period of the steps across the changed part [px]: the peak of their spectrum, harmonics left out."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    change = picture[part].astype(float).mean(axis=2) - clean[part].astype(float).mean(axis=2)
    steps = np.abs(np.diff(change, axis=1)).mean(axis=0)
    power = np.abs(np.fft.rfft((steps - steps.mean()) * np.hanning(len(steps)), 16384))
    period = 1 / np.maximum(np.fft.rfftfreq(16384), 1e-9)
    power[(period < 0.6 * about) | (period > 1.6 * about)] = 0
    return period[power.argmax()]


@pytest.mark.parametrize("block_px", [4.0, 5.5, 8.0])
def test_jpeg_is_painted_in_blocks_of_the_scan(block_px):
    picture, mask = paint("jpeg", FIELDS[0], MPP, 5.0, np.random.default_rng(3), GLASS, block_px)
    assert grid_of(picture, FIELDS[0], mask, block_px) == pytest.approx(block_px, rel=0.02)
    assert (picture[~mask] == FIELDS[0][~mask]).all()
    better, mask = paint("jpeg", FIELDS[0], MPP, 90.0, np.random.default_rng(3), GLASS, block_px)
    off = np.abs(better[mask].mean(axis=0) - FIELDS[0][mask].mean(axis=0))
    assert (off < 1).all(), "colours stay where they are"


def test_jpeg_is_looked_for_at_the_blocks_of_each_field_and_not_where_they_are_too_small(monkeypatch):
    looked = []
    monkeypatch.setattr(spike, "blockiness", lambda rgb, px: looked.append((rgb.shape, px)) or blockiness(rgb, px))
    blocks = [4.0, LEAST_BLOCK_PX - 0.01, 8.0]
    kinds = ("jpeg", "pen green")
    table = spike_in(FIELDS, MPP, seed=5, glasses=[GLASS] * 3, blocks_px=blocks, kinds=kinds)
    assert set(looked) == {((512, 512, 3), 4.0), ((512, 512, 3), 8.0)} and len(looked) == 2 * 4
    assert table["n"].tolist() == [2] * 3 + [3] * 3
    seen = table.loc[(table["kind"] == "jpeg") & (table["strength"] == 5.0)]
    assert seen["auc"].item() == 1.0 and seen["false_alarms"].item() == 0.0
    small = spike_in(FIELDS[1:], MPP, seed=5, blocks_px=blocks[1:2] * 2, kinds=("jpeg",))
    assert (small["n"] == 0).all() and small.drop(columns=["kind", "strength", "n"]).isna().all(axis=None)
    assert not {shape for shape, px in looked if px < LEAST_BLOCK_PX}


def test_a_field_without_blocks_of_its_own_has_eight_pixels():
    given, default = (spike_in(FIELDS, MPP, seed=5, blocks_px=b, kinds=("jpeg",)) for b in ([8.0] * 3, None))
    assert given.equals(default)


def test_blur_is_judged_on_what_the_rules_of_the_run_call_tissue(monkeypatch):
    seen = []
    monkeypatch.setattr(
        spike, "sharpness", lambda rgb, mpp, tissue: seen.append((mpp, tissue.mean())) or np.ones((2, 2), np.float32)
    )
    half = FIELDS[0].copy()
    half[:, 256:] = 242
    for rules in (SurveyRules(), SurveyRules(background_method="intensity", intensity_cut=0.0)):
        spike_in([half], MPP, seed=5, glasses=[GLASS], kinds=("blur",), rules=rules)
    mpps, shares = np.array(seen).T
    assert (mpps == MPP).all() and len(seen) == 8
    assert shares[0] == pytest.approx(0.5, abs=0.05) and shares[4:] == pytest.approx([0.0] * 4), "nothing is as dark"


def test_ink_is_painted_and_looked_for_coarsely_whatever_the_field(monkeypatch):
    painted, looked = [], []
    look = spike.pen_mask
    monkeypatch.setattr(spike, "paint", lambda *a: painted.append((a[1].shape, a[2])) or paint(*a))
    monkeypatch.setattr(spike, "pen_mask", lambda rgb, mpp, **k: looked.append((rgb.shape, mpp)) or look(rgb, mpp, **k))
    spike_in(FIELDS[:1], MPP, seed=5, kinds=("pen red",))
    assert set(painted) == {((256, 256, 3), 1.0)} and set(looked) == {((64, 64, 3), 4.0)}


def test_bad_requests_are_refused():
    for one in ({"blocks_px": [8.0]}, {"glasses": [GLASS] * 4}):
        with pytest.raises(ParameterError, match="per field"):
            spike_in(FIELDS, MPP, seed=1, **one)
    with pytest.raises(ParameterError, match="at least one field"):
        spike_in([], MPP, seed=1)
