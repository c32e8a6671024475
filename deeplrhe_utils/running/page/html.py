"""Pieces of HTML: escaped text, links inside a run folder, tables, a whole page in the house's style."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import deeplrhe_utils.reporting
from deeplrhe_utils.core.text import escaped, share_text

if TYPE_CHECKING:
    import pandas as pd

STATIC: Final = Path(deeplrhe_utils.reporting.__file__).parent / "static"
_LONG: Final = 40


def page(title: str, body: str, scripts: Sequence[str] = ()) -> str:
    """A whole HTML page in the house's style.

    Parameters
    ----------
    body : HTML
    scripts : addresses relative to the page, loaded in order once the page is read
    """
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    tags = "".join(f'<script src="{url(name)}" defer></script>' for name in scripts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title>\n<style>\n{style}</style>{tags}</head>\n<body>\n{body}\n</body></html>\n"
    )


def url(name: str) -> str:
    """A path relative to the page as an address, escaped for an attribute."""
    return escaped(quote(name))


def link(root: Path, name: str, label: str) -> str:
    """A link to a file of the run folder; "" when it is not there."""
    return f'<a href="{url(name)}">{escaped(label)}</a>' if (root / name).is_file() else ""


def section(name: str, title: str, body: str) -> str:
    """A section with a heading that ``#name`` leads to; "" when there is nothing to show."""
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escaped(title)}</h2>\n{body}\n</section>' if body else ""
    )


def table(frame: pd.DataFrame, caption: str = "") -> str:
    """A table as HTML, every cell escaped, long decimals cut to three digits, nulls as a dash."""
    cells = frame.astype(object).where(frame.notna(), "–")
    rows = ["".join(cell(str(value)) for value in row) for row in cells.itertuples(index=False)]
    return rows_table(list(map(str, frame.columns)), rows, caption)


def rows_table(head: Sequence[str], rows: Sequence[str], caption: str = "") -> str:
    """A table of `head` (text) and `rows` (HTML of ``<td>``), which scrolls by itself where it is too wide.

    Such a box must be reachable by keyboard, hence its tabindex and name.
    """
    heads = "".join(f'<th scope="col">{escaped(name)}</th>' for name in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    name = escaped(caption or ", ".join(head[:3]))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Table: {name}"><table>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def cell(content: str, kind: str = "") -> str:
    """A cell; one that holds a sentence gets room for it."""
    kind = kind or ("long" if len(content) > _LONG else "")
    shown = content if kind == "number" else _short(content)
    return f"<td{f' class={kind}' if kind else ''}>{escaped(shown)}</td>"


def _short(content: str) -> str:
    """A long decimal number with three significant digits; the file that the page links keeps them all."""
    try:
        value = float(content)
    except ValueError:
        return content
    shown = f"{value:.3g}" if "." in content else content
    return share_text(value, 3) if shown == "1" != content else shown


def pixels_of(path: Path) -> tuple[int, ...]:
    """Width and height of a picture [px], so that nothing moves while it loads; () when it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.size
    except OSError:
        return ()
