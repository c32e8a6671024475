"""From slide to score: the bits of a plain loop, whatever the threads and processes; leaks and damage have reasons."""

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from deeplrhe_utils.core.errors import InputError, LeakError, ModelError, ParameterError
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, build_network, load_model, save_model
from deeplrhe_utils.learning.recipes.scoring import as_input, probabilities, ready_network
from deeplrhe_utils.learning.scoring import heat, prediction
from deeplrhe_utils.learning.scoring.prediction import ScoreTask, SlideScorer, not_scored, score_slide, scorer_of
from deeplrhe_utils.learning.tiles.normalizing import fold_folder, normalizer_of_model, statistics_rows
from deeplrhe_utils.running.machine.engine import map_surviving
from deeplrhe_utils.slides.tiles.grid import make_grid
from deeplrhe_utils.slides.tiles.pixels import read_pixels
from deeplrhe_utils.stain.methods.normalize import fit_normalizer
from tests.stain_tiles import painted
from tests.tiff_slides import damage, write_jpeg_slide

GENES = ("TP53", "EGFR", "POLE")
SCORER = SlideScorer(
    "reinhard", tile_px=64, store_px=32, target_mpp=0.5, statistics_tiles=6, device="cpu", batch_size=5
)
WIDTH, HEIGHT = 1100, 800


def write_slide(path, lab, seed=0):
    rows = [np.concatenate([painted(lab, seed + 3 * i + j) for j in range(5)], axis=1) for i in range(4)]
    picture = np.full((HEIGHT, WIDTH, 3), 246, np.uint8)
    picture[16:784, 70:1030] = np.concatenate(rows)
    return write_jpeg_slide(path, picture, subsampling=(1, 1), quality=90)


def rows_of(path, patient):
    """The slide's row and its tiles, some kept."""
    slide = {"slide_id": path.stem, "patient_id": patient, "path": str(path), "mpp": 0.25, "status": "ok",
             "width_l0_px": WIDTH, "height_l0_px": HEIGHT}  # fmt: skip
    tiles = make_grid(WIDTH, HEIGHT, 0.25, 0.5, 64, path.stem)
    tiles = tiles.assign(slide_id=path.stem, path=None, kept=tiles.index % 3 > 0, selected=tiles.index % 4 == 1)
    tiles["tile_id"] = [f"{path.stem}_{c}_{r}" for c, r in zip(tiles["column"], tiles["row"], strict=True)]
    return slide, tiles


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two whole slides, one with a damaged place, one that is no slide."""
    made = tmp_path_factory.mktemp("slides")
    write_slide(made / "one.svs", "lab 1")
    write_slide(made / "two.svs", "lab 2", seed=50)
    damage(write_slide(made / "three.svs", "lab 2", seed=70), 6)
    (made / "four.svs").write_bytes(b"no slide")
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of random weights, trained on patient P9 it says, with its normalizer beside it."""
    root = tmp_path_factory.mktemp("models")
    normalizer = fit_normalizer({"a": [painted("lab 1", i) for i in range(8)]}, "reinhard", on_thin_slide="cohort")
    normalizer.save(fold_folder(root, 0))
    torch.manual_seed(3)
    network = build_network(NetworkConfig(GENES, kernels=8, stages=2))
    card = {"usable": [True, True, False], "input_mpp": 1.0, "input_px": 32, "normalization": "reinhard",
            "stain": normalizer.digest()}  # fmt: skip
    save_model(network, root / "05" / "fold-0.safetensors", trained_on=["P9"], card=card)
    return root / "05" / "fold-0.safetensors"


def task_of(folder, model, name="one", patient="P1", scorer=SCORER):
    slide, tiles = rows_of(folder / f"{name}.svs", patient)
    return ScoreTask(slide, tiles[tiles["kept"]].reset_index(drop=True), model, scorer)


def plainly(task):
    """Read all, normalize all, score all, one after the other."""
    network, _ = load_model(task.model)
    seen = statistics_rows(task.tiles, task.scorer.statistics_tiles)
    plan = normalizer_of_model(task.model).plan_or_keep(read_pixels(task.slide, seen, 32), "x")
    tiles = [plan(tile) for tile in read_pixels(task.slide, task.tiles, 32)]
    network = network.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return torch.cat([network(as_input(np.stack(tiles[i : i + 5]))).sigmoid() for i in range(0, len(tiles), 5)])


def test_scores_are_those_of_a_plain_loop_bit_for_bit(folder, model, one_thread):
    task = task_of(folder, model)
    found = score_slide(task)
    assert found.status == "scored" and found.genes == GENES and found.scores.dtype == np.float32
    assert found.scores.shape == (len(task.tiles), 3) and len(task.tiles) % 5, "the last batch is a smaller one"
    assert np.array_equal(found.scores[:, :2], plainly(task).numpy()[:, :2])
    assert np.isnan(found.scores[:, 2]).all(), "a gene that could not be learned has no score"
    assert found.n_unreadable == 0 and not found.notes and not found.reason and len(found.model_hash) == 16
    assert found.scores[:, 0].std() > 0 and [p.shape for p in found.example] == [(32, 32, 3)] * 2


def test_a_models_card_says_how_tiles_are_scored_and_which_tiles_fit(model):
    card = load_model(model)[1]
    asked = {"statistics_tiles": 6, "device": "cpu", "batch_size": 5}
    assert scorer_of(card, 0.5, **asked) == scorer_of(card, 0.5, 64, **asked) == SCORER
    with pytest.raises(ModelError, match=r"-p tile_px=64, or -p target_mpp=0\.25"):
        scorer_of(card, 0.5, 128)
    for change, words in (({"input_mpp": 0.0}, "folder of tiles"), ({"input_px": None}, "no input_px")):
        with pytest.raises(ModelError, match=words):
            scorer_of({k: v for k, v in {**card, **change}.items() if v is not None}, 0.5)


def test_scores_that_are_not_finite_end_it(folder, model, monkeypatch):
    monkeypatch.setattr(prediction, "probabilities", lambda *_: np.full((5, 3), np.nan, np.float32))
    with pytest.raises(ModelError, match="scores that are not finite"):
        score_slide(task_of(folder, model))


def test_threads_change_nothing_and_torch_gets_its_threads_back(folder, model):
    torch.set_num_threads(2)
    first = score_slide(task_of(folder, model)).scores
    for threads in (1, 5):
        again = score_slide(task_of(folder, model, scorer=replace(SCORER, threads=threads))).scores
        assert np.array_equal(again, first, equal_nan=True)
    assert torch.get_num_threads() == 2


def test_processes_change_nothing(folder, model):
    names = {"one": "P1", "three": "P9", "two": "P2", "four": "P4"}
    tasks = [task_of(folder, model, name, patient) for name, patient in names.items()]
    assert pickle.loads(pickle.dumps(tasks[0])).slide == tasks[0].slide
    here, there = (
        prediction.in_turn(score_slide, tasks, not_scored),
        map_surviving(score_slide, tasks, not_scored, workers=2),
    )
    assert [found.status for found in here] == ["scored", "refused", "scored", "failed"]
    for one, other in zip(here, there, strict=True):
        assert (one.status, one.reason, one.notes, one.model_hash) == (
            other.status,
            other.reason,
            other.notes,
            other.model_hash,
        )
        assert np.array_equal(one.scores, other.scores, equal_nan=True)


def test_a_damaged_place_costs_the_tiles_that_lie_there(folder, model, tmp_path):
    whole = score_slide(task_of(folder, model, "two"))
    broken = score_slide(task_of(folder, model, "three"))
    lost = np.isnan(broken.scores[:, 0])
    assert broken.status == "scored" and 0 < lost.sum() == broken.n_unreadable < len(lost)
    assert broken.notes[0].startswith(f"{lost.sum()} of {len(lost)} tiles could not be read: ")
    assert len(broken.scores) == len(whole.scores)


def test_a_slide_that_cannot_be_opened_or_read_has_a_reason(folder, model, tmp_path):
    assert "four.svs" in score_slide(task_of(folder, model, "four")).reason
    path = write_slide(tmp_path / "five.svs", "lab 1")
    for number in range(20):
        damage(path, number)
    found = score_slide(task_of(tmp_path, model, "five"))
    assert found.status == "failed" and found.reason.startswith("no tile could be read: ")
    empty = replace(task_of(folder, model), tiles=task_of(folder, model).tiles.iloc[:0])
    assert score_slide(empty).reason == "there is no tile to score"


def test_a_model_of_another_magnification_or_kind_ends_it_before_a_slide_is_read(folder, model):
    with pytest.raises(ModelError, match="other pixels"):
        score_slide(task_of(folder, model, scorer=replace(SCORER, store_px=64)))
    with pytest.raises(ParameterError, match="threads"):
        replace(SCORER, threads=0)
    slide, tiles = rows_of(folder / "one.svs", "P1")
    wrong = replace(SCORER, normalization="macenko")
    with pytest.raises(ModelError, match="other pixels"):
        heat.score_slides(
            pd.DataFrame([slide]), tiles, {"P1": [model]}, GENES, wrong, 1, partial(map_surviving, workers=1)
        )


@pytest.mark.parametrize("spread", [prediction.in_turn, partial(map_surviving, workers=1)])
def test_maps_leave_out_what_has_no_scores_and_say_why(folder, model, spread):
    patients = {"one": "P1", "three": "P9", "four": "P4", "two": "P2", "two-again": "P3"}
    pairs = [rows_of(folder / f"{name}.svs", patient) for name, patient in patients.items()]
    slides = pd.DataFrame([slide for slide, _ in pairs])
    tiles = pd.concat([part for _, part in pairs], ignore_index=True)
    found = heat.score_slides(slides, tiles, {name: [model] for name in patients.values()}, GENES, SCORER, 3, spread)
    assert [note.split(":")[0] for note in found.notes] == ["three", "four", "two-again"]
    assert "was trained on" in found.notes[0] and found.notes[2].endswith("not drawn (n_shown)")
    assert found.genes == ["TP53", "EGFR"] and found.windows["POLE"].isna().all()
    assert list(found.windows["slide_id"].unique()) == ["one", "two"] == list(found.thumbnails) == list(found.examples)
    mine = found.windows.query("slide_id == 'two'")
    assert np.array_equal(mine["TP53"].to_numpy(np.float32), score_slide(task_of(folder, model, "two")).scores[:, 0])


def test_windows_between_tiles_and_further_networks_change_no_score(folder, model, tmp_path):
    again = tmp_path / "05-seed-2" / model.name
    again.parent.mkdir()
    (tmp_path / "04").symlink_to(model.parents[1] / "04")
    again.write_bytes(model.read_bytes())
    slide, tiles = rows_of(folder / "two.svs", "P2")
    alone, both = (
        heat.score_slides(pd.DataFrame([slide]), tiles, {"P2": files}, GENES, SCORER, 1, steps=steps)
        for files, steps in (([model], 1), ([model, again], 2))
    )
    pd.testing.assert_frame_equal(alone.windows, both.windows)
    assert list(both.dense.groupby("network").size()) == [both.dense["tile_id"].nunique()] * 2
    between = both.dense[~both.dense["on_grid"].astype(bool)]
    assert len(between) and between["TP53"].notna().all() and len(alone.dense) == len(alone.windows)
    assert both.dense.query("network == 1")["TP53"].tolist() == both.dense.query("network == 2")["TP53"].tolist()
    both.save(tmp_path)
    pd.testing.assert_frame_equal(heat.stored_scores(tmp_path).dense, both.dense, check_dtype=False)


def test_which_networks_may_score_whom(folder, model, tmp_path):
    splits = pd.DataFrame(
        [("P1", 0, "test"), ("P2", 1, "test"), ("P3", 0, "train")], columns=["unit_id", "fold", "role"]
    )
    for place in ("05/fold-0", "05-seed-2/fold-0", "05-seed-2/fold-1", "05-seed-3/fold-0"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / f"{place}.safetensors").write_bytes(model.read_bytes())
    found = heat.networks_of_run(tmp_path, splits, 2)
    assert {k: [f.parent.name for f in v] for k, v in found.items()} == {"P1": ["05", "05-seed-2"], "P2": []}
    given = heat.networks_that_may(tmp_path / "05-seed-2", ["P1", "P9"])
    assert [len(given["P1"]), given["P9"]] == [2, ()], "every network of the folder was trained on P9"
    assert heat.networks_that_may(model, ["P9"]) == {"P9": (model,)}, "a refusal is told slide by slide"
    with pytest.raises(InputError, match="holds no network"):
        heat.networks_that_may(folder, ["P1"])


def test_stored_scores_ring_the_alarm_and_come_from_one_table(folder, model, tmp_path):
    slide, tiles = rows_of(folder / "two.svs", "P2")
    found = heat.score_slides(pd.DataFrame([slide]), tiles, {"P2": [model]}, GENES, SCORER, 1, steps=2)
    (tmp_path / "a colleague's notes.txt").write_text("keep")
    found.save(tmp_path)
    stored = heat.stored_scores(tmp_path)
    pd.testing.assert_frame_equal(stored.windows, found.windows, check_dtype=False)
    assert {p.name for p in stored.save(tmp_path)} == {p.name for p in found.save(tmp_path)}
    for patient, card, match in (("P9", None, "was trained on"), ("P2", {}, "not known on whom")):
        found.dense["patient_id"] = patient
        found.cards = found.cards if card is None else card
        found.save(tmp_path)
        with pytest.raises((LeakError, ModelError), match=match):
            heat.stored_scores(tmp_path)


def test_pictures_are_fine_enough_for_small_windows_on_large_slides(folder, model):
    task = task_of(folder, model)
    wide = replace(task, slide={**task.slide, "width_l0_px": 120_000, "height_l0_px": 9_000},
                   tiles=task.tiles.assign(size_l0_px=224.0))  # fmt: skip
    assert 120_000 / heat._thumbnail_px(wide) <= 112 and heat._thumbnail_px(task) == heat.THUMBNAIL_PX


def test_tiles_can_be_seen_as_the_network_sees_them(folder, model):
    task = task_of(folder, model, "two")
    rows = task.tiles.iloc[[3, 0]]
    seen = prediction.seen_tiles(task, rows)
    network, _ = load_model(model)
    scores = probabilities(ready_network(network, "cpu"), np.stack(seen), False)
    expected = score_slide(task).scores[[3, 0]]
    usable = np.isfinite(expected).all(axis=0)
    assert usable.any() and np.allclose(scores[:, usable], expected[:, usable], atol=0.01)
