"""Two runs of the same commit's profile on two machines: which files are the same, and how far AUCs and scores move.

    python benchmarks/two_processors.py RUN OTHER_RUN

Each is a run folder with its tables (as committed, or whole). Nothing is timed. What a notebook wrote is compared byte
for byte; of AUCs, the headline by gene; of scores, their correlation over tiles.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from _harness import RESULTS

from deeplrhe_utils.core.files import read_json


def same_files(one: Path, other: Path) -> pd.DataFrame:
    """Per notebook: how many of its tables both have, and how many are the same, byte for byte."""
    rows = []
    for name, told in read_json(one / "run.json")["stages"].items():
        files = [f for f in told.get("outputs", {}) if f.startswith(("tables/", "numbers/"))]
        both = [f for f in files if (one / f).is_file() and (other / f).is_file()]
        same = [f for f in both if (one / f).read_bytes() == (other / f).read_bytes()]
        rows.append({"what": f"files of {name}", "first": len(both), "second": len(same)})
    return pd.DataFrame(rows)


def moved_aucs(one: Path, other: Path) -> pd.DataFrame:
    """Per gene: the headline AUC in both runs, whether the second lies in the first's interval, and how scores go."""
    first, second = (pd.read_csv(run / "tables" / "auc_table.csv").set_index("gene") for run in (one, other))
    keys = ["tile_id", "patient_id", "gene", "fold"]
    scores = [pd.read_parquet(run / "tables" / "predictions.parquet").set_index(keys)["score"] for run in (one, other)]
    both = pd.concat(scores, axis=1, keys=["first", "second"], join="inner").reset_index()
    assert len(both) == len(scores[0]) == len(scores[1]), "the two runs scored other tiles"
    rows = []
    for gene, part in both.groupby("gene", sort=False):
        a, b = first.loc[gene], second.loc[gene]
        rows.append({"what": f"AUC of {gene}", "first": a["auc"], "second": b["auc"],
                     "inside": a["ci_low"] <= b["auc"] <= a["ci_high"] if pd.notna(a["auc"]) else None,
                     "correlation": np.corrcoef(part["first"], part["second"])[0, 1]})  # fmt: skip
    return pd.DataFrame(rows)


def main(one: Path, other: Path) -> None:
    """Compare, print and write."""
    machines = [read_json(run / "run.json") for run in (one, other)]
    cpus = [told["hardware"]["cpu"] for told in machines]
    print(f"first: {cpus[0]}; second: {cpus[1]}; held: {[told['determinism'] for told in machines]}")
    table = pd.concat([same_files(one, other), moved_aucs(one, other)], ignore_index=True)
    print(table.to_string(index=False, float_format="%.3f", na_rep="–"))
    table.assign(processors=" | ".join(cpus)).to_csv(RESULTS / "two_processors.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print("Not compared: it wants two run folders, RUN OTHER_RUN")
        sys.exit()
    main(*(Path(text) for text in sys.argv[1:]))
