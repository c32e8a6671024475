"""Genes of the synthetic cohort: in whom they are mutated, together with what, how they show, and what follows.

Everything that a reader can expect is declared here: real patients' counts by diagnosis, smoking and sex, effect sizes
of our own choice, and the AUCs that follow from them by closed form or exact posterior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit

from deeplrhe_utils.acquisition.cohort.rules import DEEPPATH_GENES
from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.tables.schemas import LUNG_CLASSES

GENES: Final = ("TP53", "EGFR", "STK11", "POLE", "POLD1", "PBRM1", "DNMT3A", "KRAS")
GENE_SETS: Final = {"deeplrhe": GENES, "deeppath": DEEPPATH_GENES}
"""The eight genes of DeepLRHE, and the ten of DeepPATH."""

ASSOCIATED: Final = ("TP53", "EGFR", "STK11", "KRAS")
"""Genes whose mutations depend on one another, in both sets; the order of the axes of :attr:`Population.joint`."""

ODDS_RATIOS: Final[dict[tuple[str, str], float]] = {
    ("TP53", "EGFR"): 1.70,
    ("TP53", "STK11"): 0.41,
    ("TP53", "KRAS"): 0.44,
    ("EGFR", "STK11"): 0.12,
    ("EGFR", "KRAS"): 0.04,
    ("STK11", "KRAS"): 2.84,
}
"""Odds ratio of each pair of genes among adenocarcinomas: 566 TCGA-LUAD patients (cBioPortal, PanCancer Atlas), 0.5
added to each cell (Haldane).

STK11 and KEAP1 would have 2.91. Given diagnosis, smoking and sex, every other gene is independent of all the rest, on
purpose: it is a control that no neighbour can give away. Real associations of theirs (POLE with TP53, for one, 5.9 in
these patients) are left out."""

HISTOLOGIES: Final = LUNG_CLASSES[1:]
FLOORS: Final = {"TP53": 6, "EGFR": 4, "STK11": 2}
"""Least number of mutated patients in a small cohort (never more than half the patients)."""

CONFOUNDED: Final = "KRAS"
"""The gene whose prevalence differs between sites where a cohort is planned with site confounding."""

HIGH_SITE_SHARE: Final = 1 / 3
"""Share of sites where the confounded gene is frequent."""

_SHRINK: Final = 5.0  # mutated patients' worth of weight that the whole diagnosis has in a stratum's share of them
_STATES: Final = np.stack(np.unravel_index(np.arange(16), (2, 2, 2, 2)), axis=1)  # of the associated genes


@dataclass(frozen=True)
class Effect:
    """How one gene shows: the attribute it moves, by how much, and where.

    A patient's latent is ``z = d · mutated + noise`` with unit-variance normal noise; the attribute's
    factor is ``exp(log_step · z)``. A reader who sees the latent perfectly, and nothing else, reaches the
    Bayes-optimal patient-level AUC Φ(d / √2).

    Attributes
    ----------
    attribute : what is moved, as the painter of tissue names it
    d : standardised difference between mutated and wild-type patients [standard deviations]
    log_step : natural logarithm of the factor per unit of latent
    where : ``tumour`` (all of it), ``region`` (inside a part of the tumour only) or ``40x`` (a finding that exists at
        high magnification only; a 20× scanner cannot resolve it)
    """

    attribute: str
    d: float
    log_step: float
    where: str

    @property
    def bayes_auc(self) -> float:
        """Φ(d / √2), the best patient-level AUC in expectation for a reader of this latent alone."""
        return 0.5 * (1.0 + math.erf(self.d / 2.0))


# Fixed before any model was trained; d = 2 with step 0.186 makes mutated nuclei exp(0.372) = 1.45 x larger in area.
EFFECTS: Final = {
    "TP53": Effect("nuclear_area", d=2.0, log_step=0.186, where="region"),
    "EGFR": Effect("nuclear_density", d=1.5, log_step=-0.17, where="tumour"),
    "STK11": Effect("lymphocyte_share", d=1.2, log_step=-0.50, where="tumour"),
    "KRAS": Effect("chromatin_texture", d=1.5, log_step=0.35, where="40x"),
}
"""Genes that show in the tissue. The others have no effect (d = 0) and serve as negative controls."""


@dataclass(frozen=True)
class Population:
    """The patients of whom a cohort is a sample: who they are, and what they carry.

    Attributes
    ----------
    genes : one of :data:`GENE_SETS`
    strata : DataFrame of 12 rows: histology, sex, smoking, share (of all patients; adds up to 1)
    chance : ndarray, shape (12, genes): share of a stratum's patients with a mutation
    joint : ndarray, shape (12, 2, 2, 2, 2): the same for every combination of :data:`ASSOCIATED`, whose order is that
        of the axes; index 1 is mutated; each stratum adds up to 1
    """

    genes: tuple[str, ...]
    strata: pd.DataFrame
    chance: NDArray[np.float64]
    joint: NDArray[np.float64]

    @property
    def share(self) -> NDArray[np.float64]:
        """Of all patients, per stratum."""
        return self.strata["share"].to_numpy(float)

    def within(self, histology: str) -> NDArray[np.float64]:
        """Shares of the strata among patients of one diagnosis; 0 elsewhere, all 0 where it does not occur."""
        own = self.share * (self.strata["histology"] == histology).to_numpy()
        return np.asarray(own / max(own.sum(), 1e-300), np.float64)

    def prevalence(self, gene: str, histology: str = "") -> float:
        """Share of mutated patients, of all or of one diagnosis; NaN where that does not occur."""
        weight = self.within(histology) if histology else self.share
        return float(weight @ self.chance[:, self._at(gene)]) if weight.any() else math.nan

    def together(self, first: str, second: str) -> float:
        """Share of patients with mutations in both genes."""
        if first in ASSOCIATED and second in ASSOCIATED and first != second:
            others = tuple(i + 1 for i, name in enumerate(ASSOCIATED) if name not in (first, second))
            return float(self.share @ self.joint.sum(axis=others)[:, 1, 1])
        both = self.chance[:, self._at(first)] * (1 if first == second else self.chance[:, self._at(second)])
        return float(self.share @ both)

    def diagnosis_auc(self, gene: str) -> float:
        """AUC of a reader who knows of each patient the diagnosis only: 0.5 + w (1 − w) |p₁ − p₀| / (2 p (1 − p)).

        `w` is the share of adenocarcinomas, p₁ and p₀ are the shares mutated in the two diagnoses, p is that of all.
        """
        w = float(self.share[self.strata["histology"] == HISTOLOGIES[0]].sum())
        p = self.prevalence(gene)
        apart = self.prevalence(gene, HISTOLOGIES[0]) - self.prevalence(gene, HISTOLOGIES[1])
        return 0.5 if not 0 < w < 1 else 0.5 + w * (1 - w) * abs(apart) / (2 * p * (1 - p))

    def clinical_auc(self, gene: str, histology: str = "") -> float:
        """AUC of a reader who knows diagnosis, smoking and sex, and each stratum's share of mutated patients."""
        weight = self.within(histology) if histology else self.share
        return _auc_of_groups(weight, self.chance[:, self._at(gene)])

    def site_auc(self, gene: str, confounding: float, high_share: float) -> float:
        """AUC of a reader who knows only whether a patient's site is a high one (:func:`site_only_auc`).

        Genes that go with :data:`CONFOUNDED` inherit a part of it: the excess over 0.5 times |P(confounded | mutated)
        − P(confounded | wild type)|.
        """
        excess = site_only_auc(self.prevalence(CONFOUNDED), confounding, high_share) - 0.5
        p, both = self.prevalence(gene), self.together(gene, CONFOUNDED)
        return 0.5 + excess * abs(both / p - (self.prevalence(CONFOUNDED) - both) / (1 - p))

    def _at(self, gene: str) -> int:
        if gene not in self.genes:
            raise ParameterError(f"{gene} is no gene of this synthetic cohort", expected=", ".join(self.genes))
        return self.genes.index(gene)


def _auc_of_groups(weight: NDArray[np.float64], chance: NDArray[np.float64]) -> float:
    """AUC of the score `chance` among groups of these weights, of whom the share `chance` is positive."""
    positive, negative = weight * chance, weight * (1 - chance)
    wins = (chance[:, None] > chance) + 0.5 * (chance[:, None] == chance)
    return float(positive @ wins @ negative / (positive.sum() * negative.sum())) if positive.any() else math.nan


@lru_cache(maxsize=32)
def population(
    genes: tuple[str, ...] = GENES, squamous_share: float = 0.35, histology_confounding: float = 1.0
) -> Population:
    """The patients behind a cohort, from TCGA's counts (``data/reference/tcga_lung_smoking.csv``).

    Sex and smoking depend on the diagnosis as in these patients. In a stratum of diagnosis, sex and smoking a gene's
    share of mutated patients is the observed one, drawn towards that of the whole diagnosis (as if five more mutated
    patients had been seen there, and wild types to match), then moved on the logit scale until the diagnosis has
    exactly its own share. Pairs of :data:`ASSOCIATED` have one conditional odds ratio in all strata, and nothing beyond
    pairs; it is found such that adenocarcinomas as a whole have :data:`ODDS_RATIOS`.

    Parameters
    ----------
    genes : names that the counts know
    squamous_share : share of patients with a squamous carcinoma, 0 to 1; the others have an adenocarcinoma
    histology_confounding : 1: each diagnosis has its real share of mutated patients; 0: both have that of all
        patients, with the same effects of sex and smoking inside a diagnosis; between them linear
    """
    told = pd.read_csv(REFERENCE_DATA / "tcga_lung_smoking.csv")
    known = told[(told["smoking"] != "unknown") & (told["sex"] != "unknown")]
    strata = known[known["gene"] == ASSOCIATED[0]].sort_values(["histology", "sex", "smoking"], ignore_index=True)
    of = strata["histology"].to_numpy(str)
    given = (strata["profiled"] / strata.groupby("histology")["profiled"].transform("sum")).to_numpy(float)
    mixture = np.where(of == HISTOLOGIES[1], squamous_share, 1 - squamous_share)
    chance = np.empty((len(strata), len(genes)))
    for column, gene in enumerate(genes):
        counts = told[told["gene"] == gene].groupby("histology")[["mutated", "profiled"]].sum()
        real = counts["mutated"] / counts["profiled"]
        pooled = float(mixture @ (given * real[of].to_numpy()))
        seen = strata[["histology", "sex", "smoking"]].merge(known[known["gene"] == gene], how="left")
        base = (seen["mutated"] + _SHRINK) / (seen["profiled"] + _SHRINK / real[of].to_numpy())
        for histology in HISTOLOGIES:
            own = of == histology
            aim = pooled + histology_confounding * (real[histology] - pooled)
            chance[own, column] = _moved(base.to_numpy(float)[own], given[own], aim)
    joint = _joint(chance[:, [genes.index(g) for g in ASSOCIATED]], np.where(of == HISTOLOGIES[0], given, 0))
    for array in (chance, joint):
        array.setflags(write=False)  # they are shared by all callers
    return Population(genes, strata[["histology", "sex", "smoking"]].assign(share=mixture * given), chance, joint)


def _moved(base: NDArray[np.float64], weight: NDArray[np.float64], aim: float) -> NDArray[np.float64]:
    """Probabilities moved by one and the same step on the logit scale, such that their weighted mean is `aim`."""
    if not 0 < aim < 1:
        return np.full(len(base), aim)
    start = logit(np.clip(base, 1e-9, 1 - 1e-9))
    step = brentq(lambda move: float(weight @ expit(start + move)) - aim, -60, 60)
    return np.asarray(expit(start + step), np.float64)


def _joint(chance: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Joint distribution of :data:`ASSOCIATED` per stratum, shape (strata, 2, 2, 2, 2), with these margins.

    A log-linear model without terms of three genes or four; its six pair terms are the same in all strata and moved
    until the strata together, weighted by `weight`, have :data:`ODDS_RATIOS`.
    """
    pairs = list(combinations(range(4), 2))
    goal = np.log([ODDS_RATIOS[ASSOCIATED[a], ASSOCIATED[b]] for a, b in pairs])
    both, terms = np.stack([_STATES[:, a] * _STATES[:, b] for a, b in pairs]), goal.copy()
    for _ in range(200):
        joint = _raked(np.exp(terms @ both), chance)
        mixed = weight @ joint
        found = np.array([_log_odds_ratio(mixed, _STATES[:, a], _STATES[:, b]) for a, b in pairs])
        if np.abs(found - goal).max() < 1e-9:
            return joint.reshape(-1, 2, 2, 2, 2)
        terms += goal - found
    what = f"No joint distribution of {', '.join(ASSOCIATED)} has these prevalences and odds ratios"
    raise ParameterError(what, got=f"log odds ratios {found.round(3).tolist()}", expected=f"{goal.round(3).tolist()}")


def _raked(pattern: NDArray[np.float64], chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """States of each stratum, shape (strata, 16): `pattern` times a factor per gene that gives it its margin.

    Iterative proportional fitting (Deming and Stephan 1940).
    """
    joint = np.repeat((pattern / pattern.sum())[None], len(chance), axis=0)
    for _ in range(2000):
        worst = 0.0
        for gene in range(4):
            carries = _STATES[:, gene] == 1
            margin = joint[:, carries].sum(axis=1)
            worst = max(worst, float(np.abs(margin - chance[:, gene]).max()))
            joint[:, carries] *= (chance[:, gene] / margin)[:, None]
            joint[:, ~carries] *= ((1 - chance[:, gene]) / (1 - margin))[:, None]
        if worst < 1e-12:
            break
    return joint


def _log_odds_ratio(joint: NDArray[np.float64], first: NDArray[np.int_], second: NDArray[np.int_]) -> float:
    cells = [float(joint[(first == a) & (second == b)].sum()) for a in (0, 1) for b in (0, 1)]
    return math.log(cells[0] * cells[3] / (cells[1] * cells[2]))


def draw_patients(n: int, seed: int, people: Population) -> pd.DataFrame:
    """Who the patients are, and who carries which mutation.

    Diagnosis, sex, smoking and the associated genes by systematic sampling of their 192 joint states, ordered by
    diagnosis, then by genes: one uniform offset u, patient i takes the state at quantile (i + u) / n, then patients
    are shuffled. The count of any run of neighbouring states, such as a diagnosis, is n × its probability, rounded up
    or down. Each other gene is drawn by :func:`systematic` sampling, with the chance of each patient's stratum.

    In cohorts of a few dozen patients the counts are then topped up to :data:`FLOORS` (or half the patients,
    if that is less), so that both classes are in both halves of a split; their prevalences are not the
    declared ones. A patient with KRAS is never given EGFR for that. With the default shares no floor acts from 80
    patients on.

    Returns n rows: histology, sex, smoking, then a column per gene, booleans.
    """
    rng, k = generator(seed, "patients", "states"), len(people.strata)
    cells = people.share[:, None] * people.joint.reshape(k, 16)
    order = np.lexsort(
        (*_STATES.T[::-1][:, np.tile(np.arange(16), k)], np.repeat(people.strata["histology"].to_numpy(str), 16))
    )
    quantile = (np.arange(n) + rng.random()) / n
    at = np.searchsorted(np.cumsum(cells.ravel()[order]), quantile, side="right")
    stratum, state = np.divmod(rng.permutation(order[np.minimum(at, len(order) - 1)]), 16)
    patients = people.strata[["histology", "sex", "smoking"]].iloc[stratum].reset_index(drop=True)
    for i, gene in enumerate(people.genes):
        if gene in ASSOCIATED:
            patients[gene] = _STATES[state, ASSOCIATED.index(gene)] == 1
        else:
            patients[gene] = systematic(people.chance[stratum, i], generator(seed, "mutations", gene))
    for gene in FLOORS:
        _top_up(patients, gene, seed)
    return patients


def systematic(probability: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """One draw per unit, each with its own probability, such that their number varies least: its sum, rounded.

    Units in random order; one is drawn where the running sum of probabilities plus a uniform offset passes a whole
    number (Madow 1949).
    """
    order = rng.permutation(len(probability))
    passed = np.floor(np.r_[0.0, np.cumsum(probability[order])] + rng.random())
    drawn = np.zeros(len(order), bool)
    drawn[order] = np.diff(passed) > 0
    return drawn


def _top_up(patients: pd.DataFrame, gene: str, seed: int) -> None:
    """Flip wild-type patients of `gene`, in a seeded order, until its floor is reached; in place."""
    missing = min(FLOORS[gene], len(patients) // 2) - int(patients[gene].sum())
    if missing > 0:
        wild = ~patients[gene] & ~patients["KRAS"] if gene == "EGFR" else ~patients[gene]
        order = generator(seed, "mutations", "floor", gene).permutation(np.flatnonzero(wild))
        patients.loc[order[:missing], gene] = True


def at_high_site(
    mutated: NDArray[np.bool_], prevalence: float, confounding: float, high_share: float, seed: int
) -> NDArray[np.bool_]:
    """Which patients come from a site where the confounded gene is frequent, shape (n,).

    `mutated`, shape (n,), says who carries :data:`CONFOUNDED`; the other values are those of :func:`site_only_auc`.
    Drawn by systematic sampling within mutated and within wild-type patients: without confounding both have the same
    share, and given the gene's status the site depends on nothing else.
    """
    shares = _high_share_by_status(prevalence, confounding, high_share)
    high = np.zeros(len(mutated), bool)
    for status, share in enumerate(shares):
        chosen = mutated == bool(status)
        high[chosen] = systematic(np.full(chosen.sum(), share), generator(seed, "high sites", status))
    return high


def _high_share_by_status(prevalence: float, confounding: float, high_share: float) -> tuple[float, float]:
    """P(high site) of wild-type and of mutated patients, such that all patients together have `high_share`."""
    mutated = high_share + confounding * (1 - high_share)
    wild = (high_share - prevalence * mutated) / (1 - prevalence)
    if wild < -1e-12:
        got = f"prevalence {prevalence}, confounding {confounding}, high_share {high_share}"
        raise ParameterError("Sites cannot be confounded that strongly", got=got, expected="a larger high_share")
    return max(wild, 0.0), mutated


def site_only_auc(prevalence: float, confounding: float, high_share: float = HIGH_SITE_SHARE) -> float:
    """AUC of a reader who knows of each patient only whether the site is a high one.

    With prevalence π, confounding c and share of high sites f, patients of high sites are mutated with
    probability π (1 − c + c / f), the others with π (1 − c); the AUC is 0.5 + c (1 − f) / (2 (1 − π)).

    Parameters
    ----------
    prevalence : share of mutated patients in the whole cohort, above 0 and below 1
    confounding : 0 (sites are alike) to 1 (the mutation occurs at high sites only)
    high_share : share of patients at high sites, above 0, at most 1

    Raises ParameterError: the high sites would have more mutated patients than patients.

    >>> [round(site_only_auc(0.297, c), 3) for c in (0.0, 0.5, 1.0)]
    [0.5, 0.737, 0.974]
    """
    wild, mutated = _high_share_by_status(prevalence, confounding, high_share)
    return 0.5 + (mutated - wild) / 2


def oracle_auc(positive: NDArray[np.bool_], latent: NDArray[np.float64]) -> float:
    """AUC of a score in this very sample (Mann–Whitney, ties count one half); with the planted latent, the oracle's.

    `positive` says who is mutated, shape (n,), `latent` is the score, shape (n,); NaN where a class is empty.

    >>> oracle_auc(np.array([True, True, False]), np.array([1.0, 0.0, 0.0]))
    0.75
    """
    score, above = np.asarray(latent, float), np.asarray(positive, bool)
    if above.all() or not above.any():
        return math.nan
    negative = np.sort(score[~above])
    below = np.searchsorted(negative, score[above], "left") + np.searchsorted(negative, score[above], "right")
    return float(below.mean() / (2 * len(negative)))


def neighbour_auc(
    gene: str,
    readable: Sequence[str],
    people: Population,
    *,
    histology: str = "",
    effects: Mapping[str, Effect] = EFFECTS,
    n: int = 200_000,
    seed: int = 0,
) -> float:
    """AUC that a reader reaches for `gene` without seeing it, from its neighbours' latents and the diagnosis.

    The reader sees whether a tumour is an adenocarcinoma, and knows the population and the effect sizes; the score is
    the posterior probability of a mutation, summed over the joint states exactly. Patients are drawn by Monte Carlo.

    Parameters
    ----------
    gene : the gene that cannot be seen
    readable : genes whose latents are seen; those without an effect say nothing and may be among them
    people : whose patients
    histology : judge patients of one diagnosis only; empty for all
    effects : effects in force, per gene
    n, seed : number of Monte Carlo patients (200 000 give a standard error of about 0.0015) and seed of their draw

    Raises ParameterError: `gene` is among `readable`, or a name is not one of the population's genes.
    """
    for name in (gene, *readable):
        people.prevalence(name)  # refuses a name that is none of them
    if gene in readable:
        raise ParameterError(f"{gene} is to be inferred and cannot be readable", got=tuple(readable))
    seen = [g for g in ASSOCIATED if g in readable and g in effects]
    weight = people.within(histology) if histology else people.share
    if not weight.any():
        return math.nan  # nobody has that diagnosis
    if gene not in ASSOCIATED:
        by = np.array([people.prevalence(gene, h) for h in people.strata["histology"]])
        return _auc_of_groups(weight, np.where(weight > 0, by, 0.0))
    rng = generator(seed, "neighbours", gene)
    kinds = np.stack([people.within(h) for h in HISTOLOGIES])
    prior = kinds @ people.joint.reshape(-1, 16)  # what the reader believes of a diagnosis
    drawn = rng.choice(prior.size, n, p=((kinds > 0) @ (weight[:, None] * people.joint.reshape(-1, 16))).ravel())
    kind, state = np.divmod(drawn, 16)
    belief = prior[kind]
    for axis, d in ((ASSOCIATED.index(g), effects[g].d) for g in seen):
        latent = d * _STATES[state, axis] + rng.standard_normal(n)
        belief[:, _STATES[:, axis] == 1] *= np.exp(d * latent - d**2 / 2)[:, None]  # likelihood ratio of a mutation
    carries = _STATES[:, ASSOCIATED.index(gene)] == 1
    return oracle_auc(carries[state], belief[:, carries].sum(axis=1) / belief.sum(axis=1))
