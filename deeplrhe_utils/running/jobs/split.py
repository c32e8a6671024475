"""The command ``split``: a signed split of patients, tiles or slides, for labels that somebody brings along."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deeplrhe_utils.acquisition.labels.labels import BARCODE, labels_of_cells, patient_of_slide
from deeplrhe_utils.core.errors import LabelError, ParameterError
from deeplrhe_utils.core.files import check_new_file
from deeplrhe_utils.core.text import read_csv_text, shortened

if TYPE_CHECKING:
    import pandas as pd

SCHEMES: Final = ("tile", "slide", "patient", "site")
_IDENTIFIERS: Final = ("patient_id", "slide_id", "tile_id", "site_id")


@dataclass(frozen=True)
class SplitOptions:
    """What is asked of a split.

    Attributes
    ----------
    scheme : the unit that is never divided, one of :data:`SCHEMES`
    folds : number of folds, or None when `shares` are given
    shares : ``"70/15/15"`` for train, valid and test; empty for folds
    sites : a CSV of patient_id and site_id, or the name of a column of the labels; empty: the column site_id, else the
        second field of TCGA barcodes
    out : file to write; None: ``<labels>-<scheme>-split.json`` in the working folder
    hashed : write pseudonyms instead of names
    """

    scheme: str
    folds: int | None = None
    shares: str = ""
    sites: str = ""
    seed: int = 0
    out: Path | None = None
    hashed: bool = False

    def numbers(self) -> tuple[float, float, float] | None:
        """The shares as numbers that add up to 1, or None for folds."""
        from deeplrhe_utils.evaluation.splits.folds import checked_shares

        if not self.shares:
            return None
        try:
            parts = [float(text) for text in self.shares.split("/")]
        except ValueError as error:
            raise ParameterError("--shares are three numbers", got=self.shares, expected="such as 70/15/15") from error
        total = sum(parts)
        if len(parts) != 3 or not (abs(total - 100) < 1e-6 or abs(total - 1) < 1e-6):
            raise ParameterError("--shares are three numbers that add up to 100", got=self.shares,
                                 expected="such as 70/15/15")  # fmt: skip
        return checked_shares([part / total for part in parts])


@dataclass(frozen=True)
class SplitLabels:
    """Labels as a split needs them: `labels` (table LABELS), `members` (their identifiers), `left_out` (why, who)."""

    labels: pd.DataFrame
    members: pd.DataFrame
    left_out: str


def split(labels_csv: Path, options: SplitOptions, say: Callable[[str], None] = print) -> Path:
    """Divide the units of a labels file, print the balance and write a signed split file.

    Parameters
    ----------
    labels_csv : long (patient_id, gene, status) or wide (one column per gene); see :func:`read_split_labels`
    say : receives the report

    Returns the file that was written.
    Raises LabelError: the labels are malformed, or a site is unknown. CohortError: too few units, or sites, for what
    was asked. ParameterError: what was asked cannot be, or another split stands in the file.
    """
    import pandas as pd

    from deeplrhe_utils.evaluation.splits import folds as splits
    from deeplrhe_utils.evaluation.splits import sites as site_split

    if options.scheme not in SCHEMES:
        raise ParameterError("Unknown unit of a split", got=options.scheme, expected=" | ".join(SCHEMES))
    shares, n_folds = options.numbers(), 2 if options.folds is None else options.folds
    out = options.out or Path(f"{labels_csv.stem}-{options.scheme}-split.json")
    if out.is_file():
        raise ParameterError(f"{out} exists", got=_standing(out), fix="Give another file as --out, or remove it")
    check_new_file(out)
    cohort = read_split_labels(labels_csv, options)
    labels, members, note, sites = cohort.labels, cohort.members, "", None
    if options.scheme == "site":
        places = members[["patient_id", "site_id"]]
        solved = (site_split.site_shares(labels, places, shares, options.seed) if shares
                  else site_split.site_folds(labels, places, n_folds, options.seed))  # fmt: skip
        frame, note = solved.splits, solved.sentence()
        sites = dict(places.astype(str).itertuples(index=False, name=None))
    elif shares:
        frame = splits.unit_shares(members, labels, options.scheme, shares, options.seed)
    else:
        frame = splits.unit_folds(members, labels, options.scheme, n_folds, options.seed)
    table = balance(frame, labels, members)
    with pd.option_context("display.width", 200, "display.max_columns", None, "display.max_rows", None):
        say("\n".join(filter(None, [table.to_string(), note, cohort.left_out, _warning(frame, members)])))
    signature = _write(out, frame, options, sites, note, sorted(labels["gene"].unique()), shares or ())
    say(f"{out}  signature {signature}")
    return out


def balance(splits: pd.DataFrame, labels: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """What each test fold, or each part of a single division, holds.

    Parameters
    ----------
    splits, labels : tables SPLITS and LABELS
    members : identifiers of what was divided

    Returns a row per fold (or train, valid, test): units, patients, sites where they are known, then for each gene its
    positives as "positive/known" patients.
    """
    import pandas as pd

    from deeplrhe_utils.evaluation.splits.folds import roles_of

    placed = roles_of(splits, members)
    single = splits["fold"].nunique() == 1
    placed = placed if single else placed[placed["role"] == "test"]
    known = labels.dropna(subset=["status"])
    rows = {}
    for name, part in placed.groupby("role" if single else "fold"):
        patients = part["patient_id"].unique()
        units = splits[(splits["role"] == name) if single else (splits["fold"] == name) & (splits["role"] == "test")]
        row: dict[str, object] = {"units": len(units), "patients": len(patients)}
        if "site_id" in members and part["site_id"].notna().all():
            row["sites"] = part["site_id"].nunique()
        own = known[known["patient_id"].isin(patients)].groupby("gene")["status"].agg(["sum", "size"])
        counts = own.reindex(sorted(labels["gene"].unique()), fill_value=0)
        row |= {str(gene): f"{int(positive)}/{n}" for gene, positive, n in counts.itertuples()}
        rows[str(name) if single else f"fold {name}"] = row
    order = [name for name in ("train", "valid", "test") if name in rows] if single else list(rows)
    return pd.DataFrame.from_dict({name: rows[name] for name in order}, orient="index")


def _warning(splits: pd.DataFrame, members: pd.DataFrame) -> str:
    """What a split below the patient does, in one sentence."""
    from deeplrhe_utils.core.errors import CohortError
    from deeplrhe_utils.evaluation.splits.folds import check_disjoint

    try:
        check_disjoint(splits, members)
    except CohortError as error:
        return f"WARNING: {error} An AUC from this split says little about new patients."
    return ""


def _write(
    out: Path, splits: pd.DataFrame, options: SplitOptions, sites: dict[str, str] | None, note: str, genes: list[str],
    shares: tuple[float, ...],
) -> str:  # fmt: skip
    """Write the file; return the signature."""
    from deeplrhe_utils.evaluation.splits.files import write_split

    salt = secrets.token_hex(16) if options.hashed else None
    return write_split(out, splits, genes=genes, shares=shares, sites=sites, salt=salt, note=note)


def _standing(out: Path) -> str:
    from deeplrhe_utils.core.errors import CompendiumError
    from deeplrhe_utils.evaluation.splits.files import read_split

    try:
        found = read_split(out)
    except CompendiumError:
        return "a file that is no valid split"
    return f"a split by {found['scheme'].iloc[0]} with seed {found['seed'].iloc[0]}"


def read_split_labels(path: Path, options: SplitOptions) -> SplitLabels:
    """Read labels, long or wide, with their identifiers and sites.

    Parameters
    ----------
    path : CSV, UTF-8 with or without byte order mark. Long: patient_id (or slide_id, tile_id), gene, status and nothing
        else but identifiers. Wide: every column that is no identifier is a gene. Values are 0, 1 or empty. Where
        patient_id is missing it is taken from the TCGA barcode of slide_id; TCGA barcodes are cut to the patient's 12
        characters.

    Returns SplitLabels: without patients that have no known label, who are named in `left_out`.
    Raises LabelError: names file, row and column: an unknown column, a value that is no label, rows that contradict
    each other, an identifier that is empty, missing, or belongs to two patients.
    """
    table = read_csv_text(Path(path))
    site_column = options.sites if options.sites in table.columns else ""
    if site_column not in ("", "site_id"):
        table = table.drop(columns="site_id", errors="ignore").rename(columns={site_column: "site_id"})
    members = _members(table, path, options.scheme)
    labels = _labels(table, members["patient_id"], path)
    members = _with_sites(members, options, site_column, path)
    known = labels.dropna(subset=["status"])["patient_id"].unique()
    silent = sorted(set(labels["patient_id"]) - set(known))
    left_out = f"Left out: {len(silent)} patients without any known label ({shortened(silent)})." if silent else ""
    if not len(known):
        raise LabelError(f"{path} holds no known label", expected="0 or 1 in some cell")
    labels = labels[labels["patient_id"].isin(known)].reset_index(drop=True)
    members = members[members["patient_id"].isin(known)].drop_duplicates(ignore_index=True)
    return SplitLabels(labels, members, left_out)


def _members(table: pd.DataFrame, path: Path, scheme: str) -> pd.DataFrame:
    """Identifiers, a row per row of the file; the patient is complete."""
    import pandas as pd

    if not {"patient_id", "slide_id", "tile_id"} & set(table.columns):
        raise LabelError(f"{path} names no patients", got=", ".join(table.columns), expected="a column patient_id")
    needed = {"tile": ["tile_id"], "slide": ["slide_id"]}.get(scheme, [])
    for column in needed:
        if column not in table:
            raise LabelError(f"{path} has no column {column}", got=", ".join(table.columns),
                             fix=f"Add it, or do not split by {scheme}")  # fmt: skip
        if len(empty := table.index[table[column] == ""]):
            raise LabelError(f"{path}, row {empty[0] + 2}: {column} is empty")
    source = next(c for c in ("patient_id", "slide_id", "tile_id") if c in table)
    if len(empty := table.index[table[source] == ""]):
        raise LabelError(f"{path}, row {empty[0] + 2}: {source} is empty", expected="an identifier in every row")
    own = [*needed, *(["site_id"] if "site_id" in table else [])]
    members = pd.DataFrame({"patient_id": table[source].map(patient_of_slide), **{c: table[c] for c in own}})
    for column in needed:
        pairs = members[[column, "patient_id"]].drop_duplicates()
        if len(torn := pairs.loc[pairs[column].duplicated(), column]):
            raise LabelError(f"{path}: {column} {torn.iloc[0]} belongs to two patients")
    return members


def _labels(table: pd.DataFrame, patients: pd.Series, path: Path) -> pd.DataFrame:
    """Table LABELS; rows that agree are merged."""
    others = [c for c in table.columns if c not in _IDENTIFIERS]
    long = {"gene", "status"} & set(others)
    if long and set(others) != {"gene", "status"}:
        odd = sorted(set(others) ^ {"gene", "status"})
        raise LabelError(f"{path} looks long, but its columns do not fit", got=", ".join(map(str, table.columns)),
                         expected="gene and status beside identifiers, or one column per gene",
                         fix=f"Add or remove: {', '.join(odd)}")  # fmt: skip
    if not others:
        raise LabelError(f"{path} has no gene column", got=", ".join(table.columns))
    rows = enumerate(zip(patients, table.to_dict("records"), strict=True), start=2)
    cells = (
        (number, patient, *cell)
        for number, (patient, row) in rows
        for cell in ([(row["gene"], row["status"], "status")] if long else [(g, row[g], g) for g in others])
    )
    return labels_of_cells(cells, Path(path))


def _with_sites(members: pd.DataFrame, options: SplitOptions, column: str, path: Path) -> pd.DataFrame:
    """`members` with site_id, where it is asked for or known."""
    if options.sites and not column:
        return _sites_of_file(members, options.sites, path)
    if "site_id" not in members:
        found = members["patient_id"].map(_site_of_barcode)
        if options.scheme != "site" and found.isna().any():
            return members
        members = members.assign(site_id=found)
    members = members.assign(site_id=members["site_id"].replace("", None))
    if options.scheme == "site" and len(lost := sorted(set(members.loc[members["site_id"].isna(), "patient_id"]))):
        raise LabelError(f"The site of {len(lost)} patients is unknown", got=shortened(lost),
                         expected="a column site_id, --sites, or TCGA barcodes")  # fmt: skip
    return members


def _sites_of_file(members: pd.DataFrame, sites: str, path: Path) -> pd.DataFrame:
    file = Path(sites)
    if not file.is_file():
        raise ParameterError(f"--sites {sites} is neither a file nor a column of {path}",
                             got=f"columns {', '.join(members.columns)}")  # fmt: skip
    table = read_csv_text(file)
    if lacking := [c for c in ("patient_id", "site_id") if c not in table]:
        raise LabelError(f"{file} lacks {', '.join(lacking)}", got=", ".join(table.columns))
    pairs = table.assign(patient_id=table["patient_id"].map(patient_of_slide))[["patient_id", "site_id"]]
    pairs = pairs[pairs["site_id"] != ""].drop_duplicates()
    if len(torn := sorted(pairs.loc[pairs["patient_id"].duplicated(), "patient_id"].unique())):
        raise LabelError(f"{file}: {len(torn)} patients belong to two sites", got=shortened(torn))
    joined = members.drop(columns="site_id", errors="ignore").merge(pairs, on="patient_id", how="left")
    if len(lost := sorted(set(joined.loc[joined["site_id"].isna(), "patient_id"]))):
        raise LabelError(f"{file} does not tell the site of {len(lost)} patients", got=shortened(lost),
                         fix="Add their rows")  # fmt: skip
    return joined


def _site_of_barcode(patient: str) -> str | None:
    found = BARCODE.match(patient)
    return found.group(2) if found else None
