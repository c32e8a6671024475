"""A cohort is normalized fold by fold: fitted on training patients, read once, stored in order, never mixed up."""

import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import ModelError, StainError
from deeplrhe_utils.learning.scoring.prediction import SlideScorer
from deeplrhe_utils.learning.tiles import normalizing
from deeplrhe_utils.learning.tiles.store import TileStore
from deeplrhe_utils.slides.tiles.pixels import read_ahead
from deeplrhe_utils.stain.methods.normalize import load_normalizer
from tests.stain_tiles import STAINS, painted

PATIENTS = {f"S{i}": f"P{i // 2}" for i in range(6)}


@pytest.fixture(scope="module")
def cohort():
    """Six slides of three patients, two kept tiles each (one selected), and their pixels by slide."""
    rows, pixels = [], {}
    for i, (slide, patient) in enumerate(PATIENTS.items()):
        pixels[slide] = [painted(list(STAINS)[i % 3], 10 * i + t) for t in range(2)]
        rows += [{"tile_id": f"{slide}_{t}", "slide_id": slide, "patient_id": patient, "row": 0, "column": t,
                  "kept": True, "selected": t == 1} for t in range(2)]  # fmt: skip
    return pd.DataFrame(rows), pixels


@pytest.fixture(scope="module")
def read(cohort):
    def pixels_of(rows):
        return [cohort[1][name][int(tile[-1])] for name, tile in zip(rows["slide_id"], rows["tile_id"], strict=True)]

    return pixels_of


@pytest.fixture(scope="module")
def groups(cohort):
    return {name: part for name, part in cohort[0].groupby("slide_id")}


def splits():
    rows = [(fold, f"P{p}", "test" if p % 2 == fold else "train") for fold in (0, 1) for p in range(3)]
    return pd.DataFrame(rows, columns=["fold", "unit_id", "role"])


RECIPE = normalizing.StainRecipe(fit_tiles=3, steps=8, minimum_tiles=1, minimum_tissue_px=1000.0, seed=1)


@pytest.fixture(scope="module")
def fitted(groups, read):
    colours = normalizing.survey_units(groups, read, 1)
    train = normalizing.train_units(PATIENTS, splits())
    return {f: normalizing.fit_fold(RECIPE, colours, groups, read, units) for f, units in train.items()}


def test_only_training_patients_units_may_be_seen(fitted):
    train = normalizing.train_units(PATIENTS, splits())
    assert train == {0: ["S2", "S3"], 1: ["S0", "S1", "S4", "S5"]}
    assert normalizing.train_units(PATIENTS, None) == {0: sorted(PATIENTS)}
    for fold, normalizer in fitted.items():
        seen = {*normalizer.facts["fitted_on"], normalizer.facts["reference"]}
        assert seen <= set(train[fold]) and normalizer.facts["fitted_on"]


def test_pixels_of_test_patients_change_nothing(groups, read):
    train = normalizing.train_units(PATIENTS, splits())[0]

    def other(rows):
        return [t if n in train else 255 - t for t, n in zip(read(rows), rows["slide_id"], strict=True)]

    digests = []
    for reader in (read, other):
        colours = normalizing.survey_units(groups, reader, 1)
        digests.append(normalizing.fit_fold(RECIPE, colours, groups, reader, train).digest())
    assert digests[0] == digests[1]


def test_a_named_reference_is_taken_and_an_unknown_one_refused(groups, read):
    from dataclasses import replace

    colours = normalizing.survey_units(groups, read, 1)
    named = normalizing.fit_fold(replace(RECIPE, reference="S5"), colours, groups, read, ["S0"])
    assert named.facts["reference"] == "S5"
    with pytest.raises(StainError, match="no slide of this cohort"):
        normalizing.fit_fold(replace(RECIPE, reference="S9"), colours, groups, read, ["S0"])


def test_statistics_rows_are_the_selected_ones_then_others_evenly():
    part = pd.DataFrame({"tile_id": list("abcdefgh"), "row": 0, "column": range(8), "selected": [False, True] * 4})
    assert list(normalizing.statistics_rows(part, 4)["tile_id"]) == list("bdfh")
    assert list(normalizing.statistics_rows(part, 6)["tile_id"]) == [*"bdfh", "a", "g"]
    assert list(normalizing.statistics_rows(part, 2)["tile_id"]) == list("bh"), "never more than asked for"
    assert len(normalizing.statistics_rows(part, 99)) == 8


def test_every_slide_is_read_once_and_stored_in_order(cohort, groups, read, fitted, tmp_path):
    calls = []

    def counted(rows):
        calls.append(rows["slide_id"].iloc[0])
        return read(rows)

    arms = {("none", 0): None, **{("dcgmm", f): n for f, n in fitted.items()}}
    stored = normalizing.store_units(tmp_path, groups, counted, arms, statistics_tiles=2)
    assert sorted(calls) == sorted(PATIENTS)
    chosen = cohort[0][cohort[0]["selected"]].reset_index(drop=True)
    plain = TileStore(normalizing.arm_folder(tmp_path, "none", 0), chosen)
    folds = [TileStore(normalizing.arm_folder(tmp_path, "dcgmm", f), chosen) for f in (0, 1)]
    assert len(plain) == len(folds[0]) == 6
    assert np.array_equal(plain.read([3])[0], cohort[1]["S3"][1])
    assert folds[0].fingerprint() != folds[1].fingerprint() != plain.fingerprint()
    assert len(stored.records) == 18 and set(stored.records["note"]) == {"not normalized", "own statistics"}
    assert set(stored.colours) == set(arms) and set(stored.colours["dcgmm", 1]) == set(PATIENTS)


def test_tiles_that_gave_no_statistics_are_stored_too(cohort, read, fitted, tmp_path):
    """All tiles of a slide are selected, one may give statistics: the others are read when they are painted."""
    frame = cohort[0].assign(selected=True)
    groups = {name: part for name, part in frame.groupby("slide_id")}
    arms = {("none", 0): None, ("dcgmm", 0): fitted[0]}
    normalizing.store_units(tmp_path, groups, read, arms, statistics_tiles=1)
    plain = TileStore(normalizing.arm_folder(tmp_path, "none", 0), frame)
    assert all(np.array_equal(plain.read([i])[0], read(frame.iloc[[i]])[0]) for i in range(len(frame)))
    changed = TileStore(normalizing.arm_folder(tmp_path, "dcgmm", 0), frame)
    plan = fitted[0].plan_or_keep(read(frame.iloc[[0]]), "S0")
    assert np.array_equal(changed.read([1])[0], plan(read(frame.iloc[[1]])[0]))


def test_the_normalizer_beside_a_model_is_found_and_checked(fitted, tmp_path):
    model = tmp_path / "05" / "fold-1.safetensors"
    fitted[1].save(normalizing.fold_folder(tmp_path, 1))
    assert normalizing.normalizer_of_model(model).digest() == fitted[1].digest()
    scorer = SlideScorer("dcgmm", 512, 256, 0.5)
    card = {"input_mpp": 1.0, "normalization": "dcgmm", "stain": fitted[1].digest()}
    assert scorer.normalizer_for(model, card).digest() == fitted[1].digest()
    with pytest.raises(ModelError, match="not the one it was trained with"):
        scorer.normalizer_for(model, card | {"stain": fitted[0].digest()})
    with pytest.raises(ModelError, match="other pixels"):
        scorer.normalizer_for(model, card | {"input_mpp": 0.5})
    with pytest.raises(ModelError, match="other pixels"):
        scorer.normalizer_for(model, card | {"normalization": "macenko"})
    assert SlideScorer("none", 512, 256, 0.5).normalizer_for(model, card | {"normalization": "none"}) is None
    with pytest.raises(ModelError, match="cannot be read"):
        load_normalizer(Path(tmp_path / "04" / "fold-7"))


def test_read_ahead_keeps_order_reads_one_ahead_and_passes_errors_on():
    started = []

    def work(item):
        started.append((item, threading.current_thread().name))
        if item == 3:
            raise ValueError("three")
        return item * item

    found = read_ahead(work, [1, 2, 3, 4])
    assert next(found) == 1 and next(found) == 4
    with pytest.raises(ValueError, match="three"):
        next(found)
    assert all(name.startswith("read-ahead") for _, name in started)
    assert list(read_ahead(work, [])) == [] and list(read_ahead(work, [5])) == [25]


def test_neighbours_are_fitted_but_for_what_was_and_for_what_cannot_be(capsys):
    asked = []

    def fit(recipe):
        asked.append(recipe.method)
        if recipe.method == "macenko":
            raise StainError("too grey")
        return recipe.method

    found = normalizing.fit_neighbours(RECIPE, "own", fit)
    assert found == {
        "none": None,
        "Reinhard": "reinhard",
        "Vahadane": "vahadane",
        "density only": "density",
        "DCGMM": "own",
    }
    assert "Macenko could not be fitted" in capsys.readouterr().out and "dcgmm" not in asked
    assert "DCGMM, as published" in normalizing.fit_neighbours(normalizing.StainRecipe("paper"), "own", fit)
