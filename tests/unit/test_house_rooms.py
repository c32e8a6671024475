"""The package's rooms: who may import whom, how heavy the door is, what every public name must carry."""

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


@pytest.mark.parametrize("path", [m for m in MODULES if m.parent != PACKAGE], ids=name_of)
def test_a_room_imports_rooms_to_its_left_only(path):
    here = path.relative_to(PACKAGE).parts[0]
    for module, name, line in imported(ast.parse(path.read_text(encoding="utf-8"))):
        there = room(module, name)
        if there not in ROOMS:  # ``import deeplrhe_utils`` for its version
            continue
        assert ROOMS.index(there) <= ROOMS.index(here), f"line {line}: {here} must not import {there}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_private_name_crosses_a_wall(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    here = path.relative_to(PACKAGE).parts[0]
    strangers = set()
    for module, name, line in imported(tree):
        if room(module, name) == here:
            continue
        private = [part for part in (*module.split("."), name) if part.startswith("_")]
        assert not private, f"line {line}: {private} is private to {room(module, name)}"
        strangers.add(name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in strangers:
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            assert not private, f"line {node.lineno}: {node.value.id}.{node.attr} is private"


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


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_short(path):
    text = path.read_text(encoding="utf-8")
    told = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            told |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = [line for i, line in enumerate(text.splitlines(), 1) if line.strip() and i not in told]
    code = sum(not line.lstrip().startswith("#") for line in lines)
    assert code <= LONGEST_MODULE, f"{code} lines of code: a module of more than {LONGEST_MODULE} is two modules"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_are_documented_and_typed(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = [] if ast.get_docstring(tree) else ["the module has no docstring"]
    _inspect(tree.body, "", wrong)
    assert not wrong, "\n".join(wrong)


def _inspect(body: list[ast.stmt], owner: str, wrong: list[str]) -> None:
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        dunder = node.name.startswith("__")
        if node.name.startswith("_") and not dunder:
            continue
        name = f"{owner}{node.name} (line {node.lineno})"
        if not dunder and not ast.get_docstring(node):
            wrong.append(f"{name} has no docstring")
        if isinstance(node, ast.ClassDef):
            _inspect(node.body, f"{node.name}.", wrong)
            continue
        wrong += [f"{name}: {argument} has no type" for argument in _untyped(node, bool(owner))]
        if node.returns is None:
            wrong.append(f"{name} does not say what it returns")


def _untyped(node: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> list[str]:
    arguments = [*node.args.posonlyargs, *node.args.args]
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    arguments = arguments[1:] if method and not static else arguments
    arguments += node.args.kwonlyargs + [a for a in (node.args.vararg, node.args.kwarg) if a]
    return [argument.arg for argument in arguments if argument.annotation is None]
