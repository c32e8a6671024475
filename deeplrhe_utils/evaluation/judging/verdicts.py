"""What was found of what was planted, gene by gene, over all patients and within a diagnosis, and in sentences."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd

from deeplrhe_utils.core.text import p_text, with_ends
from deeplrhe_utils.evaluation.auc.score_file import Scores
from deeplrhe_utils.evaluation.auc.table import gene_metrics, headline_rows
from deeplrhe_utils.evaluation.audits.diagnosis import FIRST, OTHER
from deeplrhe_utils.evaluation.audits.recovery import inside_outside, patient_mean, recovery, truth_at
from deeplrhe_utils.evaluation.judging.answers import Answers
from deeplrhe_utils.evaluation.judging.planted_cohort import PlantedCohort

EVERYBODY: Final = "all"
_RESAMPLES: Final = 100  # of bootstraps that are not shown; the headline interval needs none


def gene_table(scores: Scores, cohort: PlantedCohort, *, cross_fitted: bool, min_positives: int) -> pd.DataFrame:
    """AUC per gene over all patients, and within adenocarcinoma and squamous carcinoma.

    Parameters
    ----------
    scores : folds already `pooled`
    cross_fitted, min_positives : as for `gene_metrics`

    Returns DataFrame, a row per gene and group of patients (column `patients`): columns of `recovery`, ci_method, p,
    p_holm, status, reason of the AUC, and diagnosis_auc, clinical_auc, site_auc: what readers of the diagnosis, the
    clinical record and the site can expect over all patients. `drawn_auc` is that of all tumour tiles of the slides.
    """
    scored = cohort.slides.index.isin(scores.predictions["slide_id"])
    owner = cohort.slides["patient_id"]
    tiles = cohort.tiles[cohort.tiles["tumour_fraction"] >= 0.5].assign(selected=True)
    tiles["patient_id"] = tiles["slide_id"].map(owner[scored] if scored.any() else owner)
    parts = []
    for group in (EVERYBODY, FIRST, OTHER):
        who = cohort.clinical.index[(cohort.clinical["histology"] == group).fillna(False) | (group == EVERYBODY)]
        said, labels = (frame[frame["patient_id"].isin(who)] for frame in (scores.predictions, cohort.labels))
        metrics = headline_rows(gene_metrics(said, labels, units=("patient",), min_positives=min_positives,
                                             resamples=_RESAMPLES, cross_fitted=cross_fitted))  # fmt: skip
        unseen = cohort.genes["diagnosis_auc"].to_dict() if group == EVERYBODY else {}
        table = recovery(metrics, cohort.patients, cohort.tiles, tiles, labels, said, unseen)
        more = metrics[["gene", "ci_method", "p", "p_holm", "status", "reason"]]
        parts.append(table.merge(more, on="gene").assign(patients=group))
    found = pd.concat(parts, ignore_index=True)
    known = cohort.genes[["diagnosis_auc", "clinical_auc", "site_auc"]]
    return found.merge(known, left_on="gene", right_index=True, how="left")


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """gene, verdict and a sentence, from the table of `gene_table`; misses are told as hits are."""
    by = {(row["gene"], row["patients"]): row for row in table.to_dict("records")}
    rows = [(gene, *_verdict(by[gene, EVERYBODY], by[gene, FIRST])) for gene in table["gene"].drop_duplicates()]
    return pd.DataFrame(rows, columns=["gene", "verdict", "sentence"])


def _verdict(whole: dict[str, Any], within: dict[str, Any]) -> tuple[str, str]:
    """How a gene fared. Whoever has no AUC, or an interval that contains one half, has found nothing."""
    gene, role = whole["gene"], whole["role"]
    if whole["status"] != "estimated":
        return "not estimable", f"{gene} ({role}): not estimable; {whole['reason']}."
    mean = f"{gene} ({role}): AUC {with_ends(whole)}"
    inside = f"AUC {with_ends(within)}" if within["status"] == "estimated" else f"not estimable ({within['reason']})"
    among = f"within {FIRST} {inside}"
    diagnosis = f"the diagnosis alone gives {whole['diagnosis_auc']:.2f}"
    if whole["site_auc"] >= whole["ci_low"] > 0.5 and whole["site_auc"] > max(whole["diagnosis_auc"], 0.55):
        return (
            "the site",
            f"FOOLED BY THE SITE, or not to be told from it. {mean}; site alone {whole['site_auc']:.2f}; {among}.",
        )
    if whole["d"] == 0:
        if _excludes(within):
            return "false alarm", f"FALSE ALARM. {mean}; {among}, and nothing was planted."
        if not _excludes(whole):
            return "silent", f"{mean}, p after Holm {p_text(whole['p_holm'])}: nothing was planted, nothing was found."
        if _by_diagnosis(whole):
            return "the diagnosis", f"{mean}: {diagnosis}; {among}. Nothing was planted, and no tissue was read for it."
        return "false alarm", f"FALSE ALARM. {mean}, p after Holm {p_text(whole['p_holm'])}; {among}; nothing planted."
    best = whole["oracle_auc"]
    aim = f"of {best:.2f} that a perfect reader of these patients has (Bayes {whole['bayes_auc']:.2f})"
    if not whole["ci_low"] > 0.5:
        hidden = " It exists at level 0 of 40× scans only." if "40×" in role else ""
        hidden += " The interval contains that: these are too few patients to tell." if whole["ci_high"] >= best else ""
        return "missed", f"MISSED. {mean}, {aim}.{hidden}"
    if _by_diagnosis(whole) and not within["ci_low"] > 0.5:
        return "the diagnosis", f"FOOLED BY THE DIAGNOSIS, or too few to tell. {mean}; {diagnosis}; {among}."
    if whole["ci_low"] > max(best, whole["clinical_auc"], whole["site_auc"]):
        return "too good", f"TOO GOOD. {mean}, above the {best:.2f} of a perfect reader: look for a leak. {among}."
    hidden = " It can be seen at level 0 of 40× scans only: elsewhere its neighbours told it." if "40×" in role else ""
    return "found", f"Found. {mean}, {aim}; {among}.{hidden}"


def _excludes(row: dict[str, Any]) -> bool:
    return bool(row["ci_low"] > 0.5 or row["ci_high"] < 0.5)


def _by_diagnosis(row: dict[str, Any]) -> bool:
    """Whether a reader of the diagnosis would be in, or beyond, the interval of this AUC, on its side of one half."""
    told = row["diagnosis_auc"]
    return bool(told >= row["ci_low"] > 0.5 or 1 - told <= row["ci_high"] < 0.5)


def map_rows(answers: Answers, cohort: PlantedCohort) -> pd.DataFrame:
    """`inside_outside` of every gene that acts in a part of the tumour, with a column gene; tiles of any grid."""
    planted = cohort.patients[(cohort.patients["where"] == "region") & (cohort.patients["d"] > 0)]
    truth = truth_at(answers.places, cohort.outlines, cohort.tiles)
    said = answers.scores.predictions
    return pd.concat([inside_outside(said, truth, cohort.patients, gene).assign(gene=gene)
                      for gene in planted["gene"].unique()])  # fmt: skip


def map_sentences(rows: pd.DataFrame, genes: pd.Series) -> list[str]:
    """How well each gene's map points at its region, beside what was drawn there; a sentence each."""
    said = []
    for gene in genes:
        own = rows[(rows["gene"] == gene) & rows["mutated"]]
        mean, low, high, n = patient_mean(own, "auroc")
        if n == 0:
            said.append(f"{gene} map: no slide of a mutated patient has tiles inside and outside of the region.")
            continue
        drawn, pointed, chance = (patient_mean(own, name)[0] for name in ("drawn_auroc", "pointed", "chance"))
        verdict = "points at the region" if low > 0.5 else "DOES NOT POINT at the region"
        said.append(f"{gene} map {verdict}: AUROC inside against outside {mean:.2f} [{low:.2f}, {high:.2f}], mean of "
                    f"{n} mutated patients; a perfect reader of these tiles has {drawn:.2f}. The highest tile lies "
                    f"inside in {pointed:.0%}, by chance in {chance:.0%}.")  # fmt: skip
    return said
