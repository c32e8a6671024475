"""The two commands: what they run, and an environment that is built once, whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deeplrhe_utils.core.paths import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
PROMISED = {"reproduce", "test", "help", "lab", "smoke", "demo", "bench", "html", "lint", "format", "lock"}
PROMISED |= {"environment", "clean", "distclean", "test-all", "size", "release", "lean"}
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def load_builder():
    spec = importlib.util.spec_from_file_location("build_venv", REPOSITORY / ".ci" / "build_venv.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def builder(monkeypatch):
    """The builder with steps that are written down instead of run."""
    module = load_builder()
    module.steps = []

    def step(command: list[str], root: Path, log: Path) -> None:
        if module.fail_at in command:
            raise module.InstallError("no network")
        module.steps.append(command)
        if "venv" in command:
            python = root / ".venv" / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()

    module.fail_at = "nothing"
    monkeypatch.setattr(module, "_step", step)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "requirements.lock").write_text("a==1\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    return tmp_path


def kinds(builder) -> list[str]:
    words = {"venv": "venv", "--require-hashes": "lock", "-e": "package"}
    return [next(words[w] for w in command if w in words) for command in builder.steps]


def test_the_second_call_installs_nothing(builder, root):
    assert builder.build(root) and kinds(builder) == ["venv", "lock", "package"]
    assert not builder.build(root) and len(builder.steps) == 3


def test_the_lock_is_installed_with_hashes_and_the_package_without_fetching(builder, root):
    builder.build(root)
    assert builder.steps[1][-4:] == ["install", "--require-hashes", "-r", "requirements.lock"]
    assert builder.steps[2][-5:] == ["install", "--no-deps", "--no-build-isolation", "-e", "."]


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_list_is_installed_into_the_same_environment(builder, root, name):
    builder.build(root)
    (root / name).write_text("changed\n", encoding="utf-8")
    assert builder.build(root) and kinds(builder)[3:] == ["lock", "package"]


@pytest.mark.parametrize("fail_at", ["--require-hashes", "-e"])
def test_a_failed_installation_leaves_no_stamp_and_starts_again(builder, root, fail_at):
    builder.fail_at = fail_at
    with pytest.raises(builder.InstallError):
        builder.build(root)
    assert not (root / ".venv" / ".installed").exists()
    builder.fail_at, builder.steps = "nothing", []
    assert builder.build(root) and kinds(builder) == ["venv", "lock", "package"]


def test_a_failed_update_leaves_no_stamp(builder, root):
    builder.build(root)
    (root / "requirements.lock").write_text("b==2\n", encoding="utf-8")
    builder.fail_at = "-e"
    with pytest.raises(builder.InstallError):
        builder.build(root)
    assert not (root / ".venv" / ".installed").exists()


def test_another_interpreter_or_a_moved_folder_gets_a_new_environment(builder, root):
    builder.build(root)
    stamp = root / ".venv" / ".installed"
    stamp.write_text("key-of-then base-of-elsewhere\n", encoding="utf-8")
    assert builder.build(root) and kinds(builder)[3:] == ["venv", "lock", "package"]


def test_a_failing_step_shows_the_end_of_its_log(tmp_path):
    module = load_builder()
    command = ["sh", "-c", "for i in $(seq 99); do echo line $i; done; exit 3"]
    with pytest.raises(module.InstallError) as error:
        module._step(command, tmp_path, tmp_path / "log")
    assert "line 99" in str(error.value) and "line 1\n" not in str(error.value)


def test_continuous_integration_is_make_test():
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail" and lines[-1] == "exec make test" and len(lines) == 3


def test_make_test_runs_all_checks_on_everything():
    needs, recipe = re.search(r"^test:(.*?)#.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE).groups()
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]
    for check in ("ruff check --quiet .", "ruff format --check --quiet .", "-m mypy", "lint-imports"):
        assert check in lint, f"make lint does not run {check}"
    assert "lint" in needs.split() and "-m pytest -q $(TESTS)" in recipe
    assert not re.search(r"-k |-m ['\"]?not|--ignore|--deselect|\|\| true", lint + recipe), "something is left out"


@needs_make
def test_help_is_the_default_and_lists_every_promised_target():
    done = subprocess.run(["make", "-C", str(REPOSITORY)], capture_output=True, text=True, timeout=60, check=True)
    assert set(re.findall(r"^  make ([a-z-]+) ", done.stdout, re.MULTILINE)) >= PROMISED


@needs_make
def test_an_unsuitable_interpreter_is_refused_with_a_sentence(tmp_path):
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    for python, word in ((str(old), "Python 3.9.1, and 3.11 or newer is needed"), ("no-such-python", "There is no")):
        command = ["make", "-C", str(REPOSITORY), "environment", f"PYTHON={python}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode and word in done.stderr


@needs_make
def test_clean_removes_runs_and_caches_and_keeps_the_committed_demo(tmp_path):
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    kept = ["reports/demo/tables/a.csv", "reports/demo/index.html", "reports/paper_map.csv", ".venv/lib/__pycache__/a",
            "reports/lc25000/run.json", "reports/lc25000/tables/a.csv"]  # fmt: skip
    gone = [
        "reports/lc25000/work/a",
        "reports/lc25000/figures_of_tiles/a.png",
        "reports/lc25000/.lock",
        "reports/smoke/index.html",
        "reports/demo/work/a",
        "reports/demo/stages/a",
        "pkg/__pycache__/a",
        "build/a",
    ]
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for _ in range(2):  # the second call finds nothing to do
        subprocess.run(["make", "-C", str(tmp_path), "clean"], capture_output=True, timeout=60, check=True)
    assert [name for name in kept + gone if (tmp_path / name).exists()] == kept
