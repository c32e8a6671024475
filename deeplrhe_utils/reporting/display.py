"""Show a saved figure in a notebook, small enough to be read on GitHub."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from IPython.display import Image as Shown

LARGE_BYTES = 120_000


def show(path: Path) -> Shown:
    """The figure at `path` (PNG) for display; photographs above 120 kB are shown as JPEG, quality 80."""
    from IPython.display import Image as Picture

    data = path.read_bytes()
    if len(data) <= LARGE_BYTES:
        return Picture(data=data, format="png")
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "JPEG", quality=80, optimize=True)
    return Picture(data=buffer.getvalue(), format="jpeg")
