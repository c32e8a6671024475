"""One static site of notebooks, docs and report: ``make site PROFILE=demo`` (``build/site/html/index.html``).

Sphinx and MyST-NB build it from what is committed; nothing is computed and nothing is fetched, neither now nor by a
reader's browser. Formulas become MathML. The layout of folders is that of the repository, so that links hold; what is
no page of the site is linked at its public address.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

from deeplrhe_utils.core.paths import REPORTS, REPOSITORY
from deeplrhe_utils.core.text import escaped

REAL = REPORTS / "tcga-features"
REAL_BOOK = "notebooks/13-*.ipynb"
SINGLE = ("REPRODUCING.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "benchmarks/README.md",
          "reports/README.md", "reports/lc25000/README.md")  # fmt: skip
PICTURES = ("docs/figures", "reports/demo/figures", "reports/tcga-features/figures", "reports/lc25000/figures")
LEFT = shutil.ignore_patterns("work", "stages", "logs", "models", "*.lock", ".*")
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\((?!https?://|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")
PUBLIC = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["deeplrhe"]["repository"]
WIDGETS = ("application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json")
LOG_LINES = 4
DOC = re.compile(r"docs/[\w-]+\.md")
TOC = {
    "The executable paper": "notebooks/[0-9]*",
    "Real patients": "docs/real-lungs\nreports/tcga-features/notebooks/[0-9]*\nreports/lc25000/README",
    "Use it": "REPRODUCING\ndocs/platforms\ndocs/your-data\ndocs/judge\ndocs/scoring\ndocs/tcga\ndocs/heat-maps\n"
    "docs/stain\ndocs/training\ndocs/clusters\ndata/README",
    "How it works": "docs/architecture\ndocs/synthetic-cohort\ndocs/probes\ndocs/cross-fitting\ndocs/quality-filter\n"
    "docs/mutation-labels\ndocs/download-faults\ndocs/faults\nbenchmarks/README\nreports/README\nCONTRIBUTING\n"
    "docs/reproducibility\ndocs/fair4rs\nCHANGELOG",
}


def main(run: Path, build: Path = REPOSITORY / "build" / "site") -> int:
    """Build the site of the run in the folder `run` below `build`; 1 when Sphinx warns of a page that is not whole."""
    if not (run / "run.json").is_file():
        print(f"There is no run in {run}. `make demo` makes one in reports/demo", file=sys.stderr)
        return 1
    shutil.rmtree(build, ignore_errors=True)
    source, html = build / "source", build / "html"
    docs = sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").glob("*.md"))
    texts = {name: markdown((REPOSITORY / name).read_text(encoding="utf-8"), name, run) for name in (*SINGLE, *docs)}
    books = [(f"notebooks/{path.name}", path, run) for path in sorted((run / "notebooks").glob("*.ipynb"))]
    books += [(path.relative_to(REPOSITORY).as_posix(), path, REAL) for path in REAL.glob(REAL_BOOK)]
    texts |= {name: notebook(path, name, of) for name, path, of in books} | {"index.md": home(run)}
    for name, text in texts.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text, encoding="utf-8")
    for folder in filter(Path.is_dir, map(REPOSITORY.joinpath, PICTURES)):
        shutil.copytree(folder, source / folder.relative_to(REPOSITORY))
    (source / "_static").mkdir()
    shutil.copy(Path(__file__).with_suffix(".css"), source / "_static" / "pages.css")
    app = Sphinx(source, None, html, build / "doctrees", "html", settings(), status=None)
    app.build()
    for of in (run, REAL):
        shutil.copytree(of, html / "reports" / of.name, ignore=LEFT, dirs_exist_ok=True)
    shutil.rmtree(html / "_sources", ignore_errors=True)
    print(html / "index.html")
    return int(app.statuscode)


def settings() -> dict[str, Any]:
    """Sphinx's configuration."""
    return {
        "project": "DeepLRHE compendium", "html_title": "DeepLRHE compendium", "copyright": "CC BY 4.0",
        "extensions": ["myst_nb", "sphinx.ext.githubpages", "pages"], "nb_execution_mode": "off",
        "nb_ipywidgets_js": {}, "nb_merge_streams": True, "nb_output_stderr": "remove",
        "nb_render_markdown_format": "myst", "myst_heading_anchors": 4, "html_theme": "furo",
        "myst_enable_extensions": ["dollarmath"], "html_math_renderer": "mathml", "html_static_path": ["_static"],
        "html_css_files": ["pages.css"], "html_show_sphinx": False, "html_copy_source": False,
        "nb_mime_priority_overrides": [("html", "text/markdown", 5)], "keep_warnings": True,
        "nb_code_prompt_show": "Code", "nb_code_prompt_hide": "Hide the code", "suppress_warnings": ["myst.header"],
    }  # fmt: skip


def setup(app: Sphinx) -> dict[str, bool]:
    """The math renderer: MathML, which browsers draw without a script."""

    def inline(visitor: Any, node: nodes.math) -> None:
        visitor.body.append(convert(node.astext()))
        raise nodes.SkipNode

    def block(visitor: Any, node: nodes.math_block) -> None:
        visitor.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
        raise nodes.SkipNode

    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def home(run: Path) -> str:
    """The README, with the contents of the site below it."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"^\[!\[.*\n", "", text, flags=re.MULTILINE)  # badges come from other hosts
    trees = [f"```{{toctree}}\n:hidden:\n:glob:\n:caption: {head}\n\n{names}\n```" for head, names in TOC.items()]
    return "\n\n".join([markdown(text, "README.md", run), *trees]) + "\n"


def markdown(text: str, name: str, run: Path) -> str:
    """A text with its links led where they lead on the site, and the map of rooms as boxes that need no script."""
    text = LINK.sub(partial(linked, near=name, at=name, run=run), text)
    return re.sub(r"```mermaid\n(.*?)```", rooms, text, flags=re.DOTALL)


def linked(match: re.Match[str], near: str, at: str, run: Path) -> str:
    """A link of the file `near` on the page `at` of the site: to a page, a copied file, or the public address."""
    picture, words, address, anchor = match[1], match[2], match[3], match[4] or ""
    place = posixpath.normpath(posixpath.join(posixpath.dirname(near), address))
    page = "index.md" if place == "README.md" else re.sub(r"^reports/demo/(?=notebooks/)", "", place)
    way = posixpath.relpath(page, posixpath.dirname(at) or ".") + anchor
    real = Path(page).match(f"reports/{REAL.name}/{REAL_BOOK}")
    book = page.startswith("notebooks/") and (run / page).is_file()
    if picture or real or book or DOC.fullmatch(page) or page in (*SINGLE, "index.md"):
        return f"{picture}[{words}]({way})"
    if not (REPOSITORY / place).exists():
        raise FileNotFoundError(f"{near} links to {place}, which does not exist")
    if place.startswith((f"reports/{run.name}/", f"reports/{REAL.name}/")) and (REPOSITORY / place).is_file():
        return f'<a href="{escaped(way)}">{words}</a>'
    kind = "tree" if (REPOSITORY / place).is_dir() else "blob"
    return f"[{words}](https://github.com/{PUBLIC}/{kind}/HEAD/{place}{anchor})"


def rooms(match: re.Match[str]) -> str:
    """A chain of rooms as boxes."""
    boxes = re.findall(r'\w+\["<b>(.*?)</b><br>(.*?)"\]', match[1])
    return '<ol class="rooms">' + "".join(f"<li><b>{head}</b><br>{rest}</li>" for head, rest in boxes) + "</ol>\n"


def notebook(path: Path, name: str, run: Path) -> str:
    """An executed notebook for readers: code and logs folded; captions without an object left out."""
    book = json.loads(path.read_text(encoding="utf-8"))
    kept: list[dict[str, Any]] = []
    alone = False  # the answer to a worry whose caption was left out
    for cell in (part for whole in book["cells"] for part in divided(whole)):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            alone = bool(re.match(r"\*\*(Figure|Table)", source) and kept and not shown(kept[-1]))
            cell["source"] = LINK.sub(partial(linked, near=f"notebooks/{path.name}", at=name, run=run), source)
        else:
            alone = alone and source.startswith("run.answer(")
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
            cell["outputs"] = [out for out in map(folded, cell["outputs"]) if out]
        kept += [] if alone else [cell]
    if run == REAL:  # the same notebook stands in the contents twice
        kept[0]["source"] = kept[0]["source"].replace("# ", "# Real patients · ", 1)
    return json.dumps(book | {"cells": kept})


def divided(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """A cell, or the parts of a Markdown cell that begin with a heading of a section."""
    source = "".join(cell["source"])
    if cell["cell_type"] != "markdown":
        return [cell]
    parts = [part for part in re.split(r"(?m)^(?=## )", source) if part.strip()]
    return [{**cell, "source": part, "id": f"{cell.get('id', 'cell')}-{place}"} for place, part in enumerate(parts)]


def shown(cell: dict[str, Any]) -> bool:
    """Whether a cell left something to see: a picture, a table, a sentence or words, not only the name of a file."""
    outputs = [out for out in cell.get("outputs", []) if out]
    return any(out["output_type"] == "stream" or set(out.get("data", {})) - {"text/plain"} for out in outputs)


def folded(output: dict[str, Any]) -> dict[str, Any] | None:
    """An output as the site shows it; None for what needs a kernel."""
    if output["output_type"] == "stream":
        lines = "".join(output["text"]).rstrip().splitlines()
        if len(lines) > LOG_LINES:
            html = (
                f"<details class='log'><summary>{len(lines)} lines of log</summary><pre>{escaped(chr(10).join(lines))}"
            )
            return {"output_type": "display_data", "metadata": {}, "data": {"text/html": html + "</pre></details>"}}
    elif set(output.get("data", {})) & set(WIDGETS) or "PosixPath" in str(output.get("data", {}).get("text/plain")):
        return None
    return output


if __name__ == "__main__":
    sys.exit(main(REPORTS / (sys.argv[1] if len(sys.argv) > 1 else "demo")))
