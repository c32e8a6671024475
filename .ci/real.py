"""What is committed of a run on real tiles (profile lc25000): numbers and line art, not one pixel of an image.

``make lean PROFILE=lc25000`` deletes the rest of the run, writes ``results.json`` and, from it alone, ``README.md``.
Transfer learning is not part of a run; its numbers come from ``benchmarks/results/transfer_lc25000.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from deeplrhe_utils.core.files import read_json, write_json, write_text
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.evaluation.audits.probing import probe
from deeplrhe_utils.learning.probes.bank import STAIN
from deeplrhe_utils.learning.probes.readers import means_by_patient, partitions
from deeplrhe_utils.reporting.audit_figures.audits import arms

FIGURES: Final = ("confusion.png", "fig6_roc.png", "leakage_schemes.png", "who_reads.png")
TABLES: Final = ("auc_table.csv", "confusion.csv", "controls.csv", "controls_networks.csv", "leakage_inflation.csv",
                 "leakage_shared.csv")  # fmt: skip
KEPT: Final = ("README.md", "results.json", "run.json", *(f"figures/{name}" for name in FIGURES),
               *(f"tables/{name}" for name in TABLES))  # fmt: skip
CLASSES: Final = {"lung_aca": "adenocarcinoma", "lung_n": "normal", "lung_scc": "squamous"}
TRANSFER: Final = REPOSITORY / "benchmarks" / "results" / "transfer_lc25000.json"
NETWORKS: Final = {"DeepLRHE": "DeepLRHE, three seeds", "Lite0, ImageNet": "Lite0 from ImageNet's weights",
                   "Lite0, scratch": "Lite0 from scratch"}  # fmt: skip
COLOUR: Final = "stain alone, unchanged colours"
_REPEATS, _DRAWS = 10, 200  # as notebook 11
_Row = dict[str, Any]


def reduce(root: Path) -> None:
    """Reduce the finished run in `root` to :data:`KEPT`."""
    run = read_json(root / "run.json")
    read = {name: pd.read_csv(root / "tables" / name) for name in TABLES}
    brief = read["controls_networks.csv"]
    brief["arm"] = "brief network, " + brief["arm"].replace({"pixels in random order": "shuffled pixels"})
    controls = pd.concat([read["controls.csv"], colour_alone(root), brief, transfer()], ignore_index=True)
    results = {
        "run": cut(run), "classes": _rows(read["auc_table.csv"], "auc", "ci_low", "ci_high", "n_pos", "n_neg"),
        "confusion": read["confusion.csv"].set_index("true").to_dict("index"),
        "arms": [{"arm": arm, **_rows(own, "auc", "ci_low", "ci_high")}
                 for arm, own in controls.groupby("arm", sort=False)],
        "exchanged": {"low": controls["null_low"].min(), "high": controls["null_high"].max()},
        "on_both_sides": read["leakage_shared.csv"].groupby("scheme")["share"].mean().to_dict(),
        "inflation": [r for r in read["leakage_inflation.csv"].to_dict("records") if r["scheme"] == "tile"],
        "images": len(pd.read_parquet(root / "tables" / "tiles.parquet")),
    }  # fmt: skip
    named = controls.assign(gene=controls["gene"].map(CLASSES))
    figure = arms(named, list(dict.fromkeys(controls["arm"])))
    for axes in figure.axes:
        axes.set_xlim(0.4, 1.02)
    figure.savefig(root / "figures" / "who_reads.png", dpi=100, bbox_inches="tight")
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(root).as_posix() not in KEPT:
            path.unlink()
    write_json(root / "run.json", results["run"])
    write_json(root / "results.json", results)
    write_text(root / "README.md", page(results))


def cut(run: Mapping[str, Any]) -> _Row:
    """``run.json`` without paths of the machine it was made on, and without hashes of files that are not kept."""
    stages = {name: {key: stage[key] for key in ("status", "seconds", "finished", "reason") if key in stage}
              for name, stage in run["stages"].items()}  # fmt: skip
    kept = ("profile", "title", "package_version", "git", "hardware", "status", "started", "finished", "versions")
    command = f"deeplrhe run {run['profile']} -p data_dir=DIR"
    return {**{key: run[key] for key in kept}, "command": command, "stages": stages}


def colour_alone(root: Path) -> pd.DataFrame:
    """What notebook 11's reader finds in eleven numbers of a tile's colours before they are normalized."""
    features = pd.read_parquet(root / "work" / "04" / "features" / "none.parquet")[list(STAIN)]
    owner = pd.read_parquet(root / "tables" / "tiles.parquet").set_index("tile_id")["patient_id"]
    means, labels = means_by_patient(features, owner.loc[features.index]), root / "tables" / "labels.parquet"
    cut = partitions(len(means), 2, _REPEATS, 1)
    return probe(means, pd.read_parquet(labels), cut, draws=_DRAWS, seed=1).assign(arm=COLOUR)


def transfer() -> pd.DataFrame:
    """AUC by tissue field of the networks of ``benchmarks/transfer_lc25000.py``: mean of three seeds."""
    told = read_json(TRANSFER)["arms"]
    return pd.DataFrame([
        {"arm": NETWORKS[name.removesuffix(", split by group")], "gene": c, "auc": own["value"], "ci_low": own["low"],
         "ci_high": own["high"]}
        for name, arm in told.items() if "group" in arm for c in CLASSES for own in [arm["group"]["mean"][c]]
    ])  # fmt: skip


def _rows(table: pd.DataFrame, *columns: str) -> dict[str, _Row]:
    return {CLASSES[gene]: own for gene, own in table.set_index("gene")[list(columns)].to_dict("index").items()}


def _shown(row: Mapping[str, float]) -> str:
    return f"{row['auc']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def page(results: Mapping[str, Any]) -> str:
    """README.md of the committed folder, from ``results.json`` and the text of ``real_page.txt``."""
    run, classes, called = (results[name] for name in ("run", "classes", "confusion"))
    told = {row["arm"]: row for row in results["arms"]}
    names, seconds = list(CLASSES.values()), {name: s.get("seconds", 0) for name, s in run["stages"].items()}
    took = datetime.fromisoformat(run["finished"]) - datetime.fromisoformat(run["started"])
    inflated = [f"{r['inflation']:+.3f} [{r['inflation_low']:+.3f}, {r['inflation_high']:+.3f}]"
                for r in results["inflation"] if r["unit"] == "patient" and r["gene"] not in CLASSES]  # fmt: skip
    return Path(__file__).with_name("real_page.txt").read_text(encoding="utf-8").format(
        images=f"{results['images']:,}", fields=sum(row["n_pos"] for row in classes.values()),
        right=sum(called[c][c] for c in CLASSES), command=run["command"], date=run["started"][:10],
        colour=", ".join(f"{told[COLOUR][c]['auc']:.2f} ({c})" for c in names), commit=run["git"]["commit"][:12],
        classes=_table(["Class", "Fields", "AUC", *(f"called {c}" for c in names)],
                       [[c, str(classes[c]["n_pos"]), _shown(classes[c]), *(str(called[k][j]) for j in CLASSES)]
                        for k, c in CLASSES.items()]),
        arms=_table(["Who reads", *names], [[arm, *(_shown(row[c]) for c in names)] for arm, row in told.items()]),
        low=f"{results['exchanged']['low']:.2f}", high=f"{results['exchanged']['high']:.2f}",
        by_tile=f"{100 * results['on_both_sides']['tile']:.0f} %", inflation=inflated[0],
        by_field=f"{100 * results['on_both_sides']['patient']:.0f} %", minutes=f"{took.total_seconds() / 60:.0f}",
        cores=run["hardware"]["cores"], slowest=max(seconds, key=seconds.__getitem__),
        slowest_minutes=f"{max(seconds.values()) / 60:.0f}",
    )  # fmt: skip
