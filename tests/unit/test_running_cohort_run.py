"""A cohort in a run: chosen once, fetched once, old identifiers replaced, classes by sample; against the stand-ins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from deeplrhe_utils.acquisition.barcodes import person_of
from deeplrhe_utils.acquisition.cohort.build import check_flow
from deeplrhe_utils.acquisition.cohort.rules import named_rule
from deeplrhe_utils.acquisition.services.download import TransferOptions
from deeplrhe_utils.core.errors import ParameterError, RunError
from deeplrhe_utils.evaluation.splits.folds import patient_folds
from deeplrhe_utils.evaluation.tables.counts import run_flow
from deeplrhe_utils.running.jobs.cohort import Services
from deeplrhe_utils.running.jobs.cohort_run import fetch_cohort, ready_cohort, targets, with_targets
from deeplrhe_utils.running.jobs.synth import make_spec, write_synthetic_cohort
from deeplrhe_utils.slides.files.inventory import scan_slides
from tests.stand_ins.rehearsal import Rehearsal

GENES = ("TP53", "EGFR", "KRAS")
QUIET = TransferOptions(progress_s=0)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    parameters = ["n_slides=6", "normal_share=0", "grid_columns=3", "grid_rows=2", "tile_px=128", "artefact_rate=0"]
    write_synthetic_cohort(make_spec("smoke", parameters, 3), folder, workers=1)
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
    first = ready_cohort(tmp_path, rule, sources)
    assert len(first.chosen) == 4 and any("synthetic rehearsal" in note for note in first.notes)
    services.gdc.files.clear()  # tomorrow the service has nothing of it
    again = ready_cohort(tmp_path, rule, sources)
    pd.testing.assert_frame_equal(again.chosen, first.chosen)
    assert again.notes == first.notes
    pd.testing.assert_frame_equal(
        again.labels[["patient_id", "gene", "status"]], first.labels[["patient_id", "gene", "status"]]
    )
    with pytest.raises(ParameterError, match="chosen with another rule"):
        ready_cohort(tmp_path, named_rule("smallest", genes=GENES, n=5), sources)
    given = ready_cohort(tmp_path / "other", named_rule("paper"), sources, given=tmp_path / "cohort.json")
    pd.testing.assert_frame_equal(given.chosen, first.chosen)


def test_missing_slides_stop_the_run_unless_they_may_be_missing(services, sources, rule, tmp_path):
    cohort = ready_cohort(tmp_path / "cohort", rule, sources)
    gone = cohort.chosen["file_id"].iloc[0]
    services.gdc.files[:] = [f for f in services.gdc.files if f.file_id != gone]
    with pytest.raises(RunError, match=r"1 of 4 slides could not be fetched.*404.*allow_missing"):
        fetch_cohort(cohort, tmp_path / "slides", sources.gdc, QUIET, tmp_path / "memory.csv")
    found = fetch_cohort(cohort, tmp_path / "slides", sources.gdc, QUIET, tmp_path / "memory.csv", allow_missing=True)
    assert sorted(found.report["status"]) == ["failed", "present", "present", "present"] and len(found.paths) == 3


def test_slides_know_what_the_cohort_knows(sources, rule, tmp_path):
    cohort = ready_cohort(tmp_path / "cohort", rule, sources)
    found = fetch_cohort(cohort, tmp_path / "slides", sources.gdc, QUIET, tmp_path / "memory.csv")
    stranger = tmp_path / "slides" / "another" / "other.svs"
    stranger.parent.mkdir()
    stranger.write_bytes(next(iter(found.paths.values())).read_bytes())
    slides = scan_slides(tmp_path / "slides", only=found.paths.values())
    assert len(slides) == 4 and slides["status"].eq("ok").all()
    told = with_targets(slides, cohort, targets(cohort, "genes").unit_of, found.paths)
    assert set(told["patient_id"]) == set(cohort.patients) and told["subtype"].notna().all()


def test_classes_belong_to_samples_and_folds_to_patients(sources, tmp_path):
    cohort = ready_cohort(
        tmp_path, named_rule("all", genes=GENES), sources
    )  # five tumours, and normal tissue of one of them
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


def test_replacements_are_remembered_so_that_the_next_run_needs_no_network(services, sources, rule, tmp_path):
    """New identifiers, and a new name: the slides are the cohort's, whatever the service calls them today."""
    cohort = ready_cohort(tmp_path / "cohort", rule, sources)
    services.gdc.newer = {f.file_id: f"{i:08d}{f.file_id[8:]}" for i, f in enumerate(services.gdc.files)}
    services.gdc.files[:] = [
        replace(f, file_id=services.gdc.newer[f.file_id], file_name=f.file_name.replace(".svs", ".v2.svs"))
        for f in services.gdc.files
    ]
    first = fetch_cohort(cohort, tmp_path / "slides", sources.gdc, QUIET, tmp_path / "memory.csv")
    assert first.repairs["how"].eq("newest version").all() and (first.repairs["md5_differs"] == "False").all()
    services.gdc.stop()
    again = fetch_cohort(cohort, tmp_path / "slides", sources.gdc, QUIET, tmp_path / "memory.csv")
    assert again.paths == first.paths and again.report["status"].eq("present").all()
    slides = scan_slides(tmp_path / "slides", only=again.paths.values())
    told = with_targets(slides, cohort, targets(cohort, "genes").unit_of, again.paths)
    assert set(told["patient_id"]) == set(cohort.patients)


def test_other_content_than_was_signed_must_be_accepted(services, sources, rule, tmp_path):
    cohort = ready_cohort(tmp_path / "cohort", rule, sources)
    victim = cohort.chosen["file_id"].iloc[0]
    other = next(f for f in services.gdc.files if f.file_id not in set(cohort.chosen["file_id"]))
    services.gdc.files[:] = [
        replace(f, content=other.content, md5="") if f.file_id == victim else f for f in services.gdc.files
    ]
    arguments = (cohort, tmp_path / "slides", sources.gdc, QUIET, tmp_path / "memory.csv")
    with pytest.raises(RunError, match=r"1 of 4 slides have another content.*accept_changed"):
        fetch_cohort(*arguments)
    assert not (tmp_path / "slides" / victim).exists()
    for _ in range(3):  # and it stays so
        found = fetch_cohort(*arguments, accept_changed=True)
        assert len(found.paths) == 4 and found.repairs["file_id"].tolist() == [victim]
    with pytest.raises(RunError, match="another content"):
        fetch_cohort(*arguments)
    assert found.paths[victim].read_bytes() == other.bytes(), "a refusal throws nothing away"


def test_a_cohort_is_bound_to_its_sources(services, sources, rule, tmp_path):
    ready_cohort(tmp_path / "cohort", rule, sources)
    drivers = tmp_path / "drivers.csv"
    drivers.write_text("gene,protein_change\nTP53,R158L\n")
    with pytest.raises(ParameterError, match="another sources"):
        ready_cohort(tmp_path / "cohort", rule, sources, drivers=drivers)
    with pytest.raises(ParameterError, match="another genes"):
        ready_cohort(tmp_path / "cohort", named_rule("smallest", genes=GENES[:2], n=4), sources)
    other = tmp_path / "other"
    ready_cohort(other, named_rule("smallest", genes=GENES, n=3), sources)
    with pytest.raises(ParameterError, match="another signature"):
        ready_cohort(tmp_path / "cohort", rule, sources, given=other / "cohort.json")
    with pytest.raises(ParameterError, match="no labels of some genes"):
        ready_cohort(
            tmp_path / "third", named_rule("smallest", genes=("TP53", "NF1")), sources, given=other / "cohort.json"
        )


def test_a_cohort_that_was_half_written_is_made_again(services, sources, rule, tmp_path, monkeypatch):
    from deeplrhe_utils.running.jobs import cohort_run

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cohort_run, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            ready_cohort(tmp_path / "cohort", rule, sources)
    services.gdc.files.pop()  # the service answers differently now
    assert len(ready_cohort(tmp_path / "cohort", rule, sources).chosen) == 4
    assert (tmp_path / "cohort" / "prevalence.csv").is_file() and (tmp_path / "cohort" / "notes.txt").is_file()


def test_the_flow_of_classes_counts_patients_and_tumours_as_the_cohort_does(sources, tmp_path):
    cohort = ready_cohort(tmp_path / "cohort", named_rule("all", genes=GENES), sources)
    found = fetch_cohort(cohort, tmp_path / "slides", sources.gdc, QUIET, tmp_path / "memory.csv")
    aim = targets(cohort, "classes")
    slides = with_targets(scan_slides(tmp_path / "slides", only=found.paths.values()), cohort, aim.unit_of, found.paths)
    flow = check_flow(run_flow(slides, aim.labels, aim.tumour, cohort.flow))
    last, step = cohort.flow.iloc[-1], flow[flow["step"] == "fetched and verified"].iloc[0]
    assert (
        step[["slides", "patients", "LUAD", "LUSC"]].tolist() == last[["slides", "patients", "LUAD", "LUSC"]].tolist()
    )
    assert "6 samples of 5 patients" in aim.note
