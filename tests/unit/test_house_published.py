"""What is committed of others' tables are aggregates, and the scripts that made them give the same from the lists."""

from __future__ import annotations

import importlib
import re
import sys

import pandas as pd
import pytest

from deeplrhe_utils.core.paths import REFERENCE_DATA, REPOSITORY


@pytest.fixture(scope="module")
def splits():
    return pd.read_csv(REFERENCE_DATA / "published_splits.csv")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    yield importlib.import_module
    for name in ("_harness", "published_splits", "published_tables"):
        sys.modules.pop(name, None)


def test_the_published_splits_are_those_of_the_lists(splits, script, shared_data):
    found = script("published_splits").published_splits(shared_data)
    pd.testing.assert_frame_equal(found, splits.drop(columns="date"))


@pytest.mark.parametrize("name", ["label_agreement", "table1_checks"])
def test_the_aggregates_are_those_of_the_tables(name, script, shared_data):
    found = script("published_tables").TABLES[name](shared_data)
    committed = pd.read_csv(REFERENCE_DATA / f"{name}.csv").drop(columns="date")
    pd.testing.assert_frame_equal(found, committed, check_dtype=False)


@pytest.mark.parametrize("name", ["published_splits", "label_agreement", "table1_checks"])
def test_no_patient_is_named(name):
    assert not re.search(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}|C3[LN]-\d", (REFERENCE_DATA / f"{name}.csv").read_text())


def test_published_splits_hold_shares(splits):
    assert splits["low"].le(splits["mean"]).all() and splits["mean"].le(splits["high"]).all()
    assert splits[["low", "high"]].stack().between(0, 1).all() and splits["patients"].lt(splits["slides"]).all()


def test_the_default_of_prov_gigapath_gives_every_slide_one_role(script):
    import numpy as np

    role = script("published_splits").gigapath_default(np.ones(1345), np.random.default_rng(0))
    assert pd.Series(role).value_counts().to_dict() == {"train": 941, "test": 270, "valid": 134}
