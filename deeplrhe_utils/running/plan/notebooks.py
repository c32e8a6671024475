"""Notebooks as stages: finding them, reading their parameters, cleaning executed copies."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.files import read_json, sha256_text, to_json, write_text
from deeplrhe_utils.core.text import visible
from deeplrhe_utils.running.plan.parameters import Parameter, parse_parameters

_FILE = re.compile(r"^(\d\d)-[a-z0-9-]+\.ipynb$")
_KERNEL_TEMPORARY = re.compile(r"(?:/[\w.+-]+)+/ipykernel_\d+/\d+\.py")
_ANSI = r"\x1b\[[0-9;]*m"


@dataclass(frozen=True)
class Stage:
    """One numbered notebook.

    ``source_hash`` covers the sources of all cells, not outputs or metadata. ``code`` is that of all code cells,
    without lines of magic.
    """

    number: str
    name: str
    path: Path
    parameters: dict[str, Parameter]
    source_hash: str
    code: str


def find_stages(folder: Path) -> list[Stage]:
    """All notebooks ``NN-name.ipynb`` of `folder`, in order.

    Raises InputError: when the folder holds none, a file is no notebook, or two share a number.
    """
    stages = [read_stage(path) for path in sorted(folder.glob("*.ipynb")) if _FILE.match(path.name)]
    if not stages:
        raise InputError(f"There is no notebook NN-name.ipynb in {folder}")
    numbers = [stage.number for stage in stages]
    if repeated := {n for n in numbers if numbers.count(n) > 1}:
        raise InputError(f"Two notebooks in {folder} share a number", got=", ".join(sorted(repeated)))
    return stages


def read_stage(path: Path) -> Stage:
    """Read one notebook's parameters and source hash."""
    try:
        cells = read_json(path)["cells"]
        sources = [(cell["cell_type"], _joined(cell["source"])) for cell in cells]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path.name} is not a readable notebook", got=f"{type(error).__name__}: {error}") from error
    tagged = [c for c in cells if c["cell_type"] == "code" and "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        what = f"{path.name} must have exactly one code cell tagged `parameters`"
        raise ParameterError(what, got=len(tagged), fix="Tag the cell in JupyterLab: property inspector, cell tags")
    parameters = {p.name: p for p in parse_parameters(_joined(tagged[0]["source"]), path.name)}
    lines = [line for kind, source in sources if kind == "code" for line in source.splitlines()]
    code = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
    return Stage(path.name[:2], path.stem, path, parameters, sha256_text(to_json(sources)), code)


_PROGRESS: Final = re.compile(r"^.+: (?:\d+/\d+, about .+ left|(\d+)/\1)\s*$")
"""Lines of `Countdown`: they say how fast a machine was, and no run repeats them."""


def clean_executed(source: Path, target: Path, run_folder: Path, repository: Path) -> Path:
    """Copy an executed notebook without traces of this machine; atomic.

    Dropped: widget state, papermill's and the kernel's timing metadata, lines of progress. In text outputs and in the
    injected parameters, paths below the repository become relative and other private prefixes
    become ``<run>``, ``<python>`` or ``~``; control and direction characters in outputs become escapes.
    Nothing else changes.
    """
    import nbformat

    notebook = nbformat.read(source, as_version=4)
    clean = path_cleaner(run_folder, repository)
    for key in ("widgets", "papermill"):
        notebook.metadata.pop(key, None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = clean(cell.source)
        outputs = cell.get("outputs", [])
        for output in outputs:
            _clean_output(output, lambda text: visible(clean(text)))
            if output["output_type"] == "stream":
                lines = output["text"].splitlines(keepends=True)
                output["text"] = "".join(line for line in lines if not _PROGRESS.match(line))
        if outputs:
            cell.outputs = [o for o in outputs if o["output_type"] != "stream" or o["text"].strip()]
    return write_text(target, nbformat.writes(notebook) + "\n")


def path_cleaner(run_folder: Path, repository: Path) -> Callable[[str], str]:
    """A function that removes this machine's folders from a text."""
    names = _private_folders(run_folder, repository)
    ordered = sorted(names, key=len, reverse=True)
    # an ANSI colour ends with a letter, so "not after a word character" needs the exception
    before = rf"(?P<before>^|[^\w.-]|{_ANSI}|\\n)"
    pattern = re.compile(before + "(?P<path>" + "|".join(map(re.escape, ordered)) + r")(?:(?P<slash>/)|(?![\w-]|\.\w))")

    def tidy(text: str) -> str:
        text = _KERNEL_TEMPORARY.sub("<cell>", text)
        return pattern.sub(lambda m: m["before"] + _replacement(names[m["path"]], bool(m["slash"])), text)

    return tidy


def _private_folders(run_folder: Path, repository: Path) -> dict[str, str]:
    inside = run_folder.is_relative_to(repository)
    run = run_folder.relative_to(repository).as_posix() if inside else "<run>"
    pairs = [(Path.home(), "~"), (Path(sys.prefix), "<python>"), (Path(sys.base_prefix), "<python>")]
    pairs += [(repository, ""), (run_folder, run)]
    names = {str(form): new for path, new in pairs for form in (path, Path(os.path.realpath(path)))}
    return {path: new for path, new in names.items() if len(Path(path).parts) > 1 and path != "/usr"}


def _replacement(new: str, slash: bool) -> str:
    if not new:
        return "" if slash else "<repository>"
    return new + "/" * slash


def _clean_output(output: Any, tidy: Callable[[str], str]) -> None:
    if "text" in output:
        output["text"] = tidy(_joined(output["text"]))
    if output.get("output_type") == "error":
        output["evalue"] = tidy(output["evalue"])
        output["traceback"] = [tidy(line) for line in output["traceback"]]
    for kind in ("text/plain", "text/html", "text/markdown"):
        if kind in output.get("data", {}):
            output["data"][kind] = tidy(_joined(output["data"][kind]))
    if output.get("metadata", {}).get("papermill"):
        output["metadata"].pop("papermill")


def _joined(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)
