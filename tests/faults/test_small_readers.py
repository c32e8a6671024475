"""Readers of foreign files read damaged ones or refuse them by name: nothing escapes, hangs or fills the memory."""

import pytest

from tests.faults.fuzz_reader import READERS, fuzz_small

FEW, MANY = 200, 10_000


def check(folder, name, files):
    counts, findings = fuzz_small(folder, name, seed=3, files=files)
    assert findings == [] and sum(counts.values()) == files, counts
    assert len(counts) > 1, "the mutations reach more than one outcome"


@pytest.mark.parametrize("name", sorted(READERS))
def test_damaged_files_are_read_or_refused(tmp_path, name):
    check(tmp_path, name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(READERS))
def test_ten_thousand_damaged_files_are_read_or_refused(tmp_path, name):
    check(tmp_path, name, MANY)
