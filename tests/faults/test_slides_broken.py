"""Every file of a folder is accounted for, however broken."""

import os
import signal
from functools import partial

import pytest
from PIL import Image

from deeplrhe_utils.core.errors import InputError, SlideError
from deeplrhe_utils.running.machine.engine import map_surviving
from deeplrhe_utils.slides.files.inventory import read_mpp_overrides, scan_slides
from deeplrhe_utils.slides.reading.reader import Slide


def test_every_real_file_is_listed_and_the_broken_ones_have_a_reason(shared_data):
    slides = scan_slides(shared_data / "slides", hash_files=False)
    files = [p for p in (shared_data / "slides").rglob("*") if p.is_file()]
    assert len(slides) == len(files) == 11
    excluded = slides[slides["status"] == "excluded"].set_index("slide_id")["reason"]
    assert set(excluded.index) == {
        "broken",
        "kidney-48-5",
        "openslide_python_boxes",
        "openslide_python_boxes_1",
        "openslide_python_unopenable",
        "openslide_python_unreadable",
    }
    assert "openslide_python_boxes_0.dcm" in excluded["openslide_python_boxes_1"]
    assert "decoded" in excluded["openslide_python_unreadable"]
    assert (slides.loc[slides["status"] == "ok", "reason"].isna()).all()


def test_damaged_files_are_excluded_and_the_good_one_stays(tmp_path, slide_factory):
    good = slide_factory(20).read_bytes()
    (tmp_path / "sub folder ü").mkdir()
    (tmp_path / "good.svs").write_bytes(good)
    (tmp_path / "sub folder ü" / "copy.svs").write_bytes(good)
    (tmp_path / "sub folder ü" / "good.svs").write_bytes(slide_factory(40).read_bytes())
    (tmp_path / "empty.svs").write_bytes(b"")
    (tmp_path / "text.svs").write_text("this is not a slide")
    (tmp_path / "notes.txt").write_text("a sidecar")
    (tmp_path / ".hidden.svs").write_bytes(good)
    for share in range(1, 10):
        (tmp_path / f"truncated{share}.svs").write_bytes(good[: len(good) * share // 10])
    (tmp_path / "dangling.svs").symlink_to(tmp_path / "nowhere.svs")
    slides = scan_slides(tmp_path)
    assert slides.attrs["sidecar_files"] == 2 and len(slides) == 15
    assert slides.loc[slides["status"] == "ok", "slide_id"].tolist() == ["good", "sub folder ü_good"]
    reasons = {p.split("/")[-1]: r for p, r in zip(slides["path"], slides["reason"], strict=True)}
    assert "empty" in reasons["empty.svs"] and "neither a slide" in reasons["text.svs"]
    assert "same slide" in reasons["copy.svs"] and "not there" in reasons["dangling.svs"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator can read everything")
def test_an_unreadable_file_is_excluded(tmp_path, slide_factory):
    path = tmp_path / "a.svs"
    path.write_bytes(slide_factory(20).read_bytes())
    path.chmod(0)
    assert "permission" in scan_slides(tmp_path)["reason"].iloc[0].lower()


def test_empty_and_missing_folders_are_errors(tmp_path):
    with pytest.raises(InputError, match="holds no slides"):
        scan_slides(tmp_path)
    with pytest.raises(InputError, match="not there"):
        scan_slides(tmp_path / "nowhere")


@pytest.mark.parametrize(("text", "says"), [
    ("slide_id,mpp\na,0.25\na,0.5\n", "line 3.*repeated"), ("slide_id,mpp\na,fast\n", "line 2.*not a number.*'fast'"),
    ("slide_id,mpp\na,350\n", "line 2.*implausible.*350"), ("slide_id,mpp\na,nan\n", "line 2.*implausible"),
    ("slide_id,mpp,note\na,0.25,x\n", "other columns.*note"), ("slide_id,mpp\n,0.25\n", "line 2.*empty"),
    ("slide_id,mpp\n", "no rows"), ("", "empty"),
])  # fmt: skip
def test_resolution_tables_are_strict_and_name_the_row(tmp_path, text, says):
    path = tmp_path / "mpp.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_mpp_overrides(path)


def test_overrides_that_name_no_slide_are_reported(tmp_path):
    Image.new("RGB", (40, 30), (90, 20, 120)).save(tmp_path / "a.png")
    (tmp_path / "mpp.csv").write_text("\ufeffslide_id,mpp\r\na,0.25\r\ntypo,0.5\r\n", encoding="utf-8")
    slides = scan_slides(tmp_path, mpp_csv=str(tmp_path / "mpp.csv"))
    assert slides["status"].tolist() == ["ok"] and slides.attrs["unused_overrides"] == ["typo"]


def spoil(path, slide_factory, tile):
    """A copy of a good slide in which one level-0 JPEG tile is overwritten."""
    data = bytearray(slide_factory(20).read_bytes())
    starts = [i for i in range(len(data) - 3) if data[i : i + 3] == b"\xff\xd8\xff"]
    data[starts[tile] : starts[tile] + 400] = b"\0" * 400
    path.write_bytes(bytes(data))
    return path


def test_a_slide_stays_usable_after_a_read_error(tmp_path, slide_factory):
    with Slide(spoil(tmp_path / "a.svs", slide_factory, 1)) as slide:
        with pytest.raises(SlideError, match=r"a\.svs cannot be decoded: level 0, native tile at column 1, row 0"):
            slide.read_tile(256, 0, 100, 100)
        assert slide.read_tile(0, 0, 100, 100).shape == (100, 100, 3)


def test_files_are_examined_by_processes_and_one_that_kills_its_process_is_excluded(
    tmp_path, slide_factory, monkeypatch
):
    good = slide_factory(20).read_bytes()
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.svs").write_bytes(good + name.encode())
    alone = scan_slides(tmp_path)
    spread = partial(map_surviving, workers=2)
    assert scan_slides(tmp_path, spread=spread).equals(alone)
    killed = scan_slides(tmp_path, spread=lambda describe, paths, otherwise: spread(kill_at_b, paths, otherwise))
    assert killed["slide_id"].tolist() == ["a", "b", "c"] and (killed["status"] == "excluded").tolist()[1]
    assert "could not be examined: the worker process died" in killed["reason"].iloc[1]


def kill_at_b(path):
    if path.stem == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"slide_id": path.stem, "patient_id": "p", "path": str(path), "bytes": 1, "status": "ok", "same": None}


def test_a_name_that_is_not_text_is_excluded_with_its_bytes(tmp_path, slide_factory):
    path = tmp_path / os.fsdecode(b"slide\xff.svs")
    path.write_bytes(slide_factory(20).read_bytes())
    slides = scan_slides(tmp_path)
    assert slides["status"].tolist() == ["excluded"] and "not valid UTF-8" in slides["reason"].iloc[0]
    assert slides["slide_id"].iloc[0] == r"slide\xff"
