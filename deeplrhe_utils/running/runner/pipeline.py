"""One command from slides to report: stages in order, skipped when unchanged, resumed after any death."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import CompendiumError, InputError, ParameterError, RunError
from deeplrhe_utils.core.files import sha256_text, write_text
from deeplrhe_utils.core.text import on_one_line
from deeplrhe_utils.running.machine.lock import RunLock
from deeplrhe_utils.running.machine.provenance import shown_path
from deeplrhe_utils.running.page.closing import close_run
from deeplrhe_utils.running.page.methods import remarks
from deeplrhe_utils.running.plan import notebooks as books
from deeplrhe_utils.running.plan.closure import Sources
from deeplrhe_utils.running.plan.plan import Planned, Request, describe_plan, lacking_stages, make_plan
from deeplrhe_utils.running.plan.profiles import Profile, load_profile
from deeplrhe_utils.running.runner.kernel import Execution, Failure
from deeplrhe_utils.running.runner.report import Peak, Report, now
from deeplrhe_utils.running.stage.state import (
    Record,
    alive,
    begin,
    complete,
    damaged,
    forget,
    input_fingerprints,
    load_record,
    outputs_file,
    outputs_now,
    pending_file,
    skipped_file,
    stage_key,
)

STALE: Final = "stale"
"""Status of a stage whose notebook, code, parameters or inputs are not those that its result was made with."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception; ends a run like Ctrl-C but with another exit code."""


class StageError(RunError):
    """A stage failed; the message names the stage, the cell and the command that resumes."""


@dataclass(frozen=True)
class Places:
    """Folders a run works with; tests give their own."""

    notebooks: Path = places.NOTEBOOKS
    profiles: Path = places.PROFILES
    repository: Path = places.REPOSITORY
    package: Path = places.REPOSITORY / "deeplrhe_utils"


@dataclass
class Pipeline:
    """A run of one profile into one folder.

    Parameters
    ----------
    request : overrides and selection
    out : run folder, relative to the working directory; None is ``reports/<profile>`` of the repository
    fresh : forget the records of the selected stages and delete what they declared
    command : the command as typed, without ``--fresh``; shown as the way to resume
    """

    profile: str
    request: Request = field(default_factory=Request)
    out: Path | None = None
    fresh: bool = False
    command: str = ""
    places: Places = field(default_factory=Places)
    _outputs: dict[str, dict[str, str]] = field(default_factory=dict)  # of the stages so far: part of later keys
    _stale: list[str] = field(default_factory=list)  # stages so far whose results are not today's
    _where: str = "between two stages"

    def __post_init__(self) -> None:
        self._profile: Profile = load_profile(self.profile, self.places.profiles)
        self._stages = books.find_stages(self.places.notebooks)
        folder = self.out if self.out is not None else self.places.repository / "reports" / self.profile
        self.root = Path(os.path.normpath(Path.cwd() / folder))
        self.command = self.command or f"python -m deeplrhe_utils run {self.profile}"
        self._report = Report(self.root, self.places.repository)

    def listing(self) -> str:
        """What would run, and every parameter; starts nothing."""
        plan = make_plan(self._profile, self._stages, self.request, self.places.repository, demand=False)
        return describe_plan(plan, self._profile)

    def run(self) -> Path:
        """Run the stages; return the report page.

        Raises ParameterError: before anything starts: an illegal stage, parameter or value. InputError, RunError: when
        the folder cannot be used, or a stage failed (finished stages are kept). KeyboardInterrupt: after Ctrl-C or
        SIGTERM, with the kernel ended and the way to resume printed.
        """
        plan = make_plan(self._profile, self._stages, self.request, self.places.repository)
        self._check_out()
        self._check_earlier(plan)
        with RunLock(self.root, self.command) as lock:
            if lock.killed:
                print(f"Ended processes left over from a killed run: {', '.join(map(str, lock.killed))}")
            started = time.monotonic()
            self._sample(Peak())
            self._report.start(self._profile, self.command + " --fresh" * self.fresh, plan)
            try:
                self._run_all(plan, lock)
            except KeyboardInterrupt:
                print(f"\nStopped {self._where}\nFinished stages are kept.\nResume with: `{self.command}`", flush=True)
                raise
            finally:
                page = self._close()
        for line in remarks(self.root):
            print(on_one_line(line), flush=True)
        print(f"Done in {time.monotonic() - started:.0f} s, peak {_mb(self._report.peak.bytes)}", flush=True)
        return page

    def _close(self) -> Path:
        """Write ``run.json`` and the page, also after a failure; a full disk must not hide the error that matters."""
        self._report.finish()
        try:
            return close_run(self.root, self._profile, self._report.content)
        except (OSError, CompendiumError) as error:
            print(f"The report page could not be written: {error}", flush=True)
            return self.root / "run.json"

    def _check_out(self) -> None:
        """Refuse folders in which the deletion rules could touch something precious."""
        repository = self.places.repository
        precious = (repository, Path.home(), *(repository / n for n in ("reports", "notebooks", "profiles", "data")))
        if self.root in precious or repository.is_relative_to(self.root) or self.root.parent == self.root:
            fix = f"Give one below it, such as --out {shown_path(self.root / 'my-run', repository)}"
            raise ParameterError("The run folder must be a folder of its own", got=self.root, fix=fix)

    def _check_earlier(self, plan: list[Planned]) -> None:
        """Refuse stages whose tables and numbers nobody has written yet, and name the command that does."""

        def ran(stage: books.Stage) -> bool:
            numbers = self.root / "numbers" / f"{stage.name}.json"
            return numbers.is_file() or skipped_file(self.root, stage.number).is_file()

        lacking = lacking_stages(plan, ran)
        if lacking:
            last = [planned.stage.number for planned in plan if planned.selected][-1]
            parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            for name in ("--only", "--from", "--to"):
                parser.add_argument(name)
            rest = parser.parse_known_args(shlex.split(self.command))[1]
            command = shlex.join([*rest, "--from", lacking[0].number, "--to", last])
            what = f"What was asked for reads results of {', '.join(stage.name for stage in lacking)}"
            raise InputError(f"{what}, and there are none in {shown_path(self.root, self.places.repository)}",
                             fix=f"Run `{command}`")  # fmt: skip

    def _run_all(self, plan: list[Planned], lock: RunLock) -> None:
        sources = Sources(self.places.package)
        for position, planned in enumerate(plan, start=1):
            label = f"[{position:02d}/{len(plan):02d}] {planned.stage.name}"
            try:
                self._one(planned, label, sources, lock)
                self._report.save()
            except StageError:
                raise
            except (OSError, CompendiumError) as error:
                raise self._keeping_error(planned, error) from error

    def _one(self, planned: Planned, label: str, sources: Sources, lock: RunLock) -> None:
        number, name = planned.stage.number, planned.stage.name
        if planned.skip_reason and not planned.selected and load_record(self.root, number) is not None:
            self._leave_stale(planned, label, f"not selected, and it does not apply any more: {planned.skip_reason}")
            return
        if planned.skip_reason:
            if planned.selected:
                forget(self.root, number)  # a stage that does not apply must leave no old result
                self._drop_copies(name)
            self._report.stage(name, "skipped", reason=planned.skip_reason)
            print(f"{label} … skipped: {planned.skip_reason}", flush=True)
            return
        if planned.selected and self.fresh:
            forget(self.root, number)
        inputs = input_fingerprints(planned, self.places.repository)
        key = stage_key(planned, sources, inputs, self._outputs)
        if not planned.selected:
            self._leave(planned, key, label)
        elif self._unchanged(planned, key):
            self._keep(planned, "unchanged")
            print(f"{label} … unchanged", flush=True)
        else:
            self._execute(planned, label, key, inputs, lock)
        if planned.selected and self._stale:
            self._report.stage(name, STALE, reason=f"made from results of {', '.join(self._stale)}, which are stale")
            print(f"{label} … {STALE}: {self._stale[-1]} ran under another key than today's", flush=True)

    def _leave(self, planned: Planned, key: str, label: str) -> None:
        """A stage that was not selected: what is there is kept, and said to be as good as new, stale or missing."""
        number = planned.stage.number
        traces = (pending_file(self.root, number), outputs_file(self.root, number), self._executed(planned.stage.name))
        if (skipped := skipped_file(self.root, number)).is_file():
            self._skipped(planned, skipped.read_text(encoding="utf-8").strip())
        elif load_record(self.root, number) is not None:
            if self._unchanged(planned, key) and not self._stale:
                self._keep(planned, "unchanged")
            else:
                changed = "notebook, code, parameters, inputs or results changed since"
                self._leave_stale(planned, label, f"not selected; {changed}")
        elif any(path.exists() for path in traces):
            self._leave_stale(planned, label, "not selected; begun by hand or interrupted: what is there is unknown")
        else:
            self._report.stage(planned.stage.name, "not run", reason="not selected")

    def _leave_stale(self, planned: Planned, label: str, reason: str) -> None:
        """Later keys see what lies there now: a damaged result must not pass for the one on record."""
        number, record = planned.stage.number, load_record(self.root, planned.stage.number)
        self._keep(planned, STALE, reason=reason)
        if record is not None:
            self._outputs[number] = outputs_now(self.root, record)
        self._stale.append(planned.stage.name)
        print(f"{label} … {STALE}: {reason}", flush=True)

    def _unchanged(self, planned: Planned, key: str) -> bool:
        record = load_record(self.root, planned.stage.number)
        if record is None or record.key != key or not self._executed(planned.stage.name).is_file():
            return False
        return not damaged(self.root, record)

    def _keep(self, planned: Planned, status: str, **more: Any) -> None:
        record = load_record(self.root, planned.stage.number)
        self._report.stage(planned.stage.name, status, record, **more)
        if record is not None:
            self._outputs[planned.stage.number] = record.outputs
            self._html(planned.stage.name)

    def _execute(self, planned: Planned, label: str, key: str, inputs: dict[str, Any], lock: RunLock) -> None:
        number, name = planned.stage.number, planned.stage.name
        begin(self.root, planned, key)
        self._report.stage(name, "running", inputs=inputs)
        self._report.save()
        partial, peak, started = self.root / "logs" / f"{name}.ipynb", Peak(), time.monotonic()
        execution = Execution(
            planned.stage.path, partial, self._injected(planned), self.root, self.places.repository, lock.kernel
        )
        try:
            failure = execution.run(lambda: self._at_work(peak, number), _beat(label))
        except KeyboardInterrupt:
            self._where = f"in stage {name}, cell {execution.cell[0]}: {execution.cell[1]}"
            self._report.stage(name, "stopped", seconds=_since(started), reason="stopped on request")
            raise
        finally:
            alive(self.root, number)
        if failure is not None and failure.too_small:
            self._too_small(planned, label, failure.headline, partial)
            return
        if failure is not None:
            seconds, used = _since(started), peak.bytes
            self._report.stage(name, "failed", seconds=seconds, peak_memory_bytes=used, reason=failure.headline)
            raise self._stage_error(planned, failure, peak.bytes)
        self._executed_copy(partial, name)
        shown = self._report.shown(planned.values)
        record = Record(key, "finished", _since(started), peak.bytes, shown, {}, inputs, finished=now(),
                        commit=self._report.commit())  # fmt: skip
        self._outputs[number] = complete(self.root, planned, record).outputs
        self._report.stage(name, "finished", record)
        partial.unlink(missing_ok=True)
        print(
            f"{label} … {_took(record.seconds, self._profile.seconds.get(number))}, peak {_mb(peak.bytes)}", flush=True
        )

    def _too_small(self, planned: Planned, label: str, reason: str, partial: Path) -> None:
        """The cohort is too small for a stage's question: that is a result, and later stages are told (`_Run.read`)."""
        number, name = planned.stage.number, planned.stage.name
        forget(self.root, number)
        self._drop_copies(name)
        write_text(skipped_file(self.root, number), reason + "\n")
        self._skipped(planned, reason)
        partial.unlink(missing_ok=True)
        print(f"{label} … skipped: {reason}", flush=True)

    def _skipped(self, planned: Planned, reason: str) -> None:
        self._outputs[planned.stage.number] = {"skipped": sha256_text(reason)}
        self._report.stage(planned.stage.name, "skipped", reason=reason)

    def _injected(self, planned: Planned) -> dict[str, Any]:
        """Only what deviates from the notebook, so that the executed copy shows the difference."""
        parameters = planned.stage.parameters
        values = {name: v for name, v in planned.values.items() if v != parameters[name].default}
        if "run_dir" in parameters:
            values["run_dir"] = shown_path(self.root, self.places.repository)
        return values

    def _at_work(self, peak: Peak, number: str) -> None:
        alive(self.root, number)
        self._sample(peak)

    def _sample(self, peak: Peak) -> None:
        self._report.peak.bytes = max(self._report.peak.bytes, peak.sample())

    def _executed(self, name: str) -> Path:
        return self.root / "notebooks" / f"{name}.ipynb"

    def _executed_copy(self, partial: Path, name: str) -> None:
        books.clean_executed(partial, self._executed(name), self.root, self.places.repository)
        (self.root / "html" / f"{name}.html").unlink(missing_ok=True)
        self._html(name)

    def _html(self, name: str) -> None:
        target = self.root / "html" / f"{name}.html"
        if not self._executed(name).is_file() or target.is_file():
            return
        try:
            books.to_html(self._executed(name), target)
        except (OSError, CompendiumError):
            raise
        except Exception as error:  # whatever a converter meets in an output, the stage itself has succeeded
            print(f"{name}: no HTML page ({type(error).__name__}: {error})", flush=True)

    def _drop_copies(self, name: str) -> None:
        self._executed(name).unlink(missing_ok=True)
        (self.root / "html" / f"{name}.html").unlink(missing_ok=True)

    def _stage_error(self, planned: Planned, failure: Failure, peak: int) -> StageError:
        at = f" in cell {failure.cell}: `{failure.first_line}`" if failure.cell else ""
        lines = [f"Stage {planned.stage.name} failed{at}", failure.headline]
        if failure.last_lines:
            lines += ["Last lines:", *(f"    {line}" for line in failure.last_lines)]
        lines += [failure.hint + "."] if failure.hint else []
        partial = shown_path(self.root / "logs" / f"{planned.stage.name}.ipynb", self.places.repository)
        lines.append(f"Peak memory of the stage: {_mb(peak)}. Partial notebook: {partial}")
        lines.append("Finished stages are kept")
        return StageError("\n".join(lines), fix=f"\nResume with: `{self.command}`")

    def _keeping_error(self, planned: Planned, error: OSError | CompendiumError) -> StageError:
        """The notebook is not to blame: what surrounds it (cleaning, hashing, recording) failed."""
        self._report.stage(planned.stage.name, "failed", reason=str(error))
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        why = f"the disk is full ({error.filename}). Free some space" if full else str(error)  # type: ignore[union-attr]
        return StageError(f"Stage {planned.stage.name} could not be kept: {why}", fix=f"Resume with: `{self.command}`")


def _beat(label: str) -> Callable[[float, int, int, str], None]:
    def beat(seconds: float, cell: int, n_cells: int, line: str) -> None:
        print(f"{label} … running for {seconds:.0f} s, cell {cell}/{n_cells}: {line[:80]}", flush=True)

    return beat


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def _took(seconds: float, expected: float | None) -> str:
    return f"{seconds:.0f} s" + (f" (expected {expected:.0f} s)" if expected else "")


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.0f} MB"
