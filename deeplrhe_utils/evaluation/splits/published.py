"""Split files of other programs: read into table SPLITS as they are, and written.

Sources: Patho-Bench (``k=all.tsv``: case_id, slide_id, label, fold_0 …), CLAM (``splits_0.csv``: columns train, val and
test of names, or True and False beside a name), and what most repositories publish: a table each for train, val, test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from deeplrhe_utils.acquisition.barcodes import parse_name, patients_of
from deeplrhe_utils.acquisition.labels.labels import FILE_ENDING, PATIENT_NAMES, read_label_table, wide_labels
from deeplrhe_utils.core.errors import CohortError, InputError, ParameterError
from deeplrhe_utils.core.files import read_json, write_text
from deeplrhe_utils.core.tables.foreign import foreign_text, guarded, read_foreign
from deeplrhe_utils.core.text import counted, shortened
from deeplrhe_utils.evaluation.splits.files import read_split
from deeplrhe_utils.evaluation.splits.folds import UNIT_COLUMNS, hashed

LAYOUTS: Final = ("signed", "pathobench", "clam")
"""What can be written; read are also tables of train, val and test."""
_KNOWN: Final = (
    "a signed split of `deeplrhe split`, Patho-Bench's k=all.tsv (slide_id, fold_0 …), CLAM's splits_0.csv (columns "
    "train, val, test) or a folder of them, or a table each for train, val and test"
)
_ROLES: Final = {
    "train": "train", "training": "train", "trainval": "train", "test": "test", "testing": "test",
    "val": "valid", "valid": "valid", "validation": "valid",
}  # fmt: skip
_NAMED: Final = {
    "slide_id": ("slide_id", "slide", "slides", "wsi_id"),
    "patient_id": PATIENT_NAMES,
}
_TEXT: Final = (".csv", ".tsv", ".txt", ".gz")
_CLAM: Final = re.compile(r"splits_(\d+)(_bool)?\.csv", re.IGNORECASE)
_FOLD: Final = re.compile(r"fold_(\d+)")
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False, "": False}
_UNSAFE: Final = re.compile('[\t\r\n"]')


class AnySplit(NamedTuple):
    """A split as its files tell it.

    Attributes
    ----------
    layout : what was recognised
    splits : columns of table SPLITS, seed 0; rows are in the order of the file, and a unit that the file names twice in
        a fold, or with two roles, is here as often
    units : slide_id (unless patients are divided), patient_id (null where nothing tells it), then the other columns of
        the file and of the labels, as text; a row per unit in the order of the file, those without any role too
    notes : what was left out, or is to be known
    """

    layout: str
    splits: pd.DataFrame
    units: pd.DataFrame
    notes: list[str]


class _Told(NamedTuple):
    """What one file tells: `rows` (fold, unit_id, role), `table` (identifiers and other columns), and notes."""

    rows: pd.DataFrame
    table: pd.DataFrame
    notes: Sequence[str] = ()


def read_any_split(paths: Path | Sequence[Path], labels: Path | None = None) -> AnySplit:
    """Read a split of any layout that is known; endings such as ``.svs`` are no part of a name.

    Parameters
    ----------
    paths : a file, a folder, or the tables of train, val and test
    labels : a table with slide_id or patient_id (or the other programs' names of them) that tells patients and labels.
        Where neither it nor the file does, the patient is that of the TCGA barcode.

    Raises InputError: another layout, a word that is no role, a unit without a name or of two patients; whatever
    `read_foreign` and `read_split` refuse.
    """
    files = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if len(files) == 1 and files[0].is_dir():
        layout, told = _folder(files[0])
    elif len(files) == 1:
        layout, told = _file(files[0])
    else:
        layout, told = "tables", _tables(files)
    more = _labels(labels) if labels else None
    table = told.table.copy()
    names = table["slide_id"] if "slide_id" in table else table["patient_id"]
    column = "slide_id" if _by_slide(table, more) else "patient_id"
    table[column] = names
    rows = told.rows.assign(scheme=column.removesuffix("_id"), seed=0)
    if column == "patient_id":
        whole, again = patients_of(rows["unit_id"]), rows.duplicated()
        samples = rows.assign(unit_id=whole).duplicated() & ~again  # other samples of a patient who is there already
        rows = rows.assign(unit_id=whole)[~samples]
        table["patient_id"] = patients_of(names)
        table = table.drop(columns="slide_id", errors="ignore")
    elif "patient_id" not in table:
        table["patient_id"] = pd.NA
    units = _described(table.drop_duplicates([column, "patient_id"]), column, more)
    if (torn := units[column].duplicated()).any():
        name = units.loc[torn, column].iloc[0]
        raise InputError(f"{files[0]}: {name} belongs to two patients",
                         got=" and ".join(units.loc[units[column].eq(name), "patient_id"]))  # fmt: skip
    order = ["scheme", "fold", "unit_id", "role", "seed"]
    splits = rows[rows["role"].notna()][order].reset_index(drop=True)
    if splits.empty:
        raise InputError(f"{shortened([str(path) for path in files])} gives no unit a role", expected="train and test")
    notes = list(told.notes)
    if more is not None:
        key = column if column in more else "patient_id"
        if silent := sorted(set(units[key].dropna()) - set(more[key])):
            notes.append(f"{len(silent)} of {len(units)} have no row in {labels}: {shortened(silent)}.")
    return AnySplit(layout, hashed(splits), units, notes)


def _by_slide(table: pd.DataFrame, labels: pd.DataFrame | None) -> bool:
    """Whether units are slides: unless a column says patient, labels know them so, or all are patients' barcodes."""
    if "slide_id" not in table or "patient_id" in table:
        return "slide_id" in table
    names = set(table["slide_id"])
    if labels is not None and names & set(labels.get("patient_id", ())):
        return False
    return any(parse_name(name).patient_id != name.upper() for name in names)


def _described(units: pd.DataFrame, column: str, labels: pd.DataFrame | None) -> pd.DataFrame:
    """`units` with patients, and with the columns of `labels`."""
    if labels is not None and column == "slide_id" and {"slide_id", "patient_id"} <= set(labels):
        owner = labels.drop_duplicates("slide_id").set_index("slide_id")["patient_id"]
        units["patient_id"] = units["patient_id"].fillna(units["slide_id"].map(owner))
    told = units[column].map({name: parse_name(name).patient_id for name in units[column].unique()})
    units["patient_id"] = units["patient_id"].fillna(told).astype("string")
    if labels is not None:
        key = column if column in labels else "patient_id"
        own = labels.dropna(subset=[key]).drop_duplicates(key).drop(columns=set(_NAMED) & set(labels) - {key})
        units = units.drop(columns=[c for c in own if c in units and c != key]).merge(own, on=key, how="left")
    first = [c for c in ("slide_id", "patient_id") if c in units]
    return units[[*first, *(c for c in units if c not in first)]].reset_index(drop=True)


def _labels(path: Path) -> pd.DataFrame:
    """A table of labels, long or wide: patient_id (null where nothing tells it), slide_id if it is there, others."""
    table = _table(path)
    if {"gene", "status"} <= set(table):
        read = read_label_table(path)
        wide = wide_labels(read.labels, sorted(read.labels["gene"].unique())).astype("string")
        named = read.members[[name for name in _NAMED if name in read.members]].drop_duplicates()
        return named.merge(wide, on="patient_id")
    found = _identified(table, path)[0]
    if "patient_id" not in found:
        found["patient_id"] = found["slide_id"].map(lambda name: parse_name(name).patient_id).astype("string")
    return found


def _identified(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """`table` with slide_id or patient_id under these names, without endings, and a note of those."""
    found = {next((c for c in theirs if c in table), ""): ours for ours, theirs in _NAMED.items()}
    found.pop("", None)
    if not found:
        raise InputError(f"{path} names no slides and no patients", got=", ".join(table)[:200],
                         expected=" or ".join(name for names in _NAMED.values() for name in names))  # fmt: skip
    ours = table.rename(columns=found)
    notes: list[str] = []
    for theirs, name in found.items():
        if (empty := ours[name].eq("")).any():
            raise InputError(f"{path}, line {empty.idxmax()}: {theirs} is empty", expected="a name in every row")
    if "slide_id" in ours:
        ours["slide_id"], notes = _without_endings(ours["slide_id"])
    if "patient_id" in ours:
        ours["patient_id"] = patients_of(ours["patient_id"])
    return ours, notes


def _without_endings(names: pd.Series) -> tuple[pd.Series, list[str]]:
    short = names.str.replace(FILE_ENDING, "", regex=True).astype("string")
    changed = int(short.ne(names).sum())
    return short, [f"{counted(changed, 'name')} without the ending of the file."] if changed else []


def _file(path: Path) -> tuple[str, _Told]:
    if not path.is_file():
        raise InputError(f"{path} is not there", fix="Check the path")
    with path.open("rb") as stream:
        first = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first == b"{" or path.suffix.lower() == ".json":
        frame = read_split(path)
        scheme = str(frame["scheme"].iloc[0])
        if scheme == "tile":
            raise InputError(f"{path} divides tiles", expected="a split of slides, patients or sites")
        units = frame[["unit_id"]].drop_duplicates().rename(columns={"unit_id": UNIT_COLUMNS[scheme]})
        if scheme == "slide":
            units["patient_id"] = pd.NA
        if sites := {one["unit"]: one["site"] for one in read_json(path)["units"] if "site" in one}:
            units["site_id"] = units["patient_id"].map(sites)
        return "signed", _Told(frame[["fold", "unit_id", "role"]], units)
    if path.suffix.lower() not in _TEXT:
        raise _unknown(path, f"a file named {path.suffix or path.name}")
    table = _table(path)
    if any(_FOLD.fullmatch(name) for name in table):
        return "pathobench", _pathobench(path, table)
    if {"train", "test"} <= set(table):
        return "clam", _clam(path, 0, table)
    raise _unknown(path, ", ".join(table)[:200])


def _unknown(path: Path, got: str) -> InputError:
    return InputError(f"{path} is no split that is known here", got=got, expected=_KNOWN,
                      fix="Write it in one of these layouts")  # fmt: skip


def _table(path: Path) -> pd.DataFrame:
    head = next((line for line in foreign_text(path, InputError).split("\n") if line.strip()), "")
    return read_foreign(path, InputError, separator="\t" if "\t" in head else ",")


def _folder(folder: Path) -> tuple[str, _Told]:
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.suffix.lower() in (".csv", ".tsv"))
    numbered = [(int(found[1]), bool(found[2]), name) for name in names if (found := _CLAM.fullmatch(name))]
    if numbered:
        form = min(boolean for _, boolean, _ in numbered)
        files = sorted((number, name) for number, boolean, name in numbered if boolean == form)
        told = [_clam(folder / name, number) for number, name in files]
        numbers = [number for number, _ in files]
        lost = sorted(set(range(numbers[-1] + 1)) - set(numbers))
        notes = [f"There is no splits_{shortened(list(map(str, lost)))}.csv in {folder}."] if lost else []
        return "clam", _Told(pd.concat([t.rows for t in told], ignore_index=True),
                             pd.concat([t.table for t in told], ignore_index=True).drop_duplicates(),
                             [*notes, *dict.fromkeys(note for t in told for note in t.notes)])  # fmt: skip
    if len(whole := [name for name in names if name.lower().endswith("k=all.tsv")]) == 1:
        return _file(folder / whole[0])
    groups: dict[str, list[str]] = {}
    for name in names:
        if role := _role_of(name):
            groups.setdefault(re.sub(rf"(?i)(?<![a-z]){role[0]}(?![a-z])", "*", name, count=1), []).append(name)
    whole = [key for key, own in groups.items() if {"train", "test"} <= {str(_role_of(n)[1]) for n in own}]
    if len(whole) != 1:
        raise _unknown(folder, f"{len(whole)} divisions: {shortened(whole)}; name the files of one" if whole
                       else shortened(names) or "no CSV or TSV")  # fmt: skip
    told_tables = _tables([folder / name for name in groups[whole[0]]])
    left = [name for name in names if name not in groups[whole[0]]]
    return "tables", told_tables._replace(
        notes=[*told_tables.notes, *([f"Not read: {shortened(left)}."] if left else [])]
    )


def _role_of(name: str) -> tuple[str, ...]:
    """Word and role of a file's name that holds one word for a role; else ()."""
    words = [word for word in re.split(r"[^a-z]+", name.lower().rpartition(".")[0]) if word in _ROLES]
    return (words[0], _ROLES[words[0]]) if len(words) == 1 else ()


def _tables(files: Sequence[Path]) -> _Told:
    rows, tables, notes = [], [], []
    for path in files:
        if not (role := _role_of(path.name)):
            raise InputError(f"The name of {path} tells no role", expected="train, val or test in it, once")
        table, said = _identified(_table(path), path)
        column = "slide_id" if "slide_id" in table else "patient_id"
        rows.append(pd.DataFrame({"fold": 0, "unit_id": table[column], "role": role[1]}))
        tables.append(table)
        notes += said
    if len({"slide_id" in table for table in tables}) > 1:
        raise InputError(f"Some of {shortened([str(path) for path in files])} name slides, others only patients")
    return _Told(pd.concat(rows, ignore_index=True), pd.concat(tables, ignore_index=True), list(dict.fromkeys(notes)))


def _pathobench(path: Path, table: pd.DataFrame) -> _Told:
    folds = {name: int(found[1]) for name in table if (found := _FOLD.fullmatch(name))}
    named, notes = _identified(table.drop(columns=list(folds)), path)
    unit = named["slide_id"] if "slide_id" in named else named["patient_id"]
    rows = [
        pd.DataFrame({"fold": fold, "unit_id": unit, "role": _as(table[name], {**_ROLES, "": None}, path, "roles")})
        for name, fold in sorted(folds.items(), key=lambda item: item[1])
    ]
    return _Told(pd.concat(rows, ignore_index=True), named.reset_index(drop=True), notes)


def _clam(path: Path, fold: int, table: pd.DataFrame | None = None) -> _Told:
    """One fold: lists of names side by side, the shorter ones filled with empty cells; or True and False."""
    table = _table(path) if table is None else table
    roles = {name: _ROLES[name] for name in table if name in _ROLES}
    if not {"train", "test"} <= set(roles):
        raise _unknown(path, ", ".join(table)[:200])
    others = [name for name in table if name not in roles]
    words = table[list(roles)].stack().str.casefold()
    if others and words.isin(["true", "false"]).any():
        unit, notes = _without_endings(table[others[0]])
        if (empty := unit.eq("")).any():
            raise InputError(f"{path}, line {empty.idxmax()}: the name is empty", expected="a name in every row")
        parts = [(role, unit[_as(table[name], _TRUTH, path, "cells").astype(bool)]) for name, role in roles.items()]
    else:
        parts, notes = [], []
        for name, role in roles.items():
            short, said = _without_endings(table.loc[table[name].ne(""), name])
            parts.append((role, short))
            notes += said
        unit = pd.concat([names for _, names in parts])
    rows = pd.concat([pd.DataFrame({"fold": fold, "unit_id": names, "role": role}) for role, names in parts])
    return _Told(rows, pd.DataFrame({"slide_id": unit.drop_duplicates()}), notes)


def _as(cells: pd.Series, words: Mapping[str, object], path: Path, noun: str) -> pd.Series:
    text = cells.str.casefold()
    if (strange := ~text.isin(list(words))).any():
        where = f"{path}, line {strange.idxmax()}, column {cells.name}"
        raise InputError(f"{where}: {int(strange.sum())} {noun} are unknown", got=cells[strange].iloc[0],
                         expected=", ".join(filter(None, words)))  # fmt: skip
    return text.map(dict(words)).astype(object)


def write_any_split(path: Path, layout: str, splits: pd.DataFrame, units: pd.DataFrame) -> str:
    """Write a split as Patho-Bench's table, or as a folder of CLAM's ``splits_0.csv`` and on.

    Parameters
    ----------
    layout : {"pathobench", "clam"}
    splits : table SPLITS, of one scheme
    units : as of :class:`AnySplit`; where it names slides, these are listed, with the role of their patient

    Returns str: a sentence saying what the layout cannot keep.

    Raises CohortError: a unit twice in a fold. ParameterError: another layout, no slides for Patho-Bench, or a name
    that the layout cannot hold.
    """
    own = UNIT_COLUMNS[str(splits["scheme"].iloc[0])]
    listed = "slide_id" if "slide_id" in units else "patient_id"
    if layout not in LAYOUTS[1:] or own == "tile_id" or (layout == "pathobench" and listed == "patient_id"):
        raise ParameterError(f"This split cannot be written as {layout}", got=f"units named by {own} alone",
                             expected=f"{' | '.join(LAYOUTS[1:])}, and slide_id for Patho-Bench")  # fmt: skip
    placed = splits[["fold", "unit_id", "role"]].merge(units, left_on="unit_id", right_on=own)
    if (twice := placed.duplicated(["fold", listed])).any():
        raise CohortError(f"{placed.loc[twice, listed].iloc[0]} is twice in a fold", expected="one role per fold")
    texts = units.astype("string").fillna("")
    for cell in texts.to_numpy().ravel():
        if _UNSAFE.search(cell) or guarded(cell) != cell:
            raise ParameterError(f"{cell!r} cannot be written as {layout}", fix="Rename it, or write a signed split",
                                 expected="no tab, quote or line break, and no formula of a spreadsheet")  # fmt: skip
    placed["role"] = placed["role"].replace("valid", "val")
    if layout == "clam":
        path.mkdir(parents=True, exist_ok=True)
        for fold, part in placed.groupby("fold"):
            columns = {role: part.loc[part["role"] == role, listed].tolist() for role in ("train", "val", "test")}
            frame = pd.DataFrame({role: pd.Series(names, dtype=object) for role, names in columns.items()})
            write_text(path / f"splits_{fold}.csv", frame.to_csv(lineterminator="\n"))
        return "CLAM's layout does not keep seed, sites, patients, labels and signature."
    wide = placed.pivot(index=listed, columns="fold", values="role").add_prefix("fold_").fillna("")
    others = [name for name in texts if name not in ("slide_id", "patient_id")]
    frame = texts[["patient_id", "slide_id", *others]].rename(columns={"patient_id": "case_id"})
    frame = frame.merge(wide.reset_index(), on="slide_id", how="inner")
    write_text(path, "".join("\t".join(row) + "\n" for row in [list(frame), *frame.to_numpy().tolist()]))
    return "Patho-Bench's layout does not keep the seed, which unit was kept whole, and the signature."
