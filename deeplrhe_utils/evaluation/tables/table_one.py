"""Table 1 by any grouping: characteristics, missing counts and standardised mean differences, the patient as unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deeplrhe_utils.core.errors import CohortError, ParameterError, SmallCohortError

_Floats = NDArray[np.float64]

MISSING_WORDS: Final = (
    "[Not Available]",
    "[Not Applicable]",
    "[Not Evaluated]",
    "[Unknown]",
    "[Discrepancy]",
    "[Completed]",
)
"""How TCGA's clinical tables write that a value is not there."""
OVERALL: Final = "overall"


def role_groups(splits: pd.DataFrame) -> pd.Series:
    """Role of each patient in the first fold: table SPLITS to a series (role) indexed by patient_id.

    Raises CohortError: a unit is on both sides.
    """
    own = splits[splits["fold"] == 0]
    if len(twice := own.loc[own["unit_id"].duplicated(), "unit_id"]):
        raise CohortError(f"Unit {twice.iloc[0]} is on both sides of fold 0")
    return own.set_index("unit_id")["role"].rename("role")


def label_groups(labels: pd.DataFrame, gene: str) -> pd.Series:
    """Status of each patient for one gene: table LABELS to a series indexed by patient_id, null where not profiled.

    Raises ParameterError: the gene has no labels.
    """
    own = labels[labels["gene"] == gene].set_index("patient_id")["status"]
    if own.empty:
        raise ParameterError(f"There are no labels of {gene}", expected=", ".join(labels["gene"].unique()))
    return own.map({1: "mutated", 0: "wild type"}).rename(gene)


def characteristics(patients: pd.DataFrame, groups: pd.Series, variables: Iterable[str]) -> pd.DataFrame:
    """Characteristics of patients, overall and group by group.

    Parameters
    ----------
    patients : one row per patient: patient_id and `variables`
    groups : patient to group; whoever is absent or null is counted in the first row's `missing` and in `overall` only
    variables : numeric ones are summarised as mean ± SD, others as n (%)

    Returns DataFrame: variable, level, overall, a column per group, missing (patients without the value, of all), smd,
    smd_between. The first row counts patients. Percentages are of patients whose value is known; a row "missing"
    follows each variable that lacks values. smd: the largest absolute :func:`smd` of two groups, and which two these
    are, in the variable's first row; none, and "by definition", where the variable is what makes the groups.

    Raises CohortError: a patient stands in two rows, or nobody has a group. ParameterError: a variable that is no
    column.
    """
    chosen = list(variables)
    frame = _known(patients, chosen)
    own = frame["patient_id"].map(groups)
    parts = {str(name): frame[own == name] for name in sorted(own.dropna().unique(), key=str)}
    if not parts:
        raise SmallCohortError(
            "No patient of the table has a group", got=f"{len(frame)} patients, {len(groups)} grouped"
        )
    sizes = {OVERALL: str(len(frame)), **{g: str(len(f)) for g, f in parts.items()}}
    rows: list[dict[str, object]] = [{"variable": "patients", "level": "", **sizes, "missing": int(own.isna().sum())}]
    differing = _largest(smd_table(patients, groups, chosen))
    for variable in chosen:
        continuous = _is_continuous(frame[variable])
        lines = _lines(frame[variable], {OVERALL: frame, **parts}, variable, continuous)
        same = (frame[variable].astype(str) == own.astype(str))[frame[variable].notna() & own.notna()]
        if len(same) and same.all():
            differing[variable] = {"smd_between": "by definition"}
        lines[0] |= {"missing": int(frame[variable].isna().sum()), **differing.get(variable, {})}
        rows += [{"variable": variable, **line} for line in lines]
    return pd.DataFrame(rows, columns=["variable", "level", OVERALL, *parts, "missing", "smd", "smd_between"])


def _known(patients: pd.DataFrame, variables: list[str]) -> pd.DataFrame:
    """The columns that are needed, with texts that mean "not there" as nulls, and amounts as numbers."""
    if absent := [v for v in ("patient_id", *variables) if v not in patients]:
        raise ParameterError("The table of patients lacks columns", got=", ".join(absent))
    if len(twice := patients.loc[patients["patient_id"].duplicated(), "patient_id"]):
        what = "Table 1 counts patients, and one has two rows"
        raise CohortError(what, got=str(twice.iloc[0]), fix="Give one row per patient")
    frame = patients[["patient_id", *variables]].copy()
    for variable in variables:
        known = frame[variable].mask(frame[variable].isin(list(MISSING_WORDS)))
        numbers = pd.to_numeric(known, errors="coerce")  # a column of amounts with a text for "not there" is of text
        frame[variable] = numbers if numbers.notna().eq(known.notna()).all() else known
    return frame


def _is_continuous(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _lines(
    values: pd.Series, parts: Mapping[str, pd.DataFrame], variable: str, continuous: bool
) -> list[dict[str, object]]:
    """The rows of one variable, without its name."""
    lines: list[dict[str, object]] = []
    if continuous:
        cells = {g: _mean_sd(f[variable].dropna().to_numpy(float)) for g, f in parts.items()}
        lines.append({"level": "mean ± SD", **cells})
    else:
        for level in sorted(values.dropna().unique(), key=str):
            lines.append({"level": str(level), **{g: _share(f[variable], level) for g, f in parts.items()}})
    if values.isna().any() or not lines:
        lines.append({"level": "missing", **{g: str(int(f[variable].isna().sum())) for g, f in parts.items()}})
    return lines


def _mean_sd(known: _Floats) -> str:
    return f"{known.mean():.1f} ± {known.std(ddof=1):.1f}" if len(known) > 1 else "–"


def _share(values: pd.Series, level: object) -> str:
    known = values.dropna()
    count = int((known == level).sum())
    return f"{count} ({100 * count / len(known):.0f} %)" if len(known) else "–"


def _largest(differences: pd.DataFrame) -> dict[str, dict[str, object]]:
    """Variable to its largest absolute difference and the two groups, empty where there is none."""
    found: dict[str, dict[str, object]] = {}
    for variable, own in differences.groupby("variable", sort=False):
        known = own.dropna(subset=["smd"])
        found[str(variable)] = {}
        if len(known):
            top = known.loc[known["smd"].abs().idxmax()]
            found[str(variable)] = {"smd": abs(float(top["smd"])), "smd_between": f"{top['first']}, {top['second']}"}
    return found


def smd_table(patients: pd.DataFrame, groups: pd.Series, variables: Iterable[str]) -> pd.DataFrame:
    """Standardised mean difference of every variable between every two groups.

    Parameters
    ----------
    patients, groups, variables : as for :func:`characteristics`

    Returns DataFrame: variable, kind (continuous, categorical), first, second (groups, in order of their names), smd
    (see :func:`smd`; NaN where a group has too few known values), n_first, n_second (known values), missing_first,
    missing_second.

    Raises CohortError, ParameterError: as :func:`characteristics`.
    """
    chosen = list(variables)
    frame = _known(patients, chosen)
    own = frame["patient_id"].map(groups)
    rows = []
    for variable in chosen:
        continuous = _is_continuous(frame[variable])
        for first, second in combinations(sorted(own.dropna().unique(), key=str), 2):
            a, b = frame.loc[own == first, variable], frame.loc[own == second, variable]
            rows.append({
                "variable": variable, "kind": "continuous" if continuous else "categorical", "first": str(first),
                "second": str(second), "smd": smd(a, b, continuous), "n_first": int(a.notna().sum()),
                "n_second": int(b.notna().sum()), "missing_first": int(a.isna().sum()),
                "missing_second": int(b.isna().sum()),
            })  # fmt: skip
    columns = ["variable", "kind", "first", "second", "smd", "n_first", "n_second", "missing_first", "missing_second"]
    return pd.DataFrame(rows, columns=columns)


def smd(first: pd.Series, second: pd.Series, continuous: bool) -> float:
    """Standardised mean difference of two groups, nulls left out.

    Parameters
    ----------
    first, second : values of each group's patients

    Returns float: continuous: difference of means (first minus second) over the root of the mean of both variances; NaN
    with fewer than two known values in a group. Categorical: Mahalanobis distance of the two groups' shares, never
    negative (Yang & Dalton 2012); infinite where the groups have no level in common; NaN where one is empty.
    """
    a, b = first.dropna(), second.dropna()
    if continuous:
        return _continuous(a.to_numpy(np.float64), b.to_numpy(np.float64))
    if not len(a) or not len(b):
        return float("nan")
    levels = sorted(set(a) | set(b), key=str)
    shares = [np.array([(part == level).mean() for level in levels[1:]]) for part in (a, b)]
    return _mahalanobis(*shares)


def _continuous(first: _Floats, second: _Floats) -> float:
    if min(len(first), len(second)) < 2:
        return float("nan")
    away = first.mean() - second.mean()
    spread = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    return float(away / spread) if spread > 0 else float(np.sign(away) * np.inf if away else 0.0)


def _mahalanobis(first: _Floats, second: _Floats) -> float:
    """Distance of two vectors of multinomial shares (levels − 1,) by the mean of their covariances."""
    away = first - second
    if not len(away):
        return 0.0
    covariance = (np.diag(first) - np.outer(first, first) + np.diag(second) - np.outer(second, second)) / 2
    values, vectors = np.linalg.eigh(covariance)
    along = vectors.T @ away
    flat = values < 1e-12
    if (np.abs(along[flat]) > 1e-9).any():
        return float("inf")  # apart in a direction in which neither group varies
    return float(np.sqrt((along[~flat] ** 2 / values[~flat]).sum()))
