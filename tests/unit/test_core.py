"""Errors, atomic files, seeds and table contracts."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core import files, seeds, units
from deeplrhe_utils.core.errors import LabelError, RunError, SchemaError
from deeplrhe_utils.core.tables import contract, schemas


def test_error_says_what_got_expected_and_next_move():
    text = str(LabelError("Row 3 of x.csv is odd", got="2", expected="0, 1 or empty", fix="Correct it"))
    assert text == "Row 3 of x.csv is odd. Got: 2. Expected: 0, 1 or empty. Correct it."


def test_a_failed_write_leaves_the_old_file_and_no_debris_and_a_full_disk_is_named(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyError), files.atomic_path(target) as part:
        part.write_text("half")
        raise KeyError("power cut")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(RunError, match="disk is full"), files.atomic_path(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["../etc/passwd", "a/b", "", ".hidden", "x" * 300, "nul\0byte", "ü ñ"])
def test_safe_names_stay_inside_their_folder_and_apart(name):
    safe = files.safe_name(name)
    assert "/" not in safe and "\0" not in safe and not safe.startswith(".") and 0 < len(safe) < 140
    assert safe != files.safe_name(name + "x")


def test_seeds_depend_on_names_not_on_order_and_fit_torch():
    first = seeds.generator(1, "slide", "A").random()
    seeds.generator(1, "slide", "B").random()
    assert seeds.generator(1, "slide", "A").random() == first
    assert seeds.generator(1, "slide", "B").random() != first
    assert seeds.generator(2, "slide", "A").random() != first
    assert 0 <= seeds.integer_seed(1, "a") < 2**63
    assert isinstance(np.random.default_rng(seeds.seed_sequence(1, "a")).random(), float)


def test_ratio_of_resolutions_is_exact():
    assert 512 * units.exact_ratio(0.5, 0.2527) == Fraction(512 * 5000, 2527)


def _labels(**changes):
    row = {"patient_id": "P1", "gene": "TP53", "status": 1, "source": "test"}
    return pd.DataFrame([row | changes])


def test_contract_casts_orders_and_fills_nullable_columns():
    frame = contract.conform(_labels(), schemas.LABELS)
    assert list(frame.columns) == [c.name for c in schemas.LABELS.columns]
    assert frame["status"].dtype == "Int64" and frame["variant_class"].isna().all()


@pytest.mark.parametrize(("frame", "message"), [
    (_labels(extra=1), "outside its contract"), (_labels(gene=None), "gene: null"), (_labels(status="x"), "status"),
    (pd.concat([_labels(), _labels()]), "repeats the key"),
])  # fmt: skip
def test_contract_violations_are_named(frame, message):
    with pytest.raises(SchemaError, match=message):
        contract.conform(frame, schemas.LABELS)


def test_null_labels_survive_the_round_trip_and_a_missing_table_names_the_way_out(tmp_path):
    path = contract.write_table(_labels(status=None), schemas.LABELS, tmp_path / "labels.parquet")
    assert contract.read_table(path, schemas.LABELS)["status"].isna().all()
    with pytest.raises(SchemaError, match="Run the notebook"):
        contract.read_table(tmp_path / "none.parquet", schemas.LABELS)
