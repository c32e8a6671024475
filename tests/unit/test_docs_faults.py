"""docs/faults.md names tests that are there."""

import re

from deeplrhe_utils.core.paths import REPOSITORY


def test_each_kind_of_fault_names_tests_that_exist():
    page = (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8")
    files = list((REPOSITORY / "tests").rglob("test_*.py"))
    defined = {
        name for path in files for name in re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.MULTILINE)
    }
    rows = [row for row in page.splitlines() if row.startswith("|") and not re.match(r"\|(---|\s*Kind)", row)]
    for row in rows:
        named = re.findall(r"`(test_\w+)(\.py)?`", row)
        assert named, row
        for name, ending in named:
            assert name in ({path.stem for path in files} if ending else defined), name
    assert len(rows) >= 40
