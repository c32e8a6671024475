"""The committed run on real tiles: numbers that its page repeats, line art, and not one picture of tissue."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deeplrhe_utils.core.paths import REPORTS, REPOSITORY
from deeplrhe_utils.learning.probes.bank import STAIN
from deeplrhe_utils.running.machine.lock import claim_run

HERE = REPORTS / "lc25000"
LARGEST_BYTES = 1_500_000
FLAT = 0.8  # share of pixels like their left neighbour: of line art 0.9 and more, of pictures of tiles a third


@pytest.fixture(scope="module")
def real():
    sys.path.insert(0, str(REPOSITORY / ".ci"))
    spec = importlib.util.spec_from_file_location("real", REPOSITORY / ".ci" / "real.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(REPOSITORY / ".ci"))


@pytest.fixture(scope="module")
def results():
    return json.loads((HERE / "results.json").read_text(encoding="utf-8"))


def flat(path):
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return (pixels[:, 1:] == pixels[:, :-1]).all(axis=2).mean()


def test_nothing_but_the_listed_files_is_or_would_be_committed(real):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "reports/lc25000"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip("this is not a git checkout, so nobody knows what is committed")
    assert sorted(done.stdout.split()) == sorted(f"reports/lc25000/{name}" for name in real.KEPT)
    assert sum((HERE / name).stat().st_size for name in real.KEPT) < LARGEST_BYTES


def test_the_figures_are_line_art(real, tmp_path):
    """Also a picture of tiles under an allowed name is seen, with few colours, as figures of a run are saved."""
    assert {name for name in real.FIGURES if flat(HERE / "figures" / name) <= FLAT} == set()
    tissue = np.random.default_rng(0).normal([200, 150, 190], 15, (100, 100, 3)).astype(np.uint8)
    Image.fromarray(tissue).quantize(64).save(tmp_path / "tile.png")
    assert flat(tmp_path / "tile.png") < FLAT


def test_the_page_is_that_of_its_numbers(real, results):
    assert (HERE / "README.md").read_text(encoding="utf-8") == real.page(results)
    other = json.loads(json.dumps(results))
    other["classes"]["normal"]["auc"] = 0.123
    assert "0.123 [" in real.page(other)


def test_the_numbers_are_those_of_the_tables(real, results):
    read = {name: pd.read_csv(HERE / "tables" / name) for name in real.TABLES}
    auc = read["auc_table.csv"].set_index("gene")["auc"]
    assert {c: results["classes"][c]["auc"] for c in real.CLASSES.values()} == auc.rename(real.CLASSES).to_dict()
    assert results["confusion"] == read["confusion.csv"].set_index("true").to_dict("index")
    fields = {c: sum(row.values()) for c, row in results["confusion"].items()}
    assert fields == read["auc_table.csv"].set_index("gene")["n_pos"].to_dict()
    arms = {row["arm"]: row for row in results["arms"]}
    for arm, own in read["controls.csv"].groupby("arm"):
        assert {c: arms[arm][n]["auc"] for c, n in real.CLASSES.items()} == own.set_index("gene")["auc"].to_dict()
    told = json.loads(real.TRANSFER.read_text(encoding="utf-8"))["arms"]["Lite0, ImageNet, split by group"]["group"][
        "mean"
    ]
    assert arms[real.NETWORKS["Lite0, ImageNet"]]["squamous"]["auc"] == told["lung_scc"]["value"]
    assert results["on_both_sides"]["patient"] == 0 < results["on_both_sides"]["tile"]


def test_a_run_is_reduced_to_what_is_listed(real, tmp_path):
    """Pictures of tiles, executed notebooks and paths of the machine go; the page is written again."""
    shutil.copytree(HERE / "tables", tmp_path / "tables")
    shutil.copytree(HERE / "figures", tmp_path / "figures")
    run = json.loads((HERE / "run.json").read_text(encoding="utf-8"))
    stage = {
        "status": "finished",
        "seconds": 60.0,
        "outputs": {"x": "0"},
        "parameters": {"data_dir": "/somebody/tiles"},
    }
    run |= {"command": "run -p data_dir=/somebody/tiles", "stages": {"04-dcgmm-normalization": stage}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    for name in ("figures/fig5_normalization.png", "notebooks/01.ipynb", "work/tiles/a.bin", "index.html", ".lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    fields, random = [f"f{i:02}" for i in range(40)], np.random.default_rng(0)
    (tmp_path / "work/04/features").mkdir(parents=True)
    noise = random.normal(size=(40, len(STAIN)))
    colour = pd.DataFrame(noise, index=pd.Index(fields, name="tile_id"), columns=list(STAIN))
    colour.to_parquet(tmp_path / "work/04/features/none.parquet")
    pd.DataFrame({"tile_id": fields, "patient_id": fields}).to_parquet(tmp_path / "tables/tiles.parquet")
    status = [[i % 3 == k for k in range(3)] for i in range(40)]
    labels = pd.DataFrame(status, index=fields, columns=list(real.CLASSES)).rename_axis("patient_id").reset_index()
    long = labels.melt("patient_id", var_name="gene", value_name="status").astype({"status": "Int64"})
    long.to_parquet(tmp_path / "tables/labels.parquet")
    real.reduce(tmp_path)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == sorted(real.KEPT)
    told = json.loads((tmp_path / "results.json").read_text())
    colour = next(row for row in told["arms"] if row["arm"] == real.COLOUR)
    assert colour["normal"]["auc"] < 0.8 and told["images"] == 40, "noise tells no class"
    assert not [name for name in ("run.json", "results.json") if "/somebody" in (tmp_path / name).read_text()]
    claim_run(tmp_path)  # the next run may write here again
