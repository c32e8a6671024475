"""Every figure and table of the paper leads to a notebook that makes it."""

from __future__ import annotations

import csv
import json

import pytest

from deeplrhe_utils.core.paths import NOTEBOOKS, REPORTS

with (REPORTS / "paper_map.csv").open(encoding="utf-8", newline="") as stream:
    ROWS = list(csv.DictReader(stream))
PAPER_ITEMS = {*(f"Figure {number}" for number in range(1, 8)), "Table 1"}
STATUSES = {"regenerated", "redrawn"}
WRITERS = {"figures": "run.figure(", "tables": "run.write"}
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row["paper_item"])


def test_every_figure_and_table_of_the_paper_is_in_the_map():
    items = [row["paper_item"] for row in ROWS]
    assert set(items) >= PAPER_ITEMS
    assert len(items) == len(set(items)), "a paper item has two rows"


@every_row
def test_a_row_is_complete(row):
    assert None not in row and all(row.values()), "an empty cell"
    assert row["status"] in STATUSES


@every_row
def test_the_notebook_writes_the_output(row):
    found = list(NOTEBOOKS.glob(f"{row['notebook']}-*.ipynb"))
    assert len(found) == 1, f"notebook {row['notebook']} does not exist"
    folder, _, file = row["output"].partition("/")
    stem = file.rpartition(".")[0]
    cells = json.loads(found[0].read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert any(WRITERS[folder] in source and f'"{stem}"' in source for source in code), (
        f"nothing writes {row['output']}"
    )


@every_row
def test_the_output_is_in_the_committed_demo(row):
    record = REPORTS / "demo" / "run.json"
    if not record.is_file() or json.loads(record.read_text(encoding="utf-8"))["status"] != "finished":
        pytest.skip("reports/demo has not been made, or not to its end: run `make reproduce`")
    assert (REPORTS / "demo" / row["output"]).is_file()
