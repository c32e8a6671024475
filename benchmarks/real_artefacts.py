"""What does the quality filter see of real ink and real folds, and what does it call on real tissue without them?

The pictures of each source are put into two halves by a fixed rule: sorted by name, they alternate (of LC25000 one tile
of each group; of the four TCGA patients whole patients; of the blue ink, which is one place cut into overlapping tiles,
the left and the right, without the column between). Cuts were chosen on one half; the other reports. A tile is called
from 2 % of its area on. Writes ``results/real_artefacts.csv``: a row per kind, source, treatment and half; `before`,
the count of the rules of 2026-09, stays as that run left it. Prints the table of docs/quality-filter.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from _harness import RESULTS
from _stain_data import DATA, Tile, image, require

from deeplrhe_utils.evaluation.precision.power import wilson
from deeplrhe_utils.slides.quality.artefacts import ARTEFACT_MPP, fold_mask
from deeplrhe_utils.slides.quality.blur import noise_ratio
from deeplrhe_utils.slides.quality.pen import pen_mask
from deeplrhe_utils.slides.quality.tissue import GLASS_FALLBACK, SlideGlass, background_mask, glass_level
from deeplrhe_utils.slides.reading.reader import Slide

PATH = RESULTS / "real_artefacts.csv"
KEY = ["kind", "source", "affected", "treatment", "half"]
HALVES = ("choosing", "reporting")
SEEN, TILE_UM, AROUND = 0.02, 256, 4  # share of a tile; side of a slide's tiles; tiles to each side of one in a field
GLASS = SlideGlass(np.full(3, GLASS_FALLBACK), False)


class Real(NamedTuple):
    """A real picture of `mpp` [µm/px]; `mates` are those of its source, class and half, as surveyed."""

    source: str
    half: str
    pixels: Tile
    mpp: float
    mates: Sequence[Tile] = ()


def surveyed(tile: Tile, mpp: float) -> Tile:
    """At the resolution at which folds are looked for."""
    side = round(tile.shape[0] * mpp / ARTEFACT_MPP)
    return np.asarray(cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def alternating(source: str, pictures: Sequence[Tile], mpp: float) -> Iterator[Real]:
    """Sorted pictures, in turn for choosing and for reporting."""
    small = [surveyed(one, mpp) for one in pictures]
    for i, one in enumerate(pictures):
        yield Real(source, HALVES[i % 2], one, mpp, small[i % 2 :: 2])


def folder(pattern: str) -> list[Tile]:
    """Pictures below the real data, sorted by name."""
    return [image(path) for path in sorted(DATA.glob(pattern))]


def wsiqa(kind: str) -> list[Real]:
    """Five tiles with or without folds or (painted) blur."""
    pattern = f"real_qc/wsiqa_artifacts/train_dataset/{kind}/images/*.png"
    return list(alternating("WSIQA", folder(pattern), 0.5))


def blue_ink() -> Iterator[tuple[Real, Real]]:
    """The same tiles without and under blue ink."""
    for path in sorted((DATA / "real_qc/pen_real/mayo_pairs").glob("*.jpg")):
        x = int(path.stem.split("_")[1])
        if x != 40336:
            pair = np.split(image(path), 2, axis=1)
            yield tuple(Real("skin", HALVES[x > 40336], side, 0.25) for side in pair)


def lung() -> Iterator[Real]:
    """LC25000, one tile of a group; four TCGA patients; five TCGA fields: none has ink or folds that anybody told."""
    groups = pd.read_csv(DATA / "lc25000/groups.csv", dtype=str).sort_values(["group_id", "filename"])
    for label, rows in groups.drop_duplicates("group_id").groupby("label"):
        paths = [DATA / "lc25000" / label / name for name in rows["filename"]]
        yield from alternating("LC25000", [image(path) for path in paths if path.is_file()], 0.5)
    for i, patient in enumerate(("507", "512", "515", "521")):
        tiles = folder(f"uni_tcga_rois/**/*_{patient}.jpg")
        small = [surveyed(one, 0.5) for one in tiles]
        yield from (Real("TCGA, 4 patients", HALVES[i % 2], one, 0.5, small) for one in tiles)
    yield from alternating("TCGA, 5 fields", folder("monuseg_tcga_lung/*.tif"), 0.25)


def as_scanned(tile: Tile, mpp: float) -> Tile:
    """As it is."""
    return tile


def doubled(tile: Tile, mpp: float) -> Tile:
    """A second layer of the same tissue, as in a fold."""
    return np.rint(tile.astype(np.float32) ** 2 / 255).astype(np.uint8)


def blurred(tile: Tile, mpp: float) -> Tile:
    """Out of focus by 4 µm."""
    return np.asarray(cv2.GaussianBlur(tile, (0, 0), 4 / mpp), np.uint8)


TREATMENTS: dict[str, Callable[[Tile, float], Tile]] = {
    "as scanned": as_scanned, "doubled": doubled, "blurred": blurred,
    "doubled, blurred": lambda tile, mpp: blurred(doubled(tile, mpp), mpp),
}  # fmt: skip


def ink_called(one: Real, treat: Callable[[Tile, float], Tile] = as_scanned) -> bool:
    """Whether a tile is said to be under ink."""
    return bool(pen_mask(treat(one.pixels, one.mpp), one.mpp).mean() >= SEEN)


def fold_called(one: Real, around: Sequence[Tile] | None = None) -> bool:
    """Whether a tile is said to be folded, amid tiles of its own kind: a fold is known by what lies around it."""
    mates, middle, n = one.mates if around is None else around, surveyed(one.pixels, one.mpp), 2 * AROUND + 1
    cells = [mates[i % len(mates)] for i in range(n * n)]
    cells[n * AROUND + AROUND] = middle
    field = np.concatenate([np.concatenate(cells[i : i + n], axis=1) for i in range(0, n * n, n)])
    place = slice(AROUND * len(middle), (AROUND + 1) * len(middle))
    return bool(fold_mask(field, ARTEFACT_MPP, GLASS)[place, place].mean() >= SEEN)


def blur_called(one: Real) -> bool:
    """Whether a tile is said to be out of focus."""
    return noise_ratio(one.pixels, one.mpp).blur_fraction >= SEEN


def slides() -> Iterator[tuple[str, str, Tile, list[tuple[slice, slice]]]]:
    """Two slides as surveyed, and their squares of which a tenth or more is tissue."""
    for half, name in zip(HALVES, ("CMU-1-Small-Region.svs", "luna_1065626.svs"), strict=True):
        with Slide(DATA / "slides" / name) as slide:
            picture = slide.thumbnail(round(max(slide.dimensions) * slide.mpp / ARTEFACT_MPP))
        tissue = ~background_mask(picture, glass=glass_level(picture), mpp=ARTEFACT_MPP)
        starts = [range(0, n - round(TILE_UM / ARTEFACT_MPP) + 1, round(TILE_UM / ARTEFACT_MPP)) for n in tissue.shape]
        squares = [(slice(y, y + 64), slice(x, x + 64)) for y in starts[0] for x in starts[1]]
        yield (
            name.split("_")[0].removesuffix("-Small-Region.svs"),
            half,
            picture,
            [one for one in squares if tissue[one].mean() >= 0.1],
        )


def found_half(picture: Tile, mask: Tile) -> bool:
    """Whether half of the outlined ink of a thumbnail is found, taken as 16 µm/px."""
    return bool(pen_mask(picture, 16.0)[mask > 0].mean() >= 0.5)


def ink_rows() -> Iterator[tuple[str, str, bool, str, str, bool]]:
    """(kind, source, affected, treatment, half, called) of every tile asked for ink."""
    for clean, inked in blue_ink():
        yield "ink", "blue, on skin", True, "as scanned", inked.half, ink_called(inked)
        for name, treat in TREATMENTS.items():
            yield "ink", clean.source, False, name, clean.half, ink_called(clean, treat)
    masks = sorted(p for p in (DATA / "real_qc/pen_real/histoqc").glob("*__pen_*_mask.png"))
    for i, path in enumerate(masks):
        thumbnail = image(path.with_name(path.name.replace("_mask", "")))
        yield "ink", "HistoQC, half of the outlined ink", True, "as scanned", HALVES[i % 2], found_half(
            thumbnail, np.asarray(image(path))[..., 0]
        )  # fmt: skip
    for one in [*lung(), *(tile for kind in ("artifact-free", "blur", "fold") for tile in wsiqa(kind))]:
        for name, treat in TREATMENTS.items():
            yield "ink", one.source, False, name, one.half, ink_called(one, treat)
    for source, half, picture, squares in slides():
        for name, treat in TREATMENTS.items():
            ink = pen_mask(treat(picture, ARTEFACT_MPP), ARTEFACT_MPP, glass=glass_level(picture))
            yield from (("ink", source, False, name, half, bool(ink[at].mean() >= SEEN)) for at in squares)


def fold_rows() -> Iterator[tuple[str, str, bool, str, str, bool]]:
    """The same of folds."""
    clean = wsiqa("artifact-free")
    for one in wsiqa("fold"):
        around = next(other.mates for other in clean if other.half == one.half)
        yield "fold", "folds of WSIQA", True, "as scanned", one.half, fold_called(one, around)
    for one in [*clean, *lung()]:
        yield "fold", one.source, False, "as scanned", one.half, fold_called(one)
    for source, half, picture, squares in slides():
        fold = fold_mask(picture, ARTEFACT_MPP, glass_level(picture))
        yield from (("fold", source, False, "as scanned", half, bool(fold[at].mean() >= SEEN)) for at in squares)


def blur_rows() -> Iterator[tuple[str, str, bool, str, str, bool]]:
    """The same of blur, which is painted where there is any."""
    for one in wsiqa("blur"):
        yield "blur", "painted blur of WSIQA", True, "as scanned", one.half, blur_called(one)
    focus = Real("TCGA Focus", "reporting", folder("real_qc/focus_tcga/*_i_32381_*.png")[0], 0.25)
    for one in [*wsiqa("artifact-free"), *wsiqa("fold"), *lung(), *(clean for clean, _ in blue_ink()), focus]:
        yield "blur", one.source, False, "as scanned", one.half, blur_called(one)


def counted(rows: Iterator[tuple[str, str, bool, str, str, bool]]) -> pd.DataFrame:
    """Tiles, and how many are called, of each kind, source, treatment and half."""
    frame = pd.DataFrame(rows, columns=[*KEY, "called"])
    return frame.groupby(KEY, sort=False)["called"].agg(tiles="size", called="sum").reset_index()


def table(counts: pd.DataFrame) -> str:
    """The counts as Markdown: sources as scanned, all together otherwise; Wilson's 95 % interval of what reports."""
    lines = [
        "| Kind | Tiles | choosing: before, now, of | reporting: before, now, of | share now [95 %] |",
        "|---" * 5 + "|",
    ]
    counts = counts.assign(source=counts["source"].where(counts["treatment"] == "as scanned", "all of these"),
                           turn=counts["treatment"].map(list(TREATMENTS).index))  # fmt: skip
    counts = counts.sort_values(["kind", "affected", "turn"], ascending=[False, False, True], kind="stable")
    for (kind, affected, treatment, source), rows in counts.groupby(
        ["kind", "affected", "treatment", "source"], sort=False
    ):
        sums = rows.groupby("half")[["before", "called", "tiles"]].sum().astype(int).reindex(list(HALVES), fill_value=0)
        cells = [", ".join(map(str, sums.loc[half])) for half in HALVES]
        called, tiles = (int(sums.loc["reporting", name]) for name in ("called", "tiles"))
        low, high = wilson(called, tiles)
        share = f"{called / tiles:.2f} [{low:.2f}, {high:.2f}]" if tiles else "–"
        label = f"{source}{'' if treatment == 'as scanned' else ', ' + treatment}"
        lines.append(f"| {kind}{'' if affected else ', none there'} | {label} | {cells[0]} | {cells[1]} | {share} |")
    return "\n".join(lines)


def main() -> None:
    """Count, keep, print."""
    require()
    counts = pd.concat([counted(rows()) for rows in (ink_rows, fold_rows, blur_rows)], ignore_index=True)
    before = pd.read_csv(PATH).set_index(KEY)["before"] if PATH.is_file() else counts.set_index(KEY)["called"]
    counts["before"] = before.reindex(pd.MultiIndex.from_frame(counts[KEY])).to_numpy()
    counts.to_csv(PATH, index=False)
    print(table(counts))


if __name__ == "__main__":
    main()
