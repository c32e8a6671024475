"""What a later notebook works on: which run, when it is opened by hand, and that run's label-free features."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplrhe_utils.core.paths import REPORTS

if TYPE_CHECKING:
    import pandas as pd


def label_free(run: Any, arm: str, tile_ids: pd.Series) -> pd.DataFrame:
    """Label-free features of tiles, in their order: those of notebook 04 for `arm`, or those that were given.

    Parameters
    ----------
    run : of `start_run`
    arm : colours, as notebook 04 names them; given features have none, and any name stands for them
    """
    import pandas as pd

    given = run.number_of("01-data-acquisition", "input_kind") == "features"
    folder, name = ("01", "none") if given else ("04", arm)
    return pd.read_parquet(run.paths.work / folder / "features" / f"{name}.parquet").loc[tile_ids]


def results_folder(run_dir: str, table: str) -> str:
    """`run_dir`, or when it is empty the smoke run if it has `table`, else a copy of the committed demo. Says which.

    The notebook writes into that folder, and the committed results must stay as they are.

    >>> results_folder("reports/mine", "predictions")
    'reports/mine'
    """
    if run_dir:
        return run_dir
    if (REPORTS / "smoke" / "tables" / f"{table}.parquet").is_file():
        print("No run was named: reports/smoke is used, as its results are here.")
        return "reports/smoke"
    if not (copy := REPORTS / "demo-copy").exists():
        with tempfile.TemporaryDirectory(dir=REPORTS, prefix=".demo-copy-") as part:  # whole, or not at all
            shutil.copytree(REPORTS / "demo", Path(part) / "demo", ignore=shutil.ignore_patterns("work", "logs"))
            (Path(part) / "demo").replace(copy)
    print("No run was named, and the smoke run has not come this far: reports/demo-copy is used, a copy of the "
          "committed demo, which stays as it is.")  # fmt: skip
    return "reports/demo-copy"
