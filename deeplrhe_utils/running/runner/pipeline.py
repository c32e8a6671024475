"""One command from slides to report: stages in order, skipped when unchanged, resumed after any death."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import CompendiumError, InputError, ParameterError, RunError
from deeplrhe_utils.core.files import sha256_text, write_text
from deeplrhe_utils.core.text import duration, on_one_line
from deeplrhe_utils.running.machine.lock import RunLock
from deeplrhe_utils.running.machine.provenance import memory_limit_bytes, shown_path, usable_cores
from deeplrhe_utils.running.page.closing import close_run
from deeplrhe_utils.running.page.methods import remarks
from deeplrhe_utils.running.plan import notebooks as books
from deeplrhe_utils.running.plan.closure import Sources
from deeplrhe_utils.running.plan.plan import APART, Planned, Request, describe_plan, lacking_stages, make_plan, reads
from deeplrhe_utils.running.plan.profiles import Profile, load_profile
from deeplrhe_utils.running.runner.kernel import Execution, Failure
from deeplrhe_utils.running.runner.report import Peak, Report, earlier_seconds, now, tree_memory_bytes
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

LANE_BYTES: Final = 3 * 10**9
"""Memory that one stage is given, before another runs beside it."""

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
    lanes : stages that run at a time where they read nothing of one another; 0 is :func:`usual_lanes`
    """

    profile: str
    request: Request = field(default_factory=Request)
    out: Path | None = None
    fresh: bool = False
    command: str = ""
    places: Places = field(default_factory=Places)
    lanes: int = 0
    _outputs: dict[str, dict[str, str]] = field(default_factory=dict)  # of the stages so far: part of later keys
    _stale: list[str] = field(default_factory=list)  # stages so far whose results are not today's
    _started: float = 0.0
    _ahead: dict[str, float] = field(default_factory=dict)  # seconds that stages to come are expected to take
    _where: list[str] = field(default_factory=list)  # it was stopped
    _executions: list[Execution] = field(default_factory=list)  # at work

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
            started = self._started = time.monotonic()
            self._sample(Peak())
            self._learn(plan)
            self._report.start(self._profile, self.command + " --fresh" * self.fresh, plan)
            try:
                self._run_all(plan, lock)
            except KeyboardInterrupt:
                where = " and ".join(self._where) or "between two stages"
                print(f"\nStopped {where}\nFinished stages are kept.\nResume with: `{self.command}`", flush=True)
                raise
            finally:
                page = self._close()
        for line in remarks(self.root):
            print(on_one_line(line), flush=True)
        print(f"Done in {time.monotonic() - started:.0f} s, peak {_mb(self._report.peak.bytes)}", flush=True)
        return page

    def _learn(self, plan: list[Planned]) -> None:
        """What each stage will take: what it took here last, or as the profile says."""
        here, all_runs = self.root / "run.json", (self.places.repository / "reports").glob("*/run.json")
        known, profile = earlier_seconds(self.profile, *all_runs, here), self._profile
        share = float(profile.expect.get("seconds", 0)) / len(plan)
        chosen = [planned.stage for planned in plan if planned.selected and not planned.skip_reason]
        self._ahead = {s.number: known.get(s.name, profile.seconds.get(s.number, share)) for s in chosen}
        if any(self._ahead.values()):
            source = "as earlier here" if known else "as the profile says"
            print(f"Expected to take about {duration(self._left())}, {source}, less where nothing changed", flush=True)

    def _left(self) -> float:
        """Seconds that the stages to come are expected to take."""
        beside = sum(seconds for number, seconds in self._ahead.items() if number in APART)
        return sum(self._ahead.values()) - beside + beside / (self.lanes or usual_lanes())

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
        """Stages start in order; one that an unfinished stage's results may be read by waits for them."""
        sources, lanes = Sources(self.places.package), self.lanes or usual_lanes()
        waiting = [(p, f"[{n:02d}/{len(plan):02d}] {p.stage.name}") for n, p in enumerate(plan, start=1)]
        running: dict[str, Iterator[None]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < lanes:
                    planned, label = waiting[0]
                    if any(reads(planned.stage.number, number) for number in running):
                        break
                    running[planned.stage.number] = self._kept(planned, label, sources, lock)
                    waiting.pop(0)
                for number, steps in list(running.items()):
                    if next(steps, "ended") == "ended":
                        del running[number]
        finally:
            for steps in running.values():  # one has failed, or the run was stopped
                steps.close()  # type: ignore[attr-defined]

    def _kept(self, planned: Planned, label: str, sources: Sources, lock: RunLock) -> Iterator[None]:
        try:
            yield from self._one(planned, label, sources, lock)
            self._ahead.pop(planned.stage.number, None)
            self._report.save()
        except StageError:
            raise
        except (OSError, CompendiumError) as error:
            raise self._keeping_error(planned, error) from error

    def _one(self, planned: Planned, label: str, sources: Sources, lock: RunLock) -> Iterator[None]:
        number, name = planned.stage.number, planned.stage.name
        if planned.skip_reason and not planned.selected and load_record(self.root, number) is not None:
            self._leave_stale(planned, label, f"not selected, and it does not apply any more: {planned.skip_reason}")
            return
        if planned.skip_reason:
            if planned.selected:
                forget(self.root, number)  # a stage that does not apply must leave no old result
                self._executed(name).unlink(missing_ok=True)
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
            yield from self._execute(planned, label, key, inputs, lock)
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

    def _execute(self, planned: Planned, label: str, key: str, inputs: dict[str, Any], lock: RunLock) -> Iterator[None]:
        number, name = planned.stage.number, planned.stage.name
        begin(self.root, planned, key)
        self._report.stage(name, "running", inputs=inputs)
        self._report.save()
        partial, peak, started = self.root / "logs" / f"{name}.ipynb", Peak(), time.monotonic()
        execution = Execution(
            planned.stage.path, partial, self._injected(planned), self.root, self.places.repository, lock.kernel,
            planned.held,
        )  # fmt: skip
        self._executions.append(execution)
        try:
            failure = yield from execution.run(lambda: self._at_work(peak, execution), _beat(label))
        except (KeyboardInterrupt, GeneratorExit):
            self._where.append(f"in stage {name}, cell {execution.cell[0]}: {execution.cell[1]}")
            self._report.stage(name, "stopped", seconds=_since(started), finished=now(), reason="stopped on request")
            raise
        finally:
            self._executions.remove(execution)
            alive(self.root, number)
        if failure is not None and failure.too_small:
            self._too_small(planned, label, failure.headline, partial)
            return
        if failure is not None:
            seconds, used = _since(started), peak.bytes
            self._report.stage(name, "failed", seconds=seconds, peak_memory_bytes=used, finished=now(),
                               reason=failure.headline)  # fmt: skip
            raise self._stage_error(planned, failure, peak.bytes)
        books.clean_executed(partial, self._executed(name), self.root, self.places.repository)
        shown = self._report.shown(planned.values)
        record = Record(key, "finished", _since(started), peak.bytes, shown, {}, inputs, finished=now(),
                        commit=self._report.commit())  # fmt: skip
        self._outputs[number] = complete(self.root, planned, record).outputs
        self._report.stage(name, "finished", record)
        partial.unlink(missing_ok=True)
        expected = self._ahead.pop(number, 0.0)
        took = f"{record.seconds:.0f} s" + (f" (expected {expected:.0f} s)" if expected else "")
        whole = f"{duration(_since(self._started))} of about {duration(_since(self._started) + self._left())}"
        print(f"{label} … {took}, peak {_mb(peak.bytes)}; run: {whole}", flush=True)

    def _too_small(self, planned: Planned, label: str, reason: str, partial: Path) -> None:
        """The cohort is too small for a stage's question: that is a result, and later stages are told (`_Run.read`)."""
        number, name = planned.stage.number, planned.stage.name
        forget(self.root, number)
        self._executed(name).unlink(missing_ok=True)
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

    def _at_work(self, peak: Peak, execution: Execution) -> None:
        alive(self.root, execution.stage[:2])
        self._sample(peak, [one.process.pid for one in self._executions if one.process and one is not execution])

    def _sample(self, peak: Peak, others: Iterable[int] = ()) -> None:
        """The run's memory, and that of one stage: without the kernels of the others."""
        whole = self._report.peak.sample()
        peak.bytes = max(peak.bytes, whole - sum(map(tree_memory_bytes, others)))

    def _executed(self, name: str) -> Path:
        return self.root / "notebooks" / f"{name}.ipynb"

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


def usual_lanes() -> int:
    """Two where a second stage finds a core and 3 GB of its own."""
    return 2 if usable_cores() >= 2 and memory_limit_bytes() >= LANE_BYTES * 2 else 1


def _beat(label: str) -> Callable[[float, int, int, str], None]:
    def beat(seconds: float, cell: int, n_cells: int, line: str) -> None:
        print(f"{label} … running for {seconds:.0f} s, cell {cell}/{n_cells}: {line[:100]}", flush=True)

    return beat


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.0f} MB"
