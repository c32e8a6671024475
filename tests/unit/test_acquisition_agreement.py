"""Two sources side by side: every patient and gene is exactly one of nine things."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplrhe_utils.acquisition.labels.agreement import AGREEMENT_KINDS, label_agreement
from deeplrhe_utils.core.errors import LabelError
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.schemas import LABELS


def table(cells, source):
    frame = pd.DataFrame(cells, columns=["patient_id", "gene", "status"]).astype({"status": "Int64"})
    frame["variant_class"] = frame["status"].map({1: f"class of {source}"})
    return conform(frame.assign(source=source), LABELS)


FIRST = table([("a", "G", 1), ("b", "G", 1), ("c", "G", 0), ("d", "G", 0), ("e", "G", None), ("f", "G", 1),
               ("g", "G", None), ("h", "G", 1), ("a", "ONE", 1)], "first")  # fmt: skip
SECOND = table([("a", "G", 1), ("b", "G", 0), ("c", "G", 1), ("d", "G", 0), ("e", "G", 1), ("f", "G", None),
                ("g", "G", None), ("i", "G", 0), ("a", "TWO", 1)], "second")  # fmt: skip


def test_each_patient_is_one_of_nine_things_and_without_a_common_one_the_share_is_null():
    row = label_agreement(FIRST, SECOND).set_index("gene").loc["G"]
    assert row[list(AGREEMENT_KINDS)].tolist() == [1] * 9 and row["patients"] == 9 and row["agreeing"] == 0.5
    assert len(label_agreement(FIRST, SECOND)) == 1, "only genes that both name"
    row = label_agreement(table([("a", "G", 1)], "x"), table([("b", "G", 0)], "y")).iloc[0]
    assert row["patient_only_in_first"] == row["patient_only_in_second"] == 1 and pd.isna(row["agreeing"])


@pytest.mark.parametrize(("pairs", "kappa"), [
    ([(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15, 0.4),  # a textbook's table
    ([(1, 1), (0, 0)], 1), ([(1, 0), (0, 1)], -1), ([(1, 1), (1, 0), (0, 1), (0, 0)], 0), ([(0, 0)] * 3, None),
])  # fmt: skip
def test_kappa_by_hand(pairs, kappa):
    one, two = (table([(str(i), "G", pair[side]) for i, pair in enumerate(pairs)], "x") for side in (0, 1))
    found = label_agreement(one, two)["kappa"].iloc[0]
    assert pd.isna(found) if kappa is None else found == pytest.approx(kappa)


def test_genes_that_are_not_in_both_are_refused():
    with pytest.raises(LabelError, match=r"not in both sources.*ONE"):
        label_agreement(FIRST, SECOND, ["G", "ONE"])
    with pytest.raises(LabelError, match="share no gene"):
        label_agreement(FIRST[FIRST["gene"] == "ONE"], SECOND)


KEYS = st.tuples(st.sampled_from("abcdef"), st.sampled_from(["G", "H"]))
CELLS = st.dictionaries(KEYS, st.sampled_from([0, 1, None]), min_size=1)


@settings(max_examples=60, deadline=None)
@given(CELLS, CELLS)
def test_counts_follow_from_counting_and_do_not_depend_on_the_order(one, two):
    first, second = (table([(*key, value) for key, value in cells.items()], "x") for cells in (one, two))
    shared = {gene for _, gene in one} & {gene for _, gene in two}
    if not shared:
        with pytest.raises(LabelError):
            label_agreement(first, second)
        return
    counts = label_agreement(first, second).set_index("gene")
    swapped = label_agreement(second.iloc[::-1], first).set_index("gene").loc[counts.index]
    mirror = {"first_only": "second_only", "null_in_first": "null_in_second",
              "patient_only_in_first": "patient_only_in_second"}  # fmt: skip
    for here, there in [*mirror.items(), *((b, a) for a, b in mirror.items())]:
        assert counts[here].tolist() == swapped[there].tolist()
    for gene in shared:
        patients = {p for p, g in [*one, *two] if g == gene}
        both = Counter((one[p, gene], two[p, gene]) for p in patients if (p, gene) in one and (p, gene) in two)
        row = counts.loc[gene]
        assert row["patients"] == len(patients) == row[list(AGREEMENT_KINDS)].sum()
        assert (row["both_mutated"], row["first_only"]) == (both[1, 1], both[1, 0])
        assert (row["both_wild_type"], row["null_in_both"]) == (both[0, 0], both[None, None])
