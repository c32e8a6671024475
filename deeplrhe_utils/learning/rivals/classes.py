"""DeepPATH's first task: normal lung, adenocarcinoma or squamous carcinoma, told tile by tile and slide by slide.

Source: Coudray 2018: every tile carries its slide's class; a slide's score is the mean of its tiles' probabilities, and
its vote the class of most tiles.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import LABELS, LUNG_CLASSES
from deeplrhe_utils.learning.probes.readers import standardized

SLIDE_CLASS: Final = "truth"
"""Column of the class that a slide's name or table gives."""


def class_labels(slides: pd.DataFrame, least: int = 2) -> pd.DataFrame:
    """Table LABELS with a class in the place of a gene, for units (patients, or samples of normal tissue) of one class.

    `slides` are rows of table SLIDES; those without a subtype, or of a class with fewer than `least` units, have no
    label. Empty where fewer than two classes are left.
    """
    of = slides[slides["subtype"].isin(LUNG_CLASSES)].drop_duplicates(["patient_id", "subtype"])
    of = of[~of["patient_id"].duplicated(keep=False)].set_index("patient_id")["subtype"]
    kinds = [kind for kind in LUNG_CLASSES if (of == kind).sum() >= least]
    rows = [{"patient_id": unit, "gene": kind, "status": int(kind == own), "source": "subtype"}
            for unit, own in of.items() if own in kinds for kind in kinds if len(kinds) > 1]  # fmt: skip
    names = ["patient_id", "gene", "status", "variant_class", "source"]
    return conform(pd.DataFrame(rows, columns=names), LABELS)


def multinomial_rows(
    features: pd.DataFrame, tiles: pd.DataFrame, labels: pd.DataFrame, splits: pd.DataFrame
) -> pd.DataFrame:
    """Multinomial logistic regression on label-free features of tiles, on the folds of `splits`.

    Parameters
    ----------
    features, tiles : a row per tile, in one order; tiles are rows of table TILES
    labels : of :func:`class_labels`

    Returns held-out probabilities: tile_id, slide_id, patient_id, gene (the class), fold, score. A fold whose training
    units are of one class gives none.
    """
    truth = tiles["patient_id"].map(labels[labels["status"] == 1].set_index("patient_id")["gene"])
    parts = []
    for fold, own in splits.groupby("fold"):
        train, test = (tiles["patient_id"].isin(own.loc[own["role"] == role, "unit_id"]).to_numpy(bool)
                       & truth.notna().to_numpy() for role in ("train", "test"))  # fmt: skip
        if truth[train].nunique() < 2:
            continue
        x = standardized(features.to_numpy(np.float64), train)
        reader = LogisticRegression(C=0.1, max_iter=300).fit(x[train], truth[train].to_numpy(str))
        keys, score = tiles.loc[test, ["tile_id", "slide_id", "patient_id"]], reader.predict_proba(x[test])
        parts += [keys.assign(gene=kind, fold=fold, score=score[:, i]) for i, kind in enumerate(reader.classes_)]
    names = ["tile_id", "slide_id", "patient_id", "gene", "fold", "score"]
    return pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)


def slide_classes(rows: pd.DataFrame, labels: pd.DataFrame, method: str) -> pd.DataFrame:
    """What the tiles say of each slide.

    Parameters
    ----------
    rows : probabilities of tiles: tile_id, slide_id, patient_id, gene (the class), fold, score

    Returns a row per slide: method, slide_id, patient_id, fold, truth, n_tiles, the mean probability of each class
    (columns named after it), called (the class of the highest mean), voted (the class of most tiles, of several the
    first in :data:`LUNG_CLASSES`), vote_share (of the tiles, for that class).
    """
    kinds = [kind for kind in LUNG_CLASSES if kind in set(rows["gene"])]
    key = ["slide_id", "patient_id", "fold"]
    wide = (
        rows.dropna(subset=["score"])
        .pivot(index=[*key, "tile_id"], columns="gene", values="score")
        .reindex(columns=kinds)
    )
    votes = pd.get_dummies(wide.idxmax(axis=1)).reindex(columns=kinds, fill_value=False).groupby(key).mean()
    mean = wide.groupby(key).mean()
    table = mean.assign(called=mean.idxmax(axis=1), voted=votes.idxmax(axis=1), vote_share=votes.max(axis=1),
                        n_tiles=wide.groupby(key).size()).reset_index()  # fmt: skip
    known = labels[labels["status"] == 1].set_index("patient_id")["gene"]
    table = table.assign(**{"method": method, SLIDE_CLASS: table["patient_id"].map(known)})
    return table[["method", *key, SLIDE_CLASS, "n_tiles", *kinds, "called", "voted", "vote_share"]]


def class_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Slides' probabilities of one method, as rows for AUCs: slide_id (and tile_id), patient_id, fold, gene, score."""
    kinds = [kind for kind in LUNG_CLASSES if kind in table]
    rows = table.melt(["slide_id", "patient_id", "fold"], kinds, "gene", "score")
    return rows.assign(tile_id=rows["slide_id"])
