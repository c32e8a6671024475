"""The DCGMM networks: a likelihood with gradients, a fit that orders its components, files that say what they are."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import special, stats

from deeplrhe_utils.core.errors import ModelError, StainError
from deeplrhe_utils.stain.colour import density_to_rgb, optical_density
from deeplrhe_utils.stain.dcgmm import fit
from deeplrhe_utils.stain.dcgmm.fit import SIGMA_FLOOR_FIT, fit_responsibilities, negative_log_likelihood
from deeplrhe_utils.stain.dcgmm.method import responsibilities
from deeplrhe_utils.stain.dcgmm.net import (
    DEFAULT,
    DENSITY,
    PAPER,
    DcgmmConfig,
    DcgmmNet,
    load_net,
    save_net,
    start_logits,
    tissue_weight,
)
from deeplrhe_utils.stain.dcgmm.statistics import collect, density_scale
from tests.stain_tiles import fitted, hsd_to_od, net, quick_fit, slides, smooth, training

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGS = {"compact": DEFAULT, "paper": PAPER, "density": DENSITY}


def batch(n=2, k=3, side=7, spread=0.2, seed=2):
    """Logits, colours and weights of `n` small pictures, float64."""
    random = np.random.default_rng(seed)
    shape = (side, side - 2)
    logits, x = random.normal(size=(n, k, *shape)), random.normal(0.4, spread, size=(n, *shape, 3))
    return torch.from_numpy(logits), torch.from_numpy(x), torch.from_numpy(random.uniform(0, 1, (n, *shape)))


def scipy_loss(logits, x, weight):
    """The same from SciPy's normal densities, one picture and one component at a time."""
    total = 0.0
    for one, colours, w in zip(logits.numpy(), x.numpy(), weight.numpy(), strict=True):
        flat, w, terms = colours.reshape(-1, 3), w.ravel(), []
        for log_gamma in special.log_softmax(one.reshape(len(one), -1), axis=0):
            gamma = np.exp(log_gamma) * w
            mean = gamma @ flat / gamma.sum()
            sigma = np.sqrt(np.maximum(gamma @ (flat - mean) ** 2 / gamma.sum(), SIGMA_FLOOR_FIT**2))
            terms.append(log_gamma + stats.norm(mean, sigma).logpdf(flat).sum(axis=1))
        total -= special.logsumexp(terms, axis=0) @ w
    return total / weight.numpy().sum()


# The loss
@pytest.mark.parametrize("spread", [0.2, 0.01, 1e-4])
def test_the_loss_is_that_of_scipys_mixture(spread):
    given = batch(spread=spread)
    assert float(negative_log_likelihood(*given)) == pytest.approx(scipy_loss(*given), rel=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    logits, x, weight = batch()
    assert torch.autograd.gradcheck(lambda v: negative_log_likelihood(v, x, weight), logits.requires_grad_())


@pytest.mark.parametrize("spread", [0.05, 0.005])
def test_no_pixel_loses_its_gradient_to_a_density_above_one(spread):
    """The released objective clips there: after a good fit, nearly nothing would be learnt from."""
    logits, x, weight = batch(spread=spread)
    loss = negative_log_likelihood(logits.requires_grad_(), x, weight)
    assert float(loss.detach()) < -2, "densities are far above 1"
    loss.backward()
    assert (logits.grad.abs() > 0).all()


def test_pixels_without_tissue_do_not_count():
    logits, x, weight = batch()
    weight[:, :3] = 0
    alone = negative_log_likelihood(logits, x, weight)
    x[:, :3] = 7.0
    assert float(negative_log_likelihood(logits, x, weight)) == pytest.approx(float(alone), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.4])
def test_constant_pictures_and_bare_glass_give_finite_losses(value):
    logits = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = torch.full((2, 9, 9, 3), value)
    loss = negative_log_likelihood(logits, x, tissue_weight(x[..., 0]) * (value > 0))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


# The networks
def test_the_papers_network_is_the_released_one_and_ours_are_small():
    paper = DcgmmNet(PAPER)
    assert paper.weights == 501_796
    convolutions = [m for m in paper.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convolutions] == [
        (1, 32, 3), (32, 64, 3), (64, 64, 3), (64, 128, 3), (128, 128, 3), (128, 128, 3), (128, 64, 3), (64, 32, 1),
        (32, 4, 3),
    ]  # fmt: skip
    kinds = [type(layer).__name__ for layer in paper.layers]
    assert kinds == (
        ["Conv2d", "ReLU"] * 2 + ["MaxPool2d"] + ["Conv2d", "ReLU"] * 2 + ["MaxPool2d"] + ["Conv2d", "ReLU"]
        + ["Upsample"] + ["Conv2d", "ReLU"] + ["Upsample"] + ["Conv2d", "ReLU"] * 2 + ["Conv2d"]
    )  # fmt: skip
    assert all(c.padding[0] == c.kernel_size[0] // 2 and c.padding_mode == "zeros" for c in convolutions)
    assert (PAPER.scaled, PAPER.covariance, PAPER.temperature, PAPER.glass, PAPER.per) == (
        False, "diagonal", 1.0, False, "tile",
    )  # fmt: skip
    assert DcgmmNet(DENSITY).weights == 3 * 4
    assert DcgmmNet(PAPER).weights > 30 * DcgmmNet(DEFAULT).weights


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("size", [(32, 32), (77, 101), (40, 48)])
def test_logits_have_the_size_of_the_picture(config, size):
    logits = DcgmmNet(config).eval()(torch.rand(2, 1, *size))
    assert logits.shape == (2, 4, *size) and torch.isfinite(logits).all()


@pytest.mark.parametrize("network", ["compact", "density"])
def test_a_fresh_network_orders_its_components_from_pale_to_dark(network):
    density = torch.linspace(0, 1.2, 64 * 64).view(1, 1, 64, 64)
    logits = DcgmmNet(DcgmmConfig(network)).eval()(density)
    assert torch.allclose(logits, start_logits(density, 4), atol=1e-5)
    best = logits.argmax(1).flatten()
    assert (best.diff() >= 0).all() and set(best.tolist()) == {0, 1, 2, 3}


def test_responsibilities_are_a_partition_of_any_picture():
    gamma = responsibilities(net(), 0.9, slides()["lab 1"][0][:77, :101])
    assert gamma.shape == (4, 77, 101) and gamma.min() >= 0
    np.testing.assert_allclose(gamma.sum(0), 1, atol=1e-5)
    tiny = tissue_weight(torch.tensor([0.0, 0.1, 0.2, 5.5]))
    np.testing.assert_allclose(tiny, [0.00127, 0.5, 0.99873, 1], atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [{"network": "resnet"}, {"covariance": "none"}, {"per": "pixel"}, {"components": 1}, {"temperature": 0.0},
     {"scale_limit": 0.5}],
)  # fmt: skip
def test_configurations_that_mean_nothing_are_refused(wrong):
    with pytest.raises(StainError):
        DcgmmConfig(**wrong)


# The fit
def test_the_fit_is_repeated_to_the_bit_and_does_not_listen_to_global_generators():
    """Within one number of threads: sums of convolution gradients depend on it, as everywhere in torch."""
    recipe = {"steps": 6, "crop_px": 64, "batch": 2}
    one, two, other = (quick_fit(*training(), **recipe, seed=seed) for seed in (5, 5, 6))
    assert one[1] == two[1] and one[0].digest() == two[0].digest()
    same = [torch.equal(*pair) for pair in zip(one[0].parameters(), two[0].parameters(), strict=True)]
    assert all(same)
    assert one[1] != other[1] and one[0].digest() != other[0].digest()
    recipe = {"steps": 2, "crop_px": 48, "batch": 1}
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (that nobody listens to it is the point)
    one = quick_fit(*training(), **recipe)[1]
    torch.manual_seed(2)
    assert quick_fit(*training(), **recipe)[1] == one


def test_the_fit_lowers_the_loss_and_lets_the_convolutions_speak():
    tiles, scales = training()
    _, trace = quick_fit(tiles, scales)
    assert np.mean(trace[-10:]) < np.mean(trace[:10]) - 0.3
    density = torch.from_numpy(optical_density(tiles[0])).mean(-1)[None, None] / scales[0]
    with torch.inference_mode():
        spread = net().spread(density)
    assert float((spread - spread.mean(1, keepdim=True)).std()) > 0.3


def test_components_rise_in_density_none_is_empty_and_the_last_is_the_nuclei():
    for name, tiles in slides().items():
        own = collect(net(), tiles)
        assert (np.diff(own.means()[:, 0]) > 0.02).all(), name
        assert own.shares().min() > 0.05, name
        assert own.shares().sum() == pytest.approx(1)
    tile = slides()["lab 1"][0]
    dark = responsibilities(net(), density_scale(slides()["lab 1"]), tile).argmax(0) == 3
    red = optical_density(tile)[..., 0]
    assert red[dark].mean() > 3 * red[~dark].mean()


def test_thickness_leaves_the_responsibilities_as_they_are():
    """A section of 1.4 times the density is no other tissue. The fixed limit of tissue is why the change is not 0."""
    for tiles in slides().values():
        thick = [density_to_rgb(optical_density(tile) * 1.4) for tile in tiles]
        scales = density_scale(tiles), density_scale(thick)
        assert scales[1] / scales[0] == pytest.approx(1.4, abs=0.03)
        change = [
            np.abs(responsibilities(net(), scales[0], a) - responsibilities(net(), scales[1], b)).mean()
            for a, b in zip(tiles, thick, strict=True)
        ]
        assert max(change) <= 0.005


def test_the_papers_network_trains_and_does_not_stay_at_its_saddle():
    tiles, scales = training()
    paper, trace = fit_responsibilities(tiles, scales, PAPER, steps=80, crop_px=64, batch=2, learning_rate=1e-3, seed=3)
    own = collect(paper, tiles)
    assert (np.diff(own.means()[:, 0]) > 0.01).all() and own.shares().min() > 0.02
    gamma = np.stack([responsibilities(paper, 1.0, tile) for tile in tiles[::3]])
    entropy = -(gamma * np.log(gamma + 1e-12)).sum(1).mean()
    assert entropy < 0.4 * np.log(4)
    at_saddle = [saddle_loss(tile) for tile in tiles]
    assert np.mean(trace[-5:]) < np.mean(at_saddle) - 1.5


def saddle_loss(tile):
    """What a network says that cannot tell its components apart: one Gaussian for all pixels."""
    hsd = torch.from_numpy(fit.od_to_hsd(optical_density(tile)))[None]
    return float(negative_log_likelihood(torch.zeros(1, 4, *tile.shape[:2]), hsd, torch.ones(1, *tile.shape[:2])))


MEANS = np.array([[0.25, 0.0, 0.35], [0.55, -0.25, 0.25], [0.95, -0.4, 0.05]])
DEVIATIONS = np.array([[0.03, 0.04, 0.04], [0.04, 0.04, 0.04], [0.06, 0.04, 0.04]])


def blobs(seed, side=160):
    """Patches of three Gaussians in HSD, and which pixel is of which."""
    random = np.random.default_rng(seed)
    first, second = smooth(random, 8, side), smooth(random, 6, side)
    truth = np.where(first > 0.5, 2, np.where(second > 0, 1, 0))
    x = MEANS[truth] + DEVIATIONS[truth] * random.standard_normal((side, side, 3))
    return density_to_rgb(hsd_to_od(x).astype(np.float32)), truth


def test_a_planted_mixture_is_recovered():
    """Temperature 1: softer responsibilities (the default of 2) draw the means together, by 0.04 here."""
    tiles = [blobs(seed)[0] for seed in range(4)]
    scale = density_scale(tiles)
    made, _ = quick_fit(
        tiles, [scale] * 4, DcgmmConfig(components=3, temperature=1.0), steps=300, learning_rate=1e-2, seed=1
    )
    unseen = [blobs(seed) for seed in (100, 101)]
    own = collect(made, [tile for tile, _ in unseen], pixel_step=1)
    assert np.abs(own.means() - MEANS).max() <= 0.02
    hits = [(responsibilities(made, scale, tile).argmax(0) == truth).mean() for tile, truth in unseen]
    assert np.mean(hits) >= 0.97
    shares = np.bincount(np.stack([truth for _, truth in unseen]).ravel()) / (2 * 160**2)
    np.testing.assert_allclose(own.shares(), shares, atol=0.03)


@pytest.mark.parametrize(("tiles", "scales", "told"), [
    ([], [], "needs tiles"), ([np.zeros((64, 64, 3), np.uint8)], [1.0, 1.0], "1 tiles and 2 scales"),
    ([np.zeros((64, 64, 3), np.uint8)], [0.0], "not positive"),
    ([np.zeros((64, 64, 3), np.uint8)], [float("nan")], "not positive"),
    ([np.zeros((31, 64, 3), np.uint8)], [1.0], "too small.*31 px"),
])  # fmt: skip
def test_tiles_that_cannot_be_fitted_are_told(tiles, scales, told):
    with pytest.raises(StainError, match=told):
        fit_responsibilities(tiles, scales, steps=1)


def test_a_fit_that_diverges_is_told(monkeypatch):
    monkeypatch.setattr(fit, "negative_log_likelihood", lambda logits, *_: logits.sum() * float("nan"))
    with pytest.raises(StainError, match=r"diverged at step 1 of 4\. Got: nan\. Lower learning_rate"):
        quick_fit(*training(), steps=4, crop_px=48, batch=1)


# Files
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_network_is_read_as_it_was_written(config, tmp_path):
    torch.manual_seed(0)
    made = DcgmmNet(config).eval()
    again = load_net(save_net(made, tmp_path / "net.safetensors"))
    assert again.config == config and again.digest() == made.digest() and not again.training
    assert all(torch.equal(*pair) for pair in zip(made.parameters(), again.parameters(), strict=True))


def test_the_digest_is_of_weights_and_configuration():
    made = [DcgmmNet(DENSITY).eval(), DcgmmNet(DcgmmConfig("density", temperature=1.0)).eval()]
    changed = DcgmmNet(DENSITY).eval()
    with torch.no_grad():
        changed.own.offset[0] += 1e-6
    digests = [one.digest() for one in (*made, changed)]
    assert all(a != b for a, b in itertools.combinations(digests, 2))
    assert digests[0] == DcgmmNet(DENSITY).eval().digest() and len(digests[0]) == 16


@pytest.fixture
def net_file(tmp_path):
    return save_net(fitted().net, tmp_path / "net.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_network_is_told(net_file, keep):
    net_file.write_bytes(net_file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"cannot be read.*Run notebook 04 again"):
        load_net(net_file)


def test_a_missing_or_foreign_network_is_told(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        load_net(tmp_path / "none.safetensors")
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"not a DCGMM network.*Got: kind None.*Give the file notebook 04 wrote"):
        load_net(path)
    config = '{"kind": "dcgmm", "epsilon": 0.01}'
    save_file({"weight": torch.zeros(3)}, path, metadata={"config": config})
    with pytest.raises(ModelError, match=r"ε 0\.01"):
        load_net(path)


@pytest.mark.parametrize(
    "config", ['{"components": 3}', '{"network": "mlp"}', '{"depth": 4}', '{"components": "four"}']
)
def test_weights_that_are_not_those_of_their_configuration_are_told(config, tmp_path):
    path = tmp_path / "net.safetensors"
    about = '{"kind": "dcgmm", "epsilon": 0.03, ' + config[1:]
    save_file({k: v.contiguous() for k, v in fitted().net.state_dict().items()}, path, metadata={"config": about})
    with pytest.raises(ModelError, match=r"(?s)does not hold the weights.*Run notebook 04 again"):
        load_net(path)
