"""A small finished run: two slides, one of them not on this machine, with names that a page must not believe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from deeplrhe_utils.core.files import write_json
from deeplrhe_utils.core.tables import schemas
from deeplrhe_utils.core.tables.contract import conform, write_table
from deeplrhe_utils.learning.networks.cards import hash_patient
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, build_network, save_model
from deeplrhe_utils.learning.scoring.heat import SlideScores
from deeplrhe_utils.running.machine.lock import claim_run
from deeplrhe_utils.slides.reading.reader import Slide
from tests.tiff_slides import tissue_like, write_jpeg_slide

GENES = ("TP53", "<img src=x onerror=alert(1)>")
HERE, AWAY = "slide-1", '../a "b" <script>alert(2)</script>'
WIDTH, HEIGHT, SIDE = 2048, 1536, 512  # level-0 px
PICTURE = np.full((8, 8, 3), 200, np.uint8)


def score(column: int, row: int, gene: int) -> float:
    """A different score in every window, and another order for the second gene."""
    value = (row * 4 + column + 0.5) / 12
    return value if gene == 0 else 1 - value


def windows() -> pd.DataFrame:
    rows = [
        {"tile_id": f"{slide}_{c}_{r}", "slide_id": slide, "x_l0_px": c * SIDE, "y_l0_px": r * SIDE,
         "size_l0_px": float(SIDE), **{gene: score(c, r, g) for g, gene in enumerate(GENES)}}
        for slide in (HERE, AWAY) for r in range(3) for c in range(4)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    frame.loc[(frame["slide_id"] == HERE) & (frame["x_l0_px"] == 0) & (frame["y_l0_px"] == 0), GENES[0]] = np.nan
    return frame


def make_run(root: Path) -> Path:
    """Write tables, numbers, heat maps and a figure as notebooks 01 to 07 leave them; return `root`."""
    claim_run(root)
    path = root / "work" / "slides" / f"{HERE}.svs"
    path.parent.mkdir(parents=True)
    write_jpeg_slide(path, tissue_like(HEIGHT, WIDTH, 1))
    with Slide(path) as slide:
        thumbnail = slide.thumbnail(480)
    drawn = windows()
    patient = drawn["slide_id"].map({HERE: "P1", AWAY: "P2"})
    digests = {p: _model(root, fold, other) for fold, (p, other) in enumerate((("P1", "P2"), ("P2", "P1")))}
    dense = drawn.assign(patient_id=patient, on_grid=True, network=1, model_hash=patient.map(digests))
    stored = SlideScores(list(GENES), drawn, dense, notes=[f"{HERE}: <b>a note</b>"])
    stored.cards = {
        name: {"patients": [hash_patient(other)]} for name, other in zip(digests.values(), ("P2", "P1"), strict=True)
    }
    for name in (HERE, AWAY):
        stored.thumbnails[name], stored.sizes[name] = thumbnail, (WIDTH, HEIGHT)
        stored.examples[name] = (PICTURE, PICTURE)
    (root / "heatmaps").mkdir()
    stored.save(root / "heatmaps")
    _tables(root, drawn)
    _numbers(root)
    return root


def _model(root: Path, fold: int, trained_on: str) -> str:
    """A network of the fold, whose card knows its patient; its hash."""
    network = build_network(NetworkConfig(GENES, kernels=2, stages=1))
    path = root / "models" / "05" / f"fold-{fold}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_model(network, path, trained_on=[trained_on], card={"fold": fold})


def _tables(root: Path, drawn: pd.DataFrame) -> None:
    slides = pd.DataFrame({
        "slide_id": [HERE, AWAY], "patient_id": ["P1", "P2"], "path": [f"work/slides/{HERE}.svs", "work/slides/no.svs"],
        "bytes": [1, 1], "width_l0_px": WIDTH, "height_l0_px": HEIGHT, "mpp": 0.25, "status": "ok",
    })  # fmt: skip
    _write(root, schemas.SLIDES, slides)
    patient = drawn["slide_id"].map({HERE: "P1", AWAY: "P2"})
    tiles = drawn[["tile_id", "slide_id", "x_l0_px", "y_l0_px", "size_l0_px"]].assign(
        patient_id=patient, kept=True, selected=True, column=drawn["x_l0_px"] // SIDE, row=drawn["y_l0_px"] // SIDE
    )
    _write(root, schemas.TILES, tiles)
    labels = [
        {"patient_id": p, "gene": g, "status": s, "source": "test"} for g in GENES for p, s in (("P1", 1), ("P2", 0))
    ]
    _write(root, schemas.LABELS, pd.DataFrame(labels))
    units = [("P1", 0, "test"), ("P2", 0, "train"), ("P1", 1, "train"), ("P2", 1, "test")]
    splits = pd.DataFrame([{"scheme": "patient", "fold": f, "unit_id": u, "role": r, "seed": 1, "hash": "0"}
                           for u, f, r in units])  # fmt: skip
    _write(root, schemas.SPLITS, splits)
    long = drawn.melt(id_vars=["tile_id", "slide_id"], value_vars=list(GENES), var_name="gene", value_name="score")
    patients = long["slide_id"].map({HERE: "P1", AWAY: "P2"})
    long = long.assign(patient_id=patients, fold=patients.map({"P1": 0, "P2": 1}), model_hash="0")
    _write(root, schemas.PREDICTIONS, long)
    (root / "tables" / "auc_table.csv").write_text(
        "gene,status,auc,ci_low,ci_high,ci_method,n_pos,n_neg,p,p_holm,reason\n"
        "TP53,estimated,0.8123,0.71,0.9,DeLong,40,60,0.001,0.002,\n"
        "<b>POLE</b>,not estimable,,,,none,1,99,,,too few <i>patients</i>\n"
    )
    (root / "tables" / "claims.csv").write_text(
        "id,source,statement,reported,needs,found,interval,verdict,traced_to\n"
        'C1,"Yang 2021",TP53 <script>alert(3)</script>,0.87,slides,0.81,"[0.7, 0.9]",compatible,'
        "numbers/07-heat-maps.json#gene; ../../etc/passwd#x\n"
    )


def _write(root: Path, table: schemas.Table, frame: pd.DataFrame) -> None:
    write_table(conform(frame, table), table, root / "tables" / f"{table.name}.parquet")


def _numbers(root: Path) -> None:
    by_stage = {
        "01-data-acquisition": {
            "genes": list(GENES), "input_kind": "slides", "n_patients": 2, "n_slides": 2, "n_files": 3, "n_excluded": 1,
        },
        "02-tiling": {
            "tile_px": 256, "target_mpp": 0.5, "max_background": 0.75, "outline_frame": "slide", "tumour_classes": [],
        },
        "06-roc-analysis": {
            "unit": "patients", "n_patients": 100, "interval": "DeLong", "min_positives": 3, "not_estimable": ["POLE"],
        },
        "07-heat-maps": {"gene": "TP53", "n_maps": 2, "n_windows": 23, "notes": [f"{HERE}: <b>a note</b>"]},
    }  # fmt: skip
    for stage, numbers in by_stage.items():
        write_json(root / "numbers" / f"{stage}.json", numbers)


def report(root: Path, status: str = "finished") -> dict:
    """Content of ``run.json``; written there, too."""
    content = {
        "profile": "smoke", "title": "A run", "started": "2026-01-01T00:00:00+00:00", "status": status,
        "finished": "2026-01-01T01:00:00+00:00", "command": "run smoke", "package_version": "0",
        "git": {"commit": "abc"},
        "stages": {"07-heat-maps": {"status": status, "seconds": 3.2, "peak_memory_bytes": 10**9}},
    }  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    (root / "run.json").write_text(json.dumps(content))
    return content
