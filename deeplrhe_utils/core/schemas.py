"""Tables: the contract between notebooks. ``data/README.md`` is rendered from this module."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

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


_PATIENT = Column("patient_id", TEXT, "patient; the first 12 characters of a TCGA barcode")
_SLIDE = Column("slide_id", TEXT, "slide; the file name without its suffix unless a table says otherwise")
_TILE = Column("tile_id", TEXT, "`<slide_id>_<column>_<row>` of the tile grid; the file stem in tile folders")
_GENE = Column("gene", TEXT, "HGNC symbol, or a class name where the target is a tissue class")

SLIDES: Final = Table(
    "slides",
    "a slide file (every file that was found, usable or not)",
    (
        _SLIDE,
        _PATIENT,
        Column("site_id", TEXT, "tissue source site (second field of a TCGA barcode)", True),
        Column("path", TEXT, "file, relative to the run folder when it lies inside it"),
        Column("sha256", TEXT, "SHA-256 of the file", True),
        Column("bytes", INTEGER, "file size [bytes]"),
        Column("vendor", TEXT, "OpenSlide vendor, or `image` for plain images", True),
        Column("width_l0_px", INTEGER, "level-0 width [px]", True),
        Column("height_l0_px", INTEGER, "level-0 height [px]", True),
        Column("mpp", REAL, "level-0 resolution [µm/px]", True),
        Column(
            "mpp_source",
            TEXT,
            "where the resolution came from",
            True,
            ("metadata", "objective", "tiff-tags", "override", "not-needed"),
        ),
        Column("resolution_note", TEXT, "where the file contradicts the resolution that is used", True),
        Column("reader", TEXT, "how pixels are read: `jpeg` directly, or `openslide`, and why", True),
        Column("sample_type", TEXT, "`frozen` or `diagnostic`", True),
        Column("subtype", TEXT, "`normal`, `adenocarcinoma` or `squamous`", True),
        Column("annotation", TEXT, "tumour outline file, relative like `path`", True),
        Column("status", TEXT, "whether later stages use the slide", False, ("ok", "excluded")),
        Column("reason", TEXT, "why it was excluded", True),
    ),
    ("path",),
)
LABELS: Final = Table(
    "labels",
    "a patient × gene",
    (
        _PATIENT,
        _GENE,
        Column("status", INTEGER, "1 mutated, 0 wild type, null not profiled (null is never 0)", True),
        Column("variant_class", TEXT, "variant classes that made it 1", True),
        Column("source", TEXT, "file or service the call came from"),
    ),
    ("patient_id", "gene"),
)
CLINICAL: Final = Table(
    "clinical",
    "a patient",
    (
        _PATIENT,
        Column("site_id", TEXT, "tissue source site", True),
        Column("age_years", REAL, "age at diagnosis [years]", True),
        Column("sex", TEXT, "`female` or `male`", True),
        Column("histology", TEXT, "`normal`, `adenocarcinoma` or `squamous`", True),
        Column("stage", TEXT, "pathological stage `I` to `IV`", True),
        Column("smoking", TEXT, "`never`, `former` or `current`", True),
        Column("vital_status", TEXT, "`alive` or `dead`", True),
    ),
    ("patient_id",),
)
TILES: Final = Table(
    "tiles",
    "a candidate tile after every filter (kept or not)",
    (
        _TILE,
        _SLIDE,
        _PATIENT,
        Column("path", TEXT, "image file of the tile, in tile folders only", True),
        Column("column", INTEGER, "grid column, from 0"),
        Column("row", INTEGER, "grid row, from 0"),
        Column("x_l0_px", INTEGER, "left edge [level-0 px]"),
        Column("y_l0_px", INTEGER, "top edge [level-0 px]"),
        Column("size_l0_px", REAL, "side length [level-0 px]; exact, so it may be fractional"),
        Column("background_fraction", REAL, "share without tissue [0–1]; null where it cannot be decoded", True),
        Column("tumour_fraction", REAL, "share inside the tumour outline [0–1]; null without outline", True),
        Column("blur_fraction", REAL, "share of blurred tissue blocks [0–1]; null before notebook 03", True),
        Column("noise_ratio", REAL, "(blank + blurred area) / total area [0–1]; null before notebook 03", True),
        Column("pen_fraction", REAL, "share of the tile under felt-pen ink [0–1]; null before notebook 03", True),
        Column("fold_fraction", REAL, "share of the tile that is folded [0–1]; null before notebook 03", True),
        Column("bubble_fraction", REAL, "share of the tile under an air bubble [0–1]; null before notebook 03", True),
        Column("jpeg_fraction", REAL, "share of the tile damaged by compression [0–1]; null before notebook 03", True),
        Column("kept", FLAG, "passed every filter so far"),
        Column(
            "reason",
            TEXT,
            "first filter that dropped it",
            True,
            ("background", "outside-tumour", "pen", "fold", "bubble", "noise", "jpeg", "unreadable"),
        ),
        Column("selected", FLAG, "kept and drawn under `max_tiles_per_slide`"),
    ),
    ("tile_id",),
)
CANDIDATES: Final = replace(
    TILES, name="candidates", row="a candidate tile as notebook 02 leaves it, before noise is looked for"
)
SPLITS: Final = Table(
    "splits",
    "a scheme × fold × unit",
    (
        Column("scheme", TEXT, "the unit that is never divided", False, ("tile", "slide", "patient", "site")),
        Column("fold", INTEGER, "fold, from 0"),
        Column("unit_id", TEXT, "identifier of the unit"),
        Column("role", TEXT, "role of the unit in this fold", False, ("train", "valid", "test")),
        Column("seed", INTEGER, "seed of the assignment"),
        Column("hash", TEXT, "SHA-256 over the fold's sorted (unit, role) pairs, first 16 characters"),
    ),
    ("scheme", "fold", "unit_id"),
)
PREDICTIONS: Final = Table(
    "predictions",
    "a tile × gene, scored by the fold that held its patient out",
    (
        _TILE,
        _SLIDE,
        _PATIENT,
        _GENE,
        Column("fold", INTEGER, "fold whose model gave the score"),
        Column("score", REAL, "probability [0–1]; null where the fold could not be trained for the gene", True),
        Column("model_hash", TEXT, "first 16 characters of the model file's SHA-256"),
    ),
    ("tile_id", "gene"),
)
RIVALS: Final = Table(
    "rivals",
    "another method × patient × gene, scored by the fold that held the patient out",
    (
        Column("method", TEXT, "what was done differently"),
        _PATIENT,
        _GENE,
        Column("fold", INTEGER, "fold whose model gave the score"),
        Column("score", REAL, "probability [0–1]; null where the fold could not be trained for the gene", True),
        Column("model_hash", TEXT, "first 16 characters of the model file's SHA-256"),
    ),
    ("method", "patient_id", "gene"),
)
METRICS: Final = Table(
    "metrics",
    "a gene × unit × scheme",
    (
        _GENE,
        Column("unit", TEXT, "what was counted", False, ("tile", "slide", "patient")),
        Column("scheme", TEXT, "split scheme", False, ("tile", "slide", "patient", "site")),
        Column("status", TEXT, "whether an AUC is given", False, ("estimated", "not estimable")),
        Column("auc", REAL, "area under the ROC curve [0–1]", True),
        Column("ci_low", REAL, "lower end of the 95 % interval", True),
        Column("ci_high", REAL, "upper end of the 95 % interval", True),
        Column("ci_method", TEXT, "how the interval was made", True),
        Column("n_pos", INTEGER, "units with the mutation"),
        Column("n_neg", INTEGER, "units without it"),
        Column("p", REAL, "two-sided p against AUC 0.5 (Mann–Whitney)", True),
        Column("p_holm", REAL, "the same, Holm-adjusted over the estimable genes", True),
        Column("reason", TEXT, "why it is not estimable", True),
    ),
    ("gene", "unit", "scheme", "ci_method"),
)
_SHARE = "share of the tile [0–1]"
TRUTH_PATIENTS: Final = Table(
    "truth_patients",
    "a synthetic patient × gene, as planted",
    (
        _PATIENT,
        _GENE,
        Column("site_id", TEXT, "tissue source site"),
        Column("mutated", FLAG, "planted status, also where the label is null"),
        Column("d", REAL, "planted effect size: distance of the two latents' means, in standard deviations"),
        Column(
            "latent", REAL, "the patient's latent, d × mutated + standard normal noise; null without an attribute", True
        ),
        Column("attribute", TEXT, "what the gene moves in the tissue; null for negative controls", True),
        Column("where", TEXT, "where the attribute is moved", True, ("tumour", "region", "40x")),
        Column("factor", REAL, "factor on the attribute; null without an attribute", True),
    ),
    ("patient_id", "gene"),
)
TRUTH_SLIDES: Final = Table(
    "truth_slides",
    "a synthetic slide, as planned",
    (
        _SLIDE,
        _PATIENT,
        Column("site_id", TEXT, "tissue source site"),
        Column("sample_type", TEXT, "`frozen` or `diagnostic`"),
        Column("subtype", TEXT, "`normal`, `adenocarcinoma` or `squamous`"),
        Column("objective", INTEGER, "objective power"),
        Column("mpp", REAL, "true level-0 resolution [µm/px]"),
        Column("mpp_in_metadata", FLAG, "whether the file tells its resolution"),
        Column("power_in_metadata", FLAG, "whether the file tells its objective power"),
        Column("width_l0_px", INTEGER, "level-0 width [px]"),
        Column("height_l0_px", INTEGER, "level-0 height [px]"),
        Column("jpeg_quality", INTEGER, "JPEG quality [1–100]"),
        Column("tumour_share", REAL, "area of the tumour / area of a section [0–1]"),
        Column("n_blur", INTEGER, "areas out of focus"),
        Column("n_pen", INTEGER, "pen strokes"),
        Column("n_fold", INTEGER, "folds"),
        Column("n_bubble", INTEGER, "air bubbles"),
        Column("n_hole", INTEGER, "holes"),
        Column("n_jpeg", INTEGER, "areas of damaged compression"),
    ),
    ("slide_id",),
)
TRUTH_TILES: Final = Table(
    "truth_tiles",
    "a tile of a synthetic slide at 0.5 µm/px, as drawn",
    (
        _TILE,
        _SLIDE,
        Column("column", INTEGER, "grid column, from 0"),
        Column("row", INTEGER, "grid row, from 0"),
        Column("x_l0_px", INTEGER, "left edge [level-0 px]"),
        Column("y_l0_px", INTEGER, "top edge [level-0 px]"),
        Column("size_l0_px", REAL, "side length [level-0 px]"),
        Column("tissue_fraction", REAL, f"tissue without open spaces, {_SHARE}"),
        Column("tumour_fraction", REAL, f"inside the true tumour outline, {_SHARE}"),
        Column("subclone_fraction", REAL, f"inside the part where regional effects act, {_SHARE}"),
        Column("blur_fraction", REAL, f"out of focus, {_SHARE}"),
        Column("pen_fraction", REAL, f"under ink, {_SHARE}"),
        Column("fold_fraction", REAL, f"folded, {_SHARE}"),
        Column("bubble_fraction", REAL, f"under an air bubble, {_SHARE}"),
        Column("hole_fraction", REAL, f"torn out, {_SHARE}"),
        Column("jpeg_fraction", REAL, f"damaged by compression, {_SHARE}"),
        Column("n_tumour_nuclei", INTEGER, "tumour nuclei whose centre lies in the tile"),
        Column("n_lymphocytes", INTEGER, "lymphocytes whose centre lies in the tile"),
        Column("nuclear_area_um2", REAL, "their mean area [µm²]; null without tumour nuclei", True),
        Column("nuclear_density_per_mm2", REAL, "tumour nuclei per area that may hold them [1/mm²]", True),
        Column("lymphocyte_share", REAL, "lymphocytes / (lymphocytes + tumour nuclei) [0–1]", True),
        Column("chromatin_contrast", REAL, "relative contrast of detail below 1 µm; null at 20×", True),
    ),
    ("tile_id",),
)
TRUTH_TABLES: Final = {t.name: t for t in (TRUTH_PATIENTS, TRUTH_SLIDES, TRUTH_TILES)}
"""What was planted. Only notebooks from 08 on may read these."""
TABLES: Final = {t.name: t for t in (SLIDES, LABELS, CLINICAL, CANDIDATES, TILES, SPLITS, PREDICTIONS, RIVALS, METRICS)}


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


def dictionary() -> str:
    """The data dictionary as Markdown, one section per table (embedded in ``data/README.md``)."""
    lines: list[str] = []
    for table in (*TABLES.values(), *TRUTH_TABLES.values()):
        lines += [f"### {table.name}", "", f"A row is {table.row}. Key: {', '.join(table.key)}.", ""]
        lines += ["| Column | Type | Null | Meaning |", "|---|---|---|---|"]
        for c in table.columns:
            meaning = c.meaning + (f" ({' / '.join(c.choices)})" if c.choices else "")
            lines.append(f"| {c.name} | {c.dtype} | {'yes' if c.nullable else 'no'} | {meaning} |")
        lines.append("")
    return "\n".join(lines)
