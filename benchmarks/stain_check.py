"""Is it H&E? False alarms and margins of `slides.quality.stains` on real pictures; others may be named.

python benchmarks/stain_check.py [../shared/data [PICTURE …]]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from _harness import SHARED_DATA
from PIL import Image

from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.slides.quality import stains
from deeplrhe_utils.slides.reading.reader import Slide

_PICTURES = (".jpeg", ".jpg", ".png", ".tif", ".svs")
_TILES = {
    "LC25000 lung_n": "lc25000/lung_n", "LC25000 lung_aca": "lc25000/lung_aca", "LC25000 lung_scc": "lc25000/lung_scc",
    "UNI, TCGA": "uni_tcga_rois", "WSIQA": "real_qc/wsiqa_artifacts",
}  # fmt: skip
_WHOLE = {
    "MoNuSeg": "monuseg_tcga_lung/*.tif", "CMU-1": "slides/CMU-1-Small-Region.svs",
    "TCGA Focus": "real_qc/focus_tcga/*.png", "FolDet": "real_qc/foldet/[Cs][St]*.PNG",
    "HistoQC, pens": "real_qc/pen_real/histoqc/*_he_*.png",
}  # fmt: skip


def _row(name: str, found: Iterable[stains.Stain]) -> str:
    found = list(found)
    ends = [
        min(s.tint for s in found),
        max(s.brown for s in found),
        min(s.green for s in found),
        min(s.spread for s in found),
    ]
    alarms = Counter(s.kind for s in found if s.kind != stains.HE)
    return f"| {name} | {len(found)} | {dict(alarms) or 0} | " + " | ".join(f"{value:.3f}" for value in ends) + " |"


def _tile(path: Path) -> stains.Stain:
    return stains.stain_of_pictures([np.asarray(Image.open(path).convert("RGB"))])


def _slide(path: Path) -> stains.Stain:
    with Slide(path, mpp=0.25) as slide:
        return stains.stain_of(slide)


def main(data: Path, others: list[Path]) -> None:
    """Print a table of H&E by source, then what each other picture is."""
    names = ("Source", "pictures", "alarms", "least tint", "most brown", "least green", "least spread")
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for name, folder in _TILES.items():
        files = sorted(p for p in (data / folder).rglob("*") if p.suffix.lower() in _PICTURES and "mask" not in str(p))
        print(_row(name, map(_tile, files)))
    for name, pattern in _WHOLE.items():
        print(_row(name, map(_slide, sorted(p for p in data.glob(pattern) if "mask" not in p.name))))
    for path in others:
        try:
            print(f"{path.name}: {(found := _slide(path)).kind}: {found.sentence()}")
        except CompendiumError as error:
            print(f"{path.name}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else SHARED_DATA, [Path(text) for text in sys.argv[2:]])
