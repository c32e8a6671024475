"""Which source files a notebook can reach: what its stage's key covers, so that no other edit makes it run again."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

from deeplrhe_utils.core.files import sha256_file, sha256_text, to_json

DATA: Final = ("data/reference", "data/queries", "reports/paper_map.csv", "benchmarks/results/auc_coverage.csv",
               "benchmarks/results/cross_fitting.csv", "benchmarks/results/probe_cohorts.csv",
               "benchmarks/results/real_artefacts.csv")  # fmt: skip
"""What notebooks read besides tables of earlier stages and their parameters, below the repository."""


class Sources:
    """The source files of a package, each read once.

    Parameters
    ----------
    package : Path
        Its folder, whose name is the package's.
    """

    def __init__(self, package: Path) -> None:
        self.package = package
        self._named = re.compile(rf"{re.escape(package.name)}(\.\w+)*")
        self._needs = cache(self._read)
        self._hash = cache(sha256_file)
        named = (package.parent / name for name in DATA)
        self._data = [p for place in named for p in (place, *place.rglob("*")) if p.is_file()]

    def reached(self, code: str) -> list[Path]:
        """Files that `code` imports, directly or not, wherever in a file the import stands; sorted.

        A string that is a module's name counts as an import: processes are started by such names. Code that is no
        Python (a cell in another language) is taken to reach everything.
        """
        todo, found = self._mentioned(code), set[Path]()
        while todo:
            found |= todo
            todo = {needed for path in todo for needed in self._needs(path)} - found
        return sorted(found)

    def digest(self, code: str) -> str:
        """SHA-256 over the names and contents of what is reached, and of the files that notebooks read from `DATA`."""
        root, files = self.package.parent, {*self.reached(code), *self._data}
        if any(p.parent.name == "viewer" for p in files):
            files |= set(self.package.rglob("static/*"))  # scripts that its widget carries into the executed notebook
        return sha256_text(to_json([[p.relative_to(root).as_posix(), self._hash(p)] for p in sorted(files)]))

    def _read(self, path: Path) -> set[Path]:
        return self._mentioned(path.read_text(encoding="utf-8"))

    def _mentioned(self, code: str) -> set[Path]:
        try:
            nodes = list(ast.walk(ast.parse(code)))
        except SyntaxError:
            return set(self.package.rglob("*.py"))
        names: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
        return {path for name in names if self._named.fullmatch(name) for path in self._files(name)}

    def _files(self, name: str) -> set[Path]:
        """The packages on the way to ``package.room.module.name``, and the module."""
        found, place = {self.package / "__init__.py"}, self.package
        for part in name.split(".")[1:]:
            place = place / part
            found |= {place / "__init__.py", place.with_suffix(".py")}
        return {path for path in found if path.is_file()}
