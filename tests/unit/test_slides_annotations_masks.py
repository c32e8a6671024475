"""Masks become outlines along the edges of their pixels: exact area, holes, connectivity, scale."""

import cv2
import numpy as np
import pytest
import shapely
from PIL import Image

from deeplrhe_utils.core.errors import AnnotationError, ParameterError
from deeplrhe_utils.slides.outlines import masks
from deeplrhe_utils.slides.outlines.find import read_annotation
from deeplrhe_utils.slides.outlines.geojson import write_geojson
from deeplrhe_utils.slides.outlines.masks import trace_edges


def save(path, labels, mode=None):
    Image.fromarray(np.asarray(labels), mode).save(path)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_any_mask_is_traced_exactly(seed):
    rng = np.random.default_rng(seed)
    inside = rng.random(rng.integers(1, 30, 2)) < rng.choice([0.05, 0.3, 0.5, 0.6, 0.8, 0.97, 1])
    inside[0, 0] |= not inside.any()
    outline = trace_edges(inside)
    y, x = np.indices(inside.shape) + 0.5
    assert outline.is_valid and outline.area == inside.sum()
    assert (shapely.contains_xy(outline, x, y) == inside).all()
    parts = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)[0] - 1
    assert len(shapely.get_parts(outline)) == parts


def test_pixels_that_meet_in_a_corner_are_two_parts_and_holes_two_holes():
    diagonal = trace_edges(np.eye(2, dtype=bool))
    assert diagonal.geom_type == "MultiPolygon" and diagonal.area == 2
    inside = np.ones((4, 4), bool)
    inside[1, 1] = inside[2, 2] = False
    holed = trace_edges(inside)
    assert holed.geom_type == "Polygon" and len(holed.interiors) == 2 and holed.is_valid
    assert len(trace_edges(np.ones((50, 70), bool)).exterior.coords) == 5


@pytest.mark.parametrize("seed", range(3))
def test_masks_are_scaled_to_the_slide_and_survive_geojson(tmp_path, seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random((40, 60)) < 0.6).astype(np.uint8) * rng.integers(1, 4, (40, 60), dtype=np.uint8)
    path = save(tmp_path / "m.png", labels)
    (whole,) = read_annotation(path, slide_px=(60 * 32, 40 * 32))
    assert whole.geometry.area == (labels > 0).sum() * 32**2 and whole.classification == ""
    assert read_annotation(write_geojson([whole], tmp_path / "m.geojson")) == [whole]
    shifted = read_annotation(path, slide_px=(60 * 32, 40 * 32), offset_l0_px=(7, 9))
    assert shifted[0].geometry.area == whole.geometry.area
    assert shifted[0].geometry.bounds[:2] == (whole.geometry.bounds[0] + 7, whole.geometry.bounds[1] + 9)


@pytest.mark.parametrize(
    "kind", ["bool.png", "bool.tif", "8.png", "8.tif", "palette.png", "16.png", "16.tif", "32.tif"]
)
def test_kinds_of_label_images(tmp_path, kind):
    labels = np.zeros((30, 50), np.uint8)
    labels[5:20, 10:40] = 1
    labels[10:12, 20:25] = 0
    image = Image.fromarray(
        {"bool": labels > 0, "16": labels.astype(np.uint16) * 300, "32": labels.astype(np.int32) * 70_000}.get(
            kind.split(".")[0], labels * 255 if kind[0] == "8" else labels
        )
    )
    if kind.startswith("palette"):
        image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / kind)
    (region,) = read_annotation(tmp_path / kind, slide_px=(500, 300))
    assert region.geometry.area == (labels > 0).sum() * 100 and len(region.geometry.interiors) == 1
    assert region.geometry.bounds == (100, 50, 400, 200)


@pytest.mark.parametrize("slide, columns, rows, fits", [
    ((50_003, 30_017), 1562, 938, True), ((50_003, 30_017), 1563, 939, True),  # 32: floor and ceiling
    ((50_003, 30_017), 1562, 939, True), ((50_003, 30_017), 1500, 938, False), ((50_003, 30_017), 938, 1562, False),
    ((1000, 1000), 1000, 1000, True), ((1000, 1000), 2000, 2000, False), ((1000, 1000), 100, 103, False),
])  # fmt: skip
def test_the_aspect_must_be_that_of_the_slide(tmp_path, slide, columns, rows, fits):
    labels = np.zeros((rows, columns), np.uint8)
    labels[-1, -1] = 1
    path = save(tmp_path / "m.png", labels)
    if fits:
        (region,) = read_annotation(path, slide_px=slide)
        assert region.geometry.bounds[2:] == pytest.approx(slide)
    else:
        with pytest.raises(AnnotationError, match=r"m\.png does not fit.*Got: .*Expected: "):
            read_annotation(path, slide_px=slide)


def test_a_mask_needs_the_size_of_its_slide(tmp_path):
    path = save(tmp_path / "m.png", np.ones((10, 10), np.uint8))
    with pytest.raises(AnnotationError, match="slide_px"):
        read_annotation(path)
    with pytest.raises(ParameterError, match="a slide of a size"):
        read_annotation(path, slide_px=(0, 10))


def test_pictures_and_noise_are_no_masks(tmp_path, monkeypatch):
    path = save(tmp_path / "m.png", np.arange(100, dtype=np.uint8).reshape(10, 10))
    with pytest.raises(AnnotationError, match="smoothed"):
        read_annotation(path, slide_px=(10, 10))
    monkeypatch.setattr(masks, "LARGEST_CORNERS", 1000)
    path = save(tmp_path / "m.png", (np.random.default_rng(0).random((100, 100)) < 0.5).astype(np.uint8))
    with pytest.raises(AnnotationError, match=r"m\.png is too ragged"):
        read_annotation(path, slide_px=(100, 100))
