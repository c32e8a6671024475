"""What a stage's new attempt deletes, what it keeps, and whose processes it may end."""

import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from deeplrhe_utils.core.files import sha256_file, write_json
from deeplrhe_utils.running.machine import lock
from deeplrhe_utils.running.stage.state import CHANGED, Record, forget, outputs_file, record_file


@pytest.fixture
def run(tmp_path):
    """A run whose stage 07 left two files; a colleague's third lies beside them."""
    root = tmp_path / "run"
    (root / "heatmaps").mkdir(parents=True)
    for name in ("a.geojson", "b.parquet", "notes.txt"):
        (root / "heatmaps" / name).write_text(f"as written: {name}")
    written = [f"heatmaps/{name}" for name in ("a.geojson", "b.parquet")]
    record = Record("key", "finished", 1.0, 1, {}, {n: sha256_file(root / n) for n in written}, {})
    write_json(record_file(root, "07"), asdict(record))
    write_json(outputs_file(root, "07"), written)
    return root


def test_an_output_that_somebody_changed_is_kept(run, capsys):
    for content in ("drawn by a pathologist", "drawn again"):
        (run / "heatmaps" / "a.geojson").write_text(content)
        record = record_file(run, "07").read_text()
        forget(run, "07")
        record_file(run, "07").write_text(record)
        assert f"in {CHANGED}/heatmaps/a" in capsys.readouterr().out
    kept = {p.name: p.read_text() for p in (run / CHANGED / "heatmaps").iterdir()}
    assert kept == {"a.geojson": "drawn by a pathologist", "a-2.geojson": "drawn again"}
    assert [p.name for p in (run / "heatmaps").iterdir()] == ["notes.txt"], "what was not changed is forgotten"


def test_a_record_cannot_move_files_from_elsewhere(run, tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("not ours")
    record = Record("key", "finished", 1.0, 1, {}, {"../outside.txt": "0" * 64}, {})
    write_json(record_file(run, "07"), asdict(record))
    forget(run, "07")
    assert outside.read_text() == "not ours" and not (run / CHANGED).exists()


def test_a_copied_run_folder_does_not_end_the_originals_kernel(run, tmp_path):
    kernel = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        for folder, ended in ((tmp_path / "original", []), (run, [kernel.pid])):
            state = {
                **lock._identity(os.getpid()),
                "kernels": {"05-a": lock._identity(kernel.pid)},
                "folder": str(folder),
            }
            write_json(run / lock._HOLDER, state)
            assert lock.end_leftovers(run) == ended
    finally:
        kernel.kill()
        kernel.wait()
