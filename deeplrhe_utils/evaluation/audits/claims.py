"""The claims ledger: each checkable statement of both sources, what a run found, and a verdict that can be traced.

Verdicts follow from the number files of a run and from nothing else; a number that is missing makes a claim "not
estimable" in that run, never "reproduced".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.text import with_ends
from deeplrhe_utils.evaluation.audits.probing import LEVEL

VERDICTS: Final = ("reproduced", "compatible", "not reproduced", "contradicted", "not estimable", "needs TCGA",
                   "not testable")  # fmt: skip
_COLUMNS: Final = ["id", "source", "statement", "reported", "needs", "found", "interval", "verdict", "traced_to"]
ABSENT: Final = "not in this run"
LEAST: Final = 5
"""Patients of a class below which no AUC is estimated."""
_ROUNDED: Final = 0.05  # share by which "about" may be off
_SIX: Final = ("STK11", "EGFR", "FAT1", "SETBP1", "KRAS", "TP53")  # Coudray 2018, abstract
_SIX_LEAST: Final = 0.733
_GENES: Final = {"C01": "TP53", "C02": "EGFR", "C03": "DNMT3A", "C04": "PBRM1", "C05": "STK11"}


@dataclass
class Numbers:
    """Numbers of a run, by stage; remembers which were asked for.

    Attributes
    ----------
    stages : stage → its number file's content
    asked : what :meth:`get` was asked for and found, as ``file#path``
    """

    stages: Mapping[str, Any]
    asked: list[str] = field(default_factory=list)

    def get(self, stage: str, *path: str) -> Any:
        """The number at `path` below the stage whose name begins with `stage`, or None where there is none."""
        name = next((key for key in self.stages if key.startswith(stage)), "")
        value: Any = self.stages.get(name)
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            self.asked.append(f"numbers/{name}.json#{'.'.join(path)}")
        return value


@dataclass(frozen=True)
class Finding:
    """What a run says of a claim: words, an interval in words (or none), and a verdict of :data:`VERDICTS`."""

    found: str
    verdict: str
    interval: str = "–"


def read_numbers(folder: Path) -> Numbers:
    """All ``*.json`` below a run's folder of numbers.

    Raises InputError: no number file, or one that is not JSON.
    """
    stages = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            stages[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as cause:
            raise InputError(f"{path} is no number file ({cause})", fix="Run that stage again") from cause
    if not stages:
        raise InputError(f"{folder} holds no numbers", fix="Run the notebooks before this one")
    return Numbers(stages)


def claims_ledger(claims: pd.DataFrame, numbers: Numbers) -> pd.DataFrame:
    """Judge every claim.

    Parameters
    ----------
    claims : id, source, statement, reported, needs: ``data/reference/claims.csv``

    Returns DataFrame: :data:`_COLUMNS`, in the order of `claims`; traced_to lists the numbers that a verdict rests on.

    Raises InputError: a claim that nobody judges, or a judge without its claim.
    """
    if differ := sorted(set(claims["id"]) ^ set(JUDGES)):
        raise InputError("The claims and their judges do not match", got=", ".join(differ))
    rows = []
    for claim in claims.to_dict("records"):
        asking = Numbers(numbers.stages)
        finding = JUDGES[claim["id"]](asking)
        traced = "; ".join(dict.fromkeys(asking.asked)) or ABSENT
        rows.append(claim | {"found": finding.found, "interval": finding.interval, "verdict": finding.verdict,
                             "traced_to": traced})  # fmt: skip
    return pd.DataFrame(rows)[_COLUMNS]


def _untestable(words: str) -> Callable[[Numbers], Finding]:
    return lambda _: Finding(words, "not testable")


def _missing() -> Finding:
    return Finding(ABSENT, "not estimable")


def _gene(gene: str) -> Callable[[Numbers], Finding]:
    """The reported AUC of a gene beside what chance, the diagnosis alone and an image reader of real patients reach.

    Another reader of other patients cannot refute a value: where it lies above theirs by more than both intervals
    allow, it is "not reproduced".
    """

    def judge(numbers: Numbers) -> Finding:
        row, size = numbers.get("12", "reported", gene), numbers.get("12", "paper_patients")
        if row is None or None in (size, row["ci_low"], row["ci_high"], row["null_high"]):
            return _missing()
        ends = f"[{row['ci_low']:.2f}, {row['ci_high']:.2f}] is what {row['n_pos']} of {size} patients allow"
        null = f"chance alone reaches {row['null_high']:.2f} in 1 of 40 cohorts of two halves"
        if (alone := numbers.get("13", "alone", gene)) is not None:
            null += f"; the diagnosis alone gives {with_ends(alone)}"
        few = min(row["n_pos"], row["n_neg"]) < LEAST
        image = numbers.get("13", "real", "image | both diagnoses", gene)
        if image is None or image["auc"] is None:
            return Finding(null, "not estimable" if few else "needs TCGA", ends)
        null += f"; an image reader of real patients {with_ends(image)}"
        above = _beyond(row["auc"], row["auc"] - row["ci_low"], image)
        return Finding(null, "not estimable" if few else "not reproduced" if above else "compatible", ends)

    return judge


def _identity(numbers: Numbers) -> Finding:
    gap = numbers.get("05", "identity_gap")
    if gap is None:
        return _missing()
    return Finding(f"largest difference {gap:g}", "reproduced" if gap == 0 else "contradicted")


def _ablation(name: str) -> Callable[[Numbers], Finding]:
    """Training loss with one part of the network switched off, and the patient-level AUC beside it.

    The claims are about training, so the loss decides; a loss that is null diverged. Without a pair of finished folds
    there is nothing to judge, and a network that learned nothing with the part says nothing of it by losing it.
    """

    def judge(numbers: Numbers) -> Finding:
        losses, gain = numbers.get("05", "claims_loss_last"), numbers.get("06", "ablations", name)
        control = numbers.get("06", "ablations", "same, short", "p_holm")
        if not losses or gain is None or control is None:
            return _missing()
        if control >= LEVEL:
            found = f"not informative: the whole network, as briefly trained, finds no gene (adjusted p {control:.2f})"
            return Finding(found, "not estimable")
        folds = [key.rsplit(", ", 1)[1] for key in losses if key.startswith(f"{name}, ")]
        pairs = [(losses[f"{name}, {fold}"], losses.get(f"same, short, {fold}")) for fold in folds]
        worse = [without is None or without > whole for without, whole in pairs if whole is not None]
        if not worse or gain["ci_low"] is None:
            return _missing()
        found = f"without it the training loss ends higher in {sum(worse)} of {len(worse)} folds"
        interval = f"AUC without minus with {gain['difference']:+.2f} [{gain['ci_low']:.2f}, {gain['ci_high']:.2f}]"
        verdict = "compatible" if all(worse) else "not estimable" if any(worse) else "contradicted"
        return Finding(found, verdict, interval)

    return judge


def _structure(numbers: Numbers) -> Finding:
    row = numbers.get("04", "methods", "DCGMM")
    if not row or row.get("correlation") is None:
        return _missing()
    found = f"correlation of brightness {row['correlation']:.3f}, structure (cs) {row['cs']:.3f}: kept, not unchanged"
    return Finding(found, "compatible" if min(row["correlation"], row["cs"]) >= 0.95 else "contradicted")


def _helps(numbers: Numbers) -> Finding:
    gains = {g: row for g, row in (numbers.get("04", "helps") or {}).items() if row["ci_low"] is not None}
    if not gains:
        return _missing()
    above, below = (sorted(g for g, row in gains.items() if test(row)) for test in
                    (lambda row: row["ci_low"] > 0, lambda row: row["ci_high"] < 0))  # fmt: skip
    found = f"AUC rises for {', '.join(above) or 'no gene'}, falls for {', '.join(below) or 'no gene'}"
    interval = "; ".join(f"{g} {row['difference']:+.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
                         for g, row in gains.items())  # fmt: skip
    # of so many intervals some miss 0 by chance: a direction needs more than 2.5 % each would give
    up, down = (float(stats.binom.sf(len(side) - 1, len(gains), 0.025)) < 0.05 for side in (above, below))
    verdict = "not estimable" if up == down else "compatible" if up else "contradicted"
    return Finding(found, verdict, interval)


def _beyond(value: float, down: float, row: Mapping[str, Any]) -> bool:
    """Whether `value`, with an interval `down` below it, exceeds an AUC by more than both intervals allow (MOVER)."""
    return bool(value - row["auc"] > math.hypot(down, row["ci_high"] - row["auc"]))


def _sum(numbers: Numbers) -> Finding:
    total = numbers.get("14", "forensics", "slides_total")
    if total is None:
        return _missing()
    listed = numbers.get("14", "forensics", "slides_in_manifest")
    also = f"; the published manifest lists {listed:,}" if listed else ""
    rounded = abs(total - 1700) <= _ROUNDED * total
    return Finding(f"the three counts add up to {total:,}{also}", "compatible" if rounded else "contradicted")


def _windows(numbers: Numbers) -> Finding:
    unit, shared = numbers.get("14", "forensics", "split_unit"), numbers.get("10", "shared", "tile")
    if unit is None:
        return _missing()
    found = f"the article says {unit['article']}, the code assigns by {unit['code']}"
    if shared is not None:
        found += f"; divided by tile, {shared:.0%} of this run's tested tiles have a patient who is trained on"
    return Finding(found, "reproduced" if unit["article"] == unit["code"] else "contradicted")


def _in_code(what: str, same: str, words: str) -> Callable[[Numbers], Finding]:
    """What the article says beside what the code does; `same` is the verdict where they agree."""

    def judge(numbers: Numbers) -> Finding:
        pair = numbers.get("14", "forensics", what)
        if pair is None:
            return _missing()
        return Finding(words.format(pair["code"]), same if pair["article"] == pair["code"] else "contradicted")

    return judge


def _range(numbers: Numbers) -> Finding:
    width = numbers.get("14", "forensics", "coudray_half_width")
    if width is None:
        return Finding("the held-out slides are not public as a list", "needs TCGA")
    ends = "; ".join(f"{auc}: ± {half:.2f}" for auc, half in width.items())
    real = numbers.get("13", "real", "image | adenocarcinoma") or {}
    if all((real.get(gene) or {}).get("auc") is not None for gene in _SIX):
        found = ", ".join(f"{gene} {with_ends(real[gene])}" for gene in _SIX)
        above = any(_beyond(_SIX_LEAST, width[str(_SIX_LEAST)], real[gene]) for gene in _SIX)
        return Finding(f"an image reader of real adenocarcinomas: {found}", "not reproduced" if above else "compatible",
                       ends)  # fmt: skip
    return Finding("width that 15 % of the labelled patients allow, at a prevalence of one fifth", "needs TCGA", ends)


def _table_one(statement: str) -> Callable[[Numbers], Finding]:
    """What TCGA's clinical table says of a difference that the prose of Table 1 states, in all lung patients."""

    def judge(numbers: Numbers) -> Finding:
        row = numbers.get("14", "forensics", "table_one", statement)
        if row is None:
            return _missing()
        return Finding(f"all of TCGA: {row['sentence']}", sided(row["ci_low"], row["ci_high"], row["stated_sign"]))

    return judge


def _completeness(numbers: Numbers) -> Finding:
    labelled, reported = numbers.get("00", "genes_labelled"), numbers.get("00", "genes_reported")
    if labelled is None or reported is None:
        return _missing()
    found = f"{reported} of {labelled} labelled genes are reported; the others are dropped without a word"
    return Finding(found, "reproduced" if (labelled, reported) == (8, 5) else "contradicted")


JUDGES: Final[dict[str, Callable[[Numbers], Finding]]] = {
    **{claim: _gene(gene) for claim, gene in _GENES.items()},
    "C06": _untestable("how ten tiles of a slide were chosen is not told; that we have ten is our sampler's doing"),
    "C07": _identity, "C08a": _ablation("no batch norm"), "C08b": _ablation("no shortcuts"),
    "C09": _structure,
    "C10": _untestable("their tiles are not public; that ours keep the limit is our own filter's doing"),
    "C11": _helps,
    "C12": _untestable("where their mutated cells are is not known; planted effects say nothing of their map"),
    "C13": _sum, "C14": _windows,
    "C15": _in_code("weight_decay", "reproduced", "weight decay is {:g} in the code; 0.9 is RMSProp's decay"),
    "C16": _untestable("the counts are not printed; any that are chosen to give these shares agree with them"),
    "C17": _in_code("training_steps", "compatible", "the code's default is {:,.0f}; its own examples stop earlier"),
    "C18": _range,
    "C19": _untestable("the readers' calls are not public; notebook 12 tests any table of them"),
    "C20": _completeness,
    "C21": _table_one("adenocarcinoma tends occur at older age"),
    "C22": _table_one("the overall death is relatively younger"),
    "C23": _table_one("especially in male"),
}  # fmt: skip
"""Claim → who judges it."""


def possible_auc(reported: str, n_pos: int, n_neg: int) -> bool:
    """Whether an AUC, as printed, can arise from these counts.

    An AUC is a number of half-won pairs over twice the pairs; with few pairs most three-digit values cannot occur.

    Parameters
    ----------
    reported : as printed, so that its decimals are known, for example "0.753"
    n_pos, n_neg : units of each class, at least one

    Raises ParameterError: no number in [0, 1], or an empty class.

    Source: the idea of granularity tests, Brown & Heathers 2017.

    >>> possible_auc("0.753", 3, 4), possible_auc("0.75", 3, 4)
    (False, True)
    """
    try:
        value = float(reported)
    except ValueError as cause:
        raise ParameterError("An AUC as printed is a number", got=reported) from cause
    if not 0 <= value <= 1 or min(n_pos, n_neg) < 1:
        raise ParameterError("There is no such AUC", got=f"{reported} of {n_pos} and {n_neg}")
    decimals = len(reported.partition(".")[2])
    halves = 2 * n_pos * n_neg
    nearest = np.arange(max(0, int(value * halves) - 1), min(halves, int(value * halves) + 2) + 1) / halves
    return bool((np.abs(nearest - value) <= 0.5 * 10.0**-decimals + 1e-12).any())


def sided(low: float, high: float, sign: float) -> str:
    """What an interval says of a difference that is stated to have `sign`: it may also lie on both sides of 0."""
    low, high = sorted((low * sign, high * sign))
    return "compatible" if low > 0 else "contradicted" if high < 0 else "not estimable"


def stated_differences(checks: pd.DataFrame) -> pd.DataFrame:
    """Each stated difference as a sentence with its verdict (:func:`sided`).

    Parameters
    ----------
    checks : ``data/reference/table1_checks.csv``: statement, quantity, patients, both sides' names, values and counts,
        stated_sign (1: the first side is said to be greater), difference, ci_low, ci_high

    Returns DataFrame: `checks` with the columns verdict and sentence.
    """
    verdicts, sentences = [], []
    for row in checks.to_dict("records"):
        show = "{:.1%}".format if row["quantity"].startswith("share") else "{:.1f}".format
        sides = (f"{row[s]} {show(row[f'{s}_value'])} ({row[f'{s}_n']})" for s in ("first", "second"))
        gap, low, high = (show(row[name]) for name in ("difference", "ci_low", "ci_high"))
        verdicts.append(sided(row["ci_low"], row["ci_high"], row["stated_sign"]))
        sentences.append(f"{row['patients']}, {row['quantity']}: {', '.join(sides)}; difference {gap} [{low}, {high}]")
    return checks.assign(verdict=verdicts, sentence=sentences)


def reported_by_chance(reported: pd.DataFrame, precision: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Each reported AUC beside what its sample size allows.

    Parameters
    ----------
    reported : gene, reported_auc (null where it was not reported)
    precision : gene → n_pos, n_neg, ci_low, ci_high, null_high: as notebook 12 writes it

    Returns DataFrame: gene, reported_auc, n_pos, n_neg, ci_low, ci_high, null_high, arithmetic ("possible" or not with
    these counts) and above_chance: whether the reported value lies above the central 95 % of an AUC when nothing is
    there.
    """
    rows = []
    for row in reported.dropna(subset=["reported_auc"]).to_dict("records"):
        own = precision.get(row["gene"])
        if own is None or own["null_high"] is None:
            continue
        value = row["reported_auc"]
        fits = possible_auc(f"{value:g}", own["n_pos"], own["n_neg"])
        rows.append({"gene": row["gene"], "reported_auc": value, "n_pos": own["n_pos"], "n_neg": own["n_neg"],
                     "ci_low": own["ci_low"], "ci_high": own["ci_high"], "null_high": own["null_high"],
                     "arithmetic": "possible" if fits else "impossible",
                     "above_chance": "yes" if value > own["null_high"] else "no"})  # fmt: skip
    columns = ["gene", "reported_auc", "n_pos", "n_neg", "ci_low", "ci_high", "null_high", "arithmetic", "above_chance"]
    return pd.DataFrame(rows, columns=columns)
