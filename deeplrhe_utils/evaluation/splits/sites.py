"""Splits that keep every site whole, balanced for several genes at once, solved exactly.

Source: Howard et al. 2021 (preserved-site cross-validation, quadratic, solved with a commercial program); ours is
linear, takes several genes at once and is solved by HiGHS through SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

from deeplrhe_utils.core.errors import CohortError, SmallCohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.splits.folds import check_folds, checked_shares, parts_table, splits_table

_Floats = NDArray[np.float64]

NODES: Final = 4000
"""Branches after which the solver stops. A count, unlike seconds, gives the same split on every machine."""
SECONDS: Final = 120.0
"""Meant never to be reached."""
PATIENTS: Final = "patients"
"""Name of the row that is balanced beside the genes: the number of patients."""


@dataclass(frozen=True)
class SiteSplit:
    """A split by site and how good it is.

    Attributes
    ----------
    splits : table SPLITS, scheme "site"; its units are patients, because patients are trained on and scored
    objective : sum, over genes and patients, of |count in a part − its share of all| / all, over the parts
    bound : no split of these sites is better than this
    optimal : whether the solver proved that `objective` cannot be improved (by more than 1e-6)
    balance : part (fold, or role), gene (or "patients"), count, wanted, deviation
    sites : site → part
    stopped : what stopped the solver before the proof, empty when nothing did
    """

    splits: pd.DataFrame
    objective: float
    bound: float
    optimal: bool
    balance: pd.DataFrame
    sites: dict[str, int]
    stopped: str

    @property
    def gap(self) -> float:
        """How much better a split might be: `objective` − `bound`, 0 when it is optimal."""
        return 0.0 if self.optimal else self.objective - self.bound

    def sentence(self) -> str:
        """What a reader must know of the balance."""
        proof = "proved optimal" if self.optimal else (
            f"not proved optimal ({self.stopped}): a better one may exist, by at most {self.gap:.4f}"
        )  # fmt: skip
        return f"{len(self.sites)} sites, summed deviation {self.objective:.4f} of the totals, {proof}."


def site_folds(labels: pd.DataFrame, sites: pd.DataFrame, n_folds: int = 2, seed: int = 0) -> SiteSplit:
    """Assign every site to one test fold, balancing the positives of all genes and the patients.

    Parameters
    ----------
    labels : the labels table; its patients are divided
    sites : patient_id, site_id; other patients are ignored
    n_folds, seed : sites and folds reach the solver in seeded order. Among equally good splits it keeps the one it
        meets first, so the seed decides (for one version of SciPy; a split file keeps what was found).

    Raises CohortError: a patient of no site or of two, fewer sites than folds, or no split within the limits.
    ParameterError: fewer than two folds.

    Minimises Σ_g w_g Σ_f |n_gf − N_g / F| over assignments of sites to folds; g runs over the genes and the count of
    patients, w_g = 1 / N_g. Every fold receives at least one site.
    """
    check_folds(n_folds)
    return _split(labels, sites, [1 / n_folds] * n_folds, seed, folds=True)


def site_shares(
    labels: pd.DataFrame, sites: pd.DataFrame, shares: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
) -> SiteSplit:
    """Divide the sites once, into train, valid and test; everything else as in :func:`site_folds`.

    Raises CohortError, ParameterError: as :func:`site_folds`; illegal shares.
    """
    return _split(labels, sites, list(checked_shares(shares)), seed, folds=False)


def _split(labels: pd.DataFrame, sites: pd.DataFrame, shares: list[float], seed: int, *, folds: bool) -> SiteSplit:
    wide = labels.pivot(index="patient_id", columns="gene", values="status").sort_index()
    positive = (wide == 1).fillna(False).to_numpy(dtype=np.int64)
    place = _site_of(list(wide.index), sites)
    names, code = np.unique(place, return_inverse=True)
    used = [i for i, share in enumerate(shares) if share > 0]
    if len(names) < len(used):
        raise SmallCohortError(f"{len(used)} parts of whole sites need at least {len(used)} sites", got=len(names),
                          fix="Ask for fewer parts, or split by patient")  # fmt: skip
    columns = (*positive.T, np.ones(len(place)))
    counts: _Floats = np.stack([np.bincount(code, weights=column).astype(np.float64) for column in columns], axis=1)
    random = generator(seed, "site-folds" if folds else "site-shares")
    problem = _Problem(counts, np.array([shares[i] for i in used]), random)
    chosen, bound, stopped = problem.solve()
    part = np.asarray(used)[chosen]
    units = wide.index.to_numpy()
    balance = _balance(part, counts, shares, [*map(str, wide.columns), PATIENTS])
    objective = problem.objective(chosen)
    return SiteSplit(
        splits_table("site", units, part[code], len(shares), seed) if folds
        else parts_table("site", units, part[code], seed),
        objective, min(bound, objective), not stopped, balance,
        {str(name): int(p) for name, p in zip(names, part, strict=True)}, stopped,
    )  # fmt: skip


def _site_of(patients: list[str], sites: pd.DataFrame) -> NDArray[np.str_]:
    """Site of every patient, (n,)."""
    pairs = sites[["patient_id", "site_id"]].drop_duplicates()
    pairs = pairs[pairs["patient_id"].isin(patients)]
    if len(torn := sorted(pairs.loc[pairs["patient_id"].duplicated(), "patient_id"].astype(str).unique())):
        raise CohortError(f"{len(torn)} patients belong to two sites", got=", ".join(torn[:5]),
                          fix="Give each patient one site")  # fmt: skip
    known = pairs.dropna().set_index("patient_id")["site_id"]
    if missing := [str(p) for p in patients if p not in known.index]:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise CohortError(f"The site of {len(missing)} of {len(patients)} patients is unknown",
                          got=", ".join(missing[:5]) + more,
                          fix="Give their sites, leave them out, or split by patient")  # fmt: skip
    return known.reindex(patients).astype(str).to_numpy(dtype=np.str_)


def _balance(part: NDArray[np.intp], counts: _Floats, shares: Sequence[float], rows: Sequence[str]) -> pd.DataFrame:
    found = [
        {"part": p, "gene": name, "count": int(counts[part == p, g].sum()), "wanted": share * counts[:, g].sum()}
        for p, share in enumerate(shares) for g, name in enumerate(rows)
    ]  # fmt: skip
    frame = pd.DataFrame(found)
    return frame.assign(deviation=frame["count"] - frame["wanted"])


class _Problem:
    """Sites to parts: counts (sites, K), shares (parts,), in an order that `random` decides."""

    def __init__(self, counts: _Floats, shares: _Floats, random: np.random.Generator) -> None:
        self.counts, self.shares = counts, shares
        self.total = counts.sum(0)
        self.weight = 1 / np.maximum(self.total, 1)
        # large sites first, ties at random: what is decided first decides most
        shuffled = random.permutation(len(counts))
        self.order = shuffled[np.argsort(-counts[shuffled, -1], kind="stable")]
        self.alike = bool(np.ptp(shares) < 1e-12)
        self.parts = random.permutation(len(shares)) if self.alike else np.arange(len(shares))

    def objective(self, part: NDArray[np.intp]) -> float:
        """The summed deviation of an assignment (sites,)."""
        have = np.stack([self.counts[part == p].sum(0) for p in range(len(self.shares))])
        return float((np.abs(have - self.shares[:, None] * self.total) * self.weight).sum())

    def solve(self) -> tuple[NDArray[np.intp], float, str]:
        """Part of every site, a lower bound of the objective, and what stopped the solver (empty: nothing)."""
        found = self._milp()
        if found.x is None:
            raise CohortError("No split by site was found within the limits of the solver", got=str(found.message),
                              fix="Ask for fewer parts, or split by patient")  # fmt: skip
        sites, parts = len(self.counts), len(self.shares)
        inside = np.asarray(found.x[: sites * parts]).reshape(sites, parts).argmax(1)
        chosen = np.empty(sites, np.intp)
        chosen[self.order] = self.parts[inside]
        spent = "" if found.status == 0 else f"stopped after {int(found.mip_node_count or 0):,} branches"
        return chosen, float(found.mip_dual_bound), spent

    def _milp(self) -> OptimizeResult:
        """Variables: x (site, part) of 0 or 1, then d (K, part), the deviations."""
        counts = self.counts[self.order]
        (sites, kinds), parts = counts.shape, len(self.shares)
        n_x, n_d = sites * parts, kinds * parts
        each = sparse.hstack([sparse.kron(sparse.eye(sites), np.ones((1, parts))), sparse.csr_matrix((sites, n_d))])
        some = sparse.hstack([sparse.kron(np.ones((1, sites)), sparse.eye(parts)), sparse.csr_matrix((parts, n_d))])
        slope, least = self._edges()
        inside = sparse.kron(counts.T, sparse.eye(parts), format="csr")  # (K · parts, x): counts in each part
        edges = sparse.vstack([sparse.hstack([-sparse.diags(s.ravel()) @ inside, sparse.eye(n_d)]) for s in slope])
        upper = np.r_[np.ones(n_x), np.full(n_d, np.inf)]
        if self.alike:  # parts that are alike need not be tried in every order
            for site in range(min(parts - 1, sites)):
                upper[site * parts + site + 1 : (site + 1) * parts] = 0
        return milp(
            np.r_[np.zeros(n_x), np.repeat(self.weight, parts)],
            integrality=np.r_[np.ones(n_x), np.zeros(n_d)], bounds=Bounds(0, upper),
            constraints=[LinearConstraint(each.tocsr(), 1, 1), LinearConstraint(some.tocsr(), 1, np.inf),
                         LinearConstraint(edges.tocsr(), least.ravel(), np.inf)],
            options={"node_limit": NODES, "time_limit": SECONDS, "mip_rel_gap": 0.0},
        )  # fmt: skip

    def _edges(self) -> tuple[_Floats, _Floats]:
        """Lines below |count − wanted|, (3, K, parts) slopes and intercepts.

        The third joins the two whole numbers around what is wanted: counts are whole, so the deviation cannot be
        below it, and the solver's proof needs far fewer branches.
        """
        wanted = self.total[:, None] * self.shares[None]
        floor = np.floor(wanted + 1e-9)
        rest = np.maximum(wanted - floor, 0.0)
        between = 1 - 2 * rest
        slope = np.stack([np.ones_like(wanted), -np.ones_like(wanted), between])
        return slope, np.stack([-wanted, wanted, rest - floor * between])
