"""Published divisions of lung slides: does a test slide's patient, or hospital, also give training slides?

Writes ``data/reference/published_splits.csv`` (counts and shares, no rows of patients), which notebook 10 shows. Lists
that are no part of the repository are read from ``--data``; no time is measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from _harness import SHARED_DATA
from numpy.typing import NDArray

from deeplrhe_utils.acquisition.barcodes import parse_name, patient_of
from deeplrhe_utils.acquisition.labels.mutation_files import read_deeppath_labels
from deeplrhe_utils.acquisition.services.manifest import read_manifest
from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.seeds import generator
from deeplrhe_utils.evaluation.audits.leakage import shared_patients
from deeplrhe_utils.evaluation.splits.published import read_any_split

FILE = REFERENCE_DATA / "published_splits.csv"
DRAWS = 500
_Members = Mapping[str, str]
_Fold = Mapping[str, Iterable[str]]


def deeppath_slides(manifest: Path, labels: Path) -> pd.DataFrame:
    """DeepPATH's own slides: tumour slides of its manifest whose patient stands in its list of mutations.

    Parameters
    ----------
    manifest : GDC manifest: tab-separated id, filename, md5, size, state
    labels : lines "barcode, tab, gene"; they may end with CR alone

    Returns DataFrame: slide_id, patient_id, bytes; slides of normal tissue (sample codes 10–19) and of other patients
    are left out.

    Raises InputError: a file is missing, has other columns, or no slide belongs to a listed patient.
    """
    for path in (manifest, labels):
        if not Path(path).is_file():
            raise InputError(f"{path} is not there", fix="Give the folder with DeepPATH's manifest and labels_r3.txt")
    table = read_manifest(manifest)
    listed = set(read_deeppath_labels(Path(labels))["patient_id"])
    name = table["filename"].str.split(".").str[0]
    told = [parse_name(one) for one in name]
    mine = np.array([one.patient_id in listed and (one.sample_code or "9") < "10" for one in told], bool)
    if not mine.any():
        raise InputError(f"No tumour slide of {manifest} belongs to a patient of {labels}")
    slides = pd.DataFrame(
        {"slide_id": name, "patient_id": [one.patient_id for one in told], "bytes": table["size"].astype(float)}
    )
    return slides[mine].sort_values("slide_id", ignore_index=True)


def greedy_fill(weight: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.str_]:
    """Roles (n,) that DeepPATH's sorter gives to units of `weight` tiles (n,) when no patient is asked for.

    In shuffled order each unit goes to "test" while test holds at most 15 % of the tiles so far, else to "valid" by
    the same rule, else to "train". Source: 0d_SortTiles.py with PatientID=-1, nSplit=0, PercentTest=PercentValid=15.
    """
    role = np.empty(len(weight), "<U5")
    held, total = {"test": 0.0, "valid": 0.0}, 0.0
    for i in random.permutation(len(weight)):
        name = next((part for part, tiles in held.items() if tiles <= 0.15 * total), "train")
        role[i] = name
        total += weight[i]
        if name in held:
            held[name] += weight[i]
    return role


def manifest_leak(
    slides: pd.DataFrame,
    *,
    draws: int = 500,
    seed: int = 0,
    weight: str = "",
    rule: Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.str_]] = greedy_fill,
) -> pd.DataFrame:
    """Test slides whose patient is in training, in many draws of a slide-level split.

    Parameters
    ----------
    slides : slide_id, patient_id, as of :func:`deeppath_slides`
    draws, seed : the sorter is not seeded, so its own split is one unknown draw of these
    weight : column that stands for a slide's tiles (their numbers are not published), such as ``bytes``; empty: all
        alike
    rule : gives roles, as DeepPATH's :func:`greedy_fill`

    Returns DataFrame: a row per draw: test (slides), in_train (share of them whose patient is in train, 0–1), in_either
    (in train or valid, which chose the checkpoint).
    """
    tiles = slides[weight].to_numpy(np.float64) if weight else np.ones(len(slides))
    patient, names = slides["patient_id"].factorize()
    rows = []
    for draw in range(draws):
        role = rule(tiles, generator(seed, "deeppath-split", draw))
        seen = np.zeros((2, len(names)), bool)
        seen[0, patient[role == "train"]], seen[1, patient[role != "test"]] = True, True
        test = patient[role == "test"]
        rows.append({"test": len(test), "in_train": seen[0, test].mean(), "in_either": seen[1, test].mean()})
    return pd.DataFrame(rows)


def gigapath_default(weight: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.str_]:
    """Roles of slides by prov-gigapath's get_splits, unless patients are asked for: 70 / 10 / 20 at random."""
    n = len(weight)
    role = np.full(n, "train", "<U5")
    order = random.permutation(n)
    aside = int(np.ceil(0.3 * n))
    tested = int(np.ceil(aside * 2 / 3))
    role[order[:tested]], role[order[tested:aside]] = "test", "valid"
    return role


def row(source: str, files: str, members: _Members, shared: str, values: pd.Series, computed: str) -> dict[str, object]:
    """A row of the table; `members` is slide → patient, `values` the share of test slides in each division."""
    return {"source": source, "list": files, "slides": len(members), "patients": len(set(members.values())),
            "shared": shared, "divisions": len(values), "mean": values.mean(), "low": values.min(),
            "high": values.max(), "computed": computed}  # fmt: skip


def drawn(data: Path) -> Iterator[dict[str, object]]:
    """Lists whose division is not published: the published rule, drawn many times."""
    slides = deeppath_slides(data / "tables/gdc_manifest_20170302_003611.txt", data / "tables/labels_r3.txt")
    members = dict(zip(slides["slide_id"], slides["patient_id"], strict=True))
    leak = manifest_leak(slides, draws=DRAWS)["in_train"]
    yield row("DeepPATH (Coudray 2018)", "GDC manifest of 2017 and labels_r3.txt", members, "patient", leak,
              f"{DRAWS} draws of its unseeded rule with PatientID = -1")  # fmt: skip
    table = pd.read_csv(data / "splits/gigapath/LUAD-5-gene_TCGA.csv", dtype=str)
    slides = table[["slide_id", "case_submitter_id"]].set_axis(["slide_id", "patient_id"], axis=1)
    members = dict(zip(slides["slide_id"], slides["patient_id"], strict=True))
    leak = manifest_leak(slides, draws=DRAWS, rule=gigapath_default)["in_train"]
    yield row("prov-gigapath", "LUAD-5-gene_TCGA.csv @ 09d8e876afb9", members, "patient", leak,
              f"{DRAWS} draws of its default, by slide; its authors say their paper divided by patient")  # fmt: skip


def read(paths: Path | list[Path]) -> tuple[_Members, pd.DataFrame]:
    """slide → patient and table SPLITS of a list in a layout that is known."""
    found = read_any_split(paths)
    lung = found.units
    if "project_id" in lung:
        lung = lung[lung["project_id"].isin(["TCGA-LUAD", "TCGA-LUSC"])]
    owner = dict(zip(lung["slide_id"], lung["patient_id"], strict=True))
    return owner, found.splits[found.splits["unit_id"].isin(list(owner))]


def parted(folds: Iterable[_Fold]) -> tuple[_Members, pd.DataFrame]:
    """The same of TCGA slides in other layouts, role → slides per fold."""
    rows = [{"scheme": "slide", "fold": i, "unit_id": str(slide).removesuffix(".svs"), "role": role}
            for i, fold in enumerate(folds) for role, slides in fold.items() for slide in slides]  # fmt: skip
    splits = pd.DataFrame(rows)
    return {slide: patient_of(slide) for slide in splits["unit_id"].unique()}, splits


def lists(data: Path) -> Iterator[tuple[str, str, tuple[_Members, pd.DataFrame], str]]:
    """Divisions that are published as lists: source, file, slide → patient and table SPLITS, what they are."""
    yield ("HIPT", "10foldcv_subtype/tcga_lung @ 780fafaed2e5", read(data / "splits/hipt_10fold"), "its ten folds")
    for name, folder, files in (("PANTHER", "panther_nsclc", "classification/NSCLC @ 15531d32134f"),
                                ("TITAN", "titan_ot", "tcga-ot_*.csv @ 33042f5eea66")):  # fmt: skip
        yield name, files, read(data / "splits" / folder), "its one division, lung slides of TCGA"
    tests = [np.load(data / f"splits/sequoia/test-luad-{i}.npy").tolist() for i in range(5)]
    others = ({"test": own, "train": [s for other in tests if other is not own for s in other]} for own in tests)
    yield ("SEQUOIA", "test-luad-*.npy @ c41d2b52d63c", parted(others),
           "its five test folds, each against the other four")  # fmt: skip
    for cohort in ("TCGA", "TCIA-CPTAC"):
        files = [data / f"splits/dependency_mil/DETAILED_{cohort}_{part}_LUAD_LUSC_BENIGN.csv"
                 for part in ("TRAINVAL", "TEST")]  # fmt: skip
        yield (f"dependency-mil, {cohort.removeprefix('TCIA-')}", "DETAILED_*_BENIGN.csv @ 86153c3b8d8a", read(files),
               "its one division")  # fmt: skip
    tables = [pd.read_csv(data / f"splits/preserved_site/{p}_splits.csv", dtype=str) for p in ("luad", "lusc")]
    for kind, name in (("preserved_site", "sites kept whole"), ("standard", "standard folds")):
        columns = [t.set_index("slide")[c].dropna() for t in tables for c in t.columns if c.endswith(kind)]
        each = ({"test": c.index[c == k], "train": c.index[c != k]} for c in columns for k in sorted(c.unique()))
        yield (f"PreservedSiteCV, {name}", "luad_splits.csv, lusc_splits.csv @ 1eeff22f9f52", parted(each),
               f"three folds of each of {len(columns)} endpoints")  # fmt: skip


def listed(data: Path) -> Iterator[dict[str, object]]:
    """Divisions that are published as lists, judged by patient and, for TCGA, by hospital."""
    for source, files, (owner, splits), computed in lists(data):
        sites = [parse_name(slide).site_id for slide in owner]
        units = pd.DataFrame({"slide_id": list(owner), "patient_id": list(owner.values()), "site_id": sites})
        for shared in ("patient", "site") if all(sites) else ("patient",):
            values = shared_patients(splits, units, f"{shared}_id")["share"]
            yield row(source, files, owner, shared, values, computed)


def published_splits(data: Path) -> pd.DataFrame:
    """The table; `data` holds tables/ and splits/."""
    return pd.DataFrame([*drawn(data), *listed(data)]).round({"mean": 4, "low": 4, "high": 4})


def main() -> None:
    """Read the lists, print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="holds tables/ and splits/")
    data = parser.parse_args().data
    if not (data / "splits").is_dir():
        raise SystemExit(f"Not computed: {data / 'splits'} is not here. Give its parent with --data.")
    found = published_splits(data).assign(date=time.strftime("%Y-%m-%d"))
    found.to_csv(FILE, index=False)
    print(found.to_string(), f"\n{FILE.name} written")


if __name__ == "__main__":
    main()
