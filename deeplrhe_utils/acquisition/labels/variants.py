"""Which variants make a gene mutated: classes, drivers, protein changes; one rule for services and files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.core.errors import LabelError, ParameterError
from deeplrhe_utils.core.tables.foreign import read_foreign

NON_SILENT: Final = frozenset({
    "Frame_Shift_Del", "Frame_Shift_Ins", "In_Frame_Del", "In_Frame_Ins", "Missense_Mutation", "Nonsense_Mutation",
    "Nonstop_Mutation", "Splice_Site", "Translation_Start_Site",
})  # fmt: skip
"""The nine MAF classes that count by default. Source: DeepPATH's labels (requirements 2.2)."""
SYNONYMOUS_CHANGE: Final = "Synonymous_Change"
"""Our class for a change known only as "ending in =": cBioPortal does not load Silent, so it may alter splicing."""
NOT_COUNTED: Final = frozenset({
    "Silent", "Intron", "3'UTR", "5'UTR", "3'Flank", "5'Flank", "IGR", "RNA", "lincRNA", "Splice_Region", "Fusion",
    "Targeted_Region", "De_novo_Start_InFrame", "De_novo_Start_OutOfFrame", SYNONYMOUS_CHANGE,
})  # fmt: skip
"""Known and not counted. Source: MAF specification 2.4.1 and the classes that cBioPortal's importer accepts."""
KNOWN: Final = NON_SILENT | NOT_COUNTED
PRIMARY_TUMOUR: Final = ("01",)
_ANY: Final = "any"
"""In a list of drivers: every counted change of the gene."""
BETWEEN_CLASSES: Final = "/"
"""Stands between classes of which one applies, where a protein change does not tell which."""
_NO_ANNOTATION: Final = frozenset({"", "NA", "."})
PASSED: Final = frozenset({"PASS", *_NO_ANNOTATION})
"""Values of a MAF's ``FILTER`` with which a variant counts; every other names a reason against it."""
NOT_PASSED: Final = "FILTER not PASS: "
NOT_SOMATIC: Final = frozenset({"germline", "loh", "wildtype", "none"})
"""Values of ``Mutation_Status``, in small letters, that are no somatic mutation."""


@dataclass(frozen=True)
class VariantRule:
    """What counts as a mutation, and whose samples speak for a patient.

    Parameters
    ----------
    classes : variant classes that count (1)
    drivers : (gene, protein change) pairs: only these count, if their class counts as well (:func:`read_drivers`)
    sample_codes : two digits of the TCGA sample barcode: 01 primary tumour (the tissue that slides show), 02 recurrent,
        06 metastatic. Empty takes all. Samples without such a code are always taken, and counted.
    """

    classes: frozenset[str] = NON_SILENT
    drivers: frozenset[tuple[str, str]] | None = None
    sample_codes: tuple[str, ...] = PRIMARY_TUMOUR

    def __post_init__(self) -> None:
        if strange := sorted(self.classes - KNOWN):
            raise ParameterError("Unknown variant class in the rule", got=", ".join(strange),
                                 expected=", ".join(sorted(KNOWN)))  # fmt: skip
        if not self.classes:
            raise ParameterError("The rule counts no class, so that nobody is mutated")
        if wrong := [c for c in self.sample_codes if not re.fullmatch(r"\d\d", c)]:
            raise ParameterError("A sample code is not two digits", got=wrong[0], expected="01, 02, 06 or the like")

    def sentence(self) -> str:
        """The rule in words, for reports."""
        which = "the nine non-silent classes" if self.classes == NON_SILENT else ", ".join(sorted(self.classes))
        only = f", of a list of {len(self.drivers)} drivers only" if self.drivers is not None else ""
        samples = f"samples {', '.join(self.sample_codes)}" if self.sample_codes else "all samples of a patient"
        return f"A gene counts as mutated by {which}{only}; {samples}."


DEFAULT_RULE: Final = VariantRule()
"""The nine non-silent classes, primary tumours."""


def judge(variants: pd.DataFrame, rule: VariantRule) -> pd.DataFrame:
    """Decide variant by variant.

    Parameters
    ----------
    variants : gene, protein_change, variant_class (one class, or several between ``/`` of which one applies), origin
        (the source's ``Mutation_Status`` or null; germline variants never count), and where the source has it filter
        (variants that did not pass never count)

    Returns counts (null: the class is unknown, or of several possible ones not all count) and fate, in words.
    """
    passed = variants["filter"] if "filter" in variants else pd.Series("", index=variants.index)
    rows = zip(*(variants[c] for c in ("variant_class", "gene", "protein_change", "origin")), passed, strict=True)
    frame = pd.DataFrame([_verdict(*row, rule=rule) for row in rows], columns=["counts", "fate"], index=variants.index)
    return frame.astype({"counts": "boolean", "fate": "string"})


def _verdict(
    kind: object, gene: str, change: object, origin: object, passed: object, *, rule: VariantRule
) -> tuple[bool | None, str]:
    group = frozenset(part for part in ("" if pd.isna(kind) else str(kind)).split(BETWEEN_CLASSES) if part)
    if isinstance(origin, str) and origin.strip().lower() in NOT_SOMATIC:
        return False, f"not somatic: {origin}"
    if isinstance(passed, str) and passed.upper() not in PASSED:
        return False, NOT_PASSED + passed
    if rule.drivers is not None and not {(gene, _ANY), (gene, plain_change(change))} & rule.drivers:
        return False, "not in the list of drivers"
    if not group or group - KNOWN:
        words = BETWEEN_CLASSES.join(sorted(group - KNOWN)) or f"none, change {plain_change(change) or 'not given'}"
        return None, f"class unknown: {words}"
    if group <= rule.classes:
        return True, "counted"
    if group & rule.classes:
        return None, "class unclear: no status"
    return False, f"class not counted: {BETWEEN_CLASSES.join(sorted(group))}"


def read_drivers(path: Path) -> frozenset[tuple[str, str]]:
    """Read a list of driver changes: a CSV with columns gene and protein_change, such as ``EGFR,L858R``.

    ``p.`` is left out; ``any`` stands for every counted change of the gene. Changes are compared as written, so frame
    shifts must be written as the source does (``K139Rfs*31`` and ``K139fs`` are two changes). Raises LabelError as
    `read_foreign`, and for an empty cell.
    """
    table = read_foreign(path, columns=("gene", "protein_change"))
    pairs = [(gene, plain_change(change)) for gene, change in zip(table["gene"], table["protein_change"], strict=True)]
    if empty := [line for line, pair in zip(table.index, pairs, strict=True) if "" in pair]:
        raise LabelError(f"{path}, line {empty[0]}: an empty cell", expected=f"a gene and a change, or {_ANY}")
    return frozenset(pairs)


def plain_change(change: object) -> str:
    """A protein change without ``p.`` and brackets; empty where there is none.

    >>> plain_change("p.(L858R)"), plain_change("G12C"), plain_change(None)
    ('L858R', 'G12C', '')
    """
    text = "" if pd.isna(change) else str(change).strip()
    text = text.removeprefix("p.")
    text = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    return "" if text in _NO_ANNOTATION else text


_DELINS: Final = re.compile(r"^[A-Z](\d+)(?:_[A-Z](\d+))?delins([A-Z*]+)$")
_SHIFT: Final = "Frame_Shift_Del/Frame_Shift_Ins"
_PATTERNS: Final = tuple((re.compile(pattern), classes) for pattern, classes in (
    (r"=$", SYNONYMOUS_CHANGE),
    (r"^(?:[A-Z*]?\d+)(?:_[A-Z*]?\d+)?_splice$", "Splice_Site"),
    (r"^M1(?:[A-Z?]|ext.*)$", "Missense_Mutation/Translation_Start_Site"),
    (r"^([A-Z])\d+\1$", SYNONYMOUS_CHANGE),
    (r"^[A-Z]\d+[A-Z]$", "Missense_Mutation"),
    (r"^[A-Z]\d+\*$", "Nonsense_Mutation"),
    (r"^\*\d+(?:[A-Z]|[A-Z?]?ext\*?[\d?]+)$", "Nonstop_Mutation"),
    (r"^[A-Z]+\*\d+.*ext\*?[\d?]+$", "In_Frame_Del/Nonstop_Mutation"),
    (r"^[A-Z*-]*\d+(?:_[A-Z*]?\d+)?[A-Z]?fs(?:\*[\d?]*)?$", _SHIFT),
    (r"^[A-Z]+\d+(?:_[A-Z]\d+)?del$", "In_Frame_Del"),
    (r"^[A-Z]?\d+(?:_[A-Z]?\d+)?(?:dup|ins[A-Z]+)$", "In_Frame_Ins"),
))  # fmt: skip


def classes_of_change(change: object) -> str:
    """Variant class that a protein change (``L858R``, ``p.L858R``) can have; several, between ``/``, where it does not
    tell which; empty where nothing can be told (``MUTATED``, promoter changes, notations not listed here).

    >>> [classes_of_change(text) for text in ("L858R", "X470_splice", "T125=", "R213*", "E746_A750del")]
    ['Missense_Mutation', 'Splice_Site', 'Synonymous_Change', 'Nonsense_Mutation', 'In_Frame_Del']
    >>> classes_of_change("p.K139Rfs*31"), classes_of_change("MUTATED")
    ('Frame_Shift_Del/Frame_Shift_Ins', '')
    """
    text = plain_change(change)
    if match := _DELINS.match(text):
        return _delins(int(match.group(1)), int(match.group(2) or match.group(1)), match.group(3))
    return next((classes for pattern, classes in _PATTERNS if pattern.search(text)), "")


def _delins(first: int, last: int, inserted: str) -> str:
    lost = last - first + 1
    if "*" in inserted:
        return "In_Frame_Del/In_Frame_Ins/Nonsense_Mutation"
    if lost == len(inserted):
        return "In_Frame_Del/In_Frame_Ins/Missense_Mutation"
    return "In_Frame_Del" if lost > len(inserted) else "In_Frame_Ins"
