"""The pictures beside a slide: thumbnail, label and macro image."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

_LABEL_PX: Final = (400, 400)
_MACRO_PX: Final = (1280, 430)
_THUMBNAIL_PX: Final = 1024


def associated_images(slide_id: str, site_id: str, smallest: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Thumbnail, label (who it is, and that it is synthetic) and macro image (the whole glass).

    Parameters
    ----------
    smallest : ndarray, shape (height, width, 3), uint8; the slide's smallest level, RGB

    Returns ``thumbnail`` (longer side at most 1,024 px), ``label`` (400 × 400) and ``macro`` (1,280 × 430), uint8 RGB.
    """
    shrink = min(1.0, _THUMBNAIL_PX / max(smallest.shape[:2]))
    size = (max(1, round(smallest.shape[1] * shrink)), max(1, round(smallest.shape[0] * shrink)))
    thumbnail = np.asarray(cv2.resize(smallest, size, interpolation=cv2.INTER_AREA), np.uint8)
    label = np.full((_LABEL_PX[1], _LABEL_PX[0], 3), (250, 248, 240), np.uint8)
    who = [slide_id[:12], slide_id[13:], f"site {site_id}", "", "SYNTHETIC", "not a patient"]
    for i, line in enumerate(who):
        cv2.putText(label, line, (22, 62 + 58 * i), cv2.FONT_HERSHEY_SIMPLEX, 1.15, (20, 20, 30), 2, cv2.LINE_AA)
    macro = np.full((_MACRO_PX[1], _MACRO_PX[0], 3), 236, np.uint8)
    macro[:, : _MACRO_PX[1]] = cv2.resize(label, (_MACRO_PX[1], _MACRO_PX[1]), interpolation=cv2.INTER_AREA)
    room = (_MACRO_PX[0] - _MACRO_PX[1] - 120, _MACRO_PX[1] - 80)
    fit = min(room[0] / size[0], room[1] / size[1])
    picture = cv2.resize(
        thumbnail, (max(1, int(size[0] * fit)), max(1, int(size[1] * fit))), interpolation=cv2.INTER_AREA
    )
    top, left = (_MACRO_PX[1] - picture.shape[0]) // 2, _MACRO_PX[1] + 60
    macro[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return {"thumbnail": thumbnail, "label": label, "macro": macro}
