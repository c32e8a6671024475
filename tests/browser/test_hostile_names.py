"""A cohort whose names are attacks walks through the notebooks: nothing runs, nothing leaves, nothing is garbled."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml

from deeplrhe_utils.core.paths import PROFILES
from deeplrhe_utils.running.plan.plan import Request
from deeplrhe_utils.running.runner.pipeline import Pipeline, Places
from tests.hostile import GENES, SCRIPT, SLIDES, hostile_cohort
from tests.links import dead_links
from tests.site_of import build_site

FORMULA = re.compile(r"[=+\-@\t\r](?!\d*\.?\d+(e-?\d+)?%?$)")


@pytest.fixture(scope="module", params=["03", pytest.param("15", marks=pytest.mark.slow)])
def run(request, small_plan, tmp_path_factory) -> Path:
    """Notebooks 00 to 03, or all of them: the profile `slides` with labels, as briefly as `ci`."""
    base = tmp_path_factory.mktemp("hostile")
    given = hostile_cohort(small_plan, base / "in")
    brief, own = (yaml.safe_load((PROFILES / f"{name}.yml").read_text()) for name in ("ci", "slides"))
    stages = brief["stages"] | {"01": {"input_kind": "slides", **given}, "02": {"tile_px": 128}}
    skip = [one for one in own["skip"] if "when" not in one]
    profile = {"title": SCRIPT, "input": "slides", "expect": own["expect"], "skip": skip, "stages": stages}
    (base / "profiles").mkdir()
    (base / "profiles" / "hostile.yml").write_text(yaml.safe_dump(profile))
    before = _files(base)
    request = Request(last=request.param)
    Pipeline("hostile", request, base / "run", places=Places(profiles=base / "profiles")).run()
    assert {p for p in _files(base) if "run" not in p.relative_to(base).parts[:1]} == before, "written outside the run"
    return base / "run"


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def site(run, tmp_path_factory) -> Path:
    return build_site(run, tmp_path_factory.mktemp("site"))


def test_no_name_runs_in_a_page(run, site, watch):
    pages = [path for kind in ("*.html", "figures/*.svg", "heatmaps/*.svg") for path in run.glob(kind)]
    pages += [site / "index.html", *sorted((site / "notebooks").glob("*.html"))]
    assert len(pages) >= 5
    for path in pages:
        seen = watch()
        seen.page.goto(path.as_uri())
        seen.page.wait_for_timeout(100)  # the picture that does not exist needs a moment to fail
        assert seen.page.evaluate("window.__hit ?? 0") == 0 and seen.problems == [], path.name
        assert not [url for url in seen.asked if not url.startswith((run.as_uri(), site.as_uri(), "data:", "blob:"))], (
            path.name
        )
        seen.page.context.close()
    seen = watch()
    seen.page.goto((site / "notebooks" / "03-denoising.html").as_uri())
    shown = seen.page.locator("td").all_inner_texts()
    assert SCRIPT in shown and SLIDES[1] in shown, "names are shown as they are"
    assert r"txt.\u202esvs.slide" in shown, "what would turn the text around is shown by its number"


def test_no_name_chooses_a_file_or_a_formula(run):
    names = [path.relative_to(run).as_posix() for path in _files(run)]
    assert [name for name in names if not re.fullmatch(r"[\w ./+~-]+", name, re.ASCII)] == []
    for path in _files(run):
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as stream:
                cells = [cell for row in csv.reader(stream) for cell in row]
            assert [cell for cell in cells if FORMULA.match(cell)] == [], path.name


def test_every_file_is_read_and_every_link_leads_somewhere(run, site):
    with (run / "tables" / "file_ledger.csv").open(encoding="utf-8", newline="") as stream:
        kept = [row for row in csv.DictReader(stream) if row["fate"] == "tiled"]
    assert len(kept) == len(SLIDES)
    assert dead_links(run) == []
    pages = [path.read_text(encoding="utf-8") for path in [run / "index.html", *sorted(site.glob("notebooks/*.html"))]]
    assert not any("\u202e" in page for page in pages)
    assert GENES[0] in pages[2], "the page of notebook 01 names the targets"
