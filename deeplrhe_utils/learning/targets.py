"""Labels as arrays: one row per tile, the patient's labels repeated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def tile_targets(tiles: pd.DataFrame, labels: pd.DataFrame, genes: Sequence[str]) -> NDArray[np.float32]:
    """(n_tiles, n_genes) of 1, 0 and NaN (not profiled, or a patient without labels), in the order of `tiles`."""
    wide = labels.pivot(index="patient_id", columns="gene", values="status")
    rows = wide.reindex(index=tiles["patient_id"], columns=list(genes))
    return rows.to_numpy(dtype=np.float32, na_value=np.nan)


def prediction_rows(
    tiles: pd.DataFrame,
    genes: Sequence[str],
    scores: NDArray[np.float32],
    usable: NDArray[np.bool_],
    fold: int,
    model_hash: str,
) -> pd.DataFrame:
    """Rows of the predictions table from a score matrix (n_tiles, n_genes); genes not `usable` get null scores."""
    known = np.where(usable, scores, np.nan).astype(np.float64)
    keys = tiles[["tile_id", "slide_id", "patient_id"]]
    parts = [
        keys.assign(gene=gene, fold=fold, score=known[:, i], model_hash=model_hash) for i, gene in enumerate(genes)
    ]
    return pd.concat(parts, ignore_index=True)


def patient_rows(predictions: pd.DataFrame, method: str) -> pd.DataFrame:
    """Rows of table RIVALS from table PREDICTIONS: the mean over each patient's tiles, null where none has a score."""
    keys = ["patient_id", "gene", "fold", "model_hash"]
    return predictions.groupby(keys, as_index=False)["score"].mean().assign(method=method)
