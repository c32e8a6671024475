"""Apply a colour map: the per-pixel arithmetic, eager in strips that fit the cache, or compiled in stages.

Source: ours, measured in ``benchmarks/stain_apply.py``. One tile at a time, because the planes of several tiles leave
the cache. The convolutions are never compiled together with the pixel arithmetic: one graph of both derives the
upsampled logits anew for every use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import CHROMA_EPSILON, GAP_LEVELS, GAP_SOFTNESS, GLASS_DENSITY, GLASS_SOFTNESS, SQRT3
from deeplrhe_utils.stain.dcgmm.maps import ColourMap
from deeplrhe_utils.stain.dcgmm.net import LEAST_SIDE_PX, DcgmmNet

STRIP_ROWS: Final = 128


def check_tile(tile: Any) -> bool:
    """Whether a tile's channels come first; raise :class:`StainError` when it is no 8-bit RGB picture.

    Parameters
    ----------
    tile : uint8 RGB (H, W, 3) or (3, H, W), sides of 32 px or more
    """
    shape, kind = tuple(getattr(tile, "shape", ())), getattr(tile, "dtype", type(tile).__name__)
    if str(kind).removeprefix("torch.") != "uint8":
        raise StainError("A tile must hold 8-bit values", got=kind, expected="uint8",
                         fix="Convert it: values of 0 to 1 times 255 and rounded; 16 bit divided by 257")  # fmt: skip
    if len(shape) != 3 or 3 not in (shape[0], shape[2]):
        alpha = len(shape) == 3 and 4 in (shape[0], shape[2])
        raise StainError("A tile must be RGB", got=f"shape {shape}", expected="(H, W, 3) or (3, H, W)",
                         fix="Lay it over white first: alpha is no stain" if alpha else "Give one picture")  # fmt: skip
    first = shape[2] != 3
    if min(shape[1:] if first else shape[:2]) < LEAST_SIDE_PX:
        raise StainError("A tile is too small to be normalized", got=f"shape {shape}",
                         expected=f"sides of {LEAST_SIDE_PX} px or more", fix="Cut larger tiles")  # fmt: skip
    return first


class StainTransform:
    """A network and a colour map: 8-bit pictures in, normalized 8-bit pictures out.

    Parameters
    ----------
    colour_map : made with statistics of this network
    compiled : compile the pixel arithmetic (about six seconds, once per process and size; needs a C++ compiler)
    bf16 : run the convolutions in bfloat16

    Raises StainError: the map belongs to another network.
    """

    def __init__(self, net: DcgmmNet, colour_map: ColourMap, *, compiled: bool = False, bf16: bool = False) -> None:
        if colour_map.net != net.digest() or len(colour_map.matrix) != net.components:
            raise StainError("A colour map belongs to another network", got=f"{colour_map.net}",
                             expected=net.digest(), fix="Collect the statistics again, then make the map")  # fmt: skip
        self.net, self.identity = net, colour_map.identity
        self.scale = colour_map.scale if net.config.scaled else 1.0
        self.compiled, self.bf16 = compiled, bf16
        table = np.concatenate([colour_map.matrix.reshape(-1, 9), colour_map.offset], axis=1).T
        self.white = any(colour_map.white_in) or any(colour_map.white_out)
        self.white_in, white_out = (_column(colour_map.white_in), _column(colour_map.white_out))
        gaps = torch.tensor(colour_map.gaps, dtype=torch.float32).view(2, 3, 1) if colour_map.gaps.any() else None
        self.constants = (self._own(), torch.tensor(table, dtype=torch.float32).contiguous(), self.white_in, white_out,
                          net.config.glass, self.white, gaps)  # fmt: skip

    def _own(self) -> Tensor:
        """(3, K, 1): square, slope and offset of the network's quadratic in unscaled density, over the temperature."""
        t, own = self.net.config.temperature, self.net.own
        if own is None:
            return torch.zeros(3, self.net.components, 1)
        parts = (own.square / self.scale**2, own.slope / self.scale, own.offset)
        return torch.stack([part.detach() / t for part in parts]).unsqueeze(-1)

    def tile(self, planes: Tensor) -> Tensor:
        """One normalized tile, uint8 (3, H, W), of one that is contiguous."""
        if self.identity:
            return planes.clone()
        with torch.inference_mode():
            return self._changed(planes)

    def _changed(self, planes: Tensor) -> Tensor:
        _, height, width = planes.shape
        flat = planes.reshape(3, -1)
        density = (_compiled(_density) if self.compiled else _density)(flat, self.white_in, self.white)
        spread = self._spread(density.view(1, 1, height, width))
        logits = None if spread is None else spread.reshape(spread.shape[1], -1)
        if self.compiled:
            return torch.stack(_compiled(_pixels)(flat, density, logits, *self.constants)).view(3, height, width)
        out, step = torch.empty_like(flat), STRIP_ROWS * width
        room = torch.empty((20 + 2 * self.net.components, min(step, height * width)))
        for start in range(0, height * width, step):
            part = slice(start, start + step)
            _pixels_in_place(out, part, room, flat, density, logits, *self.constants)
        return out.view(3, height, width)

    def _spread(self, density: Tensor) -> Tensor | None:
        """The convolutions' share of the logits over the temperature, (1, K, H, W), contiguous."""
        if self.net.layers is None:
            return None
        with torch.autocast(density.device.type, torch.bfloat16, enabled=self.bf16):
            coarse, factor = self.net.coarse(density, self.scale)
        coarse = coarse.float().div_(self.net.config.temperature).contiguous()
        height, width = density.shape[-2:]
        return coarse[..., :height, :width].contiguous() if factor == 1 else _enlarged(coarse, factor, (height, width))


def _column(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(3, 1)


def _enlarged(coarse: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Bilinear enlargement of (1, K, h, w), cut to `size`: torch's pixels, by OpenCV six times faster."""
    planes = coarse[0].numpy()
    large = np.empty((len(planes), planes.shape[1] * factor, planes.shape[2] * factor), np.float32)
    for small, plane in zip(planes, large, strict=True):
        cv2.resize(small, plane.shape[::-1], dst=plane, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(np.ascontiguousarray(large[:, : size[0], : size[1]])).unsqueeze(0)


def _density(planes: Tensor, white: Tensor, with_white: bool) -> Tensor:
    """Density (n,) of 8-bit planes (3, n): one logarithm of the product instead of three."""
    if with_white:
        return ((planes.float() + 1.0).div(256.0).log().neg() - white).clamp_min(0.0).mean(0)
    product = (planes[0].float() + 1.0) * (planes[1].float() + 1.0) * (planes[2].float() + 1.0)
    return (product * (1.0 / 256.0**3)).log() * (-1.0 / 3.0)


def _pixels(
    planes: Tensor, density: Tensor, logits: Tensor | None, own: Tensor, table: Tensor, white_in: Tensor,
    white_out: Tensor, glass: bool, white: bool, gaps: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """New 8-bit red, green and blue (n,) of planes (3, n), their density (n,) and the convolutions' logits (K, n).

    Written plane by plane, softmax included: so a compiler makes one loop of it, with no reduction and no stack inside.
    """
    d = density
    if white:
        od = [(((planes[c].float() + 1.0) * (1.0 / 256.0)).log().neg() - white_in[c]).clamp_min(0.0) for c in range(3)]
        difference = od[1] - od[2]
    else:  # two logarithms instead of three: density already holds the sum
        first = ((planes[0].float() + 1.0) * (1.0 / 256.0)).log().neg()
        difference = ((planes[2].float() + 1.0) / (planes[1].float() + 1.0)).log()
        others = 3.0 * d - first
        od = [first, 0.5 * (others + difference), 0.5 * (others - difference)]
    inverse = 1.0 / (d + CHROMA_EPSILON)
    cx, cy = (od[0] - d) * inverse, difference * inverse * (1.0 / SQRT3)
    components = range(own.shape[1])
    z = [(own[0, k] * d + own[1, k]) * d + own[2, k] + (0.0 if logits is None else logits[k]) for k in components]
    top = z[0]
    for other in z[1:]:
        top = torch.maximum(top, other)
    part = [(value - top).exp() for value in z]
    total = 1.0 / sum(part[1:], start=part[0])
    new = []
    for i in range(3):
        terms = [part[k] * (table[3 * i, k] * d + table[3 * i + 1, k] * cx + table[3 * i + 2, k] * cy + table[9 + i, k])
                 for k in components]  # fmt: skip
        new.append(sum(terms[1:], start=terms[0]) * total)
    d2 = new[0].clamp_min(0.0)
    wide = d2 + CHROMA_EPSILON
    red = torch.minimum(torch.maximum(new[1] * wide, -d2), 2.0 * d2)
    rest = d2 - 0.5 * red
    half = torch.minimum(torch.maximum(new[2] * wide * (SQRT3 / 2.0), -rest), rest)
    result = [d2 + red, rest + half, rest - half]
    if glass:
        tissue = torch.sigmoid(((d - GLASS_DENSITY) * (1.0 / GLASS_SOFTNESS)).clamp(-30.0, 30.0))
        result = [old + tissue * (value - old) for old, value in zip(od, result, strict=True)]
    if white:
        result = [value + white_out[c] for c, value in enumerate(result)]
    result = [v.neg().exp() * 256.0 - 0.5 for v in result]
    if gaps is not None:
        share = _gap_share(planes, gaps)
        result = [v + share * (planes[c] + 0.5 + gaps[1, c] - v) for c, v in enumerate(result)]
    red, green, blue = (v.clamp(0.0, 255.0).to(torch.uint8) for v in result)
    return red, green, blue


def _gap_share(planes: Tensor, gaps: Tensor) -> Tensor:
    """How much pixels (3, n) are gaps that show dark glass, (n,) in [0, 1]: hardly darker than it in any channel."""
    darker = torch.maximum(torch.maximum(*(gaps[0, c] - planes[c] for c in (0, 1))), gaps[0, 2] - planes[2])
    return torch.sigmoid((GAP_LEVELS - darker) * (1.0 / GAP_SOFTNESS))


def _pixels_in_place(
    out: Tensor, part: slice, room: Tensor, planes: Tensor, density: Tensor, logits: Tensor | None, own: Tensor,
    table: Tensor, white_in: Tensor, white_out: Tensor, glass: bool, white: bool, gaps: Tensor | None,
) -> None:  # fmt: skip
    """:func:`_pixels` of one strip, written for eager execution: in place, in memory that all strips of a tile share.

    `room` is (20 + 2 K, n) or wider: memory asked for strip by strip would be given back and faulted in again.
    """
    source, k = planes[:, part], own.shape[1]
    room = room[:, : source.shape[1]]
    od, (d, cx, cy, wide, red), blend = room[0:3], room[3:8], room[8:20]
    z, gamma = room[20 : 20 + k], room[20 + k : 20 + 2 * k]
    od.copy_(source).add_(1.0).mul_(1.0 / 256.0).log_().neg_()
    if white:
        od.sub_(white_in).clamp_(min=0.0)
    d.copy_(density[part])
    torch.add(d, CHROMA_EPSILON, out=wide).reciprocal_()
    torch.sub(od[0], d, out=cx).mul_(wide)
    torch.sub(od[1], od[2], out=cy).mul_(wide).mul_(1.0 / SQRT3)
    torch.addcmul(own[1], own[0], d, out=z).mul_(d).add_(own[2])
    torch.softmax(z if logits is None else z.add_(logits[:, part]), 0, out=gamma)
    torch.mm(table, gamma, out=blend)
    d2, x2, y2 = blend[9], blend[10], blend[11]
    for i, value in enumerate((d2, x2, y2)):
        value.addcmul_(blend[3 * i], d).addcmul_(blend[3 * i + 1], cx).addcmul_(blend[3 * i + 2], cy)
    d2.clamp_(min=0.0)
    torch.add(d2, CHROMA_EPSILON, out=wide)
    torch.neg(d2, out=cx)
    torch.maximum(x2.mul_(wide), cx, out=red)
    torch.minimum(red, torch.mul(d2, 2.0, out=cy), out=red)
    rest, half = torch.add(d2, red, alpha=-0.5, out=cx), y2.mul_(wide).mul_(SQRT3 / 2.0)
    torch.maximum(half, torch.neg(rest, out=cy), out=half)
    torch.minimum(half, rest, out=half)
    result = blend[0:3]
    torch.add(d2, red, out=result[0])
    torch.add(rest, half, out=result[1])
    torch.sub(rest, half, out=result[2])
    if glass:
        tissue = d.sub_(GLASS_DENSITY).mul_(1.0 / GLASS_SOFTNESS).clamp_(-30.0, 30.0).sigmoid_()
        result = od.addcmul_(tissue, result.sub_(od))
    if white:
        result.add_(white_out)
    result.neg_().exp_().mul_(256.0).sub_(0.5)
    if gaps is not None:
        result.add_((source + 0.5 + gaps[1] - result).mul_(_gap_share(source, gaps)))
    out[:, part] = result.clamp_(0.0, 255.0)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` through torch.compile; a missing compiler is a :class:`StainError`, not a silent slow path."""
    fast = torch.compile(function)

    def call(*arguments: Any) -> Any:
        try:
            return fast(*arguments)
        except Exception as error:
            if type(error).__module__.startswith("torch._"):
                raise StainError(f"The pixel arithmetic could not be compiled ({type(error).__name__}: {error})",
                                 fix="Install a C++ compiler, or leave compiled off") from error  # fmt: skip
            raise

    return call


def apply(transform: StainTransform, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Normalize one uint8 RGB tile, (H, W, 3) or (3, H, W); the same layout comes back. Deterministic, no state."""
    if check_tile(tile):
        return np.asarray(transform.tile(torch.from_numpy(np.require(tile, requirements=["C", "W"]))).numpy())
    planes = np.stack(cv2.split(tile))
    return np.asarray(cv2.merge(list(transform.tile(torch.from_numpy(planes)).numpy())))
