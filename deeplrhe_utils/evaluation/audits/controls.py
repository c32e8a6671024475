"""Negative controls and confounders: what is found by models that cannot know, and what else could explain an AUC."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.text import listed, p_text, with_ends
from deeplrhe_utils.evaluation.auc.delong import headline_interval, holm, weighted_auc
from deeplrhe_utils.evaluation.auc.resampling import row_weights
from deeplrhe_utils.evaluation.audits.probing import LEVEL

_Floats = NDArray[np.float64]


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
    scored : patient_id, gene, fold, label, score: one row per patient and gene
    labels : table LABELS
    least : patients of each class below which no AUC is given

    Returns DataFrame: gene, given, given_status, auc, ci_low, ci_high (`headline_interval`), n_pos, n_neg; only pairs
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
            score = part["score"].to_numpy(np.float64)
            _, low, high, _ = headline_interval(label, score, cross_fitted=own["fold"].nunique() > 1)
            auc = float(weighted_auc(label, score, np.ones((1, len(label))))[0])
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


BLIND: Final = ("pixels in random order", "stain alone", "glass only", "site alone")
"""Arms of notebook 11 that see no structure of tissue."""


def blind_sentence(table: pd.DataFrame, passed: bool) -> str:
    """What the arms that are blind to structure find, beside the tissue.

    `table` has the arms of notebook 11: arm, gene, auc, ci_low, ci_high, p; `passed` says whether the reader finds
    anything in whole tissue.
    """
    known = table.dropna(subset=["p"])
    known = known.assign(holm=known.groupby("arm")["p"].transform(lambda p: holm(p.to_numpy(float))))
    known = known.sort_values("p", kind="stable")
    if not passed:
        return "The reader finds nothing in whole tissue, so what arms that cannot see it fail to find says nothing."
    best = {arm: known[known["arm"] == arm].iloc[0] for arm in ("tissue", *BLIND) if arm in set(known["arm"])}
    shown = {arm: f"{row['gene']} {with_ends(row)} (p {p_text(row['holm'])})" for arm, row in best.items()}
    loud = [arm for arm in shown if arm in BLIND and best[arm]["holm"] < LEVEL]
    quiet = [f"{arm} ({p_text(best[arm]['holm'])})" for arm in shown if arm in BLIND and arm not in loud]
    found = listed((f"{arm} finds {shown[arm]}" for arm in loud), "none finds anything")
    first = best["tissue"]
    return (f"A reader of whole tissue finds {first['gene']} with AUC {with_ends(first)} (p {p_text(first['holm'])}, "
            f"n = {first['n_pos'] + first['n_neg']:.0f}); of readers that cannot see it, {found}; "
            f"silent: {listed(quiet)}.")  # fmt: skip


def blind_alarm(table: pd.DataFrame, least: Mapping[str, float], passed: bool) -> tuple[bool | None, str]:
    """Whether glass or site alone finds a gene, or stain alone reads one as well as tissue that finds it; a sentence.

    `table` and `passed` as for :func:`blind_sentence`; `least`: arm → smallest adjusted p.
    """
    arms = {arm: least[arm] for arm in BLIND[2:] if arm in least}
    wide = table.pivot(index="gene", columns="arm", values="auc").reindex(columns=["stain alone", "tissue"])
    seen = table.loc[(table["arm"] == "tissue") & (table["p"] < LEVEL), "gene"]
    shades = wide[wide.index.isin(seen)].astype(float).dropna()
    happened = any(p < LEVEL for p in arms.values()) or bool((shades["stain alone"] >= shades["tissue"]).any())
    text = listed(f"{gene} {stain:.2f} of {tissue:.2f}" for gene, stain, tissue in shades.itertuples())
    alone = listed(f"{arm} {p_text(p)}" for arm, p in arms.items())
    return happened if passed else None, f"Smallest adjusted p: {alone}; AUC of stain alone, of tissue's: {text}."
