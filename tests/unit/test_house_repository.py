"""What is committed: no traces of a machine, nothing large, links that lead somewhere, one public address."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from deeplrhe_utils.core.paths import REPOSITORY

LARGEST_BYTES = 1_000_000
LARGEST_NOTEBOOK_BYTES = 800_000
ADDRESS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["deeplrhe"]["repository"]
PUBLIC = (
    re.compile(r"mybinder\.org/v2/gh/([\w.-]+/[\w.-]+)"),
    re.compile(r"github\.com/([\w.-]+/deeplrhe[\w.-]*)", re.IGNORECASE),
)
MACHINE = re.compile(r"(?<![\w>}*.~-])/(?:work|root|home|Users|mnt|media)/[\w.]")
HOSTS = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.(?:org|com)|npmjs\.org)")
# Names of tools that leave traces in text; reversed, so that this file passes its own test.
WORDS = re.compile("|".join(rf"\b{w[::-1]}\b" for w in ("edualc", "ciporhtna", "tpgtahc", "tolipoc", "tnegabus")), re.I)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@cache
def files() -> tuple[Path, ...]:
    """Files that are, or would be, committed."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("git is absent or this is not a git checkout, so nobody knows what is committed")
    return tuple(p for name in sorted(set(done.stdout.split("\0"))) if name and (p := REPOSITORY / name).is_file())


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def texts() -> list[tuple[str, str]]:
    """(name, text) of every committed text file."""
    found = []
    for path in files():
        data = path.read_bytes()
        if b"\0" not in data:
            found.append((name_of(path), data.decode("utf-8")))
    return found


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    hits = []
    for name, text in texts():
        for number, line in enumerate(text.splitlines(), start=1):
            if match := pattern.search(line):
                hits.append(f"{name}:{number}: {line[max(0, match.start() - 40) : match.end() + 40].strip()}")
    return hits


@pytest.mark.parametrize("pattern", [MACHINE, HOSTS, WORDS], ids=["machine paths", "package hosts", "tools"])
def test_texts_carry_no_traces(pattern):
    assert lines_with(pattern) == []


def test_committed_files_are_small():
    large = {name_of(p): p.stat().st_size for p in files() if p.stat().st_size >= LARGEST_BYTES}
    assert large == {}, f"files of {LARGEST_BYTES} bytes or more"


def test_executed_notebooks_are_readable_on_the_web():
    books = [p for p in files() if p.suffix == ".ipynb" and "reports" in p.parts]
    large = {name_of(p): p.stat().st_size for p in books if p.stat().st_size >= LARGEST_NOTEBOOK_BYTES}
    assert large == {}


def test_of_the_runs_three_are_committed_and_nothing_heavy_nor_a_patient():
    inside = [p.relative_to(REPOSITORY / "reports") for p in files() if p.is_relative_to(REPOSITORY / "reports")]
    runs = [p for p in inside if len(p.parts) > 1]
    assert {p.parts[0] for p in runs} <= {"demo", "lc25000", "tcga-features"}
    real = [p for p in runs if p.parts[0] == "tcga-features"]
    assert not [p for p in real if p.suffix in {".parquet", ".safetensors"} or p.name.startswith("split_")]
    assert not [p for p in runs if p.parts[1] in {"work", "stages", "logs"} or p.parts[1].startswith(".")]


def markdown() -> list[Path]:
    return [p for p in files() if p.suffix == ".md"]


def test_relative_links_lead_to_files_and_headings():
    broken = []
    for page in markdown():
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            place, _, anchor = unquote(target).partition("#")
            path = (page.parent / place).resolve() if place else page
            known = path.exists() and (not anchor or path.suffix != ".md" or anchor in anchors(path))
            if not known and not name_is_of_the_demo(path):
                broken.append(f"{name_of(page)}: {target}")
    assert broken == []


def name_is_of_the_demo(path: Path) -> bool:
    demo = REPOSITORY / "reports" / "demo"
    return path.is_relative_to(demo) and not (demo / "index.html").is_file()


def anchors(page: Path) -> set[str]:
    titles = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_the_public_address_is_the_same_everywhere():
    wrong = [
        f"{name}: {found}"
        for name, text in texts()
        for pattern in PUBLIC
        for found in pattern.findall(text)
        if found.removesuffix(".git") != ADDRESS
    ]
    assert wrong == [], f"expected {ADDRESS}, as pyproject.toml says"


def test_the_badges_lead_somewhere():
    badges = re.findall(r"\[!\[[^\]]+\]\([^)]+\)\]\(([^)]+)\)", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert len(badges) == 2
    binder = f"https://mybinder.org/v2/gh/{ADDRESS}/HEAD?urlpath=lab/tree/"
    opened = [b.removeprefix(binder) for b in badges if b.startswith(binder)]
    local = [b for b in badges if "://" not in b]
    assert len(opened) == len(local) == 1
    for target in opened + local:
        assert (REPOSITORY / target).is_file(), f"a badge leads to {target}, which is not there"


def test_the_citation_names_software_and_papers():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert citation["repository-code"] == f"https://github.com/{ADDRESS}"
    dois = {reference.get("doi") for reference in citation["references"]} - {None}
    assert dois == {"10.3389/fgene.2021.642981", "10.3389/fgene.2020.00768", "10.1038/s41591-018-0177-5"}
    assert "Ghazvinian Zanjani" in {a["family-names"] for r in citation["references"] for a in r["authors"]}


def test_the_changelog_tells_which_numbers_changed():
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert releases and all("### Numbers changed" in release for release in releases)


def test_both_licences_are_whole():
    mit, by = ((REPOSITORY / n).read_text(encoding="utf-8") for n in ("LICENSE", "LICENSE-CC-BY-4.0"))
    assert mit.startswith("MIT License") and "WITHOUT WARRANTY OF ANY KIND" in mit
    assert by.startswith("Attribution 4.0 International") and "Section 8 -- Interpretation." in by
