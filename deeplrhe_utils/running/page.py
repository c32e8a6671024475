"""The report page: links to everything a run left, readable without network."""

from __future__ import annotations

import csv
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.running.profiles import Profile

if TYPE_CHECKING:
    import pandas as pd

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --note: #b35900; }
@media (prefers-color-scheme: dark) { :root { --note: #ffb45e; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { vertical-align: top; text-align: left; padding: .25rem .7rem; border-bottom: 1px solid var(--line); }
td.long { min-width: 22rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.banner { border: 2px solid var(--note); color: var(--note); padding: .5rem 1rem; font-weight: 600; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .5rem; border: 1px solid var(--line); background: var(--soft); }
figure img { width: 100%; background: #fff; }
figcaption, .soft { font-size: .85rem; opacity: .85; }
"""
_LONG = 40
_SYNTHETIC = "Synthetic data: these figures show that the pipeline works, not what lung tissue shows."


def write_page(root: Path, profile: Profile, report: dict[str, Any]) -> Path:
    """Write ``index.html`` from ``run.json`` and what lies in the run folder; return its path."""
    git = report["git"]
    parts = [
        f"<h1>{text(profile.title)}</h1>",
        f'<p class="soft">Profile <b>{text(profile.name)}</b> · {text(report.get("finished", ""))} · '
        f"commit {text((git.get('commit') or 'unknown')[:10])}{' with local changes' if git.get('dirty') else ''} · "
        f"version {text(report['package_version'])}</p>",
    ]
    if profile.input == "synthetic":
        parts.append(f'<p class="banner">{_SYNTHETIC}</p>')
    parts += ["<h2>Stages</h2>", _stages(root, report), _auc(root), _gallery(root)]
    parts += [_files(root, "Checklists, model card, datasheet", "documents")]
    parts += [_files(root, "Tables", "tables"), _files(root, "Numbers", "numbers")]
    parts.append('<p><a href="run.json">run.json</a>: parameters, versions, hardware and hashes of this run.</p>')
    return write_text(root / "index.html", page(profile.title, "\n".join(part for part in parts if part)))


def page(title: str, body: str) -> str:
    """A whole HTML page in the house's style; `title` is text, `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def table(frame: pd.DataFrame) -> str:
    """A table as HTML, every cell escaped, long decimals cut to three digits, nulls as a dash."""
    rows = ["<tr>" + "".join(f"<th>{text(name)}</th>" for name in frame.columns) + "</tr>"]
    cells = frame.astype(object).where(frame.notna(), "–")
    rows += ["<tr>" + "".join(_cell(str(cell)) for cell in row) + "</tr>" for row in cells.itertuples(index=False)]
    return _table(rows)


def _stages(root: Path, report: dict[str, Any]) -> str:
    rows = ["<tr><th>Stage</th><th>Status</th><th>Seconds</th><th>Peak memory</th><th>Executed notebook</th></tr>"]
    for name, stage in report["stages"].items():
        links = [_link(root, f"html/{name}.html", "page"), _link(root, f"notebooks/{name}.ipynb", "notebook")]
        status = stage["status"] + (f": {stage['reason']}" if stage.get("reason") else "")
        peak = stage.get("peak_memory_bytes")
        cells = [text(name), text(status)]
        numbers = [text(stage.get("seconds", "")), f"{peak / 1e6:.0f} MB" if peak else ""]
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        row += "".join(f'<td class="number">{cell}</td>' for cell in numbers)
        rows.append(f"<tr>{row}<td>{' · '.join(link for link in links if link)}</td></tr>")
    return _table(rows)


def _auc(root: Path) -> str:
    path = root / "tables" / "auc_table.csv"
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        lines = list(csv.reader(stream))
    if not lines:
        return ""
    rows = ["<tr>" + "".join(f"<th>{text(cell)}</th>" for cell in lines[0]) + "</tr>"]
    rows += ["<tr>" + "".join(map(_cell, line)) + "</tr>" for line in lines[1:]]
    return "<h2>Area under the ROC curve</h2>\n" + _table(rows)


def _cell(content: str) -> str:
    """A cell; one that holds a sentence gets room for it."""
    return f"<td{' class=long' if len(content) > _LONG else ''}>{text(_short(content))}</td>"


def _short(cell: str) -> str:
    """A long decimal number with three significant digits; the file that the page links keeps them all."""
    try:
        return f"{float(cell):.3g}" if "." in cell else cell
    except ValueError:
        return cell


def _gallery(root: Path) -> str:
    figures = []
    for png in sorted((root / "figures").glob("*.png")):
        svg = _link(root, f"figures/{png.stem}.svg", "SVG")
        link = _url(f"figures/{png.name}")
        image = f'<a href="{link}"><img src="{link}" alt="{text(png.stem)}" loading="lazy"></a>'
        caption = f'{text(png.stem)} · <a href="{link}">PNG</a>' + (f" · {svg}" if svg else "")
        figures.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return "<h2>Figures</h2>\n" + f'<div class="gallery">{"".join(figures)}</div>' if figures else ""


def _files(root: Path, title: str, folder: str) -> str:
    names = sorted(p.relative_to(root).as_posix() for p in (root / folder).glob("*") if p.is_file())
    items = [f"<li>{_link(root, name, Path(name).name)}</li>" for name in names if not Path(name).name.startswith(".")]
    return f"<h2>{title}</h2>\n<ul>{''.join(items)}</ul>" if items else ""


def _link(root: Path, name: str, label: str) -> str:
    return f'<a href="{_url(name)}">{text(label)}</a>' if (root / name).is_file() else ""


def _table(rows: list[str]) -> str:
    return "<table>" + "\n".join(rows) + "</table>"


def text(value: Any) -> str:
    """`value` as escaped HTML text."""
    return html.escape(str(value))


def _url(name: str) -> str:
    return html.escape(quote(name))
