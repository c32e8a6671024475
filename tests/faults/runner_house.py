"""A tiny compendium in a temporary folder: two or three notebooks that write text, and profiles for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import yaml

from deeplrhe_utils.running.plan.plan import Request
from deeplrhe_utils.running.runner.pipeline import Pipeline, Places

FIRST = """from deeplrhe_utils.running.stage.record import start_run
run = start_run("01-first", run_dir)
(run.paths.tables).mkdir(parents=True, exist_ok=True)
(run.paths.tables / "words.txt").write_text(word * times)
run.declare(run.paths.tables / "words.txt")
with open(run.paths.root / "count-01.txt", "a") as stream:
    stream.write("x")"""
SECOND = """from pathlib import Path
from deeplrhe_utils.running.stage.record import start_run
run = start_run("02-second", run_dir)
text = (run.paths.tables / "words.txt").read_text()
run.numbers({"length": len(text), "extra": Path(extra_csv).read_text() if extra_csv else ""})
with open(run.paths.root / "count-02.txt", "a") as stream:
    stream.write("x")"""
PARAMETERS = {
    "01-first": 'run_dir: str = ""  # run folder\nword: str = "ab"  # [choices: ab | cd | no] what is repeated\n'
    "times: int = 3  # [words] how often\nrate: float = 0.5  # [1/s] unused\nquick: bool = False  # unused\n"
    'genes: list[str] = ["TP53"]  # names',
    "02-second": 'run_dir: str = ""  # run folder\nextra_csv: str = ""  # another input\nseed: int = 1  # seed',
}
_DRIVER = """import sys
from pathlib import Path
from deeplrhe_utils.running.commands.cli import main
from deeplrhe_utils.running.runner.pipeline import Places
repository = Path(sys.argv[1])
where = Places(repository / "notebooks", repository / "profiles", repository, repository / "package")
sys.exit(main(sys.argv[2:], where))
"""


def _listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class House:
    """The tiny compendium below `base`; the run folder lies outside its repository."""

    base: Path
    cells: dict[str, list[str]] = field(default_factory=lambda: {"01-first": [FIRST], "02-second": [SECOND]})

    def __post_init__(self) -> None:
        self.repository, self.out = self.base / "repository", self.base / "out"
        for folder in ("notebooks", "profiles", "package"):
            (self.repository / folder).mkdir(parents=True)
        (self.repository / "package" / "code.py").write_text("x = 1\n")
        for name, cells in self.cells.items():
            self.notebook(name, *cells)
        self.profile()

    @property
    def places(self) -> Places:
        r = self.repository
        return Places(r / "notebooks", r / "profiles", r, r / "package")

    def notebook(
        self, name: str, *cells: str, parameters: str | None = None, tags: dict[int, str] | None = None
    ) -> Path:
        source = parameters if parameters is not None else PARAMETERS.get(name, 'run_dir: str = ""')
        book = nbformat.v4.new_notebook()
        book.cells = [nbformat.v4.new_markdown_cell(f"# {name}"), nbformat.v4.new_code_cell(source)]
        book.cells[1].metadata["tags"] = ["parameters"]
        book.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
        for index, tag in (tags or {}).items():
            book.cells[index].metadata["tags"] = [tag]
        path = self.repository / "notebooks" / f"{name}.ipynb"
        nbformat.write(book, path)
        return path

    def profile(self, name: str = "tiny", text: str = "", **keys: object) -> None:
        content = text or yaml.safe_dump({"title": "A <tiny> one", "input": "synthetic", **keys}, sort_keys=False)
        (self.repository / "profiles" / f"{name}.yml").write_text(content)

    def pipeline(self, *overrides: str, profile: str = "tiny", fresh: bool = False, **request: object) -> Pipeline:
        wanted = Request(tuple(overrides), cwd=self.base, **request)
        return Pipeline(profile, wanted, self.out, fresh, "", self.places)

    def run(self, *overrides: str, **more: object) -> Path:
        return self.pipeline(*overrides, **more).run()

    def count(self, number: str) -> int:
        """How often a stage has really run."""
        path = self.out / f"count-{number}.txt"
        return len(path.read_text()) if path.exists() else 0

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The runner as a process of its own."""
        driver = self.base / "driver.py"
        driver.write_text(_DRIVER)
        command = [sys.executable, str(driver), str(self.repository), "run", "tiny", "--out", str(self.out), *arguments]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.base,
            env=dict(os.environ),
            # a test suite started in the background inherits an ignored Ctrl-C; a user's terminal does not
            preexec_fn=_listen_to_ctrl_c,
        )
