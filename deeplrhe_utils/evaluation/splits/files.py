"""Split files: who was trained on and who was tested, in a form that can be shared, checked and loaded.

Source: ours. DeepPATH's splits are shuffled without a seed, and its users keep asking for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from deeplrhe_utils.core.errors import CohortError, InputError, ParameterError
from deeplrhe_utils.core.files import sha256_text, write_json
from deeplrhe_utils.core.signing import changed_parts, read_document, signed
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import SPLITS
from deeplrhe_utils.evaluation.splits.folds import check_disjoint, check_split, hashed

_KIND: Final = "deeplrhe split"
_VERSION: Final = 1
_FACTS: Final = ("kind", "version", "scheme", "seed", "genes", "shares", "salt", "salted", "note")
_PARTS: Final = (*_FACTS, "units", "hashes", "digests", "signature")


def pseudonym(unit: str, salt: str) -> str:
    """First 32 hex characters of SHA-256 over salt and unit.

    It hides names from readers, not from guessers: who has the salt and a list of candidate names can try them all.
    """
    return sha256_text(f"{salt}\x1f{unit}")[:32]


def write_split(
    path: Path,
    splits: pd.DataFrame,
    *,
    genes: Sequence[str] = (),
    shares: Sequence[float] = (),
    sites: Mapping[str, str] | None = None,
    salt: str | None = None,
    note: str = "",
) -> str:
    """Write a split as signed JSON; the same split gives the same bytes.

    Parameters
    ----------
    splits : table SPLITS of one scheme and one seed
    genes : what it was balanced for
    shares : three numbers, or none: of train, valid and test, if it is one division and not folds
    sites : unit → site, optional
        With scheme "site": lets :func:`read_split` see that no site is divided. Left out of a pseudonymised file.
    salt : units are written as :func:`pseudonym` of them. The file holds the salt, so whoever has the same names can
        find them in it.
    note : a sentence for its readers, such as how well it is balanced

    Returns str: the signature: SHA-256 over the whole content. It shows that a file is the one that was written, not
    who wrote it: publish it elsewhere (in the paper) to make it count.

    Raises CohortError: a unit with two roles in a fold, or tested twice, or without a role in some fold.
    ParameterError: an empty salt.
    """
    table = conform(splits, SPLITS)
    check_split(table, once=not len(shares))
    if salt is not None and not salt:
        raise ParameterError("An empty salt hides nothing", fix="Give a long random text")
    schemes, seeds = table["scheme"].unique(), table["seed"].unique()
    if len(schemes) != 1 or len(seeds) != 1:
        raise CohortError("A split file holds one scheme and one seed", got=f"{len(schemes)} and {len(seeds)}")
    facts: dict[str, Any] = {
        "kind": _KIND, "version": _VERSION, "scheme": str(schemes[0]), "seed": int(seeds[0]), "note": note,
        "genes": sorted(genes), "shares": [float(s) for s in shares], "salted": salt is not None,
        "salt": salt,
    }  # fmt: skip
    listed = table if salt is None else table.assign(unit_id=[pseudonym(u, salt) for u in table["unit_id"]])
    units = _units(listed, sites if salt is None else None)
    facts |= {"units": units, "hashes": _hashes(_table(facts | {"units": units}))}
    write_json(path, signed(facts))
    return str(signed(facts)["signature"])


def read_split(path: Path, *, names: Iterable[str] = ()) -> pd.DataFrame:
    """Read a split file and check it.

    Parameters
    ----------
    names : for a pseudonymised file: unit names, among which all of its units must be. Without them the pseudonyms are
        returned.

    Returns DataFrame: table SPLITS, equal to the one that was written (units sorted within folds).

    Raises InputError: the file is missing, is no split file, is of another version or was edited (the message says
    where). CohortError: a unit has two roles, or a site is divided. ParameterError: a unit is none of `names`.
    """
    document = _read(path)
    _check_signature(path, document)
    frame = _table(document)
    check_split(frame, once=not document["shares"])
    _check_sites(frame, document)
    if document["salted"] and (wanted := sorted(set(map(str, names)))):
        return _named(path, frame, wanted, document["salt"])
    return conform(frame, SPLITS)


def _units(table: pd.DataFrame, sites: Mapping[str, str] | None) -> list[dict[str, Any]]:
    """One entry per unit, sorted: its role in every fold, its site."""
    wide = table.pivot(index="unit_id", columns="fold", values="role").sort_index()
    if wide.isna().to_numpy().any():
        unit = wide.index[wide.isna().any(axis=1)][0]
        raise CohortError(f"Unit {unit} has no role in some fold", expected="a role in every fold")
    if list(wide.columns) != list(range(wide.shape[1])):
        raise CohortError("Folds are numbered from 0 without gaps", got=", ".join(map(str, wide.columns)))
    units: list[dict[str, Any]] = [
        {"unit": str(u), "roles": list(map(str, r))} for u, r in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    if sites is not None:
        units = [{**entry, "site": str(sites[str(entry["unit"])])} for entry in units]
    return units


def _table(document: Mapping[str, Any]) -> pd.DataFrame:
    folds = len(document["units"][0]["roles"])
    rows = [
        {"scheme": document["scheme"], "fold": f, "unit_id": entry["unit"], "role": entry["roles"][f],
         "seed": document["seed"]}
        for f in range(folds) for entry in document["units"]
    ]  # fmt: skip
    return hashed(pd.DataFrame(rows))


def _hashes(table: pd.DataFrame) -> list[str]:
    """Hash of every fold, as in table SPLITS."""
    return [str(h) for h in table.groupby("fold")["hash"].first()]


def _read(path: Path) -> dict[str, Any]:
    document = read_document(Path(path), _KIND, _VERSION, _PARTS)
    if not (_well_formed(document["units"]) and isinstance(document["hashes"], list)):
        raise InputError(f"The split file {path} was edited: its units are malformed",
                         expected="unit and one role per fold, as many for every unit")  # fmt: skip
    return document


def _well_formed(units: Any) -> bool:
    if not isinstance(units, list) or not units:
        return False
    if not all(isinstance(entry, dict) and isinstance(entry.get("unit"), str) for entry in units):
        return False
    roles = [entry.get("roles") for entry in units]
    return all(isinstance(r, list) and 0 < len(r) == len(units[0]["roles"]) for r in roles)


def _check_signature(path: Path, document: dict[str, Any]) -> None:
    if not (changed := changed_parts(document)):
        return
    found = _hashes(_table(document))
    folds = [str(f) for f, h in enumerate(document["hashes"]) if f >= len(found) or h != found[f]]
    where = ", ".join(changed)
    where += f" (roles of fold {', '.join(folds)})" if "units" in changed and folds else ""
    raise InputError(f"The split file {path} was edited after it was signed", got=f"other content in: {where}",
                     expected=f"what signature {str(document['signature'])[:16]}… was made of",
                     fix="Ask for the original, or make a split of your own")  # fmt: skip


def _check_sites(frame: pd.DataFrame, document: dict[str, Any]) -> None:
    places = [(entry["unit"], entry["site"]) for entry in document["units"] if "site" in entry]
    if places and document["scheme"] == "site":
        check_disjoint(frame, pd.DataFrame(places, columns=["patient_id", "site_id"]), "site_id")


def _named(path: Path, frame: pd.DataFrame, names: list[str], salt: str) -> pd.DataFrame:
    """The rows whose pseudonym is one of a name, under that name."""
    known = {pseudonym(name, salt): name for name in names}
    found = frame[frame["unit_id"].isin(list(known))]
    if found.empty:
        raise ParameterError(f"None of {len(names)} names stands in {path}", got=f"first: {names[0]}",
                             fix="Check the names")  # fmt: skip
    if lost := frame["unit_id"].nunique() - found["unit_id"].nunique():
        what = f"{lost} units of {path} are none of the {len(names)} names"
        raise ParameterError(what, expected="all names of the split", fix="Give them all; a part of a split is none")
    frame = found.assign(unit_id=found["unit_id"].map(known)).sort_values(["fold", "unit_id"], ignore_index=True)
    return conform(hashed(frame), SPLITS)
