"""What a table is: columns with a type and a meaning, a key, and how a frame is checked, written and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deeplrhe_utils.core.errors import SchemaError
from deeplrhe_utils.core.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

TEXT, INTEGER, REAL, FLAG = "string", "Int64", "Float64", "boolean"


@dataclass(frozen=True)
class Column:
    """One column: name, pandas dtype, meaning (unit in brackets), whether it may be null, legal values."""

    name: str
    dtype: str
    meaning: str
    nullable: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table: name, what a row is, columns and the key that identifies a row."""

    name: str
    row: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]


def conform(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Cast `frame` to the contract of `table` and check it.

    Columns missing from `frame` are added as null where null is allowed; the column order becomes the
    contract's. Unknown columns, forbidden nulls, illegal values and repeated keys raise
    :class:`SchemaError` naming the column and the first offending row.
    """
    names = [c.name for c in table.columns]
    if unknown := sorted(set(frame.columns) - set(names)):
        what = f"Table {table.name} has columns outside its contract"
        raise SchemaError(what, got=unknown, expected=", ".join(names))
    frame = frame.copy()
    for column in table.columns:
        if column.name not in frame:
            frame[column.name] = None
        try:
            frame[column.name] = frame[column.name].astype(column.dtype)
        except (TypeError, ValueError) as error:
            raise SchemaError(
                f"Table {table.name}, column {column.name}: values do not fit the type {column.dtype} ({error})"
            ) from error
        _check_column(frame, table, column)
    if len(repeated := frame.index[frame.duplicated(list(table.key))]):
        first = frame.loc[repeated[0], list(table.key)].to_dict()
        raise SchemaError(f"Table {table.name} repeats the key {first} ({len(repeated)} repeated rows)")
    return frame[names].reset_index(drop=True)


def _check_column(frame: pd.DataFrame, table: Table, column: Column) -> None:
    values = frame[column.name]
    if not column.nullable and values.isna().any():
        where = frame.loc[values.isna()].iloc[0][list(table.key)].to_dict()
        raise SchemaError(f"Table {table.name}, column {column.name}: null at {where}", expected=column.meaning)
    if column.choices:
        wrong = values.dropna()[~values.dropna().isin(column.choices)]
        if len(wrong):
            raise SchemaError(
                f"Table {table.name}, column {column.name}: illegal value",
                got=wrong.iloc[0],
                expected=" | ".join(column.choices),
            )


def write_table(frame: pd.DataFrame, table: Table, path: Path) -> Path:
    """Check `frame` against `table` and write it as Parquet, atomically; return the path."""
    checked = conform(frame, table)
    with atomic_path(path) as part:
        checked.to_parquet(part, index=False)
    return path


def read_table(path: Path, table: Table) -> pd.DataFrame:
    """Read a Parquet table and check it against its contract."""
    import pandas as pd

    if not path.is_file():
        raise SchemaError(
            f"Table {table.name} is missing at {path}", fix="Run the notebook that writes it first (see data/README.md)"
        )
    return conform(pd.read_parquet(path), table)
