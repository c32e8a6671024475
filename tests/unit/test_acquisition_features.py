"""Vectors and clinical data that others bring: every layout gives the same table, nothing is unpickled."""

from __future__ import annotations

import contextlib
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from deeplrhe_utils.acquisition.clinical_file import read_clinical
from deeplrhe_utils.acquisition.features.cohort import read_features
from deeplrhe_utils.core.errors import InputError

SLIDES = {"TCGA-05-4244-01Z-00-DX1": 3, "TCGA-18-3406-01Z-00-DX1": 1, "slide 7": 300}


@pytest.fixture
def vectors():
    random = np.random.default_rng(1)
    return {name: random.normal(size=(n, 6)).astype(np.float32) for name, n in SLIDES.items()}


def write(folder, vectors, layout):
    """One of the layouts; the file or folder to be read."""
    if layout in ("npy", "npz", "pt"):
        folder = folder / layout / "deeper"
        folder.mkdir(parents=True)
        for name, array in vectors.items():
            if layout == "npy":
                np.save(folder / f"{name}.npy", array)
            elif layout == "npz":
                np.savez(folder / f"{name}.npz", features=array)
            else:
                torch.save(torch.from_numpy(array), folder / f"{name}.pt")
        return folder.parent
    rows = pd.DataFrame(np.concatenate(list(vectors.values()))).add_prefix("x")
    rows.insert(0, "slide_id", np.repeat(list(vectors), [len(a) for a in vectors.values()]))
    if layout == "parquet":
        rows.to_parquet(folder / "all.parquet")
    elif layout == "csv":
        rows.to_csv(folder / "all.csv", index=False)
    else:
        features, counts = rows.drop(columns="slide_id").to_numpy(np.float32), [len(a) for a in vectors.values()]
        np.savez(folder / "all.npz", slide=list(vectors), features=features, n_regions=counts)
        return folder / "all.npz"
    return folder / f"all.{layout}"


@pytest.mark.parametrize("layout", ["npy", "npz", "pt", "parquet", "csv", "one npz"])
def test_every_layout_gives_the_same_vectors_slides_and_patients(tmp_path, vectors, layout):
    found = read_features(write(tmp_path, vectors, layout))
    for name, array in vectors.items():
        own = found.tiles.loc[found.tiles["slide_id"] == name, "tile_id"]
        np.testing.assert_allclose(found.vectors.loc[own].to_numpy(), array, rtol=1e-6)
    slides = found.slides.set_index("slide_id")
    assert slides.loc["TCGA-05-4244-01Z-00-DX1", ["patient_id", "site_id", "site_code", "subtype"]].tolist() == [
        "TCGA-05-4244", "Indivumed", "05", "adenocarcinoma"]  # fmt: skip
    assert slides.loc["TCGA-18-3406-01Z-00-DX1", "subtype"] == "squamous"
    assert slides.loc["slide 7", "patient_id"] == "slide 7" and slides["site_code"].isna().sum() == 1
    assert found.tiles["x_l0_px"].isna().all() and found.tiles["selected"].all()
    assert "304 vectors of 6 numbers, 3 slides, 3 patients" in found.note and "no heat maps" in found.note


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (1000, 6)])
def test_tensors_are_read_without_running_their_pickle(tmp_path, dtype, shape):
    tensor = torch.randn(shape).to(dtype)
    torch.save(tensor, tmp_path / "a.pt")
    np.testing.assert_array_equal(read_features(tmp_path).vectors.to_numpy(), np.atleast_2d(tensor.float().numpy()))


class _Evil:
    def __reduce__(self):
        return (open, ("ran.txt", "w"))


def _archive(path, pickled, data=b""):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", data)


SPOILS = {
    "a pickle": lambda f, v: _archive(f / "a.pt", pickle.dumps(_Evil())),
    "an old tensor": lambda f, v: torch.save(torch.zeros(2, 6), f / "a.pt", _use_new_zipfile_serialization=False),
    "a view": lambda f, v: torch.save(torch.randn(6, 4).t(), f / "a.pt"),
    "two tensors": lambda f, v: torch.save({"coords": torch.zeros(3, 2), "features": torch.ones(3, 6)}, f / "a.pt"),
    "integers": lambda f, v: torch.save(torch.zeros(2, 6, dtype=torch.int64), f / "a.pt"),
    "objects": lambda f, v: np.save(f / "a.npy", np.array([{"a": 1}], dtype=object)),
    "a cut file": lambda f, v: (np.save(f / "a.npy", v), (f / "a.npy").write_bytes((f / "a.npy").read_bytes()[:-7])),
    "another width": lambda f, v: (np.save(f / "a.npy", v), np.save(f / "b.npy", v[:, :5])),
    "nan": lambda f, v: np.save(f / "a.npy", np.full_like(v, np.nan)),
    "words": lambda f, v: np.save(f / "a.npy", v.astype(str)),
    "complex": lambda f, v: np.save(f / "a.npy", v * 1j),
    "too large": lambda f, v: np.save(f / "a.npy", v.astype(float) * 1e300),
    "no vector": lambda f, v: np.save(f / "a.npy", v[:0]),
    "three dimensions": lambda f, v: np.save(f / "a.npy", v[None]),
    "two files of a slide": lambda f, v: (np.save(f / "a.npy", v), np.savez(f / "a.npz", v)),
    "a folder of nothing": lambda f, v: (f / "notes.txt").write_text("none"),
}


@pytest.mark.parametrize(("what", "says"), [
    ("a pickle", "no plain tensor"), ("an old tensor", "no plain tensor"), ("a view", "a view of another tensor"),
    ("two tensors", "2 tensors"), ("integers", "no plain tensor"), ("objects", "without objects"),
    ("a cut file", "cannot be read"),
    ("another width", "different numbers of features: b"),
    *[(bad, "no finite numbers: a") for bad in ("nan", "words", "complex", "too large")],
    ("no vector", "no vector: a"),
    ("three dimensions", r"holds no vectors.*\(1, 3, 6\)"),
    ("two files of a slide", "Two files hold the features of slide a"),
    ("a folder of nothing", "holds no features"),
])  # fmt: skip
def test_what_is_no_table_of_vectors_is_refused_by_name(tmp_path, vectors, what, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    folder.mkdir()
    SPOILS[what](folder, next(iter(vectors.values())))
    with pytest.raises(InputError, match=says):
        read_features(folder)
    assert not (tmp_path / "ran.txt").exists()


def test_one_file_whose_arrays_do_not_fit_is_refused(tmp_path, vectors):
    array = next(iter(vectors.values()))
    for broken in ({"slide": ["a"], "features": array, "n_regions": [2]}, {"slide": ["a", "a"], "features": array[:2]},
                   {"slide": ["a", "b"], "features": array},
                   {"slide": ["a", "b"], "features": array, "n_regions": [-1, 4]},
                   {"slide": ["a", "b"], "features": array, "n_regions": [1.5, 1.5]}):  # fmt: skip
        np.savez(tmp_path / "x.npz", **{k: np.asarray(v) for k, v in broken.items()})
        with pytest.raises(InputError, match="do not fit"):
            read_features(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", vectors=array)
    with pytest.raises(InputError, match="no file of features"):
        read_features(tmp_path / "x.npz")
    (tmp_path / "x.csv").write_text("slide,x\na,1\n")
    with pytest.raises(InputError, match="does not name the slide"):
        read_features(tmp_path / "x.csv")


@pytest.mark.parametrize(("text", "says"), [
    ("slide_id,kind,x\na,tumour,1\n", "no features: kind"),
    (",slide_id,x\n0,a,1\n1,b,2\n", r"no features: \(column 1\)"),
    ("slide_id,x\n,1\na,2\n", "does not name the slide"), ("slide_id,x\na,1\nb,two\n", "no finite numbers: b"),
])  # fmt: skip
def test_a_column_that_is_no_feature_is_named(tmp_path, text, says):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_features(tmp_path / "x.csv")


def test_damaged_files_are_errors_of_ours(tmp_path):
    random, file = np.random.default_rng(2), tmp_path / "a.pt"
    torch.save(torch.ones(3, 4), file)
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    for _ in range(300):
        broken = whole.copy()
        broken[random.integers(0, len(whole), 3)] = random.integers(0, 256, 3)
        file.write_bytes(broken.tobytes())
        with contextlib.suppress(InputError):
            read_features(tmp_path)
    for name in ("x.parquet", "gone.parquet", "gone.csv", "gone.npz"):
        (tmp_path / "x.parquet").write_bytes(b"PAR1")
        with pytest.raises(InputError):
            read_features(tmp_path / name)


def test_a_table_of_labels_tells_the_patients_of_slides_and_of_their_vectors(tmp_path, vectors):
    folder = write(tmp_path, vectors, "npy")
    (tmp_path / "labels.csv").write_text(
        "slide_id,patient_id,TP53\nslide 7,case 1,1\nTCGA-18-3406-01Z-00-DX1,case 1,1\n"
    )
    found = read_features(folder, tmp_path / "labels.csv")
    for table in (found.slides, found.tiles):
        assert table.groupby("slide_id")["patient_id"].unique().str.join("").to_dict() == {
            "slide 7": "case 1", "TCGA-18-3406-01Z-00-DX1": "case 1",
            "TCGA-05-4244-01Z-00-DX1": "TCGA-05-4244"}  # fmt: skip
    assert "2 patients" in found.note


def test_clinical_tables_are_read_under_the_names_that_others_give(tmp_path):
    (tmp_path / "a.tsv").write_text(
        "bcr_patient_barcode\tage_at_initial_pathologic_diagnosis\tgender\tpathologic_stage\ttobacco_smoking_history"
        "\ttissue_source_site\nTCGA-05-4244-01\t70\tMALE\tstage iiib\tcurrent reformed smoker for > 15 years\t05\n"
        "TCGA-18-3406\t[Not Available]\tfemale\tStage X\t1\t18\nP-3\told\t\t\tpipe\tOur hospital\n"
    )
    found = read_clinical(tmp_path / "a.tsv")
    rows = found.set_index("patient_id").astype(object).where(lambda f: f.notna(), None)
    columns = ["age_years", "sex", "stage", "smoking", "histology", "site_id"]
    assert rows.loc["TCGA-05-4244", columns].tolist() == [70.0, "male", "III", "former", "adenocarcinoma", "Indivumed"]
    assert rows.loc["TCGA-18-3406", columns[:5]].tolist() == [None, "female", None, "never", "squamous"]
    assert rows.loc["P-3", columns].tolist() == [None] * 5 + ["Our hospital"], "a barcode's code is its hospital"
    notes = " ".join(found.attrs["notes"])
    assert "1 value not understood, taken as unknown: old" in notes and "pipe" in notes and "Not Available" not in notes
    (tmp_path / "b.csv").write_text("patient_id,sex\nTCGA-05-4244-01,male\nTCGA-05-4244-11,male\n")
    with pytest.raises(InputError, match="line 3: patient TCGA-05-4244 stands there twice"):
        read_clinical(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("name,sex\na,male\n")
    with pytest.raises(InputError, match="names no patients"):
        read_clinical(tmp_path / "c.csv")


def test_normal_tissue_is_no_tumour(tmp_path, vectors):
    array = next(iter(vectors.values()))
    for name in ("TCGA-05-4244-01Z-00-DX1", "TCGA-05-4244-11A-01-TS1"):
        np.save(tmp_path / f"{name}.npy", array)
    found = read_features(tmp_path)
    assert found.slides.set_index("slide_id")["status"].tolist() == ["ok", "excluded"]
    assert found.tiles.loc[found.tiles["selected"], "slide_id"].unique().tolist() == ["TCGA-05-4244-01Z-00-DX1"]


def test_real_features_and_clinical_tables_are_read_whole(shared_data):
    found = read_features(shared_data / "features" / "hipt_vit256" / "hipt_vit256_regions_tcga_lung.npz")
    assert (len(found.slides), found.slides["patient_id"].nunique(), len(found.vectors)) == (1008, 911, 43487)
    clinical = read_clinical(shared_data / "tables" / "rtcga_clinical" / "tcga_lung_clinical_2015-11-01.tsv")
    assert len(clinical) == 1026 and clinical["smoking"].notna().sum() == 1000 and not clinical.attrs["notes"]
