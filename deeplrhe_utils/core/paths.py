"""Where things live: the repository, and one run's folder."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = REPOSITORY / "notebooks"
PROFILES = REPOSITORY / "profiles"
REPORTS = REPOSITORY / "reports"
REFERENCE_DATA = REPOSITORY / "data" / "reference"


class RunPaths:
    """The folders of one run.

    ``tables``, ``figures``, ``numbers`` and ``notebooks`` are small and readable; everything heavy
    (slides, tile stores, models) lives under ``work`` so that two runs never share mutable state.

    Attributes
    ----------
    tables : Parquet and CSV tables
    figures : PNG and SVG figures
    numbers : one JSON file of named numbers per notebook
    notebooks : executed notebooks
    models : fitted stain networks and trained classifiers (safetensors + JSON)
    truth : what was planted in a synthetic cohort; for notebooks from 08 on
    stages : the runner's bookkeeping: one record per finished stage
    work : heavy intermediates: slides, tile stores, thumbnails
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables = root / "tables"
        self.figures = root / "figures"
        self.numbers = root / "numbers"
        self.notebooks = root / "notebooks"
        self.models = root / "models"
        self.truth = root / "truth"
        self.stages = root / "stages"
        self.work = root / "work"
