"""Names and numbers of any origin made fit for messages and pages."""

from __future__ import annotations

import html
import io
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

Item = TypeVar("Item")

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


def listed(names: Iterable[object], none: str = "none") -> str:
    """Names in a sentence; `none` where there are none.

    >>> listed(["TP53", "EGFR", "KRAS"]), listed(["TP53"]), listed([])
    ('TP53, EGFR and KRAS', 'TP53', 'none')
    """
    *first, last = [none] if not (texts := [str(name) for name in names]) else texts
    return f"{', '.join(first)} and {last}" if first else last


def interval_text(middle: float | None, low: float, high: float, digits: int = 2) -> str:
    """A number with its interval; a dash where it could not be estimated.

    >>> interval_text(0.771, 0.64, 0.86), interval_text(-0.002, -0.1, 0.09), interval_text(float("nan"), 0, 1)
    ('0.77 [0.64, 0.86]', '0.00 [-0.10, 0.09]', '–')
    """
    if middle is None or math.isnan(middle):
        return "–"
    if math.isnan(low) or math.isnan(high):
        return share_text(middle, digits)
    zero = f"-{0:.{digits}f}"
    one, first, last = (zero[1:] if (t := share_text(v, digits)) == zero else t for v in (middle, low, high))
    return f"{one} [{first}, {last}]"


def with_ends(row: Mapping[str, Any], value: str = "auc", digits: int = 2) -> str:
    """An AUC, or another `value` of a table's row, with ci_low and ci_high: ``0.84 [0.76, 0.90]``; ``–`` for none."""
    return interval_text(row[value], row["ci_low"], row["ci_high"], digits)


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


SHORT_S, REDRAWN_S, LINE_S, BAR = 5.0, 0.5, 30.0, 20
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_MARKDOWN: Final = re.compile(r"[\\<>\[\]`|$*_~&]|:(?=//)")
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def visible(text: str) -> str:
    r"""Text whose control and direction characters are escapes: it neither moves a cursor nor turns what follows.

    >>> visible("a\u202eb\n"), visible("\x1b[2J")
    ('a\\u202eb\n', '\\x1b[2J')
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def said(name: object, most: int = 60) -> str:
    """A name of any origin for messages and figures: on one line, a long one without its middle.

    >>> said("slide-0001-of-Hospital-A-DX1", 16)
    'slide-0001-o…DX1'
    """
    text = str(name)
    text = text if text.isprintable() else on_one_line(text)
    end = most // 4
    return text if len(text) <= most else f"{text[: most - end]}…{text[len(text) - end + 1 :]}"


def share_text(value: float, digits: int = 2) -> str:
    """A share or an AUC in decimals: more than `digits` where these would read 0 or 1 and it is neither.

    >>> share_text(0.9996), share_text(0.5), share_text(1.0), share_text(0.00002, 3)
    ('0.9996', '0.50', '1.00', '0.00002')
    """
    if not 0 < value < 1:
        return "–" if math.isnan(value) else f"{value:.{digits}f}"
    while (text := f"{value:.{digits}f}") != repr(value) and float(text) in (0, 1):
        digits += 1
    return text


def p_text(p: float) -> str:
    """A p value: three decimals, never 0.

    >>> p_text(0.0312), p_text(4e-9)
    ('0.031', '< 0.001')
    """
    return f"{p:.3f}" if not p < 0.001 else "< 0.001"


def xml_text(text: str) -> str:
    """Text without the characters that XML forbids; what is left still needs escaping."""
    return _NOT_XML.sub("\ufffd", text)


def in_markdown(words: str) -> str:
    """Words that Markdown takes neither for a tag, a link, code or a formula nor for the end of a table's cell."""
    return _MARKDOWN.sub(r"\\\g<0>", on_one_line(words) if not words.isprintable() else words)


def on_one_line(text: str) -> str:
    """Text on one line: line breaks, control and direction characters, and backslashes as escapes."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)


def escaped(value: Any) -> str:
    """`value` as escaped HTML or XML text, fit for attributes, and :func:`visible`.

    >>> escaped("<b>")
    '&lt;b&gt;'
    """
    return html.escape(visible(str(value)))


def duration(seconds: float) -> str:
    """Seconds in readable units.

    >>> duration(59), duration(3700), duration(200_000)
    ('59 s', '1 h 1 min', '2 d 7 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class Countdown:
    """How far long work is, and about how long it takes still: nothing in its first 5 s, then a bar or lines.

    A terminal and an open notebook get a bar, drawn over itself twice a second; everything else (the runner, a file)
    a line ``label: k/n, about 8 s left`` every 30 s. The last, ``label: n/n``, is always printed, unless `brief`: then
    work that was short is not mentioned at all. `label` "" prints nothing; `done` tasks are finished already.
    """

    def __init__(self, label: str, total: int, *, brief: bool = False, done: int = 0) -> None:
        self._label, self._total, self._told = label, total, not brief
        self._done = self._before = done
        self._began, self._live = time.monotonic(), _is_watched()
        self._next = self._began + SHORT_S

    def step(self) -> None:
        """Count one finished task."""
        self._done += 1
        now, over = time.monotonic(), self._done == self._total
        if not self._label or not (self._told if over else now >= self._next):
            return
        self._next, self._told = now + (REDRAWN_S if self._live else LINE_S), True
        left = (now - self._began) / (self._done - self._before) * (self._total - self._done)
        text = f"{self._label}: {self._done}/{self._total}" + f", about {duration(left)} left" * (not over)
        if not self._live:
            print(text, flush=True)
            return
        full = round(BAR * self._done / self._total)
        bar = f"{'█' * full}{'░' * (BAR - full)} {visible(text)}"
        write = io.TextIOWrapper.write if isinstance(sys.stdout, io.TextIOWrapper) else type(sys.stdout).write
        write(sys.stdout, f"\r{bar:<78}" + "\n" * over)  # type: ignore[arg-type]
        sys.stdout.flush()


def told(label: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items, one after the other, with a `Countdown` if they take long."""
    progress = Countdown(label, len(items), brief=True)
    for item in items:
        yield item
        progress.step()


def _is_watched() -> bool:
    """Whether somebody sees the output as it grows: a terminal, or a notebook that is not run by the runner."""
    kernel = type(sys.stdout).__module__.startswith("ipykernel")
    return sys.stdout.isatty() or (kernel and "DEEPLRHE_RUNNER_PID" not in os.environ)
