"""The command ``split``: labels that somebody brings along divided by patient, site, slide or tile; splits audited."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deeplrhe_utils.acquisition.barcodes import parse_name, patients_of
from deeplrhe_utils.acquisition.labels.labels import read_label_table, wide_labels
from deeplrhe_utils.core.errors import LabelError, ParameterError
from deeplrhe_utils.core.files import check_new_file, claim, write_json
from deeplrhe_utils.core.tables.foreign import read_foreign, write_sheet
from deeplrhe_utils.core.text import counted, shortened

if TYPE_CHECKING:
    import pandas as pd

SCHEMES: Final = ("tile", "slide", "patient", "site")
_ENDINGS: Final = {"signed": "split.json", "pathobench": "k=all.tsv", "clam": "clam"}
_AUDIT: Final = ("audit.json", "folds.csv", "labels.csv")


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
    out : file to write, for CLAM a new folder; None: ``<labels>-<scheme>-split.json`` (``…-k=all.tsv``, ``…-clam``) in
        the working folder
    hashed : write pseudonyms instead of names
    genes : columns of the labels that are balanced; empty: those that look like gene symbols
    layout : signed, pathobench or clam
    """

    scheme: str
    folds: int | None = None
    shares: str = ""
    sites: str = ""
    seed: int = 0
    out: Path | None = None
    hashed: bool = False
    genes: tuple[str, ...] = ()
    layout: str = "signed"

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
    """Labels as a split needs them: `labels` (table LABELS), `members` (their identifiers), `notes` (who, and why)."""

    labels: pd.DataFrame
    members: pd.DataFrame
    notes: list[str]


def split(labels_csv: Path, options: SplitOptions, say: Callable[[str], None] = print) -> Path:
    """Divide the units of a labels file, print the balance and write the split.

    Parameters
    ----------
    labels_csv : long (patient_id, gene, status) or wide (one column per gene); see `read_label_table`
    say : receives the report

    Returns the file that was written.
    Raises LabelError: the labels are malformed, or a site is unknown. CohortError: too few units, or sites, for what
    was asked. ParameterError: what was asked cannot be, or another split stands in the file.
    """
    from deeplrhe_utils.evaluation.splits import folds as splits
    from deeplrhe_utils.evaluation.splits import sites as site_split
    from deeplrhe_utils.evaluation.splits.files import write_split

    if options.scheme not in SCHEMES:
        raise ParameterError("Unknown unit of a split", got=options.scheme, expected=" | ".join(SCHEMES))
    shares, n_folds = options.numbers(), 2 if options.folds is None else options.folds
    if options.hashed and options.layout != "signed":
        raise ParameterError("Hashed names need the salt, which only a signed split keeps", got=options.layout)
    out = options.out or Path(f"{labels_csv.stem}-{options.scheme}-{_ENDINGS[options.layout]}")
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
    say("\n".join(filter(None, [table.to_string(), note, *cohort.notes, _warning(frame, members)])))
    if options.layout != "signed":
        say(f"{out}  {_write_theirs(out, options.layout, frame, cohort)}")
        return out
    note = note if options.hashed else " ".join(filter(None, [note, *cohort.notes]))  # notes name names
    salt = secrets.token_hex(16) if options.hashed else None
    genes = sorted(labels["gene"].unique())
    signature = write_split(out, frame, genes=genes, shares=shares or (), sites=sites, salt=salt, note=note)
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


def _write_theirs(out: Path, layout: str, splits: pd.DataFrame, cohort: SplitLabels) -> str:
    """Write the layout of another program, which lists slides where the labels name them."""
    from deeplrhe_utils.evaluation.splits.published import write_any_split

    genes = sorted(cohort.labels["gene"].unique())
    units = cohort.members.drop(columns="site_id", errors="ignore").drop_duplicates()
    return write_any_split(out, layout, splits, units.merge(wide_labels(cohort.labels, genes), on="patient_id"))


def audit_split_files(
    paths: Sequence[Path], labels: Path | None, options: SplitOptions, say: Callable[[str], None] = print
) -> bool:
    """Read a split of any origin (`read_any_split`), say what it does, and write the tables where a folder is named.

    Parameters
    ----------
    labels : table of slide_id or patient_id, and labels
    options : `sites`, `genes` (columns that are labels) and `out` count

    Returns whether a patient of the test side also trains or validates.
    """
    from deeplrhe_utils.evaluation.audits.leakage import audit_split, check_owners
    from deeplrhe_utils.evaluation.splits.folds import PARTS
    from deeplrhe_utils.evaluation.splits.published import read_any_split

    if options.out:
        claim(options.out, "split", _AUDIT)
    read = read_any_split(paths, labels)
    units = read.units
    check_owners(units)  # before sites are looked up by patient
    if own := options.sites in units:
        units = units.assign(site_id=units[options.sites])
    found = audit_split(read.splits, _with_sites(units, options, own, labels or paths[0]), options.genes)
    folds, who = found.folds, counted(units["patient_id"].nunique(), "patient")
    who = f"{counted(len(units), 'slide')} of {who}" if "slide_id" in units else who
    read_as = f"{who}, {counted(len(folds), 'fold')}, read as: {read.layout}."
    sentences = [read_as, *read.notes, *found.findings]
    shown = folds[["fold", *PARTS, *(name for name in folds if name.endswith("_share"))]].round(3)
    say("\n".join([shown.to_string(index=False), *_prevalence(found.labels), *sentences]))
    if options.out:
        for table, name in ((folds, _AUDIT[1]), (found.labels, _AUDIT[2])):
            write_sheet(table, options.out / name)
        write_json(options.out / _AUDIT[0], {"layout": read.layout, "leaks": found.leaks, "findings": sentences})
        say(f"{options.out}: {', '.join(_AUDIT)}")
    return found.leaks


def _prevalence(labels: pd.DataFrame) -> list[str]:
    """How common each label is by role, all folds together, as a table in text."""
    from deeplrhe_utils.evaluation.splits.folds import PARTS

    sums = labels.groupby(["label", "value"], sort=False)[[*PARTS, *(f"{role}_known" for role in PARTS)]].sum()
    shown = sums.assign(**{role: sums[role] / sums[f"{role}_known"] for role in PARTS})[list(PARTS)].round(3)
    return [shown.reset_index().to_string(index=False, na_rep="–")] if len(shown) else []


def _standing(out: Path) -> str:
    from deeplrhe_utils.core.errors import CompendiumError
    from deeplrhe_utils.evaluation.splits.files import read_split

    try:
        found = read_split(out)
    except CompendiumError:
        return "a file that is no valid split"
    return f"a split by {found['scheme'].iloc[0]} with seed {found['seed'].iloc[0]}"


def read_split_labels(path: Path, options: SplitOptions) -> SplitLabels:
    """Read labels, long or wide (`read_label_table`), with their identifiers and sites.

    Returns SplitLabels: without patients that have no known label, who are named in `notes`.
    Raises LabelError: as `read_label_table`; the scheme's own identifier is missing; nobody has a label.
    """
    table = read_label_table(path, options.genes, also=[options.sites] if options.sites else [])
    members = table.members
    needed = [f"{options.scheme}_id"] if options.scheme in ("slide", "tile") else []
    if options.layout != "signed" and (options.layout == "pathobench" or "slide_id" in members):
        needed = list({"slide_id", *needed})
    for name in needed:
        if name not in members:
            raise LabelError(f"{path} has no column {name}", got=", ".join(members),
                             fix=f"Add it, or do not split by {options.scheme} and write {options.layout}")  # fmt: skip
        if (empty := members[name].eq("")).any():
            raise LabelError(f"{path}, line {empty.idxmax()}: {name} is empty")
    if own := options.sites in table.others:
        members = members.assign(site_id=table.others[options.sites])
    members = members[["patient_id", *needed, *(["site_id"] if "site_id" in members else [])]]
    members = _with_sites(members, options, own or options.sites in members, path)
    labels, notes = table.labels, table.notes
    known = labels.dropna(subset=["status"])["patient_id"].unique()
    if silent := sorted(set(labels["patient_id"]) - set(known)):
        notes = [*notes, f"Left out: {len(silent)} patients without any known label ({shortened(silent)})."]
    if not len(known):
        raise LabelError(f"{path} holds no known label", expected="0 or 1 in some cell")
    labels = labels[labels["patient_id"].isin(known)].reset_index(drop=True)
    members = members[members["patient_id"].isin(known)].drop_duplicates(ignore_index=True)
    return SplitLabels(labels, members, notes)


def _with_sites(members: pd.DataFrame, options: SplitOptions, own: bool, path: Path) -> pd.DataFrame:
    """`members` with site_id, where it is asked for or known."""
    if options.sites and not own:
        return _sites_of_file(members, options.sites, path)
    if "site_id" not in members:
        found = members["patient_id"].map(lambda patient: parse_name(patient).site_id)
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
    pairs = read_foreign(file, columns=("patient_id", "site_id"))
    pairs["patient_id"] = patients_of(pairs["patient_id"])
    pairs = pairs[pairs["site_id"] != ""].drop_duplicates()
    if len(torn := sorted(pairs.loc[pairs["patient_id"].duplicated(), "patient_id"].unique())):
        raise LabelError(f"{file}: {len(torn)} patients belong to two sites", got=shortened(torn))
    joined = members.drop(columns="site_id", errors="ignore").merge(pairs, on="patient_id", how="left")
    if len(lost := sorted(set(joined.loc[joined["site_id"].isna(), "patient_id"]))):
        raise LabelError(f"{file} does not tell the site of {len(lost)} patients", got=shortened(lost),
                         fix="Add their rows")  # fmt: skip
    return joined
