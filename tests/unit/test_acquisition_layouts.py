"""Other programs' files of vectors: read lazily into one form, written back bit for bit; traps refused by name."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.acquisition.features.layouts import ATLASPATCH, CLAM, STAMP, TRIDENT, read_h5, write_h5
from deeplrhe_utils.acquisition.features.neutral import L0_PX, UM
from deeplrhe_utils.acquisition.features.tables import find_vectors, write_vector_table
from deeplrhe_utils.core.errors import InputError

N, D, SIDE = 9, 5, 512
PLACES = np.stack(np.meshgrid(np.arange(3), np.arange(3)), -1).reshape(-1, 2) * SIDE + (1024, 2048)


@pytest.fixture
def numbers():
    return np.random.default_rng(3).normal(size=(N, D)).astype(np.float32)


def trident(folder, numbers, name="s1", **changes):
    path = folder / "20x_256px_0px_overlap" / "features_uni_v2" / f"{name}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"patch_size": 256, "patch_size_level0": SIDE, "level0_magnification": 40, "target_magnification": 20,
            "overlap": 0, "level0_width": 9000, "level0_height": 8000, "name": name} | changes  # fmt: skip
    with h5py.File(path, "w") as f:
        f.create_dataset("features", data=numbers, chunks=(1, D), maxshape=(None, D))
        f.create_dataset("coords", data=PLACES.astype(np.int64), chunks=(1, 2)).attrs.update(told)
    return path


def clam(folder, numbers, name="s1", *, patches=True, **changes):
    (folder / "h5_files").mkdir(parents=True, exist_ok=True)
    path = folder / "h5_files" / f"{name}.h5"
    with h5py.File(path, "w") as f:
        f["features"], f["coords"] = numbers, PLACES.astype(np.int32)
    if patches:
        (folder / "patches").mkdir(exist_ok=True)
        with h5py.File(folder / "patches" / f"{name}.h5", "w") as f:
            f["coords"] = PLACES.astype(np.int64)
            told = {"patch_size": 256, "patch_level": 1, "downsample": np.array([2.0, 2.0])} | changes
            f["coords"].attrs.update(told)
    return path


def stamp(folder, numbers, name="s1", **changes):
    path = folder / f"{name}.h5"
    told = {"stamp_version": "2.4.0", "extractor": "uni2-abc", "unit": "um", "tile_size_um": 128.0,
            "tile_size_px": 224, "code_hash": "c0de", "feat_type": "tile"} | changes  # fmt: skip
    with h5py.File(path, "w") as f:
        f["feats"], f["coords"] = numbers.astype(np.float16), PLACES * 0.25
        f.attrs.update({k: v for k, v in told.items() if v is not None})
    return path


def old_stamp(folder, numbers, name="s1", stride=224):
    path = folder / f"{name}.h5"
    with h5py.File(path, "w") as f:
        f["feats"], f["coords"] = numbers.astype(np.float16), (PLACES // SIDE * stride).astype(np.int64)
        f["augmented"] = np.zeros(N, bool)
        f.attrs["extractor"] = "STAMP-extract-001_01-10-2023_xiyuewang-ctranspath-7c998680"
    return path


def atlaspatch(folder, numbers, name="s1", encoders=("virchow2",)):
    path = folder / f"{name}.h5"
    with h5py.File(path, "w") as f:
        f["coords"] = np.hstack([PLACES, np.full((N, 2), 256), np.ones((N, 1))]).astype(np.int32)
        for encoder in encoders:
            f[f"features/{encoder}"] = numbers
        f.attrs.update({"patch_size": 256, "patch_size_level0": SIDE, "level0_magnification": 40,
                        "target_magnification": 20, "overlap": 0, "wsi_path": "/x/s1.svs"})  # fmt: skip
    return path


LAYOUTS = {"trident": (trident, TRIDENT), "clam": (clam, CLAM), "stamp": (stamp, STAMP),
           "first stamp": (old_stamp, STAMP), "atlaspatch": (atlaspatch, ATLASPATCH)}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_into_level_0_pixels_and_written_back_bit_for_bit(tmp_path, numbers, layout):
    make, program = LAYOUTS[layout]
    path = make(tmp_path / "in" if layout == "clam" else tmp_path, numbers)
    one = read_h5(path)
    assert (one.layout, one.count, one.width, one.slide_id) == (program, N, D, "s1")
    np.testing.assert_array_equal(one.read(), numbers.astype(one.dtype))
    windows = one.windows(0.25)
    first = layout == "first stamp"  # 256 µm a tile are 1,024 px at 0.25 µm/px
    expected = PLACES // SIDE * 1024 if first else PLACES
    np.testing.assert_allclose(windows[["x_l0_px", "y_l0_px"]], expected)
    assert set(windows["size_l0_px"]) == {1024 if first else SIDE}
    assert one.size_um(0.25) == (256 if first else 128)
    again = read_h5(write_h5(one, tmp_path / "out", program))
    np.testing.assert_array_equal(again.read(), one.read())
    np.testing.assert_array_equal(again.places, one.places)
    same = ("dtype", "encoder", "unit", "size", "step", "about") if layout != "clam" else ("dtype", "unit", "size")
    for one_more in (again, one):
        np.testing.assert_array_equal(
            one_more.about.pop("reads", []), [[256, 256, 1]] * N if layout == "atlaspatch" else []
        )
    assert {k: getattr(again, k) for k in same} == {k: getattr(one, k) for k in same}
    assert again.places.dtype == one.places.dtype


@pytest.mark.parametrize("target", [TRIDENT, CLAM, STAMP, ATLASPATCH, "Parquet"])
@pytest.mark.parametrize("source", LAYOUTS)
def test_every_layout_becomes_every_other_one_with_the_same_numbers_and_places(tmp_path, numbers, source, target):
    one = read_h5(LAYOUTS[source][0](tmp_path / "in" if source == "clam" else tmp_path, numbers))
    if target == "Parquet":
        (again,) = find_vectors(write_vector_table([one], tmp_path / "all.parquet", {"s1": 0.25}))
    else:
        again = read_h5(write_h5(one, tmp_path / "out", target, mpp=0.25))
    np.testing.assert_array_equal(again.read(), one.read())
    known = {CLAM: "", "Parquet": one.encoder, STAMP: one.encoder}.get(target, one.encoder or "unknown")
    assert again.dtype == one.dtype and again.encoder == known
    np.testing.assert_allclose(again.windows(0.25), one.windows(0.25))


def test_vectors_of_whole_slides_have_no_place(tmp_path, numbers):
    path = tmp_path / "slide_features_titan" / "s1.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as f:
        f["features"], f["coords"] = numbers[0], PLACES
        f["coords"].attrs["patch_size_level0"] = SIDE
    one = read_h5(path)
    assert (one.encoder, one.count, one.places) == ("titan", 1, None)
    np.testing.assert_array_equal(one.read(), numbers[:1])


def _edited(path, change):
    with h5py.File(path, "a") as f:
        change(f)
    return path


def _elsewhere(f):
    del f["features"]
    f["features"] = h5py.ExternalLink("other.h5", "features")


def _in_two_steps(f):
    del f["features"]
    f["ext"] = h5py.ExternalLink("other.h5", "/")
    f["features"] = h5py.SoftLink("/ext/features")


def _virtual(f):
    del f["features"]
    layout = h5py.VirtualLayout((N, D), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "features", shape=(N, D))
    f.create_virtual_dataset("features", layout)


def _replaced(name, value):
    def change(f):
        del f[name]
        f[name] = value

    return change


TRAPS = {
    "scale of CLAM": (lambda t, x: clam(t, x, patches=False), "not how large they are.*--patches"),
    "other patches": (
        lambda t, x: (
            _edited(clam(t, x).parent.parent / "patches" / "s1.h5", _replaced("coords", PLACES + 1)).parent.parent
            / "h5_files"
            / "s1.h5"
        ),
        "places of .* are not those of",
    ),
    "stride of STAMP": (lambda t, x: old_stamp(t, x, stride=300), "unit of its places.*stride of 300"),
    "STAMP in pixels": (lambda t, x: stamp(t, x, unit="px", tile_size_um=None), "unit of its places"),
    "two encoders": (lambda t, x: atlaspatch(t, x, encoders=("uni", "gigapath")), "2 encoders.*--encoder"),
    "link to another file": (lambda t, x: _edited(trident(t, x), _elsewhere), "behind a link"),
    "link by a link": (lambda t, x: _edited(trident(t, x), _in_two_steps), "behind a link"),
    "numbers of another file": (lambda t, x: _edited(trident(t, x), _virtual), "in another file"),
    "fewer places": (
        lambda t, x: _edited(stamp(t, x), _replaced("coords", PLACES[:-1] * 0.25)),
        "9 vectors and 8 places",
    ),
    "left of the slide": (lambda t, x: _edited(stamp(t, x), _replaced("coords", PLACES - 2000.0)), "outside the slide"),
    "words": (lambda t, x: _edited(stamp(t, x), _replaced("feats", np.array([b"a"] * N))), "no array of numbers"),
    "µm without a resolution": (stamp, "resolution of slide s1 is not known"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_refused_by_name(tmp_path, numbers, trap):
    make, says = TRAPS[trap]
    with pytest.raises(InputError, match=says):
        read_h5(make(tmp_path, numbers)).windows()


def test_damaged_and_foreign_files_are_errors_and_patch_files_are_no_features(tmp_path, numbers):
    path = trident(tmp_path, numbers)
    for data in (path.read_bytes()[:900], b"\x89HDF\r\n\x1a\nnonsense", b""):
        (tmp_path / "bad.h5").write_bytes(data)
        with pytest.raises(InputError, match=r"bad.h5 cannot be read"):
            read_h5(tmp_path / "bad.h5")
    assert read_h5(clam(tmp_path / "c", numbers).parent.parent / "patches" / "s1.h5") is None
    assert [one.layout for one in find_vectors(tmp_path / "c")] == [CLAM]


def test_a_folder_of_clam_counts_a_slide_once_and_two_encoders_of_one_are_refused(tmp_path, numbers):
    import torch

    clam(tmp_path / "c", numbers)
    (tmp_path / "c" / "pt_files").mkdir()
    torch.save(torch.from_numpy(numbers), tmp_path / "c" / "pt_files" / "s1.pt")
    (one,) = find_vectors(tmp_path / "c")
    assert one.path.suffix == ".h5" and one.size == SIDE
    other = trident(tmp_path, numbers).rename(tmp_path / "20x_256px_0px_overlap" / "s1.h5")
    trident(tmp_path, numbers)
    with pytest.raises(InputError, match="Two files hold the features of slide s1"):
        find_vectors(other.parent)


def test_augmented_tiles_of_stamp_are_left_out_and_counted(tmp_path, numbers):
    flags = np.arange(N) % 3 == 2
    one = read_h5(_edited(old_stamp(tmp_path, numbers), _replaced("augmented", flags)))
    assert one.count == 6 and "3 vectors of augmented tiles were left out" in one.notes
    np.testing.assert_array_equal(one.read(), numbers.astype(np.float16)[~flags])
    assert len(one.places) == 6


@pytest.mark.parametrize("shape", [(1, N, D), (1, D), (0, D), (0,)])
def test_batches_of_one_slide_vectors_and_empty_files_are_read(tmp_path, numbers, shape):
    whole = numbers[:1] if shape[-2:-1] == (1,) and len(shape) == 2 else numbers[:0] if 0 in shape else numbers
    path = _edited(trident(tmp_path, numbers), _replaced("features", whole.reshape(shape)))
    if 0 in shape:
        _edited(path, _replaced("coords", PLACES[:0]))
    one = read_h5(path)
    assert one.count == len(whole) and (one.places is not None and len(one.places) == N) == (len(shape) == 3)
    if one.count:
        np.testing.assert_array_equal(one.read(), whole)
    else:
        trident(tmp_path, numbers, "s2")
        assert [v.count for v in find_vectors(tmp_path, empty=True)] == [0, N]
        with pytest.raises(InputError, match=r"1 slides of .* have no vector: s1"):
            find_vectors(tmp_path)


def test_an_encoder_is_read_from_its_attribute_where_the_folder_says_nothing(tmp_path, numbers):
    path = _edited(trident(tmp_path, numbers), lambda f: f["features"].attrs.update(encoder="uni_v1"))
    assert read_h5(path.rename(tmp_path / "s1.h5")).encoder == "uni_v1"


def test_a_magnification_that_nothing_tells_is_not_invented(tmp_path, numbers):
    one = read_h5(clam(tmp_path / "in", numbers))
    with pytest.raises(InputError, match="magnification of slide s1 is not known"):
        write_h5(one, tmp_path / "out", TRIDENT)
    told = read_h5(write_h5(one, tmp_path / "out", TRIDENT, mpp=0.25)).about
    assert (told["patch_size"], told["patch_size_level0"], told["target_magnification"]) == (256, SIDE, 20)


def test_tiles_that_stand_twice_are_noted(tmp_path, numbers):
    twice = _edited(stamp(tmp_path, numbers), _replaced("coords", np.vstack([PLACES[:-1], PLACES[:1]]) * 0.25))
    assert read_h5(twice).notes == ("1 tiles stand at a place that another tile has",)


def test_a_parquet_table_is_read_whole_or_row_group_by_row_group_alike(tmp_path, numbers, monkeypatch):
    from deeplrhe_utils.acquisition.features import tables

    rows = pd.DataFrame(np.random.default_rng(1).normal(size=(50, D)).astype(np.float32)).add_prefix("x")
    rows.insert(0, "slide_id", np.random.default_rng(2).choice(["a", "b", "c"], 50))
    rows.to_parquet(tmp_path / "x.parquet", row_group_size=7)
    whole = {one.slide_id: one.read() for one in find_vectors(tmp_path / "x.parquet")}
    monkeypatch.setattr(tables, "_SMALL", 0)
    for one in find_vectors(tmp_path / "x.parquet"):
        np.testing.assert_array_equal(one.read(), whole[one.slide_id])
        np.testing.assert_array_equal(one.read(), rows[rows["slide_id"] == one.slide_id].drop(columns="slide_id"))


def test_genuine_files_of_stamp_and_clam_are_read(shared_data):
    folder = shared_data / "features" / "formats"
    found = find_vectors(folder / "stamp_h5")
    assert [(one.count, one.width, one.unit, one.size) for one in found] == [
        (2131, 768, UM, 256.0),
        (1896, 768, UM, 256.0),
    ]
    assert all("ctranspath" in one.encoder for one in found)
    side = found[0].windows(0.5)
    assert set(side["size_l0_px"]) == {512.0} and (side["y_l0_px"] % 512 == 0).all()
    patches = folder / "clam_h5"
    assert all(read_h5(path) is None for path in patches.glob("*.h5"))


def test_genuine_patch_files_give_the_scale_of_features(tmp_path, shared_data):
    name = "TCGA-2V-A95S-01Z-00-DX1.9DFA6FC7-87A6-4C14-9A39-E3F12B01C4D4"
    patches = shared_data / "features" / "formats" / "clam_h5"
    with h5py.File(patches / f"{name}.h5") as f:
        coords = f["coords"][:]
    with h5py.File(tmp_path / f"{name}.h5", "w") as f:
        f["features"], f["coords"] = np.ones((len(coords), 4), np.float32), coords.astype(np.int32)
    one = read_h5(tmp_path / f"{name}.h5", patches=patches)
    assert (one.size, one.unit) == (512.0, L0_PX)
    with pytest.raises(InputError, match="not how large"):
        replace(read_h5(tmp_path / f"{name}.h5")).windows()


BIG = {
    "write": """
        import sys, h5py, numpy as np
        n = int(sys.argv[1])
        with h5py.File("big.h5", "w") as f:
            data = f.create_dataset("features", (n, 1536), "f4", chunks=(1, 1536))
            places = np.stack([np.arange(n), np.arange(n)], 1) * 256
            f.create_dataset("coords", data=places).attrs.update(patch_size_level0=256, level0_magnification=20)
            for i in range(0, n, 5000):
                data[i:i + 5000] = np.random.default_rng(i).normal(size=(5000, 1536)).astype("f4")
    """,
    "read": """
        import re, sys
        from pathlib import Path
        import numpy as np
        from deeplrhe_utils.acquisition.features.tables import find_vectors
        (one,) = find_vectors(Path("big.h5"))
        total, seen = np.zeros(1536), 0
        for block in one.blocks():
            total, seen = total + block.sum(0), seen + len(block)
        peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
        lazily = peak()
        whole = one.read()
        assert seen == int(sys.argv[1]) == len(whole) and np.allclose(whole.sum(0), total, rtol=1e-2, atol=1)
        print(lazily, peak())
    """,
}


@pytest.mark.parametrize(("count", "most"), [(15_000, 500), pytest.param(100_000, 1024, marks=pytest.mark.slow)])
def test_a_hundred_thousand_vectors_pass_within_a_gigabyte(tmp_path, count, most):
    for step in ("write", "read"):
        code = [sys.executable, "-c", textwrap.dedent(BIG[step]), str(count)]
        done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (tmp_path / "big.h5").unlink()
    lazily, whole = map(int, done.stdout.split())  # VmHWM: ru_maxrss is that of the process before exec, too
    assert lazily <= 400 and whole <= most, f"{lazily} MiB block by block, {whole} MiB as a whole"
