"""``deeplrhe download``: a manifest's files into a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pandas as pd

from deeplrhe_utils.acquisition.download import REPORT, Settings, all_done, amount, download, parse_rate
from deeplrhe_utils.acquisition.gdc import ENDPOINT, Gdc
from deeplrhe_utils.acquisition.manifest import read_manifest, write_manifest
from deeplrhe_utils.acquisition.repair import UNCHANGED, repair
from deeplrhe_utils.acquisition.web import Patience, Service
from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.files import write_text

_SHOWN: Final = 10


@dataclass(frozen=True)
class Wish:
    """What was asked for on the command line (see ``deeplrhe download --help``)."""

    manifest: Path
    out: Path
    endpoint: str = ENDPOINT
    jobs: int = 4
    limit_rate: str = ""
    token: Path | None = None
    repair: bool = False
    recheck: bool = False
    timeout: float = 60.0
    retries: int = 8


def fetch_manifest(wish: Wish, say: Callable[[str], None], patience: Patience | None = None) -> pd.DataFrame:
    """Fetch the files of a manifest, with `repair` those that replace them.

    Parameters
    ----------
    wish : Wish
    say : callable
        Takes lines for the user.
    patience : Patience, optional
        Instead of the usual one with the wish's time-out and retries.

    Returns
    -------
    DataFrame
        The report, a row per file; see :func:`~deeplrhe_utils.acquisition.download.download`.

    Raises
    ------
    ParameterError
        The manifest, the token file or a value cannot be used.
    ServiceError, DiskFullError, RunError, InputError
        Nothing could be begun.
    """
    if wish.jobs < 1 or wish.retries < 1 or not wish.timeout > 0:
        raise ParameterError("--jobs and --retries are at least 1, and --timeout is more than 0")
    settings = Settings(jobs=wish.jobs, limit_rate=_rate(wish.limit_rate), recheck=wish.recheck)
    manifest = _manifest(wish.manifest)
    if manifest.attrs["repeated"]:
        say(f"{manifest.attrs['repeated']} repeated rows of the manifest were merged.")
    patience = patience or replace(Patience(), timeout_s=wish.timeout, attempts=wish.retries)
    with Service(wish.endpoint, patience, token=_token(wish.token), connections=wish.jobs + 1) as service:
        if wish.repair:
            manifest = _repaired(manifest, Gdc(service), wish.out, say)
        report = download(manifest, wish.out, service, settings, say)
    _summary(report, wish.out, say)
    return report


def succeeded(report: pd.DataFrame) -> bool:
    """Whether every file is here and verified."""
    return all_done(report["status"])


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


def _repaired(manifest: pd.DataFrame, gdc: Gdc, out: Path, say: Callable[[str], None]) -> pd.DataFrame:
    found = repair(manifest, gdc)
    write_text(out / "repairs.csv", found.repairs.to_csv(index=False))
    write_manifest(out / "manifest-repaired.txt", found.manifest)
    changed = found.repairs[found.repairs["how"] != UNCHANGED]
    counts = ", ".join(f"{count} by {how}" for how, count in changed["how"].value_counts().items())
    say(f"{len(changed)} of {len(manifest)} rows of the manifest were out of date ({counts or 'none'}): repairs.csv.")
    return found.manifest


def _summary(report: pd.DataFrame, out: Path, say: Callable[[str], None]) -> None:
    bad = report[~report["status"].isin(("verified", "resumed", "present"))]
    for row in bad.head(_SHOWN).to_dict("records"):
        say(f"{row['status']}: {row['filename']}: {row['reason']}")
    if len(bad) > _SHOWN:
        say(f"… and {len(bad) - _SHOWN} more")
    counts = ", ".join(f"{count} {status}" for status, count in report["status"].value_counts().items())
    say(f"{len(report)} files: {counts}; {amount(report['received_bytes'].sum())} received. See {out / REPORT}.")
