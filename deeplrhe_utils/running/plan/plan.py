"""What a run will do: profile and -p resolved against every notebook before anything starts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.running.plan.notebooks import Stage
from deeplrhe_utils.running.plan.parameters import Parameter, unknown
from deeplrhe_utils.running.plan.profiles import GIVEN, Profile, Skip, stage_number

_READ: Final = re.compile(r'run\.read\("(\w+)"\)')
_WRITTEN: Final = re.compile(r'run\.write\("(\w+)"')
APART: Final = ("08", "09", "10", "11", "12", "13")
"""Stages that read nothing of one another, though numbered in a row: they may run at a time, in any order."""
DETERMINISM: Final = Parameter(
    "determinism", "str", "on", "", "the same bytes on any x86-64 processor with AVX2; off is faster on newer ones",
    ("on", "off"),
)  # fmt: skip
"""A parameter of the whole run; "on" for synthetic cohorts unless a profile says otherwise."""


@dataclass(frozen=True)
class Planned:
    """One stage of a run: its parameters, why it does not run ("" when it does), and whether `DETERMINISM` is on."""

    stage: Stage
    values: dict[str, Any]
    given: frozenset[str]
    selected: bool = True
    skip_reason: str = ""
    held: bool = False


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, besides the profile."""

    overrides: tuple[str, ...] = ()
    first: str = ""
    last: str = ""
    only: tuple[str, ...] = ()
    cwd: Path = field(default_factory=Path.cwd)


def make_plan(
    profile: Profile, stages: list[Stage], request: Request, repository: Path, *, demand: bool = True
) -> list[Planned]:
    """Resolve every stage's parameters: notebook default < common < stages < ``-p name`` < ``-p NN.name``.

    Parameters
    ----------
    demand : whether the profile's required parameters must be given (not when only listing)

    Raises ParameterError: for an unknown stage or parameter, a wrong type or value, or a missing required parameter.
    InputError: when a path parameter names something that does not exist.
    """
    _check_profile_stages(profile, stages)
    selected = _selection(stages, request)
    typed = [_split(text) for text in request.overrides]
    _check_names(profile, stages, typed)
    if demand:
        _check_required(profile, typed)
    held = _held(profile, typed)
    values = {stage.number: _values(stage, profile, typed, request.cwd, repository) for stage in stages}
    reasons = _skip_reasons(profile, stages, {number: v for number, (v, _) in values.items()})
    return [
        Planned(s, values[s.number][0], values[s.number][1], s.number in selected, reasons.get(s.number, ""), held)
        for s in stages
    ]


def reads(number: str, other: str) -> bool:
    """Whether stage `number` may read what stage `other` left."""
    return other < number and not (number in APART and other in APART)


def lacking_stages(plan: list[Planned], ran: Callable[[Stage], bool]) -> list[Stage]:
    """Stages that selected ones need, directly or not, that are not selected and, as `ran` says, left no result.

    A notebook needs the stages that it names, and those that write the tables it reads; a given `model` stands for the
    stage that trains one.
    """
    lacking: dict[str, Stage] = {}
    todo = [planned for planned in plan if planned.selected and not planned.skip_reason]
    while todo:
        planned = todo.pop()
        for one in _needed(planned, plan):
            if not (one.selected or ran(one.stage) or one.stage.number in lacking):
                lacking[one.stage.number] = one.stage
                todo.append(one)
    return [lacking[number] for number in sorted(lacking)]


def _needed(planned: Planned, plan: list[Planned]) -> list[Planned]:
    code = planned.stage.code
    earlier = [one for one in plan if one.stage.number < planned.stage.number and not one.skip_reason]
    writers = {table: one for one in earlier for table in _WRITTEN.findall(one.stage.code)}
    trains = writers.get("predictions") if planned.values.get("model") else None
    read = [writers[table] for table in _READ.findall(code) if table in writers]
    return [one for one in earlier if one is not trains and (one in read or f'"{one.stage.name}"' in code)]


def _values(
    stage: Stage, profile: Profile, typed: list[tuple[str, str, str]], cwd: Path, repository: Path
) -> tuple[dict[str, Any], frozenset[str]]:
    values = {name: p.default for name, p in stage.parameters.items()}
    given: set[str] = set()
    for source, part in (("common", profile.common), (f"stage {stage.number}", profile.stages.get(stage.number, {}))):
        for name, value in part.items():
            if parameter := stage.parameters.get(name):
                checked = parameter.from_yaml(value, f"profile {profile.name}, {source}")
                values[name] = _existing(parameter, checked, repository)
                given.add(name)
    for number, name, text in sorted(typed, key=lambda item: item[0]):  # "" first: NN.name wins
        if number in ("", stage.number) and (parameter := stage.parameters.get(name)):
            values[name] = _existing(parameter, parameter.from_text(text, f"-p {name}"), cwd)
            given.add(name)
    return values, frozenset(given)


def _held(profile: Profile, typed: list[tuple[str, str, str]]) -> bool:
    """Whether :data:`DETERMINISM` is on."""
    usual = "on" if profile.input == "synthetic" else "off"
    value = DETERMINISM.from_yaml(profile.common.get(DETERMINISM.name, usual), f"profile {profile.name}, common")
    for _, name, text in typed:
        value = DETERMINISM.from_text(text, f"-p {name}") if name == DETERMINISM.name else value
    return bool(value == "on")


def _existing(parameter: Parameter, value: Any, base: Path) -> Any:
    if not parameter.is_path or value == "":
        if parameter.is_path and parameter.default != "":
            raise ParameterError(f"Parameter {parameter.name} must name a file or folder", got='""')
        return value
    path = Path(os.path.normpath(base / Path(value).expanduser()))
    if not path.exists():
        kind = "folder" if parameter.name.endswith("_dir") else "file"
        raise InputError(f"Parameter {parameter.name} names a {kind} that does not exist", got=str(path))
    if parameter.name.endswith("_dir") and not path.is_dir():
        raise InputError(f"Parameter {parameter.name} must name a folder, and this is a file", got=str(path))
    if parameter.name.endswith("_csv") and not path.is_file():
        raise InputError(f"Parameter {parameter.name} must name a file, and this is a folder", got=str(path))
    return str(path)


def _split(text: str) -> tuple[str, str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ParameterError("Malformed -p", got=text, expected="-p name=value or -p NN.name=value")
    number, dot, rest = name.strip().rpartition(".")
    return (stage_number(number, "-p"), rest, value) if dot else ("", rest, value)


def _check_names(profile: Profile, stages: list[Stage], typed: list[tuple[str, str, str]]) -> None:
    by_number = {stage.number: stage for stage in stages}
    everywhere = sorted({DETERMINISM.name, *(name for stage in stages for name in stage.parameters)} - {"run_dir"})
    where = f"profile {profile.name}"
    wanted = [("", name, f"common of {where}") for name in profile.common]
    wanted += [(n, name, f"stage {n} of {where}") for n, part in profile.stages.items() for name in part]
    wanted += [(number, name, f"-p {name}=…") for number, name, _ in typed]
    wanted += [("", name, f"required of {where}") for name in profile.required]
    wanted += [("", name, f"skip of {where}") for skip in profile.skip for name in skip.when]
    for number, name, origin in wanted:
        if name == "run_dir":
            raise ParameterError(f"Parameter run_dir in {origin} belongs to the runner", fix="Use --out DIR")
        if number and number not in by_number:
            raise unknown("stage", number, by_number, origin)
        legal = sorted(set(by_number[number].parameters) - {"run_dir"}) if number else everywhere
        if name not in legal:
            raise unknown("parameter", name, legal, origin)


def _check_profile_stages(profile: Profile, stages: list[Stage]) -> None:
    numbers = [stage.number for stage in stages]
    for number in [*profile.stages, *profile.seconds, *(skip.stage for skip in profile.skip)]:
        if number not in numbers:
            raise unknown("stage", number, numbers, f"profile {profile.name}")


def _check_required(profile: Profile, typed: list[tuple[str, str, str]]) -> None:
    given = {name for _, name, value in typed if value != ""}
    if absent := [name for name in profile.required if name not in given]:
        needs = "; ".join(f"{name} ({profile.required[name]})" for name in absent)
        example = " ".join(f"-p {name}=…" for name in profile.required)
        raise ParameterError(
            f"Profile {profile.name} needs {needs}",
            fix=f"For example `python -m deeplrhe_utils run {profile.name} {example}`",
        )


def _selection(stages: list[Stage], request: Request) -> set[str]:
    numbers = [stage.number for stage in stages]
    names = {stage.name: stage.number for stage in stages}

    def known(text: str, option: str) -> str:
        number = names.get(text, text.zfill(2) if text.isdigit() else text)
        if number not in numbers:
            raise unknown("stage", text, numbers, option)
        return number

    if request.only:
        if request.first or request.last:
            raise ParameterError("--only cannot be combined with --from or --to")
        return {known(text, "--only") for text in request.only}
    first = known(request.first, "--from") if request.first else numbers[0]
    last = known(request.last, "--to") if request.last else numbers[-1]
    if first > last:
        raise ParameterError("--from lies after --to", got=f"--from {first} --to {last}")
    return {number for number in numbers if first <= number <= last}


def _skip_reasons(profile: Profile, stages: list[Stage], values: dict[str, dict[str, Any]]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for skip in profile.skip:
        own = next(stage for stage in stages if stage.number == skip.stage)
        ordered = [own, *(stage for stage in stages if stage is not own)]
        if all(_holds(name, value, ordered, values, profile, skip) for name, value in skip.when.items()):
            reasons.setdefault(skip.stage, skip.reason)
    return reasons


def _holds(
    name: str, value: Any, stages: Iterable[Stage], values: dict[str, dict[str, Any]], profile: Profile, skip: Skip
) -> bool:
    stage = next(stage for stage in stages if name in stage.parameters)
    if value == GIVEN:
        return bool(values[stage.number][name])
    wanted = stage.parameters[name].from_yaml(value, f"profile {profile.name}, skip of stage {skip.stage}")
    return bool(values[stage.number][name] == wanted)


def describe_plan(plan: list[Planned], profile: Profile) -> str:
    """The plan as text: stages with what would run, then every parameter with type, value and meaning."""
    lines = [f"Profile {profile.name}: {profile.title}", "", "Stages"]
    for planned in plan:
        fate = "skipped: " + planned.skip_reason if planned.skip_reason else "runs (unless unchanged)"
        lines.append(f"  {planned.stage.name:<28} {fate if planned.selected else 'not selected'}")
    lines += ["", "Parameters (* given by the profile or -p; notebook defaults in parentheses)"]
    lines.append(f"    determinism: on | off = {'on' if plan[0].held else 'off'!r}  {DETERMINISM.description}")
    for planned in plan:
        lines.append(f"  {planned.stage.name}")
        lines += [_parameter_line(planned, p) for p in planned.stage.parameters.values() if p.name != "run_dir"]
    return "\n".join(lines)


def _parameter_line(planned: Planned, parameter: Parameter) -> str:
    value, given = planned.values[parameter.name], parameter.name in planned.given
    default = f" ({parameter.default!r})" if value != parameter.default else ""
    kind = " | ".join(parameter.choices) or parameter.type
    unit = f"[{parameter.unit}] " if parameter.unit else ""
    mark = "*" if given else " "
    return f"   {mark}{parameter.name}: {kind} = {value!r}{default}  {unit}{parameter.description}".rstrip()
