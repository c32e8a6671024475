"""A cohort whose every name is an attack: on pages, figures, spreadsheets, terminals and file systems."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.synthetic.publish import write_slide

HIT = "window.__hit=(window.__hit||0)+1"
SCRIPT = f"<img src=x onerror={HIT}>"
SLIDES = (
    SCRIPT, f'"><svg onload={HIT}>', f"'-({HIT})-'", "=cmd|calc!A1", "-1+1", "@SUM(A1)", "tab\there\nand there",
    "txt.\u202esvs.slide", "$x_{", "%s {} {0} %(a)s $$", r"a\x00b\n\N{BULLET}", "%2e%2e[*?]`|&amp;" + "L" * 233,
)  # fmt: skip
PATIENTS = (
    f"</script><script>{HIT}</script>", "../../../patient", f"[a](javascript:{HIT})", "\u202epatient", "$\\frac{",
    "P" * 300,
    *(f"plain {number}" for number in range(6)),
)  # fmt: skip
GENES = ("TP53", f"<script>{HIT}</script>{SCRIPT}", '=HYPERLINK("x")', "../../gene$x_{ $")
FOLDER = f"{SCRIPT} $x_{{ %s"


def hostile_cohort(plan, folder: Path) -> dict[str, object]:
    """Slides, labels and one outline below `folder`, from a dozen planned slides; parameters for a run on them."""
    slides = folder / FOLDER
    for name, planned in zip(SLIDES, plan.slides["slide_id"], strict=True):
        write_slide(plan, planned, folder / "plain").rename(_made(slides) / f"{name}.svs")
    ring = [[0, 0], [4000, 0], [4000, 4000], [0, 4000], [0, 0]]
    outline = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
         "properties": {"classification": {"name": name}, "name": SCRIPT}} for name in ("Tumor", SCRIPT)
    ]  # fmt: skip
    (slides / f"{SLIDES[0]}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": outline}))
    labels = pd.DataFrame({"slide_id": SLIDES, "patient_id": PATIENTS})
    for number, gene in enumerate(GENES):
        labels[gene] = [int((i >> (number % 2)) % 2 == 0) for i in range(len(SLIDES))]
    write_sheet(labels, folder / "labels.csv")
    write_sheet(pd.DataFrame({"slide_id": SLIDES, "mpp": plan.slides["mpp"]}), folder / "mpp.csv")
    tables = {f"{name}_csv": str(folder / f"{name}.csv") for name in ("labels", "mpp")}
    return {"slides_dir": str(slides), "genes": list(GENES), **tables}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
