"""Names and numbers of any origin made fit for messages and pages."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any, Final

UNKNOWN_WORD: Final = re.compile(
    r"|n/?a|nan|null|none|ns|nd|unknown|missing|[.?-]|--|\[[^\]]*\]|<na>|#n/a|indeterminate|equivocal|inconclusive|"
    r"not[ _-](available|applicable|reported|tested|profiled|sequenced|evaluated|done|determined|known|assessed)",
    re.IGNORECASE,
)
"""How tables write that a value is not known, to be matched as a whole: ``[Not Available]``, NA, or nothing."""


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are: for messages."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def counted(n: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "slide"), counted(2, "slide")
    ('1 slide', '2 slides')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def human_size(n_bytes: float) -> str:
    """A size with a readable unit (decimal).

    >>> human_size(1_234_567), human_size(412_000_000_000), human_size(999)
    ('1.2 MB', '412.0 GB', '999 B')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def on_one_line(text: str) -> str:
    """Text on one line: line breaks, control and direction characters, and backslashes as escapes."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)


def escaped(value: Any) -> str:
    """`value` as escaped HTML text, fit for attributes.

    >>> escaped("<b>")
    '&lt;b&gt;'
    """
    return html.escape(str(value))
