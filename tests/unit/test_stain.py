"""HSD and DCGMM: exact round trips, a likelihood with gradients, maps that do what the algebra says."""

import json

import numpy as np
import pytest
import torch
from scipy import special, stats

from deeplrhe_utils.core.errors import ModelError, StainError
from deeplrhe_utils.stain import colour, dcgmm, dcgmm_net, normalize


@pytest.fixture(scope="module")
def tiles():
    """Blobs of dark nuclei on pale cytoplasm with a band of glass, in three stains."""
    random = np.random.default_rng(0)
    stains = [((0.65, 0.70, 0.29), 1.0), ((0.55, 0.78, 0.30), 1.3), ((0.74, 0.58, 0.34), 0.7)]
    made = []
    for h, strength in stains:
        yy, xx = np.mgrid[:160, :160]
        nuclei = np.zeros((160, 160))
        for cy, cx in random.uniform(10, 150, (40, 2)):
            nuclei = np.maximum(nuclei, (np.hypot(yy - cy, xx - cx) < 6) * random.uniform(0.7, 1.1))
        eosin = random.uniform(0.6, 0.8, (160, 160)) * (xx < 140)
        od = nuclei[..., None] * np.array(h) * 1.4 + eosin[..., None] * np.array([0.07, 0.99, 0.11])
        made.append(colour.density_to_rgb((strength * od).astype(np.float32)))
    return made


@pytest.fixture(scope="module")
def net(tiles):
    scales = [dcgmm.density_scale([t]) for t in tiles]
    torch.manual_seed(0)
    return dcgmm_net.fit_responsibilities(tiles, scales, steps=25, crop_px=96, batch=4, seed=3)


def test_every_8_bit_value_survives_the_round_trip():
    grid = np.array([(r, g, b) for r in range(0, 256, 5) for g in range(0, 256, 5) for b in (0, 1, 17, 128, 254, 255)])
    rgb = grid.astype(np.uint8).reshape(1, -1, 3)
    back = colour.density_to_rgb(colour.hsd_to_od(colour.od_to_hsd(colour.optical_density(rgb))))
    assert np.array_equal(back, rgb)


def test_hsd_of_hand_computed_colours():
    hsd = colour.od_to_hsd(np.array([[0.3, 0.6, 0.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(hsd[0], [0.3, 0.0, 0.6 / (np.sqrt(3) * 0.33)])
    np.testing.assert_allclose(hsd[1], 0.0)


def test_numpy_and_torch_agree():
    rgb = np.random.default_rng(1).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    ours = colour.clip_gamut(colour.od_to_hsd(colour.optical_density(rgb)))
    theirs = colour.clip_gamut(colour.od_to_hsd(colour.optical_density(torch.from_numpy(rgb))))
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


def test_gamut_is_the_triangle():
    clipped = colour.clip_gamut(np.array([[-1.0, 3.0, 5.0], [0.5, -2.0, -9.0]]))
    np.testing.assert_allclose(clipped, [[0.0, 2.0, 0.0], [0.5, -1.0, -np.sqrt(3)]])


def test_likelihood_equals_scipy_mixture_and_keeps_gradients_above_density_one():
    random = np.random.default_rng(2)
    logits = torch.from_numpy(random.normal(size=(1, 3, 6, 5))).requires_grad_()
    x = random.normal(0.4, 0.01, size=(6, 5, 3))  # so tight that every density exceeds 1
    loss = dcgmm_net.negative_log_likelihood(logits, torch.from_numpy(x)[None], torch.ones(1, 6, 5).double())
    gamma = special.softmax(logits.detach().numpy()[0], axis=0).reshape(3, -1)
    flat = x.reshape(-1, 3)
    terms = []
    for g in gamma:
        mean = g @ flat / g.sum()
        sigma = np.sqrt(np.maximum(g @ flat**2 / g.sum() - mean**2, dcgmm_net.SIGMA_FLOOR_FIT**2))
        terms.append(np.log(g) + stats.norm(mean, sigma).logpdf(flat).sum(1))
    assert float(loss.detach()) == pytest.approx(-special.logsumexp(terms, axis=0).mean(), rel=1e-6)
    loss.backward()
    assert (logits.grad.abs() > 0).all()


def test_fit_is_seeded_and_orders_components_by_density(tiles, net):
    scales = [dcgmm.density_scale([t]) for t in tiles]
    again, trace = dcgmm_net.fit_responsibilities(tiles, scales, steps=25, crop_px=96, batch=4, seed=3)
    assert trace == net[1]
    assert all(
        torch.equal(a, b) for a, b in zip(net[0].state_dict().values(), again.state_dict().values(), strict=True)
    )
    density = dcgmm.collect(net[0], tiles).means()[:, 0]
    assert (np.diff(density) > 0).all()


def test_responsibilities_are_a_partition(tiles, net):
    gamma = dcgmm.responsibilities(net[0], dcgmm.density_scale([tiles[0]]), tiles[0][:77, :101])
    assert gamma.shape == (4, 77, 101)
    np.testing.assert_allclose(gamma.sum(0), 1, atol=1e-5)


def test_statistics_add_up_and_survive_json(tiles, net):
    one, two = (dcgmm.collect(net[0], [t]) for t in tiles[:2])
    both = one + two
    np.testing.assert_allclose(both.weight, one.weight + two.weight)
    again = dcgmm.ColourStatistics.from_json(json.loads(json.dumps(both.to_json())))
    np.testing.assert_array_equal(again.second, both.second)


def test_reference_to_itself_is_the_identity_bit_for_bit(tiles, net):
    own = dcgmm.collect(net[0], [tiles[0]])
    assert np.array_equal(dcgmm.apply(net[0], dcgmm.map_to(own, own), tiles[0]), tiles[0])


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_map_sends_moments_to_moments(tiles, net, covariance):
    source, target = (dcgmm.collect(net[0], [t]) for t in tiles[:2])
    colour_map = dcgmm.map_to(source, target, covariance=covariance)
    trusted = np.minimum(source.shares(), target.shares()) >= dcgmm.MINIMUM_SHARE
    mapped = np.einsum("kij,kj->ki", colour_map.matrix, source.means()) + colour_map.offset
    np.testing.assert_allclose(mapped[trusted], target.means()[trusted], atol=1e-9)
    if covariance == "full":
        moved = colour_map.matrix @ source.covariances() @ colour_map.matrix.transpose(0, 2, 1)
        np.testing.assert_allclose(moved[trusted], target.covariances()[trusted], atol=1e-9)


def test_normalization_brings_stains_together_and_keeps_glass(tiles, net):
    reference = dcgmm.collect(net[0], [tiles[0]])
    new = dcgmm.apply(net[0], dcgmm.map_to(dcgmm.collect(net[0], [tiles[2]]), reference), tiles[2])
    tissue = np.s_[:, :140]
    before = np.abs(tiles[2][tissue].mean((0, 1)) - tiles[0][tissue].mean((0, 1))).sum()
    after = np.abs(new[tissue].mean((0, 1)) - tiles[0][tissue].mean((0, 1))).sum()
    assert after < 0.5 * before
    glass = tiles[2].min(axis=2) >= 254
    assert glass.sum() > 1000
    assert np.abs(new[glass].astype(int) - tiles[2][glass]).max() <= 2


def test_thin_and_empty_slides_are_noted_not_hidden(tiles, net):
    cohort = dcgmm.collect(net[0], tiles)
    normalizer = normalize.Normalizer(net[0], cohort, cohort, minimum_tissue_px=1e9)
    assert normalizer.plan([tiles[0]])[1].startswith("cohort statistics")
    white = np.full((64, 64, 3), 255, np.uint8)
    new, note = normalizer.normalize([white])
    assert note.startswith("no tissue") and np.array_equal(new[0], white)


def test_survey_and_medoid(tiles):
    white = np.full((64, 64, 3), 255, np.uint8)
    table = normalize.survey([("a", [tiles[0]]), ("b", [tiles[1]]), ("c", [tiles[2]]), ("blank", [white])])
    assert table.set_index("unit")["density_scale"].isna().to_dict() == {
        "a": False,
        "b": False,
        "c": False,
        "blank": True,
    }
    assert normalize.choose_reference(table) in {"a", "b", "c"}
    with pytest.raises(StainError, match="no reference"):
        normalize.choose_reference(table[table["unit"] == "blank"])


def test_foreign_statistics_and_files_are_refused(tiles, net, tmp_path):
    two = dcgmm.collect(dcgmm_net.DcgmmNet(2), [tiles[0]])
    with pytest.raises(StainError, match="different networks"):
        dcgmm.map_to(two, dcgmm.collect(net[0], [tiles[0]]))
    path = dcgmm_net.save_net(net[0], tmp_path / "net.safetensors")
    assert torch.equal(dcgmm_net.load_net(path).slope, net[0].slope)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match="cannot be read"):
        dcgmm_net.load_net(path)
