"""Numbers that may stand behind a label, such as tumour purity or JPEG quality: what they explain of an AUC."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.evaluation.auc.delong import delong
from deeplrhe_utils.evaluation.audits.controls import within_auc

THIRDS: Final = 3
_COLUMNS: Final = ["covariate", "gene", "patients", "missing", "auc_of_covariate", "covariate_low", "covariate_high",
                  "correlation", "auc_all", "auc_within_thirds", "within_low", "within_high"]  # fmt: skip


def read_covariates(path: Path) -> pd.DataFrame:
    """Read patient_id and one column per covariate; empty cells are missing.

    Raises InputError: missing file, no patient_id, a repeated patient, a cell that is no number.
    """
    table = read_foreign(path, InputError)
    if "patient_id" not in table or table.shape[1] < 2:
        raise InputError(f"{path} is no table of covariates", got=", ".join(table.columns),
                         expected="patient_id and at least one number")  # fmt: skip
    if (again := table["patient_id"].duplicated()).any():
        raise InputError(f"{path} repeats the patient {table.loc[again, 'patient_id'].iloc[0]}")
    for name in table.columns.drop("patient_id"):
        number = pd.to_numeric(table[name].where(table[name] != ""), errors="coerce")
        if (wrong := number.isna() & (table[name] != "")).any():
            raise InputError(f"{path}, line {wrong.idxmax()}, column {name}: no number", got=table[name][wrong].iloc[0])
        table[name] = number.astype(float)
    return table


def covariate_table(
    scored: pd.DataFrame, covariates: pd.DataFrame | None, *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """What each covariate tells of each gene, and what the score tells beyond it.

    Parameters
    ----------
    scored : patient_id, gene, label, score: one row per patient and gene, both classes in every gene
    covariates : patient_id and numbers; None gives an empty table

    Returns DataFrame: covariate, gene, patients (with a value), missing, auc_of_covariate (how the covariate itself
    ranks the mutation; DeLong 95 %), correlation (Spearman, of score and covariate), auc_all and auc_within_thirds
    (percentile bootstrap 95 %): the score's AUC over all pairs, and over pairs of one third of the covariate. Null
    where fewer than two patients of a class have a value.
    """
    rows: list[dict[str, Any]] = []
    for name in [] if covariates is None else [c for c in covariates.columns if c != "patient_id"]:
        value = covariates.set_index("patient_id")[name]  # type: ignore[union-attr]
        for gene, own in scored.groupby("gene", sort=False):
            frame = own.assign(value=own["patient_id"].map(value)).dropna(subset=["value"])
            label = frame["label"].to_numpy(np.int64)
            row: dict[str, Any] = {"covariate": name, "gene": gene, "patients": len(frame),
                                   "missing": len(own) - len(frame)}  # fmt: skip
            if min(label.sum(), (1 - label).sum()) >= 2:
                row |= _row(frame, label, resamples, seed)
            rows.append(row)
    return pd.DataFrame(rows, columns=_COLUMNS)


def _row(frame: pd.DataFrame, label: np.ndarray, resamples: int, seed: int) -> dict[str, float]:
    score, value = frame["score"].to_numpy(np.float64), frame["value"].to_numpy(np.float64)
    own, low, high = delong(label, value)
    third = np.searchsorted(np.quantile(value, [1 / THIRDS, 2 / THIRDS]), value, side="left")
    inside = within_auc(frame.assign(third=third), "third", resamples=resamples, seed=seed)
    constant = np.ptp(value) == 0 or np.ptp(score) == 0
    return {"auc_of_covariate": own, "covariate_low": low, "covariate_high": high,
            "correlation": np.nan if constant else float(stats.spearmanr(score, value).statistic),
            "auc_all": delong(label, score)[0], "auc_within_thirds": inside["auc"], "within_low": inside["ci_low"],
            "within_high": inside["ci_high"]}  # fmt: skip
