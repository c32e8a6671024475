"""A cohort as notebook 01 uses it: chosen once, fetched, and turned into slides, targets and patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from deeplrhe_utils.acquisition.cohort import Cohort
from deeplrhe_utils.acquisition.cohort_files import read_cohort
from deeplrhe_utils.acquisition.cohort_rules import CohortRule
from deeplrhe_utils.acquisition.download import Settings, all_done, download
from deeplrhe_utils.acquisition.gdc import Gdc
from deeplrhe_utils.acquisition.labels import shortened
from deeplrhe_utils.acquisition.repair import UNCHANGED, repair
from deeplrhe_utils.acquisition.web import Service
from deeplrhe_utils.core.errors import ParameterError, RunError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.core.schemas import CLINICAL, LABELS
from deeplrhe_utils.core.tables import conform
from deeplrhe_utils.running.cohort import COHORT, Services, Tables, gather, make_cohort

if TYPE_CHECKING:
    import pandas as pd

CLASSES: Final = ("normal", "adenocarcinoma", "squamous")
NOTES: Final = "notes.txt"


class Fetched(NamedTuple):
    """The report of the download, the paths of the slides that are here, and what became of old identifiers."""

    report: pd.DataFrame
    paths: dict[str, Path]
    repairs: pd.DataFrame


class Targets(NamedTuple):
    """What is to be predicted: table LABELS, table CLINICAL of the same units, and the unit of every file name."""

    labels: pd.DataFrame
    clinical: pd.DataFrame
    unit_of: dict[str, str]


def ready(
    folder: Path,
    rule: CohortRule,
    sources: Tables | Services,
    *,
    given: Path | None = None,
    drivers: Path | None = None,
) -> Cohort:
    """The cohort of a run: the one that stands in its folder, else a given one, else one that is chosen now.

    A cohort is chosen once: services answer differently tomorrow, and a run that was interrupted must go on with the
    slides it began with.

    Parameters
    ----------
    folder : Path
        Where the run keeps its cohort (``cohort.json`` and the tables beside it).
    rule : CohortRule
    sources : Tables or Services
    given : Path, optional
        A cohort file that somebody shared; its rule is its own.
    drivers : Path, optional
        As for :func:`~deeplrhe_utils.running.cohort.gather`.

    Returns
    -------
    Cohort
        With what its sources had to say in `notes`.

    Raises
    ------
    ParameterError
        The standing cohort was chosen by another rule.
    CompendiumError
        As :func:`~deeplrhe_utils.running.cohort.gather` and `make_cohort`.
    """
    if given is not None:
        return read_cohort(given)
    standing = folder / COHORT
    if not standing.exists():
        gathered = gather(sources, rule.genes, drivers)
        made = make_cohort(gathered, rule, folder)
        write_text(folder / NOTES, "\n".join([f"Data release: {gathered.release}", *gathered.notes]) + "\n")
        return replace(made, notes=[*_notes(folder), *made.notes])
    found = read_cohort(standing)
    if asdict(found.rule) != asdict(replace(rule, genes=found.rule.genes)) or set(found.rule.genes) != set(rule.genes):
        raise ParameterError(
            f"The cohort of this run was chosen by rule {found.rule.name}, seed {found.rule.seed}",
            got=f"rule {rule.name}, seed {rule.seed}, genes {', '.join(rule.genes)}",
            fix="Give another folder with --out, or start again with --fresh",
        )  # fmt: skip
    return replace(found, notes=[*_notes(folder), *found.notes])


def _notes(folder: Path) -> list[str]:
    path = folder / NOTES
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def fetch(
    cohort: Cohort,
    folder: Path,
    endpoint: str,
    settings: Settings,
    *,
    allow_missing: bool = False,
    say: Callable[[str], None] = print,
) -> Fetched:
    """Bring the slides of a cohort to the disk, each verified; nothing is asked for that is here.

    Identifiers that the service no longer knows are replaced first, because a cohort may be years old.

    Parameters
    ----------
    cohort : Cohort
    folder : Path
        Shared by all runs; ``<folder>/<id>/<file name>``.
    endpoint : str
        Of the GDC.
    settings : Settings
    allow_missing : bool
        Go on when some slides could not be had; they are listed in the report.
    say : callable

    Returns
    -------
    Fetched
        `repairs` has a row per identifier that was out of date.

    Raises
    ------
    RunError
        Slides are missing; the report in the folder says why.
    CompendiumError
        As :func:`~deeplrhe_utils.acquisition.download.download`.
    """
    manifest = cohort.chosen.rename(columns={"file_id": "id", "file_name": "filename", "bytes": "size"})
    manifest = manifest[["id", "filename", "md5", "size"]].assign(state="")
    with Service(endpoint, connections=settings.jobs + 1) as service:
        here = [(folder / i / n).is_file() for i, n in zip(manifest["id"], manifest["filename"], strict=True)]
        repaired = None if all(here) else repair(manifest, Gdc(service))
        if repaired is not None:
            manifest = repaired.manifest
        report = download(manifest, folder, service, settings, say)
    repairs = manifest.iloc[:0] if repaired is None else repaired.repairs[repaired.repairs["how"] != UNCHANGED]
    if not all_done(report["status"]) and not allow_missing:
        lost = report[~report["status"].isin(("verified", "resumed", "present"))]
        raise RunError(
            f"{len(lost)} of {len(report)} slides could not be fetched: {shortened(list(lost['filename']), 3)}",
            got=str(lost["reason"].iloc[0]),
            fix="Repeat the command: what is here is kept. Or go on without them: -p allow_missing=true",
        )
    done = report[report["path"] != ""]
    paths = {name: folder.resolve() / path for name, path in zip(done["filename"], done["path"], strict=True)}
    return Fetched(report, paths, repairs)


def targets(cohort: Cohort, kind: str) -> Targets:
    """What is predicted for a cohort.

    Parameters
    ----------
    cohort : Cohort
    kind : {"genes", "classes"}
        Mutations of the patient; or normal, adenocarcinoma, squamous. A patient may have slides of two classes (a
        tumour and normal tissue), so there the unit is the sample, ``TCGA-05-4244-11``; folds keep a patient's samples
        together (:func:`~deeplrhe_utils.evaluation.splits.patient_folds`).

    Raises
    ------
    ParameterError
        Another kind.
    """
    import pandas as pd

    chosen = cohort.chosen
    if kind == "genes":
        names = zip(chosen["file_name"], chosen["patient_id"], strict=True)
        return Targets(cohort.labels, cohort.clinical, {str(n): str(p) for n, p in names})
    if kind != "classes":
        raise ParameterError("Unknown targets", got=kind, expected="genes | classes")
    units = chosen["patient_id"] + "-" + chosen["sample_code"]
    of = pd.DataFrame({"unit": units, "patient_id": chosen["patient_id"], "class": chosen["subtype"]})
    of = of.drop_duplicates("unit").reset_index(drop=True)
    rows = [(u, name, int(own == name), "cohort") for u, own in zip(of["unit"], of["class"], strict=True)
            for name in CLASSES]  # fmt: skip
    labels = pd.DataFrame(rows, columns=["patient_id", "gene", "status", "source"])
    clinical = of.merge(cohort.clinical, on="patient_id", how="inner")
    clinical = clinical.assign(patient_id=clinical["unit"], histology=clinical["class"]).drop(columns=["unit", "class"])
    unit_of = dict(zip(chosen["file_name"].astype(str), units.astype(str), strict=True))
    return Targets(conform(labels, LABELS), conform(clinical, CLINICAL), unit_of)


def with_targets(slides: pd.DataFrame, cohort: Cohort, unit_of: Mapping[str, str]) -> pd.DataFrame:
    """Table SLIDES with what the cohort knows of each file: unit of the targets, site, preparation, tissue class."""
    chosen = cohort.chosen.set_index("file_name")
    names = slides["path"].map(lambda path: Path(path).name)
    known = {"site_id": "site_id", "sample_type": "sample_type", "subtype": "subtype"}
    columns = {ours: names.map(chosen[theirs]).astype("string") for ours, theirs in known.items()}
    return slides.assign(patient_id=names.map(dict(unit_of)).astype("string"), **columns)
