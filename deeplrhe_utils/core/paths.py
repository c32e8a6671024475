"""Where things live: the repository, and one run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = REPOSITORY / "notebooks"
PROFILES = REPOSITORY / "profiles"
REPORTS = REPOSITORY / "reports"
REFERENCE_DATA = REPOSITORY / "data" / "reference"


@dataclass(frozen=True)
class RunPaths:
    """The folders of one run.

    ``tables``, ``figures``, ``numbers`` and ``notebooks`` are small and readable; everything heavy
    (slides, tile stores, models) lives under ``work`` so that two runs never share mutable state.
    """

    root: Path

    @property
    def tables(self) -> Path:
        """Parquet and CSV tables."""
        return self.root / "tables"

    @property
    def figures(self) -> Path:
        """PNG and SVG figures."""
        return self.root / "figures"

    @property
    def numbers(self) -> Path:
        """One JSON file of named numbers per notebook."""
        return self.root / "numbers"

    @property
    def notebooks(self) -> Path:
        """Executed notebooks."""
        return self.root / "notebooks"

    @property
    def models(self) -> Path:
        """Fitted stain networks and trained classifiers (safetensors + JSON)."""
        return self.root / "models"

    @property
    def truth(self) -> Path:
        """What was planted in a synthetic cohort; for notebooks from 08 on."""
        return self.root / "truth"

    @property
    def stages(self) -> Path:
        """The runner's bookkeeping: one record per finished stage."""
        return self.root / "stages"

    @property
    def work(self) -> Path:
        """Heavy intermediates: slides, tile stores, thumbnails."""
        return self.root / "work"
