"""Parameters and profiles are checked before anything starts, and every error names the legal values."""

import re

import nbformat
import pytest

from deeplrhe_utils.core.errors import InputError, ParameterError
from deeplrhe_utils.running.plan.notebooks import find_stages
from deeplrhe_utils.running.plan.parameters import parse_parameters
from deeplrhe_utils.running.plan.plan import Request, describe_plan, make_plan
from deeplrhe_utils.running.plan.profiles import load_profile

CELL = """run_dir: str = ""
# a comment line
tile_px: int = 512  # [px] side of a tile
rate: float = 1e-4  # [1/step] learning rate
scheme: str = "patient"  # [choices: patient | slide | no] unit that is never divided
quick: bool = False  # shortcut
genes: list[str] = [
    "TP53",
    "KRAS",
]  # genes to predict
cuts: list[float] = [0.1]
data_dir: str = ""  # folder of tiles
labels_csv: str = ""  # labels
"""


@pytest.fixture
def parameters():
    return {p.name: p for p in parse_parameters(CELL, "02-tiling.ipynb")}


def test_a_parameters_cell_is_read_completely(parameters):
    assert list(parameters)[:3] == ["run_dir", "tile_px", "rate"]
    tile = parameters["tile_px"]
    assert (tile.type, tile.default, tile.unit, tile.description) == ("int", 512, "px", "side of a tile")
    assert parameters["scheme"].choices == ("patient", "slide", "no")
    assert parameters["genes"].default == ["TP53", "KRAS"] and parameters["genes"].description == "genes to predict"
    assert [p.name for p in parameters.values() if p.is_path] == ["data_dir", "labels_csv"]


@pytest.mark.parametrize(
    "line",
    ["x = 1", "x: int | None = None", "x: tuple = (1,)", "x: int = f()", "x: int = '1'", "x: int = True", "x: int ="],
)
def test_other_forms_of_line_are_refused(line):
    with pytest.raises(ParameterError, match=r"05-x\.ipynb"):
        parse_parameters(line, "05-x.ipynb")


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("rate", "1e-4", 1e-4), ("rate", 1, 1.0), ("genes", ["A"], ["A"]),  # YAML 1.1 reads the first as text
    ("cuts", [1, "1e-3"], [1.0, 1e-3]), ("scheme", "no", "no"),
])  # fmt: skip
def test_yaml_values_that_are_right(parameters, name, value, expected):
    got = parameters[name].from_yaml(value, "test")
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(("name", "value", "hint"), [
    ("scheme", False, "quotes"), ("scheme", None, "quotes"), ("scheme", "pateint", r"Did you mean patient\?"),
    ("tile_px", True, "int"), ("tile_px", 1.5, "int"), ("tile_px", "512", "int"), ("rate", float("nan"), "float"),
    ("rate", "fast", "float"), ("rate", True, "float"), ("quick", 1, "bool"), ("genes", "TP53", r"\[a, b\]"),
    ("genes", ["TP53", 1], "list"),
])  # fmt: skip
def test_yaml_values_that_are_wrong(parameters, name, value, hint):
    with pytest.raises(ParameterError, match=hint) as caught:
        parameters[name].from_yaml(value, "profile demo")
    assert name in str(caught.value) and "profile demo" in str(caught.value)


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("tile_px", "248", 248), ("rate", "1e-3", 1e-3), ("quick", "true", True), ("quick", "No", False),
    ("genes", "TP53,KRAS", ["TP53", "KRAS"]), ("genes", '["TP53"]', ["TP53"]), ("genes", "[TP53]", ["TP53"]),
    ("genes", "", []), ("cuts", "1,2.5", [1.0, 2.5]), ("scheme", "no", "no"),
])  # fmt: skip
def test_typed_values_that_are_right(parameters, name, text, expected):
    got = parameters[name].from_text(text, "-p")
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(("name", "text"), [("tile_px", "5.0"), ("quick", "1"), ("cuts", "a"), ("rate", "inf")])
def test_typed_values_that_are_wrong(parameters, name, text):
    with pytest.raises(ParameterError, match=name):
        parameters[name].from_text(text, "-p")


@pytest.fixture
def stages(tmp_path):
    for name, source in {"01-data": CELL, "02-tiling": 'run_dir: str = ""\ntile_px: int = 256\nseed: int = 1'}.items():
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})])
        nbformat.write(book, tmp_path / f"{name}.ipynb")
    return find_stages(tmp_path)


def profile_of(tmp_path, text):
    (tmp_path / "demo.yml").write_text("title: T\ninput: synthetic\n" + text)
    return load_profile("demo", tmp_path)


def plan_of(tmp_path, stages, text="", *overrides, **request):
    wanted = Request(overrides, cwd=tmp_path, **request)
    return make_plan(profile_of(tmp_path, text), stages, wanted, tmp_path)


def test_precedence_selection_and_conditional_skips(tmp_path, stages):
    text = "common: {tile_px: 1}\nstages: {01: {tile_px: 2}}\n"
    plan = plan_of(tmp_path, stages, text)
    assert [p.values["tile_px"] for p in plan] == [2, 1]
    plan = plan_of(tmp_path, stages, text, "02.tile_px=4", "tile_px=3", only=("2",))
    assert [p.values["tile_px"] for p in plan] == [3, 4] and [p.selected for p in plan] == [False, True]
    assert "*tile_px: int = 4 (256)" in describe_plan(plan, profile_of(tmp_path, text))
    text = "skip:\n  - {stage: '02', when: {labels_csv: '', tile_px: 256}, reason: no labels}\n"
    assert [p.skip_reason for p in plan_of(tmp_path, stages, text)] == ["", "no labels"]
    assert plan_of(tmp_path, stages, text, "tile_px=9")[1].skip_reason == ""
    asked = "skip:\n  - {stage: '02', when: {labels_csv: '*'}, reason: labels}\n"
    (tmp_path / "l.csv").touch()
    assert [plan_of(tmp_path, stages, asked, *given)[1].skip_reason
            for given in ([], [f"labels_csv={tmp_path / 'l.csv'}"])] == ["", "labels"]  # fmt: skip


@pytest.mark.parametrize(("text", "overrides", "request_", "message"), [
    ("", ["tile_pix=1"], {}, r"Unknown parameter 'tile_pix'.*Did you mean tile_px\?"),
    ("", ["01.seed=1"], {}, "Unknown parameter 'seed'"), ("", ["09.seed=1"], {}, "Unknown stage '09'.*01, 02"),
    ("", ["seed"], {}, "name=value"), ("", ["run_dir=x"], {}, "--out"), ("", ["tile_px=big"], {}, "tile_px"),
    ("", [], {"only": ("07",)}, "Unknown stage '07' in --only.*01, 02"),
    ("", [], {"first": "02", "last": "01"}, "lies after"),
    ("", [], {"first": "02", "only": ("01",)}, "cannot be combined"),
    ("stages: {'05': {}}\n", [], {}, "Unknown stage '05' in profile demo"),
    ("common: {sed: 1}\n", [], {}, r"Did you mean seed\?"), ("common: {scheme: no}\n", [], {}, "quotes"),
    ("required: {data_dir: folder of tiles}\n", [], {}, r"data_dir \(folder of tiles\).*run demo -p data_dir=…"),
    ("skip: [{stage: '02', reason: r, when: {nothing: 1}}]\n", [], {}, "Unknown parameter 'nothing'"),
])  # fmt: skip
def test_bad_requests_name_the_way_out(tmp_path, stages, text, overrides, request_, message):
    with pytest.raises(ParameterError, match=message):
        plan_of(tmp_path, stages, text, *overrides, **request_)


def test_paths_start_at_the_caller_and_must_exist(tmp_path, stages):
    (tmp_path / "tiles").mkdir()
    assert plan_of(tmp_path, stages, "", "data_dir=tiles")[0].values["data_dir"] == str(tmp_path / "tiles")
    assert plan_of(tmp_path, stages, "", "data_dir=")[0].values["data_dir"] == ""
    with pytest.raises(InputError, match="data_dir names a folder that does not exist"):
        plan_of(tmp_path, stages, "", "data_dir=tilse")
    with pytest.raises(InputError, match="must name a file"):
        plan_of(tmp_path, stages, "", "labels_csv=tiles")


@pytest.mark.parametrize(("text", "message"), [
    ("title: T\ninput: synthetic\ncomon: {}\n", r"Unknown key 'comon'.*common.*Did you mean common\?"),
    ("title: T\ninput: magic\n", "synthetic | slides | tiles"), ("input: tiles\n", "lacks the key title"),
    ("title: T\ninput: tiles\nexpect: {memory: 1}\n", "memory_gb"),
    ("title: T\ninput: tiles\nexpect: {gpu: maybe}\n", "optional | recommended"),
    ("title: T\ninput: tiles\nskip: [{stage: '1', reason: r}]\n", "two digits"),
    ("title: T\ninput: tiles\nseconds: {'01': true}\n", "Key 01 of profile bad.*int | float"),
    ("title: T\ninput: tiles\nskip: [{stage: '01', reason: r, when: x}]\n", "Key when of skip"),
    ("title: T\ninput: tiles\nskip: [{stage: '01'}]\n", "lacks the key reason"),
    ("title: T\ninput: tiles\nskip: {}\n", "wrong type"), ("title: [\n", "not valid YAML"), ("", "no mapping"),
])  # fmt: skip
def test_malformed_profiles(tmp_path, text, message):
    (tmp_path / "bad.yml").write_text(text)
    with pytest.raises(ParameterError, match=message):
        load_profile("bad", tmp_path)


def test_an_unknown_profile_lists_the_others(tmp_path):
    (tmp_path / "smoke.yml").write_text("title: T\ninput: tiles\n")
    with pytest.raises(ParameterError, match=r"Unknown profile 'smok'\. Expected: smoke\. Did you mean smoke\?"):
        load_profile("smok", tmp_path)


def test_notebooks_without_parameters_cell_or_not_notebooks(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "01-empty.ipynb")
    with pytest.raises(ParameterError, match="exactly one code cell tagged"):
        find_stages(tmp_path)
    (tmp_path / "01-empty.ipynb").write_text("{")
    with pytest.raises(InputError, match=r"01-empty\.ipynb is not a readable notebook"):
        find_stages(tmp_path)


@pytest.mark.parametrize(("bracket", "text", "expected"), [
    ("µm/px; 0.05–10", "0", "0.05 to 10 µm/px"), ("px; 16–", "-5", "16 or more px"), ("0–1", "1.5", "0 to 1"),
    ("seed", "-1", "0 to 4294967295."), ("seed", "4294967296", "0 to 4294967295."),
    ("tiles", "-1", "0 or more"),
])  # fmt: skip
def test_numbers_out_of_range_are_refused_before_anything_starts(bracket, text, expected):
    default = 512 if "16–" in bracket else 0.5
    (parameter,) = parse_parameters(f"x: float = {default}  # [{bracket}] what", "01-x")
    with pytest.raises(ParameterError, match=re.escape(f"Expected: {expected}")):
        parameter.from_text(text, "-p x")
    assert parameter.unit and parameter.from_text(str(parameter.default), "-p x") == parameter.default


def test_ranges_hold_in_lists_and_for_defaults():
    (parameter,) = parse_parameters("x: list[float] = [0.1]  # [share; 0–1] what", "01-x")
    with pytest.raises(ParameterError, match="0 to 1 share"):
        parameter.from_text("0.5,2", "-p x")
    with pytest.raises(ParameterError, match="makes no sense"):
        parse_parameters("x: int = 3  # [tiles; 5–] what", "01-x")
