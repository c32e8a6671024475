"""Colour maps at work: what comes out, what stays, and that every way to compute it gives the same pixels."""

import shutil
from dataclasses import replace

import numpy as np
import openslide
import pytest
import torch

from deeplrhe_utils.core.errors import StainError
from deeplrhe_utils.evaluation.quality.stain_metrics import delta_e, planted_residual, planted_versions
from deeplrhe_utils.stain.colour import density_to_rgb, od_to_hsd, optical_density
from deeplrhe_utils.stain.dcgmm import transform as transforms
from deeplrhe_utils.stain.dcgmm.method import Dcgmm, responsibilities
from deeplrhe_utils.stain.dcgmm.net import DEFAULT, DENSITY, PAPER, DcgmmConfig, DcgmmNet, tissue_weight
from deeplrhe_utils.stain.dcgmm.statistics import density_scale
from deeplrhe_utils.stain.dcgmm.transform import StainTransform, apply, check_tile
from deeplrhe_utils.synthetic.publish import write_slide
from tests.stain_tiles import GLASS, GLASS_PX, clip_gamut, fitted, hsd_to_od, levels, net, painted, quick_fit, slides

pytestmark = pytest.mark.usefixtures("one_thread")

ODD = (77, 101)
OTHERS = ["lab 2", "lab 3"]


def plan(lab="lab 2", reference="lab 1", method=None):
    """The colour map between two laboratories."""
    method = method or fitted()
    return method.map_to(*(method.measure(slides()[name]) for name in (lab, reference)))


def transform(lab="lab 2", **options):
    return StainTransform(net(), plan(lab), **options)


# What comes out
def by_hand(method, colour_map, tile):
    """Σ γ_k (A_k x + b_k) from the room's parts, in float64, without any of the short cuts."""
    od = optical_density(tile).astype(np.float64)
    x = od_to_hsd(od)
    gamma = responsibilities(method.net, colour_map.scale, tile).astype(np.float64)
    mapped = np.einsum("khw,kij,hwj->hwi", gamma, colour_map.matrix, x)
    mapped += np.einsum("khw,ki->hwi", gamma, colour_map.offset)
    new = hsd_to_od(clip_gamut(mapped))
    if method.net.config.glass:
        tissue = tissue_weight(torch.from_numpy(x[..., 0])).numpy()[..., None]
        new = od + tissue * (new - od)
    return density_to_rgb(new)


def loud(config, noise):
    """A network whose convolutions decide much: a short fit leaves that to the quadratic."""
    torch.manual_seed(1)
    made = DcgmmNet(config).eval()
    with torch.no_grad():
        for value in made.parameters():
            value += noise * torch.randn_like(value)
    return Dcgmm(made)


@pytest.mark.parametrize(("config", "noise"), [
    (DEFAULT, 0.3), (DcgmmConfig(components=3, temperature=1.0), 0.3), (DENSITY, 0.1), (PAPER, 0.01),
], ids=["compact", "three components", "density", "paper"])  # fmt: skip
def test_pixels_are_those_of_the_formula(config, noise):
    """The short cuts of the fast path change nothing, whatever the weights."""
    method = loud(config, noise)
    colour_map = plan(method=method)
    for size in (ODD, (160, 160)):
        tile = slides()["lab 2"][0][: size[0], : size[1]]
        new = method.apply(colour_map, tile)
        difference = levels(new, by_hand(method, colour_map, tile))
        assert difference.max() <= 1 and difference.mean() < 0.01
        assert levels(new, tile).mean() > 2, "there is something to compare"


@pytest.mark.parametrize("lab", OTHERS)
def test_stains_come_together(lab):
    colour_map, tissue = plan(lab), ~GLASS
    new = [fitted().apply(colour_map, tile) for tile in slides()[lab]]
    goal = np.stack(slides()["lab 1"])[:, tissue].mean((0, 1))
    before, after = (np.abs(np.stack(tiles)[:, tissue].mean((0, 1)) - goal).sum() for tiles in (slides()[lab], new))
    assert after < 0.25 * before


@pytest.mark.parametrize("lab", OTHERS)
def test_a_second_normalization_finds_little_to_do(lab):
    method, tiles = fitted(), slides()[lab]
    reference = method.measure(slides()["lab 1"])
    once = [method.apply(method.map_to(method.measure(tiles), reference), tile) for tile in tiles]
    twice = [method.apply(method.map_to(method.measure(once), reference), tile) for tile in once]
    first, second = (
        np.mean([delta_e(a, b).mean() for a, b in zip(*pair, strict=True)]) for pair in ((tiles, once), (once, twice))
    )
    assert first > 3 and second < first / 3


def test_the_reference_onto_itself_is_the_identity_bit_for_bit():
    made = StainTransform(net(), plan("lab 1", "lab 1"))
    for tile in slides()["lab 1"]:
        new = apply(made, tile)
        assert np.array_equal(new, tile) and not np.shares_memory(new, tile)


@pytest.mark.parametrize("lab", OTHERS)
def test_white_stays_white_and_glass_as_it_is(lab):
    made = transform(lab)
    white = np.full((40, 50, 3), 255, np.uint8)
    assert np.array_equal(apply(made, white), white)
    for tile in slides()[lab]:
        change = levels(apply(made, tile), tile)
        assert change[GLASS].max() <= 2 and change[~GLASS].mean() > 3


@pytest.mark.parametrize("lab", OTHERS)
def test_turning_and_mirroring_nearly_commute(lab):
    made = transform(lab)
    turns = [lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: np.rot90(a), lambda a: np.rot90(a, 2)]
    for tile in slides()[lab]:
        for turn in turns:
            difference = levels(apply(made, np.ascontiguousarray(turn(tile))), turn(apply(made, tile)))
            assert difference.mean() <= 0.1 and np.percentile(difference, 99) <= 2


@pytest.mark.parametrize("lab", OTHERS)
def test_overlapping_tiles_of_one_plan_agree(lab):
    made = transform(lab)
    for tile in slides()[lab]:
        left, right = apply(made, tile[:, :128]), apply(made, tile[:, 40:168])
        assert delta_e(*(np.ascontiguousarray(part) for part in (left[:, 40:], right[:, :88]))).mean() <= 0.3


def test_a_coloured_lamp_is_removed_where_glass_shows():
    yellow = (0.02, 0.05, 0.18)
    lit = [painted("lab 1", seed, light=yellow) for seed in range(5, 8)]
    plain = [painted("lab 1", seed) for seed in range(5, 8)]
    made = {white: Dcgmm(net(), white=white) for white in (True, False)}
    new = {}
    for white, method in made.items():
        colour_map = method.map_to(method.measure(lit), method.measure(slides()["lab 1"]))
        new[white] = [method.apply(colour_map, tile) for tile in lit]
    for tile, wanted in zip(new[True], plain, strict=True):
        assert levels(tile, wanted)[GLASS].mean() < 2 and delta_e(tile, wanted).mean() < 2
    for tile, wanted in zip(new[False], plain, strict=True):
        assert levels(tile, wanted)[GLASS].mean() < 2, "without, gaps alone are the reference's"


@pytest.mark.parametrize("light", [(0.1, 0.1, 0.1), (0.2, 0.2, 0.22), (0.12, 0.2, 0.28), (0.22, 0.18, 0.03)])
def test_gaps_that_show_dark_glass_get_the_references_and_no_grain_and_tissue_stays(light):
    method, lit = fitted(), [painted("lab 2", seed, light=light) for seed in range(3)]
    made = method.map_to(method.measure(lit), method.measure(slides()["lab 1"]))
    paint, before = (StainTransform(net(), one) for one in (made, replace(made, gaps=np.zeros((2, 3)))))
    inside = np.roll(GLASS, 4, axis=1) & GLASS
    for tile in lit:
        new, old = apply(paint, tile), apply(before, tile)
        assert np.abs(new[inside].mean(axis=0) - density_to_rgb(np.full(3, 0.03, np.float32))).max() < 2
        assert new[inside].std(axis=0).mean() <= 1.15 * tile[inside].std(axis=0).mean()
        tissue = (optical_density(tile) - np.array(light, np.float32)).mean(axis=-1) > 0.25
        assert levels(new, old)[tissue].mean() < 0.1
        planes = torch.from_numpy(tile.copy()).permute(2, 0, 1).reshape(3, -1)
        with torch.inference_mode():
            density = transforms._density(planes, paint.white_in, False)
            logits = paint._spread(density.view(1, 1, *tile.shape[:2])).reshape(net().components, -1)
            other = torch.stack(transforms._pixels(planes, density, logits, *paint.constants))
        assert levels(other.numpy().T.reshape(tile.shape), new).max() <= 1, "as a compiler sees it"


def test_gaps_of_pale_glass_or_without_a_reference_to_them_keep_their_colour():
    method, dark = fitted(), [painted("lab 2", seed, light=(0.2, 0.2, 0.2)) for seed in range(3)]
    assert not plan("lab 2").gaps.any()
    solid = [np.ascontiguousarray(tile[:, : -GLASS_PX - 4]) for tile in slides()["lab 1"]]
    made = method.map_to(method.measure(dark), method.measure(solid))
    assert made.gaps[0].min() > 200 and not made.gaps[1].any()
    assert levels(method.apply(made, dark[0]), dark[0])[GLASS].max() <= 2


def test_white_in_is_white_out_of_the_reference():
    method = Dcgmm(net(), white=True)
    lit = [painted("lab 2", seed, light=(0.05, 0.05, 0.12)) for seed in range(2)]
    colour_map = method.map_to(method.measure(lit), method.measure(slides()["lab 1"]))
    assert colour_map.white_in == pytest.approx((0.05, 0.05, 0.12), abs=0.005)
    assert colour_map.white_out == pytest.approx((0.03, 0.03, 0.03), abs=0.005)
    white_in, white_out = (
        np.rint(256 * np.exp(-np.array(od)) - 1) for od in (colour_map.white_in, colour_map.white_out)
    )
    picture = np.broadcast_to(white_in.astype(np.uint8), (32, 32, 3))
    assert levels(method.apply(colour_map, picture), white_out).max() <= 1


def test_without_glass_a_white_level_is_an_error():
    method = Dcgmm(net(), white=True)
    cut = [np.ascontiguousarray(tile[:, :120]) for tile in slides()["lab 2"]]
    with pytest.raises(StainError, match=r"white level of a slide is unknown.*Got: .*glass"):
        method.measure(cut)
    known, unknown = method.measure(slides()["lab 2"]), fitted().measure(cut)
    for pair in ((known, unknown), (unknown, known)):
        with pytest.raises(StainError, match=r"white level is unknown.*Got: .*Leave the white level alone"):
            method.map_to(*pair)


@pytest.fixture(scope="module")
def factory(small_plan, tmp_path_factory):
    """Tiles of the slide factory's 20× slides: name → overlapping 128 px tiles with tissue."""
    folder, made = tmp_path_factory.mktemp("factory"), {}
    for name in small_plan.slides.loc[small_plan.slides["objective"] == 20, "slide_id"][:5]:
        with openslide.OpenSlide(write_slide(small_plan, name, folder)) as slide:
            picture = np.array(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        corners = [(y, x) for y in range(0, picture.shape[0] - 127, 96) for x in range(0, picture.shape[1] - 127, 96)]
        tiles = [np.ascontiguousarray(picture[y : y + 128, x : x + 128]) for y, x in corners]
        made[name] = [tile for tile in tiles if (optical_density(tile).mean(-1) > 0.12).mean() > 0.3]
    return made


def test_a_planted_stain_change_is_undone_the_better_the_more_tiles_are_known(factory):
    names = list(factory)
    tiles = [tile for name in names for tile in factory[name][:4]]
    scales = [density_scale(factory[name]) for name in names for _ in factory[name][:4]]
    method = Dcgmm(quick_fit(tiles, scales)[0])
    reference = method.measure(factory[names[0]])
    left = {1: [], 2: [], 4: [], 8: []}
    for name in names[1:4]:
        own = factory[name]
        versions = [list(version) for version in zip(*(planted_versions(tile) for tile in own), strict=True)]
        for n, found in left.items():
            painters = [method.painter(method.map_to(method.measure(v[:n]), reference)) for v in versions]
            for i, tile in enumerate(own):
                after = [paint(version[i]) for paint, version in zip(painters, versions, strict=True)]
                tissue = optical_density(tile).mean(-1) > 0.15
                found.append(planted_residual([version[i] for version in versions], after, tissue))
    means = [float(np.mean(found)) for found in left.values()]
    assert max(means) <= 0.35
    assert (np.diff(means) <= 0.005).all() and means[-1] < means[0], means


# The same pixels, however they are computed
@pytest.mark.parametrize("size", [(32, 32), ODD, (192, 64)])
@pytest.mark.parametrize("lab", OTHERS)
def test_any_size_and_either_layout(lab, size):
    made = transform(lab)
    tile = slides()[lab][1][: size[0], : size[1]]
    before = tile.copy()
    new = apply(made, tile)
    assert (new.shape, new.dtype) == (tile.shape, np.uint8)
    first = apply(made, np.ascontiguousarray(tile.transpose(2, 0, 1)))
    assert first.shape == (3, *size) and np.array_equal(first.transpose(1, 2, 0), new)
    assert np.array_equal(apply(made, tile.transpose(2, 0, 1)).transpose(1, 2, 0), new), "a view that is not contiguous"
    assert np.array_equal(apply(made, np.asfortranarray(tile)), new)
    assert np.array_equal(tile, before)


def test_applying_is_deterministic_takes_read_only_tiles_and_answers_can_be_written_to():
    made, tiles = transform(), slides()["lab 2"]
    first = [apply(made, tile) for tile in tiles]
    again = [apply(made, tile) for tile in tiles[::-1]][::-1]
    fresh = [fitted().apply(plan(), tile) for tile in tiles]
    painter = fitted().painter(plan())
    for a, b, c, tile in zip(first, again, fresh, tiles, strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c) and np.array_equal(a, painter(tile))
    tile = slides()["lab 2"][0].copy()
    tile.setflags(write=False)
    for layout in (tile, tile.transpose(2, 0, 1), np.ascontiguousarray(tile.transpose(2, 0, 1))):
        layout.setflags(write=False)
        for made in (transform(), StainTransform(net(), plan("lab 1", "lab 1"))):
            apply(made, layout)[:] = 0


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_pixel(threads):
    tile, before = slides()["lab 2"][0], torch.get_num_threads()
    wanted = apply(transform(), tile)
    try:
        torch.set_num_threads(threads)
        new = apply(transform(), tile)
    finally:
        torch.set_num_threads(before)
    assert levels(new, wanted).max() <= 1


@pytest.mark.parametrize("weights", ["fitted", "loud"])
def test_bfloat16_is_within_a_grey_level(weights):
    method = fitted() if weights == "fitted" else loud(DEFAULT, 0.3)
    for lab in OTHERS:
        exact, fast = (StainTransform(method.net, plan(lab, method=method), bf16=bf16) for bf16 in (False, True))
        for tile in slides()[lab]:
            difference = levels(apply(exact, tile), apply(fast, tile))
            assert difference.max() <= 1 and difference.mean() < 0.05


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler is installed")
def test_compiled_is_within_a_grey_level():
    """One compilation for all: same size, same kinds of numbers."""
    for method, lab in ((fitted(), "lab 2"), (fitted(), "lab 3"), (loud(DEFAULT, 0.3), "lab 2")):
        colour_map = plan(lab, method=method)
        eager = StainTransform(method.net, colour_map)
        for bf16 in (False, True):
            fast = StainTransform(method.net, colour_map, compiled=True, bf16=bf16)
            for tile in slides()[lab]:
                difference = levels(apply(fast, tile), apply(eager, tile))
                assert difference.max() <= 1 and difference.mean() < 0.05


def test_a_failed_compilation_is_told(monkeypatch):
    def broken(*_):
        raise torch._dynamo.exc.BackendCompilerFailed(lambda: None, RuntimeError("no compiler"), None)

    monkeypatch.setattr(torch, "compile", lambda function: broken)
    transforms._compiled.cache_clear()
    try:
        with pytest.raises(StainError, match=r"(?s)could not be compiled.*Install a C\+\+ compiler"):
            apply(transform(compiled=True), slides()["lab 2"][0])
    finally:
        transforms._compiled.cache_clear()


# What is refused
@pytest.mark.parametrize(("tile", "told"), [
    (np.zeros((64, 64, 3), np.float32), r"8-bit.*float32.*times 255"), (np.full((64, 64, 3), np.nan), "8-bit.*float64"),
    (np.zeros((64, 64, 3), np.uint16), r"8-bit.*uint16.*divided by 257"),
    (np.zeros((64, 64, 4), np.uint8), "RGB.*over white first"),
    (np.zeros((4, 64, 64), np.uint8), "RGB.*over white first"),
    (np.zeros((64, 64), np.uint8), r"RGB.*shape \(64, 64\)"), (np.zeros((1, 64, 64, 3), np.uint8), "RGB"),
    (np.zeros((31, 64, 3), np.uint8), r"too small.*\(31, 64, 3\).*32 px or more"),
    (np.zeros((3, 64, 31), np.uint8), "too small"), ([[1, 2, 3]], "8-bit.*list"),
])  # fmt: skip
def test_what_is_no_8_bit_rgb_tile_is_told(tile, told):
    for refuse in (check_tile, lambda t: apply(transform(), t)):
        with pytest.raises(StainError, match=told):
            refuse(tile)


def test_a_map_of_another_network_is_refused_and_a_constant_tile_stays_finite():
    tile = np.full((48, 48, 3), (180, 90, 160), np.uint8)
    new = apply(transform(), tile)
    inner = new[12:-12, 12:-12]  # the border is padded with zeros inside the network
    assert (inner == inner[0, 0]).all() and levels(new, inner[0, 0]).max() <= 12
    with pytest.raises(StainError, match=r"another network.*Collect the statistics again"):
        StainTransform(net(), replace(plan(), net="0" * 16))
    with pytest.raises(StainError, match="another network"):
        StainTransform(DcgmmNet().eval(), plan())
    with pytest.raises(StainError, match="another network"):
        StainTransform(net(), replace(plan(), matrix=plan().matrix[:3], offset=plan().offset[:3]))
