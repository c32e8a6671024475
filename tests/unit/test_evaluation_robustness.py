"""The robustness index: croma's to the last digit, one half of nothing, low where sites rule, high where classes do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import CohortError
from deeplrhe_utils.evaluation.referee.robustness import nearest, robustness_index


def cohort(site=0.0, kind=0.0, patients=60, each=4, seed=1, dims=12):
    """Vectors of patients of two classes at five sites, moved along their site's and their class's own direction."""
    random = np.random.default_rng(seed)
    names = np.array([f"P{i:03d}" for i in range(patients)])
    classes, sites = np.arange(patients) % 2, random.permutation(np.arange(patients) % 5)
    axes = random.normal(size=(7, dims))
    middle = random.normal(size=(patients, dims)) + site * axes[sites] + kind * axes[5 + classes]
    rows = np.repeat(middle, each, axis=0) + 0.3 * random.normal(size=(patients * each, dims))
    features = pd.DataFrame(rows, index=np.repeat(names, each))
    return features, pd.Series(classes, names).map({0: "a", 1: "b"}), pd.Series(sites, names).astype(str)


@pytest.mark.parametrize(("site", "kind"), [(0, 0), (1, 1), (3, 0.5), (0.2, 3)])
@pytest.mark.parametrize("ks", [(5,), (3, 9, 25)])
def test_the_index_and_its_k_are_those_of_croma(site, kind, ks):
    croma = pytest.importorskip("croma", reason="croma is not installed")
    features, classes, sites = cohort(site, kind)
    owner = features.index
    named = [f"s{i}" for i in range(len(owner))]
    manifest = pd.DataFrame({"dataset": "d", "image_path": named, "sample_id": named, "group_id": owner})
    manifest = manifest.assign(label=classes[owner].to_numpy(), center=sites[owner].to_numpy())
    theirs = croma.RobustnessIndex.compute(features.to_numpy(), manifest, confounder_column="center", k_candidates=ks)
    ours = robustness_index(features, classes, sites, ks=ks, draws=8)
    assert ours["k"] == theirs.k
    assert ours["index"] == pytest.approx(theirs.value, abs=1e-9)


def test_it_falls_as_sites_grow_stronger_and_rises_with_the_class():
    by_site = [robustness_index(*cohort(s, 1.0), draws=50)["index"] for s in (0, 1, 2, 4)]
    by_class = [robustness_index(*cohort(1.0, c), draws=50)["index"] for c in (0, 1, 2, 4)]
    assert by_site == sorted(by_site, reverse=True) and by_site[0] - by_site[-1] > 0.2
    assert by_class == sorted(by_class)


def test_the_p_of_cohorts_without_sites_is_uniform_and_strong_sites_are_found():
    p = np.array([robustness_index(*cohort(0, 0.3, 40, 2, seed), draws=99)["p"] for seed in range(200)])
    assert 0.015 <= (p <= 0.05).mean() <= 0.095 and 0.4 < p.mean() < 0.6
    assert robustness_index(*cohort(3, 1.0), draws=200)["p"] < 0.01


def test_neighbours_are_found_by_cosine_among_other_groups_only():
    random = np.random.default_rng(0)
    x, groups = random.normal(size=(50, 4)), np.arange(50) // 3
    near = nearest(x, groups, 6)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i in range(50):
        other = np.flatnonzero(groups != groups[i])
        order = other[np.argsort(-(unit[i] @ unit[other].T))][:6]
        assert near.others[i].tolist() == order.tolist() and near.found[i] == 6


def test_patients_without_class_or_site_are_counted_and_one_site_is_refused():
    features, classes, sites = cohort(1, 1)
    classes.iloc[:3], sites.iloc[5] = None, None
    found = robustness_index(features, classes, sites, draws=10)
    assert (found["patients"], found["left_out"], found["vectors"]) == (56, 4, 224)
    with pytest.raises(CohortError, match="two sites"):
        robustness_index(features, classes, sites.map(lambda _: "x"))
