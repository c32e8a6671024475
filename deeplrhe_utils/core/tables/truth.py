"""What was planted in a synthetic cohort, as tables. Only notebooks from 08 on may read these."""

from __future__ import annotations

from typing import Final

from deeplrhe_utils.core.tables.contract import FLAG, INTEGER, REAL, TEXT, Column, Table
from deeplrhe_utils.core.tables.schemas import GENE, PATIENT, SLIDE, TILE

_SHARE = "share of the tile [0–1]"
TRUTH_PATIENTS: Final = Table(
    "truth_patients",
    "a synthetic patient × gene, as planted",
    (
        PATIENT,
        GENE,
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
TRUTH_GENES: Final = Table(
    "truth_genes",
    "a gene of a synthetic cohort, as planned; AUCs are expectations, known before a slide is painted",
    (
        GENE,
        Column("attribute", TEXT, "what it moves in the tissue; null for negative controls", True),
        Column("where", TEXT, "where the attribute is moved", True, ("tumour", "region", "40x")),
        Column("d", REAL, "planted effect size [standard deviations]"),
        Column("bayes_auc", REAL, "of a reader of its own latent, Φ(d / √2)"),
        Column("prevalence", REAL, "share of mutated patients [0–1]"),
        Column("prevalence_adenocarcinoma", REAL, "the same among adenocarcinomas; null where there are none", True),
        Column("prevalence_squamous", REAL, "the same among squamous carcinomas; null where there are none", True),
        Column("diagnosis_auc", REAL, "AUC of a reader who knows the diagnosis only"),
        Column("clinical_auc", REAL, "AUC of a reader who knows diagnosis, smoking and sex"),
        Column("clinical_auc_within", REAL, "AUC of smoking and sex among adenocarcinomas; null without", True),
        Column("site_auc", REAL, "AUC of a reader who knows only whether the site is one where KRAS is frequent"),
    ),
    ("gene",),
)
TRUTH_SLIDES: Final = Table(
    "truth_slides",
    "a synthetic slide, as planned",
    (
        SLIDE,
        PATIENT,
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
        Column("form", TEXT, "what was cut", False, ("resection", "wedge", "biopsy", "pieces")),
        Column("tumour_share", REAL, "area of the tumour / area of the tissue [0–1]"),
        Column("n_blur", INTEGER, "areas out of focus"),
        Column("n_pen", INTEGER, "pen strokes"),
        Column("n_fold", INTEGER, "folds"),
        Column("n_bubble", INTEGER, "air bubbles"),
        Column("n_hole", INTEGER, "holes"),
        Column("n_jpeg", INTEGER, "areas of damaged compression"),
        Column("n_edge", INTEGER, "edges of the cover slip"),
        Column("n_hair", INTEGER, "hairs"),
        Column("n_dust", INTEGER, "groups of specks"),
    ),
    ("slide_id",),
)
TRUTH_TILES: Final = Table(
    "truth_tiles",
    "a tile of a synthetic slide at 0.5 µm/px, as drawn",
    (
        TILE,
        SLIDE,
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
        Column("edge_fraction", REAL, f"under the edge of the cover slip, {_SHARE}"),
        Column("hair_fraction", REAL, f"under a hair, {_SHARE}"),
        Column("dust_fraction", REAL, f"under dust, {_SHARE}"),
        Column("n_tumour_nuclei", INTEGER, "tumour nuclei whose centre lies in the tile"),
        Column("n_lymphocytes", INTEGER, "lymphocytes whose centre lies in the tile"),
        Column("nuclear_area_um2", REAL, "their mean area [µm²]; null without tumour nuclei", True),
        Column("nuclear_density_per_mm2", REAL, "tumour nuclei per area that may hold them [1/mm²]", True),
        Column("lymphocyte_share", REAL, "lymphocytes / (lymphocytes + tumour nuclei) [0–1]", True),
        Column("chromatin_contrast", REAL, "relative contrast of detail below 1 µm; null at 20×", True),
    ),
    ("tile_id",),
)
TRUTH_TABLES: Final = {t.name: t for t in (TRUTH_GENES, TRUTH_PATIENTS, TRUTH_SLIDES, TRUTH_TILES)}
