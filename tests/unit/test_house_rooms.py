"""What `make lint` cannot see of the rooms: names that mean one thing, doors that are light, a map that is true."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import deeplrhe_utils
from deeplrhe_utils.core.paths import REPOSITORY

PACKAGE = Path(deeplrhe_utils.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = [path.parent for path in MODULES if path.name == "__init__.py"]
LONGEST_MODULE = 350  # lines of code
MOST_ENTRIES = 8
FLAT = {"running/commands", "running/jobs"}  # one module a command: their length is the number of commands
NOT_MODULES = {"__pycache__", "static", "__init__.py", "__main__.py"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def entries(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir() if path.name not in NOT_MODULES)


def code_lines(path: Path) -> int:
    """As `make size` counts them."""
    return runpy.run_path(str(REPOSITORY / ".ci" / "size.py"))["count"](path)[0]


def test_a_room_and_a_wing_can_be_held_in_the_head():
    crowded = {name_of(p): len(entries(p)) for p in PACKAGES[1:] if len(entries(p)) > MOST_ENTRIES}
    assert set(crowded) <= FLAT, f"more than {MOST_ENTRIES} entries: divide it"
    long = {name_of(path): n for path in MODULES if (n := code_lines(path)) > LONGEST_MODULE}
    assert not long, f"a module of more than {LONGEST_MODULE} lines of code is two modules"


def test_every_room_says_what_lives_in_it():
    for room in entries(PACKAGE):
        said = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert len(said.splitlines()) <= 11, f"{room} says it in ten lines"
        named = set(re.findall(r"`(\w+)`", said)) - {"static"}
        assert named == set(entries(PACKAGE / room)), f"{room}: what it names, and what is there"


def public_names(path: Path) -> set[str]:
    """Names that a module defines at its top; type variables and entry points of programs mean nothing outside it."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and not ast.unparse(node.value).startswith("TypeVar("):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    shared = {"main", "run", "add_parser"}  # programs, and what every command has
    return {name for name in found - shared if not name.startswith("_")}


def test_a_public_name_means_one_thing_in_the_whole_package():
    places = defaultdict(list)
    for path in MODULES:
        for name in public_names(path):
            places[name].append(name_of(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("module", ["deeplrhe_utils", "deeplrhe_utils.running.commands.cli"])
def test_the_door_is_light(module):
    """A fresh interpreter loads neither torch nor OpenSlide, and prints nothing."""
    code = f"import sys, {module}; sys.exit(','.join({{'torch', 'openslide', 'cv2', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr.strip()) == ("", ""), f"{module} loads {done.stderr}"
