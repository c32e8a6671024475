"""A pipeline that is not ours, to be judged: histolab, scikit-image and scikit-learn.

    python benchmarks/foreign_pipeline.py COHORT --out DIR
    deeplrhe judge DIR/scores.csv --truth COHORT --maps DIR/tiles.csv --masks DIR/masks --tiles DIR/reinhard \
        --raw-tiles DIR/raw

histolab finds tissue and pen, scikit-image describes tiles, scikit-learn scores. Nothing of this package is imported.
Read are slides, outlines, labels.csv and mpp_overrides.csv of a synthetic cohort, never its truth.

Tiles of 192 µm inside the outline, on a grid that is not the truth's, give counts, sizes and texture of what a
threshold of haematoxylin finds. Logistic regressions on patients' means, in four folds of patients, score both.
Finished slides are kept in DIR/features, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import warnings
from pathlib import Path

import numpy as np

with contextlib.suppress(ImportError):  # the OpenSlide that histolab asks for finds no library by itself
    import openslide_bin  # noqa: F401
from histolab.filters.image_filters import BluePenFilter, GreenPenFilter
from histolab.masks import TissueMask
from histolab.slide import Slide
from histolab.stain_normalizer import ReinhardStainNormalizer
from histolab.types import CoordinatePair
from PIL import Image
from skimage import color, draw, feature, filters, measure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SIDE_UM, MPP, FOLDS, PICTURES = 192.0, 0.5, 4, 4
SMALL_UM2, LARGE_UM2 = 12, 35  # lymphocytes lie between, tumour nuclei above
BLURRED = 0.3  # of the sharpness that the median tissue tile of the slide has
PLACE = ("slide_id", "x", "y", "size")
FEATURES = ("nuclei", "area", "area_90", "small", "contrast", "fine", "haematoxylin", "eosin", "red", "green", "blue")


def microns(slide: Slide, overrides: dict[str, float]) -> float:
    """Level-0 resolution: as the file tells it, by its objective, or as the cohort's table tells it."""
    told = slide.properties
    if "openslide.mpp-x" in told:
        return float(told["openslide.mpp-x"])
    power = told.get("openslide.objective-power")
    return 10 / float(power) if power else overrides[slide.name]


def inside(path: Path, shape: tuple[int, int], scale: float) -> np.ndarray:
    """The outline of the tumour as a mask of `shape`, whose pixel has `scale` level-0 px."""
    mask = np.zeros(shape, bool)
    for one in json.loads(path.read_text())["features"]:
        geometry = one["geometry"]
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for polygon in polygons:
            ring = np.asarray(polygon[0])[:, ::-1] / scale
            mask |= draw.polygon2mask(shape, ring)
    return mask


def described(tile: np.ndarray) -> dict[str, float]:
    """Features of one tile at 0.5 µm/px."""
    stains = color.rgb2hed(tile)
    dark = filters.gaussian(stains[..., 0], 1)
    spots = measure.regionprops(measure.label(dark > filters.threshold_otsu(dark)))
    areas = np.array([spot.area for spot in spots]) * MPP**2
    large = areas[areas >= LARGE_UM2] if (areas >= LARGE_UM2).any() else np.array([float(LARGE_UM2)])
    small = np.sum((areas >= SMALL_UM2) & (areas < LARGE_UM2))
    grey = color.rgb2gray(tile)
    levels = (grey[::2, ::2] * 31).astype(np.uint8)
    contrast = feature.graycoprops(feature.graycomatrix(levels, [1], [0], 32, symmetric=True, normed=True), "contrast")
    counts = (len(large), np.median(large), np.quantile(large, 0.9), small / (small + len(large)))
    colours = (dark.mean(), stains[..., 1].mean(), *tile.mean(axis=(0, 1)))
    found = (*counts, contrast[0, 0], filters.laplace(grey).var(), *colours)
    return dict(zip(FEATURES, map(float, found), strict=True))


def share(mask: np.ndarray, corner: tuple[int, int], step: int, size: tuple[int, int]) -> float:
    """Of a tile, in a mask of the whole slide."""
    (left, right), (top, bottom) = (
        (int(a / length * n), int(np.ceil((a + step) / length * n)))
        for a, length, n in zip(corner, size, mask.shape[::-1], strict=True)
    )
    return float(mask[top:bottom, left:right].mean())


def one_slide(path: Path, out: Path, overrides: dict[str, float], normalizer: ReinhardStainNormalizer) -> None:
    """Masks, pictures of some tiles, and features of all tiles inside the outline; written once."""
    target = out / "features" / f"{path.stem}.csv"
    if target.exists():
        return
    slide = Slide(str(path), processed_path=str(out))
    mpp = microns(slide, overrides)
    width, height = slide.dimensions
    thumbnail = slide.scaled_image(8)
    rgb = np.asarray(thumbnail.convert("RGB"))
    pen = np.zeros(rgb.shape[:2], bool)
    for found in (BluePenFilter(), GreenPenFilter()):
        pen |= (np.asarray(found(thumbnail.convert("RGB"))).sum(axis=2) == 0) & (rgb.sum(axis=2) > 0)
    kept = TissueMask()(slide)
    for name, mask in (("pen", pen), ("tissue", kept)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(out / "masks" / f"{path.stem}+{name}.png")
    step = round(SIDE_UM / mpp)
    # histolab takes a tile that ends where the slide ends for one outside
    sharp, rows = np.full(((height - 1) // step, (width - 1) // step), np.nan), []
    outline, tumour = path.with_suffix(".geojson"), np.zeros(rgb.shape[:2], bool)
    if outline.is_file():
        tumour = inside(outline, tumour.shape, width / rgb.shape[1])
    for row, column in np.ndindex(sharp.shape):
        x, y = column * step, row * step
        tile = slide.extract_tile(CoordinatePair(x, y, x + step, y + step), (step, step), level=0).image
        side = round(SIDE_UM / MPP)
        tile = tile.convert("RGB").resize((side, side), Image.Resampling.BOX)
        pixels = np.asarray(tile)
        if share(kept, (x, y), step, (width, height)) >= 0.5:
            sharp[row, column] = filters.laplace(color.rgb2gray(pixels)).var()
        if share(tumour, (x, y), step, (width, height)) < 0.5:
            continue
        if len(rows) < PICTURES:
            for name, picture in (("raw", tile), ("reinhard", normalizer.transform(tile).convert("RGB"))):
                folder = out / name / path.stem
                folder.mkdir(parents=True, exist_ok=True)
                picture.save(folder / f"{column}_{row}.png")
        rows.append({"slide_id": path.stem, "x": x, "y": y, "size": step} | described(pixels))
    mask = out / "masks" / f"{path.stem}+blur"
    Image.fromarray((sharp < BLURRED * np.nanmedian(sharp)).astype(np.uint8) * 255).save(mask.with_suffix(".png"))
    mask.with_suffix(".json").write_text(json.dumps({"step": step, "x": 0, "y": 0}))
    write(target, rows, (*PLACE, *FEATURES))


def write(path: Path, rows: list[dict], names: tuple[str, ...]) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="") as stream:
        table = csv.DictWriter(stream, names)
        table.writeheader()
        table.writerows(rows)
    part.replace(path)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def score(tiles: list[dict[str, str]], labels: list[dict[str, str]], out: Path) -> None:
    """Scores of patients and of tiles, each by a regression that has not seen the patient."""
    owner = np.array([t["slide_id"][:12] for t in tiles])
    values = np.array([[float(t[name]) for name in FEATURES] for t in tiles])
    who = [row for row in labels if row["patient_id"] in set(owner)]
    names = np.array([row["patient_id"] for row in who])
    means = np.array([values[owner == name].mean(axis=0) for name in names])
    fold = np.random.default_rng(0).permutation(len(names)) % FOLDS
    patients, places = [], []
    for gene in [c for c in labels[0] if c != "patient_id"]:
        known = np.array([row[gene] != "" for row in who])
        status = np.array([row[gene] == "1" for row in who])
        if any(len(set(status[known & (fold != k)])) < 2 for k in range(FOLDS)):
            print(f"{gene}: too few mutated patients to learn from")
            continue
        for k in range(FOLDS):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced"))
            model.fit(means[known & (fold != k)], status[known & (fold != k)])
            for i, p in zip(np.flatnonzero(fold == k), model.predict_proba(means[fold == k])[:, 1], strict=True):
                patients.append({"patient_id": names[i], "gene": gene, "fold": k, "score": f"{p:.6f}"})
            held = np.flatnonzero(np.isin(owner, names[fold == k]))
            for i, p in zip(held, model.predict_proba(values[held])[:, 1], strict=True):
                places.append({n: tiles[i][n] for n in PLACE} | {"gene": gene, "score": f"{p:.6f}"})
    write(out / "scores.csv", patients, ("patient_id", "gene", "fold", "score"))
    write(out / "tiles.csv", places, (*PLACE, "gene", "score"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path, nargs="?", help="folder that `deeplrhe synth` wrote")
    parser.add_argument("--out", type=Path, default=Path("foreign"))
    given = parser.parse_args()
    if given.cohort is None:
        print("Nothing to do: name the folder of a synthetic cohort (`deeplrhe synth demo --out DIR`)")
        return
    warnings.simplefilter("ignore", FutureWarning)  # of histolab, about the names of arguments
    warnings.filterwarnings("ignore", "Color data out of range")
    for name in ("features", "masks"):
        (given.out / name).mkdir(parents=True, exist_ok=True)
    table = given.cohort / "mpp_overrides.csv"
    overrides = {row["slide_id"]: float(row["mpp"]) for row in read(table)} if table.is_file() else {}
    slides = sorted((given.cohort / "slides").glob("*.svs"))
    normalizer = ReinhardStainNormalizer()
    first = Slide(str(slides[0]), processed_path=str(given.out))
    normalizer.fit(first.scaled_image(4).convert("RGB"))
    for number, path in enumerate(slides, start=1):
        one_slide(path, given.out, overrides, normalizer)
        if number % 10 == 0:
            print(f"{number} of {len(slides)} slides", flush=True)
    tiles = [row for path in slides for row in read(given.out / "features" / f"{path.stem}.csv")]
    score(tiles, read(given.cohort / "labels.csv"), given.out)
    print(f"{len(tiles)} tiles; judge {given.out / 'scores.csv'}")


if __name__ == "__main__":
    main()
