"""What a notebook reads and writes: one object per stage, so that every output is atomic and on record."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import InputError, ParameterError, RunError, SmallCohortError
from deeplrhe_utils.core.files import atomic_path, read_json, write_json
from deeplrhe_utils.core.paths import RunPaths
from deeplrhe_utils.core.tables.contract import Table, read_table, write_table
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.core.tables.schemas import TABLES
from deeplrhe_utils.core.tables.truth import TRUTH_TABLES
from deeplrhe_utils.core.text import human_size, in_markdown
from deeplrhe_utils.running.machine.lock import RUNNER_PID, check_free, claim_run
from deeplrhe_utils.running.machine.process import is_held
from deeplrhe_utils.running.stage.state import alive, begin_by_hand, declared_files, outputs_file, skipped_file

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DEFAULT_RUN_DIR = "reports/smoke"
FIGURE_DPI = 110
FIRST_READER_OF_TRUTH = "08"
_STAGE = re.compile(r"^\d\d-[a-z0-9-]+$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


def run_folder(run_dir: str) -> Path:
    """The absolute run folder: relative names start at the repository root, "" is ``reports/smoke``.

    >>> run_folder("reports/demo").name
    'demo'
    """
    folder = Path(run_dir or DEFAULT_RUN_DIR).expanduser()
    return Path(os.path.normpath(places.REPOSITORY / folder))


def start_run(stage: str, run_dir: str = "") -> _Run:
    """Open the run folder for one stage.

    Parameters
    ----------
    stage : name of the notebook without suffix, such as ``02-tiling``
    run_dir : run folder; relative to the repository root; "" is ``reports/smoke``

    Raises ParameterError: when `stage` is not of the form ``NN-name``, or the folder holds other things than a run.
    InputError: when the folder cannot be written.
    RunError: when another runner works in the folder.
    """
    if not _STAGE.match(stage):
        raise ParameterError("start_run got a malformed stage", got=repr(stage), expected="NN-name, such as 02-tiling")
    root = run_folder(run_dir)
    claim_run(root)
    check_free(root)
    shell = _shell()
    if shell is not None:
        from deeplrhe_utils.reporting.figures.display import safe_tables

        safe_tables(shell)
        if RUNNER_PID not in os.environ:
            begin_by_hand(stage, root, shell.user_ns)
            if not is_held():
                print("This kernel computes at the level of its processor: last digits may differ from those of "
                      "`deeplrhe run` and `make lab`.")  # fmt: skip
        shell.events.register("post_run_cell", lambda *_: alive(root, stage[:2]))
    return _Run(stage, RunPaths(root))


@dataclass
class _Run:
    """One stage at work in one run folder.

    Attributes
    ----------
    stage, number : ``02-tiling`` and ``02``
    paths : folders of the run. Partial results that later attempts may resume from belong in ``paths.work / number``
        and ``paths.models / number`` only: the runner deletes these two folders whenever the stage's code, parameters
        or inputs have changed.
    """

    stage: str
    paths: RunPaths
    _outputs: set[str] = field(default_factory=set)
    _said: dict[str, Any] = field(default_factory=lambda: {"findings": {}, "worries": [], "remember": []})

    @property
    def number(self) -> str:
        """The stage's two digits."""
        return self.stage[:2]

    def relative(self, path: Path | str) -> str:
        """`path` relative to the run folder (POSIX) when inside it, else absolute."""
        absolute = Path(os.path.normpath(self.paths.root / path))
        inside = absolute.is_relative_to(self.paths.root)
        return absolute.relative_to(self.paths.root).as_posix() if inside else absolute.as_posix()

    def resolve(self, text: str) -> Path:
        """The absolute path behind what :meth:`relative` stored."""
        return Path(os.path.normpath(self.paths.root / text))

    def read(self, name: str) -> pd.DataFrame:
        """Read and check the table `name` of the contract (``tables/<name>.parquet``).

        Raises SmallCohortError: it is missing, because the cohort was too small for an earlier stage.
        """
        path = self.paths.tables / f"{name}.parquet"
        if not path.is_file():
            written = re.compile(rf'run\.write\(\\?"{name}\\?"')
            books = sorted(places.NOTEBOOKS.glob("[0-9][0-9]-*.ipynb"))
            owners = [book.name[:2] for book in books if written.search(book.read_text(encoding="utf-8"))]
            self._check_skipped(*(owners or (f"{number:02d}" for number in range(int(self.number)))))
        return read_table(path, _table(name))

    def _check_skipped(self, *numbers: str) -> None:
        for path in (skipped_file(self.paths.root, number) for number in numbers):
            if path.is_file():
                reason = path.read_text(encoding="utf-8").strip()
                raise SmallCohortError(
                    reason if reason.startswith("Stage ") else f"Stage {path.stem} was skipped: {reason}"
                )

    def read_truth(self, name: str) -> pd.DataFrame:
        """Read a truth table of a synthetic cohort (``truth/<name>.parquet``).

        Raises RunError: for stages before 08: a pipeline that could see the truth would prove nothing.
        """
        if self.number < FIRST_READER_OF_TRUTH:
            what = f"Stage {self.number} asks for the planted truth"
            raise RunError(what, expected=f"only notebooks from {FIRST_READER_OF_TRUTH} on read it")
        if name not in TRUTH_TABLES:
            raise ParameterError(f"There is no truth table {name!r}", expected=", ".join(TRUTH_TABLES))
        return read_table(self.paths.truth / f"{name}.parquet", TRUTH_TABLES[name])

    def write(self, name: str, frame: pd.DataFrame) -> Path:
        """Check `frame` against the contract of table `name` and write ``tables/<name>.parquet``."""
        path = self._own(self.paths.tables / f"{name}.parquet")
        return self.declare(write_table(frame, _table(name), path))

    def write_csv(self, name: str, frame: pd.DataFrame) -> Path:
        """Write ``tables/<name>.csv`` (`write_sheet`)."""
        path = self._own(self.paths.tables / f"{_plain(name)}.csv")
        return self.declare(write_sheet(frame, path))

    def figure(self, name: str, fig: Figure, *, exact: bool = False) -> Path:
        """Write ``figures/<name>.png`` and ``.svg``, the same bytes for the same figure; return the PNG.

        The figure stays open, so the notebook can show it. With `exact` a large PNG keeps all its colours: a palette
        fitted to tissue would tint colour scales.
        """
        import matplotlib as mpl

        from deeplrhe_utils.reporting.figures.display import compact_png, compact_svg

        svg = self._own(self.paths.figures / f"{_plain(name)}.svg")
        png = self._own(svg.with_suffix(".png"))
        with atomic_path(png) as part:
            fig.savefig(part, dpi=FIGURE_DPI, bbox_inches="tight", metadata={"Software": None})
            if not exact:
                compact_png(part)
        # without a fixed salt matplotlib names the clip paths at random
        with mpl.rc_context({"svg.hashsalt": "deeplrhe"}), atomic_path(svg) as part:
            fig.savefig(part, bbox_inches="tight", metadata={"Date": None})
            compact_svg(part)
        self.declare(svg)
        return self.declare(png)

    def numbers(self, values: dict[str, Any]) -> Path:
        """Merge named numbers into ``numbers/<stage>.json``; NaN and infinities become null."""
        path = self._own(self.paths.numbers / f"{self.stage}.json")
        known = read_json(path) if self.relative(path) in self._outputs else {}
        write_json(path, {**known, **{str(k): plain_value(v) for k, v in values.items()}})
        return self.declare(path)

    def number_of(self, stage: str, name: str) -> Any:
        """A number another stage wrote.

        Raises InputError: when that stage wrote no numbers, or none of that name. SmallCohortError: as :meth:`read`.
        """
        path = self.paths.numbers / f"{stage}.json"
        if not path.is_file():
            self._check_skipped(stage[:2])
            raise InputError(f"Stage {stage} left no numbers at {path}", fix=f"Run the notebook {stage} first")
        values = read_json(path)
        if name not in values:
            raise InputError(f"Stage {stage} has no number {name!r}", expected=", ".join(sorted(values)) or "none")
        return values[name]

    def found(self, name: str, sentence: str) -> None:
        """Say in one computed sentence what the figure or table `name` shows; page, site and README repeat it."""
        self._said["findings"][name] = _sentence(sentence)
        self.numbers(self._said)
        _show(f"**{in_markdown(sentence)}**")

    def answer(self, happened: bool | None, sentence: str) -> None:
        """Answer the worry above by what this run shows: it happened, it did not, or (None) it cannot be told here."""
        word = "It cannot be told here" if happened is None else f"It {'happened' if happened else 'did not happen'}"
        sentence = _sentence(sentence[:1].upper() + sentence[1:])
        self._said["worries"].append({"happened": happened, "sentence": sentence})
        self.numbers(self._said)
        _show(f"**{word}.** {in_markdown(sentence)}")

    def remember(self, *names: str) -> None:
        """End with the sentences of three findings, or of those of them that this run has."""
        known = self._said["findings"]
        self._said["remember"] = [name for name in names if name in known]
        self.numbers(self._said)
        _show("\n".join(f"{i}. {in_markdown(known[name])}" for i, name in enumerate(self._said["remember"], 1)))

    def title(self) -> str:
        """The title of the profile that the runner works on here; "" where a notebook was opened without it."""
        record = self.paths.root / "run.json"
        return str(read_json(record).get("title", "")) if record.is_file() else ""

    def declare(self, path: Path | str) -> Path:
        """Put a file, or a whole folder, inside the run folder on record as this stage's output.

        Raises RunError: when it does not exist, or lies outside the run folder.
        """
        absolute = self.resolve(str(path))
        if not absolute.is_relative_to(self.paths.root) or absolute == self.paths.root:
            raise RunError(f"Output {absolute} lies outside the run folder", expected=f"a path below {self.paths.root}")
        if not absolute.exists():
            raise RunError(f"Stage {self.stage} declares {self.relative(absolute)}, which does not exist")
        self._outputs.add(self.relative(absolute) + ("/" if absolute.is_dir() else ""))
        write_json(outputs_file(self.paths.root, self.number), sorted(self._outputs))
        return absolute

    def finish(self) -> None:
        """List the outputs in ``stages/<number>.outputs.json`` and show them as a small table."""
        files = declared_files(self.paths.root, sorted(self._outputs))
        write_json(outputs_file(self.paths.root, self.number), files)
        _show(_outputs_table(self.paths.root, sorted(self._outputs)))

    def _own(self, path: Path) -> Path:
        """`path`, unless an earlier stage wrote it: one owner per output keeps every stage repeatable."""
        name = self.relative(path)
        for listed in sorted(self.paths.stages.glob("[0-9][0-9].outputs.json")):
            if listed.name[:2] < self.number and name in read_json(listed):
                what = f"Stage {self.number} would overwrite {name}, an output of stage {listed.name[:2]}"
                raise RunError(what, expected="one owner for every output", fix="Write it under another name")
        return path


def _sentence(text: str) -> str:
    if not text.endswith((".", "?")):
        raise ParameterError("A finding is no sentence", got=repr(text), expected="one that ends")
    return text


def plain_value(value: Any) -> Any:
    """NumPy scalars and arrays, paths and nested containers as JSON values; NaN and infinities as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): plain_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_value(v) for v in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return str(value)


def _table(name: str) -> Table:
    if name not in TABLES:
        raise ParameterError(f"There is no table {name!r}", expected=", ".join(TABLES))
    return TABLES[name]


def _plain(name: str) -> str:
    if not _NAME.match(name):
        raise ParameterError(
            "Malformed output name", got=repr(name), expected="letters, digits, dots, dashes, no slash"
        )
    return name


def _outputs_table(root: Path, declared: list[str]) -> str:
    rows = ["| Output | Size |", "|---|---:|"]
    for name in declared:
        files = [root / f for f in declared_files(root, [name])]
        note = f" ({len(files)} files)" if name.endswith("/") else ""
        rows.append(f"| `{name}`{note} | {human_size(sum(f.stat().st_size for f in files))} |")
    return "\n".join(rows)


def _shell() -> Any:
    """The IPython shell we run in, or None."""
    try:
        return get_ipython()  # type: ignore[name-defined]
    except NameError:
        return None


def _show(markdown: str) -> None:
    if _shell() is None:
        print(markdown)
        return
    from IPython.display import Markdown, display

    display(Markdown(markdown))
