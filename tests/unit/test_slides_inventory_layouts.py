"""Folders as others fill them: the GDC's transfer tool, Imaging Data Commons' DICOM series, interrupted downloads."""

import shutil
import struct
import sys

import openslide
import pytest

from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.normalize.sources import find_sources, with_resolutions
from deeplrhe_utils.slides.files.inventory import find_files, scan_slides
from deeplrhe_utils.slides.reading.dicom import Tags, lacks_full_resolution, names_of, read_tags, series_of
from tests.tiff_slides import tissue_like, write_jpeg_slide
from tests.unit.test_slides_resolution import write_svs

NAME = "TCGA-05-4244-01Z-00-DX1.d4ff32cd-38cf-40ea-8213-45c2b100ac01.svs"
OTHER = "TCGA-44-2665-01A-01-TS1.90f043f6-e8d5-4cfd-b4e7-84207bc499a6.svs"
UUID = "55277208-4cb2-4415-af51-e9f4cf967301"
UID = "1.2.826.0.1.3680043.8.498.1"


def fill(folder, slide):
    """DIR/<uuid>/<file>, logs/, annotations.txt, and one download that was interrupted."""
    done, broken = folder / UUID, folder / "65d182ad-0f56-42fa-b360-4d46c21b0283"
    for place, name in ((done, NAME), (broken, OTHER)):
        (place / "logs").mkdir(parents=True)
        (place / "logs" / f"{name}.parcel").write_bytes(b"\x80\x04log")
        (place / "annotations.txt").write_text("id\tsubmitter_id\n")
    (done / NAME).write_bytes(slide)
    (broken / f"{OTHER}.partial").write_bytes(slide[: len(slide) // 2])
    return done / NAME, broken / f"{OTHER}.partial"


def test_a_folder_of_the_transfer_tool(tmp_path, slide_factory):
    good, partial = fill(tmp_path, slide_factory(20).read_bytes())
    slides = scan_slides(tmp_path)
    assert slides["path"].tolist() == [str(good), str(partial)]
    assert slides.attrs["sidecar_files"] == 4
    used, left = slides.iloc[0], slides.iloc[1]
    assert used["status"] == "ok" and used["patient_id"] == "TCGA-05-4244" and used["sample_type"] == "diagnostic"
    assert left["status"] == "excluded" and "unfinished download" in left["reason"]
    assert left["patient_id"] == "TCGA-44-2665" and left["bytes"] == partial.stat().st_size


def made(path, number):
    """A small slide, another for every number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_jpeg_slide(path.with_name("making.tif"), tissue_like(280, 300, number)).replace(path)


OPENED: list = []
sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" else None)


@pytest.mark.parametrize("ending", [".partial", ".PARTIAL", ".part", ".crdownload"])
def test_unfinished_downloads_are_never_opened(tmp_path, monkeypatch, capsys, ending):
    """Even a complete slide under such a name is not touched: only its downloader knows that it is complete."""
    unfinished = made(tmp_path / "in" / f"{OTHER}{ending}", 1)
    made(tmp_path / "in" / NAME, 2)
    for name in ("__init__", "detect_format"):  # which open files unseen by Python
        real = getattr(openslide.OpenSlide, name)
        monkeypatch.setattr(openslide.OpenSlide, name, lambda *a, r=real: (OPENED.append(str(a[-1])), r(*a))[1])
    OPENED.clear()
    slides = scan_slides(tmp_path / "in").set_index("path")
    row = slides.loc[str(unfinished)]
    assert row["status"] == "excluded" and "unfinished" in row["reason"]
    assert main(["doctor", str(tmp_path / "in")]) == 1 and "unfinished download" in capsys.readouterr().out
    assert main(["normalize", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--method", "reinhard"]) == 1
    assert f"kinds that cannot be read: 1 (1 {ending.lower()})" in capsys.readouterr().out
    assert str(tmp_path / "in" / NAME) in OPENED and str(unfinished) not in OPENED


SIDE = [
    "Thumbs.db",
    "a.xlsx",
    "a.svs.md5",
    "DICOMDIR",
    "a.html",
    "a.pdf",
    "a.docx",
    "a.zip",
    "a.csv",
    "a.XML",
    "README",
]


def test_side_files_are_listed_apart_by_all_commands(tmp_path, capsys):
    folder = tmp_path / "in"
    for number, name in enumerate(("a.svs", "b", "c.dat")):  # whatever begins like a slide is one
        made(folder / name, number)
    for name in SIDE:
        (folder / name).write_bytes(b"\0" * 128 + b"DICM" if name == "DICOMDIR" else b"PK\3\4 whatever")
    slides = scan_slides(folder)
    assert slides["slide_id"].tolist() == ["a", "b", "c"] and (slides["status"] == "ok").all()
    assert slides.attrs["side_files"] == sorted(SIDE) and slides.attrs["sidecar_files"] == len(SIDE)
    assert main(["doctor", str(folder)]) == 0
    assert "3 files: 3 fine" in (out := capsys.readouterr().out) and f"which are no slides: {len(SIDE)} (" in out
    assert {s.name for s in find_sources([folder]).sources} == {"a", "b", "c"}
    (folder / "broken.isyntax").write_bytes(b"no slide that can be read, but one by its name")
    assert main(["doctor", str(folder)]) == 1 and "neither" in scan_slides(folder)["reason"].iloc[2]


def test_linked_folders_are_searched_once_and_loops_never(tmp_path):
    inside, outside = tmp_path / "in" / "sub", tmp_path / "elsewhere" / "deep"
    for number, folder in enumerate((inside, outside)):
        made(folder / f"{number}.svs", number)
    for link, target in {"a": outside.parent, "b": outside.parent, "up": tmp_path / "in", "above": tmp_path,
                         "c": inside, "sub/back": inside, "gone": tmp_path / "nowhere"}.items():  # fmt: skip
        (tmp_path / "in" / link).symlink_to(target)
    (outside / "round").symlink_to(outside.parent)
    made(tmp_path / "above.svs", 9)
    listing = find_files(tmp_path / "in")
    assert [str(p.relative_to(tmp_path / "in")) for p in listing.slides] == ["a/deep/1.svs", "gone", "sub/0.svs"]
    assert scan_slides(tmp_path / "in")["status"].tolist() == ["ok", "excluded", "ok"]


def test_one_name_in_two_folders_is_two_slides_and_a_copy_is_none(tmp_path, capsys):
    files = {"P1/HE.svs": 1, "P2/HE.svs": 2, "P3/HE.svs": 2, "HE.svs": 4, "P1/one.svs": 5, "P2/one.svs": 5,
             "P1/x.svs": 6, "P1/x.tif": 7, f"P1/{NAME}": 8, f"P2/{NAME}": 9}  # fmt: skip
    for name, number in files.items():
        made(tmp_path / "in" / name, number)
    slides = scan_slides(tmp_path / "in")
    used, excluded = (slides[slides["status"] == status].set_index("slide_id") for status in ("ok", "excluded"))
    barcodes = [f"{folder}_{NAME[:-4]}" for folder in ("P1", "P2")]
    assert set(used.index) == {"P1_HE", "P2_HE", "HE", "one", "x", *barcodes}
    assert used.loc["P2_HE", "patient_id"] == "P2_HE" and (used.loc[barcodes, "patient_id"] == "TCGA-05-4244").all()
    assert sorted(excluded.index) == ["P3_HE", "one", "x"] and "same slide_id" in excluded.loc["x", "reason"]
    assert excluded.loc[["P3_HE", "one"], "reason"].str.contains("shows the same slide").all()
    assert slides.attrs["renamed"] == sorted([*barcodes, "HE", "P1_HE", "P2_HE", "P3_HE"])
    (tmp_path / "mpp.csv").write_text("slide_id,mpp\nP2_HE,0.3\nHE,0.4\n")
    assert main(["doctor", str(tmp_path / "in"), "--mpp-csv", str(tmp_path / "mpp.csv")]) == 0
    rows = {row.split()[0]: row for row in capsys.readouterr().out.splitlines() if "HE.svs" in row}
    assert "override" in rows["HE.svs"] and "override" in rows["P2/HE.svs"] and "override" not in rows["P1/HE.svs"]
    for name in ("P1/one.svs", "P1/x.tif", "P3/HE.svs"):
        (tmp_path / "in" / name).unlink()
    found = find_sources([tmp_path / "in"]).sources
    assert {source.name for source in found} == {"P1_HE", "P2_HE", "HE", "one", "x", *barcodes}
    told = {s.name: s.mpp for s in with_resolutions(found, tmp_path / "mpp.csv")[0]}
    assert (told["P1_HE"], told["P2_HE"], told["HE"]) == (None, 0.3, 0.4)


def test_annotations_without_a_slide_are_named(tmp_path):
    drawn = tmp_path / "drawn"
    for number, name in enumerate(("P1/S.svs", "P2/S.svs", "T.svs", "U.svs")):
        made(tmp_path / "in" / name, number)
    for name in ("P1/S.svs.GeoJSON", "T.geojson.gz", "Other.geojson", "U.geojson.zip", "u-MASK.png", "notes.csv"):
        (tmp_path / "in" / name).write_bytes(b"{}")
    slides = scan_slides(tmp_path / "in")
    assert slides.set_index("slide_id")["annotation"].dropna().to_dict() == {
        "P1_S": str(tmp_path / "in/P1/S.svs.GeoJSON"), "T": str(tmp_path / "in/T.geojson.gz")}  # fmt: skip
    assert slides.attrs["unmatched"] == ["Other.geojson", "U.geojson.zip", "u-MASK.png"]
    for name in ("S.geojson", "P2_S.json", "all.zip", "sub/T.xml", ".hidden.xml"):
        (drawn / name).parent.mkdir(parents=True, exist_ok=True)
        (drawn / name).write_bytes(b"{}")
    slides = scan_slides(tmp_path / "in", annotations_dir=str(drawn))
    assert slides["annotation"].dropna().tolist() == [str(drawn / "P2_S.json")]
    assert slides.attrs["unmatched"] == ["S.geojson", "all.zip", "sub/T.xml"]


def test_a_folder_of_unfinished_downloads_only_is_listed(tmp_path):
    (tmp_path / f"{NAME}.partial").write_bytes(b"half")
    slides = scan_slides(tmp_path)
    assert slides["status"].tolist() == ["excluded"]


def test_tags_are_those_that_openslide_reads(shared_data):
    files = sorted((shared_data / "slides").glob("*.dcm"))
    assert len(files) == 3
    for path in files:
        told, tags = openslide.OpenSlide(str(path)).properties, read_tags(path)
        assert tags.series == told["dicom.SeriesInstanceUID"] and tags.container == told["dicom.ContainerIdentifier"]
        assert tags.patient == told["dicom.PatientID"]
    assert read_tags(files[2]).image_type == ("DERIVED", "PRIMARY", "THUMBNAIL", "RESAMPLED")
    assert read_tags(shared_data / "slides" / "CMU-1-Small-Region.svs") is None


def series_folder(shared_data, folder, names):
    """The two files of one real series, and a file of another one, under names that tell nothing."""
    folder.mkdir(parents=True)
    sources = ("openslide_python_boxes_1.dcm", "openslide_python_boxes_0.dcm", "highdicom_sm_image.dcm")
    for source, name in zip(sources, names, strict=True):
        shutil.copy(shared_data / "slides" / source, folder / name)
        (folder / name).chmod(0o644)
    return folder


def test_a_dicom_series_is_one_slide(tmp_path, shared_data):
    names = [f"{UID}.{i}.dcm" for i in (1, 2, 3)]
    folder = series_folder(shared_data, tmp_path / "SM_series", names)
    slides = scan_slides(tmp_path)
    assert slides["path"].tolist() == [str(folder / name) for name in names]
    thumbnail, level, other = (slides.iloc[i] for i in range(3))
    assert thumbnail["status"] == "excluded" and f"part of the DICOM series of {names[1]}" in thumbnail["reason"]
    assert level["status"] == other["status"] == "ok" and level["vendor"] == "dicom"
    assert level["slide_id"] == "SLIDE_1" == level["patient_id"]  # PatientID is empty
    assert (other["slide_id"], other["patient_id"]) == ("S19-1_A_1_1", "AA01")


def test_two_copies_of_a_series_are_one_slide(tmp_path, shared_data):
    names = ["55277208-4cb2-4415-af51-e9f4cf96730a.dcm", f"{UUID}.dcm", f"{UID}.dcm"]
    for place in ("a", "b"):
        series_folder(shared_data, tmp_path / place, names)
    slides = scan_slides(tmp_path)
    assert slides["status"].eq("ok").sum() == 2 and len(slides) == 6
    assert slides.loc[slides["status"] == "ok", "path"].str.contains("/a/").all()
    assert slides["reason"].str.contains("same slide").sum() == 2


def test_names_that_people_gave_stay(tmp_path, shared_data):
    shutil.copy(shared_data / "slides" / "highdicom_sm_image.dcm", tmp_path / "my biopsy.dcm")
    row = scan_slides(tmp_path).iloc[0]
    assert row["slide_id"] == row["patient_id"] == "my biopsy"


def element(group, number, kind, value):
    value += b"\0" if len(value) % 2 else b""
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


def write_dicom(path, *, container="TCGA-05-4244-01Z-00-DX1", patient="TCGA-05-4244", series=UID, kind="NONE",
                middle=b"", syntax=b"1.2.840.10008.1.2.1"):  # fmt: skip
    """The header of a slide file, without pixels."""
    parts = [
        element(0x0002, 0x0010, b"UI", syntax),
        element(0x0008, 0x0008, b"CS", f"DERIVED\\PRIMARY\\VOLUME\\{kind}".encode()), middle,
        element(0x0010, 0x0020, b"LO", patient.encode()), element(0x0020, 0x000E, b"UI", series.encode()),
        element(0x0040, 0x0512, b"LO", container.encode()),
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM" + b"".join(parts) + b"pixels")
    return path


def undefined(*items):
    """A sequence of undefined length that names another series inside, as referenced ones do."""
    body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + item + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
                    for item in items)  # fmt: skip
    return struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF) + body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def test_a_series_named_inside_a_sequence_is_not_the_files_own_and_other_byte_orders_are_left(tmp_path):
    inner = element(0x0020, 0x000E, b"UI", b"9.9.9.9.9")
    path = write_dicom(tmp_path / f"{UID}.dcm", middle=undefined(inner, undefined(inner)))
    assert read_tags(path) == Tags(UID, "TCGA-05-4244", "TCGA-05-4244-01Z-00-DX1",
                                   ("DERIVED", "PRIMARY", "VOLUME", "NONE"))  # fmt: skip
    assert names_of(path) == ("TCGA-05-4244-01Z-00-DX1", "TCGA-05-4244")
    assert read_tags(write_dicom(tmp_path / "x.dcm", syntax=b"1.2.840.10008.1.2.2")) is None


def test_tcga_slides_of_imaging_data_commons_have_their_barcode(tmp_path):
    """The file cannot be opened (it has no pixels), and still says whose it is."""
    write_dicom(tmp_path / f"{UUID}.dcm")
    row = scan_slides(tmp_path).iloc[0]
    assert (row["slide_id"], row["patient_id"], row["site_id"], row["sample_type"]) == (
        "TCGA-05-4244-01Z-00-DX1", "TCGA-05-4244", "Indivumed", "diagnostic")  # fmt: skip
    assert row["status"] == "excluded"


@pytest.mark.parametrize(("container", "patient", "expected"), [
    ("../../etc/passwd", "P1", (UID, "P1")), ("", "", (UID, "")), ("a/b", "../x", (UID, "")),
    ("S 1", "P^1", ("S 1", "")),
])  # fmt: skip
def test_hostile_tags_name_nothing(tmp_path, container, patient, expected):
    assert names_of(write_dicom(tmp_path / f"{UUID}.dcm", container=container, patient=patient)) == expected


@pytest.mark.parametrize("cut", [0, 131, 140, 200])
def test_damaged_headers_tell_nothing_and_break_nothing(tmp_path, cut):
    path = write_dicom(tmp_path / f"{UUID}.dcm")
    path.write_bytes(path.read_bytes()[:cut])
    tags = read_tags(path)
    assert tags is None or not tags.container
    assert scan_slides(tmp_path)["status"].tolist() == ["excluded"]


@pytest.mark.parametrize(
    "rubbish", [struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFE),
                struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF) * 200,
                struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) * 500, b"\0" * 64],
)  # fmt: skip
def test_lengths_that_cannot_be_true_are_refused(tmp_path, rubbish):
    assert read_tags(write_dicom(tmp_path / f"{UUID}.dcm", middle=rubbish)) is None


def test_the_file_that_holds_a_level_stands_for_the_series(tmp_path):
    first = write_dicom(tmp_path / "a.dcm")
    first.write_bytes(first.read_bytes().replace(b"VOLUME", b"LABEL "))
    second, third = write_dicom(tmp_path / "b.dcm"), write_dicom(tmp_path / "c.dcm", kind="RESAMPLED")
    elsewhere = write_dicom(tmp_path / "sub" / "d.dcm")
    found = series_of([first, second, third, elsewhere, tmp_path / "nowhere.dcm"])
    assert found == {second: [first, second, third], elsewhere: [elsewhere]}
    assert not lacks_full_resolution([first, second, third])
    assert lacks_full_resolution([first, third]) and not lacks_full_resolution([first])


def test_a_series_without_its_scanned_level_says_so(tmp_path, shared_data):
    names = [f"{UID}.{i}.dcm" for i in (1, 2, 3)]
    level = series_folder(shared_data, tmp_path / "s", names) / names[1]
    assert scan_slides(tmp_path)["resolution_note"].isna().all()
    content = level.read_bytes()
    head = content.index(b"DERIVED\\PRIMARY\\VOLUME") - 8
    end = head + 8 + struct.unpack("<H", content[head + 6 : head + 8])[0]
    level.write_bytes(content[:head] + element(8, 8, b"CS", rb"DERIVED\PRIMARY\VOLUME\RESAMPLED ") + content[end:])
    slides = scan_slides(tmp_path)
    assert slides["status"].tolist() == ["excluded", "ok", "ok"]
    assert "scanned one may be missing" in slides["resolution_note"][1]
    assert slides["resolution_note"].drop(1).isna().all()


def test_names_with_the_folder_in_front_are_names_of_no_other_slide(tmp_path):
    for number, name in enumerate(("a/b.svs", "c/b.svs", "a_b.svs")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_svs(tmp_path / name, mpp="0.5", power="20", levels=((320 + 10 * number, 200),))
    slides = scan_slides(tmp_path)
    assert slides["status"].eq("ok").all() and slides["slide_id"].is_unique and len(slides) == 3
