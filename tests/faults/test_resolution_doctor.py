"""The doctor survives every file: damaged, oddly named, or vanishing."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from deeplrhe_utils.core.errors import MissingMppError, SlideError
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.slides.files.nuclear_size import estimate_slide
from deeplrhe_utils.slides.reading.reader import Slide
from tests.unit.test_slides_resolution import nuclei, write_svs


def rows_of(out):
    return out.split("\n\n")[0].splitlines()[1:]


def test_real_broken_files_get_a_line_each(shared_data, capsys):
    assert main(["doctor", str(shared_data / "slides")]) == 1
    out = capsys.readouterr().out
    rows = {row.split()[0]: row for row in rows_of(out)}
    counts = "11 files: 4 fine, 0 with contradictions, 1 without resolution, 3 that cannot be read, 3 not H&E."
    assert len(rows) == 11 and counts in out
    assert "352.778 µm/px" in rows["openslide_python_boxes.tiff"] and "fine" in rows["CMU-1-Small-Region.svs"]
    for name in ("broken.svs", "openslide_python_unopenable.tiff", "openslide_python_unreadable.svs"):
        assert "CANNOT BE READ" in rows[f"broken/{name}"]
    assert out.endswith("slide_id,mpp\nopenslide_python_boxes,\n") and "NOT H&E" in rows["broken/kidney-48-5.tif"]


def test_damaged_files_do_not_stop_the_others(tmp_path, slide_factory, capsys):
    good = slide_factory(20).read_bytes()
    for share in range(10):
        (tmp_path / f"truncated{share}.svs").write_bytes(good[: len(good) * share // 10])
    (tmp_path / "text.svs").write_text("this is not a slide")
    (tmp_path / "dangling.svs").symlink_to(tmp_path / "nowhere.svs")
    write_svs(tmp_path / "zz.svs", mpp="0.5", power="20")
    assert main(["doctor", str(tmp_path), "--no-stain-check"]) == 1
    captured = capsys.readouterr()
    rows = rows_of(captured.out)
    assert len(rows) == 13 and rows[-1].endswith("fine") and "Traceback" not in captured.err
    assert sum("CANNOT BE READ" in row or "NO RESOLUTION" in row for row in rows) >= 11


@pytest.mark.parametrize("name", ["two\nlines.png", "bell\x07\x1b[31m.png", "right\u202eleft.png", "back\\slash.png"])
def test_names_that_would_break_the_table_are_escaped(tmp_path, capsys, name):
    Image.new("RGB", (200, 200), (200, 120, 160)).save(tmp_path / name)
    assert main(["doctor", str(tmp_path), "--csv", str(tmp_path / "out" / "t.csv")]) == 1
    out = capsys.readouterr().out
    assert len(rows_of(out)) == 1 and name.encode("unicode_escape").decode() in out
    assert all(c.isprintable() for line in out.splitlines() for c in line)
    assert (tmp_path / "out" / "t.csv").stat().st_size > 100


def test_names_that_are_no_unicode_and_terminals_that_lack_characters(tmp_path):
    Image.new("RGB", (200, 200)).save(tmp_path / "täg 😀.png")
    (tmp_path / os.fsdecode(b"latin-\xfc.svs")).write_bytes(b"x")
    command = [sys.executable, "-m", "deeplrhe_utils", "doctor", str(tmp_path), "--csv", str(tmp_path / "t.csv")]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert b"latin-\\udcfc.svs" in done.stdout and b"t\\xe4g \\U0001f600.png" in done.stdout


def test_a_slide_with_damaged_tiles_is_estimated_from_the_others(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(nuclei(1100, 20, 500)).save(path)
    whole = path.read_bytes()
    assert estimate_slide(path).n_fields == 4
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlideError):
        estimate_slide(path)
    with pytest.raises(MissingMppError):
        Slide(path)
