"""Intervals and p-values of cross-fitted scores: which of them keep their promise, near 0.5 and away from it?

Writes ``results/cross_fitting.csv``, which notebook 12 shows and docs/cross-fitting.md explains. No time is measured.
``--draws=N`` sets how many cohorts are simulated per design.

The rule was written down after a pilot of 60 cohorts a design and before the table was made, but for its last step.
Methods with an interval and a p are compared on the designs CHOICE. In each of them coverage is at least 93 %, and
where nothing is planted at most 5 % are rejected, both within two Monte Carlo errors. Among those that are left the
least mean width wins; a factor that depends on the AUC must be narrower by 5 % than a constant one to be worth its
second constant. The winner is then judged on TRIAL: other counts, folds, features, seeds. The last step was added
after TRIAL's table had been seen: a winner that fails there, where both classes scatter alike, gives way to the next.
That made TRIAL part of the choice, so CONFIRM, which nobody chose by, judges the last one.
"""

from __future__ import annotations

import sys
import time
from itertools import product

import numpy as np
import pandas as pd
from _harness import RESULTS
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import (
    CROSS_FITTED,
    DELONG,
    INFLATION,
    NEWCOMBE,
    Z,
    cross_fitted_p,
    delong_components,
    delong_many,
    newcombe_interval,
    null_error,
)
from deeplrhe_utils.evaluation.precision.coverage import Ends
from deeplrhe_utils.evaluation.precision.cross_fitting import (
    Design,
    cohorts,
    ridge_scores,
    simulated_scores,
    target_auc,
    trial_rows,
    within_folds,
)

_Floats = NDArray[np.float64]
PATIENTS = 160
CHOICE = [Design(m, PATIENTS - m, folds, features, aim)
          for m, folds, features, aim in product((8, 30, 60), (2, 4), (50, 300), (0.5, 0.65, 0.85))]  # fmt: skip
TRIAL = [
    *(Design(m, PATIENTS - m, folds, features, aim, decay)
      for m, folds, (features, decay), aim in product((5, 10, 20, 40, 80), (2, 5, 10), ((20, 0), (500, 0), (200, 1)),
                                                      (0.5, 0.6, 0.7, 0.8, 0.9)) if m >= folds),
    *(Design(m, PATIENTS - m, folds, 100, aim, 0, 2.0) for m, folds, aim in product((20, 80), (2, 5), (0.5, 0.8))),
    *(Design(m, PATIENTS - m, folds, features, aim, reader="network")
      for m, folds, features, aim in product((10, 40, 80), (2, 5), (20, 100), (0.5, 0.7, 0.85))),
]  # fmt: skip
CONFIRM = [Design(m, PATIENTS - m, folds, features, aim)
           for m, folds, features, aim in product((7, 15, 50), (3, 6), (40, 400), (0.5, 0.65, 0.75))]  # fmt: skip
CONDITIONAL = [Design(m, PATIENTS - m, folds, features, aim)
               for m, folds, features, aim in product((10, 40), (2, 5), (20, 200), (0.5, 0.7))]  # fmt: skip
PERMUTED = [Design(m, PATIENTS - m, folds, 500, aim) for m, folds, aim in product((10, 40), (2, 5), (0.5, 0.7))]
DECAYS = (0.25, 0.5, 1.0)
KEPT = ["part", "design", "features", "decay", "spread", "n_pos", "folds", "aim", "auc", "method", "draws", "coverage",
        "mean_width", "rejected"]  # fmt: skip


def ledell(scores: _Floats, design: Design) -> tuple[_Floats, _Floats]:
    """Mean of the folds' AUCs and its standard error from influence functions (LeDell 2015), (b,) each."""
    aucs, spread, n = [], [], PATIENTS
    for number in range(design.folds):
        own = np.flatnonzero(design.fold == number)
        m = int((own < design.n_pos).sum())
        v10, v01 = delong_components(scores[:, own[:m]], scores[:, own[m:]])
        auc = v10.mean(1, keepdims=True)
        parts = np.hstack([(v10 - auc) * n / design.n_pos, (v01 - auc) * n / design.n_neg])
        aucs.append(auc[:, 0])
        spread.append((parts**2).mean(1))
    return np.mean(aucs, axis=0), np.sqrt(np.mean(spread, axis=0) / n)


def around(auc: _Floats, error: _Floats) -> tuple[Ends, _Floats]:
    """AUC ± z errors, cut to [0, 1], and the p that belongs to it."""
    error = np.maximum(error, 1e-12)
    return ((auc - Z * error).clip(0, 1), (auc + Z * error).clip(0, 1)), 2 * stats.norm.sf(np.abs(auc - 0.5) / error)


def methods(scores: _Floats, design: Design) -> tuple[dict[str, tuple[Ends, _Floats]], float]:
    """Every method's ends and p, each (b,), and the AUC that they should contain."""
    ranks, fold_aucs = within_folds(scores, design)
    m, n, k = design.n_pos, design.n_neg, design.folds
    auc, low, high = delong_many(ranks[:, :m], ranks[:, m:])
    usual = np.asarray(stats.mannwhitneyu(ranks[:, :m], ranks[:, m:], axis=1).pvalue)
    inside = (auc > 0) & (auc < 1)
    centre, least, most = (stats.logistic.ppf(np.where(inside, end, 0.5)) for end in (auc, low, high))
    wide = (np.where(inside, stats.logistic.cdf(centre + INFLATION * (least - centre)), low),
            np.where(inside, stats.logistic.cdf(centre + INFLATION * (most - centre)), high))  # fmt: skip
    error = INFLATION * np.maximum(most - least, 1e-12) / (2 * Z)
    reach = np.where(inside, np.abs(centre) / error, np.inf)
    mean, error = ledell(scores, design)
    found = {
        DELONG: ((low, high), usual),
        "DeLong, logit, variance doubled": (wide, 2 * stats.norm.sf(reach)),
        NEWCOMBE: (newcombe_interval(auc, m, n), usual),
        CROSS_FITTED: (newcombe_interval(auc, m, n, INFLATION), cross_fitted_p(auc, m, n)),
        "Newcombe, error × 1.5": (newcombe_interval(auc, m, n, 1.5),
                                  2 * stats.norm.sf(np.abs(auc - 0.5) / null_error(m, n, 1.5))),
        "LeDell": around(mean, error),
        "LeDell, variance doubled": around(mean, INFLATION * error),
        "mean of the folds, wholly correlated": around(mean, np.sqrt(k) * error),
    }  # fmt: skip
    for power in DECAYS:
        factor = np.sqrt(1 + (4 * auc * (1 - auc)) ** power)
        p = 2 * stats.norm.sf(np.abs(auc - 0.5) / (factor * null_error(m, n)))
        found[f"Newcombe, doubling decays with {power:g}"] = newcombe_interval(auc, m, n, factor), p
    positive, everybody = np.bincount(design.fold[:m]), np.bincount(design.fold)
    errors = [null_error(int(of), int(total - of)) for of, total in zip(positive, everybody, strict=True)]
    single = (2 * stats.norm.sf(np.abs(fold_aucs - 0.5) / errors)).T
    none = np.full(len(auc), np.nan), np.full(len(auc), np.nan)
    found["p only: 2 × mean of the folds"] = none, np.minimum(2 * single.mean(0), 1)
    found["p only: least of the folds × folds"] = none, np.minimum(k * single.min(0), 1)
    found["p only: Cauchy combination"] = none, stats.cauchy.sf(np.tan((0.5 - single) * np.pi).mean(0))
    return found, target_auc(design, fold_aucs)


def trial(design: Design, draws: int, part: str, seed: int) -> pd.DataFrame:
    """A row per method."""
    found, truth = methods(simulated_scores(design, draws, seed), design)
    table = trial_rows(design, found, truth).assign(part=part)
    table.loc[table["method"].str.startswith("p only"), ["coverage", "mean_width"]] = np.nan
    return table


def permuted(design: Design, draws: int, seed: int, exchanges: int = 199) -> pd.DataFrame:
    """Rejections by labels that are exchanged within folds, the ridge fitted anew each time: exact, and slow."""
    random = generator(seed, "refitted permutation", str(design))
    features, _ = cohorts(design, draws, random)
    label = np.repeat((np.arange(PATIENTS) < design.n_pos).astype(np.float32)[None, :, None], draws, 0)
    label = np.repeat(label, 1 + exchanges, 2)
    for own in (np.flatnonzero(design.fold == f) for f in range(design.folds)):
        label[:, own, 1:] = random.permuted(label[:, own, 1:], axis=1)
    scores = ridge_scores(features @ features.swapaxes(1, 2), label, design.fold)
    ranks = np.empty_like(scores)
    for own in (np.flatnonzero(design.fold == f) for f in range(design.folds)):
        ranks[:, own] = (stats.rankdata(scores[:, own], axis=1) - 0.5) / len(own)
    m = design.n_pos
    auc = ((stats.rankdata(ranks, axis=1) * label).sum(1) - m * (m + 1) / 2) / (m * design.n_neg)
    away = np.abs(auc - 0.5)
    p = (1 + (away[:, 1:] >= away[:, :1] - 1e-12).sum(1)) / (1 + exchanges)
    none = np.full(draws, np.nan)
    table = trial_rows(design, {"p only: labels exchanged, reader refitted": ((none, none), p)}, 0.5)
    return table.assign(part="trial", auc=0.5 if design.aim == 0.5 else np.nan, coverage=np.nan, mean_width=np.nan)


def conditional(design: Design, draws: int, seed: int) -> pd.DataFrame:
    """The other target: the mean true AUC of the very ridges that were trained; no decay, equal spread.

    A ridge's direction is what it gives the unit vectors, so these are scored as if they were patients of each fold.
    """
    features, shift = cohorts(design, draws, generator(seed, "conditional", str(design)))
    m, n, label = design.n_pos, design.n_neg, (np.arange(PATIENTS) < design.n_pos).astype(np.float32)
    scores, truths = np.empty(features.shape[:2]), []
    for own, others in ((design.fold == f, design.fold != f) for f in range(design.folds)):
        units = np.broadcast_to(np.eye(design.features, dtype=np.float32), (draws, design.features, design.features))
        both = np.concatenate([features[:, others], features[:, own], units], axis=1)
        part = np.r_[np.ones(others.sum()), np.zeros(own.sum() + design.features)].astype(np.intp)
        known = np.r_[label[others], np.zeros(own.sum() + design.features, np.float32)]
        given = ridge_scores(both @ both.swapaxes(1, 2), np.tile(known[None, :, None], (draws, 1, 1)), part)[..., 0]
        scores[:, own] = given[:, others.sum() : PATIENTS]
        way = given[:, PATIENTS:]
        truths.append(stats.norm.cdf((way * shift[:, 0]).sum(1) / np.linalg.norm(way, axis=1) / np.sqrt(2)))
    truth = np.mean(truths, axis=0)
    ranks, _ = within_folds(scores, design)
    auc, low, high = delong_many(ranks[:, :m], ranks[:, m:])
    none = np.full(draws, np.nan)
    wide = newcombe_interval(auc, m, n, INFLATION)
    found = {DELONG: ((low - truth, high - truth), none), CROSS_FITTED: ((wide[0] - truth, wide[1] - truth), none)}
    return trial_rows(design, found, 0.0).assign(part="conditional", auc=truth.mean(), rejected=np.nan)


def passes(table: pd.DataFrame) -> pd.Series:
    """Whether a row keeps the rule, two Monte Carlo errors allowed."""
    short = table["coverage"] < 0.93 - 2 * np.sqrt(0.93 * 0.07 / table["draws"])
    loud = (table["aim"] == 0.5) & (table["rejected"] > 0.05 + 2 * np.sqrt(0.05 * 0.95 / table["draws"]))
    return ~short & ~loud


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per part and method: coverage near 0.5 and away, false alarms, power at an aim of 0.7, width, failures."""
    table = table.assign(kept=passes(table), near=table["aim"] <= 0.6, null=table["aim"] == 0.5)
    rows = []
    for (part, method), own in table.groupby(["part", "method"], sort=False):
        near, away = own.loc[own["near"], "coverage"], own.loc[~own["near"], "coverage"]
        alarms, power = own.loc[own["null"], "rejected"], own.loc[own["aim"].between(0.64, 0.71), "rejected"]
        rows.append({"part": part, "method": method, "near": near.mean(), "near_least": near.min(), "away": away.mean(),
                     "away_least": away.min(), "alarms": alarms.mean(), "alarms_most": alarms.max(),
                     "power": power.mean(), "width": own["mean_width"].mean(), "failed": int((~own["kept"]).sum()),
                     "designs": len(own)})  # fmt: skip
    return pd.DataFrame(rows)


def main(draws: int) -> None:
    """The whole grid, design after design."""
    start = time.perf_counter()
    parts = [trial(design, draws, "choice", 1) for design in CHOICE]
    parts += [trial(design, draws, "trial", 2) for design in TRIAL]
    parts += [permuted(design, min(200, draws), 3) for design in PERMUTED]
    parts += [trial(design, draws, "confirm", 4) for design in CONFIRM]
    parts += [conditional(design, min(400, draws), 5) for design in CONDITIONAL]
    table = pd.concat(parts, ignore_index=True)[KEPT]
    RESULTS.mkdir(exist_ok=True)
    table.round(3).to_csv(RESULTS / "cross_fitting.csv", index=False, lineterminator="\n")
    shown = summary(table)
    print(shown.round(3).to_string(index=False))
    left = shown[(shown["part"] == "choice") & (shown["failed"] == 0) & shown["width"].notna()]
    worth = left["width"].where(~left["method"].str.contains("decays"), left["width"] * 1.05)
    alike = summary(table[table["spread"] == 1]).pivot(index="method", columns="part", values="failed")
    print("by the rule:", alike.loc[left.loc[worth.sort_values().index, "method"], ["trial", "confirm"]], sep="\n")
    print(f"cross_fitting.csv written: {len(table)} rows in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    options = dict(a.removeprefix("--").split("=") for a in sys.argv[1:])
    main(int(options.get("draws", 1000)))
