"""Real ink, folds and blur: the committed counts are those of the rules, and the page shows them."""

import importlib.util
import sys

import pandas as pd
import pytest

from deeplrhe_utils.core.paths import REPOSITORY


@pytest.fixture(scope="module")
def script():
    path = REPOSITORY / "benchmarks" / "real_artefacts.py"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("real_artefacts", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    return module


def test_the_page_shows_the_committed_counts(script):
    page = (REPOSITORY / "docs" / "quality-filter.md").read_text(encoding="utf-8")
    block = page.partition("<!-- real:begin -->\n")[2].partition("\n<!-- real:end -->")[0]
    assert block == script.table(pd.read_csv(script.PATH))


@pytest.mark.parametrize("kind", ["ink", "fold", "blur"])
def test_the_rules_still_give_the_committed_counts(shared_data, script, kind, monkeypatch):
    if kind == "ink":  # as scanned alone; the whole is a benchmark
        monkeypatch.setattr(script, "TREATMENTS", {"as scanned": script.as_scanned})
    found = script.counted(getattr(script, f"{kind}_rows")()).set_index(script.KEY)
    kept = pd.read_csv(script.PATH).set_index(script.KEY)
    kept = kept[kept.index.get_level_values("kind") == kind].loc[found.index, ["tiles", "called"]]
    pd.testing.assert_frame_equal(found, kept, check_dtype=False)
