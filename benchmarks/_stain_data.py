"""Real tissue to normalize: MoNuSeg lung fields, LC25000 groups, CMU-1-Small-Region; and the peer's interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
from _harness import REAL_SLIDE, importable
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry import box

from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.slides.decoding.sampling import Square
from deeplrhe_utils.slides.outlines.find import read_annotation
from deeplrhe_utils.slides.reading.reader import Slide

Tile = NDArray[np.uint8]
DATA = REAL_SLIDE.parents[1]
TEMPLATE = "TCGA-21-5784-01Z-00-DX1"
FIELDS = ("TCGA-21-5786-01Z-00-DX1", "TCGA-38-6178-01Z-00-DX1", "TCGA-44-2665-01B-06-BS6", "TCGA-50-5931-01Z-00-DX1")
TRAIN_GROUPS, TEST_GROUPS = 300, 90


def require() -> None:
    """Stop, and say so, where the real data are not."""
    for name in ("monuseg_tcga_lung", "lc25000"):
        if not (DATA / name).is_dir():
            raise SystemExit(f"Not measured: ../shared/data/{name} is not here.")


def image(path: Path) -> Tile:
    """An image file as uint8 RGB (H, W, 3)."""
    return np.asarray(Image.open(path).convert("RGB"))


def field(name: str) -> Tile:
    """A MoNuSeg field, 1,000 px at 0.25 µm/px."""
    return image(DATA / "monuseg_tcga_lung" / f"{name}.tif")


def outlined(name: str) -> bool:
    """Whether experts outlined the nuclei of a field."""
    return (DATA / "monuseg_tcga_lung" / f"{name}.xml").is_file()


def quartered_outlines(name: str) -> list[list[NDArray[np.float64]]]:
    """Experts' nuclear outlines of a field [(n, 2) px], cut along the edges of :func:`quarters`."""
    regions = read_annotation(DATA / "monuseg_tcga_lung" / f"{name}.xml")
    h, w = (side // 2 for side in field(name).shape[:2])
    found = []
    for y in (0, h):
        for x in (0, w):
            cut = [r.geometry.intersection(box(x, y, x + w, y + h)) for r in regions]
            parts = [p for g in cut for p in getattr(g, "geoms", [g]) if p.geom_type == "Polygon" and p.area > 1]
            found.append([np.asarray(p.exterior.coords) - (x, y) for p in parts])
    return found


def quarters(picture: Tile) -> list[Tile]:
    """Four equal tiles of a picture."""
    h, w = picture.shape[0] // 2, picture.shape[1] // 2
    return [np.ascontiguousarray(picture[y : y + h, x : x + w]) for y in (0, h) for x in (0, w)]


def lc25000(seed: int = 0) -> tuple[dict[str, list[Tile]], dict[str, list[Tile]]]:
    """Training and test groups (one tissue field with its copies each), disjoint, drawn by a seed."""
    table = pd.read_csv(DATA / "lc25000" / "groups.csv", dtype=str)
    table["file"] = table["label"] + "/" + table["filename"]
    table = table[[(DATA / "lc25000" / p).is_file() for p in table["file"]]]
    names = sorted(table["group_id"].unique())
    order = generator(seed, "stain-benchmark").permutation(len(names))
    drawn = [names[i] for i in order[: TRAIN_GROUPS + TEST_GROUPS]]
    groups = {g: [image(DATA / "lc25000" / p) for p in part["file"]] for g, part in table.groupby("group_id")
              if g in set(drawn)}  # fmt: skip
    return {g: groups[g] for g in drawn[:TRAIN_GROUPS]}, {g: groups[g] for g in drawn[TRAIN_GROUPS:]}


def slide_tiles(side: int = 512, step: int = 512) -> list[list[Tile]]:
    """Tiles of CMU-1-Small-Region by row and column, `step` px apart, at full resolution."""
    with Slide(REAL_SLIDE) as slide:
        width, height = slide.dimensions
        rows = []
        for y in range(0, height - side + 1, step):
            squares = [Square(x, y, float(side)) for x in range(0, width - side + 1, step)]
            rows.append([t for t in slide.read_tiles(squares, side) if isinstance(t, np.ndarray)])
    return rows


class Torchstain:
    """torchstain's normalizer of a kind, fitted to the template. It takes (C, H, W) and answers (H, W, C).

    On tiles of glass it fails; they are left as they are, in its favour, and counted in `failures`.
    """

    def __init__(self, kind: str, template: Tile) -> None:
        import torch
        from torchstain.torch import normalizers

        known = {"macenko": normalizers.TorchMacenkoNormalizer, "reinhard": normalizers.TorchReinhardNormalizer}
        self.kind, self.failures, self.peer = kind, 0, known[kind]()
        self.peer.fit(torch.from_numpy(template.copy()).permute(2, 0, 1))

    def __call__(self, tile: Tile) -> Tile:
        """One normalized tile, (H, W, 3)."""
        import torch

        planes = torch.from_numpy(tile).permute(2, 0, 1)
        try:
            macenko = self.kind == "macenko"
            new = self.peer.normalize(I=planes, stains=False)[0] if macenko else self.peer.normalize(planes)
        except (IndexError, torch.linalg.LinAlgError):
            self.failures += 1
            return tile
        return np.asarray(new.numpy()).clip(0, 255).astype(np.uint8)


def torchstain(kind: str, template: Tile) -> Torchstain | None:
    """:class:`Torchstain`, or None where it is not installed."""
    return Torchstain(kind, template) if importable("torchstain") else None


def other_normalizers(template: Tile) -> dict[str, Callable[[Tile], Tile]]:
    """Normalizers of other libraries that are here, fitted to the template; they take batches (1, C, H, W).

    torch-staintools solves for concentrations by least squares, the fastest of its ways and torchstain's. stainx is
    under the GPL and no part of requirements.txt: it is measured where somebody has installed it.
    """
    import torch

    def batch(tile: Tile) -> torch.Tensor:
        return torch.from_numpy(tile.copy()).permute(2, 0, 1)[None]

    def picture(planes: torch.Tensor) -> Tile:
        return np.asarray(planes[0].permute(1, 2, 0).numpy()).clip(0, 255).astype(np.uint8)

    found: dict[str, Callable[[Tile], Tile]] = {}
    if importable("torch_staintools.normalizer"):
        from torch_staintools.normalizer import NormalizerBuilder

        for kind in ("macenko", "reinhard"):
            builder = NormalizerBuilder.build(kind, concentration_solver="ls")
            builder.fit(batch(template) / 255)
            found[f"torch-staintools {kind}"] = lambda tile, peer=builder: picture(peer(batch(tile) / 255) * 255)
    if importable("stainx"):
        stainx = import_module("stainx")
        for kind in ("Macenko", "Reinhard"):
            peer = getattr(stainx, kind)(device="cpu").fit(batch(template))
            found[f"stainx {kind.lower()}"] = lambda tile, peer=peer: picture(peer.transform(batch(tile)))
    return found


def flat(rows: Sequence[Sequence[Tile]]) -> list[Tile]:
    """Rows of tiles as one list."""
    return [tile for row in rows for tile in row]
