"""The report page as text: what is in it, what damaged or hostile files do to it. Browsers: tests/browser."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from deeplrhe_utils.core.paths import PROFILES, REPOSITORY
from deeplrhe_utils.learning.networks.cards import hash_patient
from deeplrhe_utils.running.page import heat
from deeplrhe_utils.running.page.html import STATIC
from deeplrhe_utils.running.page.page import write_page
from deeplrhe_utils.running.plan.profiles import load_profile
from tests.browser.run_folder import AWAY, GENES, HERE, SIDE, make_run, report, score

DAMAGED = [
    ("heatmaps/slides.json", b"{not json", "cannot be shown"),
    ("heatmaps/slides.json", b"[]", "cannot be shown"),
    ("heatmaps/dense.parquet", b"PAR1", "cannot be shown"),
    ("tables/auc_table.csv", b"\xff\xfe\x00gene", "auc_table.csv cannot be read"),
    ("tables/claims.csv", b"\xff\xfe\x00id", "claims.csv cannot be read"),
    ("numbers/06-roc-analysis.json", b"{", "is no number file"),
]


class Page(HTMLParser):
    """Tags, attributes, ids and text of a page, and whether every tag is closed."""

    VOID = ("meta", "img", "br", "input", "link")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags, self.open, self.targets, self.ids, self.words = [], [], [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.targets += [found[name] for name in ("href", "src") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def root(tmp_path):
    return make_run(tmp_path / "run")


def written(root, profile="smoke", status="finished") -> Page:
    return Page(write_page(root, load_profile(profile, PROFILES), report(root, status)).read_text(encoding="utf-8"))


def test_every_address_is_a_file_of_the_run_or_a_place_on_the_page(root):
    found = written(root)
    for target in found.targets:
        if target.startswith("#"):
            assert target[1:] in found.ids
        else:
            assert (root / target).resolve().is_relative_to(root.resolve()) and (root / target).is_file(), target
    assert len(found.ids) == len(set(found.ids))
    labels = {attrs.get("for") for tag, attrs in found.tags if tag == "label"}
    controls = {attrs["id"] for tag, attrs in found.tags if tag in ("select", "input")}
    assert controls == labels, "every control has a label"
    assert all(attrs.get("alt") for tag, attrs in found.tags if tag == "img")


def test_the_banner_comes_first_and_only_where_slides_are_synthetic(root):
    words = [word.strip() for word in written(root).words if word.strip()]
    assert [word[:9] for word in words[words.index("Skip to the results") + 1 :][:1]] == ["Synthetic"]
    assert "Synthetic" not in " ".join(written(root, "slides").words)


def test_which_network_scored_and_on_what_it_learned_stands_above_its_scores(root):
    file = root / "heatmaps" / "slides.json"
    facts = json.loads(file.read_text())
    for patient, banner in (("SYNT-03-0007", "learned on SYNTHETIC tissue"), ("X", "learned is not told")):
        cards = {k: {**card, "file": "05/m", "patients": [hash_patient(patient)]} for k, card in facts["cards"].items()}
        file.write_text(json.dumps({**facts, "cards": cards, "tissue": {HERE: 0.876}}))
        words = [word.strip() for word in written(root, "slides").words if word.strip()]
        assert banner in words[words.index("Skip to the results") + 1]
        told = " ".join(words)
        assert told.index("Network 05/m (") < told.index("Each square is a window")
        assert f"Tissue that lies in scored windows: {HERE}: 88%." in told


def test_scores_travel_in_thousandths_and_windows_unmoved(root):
    written(root)
    scripts = sorted((root / "page").glob("slide-*.js"))
    slides = [json.loads(path.read_text().partition(", ")[2].removesuffix(");\n")) for path in scripts]
    assert sorted(slide["name"] for slide in slides) == sorted([HERE, AWAY]) and scripts[0].name == "slide-000.js"
    here = next(slide for slide in slides if slide["name"] == HERE)
    assert here["windows"][6] == [2 * SIDE, SIDE, SIDE]
    assert here["scores"][GENES[0]][0] is None and here["scores"][GENES[0]][6] == round(score(2, 1, 0) * 1000)
    assert all("<" not in path.read_text() for path in scripts)


def test_a_slide_of_many_windows_is_cut_and_the_page_says_so(root, monkeypatch):
    monkeypatch.setattr(heat, "MOST_WINDOWS", 5)
    assert f"Drawn in part: {AWAY}: 5 of 12 windows; {HERE}: 5 of 12 windows." in " ".join(written(root).words)


def test_a_pyramid_of_tiles_is_preferred_to_the_thumbnail(root):
    (root / "heatmaps" / f"{HERE}-slide.dzi").write_text(
        '<Image TileSize="254" Overlap="1" Format="jpeg" xmlns="x"><Size Width="2048" Height="1536"/></Image>'
    )
    written(root)
    texts = [path.read_text() for path in sorted((root / "page").glob("slide-*.js"))]
    (found,) = [json.loads(t.partition(", ")[2].removesuffix(");\n")) for t in texts if f'"name":"{HERE}"' in t]
    assert found["source"]["Image"]["Url"] == f"heatmaps/{HERE}-slide_files/"
    assert found["source"]["Image"]["Size"] == {"Width": "2048", "Height": "1536"}


def test_scores_of_a_network_that_knew_the_patient_are_not_shown(root):
    facts = json.loads((root / "heatmaps" / "slides.json").read_text())
    for cards, words in (
        ({}, "not known on whom"),
        ({k: {"patients": [hash_patient("P1")]} for k in facts["cards"]}, "trained on"),
    ):
        (root / "heatmaps" / "slides.json").write_text(json.dumps(facts | {"cards": cards}))
        told = " ".join(written(root).words)
        assert "stored heat maps cannot be shown" in told and words in told
        assert not list((root / "page").glob("slide-*.js"))


@pytest.mark.parametrize(("name", "content", "words"), DAMAGED)
def test_damaged_files_are_named_and_the_rest_is_shown(root, name, content, words):
    (root / name).write_bytes(content)
    told = " ".join(written(root).words)
    assert words in told and "Stages and executed notebooks" in told


def test_methods_say_only_what_the_numbers_say(root):
    told = " ".join(written(root).words)
    assert "2 patients gave 2 slides (3 files were found, 1 excluded)." in told
    assert "Heat maps were drawn for 2 slides from the scores of 23 windows." in told
    assert "A network of the kind" not in told, "a stage that left no numbers is not told"
    assert "not in this run" not in told and "{0" not in told


def test_captions_come_from_the_executed_notebooks(root):
    from PIL import Image

    (root / "figures").mkdir()
    Image.fromarray(np.zeros((3, 5, 3), np.uint8)).save(root / "figures" / "fig7_heatmap.png")
    cells = [
        {"cell_type": "code", "source": ['show(run.figure("fig7_heatmap", x))']},
        {"cell_type": "markdown", "source": ["**Figure 7.** Four `panels` of <b>heat</b>,\nn = 3.\n\nMore."]},
    ]
    (root / "notebooks").mkdir()
    (root / "notebooks" / "07-heat-maps.ipynb").write_text(json.dumps({"cells": cells}))
    (root / "notebooks" / "08-x.ipynb").write_text("[]")
    numbers = root / "numbers" / "07-heat-maps.json"
    told = {"findings": {"fig7_heatmap": "TP53 <b>0.77</b>."}, "worries": [{"happened": True, "sentence": "It came."}]}
    numbers.write_text(json.dumps({**json.loads(numbers.read_text()), **told} if numbers.is_file() else told))
    found = written(root)
    image = next(attrs for tag, attrs in found.tags if tag == "img" and "fig7" in attrs["src"])
    assert (image["width"], image["height"]) == ("5", "3")
    assert {"Figure 7. Four panels of <b>heat</b>, n = 3. ", "TP53 <b>0.77</b>."} <= set(found.words)
    assert "figure-fig7_heatmap" in found.ids and image["alt"] == "TP53 <b>0.77</b>."
    assert "Of 1 things that would worry us, 1 happened, and 0 cannot be told here" in found.words


def test_fewer_slides_or_a_failed_first_stage_leave_no_stale_files_and_give_a_page(root, tmp_path):
    written(root)
    (root / "heatmaps" / "slides.json").unlink()
    assert "heat" not in written(root).ids and not (root / "page").exists()
    told = " ".join(written(tmp_path / "empty", status="failed").words)
    assert "Stages without a result: 07-heat-maps (failed)." in told


def test_the_committed_demo_has_a_page_of_the_same_kind(tmp_path):
    demo = REPOSITORY / "reports" / "demo"
    if not (demo / "heatmaps" / "slides.json").is_file():
        pytest.skip("reports/demo has not been made: run `make reproduce`")
    for folder in ("heatmaps", "tables", "numbers"):
        (tmp_path / folder).symlink_to(demo / folder)
    content = json.loads((demo / "run.json").read_text())
    write_page(tmp_path, load_profile("demo", PROFILES), content)
    added = sum(path.stat().st_size for path in (tmp_path / "page").iterdir())
    assert added < 1_000_000, "what the page adds to the committed demo"


def test_the_bundled_library_is_the_published_one_with_its_licence():
    from deeplrhe_utils.core.files import sha256_file

    published = "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad"
    assert sha256_file(STATIC / "openseadragon.min.js") == published, "6.1.1, minified"
    assert "Redistribution and use in source and binary forms" in (STATIC / "openseadragon.LICENSE.txt").read_text()
