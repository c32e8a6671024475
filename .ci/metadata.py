"""``codemeta.json`` and ``.zenodo.json``, made of CITATION.cff and pyproject.toml: ``python .ci/metadata.py``.

``make docs`` calls it. Both files repeat what stands there and nothing else; change it there. Version and date of a
record at Zenodo are those of the release, so ``.zenodo.json`` has none: its schema knows no such field.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from deeplrhe_utils.core.files import to_json, write_text
from deeplrhe_utils.core.paths import REPOSITORY

DOI = "https://doi.org/"


def rendered(root: Path = REPOSITORY) -> dict[str, str]:
    """Name of each file → what it should say, from the two files of the folder `root`."""
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"codemeta.json": to_json(codemeta(cited, project)), ".zenodo.json": to_json(zenodo(cited, project))}


def codemeta(cited: dict[str, Any], project: dict[str, Any]) -> dict[str, Any]:
    """The software in CodeMeta 3.0, https://w3id.org/codemeta/3.0: terms of schema.org and a few of its own."""
    needs = [re.fullmatch(r"([\w.-]+)(.*)", text) for text in project["dependencies"]]
    papers = [one for one in cited["references"] if "doi" in one]
    said = {
        "@context": "https://w3id.org/codemeta/3.0",
        "@type": "SoftwareSourceCode",
        "name": cited["title"],
        "description": project["description"],
        "version": cited["version"],
        "datePublished": cited["date-released"],
        "author": [_agent(one) for one in cited["authors"]],
        "license": f"https://spdx.org/licenses/{cited['license']}",
        "codeRepository": cited["repository-code"],
        "keywords": cited["keywords"],
        "programmingLanguage": "Python",
        "runtimePlatform": f"Python {project['requires-python']}",
        "softwareRequirements": [
            {"@type": "SoftwareApplication", "name": need[1], "version": need[2]} for need in needs if need
        ],
        "referencePublication": [
            {"@id": DOI + one["doi"], "@type": "ScholarlyArticle", "name": one["title"]} for one in papers
        ],
    }
    return said | ({"identifier": DOI + cited["doi"]} if "doi" in cited else {})


def _agent(author: dict[str, Any]) -> dict[str, Any]:
    if "name" in author:
        return {"@type": "Organization", "name": author["name"]}
    person = {"@type": "Person", "familyName": author["family-names"], "givenName": author["given-names"]}
    return person | ({"@id": author["orcid"]} if "orcid" in author else {})


def zenodo(cited: dict[str, Any], project: dict[str, Any]) -> dict[str, Any]:
    """The record that Zenodo makes of a release, in the words of its deposit schema (legacyrecord.json)."""
    creators = []
    for author in cited["authors"]:
        name = author.get("name") or f"{author['family-names']}, {author['given-names']}"
        orcid = {"orcid": author["orcid"].rpartition("/")[2]} if "orcid" in author else {}
        creators.append({"name": name} | orcid)
    dois = [one["doi"] for one in cited["references"] if "doi" in one]
    return {
        "title": cited["title"],
        "description": project["description"],
        "upload_type": "software",
        "access_right": "open",
        "license": cited["license"],
        "creators": creators,
        "keywords": cited["keywords"],
        "related_identifiers": [{"identifier": doi, "relation": "references", "scheme": "doi"} for doi in dois],
    }


if __name__ == "__main__":
    for name, text in rendered().items():
        write_text(REPOSITORY / name, text)
        print(f"{name}: written")
