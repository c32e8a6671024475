"""Rules that say which slides make a cohort, declared before anything is drawn.

The paper names 180 lung slides of TCGA and neither lists them nor says how many are frozen, or how many of one patient
(requirements R0-01); a rule says it. Source: ours, except for the counts that the named rules aim at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.tables.schemas import SLIDE_FILES
from deeplrhe_utils.core.text import shortened

PREPARATIONS: Final = ("frozen", "diagnostic")
_COLUMNS: Final = {column.name for column in SLIDE_FILES.columns}


@dataclass(frozen=True)
class CohortRule:
    """Which slides make a cohort.

    Attributes
    ----------
    name, about : what it is called, and what it stands for
    n_slides : how many are drawn; None: all that fit
    slides_per_patient : 1 draws patients, more at most so many files of each; None: any number
    sample_codes : two digits of the barcode; empty: any
    preparations : ``frozen``, ``diagnostic``
    projects : such as ``TCGA-LUAD``; empty: any
    known : columns of table SLIDE_FILES that must not be null
    strata : columns over whose combinations the draw is spread as evenly as files allow
    genes : the genes of the cohort; empty: all of the label table
    needs_labels : only patients that are profiled for every gene
    smallest_first : the smallest files are taken instead of drawn ones
    seed : of the draw, 0 or more
    """

    name: str
    about: str = ""
    n_slides: int | None = None
    slides_per_patient: int | None = None
    sample_codes: tuple[str, ...] = ()
    preparations: tuple[str, ...] = PREPARATIONS
    projects: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    strata: tuple[str, ...] = ()
    genes: tuple[str, ...] = ()
    needs_labels: bool = False
    smallest_first: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        for name, value in (("n_slides", self.n_slides), ("slides_per_patient", self.slides_per_patient)):
            if value is not None and value < 1:
                raise ParameterError(f"{name} of a cohort is at least 1", got=value)
        if self.seed < 0:
            raise ParameterError("The seed of a cohort is 0 or more", got=self.seed)
        if unknown := sorted({*self.known, *self.strata} - _COLUMNS):
            raise ParameterError("A cohort's rule names columns that files lack", got=shortened(unknown))
        if not self.preparations or set(self.preparations) - set(PREPARATIONS):
            raise ParameterError("Unknown preparation", got=self.preparations, expected=" | ".join(PREPARATIONS))
        if len(set(self.genes)) < len(self.genes):
            raise ParameterError("A gene of the cohort is named twice", got=", ".join(self.genes))


DEEPPATH_GENES: Final = ("STK11", "EGFR", "FAT1", "SETBP1", "KRAS", "TP53", "KEAP1", "LRP1B", "FAT4", "NF1")
"""The ten genes of Coudray 2018."""
CPTAC: Final = ("CPTAC-LUAD", "CPTAC-LSCC")
USUAL_GENES: Final = {"coudray": DEEPPATH_GENES, "coudray-luad": DEEPPATH_GENES}
"""Genes of a rule's paper, where nobody names others; the rules themselves take any."""
COHORT_RULES: Final = {
    rule.name: rule
    for rule in (
        CohortRule(
            "paper", "180 primary tumours of 180 patients, half LUAD and half LUSC, half frozen and half diagnostic",
            n_slides=180, slides_per_patient=1, sample_codes=("01",), known=("project_id",),
            strata=("project_id", "sample_type"), needs_labels=True,
        ),
        CohortRule(
            "coudray", "frozen slides of normal tissue, LUAD and LUSC, as in DeepPATH's manifest of 2017",
            preparations=("frozen",), known=("subtype",),
        ),
        CohortRule(
            "coudray-luad", "frozen adenocarcinomas, DeepPATH's slides for ten genes", sample_codes=("01", "02"),
            preparations=("frozen",), projects=("TCGA-LUAD",), known=("subtype",),
        ),
        CohortRule(
            "smallest", "the ten smallest slides of lung tumours, of ten patients", n_slides=10, slides_per_patient=1,
            sample_codes=("01", "02"), known=("project_id",), smallest_first=True,
        ),
        CohortRule("all", "every slide whose name is a barcode"),
        CohortRule(
            "cptac", "tumour slides of CPTAC's lung collections, of patients who are profiled for every gene",
            sample_codes=("01",), projects=CPTAC, known=("md5",), needs_labels=True,
        ),
        CohortRule(
            "cptac-all", "every tumour slide of CPTAC's lung collections", sample_codes=("01",), projects=CPTAC,
            known=("md5",),
        ),
    )
}  # fmt: skip
"""Rules by name. Those that draw nothing keep all slides of a patient, so that splits must be by patient."""


def named_rule(name: str, *, genes: Sequence[str] = (), seed: int | None = None, n: int | None = None) -> CohortRule:
    """A rule of :data:`COHORT_RULES`, with other genes, seed or number of slides.

    Raises ParameterError: no such rule, or a number of slides for a rule that draws none.
    """
    if name not in COHORT_RULES:
        raise ParameterError("There is no such cohort rule", got=name, expected=" | ".join(COHORT_RULES))
    rule = COHORT_RULES[name]
    if n is not None and rule.n_slides is None:
        raise ParameterError(f"The rule {name} takes every slide that fits, not {n}", fix="Leave the number away")
    chosen = replace(rule, genes=tuple(genes), seed=rule.seed if seed is None else seed)
    return chosen if n is None else replace(chosen, n_slides=n)
