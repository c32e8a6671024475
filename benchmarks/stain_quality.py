"""Colour normalization on real tissue: agreement between slides, structure kept, seams, glass; peer, ours, ratio, goal.

Masks come from a rule on the source image, not from any method. The DCGMM networks are fitted on 300 LC25000 groups;
nothing that is measured was in the fit. ``--paper`` adds the released network (minutes).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import _stain_data as data
import cv2
import numpy as np
import torch
from _harness import versions, write
from _outline_masks import outline_masks

from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.evaluation.quality.stain_masks import neutral_masks
from deeplrhe_utils.evaluation.quality.stain_metrics import (
    assess,
    glass_change,
    lab,
    planted_residual,
    planted_versions,
    seam_error,
)
from deeplrhe_utils.stain.colour import optical_density
from deeplrhe_utils.stain.dcgmm.checks import has_tissue, tissue_px
from deeplrhe_utils.stain.dcgmm.fit import fit_responsibilities
from deeplrhe_utils.stain.dcgmm.method import Dcgmm
from deeplrhe_utils.stain.dcgmm.net import DEFAULT, DENSITY, PAPER, DcgmmConfig
from deeplrhe_utils.stain.dcgmm.statistics import density_scale
from deeplrhe_utils.stain.methods.baselines import Macenko, Reinhard, Vahadane

Tile = data.Tile
Maker = Callable[[Sequence[Tile]], Callable[[Tile], Tile]]
"""From the tiles of one slide to a function that normalizes a tile of it."""


def ours(method: Any, template: Sequence[Tile]) -> Maker:
    """One of our methods with the template's statistics."""
    target = method.measure(template)
    if getattr(method, "per", "slide") == "tile":
        return lambda _: (
            lambda tile: method.apply(method.map_to(method.measure([tile]), target), tile) if has_tissue(tile) else tile
        )
    return lambda tiles: partial(method.apply, method.map_to(method.measure(tiles), target))


def fit(config: DcgmmConfig, tiles: Sequence[Tile], seed: int = 0, **recipe: Any) -> tuple[Dcgmm, dict]:
    """A fitted DCGMM, and what the fit took."""
    scales = [density_scale([tile]) for tile in tiles]
    start = time.perf_counter()
    net, trace = fit_responsibilities(tiles, scales, config, seed=seed, **recipe)
    seconds = time.perf_counter() - start
    facts = {"weights": net.weights, "seconds": seconds, "first": trace[0], "last": float(np.mean(trace[-10:]))}
    print(f"{config.network}: {net.weights:,} weights, {seconds:.0f} s, loss {trace[0]:.3f} -> {facts['last']:.3f}")
    return Dcgmm(net), facts


def methods(template: Tile, train: Sequence[Tile], paper: bool) -> tuple[dict[str, Maker], dict]:
    """Every method with one interface."""
    parts = data.quarters(template)
    makers: dict[str, Maker] = {"none": lambda _: lambda tile: tile}
    for kind in ("macenko", "reinhard"):
        if (peer := data.torchstain(kind, template)) is not None:
            makers[f"torchstain {kind}"] = lambda _, peer=peer: peer
    facts = {}
    for name, config in (("dcgmm", DEFAULT), ("density only", DENSITY), *([("paper", PAPER)] if paper else [])):
        recipe = {"batch": 2, "crop_px": 192, "steps": 120, "learning_rate": 1e-3} if name == "paper" else {}
        method, facts[name] = fit(config, train, **recipe)
        makers[name] = ours(method, parts)
    for name, method in (("Macenko", Macenko()), ("Reinhard", Reinhard()), ("Vahadane", Vahadane())):
        makers[f"{name} per slide"] = ours(method, parts)
    return makers, facts


def cohort(
    makers: dict[str, Maker], units: dict[str, list[Tile]], template: Tile, shown: int, masks: list | None = None
) -> dict:
    """Every method's row over units; the first `shown` tiles of each are judged, all give statistics."""
    judged = [tiles[:shown] for tiles in units.values()]
    masks = masks or [[neutral_masks(t) for t in tiles] for tiles in judged]
    goal = [(t, neutral_masks(t)) for t in data.quarters(template)]
    rows = {}
    for name, maker in makers.items():
        after, failed, before = [], 0, getattr(maker([]), "failures", 0) if name.startswith("torchstain") else 0
        for tiles, part in zip(units.values(), judged, strict=True):
            try:
                paint = maker(tiles)
                after.append([paint(t) for t in part])
            except Exception as error:  # a crash is a result: the unit stays as it is, and its tiles are counted
                failed += len(part)
                print(f"  {name}: {type(error).__name__}: {str(error)[:90]}")
                after.append(part)
        failed += getattr(maker([]), "failures", 0) - before if name.startswith("torchstain") else 0
        rows[name] = {**assess(judged, after, masks, goal), "failed": failed}
    return rows


def planted(makers: dict[str, Maker], tiles: Sequence[Tile]) -> dict[str, float]:
    """Mean residual of a planted change of stain, five versions of every tile."""
    versions_of = [planted_versions(t, seed=i) for i, t in enumerate(tiles)]
    masks = [neutral_masks(t)["tissue"] for t in tiles]
    found = {}
    for name, maker in makers.items():
        rest = [planted_residual(v, [maker([t])(t) for t in v], m) for v, m in zip(versions_of, masks, strict=True)]
        found[name] = float(np.mean(rest))
    return found


def slide(makers: dict[str, Maker]) -> dict[str, dict[str, float]]:
    """Seams and glass on CMU-1-Small-Region: statistics of up to 32 tiles, tiles that overlap by half.

    Tiles with less than a fifth of tissue are left out, in favour of methods that take statistics per tile.
    """
    rows = data.slide_tiles(512, 256)
    own, found = data.flat([row[::2] for row in rows[::2]])[:32], {}
    glass = [neutral_masks(t)["glass"] for t in own]
    full = [[tissue_px(t) > 0.2 * t[..., 0].size for t in row] for row in rows]
    for name, maker in makers.items():
        paint = maker(own)
        new = [[paint(t) for t in row] for row in rows]
        pairs = [(new[y][x][:, 256:], new[y][x + 1][:, :256]) for y, x in np.ndindex(len(rows), len(rows[0]) - 1)
                 if full[y][x] and full[y][x + 1]]  # fmt: skip
        pairs += [(new[y][x][256:], new[y + 1][x][:256]) for y, x in np.ndindex(len(rows) - 1, len(rows[0]))
                  if full[y][x] and full[y + 1][x]]  # fmt: skip
        seam = seam_error(pairs)
        shown = [(t, paint(t), m) for t, m in zip(own, glass, strict=True) if tissue_px(t) > 0.2 * m.size]
        old, after = (np.concatenate([row[i][row[2]] for row in shown]) for i in (0, 1))
        change = glass_change(old, after, np.ones(len(old), bool))
        found[name] = {"seam_mean": seam["mean"], "seam_worst": seam["worst"], "pairs": len(pairs)}
        found[name] |= {f"glass_{k}": v for k, v in change.items()}
    return found


def gap_mask(tile: Tile) -> np.ndarray:
    """Gaps in the tissue of a source tile: pale, grey and even over 7 px, whatever the glass's own grey is."""
    od = np.asarray(optical_density(tile))
    mean, density = cv2.blur(od, (7, 7)), od.mean(axis=-1)
    level = mean.mean(axis=-1)
    rough = np.sqrt(np.maximum(cv2.blur(density**2, (7, 7)) - level**2, 0))
    even = (level < 0.30) & (np.abs(mean - level[..., None]).max(axis=-1) < 0.12) & (rough < 0.012)
    return cv2.morphologyEx(even.astype(np.uint8), cv2.MORPH_OPEN, np.ones((9, 9), np.uint8)).astype(bool)


def grain(colours: np.ndarray, mask: np.ndarray) -> float:
    """Standard deviation, over Lab, of what is finer than 1.5 px."""
    return float((colours - cv2.GaussianBlur(colours, (0, 0), 1.5))[mask].std())


def gaps(makers: dict[str, Maker], units: dict[str, list[Tile]], shown: int) -> dict[str, dict[str, float]]:
    """Lightness, chroma, and grain over the source's, of gaps after every method, means over tiles that show some."""
    judged = [(tiles, tile, mask) for tiles in units.values() for tile in tiles[:shown]
              if (mask := gap_mask(tile)).mean() > 0.005]  # fmt: skip
    found = {}
    for name, maker in makers.items():
        rows = []
        for tiles, tile, mask in judged:
            try:
                old, new = lab(tile), lab(maker(tiles)(tile))
            except CompendiumError:  # counted by `cohort`
                continue
            chroma = float(np.hypot(*new[mask][:, 1:].T).mean())
            rows.append((new[mask][:, 0].mean(), chroma, grain(new, mask) / grain(old, mask)))
        mean = np.mean(rows, axis=0)
        found[name] = {"lightness": mean[0], "chroma": mean[1], "noise_ratio": mean[2], "tiles": len(rows)}
    return {name: {key: float(value) for key, value in row.items()} for name, row in found.items()}


def goals(result: dict) -> list[dict]:
    """Peer (torchstain's Macenko, per tile), ours, ratio, goal, reached; and the best of our classical ones."""
    peer, mine, rows = "torchstain macenko", "dcgmm", []
    classical = [name for name in result["planted"] if name.endswith("per slide")]

    def add(what: str, theirs: float, own: float, goal: str, good: bool) -> None:
        ratio = own / theirs if theirs == theirs and theirs else float("nan")
        rows.append({"what": what, "peer": theirs, "ours": own, "ratio": ratio, "goal": goal, "reached": bool(good)})
        key, _, place = what.partition(", ")
        known = result["planted"] if what == "planted residual" else {
            n: row[key] for n, row in result.get(place, {}).items() if key in row}  # fmt: skip
        best = max if key in ("ssim", "cs", "correlation") else min
        rows[-1]["best_classical"] = best((known[n] for n in classical if n in known), default=None)

    for place, key, limit in (
        ("fields", "nmi_nuclei_cv", 0.70), ("lc25000", "nmi_nuclei_cv", 0.60), ("fields", "wasserstein", 0.75),
        ("lc25000", "wasserstein", 0.60), ("fields", "lab_stroma", 0.75), ("lc25000", "lab_stroma", 0.85),
        ("fields", "lab_nuclei", 1.3), ("lc25000", "lab_nuclei", 1.4), ("fields", "lab_nuclei", 1.0),
        ("lc25000", "lab_nuclei", 1.0),
    ):  # fmt: skip
        theirs, own = result[place][peer][key], result[place][mine][key]
        add(f"{key}, {place}", theirs, own, f"at most {limit:.2f} x", own <= limit * theirs)
    theirs, own = result["planted"][peer], result["planted"][mine]
    add("planted residual", theirs, own, "at most 0.30", own <= 0.30)
    add("planted residual", theirs, own, "at most the peer's", own <= theirs)
    for key, least in (("ssim", 0.96), ("cs", 0.975), ("correlation", 0.99)):
        add(f"{key}, fields", result["fields"][peer][key], result["fields"][mine][key], f"at least {least}",
            result["fields"][mine][key] >= least)  # fmt: skip
    theirs, own = (result["lc25000"][name]["correlation_p5"] for name in (peer, mine))
    add("correlation, 5th percentile, lc25000", theirs, own, "at least 0.92", own >= 0.92)
    for key, limit in (("seam_mean", 0.3), ("seam_worst", 0.6), ("glass_mean", 0.5), ("glass_p99", 2.0)):
        own = result["slide"][mine][key]
        add(f"{key}, CMU-1", result["slide"][peer][key], own, f"at most {limit}", abs(own) <= limit)
    for key, limit in (("chroma", 5.0), ("noise_ratio", 1.05)):
        theirs, own = (result["gaps, lc25000"][name][key] for name in (peer, mine))
        add(f"gap {key}, LC25000", theirs, own, f"at most {limit}", own <= limit)
    if "paper" in result["planted"]:
        places = [("fields", k) for k in ("nmi_nuclei_cv", "wasserstein", "lab_stroma", "lab_nuclei")]
        places += [("lc25000", k) for _, k in places]
        for place, key in places:
            theirs, own = result[place]["paper"][key], result[place][mine][key]
            add(f"{key}, {place} (paper's)", theirs, own, "at most 1.05 x", own <= 1.05 * theirs)
        theirs, own = result["planted"]["paper"], result["planted"][mine]
        add("planted residual (paper's)", theirs, own, "at most 1.05 x", own <= 1.05 * theirs)
    theirs, own = result["itself"][peer], result["itself"][mine]
    add("template to itself, grey levels", theirs, own, "0", own == 0)
    own = result["fit"]["dcgmm"]["seconds"]
    add("fit, s", float("nan"), own, "at most 60", own <= 60)
    return rows


def main(paper: bool) -> None:
    """Measure and print."""
    data.require()
    torch.set_num_threads(2)
    template = data.field(data.TEMPLATE)
    train, test = data.lc25000()
    makers, facts = methods(template, [tiles[0] for tiles in train.values()], paper)
    fields = {name: data.quarters(data.field(name)) for name in data.FIELDS}
    result: dict = {"fit": facts, "fields": cohort(makers, fields, template, 4)}
    drawn = {n: fields[n] for n in data.FIELDS if data.outlined(n)}
    masks = [
        [outline_masks(t, o) for t, o in zip(tiles, data.quartered_outlines(n), strict=True)]
        for n, tiles in drawn.items()
    ]
    result["fields, experts' outlines"] = cohort(makers, drawn, template, 4, masks)
    result["lc25000"] = cohort(makers, test, template, 1)
    one = [data.quarters(data.field(n))[0] for n in (data.TEMPLATE, *data.FIELDS)]
    result["planted"] = planted(makers, [*one, data.slide_tiles()[2][1]])
    result["slide"] = slide(makers)
    result["gaps, fields"], result["gaps, lc25000"] = gaps(makers, fields, 4), gaps(makers, test, 1)
    parts = data.quarters(template)
    result["itself"] = {
        name: float(np.mean([np.abs(maker(parts)(t).astype(float) - t).mean() for t in parts]))
        for name, maker in makers.items()
    }
    result["goals"] = goals(result) if "torchstain macenko" in makers else []
    show(result)
    write("stain_quality", {**result, "versions": versions("torchstain", "torch", "numpy", "scikit-learn")})


def show(result: dict) -> None:
    """Print the tables."""
    keys = ("nmi_nuclei_cv", "nmi_stroma_cv", "lab_nuclei", "lab_stroma", "wasserstein", "ssim", "cs", "correlation",
            "correlation_p5", "failed")  # fmt: skip
    for place in ("fields", "fields, experts' outlines", "lc25000"):
        print(f"\n{place:26}" + "".join(f"{k[:14]:>15}" for k in keys))
        for name, row in result[place].items():
            print(f"{name:26}" + "".join(f"{row[k]:15.3f}" for k in keys))
    print(f"\n{'CMU-1':26}{'planted':>12}{'itself':>12}" + "".join(f"{k:>12}" for k in result["slide"]["none"]))
    for name, row in result["slide"].items():
        values = (result["planted"][name], result["itself"][name], *row.values())
        print(f"{name:26}" + "".join(f"{v:12.3f}" for v in values))
    for place in ("gaps, fields", "gaps, lc25000"):
        print(f"\n{place:26}" + "".join(f"{k:>12}" for k in result[place]["none"]))
        for name, row in result[place].items():
            print(f"{name:26}" + "".join(f"{v:12.3f}" for v in row.values()))
    print(f"\n{'':40}{'peer':>10}{'ours':>10}{'ratio':>8}{'classical':>11}  goal")
    for row in result["goals"]:
        end = "reached" if row["reached"] else "NOT reached"
        best = "" if row["best_classical"] is None else f"{row['best_classical']:.3f}"
        figures = f"{row['peer']:10.3f}{row['ours']:10.3f}{row['ratio']:8.2f}{best:>11}"
        print(f"{row['what']:40}{figures}  {row['goal']:20} {end}")


if __name__ == "__main__":
    main("--paper" in sys.argv)
