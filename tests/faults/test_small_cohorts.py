"""Every notebook on the smallest cohorts: what can be asked is answered, the rest is skipped with its reason."""

import json
import shutil
import subprocess
import sys

import pytest

from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.synthetic.publish import CohortSpec, plan_cohort, write_slide

pytestmark = pytest.mark.slow
BRIEF = {
    "tile_px": 128, "workers": 1, "03.max_tiles_per_slide": 4, "spike_fields": 2, "survey_tiles": 2,
    "statistics_tiles": 6, "fit_tiles": 8, "fit_steps": 20, "store_px": 128, "compare_slides": 2,
    "help_epochs": 1, "alarm_heads": 4, "probe_draws": 19, "leak_draws": 19, "kernels": 8,
    "stages": 2, "epochs": 2, "crop_px": 32, "ablation_epochs": 1, "mil_epochs": 3,
    "resamples": 200, "n_shown": 1, "map_px": 256, "deep_zoom_px": 512, "reading_tiles": 2, "attribution_tiles": 1,
    "tuning_kernels": 8, "tuning_stages": 1, "tuning_losses": "bce", "tuning_rates": 0.1, "tuning_fine": 0.5,
    "tuning_epochs": 1, "tuning_crop_px": 32, "range_tiles": 4, "leak_tiles": 2, "leak_epochs": 1,
    "null_tiles": 2, "null_epochs": 1, "glass_tiles": 1, "coverage_draws": 100, "coverage_boots": 10,
    "min_positives": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Four small synthetic slides, and one of glass with a speck of tissue."""
    folder = tmp_path_factory.mktemp("planted")
    plan = plan_cohort(CohortSpec(n_slides=12, seed=7, grid_columns=3, grid_rows=2, tile_px=256, artefact_rate=0))
    names = list(plan.slides.loc[plan.slides["objective"] == 20, "slide_id"])[:4]
    for name in names:
        write_slide(plan, name, folder)
    thin = plan_cohort(CohortSpec(n_slides=12, seed=8, grid_columns=1, grid_rows=1, tile_px=128, artefact_rate=0))
    name = thin.slides.loc[thin.slides["objective"] == 20, "slide_id"].iloc[0]
    path = write_slide(thin, name, folder)
    path.rename(folder / "THIN-01.svs")
    return folder, names


CASES = {  # which slides, labels by slide, which stages must be finished
    "one slide, one patient, one gene": (1, {"TP53": [1]}, {"02", "03"}),
    "one slide, no labels": (1, None, {"02", "03", "04"}),
    "two slides, one of them too thin": ("thin", {"TP53": [1, 0]}, {"02", "03"}),
    "two patients of two classes": (2, {"TP53": [1, 0]}, {"02", "03", "04"}),
    "labels of one class": (4, {"TP53": [1, 1, 1, 1]}, {"02", "03", "04"}),
    "one gene, four patients": (4, {"KRAS": [1, 0, 1, 0]}, {"02", "03", "04", "05", "06", "07", "14", "15"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_notebook_ends_with_a_result_or_a_reason_and_the_run_with_a_report(planted, tmp_path, case):
    folder, names = planted
    count, labels, finished = CASES[case]
    chosen = [names[0], "THIN-01"] if count == "thin" else names[:count]
    (tmp_path / "slides").mkdir()
    for path in folder.iterdir():
        if any(path.name.startswith(name) for name in chosen):
            shutil.copy(path, tmp_path / "slides")
    words = [f"{name}={value}" for name, value in {**BRIEF, "slides_dir": tmp_path / "slides"}.items()]
    if labels:
        rows = [",".join(["slide_id", "patient_id", *labels])]
        rows += [",".join(map(str, (name, f"P{i}", *values))) for i, (name, *values) in
                 enumerate(zip(chosen, *labels.values(), strict=True))]  # fmt: skip
        (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
        words.append(f"labels_csv={tmp_path / 'labels.csv'}")
    command = [sys.executable, "-m", "deeplrhe_utils", "run", "slides", "--out", str(tmp_path / "run")]
    command += [text for word in words for text in ("-p", word)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    report = json.loads((tmp_path / "run" / "run.json").read_text())
    status = {name[:2]: stage["status"] for name, stage in report["stages"].items()}
    assert set(status.values()) <= {"finished", "skipped"} and report["status"] == "finished"
    assert finished <= {number for number, said in status.items() if said == "finished"}, status
    assert all(stage.get("reason") for stage in report["stages"].values() if stage["status"] == "skipped")
    page = (tmp_path / "run" / "index.html").read_text()
    assert "skipped" in page and "Traceback" not in page
