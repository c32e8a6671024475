"""A cohort as notebook 01 uses it: chosen once, fetched, and turned into slides, targets and patients."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from deeplrhe_utils.acquisition.clinical_file import read_clinical
from deeplrhe_utils.acquisition.cohort.build import Cohort
from deeplrhe_utils.acquisition.cohort.files import BESIDE, read_cohort, read_cohort_files
from deeplrhe_utils.acquisition.cohort.rules import CPTAC, CohortRule
from deeplrhe_utils.acquisition.services.download import DONE, TransferOptions, download
from deeplrhe_utils.acquisition.services.gdc import BUCKET_FILES, GDC_ENDPOINT, TCGA_BUCKET, Gdc
from deeplrhe_utils.acquisition.services.repair import SAME_FILE, repair
from deeplrhe_utils.acquisition.services.tcga_slides import SUBTYPES
from deeplrhe_utils.acquisition.services.web import Service
from deeplrhe_utils.core.errors import InputError, ParameterError, RunError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.foreign import read_foreign, write_sheet
from deeplrhe_utils.core.tables.schemas import CLINICAL, LABELS, LUNG_CLASSES
from deeplrhe_utils.core.text import shortened
from deeplrhe_utils.running.jobs.cohort import COHORT, Services, gather, make_cohort, source_of

NOTES: Final = "notes.txt"
_MEMORY: Final = ["file_id", "id", "how", "filename", "md5", "size", "md5_differs"]


class FetchedSlides(NamedTuple):
    """A row per slide of the cohort, the paths of those that are here by file_id, and which identifiers were replaced.

    `report` has the cohort's file_id beside the columns of
    `Row`; `repairs` has file_id, how it was found, and what differs.
    """

    report: pd.DataFrame
    paths: dict[str, Path]
    repairs: pd.DataFrame

    def sentence(self, folder: Path) -> str:
        """How many slides are in `folder`, and how many identifiers had changed."""
        changed = (self.repairs["md5_differs"] == "True").sum()
        told = f"{len(self.paths)} of {len(self.report)} slides are in {folder}; {len(self.repairs)} identifiers were"
        return f"{told} out of date, and {changed} files have another content today."


class Targets(NamedTuple):
    """What is to be predicted: tables LABELS and CLINICAL of the same units, each file's unit, each unit's tumour."""

    labels: pd.DataFrame
    clinical: pd.DataFrame
    unit_of: dict[str, str]
    tumour: dict[str, str]
    note: str


def ready_cohort(
    folder: Path, rule: CohortRule, sources: Services, *, given: Path | None = None, drivers: Path | None = None
) -> Cohort:
    """The cohort of a run: the one that stands in its folder, else a given one, else one that is chosen now.

    A cohort is chosen once: services answer differently tomorrow, and a run that was interrupted must go on with the
    slides it began with.

    Parameters
    ----------
    folder : where the run keeps its cohort (``cohort.json`` and the tables beside it), and nothing else
    given : a cohort file that somebody shared, with the tables beside it; they are copied. Its rule and sources are its
        own; of its genes, `rule` says which are used.
    drivers : as for `gather`

    Returns Cohort: with what its sources had to say in `notes`.
    Raises ParameterError: another cohort stands there, or one from other sources; the given one lacks a gene.
    CompendiumError: as `gather` and `make_cohort`.
    """
    if given is not None and read_cohort_files(given)[0]["project_id"].isin(CPTAC).any():
        raise ParameterError(f"The slides of {given} are DICOM series, which a run of TCGA does not fetch",
                             fix="deeplrhe download MANIFEST --out DIR, then deeplrhe run slides -p slides_dir=DIR "
                             "-p labels_csv=cohort-labels.csv -p clinical_csv=cohort-clinical.csv")  # fmt: skip
    standing = folder / COHORT
    if not standing.exists():
        _make_aside(folder, partial(_copy, given, rule) if given else partial(_choose, rule, sources, drivers))
    found, facts = read_cohort(standing), read_cohort_files(standing)[1]
    if given is not None:
        theirs = read_cohort_files(given)[1]["signature"]
        _must_match({"signature": facts["signature"]}, {"signature": theirs})
    else:
        asked = {"rule": asdict(replace(rule, genes=found.rule.genes)), "genes": sorted(rule.genes)}
        own = {"rule": asdict(found.rule), "genes": sorted(found.rule.genes)}
        source = {"sources": facts["source"]}, {"sources": source_of(sources, rule.genes, drivers)}
        _must_match({**own, **source[0]}, {**asked, **source[1]})
    labels = found.labels[found.labels["gene"].isin(rule.genes)].reset_index(drop=True)
    return replace(found, labels=labels, notes=[*_notes(folder), *found.notes])


def _must_match(standing: Mapping[str, object], asked: Mapping[str, object]) -> None:
    if other := [name for name in standing if standing[name] != asked[name]]:
        raise ParameterError(
            f"The cohort of this run was chosen with another {' and '.join(other)}",
            got="; ".join(str(asked[name])[:120] for name in other),
            expected="; ".join(str(standing[name])[:120] for name in other),
            fix="Give another folder with --out, or start again with --fresh",
        )  # fmt: skip


def _make_aside(folder: Path, make: Callable[[Path], None]) -> None:
    """Fill a folder completely, or not at all: a run that was killed meanwhile begins again."""
    if folder.exists() and any(folder.iterdir()):
        raise ParameterError(f"{folder} holds no cohort, but other files", got=next(folder.iterdir()).name,
                             fix="Move them away, or give another folder with --out")  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", ignore_cleanup_errors=True) as aside:
        whole = Path(aside) / folder.name
        whole.mkdir()
        make(whole)
        whole.replace(folder)


def _choose(rule: CohortRule, sources: Services, drivers: Path | None, folder: Path) -> None:
    gathered = gather(sources, rule.genes, drivers)
    make_cohort(gathered, rule, folder)
    write_text(folder / NOTES, "\n".join([f"Data release: {gathered.release}", *gathered.notes]) + "\n")


def _copy(given: Path, rule: CohortRule, folder: Path) -> None:
    found = read_cohort(given)
    if lost := sorted(set(rule.genes) - set(found.rule.genes)):
        raise ParameterError(f"The cohort {given} has no labels of some genes", got=", ".join(lost),
                             expected=", ".join(found.rule.genes), fix="Leave them out of `genes`")  # fmt: skip
    shutil.copyfile(given, folder / COHORT)
    for name in (*BESIDE, "prevalence.csv", "sites.csv", NOTES):
        if (given.parent / name).is_file():
            shutil.copyfile(given.parent / name, folder / name)


def _notes(folder: Path) -> list[str]:
    path = folder / NOTES
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def fetch_cohort(
    cohort: Cohort,
    folder: Path,
    endpoint: str,
    options: TransferOptions,
    memory: Path,
    *,
    allow_missing: bool = False,
    accept_changed: bool = False,
    say: Callable[[str], None] = print,
) -> FetchedSlides:
    """Bring the slides of a cohort to the disk, each verified; a service is asked only if one is not here.

    Identifiers that the service no longer knows are replaced first, because a cohort may be years old, and the
    replacements are remembered.

    Parameters
    ----------
    folder : shared by all runs; ``<folder>/<id>/<file name>``
    endpoint : of the GDC; where it is the public one, TCGA's bucket on AWS serves what it refuses
    memory : CSV of the replacements; made when there are some
    allow_missing : go on when some slides could not be had; the report lists them
    accept_changed : take files whose content (MD5) is another today than when the cohort was signed

    Raises RunError: slides are missing, or are others than those that were signed. CompendiumError: as
    `download`.
    """
    known = read_foreign(memory, InputError, may_be_empty=True) if memory.is_file() else pd.DataFrame(columns=_MEMORY)
    wanted = _wanted(cohort, known)
    spare = Service(TCGA_BUCKET, connections=options.jobs + 1, files=BUCKET_FILES)
    with Service(endpoint, connections=options.jobs + 1) as service, spare:
        here = [(folder / i / n).is_file() for i, n in zip(wanted["id"], wanted["filename"], strict=True)]
        if not all(here):
            known = _replaced(cohort, wanted, known, Gdc(service))
            wanted = _wanted(cohort, known)
        changed = known[known["md5_differs"] == "True"]
        if len(changed) and not accept_changed:
            raise RunError(
                f"{len(changed)} of {len(cohort.chosen)} slides have another content (MD5) today than when the cohort "
                f"was signed: {shortened(list(changed['filename']), 3)}",
                fix="Take today's files with -p accept_changed=true; the run then lists them, and says so",
            )  # fmt: skip
        if len(known):
            write_sheet(known, memory)
        manifest = wanted.drop_duplicates("id", ignore_index=True)
        report = download(manifest, folder, service, options, say, [spare] if endpoint == GDC_ENDPOINT else [])
    return _fetched_slides(wanted, report, known, folder, allow_missing)


def _wanted(cohort: Cohort, known: pd.DataFrame) -> pd.DataFrame:
    """A row per slide of the cohort: file_id as signed; id, filename, md5 and size [bytes] as they are today."""
    rows = cohort.chosen.rename(columns={"file_name": "filename", "bytes": "size"}).assign(id=cohort.chosen["file_id"])
    rows = rows[["file_id", "id", "filename", "md5", "size"]].astype({"size": "int64"}).set_index("file_id")
    for row in known.to_dict("records"):
        if row["file_id"] in rows.index:
            rows.loc[row["file_id"]] = [row["id"], row["filename"], row["md5"], int(row["size"])]
    return rows.reset_index().assign(state="")


def _replaced(cohort: Cohort, wanted: pd.DataFrame, known: pd.DataFrame, gdc: Gdc) -> pd.DataFrame:
    """`known`, and what else is out of date now."""
    found = repair(wanted[["id", "filename", "md5", "size", "state"]], gdc)
    today = found.manifest.set_index("id")
    signed = cohort.chosen.set_index("file_id")
    rows = known[~known["file_id"].isin(wanted["file_id"])].to_dict("records")
    before = known.set_index("file_id")
    for old, told in zip(wanted.to_dict("records"), found.repairs.to_dict("records"), strict=True):
        fresh = bool(told["new_id"]) and told["how"] != SAME_FILE
        if not fresh and old["file_id"] not in before.index:
            continue
        new = today.loc[told["new_id"]] if fresh else before.loc[old["file_id"]]
        how = told["how"] if fresh else new["how"]
        rows.append({"file_id": old["file_id"], "id": told["new_id"] if fresh else new["id"], "how": how,
                     "filename": new["filename"], "md5": new["md5"], "size": str(new["size"]),
                     "md5_differs": str(new["md5"] != signed.loc[old["file_id"], "md5"])})  # fmt: skip
    return pd.DataFrame(rows, columns=_MEMORY)


def _fetched_slides(
    wanted: pd.DataFrame, report: pd.DataFrame, known: pd.DataFrame, folder: Path, allow_missing: bool
) -> FetchedSlides:
    both = wanted[["file_id", "id"]].assign(asked=wanted["id"], name=wanted["filename"])
    report = report.assign(asked=[str(i) for i in wanted.drop_duplicates("id")["id"]]).drop(columns="id")
    rows = both.merge(report, on="asked", how="left").drop(columns=["asked", "name"])
    lost = rows[~rows["status"].isin(DONE)]
    if len(lost) and not allow_missing:
        raise RunError(
            f"{len(lost)} of {len(rows)} slides could not be fetched: {shortened(list(lost['filename']), 3)}",
            got=str(lost["reason"].iloc[0]),
            fix="Repeat the command: what is here is kept. Or go on without them: -p allow_missing=true",
        )
    done = rows[rows["status"].isin(DONE)]
    paths = {file_id: folder.resolve() / path for file_id, path in zip(done["file_id"], done["path"], strict=True)}
    return FetchedSlides(rows, paths, known)


def targets(cohort: Cohort, kind: str) -> Targets:
    """What is predicted for a cohort.

    Parameters
    ----------
    kind : {"genes", "classes"}; mutations of the patient; or normal, adenocarcinoma, squamous. A patient may have
        slides of two classes (a tumour and normal tissue), so there the unit is the sample, ``TCGA-05-4244-11``; folds
        keep a patient's samples together (`patient_folds`).

    Raises ParameterError: another kind.
    """
    chosen = cohort.chosen
    tumours = chosen["project_id"].map(SUBTYPES).fillna("")
    if kind == "genes":
        unit_of = dict(zip(chosen["file_id"], chosen["patient_id"], strict=True))
        tumour = dict(zip(chosen["patient_id"], tumours, strict=True))
        return Targets(cohort.labels, cohort.clinical, unit_of, tumour, "")
    if kind != "classes":
        raise ParameterError("Unknown targets", got=kind, expected="genes | classes")
    units = (chosen["patient_id"] + "-" + chosen["sample_code"]).astype(str)
    of = pd.DataFrame({"unit": units, "patient_id": chosen["patient_id"], "class": chosen["subtype"]})
    of = of.drop_duplicates("unit").reset_index(drop=True)
    rows = [(u, name, int(own == name), "cohort") for u, own in zip(of["unit"], of["class"], strict=True)
            for name in LUNG_CLASSES]  # fmt: skip
    labels = pd.DataFrame(rows, columns=["patient_id", "gene", "status", "source"])
    clinical = of.merge(cohort.clinical, on="patient_id", how="inner")
    clinical = clinical.assign(patient_id=clinical["unit"], histology=clinical["class"]).drop(columns=["unit", "class"])
    twice = int(of["patient_id"].duplicated(keep=False).sum())
    note = (f"Targets are tissue classes, so what is called a patient from here on is a sample: {len(of)} samples "
            f"of {of['patient_id'].nunique()} patients. Folds keep a patient's samples together; intervals count "
            f"samples as independent, though {twice} of them share their patient with another.")  # fmt: skip
    unit_of = dict(zip(chosen["file_id"].astype(str), units, strict=True))
    tumour = dict(zip(units, tumours, strict=True))
    return Targets(conform(labels, LABELS), conform(clinical, CLINICAL), unit_of, tumour, note)


def with_targets(
    slides: pd.DataFrame, cohort: Cohort, unit_of: Mapping[str, str], paths: Mapping[str, Path]
) -> pd.DataFrame:
    """Table SLIDES with what the cohort knows of each file: unit of the targets, site, preparation, tissue class."""
    chosen = cohort.chosen.set_index("file_id")
    file_of = {str(path): file_id for file_id, path in paths.items()}
    files = slides["path"].map(file_of)
    fields = ("site_id", "site_code", "sample_type", "subtype")
    known = {name: files.map(chosen[name]).astype("string") for name in fields}
    return slides.assign(patient_id=files.map(dict(unit_of)).astype("string"), **known)


def inventory_notes(slides: pd.DataFrame) -> list[str]:
    """What the inventory of a folder remarked of its files, a sentence each; `slides` as `scan_slides` returns it."""
    notes = [f"{n} hidden or side files were not read as slides." for n in [slides.attrs.get("sidecar_files")] if n]
    told = {"mpp_csv names slides that were not found": "unused_overrides",
            "annotation files that belong to no slide": "unmatched",
            "names that were in several folders got the folder as a prefix": "renamed"}  # fmt: skip
    notes += [f"{text}: {', '.join(slides.attrs[key])}" for text, key in told.items() if slides.attrs.get(key)]
    if lung := int(slides["subtype"].eq("normal").sum()):
        notes.append(f"{lung} slides are of normal tissue: samples of their own, without a mutation label.")
    out = slides[slides["status"] == "excluded"]
    notes += [f"{s}: excluded, because {why}" for s, why in zip(out["slide_id"], out["reason"], strict=True)]
    doubts = slides.dropna(subset=["resolution_note"])
    return notes + [f"{s}: {note}" for s, note in zip(doubts["slide_id"], doubts["resolution_note"], strict=True)]


def clinical_table(slides: pd.DataFrame, known: pd.DataFrame, path: Path | None) -> tuple[pd.DataFrame, list[str]]:
    """Table CLINICAL of the patients of `slides`, with notes: of the file at `path`, else `known`, else the slides."""
    own = slides.dropna(subset=["patient_id"]).drop_duplicates("patient_id")
    if not len(known):
        known = conform(own[["patient_id", "site_id"]].assign(histology=own["subtype"]), CLINICAL)
    if path is None:
        return known, []
    told = read_clinical(path)
    count = f"clinical data: {told['patient_id'].isin(own['patient_id']).sum()} of {len(own)} patients"
    return pd.concat([told, known]).drop_duplicates("patient_id", ignore_index=True), [*told.attrs["notes"], count]
