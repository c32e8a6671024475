"""Tables: the contract between notebooks. ``data/README.md`` is rendered from this module and from `truth_schemas`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from deeplrhe_utils.core.tables.contract import FLAG, INTEGER, REAL, TEXT, Column, Table

PATIENT = Column("patient_id", TEXT, "patient; the first 12 characters of a TCGA barcode")
SLIDE = Column("slide_id", TEXT, "slide; the file name without its suffix unless a table says otherwise")
TILE = Column("tile_id", TEXT, "`<slide_id>_<column>_<row>` of the tile grid; the file stem in tile folders")
GENE = Column("gene", TEXT, "HGNC symbol, or a class name where the target is a tissue class")
LUNG_CLASSES: Final = ("normal", "adenocarcinoma", "squamous")
"""Normal lung, then the two diagnoses: everything that column `subtype` may say."""

SLIDES: Final = Table(
    "slides",
    "a slide file (every file that was found, usable or not)",
    (
        SLIDE,
        PATIENT,
        Column("site_id", TEXT, "hospital that gave the tissue (of a TCGA code: `data/reference/hospitals.csv`)", True),
        Column("site_code", TEXT, "second field of a TCGA barcode: a hospital *and* a project", True),
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
    ("path", "slide_id"),
)
SLIDE_FILES: Final = Table(
    "slide_files",
    "a slide file that a service or a published list offers, fetched or not",
    (
        Column("file_id", TEXT, "identifier of the file (a UUID at the GDC) or DICOM series (`crdc_series_uuid`)"),
        Column("file_name", TEXT, "name of the file; never used as a path before it is checked"),
        Column("md5", TEXT, "MD5 of the file, or of the list of a series' files; null where it is not known", True),
        Column("bytes", INTEGER, "file size [bytes]"),
        Column("access", TEXT, "who may fetch it", True, ("open", "controlled")),
        Column("patient_id", TEXT, "patient; null where the name is no TCGA barcode", True),
        Column("site_id", TEXT, "hospital that gave the tissue (of a TCGA code: `data/reference/hospitals.csv`)", True),
        Column("site_code", TEXT, "second field of a TCGA barcode: a hospital *and* a project", True),
        Column("sample_code", TEXT, "two digits of the barcode: 01 primary tumour, 02 recurrent, 11 normal", True),
        Column("slide_type", TEXT, "DX diagnostic; TS, MS, BS top, middle, bottom of the frozen sample", True),
        Column("sample_type", TEXT, "how the tissue was prepared", True, ("frozen", "diagnostic")),
        Column("project_id", TEXT, "`TCGA-LUAD`, `TCGA-LUSC`, `CPTAC-LUAD` or `CPTAC-LSCC`", True),
        Column("subtype", TEXT, "tissue class", True, LUNG_CLASSES),
    ),
    ("file_id",),
)
LABELS: Final = Table(
    "labels",
    "a patient × gene",
    (
        PATIENT,
        GENE,
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
        PATIENT,
        Column("site_id", TEXT, "hospital, as in table slides", True),
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
        TILE,
        SLIDE,
        PATIENT,
        Column("path", TEXT, "image file of the tile, in tile folders only", True),
        Column("column", INTEGER, "grid column, from 0; null, as what follows, where the place is unknown", True),
        Column("row", INTEGER, "grid row, from 0", True),
        Column("x_l0_px", INTEGER, "left edge [level-0 px]", True),
        Column("y_l0_px", INTEGER, "top edge [level-0 px]", True),
        Column("size_l0_px", REAL, "side length [level-0 px]; exact, so it may be fractional", True),
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
        Column("unit_id", TEXT, "identifier of the unit; where whole sites are divided, of the patient"),
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
        TILE,
        SLIDE,
        PATIENT,
        GENE,
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
        PATIENT,
        GENE,
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
        GENE,
        Column("unit", TEXT, "what was counted", False, ("tile", "slide", "patient")),
        Column("scheme", TEXT, "split scheme", False, ("tile", "slide", "patient", "site")),
        Column("status", TEXT, "whether an AUC is given", False, ("estimated", "not estimable")),
        Column("auc", REAL, "area under the ROC curve [0–1]", True),
        Column("average_precision", REAL, "area under the precision-recall curve; chance is the prevalence", True),
        Column("ci_low", REAL, "lower end of the 95 % interval", True),
        Column("ci_high", REAL, "upper end of the 95 % interval", True),
        Column("ci_method", TEXT, "how the interval was made", True),
        Column("n_pos", INTEGER, "units with the mutation"),
        Column("n_neg", INTEGER, "units without it"),
        Column("p", REAL, "two-sided p of the headline against AUC 0.5", True),
        Column("p_holm", REAL, "the headline's p, Holm-adjusted over the estimable genes", True),
        Column("p_fdr", REAL, "the same, adjusted after Benjamini and Hochberg", True),
        Column("reason", TEXT, "why it is not estimable", True),
    ),
    ("gene", "unit", "scheme", "ci_method"),
)
TABLES: Final = {
    t.name: t for t in (SLIDES, SLIDE_FILES, LABELS, CLINICAL, CANDIDATES, TILES, SPLITS, PREDICTIONS, RIVALS, METRICS)
}
