"""Counts that describe a cohort: gene prevalence, and the ledger of dropped files and tiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from deeplrhe_utils.acquisition.barcodes import person_of


def prevalence(labels: pd.DataFrame, genes: Iterable[str]) -> pd.DataFrame:
    """Patients mutated, wild type and not profiled per gene; prevalence among the profiled [%]."""
    rows = []
    for gene in genes:
        status = labels.loc[labels["gene"] == gene, "status"]
        positive, negative = int((status == 1).sum()), int((status == 0).sum())
        share = 100 * positive / (positive + negative) if positive + negative else None
        rows.append(
            {"gene": gene, "mutated": positive, "wild_type": negative, "not_profiled": int(status.isna().sum()),
             "prevalence_percent": share}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["gene", "mutated", "wild_type", "not_profiled", "prevalence_percent"])


def drop_ledger(frame: pd.DataFrame, keep: pd.Series) -> pd.DataFrame:
    """Count in = count out: rows kept, and rows dropped by reason, with a total that must equal ``len(frame)``."""
    dropped = frame.loc[~keep, "reason"].fillna("unstated").value_counts()
    rows = [("kept", int(keep.sum())), *((str(r), int(n)) for r, n in dropped.items()), ("total", len(frame))]
    return pd.DataFrame(rows, columns=["outcome", "count"])


def run_flow(
    slides: pd.DataFrame, labels: pd.DataFrame, tissue: Mapping[str, str], before: pd.DataFrame | None = None
) -> pd.DataFrame:
    """What became of every file of a run, in the steps of a flow diagram.

    Parameters
    ----------
    slides, labels : tables SLIDES and LABELS
    tissue : patient_id → ``adenocarcinoma``, ``squamous`` or else; counted as LUAD and LUSC. In a TCGA run the
        project's tumour, as in the steps `before`, also for normal tissue.
    before : steps that led to the files, such as the flow of a cohort; the first step here then says what was fetched

    Returns DataFrame: step, slides, patients, LUAD, LUSC (slides), dropped, reason. What a step dropped is what it has
    less than the step before. Where no label was given, none is asked for.
    """
    usable = slides[slides["status"] == "ok"]
    labelled = usable[usable["patient_id"].isin(labels.loc[labels["status"].notna(), "patient_id"])]
    offered = len(slides) if before is None else int(before["slides"].iloc[-1])
    steps = (
        ("files found" if before is None else "fetched and verified", slides, offered, "could not be fetched"),
        ("usable slides", usable, len(slides), "excluded with a reason in table slides"),
        ("slides of a patient with a label", labelled, len(usable), "no label of the patient"),
    )
    rows = []
    for step, kept, had, why in steps if len(labels) else steps[:-1]:
        kinds = kept["patient_id"].map(dict(tissue))
        counts = [int((kinds == kind).sum()) for kind in ("adenocarcinoma", "squamous")]
        dropped = had - len(kept)
        reason = f"{why}: {dropped}" if dropped else ""
        people = kept["patient_id"].map(person_of).nunique()
        rows.append((step, len(kept), people, *counts, dropped, reason))
    flow = pd.DataFrame(rows, columns=["step", "slides", "patients", "LUAD", "LUSC", "dropped", "reason"])
    return flow if before is None else pd.concat([before, flow], ignore_index=True)


def file_ledger(slides: pd.DataFrame, tiles: pd.DataFrame, reasons: Mapping[str, str]) -> pd.DataFrame:
    """One row per file that was found: its fate, the reason, and its tiles (candidates, kept, selected).

    Parameters
    ----------
    slides, tiles : the slides and tiles tables
    reasons : slide_id → why a usable slide yielded no candidate tile
    """
    rows = []
    for slide in slides.itertuples():
        own = tiles[tiles["slide_id"] == slide.slide_id] if slide.status == "ok" else tiles.iloc[:0]
        why = slide.reason if slide.status == "excluded" else reasons.get(slide.slide_id, "")
        why = why or ("" if own["kept"].any() else "no tile passed the filters")
        fate = "excluded" if slide.status == "excluded" else "tiled" if own["kept"].any() else "no tiles"
        rows.append(
            {"file": str(slide.path).rsplit("/", 1)[-1], "slide_id": slide.slide_id, "fate": fate, "reason": why,
             "candidates": len(own), "kept": int(own["kept"].sum()), "selected": int(own["selected"].sum())}
        )  # fmt: skip
    return pd.DataFrame(rows)


def confusion(scores: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Patients by true (rows) and most probable (columns) class, for targets of which exactly one holds."""
    classes = sorted(labels["gene"].unique())
    truth = labels[labels["status"] == 1].set_index("patient_id")["gene"]
    best = scores.loc[scores.groupby("patient_id")["score"].idxmax()].set_index("patient_id")["gene"]
    both = pd.DataFrame({"true": truth, "predicted": best}).dropna()
    return pd.crosstab(both["true"], both["predicted"]).reindex(index=classes, columns=classes, fill_value=0)
