"""The parameters cell of a notebook: reading it, and checking values against it before anything starts."""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import re
import tokenize
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.seeds import MOST_SEED

SCALARS = ("str", "int", "float", "bool")
LISTS = ("list[str]", "list[int]", "list[float]")
_COMMENT = re.compile(r"^#\s*(?:\[(?P<bracket>[^\]]*)\])?\s*(?P<text>.*)$", re.DOTALL)
_RANGE = re.compile(r"^(\d+(?:\.\d+)?)–(\d+(?:\.\d+)?)?$")
_INTEGER = re.compile(r"^[+-]?\d+$")
_WORDS = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``name: type = default  # [unit] description``.

    ``choices`` are the legal values as text, empty when anything of the type goes. Numbers lie between ``low`` and
    ``high``: ``[low–high]`` or ``[unit; low–high]``, either may be missing; a number is never negative otherwise.
    """

    name: str
    type: str
    default: Any
    unit: str = ""
    description: str = ""
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = math.inf

    @property
    def is_path(self) -> bool:
        """Whether the value names a file or folder outside the run (``run_dir`` is not one)."""
        return self.type == "str" and self.name != "run_dir" and _is_path_name(self.name)

    def from_text(self, text: str, where: str) -> Any:
        """The value a person typed after ``-p name=``."""
        if self.type == "str":
            return self.check(text, where)
        if self.type == "bool":
            return self.check(_WORDS.get(text.strip().lower(), text), where)
        if self.type in SCALARS:
            return self.check(_number(text, self.type), where)
        return self.check(self._list_from_text(text, where), where)

    def from_yaml(self, value: Any, where: str) -> Any:
        """The value a profile gives; text that YAML 1.1 failed to read as a float counts as one."""
        if self.type == "float" and isinstance(value, str):
            value = _number(value, "float")
        if self.type == "list[float]" and isinstance(value, list):
            value = [_number(v, "float") if isinstance(v, str) else v for v in value]
        return self.check(value, where)

    def check(self, value: Any, where: str) -> Any:
        """`value` in the declared type, or a :class:`ParameterError` that says what was expected."""
        if self.type in LISTS:
            if not isinstance(value, list):
                raise self._wrong(value, where)
            item = self.type[5:-1]
            return [self._choice(self._typed(v, item, value, where), where) for v in value]
        return self._choice(self._typed(value, self.type, value, where), where)

    def _typed(self, value: Any, kind: str, whole: Any, where: str) -> Any:
        fits: dict[str, Callable[[Any], bool]] = {
            "str": lambda v: isinstance(v, str),
            "bool": lambda v: isinstance(v, bool),
            "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
            "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v),
        }
        if not fits[kind](value):
            raise self._wrong(whole, where)
        return float(value) if kind == "float" else value

    def _choice(self, value: Any, where: str) -> Any:
        if self.choices and str(value) not in self.choices:
            what = f"Parameter {self.name} ({where}) has a value that is not offered"
            fix = did_you_mean(str(value), self.choices)
            raise ParameterError(what, got=repr(value), expected=" | ".join(self.choices), fix=fix)
        if isinstance(value, (int, float)) and not self.low <= value <= self.high:
            unit = "" if "–" in self.unit or self.unit == "seed" else self.unit
            most = f" to {self.high:.10g}" if self.high < math.inf else " or more"
            raise ParameterError(f"Parameter {self.name} ({where}) makes no sense", got=f"{value:.10g}",
                                 expected=f"{self.low:.10g}{most} {unit}".strip())  # fmt: skip
        return value

    def _wrong(self, value: Any, where: str) -> ParameterError:
        fix = ""
        if self.type == "str" and not isinstance(value, (list, dict)):
            fix = f'In YAML, put the text in quotes: {self.name}: "…" (unquoted no, yes, 1 and dates are not text)'
        elif self.type in LISTS:
            fix = f"Write a list: -p {self.name}=a,b or in YAML {self.name}: [a, b]"
        what = f"Parameter {self.name} ({where}) has the wrong type"
        expected = f"{self.type}, such as {self.default!r}"
        return ParameterError(what, got=f"{value!r} ({type(value).__name__})", expected=expected, fix=fix)

    def _list_from_text(self, text: str, where: str) -> Any:
        text = text.strip()
        if text.startswith("["):
            try:
                return self.from_yaml(json.loads(text), where)
            except ValueError:
                text = text.strip("[]")
        item = self.type[5:-1]
        parts = [part.strip().strip("'\"") for part in text.split(",")] if text else []
        return parts if item == "str" else [_number(part, item) for part in parts]


def parse_parameters(source: str, where: str) -> list[Parameter]:
    """Parameters of a cell, in order.

    Parameters
    ----------
    source : source of the cell tagged ``parameters``
    where : name of the notebook, for errors

    Raises ParameterError: when a line is not ``name: type = literal  # comment`` or has another type.
    """
    try:
        tree, comments = ast.parse(source), _comments(source)
    except (SyntaxError, tokenize.TokenError) as error:
        raise ParameterError(f"The parameters cell of {where} is not valid Python", got=str(error)) from error
    return [_parse_line(node, comments, source, where) for node in tree.body]


def _parse_line(node: ast.stmt, comments: dict[int, str], source: str, where: str) -> Parameter:
    line = ast.get_source_segment(source, node) or ""
    form = "name: type = literal  # [unit] description"
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
        raise ParameterError(f"The parameters cell of {where} has a line of another form", got=line, expected=form)
    kind = ast.unparse(node.annotation)
    if kind not in SCALARS + LISTS:
        legal = ", ".join(SCALARS + LISTS)
        raise ParameterError(
            f"Parameter {node.target.id} of {where} has a type we cannot pass", got=kind, expected=legal
        )
    try:
        default = ast.literal_eval(node.value)
    except ValueError:
        what = f"The default of parameter {node.target.id} of {where} is no literal"
        raise ParameterError(what, got=line, expected=form) from None
    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    unit, choices, text = _parse_comment(next((comments[n] for n in lines if n in comments), ""))
    unit, low, high = _range(unit)
    parameter = Parameter(node.target.id, kind, default, unit, text, choices, low, high)
    parameter.check(default, where)
    return parameter


def _parse_comment(comment: str) -> tuple[str, tuple[str, ...], str]:
    match = _COMMENT.match(comment)
    bracket, text = (match["bracket"] or "", match["text"].strip()) if match else ("", "")
    if bracket.startswith("choices:"):
        return "", tuple(c.strip().strip("'\"") for c in bracket[8:].split("|")), text
    return bracket.strip(), (), text


def _range(bracket: str) -> tuple[str, float, float]:
    """Unit, least and largest value of ``unit; low–high`` or ``low–high``."""
    unit, _, ends = bracket.rpartition(";")
    if match := _RANGE.match(ends.strip()):
        low, high = match.groups()
        return unit.strip() or bracket, float(low), float(high) if high else math.inf
    return bracket, 0.0, MOST_SEED if bracket == "seed" else math.inf


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def _number(text: str, kind: str) -> Any:
    """The number in `text`, or `text` itself when there is none (so that the check can quote it)."""
    text = text.strip()
    if kind == "int":
        return int(text) if _INTEGER.match(text) else text
    try:
        return float(text)
    except ValueError:
        return text


def _is_path_name(name: str) -> bool:
    return name == "model" or name.endswith(("_dir", "_csv", "_path"))


def did_you_mean(word: str, legal: Iterable[str]) -> str:
    """A sentence that proposes the nearest legal word, or "".

    >>> did_you_mean("tile_pix", ["tile_px", "seed"])
    'Did you mean tile_px?'
    """
    near = difflib.get_close_matches(word, list(legal), n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else ""


def unknown(kind: str, word: str, legal: Iterable[str], where: str = "") -> ParameterError:
    """The error for a name that does not exist: lists the legal ones and proposes the nearest."""
    names = list(legal)
    what = f"Unknown {kind} {word!r}" + (f" in {where}" if where else "")
    return ParameterError(what, expected=", ".join(names) or f"none: there is no {kind}", fix=did_you_mean(word, names))
