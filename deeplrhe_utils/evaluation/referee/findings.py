"""The findings of an audit of vectors, a computed sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.text import counted, interval_text, listed, p_text, with_ends
from deeplrhe_utils.evaluation.auc.delong import holm
from deeplrhe_utils.evaluation.audits.probing import LEVEL


def arm_findings(rows: pd.DataFrame, gains: pd.DataFrame, control: str, passed: bool) -> list[str]:
    """What vectors tell of labels, misses as loud as hits; every list after Holm over its targets.

    Parameters
    ----------
    rows : columns of `probe`, arm, patients, as of `image_arms`, and those of `attention_arm`
    gains : as of `paired_probe`, and patients
    control, passed : as of `verdict_of`
    """
    lines = [f"{control[0].upper()}{control[1:]}{'' if passed else ': no AUC of these vectors may be interpreted'}."]
    told = rows[rows["arm"].isin(["image", "image, hospitals held out"])].dropna(subset=["auc"])
    for (group, arm), own in told.groupby(["patients", "arm"], sort=False):
        above = holm(own["p"].to_numpy(float)) < LEVEL
        shown = pd.Series([f"{r['gene']} {with_ends(r)}" for r in own.to_dict("records")], own.index, dtype=str)
        lines.append(f"{arm[0].upper()}{arm[1:]} ({group}): better than exchanged labels (p < {LEVEL:g} after Holm): "
                     f"{listed(shown[above])}; not shown to be: {listed(shown[~above])}.")  # fmt: skip
    if "image, hospitals held out" not in set(rows["arm"]):
        lines.append("No hospitals could be held out: fewer are known than there are folds.")
    seen = rows[rows["arm"] == "attention MIL"].dropna(subset=["auc"])
    beside = [f"{r['gene']} {with_ends(r)} beside {r['null_low']:.2f} to {r['null_high']:.2f}" for r in
              seen.to_dict("records")]  # fmt: skip
    lines.append(f"Attention MIL: {listed(beside)} with labels exchanged within the diagnosis." if beside else
                 "Attention MIL was left out, or could estimate nothing.")  # fmt: skip
    for group, own in gains.groupby("patients", sort=False):
        clear = own[(holm(own["p"].to_numpy(float)) < LEVEL) & (own["difference"] > 0)]
        what = listed(f"{r.gene} {interval_text(r.difference, r.ci_low, r.ci_high)}" for r in clear.itertuples())
        lines.append(f"Beyond the clinical record ({group}) the vectors add to {what} of {counted(len(own), 'target')} "
                     f"(p < {LEVEL:g} after Holm).")  # fmt: skip
    return lines


def site_findings(site: Mapping[str, Any]) -> list[str]:
    """Whether the site can be read (`class_told`), and the robustness index; `site` has told, robustness, absent."""
    told, lines = site["told"], []
    if np.isnan(told["named"]):
        lines.append("Whether the site can be read is not known: fewer than two sites have enough patients.")
    else:
        left = f"{told['patients_left_out']:.0f} patients of smaller sites, or of none, left out"
        lines.append(f"The site of {told['named']:.0%} of {told['patients']:.0f} patients is named rightly among "
                     f"{told['sites']:.0f} ({left}), with sites exchanged in the diagnosis {told['chance']:.0%} "
                     f"(p {p_text(told['p'])}).")  # fmt: skip
    for row in site["robustness"][:1]:
        lines.append(f"Robustness index by {row['classes_of']}: {row['index']:.2f} (k = {row['k']}); if sites meant "
                     f"nothing, {interval_text(row['null_mean'], row['null_low'], row['null_high'])} "
                     f"(p {p_text(row['p'])}): {row['index'] / row['null_mean']:.0%} of that. {_scale_of_planted()}"
                     )  # fmt: skip
    return lines + site["absent"][:1] * (not site["robustness"])


def _scale_of_planted() -> str:
    """What the index keeps of its null on planted slides, for scale."""
    table = pd.read_csv(REFERENCE_DATA / "site_robustness.csv")
    kept = (table["index"] / table["null_mean"]).groupby(table["strength"]).mean()
    return (f"For scale: on synthetic slides, described by our own features, it keeps {kept[0.5]:.0%} with half of the "
            f"presets' site colours and {kept[1.0]:.0%} with all of them.")  # fmt: skip
