"""Genes of the synthetic cohort: how often they are mutated, together with what, how they show, and what follows.

Everything that a reader can expect is declared here: prevalences and odds ratios of real patients, effect sizes of our
own choice, and the AUCs that follow from them by closed form or exact posterior.
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

from deeplrhe_utils.core.errors import ParameterError
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

ASSOCIATED: Final = ("TP53", "EGFR", "STK11", "KRAS")
"""Genes whose mutations depend on one another; the order of the axes of :func:`joint_distribution`."""

ODDS_RATIOS: Final[dict[tuple[str, str], float]] = {
    ("TP53", "EGFR"): 1.70,
    ("TP53", "STK11"): 0.41,
    ("TP53", "KRAS"): 0.44,
    ("EGFR", "STK11"): 0.12,
    ("EGFR", "KRAS"): 0.04,
    ("STK11", "KRAS"): 2.84,
}
"""Marginal odds ratio of each pair of genes in the same 566 patients, 0.5 added to each cell (Haldane).

STK11 and KEAP1 would have 2.91, but KEAP1 is not among the eight genes; STK11 and KRAS play that part. POLE, POLD1,
PBRM1 and DNMT3A are independent of everything, on purpose: they are pure negative controls. Real associations of
theirs (POLE with TP53, for one, 5.9 in these patients) are left out."""

FLOORS: Final = {"TP53": 6, "EGFR": 4, "STK11": 2}
"""Least number of mutated patients in a small cohort (never more than half the patients)."""

CONFOUNDED: Final = "KRAS"
"""The gene whose prevalence differs between sites where a cohort is planned with site confounding."""

HIGH_SITE_SHARE: Final = 1 / 3
"""Share of sites where the confounded gene is frequent."""

_SWEEPS, _TOLERANCE = 2000, 1e-9  # the declared odds ratios need ten sweeps


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


def joint_distribution(
    prevalence: Mapping[str, float] = PREVALENCE, odds_ratios: Mapping[tuple[str, str], float] = ODDS_RATIOS
) -> NDArray[np.float64]:
    """Probability of every combination of mutations of the four associated genes.

    The distribution of maximum entropy that has these prevalences and these pairwise 2 × 2 tables: no
    association of three or four genes beyond what the pairs imply. A pair's table follows from its
    prevalences and odds ratio (Plackett 1965), the joint from iterative proportional fitting over the six
    tables (Deming and Stephan 1940; started at the uniform distribution it ends at maximum entropy).

    Parameters
    ----------
    prevalence : share of mutated patients per gene, above 0 and below 1; at least :data:`ASSOCIATED`
    odds_ratios : odds ratio above 0 of each pair of :data:`ASSOCIATED`, in the order of the keys of :data:`ODDS_RATIOS`

    Returns ndarray of shape (2, 2, 2, 2): axes TP53, EGFR, STK11, KRAS; index 1 is mutated. Sums to 1, read-only,
    computed once per argument.
    Raises ParameterError: no joint distribution has these pairs (the fit does not converge).
    """
    pairs = combinations(ASSOCIATED, 2)
    return _fitted_joint(tuple(prevalence[g] for g in ASSOCIATED), tuple(odds_ratios[p] for p in pairs))


@lru_cache(maxsize=32)
def _fitted_joint(prevalence: tuple[float, ...], odds_ratios: tuple[float, ...]) -> NDArray[np.float64]:
    axes = list(combinations(range(4), 2))
    tables = [_pair_table(prevalence[a], prevalence[b], r) for (a, b), r in zip(axes, odds_ratios, strict=True)]
    joint = np.full((2, 2, 2, 2), 1 / 16)
    for _ in range(_SWEEPS):
        deviation = 0.0
        for pair, table in zip(axes, tables, strict=True):
            others = tuple(axis for axis in range(4) if axis not in pair)
            margin = joint.sum(axis=others, keepdims=True)
            target = table.reshape(margin.shape)
            deviation = max(deviation, float(np.abs(margin - target).max()))
            joint = joint * (target / np.maximum(margin, 1e-300))
        if deviation <= _TOLERANCE:
            joint /= joint.sum()
            joint.setflags(write=False)  # it is shared by all callers
            return joint
    what = f"No joint distribution of {', '.join(ASSOCIATED)} has these prevalences and odds ratios"
    raise ParameterError(
        what, got=f"deviation {deviation:.1e} after {_SWEEPS} sweeps", expected=f"at most {_TOLERANCE:.0e}"
    )


def _pair_table(a: float, b: float, odds_ratio: float) -> NDArray[np.float64]:
    """2 × 2 table of probabilities with margins `a` and `b` and an odds ratio, by Plackett's formula."""
    both = a * b
    if odds_ratio != 1.0:
        s = 1 + (a + b) * (odds_ratio - 1)
        both = (s - math.sqrt(s**2 - 4 * odds_ratio * (odds_ratio - 1) * a * b)) / (2 * (odds_ratio - 1))
    return np.array([[1 - a - b + both, b - both], [a - both, both]])


def draw_mutations(n: int, seed: int) -> pd.DataFrame:
    """Who carries which mutation.

    Associated genes by systematic sampling of their 16 joint states: one uniform offset u, patient i takes
    the state at quantile (i + u) / n, then patients are shuffled. A state's expected count is n × its
    probability exactly, and each count is that number rounded up or down. Each other gene has
    ⌊n · prevalence + u⌋ mutated patients, drawn on their own.

    In cohorts of a few dozen patients the counts are then topped up to :data:`FLOORS` (or half the patients,
    if that is less), so that both classes are in both halves of a split; their prevalences are not the
    declared ones. A patient with KRAS is never given EGFR for that. From 40 patients on, no floor acts.

    Parameters
    ----------
    n, seed : number of patients and seed of the cohort

    Returns n rows × :data:`GENES`, booleans.
    """
    rng = generator(seed, "mutations", "associated")
    quantile = (np.arange(n) + rng.random()) / n
    state = np.searchsorted(np.cumsum(joint_distribution()), quantile, side="right")
    state = rng.permutation(np.minimum(state, 15))  # the last sum may fall short of 1 by rounding
    mutated = pd.DataFrame(False, index=range(n), columns=list(GENES))
    mutated[list(ASSOCIATED)] = np.stack(np.unravel_index(state, (2, 2, 2, 2)), axis=1).astype(bool)
    for gene in GENES:
        if gene not in ASSOCIATED:
            mutated[gene] = systematic(n, PREVALENCE[gene], generator(seed, "mutations", gene))
    for gene in FLOORS:
        _top_up(mutated, gene, seed)
    return mutated


def systematic(n: int, probability: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Exactly ⌊n · probability + u⌋ of `n` units, drawn at random: expected count exact, least variation."""
    count = math.floor(n * probability + rng.random())
    return rng.permutation(np.arange(n) < count)


def _top_up(mutated: pd.DataFrame, gene: str, seed: int) -> None:
    """Flip wild-type patients of `gene`, in a seeded order, until its floor is reached; in place."""
    missing = min(FLOORS[gene], len(mutated) // 2) - int(mutated[gene].sum())
    if missing > 0:
        wild = ~mutated[gene] & ~mutated["KRAS"] if gene == "EGFR" else ~mutated[gene]
        order = generator(seed, "mutations", "floor", gene).permutation(np.flatnonzero(wild))
        mutated.loc[order[:missing], gene] = True


def at_high_site(mutated: NDArray[np.bool_], confounding: float, high_share: float, seed: int) -> NDArray[np.bool_]:
    """Which patients come from a site where the confounded gene is frequent, shape (n,).

    `mutated`, shape (n,), says who carries :data:`CONFOUNDED`; confounding and share are those of
    :func:`site_only_auc`. Drawn by systematic sampling within mutated and within wild-type patients: without
    confounding both have the same share, and given the gene's status the site depends on no other gene.
    """
    shares = _high_share_by_status(PREVALENCE[CONFOUNDED], confounding, high_share)
    high = np.zeros(len(mutated), bool)
    for status, share in enumerate(shares):
        chosen = mutated == bool(status)
        high[chosen] = systematic(int(chosen.sum()), share, generator(seed, "high sites", status))
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
    Genes associated with the confounded one inherit a part of it: this excess over 0.5 times
    P(confounded | gene mutated) − P(confounded | gene not mutated), which may be negative.

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
    gene: str, readable: Sequence[str], *, n: int = 200_000, seed: int = 0, effects: Mapping[str, Effect] = EFFECTS
) -> float:
    """AUC that a reader reaches for `gene` without seeing it, from the latents of its neighbours.

    The reader knows :func:`joint_distribution` and the effect sizes; the score is the posterior probability
    of a mutation, summed over the 16 states exactly. Patients are drawn by Monte Carlo.

    Parameters
    ----------
    gene : the gene that cannot be seen
    readable : genes whose latents are seen; the independent ones say nothing and may be among them
    n, seed : number of Monte Carlo patients (200 000 give a standard error of about 0.0015) and seed of their draw
    effects : effects in force, per gene

    Returns 0.5 exactly for a gene that is independent of all others.
    Raises ParameterError: `gene` is among `readable`, or a name is not one of :data:`GENES`.
    """
    for name in (gene, *readable):
        if name not in GENES:
            raise ParameterError(f"{name} is no gene of the synthetic cohort", expected=", ".join(GENES))
    if gene in readable:
        raise ParameterError(f"{gene} is to be inferred and cannot be readable", got=tuple(readable))
    seen = [g for g in ASSOCIATED if g in readable and g in effects]
    if gene not in ASSOCIATED or not seen:
        return 0.5
    rng, joint = generator(seed, "neighbours", gene), joint_distribution().ravel()
    states = np.stack(np.unravel_index(np.arange(16), (2, 2, 2, 2)), axis=1)  # state × gene
    drawn = states[rng.choice(16, n, p=joint)]
    weight = np.tile(joint, (n, 1))
    for axis, d in ((ASSOCIATED.index(g), effects[g].d) for g in seen):
        latent = d * drawn[:, axis] + rng.standard_normal(n)
        weight[:, states[:, axis] == 1] *= np.exp(d * latent - d**2 / 2)[:, None]  # likelihood ratio of a mutation
    mutated = ASSOCIATED.index(gene)
    return oracle_auc(drawn[:, mutated] == 1, weight[:, states[:, mutated] == 1].sum(axis=1) / weight.sum(axis=1))
