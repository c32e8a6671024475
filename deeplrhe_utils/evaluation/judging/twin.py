"""A planted cohort's twin, in which nothing is planted, and labels that mean nothing: where nothing may be found."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.auc.units import aggregate, align_folds, with_labels
from deeplrhe_utils.evaluation.audits.probing import exchanged_labels
from deeplrhe_utils.learning.networks.deeplrhe import load_model
from deeplrhe_utils.learning.probes.sources import BANK, TABLE_SUFFIXES, bank_table, feature_table
from deeplrhe_utils.learning.recipes.recipe import TrainConfig
from deeplrhe_utils.learning.tiles.normalizing import store_units
from deeplrhe_utils.learning.tiles.store import TileStore, tile_targets
from deeplrhe_utils.learning.training.crossfit import cross_fit
from deeplrhe_utils.slides.tiles.pixels import read_group
from deeplrhe_utils.stain.methods.normalize import Normalizer
from deeplrhe_utils.synthetic.plan import CohortPlan, CohortSpec, plan_cohort


def twin_of(
    spec: CohortSpec, labels: pd.DataFrame, tiles: pd.DataFrame, n_slides: int, seed: int
) -> tuple[CohortPlan, pd.DataFrame, list[str]]:
    """The plan with every effect at zero, the labelled patients' selected tiles, and the slides to be painted again.

    Slides are drawn by patient, `n_slides` of them, at least two. Raises CohortError: the twin has other labels.
    """
    twin = plan_cohort(replace(spec, effect_scale=0.0))
    same = twin.labels[twin.labels["gene"].isin(labels["gene"])].merge(labels, on=["patient_id", "gene"])
    if len(same) != len(labels) or not same["status_x"].equals(same["status_y"]):
        raise CohortError("The twin has other labels", got=f"{len(same)} of {len(labels)} labels in common")
    picked = tiles[tiles["selected"] & tiles["patient_id"].isin(labels["patient_id"])]
    picked = picked.sort_values(["patient_id", "slide_id", "tile_id"], ignore_index=True)
    order = generator(seed, "twin").permutation(np.sort(picked["patient_id"].unique()))
    ranked = picked[["patient_id", "slide_id"]].drop_duplicates().set_index("patient_id").loc[order]
    return twin, picked, sorted(ranked["slide_id"].tolist()[: max(2, n_slides)])


def store_twin(
    painted: Path, place: Path, slides: pd.DataFrame, tiles: pd.DataFrame, arm: tuple[str, int],
    normalizer: Normalizer | None, *, read_px: int, statistics_tiles: int, workers: int,
) -> set[str]:  # fmt: skip
    """Store the tiles of the slides that folder `painted` holds, normalized as this cohort's; returns their names.

    `slides` are the cohort's; `tiles` those of the painted slides, read at `read_px`. `arm` is a normalization and fold
    of `store_units`.
    """
    files = slides.assign(path=[str(painted / f"{n}.svs") for n in slides["slide_id"]])
    kept = tiles[tiles["kept"]].sort_values(["patient_id", "slide_id", "tile_id"])
    groups = {str(name): rows for name, rows in kept.groupby("slide_id") if rows["selected"].any()}
    read = partial(read_group, files.set_index("slide_id", drop=False).to_dict("index"), read_px)
    store_units(place, groups, read, {arm: normalizer}, statistics_tiles=statistics_tiles, workers=workers)
    return set(groups)


def exchanged_genes(labels: pd.DataFrame, gene: str, heads: int, seed: int) -> pd.DataFrame:
    """Table LABELS of "exchanged 1" to "exchanged `heads`": a gene's labels, each time at other patients."""
    base = labels[labels["gene"] == gene].dropna(subset=["status"]).reset_index(drop=True)
    drawn = exchanged_labels(base["status"].to_numpy(float), heads, seed)[:, 1:]
    parts = [base.assign(gene=f"exchanged {k + 1}", status=pd.array(drawn[:, k], "Int64").astype(base["status"].dtype))
             for k in range(heads)]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def trained_aucs(
    like: Path, stores: dict[int, TileStore], picked: pd.DataFrame, labels: pd.DataFrame, splits: pd.DataFrame, *,
    epochs: int, folder: Path, **options: Any,
) -> pd.DataFrame:  # fmt: skip
    """AUC by patient of a network trained as that of file `like` was, but on `labels` and for `epochs`: gene, auc.

    `options` of `cross_fit`; `stores` by fold hold the tiles `picked`.
    """
    model, card = load_model(like)
    names = tuple(labels["gene"].drop_duplicates())
    recipe = TrainConfig(**{**card["recipe"], "epochs": epochs, "patience": 0})
    network, view = replace(model.config, targets=names), {key: card[key] for key in ("input_mpp", "normalization")}
    heads = cross_fit(stores, picked, tile_targets(picked, labels, names), splits=splits, network=network,
                      recipe=recipe, view=view, folder=folder, quiet=True, **options)  # fmt: skip
    told = with_labels(align_folds(aggregate(heads.predictions)), labels)
    rows = [{"gene": gene, "auc": roc_auc_score(own["label"], own["score"])} for gene, own in told.groupby("gene")]
    return pd.DataFrame(rows, columns=["gene", "auc"])


def described_tiles(
    source: str, features: pd.DataFrame, planted: TileStore, bare: TileStore, tile_um: float, *, weights: str,
    seed: int, device: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Label-free features of the planted tiles, and of their twins in `bare`, from one source.

    `features` are those of notebook 04; `tile_um` is the side of a tile. A table in a file describes planted tiles
    only, and the twin's have the same names: both are then described by the bank.
    """
    mpp = tile_um / bare.side_px
    described = features.loc[planted.tile_ids]
    if source.endswith(TABLE_SUFFIXES):
        source, described = BANK, bank_table(planted, mpp)
    return described, feature_table(source, bare, mpp, weights=weights, seed=seed, device=device)
