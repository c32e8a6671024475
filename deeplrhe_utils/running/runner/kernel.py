"""One notebook in one kernel: papermill in a thread, watched by the thread that prints and obeys signals."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deeplrhe_utils.core.errors import CompendiumError, SmallCohortError
from deeplrhe_utils.core.text import said
from deeplrhe_utils.running.machine.lock import RUN_FOLDER, RUN_STAGE, RUNNER_PID, end_leftovers, end_tree
from deeplrhe_utils.running.machine.process import LEVEL_HELD, STEADY

POLL_S, HEARTBEAT_S, NEWS_S, STOP_S = 0.5, 30.0, 10.0, 15.0
GRACE_S = 10.0  # what a step of training and saving its state may take
SKIP_TAG = "skip-execution"
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ENGINE = "deeplrhe"
_NO_MEMORY = "The system kills a process this way when the memory is exhausted: see the peak above, or someone did"
_SOCKET_PATH = 80  # of the 107 bytes a Unix socket's path may have


@dataclass
class Failure:
    """Why a notebook did not finish: one headline, where it was, and the last lines."""

    headline: str
    cell: int | None = None
    first_line: str = ""
    last_lines: list[str] = field(default_factory=list)
    hint: str = ""
    too_small: bool = False


@dataclass
class Execution:
    """One attempt to execute one notebook.

    Parameters
    ----------
    source, partial : the notebook, and where its executed copy grows (saved after every cell)
    values : parameters to inject
    root, repository : run folder, and the kernel's working directory
    on_kernel : told the stage, and the kernel's process id when it starts, None when it has ended
    held : whether its libraries are held at the level of :data:`LEVEL_HELD`
    """

    source: Path
    partial: Path
    values: dict[str, Any]
    root: Path
    repository: Path
    on_kernel: Callable[[str, int | None], None] = lambda stage, pid: None
    held: bool = False
    process: subprocess.Popen[bytes] | None = None
    cell: tuple[int, str] = (0, "")
    work: str = ""
    running: Any = field(default_factory=dict)
    injected: list[bool] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self.source.stem

    @property
    def log(self) -> Path:
        """What the kernel itself printed (crash reports of compiled code end up here)."""
        return self.partial.with_suffix(".log")

    def run(
        self, tick: Callable[[], None], beat: Callable[[float, int, int, str], None]
    ) -> Generator[None, None, Failure | None]:
        """Execute; call `tick` about once a second, `beat` every 30 s, and every 10 s with news; None on success.

        It yields twice a second, so that one thread can watch several executions; closing it ends the kernel.

        `beat` is told the heading that the cell stands under, and the line that it printed last.

        A KeyboardInterrupt (or what the runner made of SIGTERM) ends the kernel and passes on.
        """
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        thread = threading.Thread(target=self._work, name="papermill", daemon=True)
        started = last_beat = time.monotonic()
        told = ""
        thread.start()
        try:
            for turn in itertools.count():
                thread.join(POLL_S)
                if not thread.is_alive():
                    break
                yield
                if turn % 2 == 0:  # a sample of a large process costs some 20 ms
                    tick()
                printed, silent = self._last_line(), time.monotonic() - last_beat
                if silent >= HEARTBEAT_S or (silent >= NEWS_S and printed not in ("", told)):
                    last_beat, told = time.monotonic(), printed
                    doing = f"{said(self.work, 40)}: {printed}" if printed else self.work
                    beat(last_beat - started, self.cell[0], self.injected.count(False), doing)
        except BaseException:
            self.stop()
            thread.join(STOP_S)
            raise
        finally:
            end_leftovers(self.root, self.stage)
            with contextlib.suppress(OSError, CompendiumError):  # a full disk must not hide the error that matters
                self.on_kernel(self.stage, None)
        return self._explain() if self.error is not None else None

    def _last_line(self) -> str:
        printed = [output.text for output in list(self.running.get("outputs", ())) if output.get("name") == "stdout"]
        lines = "".join(printed[-1:]).split("\n")[-2:-1]
        return lines[0] if lines else ""

    def number(self, index: int) -> int:
        """Number from 1 of a cell in the notebook as written, without the parameters that were injected."""
        return self.injected[: index + 1].count(False)

    def stop(self) -> None:
        """End the kernel and its children, politely first; the watcher then closes the partial notebook."""
        if self.process is not None and self.process.poll() is None:
            end_tree(self.process.pid, GRACE_S)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)

    def _work(self) -> None:
        try:
            scratch = tempfile.TemporaryDirectory(prefix="deeplrhe-", ignore_cleanup_errors=True)
            with scratch as folder, open(self.log, "wb") as log:
                self._papermill(Path(folder), log)
        except BaseException as error:
            self.error = error

    def _papermill(self, folder: Path, log: Any) -> None:
        import papermill

        _register_engine()
        logging.getLogger("papermill").setLevel(logging.CRITICAL)
        logging.getLogger("traitlets").setLevel(logging.CRITICAL)
        papermill.execute_notebook(
            str(self.source),
            str(self.partial),
            parameters=self.values,
            engine_name=_ENGINE,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=180,
            execution=self,
            folder=folder,
            log=log,
        )

    def environment(self, folder: Path) -> dict[str, str]:
        """The kernel's environment: ours, without what would make results depend on the user's set-up."""
        env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
        env.update(
            STEADY
            | (LEVEL_HELD if self.held else {})
            | {
                RUNNER_PID: str(os.getpid()),
                RUN_FOLDER: str(self.root.resolve()),
                RUN_STAGE: self.stage,
                "PYTHONHASHSEED": "0",
                "PYTHONFAULTHANDLER": "1",
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",
                "JUPYTER_PLATFORM_DIRS": "1",
                "IPYTHONDIR": str(folder / "ipython"),
            }
        )
        return env

    def _explain(self) -> Failure:
        cell, line = self.cell
        code = self.process.poll() if self.process is not None else None
        error = self.error
        name = type(error).__name__
        if name == "PapermillExecutionError":
            return _cell_failure(error, line, self.number)
        if name == "DeadKernelError" or (isinstance(error, RuntimeError) and "Kernel died" in str(error)):
            return Failure(_death(code), cell, line, _tail(self.log), _NO_MEMORY if code == -9 else "")
        if isinstance(error, CompendiumError):
            return Failure(str(error), cell or None, line)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return Failure(f"The disk is full ({error})", cell or None, line, [], "Free some space")
        return Failure(f"{name}: {error}", cell or None, line, _tail(self.log))


def _cell_failure(error: Any, line: str, number: Callable[[int], int]) -> Failure:
    text = _ANSI.sub("", "\n".join(error.traceback)).splitlines()
    evalue = _ANSI.sub("", str(error.evalue))
    headline = evalue if error.ename in _names_of(CompendiumError) else f"{error.ename}: {evalue}"
    hint = ""
    if error.ename in ("MemoryError", "OutOfMemoryError"):
        hint = "The memory does not suffice: close other programs or use a smaller profile"
    if "No space left on device" in evalue or "Errno 28" in evalue:
        hint = "The disk is full: free some space"
    first = next((row.strip() for row in error.source.splitlines() if row.strip()), line)
    too_small = error.ename in _names_of(SmallCohortError)
    return Failure(headline, number(error.cell_index), first, text[-15:], hint, too_small)


def _names_of(kind: type) -> set[str]:
    """A class and all below it, by name."""
    return {kind.__name__}.union(*map(_names_of, kind.__subclasses__()))


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"The kernel was killed by {signal.Signals(-code).name}"
    return f"The kernel died (exit status {code})" if code is not None else "The kernel died"


def _tail(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    except OSError:
        return []


def _register_engine() -> None:
    from papermill.engines import papermill_engines

    if _ENGINE not in papermill_engines._engines:  # noqa: SLF001
        papermill_engines.register(_ENGINE, _make_engine())


def _make_engine() -> type:
    """Papermill engine whose kernel is this interpreter, whatever kernel specifications are installed."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

    class Client(PapermillNotebookClient):
        execution: Execution

        def create_kernel_manager(self) -> AsyncKernelManager:
            # local sockets: no ports to collide on, nothing for other users of the machine to read
            transport = "ipc" if os.name == "posix" and len(str(self.folder)) < _SOCKET_PATH else "tcp"
            connection = str(self.folder / "kernel.json")
            self.km = ThisInterpreter(kernel_name="python3", connection_file=connection, transport=transport)
            return self.km

        def start_new_kernel(self, **kwargs: Any) -> None:
            super().start_new_kernel(**kwargs)
            provisioner: Any = self.km.provisioner if self.km is not None else None
            self.execution.process = provisioner.process
            self.execution.on_kernel(self.execution.stage, provisioner.process.pid)

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            execution: Execution = kwargs["execution"]

            def on_cell_start(cell: Any, cell_index: int) -> None:
                execution.cell = (execution.number(cell_index), cell.source.strip().split("\n")[0])
                execution.running = cell
                above = "\n".join(c.source for c in nb_man.nb.cells[:cell_index] if c.cell_type == "markdown")
                execution.work = (_HEADING.findall(above) or [execution.cell[1]])[-1]

            client = Client(
                nb_man,
                kernel_name=kernel_name,
                startup_timeout=kwargs["start_timeout"],
                iopub_timeout=60,
                timeout=None,
                shutdown_kernel="immediate",
                skip_cells_with_tag=SKIP_TAG,
                on_cell_start=on_cell_start,
            )
            client.execution, client.folder = execution, kwargs["folder"]
            execution.injected = ["injected-parameters" in cell.metadata.get("tags", []) for cell in nb_man.nb.cells]
            env = execution.environment(kwargs["folder"])
            return client.execute(cwd=str(execution.repository), env=env, stdout=kwargs["log"], stderr=kwargs["log"])

    return Engine
