"""Attributions: known answers, the sanity check that must be able to fail, and bad input."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from deeplrhe_utils.core.errors import InputError, ModelError
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.evaluation.quality.stain_metrics import structure
from deeplrhe_utils.learning.attribution import maps, sanity
from deeplrhe_utils.learning.attribution.maps import CAM, GRADIENTS, attribute
from deeplrhe_utils.learning.attribution.places import EVEN, FOLLOWED, Probe, find_feature_map
from deeplrhe_utils.learning.attribution.sanity import blocks_of, sanity_check, sanity_verdicts, similarity
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, TileNetwork, build_network, load_model
from deeplrhe_utils.learning.recipes.scoring import as_input

TWO = ("A", "B")
DEMO = REPOSITORY / "reports" / "demo" / "models" / "05" / "fold-0.safetensors"
pytestmark = pytest.mark.usefixtures("one_thread")


def integrated_gradients(network, tile, target):
    probe = Probe(network, target)
    return maps.integrated_of(probe, as_input(np.array(tile[None])))


def grad_cam(network, tile, target):
    probe = Probe(network, target)
    return maps.cam_of(probe, as_input(np.array(tile[None])))


@pytest.fixture
def nine_steps(monkeypatch):
    monkeypatch.setattr(maps, "MOST_STEPS", 9)


@pytest.fixture
def two_stages(monkeypatch):
    monkeypatch.setattr(sanity, "STAGES", 2)


class Hand(TileNetwork):
    """A network of one convolution and the mean of its map; weights are set by the tests."""

    def __init__(self, config, kernel=1, stride=1):
        super().__init__()
        self.config, self.feature_dim = config, 4
        self.see = torch.nn.Conv2d(3, 4, kernel, stride, kernel // 2)
        self.classify = torch.nn.Linear(4, len(config.targets))
        self.dropout = torch.nn.Identity()

    def features(self, x):
        return self.see(x).relu().mean((2, 3))

    def forward(self, x):
        return self._logits(self.features(x))


class Linear(Hand):
    """Logit A = Σ w · x for weights w of every pixel; logit B is constant."""

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.randn(3, 40, 48, generator=torch.Generator().manual_seed(3)))

    def forward(self, x):
        own = (x * self.weight).sum((1, 2, 3))
        return torch.stack([own, torch.zeros_like(own)], 1)


class Patch(Hand):
    """Sees how dark the 16 × 16 px at (row 20, column 52) are, through a ReLU and a square, and nothing else."""

    def forward(self, x):
        dark = torch.zeros_like(x[:, :1])
        dark[:, :, 20:36, 52:68] = (1 - x[:, :1, 20:36, 52:68]).relu()
        seen = self.see(dark.expand(-1, 3, -1, -1))
        return self.classify(seen.square().mean((2, 3)))


def hand(kind=Hand, targets=TWO, head="sigmoid", **more):
    torch.manual_seed(0)
    return kind(NetworkConfig(targets, head), **more)


def picture(height=64, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@functools.cache
def inception():
    torch.manual_seed(0)
    return build_network(NetworkConfig(TWO, architecture="inception_v3")).eval()


@functools.cache
def demo():
    return load_model(DEMO)[0]


@functools.cache
def demo_tiles():
    files = sorted((REPOSITORY / "reports" / "demo" / "heatmaps").glob("*-normalized.jpg"))[:2]
    return [np.array(Image.open(f).resize((128, 128), Image.Resampling.BOX)) for f in files]


def state_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


# --- integrated gradients ---
def test_a_linear_network_is_attributed_exactly():
    network, tile = hand(Linear), picture(40, 48)
    found = integrated_gradients(network, tile, "A")
    x = torch.from_numpy(tile).permute(2, 0, 1).double() / 255
    expected = (network.weight.detach().double() * (x - 1)).sum(0)
    assert found.map.shape == (40, 48) and found.map.dtype == np.float32
    np.testing.assert_allclose(found.map, expected, atol=2e-6)
    assert found.steps == 9 and found.relative_gap <= maps.TOLERANCE
    assert found.baseline_logit == pytest.approx(float(network.weight.detach().sum()), rel=1e-4)


def test_the_map_sums_to_the_change_of_the_logit(monkeypatch):
    tile = demo_tiles()[0][:64, :64]
    monkeypatch.setattr(maps, "MOST_STEPS", 729)
    monkeypatch.setattr(maps, "TOLERANCE", 1e-3)
    found = attribute(demo(), [tile], "TP53")[0]
    with torch.no_grad():
        both = torch.stack([torch.from_numpy(tile).permute(2, 0, 1) / 255, torch.ones(3, 64, 64)])
        high, low = demo()(both)[:, 0].double().tolist()
    one = found.integrated
    assert found.logit == pytest.approx(high, abs=1e-5)
    assert float(one.map.sum(dtype=np.float64)) - (high - low) == pytest.approx(one.gap, abs=1e-4)
    assert abs(one.gap) <= max(1e-3 * abs(high - low), maps.NEGLIGIBLE_LOGIT) * 1.01
    assert found.score == pytest.approx(1 / (1 + np.exp(-high)), abs=1e-6)


def test_a_gap_that_stays_is_told(monkeypatch):
    """x ↦ mean of the ReLU of a steep line: nine steps cannot hit its corner."""
    network = hand()
    with torch.no_grad():
        network.see.weight.fill_(-1000.0)
        network.see.bias.fill_(1003.1)
        network.classify.weight.fill_(1.0)
    tile = np.full((32, 32, 3), 10, np.uint8)
    monkeypatch.setattr(maps, "TOLERANCE", 1e-6)
    found = []
    for most in (9, 729):
        monkeypatch.setattr(maps, "MOST_STEPS", most)
        found.append(integrated_gradients(network, tile, "A"))
    few, many = found
    assert few.steps == 9 and few.relative_gap > 1e-6 and abs(few.gap) > maps.NEGLIGIBLE_LOGIT
    assert many.steps == 729 and many.relative_gap < few.relative_gap
    low, high = float(few.baseline_logit), attribute(network, [tile], "A")[0].logit
    assert few.gap == pytest.approx(few.map.sum(dtype=np.float64) - (high - low), rel=1e-3)


def test_a_softmax_is_explained_by_its_log_odds():
    """Three classes: the score's own log-odds; a constant on all logits changes nothing, which of the bare logit is
    not true."""
    network, tile = hand(targets=("A", "B", "C"), head="softmax", kernel=3), picture()
    one = attribute(network, [tile], "B")[0]
    with torch.no_grad():
        x = torch.from_numpy(tile).permute(2, 0, 1)[None] / 255
        p = float(network(x).softmax(1)[0, 1])
    assert one.score == pytest.approx(p, abs=1e-6) and one.logit == pytest.approx(np.log(p / (1 - p)), abs=1e-5)
    with torch.no_grad():  # the same function of the tile on every logit
        network.classify.weight += torch.tensor([3.0, -2.0, 1.0, 5.0])
    again = attribute(network, [tile], "B")[0]
    np.testing.assert_allclose(one.integrated.map, again.integrated.map, atol=1e-6)
    np.testing.assert_allclose(one.cam.cells, again.cam.cells, atol=1e-6)


def test_glass_gets_nothing_and_flat_tissue_does():
    tile = picture(64, 64)
    tile[:, 32:] = 255
    white = integrated_gradients(demo(), tile, "TP53")
    assert np.abs(white.map[:, 32:]).max() == 0 < np.abs(white.map[:, :32]).max()
    flat = np.full((64, 64, 3), (200, 120, 160), np.uint8)
    assert np.abs(integrated_gradients(demo(), flat, "TP53").map).max() > 1e-4


# --- Grad-CAM ---
def test_grad_cam_shares_the_logit_among_the_cells():
    """Global average pooling and a linear classifier: the cells sum to the logit without its bias, exactly."""
    network = demo()
    for target in ("TP53", "KRAS"):
        one = attribute(network, demo_tiles()[:1], target)[0]
        bias = float(network.classify.bias[network.config.targets.index(target)].detach())
        assert one.cam.cells.sum() == pytest.approx(one.logit - bias, abs=1e-5)
        assert one.cam.layer == "blocks" and one.cam.cells.shape == (8, 8)
        assert one.cam.map.min() >= 0 and one.cam.map.max() == pytest.approx(max(one.cam.cells.max(), 0), rel=1e-5)


def test_both_methods_point_at_the_only_patch_that_is_seen():
    tile = np.minimum(picture(96, 96), 250)  # nowhere white, which is the baseline
    one = attribute(hand(Patch), [tile], "A")[0]
    inside = np.zeros((96, 96), bool)
    inside[20:36, 52:68] = True
    assert np.abs(one.integrated.map[~inside]).max() == 0 < np.abs(one.integrated.map[inside]).min()
    network = hand(Patch)
    with torch.no_grad():
        network.classify.weight.abs_()  # evidence for, nowhere against
    cam = grad_cam(network, tile, "A")
    assert cam.layer == "see" and cam.placed == FOLLOWED
    assert inside[np.unravel_index(np.abs(cam.cells).argmax(), (96, 96))]


def test_a_planted_patch_is_found_where_it_is_not_half_a_cell_beside():
    """A dark spot at many places; kernels that see darkness. Mean distance of Grad-CAM's centre of mass: no shift.

    Cells spread evenly over the tile would lie 7.5 px to the right and below: the test sees that.
    """
    torch.manual_seed(1)
    network = build_network(NetworkConfig(TWO, kernels=4, batch_norm=False))
    for name, weights in network.named_parameters():
        bias = name.endswith("bias")
        weights.data = torch.full_like(weights, 0.0 if bias else 1 / weights[0].numel())
    network.stem[0].weight.data *= -1
    network.stem[0].bias.data.fill_(1.5)  # white, (1 - 0.7) / 0.2, gives zero
    off, even = [], []
    rows, columns = np.mgrid[:256, :256]
    empty = grad_cam(network, np.full((256, 256, 3), 255, np.uint8), "A")  # what the padding at the edges gives
    for y, x in np.random.default_rng(4).integers(90, 150, (24, 2)):
        tile = np.full((256, 256, 3), 255, np.uint8)
        tile[y - 3 : y + 4, x - 3 : x + 4] = 0
        cam = grad_cam(network, tile, "A")
        cells = torch.from_numpy(cam.cells - empty.cells)[None, None]
        naive = torch.nn.functional.interpolate(cells, (256, 256), mode="bilinear", align_corners=False)[0, 0].numpy()
        for values, kept in ((cam.map - empty.map, off), (naive, even)):
            kept.append([(values * axis).sum() / values.sum() - at for axis, at in ((rows, y), (columns, x))])
    assert cam.placed == FOLLOWED and np.abs(np.mean(off, 0)).max() < 0.75
    assert np.mean(even, 0).min() > 6.5


@pytest.mark.parametrize(
    ("architecture", "side"), [("deeplrhe", 256), ("resnet18", 256), ("inception_v3", 256),
                               ("timm/tf_efficientnet_lite0", 256)]
)  # fmt: skip
def test_centres_agree_with_gradients(architecture, side, monkeypatch):
    """With even kernels and bright tiles, the gradients of a cell in the middle lie around the centre computed."""
    if architecture.startswith("timm"):
        pytest.importorskip("timm")

    def mean_pool(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        return torch.nn.functional.avg_pool2d(x, kernel_size, stride, padding, ceil_mode)

    monkeypatch.setattr(torch.nn.functional, "max_pool2d", mean_pool)  # which maximum is taken is chance
    torch.manual_seed(0)
    network = build_network(NetworkConfig(TWO, architecture=architecture)).eval().requires_grad_(False)
    for weights in network.parameters():
        if weights.ndim == 4:
            weights.fill_(0.7 / weights[0].numel())
    x = (0.8 + 0.1 * torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(2))).requires_grad_()
    where = find_feature_map(network, x.detach())
    assert where.placed == FOLLOWED
    kept = []
    hook = network.get_submodule(where.layer).register_forward_hook(lambda *a: kept.append(a[2]))
    network(x)
    hook.remove()
    i, j = (int(np.abs(c - (side - 1) / 2).argmin()) for c in (where.centres_y, where.centres_x))
    slope = torch.autograd.grad(kept[0][0, :, i, j].sum(), x)[0][0].sum(0)
    pixels, mass = torch.arange(side), slope / slope.sum()
    seen = np.array([float((mass.sum(1) * pixels).sum()), float((mass.sum(0) * pixels).sum())])
    off = seen - (where.centres_y[i], where.centres_x[j])
    even = seen - [(k + 0.5) * side / n - 0.5 for k, n in zip((i, j), where.cells, strict=True)]
    assert np.abs(off).max() < 0.15 * side / where.cells[0], (off, even)


# --- the sanity check ---
@functools.cache
def checked():
    tiles = demo_tiles()
    found = attribute(demo(), tiles, "TP53")
    return sanity_check(demo(), tiles, found, seed=5)


def test_the_cascade_goes_from_the_classifier_to_the_first_kernels():
    check = checked()
    assert check.blocks == ("classify", "blocks.2", "blocks.1", "blocks.0", "stem")
    cam = check.table[check.table["method"] == CAM]
    assert cam.groupby("stage").size().to_dict() == {0: 2, 1: 4, 2: 4, 3: 4, 4: 4, 5: 4}
    # Conv2d and Linear weights: 1 classifier, 3 (with a shortcut), 3, 2, 1 stem
    assert cam.drop_duplicates("stage")["layers"].tolist() == [0, 1, 4, 7, 9, 10]
    assert len(check.table) == 2 * len(cam) and len(check.random) == len(check.random_cam) == 2
    assert check.random[0].shape == (128, 128) and check.random_cam[0].min() >= 0


def test_stage_0_is_the_network_itself_and_random_weights_destroy_the_signed_maps():
    table = checked().table.assign(spearman_size=lambda rows: rows["spearman"].abs())
    means = table.groupby(["method", "stage"])[["spearman", "spearman_size", "spearman_abs", "ssim"]].mean()
    assert means.loc[(CAM, 0), ["spearman", "spearman_abs", "ssim"]].tolist() == pytest.approx([1, 1, 1], abs=1e-9)
    assert means.loc[(GRADIENTS, 0), "spearman"] > 0.85  # few steps against many: 0.90 on the committed network
    assert means.loc[(GRADIENTS, 5), "spearman_size"] < 0.2 and means.loc[(CAM, 5), "spearman_size"] < 0.5
    assert means.loc[(GRADIENTS, 5), "spearman_abs"] > means.loc[(GRADIENTS, 5), "spearman_size"]


def test_the_check_is_the_same_to_the_bit_and_another_seed_is_another(nine_steps, two_stages):
    tiles = demo_tiles()[:1]
    found = attribute(demo(), tiles, "TP53")
    np.testing.assert_array_equal(found[0].integrated.map, attribute(demo(), tiles, "TP53")[0].integrated.map)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    once = sanity_check(demo(), tiles, found, seed=5)
    assert torch.equal(torch.get_rng_state(), before), "the check drew from torch's own generator"
    torch.manual_seed(100)
    again = sanity_check(demo(), tiles, found, seed=5)
    pd.testing.assert_frame_equal(once.table, again.table, check_exact=True)
    np.testing.assert_array_equal(once.random[0], again.random[0])
    other = sanity_check(demo(), tiles, found, seed=6)
    assert not np.array_equal(once.random[0], other.random[0])
    assert once.table["stage"].unique().tolist() == [0, 1, 5]


def hooks_of(network):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()]


def test_the_network_that_is_given_never_changes(nine_steps, two_stages):
    torch.manual_seed(0)
    network = build_network(NetworkConfig(TWO, kernels=8, stages=2)).train()
    before, hooked = state_of(network), hooks_of(network)
    tiles = [picture(seed=i) for i in range(2)]
    found = attribute(network, tiles, "A")
    sanity_check(network, tiles, found, seed=1)
    assert network.training and all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert hooks_of(network) == hooked
    evaluated = attribute(network.eval(), tiles, "A")
    np.testing.assert_array_equal(found[0].integrated.map, evaluated[0].integrated.map)  # training mode changes nothing
    alone = attribute(network, tiles[1:], "A")[0]
    np.testing.assert_array_equal(found[1].integrated.map, alone.integrated.map)  # nor do the other tiles


class Picture(Hand):
    """Ignores what it learned: whatever its weights, the logit is the squared darkness of the tile."""

    def forward(self, x):
        seen = (1 - x).square()
        return seen.mean((1, 2, 3))[:, None].expand(-1, 2) + 0 * self.classify(self.see(seen).mean((2, 3)))


def test_a_method_that_shows_the_tile_fails_and_it_is_said():
    network, tiles = hand(Picture), [picture()]
    judged = sanity_verdicts(sanity_check(network, tiles, attribute(network, tiles, "A"), seed=1).table)
    judged = judged[judged["method"] == GRADIENTS]
    assert judged["passes"].tolist() == [False, False] and (judged["similarity"] > 0.99).all()
    assert judged["statement"].str.contains("FAILS").all()


def test_verdicts_do_not_let_opposite_signs_cancel_and_name_what_is_undefined():
    place = {"block": "stem", "layers": 3, "ssim": 0.0}
    rows = [{"method": CAM, "stage": 2, "draw": i, "tile": 0, "spearman": r, "spearman_abs": 0.1, **place}
            for i, r in enumerate((0.9, -0.9))]  # fmt: skip
    rows += [{**rows[0], "stage": 0, "block": "", "layers": 0, "spearman": 1.0, "spearman_abs": 1.0}]
    table = pd.DataFrame(rows)
    judged = sanity_verdicts(table).set_index("reading")
    assert judged.loc["sign and size", "similarity"] == pytest.approx(0.9) and not judged.loc["sign and size", "passes"]
    assert judged.loc["size alone", "passes"] and judged["n"].tolist() == [2, 2]
    table.loc[0, ["spearman", "spearman_abs"]] = np.nan
    assert sanity_verdicts(table)["undefined"].tolist() == [1, 1]
    assert sanity_verdicts(table)["statement"].str.contains("1 of 2 comparisons left out").all()
    table[["spearman", "spearman_abs"]] = np.nan
    assert not sanity_verdicts(table)["passes"].any()
    assert sanity_verdicts(table)["statement"].str.contains("cannot be judged").all()


def test_similarities_are_those_of_others():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 40, 30)).astype(np.float32)
    b[:20] = a[:20]
    found = similarity(a, b)
    assert found["spearman"] == pytest.approx(spearmanr(a.ravel(), b.ravel())[0])
    assert found["spearman_abs"] == pytest.approx(spearmanr(abs(a).ravel(), abs(b).ravel())[0])
    assert similarity(a, a)["ssim"] == pytest.approx(1) and similarity(a, 3 * a)["ssim"] == pytest.approx(1)
    # the SSIM of grey tiles, whose range is 255 where ours is 2
    one, other = (random.integers(0, 256, (40, 30), dtype=np.uint8) for _ in range(2))
    one[0, 0] = other[0, 0] = 255
    seen = similarity(one.astype(np.float32), other.astype(np.float32))["ssim"]
    grey = [[np.repeat(x[..., None], 3, 2)] for x in (one, other)]
    assert seen == pytest.approx(structure(*grey)["ssim"], abs=0.05)  # the same up to the constants
    assert np.isnan(list(similarity(a, np.zeros_like(a)).values())).all()


def test_blocks_hold_every_weight_that_scores_use():
    network = inception()
    blocks = blocks_of(network, torch.rand(1, 3, 299, 299))
    names = [b.name for b in blocks]
    assert names[:2] == ["classify", "body.Mixed_7c"] and names[-1] == "body.Conv2d_1a_3x3" and len(names) == 17
    held = [t for b in blocks for t in b.tensors]
    assert len(held) == len(set(held))
    assert set(held) == {n for n in network.state_dict() if "AuxLogits" not in n}
    small = build_network(NetworkConfig(TWO, architecture="resnet18")).eval()
    names = [b.name for b in blocks_of(small, torch.rand(1, 3, 64, 64))]
    assert names[:3] == ["classify", "body.layer4.1", "body.layer4.0"] and names[-1] == "body.conv1"
    assert len(names) == 10


def test_random_layers_of_deep_networks_stay_alive():
    """Inception's first weights without new batch statistics overflow float32; with them, maps are finite and live."""
    probe = Probe(inception(), "A")
    blocks = blocks_of(probe.network, torch.rand(1, 3, 299, 299))
    x = torch.from_numpy(demo_tiles()[0].copy()).permute(2, 0, 1)[None] / 255
    ((_, random),) = sanity._cascade(probe, blocks, [len(blocks)], torch.cat([x, x.flip(3)]), 1, 0)
    assert float(random.logits(x).abs()) < 100 and float(random.gradients(x).abs().max()) > 0


# --- nothing to see, and bad input ---
def test_a_constant_network_gives_empty_maps_and_says_so():
    network = hand()
    with torch.no_grad():
        network.classify.weight.zero_()
    tiles = [picture()]
    found = attribute(network, tiles, "A")
    assert not found[0].integrated.map.any() and not found[0].cam.map.any()
    assert "constant" in found[0].integrated.note and "constant" in found[0].cam.note
    assert found[0].integrated.relative_gap == 0
    assert "FAILS" not in "".join(
        judged := sanity_verdicts(sanity_check(network, tiles, found, seed=1).table)["statement"]
    )
    assert judged.str.contains("cannot be judged").all()
    assert "baseline" in integrated_gradients(demo(), np.full((64, 64, 3), 255, np.uint8), "TP53").note
    blind = hand(Linear)
    assert not integrated_gradients(blind, picture(40, 48), "B").map.any()  # its logit does not depend on the tile


def test_steps_are_computed_in_batches(monkeypatch):
    sizes, plain = [], Probe.gradients
    monkeypatch.setattr(Probe, "gradients", lambda self, x: sizes.append(len(x)) or plain(self, x))
    network, tile = hand(Linear), picture(40, 48)
    whole = integrated_gradients(network, tile, "A")
    monkeypatch.setattr(maps, "BATCH", 2)
    parts = integrated_gradients(network, tile, "A")
    assert sizes == [9, 2, 2, 2, 2, 1]
    np.testing.assert_allclose(whole.map, parts.map, atol=1e-6)


class Tokens(Hand):
    """Patches that attend to each other."""

    def __init__(self, config):
        super().__init__(config, kernel=3)
        self.mix = torch.nn.MultiheadAttention(4, 1, batch_first=True)

    def features(self, x):
        tokens = self.see(x[:, :, ::8, ::8]).flatten(2).transpose(1, 2)
        return self.mix(tokens, tokens, tokens)[0].mean(1)


@pytest.mark.parametrize("architecture", ["", "timm/vit_tiny_patch16_224", "timm/mixer_s32_224"])
def test_networks_of_tokens_have_no_grad_cam_but_integrated_gradients(architecture, nine_steps):
    if architecture:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    network = build_network(NetworkConfig(TWO, architecture=architecture)) if architecture else hand(Tokens)
    with pytest.raises(ModelError, match=r"works on tokens.*attribution_tiles to 0"):
        attribute(network, [picture()], "A")
    assert integrated_gradients(network, picture(), "A").map.any()


def test_strides_that_cannot_be_followed_are_told():
    class Pooled(Hand):
        def features(self, x):
            return self.see(torch.nn.functional.max_pool2d(x, 4)).relu().mean((2, 3))

    torch.manual_seed(0)
    network = hand(Pooled)
    known = grad_cam(network, picture(), "A")
    assert known.cells.shape == (16, 16) and known.placed == EVEN


@pytest.mark.parametrize(
    "tile",
    [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((3, 64, 64), np.uint8),
     np.zeros((64, 64, 3)), np.zeros((16, 64, 3), np.uint8), np.zeros((0, 0, 3), np.uint8), None],
)  # fmt: skip
def test_what_is_no_tile_is_refused(tile):
    with pytest.raises(InputError, match="Tile 1 cannot be explained"):
        attribute(demo(), [picture(), tile], "TP53")


def test_wrong_questions_are_refused():
    tile = picture()
    with pytest.raises(ModelError, match=r"(?s)target.*BRCA1.*TP53"):
        attribute(demo(), [tile], "BRCA1")
    with pytest.raises(InputError, match="no tile"):
        attribute(demo(), [], "TP53")
    with pytest.raises(ModelError, match="softmax over one class"):
        attribute(hand(targets=("A",), head="softmax"), [tile], "A")


def test_weights_and_outputs_that_are_not_finite_are_refused():
    network = hand()
    with torch.no_grad():
        network.see.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"see\.weight are not finite"):
        attribute(network, [picture()], "A")
    network = hand()
    with torch.no_grad():
        network.see.weight.fill_(1e38)
        network.classify.weight.fill_(1e38)
    with pytest.raises(ModelError, match="output is not finite"):
        attribute(network, [picture()], "A")


@pytest.mark.filterwarnings("error")
def test_tiles_that_cannot_be_written_are_read(nine_steps, two_stages):
    tile = picture()
    tile.flags.writeable = False  # as a memory map or a picture file gives them
    found = attribute(demo(), [tile], "TP53")
    assert len(sanity_check(demo(), [tile], found, seed=1).random) == 1


# --- real tissue ---
