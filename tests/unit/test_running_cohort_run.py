"""A cohort in a run: chosen once, fetched once, old identifiers replaced, classes by sample; against the stand-ins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from deeplrhe_utils.acquisition.cohort_rules import named_rule
from deeplrhe_utils.acquisition.download import Settings
from deeplrhe_utils.acquisition.labels import person_of
from deeplrhe_utils.core.errors import InputError, ParameterError, RunError
from deeplrhe_utils.evaluation.splits import patient_folds
from deeplrhe_utils.running.cohort import Services
from deeplrhe_utils.running.cohort_run import fetch, ready, targets, with_targets
from deeplrhe_utils.running.synth import make_spec, write_cohort
from deeplrhe_utils.slides.inventory import scan_slides
from tests.stand_ins.rehearsal import Rehearsal

GENES = ("TP53", "EGFR", "KRAS")
QUIET = Settings(progress_s=0)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    parameters = ["n_slides=6", "grid_columns=3", "grid_rows=2", "tile_px=128", "artefact_rate=0"]
    write_cohort(make_spec("smoke", parameters, 3), folder, workers=1)
    return folder


@pytest.fixture
def services(synthetic):
    with Rehearsal(synthetic) as rehearsal:
        yield rehearsal


@pytest.fixture
def sources(services):
    return Services(services.gdc.url, services.portal.url)


@pytest.fixture
def rule():
    return named_rule("smallest", genes=GENES, n=4)


def test_a_cohort_is_chosen_once(services, sources, rule, tmp_path):
    first = ready(tmp_path, rule, sources)
    assert len(first.chosen) == 4 and any("synthetic rehearsal" in note for note in first.notes)
    services.gdc.files.clear()  # tomorrow the service has nothing of it
    again = ready(tmp_path, rule, sources)
    pd.testing.assert_frame_equal(again.chosen, first.chosen)
    assert again.notes == first.notes
    pd.testing.assert_frame_equal(
        again.labels[["patient_id", "gene", "status"]], first.labels[["patient_id", "gene", "status"]]
    )
    with pytest.raises(ParameterError, match="chosen by rule smallest"):
        ready(tmp_path, named_rule("smallest", genes=GENES, n=5), sources)
    given = ready(tmp_path / "other", named_rule("paper"), sources, given=tmp_path / "cohort.json")
    pd.testing.assert_frame_equal(given.chosen, first.chosen)


def test_an_edited_cohort_is_refused(sources, rule, tmp_path):
    ready(tmp_path, rule, sources)
    path = tmp_path / "cohort-labels.csv"
    path.write_text(path.read_text().replace(",0", ",1", 1))
    with pytest.raises(InputError, match="not what the cohort file was signed with"):
        ready(tmp_path, rule, sources)


def test_what_is_here_is_not_asked_for(services, sources, rule, tmp_path):
    cohort = ready(tmp_path / "cohort", rule, sources)
    found = fetch(cohort, tmp_path / "slides", sources.gdc, QUIET)
    assert found.report["status"].eq("verified").all() and found.repairs.empty and len(found.paths) == 4
    services.gdc.stop()
    again = fetch(cohort, tmp_path / "slides", sources.gdc, QUIET)
    assert again.report["status"].eq("present").all() and again.paths == found.paths


def test_identifiers_of_an_old_cohort_are_replaced(services, sources, rule, tmp_path):
    cohort = ready(tmp_path / "cohort", rule, sources)
    services.gdc.files[:] = [replace(f, file_id=f"{i:08d}{f.file_id[8:]}") for i, f in enumerate(services.gdc.files)]
    found = fetch(cohort, tmp_path / "slides", sources.gdc, QUIET)
    assert found.repairs["how"].eq("file name").all() and len(found.repairs) == len(found.paths) == 4
    assert set(found.paths) == set(cohort.chosen["file_name"])


def test_missing_slides_stop_the_run_unless_they_may_be_missing(services, sources, rule, tmp_path):
    cohort = ready(tmp_path / "cohort", rule, sources)
    gone = cohort.chosen["file_id"].iloc[0]
    services.gdc.files[:] = [f for f in services.gdc.files if f.file_id != gone]
    with pytest.raises(RunError, match=r"1 of 4 slides could not be fetched.*404.*allow_missing"):
        fetch(cohort, tmp_path / "slides", sources.gdc, QUIET)
    found = fetch(cohort, tmp_path / "slides", sources.gdc, QUIET, allow_missing=True)
    assert sorted(found.report["status"]) == ["failed", "present", "present", "present"] and len(found.paths) == 3


def test_slides_know_what_the_cohort_knows(sources, rule, tmp_path):
    cohort = ready(tmp_path / "cohort", rule, sources)
    found = fetch(cohort, tmp_path / "slides", sources.gdc, QUIET)
    stranger = tmp_path / "slides" / "another" / "other.svs"
    stranger.parent.mkdir()
    stranger.write_bytes(next(iter(found.paths.values())).read_bytes())
    slides = scan_slides(tmp_path / "slides", only=found.paths.values())
    assert len(slides) == 4 and slides["status"].eq("ok").all()
    told = with_targets(slides, cohort, targets(cohort, "genes").unit_of)
    assert set(told["patient_id"]) == set(cohort.patients) and told["subtype"].notna().all()


def test_classes_belong_to_samples_and_folds_to_patients(sources, tmp_path):
    cohort = ready(tmp_path, named_rule("all", genes=GENES), sources)  # five tumours, and normal tissue of one of them
    found = targets(cohort, "classes")
    assert found.labels.groupby("patient_id")["status"].sum().eq(1).all()
    assert set(found.clinical["patient_id"]) == set(found.labels["patient_id"]) == set(found.unit_of.values())
    for seed in range(10):
        folds = patient_folds(found.labels, 2, seed)
        person = folds["unit_id"].map(person_of)
        assert folds.groupby(["fold", person])["role"].nunique().eq(1).all()
    assert (folds["unit_id"].nunique(), person.nunique()) == (6, 5)
    with pytest.raises(ParameterError, match="targets"):
        targets(cohort, "stages")
