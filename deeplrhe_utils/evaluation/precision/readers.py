"""A model against human readers on the same cases: agreement, differences on the same cases, shared errors."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from deeplrhe_utils.core.errors import CohortError, InputError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.evaluation.auc.resampling import redraw
from deeplrhe_utils.evaluation.precision.power import wilson

_Floats = NDArray[np.float64]
_Calls = NDArray[np.int64]

MODEL: Final = "model"
_COLUMNS: Final = ("case_id", "truth", "reader", "call")
SHOWN: Final = 5
"""Bad rows that an error message names before it only counts."""
_MEASURES: Final = ("correct", "sensitivity", "specificity")


def read_calls(path: Path | str) -> pd.DataFrame:
    """Read a reader study from a CSV file.

    Parameters
    ----------
    path : columns case_id, truth (0/1), reader, call (0/1); optionally score in [0, 1], from which an empty call is
        made (1 from 0.5 on). The model is the reader named "model".

    Returns DataFrame: :data:`_COLUMNS`, truth and call as integers.

    Raises InputError: as `read_foreign`, missing columns, or bad rows, each named by line and
    reason: empty names, a truth or call that is not 0 or 1, a score outside [0, 1], a case that a reader called twice,
    a case with two truths. No row is dropped.
    """
    raw = read_foreign(Path(path), InputError, columns=_COLUMNS, optional=("score",))
    return _checked(raw.astype("object"), Path(path).name)


def _checked(raw: pd.DataFrame, name: str) -> pd.DataFrame:
    call = raw["call"].copy()
    bad: list[tuple[int, str]] = []
    if "score" in raw:
        score = pd.to_numeric(raw["score"], errors="coerce")
        wrong = raw["score"].ne("") & ~score.between(0, 1)
        bad += [(i, f"score {raw.loc[i, 'score']!r} is not in [0, 1]") for i in raw.index[wrong]]
        call = call.mask(call.eq("") & score.between(0, 1), (score >= 0.5).astype(int).astype(str))
    bad += [(i, f"empty {c}") for c in ("case_id", "reader") for i in raw.index[raw[c].eq("")]]
    for column, values in (("truth", raw["truth"]), ("call", call)):
        bad += [(i, f"{column} {values[i]!r} is not 0 or 1") for i in raw.index[~values.isin(["0", "1"])]]
    twice = raw.duplicated(["case_id", "reader"], keep="first")
    bad += [(i, f"{raw.loc[i, 'reader']} called {raw.loc[i, 'case_id']} before") for i in raw.index[twice]]
    first = raw.groupby("case_id")["truth"].transform("first")
    bad += [(i, f"{raw.loc[i, 'case_id']} has another truth above") for i in raw.index[first.ne(raw["truth"])]]
    if bad:
        lines = "; ".join(f"line {i}: {why}" for i, why in sorted(bad)[:SHOWN])
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise InputError(f"The reader study {name} has bad rows", got=lines + more, fix="Mend these lines")
    found = raw.assign(call=call)[list(_COLUMNS)]
    return found.astype({"truth": np.int64, "call": np.int64})


def shared_cases(calls: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Calls of the cases that everybody called, side by side.

    Parameters
    ----------
    calls : as :func:`read_calls` returns

    Returns
    -------
    wide : DataFrame
        Indexed by case_id: truth and one column of calls per reader, the model first.
    left_out : list of str
        Cases that somebody did not call; to be shown.

    Raises CohortError: the model or every other reader is absent, or no case was called by all.
    """
    names = list(dict.fromkeys(calls["reader"]))
    if MODEL not in names or len(names) < 2:
        got, expected = ", ".join(names), f"{MODEL} and at least one more"
        raise CohortError("A reader study needs the model and a reader", got=got, expected=expected)
    wide = calls.pivot(index="case_id", columns="reader", values="call")[[MODEL, *(n for n in names if n != MODEL)]]
    whole = wide.dropna().astype(np.int64)
    if whole.empty:
        raise CohortError("No case was called by every reader", got=f"{len(wide)} cases, {len(names)} readers")
    truth = calls.drop_duplicates("case_id").set_index("case_id")["truth"]
    whole.insert(0, "truth", truth.reindex(whole.index))
    return whole, sorted(str(c) for c in wide.index.difference(whole.index))


def reader_agreement(wide: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Cohen's κ of every two readers, the truth not asked.

    Parameters
    ----------
    wide : as :func:`shared_cases` returns
    resamples, seed : bootstrap of cases

    Returns DataFrame: first, second, n_cases, agreed (share), kappa, ci_low, ci_high (percentile, 95 %), undefined:
    resamples without a κ, because both called all cases alike; they are left out of the interval.
    """
    weight = redraw(generator(seed, "reader study"), len(wide), resamples)[1:]
    rows = []
    for first, second in combinations(wide.columns[1:], 2):
        a, b = wide[first].to_numpy(np.int64), wide[second].to_numpy(np.int64)
        drawn = _kappa(a, b, weight)
        known = drawn[np.isfinite(drawn)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        kappa = float(cohen_kappa_score(a, b)) if len(set(a) | set(b)) > 1 else float("nan")
        rows.append({"first": first, "second": second, "n_cases": len(wide), "agreed": float((a == b).mean()),
                     "kappa": kappa, "ci_low": low, "ci_high": high, "undefined": resamples - len(known)})  # fmt: skip
    return pd.DataFrame(rows)


def _kappa(first: _Calls, second: _Calls, weight: _Floats) -> _Floats:
    """Cohen's κ under every weighting (b, n), (b,); NaN where chance alone agrees in all cases."""
    total = weight.sum(1)
    agreed = (weight @ (first == second)) / total
    a, b = (weight @ first) / total, (weight @ second) / total
    chance = a * b + (1 - a) * (1 - b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(chance < 1 - 1e-12, (agreed - chance) / (1 - chance), np.nan))


def reader_differences(wide: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The first reader (the model) minus each other, on the same cases.

    Parameters
    ----------
    wide : as :func:`shared_cases` returns
    resamples, seed : bootstrap of cases, the same ones for both

    Returns DataFrame: reader, measure (one of :data:`_MEASURES`; correct is the share of cases called right), n_cases
    (those that the measure counts), model, other, difference, ci_low, ci_high (percentile, 95 %), only_model and
    only_other: cases that one of them alone called right; p: exact two-sided McNemar test of these two counts (Dwyer
    1991).
    """
    truth, weight = wide["truth"].to_numpy(np.int64), redraw(generator(seed, "reader study"), len(wide), resamples)[1:]
    base = wide.iloc[:, 1].to_numpy(np.int64) == truth
    rows = []
    for name in wide.columns[2:]:
        right = wide[name].to_numpy(np.int64) == truth
        for measure, counted in zip(_MEASURES, (np.ones_like(base), truth == 1, truth == 0), strict=True):
            rows.append({"reader": name, "measure": measure, **_difference(base[counted], right[counted],
                                                                           weight[:, counted])})  # fmt: skip
    return pd.DataFrame(rows)


def _difference(base: NDArray[np.bool_], right: NDArray[np.bool_], weight: _Floats) -> dict[str, float]:
    n = len(base)
    if n == 0:
        return {"n_cases": 0}
    gain = base.astype(np.float64) - right
    total = weight.sum(1)
    drawn = (weight @ gain)[total > 0] / total[total > 0]
    only_model, only_other = int((base & ~right).sum()), int((~base & right).sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"n_cases": n, "model": base.mean(), "other": right.mean(), "difference": gain.mean(), "ci_low": low,
            "ci_high": high, "only_model": only_model, "only_other": only_other,
            "p": mcnemar(only_model, only_other)}  # fmt: skip


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p that two readers are right equally often, from the cases that only one of them got right.

    >>> round(mcnemar(1, 8), 4)
    0.0391
    """
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def error_overlap(wide: pd.DataFrame) -> pd.DataFrame:
    """Do the model and the readers fail on the same cases?

    Parameters
    ----------
    wide : as :func:`shared_cases` returns

    Returns DataFrame: question, count, total, share, ci_low, ci_high (Wilson, 95 %). Both questions are those of
    Coudray 2018: of the model's errors, how many did at least one reader make too; of the cases that at least one
    reader got wrong, how many did the model get right. NaN where nobody erred.
    """
    truth = wide["truth"].to_numpy(np.int64)[:, None]
    wrong = wide.iloc[:, 1:].to_numpy(np.int64) != truth
    model, anyone = wrong[:, 0], wrong[:, 1:].any(1)
    asked = (("of the model's errors: also made by a reader", model & anyone, model),
             ("of the cases a reader got wrong: right by the model", anyone & ~model, anyone))  # fmt: skip
    rows = []
    for question, hit, among in asked:
        count, total = int(hit.sum()), int(among.sum())
        low, high = wilson(count, total)
        rows.append({"question": question, "count": count, "total": total,
                     "share": count / total if total else np.nan, "ci_low": low, "ci_high": high})  # fmt: skip
    return pd.DataFrame(rows)


def simulated_readers(
    cases: pd.DataFrame, readers: int = 3, *, sensitivity: float = 0.85, specificity: float = 0.9, alike: float = 0.5,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Readers who do not exist, to show what a reader study of this size could tell.

    Parameters
    ----------
    cases : case_id, truth (0/1)
    sensitivity, specificity : in (0, 1), the same for all
    alike : in [0, 1): correlation of two readers' latent difficulty of a case; 0 lets them err independently

    Returns DataFrame: :data:`_COLUMNS`; every reader's name ends in "(SIMULATED)".
    """
    random, truth = generator(seed, "simulated readers"), cases["truth"].to_numpy(np.int64)
    hard = random.standard_normal(len(truth))
    able = stats.norm.ppf(np.where(truth == 1, sensitivity, specificity))
    parts = []
    for number in range(1, readers + 1):
        own = np.sqrt(alike) * hard + np.sqrt(1 - alike) * random.standard_normal(len(truth))
        call = np.where(own <= able, truth, 1 - truth)
        parts.append(cases[["case_id", "truth"]].assign(reader=f"reader {number} (SIMULATED)", call=call))
    return pd.concat(parts, ignore_index=True)[list(_COLUMNS)]


def simulated_study(classes: pd.DataFrame, readers: int, **skill: Any) -> pd.DataFrame:
    """The model's calls of the two carcinomas, the likelier one, beside those of :func:`simulated_readers`.

    Parameters
    ----------
    classes : slide_id, patient_id, truth, adenocarcinoma and squamous (probabilities); a patient's first slide counts.
        Without these columns there is no study.
    skill : as of :func:`simulated_readers`

    Returns DataFrame: as :func:`simulated_readers`, with score; adenocarcinoma is 1.
    """
    if not {"adenocarcinoma", "squamous"} <= set(classes):
        return pd.DataFrame()
    told = classes.sort_values("slide_id").drop_duplicates("patient_id")
    score = told["adenocarcinoma"] / (told["adenocarcinoma"] + told["squamous"])
    truth = (told["truth"] == "adenocarcinoma").astype(int)
    cases = pd.DataFrame({"case_id": told["slide_id"], "truth": truth, "score": score})
    own = cases.assign(reader=MODEL, call=(score >= 0.5).astype(int))
    return pd.concat([own, simulated_readers(cases, readers, **skill)], ignore_index=True)
