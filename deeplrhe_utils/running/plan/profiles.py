"""Profiles: a title, what the machine needs, and the parameters that deviate from the notebooks' defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.running.plan.parameters import unknown

_NUMBER = (int, float)
_KEYS = {"title": str, "input": ("synthetic", "slides", "tiles", "features"), "expect": dict, "required": dict,
         "skip": list, "common": dict, "stages": dict, "seconds": dict}  # fmt: skip
_EXPECT = {"seconds": _NUMBER, "memory_gb": _NUMBER, "disk_gb": _NUMBER, "gpu": ("optional", "recommended")}
_SKIP = {"stage": (str, int), "reason": str, "when": dict}
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
    _checked(content, _KEYS, where, ("title", "input"))
    return Profile(
        name=name,
        title=content["title"],
        input=content["input"],
        expect=_checked(content.get("expect", {}), _EXPECT, f"expect of {where}"),
        required={str(k): str(v) for k, v in content.get("required", {}).items()},
        skip=tuple(_skip(entry, where) for entry in content.get("skip", [])),
        common=content.get("common", {}),
        stages=_by_stage(content.get("stages", {}), dict, where),
        seconds=_by_stage(content.get("seconds", {}), _NUMBER, where),
    )


def _skip(entry: Any, where: str) -> Skip:
    _checked(entry, _SKIP, f"skip of {where}", ("stage", "reason"))
    return Skip(stage_number(entry["stage"], where), entry["reason"], entry.get("when", {}))


def _by_stage(mapping: dict[Any, Any], kind: Any, where: str) -> dict[str, Any]:
    named = {stage_number(key, where): value for key, value in mapping.items()}
    return _checked(named, dict.fromkeys(named, kind), where)


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


def _checked(content: Any, legal: Mapping[str, Any], where: str, needed: Sequence[str] = ()) -> dict[str, Any]:
    """A mapping whose keys are `legal`, each with a value of its type or out of its words."""
    if not isinstance(content, dict):
        raise ParameterError(f"The {where} is no mapping", got=repr(content)[:80], expected=", ".join(legal))
    for key, value in content.items():
        if key not in legal:
            raise unknown("key", str(key), legal, where)
        kinds = legal[key] if isinstance(legal[key], tuple) else (legal[key],)
        words = isinstance(kinds[0], str)
        if value not in kinds if words else isinstance(value, bool) or not isinstance(value, kinds):
            raise ParameterError(f"Key {key} of {where} has the wrong type, or an unknown value", got=repr(value),
                                 expected=" | ".join(kind if words else kind.__name__ for kind in kinds))  # fmt: skip
    if lacking := [key for key in needed if key not in content]:
        raise ParameterError(f"The {where} lacks the key {lacking[0]}", got=", ".join(map(str, content)))
    return content
