"""A notebook run by hand: partial results of other parameters must not be resumed from here either."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.core.files import write_text
from deeplrhe_utils.running import state
from deeplrhe_utils.running.notebooks import read_stage
from deeplrhe_utils.running.plan import Planned


def begin_by_hand(stage: str, root: Path, namespace: dict[str, Any]) -> None:
    """Drop ``work/NN`` and ``models/NN`` unless they were made by the same code, parameters and inputs.

    Finished tables and figures stay: the notebook overwrites them as it goes.

    Parameters
    ----------
    stage : str
        Name of the notebook without suffix.
    root : Path
        Run folder.
    namespace : dict
        The notebook's variables; its parameters are read from there.
    """
    number = stage[:2]
    key = _key(stage, root, namespace)
    if key and state.last_key(root, number) == key:
        return
    for folder in (root / "work" / number, root / "models" / number):
        shutil.rmtree(folder, ignore_errors=True)
    state.record_file(root, number).unlink(missing_ok=True)
    write_text(state.pending_file(root, number), key + "\n")


def _key(stage: str, root: Path, namespace: dict[str, Any]) -> str:
    """The key the runner would use; "" when the notebook is not one of the repository's."""
    try:
        notebook = read_stage(places.NOTEBOOKS / f"{stage}.ipynb")
        values = {n: p.check(namespace.get(n, p.default), stage) for n, p in notebook.parameters.items()}
    except CompendiumError:
        return ""
    planned = Planned(notebook, values, frozenset())
    inputs = state.input_fingerprints(planned, places.REPOSITORY)
    records = {f"{n:02d}": state.load_record(root, f"{n:02d}") for n in range(int(notebook.number))}
    earlier = {number: record.outputs for number, record in records.items() if record is not None}
    package = state.package_hash(places.REPOSITORY / "deeplrhe_utils")
    return state.stage_key(planned, package, inputs, earlier)
