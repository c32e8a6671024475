"""CITATION.cff, codemeta.json and .zenodo.json: one truth in three formats, each by the rules of its own schema.

The rules are those parts of the schemas that our files touch; the whole ones are larger than the package's own tests.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shutil

import pytest
import yaml

from deeplrhe_utils.core.paths import REPOSITORY

_SPEC = importlib.util.spec_from_file_location("metadata", REPOSITORY / ".ci" / "metadata.py")
metadata = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(metadata)

TEXT = {"type": "string", "minLength": 1}
URL = {"type": "string", "pattern": r"^https?://\S+$"}
DOI = {"type": "string", "pattern": r"^10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-\.\(\)\[\]\\]+$"}
DAY = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"}


def table(required, **properties):
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def some(items, least=1):
    return {"type": "array", "minItems": least, "items": items, "uniqueItems": True}


PERSON = table(["family-names"], **{"family-names": TEXT, "given-names": TEXT, "affiliation": TEXT, "orcid": {
    "type": "string", "pattern": r"^https://orcid\.org/(\d{4}-){3}\d{3}[\dX]$"}})  # fmt: skip
AGENTS = some({"anyOf": [PERSON, table(["name"], name=TEXT)]})
CFF = table(
    ["authors", "cff-version", "message", "title"],
    **{"cff-version": {"const": "1.2.0"}, "message": TEXT, "title": TEXT, "type": {"enum": ["software", "dataset"]},
       "version": TEXT, "authors": AGENTS, "license": {"const": "MIT"}, "repository-code": URL, "keywords": some(TEXT),
       "doi": DOI, "date-released": DAY,
       "references": some(table(["authors", "title", "type"], **{
           "type": {"enum": ["article", "conference-paper"]}, "title": TEXT, "authors": AGENTS, "journal": TEXT,
           "volume": {"type": ["integer", "string"]}, "start": TEXT, "end": TEXT, "year": {"type": "integer"},
           "doi": DOI, "notes": TEXT, "collection-title": TEXT, "conference": table(["name"], name=TEXT)}))},
)  # fmt: skip
"""Of the schema of CFF 1.2.0."""
TYPED = {"type": "object", "required": ["@type", "name"]}
CODEMETA = table(
    ["@context", "@type", "name", "description", "author"],
    **{"@context": {"const": "https://w3id.org/codemeta/3.0"}, "@type": {"const": "SoftwareSourceCode"},
       "name": TEXT, "description": TEXT, "version": TEXT, "datePublished": DAY, "license": URL,
       "codeRepository": URL, "identifier": URL,
       "keywords": some(TEXT), "programmingLanguage": TEXT, "runtimePlatform": TEXT,
       "author": some({"type": "object", "required": ["@type"], "properties": {
           "@type": {"enum": ["Person", "Organization"]}, "@id": URL}}),
       "softwareRequirements": some(TYPED), "referencePublication": some({**TYPED, "properties": {"@id": URL}})},
)  # fmt: skip
"""Terms of CodeMeta 3.0, with what its generator asks for."""
ZENODO = table(
    ["title", "description", "upload_type", "creators"],
    title=TEXT, description=TEXT, upload_type={"const": "software"}, access_right={"const": "open"}, license=TEXT,
    keywords=some(TEXT),
    creators=some(table(["name"], name=TEXT, orcid={"type": "string", "pattern": r"^(\d{4}-){3}\d{3}[\dX]$"})),
    related_identifiers=some(table(["identifier"], identifier=DOI, scheme={"const": "doi"},
                                   relation={"enum": ["cites", "references", "isDerivedFrom"]})),
)  # fmt: skip
"""Of Zenodo's deposit schema, legacyrecord.json."""
RULES = {"CITATION.cff": CFF, "codemeta.json": CODEMETA, ".zenodo.json": ZENODO}


def faults(name, told):
    schemas = pytest.importorskip("jsonschema", reason="nbformat brings it")
    return [fault.message for fault in schemas.Draft202012Validator(RULES[name]).iter_errors(told)]


def read(name, root=REPOSITORY):
    return yaml.safe_load((root / name).read_text(encoding="utf-8"))  # JSON is YAML


def test_both_files_say_what_the_citation_says():
    for name, text in metadata.rendered().items():
        assert (REPOSITORY / name).read_text(encoding="utf-8") == text, f"{name}: run `make docs`"


@pytest.mark.parametrize("name", RULES)
def test_each_file_keeps_the_rules_of_its_schema(name):
    told = read(name)
    assert faults(name, told) == []
    for key in RULES[name]["required"]:
        assert faults(name, {k: v for k, v in told.items() if k != key}), key
    assert faults(name, told | {"unknown": "x"}) and faults(name, told | {"keywords": []})


def test_people_orcids_and_a_doi_reach_every_format(tmp_path):
    cited = copy.deepcopy(read("CITATION.cff"))
    person = {"family-names": "Carberry", "given-names": "Josiah", "orcid": "https://orcid.org/0000-0002-1825-0097"}
    cited |= {"authors": [person, {"name": "A group"}], "doi": "10.5072/zenodo.1"}
    (tmp_path / "CITATION.cff").write_text(yaml.safe_dump(cited), encoding="utf-8")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    told = {name: json.loads(text) for name, text in metadata.rendered(tmp_path).items()}
    assert not any(faults(name, one) for name, one in (told | {"CITATION.cff": cited}).items())
    assert told["codemeta.json"]["identifier"] == "https://doi.org/10.5072/zenodo.1"
    assert told["codemeta.json"]["author"][0] == {
        "@type": "Person", "@id": person["orcid"], "familyName": "Carberry", "givenName": "Josiah"
    }  # fmt: skip
    assert told[".zenodo.json"]["creators"] == [
        {"name": "Carberry, Josiah", "orcid": "0000-0002-1825-0097"}, {"name": "A group"}
    ]  # fmt: skip


def test_each_principle_of_fair_software_has_a_state_and_they_are_counted():
    text = (REPOSITORY / "docs" / "fair4rs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([FAIR][\d.]+) \| .+ \| (met|partly|not met until released) \| .+ \|$", text, re.M)
    expected = {"F": "1 1.1 1.2 2 3 4", "A": "1 1.1 1.2 2", "I": "1 2", "R": "1 1.1 1.2 2 3"}
    assert [name for name, _ in rows] == [f"{one}{number}" for one, own in expected.items() for number in own.split()]
    states = [state for _, state in rows]
    words = dict(enumerate(["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]))
    counts = [words[states.count(state)] for state in ("met", "partly", "not met until released")]
    assert f"{counts[0].capitalize()} are met, {counts[1]} partly, {counts[2]} wait for a release." in text
    if "doi" in read("CITATION.cff"):
        assert not re.search(r"^\| F1 \| .+ \| not met", text, re.M), "there is a DOI: judge again"
