"""Cohorts: which slides of a list are studied, by a declared rule, with a fate for every file. Source: ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import pandas as pd

from deeplrhe_utils.acquisition.cohort.rules import CPTAC, PREPARATIONS, CohortRule
from deeplrhe_utils.acquisition.services.manifest import name_problem
from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import CLINICAL, LABELS, SLIDE_FILES
from deeplrhe_utils.core.text import shortened

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
    {'p': ('b',), 'q': ('a',)}
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


NO_SOURCE: Final = "none"
"""`source` of a label row whose patient is in no label table: its status is null."""
FLOW_COLUMNS: Final = ("step", "slides", "patients", "LUAD", "LUSC", "dropped", "reason")
_CODES: Final = {"01": "primary tumour", "02": "recurrent tumour", "06": "metastasis", "11": "normal tissue"}
Reasons: TypeAlias = pd.Series
"""Why each file is left out; null where it stays."""


@dataclass(frozen=True)
class Cohort:
    """A cohort and where everything else went.

    Attributes
    ----------
    files : table SLIDE_FILES with `in_cohort` (True or False) and `reason` (null in the cohort)
    flow : what each step left: :data:`FLOW_COLUMNS`; slides, LUAD, LUSC, dropped count files, `patients` patients
    strata : the strata's columns, available (units that could be drawn), wanted, drawn; empty without a draw
    labels : table LABELS of the cohort's patients and genes, every pair once
    clinical : table CLINICAL of the cohort's patients that have an entry
    notes : what else should be known, a sentence each
    """

    rule: CohortRule
    files: pd.DataFrame
    flow: pd.DataFrame
    strata: pd.DataFrame
    labels: pd.DataFrame
    clinical: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> pd.DataFrame:
        """Table SLIDE_FILES of the cohort alone."""
        kept = self.files[self.files["in_cohort"]].drop(columns=["in_cohort", "reason"])
        return kept.reset_index(drop=True)

    @property
    def patients(self) -> list[str]:
        """Patients of the cohort, sorted."""
        return sorted(self.files.loc[self.files["in_cohort"], "patient_id"].dropna().unique())


def build(files: pd.DataFrame, labels: pd.DataFrame, clinical: pd.DataFrame, rule: CohortRule) -> Cohort:
    """Choose slides by a rule.

    Parameters
    ----------
    files, labels, clinical : tables SLIDE_FILES, LABELS and CLINICAL, in any order of rows; more patients than slides
        do no harm

    Returns files in the order of their names. The same files in another order give the same cohort; a file that is not
    drawn can be added or taken away without effect on most others, because each has a random number of its own.
    Raises CohortError: no file, a gene without labels, or too few files for `rule.n_slides`. SchemaError: a table is
    not what it should be.
    """
    files = conform(files, SLIDE_FILES).sort_values(["file_name", "file_id"], ignore_index=True)
    labels, clinical = conform(labels, LABELS), conform(clinical, CLINICAL)
    if files.empty:
        raise CohortError("There is no file to choose from")
    genes = _genes(labels, rule)
    fates: Reasons = pd.Series(pd.NA, files.index, "string")
    flow = [_flow_row("slides offered", files, fates)]
    for step, find in _steps(rule, labels, genes):
        found = find(files[fates.isna()])
        fates = fates.fillna(found)
        flow.append(_flow_row(step, files[fates.isna()], found))
    strata = pd.DataFrame(columns=[*rule.strata, *STRATA_COLUMNS])
    if _draws(rule):
        found, strata = draw(files[fates.isna()], rule)
        fates = fates.fillna(found)
        flow.append(_flow_row("in the cohort", files[fates.isna()], found))
    table = check_flow(pd.DataFrame(flow, columns=list(FLOW_COLUMNS)))
    return _cohort(files.assign(in_cohort=fates.isna(), reason=fates), table, strata, labels, clinical, genes, rule)


def _cohort(
    files: pd.DataFrame, flow: pd.DataFrame, strata: pd.DataFrame, labels: pd.DataFrame, clinical: pd.DataFrame,
    genes: list[str], rule: CohortRule,
) -> Cohort:  # fmt: skip
    if not files["in_cohort"].any():
        raise CohortError(f"No file fits the rule {rule.name}", got="; ".join(flow["reason"]).strip("; "))
    rule = replace(rule, genes=tuple(genes))
    cohort = Cohort(rule, files, flow, strata, labels, clinical)
    own = _complete(labels, cohort.patients, genes)
    entries = clinical[clinical["patient_id"].isin(cohort.patients)].reset_index(drop=True)
    return replace(cohort, labels=own, clinical=entries, notes=_notes(cohort, own, entries))


def _genes(labels: pd.DataFrame, rule: CohortRule) -> list[str]:
    present = set(labels["gene"])
    if lost := [g for g in rule.genes if g not in present]:
        raise CohortError("There are no labels of some genes", got=shortened(lost),
                          fix="Leave them out, or give labels that have them")  # fmt: skip
    return list(rule.genes) or sorted(present)


def _steps(
    rule: CohortRule, labels: pd.DataFrame, genes: list[str]
) -> list[tuple[str, Callable[[pd.DataFrame], Reasons]]]:
    """The steps before the draw: what is left, and why a file is not."""
    steps: list[tuple[str, Callable[[pd.DataFrame], Reasons]]] = []
    steps += [
        ("tissue named" if rule.projects == CPTAC else "barcode of a slide", _unnamed),
        ("not of controlled access", _closed),
    ]
    if rule.sample_codes:
        names = " or ".join(_CODES.get(code, f"sample {code}") for code in rule.sample_codes)
        steps.append((names, lambda files: _other_tissue(files, rule.sample_codes)))
    if set(rule.preparations) != set(PREPARATIONS):
        steps.append((f"{rule.preparations[0]} tissue", lambda files: _prepared(files, rule.preparations)))
    if rule.projects:
        steps.append((" or ".join(rule.projects), lambda files: _outside(files, rule.projects)))
    if needed := tuple(dict.fromkeys((*rule.known, *rule.strata))):
        words = " and ".join(c.removesuffix("_id").replace("_", " ").replace("md5", "files") for c in needed)
        steps.append((f"{words} known", lambda files: _not_known(files, needed)))
    if rule.needs_labels:
        count = f"all {len(genes)} genes" if len(genes) > 1 else genes[0] if genes else "no gene"
        steps.append((f"patient profiled for {count}", lambda files: _unlabelled(files, labels, genes)))
    if rule.slides_per_patient is not None and rule.slides_per_patient > 1:
        steps.append((f"at most {rule.slides_per_patient} of a patient", lambda files: _surplus(files, rule)))
    return steps


def _why(files: pd.DataFrame, wrong: pd.Series, texts: Iterable[str] | str) -> Reasons:
    """`texts` where `wrong` holds."""
    said = pd.Series(texts if isinstance(texts, str) else list(texts), files.index, "string")
    return said.where(wrong.fillna(False).astype(bool))


def _unnamed(files: pd.DataFrame) -> Reasons:
    series = files["project_id"].isin(CPTAC)  # described by their index, not by a barcode
    lacking = files[["patient_id", "sample_code"]].isna().any(axis=1) | (files["slide_type"].isna() & ~series)
    pairs = zip(files["file_id"], files["file_name"], strict=True)
    unsafe = pd.Series([bool(name_problem(str(i), str(n))) for i, n in pairs], files.index, bool)
    texts = ["name or id cannot be a file" if bad else "neither tumour nor normal by its description" if told
             else "name is no barcode of a slide" for bad, told in zip(unsafe, series, strict=True)]  # fmt: skip
    return _why(files, lacking | unsafe, texts)


def _closed(files: pd.DataFrame) -> Reasons:
    return _why(files, files["access"].eq("controlled"), "controlled access")


def _other_tissue(files: pd.DataFrame, codes: tuple[str, ...]) -> Reasons:
    texts = [f"{_CODES[code]} (sample {code})" if code in _CODES else f"sample {code}" for code in files["sample_code"]]
    return _why(files, ~files["sample_code"].isin(codes), texts)


def _prepared(files: pd.DataFrame, preparations: tuple[str, ...]) -> Reasons:
    return _why(files, ~files["sample_type"].isin(preparations), [f"{text} slide" for text in files["sample_type"]])


def _outside(files: pd.DataFrame, projects: tuple[str, ...]) -> Reasons:
    own = files["project_id"].fillna("project not known")
    return _why(files, ~own.isin(projects), own)


def _not_known(files: pd.DataFrame, columns: tuple[str, ...]) -> Reasons:
    texts = pd.Series("", files.index)
    for column in reversed(columns):
        texts = texts.mask(files[column].isna(), f"{column.replace('md5', 'files')} not known")
    return _why(files, texts.ne(""), texts)


def _unlabelled(files: pd.DataFrame, labels: pd.DataFrame, genes: list[str]) -> Reasons:
    own = labels[labels["gene"].isin(genes)]
    profiled = own.groupby("patient_id")["status"].count().reindex(files["patient_id"]).to_numpy()
    texts = ["patient in no label table" if n else "patient not profiled for every gene" for n in pd.isna(profiled)]
    return _why(files, pd.Series(profiled, files.index).fillna(-1).lt(len(genes)), texts)


def _surplus(files: pd.DataFrame, rule: CohortRule) -> Reasons:
    order = ranks(files, rule).sort_values().index
    place = files.loc[order].groupby("patient_id").cumcount().reindex(files.index)
    return _why(files, place.ge(rule.slides_per_patient), "enough other slides of the patient")


def _draws(rule: CohortRule) -> bool:
    return rule.n_slides is not None or rule.slides_per_patient == 1


def _flow_row(step: str, kept: pd.DataFrame, found: Reasons) -> tuple[object, ...]:
    counts = found.value_counts()
    reason = "; ".join(f"{text}: {counts[text]}" for text in sorted(counts.index, key=lambda t: (-counts[t], t)))
    projects = [
        int(kept["project_id"].isin(both).sum()) for both in zip(("TCGA-LUAD", "TCGA-LUSC"), CPTAC, strict=True)
    ]
    return step, len(kept), kept["patient_id"].nunique(), *projects, int(found.notna().sum()), reason


def check_flow(flow: pd.DataFrame) -> pd.DataFrame:
    """The flow, if its numbers add up: what a step drops is what it has less than the step before.

    Raises CohortError: they do not; the step is named.
    """
    before = flow["slides"].shift(1, fill_value=flow["slides"].iloc[0])
    wrong = (before - flow["slides"] != flow["dropped"]) | (flow["LUAD"] + flow["LUSC"] > flow["slides"])
    if wrong.any():
        row = flow[wrong].iloc[0]
        counts = f"{before[wrong].iloc[0]} slides before, {row['slides']} left, {row['dropped']} dropped"
        raise CohortError(f"The flow does not add up at the step {row['step']}", got=counts)
    return flow


def _complete(labels: pd.DataFrame, patients: list[str], genes: list[str]) -> pd.DataFrame:
    """A row for every patient and gene; null, from :data:`NO_SOURCE`, where the label table has none."""
    pairs = pd.MultiIndex.from_product([patients, genes], names=["patient_id", "gene"]).to_frame(index=False)
    found = pairs.merge(labels, "left", ["patient_id", "gene"])
    return conform(found.assign(source=found["source"].fillna(NO_SOURCE)), LABELS)


def _notes(cohort: Cohort, labels: pd.DataFrame, clinical: pd.DataFrame) -> list[str]:
    notes, patients = [], cohort.patients
    if bare := sorted(set(patients) - set(clinical["patient_id"])):
        notes.append(f"{len(bare)} of {len(patients)} patients have no clinical entry: {shortened(bare, 3)}.")
    if count := labels.loc[labels["source"].eq(NO_SOURCE), "patient_id"].nunique():
        notes.append(f"{count} of {len(patients)} patients are in no label table; their labels are null.")
    if len(cohort.strata) and (short := int((cohort.strata["wanted"] - cohort.strata["drawn"]).clip(lower=0).sum())):
        notes.append(f"{short} places could not be filled in their stratum; the table of strata tells which.")
    if count := int(cohort.chosen["access"].isna().sum()):
        notes.append(f"The list does not say who may fetch {count} of {len(cohort.chosen)} files.")
    return notes


def count_mutations_by_site(labels: pd.DataFrame, files: pd.DataFrame) -> pd.DataFrame:
    """Mutated and profiled patients of each tissue source site.

    Parameters
    ----------
    labels : table LABELS
    files : table SLIDE_FILES (or any with patient_id and site_id): whose patients are counted; files without a patient
        or a site are passed over

    Returns gene, site_id, positives, profiled (not null), patients (of the site, profiled or not): a row for every gene
    and site, genes in the order of `labels`, sites by falling number of patients.
    Raises CohortError: a patient of two sites.
    """
    placed = files[["patient_id", "site_id"]].dropna().drop_duplicates()
    if (twice := placed["patient_id"].duplicated()).any():
        raise CohortError(f"Patient {placed.loc[twice, 'patient_id'].iloc[0]} belongs to two sites")
    sizes = placed.groupby("site_id").size()
    sites = sorted(sizes.index, key=lambda site: (-sizes[site], site))
    joined = labels.merge(placed, on="patient_id")
    counts = joined.groupby(["gene", "site_id"])["status"].agg(positives="sum", profiled="count")
    every = pd.MultiIndex.from_product([list(dict.fromkeys(labels["gene"])), sites], names=["gene", "site_id"])
    table = counts.reindex(every, fill_value=0).astype("int64").reset_index()
    return table.assign(patients=table["site_id"].map(sizes).astype("int64"))
