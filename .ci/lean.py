"""Make a finished run small enough to be committed: ``make lean PROFILE=demo``.

Deletes what readers of the repository can do without (SVG that only wraps pixels,
Deep Zoom trees, heat maps for other programs, networks of further seeds), and writes report page, documents,
RO-Crate and the list of outputs again, so that nothing names a file that is gone. The rest is as the run left it;
``make release`` packs a whole run. Of a run on real tiles no pixel is left (``real.py``).
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import real

from deeplrhe_utils.core.files import read_json, write_json
from deeplrhe_utils.core.paths import PROFILES, REFERENCE_DATA, REPORTS, REPOSITORY
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.running.page.closing import close_run
from deeplrhe_utils.running.plan.profiles import load_profile
from deeplrhe_utils.running.stage.story import story

DISPENSABLE = (
    "heatmaps/*_files",
    "heatmaps/*.dzi",
    "heatmaps/*+*",
    "heatmaps/contact_sheet*",
    "models/*-seed-*",
)
OF_PATIENTS = ("tables/*.parquet", "tables/split_*.json", "models", "figures/*.svg")
"""Others' calls and features, patient by patient, are not ours to commit; and SVG of fourteen genes is 4 MB."""
REAL = ("real_arms.csv", "image_beyond_clinical.csv")
"""What runs without real features show of them; a copy, because a run must not depend on what it writes itself."""


def lean(root: Path, profile: str) -> tuple[int, int]:
    """Files and bytes that are left of the run in `root`; nothing is touched unless its page can be written again."""
    report = read_json(root / "run.json")
    if profile == "lc25000":
        real.reduce(root)
        return counted(root)
    described = load_profile(profile, PROFILES)
    for name in REAL if profile == "tcga-features" else ():
        shutil.copyfile(root / "tables" / name, REFERENCE_DATA / name)
    if profile == "demo":  # notebook 00 opens with both
        shutil.copyfile(root / "figures" / "side_by_side.png", REPOSITORY / "docs" / "figures" / "side_by_side.png")
        write_sheet(pd.DataFrame([asdict(one) for one in story(root)]), REFERENCE_DATA / "findings.csv")
    for pattern in DISPENSABLE + (OF_PATIENTS if profile == "tcga-features" else ()):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (root / "figures").glob("*.svg"):
        if b"<image" in path.read_bytes():
            path.unlink()
    for stage in (s for s in report["stages"].values() if "outputs" in s):  # thousands of tiles of Deep Zoom, for one
        stage["outputs"] = {name: told for name, told in stage["outputs"].items() if (root / name).exists()}
    write_json(root / "run.json", report)
    close_run(root, described, report)
    return counted(root)


def counted(root: Path) -> tuple[int, int]:
    """Files and bytes in a folder."""
    left = [path for path in root.rglob("*") if path.is_file()]
    return len(left), sum(path.stat().st_size for path in left)


if __name__ == "__main__":
    files, size = lean(REPORTS / sys.argv[1], sys.argv[1])
    print(f"reports/{sys.argv[1]}: {files} files, {size / 1e6:.1f} MB")
