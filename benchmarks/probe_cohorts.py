"""Are the probes' p-values uniform, do their intervals cover, and how much of what is planted do they recover?

Plants ``--cohorts=N`` cohorts (default 20, seeds 101 on) of 120 slides, reads ten tiles a slide at 1 µm/px where at
least half is tumour, and lets the ridge probe on the bank of label-free features (unchanged colours) find each gene.
Among adenocarcinomas POLE, POLD1, PBRM1 and DNMT3A have no effect and, given smoking and sex, depend on no gene that
has one: their p-values must be uniform, and their intervals contain one half. Over both diagnoses the reader also sees
the diagnosis, whose AUC is known in closed form. Writes ``results/probe_cohorts.csv``, a row per cohort, patients and
gene. No time is measured; about a minute a cohort on two cores.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pandas as pd
from _harness import RESULTS
from _planted import described
from scipy import stats

from deeplrhe_utils.evaluation.audits.diagnosis import FIRST
from deeplrhe_utils.evaluation.audits.probing import PROBE_COLUMNS, probe
from deeplrhe_utils.learning.probes.readers import means_by_patient, partitions
from deeplrhe_utils.synthetic.genes import EFFECTS, GENES
from deeplrhe_utils.synthetic.plan import CohortSpec, plan_cohort

SLIDES, TILES, SIDE_PX = 120, 10, 256
FIRST_SEED, DRAWS, REPEATS = 101, 500, 10
CONTROLS = [gene for gene in GENES if gene not in EFFECTS]


def one_cohort(seed: int, pool: ProcessPoolExecutor) -> pd.DataFrame:
    """Every gene's probe in one cohort."""
    spec = CohortSpec(n_slides=SLIDES, seed=seed)
    plan = plan_cohort(spec)
    tiles = pd.concat(
        pool.map(partial(described, plan, most=TILES, side_px=SIDE_PX), plan.slides["slide_id"], chunksize=5),
        ignore_index=True,
    )
    means, parts = means_by_patient(tiles.drop(columns="patient_id"), tiles["patient_id"]), []
    of = plan.clinical.set_index("patient_id")["histology"].reindex(means.index)
    for group, own in ((FIRST, means[of == FIRST]), ("both diagnoses", means)):
        cuts = partitions(len(own), 2, REPEATS, seed)
        table = probe(own, plan.labels, cuts, draws=DRAWS, seed=seed, min_positives=2).assign(patients=group)
        table["diagnosis_auc"] = table["gene"].map(plan.genes.set_index("gene")["diagnosis_auc"])
        parts.append(table.assign(control=table["gene"].isin(CONTROLS) & (group == FIRST)))
    return pd.concat(parts, ignore_index=True).assign(seed=seed)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per gene: mean AUC, share of p below 0.05, coverage of one half (controls) or of the mean over cohorts."""
    known = table.dropna(subset=["p"]).copy()
    aim = known.groupby(["patients", "gene"])["auc"].transform("mean").mask(known["control"], 0.5)
    known["covered"] = (known["ci_low"] <= aim) & (aim <= known["ci_high"])
    own = known.groupby(["patients", "gene"], sort=False)
    return own.agg(cohorts=("seed", "size"), auc=("auc", "mean"), sd=("auc", "std"), covered=("covered", "mean"),
                   found=("p", lambda p: (p < 0.05).mean())).reset_index()  # fmt: skip


def main() -> None:
    """Run all cohorts, one after the other, and say what was found."""
    count = next((int(a.split("=")[1]) for a in sys.argv[1:] if a.startswith("--cohorts=")), 20)
    file, parts = RESULTS / "probe_cohorts.csv", []
    with ProcessPoolExecutor(2) as pool:
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            parts.append(one_cohort(seed, pool))
            print(
                seed,
                parts[-1].query("patients == @FIRST").set_index("gene")["auc"].round(2).dropna().to_dict(),
                flush=True,
            )
            columns = [
                "seed",
                "patients",
                "gene",
                "control",
                "diagnosis_auc",
                *[c for c in PROBE_COLUMNS if c not in ("gene", "status")],
            ]
            pd.concat(parts)[columns].round(5).to_csv(file, index=False, lineterminator="\n")
    table = pd.concat(parts)
    print(summary(table).round(3).to_string(index=False))
    silent = table[table["control"]].dropna(subset=["p"])
    uniform = stats.kstest(silent["p"], "uniform").pvalue
    print(f"{len(silent)} p-values of genes without effect; Kolmogorov–Smirnov against uniform: p = {uniform:.3f}")


if __name__ == "__main__":
    main()
