"""Slides in, normalized slides out: what is asked of them, what is told, what is written and read again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from deeplrhe_utils.core.errors import ModelError, StainError
from deeplrhe_utils.evaluation.quality.stain_metrics import delta_e
from deeplrhe_utils.stain.colour import density_to_rgb, optical_density
from deeplrhe_utils.stain.dcgmm.checks import check_colours, check_tiles, has_tissue, tissue_px
from deeplrhe_utils.stain.dcgmm.method import Dcgmm
from deeplrhe_utils.stain.dcgmm.net import DENSITY, PAPER, DcgmmConfig, DcgmmNet, save_net
from deeplrhe_utils.stain.methods import normalize
from deeplrhe_utils.stain.methods.baselines import Macenko, Reinhard, Vahadane
from deeplrhe_utils.stain.methods.normalize import (
    NORMALIZATIONS,
    Normalizer,
    fit_normalizer,
    load_normalizer,
    make_normalizer,
)
from deeplrhe_utils.stain.methods.reference import choose_reference, slide_colour, spread_references, survey_colours
from tests.stain_tiles import GLASS, amounts, fitted, levels, net, painted, slides

pytestmark = pytest.mark.usefixtures("one_thread")

LOW = {"minimum_tiles": 2, "minimum_tissue_px": 1e4}
BASELINES = {"reinhard": Reinhard(), "macenko": Macenko(), "vahadane": Vahadane()}
WHITE = np.full((192, 192, 3), 250, np.uint8)


def normalizer(method=None, **options):
    """The cohort of three laboratories, "lab 1" the reference; a slide of two small tiles is not thin."""
    method = method or fitted()
    cohort = method.measure([tile for tiles in slides().values() for tile in tiles])
    return Normalizer(method, method.measure(slides()["lab 1"]), cohort, **{**LOW, **options})


def greyscale(seed=0):
    return np.repeat(painted("lab 1", seed).mean(2, keepdims=True).astype(np.uint8), 3, axis=2)


# Is it H&E, is it tissue
def test_tissue_is_counted_where_it_was_painted_and_stained_slides_pass_without_a_word():
    tile = painted("lab 1", 1)
    assert tissue_px(tile) == pytest.approx((~GLASS).sum(), rel=0.02) and tissue_px(WHITE) == 0
    for tiles in slides().values():
        assert check_colours(tiles) == []
    assert check_colours([WHITE]) == [], "that no tissue is there is told elsewhere"


@pytest.mark.parametrize(
    ("side", "tissue", "enough"),
    [
        (192, 5_200, True), (192, 4_800, False),  # 5,000 px
        (80, 3_520, True), (80, 2_880, False),  # or half of a small tile
        (640, 10_240, True), (640, 7_680, False),  # or 2 % of a large one
    ],
)  # fmt: skip
def test_how_much_tissue_is_enough(side, tissue, enough):
    tile = np.full((side, side, 3), 250, np.uint8)
    tile.reshape(-1, 4 * side, 3)[: round(tissue / (4 * side))] = (180, 90, 160)
    assert tissue_px(tile) == pytest.approx(tissue, rel=0.1) and has_tissue(tile) == enough


def test_a_grey_slide_is_no_stained_slide():
    with pytest.raises(StainError, match=r"slide 7 is not an H&E image.*grey.*Got: 100\.0%.*Give the colour image"):
        check_colours([greyscale()], "slide 7")
    with pytest.raises(StainError, match="slide 7 is not an H&E"):
        normalizer().plan([greyscale(0), greyscale(1)], "slide 7")
    check_colours([greyscale(), painted("lab 1", 0)])  # half of it has hues to match


@pytest.mark.parametrize(("vector", "warned"), [
    ((0.27, 0.57, 0.78), True), ((0.95, 0.25, 0.18), True), ((0.65, 0.70, 0.29), False),
], ids=["brown of an immunostain", "cyan", "haematoxylin"])  # fmt: skip
def test_hues_that_are_not_those_of_he_are_a_warning(vector, warned):
    """No error: yellow and blue lamps do that to real H&E, and normalization is there to undo it."""
    tiles = [density_to_rgb((amounts(i).sum(-1, keepdims=True) * np.array(vector)).astype(np.float32)) for i in (0, 1)]
    told = check_colours(tiles)
    assert [("unusual for H&E" in sentence) for sentence in told] == [True] * warned
    known = fitted().measure([*tiles, *slides()["lab 1"]])  # a cohort with such slides: what no slide has is ink
    plan = replace(normalizer(), cohort=known).plan(tiles, "slide 7")
    assert plan.changes and [sentence for sentence in plan.warnings if "unusual" in sentence] == told


@pytest.mark.parametrize(("tile", "told"), [
    (np.zeros((192, 192, 3), np.float32), "8-bit"), (np.full((192, 192, 3), np.nan), "8-bit"),
    (np.zeros((192, 192, 3), np.uint16), "8-bit"), (np.zeros((192, 192, 4), np.uint8), "RGB"),
    (np.zeros((192, 192), np.uint8), "RGB"), (np.zeros((31, 192, 3), np.uint8), "too small"),
    (np.zeros((3, 192, 192), np.uint8), "channels last.*Transpose"),
])  # fmt: skip
def test_what_is_no_8_bit_rgb_tile_is_told_before_anything_is_measured(tile, told):
    """Optical density takes any number: of floats from 0 to 1 it would be black without anybody noticing."""
    good = slides()["lab 1"][0]
    steps = [
        lambda: check_tiles([good, tile]), lambda: fitted().measure([good, tile]),
        lambda: normalizer().plan([good, tile], "slide 7"), lambda: fit_normalizer({"a": [good], "b": [tile]}, steps=1),
        lambda: make_normalizer("macenko", [good], [1.0], [tile]),
    ]  # fmt: skip
    for step in steps:
        with pytest.raises(StainError, match=told):
            step()


# Plans
def test_a_plan_brings_a_slide_to_the_reference():
    made = normalizer()
    plan = made.plan(slides()["lab 2"], "slide 7")
    assert (plan.note, plan.warnings, plan.n_used, plan.n_skipped) == ("own statistics", (), 3, 0)
    assert plan.changes and json.loads(json.dumps(plan.record)) == plan.record
    goal = np.stack(slides()["lab 1"])[:, ~GLASS].mean((0, 1))
    new = np.stack([plan(tile) for tile in slides()["lab 2"]])
    before = np.abs(np.stack(slides()["lab 2"])[:, ~GLASS].mean((0, 1)) - goal).sum()
    assert np.abs(new[:, ~GLASS].mean((0, 1)) - goal).sum() < 0.25 * before
    own = fitted().map_to(fitted().measure(slides()["lab 2"], made.cohort), made.reference)
    assert plan.record == own.to_json()


def test_the_digest_of_a_plan_is_that_of_what_it_does():
    made = normalizer()
    one, again, other = (made.plan(slides()[lab]) for lab in ("lab 2", "lab 2", "lab 3"))
    assert one.digest() == again.digest() != other.digest() and len(one.digest()) == 16
    assert made.plan([WHITE]).digest() == "none"
    moved = replace(made, reference=made.cohort).plan(slides()["lab 2"])
    assert moved.digest() != one.digest()
    assert made.digest() == normalizer().digest() != normalizer(on_thin_slide="cohort").digest()


def test_tiles_without_tissue_give_no_statistics_and_are_counted():
    made = normalizer()
    plan = made.plan([*slides()["lab 2"], WHITE, WHITE], "slide 7")
    assert (plan.n_used, plan.n_skipped) == (3, 2)
    assert plan.digest() == made.plan(slides()["lab 2"]).digest()
    assert levels(plan(WHITE), WHITE).max() <= 2


@pytest.mark.parametrize("tiles", [[], [WHITE, WHITE]], ids=["no tile", "no tissue"])
def test_a_slide_without_tissue_is_left_unchanged_and_says_so(tiles):
    plan = normalizer().plan(tiles, "slide 7")
    assert plan.note == "left unchanged: no tissue" and not plan.changes and plan.record is None
    assert (plan.n_used, plan.n_skipped) == (0, len(tiles))
    tile = slides()["lab 2"][0]
    new = plan(tile)
    assert np.array_equal(new, tile) and new is not tile


@pytest.mark.parametrize("minima", [{"minimum_tiles": 8}, {"minimum_tissue_px": 200_000}])
def test_a_thin_slide_is_an_error_that_names_it_or_takes_the_cohorts_colours(minima):
    told = r"slide 7 has too little tissue.*Got: 3 tiles with 8\d,\d+ px.*Expected: .*tiles and .*px.*on_thin_slide"
    with pytest.raises(StainError, match=told):
        normalizer(**minima).plan(slides()["lab 2"], "slide 7")
    made = normalizer(**minima, on_thin_slide="cohort")
    plan = made.plan(slides()["lab 2"], "slide 7")
    assert plan.note.startswith("cohort statistics: 3 tiles with 8")
    assert plan.record == fitted().map_to(made.cohort, made.reference).to_json()
    kept = normalizer(**minima).plan_or_keep(slides()["lab 2"], "slide 7")
    assert kept.note.startswith("left unchanged: slide 7 has too little tissue") and kept.n_skipped == 3
    assert np.array_equal(kept(slides()["lab 2"][0]), slides()["lab 2"][0])


def test_the_defaults_are_eight_tiles_and_200000_px():
    with pytest.raises(StainError, match=r"Expected: 8 tiles and 200,000 px"):
        Normalizer(fitted(), normalizer().reference, normalizer().cohort).plan(slides()["lab 2"])
    with pytest.raises(StainError, match=r"Unknown way.*Got: keep.*error.*cohort"):
        normalizer(on_thin_slide="keep")


def test_a_single_stain_is_told():
    """Haematoxylin without eosin: hue is left as it is (see the map's own test)."""
    amount = amounts(0)[..., 0] + 0.3 * amounts(0)[..., 1] + 0.2 * ~GLASS
    single = density_to_rgb((amount[..., None] * np.array([0.65, 0.70, 0.29])).astype(np.float32))
    plan = normalizer().plan([single, single], "slide 7")
    assert "single stain: only density is matched" in plan.warnings and plan.changes


def test_marker_ink_is_told_and_does_not_colour_the_tissue():
    made, clean = normalizer(), slides()["lab 2"]
    marked = [tile.copy() for tile in clean]
    for tile in marked:
        tile[20:70, 20:90] = (20, 140, 60)
    plan, wanted = made.plan(marked, "slide 7"), made.plan(clean, "slide 7")
    assert any("12% of the tissue has no colour of the cohort (ink?) and was left out" in w for w in plan.warnings)
    blind = fitted().painter(fitted().map_to(fitted().measure(marked), made.reference))
    error, without = (np.mean([delta_e(paint(tile), wanted(tile)).mean() for tile in clean]) for paint in (plan, blind))
    assert error < 3 and without > 2 * error


def test_a_stain_the_cohort_does_not_know_is_no_ink():
    """More than 15 % of foreign pixels is another laboratory: all are used, and the plan says so."""
    narrow = fit_normalizer({"only": slides()["lab 1"]}, steps=20, seed=3, minimum_tiles=1, minimum_tissue_px=1e3)
    stranger = slides()["lab 2"]
    plan = narrow.plan(stranger, "slide 7")
    assert any("no colour of the cohort; all of it is used" in w for w in plan.warnings)
    goal, before = (np.mean([t[~GLASS].mean(0) for t in tiles], axis=0) for tiles in (slides()["lab 1"], stranger))
    after = np.mean([plan(t)[~GLASS].mean(0) for t in stranger], axis=0)
    assert np.abs(after - goal).max() < 0.35 * np.abs(before - goal).max()


def test_errors_of_a_method_name_the_slide():
    made = normalizer(BASELINES["macenko"])
    one = density_to_rgb((amounts(0)[..., :1] * np.array([0.65, 0.70, 0.29])).astype(np.float32))
    with pytest.raises(StainError, match=r"^slide 7: .*one stain"):
        made.plan([one, one], "slide 7")
    white = normalizer(Dcgmm(net(), white=True))
    solid = [np.ascontiguousarray(tile[:, :150]) for tile in slides()["lab 2"]]
    with pytest.raises(StainError, match=r"^slide 7: .*white level.*Got: .*Expected: .*Give tiles with some glass"):
        white.plan(solid, "slide 7")


def test_tiles_of_one_plan_keep_their_differences():
    """Maps per tile would pull a pale and a dark tile of one slide together; maps per slide keep them apart."""
    own = slides()["lab 2"]
    dark = density_to_rgb(optical_density(own[0]) * 1.2)
    plan = normalizer().plan([*own, dark])
    assert (optical_density(plan(dark)).mean() - optical_density(plan(own[0])).mean()) > 0.05


def test_the_papers_profile_measures_every_tile_anew():
    torch.manual_seed(0)
    method = Dcgmm(DcgmmNet(DcgmmConfig("density", 4, False, "diagonal", 0.0, 1.0, False, "tile")).eval())
    made = normalizer(method)
    plan = made.plan(slides()["lab 2"], "slide 7")
    assert plan.note == "statistics of each tile" and plan.changes and method.per == "tile"
    for tile in slides()["lab 2"][:2]:
        wanted = method.apply(method.map_to(method.measure([tile]), made.reference), tile)
        assert np.array_equal(plan(tile), wanted)
    assert np.array_equal(plan(WHITE), WHITE)
    assert PAPER.per == "tile"


@pytest.mark.parametrize("name", BASELINES)
def test_the_baselines_take_the_same_road(name):
    made = normalizer(BASELINES[name])
    plan = made.plan(slides()["lab 2"], "slide 7")
    method = BASELINES[name]
    wanted = method.apply(method.map_to(method.measure(slides()["lab 2"]), made.reference), slides()["lab 2"][0])
    assert np.array_equal(plan(slides()["lab 2"][0]), wanted) and plan.note == "own statistics"
    assert plan.record["source"]["method"] == name


# Fits
def quickly(monkeypatch):
    """Fits of `fit_normalizer` on small crops."""
    recipe = {"crop_px": 64, "batch": 2}
    real = normalize.fit_responsibilities
    monkeypatch.setattr(normalize, "fit_responsibilities", lambda *a, **k: real(*a, **k, **recipe))


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_every_method_is_fitted_by_its_name(method, monkeypatch):
    quickly(monkeypatch)
    trace = []
    made = fit_normalizer(slides(), method, steps=4, trace=trace, **LOW)
    assert made.facts == {"reference": "lab 1", "fitted_on": ["lab 1", "lab 2", "lab 3"]}
    assert len(trace) == (0 if method in BASELINES else 4)
    plan = made.plan(slides()["lab 2"], "slide 7")
    new = plan(slides()["lab 2"][0])
    assert new.shape == (192, 192, 3) and levels(new, slides()["lab 2"][0]).mean() > 2
    if method not in BASELINES:
        assert made.method.net.config == normalize.DCGMM_VARIANTS[method]


def test_the_reference_slide_maps_onto_itself_bit_for_bit(monkeypatch):
    quickly(monkeypatch)
    tiles = [*slides()["lab 3"], WHITE]
    made = fit_normalizer({**slides(), "lab 3": tiles}, reference="lab 3", steps=4, **LOW)
    plan = made.plan(tiles, "lab 3")
    assert plan.record["identity"] and all(np.array_equal(plan(tile), tile) for tile in tiles)


def test_the_reference_is_a_rule_a_name_or_tiles(monkeypatch):
    quickly(monkeypatch)
    ruled, named = (fit_normalizer(slides(), steps=2, reference=name, **LOW) for name in ("", "lab 1"))
    assert ruled.facts["reference"] == choose_reference(survey_colours(slides())) == "lab 1"
    assert ruled.reference.to_json() == named.reference.to_json()
    given = fit_normalizer(slides(), steps=2, reference=slides()["lab 3"], **LOW)
    assert given.facts["reference"] == "given by the user"
    other = fit_normalizer(slides(), steps=2, reference="lab 3", **LOW)
    assert given.reference.to_json() == other.reference.to_json() != named.reference.to_json()


def test_a_reference_from_elsewhere_keeps_its_colours(monkeypatch):
    """What is ink among the slides of a cohort is the very colour wanted when it is that of the reference."""
    quickly(monkeypatch)
    strange = [density_to_rgb(optical_density(tile)[..., [1, 2, 0]]) for tile in slides()["lab 1"]]
    made = fit_normalizer(slides(), "density", steps=2, reference=strange, **LOW)
    assert made.reference.foreign_px == 0 and made.method.measure(strange, made.cohort).foreign_px > 1e4


def test_fits_are_repeated_to_the_bit_and_take_their_options(monkeypatch):
    quickly(monkeypatch)
    one, two = (fit_normalizer(slides(), steps=3, seed=4, **LOW) for _ in range(2))
    assert one.digest() == two.digest() != fit_normalizer(slides(), steps=3, seed=5, **LOW).digest()
    three = fit_normalizer(slides(), steps=2, config=replace(DENSITY, components=3), **LOW, on_thin_slide="cohort")
    assert three.method.net.components == 3 and three.on_thin_slide == "cohort"
    assert fit_normalizer(slides(), "density", steps=2, white=True, **LOW).method.white


def test_the_network_is_fitted_on_one_tile_of_every_slide_in_turn(monkeypatch):
    seen = []

    def spy(pool, scales, *_, **__):
        seen.extend(zip(pool, scales, strict=True))
        return net(), []

    monkeypatch.setattr(normalize, "fit_responsibilities", spy)
    monkeypatch.setattr(normalize, "FIT_TILES", 5)
    slides_of = {**slides(), "lab 2": [WHITE, *slides()["lab 2"]]}
    fit_normalizer(slides_of, **LOW)
    order = [("lab 1", 0), ("lab 2", 0), ("lab 3", 0), ("lab 1", 1), ("lab 2", 1)]
    assert [tile is slides()[lab][i] for (tile, _), (lab, i) in zip(seen, order, strict=True)] == [True] * 5
    scales = [normalize.density_scale(slides()[lab]) for lab, _ in order]
    assert [scale for _, scale in seen] == pytest.approx(scales)


@pytest.mark.parametrize(("slides_of", "options", "told"), [
    ({"a": [WHITE]}, {}, "no reference"), ({}, {}, "no reference"), ({"a": [], "b": [WHITE]}, {}, "no reference"),
    ({"a": [WHITE]}, {"reference": "a"}, "tissue"),
    (None, {"method": "stainnet"}, r"Unknown stain normalization.*Got: stainnet.*dcgmm.*vahadane"),
    (None, {"reference": "lab 9"}, r"none of the slides.*Got: lab 9.*lab 1"),
    (None, {"reference": [WHITE]}, "No tissue was found"), (None, {"reference": []}, "No tissue was found"),
    (None, {"reference": "lab 1", "minimum": 3}, "minimum"),
])  # fmt: skip
def test_what_cannot_be_fitted_is_told(slides_of, options, told, monkeypatch):
    monkeypatch.setattr(normalize, "fit_responsibilities", lambda *_, **__: (net(), []))
    with pytest.raises((StainError, TypeError), match=told):
        fit_normalizer(slides() if slides_of is None else slides_of, **options)


def test_references_with_too_little_tissue_or_without_a_component_are_told(monkeypatch):
    monkeypatch.setattr(normalize, "fit_responsibilities", lambda *_, **__: (net(), []))
    for method in ("dcgmm", "macenko"):
        with pytest.raises(
            StainError, match=r"reference shows too little tissue.*Got: 2\d,\d+ px.*50,000 px.*more tiles"
        ):
            fit_normalizer(slides(), method, reference=slides()["lab 2"][:1])
    monkeypatch.setattr(normalize, "fit_responsibilities", lambda *_, **__: (sharp, []))
    sharp = DcgmmNet(DcgmmConfig("density", temperature=0.02)).eval()
    with pytest.raises(StainError, match=r"component is missing in the reference.*Got: shares \[.*nuclei and stroma"):
        fit_normalizer(slides(), reference=[np.full((256, 256, 3), (215, 120, 190), np.uint8)])


# The reference, by rule
def test_the_reference_is_the_slide_nearest_to_the_median_colour():
    colours = survey_colours({**slides(), "blank": [WHITE], "none": []})
    od = {name: colour.mean for name, colour in colours.items() if np.isfinite(colour.mean).all()}
    median = np.median(list(od.values()), axis=0)
    order = sorted(od, key=lambda name: np.linalg.norm(od[name] - median))
    assert set(order) == set(slides())
    assert [choose_reference(colours, rank) for rank in range(3)] == order
    assert choose_reference(colours, -1) == order[-1]
    assert spread_references(colours) == dict(zip(("nearest", "half-way", "farthest"), order, strict=True))
    assert spread_references({"blank": colours["blank"]}) == {}
    shuffled = dict(reversed(colours.items()))
    assert choose_reference(shuffled) == order[0]
    twins = {name: colours["lab 2"] for name in ("b", "a", "c")}
    assert [choose_reference(twins, rank) for rank in range(3)] == ["a", "b", "c"]
    for rank in (3, -4):
        with pytest.raises(StainError, match=r"fewer slides.*Got: 3 slides with tissue"):
            choose_reference(colours, rank)
    with pytest.raises(StainError, match=r"no reference.*Got: 0 slides"):
        choose_reference({name: colours[name] for name in ("blank", "none")})


def test_the_colour_of_a_slide_is_that_of_its_tissue():
    own = slide_colour(slides()["lab 1"])
    pixels = np.concatenate([optical_density(tile[~GLASS]) for tile in slides()["lab 1"]])
    np.testing.assert_allclose(own.mean, pixels.mean(0), atol=0.01)
    assert own.tissue_share == pytest.approx((~GLASS).mean(), abs=0.02)
    assert own.scale == normalize.density_scale(slides()["lab 1"])
    blank = slide_colour([WHITE])
    assert blank.tissue_share == 0 and np.isnan(blank.scale) and np.isnan(blank.mean).all()


# Files
@pytest.mark.parametrize("name", ["dcgmm", "white", *BASELINES])
def test_a_normalizer_is_read_as_it_was_written(name, tmp_path):
    method = {"dcgmm": fitted(), "white": Dcgmm(net(), white=True), **BASELINES}[name]
    made = normalizer(method, on_thin_slide="cohort", facts={"reference": "lab 1"})
    files = made.save(tmp_path)
    assert [path.name for path in files] == ["normalizer.json", "dcgmm.safetensors"][: 1 + (name not in BASELINES)]
    again = load_normalizer(tmp_path)
    assert again.digest() == made.digest() and again.facts == made.facts
    for attribute in ("minimum_tiles", "minimum_tissue_px", "on_thin_slide"):
        assert getattr(again, attribute) == getattr(made, attribute)
    one, two = (each.plan(slides()["lab 2"], "slide 7") for each in (made, again))
    assert one.digest() == two.digest() and one.note == two.note
    assert np.array_equal(one(slides()["lab 2"][1]), two(slides()["lab 2"][1]))


@pytest.fixture
def saved(tmp_path):
    normalizer().save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_truncated_facts_are_told(saved, keep):
    path = saved / "normalizer.json"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"normalizer\.json cannot be read.*run 04 again"):
        load_normalizer(saved)


def rewrite(folder, change):
    path = folder / "normalizer.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


FACTS = (
    "method", "white", "net", "reference", "cohort", "minimum_tiles", "minimum_tissue_px", "on_thin_slide", "facts",
)  # fmt: skip
DAMAGE = {
    **{f"no {name}": lambda r, name=name: {k: v for k, v in r.items() if k != name} for name in FACTS},
    "a list": lambda r: [r], "another method": lambda r: r | {"method": "stainnet"},
    "another slide rule": lambda r: r | {"on_thin_slide": "keep"},
    "no moments": lambda r: r | {"reference": {"net": r["net"]}}, "text": lambda r: r | {"cohort": "much"},
    "reference of another network": lambda r: r | {"reference": r["reference"] | {"net": "0" * 16}},
    "cohort of another network": lambda r: r | {"cohort": r["cohort"] | {"net": "0" * 16}},
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_facts_are_told_with_the_next_move(saved, damage):
    rewrite(saved, damage)
    with pytest.raises(ModelError, match=r"[Rr]un (notebook )?04 again"):
        load_normalizer(saved)


def test_missing_and_exchanged_files_are_told(saved, tmp_path_factory):
    with pytest.raises(ModelError, match=r"cannot be read.*Keep a model's folders 04 and 05 together"):
        load_normalizer(saved / "nowhere")
    other = save_net(DcgmmNet().eval(), tmp_path_factory.mktemp("other") / "dcgmm.safetensors")
    shutil.copy(other, saved / "dcgmm.safetensors")
    with pytest.raises(ModelError, match=r"not the one its statistics were made with.*Got: .*Expected: .*04 again"):
        load_normalizer(saved)
    (saved / "dcgmm.safetensors").unlink()
    with pytest.raises(ModelError, match=r"dcgmm\.safetensors cannot be read.*04 again"):
        load_normalizer(saved)


def test_a_reference_with_another_number_of_components_is_refused():
    """A template from another K belongs to another network, and its digest says so."""
    three = Dcgmm(DcgmmNet(replace(DENSITY, components=3)).eval())
    made = replace(normalizer(), reference=three.measure(slides()["lab 1"]))
    with pytest.raises(StainError, match=r"^slide 7: .*different networks"):
        made.plan(slides()["lab 2"], "slide 7")
