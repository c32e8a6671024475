"""Table 1 against hand-computed examples, the real TCGA table and the package tableone."""

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import CohortError, ParameterError
from deeplrhe_utils.evaluation.tables import table_one as t1


def _patients():
    return pd.DataFrame({
        "patient_id": list("abcdefgh"), "age_years": pd.array([60, 70, 80, None, 50, 60, 70, 60], "Float64"),
        "sex": pd.array(["f", "m", "m", "f", "f", "f", "f", None], "string"), "arm": list("iiiikkkk"),
    })  # fmt: skip


GROUPS = pd.Series(dict(zip("abcdefgh", ["x"] * 4 + ["y"] * 4, strict=True)))


def test_differences_by_hand():
    """Means 70 and 60, variances 100 and 200 / 3; two of four against none of three men."""
    found = t1.smd_table(_patients(), GROUPS, ["age_years", "sex"]).set_index("variable")
    assert found.loc["age_years", "smd"] == pytest.approx(10 / np.sqrt((100 + 200 / 3) / 2))
    assert found.loc["sex", "smd"] == pytest.approx(0.5 / np.sqrt(0.25 / 2))
    assert found.loc["age_years", ["n_first", "n_second", "missing_first", "missing_second"]].tolist() == [3, 4, 1, 0]
    assert found.loc["sex", ["missing_first", "missing_second"]].tolist() == [0, 1]


def test_three_levels_are_yang_and_daltons_distance():
    first = pd.Series(["a"] * 5 + ["b"] * 3 + ["c"] * 2)
    second = pd.Series(["a"] * 2 + ["b"] * 2 + ["c"] * 6)
    t, c = np.array([0.3, 0.2]), np.array([0.2, 0.6])
    s = np.array([[(0.3 * 0.7 + 0.2 * 0.8) / 2, -(0.3 * 0.2 + 0.2 * 0.6) / 2],
                  [-(0.3 * 0.2 + 0.2 * 0.6) / 2, (0.2 * 0.8 + 0.6 * 0.4) / 2]])  # fmt: skip
    expected = np.sqrt((t - c) @ np.linalg.inv(s) @ (t - c))
    assert t1.smd(first, second, False) == pytest.approx(expected)
    assert t1.smd(second, first, False) == pytest.approx(expected)
    relabelled = {"a": "z", "b": "y", "c": "x"}  # which level is left out must not matter
    assert t1.smd(first.map(relabelled), second.map(relabelled), False) == pytest.approx(expected)


def test_the_edges_of_a_difference():
    a = pd.Series(["p", "p"])
    assert t1.smd(a, pd.Series(["q", "r"]), False) == np.inf
    assert t1.smd(a, a, False) == 0 and np.isnan(t1.smd(a, pd.Series([None, None]), False))
    assert np.isnan(t1.smd(pd.Series([1.0]), pd.Series([1.0, 2.0]), True))
    assert t1.smd(pd.Series([1.0, 1.0]), pd.Series([2.0, 2.0]), True) == -np.inf
    two = t1.smd(pd.Series([1, 0, 0, 0]), pd.Series([1, 1, 1, 0]), False)
    assert two == pytest.approx(0.5 / np.sqrt(0.1875))


def test_the_table_counts_everybody_and_what_is_missing():
    groups = GROUPS.drop("h")
    table = t1.characteristics(_patients(), groups, ["age_years", "sex", "arm"]).set_index(["variable", "level"])
    assert table.loc[("patients", ""), ["overall", "x", "y", "missing"]].tolist() == ["8", "4", "3", 1]
    assert table.loc[("age_years", "mean ± SD"), "x"] == "70.0 ± 10.0"
    assert table.loc[("age_years", "missing"), ["overall", "x", "y"]].tolist() == ["1", "1", "0"]
    assert table.loc[("sex", "m"), ["overall", "x", "y"]].tolist() == ["2 (29 %)", "2 (50 %)", "0 (0 %)"]
    assert table.loc[("sex", "f"), "missing"] == 1 and table.loc[("sex", "f"), "smd_between"] == "x, y"
    alone = t1.characteristics(_patients(), GROUPS[:4], ["age_years", "sex"])
    assert list(alone.columns[2:4]) == ["overall", "x"] and alone["smd"].isna().all()
    assert table.loc[("arm", "i"), "smd"] == np.inf
    assert ("arm", "missing") not in table.index
    patients = _patients()
    own = t1.characteristics(patients, patients.set_index("patient_id")["sex"], ["sex", "arm"]).set_index("variable")
    assert own.loc["sex", "smd_between"].iloc[0] == "by definition" and own.loc["sex", "smd"].isna().all()
    assert own.loc["arm", "smd_between"].iloc[0] == "f, m"


def test_splits_and_labels_become_groups():
    splits = pd.DataFrame({"fold": [0, 0, 1, 1], "unit_id": list("abab"), "role": ["train", "test", "test", "train"]})
    assert t1.role_groups(splits).to_dict() == {"a": "train", "b": "test"}
    labels = pd.DataFrame({"patient_id": list("abc"), "gene": "TP53", "status": pd.array([1, 0, None], "Int64")})
    found = t1.label_groups(labels, "TP53")
    assert found.dropna().to_dict() == {"a": "mutated", "b": "wild type"} and found.isna().sum() == 1
    table = t1.characteristics(_patients(), found, ["age_years"])
    assert table.loc[0, ["overall", "mutated", "wild type", "missing"]].tolist() == ["8", "1", "1", 6]
    with pytest.raises(ParameterError, match="no labels of KRAS"):
        t1.label_groups(labels, "KRAS")
    with pytest.raises(CohortError, match="both sides"):
        t1.role_groups(splits.assign(fold=0))


def test_wrong_tables_are_named():
    with pytest.raises(CohortError, match="two rows"):
        t1.characteristics(pd.concat([_patients()] * 2), GROUPS, ["sex"])
    with pytest.raises(CohortError, match="has a group"):
        t1.characteristics(_patients(), pd.Series({"z": "x"}), ["sex"])
    with pytest.raises(ParameterError, match="height"):
        t1.smd_table(_patients(), GROUPS, ["height"])


REAL = ["age_at_initial_pathologic_diagnosis", "gender", "race", "ajcc_pathologic_tumor_stage", "vital_status"]


@pytest.fixture(scope="module")
def tcga(shared_data):
    table = pd.read_csv(shared_data / "tables" / "tcga_cdr_luad_lusc_TCGA-CDR.csv", index_col=0)
    return table.rename(columns={"bcr_patient_barcode": "patient_id"})


def _by_type(tcga):
    return tcga.set_index("patient_id")["type"]


def test_the_real_table_adds_up(tcga):
    table = t1.characteristics(tcga, _by_type(tcga), REAL)
    assert table.loc[0, ["overall", "LUAD", "LUSC"]].tolist() == ["1026", "522", "504"]
    for variable in REAL[1:]:
        own = table[table["variable"] == variable]
        for column in ("overall", "LUAD", "LUSC"):
            counts = own[column].str.extract(r"^(\d+)")[0].astype(int)
            assert counts.sum() == int(table.loc[0, column]), (variable, column)
    race = table[table["variable"] == "race"]
    assert race["missing"].dropna().tolist() == [180] and "[Unknown]" not in set(race["level"])
    assert table.set_index(["variable", "level"]).loc[("gender", "FEMALE"), "smd"] > 0.5, "LUSC has fewer women"


def test_differences_are_those_of_tableone(tcga):
    package = pytest.importorskip("tableone")
    known = tcga[[*REAL, "type"]].mask(tcga[[*REAL, "type"]].isin(list(t1.MISSING_WORDS)))
    # with its default, include_null, "not there" would be a level of its own
    options = {"categorical": REAL[1:], "groupby": "type", "smd": True, "include_null": False}
    theirs = package.TableOne(known, columns=REAL, **options).tableone
    theirs.columns = theirs.columns.get_level_values(-1)
    column = next(c for c in theirs.columns if str(c).startswith("SMD"))
    ours = t1.smd_table(tcga, _by_type(tcga), REAL).set_index("variable")["smd"]
    shown = {str(i[0]).split(",")[0]: float(v) for i, v in theirs[column].items() if str(v).strip()}
    assert set(REAL) <= set(shown)
    for variable in REAL:
        assert abs(shown[variable]) == pytest.approx(abs(ours[variable]), abs=6e-4), variable


def test_amounts_with_a_word_for_missing_stay_amounts():
    patients = pd.DataFrame({"patient_id": list("abcdef"), "age": ["60", "61", "[Not Available]", "70", "55", "64"]})
    groups = pd.Series(["x", "x", "x", "y", "y", "y"], index=list("abcdef"))
    table = t1.characteristics(patients, groups, ["age"]).set_index(["variable", "level"])
    assert table.loc[("age", "mean ± SD"), "overall"].startswith("62.0")
    assert table.loc[("age", "mean ± SD"), "missing"] == 1
    assert np.isfinite(float(table.loc[("age", "mean ± SD"), "smd"]))
