"""When a stage may be skipped: its key, the record of its last success, and what must be thrown away."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import CompendiumError, RunError
from deeplrhe_utils.core.files import read_json, sha256_file, sha256_text, to_json, write_json, write_text
from deeplrhe_utils.running.machine.process import is_held
from deeplrhe_utils.running.plan.closure import Sources
from deeplrhe_utils.running.plan.notebooks import read_stage
from deeplrhe_utils.running.plan.plan import Planned, reads

LARGE_BYTES = 16 * 2**20  # larger inputs and outputs are compared by size and modification time


@dataclass
class Record:
    """A stage's last success, as kept in ``stages/NN.json``.

    ``outputs`` maps files (relative to the run folder) to SHA-256; ``large`` maps those above 16 MiB
    to [size, mtime_ns] so that an unchanged slide is not read again only to be skipped. ``commit`` is that of the
    repository when the stage ran, with "+" if files differed from it. ``lived`` is when it was at work, first and last
    moment [ns, clock of the file system]: what changed in its folders at another time is not its own.
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
    lived: list[int] = field(default_factory=list)


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


CRATE: Final = "ro-crate-metadata.json"
"""Lists every file that a run left, with its SHA-256."""

CHANGED: Final = "changed-by-hand"
"""Folder of a run that keeps what somebody changed or added among a stage's files, when the stage runs again."""

_SLACK_NS: Final = 2 * 10**9  # file systems keep times to a second, some to two


def _stat(name: str, path: Path) -> list[Any]:
    status = path.stat()
    return [name, status.st_size, status.st_mtime_ns]


def input_fingerprints(planned: Planned, repository: Path) -> dict[str, Any]:
    """Fingerprint of each path parameter that has a value."""
    named = (p for p in planned.stage.parameters.values() if p.is_path and planned.values[p.name])
    return {p.name: fingerprint(repository / planned.values[p.name]) for p in named}


def stage_key(planned: Planned, sources: Sources, inputs: dict[str, Any], earlier: dict[str, dict[str, str]]) -> str:
    """SHA-256 over the notebook, the sources that it reaches, parameters, level, inputs and earlier outputs."""
    values = {name: value for name, value in planned.values.items() if name != "run_dir"}
    earlier = {other: outputs for other, outputs in earlier.items() if reads(planned.stage.number, other)}
    return sha256_text(
        to_json([planned.stage.source_hash, sources.digest(planned.stage.code), values, planned.held, inputs, earlier])
    )


def record_file(root: Path, number: str) -> Path:
    """Where a stage's record lives."""
    return root / "stages" / f"{number}.json"


def skipped_file(root: Path, number: str) -> Path:
    """Where it stands why a stage's question could not be asked of this cohort."""
    return root / "stages" / f"{number}.skipped"


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
    Under another key (or an unknown one) everything that the stage wrote is deleted (:func:`forget`).
    """
    number = planned.stage.number
    record, tried, lived = load_record(root, number), last_key(root, number), _lived(root, number)
    if tried == key and record is not None and record.key == key:
        for name in damaged(root, record):  # a damaged file must not be resumed from
            if _inside(root, name) and (root / name).is_file():
                print(f"{name} is not as the stage left it; it is kept in {_set_aside(root, root / name)}")
    if tried != key:
        forget(root, number)
    else:
        record_file(root, number).unlink(missing_ok=True)
    _write_pending(root, number, key, lived[0] if tried == key and lived else 0)


def _write_pending(root: Path, number: str, key: str, since: int) -> None:
    """Note the attempt; `since` is its first moment, 0 for now. Its last moment is when this file was touched last."""
    path = write_text(pending_file(root, number), key + "\n")
    write_text(path, f"{key}\n{since or path.stat().st_mtime_ns}\n")


def alive(root: Path, number: str) -> None:
    """Say that a stage is at work: what it writes until this is said again is its own."""
    with contextlib.suppress(OSError):
        os.utime(pending_file(root, number))


def _lived(root: Path, number: str) -> list[int]:
    """First and last moment of a stage's work under its latest key [ns]; empty when that is unknown."""
    path, record = pending_file(root, number), load_record(root, number)
    with contextlib.suppress(OSError, ValueError, IndexError):
        return [int(path.read_text(encoding="utf-8").split()[1]), path.stat().st_mtime_ns]
    return record.lived if record is not None else []


def last_key(root: Path, number: str) -> str:
    """The key under which a stage was last attempted; "" when that is unknown."""
    pending, record = pending_file(root, number), load_record(root, number)
    if pending.is_file():
        return (pending.read_text(encoding="utf-8").split() or [""])[0]
    return record.key if record else ""


def forget(root: Path, number: str) -> None:
    """Delete a stage's record, every output it declared and its partial results; nothing else.

    An output is deleted as the record has it, and a file of ``work/NN`` or ``models/NN`` if it changed last while the
    stage was at work. Any other may hold somebody's work: it is moved to :data:`CHANGED`.
    """
    record, lived = load_record(root, number), _lived(root, number)
    known, broken = (record.outputs, set(damaged(root, record))) if record else ({}, set())
    declared: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        declared = declared_files(root, [name for name in read_json(outputs_file(root, number)) if _inside(root, name)])
    for name in sorted({*known, *declared}):
        path = root / name
        if not _inside(root, name) or not path.is_file():
            continue
        if (name in known and name not in broken) or (name not in known and _wrote(path, lived)):
            path.unlink()
        elif name in known:
            print(f"{name} was changed by somebody; it is kept in {_set_aside(root, path)}")
    clear_scratch(root, number, lived)
    for name in sorted({Path(name).parent.as_posix() for name in {*known, *declared}}):
        _drop_empty(root / name)
    for path in (own(root, number) for own in (record_file, outputs_file, pending_file, skipped_file)):
        path.unlink(missing_ok=True)


def clear_scratch(root: Path, number: str, lived: list[int]) -> None:
    """Empty ``work/NN`` and ``models/NN``: what the stage wrote is deleted, anything else set aside.

    In a run that was copied or cloned all times are new; there the hashes in the run's crate tell which models are its
    own, and the rest is set aside.
    """
    listed, aside = _crate(root), 0
    for top in (root / "work" / number, root / "models" / number):
        for folder, _, files in os.walk(top, topdown=False):
            for path in (Path(folder) / name for name in files):
                name = path.relative_to(root).as_posix()
                if _wrote(path, lived) or (name in listed and sha256_file(path) == listed[name]):
                    path.unlink()
                else:
                    aside += bool(_set_aside(root, path))
            _drop_empty(Path(folder))
    if aside:
        print(f"{aside} files of work/{number} and models/{number} may be somebody's; they are kept in {CHANGED}/")


def _crate(root: Path) -> dict[str, str]:
    """SHA-256 of the files that the page of an earlier run lists; empty where there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        files = read_json(root / CRATE)["@graph"]
        return {str(one["name"]): str(one["sha256"]) for one in files if "sha256" in one}
    return {}


def _wrote(path: Path, lived: list[int]) -> bool:
    """Whether a file appeared, or was changed last, while its stage was at work."""
    return bool(lived) and lived[0] - _SLACK_NS <= path.lstat().st_ctime_ns <= lived[1] + _SLACK_NS


def _drop_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _inside(root: Path, name: str) -> bool:
    """Whether a name is below the run folder: a hand-edited record must not reach outside."""
    path = (root / name).resolve()
    return path.is_relative_to(root.resolve()) and path != root.resolve()


def _set_aside(root: Path, source: Path) -> Path:
    """Move a file to the same place below :data:`CHANGED`, under a name that is free; relative to the run folder."""
    name = source.relative_to(root)
    target, number = root / CHANGED / name, 1
    while target.exists():
        number += 1
        target = (root / CHANGED / name).with_name(f"{source.stem}-{number}{source.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)  # a work folder may be a link to another disk
    return target.relative_to(root)


def complete(root: Path, planned: Planned, record: Record) -> Record:
    """Write the record of a stage that has just succeeded, with the hashes of what it declared."""
    number = planned.stage.number
    names = _declared(root, planned)
    record.outputs = {name: sha256_file(root / name) for name in names}
    sizes = {name: _stat("", root / name)[1:] for name in names}
    record.large = {name: stat for name, stat in sizes.items() if stat[0] > LARGE_BYTES}
    alive(root, number)
    record.lived = _lived(root, number)
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
    """Empty ``work/NN`` and ``models/NN`` unless they were made by the same code, parameters and inputs.

    Finished tables and figures stay: the notebook overwrites them as it goes.

    Parameters
    ----------
    stage : name of the notebook without suffix
    namespace : the notebook's variables; its parameters are read from there

    Raises ParameterError: a parameter has a value that makes no sense.
    """
    number = stage[:2]
    key = _key_by_hand(stage, root, namespace)
    if key and last_key(root, number) == key:
        return
    clear_scratch(root, number, _lived(root, number))
    for path in (record_file(root, number), skipped_file(root, number)):
        path.unlink(missing_ok=True)
    _write_pending(root, number, key, 0)


def _key_by_hand(stage: str, root: Path, namespace: dict[str, Any]) -> str:
    """The key the runner would use; "" when the notebook is not one of the repository's."""
    try:
        notebook = read_stage(places.NOTEBOOKS / f"{stage}.ipynb")
    except CompendiumError:
        return ""
    values = {n: p.check(namespace.get(n, p.default), stage) for n, p in notebook.parameters.items()}
    planned = Planned(notebook, values, frozenset(), held=is_held())
    inputs = input_fingerprints(planned, places.REPOSITORY)
    records = {f"{n:02d}": load_record(root, f"{n:02d}") for n in range(int(notebook.number))}
    earlier = {number: outputs_now(root, record) for number, record in records.items() if record is not None}
    return stage_key(planned, Sources(places.REPOSITORY / "deeplrhe_utils"), inputs, earlier)
