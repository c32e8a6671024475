"""What a closed-form reader finds in label-free features, beside what it finds in exchanged labels.

The reader is refitted to each exchange, so that the null distribution holds all that cross-fitting does to an AUC; the
divisions look at no label, so that the test is exact (Ojala & Garriga 2010). An AUC here counts pairs of patients of
one fold only (Airola 2011): the scores of two folds are never compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.text import Countdown, p_text
from deeplrhe_utils.evaluation.auc.delong import TAIL, Z, hanley_variance, newcombe_interval, null_error
from deeplrhe_utils.learning.probes.readers import partitions, ridge_held_out

_Floats = NDArray[np.float64]
_Ints = NDArray[np.intp]
HeldOut = Callable[[_Floats, _Floats, _Ints], _Floats]
"""From features (n, k), labels (n, b) and folds (n,) to held-out scores (n, b)."""

_FAR: Final = 0.45  # from one half: beyond it a logit scale stretches an interval over everything
LEVEL: Final = 0.05
"""p from which on a positive control has failed."""
PROBE_COLUMNS: Final = ("gene", "status", "auc", "ci_low", "ci_high", "null_mean", "null_low", "null_high", "p",
                        "between", "n_pos", "n_neg")  # fmt: skip


def exchanged_labels(label: _Floats, draws: int, seed: int, strata: NDArray[Any] | None = None) -> _Floats:
    """(n, 1 + draws): the labels (n,) as they are, then at other units, of the same stratum where strata are given."""
    random = generator(seed, "exchanged labels")
    out = np.tile(label[:, None], (1, 1 + draws))
    code = np.zeros(len(label), np.intp) if strata is None else np.unique(strata, return_inverse=True)[1]
    for value in np.unique(code):
        own = np.flatnonzero(code == value)
        out[own, 1:] = random.permuted(out[own, 1:], axis=0)
    return out


def auc_within_folds(label: _Floats, score: _Floats, fold: _Ints) -> _Floats:
    """AUC (b,) over pairs of one fold, ties one half: labels and scores (n, b), fold (n,); NaN without a pair."""
    won, pairs = np.zeros(label.shape[1]), np.zeros(label.shape[1])
    for value in np.unique(fold):
        own = fold == value
        # equal but for the last bit is equal: which of two is the greater would depend on the version of NumPy
        ranks, positive = stats.rankdata(np.round(score[own], 9), axis=0), label[own] == 1
        m = positive.sum(0)
        won += (ranks * positive).sum(0) - m * (m + 1) / 2
        pairs += m * (own.sum() - m)
    with np.errstate(invalid="ignore"):
        return np.asarray(won / pairs)


def repeated_aucs(features: _Floats, label: _Floats, folds: _Ints, read: HeldOut, owner: _Ints) -> _Floats:
    """AUC (repeats, b) by patient under each division.

    Parameters
    ----------
    features : (n, k), a row per patient or tile
    label : (patients, b)
    folds : (repeats, n)
    owner : (n,): patient of each row. A patient's score in a fold is the mean over the rows of theirs tested there.
    """
    rows = []
    for fold in folds:
        score = read(features, label[owner], fold)
        key, place = np.unique(owner * (fold.max() + 1) + fold, return_inverse=True)
        mean = np.zeros((len(key), score.shape[1]))
        np.add.at(mean, place, score)
        mean /= np.bincount(place)[:, None]
        rows.append(auc_within_folds(label[key // (fold.max() + 1)], mean, key % (fold.max() + 1)))
    return np.stack(rows)


def probe(
    features: pd.DataFrame, labels: pd.DataFrame, folds: _Ints, *, draws: int = 500, seed: int = 0,
    min_positives: int = 3, strata: pd.Series | None = None, patients: pd.Series | None = None,
    read: HeldOut = ridge_held_out,
) -> pd.DataFrame:  # fmt: skip
    """AUC of every gene by patient, beside its own null.

    Parameters
    ----------
    features : finite numbers, a row per patient (named by the index), or per tile with `patients`
    labels : table LABELS
    folds : (repeats, rows): the AUC is the mean over repeats
    draws, seed : exchanges of patients' labels, the same in every arm of the same patients, which thereby are paired
    min_positives : least patients of either class
    strata : by patient_id: labels are exchanged within it only
    patients : patient of each row, where rows are tiles
    read : the reader

    Returns DataFrame: :data:`PROBE_COLUMNS`, a row per gene. p: one-sided, share of exchanges with an AUC at least as
    high, never 0. null_low, null_high: the middle 95 % of the exchanges. ci: 95 %, the null's standard deviation
    carried to the AUC by Hanley & McNeil's shape, on the logit scale; above 0.95 Newcombe's interval with that standard
    deviation. between: standard deviation over divisions.
    """
    rows = []
    for gene, label, aucs in _each(features, labels, folds, draws, seed, min_positives, strata, patients, read):
        n_pos, n_neg = int(label.sum()), int((1 - label).sum())
        row: dict[str, Any] = {"gene": gene, "n_pos": n_pos, "n_neg": n_neg}
        if aucs is None:
            rows.append(row | {"status": f"fewer than {min_positives} patients of a class"})
            continue
        mean = _over_divisions(aucs)
        auc, null = float(mean[0]), mean[1:]
        if np.isnan(auc):
            rows.append(row | {"status": "no fold of any division has patients of both classes"})
            continue
        low, high = _interval(auc, float(np.nanstd(null)), n_pos, n_neg)
        rows.append(row | {
            "status": "estimated", "auc": auc, "ci_low": low, "ci_high": high, "null_mean": float(np.nanmean(null)),
            "null_low": float(np.nanquantile(null, TAIL)), "null_high": float(np.nanquantile(null, 1 - TAIL)),
            "p": _share(~(null < auc - 1e-12)), "between": float(np.nanstd(aucs[:, 0])),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=list(PROBE_COLUMNS))


def _over_divisions(aucs: _Floats) -> _Floats:
    """Mean over divisions (repeats, b) of what is defined; NaN without any."""
    counted = (~np.isnan(aucs)).sum(0)
    return np.asarray(np.where(counted > 0, np.nansum(aucs, axis=0) / np.maximum(counted, 1), np.nan))


def _share(extreme: NDArray[np.bool_]) -> float:
    """P of a permutation test, the observed arrangement counted among the draws."""
    return float((1 + extreme.sum()) / (1 + len(extreme)))


def _each(
    features: pd.DataFrame, labels: pd.DataFrame, folds: _Ints, draws: int, seed: int, least: int,
    strata: pd.Series | None, patients: pd.Series | None, read: HeldOut,
) -> Iterator[tuple[str, _Floats, _Floats | None]]:  # fmt: skip
    of_row = features.index.to_numpy(str) if patients is None else patients.to_numpy(str)
    status, values = labels.pivot(index="patient_id", columns="gene", values="status"), features.to_numpy(np.float64)
    asked: dict[str, _Floats] = {}
    alike: dict[bytes, list[tuple[str, _Floats]]] = {}  # genes that are known of the same patients are read at once
    for gene in labels["gene"].drop_duplicates().astype(str):
        by_patient = status[gene].dropna().astype(float)
        rows = np.isin(of_row, by_patient.index.to_numpy(str))
        people = np.unique(of_row[rows])
        own = asked[gene] = by_patient.reindex(people).to_numpy()
        if min(own.sum(), (1 - own).sum()) >= least:
            of = None if strata is None else strata.reindex(people).astype("string").fillna("").to_numpy(str)
            alike.setdefault(rows.tobytes(), []).append((gene, exchanged_labels(own, draws, seed, of)))
    found: dict[str, _Floats] = {}
    for key, group in alike.items():
        rows = np.frombuffer(key, bool)
        owner = np.unique(of_row[rows], return_inverse=True)[1]
        together = np.hstack([vectors for _, vectors in group])
        aucs = repeated_aucs(values[rows], together, folds[:, rows], read, owner)
        found |= dict(zip([gene for gene, _ in group], np.split(aucs, len(group), axis=1), strict=True))
    yield from ((gene, own, found.get(gene)) for gene, own in asked.items())


def _interval(auc: float, sd: float, n_pos: int, n_neg: int) -> tuple[float, float]:
    if sd < 1e-9:  # nothing could be exchanged
        return float("nan"), float("nan")
    if abs(auc - 0.5) > _FAR:
        low, high = newcombe_interval(np.array([auc]), n_pos, n_neg, sd / null_error(n_pos, n_neg))
        return float(low[0]), float(high[0])
    inner = auc
    shape = np.sqrt(hanley_variance(np.array([inner, 0.5]), n_pos, n_neg))
    half = Z * sd * shape[0] / shape[1] / (inner * (1 - inner))
    logit = np.log(inner / (1 - inner))
    return float(1 / (1 + np.exp(half - logit))), float(1 / (1 + np.exp(-half - logit)))


def paired_probe(
    arms: Mapping[str, pd.DataFrame], base: str, labels: pd.DataFrame, folds: _Ints, *, draws: int = 500, seed: int = 0,
    min_positives: int = 3, read: Mapping[str, HeldOut] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Each arm's AUC minus that of `base`, on the same patients, divisions and exchanges; arguments as of `probe`.

    Parameters
    ----------
    read : readers of arms that are not read by ridge

    Returns DataFrame: gene, arm, auc, difference, ci_low, ci_high (95 %, by the standard deviation that the difference
    has under exchanged labels), p (two-sided, from the same), n_pos, n_neg.
    """
    rows: list[dict[str, Any]] = []
    first: dict[str, _Floats] = {}
    if other := [name for name, x in arms.items() if not x.index.equals(arms[base].index)]:
        raise CohortError(f"The arms {', '.join(other)} and {base} do not have the same patients in the same order")
    for arm in (base, *(name for name in arms if name != base)):
        own = (read or {}).get(arm, ridge_held_out)
        for gene, label, aucs in _each(arms[arm], labels, folds, draws, seed, min_positives, None, None, own):
            if aucs is None or np.isnan(mean := _over_divisions(aucs))[0]:
                continue
            gap = mean - first.setdefault(gene, mean)
            found, null = float(gap[0]), gap[1:] - np.nanmean(gap[1:])
            half = Z * float(np.nanstd(null))
            rows.append({"gene": gene, "arm": arm, "auc": float(mean[0]), "difference": found, "ci_low": found - half,
                         "ci_high": found + half, "p": _share(~(np.abs(null) < abs(found) - 1e-12)),
                         "n_pos": int(label.sum()), "n_neg": int((1 - label).sum())})  # fmt: skip
    columns = ["gene", "arm", "auc", "difference", "ci_low", "ci_high", "p", "n_pos", "n_neg"]
    return pd.DataFrame(rows, columns=columns)


def gain_by_division(
    arms: Mapping[str, pd.DataFrame], base: str, labels: pd.DataFrame, folds: _Ints, sites: pd.Series, *, seed: int,
    **options: Any,
) -> pd.DataFrame:  # fmt: skip
    """:func:`paired_probe` over `folds` of the patients, and of whole `sites` (a row each) where these suffice.

    Column divided says which: patients or sites.
    """
    cuts, n_folds = {"patients": folds}, int(folds.max()) + 1
    if sites.nunique() > n_folds:
        cuts["sites"] = partitions(len(sites), n_folds, len(folds), seed, sites.factorize()[0])
    parts = [paired_probe(arms, base, labels, cut, seed=seed, **options).assign(divided=by) for by, cut in cuts.items()]
    return pd.concat(parts, ignore_index=True)


def verdict_of(table: pd.DataFrame, control: str = "") -> tuple[bool, str]:
    """Whether an arm may be interpreted, and the sentence that says so.

    Parameters
    ----------
    table : of :func:`probe`
    control : the gene that must be found (the strongest planted one); empty: no gene is known to be visible, and one of
        all, by Bonferroni's rule, has to be
    """
    known = table.dropna(subset=["p"])
    own = known[known["gene"] == control] if control else known.sort_values("p").head(1)
    if own.empty:
        return False, f"not informative: the positive control {control or '(any gene)'} could not be estimated"
    one, p = own.iloc[0], min(1.0, float(own.iloc[0]["p"]) * (1 if control else len(known)))
    what = (f"{one['gene']} AUC {one['auc']:.2f}, exchanged labels {one['null_low']:.2f} to {one['null_high']:.2f}, "
            f"p {'' if p < 0.001 else '= '}{p_text(p)}{'' if control else ' after Bonferroni'}")  # fmt: skip
    return (True, f"positive control passed: {what}") if p < LEVEL else (False, f"not informative: {what}")


def held_out_rows(
    features: pd.DataFrame, tiles: pd.DataFrame, labels: pd.DataFrame, fold: _Ints, read: HeldOut
) -> pd.DataFrame:
    """Scores of tiles under one division: tile_id, slide_id, patient_id, gene, fold, score, as in table PREDICTIONS.

    Parameters
    ----------
    features, tiles : (n, k) and their rows of table TILES, in one order
    fold : (n,); tiles of patients without a label of a gene are neither read nor scored for it
    """
    status, parts = labels.pivot(index="patient_id", columns="gene", values="status"), []
    for gene in status.columns:
        label = status[gene].reindex(tiles["patient_id"]).to_numpy(dtype=np.float64, na_value=np.nan)
        known = ~np.isnan(label)
        score = read(features.to_numpy(np.float64)[known], label[known, None], fold[known])[:, 0]
        keys = tiles.loc[known, ["tile_id", "slide_id", "patient_id"]]
        parts.append(keys.assign(gene=gene, fold=fold[known], score=score))
    return pd.concat(parts, ignore_index=True)


def class_told(
    features: pd.DataFrame, classes: pd.Series, *, least: int = 4, n_folds: int = 2, repeats: int = 10,
    draws: int = 200, seed: int = 0, strata: pd.Series | None = None,
) -> dict[str, float]:  # fmt: skip
    """Can a reader name the class (the site) of patients it has not seen?

    Parameters
    ----------
    features : patients × features; classes : by patient_id
    least : classes with fewer patients are left out, and counted; at least 2
    strata : by patient_id: classes are exchanged within it only, so that chance may know it

    Returns dict: named (share named rightly, mean over divisions), chance and chance_high (mean and 97.5 % under
    exchanged classes, the reader refitted), p (one-sided, from the same), sites, patients, patients_left_out. NaN
    where fewer than two classes are large enough. The reader is a ridge regression on one column per class; the largest
    answer counts.
    """
    of = classes.reindex(features.index).astype("string")
    large = of.map(of.value_counts()).ge(max(least, 2)).fillna(False).to_numpy(dtype=bool)
    names, code = np.unique(of[large].to_numpy(str), return_inverse=True)
    found = {"sites": float(len(names)), "patients": float(large.sum()), "patients_left_out": float((~large).sum())}
    if len(names) < 2:
        return found | dict.fromkeys(("named", "chance", "chance_high", "p"), float("nan"))
    within = None if strata is None else strata.reindex(features.index[large]).astype("string").fillna("").to_numpy(str)
    drawn = exchanged_labels(code.astype(float), draws, seed, within).astype(np.intp)
    target = np.eye(len(names))[drawn].reshape(len(code), -1)
    right = np.zeros(1 + draws)
    for fold in partitions(len(code), n_folds, repeats, seed):
        score = ridge_held_out(features.to_numpy(np.float64)[large], target, fold).reshape(len(code), 1 + draws, -1)
        right += (score.argmax(2) == drawn).mean(0) / repeats
    null = right[1:]
    return found | {"named": float(right[0]), "chance": float(null.mean()), "p": _share(null >= right[0] - 1e-12),
                    "chance_high": float(np.quantile(null, 1 - TAIL))}  # fmt: skip


def optimism_of_search(
    settings: Sequence[tuple[str, _Floats, HeldOut]], labels: pd.DataFrame, patients: Sequence[str], folds: _Ints, *,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """What a search pretends to gain: the best setting by the folds that report it, against one chosen inside them.

    Parameters
    ----------
    settings : name, features (patients, k) and reader of each
    labels : table LABELS of the genes that judge, known for all `patients`
    folds : (repeats, patients)

    Returns DataFrame, a row per division: flat (mean AUC over genes of the setting that is best on these very folds),
    nested (each fold scored by the setting that was best inside the other folds), typical (mean over settings),
    optimism (flat − nested), chosen_flat.
    """
    target = labels.pivot(index="patient_id", columns="gene", values="status").loc[list(patients)].to_numpy(np.float64)
    progress, rows = Countdown("divisions searched", len(folds), brief=True), []
    for number, fold in enumerate(folds):
        outer = np.stack([read(x, target, fold) for _, x, read in settings])
        flat = np.array([_mean_auc(target, score, fold) for score in outer])
        nested = np.zeros_like(target)
        for held in np.unique(fold):
            train = np.flatnonzero(fold != held)
            inner = partitions(len(train), 2, 1, seed + number)[0]
            value = [_mean_auc(target[train], read(x[train], target[train], inner), inner) for _, x, read in settings]
            nested[fold == held] = outer[int(np.argmax(value))][fold == held]
        honest = _mean_auc(target, nested, fold)
        rows.append({"division": number, "flat": float(flat.max()), "nested": honest, "typical": float(flat.mean()),
                     "optimism": float(flat.max()) - honest,
                     "chosen_flat": settings[int(flat.argmax())][0]})  # fmt: skip
        progress.step()
    return pd.DataFrame(rows)


def _mean_auc(label: _Floats, score: _Floats, fold: _Ints) -> float:
    """Mean over genes with a pair of patients in some fold; chance without any, as no setting is then better."""
    aucs = auc_within_folds(label, score, fold)
    return 0.5 if np.isnan(aucs).all() else float(np.nanmean(aucs))
