"""A synthetic cohort with a planted, known truth: slides that any pathology reader can open.

Nothing here is patient data. Identifiers have the structure of TCGA barcodes under the prefix ``SYNT``, which no tissue
project uses. How it is made, what it is like and what it is unlike: ``docs/synthetic-cohort.md``.

==========================  ======================================================================
module                      what it decides
==========================  ======================================================================
synthetic_genes             who is mutated, and how strongly that shows: fixed before any training
synthetic_cohort            patients, slides, sites, scanners, sizes, artefacts: :func:`plan_cohort`
synthetic_regions, _nuclei  where tissue, tumour and nuclei lie, and what they look like
synthetic_tissue            densities of haematoxylin and eosin
synthetic_artefacts         defocus, pen, folds, bubbles, holes, damaged compression, slip edges, hairs, dust
synthetic_light             stain, lamp, camera
synthetic_label             thumbnail, label and macro image
synthetic_slide             one slide: :func:`write_slide`
synthetic_truth             its truth
==========================  ======================================================================
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from deeplrhe_utils.acquisition.labels.labels import wide_labels
from deeplrhe_utils.core.files import atomic_path, sha256_file, write_json, write_text
from deeplrhe_utils.core.tables.contract import write_table
from deeplrhe_utils.core.tables.truth import TRUTH_PATIENTS, TRUTH_SLIDES, TRUTH_TILES
from deeplrhe_utils.synthetic.genes import EFFECTS, GENES, Effect
from deeplrhe_utils.synthetic.plan import PRESETS, CohortPlan, CohortSpec, plan_cohort
from deeplrhe_utils.synthetic.slide import RENDERER_VERSION, slide_recipe, write_slide

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "EFFECTS", "GENES", "PRESETS", "RENDERER_VERSION", "CohortPlan", "CohortSpec", "Effect", "plan_cohort",
    "slide_recipe", "write_checksums", "write_overrides", "write_slide", "write_tables", "write_truth",
]  # fmt: skip


def write_overrides(plan: CohortPlan, path: Path) -> Path | None:
    """Write ``slide_id,mpp`` for slides whose files tell neither resolution nor power; None where there are none."""
    silent = plan.slides[~plan.slides["mpp_in_metadata"] & ~plan.slides["power_in_metadata"]]
    return _write_csv(silent[["slide_id", "mpp"]], path) if len(silent) else None


def write_tables(plan: CohortPlan, folder: Path) -> list[Path]:
    """Write what a user of the cohort may know: labels, clinical data, resolutions, and how it was made.

    ``labels.csv`` has one row per patient (column patient_id, then 1, 0 or empty for each gene), as notebook 01 reads
    it; ``clinical.csv``; ``cohort.json`` (the parameters and the renderer's version); and, where a slide needs it,
    ``mpp_overrides.csv``.
    """
    facts = {
        "about": "Synthetic slides. No patient, no tissue.",
        "renderer": RENDERER_VERSION,
        "spec": asdict(plan.spec),
        "licence": "CC BY 4.0",
    }
    written = [
        _write_csv(wide_labels(plan.labels, GENES), folder / "labels.csv"),
        _write_csv(plan.clinical, folder / "clinical.csv"),
        write_json(folder / "cohort.json", facts),
    ]
    overrides = write_overrides(plan, folder / "mpp_overrides.csv")
    return [*written, overrides] if overrides else written


def write_truth(plan: CohortPlan, truth_folder: Path, table_folder: Path) -> list[Path]:
    """Write the three truth tables once all slides of the plan are written.

    Parameters
    ----------
    truth_folder : where :func:`write_slide` left the truth of each slide
    table_folder : receives ``truth_patients.parquet``, ``truth_slides.parquet`` and ``truth_tiles.parquet``
    """
    import pandas as pd

    site = plan.clinical.set_index("patient_id")["site_id"]
    patients = plan.truth.assign(site_id=plan.truth["patient_id"].map(site))
    parts = [pd.read_parquet(truth_folder / f"{slide_id}.parquet") for slide_id in plan.slides["slide_id"]]
    tables = [
        (patients[[c.name for c in TRUTH_PATIENTS.columns]], TRUTH_PATIENTS),
        (plan.slides[[c.name for c in TRUTH_SLIDES.columns]], TRUTH_SLIDES),
        (pd.concat(parts, ignore_index=True), TRUTH_TILES),
    ]
    return [write_table(frame, table, table_folder / f"{table.name}.parquet") for frame, table in tables]


def write_checksums(folder: Path) -> Path:
    """Write ``SHA256SUMS`` over every file of a finished cohort (``sha256sum -c SHA256SUMS`` checks them)."""
    path = folder / "SHA256SUMS"
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != path and not p.name.startswith("."))
    lines = [f"{sha256_file(file)}  {file.relative_to(folder).as_posix()}" for file in files]
    return write_text(path, "\n".join(lines) + "\n")


def _write_csv(frame: pd.DataFrame, path: Path) -> Path:
    with atomic_path(path) as part:
        frame.to_csv(part, index=False, lineterminator="\n", encoding="utf-8")
    return path
