"""DeepPATH's result files: ``out_filename_Stats.txt`` read and written, so that old runs can be scored anew.

Two forms exist, one line per tile. Softmax: ``test_SLIDE_X_Y.dat  True  [p0 p1 p2]  p  labels:  1``. Sigmoid:
``test_SLIDE_X_Y.jpeg  [t0 t1 t2]  [p0 p1 p2]``, truth first. Class 0 is an unused background class in both.
Source: DeepPATH, 02_testing/xClasses/inception/nc_inception_eval.py and
03_postprocessing/0h_ROC_MultiOutput_BootStrap_2.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from deeplrhe_utils.acquisition.barcodes import parse_name
from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.core.tables.foreign import foreign_lines, foreign_text
from deeplrhe_utils.evaluation.auc.score_file import Scores

BACKGROUND: Final = 0.5
"""A softmax tile with at least this much background counts as background: DeepPATH leaves it out, and so do we."""
_NAME: Final = re.compile(r"^(?:(?:test|valid|train)_)?(?P<slide>.+)_(?P<x>\d+)_(?P<y>\d+)$")
_BRACKETS: Final = re.compile(r"\[([^\]]*)\]")
_SUFFIX: Final = re.compile(r"\.(dat|jpe?g|net2048)$", re.IGNORECASE)


def is_stats(path: Path) -> bool:
    """Whether the first line of a file looks like a line of ``out_filename_Stats.txt``."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as stream:
            first = stream.readline(10_000)
    except OSError:
        return False
    return bool(_BRACKETS.search(first)) and _SUFFIX.search(first.split()[0]) is not None


def read_classes(path: Path) -> list[str]:
    """Class names from DeepPATH's labels file, one per line, whatever the line ends (CR alone occurs)."""
    names = foreign_lines(path, InputError)
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path} does not name each class once", got=", ".join(names) or "nothing")
    return names


def read_stats(path: Path, classes: Sequence[str] = ()) -> Scores:
    """Read ``out_filename_Stats.txt``.

    Parameters
    ----------
    classes : names of the classes 1, 2, …; default "class 1", …

    Returns Scores: the patient is that of the barcode (`patient_of`) where every slide has one of TCGA,
    else each slide is its own, and that is noted. Softmax: one-vs-rest, probabilities renormalised to p_k / (1 − p_0).
    A patient whose slides are of several classes (normal beside tumour) counts once per class, as in DeepPATH; that is
    noted. Tiles that stand twice count once; background tiles are in the ledger.

    Raises InputError: missing file, a line that cannot be read or holds no probabilities (its number is named), lines
    of different forms or lengths, fewer or more classes than probabilities, in sigmoid form a patient of two labels.
    """
    lines = [(i, line) for i, line in enumerate(foreign_text(path, InputError).split("\n"), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty", expected="DeepPATH's out_filename_Stats.txt")
    parsed = [_line(line, f"{path}, line {i}") for i, line in lines]
    forms = {"labels:" in line for _, line in lines}
    widths = {len(score) for _, _, score, _ in parsed} | {len(truth) for _, _, _, truth in parsed}
    if len(widths) != 1 or len(forms) != 1:
        raise InputError(f"{path} has lines of different forms or lengths", got=f"{sorted(widths)} classes")
    names = list(classes) or [f"class {k}" for k in range(1, widths.pop())]
    score, truth = np.array([p[2] for p in parsed]), np.array([p[3] for p in parsed])
    if len(names) != score.shape[1] - 1:
        raise InputError(f"{path} has {score.shape[1] - 1} classes", got=", ".join(names), fix="Name them all")
    tiles = pd.DataFrame({"tile_id": [p[0] for p in parsed], "slide_id": [p[1] for p in parsed]})
    softmax = forms.pop()
    again = tiles["tile_id"].duplicated().to_numpy()
    empty = (score[:, 0] >= BACKGROUND) & softmax & ~again
    keep = ~(again | empty)
    if softmax:
        score = score / np.clip(1 - score[:, :1], 1e-12, None)
    ledger = [("used", int(keep.sum()), ""), ("repeats another tile", int(again.sum()), ""),
              (f"background of {BACKGROUND:g} or more", int(empty.sum()), "")]  # fmt: skip
    ledger = [row for row in ledger if row[1] or row[0] == "used"]
    frame, notes = _patients(tiles[keep], truth[keep], softmax)
    predictions, labels = _long(frame, score[keep][:, 1:], truth[keep][:, 1:], names)
    if (twice := labels.duplicated(["patient_id", "gene"])).any():
        torn = labels.loc[twice, "patient_id"].iloc[0]
        raise InputError(f"{path}: tiles of one patient have different labels", got=torn, expected="one label a gene")
    table = pd.DataFrame(ledger, columns=["outcome", "rows", "examples"])
    return Scores(predictions, labels, ("patient", "slide", "tile"), table, True, tuple(notes))


def _line(line: str, where: str) -> tuple[str, str, list[float], list[float]]:
    """Tile, slide, scores and truth, background first."""
    name = _SUFFIX.sub("", line.split()[0])
    match = _NAME.match(name)
    try:
        brackets = [[float(x) for x in found.split()] for found in _BRACKETS.findall(line)]
    except ValueError:
        brackets = []
    if match is None or not 1 <= len(brackets) <= 2:
        raise InputError(f"{where} is not DeepPATH's", got=line[:80], expected="SLIDE_X_Y.dat … [probabilities] …")
    if not all(0 <= value <= 1 for value in brackets[-1]):  # also where a value is NaN
        raise InputError(f"{where} holds no probabilities", got=line[:80], expected="numbers from 0 to 1")
    tile = f"{match['slide']}_{match['x']}_{match['y']}"
    if len(brackets) == 2:
        return tile, match["slide"], brackets[1], brackets[0]
    found = re.search(r"labels:\s*(\d+)", line)
    if found is None or int(found[1]) >= len(brackets[0]):
        raise InputError(f"{where} does not tell the true class", got=line[-40:], expected="labels: 1")
    truth = [0.0] * len(brackets[0])
    truth[int(found[1])] = 1.0
    return tile, match["slide"], brackets[0], truth


def _patients(tiles: pd.DataFrame, truth: np.ndarray, softmax: bool) -> tuple[pd.DataFrame, list[str]]:
    owner = {name: parse_name(name).patient_id for name in tiles["slide_id"].unique()}
    barcodes = None not in owner.values()
    notes = [] if barcodes else ["Slides have no TCGA barcodes: each counts as a patient of its own."]
    patient = tiles["slide_id"].map(owner) if barcodes else tiles["slide_id"]
    classes = [" ".join(map(str, np.flatnonzero(row))) for row in truth]
    frame = tiles.assign(patient_id=patient, classes=classes)
    several = frame.groupby("patient_id")["classes"].transform("nunique") > 1
    if not softmax or not several.any():
        return frame, notes
    count = frame.loc[several, "patient_id"].nunique()
    frame.loc[several, "patient_id"] += ", class " + frame.loc[several, "classes"]
    return frame, [*notes, f"{count} patients have slides of several classes and count once per class; "
                   "their slides are not independent."]  # fmt: skip


def _long(
    frame: pd.DataFrame, score: np.ndarray, truth: np.ndarray, names: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    keys = frame[["tile_id", "slide_id", "patient_id"]].reset_index(drop=True)
    predictions = [keys.assign(gene=name, fold=0, score=score[:, k]) for k, name in enumerate(names)]
    own = keys[["patient_id"]]
    labels = [own.assign(gene=name, status=truth[:, k].astype(int)).drop_duplicates() for k, name in enumerate(names)]
    return pd.concat(predictions, ignore_index=True), pd.concat(labels, ignore_index=True).astype({"status": "Int64"})


def write_stats(predictions: pd.DataFrame, labels: pd.DataFrame, path: Path) -> int:
    """Write predictions in DeepPATH's sigmoid form, with ``labels.txt`` beside it; its scripts read both.

    Parameters
    ----------
    predictions, labels : tables PREDICTIONS and LABELS; tile_id ends in ``_<column>_<row>``. A gene without any score
        is no class.

    Returns int: tiles that were left out, because the format has no sign for a label or a score that is not known.
    """
    genes = list(predictions.loc[predictions["score"].notna(), "gene"].drop_duplicates())
    score = predictions.pivot(index=["tile_id", "patient_id"], columns="gene", values="score")[genes]
    status = labels.pivot(index="patient_id", columns="gene", values="status").reindex(columns=genes)
    truth = status.reindex(score.index.get_level_values("patient_id")).set_axis(score.index)
    whole = score.notna().all(axis=1) & truth.notna().all(axis=1)
    lines = []
    for (tile, _), p, t in zip(score.index[whole], score[whole].to_numpy(float), truth[whole].to_numpy(float),
                               strict=True):  # fmt: skip
        lines.append(f"test_{tile}.jpeg\t[{_row([0.0, *t])}]\t[{_row([0.0, *p])}]")
    write_text(path, "\n".join(lines) + "\n")
    write_text(Path(path).with_name("labels.txt"), "\n".join(genes) + "\n")
    return int((~whole).sum())


def _row(values: Sequence[float]) -> str:
    return " ".join(f"{v:.8g}" for v in values)
