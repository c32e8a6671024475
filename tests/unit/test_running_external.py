"""`deeplrhe external`: one run's probes and networks on another's patients, both ways, with nobody lost."""

import json

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import CohortError, InputError, ParameterError
from deeplrhe_utils.core.tables.contract import write_table
from deeplrhe_utils.core.tables.schemas import CLINICAL, LABELS, PREDICTIONS, SLIDES, TILES
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, build_network, save_model
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs.external import ExternalOptions, external
from deeplrhe_utils.slides.tiles.grid import make_grid
from deeplrhe_utils.synthetic.publish import CohortSpec, plan_cohort, write_slide

FACTS = {
    "01-data-acquisition": {"input_kind": "slides"},
    "02-tiling": {"target_mpp": 0.5, "tile_px": 512},
    "04-dcgmm-normalization": {"store_px": 256, "probe_features": "bank", "statistics_tiles": 32},
}


def run_folder(root, people, seed, *, shift=0.0, slides=(), tiles=None, more=None):
    """Tables and features of a run; TP53 shows in the first feature."""
    random = np.random.default_rng(seed)
    label = (random.random(len(people)) < 0.5).astype(int)
    tiles = tiles if tiles is not None else pd.DataFrame(
        {"tile_id": [f"{p}-{k}" for p in people for k in (0, 1)], "slide_id": np.repeat(people, 2),
         "patient_id": np.repeat(people, 2), "kept": True, "selected": True})  # fmt: skip
    write_table(tiles, TILES, root / "tables" / "tiles.parquet")
    base = {"source": "made", "patient_id": people}
    labels = pd.concat([pd.DataFrame(base | {"gene": "TP53", "status": label}),
                        pd.DataFrame(base | {"gene": "EGFR", "status": [1] + [0] * (len(people) - 1)})])  # fmt: skip
    write_table(labels, LABELS, root / "tables" / "labels.parquet")
    rows = pd.DataFrame([{"slide_id": n, "patient_id": n, "path": str(p), "bytes": 1, "status": "ok", "mpp": 0.5,
                          "mpp_source": "metadata"} for n, p in slides])  # fmt: skip
    none = pd.DataFrame(columns=["slide_id", "patient_id", "path", "bytes", "status"])
    write_table(rows if len(rows) else none, SLIDES, root / "tables" / "slides.parquet")
    histology = np.where(np.arange(len(people)) % 4 == 0, "squamous", "adenocarcinoma")
    write_table(
        pd.DataFrame({"patient_id": people, "histology": histology}), CLINICAL, root / "tables" / "clinical.parquet"
    )
    owner = dict(zip(people, label, strict=True))
    values = random.normal(size=(len(tiles), 4)) + shift
    values[:, 0] += 1.5 * tiles["patient_id"].map(owner).to_numpy(float)
    features = pd.DataFrame(values, index=pd.Index(tiles["tile_id"], name="tile_id"), columns=list("abcd"))
    (root / "work" / "04" / "features").mkdir(parents=True)
    features.to_parquet(root / "work" / "04" / "features" / "none.parquet")
    (root / "numbers").mkdir()
    for stage, facts in FACTS.items():
        (root / "numbers" / f"{stage}.json").write_text(json.dumps(facts | (more or {}).get(stage, {})))
    return root


HOME, AWAY = [f"H{i:03d}" for i in range(80)], [f"A{i:03d}" for i in range(60)]


@pytest.fixture
def runs(tmp_path):
    return run_folder(tmp_path / "home", HOME, 1), run_folder(tmp_path / "away", [*AWAY, *HOME[:5]], 2, shift=0.3)


def test_probes_are_tried_both_ways_and_nobody_is_lost(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["external", "--model", str(runs[0]), "--on", str(runs[1]), "--out", str(out), "--workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "home → away, probe, all patients: AUC elsewhere: TP53" in told and "the networks could not be tried" in told
    table = pd.read_csv(out / "external.csv")
    assert set(table["model"]) == {"home", "away"} and set(table["reader"]) == {"probe"}
    first = table[(table["model"] == "home") & (table["patients"] == "all patients")].set_index("gene")
    assert list(first.index) == ["TP53"]  # one patient with EGFR: nothing was learned, and nothing is said
    assert first.loc["TP53", "n_pos"] + first.loc["TP53", "n_neg"] == 60 and first.loc["TP53", "auc"] > 0.7
    assert first.loc["TP53", "null_low"] < 0.5 < first.loc["TP53", "null_high"] < first.loc["TP53", "auc"]
    luad = table[(table["model"] == "home") & (table["patients"] == "adenocarcinoma")].iloc[0]
    assert luad["n_pos"] + luad["n_neg"] < 60
    lost, scores = pd.read_csv(out / "left_out.csv"), pd.read_csv(out / "scores.csv")
    own = lost[lost["model"] == "home"]
    assert sorted(own["patient or slide"]) == HOME[:5] and set(own["reason"]) == {"a patient of home, too"}
    judged = set(scores.loc[scores["model"] == "home", "patient_id"])
    assert judged | set(own["patient or slide"]) == {*AWAY, *HOME[:5]} and scores["score"].between(0, 1).all()
    assert (out / "external.png").stat().st_size > 10_000 and "TP53" in (out / "index.html").read_text()
    again = external(*runs, out, ExternalOptions(workers=1), lambda _: None)
    pd.testing.assert_frame_equal(again.reset_index(drop=True), table, check_dtype=False)


def test_networks_score_the_selected_tiles_of_the_other_runs_slides(tmp_path):
    plan = plan_cohort(CohortSpec(n_slides=12, seed=7, grid_columns=2, grid_rows=2, artefact_rate=0))
    path = write_slide(plan, plan.slides.loc[plan.slides["objective"] == 20, "slide_id"].iloc[0], tmp_path)
    name = path.stem
    tiles = make_grid(1024, 1024, 0.5, 0.5, 512, name).assign(slide_id=name, patient_id=name, kept=True)
    tiles["tile_id"], tiles["selected"] = [f"{name}_{k}" for k in range(len(tiles))], np.arange(len(tiles)) < 2
    tiles = tiles[[c.name for c in TILES.columns if c.name in tiles]]
    other = run_folder(tmp_path / "away", [name, "gone"], 2, slides=[(name, path)], tiles=tiles)
    home = run_folder(tmp_path / "home", HOME, 1)
    card = {"usable": [True], "input_mpp": 1.0, "input_px": 256, "normalization": "none"}
    for fold in (0, 1):
        network = build_network(NetworkConfig(("TP53",), kernels=8, stages=2))
        save_model(network, home / "models" / "05" / f"fold-{fold}.safetensors", trained_on=HOME[fold::2], card=card)
    random = np.random.default_rng(0)
    held = pd.DataFrame({"tile_id": [f"{p}-0" for p in HOME], "slide_id": HOME, "patient_id": HOME, "gene": "TP53",
                         "fold": 0, "score": random.random(80), "model_hash": "x"})  # fmt: skip
    write_table(held, PREDICTIONS, home / "tables" / "predictions.parquet")
    found = external(home, other, tmp_path / "out", ExternalOptions(workers=1, device="cpu"), lambda _: None)
    assert set(found.loc[found["model"] == "home", "reader"]) == {"networks", "probe"}
    scores = pd.read_csv(tmp_path / "out" / "scores.csv").query("reader == 'networks'")
    assert list(scores["patient_id"]) == [name] and 0 < scores["score"].item() < 1
    lost = pd.read_csv(tmp_path / "out" / "left_out.csv").query("reader == 'networks' and model == 'home'")
    assert dict(zip(lost["patient or slide"], lost["reason"], strict=True)) == {"gone": "no score"}


def test_what_cannot_be_tried_is_told(runs, tmp_path):
    with pytest.raises(CohortError, match="same patients"):
        external(runs[0], runs[0], tmp_path / "out")
    with pytest.raises(InputError, match="no table slides"):
        external(runs[0], tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ParameterError, match="min-positives"):
        ExternalOptions(min_positives=1)
    other = run_folder(tmp_path / "third", AWAY, 4, more={"02-tiling": {"tile_px": 256}})
    with pytest.raises(CohortError, match="tile_px"):
        external(runs[0], other, tmp_path / "out", tell=lambda _: None)
    features = runs[1] / "work" / "04" / "features" / "none.parquet"
    table = pd.read_parquet(features)
    table.rename(columns={table.columns[-1]: "another"}).to_parquet(features)
    with pytest.raises(CohortError, match="features of the two cohorts differ"):
        external(*runs, tmp_path / "out", tell=lambda _: None)
    features.unlink()
    with pytest.raises(CohortError, match="label-free features"):
        external(*runs, tmp_path / "out", tell=lambda _: None)
