"""The plan of a synthetic cohort: patients, labels, clinical data, slides and the planted truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.schemas import CLINICAL, LABELS, conform
from deeplrhe_utils.core.seeds import generator

GENES: tuple[str, ...] = ("TP53", "EGFR", "STK11", "POLE", "POLD1", "PBRM1", "DNMT3A", "KRAS")

PREVALENCE: Final = {
    "TP53": 0.507,
    "EGFR": 0.122,
    "STK11": 0.133,
    "POLE": 0.051,
    "POLD1": 0.012,
    "PBRM1": 0.019,
    "DNMT3A": 0.042,
    "KRAS": 0.297,
}
"""Share of 566 TCGA-LUAD patients with a non-silent call (cBioPortal, PanCancer Atlas).

Calls that cBioPortal writes with ``=`` (the protein stays the same) are not counted; with them TP53 would be
0.521 and EGFR 0.124. The other genes have none."""

FLOORS: Final = {"TP53": 6, "EGFR": 4, "STK11": 2}
"""Least number of mutated patients, where a gene carries an effect (never more than half the patients)."""


@dataclass(frozen=True)
class Effect:
    """How one gene shows: the attribute it moves, and by how much.

    A patient's latent is ``z = d · mutated + noise`` with unit-variance normal noise; the attribute's
    factor is ``exp(log_step · z)``. A reader who sees the latent perfectly reaches the Bayes-optimal
    patient-level AUC Φ(d / √2).
    """

    attribute: str
    d: float
    log_step: float

    @property
    def bayes_auc(self) -> float:
        """Φ(d / √2), the best patient-level AUC any reader can reach in expectation."""
        return 0.5 * (1.0 + math.erf(self.d / 2.0))


# Fixed before any model was trained; d = 2 with step 0.186 makes mutated nuclei exp(0.372) = 1.45 x larger in area.
EFFECTS: Final = {
    "TP53": Effect("nuclear_area", d=2.0, log_step=0.186),
    "EGFR": Effect("nuclear_density", d=1.5, log_step=-0.17),
    "STK11": Effect("lymphocyte_share", d=1.2, log_step=-0.50),
}
"""Genes that show in the tissue. The others have no effect of their own (d = 0) and serve as negative controls, except
KRAS: it excludes EGFR, so a reader who sees EGFR's effect learns a little about KRAS."""

SITES: tuple[str, ...] = tuple(f"{i:02d}" for i in range(1, 13))
_SCANNERS: Final = ((20, 0.5), (20, 0.5), (40, 0.25), (20, 0.5), (20, 0.5), (20, 0.5), (40, 0.2527), (20, 0.5))
_PATIENTS_PER_SLIDE: Final = 8 / 9
_NOT_PROFILED: Final = 0.02
_TARGET_MPP: Final = 0.5


@dataclass(frozen=True)
class CohortPlan:
    """Everything that is known before a pixel is drawn.

    Attributes
    ----------
    slides : DataFrame
        One row per slide: slide_id, patient_id, site_id, sample_type, subtype, objective, mpp [µm/px],
        width_l0_px, height_l0_px, jpeg_quality, tumour_share [0–1], blur_spots, pen_strokes.
    labels : DataFrame
        Table LABELS: patient × gene; null where a patient was not profiled.
    clinical : DataFrame
        Table CLINICAL: one row per patient.
    truth : DataFrame
        One row per patient: ``mutated_<gene>`` (also where the label is null), ``latent_<gene>`` for
        genes with an effect, and the factors nuclear_area, nuclear_density, lymphocyte_share.
    seed : int
        The only source of randomness.
    tile_px : int
        Tile size the slide sizes were planned for [px at 0.5 µm/px].
    """

    slides: pd.DataFrame
    labels: pd.DataFrame
    clinical: pd.DataFrame
    truth: pd.DataFrame
    seed: int
    tile_px: int

    @property
    def effects(self) -> pd.DataFrame:
        """One row per gene: gene, attribute (null for negative controls), d, bayes_auc."""
        none = Effect("", 0.0, 0.0)
        rows = [(g, EFFECTS.get(g, none)) for g in GENES]
        return pd.DataFrame([(g, e.attribute or None, e.d, e.bayes_auc) for g, e in rows]).set_axis(
            ["gene", "attribute", "d", "bayes_auc"], axis=1
        )


def plan_cohort(
    n_slides: int, seed: int, *, grid_columns: int = 6, grid_rows: int = 4, tile_px: int = 512
) -> CohortPlan:
    """Plan a synthetic cohort with a known truth.

    Declared rules (ours): about eight patients per nine slides, so that some patients have two; the
    number of mutated patients of a gene is its prevalence × patients, rounded, but not below
    :data:`FLOORS` for the genes that carry an effect and never above half the patients for that
    reason, so that a dozen slides still have both classes in both halves of a split; no patient has
    both EGFR and KRAS; about 2 % of calls of each gene (at least one call of each gene without an
    effect, where there are five patients or more) are not profiled; genes are independent of site,
    scanner and subtype.

    Parameters
    ----------
    n_slides : int
        Number of slides, at least 1.
    seed : int
        Seed of the cohort, not negative.
    grid_columns, grid_rows : int
        Whole tiles across and down at 0.5 µm/px.
    tile_px : int
        Tile size [px at 0.5 µm/px], at least 64.

    Returns
    -------
    CohortPlan
        See its attributes.

    Raises
    ------
    ParameterError
        A number is out of range.
    """
    _check_sizes(n_slides, seed, grid_columns, grid_rows, tile_px)
    n_patients = max(1, min(n_slides, round(n_slides * _PATIENTS_PER_SLIDE)))
    patients = _plan_patients(n_patients, seed)
    mutated = _draw_mutations(n_patients, seed)
    truth = _plant(patients, mutated, seed)
    return CohortPlan(
        slides=_plan_slides(patients, n_slides, seed, (grid_columns, grid_rows, tile_px)),
        labels=_labels(patients, mutated, seed),
        clinical=_clinical(patients, seed),
        truth=truth,
        seed=seed,
        tile_px=tile_px,
    )


def _check_sizes(n_slides: int, seed: int, columns: int, rows: int, tile_px: int) -> None:
    limits = {"n_slides": (n_slides, 1, 9999), "seed": (seed, 0, 2**63)}
    limits |= {"grid_columns": (columns, 1, 100), "grid_rows": (rows, 1, 100), "tile_px": (tile_px, 64, 4096)}
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise ParameterError(f"{name} is out of range", got=value, expected=f"{low} to {high}")


def _plan_patients(n: int, seed: int) -> pd.DataFrame:
    """Patients with their site, drawn so that sites fill evenly, and their subtype."""
    rng = generator(seed, "patients")
    site = np.array(SITES)[rng.permutation(np.arange(n) % len(SITES))]
    squamous = rng.permutation(np.arange(n)) < round(0.4 * n)
    ids = [f"SYNT-{s}-{i + 1:04d}" for i, s in enumerate(site)]
    subtype = np.where(squamous, "squamous", "adenocarcinoma")
    return pd.DataFrame({"patient_id": ids, "site_id": site, "subtype": subtype})


def planned_positives(gene: str, n_patients: int) -> int:
    """Number of mutated patients by the rule declared in :func:`plan_cohort`.

    >>> planned_positives("TP53", 160), planned_positives("EGFR", 160), planned_positives("EGFR", 11)
    (81, 20, 4)
    """
    floor = min(FLOORS.get(gene, 0), n_patients // 2)
    return max(floor, round(PREVALENCE[gene] * n_patients))


def _draw_mutations(n: int, seed: int) -> pd.DataFrame:
    """Patient × gene booleans; KRAS is drawn among patients without an EGFR mutation."""
    mutated = pd.DataFrame(False, index=range(n), columns=list(GENES))
    for gene in GENES:
        order = generator(seed, "mutations", gene).permutation(n)
        if gene == "KRAS":
            order = order[~mutated["EGFR"].to_numpy()[order]]
        mutated.loc[order[: planned_positives(gene, n)], gene] = True
    return mutated


def _plant(patients: pd.DataFrame, mutated: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Latents and attribute factors of every patient."""
    truth = pd.DataFrame({"patient_id": patients["patient_id"]})
    for gene in GENES:
        truth[f"mutated_{gene}"] = mutated[gene].to_numpy()
    for gene, effect in EFFECTS.items():
        noise = generator(seed, "latent", gene).standard_normal(len(patients))
        truth[f"latent_{gene}"] = effect.d * mutated[gene].to_numpy() + noise
    for gene, effect in EFFECTS.items():
        truth[effect.attribute] = np.exp(effect.log_step * truth[f"latent_{gene}"])
    return truth


def _labels(patients: pd.DataFrame, mutated: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Table LABELS of the cohort, a few calls hidden as not profiled."""
    frames = []
    for gene in GENES:
        status = mutated[gene].astype("Int64").to_numpy(dtype=object)
        status[_hidden(gene, mutated[gene].to_numpy(), seed)] = None
        variant = ["planted" if s == 1 else None for s in status]
        rows = {"patient_id": patients["patient_id"], "gene": gene, "status": status, "variant_class": variant}
        frames.append(pd.DataFrame(rows))
    labels = pd.concat(frames, ignore_index=True)
    labels["source"] = f"synthetic cohort, seed {seed}"
    return conform(labels, LABELS)


def _hidden(gene: str, mutated: np.ndarray, seed: int) -> np.ndarray:
    """Indices not profiled; wild types, so that the declared number of positives stays observable."""
    n = len(mutated)
    count = round(_NOT_PROFILED * n)
    if gene not in EFFECTS and n >= 5:
        count = max(1, count)
    wild = np.flatnonzero(~mutated)
    return generator(seed, "not profiled", gene).permutation(wild)[:count]


def _clinical(patients: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Table CLINICAL: plausible values that carry no information about any gene."""
    rng, n = generator(seed, "clinical"), len(patients)
    frame = patients.rename(columns={"subtype": "histology"}).copy()
    frame["age_years"] = np.clip(np.round(rng.normal(66, 9, n)), 35, 89)
    frame["sex"] = rng.choice(["female", "male"], n)
    frame["stage"] = rng.choice(["I", "II", "III", "IV"], n, p=[0.54, 0.24, 0.16, 0.06])
    frame["smoking"] = rng.choice(["never", "former", "current"], n, p=[0.12, 0.6, 0.28])
    frame["vital_status"] = rng.choice(["alive", "dead"], n, p=[0.6, 0.4])
    return conform(frame, CLINICAL)


def _plan_slides(patients: pd.DataFrame, n_slides: int, seed: int, grid: tuple[int, int, int]) -> pd.DataFrame:
    """One row per slide; the surplus of slides over patients gives some patients a second one."""
    twice = generator(seed, "second slides").permutation(len(patients))[: n_slides - len(patients)]
    numbered = [(i, 1) for i in range(len(patients))] + [(int(i), 2) for i in twice]
    return pd.DataFrame([_slide_row(patients.iloc[i], k, seed, grid) for i, k in sorted(numbered)])


def _slide_row(patient: pd.Series, number: int, seed: int, grid: tuple[int, int, int]) -> dict[str, object]:
    columns, rows, tile_px = grid
    rng = generator(seed, "slide", patient["patient_id"], number)
    frozen = rng.random() < (0.08 if number == 1 else 0.7)
    sample = f"01A-01-TS{number}" if frozen else f"01Z-00-DX{number}"
    site = int(patient["site_id"])
    power, mpp = _SCANNERS[site % len(_SCANNERS)]
    scale = power // 20
    sides = [_canvas_px(n * tile_px, tile_px, mpp * scale, rng) * scale for n in (columns, rows)]
    return {
        "slide_id": f"{patient['patient_id']}-{sample}",
        "patient_id": patient["patient_id"],
        "site_id": patient["site_id"],
        "sample_type": "frozen" if frozen else "diagnostic",
        "subtype": patient["subtype"],
        "objective": power,
        "mpp": mpp,
        "width_l0_px": sides[0],
        "height_l0_px": sides[1],
        "jpeg_quality": int(generator(seed, "site", patient["site_id"], "jpeg").integers(70, 86)),
        "tumour_share": round(float(rng.uniform(0.60, 0.74)), 4),
        "blur_spots": int(rng.choice([0, 1, 2], p=[0.7, 0.2, 0.1])),
        "pen_strokes": int(rng.choice([0, 1, 2], p=[0.88, 0.08, 0.04])),
    }


def _canvas_px(tiles_px: int, tile_px: int, canvas_mpp: float, rng: np.random.Generator) -> int:
    """Side of the 20× canvas [px]: the tiles plus a margin below one tile, in multiples of 8."""
    side = tiles_px + int(rng.integers(tile_px // 8, tile_px * 3 // 4))
    return math.ceil(side * _TARGET_MPP / canvas_mpp / 8) * 8
