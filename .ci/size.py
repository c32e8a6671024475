"""Lines of code, docstrings and modules, room by room. Run by ``make size``. Standard library only."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTED = (ast.Module, ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)


def count(path: Path) -> tuple[int, int]:
    """Lines of code (no docstring, comment or blank line) and lines of docstrings of one file."""
    text = path.read_text(encoding="utf-8")
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            documented |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    code = sum(1 for number, line in lines if number not in documented and line.strip() and line.strip()[0] != "#")
    return code, len(documented)


def table(folder: str) -> list[tuple[str, int, int, int]]:
    """(room, modules, lines of code, lines of docstrings) of each room, and a last row for all."""
    rows: dict[str, list[int]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT / folder).parts
        row = rows.setdefault(parts[0] if len(parts) > 1 else "(top)", [0, 0, 0])
        code, documented = count(path)
        row[0] += path.name != "__init__.py"
        row[1] += code
        row[2] += documented
    total = [sum(row[i] for row in rows.values()) for i in range(3)]
    return [(room, *row) for room, row in [*rows.items(), ("all", total)]]  # type: ignore[misc]


def main() -> None:
    """Print both tables."""
    for folder in ("deeplrhe_utils", "tests"):
        print(f"{folder:16}{'modules':>9}{'code':>9}{'docstrings':>12}")
        for room, modules, code, documented in table(folder):
            print(f"  {room:14}{modules:9,}{code:9,}{documented:12,}")


if __name__ == "__main__":
    main()
