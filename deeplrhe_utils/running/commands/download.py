"""``deeplrhe download``: the files of a manifest."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from deeplrhe_utils.running.commands import FAILED, OK, Commands, as_options, say
from deeplrhe_utils.running.commands.run import terminate


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "download",
        help="fetch the files of a manifest, each verified",
        description="Fetch the files of a manifest into DIR/<id>/<file name>, each verified by its MD5. The same "
        "command resumes: verified files are never fetched again, unfinished ones are continued. DIR/download.csv has "
        "a row per file. 1 if a file is missing, 2 if the manifest cannot be read.",
    )
    add = parser.add_argument
    add("manifest", type=Path, metavar="MANIFEST", help="as the GDC's portal, its transfer tool or `cohort` writes it")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the files")
    add("--endpoint", default="https://api.gdc.cancer.gov", metavar="URL", help="default: the GDC")
    add("--source", default="", metavar="NAME",
        help="gdc; aws: TCGA's open bucket; auto: the bucket, and the GDC for what it lacks; idc: the Imaging Data "
        "Commons (default: idc for DICOM series, else gdc)")  # fmt: skip
    add("--bucket", default="", metavar="URL", help="default: TCGA's on AWS, or the Imaging Data Commons' two")
    add("--jobs", type=int, default=4, metavar="N", help="transfers at one time (default: 4)")
    add("--limit-rate", default="", metavar="RATE", help="bytes per second over all, such as 10M (default: no limit)")
    add("--token", type=Path, default=None, metavar="FILE", help="for files of controlled access")
    add("--repair", action="store_true", help="look up files whose id is out of date, by version and by name")
    add("--recheck", action="store_true", help="hash verified files once more")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds without a byte (default: 60)")
    add("--retries", type=int, default=8, metavar="N", help="failures in a row without a byte (default: 8)")


def run(options: argparse.Namespace) -> int:
    """Fetch; 1 if a file is missing."""
    from deeplrhe_utils.acquisition.services.download import all_done
    from deeplrhe_utils.running.jobs.download import DownloadOptions, fetch_manifest

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        report = fetch_manifest(as_options(DownloadOptions, options), say)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return OK if all_done(report["status"]) else FAILED
