"""Splits by tile, slide, patient and site against brute force; split files that refuse what was edited."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import CohortError, InputError, ParameterError
from deeplrhe_utils.core.tables import contract, schemas
from deeplrhe_utils.evaluation.splits import files, folds
from deeplrhe_utils.evaluation.splits import sites as site_split

GENES = ("A", "B", "C")


def cohort(n_sites=8, seed=0, genes=GENES, prevalence=(0.5, 0.25, 0.08)):
    """Labels, sites and tiles (two slides a patient, two tiles a slide)."""
    random = np.random.default_rng(seed)
    sizes = np.maximum(1, random.lognormal(1.5, 0.8, n_sites)).astype(int)
    people = [(f"P{s:02d}{i:03d}", f"S{s:02d}") for s in range(n_sites) for i in range(sizes[s])]
    rows = [(p, g, int(random.random() < q)) for p, _ in people for g, q in zip(genes, prevalence, strict=True)]
    tiles = [(p, f"{p}-{k}", f"{p}-{k}_{t}") for p, _ in people for k in (1, 2) for t in (0, 1)]
    labels = pd.DataFrame(rows, columns=["patient_id", "gene", "status"]).astype({"status": "Int64"})
    return (labels, pd.DataFrame(people, columns=["patient_id", "site_id"]),
            pd.DataFrame(tiles, columns=["patient_id", "slide_id", "tile_id"]))  # fmt: skip


def positives(frame, labels, genes=GENES):
    """Positives and patients in each test fold, of a split whose units are patients."""
    test = frame[frame["role"] == "test"].set_index("unit_id")["fold"]
    wide = (labels.pivot(index="patient_id", columns="gene", values="status") == 1).loc[test.index, list(genes)]
    return wide.groupby(test).sum().assign(n=test.groupby(test).size())


def slow_deal(positive, shares):
    """The deal as it was first written, with every count taken anew."""
    fold = np.full(len(positive), -1)
    for gene in np.argsort(positive.sum(0), kind="stable"):
        for patient in np.flatnonzero(positive[:, gene] & (fold < 0)):
            have = [(positive[fold == f, gene].sum() / s, (fold == f).sum() / s, f) for f, s in enumerate(shares)]
            fold[patient] = min(have)[2]
    for patient in np.flatnonzero(fold < 0):
        fold[patient] = min(((fold == f).sum() / s, f) for f, s in enumerate(shares))[1]
    return fold


@pytest.mark.parametrize("shares", [[1.0, 1.0], [1.0] * 5, [0.7, 0.15, 0.15]])
def test_the_deal_with_running_counts_is_the_deal(shares, monkeypatch):
    labels, _, _ = cohort(12, seed=5)
    members = labels[["patient_id"]].drop_duplicates()
    make = folds.unit_shares if len(shares) == 3 else folds.unit_folds
    argument = {"shares": shares} if len(shares) == 3 else {"n_folds": len(shares)}
    fast = [make(members, labels, "patient", seed=s, **argument) for s in range(5)]
    monkeypatch.setattr(folds, "_deal", slow_deal)
    for seed, frame in enumerate(fast):
        pd.testing.assert_frame_equal(frame, make(members, labels, "patient", seed=seed, **argument))


@pytest.mark.parametrize(("scheme", "column"), [("tile", "tile_id"), ("slide", "slide_id"), ("patient", "patient_id")])
@pytest.mark.parametrize("stratify", [True, False])
def test_folds_of_any_unit_test_it_once_and_are_balanced(scheme, column, stratify):
    labels, _, tiles = cohort()
    frame = folds.unit_folds(tiles, labels, scheme, 3, seed=2, stratify=stratify)
    contract.conform(frame, schemas.SPLITS)
    folds.check_split(frame)
    assert set(frame["unit_id"]) == set(tiles[column])
    sizes = frame[frame["role"] == "test"].groupby("fold").size()
    assert sizes.max() - sizes.min() <= (2 if stratify else 1)
    again = folds.unit_folds(tiles.sample(frac=1, random_state=1), labels, scheme, 3, seed=2, stratify=stratify)
    pd.testing.assert_frame_equal(frame, again)
    assert not frame.equals(folds.unit_folds(tiles, labels, scheme, 3, seed=3, stratify=stratify))
    if stratify:
        test = folds.roles_of(frame[frame["role"] == "test"], tiles)
        wide = (labels.pivot(index="patient_id", columns="gene", values="status") == 1).astype(int)
        spread = test.drop_duplicates(column).join(wide, on="patient_id").groupby("fold")[list(GENES)].sum()
        assert (spread.max() - spread.min()).max() <= 3


def test_by_patient_it_is_the_old_function():
    labels, _, tiles = cohort()
    pd.testing.assert_frame_equal(
        folds.unit_folds(tiles, labels, "patient", 2, seed=1), folds.patient_folds(labels, 2, seed=1)
    )


def test_shares_are_kept():
    labels, _, tiles = cohort(20, seed=3)
    frame = folds.unit_shares(tiles, labels, "slide", (0.7, 0.15, 0.15), seed=1)
    folds.check_split(frame, once=False)
    share = frame["role"].value_counts(normalize=True)
    assert share["train"] == pytest.approx(0.7, abs=0.02) and share["test"] == pytest.approx(0.15, abs=0.02)
    with pytest.raises(CohortError, match="exactly once"):
        folds.check_split(frame)
    no_valid = folds.unit_shares(tiles, labels, "slide", (0.8, 0, 0.2), seed=1)
    assert set(no_valid["role"]) == {"train", "test"}


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (1, 0, 0), (0.5, 0.5), (1.2, -0.4, 0.2)])
def test_illegal_shares(shares):
    labels, _, tiles = cohort()
    with pytest.raises(ParameterError, match="Illegal shares"):
        folds.unit_shares(tiles, labels, "patient", shares)


def test_what_a_split_cannot_be_made_of():
    labels, _, tiles = cohort()
    with pytest.raises(ParameterError, match="Unknown unit"):
        folds.unit_folds(tiles, labels, "block")
    with pytest.raises(CohortError, match=r"1 patients have no row in the labels.*P00000"):
        folds.unit_folds(tiles, labels[labels["patient_id"] != "P00000"], "tile")
    torn = tiles.assign(slide_id="one")
    with pytest.raises(CohortError, match="belongs to two patients"):
        folds.unit_folds(torn, labels, "slide")
    with pytest.raises(CohortError, match="at least 9 units"):
        folds.unit_folds(tiles.iloc[:2], labels, "tile", 9)


def test_a_patient_on_both_sides_is_named_and_counted():
    labels, sites, tiles = cohort()
    folds.check_disjoint(folds.unit_folds(tiles, labels, "patient"), tiles)
    by_tile = folds.unit_folds(tiles, labels, "tile", stratify=False)
    roles = folds.roles_of(by_tile, tiles)
    both = roles.groupby(["fold", "patient_id"])["role"].nunique().gt(1)
    n = int(both[0].sum())
    with pytest.raises(CohortError, match=rf"A patient has two roles.*fold 0: {n} of {len(sites)}.*{both[0].idxmax()}"):
        folds.check_disjoint(by_tile, tiles)
    by_site = site_split.site_folds(labels, sites, 2).splits
    folds.check_disjoint(by_site, sites, "site_id")
    with pytest.raises(CohortError, match="A site has two roles"):
        folds.check_disjoint(folds.patient_folds(labels), sites, "site_id")


def brute_force(labels, sites, shares):
    """The smallest objective over every assignment in which no part is empty."""
    place = sites.set_index("patient_id")["site_id"]
    wide = (labels.pivot(index="patient_id", columns="gene", values="status") == 1).astype(int)
    counts = wide.assign(n=1).groupby(place).sum().to_numpy()
    total = counts.sum(0)
    best = np.inf
    for parts in itertools.product(range(len(shares)), repeat=len(counts)):
        if len(set(parts)) < len(shares):
            continue
        have = np.stack([counts[np.array(parts) == p].sum(0) for p in range(len(shares))])
        best = min(best, float((np.abs(have - np.outer(shares, total)) / np.maximum(total, 1)).sum()))
    return best


@pytest.mark.parametrize(("n_folds", "seed"), [(2, 0), (3, 3)])
def test_sites_are_divided_as_well_as_brute_force_can(n_folds, seed):
    labels, sites, _ = cohort(8, seed)
    found = site_split.site_folds(labels, sites, n_folds, seed)
    assert found.optimal and found.gap == 0 and found.stopped == ""
    assert found.objective == pytest.approx(brute_force(labels, sites, [1 / n_folds] * n_folds), abs=1e-6)
    folds.check_split(found.splits)
    folds.check_disjoint(found.splits, sites, "site_id")
    counted = positives(found.splits, labels)
    table = found.balance.pivot(index="part", columns="gene", values="count")
    np.testing.assert_array_equal(table[[*GENES, site_split.PATIENTS]].to_numpy(), counted.to_numpy())
    again = site_split.site_folds(labels.sample(frac=1, random_state=0), sites, n_folds, seed)
    pd.testing.assert_frame_equal(found.splits, again.splits)


def test_shares_of_sites_against_brute_force():
    labels, sites, _ = cohort(8, 0)
    found = site_split.site_shares(labels, sites, (0.7, 0.15, 0.15), 0)
    assert found.objective == pytest.approx(brute_force(labels, sites, [0.7, 0.15, 0.15]), abs=1e-6)
    folds.check_split(found.splits, once=False)
    assert set(found.splits["role"]) == {"train", "valid", "test"}


def test_the_seed_decides_among_equally_good_splits():
    """Twelve sites of one patient each: every half is as good as any other."""
    labels = pd.DataFrame({"patient_id": [f"P{i:02d}" for i in range(12)], "gene": "A", "status": [0, 1] * 6})
    sites = labels[["patient_id"]].assign(site_id=labels["patient_id"])
    found = [site_split.site_folds(labels, sites, 2, seed) for seed in range(6)]
    assert {f.objective for f in found} == {0.0}
    assert len({tuple(f.splits["hash"]) for f in found}) > 1


def test_a_solver_that_is_stopped_says_so(monkeypatch):
    monkeypatch.setattr(site_split, "NODES", 20)
    labels, sites, _ = cohort(
        40, 1, tuple(f"G{i}" for i in range(10)), (0.4, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05, 0.5)
    )
    found = site_split.site_folds(labels, sites, 3, 0)
    assert not found.optimal and "branches" in found.stopped
    assert 0 <= found.bound < found.objective and found.gap == pytest.approx(found.objective - found.bound)
    assert "not proved optimal" in found.sentence()
    folds.check_disjoint(found.splits, sites, "site_id")
    assert found.objective < 1.0  # 11 counts in 3 folds: less than a hundredth of its total off, on average 3 %


def test_sites_that_cannot_be_divided():
    labels, sites, _ = cohort(3)
    with pytest.raises(CohortError, match="at least 4 sites"):
        site_split.site_folds(labels, sites, 4)
    with pytest.raises(ParameterError, match="at least two folds"):
        site_split.site_folds(labels, sites, 1)
    lost = sites.assign(site_id=sites["site_id"].where(sites.index > 0))
    with pytest.raises(CohortError, match=rf"The site of 1 of {len(sites)} patients is unknown.*P00000"):
        site_split.site_folds(labels, lost, 2)
    twice = pd.concat([sites, sites.iloc[:1].assign(site_id="S02")])
    with pytest.raises(CohortError, match=r"1 patients belong to two sites.*P00000"):
        site_split.site_folds(labels, twice, 2)


def example(scheme="patient"):
    labels, sites, tiles = cohort()
    if scheme == "site":
        return site_split.site_folds(labels, sites, 2, 1).splits, dict(sites.itertuples(index=False))
    return folds.unit_folds(tiles, labels, scheme, 2, 1), None


@pytest.mark.parametrize("scheme", ["tile", "slide", "patient", "site"])
def test_a_split_file_gives_the_table_back(tmp_path, scheme):
    frame, sites = example(scheme)
    first = files.write_split(tmp_path / "a.json", frame, genes=GENES, sites=sites)
    mixed = frame.sample(frac=1, random_state=0)
    assert first == files.write_split(tmp_path / "b.json", mixed, genes=GENES[::-1], sites=sites)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    expected = contract.conform(frame, schemas.SPLITS)
    pd.testing.assert_frame_equal(files.read_split(tmp_path / "a.json"), expected)
    labels, _, tiles = cohort()
    shared = folds.unit_shares(tiles, labels, "patient")
    files.write_split(tmp_path / "s.json", shared, shares=(0.7, 0.15, 0.15))
    pd.testing.assert_frame_equal(files.read_split(tmp_path / "s.json"), contract.conform(shared, schemas.SPLITS))


def test_pseudonyms_hide_names_and_still_find_them(tmp_path):
    frame, _ = example()
    path = tmp_path / "h.json"
    files.write_split(path, frame, salt="pepper")
    text = path.read_text()
    assert not any(unit in text for unit in frame["unit_id"])
    assert set(files.read_split(path)["unit_id"]) == {files.pseudonym(u, "pepper") for u in frame["unit_id"]}
    names = [*frame["unit_id"], "somebody else"]
    pd.testing.assert_frame_equal(files.read_split(path, names=names), contract.conform(frame, schemas.SPLITS))
    with pytest.raises(ParameterError, match=r"None of \d+ names"):
        files.read_split(path, names=["somebody else"])


def swap(document):
    unit = next(u for u in document["units"] if u["roles"] == ["train", "test"])
    unit["roles"] = ["test", "train"]


def drop(document):
    document["units"] = document["units"][1:]


def seed(document):
    document["seed"] = 2


def genes(document):
    document["genes"] = ["A"]


def hashes(document):
    document["hashes"][1] = "0" * 16


def forge(document):
    """Somebody who changes a role and every digest, but not the signature."""
    swap(document)
    document["digests"] = files.signed(document)["digests"]


@pytest.mark.parametrize(
    ("edit", "says"),
    [(swap, r"units \(roles of fold 0, 1\)"), (drop, r"units \(roles"), (seed, "in: seed"), (genes, "in: genes"),
     (hashes, "in: hashes"), (forge, "in: its signature")],
)  # fmt: skip
def test_an_edited_file_is_refused_and_says_where(tmp_path, edit, says):
    path = tmp_path / "s.json"
    files.write_split(path, example()[0], genes=GENES)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"was edited after it was signed.*{says}"):
        files.read_split(path)


def test_reformatting_is_no_edit_and_a_divided_site_is_refused_even_when_signed(tmp_path):
    path = tmp_path / "s.json"
    files.write_split(path, example()[0])
    before = files.read_split(path)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(json.loads(path.read_text())).encode())
    pd.testing.assert_frame_equal(files.read_split(path), before)
    frame, sites = example("site")
    path = tmp_path / "s.json"
    files.write_split(path, frame, sites=dict.fromkeys(sites, "one site"))
    with pytest.raises(CohortError, match="A site has two roles"):
        files.read_split(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "cannot be read as JSON"), ("[]", "is no split file"), ('{"kind": "deeplrhe split"}', "another version"),
     ('{"kind": "deeplrhe split", "version": 1}', "lacks scheme")],
)  # fmt: skip
def test_what_is_no_split_file(tmp_path, text, says):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=says):
        files.read_split(tmp_path / "x.json")
    with pytest.raises(InputError, match="is not there"):
        files.read_split(tmp_path / "y.json")


def test_what_cannot_be_written(tmp_path):
    frame, _ = example()
    with pytest.raises(CohortError, match="no role in some fold"):
        files.write_split(tmp_path / "x.json", frame[(frame["fold"] == 0) | (frame["role"] == "test")])
    with pytest.raises(ParameterError, match="empty salt"):
        files.write_split(tmp_path / "x.json", frame, salt="")


def test_samples_of_one_patient_go_together():
    """A tumour and normal tissue of the same person are two units with two classes, never on two sides."""
    units = [f"TCGA-05-{4000 + i}-{code}" for i in range(30) for code in ("01", "11")]
    rows = [(u, g, int((g == "normal") == u.endswith("11"))) for u in units for g in ("normal", "adenocarcinoma")]
    labels = pd.DataFrame(rows, columns=["patient_id", "gene", "status"])
    found = folds.patient_folds(labels, 3, seed=2)
    folds.check_split(found)
    for frame in (found, folds.with_validation(found, labels, 0.2, seed=2)):
        person = frame["unit_id"].str[:12]
        assert frame.groupby(["fold", person])["role"].nunique().eq(1).all()
    assert found[found["role"] == "test"].groupby("fold").size().tolist() == [20, 20, 20]


def test_a_sample_is_tested_in_the_fold_of_its_patient():
    barcodes = [f"TCGA-05-{i:04d}" for i in range(8)]
    splits = folds.splits_table("patient", np.array(barcodes[:6]), np.arange(6) % 2, 2, 1)
    samples = [f"{one}-{kind}" for one in barcodes for kind in ("01", "11")]
    labels = pd.DataFrame({"patient_id": samples, "gene": "normal", "status": 1})
    own, apart = folds.samples_apart(labels, splits, 1)
    assert set(own["patient_id"]) == set(samples[:12]), "two patients have no fold"
    test = apart[apart["role"] == "test"].set_index("unit_id")["fold"]
    assert all(test[name] == barcodes.index(name[:12]) % 2 for name in samples[:12]) and len(test) == 12
    assert [len(table) for table in folds.samples_apart(labels.iloc[:0], splits, 1)] == [0, 0]
