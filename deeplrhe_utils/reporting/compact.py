"""Make saved figures small enough to be committed, without changing what is seen."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Final

from PIL import Image

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
