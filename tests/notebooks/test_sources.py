"""What is quoted from the two source texts stands in them, and sections are called what they are called there."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from deeplrhe_utils.core.paths import NOTEBOOKS, REFERENCE_DATA
from tests.conftest import SHARED_DATA

QUOTED = re.compile(r"[\"“]([^\"“”]{2,})[\"”]")
ABOUT_THEM = re.compile(r"\b(?:paper|article)\b", re.IGNORECASE)
YANG, ARTICLE = "Yang 2021", "Article on Coudray 2018"
FRONT = {"title", "abstract"}  # they have no heading


def _bare(text: str) -> str:
    """Without what typesetting changes: blanks, kinds of quotation marks, capitals."""
    return re.sub(r"\s+", "", text).translate(str.maketrans("“”‘’", "\"\"''")).casefold()


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    files = sorted((SHARED_DATA.parent / "seeds").glob("*.txt"))
    if not files:
        pytest.skip("the two source texts (../shared/seeds beside the checkout) are not here")
    return {YANG if "DeepLRHE" in text else ARTICLE: text for text in (f.read_text(encoding="utf-8") for f in files)}


def _sections(text: str) -> dict[str, str]:
    """Heading → what stands below it, bare; a heading is a short line of words (the article ends it with a stop)."""
    found, head = {"title": _bare(text.strip().splitlines()[0]), "abstract": ""}, "abstract"
    for line in text.replace("\xa0", " ").splitlines():
        if len(line) < 60 and (match := re.fullmatch(r"([A-Z][\w ]+)\.?", line.strip())):
            head = match[1].casefold()
        found[head] = found.get(head, "") + _bare(line)
    return found


def _stands(quotation: str, bare: str) -> bool:
    """Whether a quotation is in a text; its parts around an ellipsis stand in this order."""
    parts = [re.escape(_bare(part).rstrip(".,;")) for part in re.split(r"…|\.\.\.", quotation)]
    return re.search(".*".join(parts), bare, re.DOTALL) is not None


def _missing(quotation: str, sources: dict[str, str]) -> bool:
    return not any(_stands(quotation, _bare(text)) for text in sources.values())


def _places(quotation: str, sources: dict[str, str]) -> str:
    """Sections in which a quotation stands, as ``source: section``."""
    return "; ".join(f"{name}: {head.capitalize()}" for name, text in sources.items()
                     for head, own in _sections(text).items() if _stands(quotation, own))  # fmt: skip


def quotations(text: str) -> list[str]:
    """All in the paragraph that opens a notebook and in sentences about the paper, and whatever has five words."""
    found = []
    for paragraph in text.split("\n\n"):
        opening = paragraph.startswith("**At a glance.**")
        for sentence in [paragraph] if opening else re.split(r"(?<=[.:;?!])\s+(?=[A-Z(*])", paragraph):
            theirs = opening or ABOUT_THEM.search(sentence)
            found += [q for q in QUOTED.findall(sentence) if theirs or len(q.split()) > 4]
    return found


def _prose() -> dict[str, str]:
    books = {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in NOTEBOOKS.glob("*.ipynb")}
    return {name: "\n\n".join("".join(c["source"]) for c in own if c["cell_type"] == "markdown")
            for name, own in sorted(books.items())}  # fmt: skip


def listed() -> pd.DataFrame:
    """Every quotation of the notebooks and the reference tables: place, quotation."""
    rows = [(name, q) for name, text in _prose().items() for q in quotations(text)]
    for name in ("claims.csv", "errata.csv"):
        rows += [
            (name, q) for s in pd.read_csv(REFERENCE_DATA / name, dtype=str)["statement"] for q in QUOTED.findall(s)
        ]
    return pd.DataFrame(rows, columns=["place", "quotation"]).drop_duplicates(ignore_index=True)


def test_the_list_of_quotations_is_complete():
    """Also where the two texts are not at hand: what is new is compared with them before it is listed."""
    committed = pd.read_csv(REFERENCE_DATA / "quotations.csv", dtype=str)
    pd.testing.assert_frame_equal(committed[["place", "quotation"]], listed(), check_dtype=False)


def test_the_list_of_quotations_says_where_they_stand(sources):
    committed = pd.read_csv(REFERENCE_DATA / "quotations.csv", dtype=str)
    expected = listed()
    expected["section"] = [_places(quotation, sources) for quotation in expected["quotation"]]
    assert expected["section"].ne("").all(), expected[expected["section"].eq("")].to_string()
    pd.testing.assert_frame_equal(committed, expected, check_dtype=False)


def test_every_quotation_of_the_notebooks_stands_in_a_source(sources):
    found = {name: quotations(text) for name, text in _prose().items()}
    assert all(found.values()), f"a notebook quotes nothing: {[name for name, own in found.items() if not own]}"
    wrong = [(name, quotation) for name, own in found.items() for quotation in own if _missing(quotation, sources)]
    assert not wrong
    assert _missing("1,800 image blocks", sources) and not _missing("TP53 had highest AUC … 0.87", sources)


def test_every_section_that_notebooks_name_is_one(sources):
    cited = [(name, section) for name, text in _prose().items()
             for listed in re.findall(rf"{YANG}, sections? ([^.(]*)", text)
             for section in re.findall(r"\*([^*]+)\*", listed)]  # fmt: skip
    assert len(cited) > 12
    assert not [where for where in cited if where[1].casefold() not in _sections(sources[YANG])]


def test_the_reference_tables_quote_and_name_what_is_there(sources):
    names = ("claims", "errata", "article_counts")
    claims, errata, counts = (pd.read_csv(REFERENCE_DATA / f"{name}.csv", dtype=str) for name in names)
    wrong = [q for q in "\n".join([*errata["statement"], *claims["statement"]]).split("\n")
             for q in QUOTED.findall(q) if _missing(q, sources)]  # fmt: skip
    named = [*zip(errata["source"], errata["section"], strict=True)]
    placed = [text for text in [*claims["source"], *counts["source"]] if ", " in text]
    named += [tuple(text.split(":")[0].split(", ", 1)) for text in placed]
    for source, name in named:
        heads = _sections(sources[source]) if source in sources else FRONT
        wrong += [(source, s) for s in ([name] if name.casefold() in heads else re.split(r" and | / ", name))
                  if s.casefold() not in heads and not s.startswith("Table")]  # fmt: skip
    assert not wrong


def test_what_is_quoted_stands_in_the_section_that_is_named(sources):
    errata, claims = (pd.read_csv(REFERENCE_DATA / f"{name}.csv", dtype=str) for name in ("errata", "claims"))
    named = [*zip(errata["source"] + ": " + errata["section"], errata["statement"], strict=True),
             *zip(claims["source"].str.replace(", ", ": "), claims["statement"], strict=True)]  # fmt: skip
    checked = [(where, q, _places(q, sources).casefold()) for where, text in named for q in QUOTED.findall(text)]
    assert len(checked) > 12 and not [row for row in checked if row[0].casefold() not in row[2].split("; ")]


def test_what_a_claim_reports_in_figures_is_in_the_section_it_names(sources):
    """Section names alone cannot tell that a number is somewhere else."""
    claims = pd.read_csv(REFERENCE_DATA / "claims.csv", dtype=str)
    own = claims[claims["source"].str.startswith(f"{YANG}, ") & claims["reported"].str.contains(r"\d")]
    text = _sections(sources[YANG])
    checked = {}
    for row in own.itertuples():
        number = _bare(row.reported)
        spelled = {number, f"{100 * float(number):g}%"} if number.startswith("0.") else {number}
        if any(one in _bare(sources[YANG]) for one in spelled):
            checked[row.id] = any(one in text[row.source.split(", ", 1)[1].casefold()] for one in spelled)
    assert len(checked) >= 7 and all(checked.values()), checked
