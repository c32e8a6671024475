"""Profiles: a title, what the machine needs, and the parameters that deviate from the notebooks' defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.running.plan.parameters import unknown

INPUTS = ("synthetic", "slides", "tiles", "features")
_KEYS: dict[str, type] = {
    "title": str,
    "input": str,
    "expect": dict,
    "required": dict,
    "skip": list,
    "common": dict,
    "stages": dict,
    "seconds": dict,
}
_EXPECT = ("seconds", "memory_gb", "disk_gb", "gpu")
_SKIP = ("stage", "when", "reason")
GPU = ("optional", "recommended")
GIVEN = "*"
"""In `when` of a skip: the parameter has any value but an empty one."""


@dataclass(frozen=True)
class Skip:
    """A stage that does not apply: always, or when all named parameters have the given values (`GIVEN`: any)."""

    stage: str
    reason: str
    when: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """One profile as written; values are checked later, against the notebooks' parameters."""

    name: str
    title: str
    input: str
    expect: dict[str, Any] = field(default_factory=dict)
    required: dict[str, str] = field(default_factory=dict)
    skip: tuple[Skip, ...] = ()
    common: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def profile_names(folder: Path) -> list[str]:
    """Names of the profiles in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.yml"))


def load_profile(name: str, folder: Path) -> Profile:
    """Read ``<folder>/<name>.yml``.

    Raises ParameterError: when there is no such profile, it is not YAML, or it has unknown keys or wrong types.
    """
    import yaml

    names = profile_names(folder)
    if name not in names:
        raise unknown("profile", name, names)
    where = f"profile {name}"
    try:
        content = yaml.safe_load((folder / f"{name}.yml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParameterError(f"The {where} is not valid YAML", got=str(error)) from error
    _check_keys(content, _KEYS, where)
    for key, value in content.items():
        if not isinstance(value, _KEYS[key]):
            got = f"{value!r} ({type(value).__name__})"
            raise ParameterError(f"Key {key} of {where} has the wrong type", got=got, expected=_KEYS[key].__name__)
    return _build(name, content, where)


def _build(name: str, content: dict[str, Any], where: str) -> Profile:
    for key in ("title", "input"):
        if key not in content:
            raise ParameterError(f"The {where} lacks the key {key}")
    if content["input"] not in INPUTS:
        raise ParameterError(f"Key input of {where} is illegal", got=content["input"], expected=" | ".join(INPUTS))
    return Profile(
        name=name,
        title=content["title"],
        input=content["input"],
        expect=_expect(content.get("expect", {}), where),
        required={str(k): str(v) for k, v in content.get("required", {}).items()},
        skip=tuple(_skip(entry, where) for entry in content.get("skip", [])),
        common=content.get("common", {}),
        stages=_by_stage(content.get("stages", {}), dict, where),
        seconds=_by_stage(content.get("seconds", {}), (int, float), where),
    )


def _expect(expect: dict[str, Any], where: str) -> dict[str, Any]:
    _check_keys(expect, _EXPECT, f"expect of {where}")
    for key, value in expect.items():
        good = value in GPU if key == "gpu" else isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good:
            legal = " | ".join(GPU) if key == "gpu" else "a number"
            raise ParameterError(f"Key expect.{key} of {where} is illegal", got=repr(value), expected=legal)
    return expect


def _skip(entry: Any, where: str) -> Skip:
    _check_keys(entry, _SKIP, f"skip of {where}")
    if "stage" not in entry or "reason" not in entry:
        raise ParameterError(f"An entry of skip in {where} lacks stage or reason", got=entry)
    when = entry.get("when", {})
    if not isinstance(when, dict):
        raise ParameterError(f"Key when of skip in {where} is no mapping", got=repr(when), expected='{name: "value"}')
    return Skip(stage_number(entry["stage"], where), str(entry["reason"]), when)


def _by_stage(mapping: dict[Any, Any], kind: Any, where: str) -> dict[str, Any]:
    for key, value in mapping.items():
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ParameterError(f"Stage {key} in {where} has a malformed entry", got=repr(value))
    return {stage_number(key, where): value for key, value in mapping.items()}


def stage_number(key: Any, where: str) -> str:
    """Two digits of a stage; unquoted YAML digits count (``01`` is read as a number).

    >>> stage_number(1, "profile smoke")
    '01'
    """
    text = f"{key:02d}" if isinstance(key, int) and not isinstance(key, bool) else str(key)
    if len(text) != 2 or not text.isdigit():
        raise ParameterError(
            f"Malformed stage in {where}", got=repr(key), expected='two digits in quotes, such as "05"'
        )
    return text


def _check_keys(content: Any, legal: Any, where: str) -> None:
    if not isinstance(content, dict):
        raise ParameterError(f"The {where} is no mapping", got=repr(content)[:80], expected=", ".join(legal))
    for key in content:
        if key not in legal:
            raise unknown("key", str(key), legal, where)
