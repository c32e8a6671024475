"""Fixtures shared by all tests: the real data when it is there, and small synthetic slides."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deeplrhe_utils.core.paths import REPOSITORY

# before torch is loaded: tests share the machine
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
SHARED_DATA = (REPOSITORY / ".." / "shared" / "data").resolve()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data that is not part of the repository; the test is skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data (../shared/data beside the checkout) is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def small_plan():
    """A dozen planned slides of 3 × 2 tiles of 128 px: a fraction of a second each."""
    from deeplrhe_utils.synthetic.publish import CohortSpec, plan_cohort

    return plan_cohort(CohortSpec(n_slides=12, seed=7, grid_columns=3, grid_rows=2, tile_px=128, artefact_rate=0))


@pytest.fixture(scope="session")
def slide_factory(small_plan, tmp_path_factory) -> Callable[[int], Path]:
    """``slide_factory(20)`` or ``slide_factory(40)``: the first synthetic slide of that objective."""
    from deeplrhe_utils.synthetic.publish import write_slide

    folder = tmp_path_factory.mktemp("slides")

    def make(objective: int = 20) -> Path:
        chosen = small_plan.slides.loc[small_plan.slides["objective"] == objective, "slide_id"]
        return write_slide(small_plan, chosen.iloc[0], folder)

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One torch thread: on small pictures more of them wait for each other, for minutes on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small(tmp_path):
    """A tile store of six patients, its table and its targets (see tests/tile_store.py)."""
    from tests.tile_store import small_store

    return small_store(tmp_path)
