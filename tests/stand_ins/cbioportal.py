"""A stand-in for cBioPortal's service on loopback: studies, sample lists, mutations and panels.

Answers have the form of the recorded ones. Genomic positions, alleles and counts of invented mutations are made up and
say so (``center`` is ``stand-in``); nothing reads them but whoever looks.
"""

from __future__ import annotations

import base64
import json
import random
import threading
import urllib.parse
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd

ENTREZ = {
    "TP53": 7157, "EGFR": 1956, "STK11": 6794, "KRAS": 3845, "KEAP1": 9817, "NF1": 4763, "BRAF": 673, "MET": 4233,
    "POLE": 5426, "POLD1": 5424, "PBRM1": 55193, "DNMT3A": 1788, "FAT1": 2195, "FAT4": 79633, "LRP1B": 53353,
    "SETBP1": 26040,
}  # fmt: skip
INVENTED = 900_000_000
MUTATION_SUFFIX = "_mutations"


def entrez_of(symbol: str) -> int:
    """The gene's Entrez identifier; for genes not in `ENTREZ` a number that no gene has."""
    return ENTREZ.get(symbol) or INVENTED + zlib.crc32(symbol.encode()) % 10**8


@dataclass
class Study:
    """One study: who has which sample, what was sequenced, and what was found."""

    study_id: str
    owners: dict[str, str]
    sequenced: list[str]
    mutations: list[dict[str, Any]] = field(default_factory=list)
    panel_of: dict[str, str] = field(default_factory=dict)
    panels: dict[str, list[str]] = field(default_factory=dict)
    genes: list[str] = field(default_factory=list)
    cancer_type: str = "luad"
    described: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)

    @property
    def profile_id(self) -> str:
        return self.study_id + MUTATION_SUFFIX

    def lists(self) -> dict[str, list[str]]:
        return {f"{self.study_id}_all": list(self.owners), f"{self.study_id}_sequenced": self.sequenced}

    def describe(self) -> dict[str, Any]:
        return self.described or {
            "studyId": self.study_id, "cancerTypeId": self.cancer_type, "name": f"{self.study_id} (stand-in)",
            "description": "Stand-in.", "publicStudy": True, "groups": "PUBLIC", "status": 0,
            "importDate": "2000-01-01 00:00:00", "allSampleCount": len(self.owners),
            "sequencedSampleCount": len(self.sequenced), "referenceGenome": "hg19", "readPermission": True,
        }  # fmt: skip

    def profiles(self) -> list[dict[str, Any]]:
        own = self.profile or {
            "molecularProfileId": self.profile_id, "studyId": self.study_id,
            "molecularAlterationType": "MUTATION_EXTENDED", "datatype": "MAF", "name": "Mutations",
            "description": "Stand-in.", "showProfileInAnalysisTab": True, "patientLevel": False,
        }  # fmt: skip
        other = {**own, "molecularProfileId": f"{self.study_id}_gistic", "datatype": "DISCRETE",
                 "molecularAlterationType": "COPY_NUMBER_ALTERATION", "name": "Copy number"}  # fmt: skip
        return [own, other]


def key_of(*parts: str) -> str:
    """cBioPortal's unique keys: base64 of the parts joined by colons, without padding."""
    return base64.urlsafe_b64encode(":".join(parts).encode()).decode().rstrip("=")


def mutation(
    study: str, sample: str, patient: str, symbol: str, change: str, kind: str, **more: Any
) -> dict[str, Any]:  # fmt: skip
    """A mutation in the recorded form; genomic fields are invented."""
    position = 1_000_000 + zlib.crc32(f"{symbol} {change}".encode()) % 10**6
    return {
        "uniqueSampleKey": key_of(sample, study), "uniquePatientKey": key_of(patient, study),
        "molecularProfileId": study + MUTATION_SUFFIX, "sampleId": sample, "patientId": patient,
        "entrezGeneId": entrez_of(symbol), "gene": gene(symbol), "studyId": study, "center": "stand-in",
        "mutationStatus": ".", "validationStatus": ".", "tumorAltCount": 30, "tumorRefCount": 70, "normalAltCount": 0,
        "normalRefCount": 100, "chr": "1", "startPosition": position, "endPosition": position, "referenceAllele": "C",
        "variantAllele": "T", "proteinChange": change, "mutationType": kind, "ncbiBuild": "GRCh37",
        "variantType": "SNP", "keyword": f"{symbol} {change}", **more,
    }  # fmt: skip


def gene(symbol: str) -> dict[str, Any]:
    return {"entrezGeneId": entrez_of(symbol), "hugoGeneSymbol": symbol, "type": "protein-coding"}


def study_from_labels(
    labels: pd.DataFrame, study_id: str, *, cancer_type: str = "luad",
    sample_code: str = "01",
) -> Study:  # fmt: skip
    """A study that says what table LABELS says: one sample a patient; genes that are null are not on its panel."""
    genes = list(dict.fromkeys(labels["gene"]))
    study = Study(study_id, {}, [], genes=genes, cancer_type=cancer_type)
    for patient, own in labels.groupby("patient_id", sort=False):
        sample = f"{patient}-{sample_code}"
        study.owners[sample] = str(patient)
        profiled = list(own.loc[own["status"].notna(), "gene"])
        if profiled:
            study.sequenced.append(sample)
            panel = "WES" if len(profiled) == len(genes) else f"PANEL_{key_of(*sorted(profiled))}"
            study.panel_of[sample] = panel
            study.panels[panel] = genes if panel == "WES" else profiled
        for row in own[own["status"].eq(1).fillna(False)].itertuples():
            study.mutations += [
                mutation(study_id, sample, str(patient), row.gene, change, kind)
                for kind, change in changes_of(getattr(row, "variant_class", None))
            ]
    return study


def changes_of(text: Any) -> list[tuple[str, str]]:
    """(class, protein change) of our column `variant_class`; one invented missense change where it says nothing."""
    if pd.isna(text) or ";" not in str(text):
        return [("Missense_Mutation", "A1V")]
    pairs = [part.partition("; ") for part in str(text).split(" | ")]
    return [(kinds.split("/")[0], change) for kinds, _, change in pairs]


def study_from_recorded(folder: Path) -> Study:
    """The recorded study with everything that was recorded of it: 566 samples and the mutations of one gene."""
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    samples = read["sample_ids"]
    study = Study(read["study"]["studyId"], {s: s[:12] for s in samples}, samples, read["mutations-4233"])
    study.described, study.profile = read["study"], read["profile"]
    study.genes = [value["hugoGeneSymbol"] for name, value in read.items() if name.startswith("gene-")]
    return study


@dataclass
class CBioPortalStandIn:
    """The server; a context manager. `url` is its address up to ``/api``, `log` what was asked.

    `failing` is the number of answers to come that are `fail_status`; `shuffled` gives each page of mutations in
    another order; `unpaged` answers every page with everything; `twins` are symbols that stand for two genes;
    `aliases` are old symbols by new.
    """

    studies: Iterable[Study]
    failing: int = 0
    fail_status: int = 503
    shuffled: bool = False
    unpaged: bool = False
    twins: frozenset[str] = frozenset()
    aliases: dict[str, str] = field(default_factory=dict)
    override: dict[str, Any] = field(default_factory=dict)
    port: int = 0

    def __post_init__(self):
        self.by_id = {study.study_id: study for study in self.studies}
        self.log: list[tuple[str, str, Any, dict[str, str]]] = []
        self.lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> CBioPortalStandIn:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        """Listen, on the port it had before if there was one."""
        handler = type("BoundHandler", (Handler,), {"stand_in": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def symbols(self) -> dict[int, str]:
        return {entrez_of(symbol): symbol for study in self.by_id.values() for symbol in study.genes}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, message: str, status: int = 404) -> None:
        super().__init__(message)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    stand_in: CBioPortalStandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for a delayed acknowledgement

    def log_message(self, *_: Any) -> None:
        """Nothing on the screen."""

    def do_GET(self) -> None:
        self.handle_request(None)

    def do_POST(self) -> None:
        self.handle_request(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null"))

    def handle_request(self, body: Any) -> None:
        split = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(part) for part in split.path.strip("/").split("/")]
        query = {name: values[-1] for name, values in urllib.parse.parse_qs(split.query).items()}
        place = "/".join(parts[1:])
        with self.stand_in.lock:
            self.stand_in.log.append((self.command, place, body, query))
            failing, self.stand_in.failing = self.stand_in.failing, max(0, self.stand_in.failing - 1)
        if failing:
            self.json({"message": "Service Unavailable"}, self.stand_in.fail_status)
        elif place in self.stand_in.override:
            self.json(self.stand_in.override[place])
        else:
            try:
                self.json(self.answer(parts[1:] if parts[0] == "api" else [], body, query))
            except Refused as refused:
                self.json({"message": str(refused)}, refused.status)

    def answer(self, parts: list[str], body: Any, query: dict[str, str]) -> Any:
        """What an address means, in the order in which the contract lists them."""
        match parts:
            case ["studies", *rest]:
                return self.of_studies(rest, body, query)
            case ["molecular-profiles", profile, *rest]:
                return self.of_profile(profile, rest, body, query)
            case ["genes", *rest]:
                return self.of_genes(rest, body, query)
            case ["sample-lists", listed, "sample-ids"]:
                return self.samples(listed)
            case ["gene-panels", panel]:
                return self.panel(panel)
        raise Refused(f"no such path: {'/'.join(parts)}")

    def of_studies(self, parts: list[str], body: Any, query: dict[str, str]) -> Any:
        if not parts:
            word = query.get("keyword", "").lower()
            every = [study.describe() for study in self.stand_in.by_id.values()]
            return [s for s in every if word in f"{s['name']} {s['cancerTypeId']}".lower()]
        study = self.study(parts[0])
        match parts[1:]:
            case []:
                return study.describe()
            case ["sample-lists"]:
                rows = {"category": "other", "studyId": study.study_id}
                return [rows | {"name": listed, "sampleListId": listed} for listed in study.lists()]
            case ["molecular-profiles"]:
                return study.profiles()
            case ["patients"]:
                owners, name = dict.fromkeys(study.owners.values()), study.study_id
                return [{"uniquePatientKey": key_of(p, name), "patientId": p, "studyId": name} for p in owners]
        raise Refused(f"no such path: studies/{'/'.join(parts)}")

    def of_profile(self, profile: str, parts: list[str], body: Any, query: dict[str, str]) -> Any:
        match parts:
            case []:
                return self.profile(profile).profiles()[0]
            case ["mutations", *_]:
                return self.mutations(profile, body, query)
            case ["gene-panel-data", "fetch"]:
                return self.panel_data(self.profile(profile), body["sampleListId"])
        raise Refused(f"no such path: molecular-profiles/{'/'.join(parts)}")

    def of_genes(self, parts: list[str], body: Any, query: dict[str, str]) -> Any:
        if not parts:
            return [gene(new) for new, old in self.stand_in.aliases.items() if old == query.get("alias")]
        return self.genes(body, query) if parts == ["fetch"] else self.gene(parts[0])

    def study(self, name: str) -> Study:
        if name not in self.stand_in.by_id:
            raise Refused(f"Study not found: {name}")
        return self.stand_in.by_id[name]

    def profile(self, name: str) -> Study:
        for study in self.stand_in.by_id.values():
            if study.profile_id == name:
                return study
        raise Refused(f"Molecular profile not found: {name}")

    def samples(self, listed: str) -> list[str]:
        for study in self.stand_in.by_id.values():
            if listed in study.lists():
                return study.lists()[listed]
        raise Refused(f"Sample list not found: {listed}")

    def mutations(self, profile: str, body: Any, query: dict[str, str]) -> list[dict[str, Any]]:
        study = self.profile(profile)
        asked = body or {"sampleListId": query["sampleListId"], "entrezGeneIds": [int(query["entrezGeneId"])]}
        samples, genes = set(self.samples(asked["sampleListId"])), set(asked["entrezGeneIds"])
        hits = [hit for hit in study.mutations if hit["sampleId"] in samples and hit["entrezGeneId"] in genes]
        page, size = int(query.get("pageNumber", 0)), int(query.get("pageSize", 10_000_000))
        if self.stand_in.unpaged:
            return hits
        if self.stand_in.shuffled:
            random.Random(page).shuffle(hits)
        return hits[page * size : (page + 1) * size]

    def panel_data(self, study: Study, listed: str) -> list[dict[str, Any]]:
        rows = []
        for sample in self.samples(listed):
            patient, panel = study.owners[sample], study.panel_of.get(sample)
            row = {"uniqueSampleKey": key_of(sample, study.study_id), "molecularProfileId": study.profile_id,
                   "uniquePatientKey": key_of(patient, study.study_id), "sampleId": sample, "patientId": patient,
                   "studyId": study.study_id, "profiled": sample in study.sequenced}  # fmt: skip
            rows.append(row | ({"genePanelId": panel} if panel else {}))
        return rows

    def panel(self, name: str) -> dict[str, Any]:
        for study in self.stand_in.by_id.values():
            if name in study.panels:
                own = [{"entrezGeneId": entrez_of(s), "hugoGeneSymbol": s} for s in study.panels[name]]
                return {"genePanelId": name, "description": "stand-in", "genes": own}
        raise Refused(f"Gene panel not found: {name}")

    def genes(self, wanted: list[str], query: dict[str, str]) -> list[dict[str, Any]]:
        if query.get("geneIdType", "ENTREZ_GENE_ID") != "HUGO_GENE_SYMBOL":
            return [self.gene(name) for name in wanted]
        known = set(self.stand_in.symbols().values())
        found = [gene(name) for name in wanted if name in known]
        twins = [{**gene(name), "entrezGeneId": entrez_of(name) + 1} for name in wanted if name in self.stand_in.twins]
        return found + twins

    def gene(self, number: str) -> dict[str, Any]:
        symbol = self.stand_in.symbols().get(int(number)) if number.isdecimal() else None
        if symbol is None:
            raise Refused(f"Gene not found: {number}")
        return gene(symbol)

    def json(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
