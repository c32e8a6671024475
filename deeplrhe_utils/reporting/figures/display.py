"""Show a saved figure in a notebook, small enough to be read on GitHub."""

from __future__ import annotations

import base64
import copy
import io
import os
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup
from matplotlib.figure import Figure
from pandas.api.types import is_float_dtype
from PIL import Image

from deeplrhe_utils.core.text import escaped, p_text, share_text

if TYPE_CHECKING:
    from IPython.display import Image as Shown
    from pandas.io.formats.style import Styler

_LARGE_BYTES = 120_000
WIDEST_PX = 800
_BATCH: Final = "DEEPLRHE_RUNNER_PID"  # the runner sets it for its kernels


def show(path: Path) -> Shown:
    """The figure at `path` (PNG) for display; above 120 kB as JPEG of quality 80, at most 800 px wide."""
    from IPython.display import Image as Picture

    data = path.read_bytes()
    if len(data) <= _LARGE_BYTES:
        return Picture(data=data, format="png")
    buffer = io.BytesIO()
    with Image.open(path) as image:
        shown = image.convert("RGB")
        shown.thumbnail((WIDEST_PX, image.height))
        shown.save(buffer, "JPEG", quality=80, optimize=True)
    return Picture(data=buffer.getvalue(), format="jpeg")


def live_curve() -> Callable[[Any], None] | None:
    """A picture of the loss that grows with every epoch, for JupyterLab; None in a batch run or outside a notebook.

    Returns callable that takes an epoch (attributes fold, epoch, loss, valid), or None.
    """
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    shell = get_ipython()
    if shell is None or _BATCH in os.environ or not hasattr(shell, "kernel"):
        return None
    from deeplrhe_utils.reporting.figures.style import training_curves

    curves: dict[str, list[float]] = {}
    one_at_a_time = threading.Lock()  # folds may train side by side
    handle = display(_drawn(training_curves({})), display_id=True)

    def watch(epoch: Any) -> None:
        with one_at_a_time:
            curves.setdefault(f"fold {epoch.fold}", []).append(epoch.loss)
            if epoch.valid is not None:
                curves.setdefault(f"fold {epoch.fold}, validation", []).append(epoch.valid)
            handle.update(_drawn(training_curves(curves)))

    return watch


def _drawn(figure: Figure) -> Shown:
    """The figure as it is now, for display."""
    from IPython.display import Image as Picture

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return Picture(data=buffer.getvalue(), format="png")


_P: Final = frozenset({"p", "p_holm", "p_fdr"})
_AUC: Final = frozenset({"auc", "ci_low", "ci_high", "low", "high"})


def safe_tables(shell: Any) -> None:
    """Tables in a notebook show names as they are: no tag of a name acts, no dollar sign begins a formula.

    pandas escapes no label and no caption of a `Styler`, and a cell only where it is told to.
    """
    import pandas as pd

    pd.set_option("display.html.use_mathjax", False, "styler.html.mathjax", False)
    shell.display_formatter.formatters["text/html"].for_type_by_name("pandas.io.formats.style", "Styler", _table_html)


def _table_html(styler: Styler) -> str:
    """The HTML of a copy with safe texts; p values never read 0, AUCs never 1 unless they are."""
    import pandas as pd

    table = copy.copy(styler)
    cells = [[_markup(value) for value in row] for row in styler.data.astype(object).to_numpy()]
    plain = pd.DataFrame(cells, styler.index, styler.columns, dtype=object)  # a column of text would lose the markup
    table.data = plain.rename(index=_markup, columns=_markup)
    names = [[_markup(name) for name in axis.names] for axis in table.data.axes]
    table.data = table.data.rename_axis(index=names[0], columns=names[1])
    table.index, table.columns = table.data.axes
    table.caption = _markup(table.caption)
    for told, form in ((_P, lambda p: escaped(p_text(p))), (_AUC, partial(share_text, digits=3))):
        if chosen := [c for c in table.columns if c in told and is_float_dtype(styler.data[c])]:
            table.format(form, subset=chosen, na_rep="–")
    return table.to_html()


def _markup(value: Any) -> Any:
    """Text as escaped markup, which nothing escapes again; whatever is no text as it is."""
    return Markup(escaped(value)) if isinstance(value, str) else value  # noqa: S704


LARGE_PNG_BYTES: Final = 250_000
_EMBEDDED: Final = re.compile(rb"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


def compact_png(path: Path) -> None:
    """Reduce a PNG above 250 kB to a palette of 256 colours (photographs of tissue need no more); in place."""
    if path.stat().st_size <= LARGE_PNG_BYTES:
        return
    with Image.open(path) as image:
        full = image.convert("RGB")
    # text and background keep pure black and white, which a palette fitted to tissue would tint
    palette = Image.new("P", (1, 1))
    fitted = full.quantize(254, method=Image.Quantize.MEDIANCUT).getpalette() or []
    palette.putpalette([*fitted[: 254 * 3], 0, 0, 0, 255, 255, 255])
    full.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, "PNG", optimize=True)


def compact_svg(path: Path) -> None:
    """Re-encode the opaque photographs inside an SVG as JPEG, quality 85; in place. Line art is untouched."""
    path.write_bytes(_EMBEDDED.sub(_as_jpeg, path.read_bytes()))


def _as_jpeg(match: re.Match[bytes]) -> bytes:
    data = base64.b64decode(match.group(1))
    with Image.open(io.BytesIO(data)) as image:
        if image.convert("RGBA").getchannel("A").tobytes().strip(b"\xff"):
            return match.group(0)  # JPEG has no transparency
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=85)
    jpeg = base64.b64encode(buffer.getvalue())
    return b"data:image/jpeg;base64," + jpeg if len(jpeg) < len(match.group(1)) else match.group(0)
