"""Recovered against planted: what a pipeline found in a synthetic cohort, beside what was put there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy import stats
from shapely.geometry.base import BaseGeometry

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.text import interval_text, listed, p_text, with_ends
from deeplrhe_utils.evaluation.auc.delong import holm
from deeplrhe_utils.evaluation.audits.probing import LEVEL
from deeplrhe_utils.slides.outlines.find import box_fractions
from deeplrhe_utils.synthetic.genes import EFFECTS, Effect, oracle_auc

_DRAWN: Final = {
    "nuclear_area": "nuclear_area_um2",
    "nuclear_density": "nuclear_density_per_mm2",
    "lymphocyte_share": "lymphocyte_share",
    "chromatin_texture": "chromatin_contrast",
}
"""Attribute → column of TRUTH_TILES that says how much of it was drawn in a tile."""
ARTEFACT_SHARE: Final = 0.25
"""A tile counts as affected, and as flagged, from this share of its area on: the same cut for truth and filter."""
BLURRED_SHARE: Final = 0.1
"""Defocus moves scores before it covers a quarter of a tile."""
THIN_SHARE: Final = {"edge": 0.05, "hair": 0.01, "dust": 0.01}
"""The same for what never covers a quarter of a tile."""
_LOOKED_FOR: Final = ("blur", "pen", "fold", "bubble", "jpeg")
_NOT_LOOKED_FOR: Final = ("hole", "edge", "hair", "dust")


def bayes_auc(d: float) -> float:
    """Φ(d / √2), the best AUC any reader of a gene's own latent can expect."""
    return Effect("", d, 0.0, "").bayes_auc


def drawn_values(truth_tiles: pd.DataFrame, tiles: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """How much of an attribute the patient's selected tiles hold: the mean of what was drawn in them.

    Returns DataFrame: patient_id, value; patients whose tiles hold none (such as fine chromatin at 20×) are absent.
    """
    column = _DRAWN[attribute]
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
    predictions: pd.DataFrame,
    without_seeing: Mapping[str, float],
) -> pd.DataFrame:
    """One row per gene: from what was planted to what was recovered.

    Parameters
    ----------
    headline : patient-level rows of table METRICS with one interval per gene
    truth_patients, truth_tiles : truth tables
    tiles, labels, predictions : what the pipeline used and said. Oracle and drawn AUC are those of the patients that
        were scored for the gene.
    without_seeing : gene → AUC expected of a reader who cannot see its effect (through neighbours, or the site);
        default 0.5

    Returns DataFrame: gene, role, d, bayes_auc (expectation), oracle_auc (the latent, these patients), drawn_auc (what
    the tiles hold, these patients; null for controls and where nothing can be seen at this resolution), expected_auc
    (what a perfect pipeline would give here: the oracle, or `without_seeing`), auc, ci_low, ci_high, n_pos, n_neg, gap
    (expected − recovered).
    """
    known = labels.dropna(subset=["status"])[["patient_id", "gene"]]
    scored = predictions.dropna(subset=["score"])[["patient_id", "gene"]].drop_duplicates().merge(known)
    rows = []
    for gene, planted in truth_patients.groupby("gene", sort=False):
        found = headline[headline["gene"] == gene]
        if found.empty:
            continue
        one, d, where = found.iloc[0], float(planted["d"].iloc[0]), planted["where"].iloc[0]
        role = _role(planted["attribute"].iloc[0], where, d)
        planted = planted[planted["patient_id"].isin(scored.loc[scored["gene"] == gene, "patient_id"])]
        visible = d > 0 and where != "40x"
        oracle = _auc(planted, "latent") if d > 0 else np.nan
        drawn = _drawn_auc(planted, truth_tiles, tiles) if visible and len(planted) else np.nan
        expected = oracle if visible else without_seeing.get(str(gene), 0.5)
        found_auc = {c: float(one[c]) if pd.notna(one[c]) else np.nan for c in ("auc", "ci_low", "ci_high")}
        rows.append({"gene": gene, "role": role, "d": d, "bayes_auc": bayes_auc(d), "oracle_auc": oracle,
                     "drawn_auc": drawn, "expected_auc": expected, **found_auc, "n_pos": int(one["n_pos"]),
                     "n_neg": int(one["n_neg"])})  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.assign(gap=frame["expected_auc"] - frame["auc"])


def recovery_texts(table: pd.DataFrame, readable: Sequence[str]) -> list[str]:
    """Of each gene of :func:`recovery` that can be seen: its AUC with interval, and what can be known."""
    shown = table[table["gene"].isin(readable) & (table["d"] > 0) & table["auc"].notna()]
    return [f"{row['gene']} {with_ends(row)} of {row['expected_auc']:.2f}" for row in shown.to_dict("records")]


def told_by_diagnosis(over: pd.DataFrame, within: pd.DataFrame, alone: pd.Series) -> pd.DataFrame:
    """Which genes are found in the tissue, and which only over both diagnoses, where the diagnosis tells of them.

    Parameters
    ----------
    over, within : of :func:`recovery`, over both diagnoses and within one
    alone : AUC that the diagnosis alone gives, by gene

    Returns DataFrame: gene, alone, over, over_low, over_high, inside, inside_low, inside_high, verdict, sentence.
    """
    parts, ends = [], {}
    for name, frame in (("over", over), ("inside", within)):
        own = frame.set_index("gene")[["auc", "ci_low", "ci_high"]].astype(float)
        ends[name] = {gene: with_ends(row) for gene, row in own.to_dict("index").items()}
        parts.append(own.set_axis([name, f"{name}_low", f"{name}_high"], axis=1))
    table = pd.concat([alone.rename("alone"), *parts], axis=1).loc[over["gene"]].rename_axis("gene").reset_index()
    found, kept = table["over_low"] > 0.5, table["inside_low"] > 0.5
    read = found & (table["alone"] >= table["over_low"]) & table["inside"].notna()
    rules = [table["over"].isna() & table["inside"].isna(), kept, read, found]
    words = ["cannot be estimated", "found in the tissue", "found over both diagnoses only, as by the diagnosis",
             "found over both diagnoses; too few adenocarcinomas to tell whose it is"]  # fmt: skip
    table["verdict"] = np.select(rules, words, "not found")
    table["sentence"] = [
        f"{r.gene}: {ends['over'][r.gene]} over both diagnoses, where the diagnosis alone gives "
        f"{r.alone:.2f}; within adenocarcinoma {ends['inside'].get(r.gene, '–')}: {r.verdict}"
        for r in table.itertuples()
    ]
    return table


def told_sentence(fooled: pd.DataFrame, n: int) -> str:
    """The table of :func:`told_by_diagnosis` in one sentence; `n` patients."""
    read, kept = [], []
    for row in fooled.to_dict("records"):
        over, inside = (interval_text(row[k], row[f"{k}_low"], row[f"{k}_high"]) for k in ("over", "inside"))
        if row["verdict"].startswith("found over both diagnoses only"):
            told = f"within adenocarcinoma {inside}; by the diagnosis alone {row['alone']:.2f}"
            read.append(f"{row['gene']} ({over}; {told})")
        elif row["verdict"] == "found in the tissue":
            kept.append(f"{row['gene']} {inside}")
    return (f"Among {n} patients the AUC is read off the diagnosis for {listed(read, 'no gene')}; "
            f"found in the tissue: {listed(kept)}.")  # fmt: skip


def _role(attribute: object, where: object, d: float) -> str:
    if pd.isna(attribute) or d == 0:
        return "control: nothing planted"
    place = {"tumour": "", "region": ", in a part of the tumour", "40x": ", at 40× only"}[str(where)]
    return str(attribute).replace("_", " ") + place


def check_grid(tiles: pd.DataFrame, truth_tiles: pd.DataFrame) -> None:
    """Make sure that the pipeline's tiles are the truth's: same names at the same places.

    Raises CohortError: a tile is unknown to the truth, or lies elsewhere or has another size [level-0 px]; named with
    both.
    """
    keys = ["x_l0_px", "y_l0_px", "size_l0_px"]
    joined = tiles[["tile_id", *keys]].merge(truth_tiles[["tile_id", *keys]], on="tile_id", how="left",
                                             suffixes=("", "_true"))  # fmt: skip
    ours, theirs = (joined[names].astype("Float64").to_numpy(float, na_value=np.nan)
                    for names in (keys, [f"{k}_true" for k in keys]))  # fmt: skip
    if len(wrong := np.flatnonzero(~np.isclose(ours, theirs, atol=1e-6).all(axis=1))):
        i = int(wrong[0])
        raise CohortError(
            f"{len(wrong)} tiles are not the tiles of the truth, the first: {joined['tile_id'].iloc[i]}",
            got=f"x, y, size {ours[i].tolist()} level-0 px",
            expected=f"{theirs[i].tolist()}",
            fix="The truth is kept for tiles of 512 px at 0.5 µm/px: run 02 with these",
        )


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


def truth_at(
    places: pd.DataFrame, outlines: Mapping[str, Mapping[str, BaseGeometry]], truth_tiles: pd.DataFrame
) -> pd.DataFrame:
    """The truth of tiles that are not the truth's own: of any place, size and shape, by area.

    Parameters
    ----------
    places : tile_id, slide_id, x, y, width, height [level-0 px]
    outlines : slide → name (tumour, subclone, an artefact) → its true outline [level-0 px]; absent: none there

    Returns DataFrame: tile_id, slide_id, a ``…_fraction`` of each of these names, and the mean of what was drawn in the
    truth's tiles that a tile overlaps, by their common area (null where nothing is known).
    """
    names, parts = ("tumour", "subclone", *_LOOKED_FOR, *_NOT_LOOKED_FOR), []
    for slide, own in places.groupby("slide_id", sort=False):
        low = own[["x", "y"]].to_numpy(float)
        high = low + own[["width", "height"]].to_numpy(float)
        there, drawn = truth_tiles[truth_tiles["slide_id"] == slide], outlines[str(slide)]
        begin = there[["x_l0_px", "y_l0_px"]].to_numpy(float)
        end = begin + there[["size_l0_px"]].to_numpy(float)
        common = np.minimum(high[:, None], end[None]) - np.maximum(low[:, None], begin[None])
        area = np.clip(common, 0, None).prod(axis=2)
        boxes = np.asarray(shapely.box(*low.T, *high.T))
        part = own[["tile_id", "slide_id"]].copy()
        for name in names:
            part[f"{name}_fraction"] = box_fractions(drawn[name], boxes) if name in drawn else 0.0
        for column in _DRAWN.values():
            value = there[column].to_numpy(float, na_value=np.nan)
            weight = area * np.isfinite(value)
            with np.errstate(invalid="ignore"):
                part[column] = (weight @ np.nan_to_num(value)) / weight.sum(axis=1)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def inside_outside(
    predictions: pd.DataFrame, truth_tiles: pd.DataFrame, truth_patients: pd.DataFrame, gene: str
) -> pd.DataFrame:
    """Does a map point at the place? Per slide: AUROC of tile scores inside against outside the planted region.

    A tumour tile (half of it or more inside the tumour) is inside when half of it or more lies in the region. Slides
    without a tile on either side are left out.

    Returns DataFrame: slide_id, patient_id, mutated, n_inside, n_outside, auroc, drawn_auroc (the same for the
    attribute that was drawn in these tiles: what a perfect reader would reach), pointed (the highest tile lies inside),
    chance (share of tiles inside: what a random pointer would hit). Empty when nobody was scored for the gene.
    """
    one = predictions[(predictions["gene"] == gene) & predictions["score"].notna()]
    planted = truth_patients[truth_patients["gene"] == gene].set_index("patient_id")
    drawn = _DRAWN[str(planted["attribute"].iloc[0])]
    columns = ["tile_id", "tumour_fraction", "subclone_fraction", drawn]
    joined = one.merge(truth_tiles[columns], on="tile_id", how="left", validate="one_to_one")
    if len(lost := joined[joined["tumour_fraction"].isna()]):
        raise CohortError("A scored tile is not among the truth tiles", got=lost["tile_id"].iloc[0],
                          expected="tiles of 512 px at 0.5 µm/px, as the truth has them")  # fmt: skip
    joined = joined[joined["tumour_fraction"] >= 0.5].assign(inside=lambda f: f["subclone_fraction"] >= 0.5)
    sign, rows = np.sign(EFFECTS[gene].log_step), []
    for (patient, slide), part in joined.groupby(["patient_id", "slide_id"]):
        inside, score = part["inside"].to_numpy(bool), part["score"].to_numpy(float)
        if not inside.any() or inside.all():
            continue
        known = part[drawn].notna().to_numpy(bool)
        painted = sign * part[drawn].to_numpy(float, na_value=np.nan)
        rows.append({"slide_id": slide, "patient_id": patient, "mutated": bool(planted["mutated"][patient]),
                     "n_inside": int(inside.sum()), "n_outside": int((~inside).sum()),
                     "auroc": oracle_auc(inside, score), "drawn_auroc": oracle_auc(inside[known], painted[known]),
                     "pointed": bool(inside[score.argmax()]), "chance": float(inside.mean())})  # fmt: skip
    names = ["slide_id", "patient_id", "mutated", "n_inside", "n_outside", "auroc", "drawn_auroc", "pointed", "chance"]
    return pd.DataFrame(rows, columns=names).astype({"mutated": bool, "pointed": bool, "auroc": float, "chance": float})


def exemplary(inside: pd.DataFrame) -> pd.DataFrame:
    """Best, median and worst slide of mutated, then of wild-type patients: rows of :func:`inside_outside` with `rank`.

    Of slides of one AUROC, the one with most pairs of tiles. Fewer than three slides are shown once each.
    """
    parts = []
    for _, own in inside.groupby(~inside["mutated"]):
        for rank, value in (("best", own["auroc"].max()), ("median", own["auroc"].median()),
                            ("worst", own["auroc"].min())):  # fmt: skip
            near = own.assign(away=(own["auroc"] - value).abs(), pairs=-own["n_inside"] * own["n_outside"], rank=rank)
            parts.append(near.sort_values(["away", "pairs", "slide_id"]).head(1).drop(columns=["away", "pairs"]))
    return pd.concat(parts).drop_duplicates("slide_id") if parts else inside.assign(rank="")


def blur_shift(predictions: pd.DataFrame, tiles: pd.DataFrame, truth_tiles: pd.DataFrame) -> pd.DataFrame:
    """How far defocus moves scores: within slides, tiles blurred on more than :data:`BLURRED_SHARE` against sharp ones.

    Returns DataFrame: gene, n_slides (with tiles of both kinds), difference (mean over slides of blurred minus sharp
    mean score), ci_low, ci_high (t, 95 %), p, p_holm, and of all tiles that the filter for blur saw n_blurred and kept
    (share of the blurred). Null with fewer than two slides.
    """
    true = truth_tiles[["tile_id"]].assign(blurred=truth_tiles["blur_fraction"] > BLURRED_SHARE)
    scored = predictions.dropna(subset=["score"]).merge(true, on="tile_id")
    means = scored.groupby(["gene", "slide_id", "blurred"], sort=False)["score"].mean().unstack("blurred")
    means = means.reindex(columns=[False, True]).astype(float)
    seen = tiles[tiles["blur_fraction"].notna()].merge(true, on="tile_id").query("blurred")
    rows = []
    for gene, own in (means[True] - means[False]).groupby("gene", sort=False):
        change = own.dropna().to_numpy()
        row = {"gene": gene, "n_slides": len(change), "difference": change.mean() if len(change) else np.nan}
        if len(change) > 1:
            test = stats.ttest_1samp(change, 0.0)
            row |= {**test.confidence_interval()._asdict(), "p": test.pvalue}
        rows.append(row)
    names = ["gene", "n_slides", "difference", "low", "high", "p"]
    table = pd.DataFrame(rows, columns=names).rename(columns={"low": "ci_low", "high": "ci_high"})
    known = table["p"].notna()
    table.loc[known, "p_holm"] = holm(table.loc[known, "p"].to_numpy(float))
    return table.assign(n_blurred=len(seen), kept=_share(seen["kept"].sum(), len(seen)))


def blur_sentence(table: pd.DataFrame) -> str:
    """The table of :func:`blur_shift` in one sentence."""
    known = table.dropna(subset=["p"]) if "p_holm" in table else table.iloc[:0]
    if known.empty:
        return "No two slides have both blurred and sharp tiles with a score."
    moved = known[known["p_holm"] < LEVEL].sort_values("p")
    shown = [f"{r['gene']} by {with_ends(r, 'difference', 3)} (p {p_text(r['p_holm'])})"
             for r in moved.to_dict("records")]  # fmt: skip
    n, first = int(known["n_slides"].max()), known.iloc[0]
    return (f"Within {n} slides defocus moves the score of {listed(shown, 'no gene')}, Holm-adjusted over {len(known)} "
            f"genes; the filter keeps {first['kept']:.0%} of {first['n_blurred']} blurred tiles.")  # fmt: skip


AIMS: Final = {"gap": 0.07, "map": 0.8, "seen": 0.9, "p": 0.05, "alarm": 0.55}
"""Bounds that were set before the first run, but for those that guard against too high a value and the probes'."""


def judged_aims(
    within: pd.DataFrame, filtered: pd.DataFrame, pointing: tuple[str, float], probes: Mapping[str, float],
    silence: float, alarm: float,
) -> pd.DataFrame:  # fmt: skip
    """What was aimed at, and whether it was reached.

    Parameters
    ----------
    within, filtered : of :func:`recovery` and :func:`filter_performance`
    pointing : gene of the region (or "") and its AUROC inside/outside
    probes : gene that can be seen → p of the probe
    silence, alarm : smallest adjusted p of the probe where nothing is planted, and mean AUC of a network on exchanged
        labels; NaN: not estimable, and no aim

    Returns DataFrame: aim, sense (at least, at most), bound, value, reached (yes, no, not estimable).
    """
    shown, null = within[within["gene"].isin(probes)], within[(within["d"] == 0) & within["auc"].notna()]
    covered = ((null["ci_low"] <= 0.5) & (null["ci_high"] >= 0.5)).mean() if len(null) else np.nan
    rows: list[tuple[str, str, float, float]] = [
        *((f"{r.gene}: expected − recovered AUC", "at most", AIMS["gap"], r.gap) for r in shown.itertuples()),
        *((f"{r.gene}: interval's lower end − expected", "at most", 0.0, r.ci_low - r.expected_auc)
          for r in shown.itertuples()),
        ("controls whose interval covers 0.5 (share)", "at least", 1.0, covered),
        *((f"{gene} map: AUROC inside/outside", "at least", AIMS["map"], value) for gene, value in [pointing] if gene),
        *((f"{r.artefact} seen: {m}", "at least", AIMS["seen"], getattr(r, m))
          for r in filtered[filtered["looked_for"]].itertuples() for m in ("recall", "precision")),
        ("nothing planted: smallest adjusted p of the probe", "at least", AIMS["p"], silence),
        *((f"{gene}: p of the probe", "at most", AIMS["p"], p) for gene, p in probes.items()),
        *[("exchanged labels: mean AUC of the network's heads", "at most", AIMS["alarm"], alarm)] * (alarm == alarm),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["aim", "sense", "bound", "value"]).astype({"value": float})
    met = np.where(table["sense"] == "at least", table["value"] >= table["bound"], table["value"] <= table["bound"])
    return table.assign(reached=np.where(table["value"].isna(), "not estimable", np.where(met, "yes", "no")))


def patient_mean(frame: pd.DataFrame, column: str, *, seed: int = 0) -> tuple[float, float, float, int]:
    """Mean over patients of a per-slide value, with a 95 % percentile interval from resampling patients 2,000 times.

    Returns mean, low, high, number of patients; NaN and 0 for an empty frame.
    """
    values = frame.groupby("patient_id")[column].mean().to_numpy(float)
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan"), 0
    draws = generator(seed, "patient mean", column).integers(0, len(values), (2000, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high), len(values)


def filter_performance(
    tiles: pd.DataFrame, truth_tiles: pd.DataFrame, looked_for: Sequence[str] = _LOOKED_FOR
) -> pd.DataFrame:
    """How well the quality filter sees each artefact, and what it does about it, tile by tile.

    For each artefact those tiles count in which it was looked for: pen, folds and bubbles in all that notebook 02
    kept, blur and damaged compression in those that were still kept when they were decoded. A tile is *affected*, and
    *seen*, from :data:`ARTEFACT_SHARE` on: of its area in the truth (which covers air inside tissue, too), of its
    tissue in the measure for blur, of its area for the others. Holes, edges, hairs and
    dust are not looked for by name. *Dropped* is another
    matter: it needs the thresholds of notebook 03, which let a half-blurred tile pass, as the paper's 75 % does.
    Other filters have other kinds, in `looked_for`: each a ``…_fraction`` of `tiles` and of `truth_tiles`.

    Returns DataFrame: artefact, looked_for, n_tiles, affected, seen, both, precision (both / seen), recall (both /
    affected), dropped (share of the affected tiles that were dropped, for whatever reason). Null where the denominator
    is 0, or where the artefact is not looked for.
    """
    screened = tiles[tiles["pen_fraction"].notna()] if "pen" in looked_for else tiles
    kinds = list(dict.fromkeys((*looked_for, *_LOOKED_FOR, *_NOT_LOOKED_FOR)))
    shares = [f"{kind}_fraction" for kind in kinds]
    truth = truth_tiles[["tile_id", *shares]].rename(columns={name: f"true_{name}" for name in shares})
    joined = screened.merge(truth, on="tile_id", how="left", validate="one_to_one")
    rows = []
    for kind in kinds:
        own = joined[joined[f"{kind}_fraction"].notna()] if kind in looked_for else joined
        gone = ~own["kept"].to_numpy(bool)
        cut = THIN_SHARE.get(kind, ARTEFACT_SHARE)
        affected = (own[f"true_{kind}_fraction"] >= cut).to_numpy(bool)
        row: dict[str, object] = {"artefact": kind, "looked_for": kind in looked_for, "n_tiles": len(own)}
        row["affected"] = int(affected.sum())
        if kind in looked_for:
            seen = (own[f"{kind}_fraction"] >= cut).to_numpy(bool)
            both = int((affected & seen).sum())
            row |= {"seen": int(seen.sum()), "both": both}
            row |= {"precision": _share(both, seen.sum()), "recall": _share(both, affected.sum())}
        rows.append(row | {"dropped": _share((affected & gone).sum(), affected.sum())})
    names = ["artefact", "looked_for", "n_tiles", "affected", "seen", "both", "precision", "recall", "dropped"]
    return pd.DataFrame(rows, columns=names)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def site_table(colours: pd.DataFrame) -> pd.DataFrame:
    """:func:`site_agreement` of each `when` (before, after): rows of when, red, green, blue, site_id, patient_id."""
    found = {when: site_agreement(own[["red", "green", "blue"]].to_numpy(),
                                  *(own[c].to_numpy(dtype=str) for c in ("site_id", "patient_id")))
             for when, own in colours.groupby("when", sort=False)}  # fmt: skip
    return pd.DataFrame(found).T.rename_axis("when")


def site_agreement(colours: NDArray[np.float64], site: NDArray[np.str_], patient: NDArray[np.str_]) -> dict[str, float]:
    """How far sites differ in colour, beyond what their patients do.

    Slides of a patient are averaged first, because they share the site. Sites with a single patient say nothing about
    the spread inside a site and are left out.

    Parameters
    ----------
    colours : ndarray, shape (n, channels): mean colour of each slide
    site, patient : ndarray, shape (n,): its tissue source site and its patient

    Returns dict: between (standard deviation of sites' true means: of their observed means, less what chance adds),
    within (pooled standard deviation of patients inside their site), both over all channels together; neighbour (share
    of patients whose most similar patient is of the same site), chance (what that would be if colours knew nothing of
    the site), sites and patients (how many counted). NaN where fewer than two sites have two patients.
    """
    names, who = np.unique(patient, return_inverse=True)
    means = np.stack([colours[who == i].mean(axis=0) for i in range(len(names))])
    where = np.array([site[who == i][0] for i in range(len(names))])
    _, index, count = np.unique(where, return_inverse=True, return_counts=True)
    several = count[index] >= 2
    n, k = int(several.sum()), int((count >= 2).sum())
    found = {"sites": float(k), "patients": float(n)}
    if k < 2:
        return found | dict.fromkeys(("between", "within", "neighbour", "chance"), float("nan"))
    means, index = means[several], np.unique(index[several], return_inverse=True)[1]
    centres, size = np.stack([means[index == i].mean(axis=0) for i in range(k)]), np.bincount(index)
    within2 = float(np.sum((means - centres[index]) ** 2) / (n - k))
    between2 = float(np.sum((centres - centres.mean(axis=0)) ** 2) / (k - 1)) - within2 * float(np.mean(1 / size))
    distance = np.linalg.norm(means[:, None] - means[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    same = index[distance.argmin(axis=1)] == index
    return found | {
        "between": float(np.sqrt(max(between2, 0.0))),
        "within": float(np.sqrt(within2)),
        "neighbour": float(same.mean()),
        "chance": float(np.sum(size * (size - 1)) / (n * (n - 1))),
    }
