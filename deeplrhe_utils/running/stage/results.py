"""Which run to analyse when a notebook is opened by hand."""

from __future__ import annotations

from deeplrhe_utils.core.paths import REPORTS


def results_folder(run_dir: str, table: str) -> str:
    """`run_dir`, or when it is empty the smoke run if it has `table`, else the committed demo. Says which.

    >>> results_folder("reports/mine", "predictions")
    'reports/mine'
    """
    if run_dir:
        return run_dir
    name = "smoke" if (REPORTS / "smoke" / "tables" / f"{table}.parquet").is_file() else "demo"
    why = (
        "its results are here"
        if name == "smoke"
        else "the smoke run has not come this far, so the committed demo is shown"
    )
    print(f"No run was named: reports/{name} is used ({why}).")
    return f"reports/{name}"
