"""Folders as others fill them: the GDC's transfer tool, Imaging Data Commons' DICOM series, interrupted downloads."""

import shutil
import struct

import openslide
import pytest

from deeplrhe_utils.slides.files import inventory
from deeplrhe_utils.slides.files.dicom import Tags, lacks_full_resolution, names_of, read_tags, series_of
from deeplrhe_utils.slides.files.inventory import scan_slides

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


@pytest.mark.parametrize("ending", [".partial", ".PARTIAL", ".part", ".crdownload"])
def test_unfinished_downloads_are_never_opened(tmp_path, slide_factory, monkeypatch, ending):
    """Even a complete slide under such a name is not touched: only its downloader knows that it is complete."""
    whole = slide_factory(20).read_bytes()
    (tmp_path / f"{OTHER}{ending}").write_bytes(whole)
    (tmp_path / NAME).write_bytes(whole + b" ")
    touched = []
    for name in ("sha256_file", "open_handle", "Slide"):
        real = getattr(inventory, name)
        monkeypatch.setattr(inventory, name, lambda p, *a, real=real, **k: (touched.append(p), real(p, *a, **k))[1])
    slides = scan_slides(tmp_path).set_index("path")
    assert {path.name for path in touched} == {NAME}
    row = slides.loc[str(tmp_path / f"{OTHER}{ending}")]
    assert row["status"] == "excluded" and "unfinished" in row["reason"]


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
        "TCGA-05-4244-01Z-00-DX1", "TCGA-05-4244", "05", "diagnostic")  # fmt: skip
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
