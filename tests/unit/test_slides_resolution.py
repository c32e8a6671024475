"""What a slide tells of its resolution is judged; what its nuclei suggest is offered and never applied."""

import math
import re
from types import SimpleNamespace

import cv2
import numpy as np
import openslide
import pytest
from PIL import Image

from deeplrhe_utils.core.errors import MissingMppError, SlideError
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.slides.files import nuclear_size
from deeplrhe_utils.slides.files.inventory import scan_slides
from deeplrhe_utils.slides.files.nuclear_size import CALIBRATION_UM, CONVENTIONAL, objective_of, size_interval
from deeplrhe_utils.slides.reading.opening import open_handle
from deeplrhe_utils.slides.reading.reader import Slide
from deeplrhe_utils.slides.reading.resolution import resolution_evidence, resolution_note, resolution_of
from deeplrhe_utils.slides.tiles.tiling import TilingRules, tile_slide
from deeplrhe_utils.synthetic.paint.svs import SvsWriter, aperio_description


def write_svs(path, *, mpp=None, power=None, tags=None, described=None, levels=((300, 200),)):
    """A small Aperio slide; `mpp` and `power` are text as they stand in the file, `tags` µm/px of the TIFF tags."""
    note = "|".join(f"{key} = {value}" for key, value in (("AppMag", power), ("MPP", mpp)) if value is not None)
    description = aperio_description(*(described or levels[0]), quality=90, note=note)
    tile = cv2.imencode(".jpg", np.full((256, 256, 3), 120, np.uint8))[1].tobytes()
    with SvsWriter(path, list(levels), description, mpp=tags) as svs:
        for level, (width, height) in enumerate(levels):
            for row in range(-(-height // 256)):
                for column in range(-(-width // 256)):
                    svs.put(level, column, row, tile)
    return path


def examined(path, override=None):
    with open_handle(path) as handle:
        evidence = resolution_evidence(handle, override)
    return {e.source: e.verdict for e in evidence}, resolution_note(evidence)


MPP, POWER, TAGS = "openslide.mpp", "openslide.objective-power", "TIFF tags"


@pytest.mark.parametrize(("told", "override", "used", "verdicts", "note"), [
    (dict(mpp="0.5", power="20", tags=0.5), None, (0.5, "metadata"),
     {MPP: "used", TAGS: "agrees", POWER: "agrees"}, None),
    (dict(mpp="0.2208", power="40"), None, (0.2208, "metadata"), {MPP: "used", POWER: "agrees"}, None),
    (dict(mpp="0.28", power="40"), None, (0.28, "metadata"), {MPP: "used", POWER: "agrees"}, None),
    (dict(mpp="0.44", power="20"), None, (0.44, "metadata"), {MPP: "used", POWER: "agrees"}, None),
    (dict(mpp="0.56", power="20"), None, (0.56, "metadata"), {MPP: "used", POWER: "agrees"}, None),
    (dict(mpp="0.5", power="40"), None, (0.5, "metadata"), {MPP: "used", POWER: "contradicts"},
     r"power: 40×, by convention 0\.25 µm/px.*but 0\.5 µm/px is used \(a factor of 2: are 20× and 40× mixed up"),
    (dict(mpp="0.5", power="20", tags=0.25), None, (0.5, "metadata"),
     {MPP: "used", TAGS: "contradicts", POWER: "agrees"}, r"TIFF tags: 0\.25 µm/px"),
    (dict(mpp="0.5", power="10"), None, (0.5, "metadata"), {MPP: "used", POWER: "contradicts"}, "a factor of 2"),
    (dict(mpp="0.5", power="28"), None, (0.5, "metadata"), {MPP: "used", POWER: "contradicts"}, r"factor of 1\.4\)"),
    (dict(power="40", tags=0.26), None, (0.26, "tiff-tags"), {TAGS: "used", POWER: "agrees"}, None),
    (dict(power="40"), None, (0.25, "objective"), {POWER: "used"}, None),
    (dict(mpp="0.5", power="20"), 0.25, (0.25, "override"),
     {"override": "used", MPP: "contradicts", POWER: "contradicts"}, r"openslide\.mpp: 0\.5.*0\.25 µm/px is used"),
    (dict(mpp="0.5", power="20"), 0.49, (0.49, "override"), {"override": "used", MPP: "agrees", POWER: "agrees"}, None),
    (dict(mpp="0.5", power="0"), None, (0.5, "metadata"), {MPP: "used", POWER: "implausible"}, None),
])  # fmt: skip
def test_every_statement_is_judged_against_the_one_that_is_used(tmp_path, told, override, used, verdicts, note):
    path = write_svs(tmp_path / "a.svs", **told)
    found, text = examined(path, override)
    assert found == verdicts
    assert text is None if note is None else re.search(note, text)
    with Slide(path, override) as slide:
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(used[0]), used[1])


@pytest.mark.parametrize("mpp", ["0", "0.000001", "350", "nan", "-0.5", "1e999", "fast"])
def test_implausible_metadata_gives_way_to_the_objective_and_is_told(tmp_path, mpp):
    path = write_svs(tmp_path / "a.svs", mpp=mpp, power="20")
    found, note = examined(path)
    told = [source for source, verdict in found.items() if verdict == "implausible"]
    assert len(told) == 1 and told[0] in (MPP, "aperio.MPP") and found[POWER] == "used"
    assert "not plausible (0.05 to 10 µm/px)" in note
    with Slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "objective")


@pytest.mark.parametrize(("told", "says"), [
    (dict(mpp="350"), r"openslide\.mpp: 350 µm/px"),
    (dict(mpp="nan", power="0"), "objective-power: 0 as power"),
    (dict(power="1000"), "1000 as power"),
])  # fmt: skip
def test_with_nothing_plausible_the_error_names_what_was_refused(tmp_path, told, says):
    path = write_svs(tmp_path / "a.svs", **told)
    with pytest.raises(MissingMppError, match=says):
        Slide(path)
    found, note = examined(path)
    assert set(found.values()) == {"implausible"} and re.search(says, note)


def test_different_resolutions_across_and_down_are_no_resolution(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.tif", tiffinfo={296: 3, 282: 20000.0, 283: 21500.0})
    assert examined(tmp_path / "a.tif")[0] == {TAGS: "anisotropic"}
    with pytest.raises(SlideError, match=r"across and down.*0\.5 × 0\.465"):
        Slide(tmp_path / "a.tif")
    Image.new("RGB", (40, 30)).save(tmp_path / "b.tif", tiffinfo={296: 3, 282: 20000.0, 283: 20500.0})
    assert examined(tmp_path / "b.tif") == ({TAGS: "used"}, None)


def test_ome_xml_is_read_before_the_tags(tmp_path):
    xml = '<OME><Pixels PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25" SizeX="40"/></OME>'
    Image.new("RGB", (40, 30)).save(tmp_path / "a.tif", tiffinfo={270: xml, 296: 3, 282: 20000.0, 283: 20000.0})
    found, note = examined(tmp_path / "a.tif")
    assert found == {"OME-XML": "used", TAGS: "contradicts"} and "20× and 40×" in note
    with Slide(tmp_path / "a.tif") as slide:
        assert (slide.mpp, slide.mpp_source) == (pytest.approx(0.25), "metadata")


def test_a_dropped_level_0_and_a_squeezed_pyramid_are_told(tmp_path):
    path = write_svs(tmp_path / "a.svs", mpp="0.25", power="40", described=(1200, 800))
    found, note = examined(path)
    assert found["Aperio description"] == "contradicts"
    assert "of 1200 × 800 px, but level 0 has 300 × 200 px" in note and "resolution is 1 µm/px" in note
    squeezed = write_svs(tmp_path / "c.svs", mpp="0.5", levels=((1200, 800), (300, 400)))
    assert "level 1: reduced 4 times across, 2 times down" in examined(squeezed)[1]
    rounded = write_svs(tmp_path / "b.svs", mpp="0.5", levels=((1203, 801), (300, 200), (18, 12)))
    assert examined(rounded)[1] is None


def like(vendor, **properties):
    """What OpenSlide would hand over for formats of which there is no small free sample."""
    told = {openslide.PROPERTY_NAME_VENDOR: vendor} | {k.replace("__", "."): v for k, v in properties.items()}
    return SimpleNamespace(properties=told, dimensions=(100, 100), level_dimensions=((100, 100),))


@pytest.mark.parametrize(("vendor", "properties", "used", "sources"), [
    ("hamamatsu", {"hamamatsu__SourceLens": "40", "openslide__mpp-x": "0.2267", "openslide__mpp-y": "0.2264"},
     (0.2267, "metadata"), 1),
    ("ventana", {"ventana__ScanRes": "0.25", "openslide__mpp-x": "0.25", "openslide__mpp-y": "0.25"},
     (0.25, "metadata"), 1),
    ("leica", {"tiff__ResolutionUnit": "centimeter", "tiff__XResolution": "2000", "tiff__YResolution": "2000",
               "openslide__mpp-x": "0.5", "openslide__mpp-y": "0.5"}, (0.5, "metadata"), 1),
])  # fmt: skip
def test_what_openslide_maps_is_enough(vendor, properties, used, sources):
    handle = like(vendor, **properties)
    found = resolution_of(handle, "a")
    assert (found.mpp, found.source) == (pytest.approx(used[0]), used[1])
    evidence = resolution_evidence(handle)
    assert len(evidence) == sources and resolution_note(evidence) is None


def test_a_value_for_one_direction_only_is_not_used():
    handle = like("aperio", **{"openslide__mpp-x": "0.25"})
    assert [e.verdict for e in resolution_evidence(handle)] == ["implausible"]
    with pytest.raises(MissingMppError, match=r"0\.25 × nothing"):
        resolution_of(handle, "a")


def test_the_inventory_keeps_contradicting_slides_with_a_note(tmp_path):
    write_svs(tmp_path / "a.svs", mpp="0.5", power="40")
    write_svs(tmp_path / "b.svs", mpp="0.5", power="20", levels=((310, 200),))
    write_svs(tmp_path / "c.svs", mpp="350", levels=((320, 200),))
    slides = scan_slides(tmp_path).set_index("slide_id")
    assert slides["status"].tolist() == ["ok", "ok", "excluded"]
    assert "mixed up" in slides.loc["a", "resolution_note"]
    assert slides["resolution_note"].isna().tolist()[1:] == [True] * 2
    assert slides.loc["a", "mpp"] == 0.5 and "350" in slides.loc["c", "reason"]


def test_an_override_by_a_factor_of_two_is_obeyed_and_told(tmp_path):
    write_svs(tmp_path / "a.svs", mpp="0.5", power="20")
    (tmp_path / "mpp.csv").write_text("slide_id,mpp\na,0.25\n")
    row = scan_slides(tmp_path, mpp_csv=str(tmp_path / "mpp.csv")).iloc[0]
    assert (row["mpp"], row["mpp_source"], row["status"]) == (0.25, "override", "ok")
    assert "openslide.mpp: 0.5 µm/px (also aperio.MPP), but 0.25 µm/px is used" in row["resolution_note"]


# Nuclear size
def nuclei(side, diameter, count, seed=0):
    """Dark blue discs of one size on pink, as a camera sees them."""
    rng = np.random.default_rng(seed)
    picture = np.full((side, side, 3), (225, 150, 190), np.float32)
    for x, y in rng.uniform(diameter, side - diameter, (count, 2)):
        centre = round(x * 16), round(y * 16)
        cv2.circle(picture, centre, round(diameter * 8), (90, 60, 140), -1, cv2.LINE_AA, 4)
    picture = cv2.GaussianBlur(picture, (0, 0), diameter / 16) + rng.normal(0, 3, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def estimate(pixels, folder):
    Image.fromarray(pixels).save(folder / "a.png")
    return nuclear_size.estimate_slide(folder / "a.png")


@pytest.mark.parametrize("diameter", [8, 16, 32])
def test_discs_have_the_size_they_were_drawn_with(tmp_path, diameter):
    picture = nuclei(1024, diameter, 20_000 // diameter**2 * 4)
    assert estimate(picture, tmp_path).diameter_px == pytest.approx(diameter, rel=0.12)


def test_half_the_size_is_twice_the_resolution(tmp_path):
    picture = nuclei(1024, 24, 300)
    half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    whole, halved = estimate(picture, tmp_path), estimate(half, tmp_path)
    assert halved.mpp / whole.mpp == pytest.approx(2, rel=0.05)
    assert halved.low / whole.low == pytest.approx(halved.high / whole.high) and whole.n_nuclei > 100
    assert whole.low < whole.mpp < whole.high and whole.diameter_px == pytest.approx(24, rel=0.1)


@pytest.mark.parametrize("kind", ["white", "black", "noise", "pink", "tiny", "gradient"])
def test_where_there_are_no_nuclei_there_is_no_estimate(tmp_path, kind):
    rng = np.random.default_rng(0)
    ramp = np.linspace(60, 230, 600)[None, :, None] * np.ones((600, 1, 3))
    pictures = {
        "white": np.full((600, 600, 3), 240), "black": np.zeros((600, 600, 3)),
        "noise": rng.integers(0, 255, (600, 600, 3)),
        "pink": np.clip(rng.normal((230, 150, 190), 12, (600, 600, 3)), 0, 255), "tiny": nuclei(64, 8, 20),
        "gradient": ramp,
    }  # fmt: skip
    assert estimate(pictures[kind].astype(np.uint8), tmp_path) is None


def test_the_interval_is_that_of_one_more_slide_and_names_an_objective_only_if_it_must():
    mpp, low, high = size_interval(CALIBRATION_UM, 20.0)
    assert mpp == pytest.approx(np.exp(np.log(CALIBRATION_UM).mean()) / 20) and mpp / low == pytest.approx(high / mpp)
    assert 1.3 < high / mpp < 1.6
    assert objective_of(0.18, 0.36) == 40 and objective_of(0.36, 0.72) == 20 and objective_of(0.7, 1.4) == 10
    assert objective_of(0.25, 0.5) is None and objective_of(0.30, 0.40) is None and objective_of(0.05, 0.1) is None


def real_fields(shared_data):
    """Six real slides of known resolution: name → RGB, µm/px."""
    known = {"21-5784": 0.2527, "21-5786": 0.2527, "38-6178": 0.2468, "44-2665": 0.2468, "50-5931": 0.2468}
    files = {name: next((shared_data / "monuseg_tcga_lung").glob(f"TCGA-{name}*.tif")) for name in known}
    fields = {name: (np.asarray(Image.open(path).convert("RGB")), known[name]) for name, path in files.items()}
    with openslide.OpenSlide(shared_data / "slides/CMU-1-Small-Region.svs") as slide:
        fields["CMU-1"] = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")), 0.499
    return fields


def test_the_calibration_is_what_the_real_slides_give(shared_data, tmp_path):
    measured = [estimate(pixels, tmp_path).diameter_px * mpp for pixels, mpp in real_fields(shared_data).values()]
    np.testing.assert_allclose(measured, CALIBRATION_UM, rtol=0.01)


@pytest.mark.parametrize("target", [0.25, 0.35, 1.0])
def test_left_out_real_slides_are_estimated_within_their_interval(shared_data, tmp_path, target):
    said = []
    for left_out, (pixels, mpp) in enumerate(real_fields(shared_data).values()):
        scale = mpp / target
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        resampled = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=how)
        others = [um for i, um in enumerate(CALIBRATION_UM) if i != left_out]
        middle, low, high = size_interval(others, estimate(resampled, tmp_path).diameter_px)
        assert low <= target <= high and max(middle / target, target / middle) < 1.3
        said.append(objective_of(low, high))
    right = next((power for power, (low, high) in CONVENTIONAL.items() if low <= target <= high), None)
    if right is not None:
        assert set(said) <= {right, None} and said.count(right) >= 4


def test_an_estimate_is_offered_and_never_applied(tmp_path, monkeypatch):
    Image.fromarray(nuclei(700, 20, 200)).save(tmp_path / "a.png")
    found = nuclear_size.estimate_slide(tmp_path / "a.png")
    assert found.objective == 40 and "give it in mpp_csv if you believe it" in found.sentence()
    monkeypatch.setattr(nuclear_size, "estimate_slide", None)
    with pytest.raises(MissingMppError):
        Slide(tmp_path / "a.png")
    slides = scan_slides(tmp_path)
    assert slides["status"].tolist() == ["excluded"] and math.isnan(slides["mpp"].astype("float64").iloc[0])


def test_estimates_are_compared_where_somebody_gave_a_resolution_and_nowhere_else():
    package = REPOSITORY / "deeplrhe_utils"
    users = [
        p for p in package.rglob("*.py") if re.search(r"import.*nuclear_size|nuclear_size import", p.read_text("utf-8"))
    ]
    names = sorted(p.relative_to(package).as_posix() for p in users)
    assert names == ["running/jobs/doctor.py", "slides/files/inventory.py"]


@pytest.mark.parametrize(("given", "doubted"), [(0.25, False), (0.5, True), (0.1, True)])
def test_a_given_resolution_that_nuclei_contradict_stays_and_is_said(tmp_path, capsys, given, doubted):
    (tmp_path / "slides").mkdir()
    Image.fromarray(nuclei(700, 20, 200)).save(tmp_path / "slides" / "a.png")
    (tmp_path / "mpp.csv").write_text(f"slide_id,mpp\na,{given}\n")
    row = scan_slides(tmp_path / "slides", mpp_csv=str(tmp_path / "mpp.csv")).iloc[0]
    assert row["mpp"] == given and row["status"] == "ok"
    assert (isinstance(row["resolution_note"], str) and "nuclei say 0." in row["resolution_note"]) == doubted
    assert main(["doctor", str(tmp_path / "slides"), "--mpp-csv", str(tmp_path / "mpp.csv")]) == 0
    assert ("NOTE: " in (said := capsys.readouterr().out) and "nuclei say" in said) == doubted


@pytest.mark.parametrize(("target", "told"), [(0.25, True), (0.45, True), (0.49, False), (0.5, False), (1.0, False)])
def test_tiles_finer_than_the_slide_are_noted(tmp_path, target, told):
    Image.fromarray(nuclei(700, 20, 200)).save(tmp_path / "a.png")
    row = {"slide_id": "a", "patient_id": "a", "path": str(tmp_path / "a.png"), "mpp": 0.5, "annotation": None}
    notes = tile_slide(row, TilingRules(target_mpp=target, tile_px=128)).attrs["notes"]
    assert any("finer than the slide" in note for note in notes) == told
