"""The draw of a cohort: units in an order of their own, spread over strata as evenly as they allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import pandas as pd

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.core.seeds import generator

if TYPE_CHECKING:
    from deeplrhe_utils.acquisition.cohort_rules import CohortRule

Stratum = tuple[str, ...]
STRATA_COLUMNS: Final = ("available", "wanted", "drawn")
_OTHER, _NOT_DRAWN = "another slide of the patient was taken", "not drawn"


def draw(files: pd.DataFrame, rule: CohortRule) -> tuple[pd.Series, pd.DataFrame]:
    """Draw files.

    Parameters
    ----------
    files : table SLIDE_FILES of the files that fit, with any index of its own

    Returns
    -------
    reasons : by the index of `files`: why a file was not drawn, null where it was
    strata : the strata's columns, available (patients, or files, that fit the stratum), wanted (even shares), drawn

    Raises CohortError: fewer than `rule.n_slides`.
    """
    one_each = rule.slides_per_patient == 1
    table = files.assign(unit=files["patient_id"] if one_each else files["file_id"], inner=ranks(files, rule))
    table["outer"] = ranks(files, rule, by="patient_id") if one_each else table["inner"]
    table["stratum"] = _strata(files, rule)
    options = table.sort_values("inner").drop_duplicates(["unit", "stratum"]).sort_values("outer")
    units = {s: list(dict.fromkeys(own["unit"])) for s, own in options.groupby("stratum")}
    wanted = table["unit"].nunique() if rule.n_slides is None else rule.n_slides
    placed = spread(units, wanted)
    strata = _strata_table(units, placed, wanted, rule)
    if len(placed) < wanted:
        what = f"The rule {rule.name} wants {wanted} slides, and there are {len(placed)}"
        raise CohortError(what, got=_said(strata), fix="Ask for fewer slides, or for fewer genes")
    taken = options.index[[placed.get(u) == s for u, s in zip(options["unit"], options["stratum"], strict=True)]]
    said = [_OTHER if one_each and unit in placed else _NOT_DRAWN for unit in table["unit"]]
    return pd.Series(said, files.index, "string").mask(files.index.isin(taken)), strata


def ranks(files: pd.DataFrame, rule: CohortRule, by: str = "file_name") -> pd.Series:
    """Place of each file in the order of a rule, from 0: by size, or by a random number of the name in column `by`.

    The number depends on the seed and the name alone, so that other files, and their order, do not change it.
    """
    keys = files[[by, "file_name", "file_id"]].set_axis(["name", "file", "id"], axis=1)
    if rule.smallest_first:
        keys["first"] = files["bytes"].astype("int64")
    else:
        numbers = {name: generator(rule.seed, "cohort", name).random() for name in files[by].unique()}
        keys["first"] = files[by].map(numbers).astype("float64")
    order = keys.sort_values(["first", "name", "file", "id"]).index
    return pd.Series(range(len(order)), order).reindex(files.index)


def spread(units: Mapping[Stratum, Sequence[str]], wanted: int) -> dict[str, Stratum]:
    """Place units into strata, each unit once, as evenly as they allow.

    Parameters
    ----------
    units : stratum → the units that fit it, in the order of the draw
    wanted : units to place in all

    Returns stratum of each placed unit. Strata are filled in turn; one that cannot grow, not even when a unit that fits
    two strata moves (an augmenting path in a bipartite graph), leaves its share to the others. So `wanted` are placed
    whenever that is possible, and no stratum could have one more at the cost of a fuller one.

    >>> spread({("a",): ["p", "q"], ("b",): ["p"]}, 2)
    {'q': ('a',), 'p': ('b',)}
    """
    placed: dict[str, Stratum] = {}
    growing = sorted(units)
    while growing and len(placed) < wanted:
        for stratum in list(growing):
            if len(placed) < wanted and not _grow(stratum, units, placed, set()):
                growing.remove(stratum)
    return placed


def _grow(
    stratum: Stratum, units: Mapping[Stratum, Sequence[str]], placed: dict[str, Stratum], seen: set[Stratum]
) -> bool:
    """Place one more unit in a stratum; units may move among strata for it."""
    seen.add(stratum)
    if (free := next((unit for unit in units[stratum] if unit not in placed), None)) is not None:
        placed[free] = stratum
        return True
    for unit in units[stratum]:
        if placed[unit] not in seen and _grow(placed[unit], units, placed, seen):
            placed[unit] = stratum
            return True
    return False


def _strata(files: pd.DataFrame, rule: CohortRule) -> pd.Series:
    columns = [files[column].astype(str) for column in rule.strata]
    return pd.Series(list(zip(*columns, strict=True)) if columns else [()] * len(files), files.index, dtype="object")


def _strata_table(
    units: Mapping[Stratum, Sequence[str]], placed: Mapping[str, Stratum], wanted: int, rule: CohortRule
) -> pd.DataFrame:
    drawn = pd.Series(list(placed.values()), dtype="object").value_counts()
    rows = []
    for place, stratum in enumerate(sorted(units)):
        share = wanted // len(units) + int(place < wanted % len(units))
        rows.append((*stratum, len(units[stratum]), share, int(drawn.get(stratum, 0))))
    return pd.DataFrame(rows, columns=[*rule.strata, *STRATA_COLUMNS])


def _said(strata: pd.DataFrame) -> str:
    if strata.empty:
        return "no file that fits"
    names = strata.drop(columns=list(STRATA_COLUMNS)).astype(str).agg(" ".join, axis=1)
    counts = zip(names, strata["available"], strata["drawn"], strict=True)
    return "; ".join(f"{name or 'all'}: {found} available, {drawn} drawn" for name, found, drawn in counts)
