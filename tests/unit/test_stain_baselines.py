"""Reinhard, Macenko, Vahadane: planted stains are found, references map onto themselves, useless slides say why."""

import numpy as np
import pytest
from scipy.optimize import nnls
from sklearn.decomposition import DictionaryLearning

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.stain.colour import density_to_rgb, optical_density
from deeplrhe_utils.stain.methods import baselines
from deeplrhe_utils.stain.methods.baselines import Macenko, Reinhard, Vahadane

STAINS = [((0.60, 0.70, 0.35), (0.20, 0.85, 0.45)), ((0.55, 0.78, 0.30), (0.20, 0.90, 0.35))]
GLASS_PX = 24
ALL = [Reinhard(), Macenko(), Vahadane()]
TWO_STAINS = ALL[1:]


def unit(vectors):
    vectors = np.array(vectors, dtype=float)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def angle_deg(a, b):
    return np.degrees(np.arccos(np.clip(unit(a) @ unit(b), -1, 1)))


def planted(stains, strength=1.0, seed=0, side=192):
    """Pixels of haematoxylin, of eosin and of both, beside a band of white glass."""
    random = np.random.default_rng(seed)
    amounts = random.gamma(2.0, 0.3, (side, side, 2)) * strength
    kind = random.random((side, side))
    amounts[kind < 0.3, 1] = 0
    amounts[kind > 0.6, 0] = 0
    amounts[:, :GLASS_PX] = 0
    return density_to_rgb((amounts @ unit(stains)).astype(np.float32)), amounts


@pytest.fixture(scope="module")
def slides():
    return [[planted(s, strength, seed)[0] for seed in (0, 1)] for s, strength in zip(STAINS, (1.0, 0.7), strict=True)]


def lab_of_tissue(tiles, like=None):
    """L*a*b* of the pixels that are tissue in `like` (by default in the tiles themselves)."""
    like = tiles if like is None else like
    masks = [optical_density(t).mean(-1) > baselines.CLASSICAL_TISSUE_DENSITY for t in like]
    return np.concatenate([baselines._to_lab(t)[m] for t, m in zip(tiles, masks, strict=True)])


@pytest.mark.parametrize("method", TWO_STAINS, ids=lambda m: m.name)
@pytest.mark.parametrize("stains", STAINS)
def test_planted_stains_are_found_within_a_degree(method, stains):
    tile, amounts = planted(stains)
    found = method.measure([tile])
    assert [angle_deg(a, b) < 1 for a, b in zip(found.colours, stains, strict=True)] == [True, True]
    tissue = amounts[:, GLASS_PX:].reshape(-1, 2)
    assert found.strengths == pytest.approx(np.percentile(tissue, 99, axis=0), rel=0.1)
    assert found.tissue_px == pytest.approx((optical_density(tile).mean(-1) > 0.15).sum(), rel=0.01)


def test_haematoxylin_comes_first_whatever_the_amounts():
    for share in (0.1, 10.0):
        tile, amounts = planted(STAINS[0])
        tile = density_to_rgb((amounts * [min(1, share), min(1, 1 / share)] @ unit(STAINS[0])).astype(np.float32))
        for method in TWO_STAINS:
            assert np.diff(method.measure([tile]).colours[:, 0]) < 0


@pytest.mark.parametrize("method", TWO_STAINS, ids=lambda m: m.name)
def test_amounts_are_kept_and_colours_are_the_references(method, slides):
    """A mixture of two stains becomes the same mixture of the reference's stains, in the ratio of the strengths."""
    source, reference = (method.measure(tiles) for tiles in slides)
    amounts = planted(STAINS[0])[1]
    new = optical_density(method.apply(method.map_to(source, reference), slides[0][0]))
    wanted = amounts * 0.7 @ unit(STAINS[1])
    assert np.abs(new - wanted)[wanted.max(-1) < 2.5].mean() < 0.03
    again = method.measure([method.apply(method.map_to(source, reference), t) for t in slides[0]])
    assert max(angle_deg(a, b) for a, b in zip(again.colours, reference.colours, strict=True)) < 2
    assert again.strengths == pytest.approx(reference.strengths, rel=0.05)


def test_reinhard_gives_the_references_moments(slides, monkeypatch):
    monkeypatch.setattr(baselines, "STEP", 1)
    method = Reinhard()
    source, reference = (method.measure(tiles) for tiles in slides)
    new = lab_of_tissue([method.apply(method.map_to(source, reference), t) for t in slides[0]], like=slides[0])
    before = lab_of_tissue(slides[0])
    assert np.abs(before.mean(0) - reference.colours).max() > 5
    assert np.abs(new.mean(0) - reference.colours).max() < 0.3
    assert np.abs(new.std(0) / reference.strengths - 1).max() < 0.02


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_the_reference_maps_onto_itself(method, slides):
    own = method.measure(slides[0])
    changed = np.abs(method.apply(method.map_to(own, own), slides[0][0]).astype(int) - slides[0][0])
    assert changed.max() <= (2 if method.name == "vahadane" else 1) and changed.mean() < 0.2


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_glass_stays(method, slides):
    source, reference = (method.measure(tiles) for tiles in slides)
    tile = slides[0][0].copy()
    tile[:, : GLASS_PX // 2] = (250, 248, 251)  # as scanners see it
    new = method.apply(method.map_to(source, reference), tile)
    assert (new[:, GLASS_PX // 2 : GLASS_PX] == 255).all()
    assert np.abs(new[:, : GLASS_PX // 2].astype(int) - (250, 248, 251)).max() <= 4


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_shapes_kinds_and_the_input_stay(method, slides):
    source, reference = (method.measure(tiles) for tiles in slides)
    tile = slides[0][0][:37, :61]
    before = tile.copy()
    new = method.apply(method.map_to(source, reference), tile)
    assert (new.shape, new.dtype) == ((37, 61, 3), np.uint8)
    assert np.array_equal(tile, before)
    assert (source.colours.shape, source.strengths.shape) == (method.shape, method.shape[:1])


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_the_same_tiles_give_the_same_numbers_and_glass_does_not_count(method, slides):
    white = np.full((96, 64, 3), 255, np.uint8)
    first, again, diluted = (method.measure(tiles) for tiles in (slides[0], slides[0], [*slides[0], white, white]))
    assert first.to_json() == again.to_json() == diluted.to_json()
    one_map = method.map_to(first, method.measure(slides[1]))
    assert np.array_equal(method.apply(one_map, slides[0][1]), method.apply(one_map, slides[0][1]))


DAMAGE = {
    "nothing": lambda r: {}, "no record": lambda r: None, "a list": lambda r: [r],
    "another method": lambda r: r | {"method": "other"},
    "no strengths": lambda r: {k: v for k, v in r.items() if k != "strengths"},
    "too few colours": lambda r: r | {"colours": r["colours"][:-1]}, "text": lambda r: r | {"colours": "pink"},
    "not a number": lambda r: r | {"strengths": [float("nan")] * len(r["strengths"])},
    "no spread": lambda r: r | {"strengths": [0.0] * len(r["strengths"])}, "no tissue": lambda r: r | {"tissue_px": 0},
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_damaged_records_are_refused(method, damage, slides):
    with pytest.raises(StainError):
        method.read(damage(method.measure(slides[0]).to_json()))


@pytest.mark.parametrize("method", TWO_STAINS, ids=lambda m: m.name)
def test_records_of_one_stain_are_refused(method, slides):
    record = method.measure(slides[0]).to_json()
    with pytest.raises(StainError, match="one stain"):
        method.read(record | {"colours": [record["colours"][0]] * 2})
    with pytest.raises(StainError, match="lengths"):
        method.read(record | {"colours": [[1, 1, 1], [0, 2, 0]]})


def test_methods_are_not_mixed(slides):
    found = {m.name: m.measure(slides[0]) for m in ALL}
    with pytest.raises(StainError, match="macenko"):
        Macenko().read(found["vahadane"].to_json())


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
@pytest.mark.parametrize("tiles", [[], [np.full((64, 64, 3), 255, np.uint8)] * 2], ids=["no tile", "white"])
def test_no_tissue_is_told(method, tiles):
    with pytest.raises(StainError, match=r"No tissue was found.*Got: .*Expected: .*Give tiles"):
        method.measure(tiles)


def grey():
    return np.repeat(np.random.default_rng(0).integers(20, 256, (64, 64, 1), np.uint8), 3, axis=2)


def one_stain():
    return density_to_rgb((np.random.default_rng(0).gamma(2, 0.4, (64, 64, 1)) * unit(STAINS[0][1])).astype(np.float32))


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ["constant", "black", "grey", "one stain"])
@pytest.mark.filterwarnings("error")
def test_colour_that_cannot_be_matched_is_told(method, kind):
    tile = {"constant": np.full((64, 64, 3), (180, 90, 160), np.uint8), "black": np.zeros((64, 64, 3), np.uint8),
            "grey": grey(), "one stain": one_stain()}[kind]  # fmt: skip
    if (method.name, kind) == ("reinhard", "one stain"):
        assert method.measure([tile]).strengths.min() > 1  # a spread is a spread: nothing is told apart
        return
    with pytest.raises(StainError, match="one colour, or none" if method.name == "reinhard" else "one stain, or grey"):
        method.measure([tile])


@pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)
def test_what_is_no_rgb_tile_is_told(method, slides):
    tile = slides[0][0]
    for wrong in (tile[..., 0], tile[..., :2], tile.astype(np.float32)):
        with pytest.raises(StainError, match=r"no RGB tile\. Got: .*Expected: uint8"):
            method.measure([wrong])


@pytest.mark.parametrize("sparsity", [0.0, 0.05])
def test_amounts_are_those_of_a_general_solver(sparsity):
    random = np.random.default_rng(1)
    vectors = unit(STAINS[0])
    od = random.gamma(1.0, 0.4, (400, 3)) * random.integers(0, 2, (400, 3))
    ours = baselines.nonnegative_amounts(od, vectors, sparsity)
    # ½‖od − cW‖² + λΣc is least squares towards a shifted density with the same W
    shifted = od - sparsity * (np.linalg.pinv(vectors) @ np.ones(2))
    theirs = np.array([nnls(vectors.T, row)[0] for row in shifted])
    np.testing.assert_allclose(ours, theirs, atol=1e-10)
    kinds = {tuple(row) for row in (ours > 0).tolist()}
    assert len(kinds) == 4  # none, either, both


def test_vahadane_reaches_the_minimum_that_a_general_solver_finds(monkeypatch):
    monkeypatch.setattr(baselines, "SPARSITY", 0.05)
    method = Vahadane()
    od = optical_density(planted(STAINS[0], side=40)[0][:, GLASS_PX:]).reshape(-1, 3).astype(np.float64)
    od = od[od.mean(1) > 0.15]

    def objective(vectors):
        amounts = baselines.nonnegative_amounts(od, vectors, baselines.SPARSITY)
        return 0.5 * ((od - amounts @ vectors) ** 2).sum() + baselines.SPARSITY * amounts.sum()

    general = DictionaryLearning(
        2, alpha=baselines.SPARSITY, max_iter=100, fit_algorithm="cd", transform_algorithm="lasso_cd",
        positive_code=True, positive_dict=True, random_state=0,
    ).fit(od)  # fmt: skip
    assert objective(method._vectors(od)) <= objective(unit(general.components_)) * 1.0001
