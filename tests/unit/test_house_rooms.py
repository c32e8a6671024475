"""The package's rooms: who may import whom, how heavy the door is, how long a module may be."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import deeplrhe_utils
from deeplrhe_utils.core.paths import NOTEBOOKS

PACKAGE = Path(deeplrhe_utils.__file__).parent
ROOMS = ("core", "acquisition", "slides", "stain", "learning", "evaluation", "reporting", "running")
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE = 350
DOORS = {"__init__.py", "__main__.py"}  # of the package itself: outside every room


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(tree: ast.AST) -> list[tuple[str, str, int]]:
    """(module, name, line) of every import of ours; name is '' for ``import module``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import: rooms are named in full"
            found += [(node.module or "", alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "", node.lineno) for alias in node.names]
    return [item for item in found if item[0].split(".")[0] == "deeplrhe_utils"]


def room(module: str, name: str = "") -> str:
    parts = [*module.split("."), name]
    return parts[1] if len(parts) > 1 else ""


def test_the_rooms_are_those_of_the_house():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ROOMS)
    assert {path.name for path in PACKAGE.glob("*.py")} == DOORS


def test_a_room_imports_rooms_to_its_left_only():
    wrong = []
    for path in (m for m in MODULES if m.parent != PACKAGE):
        here = path.relative_to(PACKAGE).parts[0]
        for module, name, line in imported(ast.parse(path.read_text(encoding="utf-8"))):
            there = room(module, name)  # none for ``import deeplrhe_utils`` for its version
            if there in ROOMS and ROOMS.index(there) > ROOMS.index(here):
                wrong.append(f"{name_of(path)}, line {line}: {here} must not import {there}")
    assert not wrong, "\n".join(wrong)


def test_no_private_name_crosses_a_wall():
    wrong = []
    for path in MODULES:
        here = path.relative_to(PACKAGE).parts[0]
        for module, name, line in imported(ast.parse(path.read_text(encoding="utf-8"))):
            private = any(part.startswith("_") for part in (*module.split("."), name))
            if private and room(module, name) != here:
                wrong.append(f"{name_of(path)}, line {line}: {module}.{name}")
    assert not wrong, "\n".join(wrong)


def test_notebooks_use_no_private_name():
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in (c for c in cells if c["cell_type"] == "code"):
            for module, name, _ in imported(ast.parse("".join(cell["source"]))):
                private = [part for part in (*module.split("."), name) if part.startswith("_")]
                assert not private, f"{path.name}: {private}"


@pytest.mark.parametrize("module", ["deeplrhe_utils", "deeplrhe_utils.running.cli"])
def test_the_door_is_light(module):
    """A fresh interpreter loads neither torch nor OpenSlide, and prints nothing."""
    code = f"import sys, {module}; sys.exit(','.join({{'torch', 'openslide', 'cv2', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr.strip()) == ("", ""), f"{module} loads {done.stderr}"


def test_modules_stay_short():
    long = {name_of(path): n for path in MODULES if (n := code_lines(path)) > LONGEST_MODULE}
    assert not long, f"a module of more than {LONGEST_MODULE} lines of code is two modules"


def code_lines(path: Path) -> int:
    """Lines of a module that are neither blank, comment nor docstring."""
    text, told = path.read_text(encoding="utf-8"), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            told |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(i not in told and bool(line.strip()) and not line.strip().startswith("#") for i, line in lines)
