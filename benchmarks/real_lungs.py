"""The real-lung results, checked by other means: scikit-learn's ridge, and p-values under exchanged labels.

Reads features and calls as `deeplrhe run tcga-features` does, and compares with the committed tables of that run:

1. AUC of mean pooling and ridge, by `sklearn.linear_model.Ridge` on the same divisions: within .01 of the run's.
2. AUC of the diagnosis alone, by `sklearn.metrics.roc_auc_score` on one bit a patient: within 1e-9.
3. p-values of all genes when whole rows of labels are exchanged among patients, 20 times: uniform by Kolmogorov and
   Smirnov's test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from _harness import RESULTS, SHARED_DATA
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from deeplrhe_utils.acquisition.barcodes import parse_name
from deeplrhe_utils.acquisition.features.cohort import read_features
from deeplrhe_utils.acquisition.labels.mutation_files import read_mutations
from deeplrhe_utils.acquisition.services.tcga_slides import tumour_of_site
from deeplrhe_utils.core.paths import REPORTS
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.evaluation.audits.diagnosis import FIRST
from deeplrhe_utils.evaluation.audits.probing import probe
from deeplrhe_utils.learning.probes.readers import PENALTY, means_by_patient, partitions

FOLDS, REPEATS, SEED = 5, 3, 1
FEATURES = "features/hipt_vit256/hipt_vit256_regions_tcga_lung.npz"
CALLS = "tables/cbioportal_luad_lusc_mutations_by_gene.tsv"


def by_scikit_learn(x: pd.DataFrame, status: pd.Series, cuts: np.ndarray) -> float:
    """Mean over divisions of the AUC over pairs within a fold."""
    known = status.reindex(x.index).notna().to_numpy()
    values, label = x[known].to_numpy(np.float64), status.reindex(x.index)[known].to_numpy(np.float64)
    aucs = []
    for cut in cuts[:, known]:
        won = pairs = 0.0
        for fold in np.unique(cut):
            train, test = cut != fold, cut == fold
            scaler = StandardScaler().fit(values[train])
            own, other = (np.clip(scaler.transform(values[part]), -4, 4) for part in (train, test))
            power = np.linalg.svd(own - own.mean(0), compute_uv=False) ** 2
            reader = Ridge(alpha=PENALTY * power.mean()).fit(own, label[train])
            if len(set(label[test])) == 2:
                count = label[test].sum() * (1 - label[test]).sum()
                won += roc_auc_score(label[test], reader.predict(other)) * count
                pairs += count
        aucs.append(won / pairs)
    return float(np.mean(aucs))


def main() -> None:
    """Check, print and write ``results/real_lungs.csv``; fails where an agreement is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the data")
    parser.add_argument("--run", type=Path, default=REPORTS / "tcga-features", help="the run to be checked")
    parser.add_argument("--exchanges", type=int, default=20)
    options = parser.parse_args()
    if not (options.data / FEATURES).is_file():
        raise SystemExit(f"Not checked: {options.data / FEATURES} is not there.")
    given = read_features(options.data / FEATURES)
    arms = pd.read_csv(options.run / "tables" / "real_arms.csv")
    genes = [str(g) for g in arms["gene"].drop_duplicates() if g != FIRST]
    labels = read_mutations(options.data / CALLS, genes).labels
    means = means_by_patient(given.vectors, given.tiles["patient_id"])
    means = means[means.index.isin(labels.dropna(subset=["status"])["patient_id"])]
    bit = np.array([tumour_of_site(parse_name(str(p)).site_code) == FIRST for p in means.index])
    wide = labels.pivot(index="patient_id", columns="gene", values="status").astype(float)
    found = arms.set_index(["patients", "arm", "gene"])["auc"]
    rows = []
    for patients, own in (("both diagnoses", means), (FIRST, means[bit])):
        cuts = partitions(len(own), FOLDS, REPEATS, SEED)
        for gene in genes:
            other = by_scikit_learn(own, wide[gene], cuts)
            rows.append({"patients": patients, "check": "ridge", "gene": gene, "ours": found[patients, "image", gene],
                         "scikit_learn": other, "allowed": 0.01})  # fmt: skip
    alone = pd.read_csv(options.run / "tables" / "without_a_slide.csv").set_index("gene")["auc"]
    everybody = wide.index.to_numpy(str)
    word = np.array([tumour_of_site(parse_name(p).site_code) == FIRST for p in everybody])
    for gene in genes:
        known = wide[gene].notna().to_numpy()
        auc = roc_auc_score(wide[gene][known], word[known])
        rows.append({"patients": "all in the table", "check": "diagnosis alone", "gene": gene, "ours": alone[gene],
                     "scikit_learn": max(auc, 1 - auc), "allowed": 1e-9})  # fmt: skip
    table = pd.DataFrame(rows)
    table["difference"] = (table["ours"] - table["scikit_learn"]).abs()
    print(table.groupby(["check", "patients"])["difference"].max())
    random, ps = np.random.default_rng(SEED), []
    for number in range(options.exchanges):
        order = random.permutation(len(means))
        swapped = means.set_axis(means.index[order]).sort_index()
        cut = partitions(len(swapped), FOLDS, 1, number)
        ps += probe(swapped, labels, cut, draws=199, seed=number)["p"].dropna().tolist()
    uniform = stats.kstest(ps, "uniform")
    below = np.mean(np.array(ps) < 0.05)
    print(f"{len(ps)} p-values under exchanged labels: KS p = {uniform.pvalue:.2f}, below .05: {below:.3f}")
    last = {"patients": "both diagnoses", "check": f"uniform p, {options.exchanges} exchanges", "allowed": 0.05}
    rows = [last | {"gene": f"{len(ps)} values", "ours": uniform.pvalue}]
    write_sheet(pd.concat([table, pd.DataFrame(rows)], ignore_index=True), RESULTS / "real_lungs.csv")
    wrong = table[table["difference"] > table["allowed"]]
    if len(wrong) or uniform.pvalue < 0.05:
        raise SystemExit(f"{len(wrong)} values differ by more than is allowed; KS p = {uniform.pvalue:.3f}")


if __name__ == "__main__":
    main()
