"""Which results a notebook takes that is opened by hand."""

import pytest

from deeplrhe_utils.running.stage import results


def test_without_a_run_a_copy_of_the_committed_demo_is_worked_in(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "REPORTS", tmp_path)
    tables = tmp_path / "demo" / "tables"
    tables.mkdir(parents=True)
    (tables / "tiles.parquet").write_text("committed")
    for _ in range(2):
        assert results.results_folder("", "tiles") == "reports/demo-copy"
        assert "stays as it is" in capsys.readouterr().out
        (tmp_path / "demo-copy" / "tables" / "tiles.parquet").write_text("changed")
    assert (tables / "tiles.parquet").read_text() == "committed"
    (tmp_path / "smoke" / "tables").mkdir(parents=True)
    (tmp_path / "smoke" / "tables" / "tiles.parquet").touch()
    assert results.results_folder("", "tiles") == "reports/smoke"


@pytest.mark.parametrize("run_dir", ["reports/mine", "reports/demo"])
def test_a_run_that_is_named_is_taken(run_dir):
    assert results.results_folder(run_dir, "tiles") == run_dir
