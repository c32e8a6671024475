"""Folders of labelled tiles: groups respected, odd files named."""

import numpy as np
import pytest
from PIL import Image

from deeplrhe_utils.acquisition.tile_folder import scan_tile_folder
from deeplrhe_utils.core.errors import InputError, LabelError
from deeplrhe_utils.core.seeds import generator


@pytest.fixture
def folder(tmp_path):
    rng = generator(0, "images")
    rows = ["filename,label,group_id"]
    for label in ("aca", "n"):
        (tmp_path / label).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{label}{i}.png")
            rows.append(f"{label}{i}.png,{label},{label}{i // 2}")
    (tmp_path / "groups.csv").write_text("\n".join(rows))
    return tmp_path


def test_images_become_slides_of_one_tile_and_groups_become_patients(folder):
    data = scan_tile_folder(folder)
    assert len(data.slides) == len(data.tiles) == 8 and data.slides["patient_id"].nunique() == 4
    assert data.tiles["kept"].all() and (data.tiles["size_l0_px"] == 16).all()
    assert len(data.labels) == 8 and data.labels.groupby("patient_id")["status"].sum().eq(1).all()
    assert set(data.slides["mpp_source"]) == {"not-needed"} and data.notes.empty


def test_without_groups_every_image_is_its_own_and_the_notes_say_so(folder):
    (folder / "groups.csv").unlink()
    data = scan_tile_folder(folder)
    assert data.slides["patient_id"].nunique() == 8 and "own group" in data.notes["note"].iloc[0]


def test_an_image_that_cannot_be_decoded_is_excluded_with_a_reason(folder):
    path = folder / "n" / "n1.png"
    path.write_bytes(path.read_bytes()[:200])
    data = scan_tile_folder(folder)
    bad = data.slides.set_index("slide_id").loc["n1"]
    assert bad["status"] == "excluded" and "n1.png" in bad["reason"] and len(data.tiles) == 7
    assert "1 images" in data.notes["note"].iloc[0]


def spoil(folder, what):
    table = folder / "groups.csv"
    if what == "absent":
        table.write_text("\n".join(table.read_text().splitlines()[:-2]))
    elif what == "gone":
        (folder / "n" / "n0.png").unlink()
    elif what == "two classes":
        table.write_text(table.read_text().replace("n0.png,n,n0", "n0.png,n,aca0"))
    elif what == "wrong folder":
        table.write_text(table.read_text().replace("n0.png,n,", "n0.png,aca,"))
    elif what == "odd size":
        Image.new("RGB", (20, 16)).save(folder / "n" / "n0.png")
    elif what == "columns":
        table.write_text("filename,label\nn0.png,n\n")
    elif what == "one class":
        for path in (folder / "n").iterdir():
            path.unlink()
    elif what == "same name":
        (folder / "n" / "n0.png").rename(folder / "n" / "aca0.png")


@pytest.mark.parametrize(("what", "error", "says"), [
    ("absent", InputError, r"2 images are not in .*groups\.csv.*n2\.png"),
    ("gone", InputError, r"1 images of .* not in the folder.*n0\.png"),
    ("two classes", LabelError, "group aca0 has two classes"),
    ("wrong folder", LabelError, r"n0\.png lies in folder n"),
    ("odd size", InputError, r"n0\.png has an odd size.*20 × 16"), ("columns", InputError, "lacks columns group_id"),
    ("one class", InputError, "1 classes"), ("same name", InputError, "share the name aca0"),
])  # fmt: skip
def test_contradictions_are_errors_that_name_the_first(folder, what, error, says):
    spoil(folder, what)
    with pytest.raises(error, match=says):
        scan_tile_folder(folder)


def test_real_lung_tiles_have_592_groups(shared_data):
    data = scan_tile_folder(shared_data / "lc25000")
    assert len(data.slides) == 2367 and data.slides["patient_id"].nunique() == 592
    assert (data.slides["status"] == "ok").all() and set(data.labels["gene"]) == {"lung_n", "lung_aca", "lung_scc"}
