"""What the diagnosis, the hospital and the clinical record tell of a mutation before anybody looks at a slide.

Source: ours. TCGA gives a hospital one code per project, so a "site" read from a barcode is the diagnosis in disguise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.barcodes import hospitals
from deeplrhe_utils.core.tables.schemas import LUNG_CLASSES
from deeplrhe_utils.core.text import listed, with_ends
from deeplrhe_utils.evaluation.auc.delong import delong
from deeplrhe_utils.learning.probes.readers import ridge_held_out

_Floats = NDArray[np.float64]
_Ints = NDArray[np.intp]
FIRST, OTHER = LUNG_CLASSES[1:]
_SHRINK: Final = 4.0
"""Patients of the average by which a small hospital's share is drawn to the mean."""


def told_by(counts: pd.DataFrame, stratum: str) -> dict[str, float]:
    """How well a stratum ranks one gene's mutated patients before the others.

    Parameters
    ----------
    counts : mutated, profiled and the column `stratum`; rows of one stratum are added up

    Returns dict: auc, ci_low, ci_high (DeLong 95 %), n_pos, n_neg. Of two strata (diagnoses) the one with more
    mutations ranks first; one alone tells nothing. Of more (hospitals) a patient's score is the share mutated among
    the *other* patients of the stratum, shrunk to the mean by four patients; the share leans away from a patient's own
    label, so a hospital that tells nothing lies a little below one half. NaN without patients of both classes.
    """
    own = counts.groupby(stratum)[["mutated", "profiled"]].sum()
    m, n = own["mutated"].to_numpy(float), own["profiled"].to_numpy(float)
    n_pos, n_neg = int(m.sum()), int((n - m).sum())
    if not min(n_pos, n_neg):
        return dict.fromkeys(("auc", "ci_low", "ci_high"), float("nan")) | {"n_pos": n_pos, "n_neg": n_neg}
    if len(own) <= 2:
        positive = negative = m / n
    else:
        mean = m.sum() / n.sum()
        positive, negative = ((m - out + _SHRINK * mean) / (n - 1 + _SHRINK) for out in (1, 0))
    score = np.r_[np.repeat(positive, m.astype(int)), np.repeat(negative, (n - m).astype(int))]
    label = np.r_[np.ones(n_pos, np.int64), np.zeros(n_neg, np.int64)]
    auc, low, high = delong(label, score)
    return {"auc": auc, "ci_low": low, "ci_high": high, "n_pos": n_pos, "n_neg": n_neg}


def without_a_slide(counts: pd.DataFrame) -> pd.DataFrame:
    """What is known of each gene without a slide.

    Parameters
    ----------
    counts : gene, histology, site_code, mutated, profiled, as ``data/reference/tcga_lung_counts.csv``

    Returns DataFrame, a row per gene: share_luad, share_lusc; auc, ci_low, ci_high, n_pos, n_neg of the diagnosis
    alone; auc_even, what the diagnosis gives in a cohort of as many patients of either; auc_code, auc_hospital of code
    and hospital alone; auc_hospital_luad of the hospital among adenocarcinomas.
    """
    place = counts["site_code"].map({code: hospital for code, (hospital, _) in hospitals().items()})
    counts = counts.assign(site_id=place.fillna(counts["site_code"]))
    rows = []
    for gene, own in counts.groupby("gene", sort=False):
        parts = {kind: own[own["histology"] == kind] for kind in (FIRST, OTHER)}
        share = {kind: float(p["mutated"].sum() / max(1, p["profiled"].sum())) for kind, p in parts.items()}
        high, low = max(share.values()), min(share.values())
        even = 0.5 + (high / (high + low) - (1 - high) / (2 - high - low)) / 2 if high else float("nan")
        rows.append({"gene": gene, "share_luad": share[FIRST], "share_lusc": share[OTHER],
                     **told_by(own, "histology"), "auc_even": even, "auc_code": told_by(own, "site_code")["auc"],
                     "auc_hospital": told_by(own, "site_id")["auc"],
                     "auc_hospital_luad": told_by(parts[FIRST], "site_id")["auc"]})  # fmt: skip
    return pd.DataFrame(rows)


def clinical_columns(clinical: pd.DataFrame, patients: pd.Index, names: Sequence[str]) -> pd.DataFrame:
    """Numbers of a clinical table for a reader: numbers as they are, words as one column each, what is unknown apart.

    Returns patients × columns, finite: an unknown number is the mean of the known ones, and a column says so.
    """
    rows = clinical.set_index("patient_id").reindex(patients)
    out: dict[str, Any] = {}
    for name in names:
        known = rows[name].notna()
        if not known.any():
            continue
        if pd.api.types.is_numeric_dtype(rows[name]):
            out[name] = rows[name].fillna(rows[name].mean())
        else:
            out |= {
                f"{name}: {word}": (rows[name] == word).fillna(False) for word in sorted(rows[name][known].unique())
            }
        if not known.all():
            out[f"{name}: unknown"] = ~known
    return pd.DataFrame(out, index=patients).astype(float)


def fused_held_out(features: _Floats, labels: _Floats, fold: _Ints, *, first: int) -> _Floats:
    """Two ridge readers, of the `first` columns and of the others, added with equal spread; as `ridge_held_out`.

    One ridge over both would drown ten clinical columns in hundreds of features.
    """
    scores = np.zeros(labels.shape)
    for part in (features[:, :first], features[:, first:]):
        own = ridge_held_out(part, labels, fold)
        for held in np.unique(fold):
            spread = own[fold == held].std(0)
            scores[fold == held] += own[fold == held] / np.where(spread > 0, spread, np.inf)
    return scores


def image_sentence(real: pd.DataFrame, genes: Sequence[str]) -> str:
    """What an image reader finds of real patients within adenocarcinoma, and over both diagnoses beside the diagnosis.

    Parameters
    ----------
    real : patients, arm, gene, auc, ci_low, ci_high, null_high, n_pos, n_neg, as notebook 13 has them
    genes : that are spoken of
    """
    table = real[real["gene"].isin(genes) & real["auc"].notna()].set_index(["patients", "arm"])
    group = next((name for name in (FIRST, *table.index.get_level_values(0)) if (name, "image") in table.index), "")
    if not group:
        return "No features of real slides are here: what an image reader finds in real patients is not known."
    read = table.loc[[(group, "image")]]
    seen, n = read["auc"] > read["null_high"], (read["n_pos"] + read["n_neg"]).max()
    who = f"{n:.0f} real adenocarcinomas" if group == FIRST else f"{n:.0f} patients ({group})"
    above = listed(f"{row['gene']} {with_ends(row)}" for row in read[seen].to_dict("records"))
    inside = listed(read.loc[~seen, "gene"])
    text = f"In {who} a reader of features finds above its null band: {above}; inside it: {inside}"
    both = [("both diagnoses", arm) for arm in ("image", "diagnosis alone")]
    if not set(both) <= set(table.index):
        return text + "."
    image, word = (table.loc[[arm]].set_index("gene") for arm in both)
    more = image.index[image["ci_low"] > word["auc"].reindex(image.index)]
    return f'{text}. Over both diagnoses it clearly exceeds the word "adenocarcinoma" for {listed(more, "no gene")}.'
