"""The site of notebooks, docs and report: built once, then read page by page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from deeplrhe_utils.core.paths import REPORTS, REPOSITORY
from tests.links import dead_links
from tests.site_of import build_site

pytest.importorskip("myst_nb", reason="the extra `site` is not installed")
LATEX = re.compile(r"\\(?:frac|sum|mathrm|mathcal|gamma|bar|log|left|begin)\b|\$\$|(?<!\w)\$[^$\n]*[\\^_{][^$\n]*\$")
MACHINE = re.compile(r"(?<![\w.~])/(?:home|root|tmp|work|usr|opt|Users|workspace)/\w")
ZERO_P = re.compile(r"\bp\s*=\s*0\.0+\b(?!\d)")
PLACEHOLDER = re.compile(r"OWNER(?!/deeplrhe-compendium)|example\.(?:com|org)|TODO|FIXME|lorem")


class Page(HTMLParser):
    """Sources and the visible text outside code."""

    HIDDEN = ("script", "style", "code", "pre")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.sources, self.words, self.inside = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        loads = tag in ("img", "script", "link")
        self.sources += [found[name] for name in ("src", "href") if loads and found.get(name)]
        self.inside += [tag] if tag in self.HIDDEN else []

    def handle_endtag(self, tag):
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.words.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not (REPORTS / "demo" / "run.json").is_file():
        pytest.skip("reports/demo has not been made: run `make reproduce`")
    return build_site(REPORTS / "demo", tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site):
    """Pages that Sphinx wrote; the run's own page is tested elsewhere."""
    other = {"genindex.html", "search.html"} | {f"reports/{name}/index.html" for name in ("demo", "tcga-features")}
    found = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html") if "_static" not in path.parts}
    return {path: Page(path.read_text(encoding="utf-8")) for name, path in found.items() if name not in other}


def test_every_notebook_and_document_is_a_page_and_nothing_comes_from_elsewhere(site, pages):
    names = {path.relative_to(site).as_posix() for path in pages}
    books = {f"notebooks/{path.stem}.html" for path in (REPOSITORY / "notebooks").glob("*.ipynb")}
    docs = {f"docs/{path.stem}.html" for path in (REPOSITORY / "docs").glob("*.md")}
    assert books | docs <= names and (site / ".nojekyll").is_file() and (site / "searchindex.js").is_file()
    assert [s for page in pages.values() for s in page.sources if "//" in s and not s.startswith("data:")] == []


def test_no_link_is_dead(site, pages):
    assert dead_links(site, pages) == []


@pytest.mark.parametrize(
    ("what", "pattern"),
    [("LaTeX", LATEX), ("a machine's path", MACHINE), ("p of zero", ZERO_P), ("a placeholder", PLACEHOLDER)],
)
def test_no_page_shows(what, pattern, site, pages):
    shown = [f"{path.relative_to(site)}: {match[0]}" for path, page in pages.items()
             for match in [pattern.search(" ".join(page.words))] if match]  # fmt: skip
    assert shown == [], what


def test_formulas_are_drawn_and_figures_are_not_empty(site, pages):
    assert "<math" in (site / "notebooks" / "04-dcgmm-normalization.html").read_text(encoding="utf-8")
    empty = re.compile(r"there is nothing to draw|Nothing to compare", re.IGNORECASE)
    books = {path.name: " ".join(page.words) for path, page in pages.items() if path.parent.name == "notebooks"}
    assert [name for name, words in books.items() if empty.search(words)] == []
    lost = [s for path, page in pages.items() for s in page.sources
            if not s.startswith("data:") and not (path.parent / unquote(urlsplit(s).path)).is_file()]  # fmt: skip
    assert lost == []
