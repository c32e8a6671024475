"""``deeplrhe synth``: write a synthetic cohort and its truth; resumable, the same whatever the number of workers."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core.errors import ParameterError, RunError
from deeplrhe_utils.core.files import held, read_json, write_text
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.text import human_size
from deeplrhe_utils.running.machine.engine import map_tasks
from deeplrhe_utils.running.stage.record import plain_value
from deeplrhe_utils.synthetic import publish
from deeplrhe_utils.synthetic.publish import GENES, PRESETS, CohortPlan, CohortSpec

BYTES_PER_PIXEL: Final = 0.35  # of a slide, generously: measured 0.1 (40×, much glass) to 0.28 (20×)


def make_spec(preset: str, settings: Sequence[str], seed: int | None = None) -> CohortSpec:
    """A preset with changes.

    Parameters
    ----------
    preset : one of :data:`PRESETS`
    settings : sequence of ``name=value``; fields of :class:`CohortSpec`, or a gene and its effect size d, such as
        ``TP53=1.0``
    seed : wins over the preset's

    Raises ParameterError: unknown preset or name, or a value that is no number or out of range.

    >>> make_spec("smoke", ["n_slides=3", "TP53=0"], seed=7).n_slides
    3
    """
    if preset not in PRESETS:
        raise ParameterError(f"There is no preset {preset!r}", expected=", ".join(PRESETS))
    base = PRESETS[preset]
    fields = {f.name: type(getattr(base, f.name)) for f in dataclasses.fields(base) if f.name != "effects"}
    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    effects = dict(base.effects)
    for setting in settings:
        name, separator, text = (part.strip() for part in setting.partition("="))
        if not separator or name not in {*fields, *GENES}:
            legal = ", ".join([*fields, *GENES])
            raise ParameterError(
                f"There is no cohort parameter {setting!r}", expected=f"name=value, name one of {legal}"
            )
        kind = fields.get(name, float)
        try:
            value = kind(text)
        except ValueError as error:
            raise ParameterError(f"{name} is not a number", got=text, expected=kind.__name__) from error
        (effects if name in GENES else changes)[name] = value
    return dataclasses.replace(base, effects=tuple(sorted(effects.items())), **changes)


def write_synthetic_cohort(spec: CohortSpec, folder: Path, *, workers: int = 2, scheduler: str = "") -> CohortPlan:
    """Write a whole cohort; slides that are complete already are kept.

    Parameters
    ----------
    folder : made if missing. Holds ``slides``, ``truth``, the tables and ``SHA256SUMS`` in the end.
    workers, scheduler : as in `map_tasks`; they never change a byte

    Raises ParameterError: the folder holds a cohort with other parameters. RunError: another process writes there, too
    little disk, or a slide could not be written; what is finished stays. InputError: the folder cannot be written.
    """
    plan = publish.plan_cohort(spec)
    with held(folder, "synth", known=_there(folder) is not None):
        _check_same(spec, folder)
        _check_disk(plan, folder)
        _write(plan, folder, workers, scheduler)
    return plan


def _write(plan: CohortPlan, folder: Path, workers: int, scheduler: str) -> None:
    for ours in (folder / "slides", folder / "truth"):
        for left_by_a_kill in ours.rglob(".*.part*"):
            left_by_a_kill.unlink()
    publish.write_tables(plan, folder)
    values = "".join(f"| {name} | {value} |\n" for name, value in dataclasses.asdict(plan.spec).items())
    about = (REFERENCE_DATA / "synthetic-readme.md").read_text(encoding="utf-8")
    write_text(folder / "README.md", about + values)
    per_slide = folder / "truth" / "slides"
    paint = partial(publish.write_slide, plan, folder=folder / "slides", truth_folder=per_slide)
    # by name, because the two large slides come first and would take twice the memory side by side
    map_tasks(paint, sorted(plan.slides["slide_id"]), workers=workers, scheduler=scheduler, label="slides written")
    publish.write_truth(plan, per_slide, folder / "truth")
    publish.write_checksums(folder)


def _there(folder: Path) -> dict[str, Any] | None:
    """What stands in a synthetic cohort's ``cohort.json``; None where there is no such cohort."""
    try:
        found = read_json(folder / "cohort.json")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"renderer", "spec"} <= set(found) else None


def _check_same(spec: CohortSpec, folder: Path) -> None:
    there, now = _there(folder), plain_value(dataclasses.asdict(spec))
    if there is not None and (there.get("renderer") != publish.RENDERER_VERSION or there.get("spec") != now):
        differs = sorted(k for k in now if there.get("spec", {}).get(k) != now[k]) or ["renderer"]
        raise ParameterError(
            f"{folder} holds a cohort made in another way: {', '.join(differs)}",
            fix="Choose another --out, or remove that folder",
        )


def _check_disk(plan: CohortPlan, folder: Path) -> None:
    there = {f.stem for f in folder.glob("slides/*.svs")}
    missing = plan.slides[~plan.slides["slide_id"].isin(there)]
    needed = (missing["width_l0_px"].astype(float) * missing["height_l0_px"]).sum() * BYTES_PER_PIXEL
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise RunError(
            f"Too little disk for this cohort below {place}",
            got=f"{human_size(free)} free",
            expected=f"about {human_size(needed)}",
            fix="Choose another --out, or fewer or smaller slides",
        )


def sentence(plan: CohortPlan, folder: Path) -> str:
    """What was written, for a person."""
    size = sum(f.stat().st_size for f in folder.glob("slides/*.svs"))
    n = plan.slides["patient_id"].nunique()
    return f"{len(plan.slides)} slides of {n} synthetic patients, {human_size(size)}, in {folder}"
