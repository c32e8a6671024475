"""The spike-in: its painter paints what it says, its table counts what the detectors call."""

import cv2
import numpy as np
import pytest

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.evaluation.spike import LADDERS, STRENGTHS, paint, spike_in
from deeplrhe_utils.slides.artefacts import SurveyRules
from deeplrhe_utils.slides.tissue import Glass

GLASS = Glass(np.full(3, 242.0), True)
MPP = 0.5


def field(seed=0, side=512):
    """Eosin with sharp nuclei of 8 µm and sensor noise."""
    rng = np.random.default_rng(seed)
    density = 0.25 + 0.05 * cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), 1.2)
    for x, y in rng.integers(0, side, (400, 2)):
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


def test_the_table_tells_what_is_easy_from_what_is_not(result):
    table = result.table.set_index(["kind", "strength"])
    assert (table["n"] == 3).all() and (table["false_alarms"] == 0).all()
    assert table.loc[("blur", 4.0), "sensitivity"] == 1.0 and table.loc[("jpeg", 5.0), "sensitivity"] == 1.0
    for kind in ("pen green", "pen red"):
        assert table.loc[(kind, 0.9), "sensitivity"] == 1.0 and table.loc[(kind, 0.9), "auc"] == 1.0
    assert table["auc"].between(0, 1).all()


def test_intervals_are_wilsons(result):
    row = result.table.iloc[-1]
    z = 1.959963984540054
    assert row["false_alarms_low"] == pytest.approx(0) and row["false_alarms_high"] == pytest.approx(z**2 / (3 + z**2))
    assert row["sensitivity_low"] == pytest.approx(3 / (3 + z**2)) and row["sensitivity_high"] == pytest.approx(1)


def test_the_roc_rises_along_the_ladder(result):
    for (kind, strength), curve in result.roc.groupby(["kind", "strength"], sort=False):
        assert len(curve) >= len(LADDERS[kind.split()[0]]), (kind, strength)
        for name in ("false_positive_rate", "true_positive_rate"):
            assert (np.diff(curve[name]) >= 0).all(), (kind, strength, name)


def test_the_cut_of_the_run_is_the_one_that_counts():
    kinds = ("pen blue",)
    strict = spike_in(FIELDS, MPP, seed=5, kinds=kinds, rules=SurveyRules(pen_density=2.0)).table
    assert (strict["sensitivity"] == 0).all()
    blind = spike_in(FIELDS, MPP, seed=5, kinds=("blur",), blur_cut=1e-6).table
    alarmed = spike_in(FIELDS, MPP, seed=5, kinds=("blur",), blur_cut=10.0).table
    assert (blind["sensitivity"] == 0).all() and (alarmed["false_alarms"] == 1).all()


def test_the_same_seed_gives_the_same_table():
    once, twice, other = (spike_in(FIELDS[:2], MPP, seed=s, kinds=("bubble", "fold")) for s in (1, 1, 2))
    assert once.table.equals(twice.table) and once.roc.equals(twice.roc)
    assert list(once.table["kind"]) == ["bubble"] * 3 + ["fold"] * 2 and list(other.table) == list(once.table)


def test_bad_requests_are_refused():
    with pytest.raises(ParameterError, match="at least one field"):
        spike_in([], MPP, seed=1)
    with pytest.raises(ParameterError, match="Unknown artefact"):
        spike_in(FIELDS, MPP, seed=1, kinds=("dust",))
