"""One list of packages, kept in three places (pip, conda, Binder), and it is what the code imports."""

from __future__ import annotations

import ast
import json
import re
import stat
import sys
import tomllib

import pytest
import yaml

from deeplrhe_utils.core.paths import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")

IMPORTED_AS = {  # import name → distribution, where the two differ
    "IPython": "ipykernel",  # ipykernel is made of IPython and jupyter_client
    "PIL": "pillow",
    "cucim": "cucim-cu12",
    "cv2": "opencv-python-headless",
    "jupyter_client": "ipykernel",
    "openslide": "openslide-python",
    "rocrate_validator": "roc-validator",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
NEVER_IMPORTED = {  # distribution → why it is needed all the same
    "jupyterlab": "`make lab` and Binder",
    "openslide-bin": "the OpenSlide library that openslide-python loads",
}
NEVER_IMPORTED_DEV = {
    "imagecodecs": "tifffile writes JPEG through it",
    "import-linter": "`make lint`",
    "pytest-xdist": "`make test`",
    "timm": "tests build networks of the extra `transfer` by name",
    "mypy": "`make lint`",
    "pre-commit": "local hooks",
    "ruff": "`make lint`",
    "types-pyyaml": "types for mypy",
}
CONDA_NAMES = {  # PyPI → conda-forge, where the two differ
    "dask": "dask-core",
    "matplotlib": "matplotlib-base",
    "opencv-python-headless": "py-opencv",
    "openslide-bin": "openslide",
    "torch": "pytorch",
}
CONDA_BOUNDS = {"openslide": "4.0.1"}  # the wheel counts its own builds in a fourth number
BUILD = {"python", "pip", "setuptools"}


def split_requirement(text: str) -> tuple[str, str]:
    """('numpy', '2.0') of 'numpy>=2.0'; only lower bounds are allowed."""
    match = re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9.]+)", text.strip())
    assert match, f"{text!r} is not of the form name>=version"
    return match[1].lower(), match[2]


RUN = dict(map(split_requirement, PROJECT["project"]["dependencies"]))
EXTRAS = PROJECT["project"]["optional-dependencies"]
DEV = dict(map(split_requirement, EXTRAS["dev"]))
OPTIONAL = {split_requirement(text)[0] for name, extra in EXTRAS.items() if name not in ("dev", "oracles", "site")
            for text in extra}  # fmt: skip
ORACLES = dict(map(split_requirement, EXTRAS["oracles"]))


def imports(sources: list[str]) -> set[str]:
    """Distributions behind the third-party imports of Python sources."""
    names: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.split(".")[0])
    ours = {"deeplrhe_utils", "tests", *(p.stem for p in (REPOSITORY / "tests").rglob("*.py"))}
    return {IMPORTED_AS.get(n, n.lower().replace("_", "-")) for n in names - ours - set(sys.stdlib_module_names)}


def python_sources(folder: str) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def notebook_sources() -> list[str]:
    cells = [
        cell
        for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    ]
    lines = ["".join(cell["source"]).splitlines() for cell in cells if cell["cell_type"] == "code"]
    return ["\n".join("" if re.match(r"\s*[%!]", line) else line for line in cell) for cell in lines]


def test_no_environment_takes_an_openslide_with_known_memory_faults():
    """CVE-2026-48977 and CVE-2026-54604 are mended in 4.0.1."""
    for file in ("environment.yml", "binder/environment.yml"):
        assert "- openslide>=4.0.1\n" in (REPOSITORY / file).read_text(encoding="utf-8"), file
    assert tuple(map(int, RUN["openslide-bin"].split(".")[:3])) >= (4, 0, 1)
    locked = re.search(
        r"^openslide-bin==([\d.]+)", (REPOSITORY / "requirements.lock").read_text(encoding="utf-8"), re.M
    )
    assert tuple(map(int, locked[1].split(".")[:3])) >= (4, 0, 1)


def test_what_the_package_and_the_notebooks_import_is_declared_and_nothing_else():
    used = imports(python_sources("deeplrhe_utils") + notebook_sources())
    assert OPTIONAL - used == set(), "an extra without a use"
    assert used - set(RUN) - OPTIONAL == set(), "imported, but not among the dependencies of pyproject.toml"
    assert set(RUN) - used == set(NEVER_IMPORTED), "declared and never imported: use it, drop it or say why here"


def test_the_hosted_workflow_runs_make_test_on_every_python_that_is_promised():
    text = (REPOSITORY / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    machines = [(one["os"], one["python"]) for one in job["strategy"]["matrix"]["include"]]
    promised = {c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if "Python :: 3." in c}
    assert PROJECT["project"]["requires-python"] == f">={min(promised, key=lambda v: int(v[2:]))}"
    assert {python for os, python in machines if os.startswith("ubuntu-") and not os.endswith("-arm")} == promised
    assert any(os.endswith("-arm") for os, _ in machines) and any(os.startswith("macos-") for os, _ in machines)
    assert [step["run"] for step in job["steps"] if step.get("run", "").startswith("make")] == ["make test"]
    assert workflow["permissions"] == {"contents": "read"}
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
    assert "secrets" not in text and "cache-dependency-path: requirements.lock" in text
    told = (REPOSITORY / "docs" / "platforms.md").read_text(encoding="utf-8")
    assert all(f"Python {python}" in told for python in promised)


def test_what_the_site_needs_is_declared():
    script = (REPOSITORY / ".ci" / "pages.py").read_text(encoding="utf-8")
    declared = {split_requirement(text)[0] for text in EXTRAS["site"]}
    assert imports([script]) - {"docutils"} <= declared  # which comes with Sphinx
    assert all(name.replace("-", "_") in script for name in declared), "an extra without a use"


def peer_pins() -> dict[str, str]:
    """Name → exact version of the benchmarks' peers."""
    lines = (REPOSITORY / "benchmarks" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(re.fullmatch(r"([a-z0-9-]+)==([0-9.]+)( ;.*)?", line).groups()[:2] for line in lines if line[0] != "#")


def test_benchmark_peers_are_pinned_and_replace_nothing_of_the_lock():
    locked = re.findall(r"^([a-z0-9._-]+)==", (REPOSITORY / "requirements.lock").read_text(encoding="utf-8"), re.M)
    assert len(peer_pins()) >= 4 and not set(peer_pins()) & set(locked)


def test_what_the_tests_and_benchmarks_import_is_declared():
    peers = peer_pins()
    own = {path.stem.replace("_", "-").lower() for path in (REPOSITORY / "benchmarks").glob("_*.py")}
    used = imports(python_sources("tests")) | imports(python_sources("benchmarks")) - own - set(peers)
    assert used - set(RUN) - set(DEV) == set(), "imported by tests, but declared nowhere"
    assert set(DEV) - used == set(NEVER_IMPORTED_DEV), "a dev dependency without a use: drop it or say why here"


def test_every_oracle_is_asked_by_a_test_that_skips_without_it():
    asked = re.findall(r'importorskip\(\s*"(\w+)', "".join(python_sources("tests")))
    assert set(ORACLES) <= {IMPORTED_AS.get(name, name.lower()) for name in asked}
    assert not set(ORACLES) & imports(python_sources("tests")), "imported at the top: conda users lack it"


def conda_list(path: str) -> dict[str, str]:
    """Name → lower bound ('' for none) of a conda environment file."""
    document = yaml.safe_load((REPOSITORY / path).read_text(encoding="utf-8"))
    assert document["channels"][0] == "conda-forge"
    packages = {}
    for line in document["dependencies"]:
        assert isinstance(line, str), f"{path}: {line} is a nested list; packages of pip defeat the purpose"
        match = re.match(r"([a-z0-9_-]+)(?:\[version=')?(?:>=|=)?([0-9.]*)", line)
        assert match and match[1] not in packages, f"{path}: {line}"
        packages[match[1]] = match[2]
    return packages


def expected(pairs: dict[str, str]) -> dict[str, str]:
    names = {CONDA_NAMES.get(name, name): bound for name, bound in pairs.items()}
    return names | {name: bound for name, bound in CONDA_BOUNDS.items() if name in names}


def test_the_conda_environment_is_pyproject_in_conda_words():
    found = conda_list("environment.yml")
    assert {k: v for k, v in found.items() if k not in BUILD} == expected(RUN | DEV)
    assert found["python"] == PROJECT["project"]["requires-python"].removeprefix(">=")


def test_the_binder_environment_is_the_runtime_part_without_cuda():
    found = conda_list("binder/environment.yml")
    wanted = expected(RUN)
    wanted["pytorch-cpu"] = wanted.pop("pytorch")
    assert {k: v for k, v in found.items() if k not in BUILD} == wanted


@pytest.mark.parametrize("path", ["environment.yml", "binder/environment.yml"])
def test_conda_environments_can_install_this_package_without_fetching(path):
    found = conda_list(path)
    needed = dict(map(split_requirement, PROJECT["build-system"]["requires"]))
    assert {name: found.get(name) for name in needed} == needed, "--no-build-isolation needs the build tools"
    assert "-e ." not in (REPOSITORY / path).read_text(encoding="utf-8").split("dependencies:")[1]


def test_binder_holds_only_what_repo2docker_reads():
    """When binder/ exists, repo2docker looks nowhere else."""
    files = {path.name: path for path in (REPOSITORY / "binder").iterdir()}
    assert set(files) == {"environment.yml", "postBuild", "start"}
    for name in ("postBuild", "start"):
        assert files[name].stat().st_mode & stat.S_IXUSR, f"binder/{name} is not executable"
        assert files[name].read_text(encoding="utf-8").startswith("#!")
    assert files["start"].read_text(encoding="utf-8").rstrip().endswith('"$@"')


def test_the_lock_pins_every_dependency_with_hashes_and_names_no_address():
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    pins = {}
    for entry in entries:
        match = re.match(r"([a-z0-9._-]+)==([^\s;]+)(?: ; (.+?))? \\\n", entry)
        assert match, f"not a pinned, hashed line: {entry[:80]!r}"
        assert "--hash=sha256:" in entry, f"{match[1]} has no hash"
        pins.setdefault(match[1], []).append((match[2], match[3]))
    for name, bound in (
        RUN | DEV | ORACLES | dict(map(split_requirement, PROJECT["build-system"]["requires"]))
    ).items():
        assert name in pins, f"{name} is not locked: run `make lock`"
        assert all(marker is None for _, marker in pins[name]) or len(pins[name]) > 1, f"{name} is not always installed"
        assert all(_number(version) >= _number(bound) for version, _ in pins[name]), f"{name} is locked below its bound"
    assert "://" not in LOCK and "index-url" not in LOCK and " @ " not in LOCK, "the lock names an address"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"[0-9.]+", version)[0].strip(".").split("."))


def test_the_dev_container_builds_the_environment_of_the_lock():
    """Codespaces and VS Code read it; whether the image builds is shown where a Docker daemon runs."""
    folder = REPOSITORY / ".devcontainer"
    told = json.loads((folder / "devcontainer.json").read_text(encoding="utf-8"))
    known = {"name", "build", "remoteUser", "hostRequirements", "updateContentCommand", "forwardPorts",
             "portsAttributes", "customizations"}  # fmt: skip
    assert set(told) <= known, "a key that nobody has looked up in the specification"
    image = (folder / told["build"]["dockerfile"]).read_text(encoding="utf-8")
    assert re.search(r"^FROM python:([\d.]+)-\w+$", image, re.M)[1] == conda_list("binder/environment.yml")["python"]
    assert f"useradd --create-home --shell /bin/bash --uid 1000 {told['remoteUser']}\n" in image
    make, target = told["updateContentCommand"].split()
    assert make == "make" and re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M)
    python = told["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python == "${containerWorkspaceFolder}/.venv/bin/python"
    demo = yaml.safe_load((REPOSITORY / "profiles" / "demo.yml").read_text(encoding="utf-8"))["expect"]
    asked = {key: int(re.fullmatch(r"(\d+)gb", told["hostRequirements"][key])[1]) for key in ("memory", "storage")}
    assert asked["memory"] >= 2 * demo["memory_gb"] and asked["storage"] >= demo["disk_gb"] + 20, "and the environment"
