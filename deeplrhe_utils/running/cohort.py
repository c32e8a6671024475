"""``deeplrhe cohort``: TCGA's lung slides, labels and clinical data, from tables on disk or from the services."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from deeplrhe_utils.acquisition.cbioportal import ENDPOINT as CBIOPORTAL
from deeplrhe_utils.acquisition.cohort import Cohort, build, mutation_by_site
from deeplrhe_utils.acquisition.cohort_files import write_cohort
from deeplrhe_utils.acquisition.cohort_rules import USUAL_GENES, CohortRule, named_rule
from deeplrhe_utils.acquisition.download import amount
from deeplrhe_utils.acquisition.gdc import ENDPOINT as GDC
from deeplrhe_utils.acquisition.synthetic_genes import GENES
from deeplrhe_utils.acquisition.variants import DEFAULT_RULE, VariantRule, read_drivers
from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.files import atomic_path, sha256_file, write_text
from deeplrhe_utils.core.paths import REPOSITORY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDIES: Final = ("luad_tcga_pan_can_atlas_2018", "lusc_tcga_pan_can_atlas_2018")
QUERY: Final = REPOSITORY / "data" / "queries" / "tcga-lung-slides.json"
SLIDES_TSV, CALLS_TSV = "lung_slide_to_mutation_join.tsv", "cbioportal_luad_lusc_mutations_by_gene.tsv"
CDR_CSV: Final = "tcga_cdr_luad_lusc_TCGA-CDR.csv"
"""Names of the published tables in the folder of :class:`Tables`."""
COHORT: Final = "cohort.json"
PREVALENCE_COLUMNS: Final = ("project", "gene", "group", "mutated", "profiled", "percent", "ci_low", "ci_high")
WHOLE, CHOSEN, EVERYBODY = "LUAD and LUSC", "cohort", "all profiled"


@dataclass(frozen=True)
class Tables:
    """Published tables in a folder; with `manifest` the files offered are those of that manifest."""

    folder: Path
    manifest: Path | None = None

    @property
    def offered(self) -> Path:
        """The list of slides."""
        return self.manifest or self.folder / SLIDES_TSV


@dataclass(frozen=True)
class Services:
    """Addresses of the GDC and of cBioPortal, and the query for slides."""

    gdc: str = GDC
    cbioportal: str = CBIOPORTAL
    query: Path = QUERY


@dataclass(frozen=True)
class Gathered:
    """Everything a cohort is chosen from: tables SLIDE_FILES, LABELS and CLINICAL, and where they came from."""

    files: pd.DataFrame
    labels: pd.DataFrame
    clinical: pd.DataFrame
    release: str
    source: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wish:
    """What is asked of the command; see :func:`cohort`."""

    rule: str
    out: Path
    genes: str = ""
    seed: int | None = None
    n: int | None = None
    tables: Path | None = None
    manifest: Path | None = None
    gdc: str = ""
    cbioportal: str = ""
    drivers: Path | None = None

    def sources(self) -> Tables | Services:
        """Where the data come from.

        Raises
        ------
        ParameterError
            Tables and services are both named, the folder is none, or a manifest is given without tables.
        """
        if self.tables is None:
            if self.manifest is not None:
                raise ParameterError("--manifest needs --tables: the services list their files themselves")
            return Services(self.gdc or GDC, self.cbioportal or CBIOPORTAL)
        if self.gdc or self.cbioportal:
            raise ParameterError("A cohort comes from --tables or from the services, not from both")
        if not self.tables.is_dir():
            raise ParameterError(f"{self.tables} is no folder", expected=f"a folder with {SLIDES_TSV} and others")
        return Tables(self.tables, self.manifest)


def gather(sources: Tables | Services, genes: Sequence[str] = GENES, drivers: Path | None = None) -> Gathered:
    """Read, or ask for, the slides on offer, the patients' mutation labels and their clinical data.

    Parameters
    ----------
    sources : Tables or Services
    genes : sequence of str
        Whose labels are wanted.
    drivers : Path, optional
        List of changes (:func:`~deeplrhe_utils.acquisition.variants.read_drivers`): only these count as mutations,
        instead of every non-silent one.

    Returns
    -------
    Gathered
        `notes` say what is missing or odd.

    Raises
    ------
    InputError, LabelError
        A table is missing or not what it should be.
    ServiceError
        A service cannot be reached, or refuses.
    """
    rule = DEFAULT_RULE if drivers is None else VariantRule(drivers=read_drivers(drivers))
    found = _from_tables(sources, genes, rule) if isinstance(sources, Tables) else _from_services(sources, genes, rule)
    return replace(found, source=source_of(sources, genes, drivers))


def source_of(sources: Tables | Services, genes: Sequence[str], drivers: Path | None = None) -> dict[str, Any]:
    """What a cohort file says of its sources: SHA-256 of tables, or addresses and query; genes asked for; drivers.

    Raises
    ------
    InputError
        A table is missing.
    """
    listed = None if drivers is None else {drivers.name: sha256_file(drivers)}
    asked = {"genes_asked": list(genes), "drivers": listed}
    if isinstance(sources, Tables):
        paths = (sources.offered, sources.folder / CALLS_TSV, sources.folder / CDR_CSV)
        if lost := [path.name for path in paths if not path.is_file()]:
            raise InputError(f"{sources.folder} lacks tables", got=", ".join(lost))
        return {"tables": {path.name: sha256_file(path) for path in paths}, **asked}
    from deeplrhe_utils.acquisition.gdc import read_query

    return {"gdc": sources.gdc, "cbioportal": sources.cbioportal, "studies": list(STUDIES),
            "query": read_query(sources.query), **asked}  # fmt: skip


def _from_tables(sources: Tables, genes: Sequence[str], rule: VariantRule) -> Gathered:
    from deeplrhe_utils.acquisition.clinical import read_cdr
    from deeplrhe_utils.acquisition.manifest import read_manifest
    from deeplrhe_utils.acquisition.tcga_slides import from_manifest, read_join
    from deeplrhe_utils.acquisition.tcga_tables import by_gene_calls

    clinical = read_cdr(sources.folder / CDR_CSV)
    if sources.manifest:
        listed = from_manifest(read_manifest(sources.offered), clinical.projects)
    else:
        listed = read_join(sources.offered, clinical.projects)
    calls = by_gene_calls(sources.folder / CALLS_TSV, list(genes), rule=rule)
    notes = [*listed.notes, *calls.notes, *clinical.notes]
    return Gathered(listed.files, calls.labels, clinical.table, "none stated: published tables", notes=notes)


def _from_services(sources: Services, genes: Sequence[str], rule: VariantRule) -> Gathered:
    from deeplrhe_utils.acquisition.cbioportal import CBioPortal, labels
    from deeplrhe_utils.acquisition.gdc import Gdc, read_query
    from deeplrhe_utils.acquisition.web import Service

    query = read_query(sources.query)
    with Service(sources.gdc) as service:
        gdc = Gdc(service)
        release, files = gdc.release(), gdc.slide_files(query)
        clinical = gdc.clinical(sorted(files["patient_id"].dropna().unique()))
        if (after := gdc.release()) != release:
            gdc.notes.append(f"The data release changed while it was read, from {release} to {after}.")
    with Service(sources.cbioportal) as service:
        calls = labels(CBioPortal(service), STUDIES, list(genes), rule)
    return Gathered(files, calls.labels, clinical, release, notes=[*gdc.notes, *calls.notes])


def make_cohort(gathered: Gathered, rule: CohortRule, out: Path) -> Cohort:
    """Choose a cohort and write it.

    Parameters
    ----------
    gathered : Gathered
    rule : CohortRule
    out : Path
        Folder for ``cohort.json`` and the tables beside it
        (:func:`~deeplrhe_utils.acquisition.cohort_files.write_cohort`), ``prevalence.csv`` and ``sites.csv``.

    Raises
    ------
    CohortError
        Too few files for the rule.
    ParameterError
        Another cohort stands in `out`.
    """
    cohort = build(gathered.files, gathered.labels, gathered.clinical, rule)
    write_cohort(Path(out) / COHORT, cohort, release=gathered.release, source=gathered.source)
    for name, table in (("prevalence.csv", prevalences(gathered, cohort)),
                        ("sites.csv", mutation_by_site(cohort.labels, cohort.chosen))):  # fmt: skip
        write_text(Path(out) / name, table.to_csv(index=False, lineterminator="\n"))
    return cohort


def prevalences(gathered: Gathered, cohort: Cohort) -> pd.DataFrame:
    """How often each gene is mutated, in the cohort and among all profiled patients.

    Returns
    -------
    DataFrame
        :data:`PREVALENCE_COLUMNS`: project (both together first), gene in the cohort's order, group
        (:data:`CHOSEN`, :data:`EVERYBODY`), patients mutated and profiled, prevalence and Wilson's 95 % interval [%],
        NaN where nobody is profiled. Patients without any slide on offer have no project and count in both together.
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
    from deeplrhe_utils.evaluation.power import wilson

    mutated, profiled = int(status.sum()), int(status.notna().sum())
    low, high = wilson(mutated, profiled)
    share = 100 * mutated / profiled if profiled else float("nan")
    return {"mutated": mutated, "profiled": profiled, "percent": share, "ci_low": 100 * low, "ci_high": 100 * high}


def cohort(wish: Wish, say: Callable[[str], None] = print) -> Cohort:
    """The command: gather, choose, write tables and figures, and tell what was done.

    Parameters
    ----------
    wish : Wish
    say : callable
        Takes lines for the user.

    Raises
    ------
    CompendiumError
        As :func:`gather` and :func:`make_cohort`; ParameterError for what was asked wrongly.
    """
    typed = tuple(text.strip() for text in wish.genes.split(",") if text.strip())
    genes = typed or USUAL_GENES.get(wish.rule, GENES)
    rule, sources = named_rule(wish.rule, genes=genes, seed=wish.seed, n=wish.n), wish.sources()
    gathered = gather(sources, genes, wish.drivers)
    made = make_cohort(gathered, rule, wish.out)
    _draw(gathered, made, wish.out)
    for line in _report(gathered, made):
        say(line)
    size = amount(made.chosen["bytes"].sum())
    say(f"{wish.out / COHORT}: {len(made.chosen)} slides of {len(made.patients)} patients, {size}")
    say(f"To fetch them: deeplrhe download {wish.out / 'manifest.txt'} --out DIR")
    return made


def _report(gathered: Gathered, made: Cohort) -> Iterable[str]:
    with pd.option_context("display.width", 200, "display.max_columns", None, "display.max_colwidth", None):
        yield made.flow.to_string(index=False)
        if len(made.strata):
            yield made.strata.to_string(index=False)
        table = prevalences(gathered, made)
        yield table[table["project"] == WHOLE].drop(columns="project").round(1).to_string(index=False)
    yield from (*gathered.notes, *made.notes)


def _draw(gathered: Gathered, made: Cohort, out: Path) -> None:
    from deeplrhe_utils.reporting import cohort_figures as figures

    pictures: Mapping[str, Figure] = {
        "flow.png": figures.flow_figure(made.flow),
        "prevalence.png": figures.prevalence_figure(prevalences(gathered, made)),
        "sites.png": figures.site_mutation_map(mutation_by_site(made.labels, made.chosen)),
    }
    for name, figure in pictures.items():
        with atomic_path(out / name) as part:
            figure.savefig(part, dpi=150, format="png")
