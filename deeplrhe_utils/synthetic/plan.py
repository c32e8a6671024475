"""The plan of a synthetic cohort: patients, labels, clinical data, slides and the planted truth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import CLINICAL, LABELS
from deeplrhe_utils.core.tables.truth import TRUTH_GENES
from deeplrhe_utils.synthetic.genes import (
    CONFOUNDED,
    EFFECTS,
    GENE_SETS,
    HISTOLOGIES,
    Effect,
    Population,
    at_high_site,
    draw_patients,
    population,
)

ARTEFACTS: Final = {
    **{"blur": 0.40, "pen": 0.16, "fold": 0.15, "bubble": 0.10, "hole": 0.12, "jpeg": 0.06},
    **{"edge": 0.05, "hair": 0.10, "dust": 0.12},
}
"""Expected number of artefacts of each kind on a slide at rate 1 (Poisson, but never more than two of a kind)."""

FORMS: Final = {"resection": (0.55, 0.25), "wedge": (0.15, 0.25), "biopsy": (0.15, 0.45), "pieces": (0.15, 0.40)}
"""How often a slide has a form, and the least share of tumour in its tissue: small pieces need more to have a tile."""

SLIDE_COLUMNS: Final = (
    *("slide_id", "patient_id", "site_id", "sample_type", "subtype", "objective", "mpp", "mpp_in_metadata"),
    *("power_in_metadata", "width_l0_px", "height_l0_px", "section_l0_px_w", "section_l0_px_h", "sections_across"),
    *("sections_down", "jpeg_quality", "form", "tumour_share", *(f"n_{kind}" for kind in ARTEFACTS)),
)

# Objective power and true µm/px of the scanner of site 01, 02 … 12; site 13 has that of site 01 again. One site in four
# scans at 40x, among the first third of sites (where a confounded gene is frequent) as among the others.
_SCANNERS: Final = (
    *((20, 0.5), (40, 0.25), (20, 0.5), (20, 0.4990), (20, 0.5), (40, 0.2527)),
    *((20, 0.5), (20, 0.5029), (20, 0.5), (40, 0.25), (20, 0.5), (20, 0.5)),
)
_SITE_WITHOUT_MPP: Final = "03"  # its scanner writes the objective power only, and 10 / power is its true resolution
_LEAST_SLIDES_FOR_NEITHER: Final = 10  # a cohort of this size has a slide with neither resolution nor power
_PATIENTS_PER_SLIDE: Final = 8 / 9
_SLIDES_PER_PATIENT: Final = 4
_EXTRA_SLIDES: Final = (0.7, 0.2, 0.1)  # probability of one, two, three more slides where a patient has more than one
_NOT_PROFILED: Final = 0.02
_TARGET_MPP: Final = 0.5
_SECTION_STEP_PX: Final = 1024  # a tile of the 1:4 level, 256 px
_STRESS_SECTION_PX: Final = 6144
_SHOWCASE_TILES: Final = (18, 12)  # across and down; the other slides of the presets have 6 × 4
# Legal values of whole numbers, then of real ones.
_WHOLE: Final = dict(
    n_slides=(1, 9999), seed=(0, 2**63), n_patients=(0, 9999), n_sites=(1, 99), tile_px=(64, 4096), n_showcase=(0, 2)
)
_SIDES: Final = dict(
    grid_columns=(1, 100), grid_rows=(1, 100), sections_across=(1, 50), sections_down=(1, 50), level0_px=(0, 200_000)
)
_REAL: Final = dict(
    effect_scale=(0, 10),
    site_confounding=(0, 1),
    histology_confounding=(0, 1),
    squamous_share=(0, 1),
    artefact_rate=(0, 10),
    outline_error_um=(0, 200),
    normal_share=(0, 1),
)


def _require(holds: bool, name: str, got: object, expected: str) -> None:
    if not holds:
        raise ParameterError(f"{name} is out of range", got=got, expected=expected)


@dataclass(frozen=True)
class CohortSpec:
    """Everything that decides a synthetic cohort; :class:`ParameterError` names a value that is out of range.

    Attributes
    ----------
    n_slides, n_sites : number of slides of tumours, 1–9999, and of tissue source sites, 1–99
    seed : the only source of randomness, not negative
    n_patients : number of patients, from a quarter of `n_slides` to `n_slides`; 0: about eight per nine slides
    grid_columns, grid_rows, sections_across, sections_down : tiles across and down one tissue section, 1–100; sections
        across and down a slide, 1–50. The sides of one of several sections are rounded to 1024 level-0 px, so that no
        tile of the file lies in two sections.
    tile_px : tile size, 64–4096 [px at 0.5 µm/px]
    effects : tuple of (gene, d); effect sizes that replace those of :data:`EFFECTS`, 0–10 [standard deviations]
    effect_scale, artefact_rate : multiply every effect size (with 0 nothing is planted) and the expected numbers of
        :data:`ARTEFACTS`, 0–10
    gene_set : ``deeplrhe`` (eight genes) or ``deeppath`` (ten)
    squamous_share : share of patients with a squamous carcinoma, 0–1; the others have an adenocarcinoma
    histology_confounding : 1: mutations depend on the diagnosis as in real patients; 0: both diagnoses have the same
        share of mutated patients; see :func:`population`
    site_confounding : 0 (KRAS is as frequent at every site) to 1 (it occurs at the first third of the sites only)
    outline_error_um : standard deviation by which the delivered tumour outline departs from the true one, 0–200 [µm]
    normal_share : share of patients that also have a slide of normal lung, 0–1; these are beyond `n_slides`
    n_showcase : 0 to 2 of the slides are large, 18 × 12 tiles: an adenocarcinoma, with one artefact of each kind, and a
        squamous carcinoma without any
    level0_px : side of a single square 40× slide, a multiple of 8 from 1024 to 200 000 [level-0 px], whatever the grid
        and sections say; 0: sizes follow from the grid
    """

    n_slides: int = 12
    seed: int = 1
    n_patients: int = 0
    n_sites: int = 12
    grid_columns: int = 6
    grid_rows: int = 4
    sections_across: int = 1
    sections_down: int = 1
    tile_px: int = 512
    effects: tuple[tuple[str, float], ...] = ()
    effect_scale: float = 1.0
    gene_set: str = "deeplrhe"
    squamous_share: float = 0.35
    histology_confounding: float = 1.0
    site_confounding: float = 0.0
    artefact_rate: float = 1.0
    outline_error_um: float = 25.0
    normal_share: float = 0.0
    n_showcase: int = 0
    level0_px: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in (_WHOLE | _SIDES | _REAL).items():
            value = getattr(self, name)
            _require(name in _REAL or isinstance(value, Integral), name, value, "a whole number")
            _require(low <= value <= high, name, value, f"{low} to {high}")
        fewest = math.ceil(self.n_slides / _SLIDES_PER_PATIENT)
        fits = self.n_patients == 0 or fewest <= self.n_patients <= self.n_slides
        _require(fits, "n_patients", self.n_patients, f"0, or {fewest} to {self.n_slides} for that many slides")
        _require(self.gene_set in GENE_SETS, "gene_set", self.gene_set, " or ".join(GENE_SETS))
        for gene, d in self.effects:
            _require(gene in EFFECTS, "effects", gene, f"a gene that shows: {', '.join(EFFECTS)}")
            _require(0 <= d <= 10, "effects", f"{gene} {d}", "d from 0 to 10")
        alone = (self.n_slides, self.normal_share, self.n_showcase) == (1, 0, 0)
        fits = self.level0_px == 0 or (alone and self.level0_px >= 1024 and self.level0_px % 8 == 0)
        expected = "0, or a multiple of 8 from 1024 on in a cohort of a single slide"
        _require(fits, "level0_px", self.level0_px, expected)

    @property
    def effects_in_force(self) -> dict[str, Effect]:
        """Effects per gene with the overrides and the scale applied."""
        d = dict(self.effects)
        return {g: replace(e, d=self.effect_scale * d.get(g, e.d)) for g, e in EFFECTS.items()}

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the genes, in order."""
        return GENE_SETS[self.gene_set]

    @property
    def people(self) -> Population:
        """The patients of whom the cohort is a sample."""
        return population(self.genes, self.squamous_share, self.histology_confounding)

    @property
    def n_high_sites(self) -> int:
        """Number of sites (the first ones) where the confounded gene is frequent: a third, rounded up."""
        return math.ceil(self.n_sites / 3)

    @property
    def high_site_share(self) -> float:
        """Share of these sites among all, exactly; the ``high_share`` of ``site_only_auc``."""
        return self.n_high_sites / self.n_sites


PRESETS: Final[dict[str, CohortSpec]] = {
    "smoke": CohortSpec(n_slides=12, normal_share=0.25),
    "demo": CohortSpec(n_slides=180, normal_share=0.125, n_showcase=2),
    "paper": CohortSpec(n_slides=180, grid_columns=10, grid_rows=8, sections_across=4, sections_down=3),
    "stress": CohortSpec(n_slides=1, level0_px=100_000),
}
"""Cohorts for a few minutes, for the committed results, with slides of realistic size, and one very large slide.

Effect sizes are those of :data:`EFFECTS` in all of them: fixed before any model was trained."""


@dataclass(frozen=True)
class CohortPlan:
    """Everything that is known before a pixel is drawn.

    Attributes
    ----------
    spec : what the plan was made from
    slides : one row per slide, columns :data:`SLIDE_COLUMNS`: objective [×], mpp (true level-0 resolution) [µm/px],
        mpp_in_metadata and power_in_metadata (whether the file says so), sizes of the slide and of a section [level-0
        px], tumour_share of a section [0–1], number of artefacts of each kind. Slides of normal lung come last.
    labels, clinical : tables LABELS (patient × gene; null where a patient was not profiled) and CLINICAL (patient)
    truth : one row per patient × gene: patient_id, gene, mutated (also where the label is null), d [standard
        deviations], latent, attribute, where, factor (null for genes without an effect)
    """

    spec: CohortSpec
    slides: pd.DataFrame
    labels: pd.DataFrame
    clinical: pd.DataFrame
    truth: pd.DataFrame

    @property
    def genes(self) -> pd.DataFrame:
        """Table TRUTH_GENES: what each gene does, and what can be known of it without looking at the tissue."""
        spec, people = self.spec, self.spec.people
        rows = []
        for gene in people.genes:
            effect = spec.effects_in_force.get(gene, Effect("", 0.0, 0.0, ""))
            rows.append({"gene": gene, "attribute": effect.attribute or None, "where": effect.where or None,
                         "d": effect.d, "bayes_auc": effect.bayes_auc, "prevalence": people.prevalence(gene),
                         **{f"prevalence_{h}": people.prevalence(gene, h) for h in HISTOLOGIES},
                         "diagnosis_auc": people.diagnosis_auc(gene), "clinical_auc": people.clinical_auc(gene),
                         "clinical_auc_within": people.clinical_auc(gene, HISTOLOGIES[0]),
                         "site_auc": people.site_auc(gene, spec.site_confounding, spec.high_site_share)})  # fmt: skip
        return conform(pd.DataFrame(rows), TRUTH_GENES)

    def factors(self, patient_id: str) -> dict[str, float]:
        """Factor of every attribute in one patient; :class:`ParameterError` for an unknown patient."""
        rows = self.truth[(self.truth["patient_id"] == patient_id) & self.truth["factor"].notna()]
        if rows.empty:
            raise ParameterError(f"Patient {patient_id} is not in the plan", expected="one of plan.truth.patient_id")
        return dict(zip(rows["attribute"], rows["factor"].astype(float), strict=True))


def plan_cohort(spec: CohortSpec) -> CohortPlan:
    """Plan a synthetic cohort with a known truth.

    Declared rules (ours): patients and mutations as in :func:`draw_patients`; a patient has one to four slides; about
    2 % of calls of each gene (at least one call of each gene without an effect, where there are five
    patients or more) are not profiled, all of them wild types; age, stage and vital status carry no information
    about any gene, nor does the site, unless `site_confounding` says so. Noise does not depend on
    what is planted: two plans that differ in effects, site confounding, artefacts or outline error only have
    the same patients in the same order (under site confounding at other sites) with the same noise.
    """
    n_patients = spec.n_patients or max(1, round(spec.n_slides * _PATIENTS_PER_SLIDE))
    drawn = draw_patients(n_patients, spec.seed, spec.people)
    mutated = drawn[list(spec.genes)]
    patients = _plan_patients(drawn, spec)
    return CohortPlan(
        spec=spec,
        slides=_plan_slides(patients, spec),
        labels=_labels(patients, mutated, spec.seed),
        clinical=_clinical(patients, spec.seed),
        truth=_plant(patients, mutated, spec),
    )


def planted_name(site: int, number: int) -> str:
    """A patient of a synthetic cohort, named as no hospital names anybody."""
    return f"SYNT-{site:02d}-{number:04d}"


def _plan_patients(drawn: pd.DataFrame, spec: CohortSpec) -> pd.DataFrame:
    """Patients with their site, drawn so that high sites and the others fill evenly, diagnosis, sex and smoking."""
    n, rng = len(drawn), generator(spec.seed, "patients")
    carries, prevalence = drawn[CONFOUNDED].to_numpy(bool), spec.people.prevalence(CONFOUNDED)
    high = at_high_site(carries, prevalence, spec.site_confounding, spec.high_site_share, spec.seed)
    number = np.empty(n, int)
    for group, first, last in ((high, 1, spec.n_high_sites), (~high, spec.n_high_sites + 1, spec.n_sites)):
        number[group] = first + rng.permutation(np.arange(group.sum()) % max(1, last - first + 1))
    site = [f"{s:02d}" for s in number]
    ids = [planted_name(s, i + 1) for i, s in enumerate(number)]
    patients = pd.DataFrame({"patient_id": ids, "site_id": site, "subtype": drawn["histology"]})
    return patients.join(drawn[["sex", "smoking"]])


def _plant(patients: pd.DataFrame, mutated: pd.DataFrame, spec: CohortSpec) -> pd.DataFrame:
    """Latents and attribute factors of every patient, one row per patient × gene."""
    n, effects = len(patients), spec.effects_in_force
    truth = pd.DataFrame({"patient_id": patients["patient_id"].repeat(len(spec.genes)), "gene": np.tile(spec.genes, n)})
    truth = truth.reset_index(drop=True).assign(mutated=mutated.to_numpy(bool).ravel())
    noise = np.full((n, len(spec.genes)), math.nan)
    for gene in effects:
        noise[:, spec.genes.index(gene)] = generator(spec.seed, "latent", gene).standard_normal(n)
    truth["d"] = truth["gene"].map({g: e.d for g, e in effects.items()}).fillna(0.0)
    truth["latent"] = truth["d"] * truth["mutated"] + noise.ravel()
    for column in ("attribute", "where"):
        truth[column] = truth["gene"].map({g: getattr(e, column) for g, e in effects.items()})
    log_step = truth["gene"].map({g: e.log_step for g, e in effects.items()})
    return truth.assign(factor=np.exp(log_step * truth["latent"]))


def _labels(patients: pd.DataFrame, mutated: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Table LABELS of the cohort, a few calls hidden as not profiled."""
    calls = mutated.astype("Int64")
    for gene in mutated:
        calls.loc[_hidden(gene, mutated[gene].to_numpy(), seed), gene] = pd.NA
    labels = calls.assign(patient_id=patients["patient_id"]).melt("patient_id", var_name="gene", value_name="status")
    labels["variant_class"] = labels["status"].map({1: "planted"})
    labels["source"] = f"synthetic cohort, seed {seed}"
    return conform(labels, LABELS)


def _hidden(gene: str, mutated: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Indices not profiled; wild types, so that the planted number of positives stays observable."""
    least = 1 if gene not in EFFECTS and len(mutated) >= 5 else 0
    wild = generator(seed, "not profiled", gene).permutation(np.flatnonzero(~mutated))
    return wild[: max(least, round(_NOT_PROFILED * len(mutated)))]


def _clinical(patients: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Table CLINICAL: diagnosis, sex and smoking as drawn; the rest carries no information about any gene."""
    rng, n = generator(seed, "clinical"), len(patients)
    frame = patients.rename(columns={"subtype": "histology"})
    frame["age_years"] = np.clip(np.round(rng.normal(66, 9, n)), 35, 89)
    frame["stage"] = rng.choice(["I", "II", "III", "IV"], n, p=[0.54, 0.24, 0.16, 0.06])
    frame["vital_status"] = rng.choice(["alive", "dead"], n, p=[0.6, 0.4])
    return conform(frame, CLINICAL)


def _plan_slides(patients: pd.DataFrame, spec: CohortSpec) -> pd.DataFrame:
    """One row per slide. Every quantity is drawn from a stream of its own, by position in the table."""
    count = _slides_per_patient(len(patients), spec.n_slides, spec.seed)
    order = generator(spec.seed, "normal slides").permutation(len(patients))
    normals = np.sort(order[: round(spec.normal_share * len(patients))])
    slides = patients.iloc[np.r_[np.repeat(np.arange(len(patients)), count), normals]].reset_index(drop=True)
    normal = np.arange(len(slides)) >= spec.n_slides
    number = np.where(normal, 1, slides.groupby("patient_id").cumcount() + 1)
    frozen = generator(spec.seed, "slides", "frozen").random(len(slides)) < np.where(number == 1, 0.08, 0.7)
    sample = np.select([normal, frozen], ["11A-01-TS", "01A-01-TS"], "01Z-00-DX")
    slides["slide_id"] = [f"{p}-{s}{k}" for p, s, k in zip(slides["patient_id"], sample, number, strict=True)]
    slides["sample_type"] = np.where(frozen | normal, "frozen", "diagnostic")
    slides["subtype"] = np.where(normal, "normal", slides["subtype"])
    slides["form"] = generator(spec.seed, "slides", "form").choice(
        [*FORMS], len(slides), p=[p for p, _ in FORMS.values()]
    )
    least = slides["form"].map({form: low for form, (_, low) in FORMS.items()})
    share = generator(spec.seed, "slides", "tumour share").uniform(least, 0.8)
    slides["tumour_share"] = np.where(normal, 0.0, share.round(4))
    _add_scanner(slides, spec)
    shown = _showcase(slides, spec)
    _add_sizes(slides, spec, shown)
    _add_artefacts(slides, spec)
    for i, at in enumerate(shown):
        slides.loc[at, [f"n_{kind}" for kind in ARTEFACTS]] = int(i == 0)
    return slides[list(SLIDE_COLUMNS)]


def _slides_per_patient(n: int, n_slides: int, seed: int) -> NDArray[np.int64]:
    """One slide each; the surplus goes to patients in random order, one to three more each, until used up."""
    rng, count = generator(seed, "surplus slides"), np.ones(n, np.int64)
    while (surplus := n_slides - count.sum()) > 0:  # a second round only where there are few patients
        order = rng.permutation(n)
        wanted = np.minimum(rng.choice([1, 2, 3], n, p=_EXTRA_SLIDES), _SLIDES_PER_PATIENT - count[order])
        count[order] += np.clip(surplus - (np.cumsum(wanted) - wanted), 0, wanted)
    return count


def _add_scanner(slides: pd.DataFrame, spec: CohortSpec) -> None:
    """Objective, resolution, what the file says of them, and JPEG quality; in place."""
    site = slides["site_id"]
    scanner = [(40, 0.25) if spec.level0_px else _SCANNERS[(int(s) - 1) % len(_SCANNERS)] for s in site]
    slides["objective"], slides["mpp"] = [power for power, _ in scanner], [mpp for _, mpp in scanner]
    slides["mpp_in_metadata"] = (site != _SITE_WITHOUT_MPP) | (slides["objective"] == 40)
    slides["power_in_metadata"] = True
    complete = slides.index[(slides["objective"] == 20) & slides["mpp_in_metadata"] & (slides["subtype"] != "normal")]
    if spec.n_slides >= _LEAST_SLIDES_FOR_NEITHER and len(complete):
        chosen = generator(spec.seed, "slide without metadata").choice(complete)
        slides.loc[chosen, ["mpp_in_metadata", "power_in_metadata"]] = False
    quality = {s: int(generator(spec.seed, "site", s, "jpeg").integers(70, 86)) for s in site.unique()}
    slides["jpeg_quality"] = site.map(quality)


def _showcase(slides: pd.DataFrame, spec: CohortSpec) -> list[int]:
    """The rows of the large slides: the first diagnostic 20× scan of each tumour that tells its resolution."""
    plain = slides[(slides["objective"] == 20) & slides["mpp_in_metadata"] & (slides["sample_type"] == "diagnostic")]
    first = {kind: plain.index[plain["subtype"] == kind].min() for kind in HISTOLOGIES}
    return [int(first[kind]) for kind in HISTOLOGIES[: spec.n_showcase] if pd.notna(first[kind])]


def _add_sizes(slides: pd.DataFrame, spec: CohortSpec, showcase: list[int]) -> None:
    """Sections and level-0 size of every slide, in place. Only a single section has a margin around its tiles."""
    tiles_px = np.tile(np.array([spec.grid_columns, spec.grid_rows]) * spec.tile_px, (len(slides), 1))
    tiles_px[showcase] = np.array(_SHOWCASE_TILES) * spec.tile_px
    sections = np.array([spec.sections_across, spec.sections_down])
    scale, mpp = slides[["objective"]].to_numpy() // 20, slides[["mpp"]].to_numpy()
    if spec.level0_px:
        sections = np.full(2, math.ceil(spec.level0_px / _STRESS_SECTION_PX))
        section = np.full((len(slides), 2), min(spec.level0_px, _STRESS_SECTION_PX))
    elif sections.prod() == 1:
        rng = generator(spec.seed, "slides", "margin")
        margin = rng.integers(spec.tile_px // 8, spec.tile_px * 3 // 4, (len(slides), 2))
        section = np.ceil((tiles_px + margin) * _TARGET_MPP / (mpp * scale) / 8).astype(int) * 8 * scale
    else:
        steps = np.rint(tiles_px * _TARGET_MPP / mpp / _SECTION_STEP_PX).astype(int)
        section = np.maximum(steps, 1) * _SECTION_STEP_PX
    slides[["section_l0_px_w", "section_l0_px_h"]] = section
    slides[["sections_across", "sections_down"]] = np.tile(sections, (len(slides), 1))
    slides[["width_l0_px", "height_l0_px"]] = spec.level0_px or section * sections


def _add_artefacts(slides: pd.DataFrame, spec: CohortSpec) -> None:
    """Number of artefacts of each kind, in place; a higher rate only adds to those of a lower one."""
    for kind, expected in ARTEFACTS.items():
        mean = expected * spec.artefact_rate
        u = generator(spec.seed, "artefacts", kind).random(len(slides))
        none, at_most_one = math.exp(-mean), math.exp(-mean) * (1 + mean)
        slides[f"n_{kind}"] = (u >= none).astype(int) + (u >= at_most_one)
