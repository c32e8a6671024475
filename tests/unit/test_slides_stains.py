"""What is H&E and what is not: drawn pictures of each kind, and every real picture at hand."""

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deeplrhe_utils.acquisition.tile_folder import scan_tile_folder
from deeplrhe_utils.core.errors import SlideError
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.slides.files.inventory import scan_slides
from deeplrhe_utils.slides.files.nuclear_size import estimate_slide
from deeplrhe_utils.slides.quality import stains
from deeplrhe_utils.slides.reading.reader import Slide

SIDE = 1200
STAINS = {"haematoxylin": (0.65, 0.70, 0.29), "eosin": (0.07, 0.99, 0.11), "dab": (0.27, 0.57, 0.78),
          "aniline blue": (0.85, 0.52, 0.08)}  # fmt: skip


def nuclei(seed=0, n=900):
    """Amounts of two stains (SIDE, SIDE): round nuclei, and tissue around them with holes."""
    random = np.random.default_rng(seed)
    first, second = np.zeros((2, SIDE, SIDE), np.float32)
    for x, y, r in random.uniform((0, 0, 8), (SIDE, SIDE, 14), (n, 3)):
        cv2.circle(first, (int(x), int(y)), int(r), float(random.uniform(0.5, 0.9)), -1)
    cv2.circle(second, (SIDE // 2, SIDE // 2), SIDE // 2 - 60, 0.45, -1)
    second *= cv2.GaussianBlur(random.uniform(0.5, 1.4, second.shape).astype(np.float32), (0, 0), 6)
    first[second == 0] = 0
    return first, second


def brightfield(**amounts):
    """RGB through stains of the given amounts, with a scanner's noise."""
    density = sum(amount[..., None] * np.array(STAINS[name.replace("_", " ")]) for name, amount in amounts.items())
    noise = np.random.default_rng(1).normal(0, 2, density.shape)
    return np.clip(245 * 10**-density + noise, 0, 255).astype(np.uint8)


def fluorescence(*colours, background=2):
    first, second = nuclei(3, 300)
    glow = sum(part[..., None] * np.array(colour) for part, colour in zip((first, second), colours, strict=False))
    return np.clip(background + glow + np.random.default_rng(2).normal(0, 2, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def printed(colour=(20, 20, 20)):
    page = np.full((SIDE, SIDE, 3), 250, np.uint8)
    for line in range(20):
        cv2.putText(page, "Haematoxylin and eosin, 4 um", (30, 55 + 58 * line), 0, 1.4, colour, 4, cv2.LINE_AA)
    return page


def he(seed=0):
    first, second = nuclei(seed)
    return brightfield(haematoxylin=first, eosin=second)


def kinds():
    first, second = nuclei()
    grey = cv2.cvtColor(cv2.cvtColor(he(), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    speck = np.full((SIDE, SIDE, 3), 244, np.uint8)
    return [
        ("DAPI on black", fluorescence((20, 60, 255)), stains.FLUORESCENCE),
        ("three channels", fluorescence((20, 60, 255), (40, 200, 30)), stains.FLUORESCENCE),
        ("red on dark grey", fluorescence((255, 40, 40), background=14), stains.FLUORESCENCE),
        ("grey channel", fluorescence((200, 200, 200)), stains.FLUORESCENCE),
        ("DAB", brightfield(haematoxylin=first, dab=second), stains.BROWN),
        ("DAB in some cells", brightfield(haematoxylin=first + 0.1 * second, dab=np.roll(first, 40, 1)), stains.BROWN),
        ("grey scan", grey, stains.GREY),
        ("slightly tinted grey", np.clip(grey * np.array([1, 0.98, 0.95]), 0, 255).astype(np.uint8), stains.GREY),
        ("haematoxylin alone", brightfield(haematoxylin=first + 0.3 * second), stains.ONE_STAIN),
        ("eosin alone", brightfield(eosin=first + second), stains.ONE_STAIN),
        ("trichrome", brightfield(haematoxylin=0.3 * first, aniline_blue=second), stains.FOREIGN),
        ("white", np.full((SIDE, SIDE, 3), 255, np.uint8), stains.EMPTY),
        ("glass", speck, stains.EMPTY),
        ("black", np.zeros((SIDE, SIDE, 3), np.uint8), stains.EMPTY),
        ("print", printed(), stains.GREY),
        ("pale print", printed((90, 90, 90)), stains.GREY),
    ]  # fmt: skip


def fine():
    inked, filled, two = he(), he(), he(4)
    cv2.line(inked, (100, 900), (1100, 1100), (30, 30, 30), 60)
    cv2.line(inked, (100, 100), (900, 150), (20, 120, 60), 40)
    filled[:, :600] = 0
    return [("H&E", he()), ("with pens", inked), ("half filled black", filled), ("others", two),
            ("dark", (he() * 0.6).astype(np.uint8)),
            ("yellow glass", (he() * np.array([1, 0.98, 0.9])).astype(np.uint8)),
            ("JPEG", cv2.imdecode(cv2.imencode(".jpg", he(), [1, 30])[1], 1))]  # fmt: skip


def judged(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    with Slide(tmp_path / "a.png", mpp=0.5) as slide:
        return stains.stain_of(slide)


@pytest.mark.parametrize(("picture", "kind"), [pytest.param(p, k, id=name) for name, p, k in kinds()])
def test_what_is_not_he_is_told_by_its_kind(picture, kind, tmp_path):
    found = judged(picture, tmp_path)
    assert found.kind == kind, found
    assert found.sentence() != judged(he(), tmp_path).sentence()
    with Slide(tmp_path / "a.png", mpp=0.5) as slide:
        stains.check_stain(slide)
    Image.fromarray(picture).save(tmp_path / "a.png")
    with Slide(tmp_path / "a.png", mpp=0.5) as slide, pytest.raises(SlideError, match=r"is not H&E.*stain_check=off"):
        stains.check_stain(slide)


@pytest.mark.parametrize("picture", [pytest.param(p, id=name) for name, p in fine()])
def test_he_stays_he(picture, tmp_path):
    found = judged(picture, tmp_path)
    assert found.kind == stains.HE, found


@pytest.mark.parametrize(("ink", "kind"), [((20, 120, 60), stains.FOREIGN), ((30, 40, 150), stains.FOREIGN),
                                           ((30, 30, 30), stains.GREY), ((190, 30, 40), stains.HE)])  # fmt: skip
def test_ink_alone_is_told_but_for_red(ink, kind):
    picture = np.full((SIDE, SIDE, 3), 244, np.uint8)
    for y in range(100, 1000, 250):
        cv2.line(picture, (100, y), (1100, y + 100), ink, 60)
    assert stains.stain_of_pictures([cv2.GaussianBlur(picture, (0, 0), 2)]).kind == kind


def test_letters_are_no_nuclei(tmp_path):
    for page in (printed(), printed((90, 90, 90)), printed((30, 30, 120))):
        Image.fromarray(page).save(tmp_path / "a.png")
        assert estimate_slide(tmp_path / "a.png") is None


@pytest.fixture
def folder(tmp_path):
    """An H&E slide, a fluorescence slide and a grey one, as plain pictures with a resolution."""
    for name, picture in (("he", he()), ("glow", fluorescence((20, 60, 255))), ("grey", kinds()[6][1])):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "in" / f"{name}.tif", resolution=20_000, resolution_unit=3)
    return tmp_path / "in"


def test_every_command_leaves_out_what_is_no_he_and_takes_it_when_told(folder, capsys):
    assert main(["doctor", str(folder)]) == 1
    said = capsys.readouterr().out
    assert said.count("NOT H&E: ") == 2 and "2 not H&E" in said and "1 fine" in said
    assert main(["doctor", str(folder), "--no-stain-check"]) == 0
    table = scan_slides(folder, stain_check=True).set_index("slide_id")
    assert table["status"].to_dict() == {"glow": "excluded", "grey": "excluded", "he": "ok"}
    assert "fluorescence" in table["reason"]["glow"] and "grey" in table["reason"]["grey"]
    words = ["normalize", "--method", "reinhard", "--tile-px", "256", "--out", str(folder.parent / "out")]
    slides = [str(path) for path in sorted(folder.iterdir())]
    assert main([*words, *slides]) == 1
    said = capsys.readouterr().out
    assert said.count("are not H&E") == 2, "it is neither written nor fitted on"
    rows = pd.read_csv(folder.parent / "out" / "normalize.csv").set_index("slide")
    assert rows["status"].to_dict() == {"glow": "failed", "grey": "failed", "he": "written"}
    assert "not H&E" in pd.read_csv(folder.parent / "out" / "normalize.csv")["note"].iloc[0]
    words[-1] += "2"
    assert main([*words, *slides, "--no-stain-check"]) in (0, 1)
    assert "not H&E" not in capsys.readouterr().out


def test_tiles_that_are_surely_no_he_are_excluded_with_the_reason(tmp_path):
    for name, label, picture in (("a", "x", he()), ("b", "y", he(1)), ("c", "y", fluorescence((20, 60, 255))),
                                 ("d", "x", he(2)), ("e", "x", np.full((SIDE, SIDE, 3), 244, np.uint8))):  # fmt: skip
        (tmp_path / label).mkdir(exist_ok=True)
        Image.fromarray(picture[:512, :512]).save(tmp_path / label / f"{name}.png")
    found = scan_tile_folder(tmp_path, refused=stains.foreign_picture)
    assert found.slides.set_index("slide_id")["status"].to_dict()["c"] == "excluded" and len(found.tiles) == 4
    assert len(scan_tile_folder(tmp_path).tiles) == 5


def test_planted_slides_are_he(small_plan, slide_factory):
    for objective in (20, 40):
        with Slide(slide_factory(objective)) as slide:
            assert stains.stain_of(slide).kind == stains.HE


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_no_false_alarm_on_real_he(shared_data):
    """Tiles one by one (every tenth of LC25000; docs/quality-filter.md has all), fields, slides and thumbnails."""
    tiles = sorted((shared_data / "lc25000").glob("lung_*/*.jpeg"))[::10]
    tiles += sorted((shared_data / "uni_tcga_rois").rglob("*.png"))[::5]
    tiles += sorted((shared_data / "uni_tcga_rois").rglob("*.jpg"))[::5]
    tiles += sorted((shared_data / "real_qc" / "wsiqa_artifacts").rglob("images/*.png"))
    assert len(tiles) > 200
    alarms = [path.name for path in tiles if stains.stain_of_pictures([read(path)]).kind != stains.HE]
    whole = [*(shared_data / "monuseg_tcga_lung").glob("*.tif"), shared_data / "slides" / "CMU-1-Small-Region.svs",
             *(shared_data / "real_qc" / "focus_tcga").glob("*.png"), shared_data / "real_qc/foldet/study_5.PNG",
             shared_data / "real_qc/foldet/CS_mod.PNG",
             *(shared_data / "real_qc/pen_real/histoqc").glob("*_he_*[dnge].png")]  # fmt: skip
    for path in (p for p in whole if "mask" not in p.name):
        with Slide(path, mpp=0.25) as slide:
            found = stains.stain_of(slide)
        alarms += [f"{path.name}: {found}"] if found.kind != stains.HE else []
    assert alarms == []


@pytest.mark.parametrize("name", ["slides/luna_1065626.svs", "slides_not_he/small_vectra.qptiff",
                                  "real_qc/pen_real/histoqc/models__coverslip_edge_ihc__coverslip_edge.png",
                                  ])  # fmt: skip
def test_real_slides_that_are_no_he_are_told(shared_data, name):
    with Slide(shared_data / name, mpp=0.5) as slide:
        assert stains.stain_of(slide).kind not in (stains.HE, stains.EMPTY)
