"""``deeplrhe download``: a manifest's files into a folder; and published features from where their authors put them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.idc.listing import IDC_BUCKETS
from deeplrhe_utils.acquisition.services.download import (
    DONE,
    REPORT,
    DownloadFolder,
    TransferOptions,
    download,
    download_into,
    parse_rate,
)
from deeplrhe_utils.acquisition.services.gdc import BUCKET_FILES, GDC_ENDPOINT, TCGA_BUCKET, Gdc
from deeplrhe_utils.acquisition.services.manifest import (
    SERIES_ENDING,
    UUID,
    name_problem,
    read_manifest,
    write_manifest,
)
from deeplrhe_utils.acquisition.services.repair import SAME_FILE, repair
from deeplrhe_utils.acquisition.services.web import Patience, Service
from deeplrhe_utils.core.errors import InputError, ParameterError, RunError
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.tables.foreign import read_foreign, write_sheet
from deeplrhe_utils.core.text import counted, human_size, shortened

DOWNLOAD_SOURCES: Final = ("gdc", "aws", "auto", "idc")
_SHOWN: Final = 10
_UNKNOWN: Final = 404
_WORDS: Final = {
    "metadata": "with another size or MD5",
    "newest version": "replaced by the newest version",
    "file name": "found by name",
}


@dataclass(frozen=True)
class DownloadOptions:
    """What was asked for on the command line (see ``deeplrhe download --help``).

    `source`: gdc; aws, TCGA's open bucket; auto, the bucket and for each file that it has not, the GDC; idc, the
    Imaging Data Commons; empty: idc for a manifest of DICOM series, else gdc. `bucket`: empty for the source's own.
    """

    manifest: Path
    out: Path
    endpoint: str = GDC_ENDPOINT
    source: str = ""
    bucket: str = ""
    jobs: int = 4
    limit_rate: str = ""
    token: Path | None = None
    repair: bool = False
    recheck: bool = False
    timeout: float = 60.0
    retries: int = 8


def fetch_manifest(
    options: DownloadOptions, say: Callable[[str], None], patience: Patience | None = None
) -> pd.DataFrame:
    """Fetch the files of a manifest, with `repair` those that replace them.

    Parameters
    ----------
    patience : instead of the usual one with the time-out and retries

    Returns the report, a row per file; see `download`.
    Raises ParameterError: the manifest, the token file or a value cannot be used. ServiceError, DiskFullError,
    RunError, InputError: nothing could be begun, or a report could not be written. KeyboardInterrupt: after the summary
    was said.
    """
    if options.jobs < 1 or options.retries < 1 or not options.timeout > 0:
        raise ParameterError("--jobs and --retries are at least 1, and --timeout is more than 0")
    if options.source not in ("", *DOWNLOAD_SOURCES):
        raise ParameterError("There is no such source", got=options.source, expected=" | ".join(DOWNLOAD_SOURCES))
    settings = TransferOptions(jobs=options.jobs, limit_rate=_rate(options.limit_rate), recheck=options.recheck)
    manifest = _manifest(options.manifest)
    if manifest.attrs["repeated"]:
        say(f"{manifest.attrs['repeated']} repeated rows of the manifest were merged.")
    series = len(manifest) and manifest["filename"].str.endswith(SERIES_ENDING).all()
    source = options.source or ("idc" if series else "gdc")
    if source == "idc" and options.repair:
        raise ParameterError("--repair asks the GDC, which knows no DICOM series", fix="Choose the cohort again")
    places = [options.bucket] if options.bucket else list(IDC_BUCKETS) if source == "idc" else [TCGA_BUCKET]
    patience = patience or replace(Patience(), timeout_s=options.timeout, attempts=options.retries)
    connections = options.jobs + 1
    with ExitStack() as stack:
        gdc = Service(options.endpoint, patience, token=_token(options.token), connections=connections)
        buckets = [Service(place, patience, connections=connections, files=BUCKET_FILES) for place in places]
        for service in (gdc, *buckets):
            stack.enter_context(service)
        try:
            services = {"gdc": [gdc], "aws": buckets, "auto": [*buckets, gdc], "idc": buckets}[source]
            return _fetch(manifest, gdc, services, settings, replace(options, source=source), say)
        except KeyboardInterrupt:
            say("Repeat the same command to continue.")
            raise


def _fetch(
    manifest: pd.DataFrame,
    gdc: Service,
    services: Sequence[Service],
    settings: TransferOptions,
    options: DownloadOptions,
    say: Callable[[str], None],
) -> pd.DataFrame:
    """Both steps under one lock: nobody else writes their reports in between."""
    with DownloadFolder(options.out, recheck=settings.recheck) as folder:
        if options.repair:
            manifest = _repaired(manifest, Gdc(gdc), folder, say)
        return download_into(folder, manifest, services[0], settings, say,
                             lambda report: _summary(report, options, say), services[1:])  # fmt: skip


def _manifest(path: Path) -> pd.DataFrame:
    try:
        return read_manifest(path)
    except InputError as cause:
        raise ParameterError(str(cause)) from cause


def _rate(text: str) -> float:
    try:
        return parse_rate(text)
    except ValueError as cause:
        raise ParameterError("--limit-rate is no rate", got=text, expected="bytes per second, such as 10M") from cause


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as cause:
        raise ParameterError(f"The token file {path} cannot be read ({cause})") from cause


def _repaired(manifest: pd.DataFrame, gdc: Gdc, folder: DownloadFolder, say: Callable[[str], None]) -> pd.DataFrame:
    found = repair(manifest, gdc)
    listed = [not name_problem(i, n) for i, n in zip(found.manifest["id"], found.manifest["filename"], strict=True)]
    with folder.saving("repairs.csv") as path:
        write_sheet(found.repairs, path)
    with folder.saving("manifest-repaired.txt") as path:
        write_manifest(path, found.manifest[listed])
    changed = found.repairs[found.repairs["how"] != SAME_FILE]
    counts = ", ".join(f"{count} {_WORDS.get(how, f'({how})')}" for how, count in changed["how"].value_counts().items())
    say(f"{len(changed)} of {len(manifest)} rows of the manifest were not as the service has them today"
        f"{': ' if counts else ''}{counts}. See {folder.out / 'repairs.csv'}.")  # fmt: skip
    if lacks := len(listed) - sum(listed):
        say(f"manifest-repaired.txt lacks {lacks} of {len(listed)} files, whose ids or names must not become paths.")
    return found.manifest


def _summary(report: pd.DataFrame, options: DownloadOptions, say: Callable[[str], None]) -> None:
    bad = report[~report["status"].isin(DONE)]
    for row in bad.head(_SHOWN).to_dict("records"):
        say(f"{row['status']}: {row['filename']}: {row['reason']}")
    if len(bad) > _SHOWN:
        say(f"… and {len(bad) - _SHOWN} more")
    unknown = int((report["http_status"] == _UNKNOWN).sum())
    if options.source == "idc" and (lost := int(report["http_status"].isin((403, _UNKNOWN)).sum())):
        say(f"Not in the bucket: {lost}. If the manifest is old, choose the cohort again.")
    elif unknown and not options.repair:
        say(f"Unknown to the service: {unknown}. If the manifest is old, repeat with --repair.")
    counts = ", ".join(f"{count} {status}" for status, count in report["status"].value_counts().items())
    received = human_size(report["received_bytes"].sum())
    served = report.loc[report["source"] != "", "source"].value_counts()
    whence = f" ({', '.join(f'{n} from {host}' for host, n in served.items())})" if len(served) > 1 else ""
    say(f"{len(report)} files: {counts}; {received} received{whence}. See {options.out / REPORT}.")


@dataclass(frozen=True)
class PublishedFeatures:
    """One published set: what it is, its licence, where it lies below a host, and the list that pins its files."""

    about: str
    licence: str
    place: str
    listed: str


PUBLISHED: Final = {
    "hipt-tcga-lung": PublishedFeatures(
        "HIPT (Chen 2022), mean of each 4,096 px region at 20×, 192 numbers, 1,008 diagnostic TCGA lung slides; its "
        "encoder saw these slides without labels in training",
        "Apache-2.0 with Commons Clause: no selling, notice goes along; the README adds non-commercial academic use",
        "mahmoodlab/HIPT/c22f0ecf40fe6bba965e7c79d48808d1cf6a66c8/3-Self-Supervised-Eval/embeddings_slide_lib/"
        "vit256mean_tcga_slide_embeddings/{name}",
        "hipt_lung_files.csv",
    )
}  # fmt: skip
"""Feature sets that notebook 01 can fetch. At that repository's head the files are pointers; here they are whole."""


def fetch_features(
    name: str, folder: Path, endpoint: str, options: TransferOptions, *, accepted: bool = False,
    patience: Patience | None = None, say: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Bring a published set to the disk, each file verified by the size and hash that are pinned; return its folder.

    Parameters
    ----------
    name : of :data:`PUBLISHED`
    folder : shared by all runs; what is there is not fetched again, what is unfinished goes on
    endpoint : address of the host, such as ``https://raw.githubusercontent.com``
    accepted : whether the licence was accepted

    Raises ParameterError: no such set, or its licence was not accepted. RunError: a file could not be had.
    """
    if name not in PUBLISHED:
        raise ParameterError("There is no such set of features", got=repr(name), expected=", ".join(PUBLISHED),
                             fix="Or give features of your own: -p features_path=FILE_OR_FOLDER")  # fmt: skip
    one = PUBLISHED[name]
    if not accepted:
        raise ParameterError(f"The licence of {name} was not accepted: {one.licence}", expected="that you read it",
                             fix="If you accept it: -p accept_licence=true")  # fmt: skip
    say(f"{name}: {one.about}. Licence: {one.licence}.")
    rows = read_foreign(REFERENCE_DATA / one.listed).rename(columns={"sha1": "md5"})
    rows["id"] = [UUID.findall(file.lower())[-1] for file in rows["filename"]]
    rows["size"] = rows["size"].astype("int64")
    with Service(endpoint, patience or Patience(), connections=options.jobs + 1, files=one.place) as service:
        report = download(rows, folder / name, service, options, say)
    lost = report[~report["status"].isin(DONE)]
    if len(lost):
        raise RunError(f"{len(lost)} of {counted(len(report), 'file')} could not be fetched: "
                       f"{shortened(list(lost['filename']), 3)}", got=str(lost["reason"].iloc[0]),
                       fix="Repeat the command: what is here is kept")  # fmt: skip
    say(f"{counted(len(report), 'file')} verified in {folder / name}, {human_size(report['bytes'].sum())}.")
    return folder / name
