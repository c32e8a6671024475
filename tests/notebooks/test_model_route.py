"""One slide, a given model, no labels: every stage is finished or skipped with a reason, and scores are `predict`'s."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.synthetic.publish import CohortSpec, plan_cohort, write_slide
from tests.tiff_slides import write_jpeg_slide

MODEL = REPOSITORY / "reports" / "demo" / "models" / "05" / "fold-0.safetensors"
SKIPPED = ["04", "05", "06", "08", "09", "10", "11", "12", "14"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """A slide of tissue that is no whole number of tiles wide, named as no planted one."""
    folder = tmp_path_factory.mktemp("one") / "slides"
    folder.mkdir()
    plan = plan_cohort(CohortSpec(n_slides=12, seed=7, grid_columns=3, grid_rows=3, artefact_rate=0))
    first = plan.slides.loc[plan.slides["objective"] == 20, "slide_id"].iloc[0]
    with Image.open(write_slide(plan, first, folder.parent)) as opened:
        picture = np.asarray(opened.convert("RGB")).repeat(2, axis=0).repeat(2, axis=1)[:2400, :2400]
    write_jpeg_slide(folder / "S1.svs", picture)
    return folder


@pytest.mark.slow
def test_one_slide_a_given_model_and_no_labels(slides, tmp_path, capsys):
    given = ["run", "slides", "-p", f"slides_dir={slides}", "-p", f"model={MODEL}", "-p", "workers=1"]
    assert main([*given, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert [name[:2] for name, stage in record.items() if stage["status"] == "skipped" and stage["reason"]] == SKIPPED
    assert {stage["status"] for stage in record.values()} == {"finished", "skipped"}
    page = (tmp_path / "run" / "index.html").read_text()
    assert page.index("SYNTHETIC tissue") < page.index("<h1>") and "05/fold-0.safetensors" in page
    assert "Tissue that lies in scored windows: S1:" in page and "drawn for training" not in page
    flow = pd.read_csv(tmp_path / "run" / "tables" / "cohort_flow.csv")
    assert not flow["step"].str.contains("label").any()

    asked = ["predict", str(slides), "--model", str(MODEL), "--out", str(tmp_path / "scores"), "--device", "cpu"]
    assert main(asked) == 0
    wide = pd.read_parquet(tmp_path / "run" / "heatmaps" / "windows.parquet").set_index("tile_id")
    long = pd.read_parquet(tmp_path / "scores" / "tiles.parquet")
    tiles = long.pivot(index="tile_id", columns="gene", values="score").astype(float)
    pd.testing.assert_frame_equal(wide.loc[tiles.index, tiles.columns], tiles, check_names=False, check_exact=True)
    told = pd.read_csv(tmp_path / "scores" / "slides.csv").iloc[0]
    shares = json.loads((tmp_path / "run" / "numbers" / "07-heat-maps.json").read_text())["tissue_scored"]
    assert told["tissue_scored"] == pytest.approx(shares["S1"]) and told["tissue_scored"] < 1

    wrong = [*given, "-p", "tile_px=256", "--out", str(tmp_path / "wrong"), "--to", "07"]
    assert main(wrong) == 1
    assert "-p tile_px=512" in capsys.readouterr().err
