"""A frozen model on patients from elsewhere: what is left of it, whether its probabilities still hold, and how many
patients one needs to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from deeplrhe_utils.core.errors import CohortError, ParameterError
from deeplrhe_utils.core.text import interval_text, listed
from deeplrhe_utils.evaluation.auc.delong import Z, delong, headline_interval
from deeplrhe_utils.evaluation.auc.units import with_labels
from deeplrhe_utils.evaluation.audits.diagnosis import FIRST
from deeplrhe_utils.evaluation.precision.calibration import (
    RECALIBRATIONS,
    brier,
    check_scores,
    intercept_and_slope,
    logits,
)
from deeplrhe_utils.evaluation.precision.power import null_band, wilson
from deeplrhe_utils.learning.probes.readers import partitions, ridge_elsewhere, ridge_held_out

_Floats = NDArray[np.float64]

ALL_PATIENTS: Final = "all patients"
WIDTHS: Final = {"oe": 0.2, "slope": 0.2, "auc": 0.1, "net_benefit": 0.2}
"""Widths of 95 % intervals that an external validation should reach, as Riley 2021 proposes."""
TRANSFER_COLUMNS: Final = (
    "gene", "status", "n_pos", "n_neg", "auc", "ci_low", "ci_high", "null_low", "null_high", "p", "own_auc", "own_low",
    "own_high", "drop", "drop_low", "drop_high", "slope", "slope_low", "slope_high", "intercept", "intercept_low",
    "intercept_high", "oe", "oe_low", "oe_high", "brier", *(f"needed_{name}" for name in WIDTHS),
)  # fmt: skip


def frozen_probabilities(own_label: NDArray[np.int64], own_score: _Floats, score: _Floats) -> _Floats:
    """Scores (m,) from elsewhere as probabilities, by the map (Platt) that a model's own held-out scores (n,) ask for.

    Scores are log odds, or any other real numbers; nothing of the patients elsewhere enters the map.
    """
    return np.asarray(RECALIBRATIONS["Platt"](own_label, special.expit(own_score), special.expit(score)))


def networks_elsewhere(scores: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Probabilities of frozen networks for patients elsewhere.

    Parameters
    ----------
    scores : gene, patient_id, score: patients elsewhere, a row per network that scored them
    own : gene, label, score: held-out scores of the networks' own patients; genes of one class are left out

    Returns DataFrame: gene, patient_id, score: the mean over networks, by the map of :func:`frozen_probabilities`.
    """
    parts = [pd.DataFrame({"gene": [], "patient_id": [], "score": []})]
    for gene, new in scores.groupby(["gene", "patient_id"], as_index=False)["score"].mean().groupby("gene"):
        mine = own[own["gene"] == gene]
        if mine["label"].nunique() == 2:
            label, held = mine["label"].to_numpy(np.int64), logits(mine["score"].to_numpy(np.float64))
            said = frozen_probabilities(label, held, logits(new["score"].to_numpy(np.float64)))
            parts.append(new.assign(score=said))
    return pd.concat(parts, ignore_index=True)


def probe_elsewhere(
    features: pd.DataFrame, labels: pd.DataFrame, elsewhere: pd.DataFrame, folds: NDArray[np.intp], least: int = 5
) -> pd.DataFrame:
    """The ridge probe, frozen: fitted to all patients here, and what it says of those elsewhere.

    Parameters
    ----------
    features, elsewhere : the same columns, finite numbers, a row per patient (named by the index)
    labels : table LABELS of the patients here; genes with fewer than `least` patients of a class are left out
    folds : (repeats, rows of `features`): divisions in which patients here are held out, for the map to probabilities

    Returns DataFrame: gene, patient_id, here (bool), score: the mean held-out score of patients here, and the
    probability of those elsewhere. Raises CohortError: the columns differ.
    """
    if list(features) != list(elsewhere):
        raise CohortError("The features of the two cohorts differ", got=f"{len(elsewhere.columns)} columns elsewhere",
                          expected=f"the {len(features.columns)} of the model")  # fmt: skip
    status = labels.pivot(index="patient_id", columns="gene", values="status").reindex(features.index)
    parts = []
    for gene in labels["gene"].drop_duplicates():
        known = status[gene].notna().to_numpy(bool)
        label = status[gene][known].to_numpy(np.int64)
        if min(label.sum(), (1 - label).sum()) < least:
            continue
        x, y = features.to_numpy(np.float64)[known], label[:, None].astype(np.float64)
        held = np.mean([ridge_held_out(x, y, fold[known])[:, 0] for fold in folds], axis=0)
        new = ridge_elsewhere(x, y, elsewhere.to_numpy(np.float64))[:, 0]
        said = frozen_probabilities(label, held, new)
        for here, people, score in ((True, features.index[known], held), (False, elsewhere.index, said)):
            parts.append(pd.DataFrame({"gene": gene, "patient_id": people, "here": here, "score": score}))
    none = pd.DataFrame({"gene": [], "patient_id": [], "here": [], "score": []})
    return (pd.concat(parts, ignore_index=True) if parts else none).astype({"here": bool})


def own_headline(scored: pd.DataFrame, least: int = 5) -> pd.DataFrame:
    """A model's AUC among its own patients: gene, auc, ci_low, ci_high (as cross-fitted scores have it).

    Parameters
    ----------
    scored : gene, label, score: held-out scores on one scale, a patient once per gene; a gene with fewer than `least`
        of a class is left out
    """
    rows = []
    for gene, own in scored.groupby("gene", sort=False):
        label, score = own["label"].to_numpy(np.int64), own["score"].to_numpy(np.float64)
        if min(label.sum(), (1 - label).sum()) >= max(2, least):
            _, low, high, _ = headline_interval(label, score, cross_fitted=True)
            rows.append({"gene": gene, "auc": delong(label, score)[0], "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows, columns=["gene", "auc", "ci_low", "ci_high"])


def observed_over_expected(label: NDArray[np.int64], score: _Floats) -> tuple[float, float, float]:
    """Mutated patients for each that the probabilities expect, with its 95 % interval; 1 is right.

    Parameters
    ----------
    label, score : (n,)

    The interval is that of a ratio of means over the same patients, on the log scale (delta method): the patients'
    probabilities are a sample as well as their labels. Raises CohortError as `check_scores`.
    """
    check_scores(label, score, "O/E")
    observed, expected = float(label.mean()), float(score.mean())
    spread = float(np.std(label / observed - score / expected, ddof=1)) / np.sqrt(len(label))
    ratio = observed / expected
    return ratio, float(ratio * np.exp(-Z * spread)), float(ratio * np.exp(Z * spread))


def judge_transfer(scored: pd.DataFrame, own: pd.DataFrame, *, least: int = 5) -> pd.DataFrame:
    """How a frozen model does elsewhere, gene by gene.

    Parameters
    ----------
    scored : gene, patient_id, label, score: patients elsewhere, once per gene, and probabilities
    own : gene, auc, ci_low, ci_high: the same model's headline among its own patients
    least : patients of each class

    Returns DataFrame: :data:`TRANSFER_COLUMNS`, a row per gene of `own`, in its order. auc to p: scores here are
    independent of the labels they are judged by, so the interval and null band are those of independent scores. drop:
    own AUC − AUC, whose interval joins those of two independent cohorts (MOVER, Zou & Donner 2008). slope, intercept:
    `intercept_and_slope`; oe: :func:`observed_over_expected`. needed: :func:`required_patients` for this gene's own
    log odds and share of mutated patients, which is also the threshold of its net benefit. status says why a gene has
    no numbers.
    """
    rows = []
    for base in own.to_dict("records"):
        part = scored[scored["gene"] == base["gene"]].dropna(subset=["label", "score"])
        if len(twice := part.loc[part["patient_id"].duplicated(), "patient_id"]):
            raise CohortError("External validation takes one score per patient", got=f"{twice.iloc[0]} twice")
        label, score = part["label"].to_numpy(np.int64), part["score"].to_numpy(np.float64)
        n_pos, n_neg = int(label.sum()), int((1 - label).sum())
        row = {"gene": base["gene"], "n_pos": n_pos, "n_neg": n_neg, "own_auc": base["auc"], "own_low": base["ci_low"],
               "own_high": base["ci_high"], "status": "estimated"}  # fmt: skip
        if min(n_pos, n_neg) < max(2, least):
            rows.append(row | {"status": f"fewer than {max(2, least)} patients of a class elsewhere"})
            continue
        rows.append(row | _judged_elsewhere(label, score, base))
    return pd.DataFrame(rows, columns=list(TRANSFER_COLUMNS))


def judge_groups(
    said: pd.DataFrame, own: pd.DataFrame, labels: pd.DataFrame, diagnosis: tuple[pd.Series, pd.Series], least: int = 5
) -> pd.DataFrame:
    """:func:`judge_transfer` for all patients, and within adenocarcinoma, which a reader of the diagnosis cannot rank.

    Parameters
    ----------
    said : gene, patient_id, score: probabilities elsewhere
    own : gene, patient_id, label, score: held-out scores of the model's own patients, on one scale
    labels : table LABELS of the patients elsewhere
    diagnosis : histology by patient_id, of the model's own patients and of those elsewhere

    Returns DataFrame: patients, and :data:`TRANSFER_COLUMNS`.
    """
    scored, parts = with_labels(said, labels), []
    for group in (ALL_PATIENTS, FIRST):
        mine, theirs = (
            rows if group == ALL_PATIENTS else rows[rows["patient_id"].map(known).eq(group).fillna(False)]
            for rows, known in zip((own, scored), diagnosis, strict=True)
        )
        rows = judge_transfer(theirs, own_headline(mine, least), least=least)
        parts.append(rows.assign(patients=group)[["patients", *TRANSFER_COLUMNS]])
    return pd.concat(parts, ignore_index=True)


def between_hospitals(
    features: pd.DataFrame, labels: pd.DataFrame, clinical: pd.DataFrame, *, least: int, seed: int
) -> pd.DataFrame:
    """Internal–external validation: the probe learns in one half of the hospitals and is judged in the other.

    Parameters
    ----------
    features : a row per patient, named by the index
    labels, clinical : tables LABELS and CLINICAL; patients without a label or a hospital are left out
    least : patients of each class; seed : which whole hospitals come together, without a look at labels

    Returns DataFrame: model and where ("half 1", "half 2"), reader, patients, and :data:`TRANSFER_COLUMNS`; empty where
    fewer than two hospitals are known. Source: Steyerberg & Harrell 2016 (J. Clin. Epidemiol. 69, 245).
    """
    known = clinical.set_index("patient_id")[["site_id", "histology"]]
    site = known["site_id"].dropna()
    people = features.index[features.index.isin(site.index) & features.index.isin(labels["patient_id"])]
    code = site.reindex(people).factorize()[0]
    if len(set(code)) < 2:
        return pd.DataFrame(columns=["model", "where", "reader", "patients", *TRANSFER_COLUMNS])
    half, parts = partitions(len(people), 2, 1, seed, code)[0], []
    for own in (0, 1):
        mine, there = (features.loc[people[half == side]] for side in (own, 1 - own))
        learned, told = (labels[labels["patient_id"].isin(rows.index)] for rows in (mine, there))
        said = probe_elsewhere(mine, learned, there, partitions(len(mine), 5, 10, seed), least)
        rows = judge_groups(said[~said["here"]], with_labels(said[said["here"]], learned), told,
                            (known["histology"], known["histology"]), least)  # fmt: skip
        parts.append(rows.assign(model=f"half {own + 1}", where=f"half {2 - own}", reader="probe"))
    return pd.concat(parts, ignore_index=True)


def _judged_elsewhere(label: NDArray[np.int64], score: _Floats, base: Mapping[str, Any]) -> dict[str, float]:
    auc = delong(label, score)[0]
    _, low, high, p = headline_interval(label, score, cross_fitted=False)
    band = null_band(int(label.sum()), int((1 - label).sum()))
    drop = base["auc"] - auc
    oe, oe_low, oe_high = observed_over_expected(label, score)
    share = float(label.mean())
    needed = required_patients(logits(score), share, auc, threshold=share)
    return {
        "auc": auc, "ci_low": low, "ci_high": high, "null_low": band[0], "null_high": band[1], "p": p, "drop": drop,
        "drop_low": drop - float(np.hypot(base["auc"] - base["ci_low"], high - auc)),
        "drop_high": drop + float(np.hypot(base["ci_high"] - base["auc"], auc - low)),
        **intercept_and_slope(label, score), "oe": oe, "oe_low": oe_low, "oe_high": oe_high,
        "brier": brier(label, score)["brier"], **{f"needed_{name}": n for name, n in needed.items()},
    }  # fmt: skip


def required_patients(
    log_odds: _Floats, prevalence: float, auc: float, *, threshold: float, widths: Mapping[str, float] = WIDTHS
) -> dict[str, float]:
    """Least number of patients for an external validation of given precision.

    Parameters
    ----------
    log_odds : (n,): the model's linear predictor as it is distributed in the new population, taken for calibrated
    prevalence : share of mutated patients there, in (0, 1)
    auc : expected there; of exactly 0 or 1 no number can be told
    threshold : risk at which net benefit is asked for, in (0, 1)
    widths : as :data:`WIDTHS`, of 95 % intervals

    Returns dict by the names of `widths`: patients for O/E, calibration slope, AUC (Newcombe's standard error) and
    standardized net benefit (share of its greatest possible value), rounded up; NaN where a criterion cannot be met
    (a predictor that does not vary, a threshold beyond all patients). Source: Riley 2021 (Stat. Med. 40, 4230); Archer
    2021 (Stat. Med. 40, 133). Raises ParameterError: a share, AUC, threshold or width out of range.
    """
    if not 0 <= auc <= 1:
        raise ParameterError("auc is out of range", got=auc, expected="0 to 1")
    for name, value in (("prevalence", prevalence), ("threshold", threshold)):
        if not 0 < value < 1:
            raise ParameterError(f"{name} is out of range", got=value, expected="more than 0, less than 1")
    if bad := [name for name, width in widths.items() if not width > 0]:
        raise ParameterError("A width of an interval is no positive number", got=bad[0])
    error = {name: width / (2 * Z) for name, width in widths.items()}
    error["oe"] = np.arcsinh(widths["oe"] / 2) / Z  # on the log scale, symmetric around O/E = 1
    risk = special.expit(log_odds)
    weight = risk * (1 - risk)
    one, mixed, two = (float((weight * log_odds**power).mean()) for power in (0, 1, 2))
    apart = one * two - mixed**2
    cost = (1 - prevalence) / prevalence * threshold / (1 - threshold)
    above = risk >= threshold
    sensitivity = float((risk * above).sum() / risk.sum())
    specificity = float(((1 - risk) * ~above).sum() / (1 - risk).sum())
    spared = specificity * (1 - specificity) / (1 - prevalence)
    wronged = (1 - specificity) ** 2 / (prevalence * (1 - prevalence))
    benefit = sensitivity * (1 - sensitivity) / prevalence + cost**2 * (spared + wronged)
    exact = {"oe": (1 - prevalence) / (prevalence * error["oe"] ** 2),
             "slope": one / (error["slope"] ** 2 * apart) if apart > 1e-12 else np.nan,
             "auc": _patients_for_auc(auc, prevalence, error["auc"]) if 0 < auc < 1 else np.nan,
             "net_benefit": benefit / error["net_benefit"] ** 2 if benefit > 0 else np.nan}  # fmt: skip
    return {name: float(np.ceil(exact[name] - 1e-9)) for name in widths}


def _patients_for_auc(auc: float, prevalence: float, error: float) -> float:
    """Patients (a real number) at which Newcombe's standard error of the AUC is `error`: root of a quadratic."""
    both, slope = prevalence * (1 - prevalence), (1 - auc) / (2 - auc) + auc / (1 + auc)
    # error² = auc (1 − auc) (1 + (n/2 − 1) slope) / (n² both)
    a, b, c = error**2 * both / (auc * (1 - auc)), -slope / 2, slope - 1
    return float((-b + np.sqrt(b * b - 4 * a * c)) / (2 * a))


def covered(table: pd.DataFrame, name: str) -> tuple[float, float, float]:
    """Share of rows whose interval of `name` ("slope", "oe", "drop") contains ``true_<name>``, with Wilson's interval.

    Rows without an estimate are left out.
    """
    known = table.dropna(subset=[name, f"true_{name}"])
    inside = known[f"true_{name}"].between(known[f"{name}_low"], known[f"{name}_high"])
    return float(inside.mean()), *wilson(int(inside.sum()), len(inside))


def transfer_sentence(table: pd.DataFrame) -> str:
    """What :func:`judge_transfer` found, misses as loud as hits.

    A model that finds a gene nowhere among its own patients cannot lose it elsewhere: its interval there is the
    positive control, and has to lie above one half.
    """
    tried = table[table["status"] == "estimated"]
    if tried.empty:
        return "No gene has enough patients of both classes elsewhere."
    done, mute = (tried[(tried["own_low"] > 0.5) == found] for found in (True, False))
    parts = []
    if len(done):
        aucs = [
            f"{r.gene} {interval_text(r.auc, r.ci_low, r.ci_high)} (own {r.own_auc:.2f})" for r in done.itertuples()
        ]
        fallen = listed(done.loc[done["drop_low"] > 0, "gene"])
        parts.append(f"AUC elsewhere: {listed(aucs)}; lower than among its own patients: {fallen}")
        for name, what in (("slope", "Calibration slope"), ("oe", "O/E")):
            off = done[(done[f"{name}_low"] > 1) | (done[f"{name}_high"] < 1)]
            parts.append(f"{what} away from 1: {listed(f'{r.gene} {getattr(r, name):.2f}' for r in off.itertuples())}")
    if len(mute):
        parts.append(f"Not informative, as the model did not find them among its own patients: {listed(mute['gene'])}")
    return ". ".join(parts) + "."
