"""`deeplrhe predict`: tables of scores, a row per file, the committed model, exit codes."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deeplrhe_utils.core.errors import InputError, ModelError, ParameterError
from deeplrhe_utils.core.files import sha256_file
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, build_network, read_card, save_model
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.jobs.predict import PredictOptions, all_scored, predict
from deeplrhe_utils.synthetic.publish import CohortSpec, plan_cohort, write_slide
from tests.tiff_slides import write_jpeg_slide

MODEL = REPOSITORY / "reports" / "demo" / "models" / "05" / "fold-0.safetensors"
HERE = PredictOptions(workers=1, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One synthetic slide of 2 × 2 tiles, its copy, and a file that is none."""
    made = tmp_path_factory.mktemp("slides")
    plan = plan_cohort(CohortSpec(n_slides=12, seed=7, grid_columns=2, grid_rows=2, artefact_rate=0))
    first = plan.slides.loc[plan.slides["objective"] == 20, "slide_id"].iloc[0]
    path = write_slide(plan, first, made)
    path.rename(made / "XX-01.svs")
    (made / f"{first}.geojson").unlink(missing_ok=True)
    (made / "broken.svs").write_bytes(b"no slide")
    return made


@pytest.fixture(scope="module")
def scored(folder, tmp_path_factory):
    out, lines = tmp_path_factory.mktemp("scores") / "out", []
    return predict(folder, MODEL, out, HERE, lines.append), out, lines


def test_the_committed_model_scores_a_slide(scored):
    table, out, lines = scored
    tiles, told = pd.read_parquet(out / "tiles.parquet"), pd.read_csv(out / "slides.csv").set_index("slide_id")
    card = read_card(MODEL)
    genes = card["config"]["targets"]
    assert list(tiles) == ["slide_id", "tile_id", "x_l0_px", "y_l0_px", "size_l0_px", "gene", "score"]
    assert list(tiles["gene"].unique()) == genes and not tiles.duplicated(["tile_id", "gene"]).any()
    row = told.loc["XX-01"]
    assert row["status"] == "scored" and row["n_tiles"] * len(genes) == len(tiles) > 0
    for gene, usable in zip(genes, card["usable"], strict=True):
        mine = tiles.loc[tiles["gene"] == gene, "score"]
        assert mine.between(0, 1).all() if usable else mine.isna().all()
        assert not usable or row[f"mean_{gene}"] == pytest.approx(mine.mean())
    assert set(told["model_hash"]) == {sha256_file(MODEL)[:16]}
    assert told.loc["broken", "status"] == "excluded" and "broken.svs" in told.loc["broken", "reason"]
    assert set(told["trained_on"]) == {"synthetic"} and told["model"].str.contains("SYNTHETIC").all()
    assert all("SYNTHETIC" in line for line in lines[:2]) and "of a slide's tissue" in lines[3]
    assert row["tissue_scored"] > 0.5 and np.isnan(told.loc["broken", "tissue_scored"])
    assert [line.split("  ")[0] for line in lines[2:-2]] == ["broken"] and lines[-1].startswith("2 files: ")
    assert not all_scored(table)


def test_one_file_gives_the_same_scores_and_exit_code_0(folder, scored, tmp_path, capsys):
    given = ["predict", str(folder / "XX-01.svs"), "--model", str(MODEL), "--out", str(tmp_path), "--workers", "1"]
    assert main([*given, "--device", "cpu"]) == 0
    assert "1 file: 1 scored" in capsys.readouterr().out
    first = pd.read_parquet(scored[1] / "tiles.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "tiles.parquet"), first)


def test_the_edge_can_be_covered_as_in_a_run(folder, scored, tmp_path):
    with Image.open(folder / "XX-01.svs") as opened:
        picture = np.asarray(opened).repeat(2, axis=0).repeat(2, axis=1)[:1400, :1400]
    path = write_jpeg_slide(tmp_path / "YY-01.svs", picture)
    asked = ["predict", str(path), "--model", str(MODEL), "--workers", "1", "--device", "cpu"]
    for edge in ("inside", "cover"):
        assert main([*asked, "--edge", edge, "--out", str(tmp_path / edge)]) == 0
    inside, cover = (pd.read_csv(tmp_path / edge / "slides.csv").iloc[0] for edge in ("inside", "cover"))
    assert (inside["n_tiles"], cover["n_tiles"]) == (1, 4) and inside["tissue_scored"] < 0.7 < cover["tissue_scored"]


def test_exit_codes(folder, tmp_path, capsys):
    given = ["predict", str(folder / "broken.svs"), "--model", str(MODEL), "--out", str(tmp_path), "--workers", "1"]
    assert main(given) == 1 and (tmp_path / "tiles.parquet").exists()
    assert main([*given, "--mpp", "0"]) == 2
    assert main(["predict", str(tmp_path / "nowhere"), *given[2:]]) == 1
    assert main(["predict", str(folder)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_patient_that_the_model_knows_is_refused(folder, tmp_path):
    """Without labels the patient is what the slide's name tells."""
    path = tmp_path / "05" / "fold-0.safetensors"
    card = {"usable": [True], "input_mpp": 1.0, "input_px": 256, "normalization": "none"}
    network = build_network(NetworkConfig(("TP53",), kernels=8, stages=2))
    save_model(network, path, trained_on=["XX-01"], card=card)
    (row,) = predict(folder / "XX-01.svs", path, tmp_path / "out", HERE, lambda _: None).to_dict("records")
    assert (row["status"], np.isnan(row["mean_TP53"])) == ("refused", True) and "was trained on" in row["reason"]
    assert len(pd.read_parquet(tmp_path / "out" / "tiles.parquet")) == 0


def test_what_cannot_work_is_told_before_a_slide_is_read(folder, tmp_path):
    with pytest.raises(ModelError, match="other pixels"):
        predict(folder, MODEL, tmp_path, PredictOptions(mpp=2.0))
    with pytest.raises(InputError, match="not there"):
        predict(tmp_path / "nowhere", MODEL, tmp_path, HERE)
    with pytest.raises(ParameterError, match="processes"):
        PredictOptions(workers=-1)
