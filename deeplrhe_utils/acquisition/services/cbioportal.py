"""cBioPortal's service: studies, samples, mutations and clinical data, as labels that keep null apart from 0.

Source: the service's published contract (www.cbioportal.org/api) and its recorded answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import pandas as pd

from deeplrhe_utils.acquisition.labels.calls import PROFILED_COLUMNS, VARIANT_COLUMNS, Calls, call_patients, no_variants
from deeplrhe_utils.acquisition.labels.variants import DEFAULT_RULE, VariantRule
from deeplrhe_utils.acquisition.services.web import Service
from deeplrhe_utils.core.errors import LabelError, ServiceError
from deeplrhe_utils.core.text import shortened

CBIOPORTAL_ENDPOINT: Final = "https://www.cbioportal.org/api"
_PAGE: Final = 100_000
"""Mutations asked for at a time: a study's ten genes fit on one page."""
_MUTATIONS: Final = "MUTATION_EXTENDED"
WHOLE_EXOME: Final = frozenset({"WES", "WXS", "WGS", "WXS/WGS"})
"""Names that studies use, in place of a panel, for samples in which every gene was profiled."""


class CBioPortal:
    """A cBioPortal service; every answer is checked before it is used.

    Parameters
    ----------
    service : under the service's ``/api``, such as `CBIOPORTAL_ENDPOINT`
    page : mutations asked for at a time

    Raises ServiceError: in every method: the service refuses (404 for an unknown study), cannot be had, or answers what
    it must not.
    """

    def __init__(self, service: Service, *, page: int = _PAGE) -> None:
        self._service, self._page = service, page

    def sample_lists(self, study: str) -> list[dict[str, Any]]:
        """Sample lists of a study; ``<study>_all`` and ``<study>_sequenced`` are the two that labels need."""
        path = f"studies/{_part(study)}/sample-lists"
        return _rows(self._service.get(path), path, ("sampleListId",))

    def sample_ids(self, sample_list: str) -> list[str]:
        """Samples of a list."""
        path = f"sample-lists/{_part(sample_list)}/sample-ids"
        answer = self._service.get(path)
        if not isinstance(answer, list) or not all(isinstance(sample, str) and sample for sample in answer):
            raise ServiceError(f"{path} answers no list of samples", got=_short(answer))
        return answer

    def molecular_profiles(self, study: str) -> list[dict[str, Any]]:
        """Molecular profiles of a study: mutations, copy number, expression."""
        path = f"studies/{_part(study)}/molecular-profiles"
        return _rows(self._service.get(path), path, ("molecularProfileId", "molecularAlterationType"))

    def mutation_profile(self, study: str) -> str:
        """Identifier of a study's one profile of mutations.

        Raises LabelError: there is none, or more than one.
        """
        kinds = self.molecular_profiles(study)
        own = [str(p["molecularProfileId"]) for p in kinds if p["molecularAlterationType"] == _MUTATIONS]
        if len(own) != 1:
            raise LabelError(f"Study {study} has {len(own)} profiles of mutations", got=shortened(own) or None,
                             expected="one")  # fmt: skip
        return own[0]

    def genes(self, symbols: Sequence[str]) -> dict[str, int]:
        """Entrez identifiers of gene symbols, in their order.

        Raises LabelError: names symbols that are unknown (with the symbol in use now, where the service knows the old
        one) and those that stand for several genes; no symbols at all.
        """
        wanted = list(dict.fromkeys(symbols))
        if not wanted:
            raise LabelError("No gene is named")
        answer = self._service.post("genes/fetch", wanted, geneIdType="HUGO_GENE_SYMBOL", projection="SUMMARY")
        found: dict[str, set[int]] = {}
        for gene in _rows(answer, "genes/fetch", ("hugoGeneSymbol", "entrezGeneId")):
            found.setdefault(gene["hugoGeneSymbol"], set()).add(_integer(gene["entrezGeneId"], "entrezGeneId"))
        if unknown := [symbol for symbol in wanted if symbol not in found]:
            raise LabelError("cBioPortal does not know genes", got="; ".join(map(self._hint, unknown)),
                             expected="HGNC symbols as cBioPortal writes them")  # fmt: skip
        if several := [f"{s} ({sorted(found[s])})" for s in wanted if len(found[s]) > 1]:
            raise LabelError("Symbols stand for several genes", got="; ".join(several))
        return {symbol: found[symbol].pop() for symbol in wanted}

    def _hint(self, symbol: str) -> str:
        others = _rows(self._service.get("genes", alias=symbol), "genes", ("hugoGeneSymbol",))
        names = sorted({str(gene["hugoGeneSymbol"]) for gene in others})
        return f"{symbol} (now {shortened(names)})" if names else symbol

    def mutations(self, profile: str, sample_list: str, genes: Mapping[str, int]) -> pd.DataFrame:
        """Mutations of genes in the samples of a list.

        Parameters
        ----------
        profile, sample_list : such as ``luad_tcga_pan_can_atlas_2018_mutations`` and
            ``luad_tcga_pan_can_atlas_2018_sequenced``
        genes : Entrez identifier by symbol, as :meth:`genes` gives it

        Returns `VARIANT_COLUMNS`. Pages count from 0 and are asked for until one is not full. Pages that share a
        mutation are refused: the service's order changed between them, so that others would be missing.
        """
        symbol = {number: name for name, number in genes.items()}
        path = f"molecular-profiles/{_part(profile)}/mutations/fetch"
        body = {"sampleListId": sample_list, "entrezGeneIds": list(genes.values())}
        rows: list[tuple[Any, ...]] = []
        seen: set[str] = set()
        page = 0
        while True:
            answer = self._service.post(path, body, projection="DETAILED", pageNumber=page, pageSize=self._page)
            hits = _rows(answer, path, ("sampleId", "patientId", "entrezGeneId"))
            if len(hits) > self._page:
                raise ServiceError(f"{path} answers more than a page", got=len(hits), expected=f"≤ {self._page}")
            marks = {repr(sorted(hit.items(), key=lambda item: item[0])) for hit in hits}
            if marks & seen:
                raise ServiceError(f"{path}: pages {page - 1} and {page} share mutations", fix="Ask for larger pages")
            seen |= marks
            rows += [_variant(hit, symbol, path) for hit in hits]
            if len(hits) < self._page:
                break
            page += 1
        return pd.DataFrame(rows, columns=list(VARIANT_COLUMNS), dtype="object") if rows else no_variants()

    def panels(self, profile: str, sample_list: str) -> pd.DataFrame:
        """Which samples were profiled, and on which gene panel.

        Returns sample_id, patient_id, profiled (bool), panel (text; null for whole exomes and where none is named).
        """
        path = f"molecular-profiles/{_part(profile)}/gene-panel-data/fetch"
        hits = _rows(
            self._service.post(path, {"sampleListId": sample_list}), path, ("sampleId", "patientId", "profiled")
        )
        rows = [(str(h["sampleId"]), str(h["patientId"]), h["profiled"] is True, h.get("genePanelId")) for h in hits]
        return pd.DataFrame(rows, columns=["sample_id", "patient_id", "profiled", "panel"])

    def panel_genes(self, panel: str) -> set[int]:
        """Entrez identifiers of the genes on a panel."""
        path = f"gene-panels/{_part(panel)}"
        genes = _rows([self._service.get(path)], path, ("genes",))[0]["genes"]
        return {_integer(gene["entrezGeneId"], path) for gene in _rows(genes, path, ("entrezGeneId",))}


def labels(portal: CBioPortal, studies: Sequence[str], genes: Sequence[str], rule: VariantRule = DEFAULT_RULE) -> Calls:
    """Mutation labels of the patients of studies.

    A sample outside ``<study>_sequenced``, one whose profile says so, and genes that its panel lacks are not profiled
    (null). A profiled sample is 1 with a counted variant and 0 without any. All samples in ``<study>_all`` are read,
    so that every patient of a study has a row for every gene.

    Parameters
    ----------
    studies : such as ``luad_tcga_pan_can_atlas_2018``
    genes : HGNC symbols
    rule : primary tumours by default, as the slides are of those

    `labels.source` is ``cBioPortal <study>``; `variant_class` as :class:`Calls` describes it.
    Raises LabelError: unknown or ambiguous genes, no study, a patient in two studies, a study without profile of
    mutations or without list of sequenced samples; see `judge`. ServiceError: see :class:`CBioPortal`.
    """
    if not studies or len(set(studies)) < len(studies):
        raise LabelError("Studies must be named, each once", got=", ".join(studies) or "none")
    entrez = portal.genes(genes)
    parts = [_study_calls(portal, study, entrez, rule) for study in studies]
    table = pd.concat([part.labels for part in parts], ignore_index=True)
    shared = table[table.duplicated(["patient_id", "gene"])]["patient_id"].unique()
    if len(shared):
        raise LabelError(f"{len(shared)} patients are in several of the studies", got=shortened(sorted(shared)),
                         fix="Ask for one study at a time and compare them with `agreement`")  # fmt: skip
    ledger = pd.concat([part.ledger for part in parts]).groupby(["kind", "fate"], sort=False, as_index=False)["n"].sum()
    conflicts = pd.concat([part.conflicts for part in parts], ignore_index=True)
    notes = [rule.sentence(), *(f"{s}: {note}" for s, part in zip(studies, parts, strict=True) for note in part.notes)]
    return Calls(table, conflicts, ledger, notes, "cBioPortal's service")


def _study_calls(portal: CBioPortal, study: str, entrez: Mapping[str, int], rule: VariantRule) -> Calls:
    everyone, sequenced = f"{study}_all", f"{study}_sequenced"
    named = {entry["sampleListId"] for entry in portal.sample_lists(study)}
    if missing := [name for name in (everyone, sequenced) if name not in named]:
        raise LabelError(f"Study {study} has no sample list {' or '.join(missing)}", got=shortened(sorted(named)))
    profile = portal.mutation_profile(study)
    listed = set(portal.sample_ids(sequenced))
    samples = portal.panels(profile, everyone)
    if strange := sorted(listed - set(samples["sample_id"])):
        raise ServiceError(f"{profile} tells nothing of {len(strange)} sequenced samples", got=shortened(strange))
    held = {panel: portal.panel_genes(panel) for panel in _targeted(samples)}
    variants = portal.mutations(profile, everyone, entrez)
    calls = call_patients(variants, _profiled(samples, listed, held, entrez), rule, f"cBioPortal {study}")
    counts = f"{len(listed)} of {len(samples)} samples are sequenced; the others have no status."
    lacks = [
        f"Panel {panel} lacks {', '.join(lacking)}: no status there."
        for panel, own in held.items()
        if (lacking := [symbol for symbol, number in entrez.items() if number not in own])
    ]
    return Calls(calls.labels, calls.conflicts, calls.ledger, [counts, *lacks, *calls.notes[1:]], calls.form)


def _targeted(samples: pd.DataFrame) -> list[str]:
    return sorted(set(samples["panel"].dropna()) - WHOLE_EXOME)


def _profiled(
    samples: pd.DataFrame, listed: set[str], held: Mapping[str, set[int]], entrez: Mapping[str, int]
) -> pd.DataFrame:
    rows = [
        (sample, patient, symbol, profiled and sample in listed and (panel not in held or number in held[panel]))
        for sample, patient, profiled, panel in samples.itertuples(index=False, name=None)
        for symbol, number in entrez.items()
    ]
    return pd.DataFrame(rows, columns=list(PROFILED_COLUMNS))


def _variant(hit: Mapping[str, Any], symbol: Mapping[int, str], path: str) -> tuple[Any, ...]:
    number = _integer(hit["entrezGeneId"], path)
    if number not in symbol:
        raise ServiceError(f"{path} answers a gene that nobody asked for", got=number)
    return (
        str(hit["sampleId"]), str(hit["patientId"]), symbol[number], hit.get("proteinChange"), hit.get("mutationType"),
        hit.get("mutationStatus"),
    )  # fmt: skip


def _rows(answer: Any, what: str, needed: Iterable[str]) -> list[dict[str, Any]]:
    """The answer as a list of objects that have `needed`."""
    if not isinstance(answer, list):
        raise ServiceError(f"{what}: cBioPortal answers no list", got=_short(answer))
    for row in answer:
        if not isinstance(row, dict) or any(row.get(name) is None for name in needed):
            raise ServiceError(f"{what}: cBioPortal answers an entry without {' or '.join(needed)}", got=_short(row))
    return answer


def _integer(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ServiceError(f"{what}: no number", got=_short(value))
    return value


def _part(name: str) -> str:
    """One part of a path: what it holds cannot lead elsewhere."""
    if not name or name.strip(".") == "":
        raise LabelError("An identifier at cBioPortal is empty or only dots", got=repr(name))
    return quote(name, safe="")


def _short(value: Any) -> str:
    return repr(value)[:160]
