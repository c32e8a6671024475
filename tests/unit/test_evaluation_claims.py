"""The claims ledger and forensic arithmetic: every verdict follows from numbers, and says from which."""

import json

import pandas as pd
import pytest

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.evaluation.audits import claims as claims_of
from deeplrhe_utils.evaluation.audits.claims import ABSENT, JUDGES, Numbers, claims_ledger, read_numbers
from deeplrhe_utils.learning.networks.deeplrhe import identity_gap
from deeplrhe_utils.learning.recipes.recipe import DEEPPATH
from deeplrhe_utils.reporting.audit_figures import audits

GAIN = {"difference": -0.02, "ci_low": -0.1, "ci_high": 0.05}
IMAGE = {"auc": 0.7, "ci_low": 0.65, "ci_high": 0.75}
LOW = {"auc": 0.5, "ci_low": 0.48, "ci_high": 0.52}
AGES = {"sentence": "s", "stated_sign": 1, "difference": -2, "ci_low": -3, "ci_high": -1}
STAGES = {
    "00-start-here": {"genes_labelled": 8, "genes_reported": 5},
    "04-dcgmm-normalization": {
        "normalization": "dcgmm", "methods": {"DCGMM": {"correlation": 0.99, "cs": 0.97}},
        "helps": {"TP53": {"difference": 0.02, "ci_low": -0.05, "ci_high": 0.1}},
    },
    "05-gpu-training": {
        "identity_gap": 0.0,
        "claims_loss_last": {"same, short, fold 0": 0.5, "no batch norm, fold 0": 0.6, "no shortcuts, fold 0": 0.4},
    },
    "06-roc-analysis": {"ablations": {"no batch norm": GAIN, "no shortcuts": GAIN, "same, short": {"p_holm": 0.01}}},
    "10-leakage-audit": {"shared": {"tile": 0.99}},
    "12-power-and-precision": {
        "paper_patients": 180,
        "reported": {g: {"auc": 0.9, "n_pos": n, "n_neg": 180 - n, "ci_low": 0.85, "ci_high": 0.9, "null_high": 0.6}
                     for g, n in (("TP53", 91), ("EGFR", 22), ("DNMT3A", 8), ("PBRM1", 3), ("STK11", 24))}
    },
    "13-diagnosis-alone": {
        "alone": {"TP53": {"auc": 0.67, "ci_low": 0.64, "ci_high": 0.7}},
        "real": {"image | both diagnoses": {"TP53": IMAGE, "EGFR": {**IMAGE, "ci_high": 0.95}, "PBRM1": IMAGE},
                 "image | adenocarcinoma": dict.fromkeys(("STK11", "EGFR", "FAT1", "SETBP1", "KRAS", "TP53"), IMAGE)},
    },
    "14-claims-ledger": {
        "forensics": {"slides_total": 1635, "weight_decay": {"article": 0.9, "code": 4e-5},
                      "training_steps": {"article": 5e5, "code": 5e5}, "coudray_half_width": {"0.733": 0.15},
                      "split_unit": {"article": "window", "code": "slide"}, "table_one": {
                          "adenocarcinoma tends occur at older age": AGES,
                          "the overall death is relatively younger": AGES | {"stated_sign": -1},
                          "especially in male": AGES | {"ci_high": 0.1}}}
    },
}  # fmt: skip
EXPECTED = {
    "C01": "not reproduced", "C02": "compatible", "C03": "needs TCGA", "C04": "not estimable", "C05": "needs TCGA",
    "C06": "not testable", "C07": "reproduced", "C08a": "compatible", "C08b": "contradicted", "C09": "compatible",
    "C10": "not testable", "C11": "not estimable", "C12": "not testable", "C13": "compatible", "C14": "contradicted",
    "C15": "contradicted", "C16": "not testable", "C17": "compatible", "C18": "compatible", "C19": "not testable",
    "C20": "reproduced", "C21": "contradicted", "C22": "compatible", "C23": "not estimable",
}  # fmt: skip


@pytest.fixture(scope="module")
def claims():
    return pd.read_csv(REFERENCE_DATA / "claims.csv", dtype=str)


def _changed(path, value):
    stages = json.loads(json.dumps(STAGES))
    *way, last = path
    place = stages
    for key in way:
        place = place[key]
    place[last] = value
    return stages


def test_every_verdict_follows_from_numbers_and_names_them(claims):
    table = claims_ledger(claims, Numbers(STAGES)).set_index("id")
    assert table["verdict"].to_dict() == EXPECTED
    for traced in table.loc[table["verdict"] != "not testable", "traced_to"]:
        for item in traced.split("; "):
            file, _, path = item.partition("#")
            value = STAGES[file.removeprefix("numbers/").removesuffix(".json")]
            for key in _keys(path, value):
                value = value[key]
            assert value is not None


def _keys(path, value):
    """Keys of a trace; keys may hold dots themselves, so the longest that fits is taken."""
    while path:
        key = max((k for k in value if path == k or path.startswith(f"{k}.")), key=len)
        yield key
        value, path = value[key], path[len(key) + 1 :]


@pytest.mark.parametrize(("claim", "path", "value", "verdict"), [
    ("C07", ("05-gpu-training", "identity_gap"), 0.1, "contradicted"),
    ("C09", ("04-dcgmm-normalization", "methods", "DCGMM"), {"correlation": 0.8, "cs": 0.5}, "contradicted"),
    ("C11", ("04-dcgmm-normalization", "helps", "TP53", "ci_low"), 0.01, "compatible"),
    ("C11", ("04-dcgmm-normalization", "helps", "TP53", "ci_high"), -0.01, "contradicted"),
    ("C11", ("04-dcgmm-normalization", "helps", "TP53", "ci_low"), None, "not estimable"),
    ("C09", ("04-dcgmm-normalization", "methods", "DCGMM", "cs"), 0.2, "contradicted"),
    ("C01", ("12-power-and-precision", "reported", "TP53", "null_high"), None, "not estimable"),
    ("C01", ("13-diagnosis-alone", "real", "image | both diagnoses", "TP53", "ci_high"), 0.95, "compatible"),
    ("C01", ("13-diagnosis-alone", "real"), {}, "needs TCGA"),
    ("C18", ("13-diagnosis-alone", "real", "image | adenocarcinoma", "FAT1"), LOW, "not reproduced"),
    ("C18", ("13-diagnosis-alone", "real", "image | adenocarcinoma", "FAT1"), None, "needs TCGA"),
    ("C14", ("14-claims-ledger", "forensics", "split_unit", "code"), "window", "reproduced"),
    ("C13", ("14-claims-ledger", "forensics", "slides_total"), 1500, "contradicted"),
    ("C08a", ("05-gpu-training", "claims_loss_last"), {"same, short, fold 0": 0.5}, "not estimable"),
    ("C08a", ("05-gpu-training", "claims_loss_last", "no batch norm, fold 0"), None, "compatible"),
    ("C08a", ("06-roc-analysis", "ablations", "same, short", "p_holm"), 0.05, "not estimable"),
    ("C08b", ("06-roc-analysis", "ablations", "same, short", "p_holm"), None, "not estimable"),
    ("C20", ("00-start-here", "genes_reported"), 8, "contradicted"),
    ("C21", ("14-claims-ledger", "forensics", "table_one"), {}, "not estimable"),
    ("C22", ("14-claims-ledger", "forensics", "table_one", "the overall death is relatively younger", "stated_sign"), 1,
     "contradicted"),
])  # fmt: skip
def test_verdicts_change_with_the_numbers(claims, claim, path, value, verdict):
    table = claims_ledger(claims, Numbers(_changed(path, value))).set_index("id")
    assert table.loc[claim, "verdict"] == verdict


def test_claims_and_judges_match_and_without_numbers_nothing_is_reproduced(claims):
    assert list(claims["id"]) == sorted(JUDGES) and claims.notna().all().all()
    with pytest.raises(InputError, match=r"do not match.*C07"):
        claims_ledger(claims[claims["id"] != "C07"], Numbers(STAGES))
    table = claims_ledger(claims, Numbers({"00-start-here": {}}))
    assert set(table["verdict"]) <= {"not estimable", "needs TCGA", "not testable"}
    assert (table["traced_to"] == ABSENT).all()


def test_number_files_are_read_and_damage_is_named(tmp_path):
    (tmp_path / "00-start-here.json").write_text('{"genes_labelled": 8}')
    assert read_numbers(tmp_path).get("00", "genes_labelled") == 8
    (tmp_path / "05-gpu-training.json").write_text("{")
    with pytest.raises(InputError, match=r"05-gpu-training\.json is no number file"):
        read_numbers(tmp_path)
    with pytest.raises(InputError, match="holds no numbers"):
        read_numbers(tmp_path / "nowhere")


def test_the_reference_of_the_code_is_what_our_recipe_uses_and_the_identity_holds():
    code = pd.read_csv(REFERENCE_DATA / "deeppath_code.csv").set_index("name")["code"]
    assert float(code["weight_decay"]) == DEEPPATH.weight_decay
    assert float(code["learning_rate"]) == DEEPPATH.learning_rate
    assert identity_gap(8) == 0.0


@pytest.mark.parametrize("n_pos", [1, 3, 7])
@pytest.mark.parametrize("text", ["0.753", "0.75", "0.8", "0"])
def test_granularity_equals_trying_every_value(text, n_pos):
    n_neg = 4
    values = [k / (2 * n_pos * n_neg) for k in range(2 * n_pos * n_neg + 1)]
    decimals = len(text.partition(".")[2])
    brute = any(abs(v - float(text)) <= 0.5 * 10**-decimals + 1e-12 for v in values)
    assert claims_of.possible_auc(text, n_pos, n_neg) == brute


def test_impossible_questions_are_refused():
    for text, n in (("high", 3), ("1.2", 3), ("0.5", 0)):
        with pytest.raises(ParameterError):
            claims_of.possible_auc(text, n, 4)


def test_reported_values_beside_what_counts_allow():
    reported = pd.DataFrame({"gene": ["TP53", "PBRM1", "KRAS", "X"], "reported_auc": [0.87, 0.55, None, 0.9]})
    table = claims_of.reported_by_chance(reported, STAGES["12-power-and-precision"]["reported"])
    assert list(table["gene"]) == ["TP53", "PBRM1"] and list(table["above_chance"]) == ["yes", "no"]
    assert len(audits.allowed(table).axes[0].get_yticklabels()) == 2
    assert claims_of.reported_by_chance(reported, {}).empty


def test_stated_differences_are_told_with_both_sides():
    table = claims_of.stated_differences(pd.read_csv(REFERENCE_DATA / "table1_checks.csv"))
    told = table.set_index(["statement", "patients"])
    assert told.loc[("adenocarcinoma tends occur at older age", "LUAD and LUSC"), "sentence"] == (
        "LUAD and LUSC, mean age [years]: LUAD 65.3 (503), LUSC 67.3 (495); difference -1.9 [-3.1, -0.8]"
    )
    assert told["verdict"].tolist() == ["contradicted", "contradicted", "not estimable", "contradicted",
                                        *["not estimable"] * 3]  # fmt: skip
    assert "men 45.0% (373), women 38.9% (131)" in told.loc[("especially in male", "LUSC"), "sentence"]
