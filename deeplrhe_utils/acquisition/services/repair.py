"""Old manifests: the GDC re-issues files under new identifiers, and a list of 2017 names none that is still served."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pandas as pd

from deeplrhe_utils.acquisition.services.gdc import Gdc
from deeplrhe_utils.acquisition.services.manifest import MD5, name_problem, quoted

SAME_FILE: Final = "unchanged"
LOST: Final = "not found"
UNUSABLE, UNUSABLE_NEW = "unusable id or name", "unusable id or name at the GDC"
_LARGEST: Final = 10**15
_FORM: Final = "file_id, file_name, md5sum and file_size of each file"


class Repaired(NamedTuple):
    """A manifest that can be fetched today, and a row per file of the old one that says what became of it."""

    manifest: pd.DataFrame
    repairs: pd.DataFrame


def repair(manifest: pd.DataFrame, gdc: Gdc) -> Repaired:
    """Bring a manifest up to date.

    A file keeps its row if the GDC knows its id with the same MD5 and size. Else it is looked for among the newest
    versions (``files/versions``), and then by its name, which must belong to one file only. What is not found stays
    in the manifest as it was, so that its download fails visibly; the same holds for ids and names that must not
    become paths, here or at the GDC (`name_problem`).

    Parameters
    ----------
    manifest : as from `read_manifest`

    `repairs` has a row per file of the manifest: id, filename, how ("unchanged", "metadata", "newest version", "file
    name", "not found", "N files have this name", :data:`UNUSABLE`, :data:`UNUSABLE_NEW`), new_id, and whether name,
    size and MD5 differ from the old ones.
    Raises ServiceError: the GDC could not be asked, or answers in another form.
    """
    usable = [not name_problem(i, n) for i, n in zip(manifest["id"], manifest["filename"], strict=True)]
    asked = manifest[usable]
    today = {hit["file_id"]: hit for hit in _files(gdc, "file_id", list(asked["id"]))}
    newest = gdc.latest([i for i in asked["id"] if i not in today])
    today |= {hit["file_id"]: hit for hit in _files(gdc, "file_id", list(newest.values()))}
    lost = asked[[i not in today and newest.get(i) not in today for i in asked["id"]]]
    named: dict[str, list[dict[str, Any]]] = {}
    for hit in _files(gdc, "file_name", list(lost["filename"])):
        named.setdefault(hit["file_name"], []).append(hit)
    rows = [_found(row, today, newest, named) for row in manifest.to_dict("records")]
    return Repaired(_listed(manifest, rows), pd.DataFrame([_told(row) for row in rows]))


def _files(gdc: Gdc, field: str, values: list[str]) -> list[dict[str, Any]]:
    hits = gdc.files(field, values)
    for hit in hits:
        names, md5, size = (hit.get("file_id"), hit.get("file_name")), hit.get("md5sum"), hit.get("file_size")
        good = all(isinstance(text, str) for text in names) and isinstance(md5, str) and MD5.fullmatch(md5)
        if not good or type(size) is not int or not 0 <= size < _LARGEST:  # True is an int, too
            raise gdc.other_form("files", hit, _FORM)
    return hits


def _found(
    old: dict[str, Any], today: dict[str, Any], newest: dict[str, str], named: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """The old row, what it became, and how it was found."""
    if name_problem(old["id"], old["filename"]):
        return {"old": old, "new": None, "how": UNUSABLE}
    hits = named.get(old["filename"], [])
    if old["id"] in today:
        new = today[old["id"]]
        how = SAME_FILE if (new["md5sum"], new["file_size"]) == (old["md5"], old["size"]) else "metadata"
    elif newest.get(old["id"]) in today:
        new, how = today[newest[old["id"]]], "newest version"
    elif len(hits) == 1:
        new, how = hits[0], "file name"
    else:
        return {"old": old, "new": None, "how": LOST if not hits else f"{len(hits)} files have this name"}
    if name_problem(new["file_id"], new["file_name"]):
        return {"old": old, "new": None, "how": UNUSABLE_NEW}
    return {"old": old, "new": new, "how": how}


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
    shown = (old["id"], old["filename"]) if row["how"] != UNUSABLE else (quoted(old["id"]), quoted(old["filename"]))
    told = {"id": shown[0], "filename": shown[1], "how": row["how"], "new_id": new.get("file_id", "")}
    pairs = {"name": ("filename", "file_name"), "size": ("size", "file_size"), "md5": ("md5", "md5sum")}
    return told | {f"{what}_differs": bool(new) and str(old[o]) != str(new[n]) for what, (o, n) in pairs.items()}
