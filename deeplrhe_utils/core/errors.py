"""Errors that say what happened, where, got, expected and the next move."""

from __future__ import annotations


class CompendiumError(Exception):
    """Base of every error this package raises on purpose.

    Parameters
    ----------
    what : what happened and to which file, row or gene (a full sentence without its full stop)
    got, expected : the offending value and what would have been right
    fix : the next move, in the imperative
    """

    def __init__(self, what: str, *, got: object = None, expected: str = "", fix: str = "") -> None:
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        parts = [what.rstrip(".") + "."]
        if got is not None:
            parts.append(f"Got: {got}.")
        if expected:
            parts.append(f"Expected: {expected.rstrip('.')}.")
        if fix:
            parts.append(fix if fix.endswith((".", "`")) else fix + ".")
        super().__init__(" ".join(parts))


class ParameterError(CompendiumError):
    """A profile, stage or parameter that does not exist, or has the wrong type or value."""


class InputError(CompendiumError):
    """An input file or folder is missing, empty or not what it should be."""


class SlideError(InputError):
    """A slide cannot be opened or read."""


class MissingMppError(SlideError):
    """A slide has no usable resolution (microns per pixel)."""


class AnnotationError(InputError):
    """An annotation file cannot be read or does not fit its slide."""


class LabelError(InputError):
    """A label table is malformed or contradicts the cohort."""


class ServiceError(CompendiumError):
    """A web service cannot be reached, refuses, or answers what it must not.

    Parameters
    ----------
    what, got, expected, fix : as for every :class:`CompendiumError`
    status : the HTTP status of a refusal. Texts also hold what the service said, and must not be searched for it.
    """

    def __init__(
        self, what: str, *, got: object = None, expected: str = "", fix: str = "", status: int | None = None
    ) -> None:
        super().__init__(what, got=got, expected=expected, fix=fix)
        self.status = status


class SchemaError(CompendiumError):
    """A table does not keep its contract (columns, types, allowed values)."""


class CohortError(CompendiumError):
    """The cohort is too small, or one-sided, for what was asked."""


class SmallCohortError(CohortError):
    """Too few patients, sites or classes for a question: nothing is wrong, it cannot be asked of this cohort."""


class ModelError(CompendiumError):
    """A model file is missing, damaged, of another architecture, or saw a patient it must not score."""


class LeakError(ModelError):
    """A model is asked to score a patient it was trained on."""


class StainError(CompendiumError):
    """Colour statistics cannot be collected or matched."""


class ThinTissueError(StainError, SmallCohortError):
    """Too little tissue to fit colours on, or to match others to."""


class RunError(CompendiumError):
    """A run cannot start, was stopped, or one of its stages failed."""
