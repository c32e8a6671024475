"""Training at 512 px: our loop against plain PyTorch, what waits for tiles, two processes against one, and a GPU.

Plain PyTorch is what one writes first: float32, DataLoader, the same network, optimiser, schedule and augmentation.
Loss curves of three seeds are compared before anything is timed. Tiles are real (LC25000), enlarged to 512 px.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from _harness import compare, interleaved, show, timed, versions, write
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from deeplrhe_utils.core.seeds import integer_seed
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, build_network
from deeplrhe_utils.learning.recipes.optimisers import parameter_groups
from deeplrhe_utils.learning.recipes.recipe import TrainConfig, uses_bfloat16
from deeplrhe_utils.learning.tiles.store import TileStore, write_tiles
from deeplrhe_utils.learning.training.fold import train_fold
from deeplrhe_utils.learning.training.launch import Job, run_elsewhere, write_job
from deeplrhe_utils.learning.training.trainer import Part, Run
from deeplrhe_utils.slides.tiles.pixels import read_image

REPOSITORY = Path(__file__).resolve().parents[1]
CLASSES = ("lung_aca", "lung_n", "lung_scc")
NETWORK = NetworkConfig(CLASSES, head="softmax", stages=3, blocks=3)
SIDE, SMALL, TILES, THREADS, ROUNDS, SEEDS = 512, 128, 48, 2, 5, (0, 1, 2)
RECIPE = TrainConfig(epochs=ROUNDS + 1, crop_px=SIDE, checkpoint_seconds=1e9)
LEARN = replace(RECIPE, epochs=6, crop_px=SMALL)
GPU_TILES = 768
CPU = torch.device("cpu")
GOALS = {"ours over plain": 3.5, "waiting for tiles": 0.10, "two processes over one": 0.85, "GPU over resident": 0.80}


@dataclass(frozen=True)
class Work:
    """Tiles with their table, store and labels (one class each)."""

    tiles: pd.DataFrame
    store: TileStore
    targets: NDArray[np.float32]

    @property
    def part(self) -> Part:
        """All tiles, to train on."""
        return Part(np.arange(len(self.tiles)), self.targets, self.tiles["patient_id"].tolist())


def prepare(data: Path, folder: Path, side: int, count: int) -> Work:
    """A store of `count` tiles, each of another tissue field as far as there are enough, resized to `side` px."""
    table = pd.read_csv(data / "groups.csv", dtype=str)
    table = table.assign(turn=table.groupby("group_id").cumcount()).sort_values(["turn", "group_id"], kind="stable")
    parts = []
    for label in CLASSES:
        rows = table[table["label"] == label].head(count // len(CLASSES))
        pictures = [read_image(data / label / name) for name in rows["filename"]]
        how = cv2.INTER_AREA if side < len(pictures[0]) else cv2.INTER_CUBIC
        write_tiles(folder, label, np.stack([cv2.resize(p, (side, side), interpolation=how) for p in pictures]))
        names = [Path(name).stem for name in rows["filename"]]
        parts.append(pd.DataFrame({"tile_id": names, "slide_id": label, "patient_id": names}))
    tiles = pd.concat(parts, ignore_index=True)
    targets = np.stack([tiles["slide_id"] == label for label in CLASSES], axis=1).astype(np.float32)
    store = TileStore(folder, tiles)
    return Work(tiles, store, targets)


class Tiles(Dataset):
    """One tile and its class, turned and flipped at random, as one writes it first."""

    def __init__(self, work: Work) -> None:
        self.store, self.label = work.store, work.targets.argmax(1)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = torch.from_numpy(self.store.read([index])[0]).permute(2, 0, 1).float() / 255
        x = torch.rot90(x, int(torch.randint(4, ())), (1, 2))
        return (x.flip(1) if torch.rand(()) < 0.5 else x).contiguous(), int(self.label[index])


class Plain:
    """The plain loop: float32, NCHW, tiles loaded between the steps."""

    def __init__(self, work: Work, recipe: TrainConfig, seed: int, device: torch.device = CPU) -> None:
        torch.manual_seed(integer_seed(seed, "network", 0))
        self.model, self.recipe, self.device = build_network(NETWORK).to(device), recipe, device
        self.loader = DataLoader(Tiles(work), batch_size=recipe.batch_size, shuffle=True, num_workers=0)
        groups = parameter_groups(self.model, recipe.weight_decay)
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        steps = recipe.epochs * len(self.loader)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, recipe.learning_rate, total_steps=steps)

    def epoch(self) -> float:
        """One epoch; the mean loss."""
        self.model.train()
        total, count = 0.0, 0
        for x, y in self.loader:
            self.optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.model(x.to(self.device)), y.to(self.device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
            self.optimiser.step()
            self.schedule.step()
            total, count = total + float(loss.detach()) * len(x), count + len(x)
        return total / count


class Timed(Run):
    """Our loop, noting how long each step takes, waits for its tiles, and how long these take to load."""

    def __init__(self, work: Work, recipe: TrainConfig, device: torch.device = CPU) -> None:
        super().__init__(work.store, work.part, NETWORK, recipe, 0, 0, None, device)
        self.spent: dict[str, list[float]] = {"load": [], "step": [], "wait": []}
        self.ended = 0.0

    def epoch(self, after_step: Callable[[], None] = lambda: None) -> Any:
        """As in training; the wait for the first tiles counts."""
        self.ended = time.perf_counter()
        return super().epoch(after_step)

    def load(self, step: int, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """As in training, timed."""
        start = time.perf_counter()
        found = super().load(step, places)
        self.spent["load"].append(time.perf_counter() - start)
        return found

    def step(self, step: int, x: Tensor, y: Tensor, places: NDArray[np.int64]) -> float:
        """As in training, timed."""
        start = time.perf_counter()
        self.spent["wait"].append(start - self.ended)
        rate = super().step(step, x, y, places)
        self.ended = time.perf_counter()
        self.spent["step"].append(self.ended - start)
        return rate


class Resident(Run):
    """Our step on random tensors that lie on the device already: what the loop would do if tiles cost nothing."""

    def __init__(self, work: Work, recipe: TrainConfig, device: torch.device = CPU) -> None:
        super().__init__(work.store, work.part, NETWORK, recipe, 0, 0, None, device)
        side, count = work.store.side_px, recipe.batch_size
        x = torch.rand(count, 3, side, side, device=device).to(memory_format=torch.channels_last)
        self.batch = x, torch.from_numpy(work.targets[:count]).to(device)

    def load(self, step: int, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The same tensors every time."""
        return self.batch


def one_step(work: Work) -> dict[str, float]:
    """Both loops' first step in float32 on the same tiles: relative differences of loss and gradient."""
    recipe = replace(LEARN, precision="float32", clip_norm=0.0)
    run, plain = Timed(work, recipe), Plain(work, recipe, 0)
    places = np.arange(recipe.batch_size) * len(work.tiles) // recipe.batch_size
    x, y = run.load(0, places)
    loss = torch.nn.functional.cross_entropy(plain.model(x.contiguous()), y.argmax(1))
    loss.backward()
    run.model.train()
    run.step(0, x, y, places)
    theirs, own = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (plain.model, run.model))
    away = float((own - theirs).norm() / theirs.norm())
    return {"loss": abs(run.last_loss() / float(loss.detach()) - 1), "gradient": away}


def agreement(work: Work) -> dict[str, Any]:
    """Whether both loops compute the same: one step on the same tiles, and the last loss over three seeds."""
    step = one_step(work)
    print(f"First step, float32, same tiles: loss differs by {step['loss']:.1e}, gradient by {step['gradient']:.1e}")
    curves: dict[str, list[list[float]]] = {"ours": [], "plain": []}
    for seed in SEEDS:
        done = train_fold(work.store, work.part, NETWORK, LEARN, seed=seed, fold=0, report=lambda line: None)
        curves["ours"].append(done.progress.history)
        loop = Plain(work, LEARN, seed)
        curves["plain"].append([loop.epoch() for _ in range(LEARN.epochs)])
    last = {name: [curve[-1] for curve in found] for name, found in curves.items()}
    mean = {name: statistics.mean(values) for name, values in last.items()}
    spread = {name: statistics.stdev(values) for name, values in last.items()}
    p = float(stats.ttest_ind(last["ours"], last["plain"], equal_var=False).pvalue)
    agree = p > 0.05 and step["loss"] < 1e-5 and step["gradient"] < 1e-2
    print(f"Loss in epoch {LEARN.epochs}, {len(SEEDS)} seeds: " + ", ".join(
        f"{n} {mean[n]:.3f} (SD {spread[n]:.3f})" for n in mean), end="")  # fmt: skip
    print(f"; p of the difference (Welch) {p:.2f}: {'agree' if agree else 'do NOT agree'}")
    return {"first_step": step, "curves": curves, "mean": mean, "spread": spread, "p": p, "agree": agree}


def engines(work: Work, device: torch.device) -> dict[str, Any]:
    """Tiles/s of our loop and the plain one on a device, and the share of our steps that waits for tiles."""
    exact = replace(RECIPE, precision="float32")
    ours = {"ours": Timed(work, RECIPE, device), "ours, float32": Timed(work, exact, device)}
    runs: dict[str, Run] = {**ours, "resident tensors (the limit)": Resident(work, RECIPE, device)}
    loops: dict[str, Callable[[], Any]] = {n: (lambda run=run: run.epoch(lambda: None)) for n, run in runs.items()}
    loops["plain"] = Plain(work, RECIPE, 0, device).epoch
    for loop in loops.values():
        loop()
    for run in ours.values():
        run.spent = {name: [] for name in run.spent}
    count = len(work.tiles)
    ways = {name: (lambda loop=loop: timed(lambda: (loop(), count)[1])) for name, loop in loops.items()}
    rates = interleaved(ways, ROUNDS)
    rows = compare(rates, "plain")
    precision = "bfloat16" if uses_bfloat16(RECIPE.precision, device) else "float32"
    title = f"Training, {SIDE} px, batch {RECIPE.batch_size}, {device.type}, ours in {precision}"
    show(title, rows, "tiles/s", "plain")
    waits = {name: waiting(run) for name, run in ours.items()}
    for name, found in waits.items():
        print(f"  {name}: {found['share']:.1%} of the time waits for tiles "
              f"(after an epoch's first step: {found['share_after_first']:.1%}); loading takes "
              f"{found['load_s']:.3f} s beside a step of {found['step_s']:.3f} s")  # fmt: skip
    limit = [a / b for a, b in zip(rates["ours"], rates["resident tensors (the limit)"], strict=True)]
    share = {"median": statistics.median(limit), "least": min(limit), "greatest": max(limit)}
    result = {"rows": rows, "rates": rates, "precision": precision, "waiting": waits, "tiles": count,
              "ours_over_resident": share}  # fmt: skip
    if device.type == "cpu":
        result |= of_the_peak({row["way"]: row["rate"] for row in rows}, precision)
    return result


def of_the_peak(tiles_per_s: dict[str, float], precision: str) -> dict[str, Any]:
    """How many operations a tile costs, and what share of this machine's fastest matrix products that is.

    A convolution can hardly do more per second than a product of large square matrices of the same numbers: where the
    share is near one, no loop around the network would make it faster.
    """
    model = build_network(NETWORK)
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(2, 3, SIDE, SIDE)).sum().backward()
    each = counter.get_total_flops() / 2
    kinds = {"plain": torch.float32, "ours, float32": torch.float32,
             "ours": torch.bfloat16 if precision == "bfloat16" else torch.float32}  # fmt: skip
    peak = {}
    for kind in set(kinds.values()):
        a = torch.rand(2048, 2048).to(kind)
        a @ a
        peak[kind] = max(timed(lambda a=a: (a @ a, 2 * len(a) ** 3)[1]) for _ in range(12))
    share = {way: tiles_per_s[way] * each / peak[kind] for way, kind in kinds.items()}
    print(f"  {each / 1e9:.1f} GFLOP a tile; share of the rate of matrix products: "
          + ", ".join(f"{way} {value:.2f}" for way, value in share.items()))  # fmt: skip
    return {"gflop_per_tile": each / 1e9, "share_of_matrix_products": share,
            "matrix_products_gflop_per_s": {str(kind): rate / 1e9 for kind, rate in peak.items()}}  # fmt: skip


def waiting(run: Timed) -> dict[str, float]:
    """Share of the time that a loop waits for tiles, over all steps and without the first of each epoch."""
    wait, step = np.array(run.spent["wait"]), np.array(run.spent["step"])
    later = np.arange(len(step)) % run.steps > 0
    return {"share": float(wait.sum() / (wait + step).sum()),
            "share_after_first": float(wait[later].sum() / (wait + step)[later].sum()),
            "load_s": float(np.median(run.spent["load"])), "step_s": float(np.median(step))}  # fmt: skip


class Stamps(io.TextIOBase):
    """Takes lines and notes when each epoch ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def write(self, text: str) -> int:
        """One piece of text."""
        if "epoch" in text:
            self.times.append(time.perf_counter())
        return len(text)


def launched(work: Work, processes: int, folder: Path) -> float:
    """Tiles/s of a training that torchrun starts; the start and the first epoch do not count."""
    launch = f"torchrun --standalone --nproc-per-node {processes}"
    recipe = replace(RECIPE, epochs=3)
    splits = pd.DataFrame({"fold": 0, "unit_id": work.tiles["patient_id"], "role": "train"})
    view = {"input_mpp": None, "normalization": "none"}
    write_job(folder / "job", Job(NETWORK, recipe, 0, view, {}, "cpu", launch), {0: work.store}, work.tiles,
              work.targets, splits, None)  # fmt: skip
    stamps = Stamps()
    with redirect_stdout(stamps):
        run_elsewhere(launch, folder / "job")
    return len(work.tiles) / statistics.median(np.diff(stamps.times).tolist())


def processes(work: Work, folder: Path) -> list[dict[str, Any]]:
    """One process with all threads against two that share them, the same steps."""
    turn = iter(range(2 * ROUNDS))
    ways = {f"{n} process{'es' if n > 1 else ''}": (lambda n=n: launched(work, n, folder / str(next(turn))))
            for n in (1, 2)}  # fmt: skip
    rows = compare(interleaved(ways, ROUNDS), "1 process")
    show(f"Launched by torchrun, {os.cpu_count()} threads in all", rows, "tiles/s", "1 process")
    return rows


def goals(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was aimed at, and what was reached."""
    cpu, gpu = result["cpu"], result["gpu"]
    values = {
        "ours over plain": next(r["ratio"] for r in cpu["rows"] if r["way"] == "ours"),
        "waiting for tiles": cpu["waiting"]["ours"]["share"],
        "two processes over one": next(r["ratio"] for r in result["processes"] if r["way"] == "2 processes"),
        "GPU over resident": gpu["ours_over_resident"]["median"] if isinstance(gpu, dict) else None,
    }
    rows = []
    for what, value in values.items():
        goal = GOALS[what]
        good = None if value is None else value <= goal if what.startswith("waiting") else value >= goal
        rows.append({"what": what, "goal": goal, "value": value, "reached": good})
        said = "not measured" if value is None else f"{value:.2f}, {'reached' if good else 'NOT reached'}"
        sign = "at most" if what.startswith("waiting") else "at least"
        print(f"  {what}: {said} (goal: {sign} {goal})")
    return rows


def main(data: Path) -> None:
    """Compare, time, print and write."""
    source = data / "lc25000"
    if not source.is_dir():
        raise SystemExit(f"Not measured: {source} is not here. Give its parent with --data.")
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(1)  # OpenCV's threads would wait for PyTorch's, which spin
    with TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {"agreement": agreement(prepare(source, folder / "small", SMALL, 4 * TILES))}
        work = prepare(source, folder / "large", SIDE, TILES)
        result["cpu"] = engines(work, CPU)
        result["processes"] = processes(work, folder / "launched")
        result["gpu"] = "not measured: no GPU"
        if torch.cuda.is_available():
            result["gpu"] = engines(prepare(source, folder / "gpu", SIDE, GPU_TILES), torch.device("cuda"))
    result["goals"] = goals(result)
    about = {"threads": THREADS, "side_px": SIDE, "batch": RECIPE.batch_size, "rounds": ROUNDS,
             "spin": os.environ.get("GOMP_SPINCOUNT", "default")}  # fmt: skip
    write("train_step", {**result, "about": about, "versions": versions("torch", "numpy", "opencv-python-headless")})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=REPOSITORY / ".." / "shared" / "data", help="holds lc25000/")
    main(parser.parse_args().data)
