"""What vectors of slides tell of a label, beside what is known without them, on the same patients and exchanges."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.delong import INFLATION, newcombe_interval
from deeplrhe_utils.evaluation.audits.diagnosis import FIRST, OTHER, clinical_columns, fused_held_out
from deeplrhe_utils.evaluation.audits.probing import (
    PROBE_COLUMNS,
    auc_within_folds,
    exchanged_labels,
    paired_probe,
    probe,
)
from deeplrhe_utils.learning.probes.readers import partitions
from deeplrhe_utils.learning.rivals.mil import MilConfig, cross_fit_bags

BOTH = "both diagnoses"


class ImageArms(NamedTuple):
    """`arms`: columns of `probe`, arm, patients. `gains`: image + clinical minus clinical, as `paired_probe`, patients.

    `groups`: name of a group → its patients; the first holds everybody.
    """

    arms: pd.DataFrame
    gains: pd.DataFrame
    groups: dict[str, pd.Index]


def image_arms(
    means: pd.DataFrame, labels: pd.DataFrame, clinical: pd.DataFrame, *, variables: tuple[str, ...], n_folds: int,
    repeats: int, draws: int, seed: int, min_positives: int, codes: pd.Series | None = None,
) -> ImageArms:  # fmt: skip
    """AUC of a ridge reader of patients' means, with whole hospitals held out, of the clinical record, and of both.

    Over both diagnoses, where there are two, and within the first; the diagnosis as a target of its own and alone.

    Parameters
    ----------
    means : patients × features
    labels, clinical : tables LABELS and CLINICAL; patients without a known label are left out
    variables : columns of `clinical` that make the record; over both diagnoses it holds the diagnosis, too
    n_folds, repeats, draws, seed, min_positives : as of `probe` and `partitions`
    codes : by patient, what is held out as an exhibit: TCGA gives a hospital one code per diagnosis
    """
    people = means.index[means.index.isin(labels.dropna(subset=["status"])["patient_id"])]
    known = clinical.set_index("patient_id").reindex(people)
    of, place = (known[name].astype("string").fillna("–") for name in ("histology", "site_id"))
    mixed = {FIRST, OTHER} <= set(of)
    everybody = BOTH if mixed else of.iloc[0] if of.nunique() == 1 and of.iloc[0] != "–" else "all patients"
    groups = {everybody: people} | ({FIRST: people[of == FIRST]} if mixed else {})
    parts, gains = [], []
    for group, own in groups.items():
        x, more = means.loc[own], [*variables, *(["histology"] if group == BOTH else [])]
        record, cut = clinical_columns(clinical, own, more), partitions(len(own), n_folds, repeats, seed)
        ask = partial(probe, labels=labels, draws=draws, seed=seed, min_positives=min_positives)
        joined = partial(fused_held_out, first=record.shape[1])
        together = pd.concat([record, x], axis=1)
        found = {"image": ask(x, folds=cut)}
        if place[own].nunique() >= n_folds:
            found["image, hospitals held out"] = ask(x, folds=_held_out(place[own], n_folds, repeats, seed))
        if len(record.columns):
            found |= {"clinical": ask(record, folds=cut), "image + clinical": ask(together, folds=cut, read=joined)}
            gains.append(paired_probe({"clinical": record, "image + clinical": together}, "clinical", labels, cut,
                                      draws=draws, seed=seed, min_positives=min_positives,
                                      read={"image + clinical": joined}).assign(patients=group))  # fmt: skip
        parts += [t.assign(arm=arm, patients=group) for arm, t in found.items()]
    if mixed:
        status = (of == FIRST).astype("Int64").where(of != "–").array
        classes = pd.DataFrame({"patient_id": people, "gene": FIRST, "status": status})
        apart = {"image": None, "image, hospitals held out": place}
        apart |= {} if codes is None else {"image, codes held out (an artefact)": codes.reindex(people).fillna("–")}
        for arm, by in apart.items():
            if by is None or by.nunique() >= n_folds:
                cut = partitions(len(people), n_folds, repeats, seed) if by is None else _held_out(by, n_folds, repeats,
                                                                                                   seed)  # fmt: skip
                told = probe(means.loc[people], classes, cut, draws=draws, seed=seed)
                parts.append(told.assign(arm=arm, patients=BOTH))
        whole = partitions(len(people), n_folds, repeats, seed)
        parts.append(probe(pd.get_dummies(of).astype(float), labels, whole, draws=draws, seed=seed,
                           min_positives=min_positives).assign(arm="diagnosis alone", patients=BOTH))  # fmt: skip
    empty = pd.DataFrame(columns=["patients", "gene", "difference", "ci_low", "ci_high", "p"])
    gained = pd.concat(gains).query("arm != 'clinical'") if gains else empty
    return ImageArms(pd.concat(parts, ignore_index=True), gained, groups)


def _held_out(of: pd.Series, n_folds: int, repeats: int, seed: int) -> NDArray[np.intp]:
    return partitions(len(of), n_folds, repeats, seed, of.factorize()[0])


ATTENTION = MilConfig(embed=0, hidden=16, epochs=30, tiles_per_bag=48, dropout=0.0, learning_rate=3e-3)
"""Without a shared projection targets share nothing but the clipped norm of the gradient: exchanged labels can be
targets beside the true ones."""
COMPONENTS = 32
_ENOUGH: Final = 20_000


def principal(features: NDArray[np.float32], components: int = COMPONENTS, seed: int = 0) -> PCA:
    """First principal components of vectors (n, D), each of unit spread: no label is looked at.

    Of many vectors some, at random, are enough.
    """
    some = generator(seed, "components").permutation(len(features))[:_ENOUGH]
    features = features[np.sort(some)]
    return PCA(min(components, *features.shape), whiten=True, svd_solver="randomized", random_state=seed).fit(features)


def attention_arm(
    features: NDArray[np.float32], tiles: pd.DataFrame, labels: pd.DataFrame, folds: NDArray[np.intp], *,
    strata: pd.Series, draws: int, seed: int, min_positives: int, folder: Path, config: MilConfig = ATTENTION,
) -> pd.DataFrame:  # fmt: skip
    """Attention MIL by patient, beside attention that was trained on exchanged labels.

    Parameters
    ----------
    features : float32, (n, k), on :func:`principal` components
    tiles : tile_id and patient_id of each row
    labels : table LABELS
    folds : (patients,): division of the sorted patients of `tiles`
    strata : by patient; labels are exchanged within it
    draws : exchanges; each is a target that is trained beside the true one
    folder : receives ``attention-fold-<n>.safetensors``, whose first target of a gene is the true one

    Returns DataFrame: :data:`PROBE_COLUMNS`, a row per gene (AUC over pairs of one fold; 95 % by Newcombe with the
    variance of cross-fitting; null_low, null_high: least and greatest of the exchanges).
    """
    people = np.unique(tiles["patient_id"].to_numpy(str))
    wide = labels.pivot(index="patient_id", columns="gene", values="status").reindex(people)
    count = {g: min((wide[g] == 1).sum(), (wide[g] == 0).sum()) for g in labels["gene"].drop_duplicates()}
    genes = [g for g, fewest in count.items() if fewest >= min_positives]
    columns: dict[str, NDArray[np.float64]] = {}
    for gene in genes:
        known = wide[gene].notna().to_numpy()
        of = strata.reindex(people[known]).astype("string").fillna("").to_numpy(str)
        drawn = exchanged_labels(wide.loc[known, gene].to_numpy(float), draws, seed, of)
        for k in range(1 + draws):
            column = columns[f"{gene} {k}"] = np.full(len(people), np.nan)
            column[known] = drawn[:, k]
    if not genes:
        return pd.DataFrame(columns=list(PROBE_COLUMNS))
    targets = np.stack(list(columns.values()), 1).astype(np.float32)
    place = np.searchsorted(people, tiles["patient_id"].to_numpy(str))
    splits = pd.concat([pd.DataFrame({"fold": f, "unit_id": people, "role": np.where(folds == f, "test", "train")})
                        for f in np.unique(folds)])  # fmt: skip
    fits = cross_fit_bags(dict.fromkeys(np.unique(folds).tolist(), features), tiles, targets[place], splits,
                          list(columns), config, folder=folder, seed=seed, name="attention", quiet=True)  # fmt: skip
    score = fits.scores.pivot(index="patient_id", columns="gene", values="score").loc[people]
    rows = []
    for gene in genes:
        names = [f"{gene} {k}" for k in range(1 + draws)]
        known = (wide[gene].notna() & score[names].notna().all(axis=1)).to_numpy()
        label = targets[:, [list(columns).index(n) for n in names]][known].astype(np.float64)
        aucs = auc_within_folds(label, score.loc[known, names].to_numpy(float), folds[known])
        m, n = int(label[:, 0].sum()), int((1 - label[:, 0]).sum())
        low, high = newcombe_interval(aucs[:1], m, n, INFLATION)
        null = aucs[1:]
        if not known[wide[gene].notna().to_numpy()].all() or np.isnan(aucs).any():
            why = "in some fold one class is missing, of the labels or of their exchanges"
            rows.append({"gene": gene, "status": f"not estimable: {why}", "n_pos": m, "n_neg": n})
            continue
        rows.append({"gene": gene, "status": "estimated", "auc": float(aucs[0]), "ci_low": float(low[0]),
                     "ci_high": float(high[0]), "null_mean": float(null.mean()), "null_low": float(null.min()),
                     "null_high": float(null.max()), "p": float((1 + (null >= aucs[0]).sum()) / (1 + draws)),
                     "n_pos": m, "n_neg": n})  # fmt: skip
    return pd.DataFrame(rows, columns=list(PROBE_COLUMNS))
