"""Every notebook keeps the house's skeleton, so that a reader knows where to look."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from matplotlib.mathtext import MathTextParser

from deeplrhe_utils.core.paths import NOTEBOOKS
from deeplrhe_utils.running.plan.parameters import Parameter, parse_parameters

BOOKS = sorted(NOTEBOOKS.glob("*.ipynb"))
CLOSING = ["Checks", "What to remember", "Outputs written", "References"]
LONGEST_CELL = 15
WORDS_PER_CODE_LINE = 5.0
MOST_WORDS, MOST_LINES = 1_200, 200
MEDIAN_CELL = 6
LAMBDAS: dict[str, int] = {}  # notebook → how many are unavoidable
HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
SENTENCE_END = re.compile(r"[.!?:]['\"”)*]*(?=\s|$)")
TAGS = {"parameters", "skip-execution"}
READERS_OF_OTHER_RUNS = {"06-roc-analysis", "07-heat-maps"}  # there run_dir names results, not where they go
NOT_AN_ACCURACY = re.compile(r"\b(?:never|not|calling|called)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Cell:
    kind: str
    source: str
    tags: frozenset[str]
    raw: str


@cache
def cells(path: Path) -> tuple[Cell, ...]:
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        tags = frozenset(cell["metadata"].get("tags", []))
        found.append(Cell(cell["cell_type"], "".join(cell["source"]), tags, json.dumps(cell)))
    return tuple(found)


def prose(path: Path) -> list[str]:
    return [cell.source for cell in cells(path) if cell.kind == "markdown"]


def code(path: Path) -> list[str]:
    return [cell.source for cell in cells(path) if cell.kind == "code"]


def headings(path: Path) -> list[tuple[str, str]]:
    """(marks, title), in order."""
    return [match for text in prose(path) for match in HEADING.findall(text)]


def section(path: Path, title: str) -> list[Cell]:
    """Cells from the heading that begins with `title` to the next heading; the first begins at the heading."""
    inside, found = False, []
    for cell in cells(path):
        if cell.kind == "markdown":
            for part in re.split(r"(?m)^(?=## )", cell.source):
                if part.startswith("## "):
                    inside = part.startswith(f"## {title}")
                if inside and part.strip():
                    found.append(Cell("markdown", part, cell.tags, cell.raw))
        elif inside:
            found.append(cell)
    return found


def code_lines(source: str) -> list[str]:
    return [line for line in source.splitlines() if line.strip()]


def parameters(path: Path) -> list[Parameter]:
    tagged = [cell.source for cell in cells(path) if "parameters" in cell.tags]
    assert len(tagged) == 1, f"{len(tagged)} cells are tagged `parameters`, and there must be one"
    return parse_parameters(tagged[0], path.name)


every_book = pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)


def test_the_notebooks_are_numbered_without_gaps():
    assert [path.name[:2] for path in BOOKS] == [f"{number:02d}" for number in range(len(BOOKS))]
    assert len(BOOKS) >= 8


@every_book
def test_sources_carry_no_outputs_and_no_traces(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    for cell in (c for c in book["cells"] if c["cell_type"] == "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None, "strip the outputs"
        assert set(cell["metadata"]) <= {"tags"}, f"metadata of an editor: {sorted(cell['metadata'])}"
    assert set(book["metadata"]) <= {"kernelspec", "language_info"}
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert {tag for cell in cells(path) for tag in cell.tags} <= TAGS


@every_book
def test_title_asks_a_question(path):
    titles = [title for marks, title in headings(path) if marks == "#"]
    assert len(titles) == 1 and cells(path)[0].source.startswith("# ")
    assert re.fullmatch(rf"{path.name[:2]} · [^:]+: .+\?", titles[0]), titles[0]


@every_book
def test_sections_come_in_the_order_of_the_house(path):
    titles = [title for marks, title in headings(path) if marks == "##"]
    steps = titles[1 : -len(CLOSING)]
    assert titles[0] == "Parameters" and titles[-len(CLOSING) :] == CLOSING
    assert steps and [s.split(":")[0] for s in steps] == [f"Step {i}" for i in range(1, len(steps) + 1)]
    assert all(re.fullmatch(r"Step \d+: \S.+", step) for step in steps)
    assert {marks for marks, _ in headings(path)} == {"#", "##"}


@every_book
def test_at_a_glance_tells_what_why_and_how_long(path):
    glance = cells(path)[1]
    assert glance.kind == "markdown" and glance.source.startswith("**At a glance.**")
    assert "*Time:*" in glance.source and "*Memory:*" in glance.source
    if path.name[:2] != "00":
        assert "The paper:" in glance.source, "quote the paper"
        assert "What we do differently, and why:" in glance.source


@every_book
def test_parameters_are_typed_described_and_shown_first(path):
    tagged = next(i for i, cell in enumerate(cells(path)) if "parameters" in cell.tags)
    assert tagged == next(i for i, cell in enumerate(cells(path)) if cell.kind == "code"), "not the first code cell"
    for parameter in parameters(path):
        assert parameter.description, f"{parameter.name} has no description"
        assert parameter.unit or parameter.choices, f"{parameter.name} has no [unit] and no [choices: …]"
    assert parameters(path)[0].name == "run_dir"


def test_a_parameter_means_the_same_in_every_notebook():
    seen: dict[str, tuple[str, Parameter]] = {}
    for path in BOOKS:
        for parameter in parameters(path):
            if parameter.name == "run_dir" and path.stem in READERS_OF_OTHER_RUNS:
                assert parameter.default == "" and parameter.description.startswith("results to ")
                continue
            where, first = seen.setdefault(parameter.name, (path.stem, parameter))
            assert parameter == first, f"{parameter.name} differs between {where} and {path.stem}"


@every_book
def test_the_setup_cell_starts_the_run(path):
    setup = code(path)[1]
    assert re.search(rf'^run = start_run\("{path.stem}", ', setup, re.MULTILINE)


@every_book
def test_imports_stand_in_the_setup_cell(path):
    for number, source in enumerate(code(path)):
        found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert number == 1 or not found, f"code cell {number} imports: {source.splitlines()[0]}"


@every_book
def test_steps_explain_themselves_before_they_compute(path):
    for title in [t for marks, t in headings(path) if marks == "##" and t.startswith("Step")]:
        first, *rest = section(path, title)
        text = first.source.split("\n", 1)[1] if "\n" in first.source else ""
        assert len(SENTENCE_END.findall(text)) >= 2, f"{title}: at least two sentences say why"
        assert any(cell.kind == "code" for cell in rest), f"{title}: nothing is computed"


@every_book
def test_a_reading_follows_results(path):
    assert any("*Reading.*" in text for text in prose(path))
    assert any("would worry us" in text for text in prose(path)), "say what would worry us"


@every_book
def test_cells_are_short(path):
    for number, source in enumerate(code(path)):
        lines = code_lines(source)
        if number == 0:  # parameters: one line each
            continue
        if number == 1:  # setup: imports do not count
            imports = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.Import, ast.ImportFrom))]
            lines = lines[sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in imports) :]
        assert len(lines) <= LONGEST_CELL, f"{len(lines)} lines: {lines[0]}"


@every_book
def test_formulas_can_be_drawn(path):
    """Else the notebook has no HTML page, and a run goes on without a word but one line."""
    for text in prose(path):
        for formula in re.findall(r"\$\$?([^$\n]+)\$", re.sub(r"`[^`]*`", "", text)):
            MathTextParser("path").parse(f"${formula}$")


@every_book
def test_notebooks_define_no_functions(path):
    nodes = [node for source in code(path) for node in ast.walk(ast.parse(source))]
    assert not [n for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    lambdas = [ast.unparse(node) for node in nodes if isinstance(node, ast.Lambda)]
    assert len(lambdas) <= LAMBDAS.get(path.stem, 0), f"functions in disguise: {lambdas}"


@every_book
def test_prose_outweighs_code_and_neither_is_long(path):
    words = sum(len(text.split()) for text in prose(path))
    lines = sum(len(code_lines(source)) for source in code(path))
    assert words / lines >= WORDS_PER_CODE_LINE, f"{words} words for {lines} lines of code: {words / lines:.1f}"
    assert words <= MOST_WORDS and lines <= MOST_LINES, f"{words} words, {lines} lines"


def test_a_code_cell_is_a_few_lines():
    medians = [median(len(code_lines(source)) for source in code(path)) for path in BOOKS]
    assert median(medians) <= MEDIAN_CELL, dict(zip([path.name[:2] for path in BOOKS], medians, strict=True))


@every_book
def test_what_is_shown_has_a_finding_and_a_caption(path):
    """The finding stands in the cell that shows it, the caption in the next."""
    for cell, after in pairwise(cells(path)):
        figures = re.findall(r"run\.figure\(\s*f?[\"']([\w.-]+)", cell.source) if cell.kind == "code" else []
        assert all(f'run.found("{name}"' in cell.source for name in figures), f"no finding: {figures}"
        if figures:
            assert re.match(r"\*\*Figure[^*]*\.\*\* \S", after.source), f"no caption (**Figure …** …) after {figures}"
        if after.kind == "markdown" and re.match(r"\*\*(Figure|Table)", after.source):
            assert cell.kind == "code" and "run.found(" in cell.source, f"no finding before: {after.source[:60]}"


@every_book
def test_no_cell_ends_with_the_name_of_a_file(path):
    for source in code(path):
        last = ast.parse(source).body[-1]
        call = ast.unparse(last.value) if isinstance(last, ast.Expr) else ""
        assert not re.match(r"run\.(write|write_csv|numbers|declare)\(", call) or source.rstrip().endswith(";"), call


@every_book
def test_every_worry_is_answered(path):
    for cell, after in pairwise((*cells(path), Cell("end", "", frozenset(), ""))):
        asked = len(re.findall(r"would worry us", cell.source)) if cell.kind == "markdown" else 0
        assert asked <= 1 and (not asked or "run.answer(" in after.source), f"unanswered: {cell.source[-120:]}"


@every_book
def test_the_end_names_three_findings(path):
    if path.name[:2] == "00":  # it tells those of the whole run
        return
    shown = [cell.source for cell in section(path, "What to remember") if cell.kind == "code"]
    names = re.findall(r'"([\w.-]+)"', " ".join(shown))
    known = re.findall(r'run\.found\("([\w.-]+)"', "\n".join(code(path)))
    assert shown and shown[0].startswith("run.remember(") and len(names) == 3 and set(names) <= set(known), names


@every_book
def test_checks_assert_with_sentences(path):
    checks = [cell.source for cell in section(path, "Checks") if cell.kind == "code"]
    asserts = [n for source in checks for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assert)]
    assert asserts, "nothing is checked"
    for node in asserts:
        message = node.msg
        text = "".join(n.value for n in ast.walk(message) if isinstance(n, ast.Constant) and isinstance(n.value, str))
        assert len(text.split()) >= 3, f"no sentence: assert {ast.unparse(node.test)}"


@every_book
def test_outputs_end_with_finish(path):
    written = [cell.source for cell in section(path, "Outputs written") if cell.kind == "code"]
    assert written and written[-1].rstrip().splitlines()[-1] == "run.finish()"
    assert sum(source.count("run.finish()") for source in code(path)) == 1


@every_book
def test_the_end_names_limits_and_sources(path):
    remember = " ".join(cell.source for cell in section(path, "What to remember"))
    number = int(path.name[:2])
    assert len(SENTENCE_END.findall(remember)) >= 2
    if number + 1 < len(BOOKS):
        assert f"**{number + 1:02d}**" in remember, "name the next notebook"
    references = section(path, "References")[0].source
    assert "Yang" in references and re.search(r"^- ", references, re.MULTILINE)


@every_book
def test_an_auc_is_no_accuracy_and_a_mutation_no_response(path):
    text = " ".join(cell.source for cell in cells(path))
    for sentence in re.split(r"(?<=[.;?!])\s", text):
        if "accuracy" in sentence.lower():
            assert NOT_AN_ACCURACY.search(sentence), sentence
    assert "responder" not in text.lower()


@every_book
def test_the_planted_truth_is_opened_from_08_on_only(path):
    """01 writes it, unread; nothing between 01 and 08 names it."""
    text = "\n".join(code(path))
    assert ("read_truth(" in text) <= (path.name[:2] >= "08")
    if "02" <= path.name[:2] <= "07":
        assert "truth" not in text and "synthetic." not in text and "effects" not in text
