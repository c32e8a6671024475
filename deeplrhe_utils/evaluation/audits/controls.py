"""Negative controls and confounders: what is found by models that cannot know, and what else could explain an AUC."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import delong, holm, weighted_auc
from deeplrhe_utils.evaluation.auc.resampling import row_weights
from deeplrhe_utils.evaluation.precision.power import wilson

_Floats = NDArray[np.float64]

SITE_WEIGHT: Final = 1.0
"""Patients by which a site's share of mutations is drawn towards the share of all training patients."""


def exchange_within(labels: pd.DataFrame, strata: pd.Series, seed: int) -> pd.DataFrame:
    """The same labels at other patients of the same stratum: what a stratum alone tells is left standing.

    Parameters
    ----------
    labels : table LABELS
    strata : stratum (tissue source site) by patient_id; a null is a stratum of its own

    Returns DataFrame: table LABELS; whole patients are exchanged, so prevalence, co-mutation and mutation × site stay
    as they are. A patient who is alone in their stratum keeps their labels.

    Raises LabelError: a labelled patient has no entry in `strata`.
    """
    patients = np.sort(labels["patient_id"].unique())
    if len(lost := sorted(set(patients) - set(strata.index))):
        raise LabelError("Labelled patients belong to no site", got=", ".join(map(str, lost[:5])),
                         fix="Give each patient's site, null where it is not known")  # fmt: skip
    of = strata.reindex(patients).astype("string").fillna("")
    other: dict[str, str] = {}
    for name, members in of.groupby(of):
        own = members.index.to_numpy()
        drawn = generator(seed, "exchange labels within", str(name)).permutation(own)
        other |= dict(zip(own, drawn, strict=True))
    return labels.assign(patient_id=labels["patient_id"].map(other)).reset_index(drop=True)


def site_scores(labels: pd.DataFrame, sites: pd.Series, splits: pd.DataFrame) -> pd.DataFrame:
    """A model that knows nothing but the site: the share of mutated training patients there.

    Parameters
    ----------
    labels, splits : tables LABELS and SPLITS (units are patients)
    sites : site by patient_id

    Returns DataFrame: patient_id, gene, fold, score in [0, 1]; of a site without training patients, the share among
    all. Ours: (mutated + share of all) / (patients + 1), so that a site of one patient says little.
    """
    known = labels.dropna(subset=["status"]).assign(
        site=lambda f: f["patient_id"].map(sites).astype("string").fillna("")
    )
    rows = []
    for fold, part in splits.groupby("fold"):
        train = known[known["patient_id"].isin(part.loc[part["role"] == "train", "unit_id"])]
        test = known[known["patient_id"].isin(part.loc[part["role"] == "test", "unit_id"])]
        share = train.groupby("gene")["status"].mean().astype(float)
        count = train.groupby(["gene", "site"])["status"].agg(["sum", "size"]).astype(float)
        here = count.reindex(pd.MultiIndex.from_frame(test[["gene", "site"]])).fillna(0.0)
        prior = test["gene"].map(share).to_numpy(float)
        score = (here["sum"].to_numpy() + SITE_WEIGHT * prior) / (here["size"].to_numpy() + SITE_WEIGHT)
        rows.append(test[["patient_id", "gene"]].assign(fold=fold, score=score))
    return pd.concat(rows, ignore_index=True)


def linear_scores(features: _Floats, tiles: pd.DataFrame, labels: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    """A logistic regression on a few numbers per tile, such as its mean colour, on the same folds as the network.

    Parameters
    ----------
    features : (n_tiles, k): in the order of `tiles`
    tiles : patient_id and tile_id of each
    labels, splits : tables LABELS and SPLITS (units are patients)

    Returns DataFrame: tile_id, slide_id, patient_id, gene, fold, score: null where a fold's training patients are of
    one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    keys = tiles[["tile_id", "slide_id", "patient_id"]].reset_index(drop=True)
    status = labels.pivot(index="patient_id", columns="gene", values="status").reindex(keys["patient_id"])
    rows = []
    for fold, part in splits.groupby("fold"):
        member = {role: keys["patient_id"].isin(own["unit_id"]).to_numpy() for role, own in part.groupby("role")}
        for gene in status.columns:
            label = status[gene].to_numpy(dtype=np.float64, na_value=np.nan)
            train = member["train"] & ~np.isnan(label)
            score = np.full(int(member["test"].sum()), np.nan)
            if len(np.unique(label[train])) == 2:
                model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                score = model.fit(features[train], label[train]).predict_proba(features[member["test"]])[:, 1]
            rows.append(keys[member["test"]].assign(gene=gene, fold=fold, score=score))
    return pd.concat(rows, ignore_index=True)


def site_from_features(
    features: _Floats, patients: Sequence[str], sites: pd.Series, *, least: int = 4, seed: int = 0
) -> dict[str, Any]:
    """Can tiles tell the site? Nearest mean of sites, among patients that it has not seen.

    Parameters
    ----------
    features : (n, k): of tiles; a patient is the mean of theirs
    patients : (n,): patient of each tile
    sites : site by patient_id
    seed : patients of each site are dealt to two folds at random
    least : sites with fewer patients are left out, and counted; at least 2

    Returns dict: accuracy, ci_low, ci_high (Wilson, patients), chance (share of the largest site), sites, patients,
    patients_left_out, p (binomial, one-sided, against chance). NaN where fewer than two sites are large enough. Source:
    linear discriminant with shrinkage (Ledoit & Wolf), scikit-learn.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold

    mean = pd.DataFrame(features).groupby(np.asarray(patients)).mean()
    site = sites.reindex(mean.index).astype("string")
    large = site.map(site.value_counts()).ge(max(least, 2)).fillna(False).to_numpy(dtype=bool)
    found: dict[str, Any] = {"sites": int(site[large].nunique()), "patients": int(large.sum()),
                             "patients_left_out": int((~large).sum())}  # fmt: skip
    if found["sites"] < 2:
        return found | dict.fromkeys(("accuracy", "ci_low", "ci_high", "chance", "p"), float("nan"))
    x, y = mean[large].to_numpy(), site[large].to_numpy(dtype=str)
    random = int(generator(seed, "site folds").integers(2**31))
    right = np.zeros(len(y), bool)
    for train, test in StratifiedKFold(2, shuffle=True, random_state=random).split(x, y):
        centre, scale = x[train].mean(0), x[train].std(0) + 1e-12
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit((x[train] - centre) / scale, y[train])
        right[test] = model.predict((x[test] - centre) / scale) == y[test]
    chance = float(pd.Series(y).value_counts(normalize=True).max())
    test_of = stats.binomtest(int(right.sum()), len(y), chance, alternative="greater")
    low, high = wilson(int(right.sum()), len(y))
    return found | {"accuracy": float(right.mean()), "ci_low": low, "ci_high": high,
                    "chance": chance, "p": float(test_of.pvalue)}  # fmt: skip


def mutation_by_site(labels: pd.DataFrame, sites: pd.Series, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Whether mutations are spread evenly over sites.

    Parameters
    ----------
    labels : table LABELS; null labels and patients without a site are left out, and counted
    sites : site by patient_id
    draws, seed : of the permutation test

    Returns DataFrame: gene, n_pos, n_neg, left_out, sites, cramers_v in [0, 1], p (χ² of the table, labels exchanged
    among patients) and p_holm. A gene of one class has null results.
    """
    rows = []
    for gene, own in labels.groupby("gene", sort=False):
        frame = own.assign(site=own["patient_id"].map(sites)).dropna(subset=["status", "site"])
        status, site = frame["status"].to_numpy(np.int64), frame["site"].astype(str).factorize(sort=True)[0]
        row: dict[str, Any] = {"gene": gene, "n_pos": int(status.sum()), "n_neg": int((1 - status).sum()),
                               "left_out": len(own) - len(frame), "sites": len(np.unique(site)),
                               "cramers_v": np.nan, "p": np.nan}  # fmt: skip
        if min(row["n_pos"], row["n_neg"]) and row["sites"] > 1:
            random = generator(seed, "mutation by site", str(gene))
            drawn = random.permuted(np.tile(status, (1 + draws, 1)), axis=1)
            drawn[0] = status
            chi2 = _chi2(drawn, site)
            row |= {"cramers_v": float(np.sqrt(chi2[0] / len(status))),
                    "p": float((1 + (chi2[1:] >= chi2[0] - 1e-9).sum()) / (1 + draws))}  # fmt: skip
        rows.append(row)
    table = pd.DataFrame(rows)
    known = table["p"].notna()
    table.loc[known, "p_holm"] = holm(table.loc[known, "p"].to_numpy(np.float64))
    return table


def _chi2(status: NDArray[np.int64], site: NDArray[np.int64]) -> _Floats:
    """χ² (b,) of 2 × sites tables of statuses (b, n)."""
    size = np.bincount(site).astype(float)
    positive = status @ np.eye(len(size))[site]
    share = status.mean(1, keepdims=True)
    return np.asarray((((positive - share * size) ** 2) / (size * share * (1 - share))).sum(1))


def within_auc(frame: pd.DataFrame, strata: str, *, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """AUC of pairs within a stratum only: what is left when the stratum can tell nothing.

    Parameters
    ----------
    frame : patient_id, label, score and the column `strata`, one row per patient; a null stratum pairs with nobody

    Returns dict: auc, ci_low, ci_high (percentile, 95 %, patients redrawn within each class), pairs (how many were
    compared), share (of all pairs) and unknown (patients without a stratum). NaN where no stratum has both classes.
    """
    label, score = frame["label"].to_numpy(np.int64), frame["score"].to_numpy(np.float64)
    weight = np.vstack([np.ones(len(frame)), row_weights(frame, resamples, seed)])
    won, pairs = np.zeros(len(weight)), np.zeros(len(weight))
    stratum = frame[strata].astype("string").factorize(sort=True)[0]
    for code in np.unique(stratum[stratum >= 0]):
        own = stratum == code
        if len(np.unique(label[own])) < 2:
            continue
        both = weight[:, own] @ (label[own] == 1), weight[:, own] @ (label[own] == 0)
        won += np.nan_to_num(weighted_auc(label[own], score[own], weight[:, own])) * both[0] * both[1]
        pairs += both[0] * both[1]
    unknown = float((stratum < 0).sum())
    if not pairs[0]:
        return {"auc": np.nan, "ci_low": np.nan, "ci_high": np.nan, "pairs": 0.0, "share": 0.0, "unknown": unknown}
    auc = won[pairs > 0] / pairs[pairs > 0]
    low, high = np.quantile(auc[1:], [0.025, 0.975])
    whole = float(label.sum() * (1 - label).sum())
    return {"auc": float(auc[0]), "ci_low": float(low), "ci_high": float(high), "pairs": float(pairs[0]),
            "share": float(pairs[0]) / whole, "unknown": unknown}  # fmt: skip


def stratified_by_gene(scored: pd.DataFrame, labels: pd.DataFrame, *, least: int = 5) -> pd.DataFrame:
    """AUC of each gene among patients with, and without, a mutation of each other gene.

    Parameters
    ----------
    scored : patient_id, gene, label, score: one row per patient and gene
    labels : table LABELS
    least : patients of each class below which no AUC is given

    Returns DataFrame: gene, given, given_status, auc, ci_low, ci_high (DeLong, logit scale), n_pos, n_neg; only pairs
    of genes of which either stratum can be estimated. Source: stratification as Dawood 2026 asks for.
    """
    status = labels.pivot(index="patient_id", columns="gene", values="status")
    rows = []
    for gene, other in permutations(scored["gene"].unique(), 2):
        own = scored[scored["gene"] == gene]
        given = own["patient_id"].map(status[other])
        for value in (0, 1):
            part = own[(given == value).fillna(False).to_numpy(dtype=bool)]
            label = part["label"].to_numpy(np.int64)
            if min(label.sum(), (1 - label).sum()) < max(2, least):
                continue
            auc, low, high = delong(label, part["score"].to_numpy(np.float64))
            rows.append({"gene": gene, "given": other, "given_status": value, "auc": auc, "ci_low": low,
                         "ci_high": high, "n_pos": int(label.sum()), "n_neg": int((1 - label).sum())})  # fmt: skip
    columns = ["gene", "given", "given_status", "auc", "ci_low", "ci_high", "n_pos", "n_neg"]
    return pd.DataFrame(rows, columns=columns)


CO_MUTATION_COLUMNS: Final = (
    "first",
    "second",
    "both",
    "first_only",
    "second_only",
    "neither",
    "odds_ratio",
    "p",
    "p_holm",
)


def co_mutation(labels: pd.DataFrame) -> pd.DataFrame:
    """Which genes mutate together, and which exclude each other.

    Parameters
    ----------
    labels : patient_id, gene, status; patients profiled for both genes count

    Returns DataFrame: first, second, both, first_only, second_only, neither, odds_ratio (conditional maximum
    likelihood, Fisher), p and p_holm over all pairs; no row with fewer than two genes.
    """
    status = labels.pivot(index="patient_id", columns="gene", values="status")
    genes = list(labels["gene"].drop_duplicates())
    rows = []
    for i, first in enumerate(genes):
        for second in genes[i + 1 :]:
            pair = status[[first, second]].dropna().to_numpy(np.int64)
            both, one, two = ((pair == want).all(1).sum() for want in ([1, 1], [1, 0], [0, 1]))
            table = [[int(both), int(one)], [int(two), len(pair) - int(both + one + two)]]
            odds = stats.contingency.odds_ratio(table).statistic if len(pair) else np.nan
            p = stats.fisher_exact(table).pvalue if len(pair) else np.nan
            rows.append({"first": first, "second": second, "both": table[0][0], "first_only": table[0][1],
                         "second_only": table[1][0], "neither": table[1][1], "odds_ratio": float(odds),
                         "p": float(p)})  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(CO_MUTATION_COLUMNS[:-1]))
    frame["p_holm"] = holm(frame["p"].fillna(1.0).to_numpy(np.float64))
    return frame
