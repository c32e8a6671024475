"""When a stage may be skipped: its key, the record of its last success, and what must be thrown away."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import CompendiumError, RunError
from deeplrhe_utils.core.files import read_json, sha256_file, sha256_text, to_json, write_json, write_text
from deeplrhe_utils.running.plan.closure import Sources
from deeplrhe_utils.running.plan.notebooks import read_stage
from deeplrhe_utils.running.plan.plan import Planned

LARGE_BYTES = 16 * 2**20  # larger inputs and outputs are compared by size and modification time


@dataclass
class Record:
    """A stage's last success, as kept in ``stages/NN.json``.

    ``outputs`` maps files (relative to the run folder) to SHA-256; ``large`` maps those above 16 MiB
    to [size, mtime_ns] so that an unchanged slide is not read again only to be skipped. ``commit`` is that of the
    repository when the stage ran, with "+" if files differed from it.
    """

    key: str
    status: str
    seconds: float
    peak_memory_bytes: int
    parameters: dict[str, Any]
    outputs: dict[str, str]
    inputs: dict[str, Any]
    large: dict[str, list[int]] = field(default_factory=dict)
    finished: str = ""
    commit: str = ""


def fingerprint(path: Path) -> Any:
    """What identifies an external input.

    A file up to 16 MiB by content; a larger one, and every file of a folder, by name, size and
    modification time [ns].
    """
    if path.is_file():
        return sha256_file(path) if path.stat().st_size <= LARGE_BYTES else _stat("", path)
    if not path.is_dir():
        return "missing"
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return sha256_text(to_json([_stat(p.relative_to(path).as_posix(), p) for p in files]))


CHANGED: Final = "changed-by-hand"
"""Folder of a run that keeps outputs that somebody changed, when their stage runs again."""


def _stat(name: str, path: Path) -> list[Any]:
    status = path.stat()
    return [name, status.st_size, status.st_mtime_ns]


def input_fingerprints(planned: Planned, repository: Path) -> dict[str, Any]:
    """Fingerprint of each path parameter that has a value."""
    named = (p for p in planned.stage.parameters.values() if p.is_path and planned.values[p.name])
    return {p.name: fingerprint(repository / planned.values[p.name]) for p in named}


def stage_key(planned: Planned, sources: Sources, inputs: dict[str, Any], earlier: dict[str, dict[str, str]]) -> str:
    """SHA-256 over the notebook, the source files that it reaches, parameters, inputs and earlier outputs."""
    values = {name: value for name, value in planned.values.items() if name != "run_dir"}
    return sha256_text(
        to_json([planned.stage.source_hash, sources.digest(planned.stage.code), values, inputs, earlier])
    )


def record_file(root: Path, number: str) -> Path:
    """Where a stage's record lives."""
    return root / "stages" / f"{number}.json"


def pending_file(root: Path, number: str) -> Path:
    """Where the key of an attempt lives until it has succeeded."""
    return root / "stages" / f"{number}.pending"


def load_record(root: Path, number: str) -> Record | None:
    """The stage's record; None when there is none or it cannot be read (then the stage simply runs)."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return Record(**read_json(record_file(root, number)))
    return None


def damaged(root: Path, record: Record) -> list[str]:
    """Outputs of `record` that are missing or have other bytes now."""
    return [n for n, digest in record.outputs.items() if not _present(root / n, digest, record.large.get(n))]


def outputs_now(root: Path, record: Record) -> dict[str, str]:
    """Outputs of `record` with the hashes that they have now; "missing" for those that are gone."""
    changed = damaged(root, record)
    now = {name: sha256_file(root / name) if (root / name).is_file() else "missing" for name in changed}
    return record.outputs | now


def _present(path: Path, digest: str, large: list[int] | None) -> bool:
    if not path.is_file():
        return False
    return bool(large and _stat("", path)[1:] == large) or sha256_file(path) == digest


def begin(root: Path, planned: Planned, key: str) -> None:
    """Make the folder ready for an attempt under `key`.

    Partial results of an attempt under the same key stay, so the notebook can resume from them.
    Under another key (or an unknown one) everything the stage ever declared is deleted, and so are
    ``work/NN`` and ``models/NN``.
    """
    number = planned.stage.number
    record, tried = load_record(root, number), last_key(root, number)
    if tried == key and record is not None and record.key == key:
        for name in damaged(root, record):  # a damaged file must not be resumed from
            _set_aside(root, name)
    if tried != key:
        forget(root, number)
    else:
        record_file(root, number).unlink(missing_ok=True)
    write_text(pending_file(root, number), key + "\n")


def last_key(root: Path, number: str) -> str:
    """The key under which a stage was last attempted; "" when that is unknown."""
    pending, record = pending_file(root, number), load_record(root, number)
    if pending.is_file():
        return pending.read_text(encoding="utf-8").strip()
    return record.key if record else ""


def forget(root: Path, number: str) -> None:
    """Delete a stage's record, every output it declared and its partial results.

    A file that is no longer as the stage left it may hold somebody's work; it is moved to :data:`CHANGED`.
    """
    record = load_record(root, number)
    declared = list(record.outputs) if record else []
    for name in damaged(root, record) if record else []:
        _set_aside(root, name)
    with contextlib.suppress(OSError, ValueError):
        declared += read_json(outputs_file(root, number))
    for name in declared:
        _delete(root, name)
    for folder in (root / "work" / number, root / "models" / number):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (record_file(root, number), outputs_file(root, number), pending_file(root, number)):
        path.unlink(missing_ok=True)


def _inside(root: Path, name: str) -> bool:
    """Whether a name is below the run folder: a hand-edited record must not reach outside."""
    path = (root / name).resolve()
    return path.is_relative_to(root.resolve()) and path != root.resolve()


def _set_aside(root: Path, name: str) -> None:
    """Move a changed file to the same place below :data:`CHANGED`, under a name that is free."""
    source = root / name
    if not _inside(root, name) or not source.is_file() or source.is_symlink():
        return
    target, number = root / CHANGED / name, 1
    while target.exists():
        number += 1
        target = (root / CHANGED / name).with_name(f"{source.stem}-{number}{source.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    print(f"{name} was changed after it was written; what it held is now in {target.relative_to(root)}")


def _delete(root: Path, name: str) -> None:
    path = (root / name).resolve()
    if not _inside(root, name):
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def complete(root: Path, planned: Planned, record: Record) -> Record:
    """Write the record of a stage that has just succeeded, with the hashes of what it declared."""
    number = planned.stage.number
    names = _declared(root, planned)
    record.outputs = {name: sha256_file(root / name) for name in names}
    sizes = {name: _stat("", root / name)[1:] for name in names}
    record.large = {name: stat for name, stat in sizes.items() if stat[0] > LARGE_BYTES}
    write_json(record_file(root, number), asdict(record))
    pending_file(root, number).unlink(missing_ok=True)
    return record


def _declared(root: Path, planned: Planned) -> list[str]:
    """Files the stage declared; a declared file that is gone is an error."""
    path = outputs_file(root, planned.stage.number)
    declared = read_json(path) if path.is_file() else []
    if gone := [name for name in declared if not (root / name).exists()]:
        raise RunError(f"Stage {planned.stage.name} declared outputs that do not exist", got=", ".join(gone[:5]))
    return declared_files(root, declared)


def outputs_file(root: Path, number: str) -> Path:
    """Where a stage lists its outputs."""
    return root / "stages" / f"{number}.outputs.json"


def declared_files(root: Path, declared: list[str]) -> list[str]:
    """Declared files and folders as one sorted list of files (POSIX, relative to `root`)."""
    files: set[str] = set()
    for name in declared:
        path = root / name
        found = path.rglob("*") if path.is_dir() else [path]
        files |= {f.relative_to(root).as_posix() for f in found if f.is_file() and ".part" not in f.suffixes}
    return sorted(files)


def begin_by_hand(stage: str, root: Path, namespace: dict[str, Any]) -> None:
    """Drop ``work/NN`` and ``models/NN`` unless they were made by the same code, parameters and inputs.

    Finished tables and figures stay: the notebook overwrites them as it goes.

    Parameters
    ----------
    stage : name of the notebook without suffix
    namespace : the notebook's variables; its parameters are read from there
    """
    number = stage[:2]
    key = _key_by_hand(stage, root, namespace)
    if key and last_key(root, number) == key:
        return
    for folder in (root / "work" / number, root / "models" / number):
        shutil.rmtree(folder, ignore_errors=True)
    record_file(root, number).unlink(missing_ok=True)
    write_text(pending_file(root, number), key + "\n")


def _key_by_hand(stage: str, root: Path, namespace: dict[str, Any]) -> str:
    """The key the runner would use; "" when the notebook is not one of the repository's."""
    try:
        notebook = read_stage(places.NOTEBOOKS / f"{stage}.ipynb")
        values = {n: p.check(namespace.get(n, p.default), stage) for n, p in notebook.parameters.items()}
    except CompendiumError:
        return ""
    planned = Planned(notebook, values, frozenset())
    inputs = input_fingerprints(planned, places.REPOSITORY)
    records = {f"{n:02d}": load_record(root, f"{n:02d}") for n in range(int(notebook.number))}
    earlier = {number: outputs_now(root, record) for number, record in records.items() if record is not None}
    return stage_key(planned, Sources(places.REPOSITORY / "deeplrhe_utils"), inputs, earlier)
