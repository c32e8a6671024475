"""Colour statistics that add up, and maps that do what the algebra says, the paper's own among them."""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import density_to_rgb, od_to_hsd, optical_density
from deeplrhe_utils.stain.dcgmm.fit import fit_responsibilities
from deeplrhe_utils.stain.dcgmm.maps import chroma_spread, map_to
from deeplrhe_utils.stain.dcgmm.method import Dcgmm, responsibilities
from deeplrhe_utils.stain.dcgmm.net import PAPER, DcgmmConfig, DcgmmNet, tissue_weight
from deeplrhe_utils.stain.dcgmm.statistics import (
    SIGMA_FLOOR,
    ColourStatistics,
    collect,
    density_histogram,
    density_scale,
    quantile,
)
from tests.stain_tiles import GLASS, amounts, fitted, levels, net, painted, slides, training

pytestmark = pytest.mark.usefixtures("one_thread")

NUMBERS = ("weight", "first", "second")
DIAGONAL = DcgmmConfig(covariance="diagonal")


def invented(seed, k=4, share=None, low=0.2):
    """Statistics of K random Gaussians of plausible size, K = 4."""
    random = np.random.default_rng(seed)
    weight = 1e5 * random.uniform(0.5, 1, k)
    weight = weight if share is None else 1e5 * np.array(share)
    means = np.stack([np.linspace(low, 1, k), random.uniform(-0.4, 0, k), random.uniform(0.1, 0.4, k)], axis=1)
    turned = random.normal(size=(k, 3, 3)) * 0.06
    second = turned @ turned.transpose(0, 2, 1) + 0.03**2 * np.eye(3) + means[:, :, None] * means[:, None, :]
    density = np.zeros(1120, np.int64)
    density[100] = 1000
    return ColourStatistics("a net", 1.0, weight, means * weight[:, None], second * weight[:, None, None], density, 1e5)


# Statistics
def test_moments_add_up_in_any_order():
    tiles = slides()["lab 2"]
    scale = density_scale(tiles)
    whole = collect(net(), tiles, scale=scale, with_glass=True)
    for turned in permutations(tiles):
        one = collect(net(), turned, scale=scale, with_glass=True)
        for name in NUMBERS:
            np.testing.assert_allclose(getattr(one, name), getattr(whole, name), rtol=1e-10)
        assert one.tissue_px == pytest.approx(whole.tissue_px, rel=1e-10)
        assert np.array_equal(one.density, whole.density) and one.scale == scale
        assert np.array_equal(one.glass.counts, whole.glass.counts) and one.glass.share > 0.1


@pytest.mark.parametrize("step", [1, 2, 3])
def test_means_and_covariances_are_numpys(step):
    tile = painted("lab 3", 5)[:101, :140]
    own = collect(net(), [tile], pixel_step=step)
    od = optical_density(torch.from_numpy(tile.copy()))
    gamma = responsibilities(net(), own.scale, tile)[:, ::step, ::step].reshape(4, -1)
    x = od_to_hsd(od)[::step, ::step].reshape(-1, 3)
    weights = gamma * tissue_weight(x[:, 0]).numpy()
    for k, w in enumerate(weights):
        np.testing.assert_allclose(own.means()[k], np.average(x.double(), axis=0, weights=w), rtol=1e-5)
        covariance = np.cov(x.double().numpy().T, aweights=w.astype(float), ddof=0)
        values, vectors = np.linalg.eigh(covariance)
        floored = (vectors * np.maximum(values, SIGMA_FLOOR**2)) @ vectors.T
        np.testing.assert_allclose(own.covariances()[k], floored, atol=1e-8)
    assert own.tissue_px == pytest.approx(float(tissue_weight(x[:, 0]).sum()) * step**2, rel=1e-5)
    np.testing.assert_allclose(own.shares(), weights.sum(1) / weights.sum(), rtol=1e-5)


def test_glass_gives_no_moments_unless_the_paper_asks_for_it():
    tile = slides()["lab 1"][0]
    only_tissue = np.ascontiguousarray(tile[:, ~GLASS[0]])
    whole, cut = (collect(net(), [one], scale=0.85) for one in (tile, only_tissue))
    np.testing.assert_allclose(whole.means(), cut.means(), atol=5e-3)
    assert whole.weight.sum() == pytest.approx(cut.weight.sum(), rel=0.01)
    paper = collect(DcgmmNet(PAPER).eval(), [tile])
    assert paper.weight.sum() == pytest.approx(tile.shape[0] * tile.shape[1] / 4, rel=1e-5), "every pixel that is taken"


def test_the_density_scale_is_numpys_percentile():
    tiles = slides()["lab 3"]
    density = np.concatenate([optical_density(tile[::2, ::2]).mean(-1).ravel() for tile in tiles])
    density = density[density > 0.12]
    assert density_scale(tiles) == pytest.approx(np.percentile(density, 95), abs=0.003)
    histogram = density_histogram(tiles)
    assert histogram.sum() == len(density)
    assert np.array_equal(histogram, sum(density_histogram([tile]) for tile in tiles))
    for share in (0.01, 0.5, 1.0):
        assert quantile(histogram, share) == pytest.approx(np.quantile(density, share), abs=0.006)


def test_a_given_white_level_is_taken_off():
    lit = [painted("lab 1", seed, light=(0.03, 0.10, 0.20)) for seed in range(2)]
    plain = [painted("lab 1", seed, light=(0.0, 0.0, 0.0)) for seed in range(2)]
    white = np.array([0.03, 0.10, 0.20])
    assert quantile(density_histogram(lit, white)) == pytest.approx(density_scale(plain), abs=0.01)
    own, wanted = collect(net(), lit, white=white, scale=0.8), collect(net(), plain, scale=0.8)
    np.testing.assert_allclose(own.means(), wanted.means(), atol=0.01)
    assert np.abs(collect(net(), lit, scale=0.8).means() - wanted.means()).max() > 0.05
    assert own.glass.sampled_px == 0 and own.glass.white is None, "nobody asked for it"
    with_glass = collect(net(), lit, white=white, scale=0.8, with_glass=True)
    np.testing.assert_allclose(with_glass.glass.white, white, atol=0.005)
    np.testing.assert_array_equal(with_glass.second, own.second)


@pytest.mark.parametrize("ink", [(20, 140, 60), (40, 60, 200), (20, 20, 20)], ids=["green", "blue", "black"])
def test_ink_is_left_out_and_counted_where_the_cohort_is_known(ink):
    clean = slides()["lab 2"]
    cohort = collect(net(), [tile for tiles in slides().values() for tile in tiles])
    marked = [tile.copy() for tile in clean]
    for tile in marked:
        tile[20:90, 20:120] = ink
    area = 3 * 70 * 100
    scale = density_scale(clean)
    own, kept, wanted = (collect(net(), tiles, cohort=known, scale=scale)
                         for tiles, known in ((marked, cohort), (marked, None), (clean, cohort)))  # fmt: skip
    assert wanted.foreign_px < 0.005 * wanted.tissue_px
    assert own.foreign_px == pytest.approx(area, rel=0.03) and kept.foreign_px == 0
    error, without = (np.abs(one.means() - wanted.means()).max() for one in (own, kept))
    assert error < 0.02 and without > 5 * error


def test_a_constant_tile_gives_finite_figures():
    constant = np.full((64, 64, 3), (180, 90, 160), np.uint8)
    own = collect(net(), [constant])
    assert np.isfinite(own.covariances()).all()
    assert np.linalg.eigvalsh(own.covariances()).min() == pytest.approx(SIGMA_FLOOR**2, rel=1e-6)
    for source, reference in ((own, collect(net(), slides()["lab 1"])), (collect(net(), slides()["lab 1"]), own)):
        made = fitted().map_to(source, reference)
        assert np.isfinite(made.matrix).all() and np.isfinite(made.offset).all()
        assert fitted().apply(made, constant).shape == constant.shape


def test_statistics_of_different_networks_are_not_mixed():
    own, other = collect(net(), slides()["lab 1"]), replace(invented(0), net="another")
    with pytest.raises(StainError, match="measured with different networks"):
        map_to(own, other)
    fewer = collect(DcgmmNet(DcgmmConfig(components=3)).eval(), slides()["lab 1"])
    with pytest.raises(StainError, match="measured with different networks"):
        map_to(own, fewer)


def test_statistics_survive_json():
    own = collect(net(), slides()["lab 2"], cohort=collect(net(), slides()["lab 1"]), with_glass=True)
    again = ColourStatistics.from_json(json.loads(json.dumps(own.to_json(), allow_nan=False)))
    assert again.to_json() == own.to_json() and own.foreign_px > 0
    for name in (*NUMBERS, "density"):
        assert np.array_equal(getattr(again, name), getattr(own, name))
        assert getattr(again, name).dtype == getattr(own, name).dtype


STATISTICS_DAMAGE = {
    "nothing": lambda r: {}, "no record": lambda r: None,
    "no moments": lambda r: {k: v for k, v in r.items() if k != "second"},
    "no glass": lambda r: {k: v for k, v in r.items() if k != "glass"},
    "a component less": lambda r: r | {"first": r["first"][:-1]},
    "not a number": lambda r: r | {"second": np.full((4, 3, 3), np.nan).tolist()},
    "text": lambda r: r | {"weight": "much"}, "too long": lambda r: r | {"density": [1] * 2000},
}  # fmt: skip


@pytest.mark.parametrize("damage", STATISTICS_DAMAGE.values(), ids=STATISTICS_DAMAGE)
def test_damaged_statistics_are_told(damage):
    with pytest.raises(StainError, match=r"colour statistics .*Collect the statistics again"):
        ColourStatistics.from_json(damage(invented(0).to_json()))


# Maps
@pytest.mark.parametrize("seed", range(2))
def test_the_full_map_sends_moments_to_moments(seed):
    source, target = invented(seed), invented(seed + 100, low=0.3)
    made = map_to(source, target)
    np.testing.assert_allclose(np.einsum("kij,kj->ki", made.matrix, source.means()) + made.offset, target.means())
    moved = made.matrix @ source.covariances() @ made.matrix.transpose(0, 2, 1)
    np.testing.assert_allclose(moved, target.covariances(), atol=1e-12)
    np.testing.assert_allclose(made.matrix, made.matrix.transpose(0, 2, 1), atol=1e-9)
    assert np.linalg.eigvalsh(made.matrix).min() > 0, "of all maps that do so, the optimal one is positive definite"


@pytest.mark.parametrize("config", [DIAGONAL, PAPER], ids=["limited", "paper"])
def test_the_diagonal_map_is_the_papers_formula(config):
    source, target = invented(3), invented(4, low=0.3)
    made = map_to(source, target, config)
    x = np.random.default_rng(0).normal(size=(4, 3))
    sigma, goal = (np.sqrt(np.diagonal(one.covariances(), axis1=1, axis2=2)) for one in (source, target))
    ratio = goal / sigma
    assert (ratio.min() < 1 / 3 or ratio.max() > 3) or config is DIAGONAL
    ratio = np.clip(ratio, 1 / 3, 3) if config is DIAGONAL else ratio
    np.testing.assert_allclose(
        np.einsum("kij,kj->ki", made.matrix, x) + made.offset, (x - source.means()) * ratio + target.means()
    )


def test_the_scale_of_the_diagonal_map_has_a_limit():
    source, target = invented(3), invented(3, low=0.3)
    wide = replace(target, second=target.second + 2.0 * target.weight[:, None, None] * np.eye(3))
    made = map_to(source, wide, DIAGONAL)
    np.testing.assert_allclose(made.matrix, 3 * np.eye(3)[None].repeat(4, 0))
    np.testing.assert_allclose(map_to(wide, target, DIAGONAL).matrix, np.eye(3)[None].repeat(4, 0) / 3)
    assert map_to(source, wide, PAPER).matrix.max() > 3


@pytest.mark.parametrize("rare", ["source", "reference"])
def test_a_component_of_less_than_one_percent_takes_the_mean_of_the_others(rare):
    few = [0.5, 0.3, 0.195, 0.005]
    source = invented(5, share=few if rare == "source" else None)
    target = invented(6, share=few if rare == "reference" else None)
    made, plain = map_to(source, target), map_to(invented(5), invented(6))
    share = source.shares()[:3] / source.shares()[:3].sum()
    np.testing.assert_allclose(made.matrix[3], np.einsum("k,kij->ij", share, made.matrix[:3]))
    np.testing.assert_allclose(made.offset[3], share @ made.offset[:3])
    np.testing.assert_allclose(made.matrix[:3], plain.matrix[:3], err_msg="the others keep their own")
    full = map_to(replace(invented(5), weight=1e5 * np.array([0.5, 0.3, 0.188, 0.012])), invented(6))
    assert not np.allclose(full.matrix[3], made.matrix[3]), "at 1.2 % a component has its own map"


def test_the_same_statistics_give_the_identity_and_no_component_in_common_is_told():
    own = invented(7)
    made = map_to(own, ColourStatistics.from_json(json.loads(json.dumps(own.to_json()))))
    assert made.identity and np.array_equal(made.matrix, np.eye(3)[None].repeat(4, 0)) and not made.offset.any()
    assert not map_to(own, invented(8)).identity
    one, two = invented(0, share=[1, 0, 0, 0]), invented(1, share=[0, 1, 0, 0])
    with pytest.raises(StainError, match=r"No component holds 1 %.*Got: shares.*Choose another reference"):
        map_to(one, two)


def one_bath(seed=0):
    """A tile that saw haematoxylin only."""
    both = amounts(seed)
    amount = both[..., 0] + 0.3 * both[..., 1] + 0.2 * ~GLASS
    return density_to_rgb((amount[..., None] * np.array([0.65, 0.70, 0.29])).astype(np.float32))


def test_a_single_stain_is_matched_in_density_alone_and_no_second_is_painted():
    single = [one_bath(seed) for seed in range(2)]
    reference = collect(net(), slides()["lab 1"])
    own = collect(net(), single)
    assert chroma_spread(own) < 0.03 < 0.2 < chroma_spread(reference)
    made = map_to(own, reference)
    assert made.note == "single stain: only density is matched"
    assert not (made.matrix * (1 - np.eye(3))).any() and (made.matrix[:, [1, 2], [1, 2]] == 1).all()
    np.testing.assert_allclose(made.offset[:, 1:], 0, atol=1e-12)
    np.testing.assert_allclose(made.matrix[:, 0, 0] * own.means()[:, 0] + made.offset[:, 0], reference.means()[:, 0])
    before, after = (od_to_hsd(optical_density(one))[~GLASS] for one in (single[0], fitted().apply(made, single[0])))
    assert np.abs(after - before)[:, 1:].mean() < 0.01, "hue stays"
    assert np.abs(after - before)[:, 0].mean() > 0.02, "density does not"
    assert map_to(own, reference, DIAGONAL).note == made.note
    assert map_to(reference, collect(net(), slides()["lab 2"])).note == ""
    assert map_to(own, collect(net(), [one_bath(3)])).note == "", "the reference has one stain, too"


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_change_a_map(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        made = map_to(*(collect(net(), slides()[lab]) for lab in ("lab 2", "lab 1")))
    finally:
        torch.set_num_threads(before)
    wanted = map_to(*(collect(net(), slides()[lab]) for lab in ("lab 2", "lab 1")))
    np.testing.assert_allclose(made.matrix, wanted.matrix, atol=1e-9)
    np.testing.assert_allclose(made.offset, wanted.offset, atol=1e-9)


# The paper's profile, written once more from its description
PAPER_FIT = {"steps": 24, "crop_px": 64, "batch": 2, "learning_rate": 1e-3, "seed": 3}


def hsd(tile):
    """(D, cx, cy) of a tile, (H·W, 3), float64."""
    od = -np.log((tile.reshape(-1, 3).astype(np.float64) + 1) / 256)
    density = od.mean(1)
    cx, cy = (od[:, 0] - density) / (density + 0.03), (od[:, 1] - od[:, 2]) / (np.sqrt(3) * (density + 0.03))
    return np.stack([density, cx, cy], axis=1)


def paper_moments(gamma, x):
    """μ and σ of every component over all pixels, (K, 3) each."""
    mass = gamma.sum(1)
    mean = np.array([g @ x / n for g, n in zip(gamma, mass, strict=True)])
    variance = [g @ (x - m) ** 2 / n for g, m, n in zip(gamma, mean, mass, strict=True)]
    return mean, np.sqrt(variance)


def paper_gamma(network, tile):
    """Softmax of the network's answer to the density as it is, (K, H·W)."""
    density = torch.from_numpy(hsd(tile)[:, 0].reshape(1, 1, *tile.shape[:2]).astype(np.float32))
    with torch.inference_mode():
        logits = network(density)[0].double().numpy().reshape(4, -1)
    gamma = np.exp(logits - logits.max(0))
    return gamma / gamma.sum(0)


def paper_tile(network, tile, mean_t, sigma_t):
    """x' = Σ γ_k ((x − μ_k) / σ_k · σ_k' + μ_k'), then back to RGB within the triangle."""
    x, gamma = hsd(tile), paper_gamma(network, tile)
    mean, sigma = paper_moments(gamma, x)
    new = sum(g[:, None] * ((x - m) / s * st + mt)
              for g, m, s, mt, st in zip(gamma, mean, sigma, mean_t, sigma_t, strict=True))  # fmt: skip
    d = np.maximum(new[:, 0], 0)
    red = np.clip(new[:, 1] * (d + 0.03), -d, 2 * d)
    half = np.clip(new[:, 2] * (d + 0.03) * np.sqrt(3) / 2, -(d - red / 2), d - red / 2)
    od = np.stack([d + red, d - red / 2 + half, d - red / 2 - half], axis=1)
    return np.clip(np.rint(256 * np.exp(-od) - 1), 0, 255).reshape(tile.shape)


def test_the_papers_profile_is_the_paper():
    network = fit_responsibilities(*training(), PAPER, **PAPER_FIT)[0]
    method = Dcgmm(network)
    template, tile = slides()["lab 1"][0], slides()["lab 2"][1]
    mean_t, sigma_t = paper_moments(paper_gamma(network, template), hsd(template))
    reference, own = (collect(network, [one], pixel_step=1) for one in (template, tile))
    np.testing.assert_allclose(reference.means(), mean_t, atol=1e-4)
    assert min(reference.shares().min(), own.shares().min()) > 0.01 and sigma_t.min() > SIGMA_FLOOR
    made = method.map_to(own, reference)
    new = method.apply(made, tile)
    wanted = paper_tile(network, tile, mean_t, sigma_t)
    assert levels(new, tile).mean() > 5, "there is something to do"
    assert levels(new, wanted).max() <= 1 and levels(new, wanted).mean() < 0.01
