"""REPRODUCING.md's TCGA route, as it is written there, against stand-ins that serve synthetic slides."""

from __future__ import annotations

import re
import shlex

import pandas as pd
import pytest

from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.running.commands.cli import build_parser, main
from deeplrhe_utils.running.jobs.synth import make_spec, write_synthetic_cohort
from tests.stand_ins.rehearsal import Rehearsal


def commands(first: str = "## 4. TCGA", end: str = "## 5. ") -> list[list[str]]:
    """The arguments of every command in a section."""
    text = (REPOSITORY / "REPRODUCING.md").read_text(encoding="utf-8")
    section = text[text.index(first) : text.index(end)]
    lines = [line for block in re.findall(r"```\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    split = [shlex.split(line, comments=True) for line in lines if line]
    assert all(words[0] == ".venv/bin/deeplrhe" for words in split)
    return [words[1:] for words in split]


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """Two dozen slides: enough for four strata of two in which every patient is profiled for all genes."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic_cohort(make_spec("smoke", ["n_slides=24", "normal_share=0"], 5), folder, workers=2)
    with Rehearsal(folder) as rehearsal:
        yield rehearsal


def test_every_command_can_be_typed():
    typed = [vars(build_parser().parse_args(words)) for words in commands()]
    assert [t["command"] for t in typed] == ["run", "run", "doctor", "cohort", "download", "run", "run"]
    other = [vars(build_parser().parse_args(words)) for words in commands("## 5. ", "## Is it the same?")]
    assert [t["command"] for t in other] == ["cohort", "download", "run", "external"]


@pytest.mark.slow
def test_the_route_ends_with_tiles(services, tmp_path, monkeypatch, capfd):
    """Addresses, folders and a smaller cohort are added; nothing else differs from what stands there."""
    monkeypatch.chdir(tmp_path)
    gdc, portal, store = services.gdc.url, services.portal.url, tmp_path / "data" / "raw" / "tcga"
    asked = ["-p", f"gdc_endpoint={gdc}", "-p", f"cbioportal_endpoint={portal}", "-p", f"download_to={store}"]
    _, mini, _, cohort, download, to_03, _ = commands()
    assert main([*mini, *asked, "--to", "03", "--out", "mini"]) == 0, capfd.readouterr().err
    screened = pd.read_parquet(tmp_path / "mini" / "tables" / "tiles.parquet")
    assert screened["selected"].any() and screened["noise_ratio"].notna().any()
    assert len(pd.read_csv(tmp_path / "mini" / "tables" / "download.csv")) == 10

    assert main([*cohort, "--n", "8", "--gdc", gdc, "--cbioportal", portal]) == 0
    assert main([*download, "--endpoint", gdc]) == 0
    served = len(services.gdc.log)
    assert main([*to_03, *asked, "--out", "paper"]) == 0, capfd.readouterr().err
    assert len(services.gdc.log) == served, "notebook 01 fetched what was here"
    slides = pd.read_parquet(tmp_path / "paper" / "tables" / "slides.parquet")
    labels = pd.read_parquet(tmp_path / "paper" / "tables" / "labels.parquet")
    assert slides["patient_id"].nunique() == 8 and set(slides["sample_type"]) == {"frozen", "diagnostic"}
    assert labels["status"].notna().all() and set(labels["patient_id"]) == set(slides["patient_id"])
    assert pd.read_parquet(tmp_path / "paper" / "tables" / "tiles.parquet")["selected"].any()
