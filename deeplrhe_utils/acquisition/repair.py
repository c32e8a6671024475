"""Old manifests: the GDC re-issues files under new identifiers, and a list of 2017 names none that is still served."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pandas as pd

from deeplrhe_utils.acquisition.gdc import Gdc

UNCHANGED: Final = "unchanged"
LOST: Final = "not found"


class Repaired(NamedTuple):
    """A manifest that can be fetched today, and a row per file of the old one that says what became of it."""

    manifest: pd.DataFrame
    repairs: pd.DataFrame


def repair(manifest: pd.DataFrame, gdc: Gdc) -> Repaired:
    """Bring a manifest up to date.

    A file keeps its row if the GDC knows its id with the same MD5 and size. Else it is looked for among the newest
    versions (``files/versions``), and then by its name, which must belong to one file only. What is not found stays
    in the manifest as it was, so that its download fails visibly.

    Parameters
    ----------
    manifest : DataFrame
        As from :func:`~deeplrhe_utils.acquisition.manifest.read_manifest`.
    gdc : Gdc

    Returns
    -------
    Repaired
        `repairs` has a row per file of the manifest: id, filename, how ("unchanged", "metadata", "newest version",
        "file name", "not found"), new_id, and whether name, size and MD5 differ from the old ones.

    Raises
    ------
    ServiceError
        The GDC could not be asked.
    """
    today = {hit["file_id"]: hit for hit in gdc.files("file_id", list(manifest["id"]))}
    newest = gdc.latest([i for i in manifest["id"] if i not in today])
    today |= {hit["file_id"]: hit for hit in gdc.files("file_id", list(newest.values()))}
    lost = manifest[[i not in today and newest.get(i) not in today for i in manifest["id"]]]
    named: dict[str, list[dict[str, Any]]] = {}
    for hit in gdc.files("file_name", list(lost["filename"])):
        named.setdefault(hit["file_name"], []).append(hit)
    rows = [_found(row, today, newest, named) for row in manifest.to_dict("records")]
    return Repaired(_listed(manifest, rows), pd.DataFrame([_told(row) for row in rows]))


def _found(
    old: dict[str, Any], today: dict[str, Any], newest: dict[str, str], named: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """The old row, what it became, and how it was found."""
    if old["id"] in today:
        same = (today[old["id"]]["md5sum"], int(today[old["id"]]["file_size"])) == (old["md5"], old["size"])
        return {"old": old, "new": today[old["id"]], "how": UNCHANGED if same else "metadata"}
    if newest.get(old["id"]) in today:
        return {"old": old, "new": today[newest[old["id"]]], "how": "newest version"}
    hits = named.get(old["filename"], [])
    if len(hits) == 1:
        return {"old": old, "new": hits[0], "how": "file name"}
    return {"old": old, "new": None, "how": LOST if not hits else f"{len(hits)} files have this name"}


def _listed(manifest: pd.DataFrame, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The manifest of today; two old files that became one are listed once."""
    names = {"id": "file_id", "filename": "file_name", "md5": "md5sum", "size": "file_size", "state": "state"}
    listed = [
        row["old"] if row["new"] is None else {ours: row["new"].get(theirs, "") for ours, theirs in names.items()}
        for row in rows
    ]
    frame = pd.DataFrame(listed, columns=list(manifest.columns)).drop_duplicates("id", ignore_index=True)
    return frame.astype({"size": "int64"})


def _told(row: dict[str, Any]) -> dict[str, Any]:
    old, new = row["old"], row["new"] or {}
    told = {"id": old["id"], "filename": old["filename"], "how": row["how"], "new_id": new.get("file_id", "")}
    pairs = {"name": ("filename", "file_name"), "size": ("size", "file_size"), "md5": ("md5", "md5sum")}
    return told | {f"{what}_differs": bool(new) and str(old[o]) != str(new[n]) for what, (o, n) in pairs.items()}
