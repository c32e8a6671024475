"""``deeplrhe normalize``: bring slides, or tiles, to one reference's colours; resumable, one bad slide ends nothing.

What was given is sorted into slides (`running.normalize.sources`), one normalizer is fitted over
all of them or taken from a model (`running.normalize.fit`), and slide by slide the colours are
measured and the result is written (`running.normalize.write`).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core.errors import CompendiumError, InputError, ParameterError, RunError
from deeplrhe_utils.core.files import held, safe_name, sha256_text
from deeplrhe_utils.core.tables.foreign import read_foreign
from deeplrhe_utils.core.text import counted, on_one_line
from deeplrhe_utils.running.normalize.fit import is_ours, keep_fit, prepare, request_of
from deeplrhe_utils.running.normalize.sources import (
    NORMALIZER,
    OME_TIFF,
    TABLE,
    NormalizeOptions,
    PictureFolder,
    SlideFile,
    Source,
    check_places,
    find_sources,
    reference_source,
    state_of,
    with_resolutions,
)
from deeplrhe_utils.running.normalize.tissue import Readings
from deeplrhe_utils.running.normalize.write import (
    Written,
    remove_leftovers,
    write_normalized_slide,
    write_normalized_table,
    write_normalized_tiles,
    write_pictures,
)
from deeplrhe_utils.slides.files.inventory import count_kinds
from deeplrhe_utils.stain.methods.normalize import Normalizer, Plan

LEDGER_COLUMNS: Final = (
    "slide", "status", "note", "warnings", "n_statistics_tiles", "n_tiles", "mpp", "map", "output", "seconds",
    "normalizer", "request",
)  # fmt: skip
"""Of ``normalize.csv``; `map` and `normalizer` are digests, `mpp` is the result's [µm/px]."""
WRITTEN, UNCHANGED, FAILED = "written", "unchanged", "failed"
_FAR: Final = 0.10  # of the resolution that a network was fitted at: from here on it is told

_Row = dict[str, Any]
_Tell = Callable[[str], None]
_NAMED: Final = 3


def normalize(
    paths: Sequence[Path], out: Path, options: NormalizeOptions | None = None, tell: _Tell = print
) -> list[_Row]:
    """Normalize slides and tile folders into `out`.

    Parameters
    ----------
    paths : see `find_sources`
    out : made if missing. Receives a folder of tiles or an OME-TIFF per slide, ``normalize.csv`` and the folder
        ``normalizer``, from which `load_normalizer` reads.
    tell : receives one line of text per slide, and some more

    Returns the rows of ``normalize.csv`` of these inputs, in order. A slide that fails is a row, not an exception.
    Raises ParameterError: a parameter makes no sense; the output folder lies in an input; it holds other things, or
    slides that were normalized in another way. InputError, StainError, ModelError: there is nothing to normalize;
    nothing can be fitted; the model or reference cannot be used. RunError: another process writes there, or the disk is
    full; what is finished stays.
    """
    options = options or NormalizeOptions()
    options.check()
    found = find_sources(paths)
    sources, unused = with_resolutions(found.sources, options.mpp_csv) if options.mpp_csv else (found.sources, [])
    check_places(sources, paths, out)
    folders = [source.name for source in sources if isinstance(source, PictureFolder)]
    if folders and options.format == OME_TIFF:
        raise ParameterError("Tiles cannot be put together to a slide", got=f"the tile folder {folders[0]}",
                             fix="Leave out --format ome-tiff")  # fmt: skip
    reference = _reference(options, sources) if options.reference else None
    if found.side:
        tell(f"Side files, which are no slides: {count_kinds(found.side)}")
    for line in _left_out(found.left_out):
        tell(line)
    if unused:
        tell(f"The table of resolutions names slides that are not here: {on_one_line(', '.join(unused))}")
    names = {TABLE, NORMALIZER, *(target_name(source, options) for source in sources)}
    if options.model and options.model.resolve() == (out / NORMALIZER).resolve():
        names.remove(NORMALIZER)
    with held(out, "normalize", names, known=is_ours(out / NORMALIZER)):
        return _Call(sources, out, options, reference, tell, found.unread).run()


def _reference(options: NormalizeOptions, sources: Sequence[Source]) -> Source:
    found = reference_source(options.reference, sources)
    if options.mpp_csv:
        ((found,), _) = with_resolutions([found], options.mpp_csv)
    return found


def _left_out(files: Sequence[Path]) -> list[str]:
    """Files that were passed over, in a line."""
    if not files:
        return []
    named = ", ".join(on_one_line(str(path)) for path in files[:_NAMED]) + (", …" if len(files) > _NAMED else "")
    return [f"Left out: {len(files)} pictures beside slides ({named})"]


def target_name(source: Source, options: NormalizeOptions) -> str:
    """Name of a source's result in the output folder."""
    return safe_name(source.name) + (".ome.tif" if options.format == OME_TIFF else "")


class _Call:
    """One call: the folder is held, everything has been checked that can be without reading pixels."""

    def __init__(
        self, sources: Sequence[Source], out: Path, options: NormalizeOptions, reference: Source | None, tell: _Tell,
        unread: Sequence[Path] = (),
    ) -> None:  # fmt: skip
        self.sources, self.out, self.options, self.reference, self.tell = sources, out, options, reference, tell
        self.readings = Readings(options)
        self.earlier = self._read_earlier()
        self.rows: dict[str, _Row] = {}
        self.unread = unread

    def run(self) -> list[_Row]:
        """Prepare the normalizer, then one source after the other."""
        for target in (self.out / TABLE, *map(self._target, self.sources)):
            remove_leftovers(target)
        for folder in sorted({path.parent for path in self.unread}):
            told = "files of kinds that cannot be read: " + count_kinds([p for p in self.unread if p.parent == folder])
            self.tell(f"{on_one_line(str(folder))}  {FAILED}: {told}")
            self._keep(str(folder), _row(SlideFile(folder.name, folder), FAILED, told, 0.0))
        normalizer = self._normalizer()
        for number, source in enumerate(self.sources, start=1):
            row, line = self._treat(source, normalizer)
            self._enter(source, row)
            self.tell(
                f"{number:>{len(str(len(self.sources)))}}/{len(self.sources)}  {on_one_line(source.name)}  {line}"
            )
        rows = list(self.rows.values())
        self.tell(_summary(rows, self.out / TABLE))
        return rows

    def _target(self, source: Source) -> Path:
        return self.out / target_name(source, self.options)

    def _read_earlier(self) -> dict[str, _Row]:
        """Rows of earlier calls by their output."""
        path = self.out / TABLE
        if not path.exists():
            return {}
        try:
            told = read_foreign(path, InputError, columns=LEDGER_COLUMNS, may_be_empty=True).to_dict("records")
        except InputError as cause:
            raise ParameterError(f"{path} is not as this command has written it", got=str(cause),
                                 expected=", ".join(LEDGER_COLUMNS), fix="Choose another --out") from cause  # fmt: skip
        return {str(row["output"]): row for row in told if row["output"]}

    def _normalizer(self) -> Normalizer:
        """The normalizer, saved; where there is none, every source has failed."""
        try:
            folder = self.out / NORMALIZER
            made = prepare(self.sources, self.options, self.reference, self.readings, folder, self.tell)
        except RunError:
            raise
        except CompendiumError as error:
            for source in self.sources:
                if self._target(source).name not in self.earlier:  # what is finished stays finished
                    self._enter(source, _row(source, FAILED, f"no normalizer: {error}", 0.0))
            raise
        self._check_same(made.digest())
        keep_fit(made, self.out / NORMALIZER, request_of(self.sources, self.options, self.reference))
        told = made.facts.get("reference", "unknown")
        self.tell(
            f"Method {self.options.method or made.method.name} ({made.digest()}), reference: {on_one_line(str(told))}"
        )
        return made

    def _check_same(self, digest: str) -> None:
        """Slides of two references in one folder would be taken for one cohort."""
        ours = {self._target(source).name for source in self.sources}
        others = [r for name, r in self.earlier.items() if name not in ours and r["normalizer"] != digest]
        if others := [row for row in others if (self.out / row["output"]).exists()]:
            raise ParameterError(
                f"{self.out} holds slides normalized in another way", got=others[0]["output"],
                expected=f"normalizer {digest}",
                fix=f"Choose another --out, or add slides with --model {self.out / NORMALIZER}",
            )  # fmt: skip

    def _treat(self, source: Source, normalizer: Normalizer) -> tuple[_Row, str]:
        """Row and line of one source."""
        target, started = self._target(source), time.monotonic()
        request = _request(source, self.options, normalizer)
        before = self.earlier.get(target.name, {})
        if before.get("request") == request and before["status"] != FAILED and target.exists():
            return before, f"kept ({before['status']} earlier)"
        if target.is_file() and not before:
            row = _row(source, FAILED, f"{target} is there and not in {TABLE}: move it away", 0.0)
            return row, on_one_line(f"{FAILED}: {row['note']}")
        try:
            plan = normalizer.plan_or_keep(self.readings.tiles(source), source.name)
            done, mpp = self._write(source, plan, target)
        except RunError:
            raise
        except (CompendiumError, OSError, MemoryError) as error:
            stays = f" What an earlier call wrote to {target.name} is still there." if target.exists() else ""
            row = _row(source, FAILED, f"{error}{stays}", time.monotonic() - started)
            return row, on_one_line(f"{FAILED}: {row['note']}")
        finally:
            self.readings.forget(source)
        warnings = [*plan.warnings, *self._of_resolution(normalizer, mpp), *done.notes]
        seconds = time.monotonic() - started
        row = _row(source, WRITTEN if plan.changes else UNCHANGED, plan.note, seconds) | {
            "warnings": "; ".join(warnings),
            "n_statistics_tiles": plan.n_used,
            "n_tiles": "" if done.n_tiles is None else done.n_tiles,
            "mpp": f"{mpp:.6g}" if mpp else "",
            "map": plan.digest(),
            "output": target.name,
            "normalizer": normalizer.digest(),
            "request": request,
        }
        return row, "; ".join([f"{row['status']}, {done.what} in {seconds:.1f} s: {plan.note}", *warnings])

    def _write(self, source: Source, plan: Plan, target: Path) -> tuple[Written, float]:
        if isinstance(source, PictureFolder):
            return write_pictures(source, plan, target, self.options.stain_check), 0.0
        examined = self.readings.examined(source)
        if self.options.format == OME_TIFF:
            done = write_normalized_slide(source, examined, plan, target, self.options)
        else:
            done = write_normalized_tiles(source, examined, plan, target)
        return done._replace(notes=[*examined.notes, *done.notes]), examined.mpp

    def _of_resolution(self, normalizer: Normalizer, mpp: float) -> list[str]:
        fitted = normalizer.facts.get("mpp")
        if not fitted or not mpp or abs(mpp / fitted - 1) <= _FAR:
            return []
        return [f"the method was fitted at {fitted:g} µm/px, this is {mpp:.4g}"]

    def _enter(self, source: Source, row: _Row) -> None:
        """Add a row of a source, and write the table."""
        self._keep(self._target(source).name, row)

    def _keep(self, key: str, row: _Row) -> None:
        """Add a row and write the table: these inputs first, then what other calls have written."""
        self.rows[key] = row
        others = [r for name, r in self.earlier.items() if name not in self.rows and (self.out / name).exists()]
        write_normalized_table(self.out / TABLE, [*self.rows.values(), *others], LEDGER_COLUMNS)


def any_failed(rows: Sequence[_Row]) -> bool:
    """Whether a slide of :func:`normalize` failed."""
    return any(row["status"] == FAILED for row in rows)


def _row(source: Source, status: str, note: str, seconds: float) -> _Row:
    empty: _Row = dict.fromkeys(LEDGER_COLUMNS, "")
    return empty | {"slide": source.name, "status": status, "note": note, "seconds": f"{seconds:.2f}"}


def _request(source: Source, options: NormalizeOptions, normalizer: Normalizer) -> str:
    """Sixteen hex digits over everything that decides a result: its pixels, the normalizer and the parameters."""
    told = [state_of(source), normalizer.digest(), options.format, options.wanted_mpp, options.tile_px, options.edge,
            options.quality, options.lossless, options.statistics_tiles, options.compiled]  # fmt: skip
    return sha256_text(json.dumps(told))[:16]


def _summary(rows: Sequence[_Row], table: Path) -> str:
    count = Counter(row["status"] for row in rows)
    told = [f"{count[status]} {status}" for status in (WRITTEN, UNCHANGED, FAILED) if count[status]]
    return f"{counted(len(rows), 'slide')}: {', '.join(told)}. Table: {on_one_line(str(table))}"
