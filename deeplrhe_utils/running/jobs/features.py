"""Published features: fetched from where their authors put them, never from here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deeplrhe_utils.acquisition.services.download import DONE, TransferOptions, download
from deeplrhe_utils.acquisition.services.manifest import UUID
from deeplrhe_utils.acquisition.services.web import Patience, Service
from deeplrhe_utils.core.errors import ParameterError, RunError
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.text import counted, human_size, shortened


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
