"""Recovered against planted: what a pipeline found in a synthetic cohort, beside what was put there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.synthetic_genes import EFFECTS, oracle_auc
from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.core.seeds import generator

if TYPE_CHECKING:
    import pandas as pd

DRAWN: Final = {
    "nuclear_area": "nuclear_area_um2",
    "nuclear_density": "nuclear_density_per_mm2",
    "lymphocyte_share": "lymphocyte_share",
    "chromatin_texture": "chromatin_contrast",
}
"""Attribute → column of TRUTH_TILES that says how much of it was drawn in a tile."""
ARTEFACT_SHARE: Final = 0.25
"""A tile counts as affected, and as flagged, from this share of its area on: the same cut for truth and filter."""
_LOOKED_FOR: Final = {"blur": "blur_fraction", "pen": "pen_fraction"}
_NOT_LOOKED_FOR: Final = ("hole", "fold", "bubble", "jpeg")


def bayes_auc(d: float) -> float:
    """Φ(d / √2), the best AUC any reader of a gene's own latent can expect."""
    from scipy.stats import norm

    return float(norm.cdf(d / np.sqrt(2)))


def drawn_values(truth_tiles: pd.DataFrame, tiles: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """How much of an attribute the patient's selected tiles hold: the mean of what was drawn in them.

    Returns
    -------
    DataFrame
        patient_id, value; patients whose tiles hold none (such as fine chromatin at 20×) are absent.
    """
    column = DRAWN[attribute]
    chosen = tiles.loc[tiles["selected"], ["tile_id", "patient_id"]]
    joined = chosen.merge(truth_tiles[["tile_id", column]], on="tile_id", how="left", validate="one_to_one")
    mean = joined.dropna(subset=[column]).groupby("patient_id")[column].mean()
    return mean.rename("value").reset_index()


def recovery(
    headline: pd.DataFrame,
    truth_patients: pd.DataFrame,
    truth_tiles: pd.DataFrame,
    tiles: pd.DataFrame,
    labels: pd.DataFrame,
    scored: set[str],
    through_neighbours: Mapping[str, float],
) -> pd.DataFrame:
    """One row per gene: from what was planted to what was recovered.

    Parameters
    ----------
    headline : DataFrame
        Patient-level rows of table METRICS with one interval per gene.
    truth_patients, truth_tiles : DataFrame
        Truth tables.
    tiles, labels : DataFrame
        What the pipeline used.
    scored : set of str
        Patients that were scored; oracle and drawn AUC are those of the same patients.
    through_neighbours : mapping
        Gene → AUC expected of a reader who cannot see it but sees its neighbours (0.5 for controls).

    Returns
    -------
    DataFrame
        gene, role, d, bayes_auc (expectation), oracle_auc (the latent, these patients), drawn_auc (what the tiles
        hold, these patients; null for controls and where nothing can be seen at this resolution), expected_auc (what
        a perfect pipeline would give here: the oracle, or `through_neighbours`), auc, ci_low, ci_high, n_pos, n_neg,
        gap (expected − recovered).
    """
    import pandas as pd

    rows = []
    for gene, planted in truth_patients.groupby("gene", sort=False):
        found = headline[headline["gene"] == gene]
        if found.empty:
            continue
        one = found.iloc[0]
        known = labels[(labels["gene"] == gene) & labels["status"].notna()]["patient_id"]
        planted = planted[planted["patient_id"].isin(set(known) & scored)]
        where = planted["where"].iloc[0] if len(planted) else pd.NA
        visible = not pd.isna(where) and where != "40x"
        oracle = _auc(planted, "latent") if not pd.isna(where) else np.nan
        expected = oracle if visible else through_neighbours.get(str(gene), 0.5)
        rows.append(
            {
                "gene": gene,
                "role": _role(planted["attribute"].iloc[0], where),
                "d": float(planted["d"].iloc[0]),
                "bayes_auc": bayes_auc(float(planted["d"].iloc[0])),
                "oracle_auc": oracle,
                "drawn_auc": _drawn_auc(planted, truth_tiles, tiles) if visible else np.nan,
                "expected_auc": expected,
                **{c: float(one[c]) if pd.notna(one[c]) else np.nan for c in ("auc", "ci_low", "ci_high")},
                "n_pos": int(one["n_pos"]),
                "n_neg": int(one["n_neg"]),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.assign(gap=frame["expected_auc"] - frame["auc"])


def _role(attribute: object, where: object) -> str:
    import pandas as pd

    if pd.isna(attribute):
        return "control: nothing planted"
    place = {"tumour": "", "region": ", in a part of the tumour", "40x": ", at 40× only"}[str(where)]
    return str(attribute).replace("_", " ") + place


def _auc(planted: pd.DataFrame, column: str) -> float:
    kept = planted.dropna(subset=[column])
    if kept.empty:
        return float("nan")
    return oracle_auc(kept["mutated"].to_numpy(bool), kept[column].to_numpy(float))


def _drawn_auc(planted: pd.DataFrame, truth_tiles: pd.DataFrame, tiles: pd.DataFrame) -> float:
    """AUC of the drawn attribute, oriented as the planted effect is."""
    gene, attribute = str(planted["gene"].iloc[0]), str(planted["attribute"].iloc[0])
    values = drawn_values(truth_tiles, tiles, attribute)
    joined = planted.merge(values, on="patient_id", how="inner")
    return _auc(joined.assign(value=np.sign(EFFECTS[gene].log_step) * joined["value"]), "value")


def inside_outside(
    predictions: pd.DataFrame, truth_tiles: pd.DataFrame, truth_patients: pd.DataFrame, gene: str
) -> pd.DataFrame:
    """Does a map point at the place? Per slide: AUROC of tile scores inside against outside the planted region.

    A tumour tile (half of it or more inside the tumour) is inside when half of it or more lies in the region. Slides
    without a tile on either side are left out.

    Returns
    -------
    DataFrame
        slide_id, patient_id, mutated, n_inside, n_outside, auroc, pointed (the highest tile lies inside), chance (share
        of tiles inside: what a random pointer would hit).
    """
    import pandas as pd

    one = predictions[(predictions["gene"] == gene) & predictions["score"].notna()]
    columns = ["tile_id", "tumour_fraction", "subclone_fraction"]
    joined = one.merge(truth_tiles[columns], on="tile_id", how="left", validate="one_to_one")
    if len(lost := joined[joined["tumour_fraction"].isna()]):
        raise CohortError("A scored tile is not among the truth tiles", got=lost["tile_id"].iloc[0],
                          expected="tiles of 512 px at 0.5 µm/px, as the truth has them")  # fmt: skip
    joined = joined[joined["tumour_fraction"] >= 0.5].assign(inside=lambda f: f["subclone_fraction"] >= 0.5)
    status = truth_patients[truth_patients["gene"] == gene].set_index("patient_id")["mutated"]
    rows = []
    for (patient, slide), part in joined.groupby(["patient_id", "slide_id"]):
        inside, score = part["inside"].to_numpy(bool), part["score"].to_numpy(float)
        if inside.any() and not inside.all():
            row = {"slide_id": slide, "patient_id": patient, "mutated": bool(status[patient])}
            row |= {"n_inside": int(inside.sum()), "n_outside": int((~inside).sum())}
            row |= {"auroc": oracle_auc(inside, score), "pointed": bool(inside[score.argmax()])}
            rows.append(row | {"chance": float(inside.mean())})
    names = ["slide_id", "patient_id", "mutated", "n_inside", "n_outside", "auroc", "pointed", "chance"]
    return pd.DataFrame(rows, columns=names)


def patient_mean(
    frame: pd.DataFrame, column: str, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """Mean over patients of a per-slide value, with a 95 % percentile interval from resampling patients.

    Returns
    -------
    mean, low, high, number of patients; NaN and 0 for an empty frame
    """
    values = frame.groupby("patient_id")[column].mean().to_numpy(float)
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan"), 0
    draws = generator(seed, "patient mean", column).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high), len(values)


def filter_performance(tiles: pd.DataFrame, truth_tiles: pd.DataFrame) -> pd.DataFrame:
    """How well the quality filter sees each artefact, tile by tile.

    Only tiles that reached the filter count (those that notebook 02 kept). Blur and pen are looked for: a tile is
    affected, and flagged, from :data:`ARTEFACT_SHARE` of its area on. The others are not looked for by name: `recall`
    is then the share of affected tiles that any filter dropped, and there is no precision.

    Returns
    -------
    DataFrame
        artefact, looked_for, n_tiles, affected, flagged, both, precision, recall (null where nothing is affected or
        flagged).
    """
    import pandas as pd

    screened = tiles[tiles["noise_ratio"].notna()]
    truth = truth_tiles.rename(columns={f"{kind}_fraction": f"true_{kind}" for kind in ("blur", "pen")})
    columns = ["tile_id", "true_blur", "true_pen", *(f"{kind}_fraction" for kind in _NOT_LOOKED_FOR)]
    joined = screened.merge(truth[columns], on="tile_id", how="left", validate="one_to_one")
    rows = []
    for kind, column in _LOOKED_FOR.items():
        rows.append(_agreement(kind, True, joined[f"true_{kind}"], joined[column] >= ARTEFACT_SHARE))
    for kind in _NOT_LOOKED_FOR:
        rows.append(_agreement(kind, False, joined[f"{kind}_fraction"], ~joined["kept"].astype(bool)))
    return pd.DataFrame(rows)


def _agreement(kind: str, looked_for: bool, share: pd.Series, flagged: pd.Series) -> dict[str, object]:
    affected, called = (share >= ARTEFACT_SHARE).to_numpy(bool), flagged.fillna(False).to_numpy(bool)
    both = int((affected & called).sum())
    row = {"artefact": kind, "looked_for": looked_for, "n_tiles": len(share), "affected": int(affected.sum())}
    row |= {"flagged": int(called.sum()), "both": both}
    row["precision"] = both / called.sum() if looked_for and called.any() else np.nan
    row["recall"] = both / affected.sum() if affected.any() else np.nan
    return row


def exchange_labels(labels: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The same labels at other patients: whole patients are exchanged, so prevalence and co-mutation stay.

    Parameters
    ----------
    labels : DataFrame
        Table LABELS.
    seed : int
        Seed of the exchange.
    """
    patients = np.sort(labels["patient_id"].unique())
    other = dict(zip(patients, generator(seed, "exchange labels").permutation(patients), strict=True))
    return labels.assign(patient_id=labels["patient_id"].map(other)).reset_index(drop=True)


def site_agreement(colours: NDArray[np.float64], site: NDArray[np.str_]) -> dict[str, float]:
    """How far sites differ in colour.

    Parameters
    ----------
    colours : ndarray, shape (n, channels)
        Mean colour of each slide.
    site : ndarray, shape (n,)
        Its tissue source site.

    Returns
    -------
    dict
        between (root mean square distance of site means from their centre), within (the same of slides from their
        site's mean), ratio (between / within), neighbour (share of slides whose nearest other slide is of the same
        site) and chance (what `neighbour` would be if colours knew nothing of the site).
    """
    names, index, count = np.unique(site, return_inverse=True, return_counts=True)
    means = np.stack([colours[index == i].mean(axis=0) for i in range(len(names))])
    between = float(np.sqrt(np.sum((means - means.mean(axis=0)) ** 2, axis=1).mean()))
    within = float(np.sqrt(np.sum((colours - means[index]) ** 2, axis=1).mean()))
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    same = index[distance.argmin(axis=1)] == index
    chance = float(np.sum(count * (count - 1)) / (len(site) * max(len(site) - 1, 1)))
    return {
        "between": between,
        "within": within,
        "ratio": between / within if within else np.nan,
        "neighbour": float(same.mean()),
        "chance": chance,
    }
