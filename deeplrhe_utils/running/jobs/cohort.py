"""``deeplrhe cohort``: lung slides of TCGA or CPTAC, labels and clinical data: the GDC or the IDC, and cBioPortal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from deeplrhe_utils.acquisition.cohort.build import Cohort, build, count_mutations_by_site
from deeplrhe_utils.acquisition.cohort.files import BESIDE, is_cohort_file, save_cohort
from deeplrhe_utils.acquisition.cohort.rules import CPTAC, USUAL_GENES, CohortRule, named_rule
from deeplrhe_utils.acquisition.idc.listing import IDC_BUCKETS
from deeplrhe_utils.acquisition.labels.calls import Calls
from deeplrhe_utils.acquisition.labels.variants import DEFAULT_RULE, VariantRule, read_drivers
from deeplrhe_utils.acquisition.services.cbioportal import CBIOPORTAL_ENDPOINT as CBIOPORTAL
from deeplrhe_utils.acquisition.services.gdc import GDC_ENDPOINT as GDC
from deeplrhe_utils.core.files import atomic_path, claim, sha256_file
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.core.text import human_size, shortened
from deeplrhe_utils.synthetic.genes import GENES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDIES: Final = ("luad_tcga_pan_can_atlas_2018", "lusc_tcga_pan_can_atlas_2018")
CPTAC_STUDIES: Final = ("luad_cptac_2020", "lusc_cptac_2021")
IDC_FOLDER: Final = REPOSITORY / "data" / "raw" / "idc"
"""Where the index of the Imaging Data Commons is kept."""
QUERY: Final = REPOSITORY / "data" / "queries" / "tcga-lung-slides.json"
COHORT: Final = "cohort.json"
_NAMES: Final = (COHORT, *BESIDE, "prevalence.csv", "sites.csv", "flow.png", "prevalence.png", "sites.png")
PREVALENCE_COLUMNS: Final = ("project", "gene", "group", "mutated", "profiled", "percent", "ci_low", "ci_high")
WHOLE, CHOSEN, EVERYBODY = "LUAD and LUSC", "cohort", "all profiled"


@dataclass(frozen=True)
class Services:
    """Addresses of the GDC and of cBioPortal, and the query for slides."""

    gdc: str = GDC
    cbioportal: str = CBIOPORTAL
    query: Path = QUERY


@dataclass(frozen=True)
class Gathered:
    """Everything a cohort is chosen from: tables SLIDE_FILES, LABELS and CLINICAL, and where they came from.

    `manifest` names the files of slides that have several (id, filename, md5, size).
    """

    files: pd.DataFrame
    labels: pd.DataFrame
    clinical: pd.DataFrame
    release: str
    source: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    manifest: pd.DataFrame | None = None


@dataclass(frozen=True)
class CohortOptions:
    """What is asked of the command; see :func:`cohort`."""

    rule: str
    out: Path
    genes: tuple[str, ...] = ()
    seed: int | None = None
    n: int | None = None
    gdc: str = GDC
    cbioportal: str = CBIOPORTAL
    drivers: Path | None = None
    index: Path | None = None
    bucket: str = IDC_BUCKETS[0]


def gather(sources: Services, genes: Sequence[str] = GENES, drivers: Path | None = None) -> Gathered:
    """Ask for the slides on offer, the patients' mutation labels and their clinical data.

    `drivers` is a list of changes (`read_drivers`): only these count as
    mutations, instead of every non-silent one. Raises ServiceError where a service cannot be reached, or refuses, and
    InputError or LabelError where its answers are not what they should be.
    """
    from deeplrhe_utils.acquisition.services.gdc import Gdc, read_query
    from deeplrhe_utils.acquisition.services.web import Service

    query = read_query(sources.query)
    with Service(sources.gdc) as service:
        gdc = Gdc(service)
        release, files = gdc.release(), gdc.slide_files(query)
        clinical = gdc.clinical(sorted(files["patient_id"].dropna().unique()))
        if (after := gdc.release()) != release:
            gdc.notes.append(f"The data release changed while it was read, from {release} to {after}.")
    calls = tcga_calls(sources.cbioportal, genes, drivers)
    source = source_of(sources, genes, drivers)
    return Gathered(files, calls.labels, clinical, release, source, [*gdc.notes, *calls.notes])


def gather_cptac(options: CohortOptions, genes: Sequence[str] = GENES) -> Gathered:
    """Slides of CPTAC's lung collections from the Imaging Data Commons, their files, labels and clinical data.

    Of `options` are used cbioportal, drivers, bucket and index (a file; the pinned one is fetched once otherwise). Only
    tumour slides are looked up in the bucket. Raises InputError: the index cannot be used. Else as :func:`gather`.
    """
    from deeplrhe_utils.acquisition.idc.index import fetch_index, read_index
    from deeplrhe_utils.acquisition.idc.listing import list_series
    from deeplrhe_utils.acquisition.services.web import Service

    found = read_index(options.index or fetch_index(IDC_FOLDER))
    tumours = found.files[found.files["sample_code"] == "01"]
    wanted = {i: (found.instances[i], size) for i, size in zip(tumours["file_id"], tumours["bytes"], strict=True)}
    with Service(options.bucket) as bucket:
        listed = list_series(bucket, wanted)
    files = found.files.assign(md5=found.files["file_id"].map(listed.fingerprints()).astype("string"))
    calls = tcga_calls(options.cbioportal, genes, options.drivers, CPTAC_STUDIES)
    aliases = {f"X{p}": p for p in found.clinical["patient_id"] if p[:1].isdigit()}  # R puts X before a number
    labels = calls.labels.assign(patient_id=calls.labels["patient_id"].replace(aliases))
    source = {"index": {"sha256": found.sha256}, "bucket": options.bucket, **_labels_source(
        options.cbioportal, CPTAC_STUDIES, genes, options.drivers)}  # fmt: skip
    lost = [f"{series}: {reason}" for series, reason in listed.lost.items()]
    told = [f"{len(lost)} series are not in the bucket as the index lists them: {shortened(lost)}."] if lost else []
    notes = [*found.notes, *told, *calls.notes]
    return Gathered(files, labels, found.clinical, found.release, source, notes, listed.files)


def tcga_calls(
    endpoint: str, genes: Sequence[str], drivers: Path | None = None, studies: Sequence[str] = STUDIES
) -> Calls:  # fmt: skip
    """Mutation labels of two lung studies from cBioPortal, and notes; `drivers` and errors as of :func:`gather`."""
    from deeplrhe_utils.acquisition.services.cbioportal import CBioPortal, labels
    from deeplrhe_utils.acquisition.services.web import Service

    rule = DEFAULT_RULE if drivers is None else VariantRule(drivers=read_drivers(drivers))
    with Service(endpoint) as service:
        return labels(CBioPortal(service), studies, list(genes), rule)


def source_of(sources: Services, genes: Sequence[str], drivers: Path | None = None) -> dict[str, Any]:
    """What a cohort file says of its sources: addresses and query, genes asked for, SHA-256 of the list of drivers."""
    from deeplrhe_utils.acquisition.services.gdc import read_query

    return {"gdc": sources.gdc, "query": read_query(sources.query),
            **_labels_source(sources.cbioportal, STUDIES, genes, drivers)}  # fmt: skip


def _labels_source(
    cbioportal: str, studies: Sequence[str], genes: Sequence[str], drivers: Path | None
) -> dict[str, Any]:
    listed = None if drivers is None else {drivers.name: sha256_file(drivers)}
    return {"cbioportal": cbioportal, "studies": list(studies), "genes_asked": list(genes), "drivers": listed}


def make_cohort(gathered: Gathered, rule: CohortRule, out: Path) -> Cohort:
    """Choose a cohort and write it.

    Parameters
    ----------
    out : folder for ``cohort.json`` and the tables beside it
        (`write_cohort`), ``prevalence.csv`` and ``sites.csv``

    Raises CohortError: too few files for the rule. ParameterError: another cohort stands in `out`.
    """
    cohort = build(gathered.files, gathered.labels, gathered.clinical, rule)
    named = gathered.manifest
    if named is not None:
        named = named[named["id"].isin(cohort.chosen["file_id"])]
    save_cohort(Path(out) / COHORT, cohort, release=gathered.release, source=gathered.source, manifest=named)
    for name, table in (("prevalence.csv", prevalences(gathered, cohort)),
                        ("sites.csv", count_mutations_by_site(cohort.labels, cohort.chosen))):  # fmt: skip
        write_sheet(table, Path(out) / name)
    return cohort


def prevalences(gathered: Gathered, cohort: Cohort) -> pd.DataFrame:
    """How often each gene is mutated, in the cohort and among all profiled patients.

    Returns :data:`PREVALENCE_COLUMNS`: project (both together first), gene in the cohort's order, group
    (:data:`CHOSEN`, :data:`EVERYBODY`), patients mutated and profiled, prevalence and Wilson's 95 % interval [%], NaN
    where nobody is profiled. Patients without any slide on offer have no project and count in both together.
    """
    named = gathered.files.dropna(subset=["patient_id", "project_id"])
    projects = dict(zip(named["patient_id"], named["project_id"], strict=True))
    rows: list[dict[str, object]] = []
    for project in (WHOLE, *sorted(set(projects.values()))):
        for gene in cohort.rule.genes:
            for group, labels in ((CHOSEN, cohort.labels), (EVERYBODY, gathered.labels)):
                own = labels[labels["gene"] == gene]
                mine = own if project == WHOLE else own[own["patient_id"].map(projects) == project]
                rows.append({"project": project, "gene": gene, "group": group, **_share(mine["status"])})
    return pd.DataFrame(rows, columns=list(PREVALENCE_COLUMNS))


def _share(status: pd.Series) -> dict[str, float]:
    from deeplrhe_utils.evaluation.precision.power import wilson

    mutated, profiled = int(status.sum()), int(status.notna().sum())
    low, high = wilson(mutated, profiled)
    share = 100 * mutated / profiled if profiled else float("nan")
    return {"mutated": mutated, "profiled": profiled, "percent": share, "ci_low": 100 * low, "ci_high": 100 * high}


def cohort(options: CohortOptions, say: Callable[[str], None] = print) -> Cohort:
    """The command: gather, choose, write tables and figures, and tell what was done.

    Raises CompendiumError: as :func:`gather` and :func:`make_cohort`; ParameterError for what was asked wrongly.
    """
    genes = options.genes or USUAL_GENES.get(options.rule, GENES)
    rule = named_rule(options.rule, genes=genes, seed=options.seed, n=options.n)
    claim(options.out, "cohort", _NAMES, known=is_cohort_file(options.out / COHORT))
    if rule.projects == CPTAC:
        gathered = gather_cptac(options, genes)
    else:
        gathered = gather(Services(options.gdc, options.cbioportal), genes, options.drivers)
    made = make_cohort(gathered, rule, options.out)
    _draw(gathered, made, options.out)
    for line in _report(gathered, made):
        say(line)
    size = human_size(made.chosen["bytes"].sum())
    say(f"{options.out / COHORT}: {len(made.chosen)} slides of {len(made.patients)} patients, {size}")
    say(f"To fetch them: deeplrhe download {options.out / 'manifest.txt'} --out DIR")
    return made


def _report(gathered: Gathered, made: Cohort) -> Iterable[str]:
    yield made.flow.to_string(index=False)
    if len(made.strata):
        yield made.strata.to_string(index=False)
    table = prevalences(gathered, made)
    yield table[table["project"] == WHOLE].drop(columns="project").round(1).to_string(index=False)
    yield from (*gathered.notes, *made.notes)


def _draw(gathered: Gathered, made: Cohort, out: Path) -> None:
    from deeplrhe_utils.reporting.figures import cohort as figures

    pictures: Mapping[str, Figure] = {
        "flow.png": figures.flow_figure(made.flow),
        "prevalence.png": figures.prevalence_figure(prevalences(gathered, made)),
        "sites.png": figures.site_mutation_map(count_mutations_by_site(made.labels, made.chosen)),
    }
    for name, figure in pictures.items():
        with atomic_path(out / name) as part:
            figure.savefig(part, dpi=150, format="png")
