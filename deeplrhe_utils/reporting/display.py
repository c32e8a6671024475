"""Show a saved figure in a notebook, small enough to be read on GitHub."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from IPython.display import Image as Shown

LARGE_BYTES = 120_000
WIDEST_PX = 800


def show(path: Path) -> Shown:
    """The figure at `path` (PNG) for display; above 120 kB as JPEG of quality 80, at most 800 px wide."""
    from IPython.display import Image as Picture

    data = path.read_bytes()
    if len(data) <= LARGE_BYTES:
        return Picture(data=data, format="png")
    buffer = io.BytesIO()
    with Image.open(path) as image:
        shown = image.convert("RGB")
        shown.thumbnail((WIDEST_PX, image.height))
        shown.save(buffer, "JPEG", quality=80, optimize=True)
    return Picture(data=buffer.getvalue(), format="jpeg")


def live_curve(batch: str = "DEEPLRHE_RUNNER_PID") -> Callable[[Any], None] | None:
    """A picture of the loss that grows with every epoch, for JupyterLab; None in a batch run or outside a notebook.

    Parameters
    ----------
    batch : environment variable that the runner sets for its kernels

    Returns callable that takes an epoch (attributes fold, epoch, loss, valid), or None.
    """
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    shell = get_ipython()
    if shell is None or batch in os.environ or not hasattr(shell, "kernel"):
        return None
    from deeplrhe_utils.reporting.figures import training_curves

    curves: dict[str, list[float]] = {}
    handle = display(_drawn(training_curves({})), display_id=True)

    def watch(epoch: Any) -> None:
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
