"""Skipping, resuming and failing: what a second run of the same command does."""

import errno
import json
import os
import re
import signal
import subprocess
import time

import nbformat
import psutil
import pytest

from deeplrhe_utils.core.errors import InputError, ParameterError, RunError
from deeplrhe_utils.core.files import read_json
from deeplrhe_utils.core.paths import NOTEBOOKS, PROFILES, REPOSITORY
from deeplrhe_utils.running.machine.lock import RunLock, end_leftovers, holder
from deeplrhe_utils.running.plan.notebooks import find_stages
from deeplrhe_utils.running.plan.plan import APART, Request, _needed, make_plan
from deeplrhe_utils.running.plan.profiles import load_profile
from deeplrhe_utils.running.runner.pipeline import Pipeline, StageError
from deeplrhe_utils.running.stage import state
from tests.faults.runner_house import FIRST, SECOND, House


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def counts(house):
    return house.count("01"), house.count("02")


def test_a_second_run_changes_nothing_and_each_change_reruns_what_depends_on_it(house, capsys):
    page = house.run()
    assert counts(house) == (1, 1)
    text = page.read_text()
    assert "A &lt;tiny&gt; one" in text and "Synthetic data" in text and 'href="notebooks/01-first.ipynb"' in text
    house.run()
    assert counts(house) == (1, 1) and capsys.readouterr().out.count("unchanged") == 2
    house.run("02.seed=2")  # only the second notebook has it
    assert counts(house) == (1, 2)
    house.run("word=cd", "seed=2")  # changes the first stage's output, so the second runs too
    assert counts(house) == (2, 3)
    (house.out / "tables" / "words.txt").unlink()
    house.run("word=cd", "seed=2")  # the same bytes come back, so the second stage keeps its result
    assert counts(house) == (3, 3)
    report = read_json(house.out / "run.json")
    assert report["status"] == "finished" and report["stages"]["02-second"]["status"] == "unchanged"
    assert report["peak_memory_bytes"] > 10**7 and report["stages"]["01-first"]["seconds"] > 0
    house.notebook("02-second", SECOND, "# another line")
    house.run("word=cd", "seed=2")
    assert counts(house)[1] == 4


def test_a_stage_depends_on_the_source_files_that_it_reaches_and_on_no_other(house):
    package = house.repository / "package"
    (package / "room").mkdir()
    (package / "room" / "near.py").write_text("from package.room import far\n")
    (package / "room" / "far.py").write_text("x = 1\n")
    (package / "room" / "worker.py").write_text("x = 1\n")
    house.notebook(
        "02-second", SECOND, "if not run:\n    from package.room.near import x", 'word = "package.room.worker"'
    )
    house.run()
    for name, times in (("code.py", 1), ("room/near.py", 2), ("room/far.py", 3), ("room/worker.py", 4)):
        with (package / name).open("a") as stream:
            stream.write("y = 2\n")
        house.run()
        assert counts(house) == (1, times), name


def test_a_result_made_from_damaged_ones_is_not_kept(house):
    house.run()
    (house.out / "tables" / "words.txt").write_text("damaged and long")
    house.run("seed=2", only=("02",))
    assert read_json(house.out / "run.json")["status"] == "stale"
    house.run("seed=2")
    assert read_json(house.out / "numbers" / "02-second.json")["length"] == len("ababab")


def test_results_of_a_stage_that_no_longer_applies_or_was_begun_by_hand_are_stale(house):
    house.profile(skip=[{"stage": "01", "when": {"rate": 0.7}, "reason": "no longer"}])
    house.run()
    house.run("rate=0.7", only=("02",))
    stages = read_json(house.out / "run.json")["stages"]
    assert {stage["status"] for stage in stages.values()} == {"stale"} and "no longer" in stages["01-first"]["reason"]
    house.run()
    (house.out / "stages" / "01.json").unlink()  # as a notebook that is opened by hand does
    house.run("seed=2", only=("02",))
    assert read_json(house.out / "run.json")["stages"]["01-first"]["status"] == "stale"


def test_a_run_that_is_stopped_between_two_stages_is_not_finished(house, monkeypatch):
    real = state.input_fingerprints

    def stop(planned, repository):
        if planned.stage.number == "02":
            raise KeyboardInterrupt
        return real(planned, repository)

    monkeypatch.setattr("deeplrhe_utils.running.runner.pipeline.input_fingerprints", stop)
    with pytest.raises(KeyboardInterrupt):
        house.run()
    assert read_json(house.out / "run.json")["status"] == "failed"


def test_a_stage_that_is_not_selected_says_whether_its_result_is_still_good(house, capsys):
    house.run(only=("01",))
    stages = read_json(house.out / "run.json")["stages"]
    assert (stages["02-second"]["status"], stages["02-second"]["reason"]) == ("not run", "not selected")
    house.run()
    house.run(only=("02",))
    report = read_json(house.out / "run.json")
    assert report["status"] == "finished" and report["stages"]["01-first"]["status"] == "unchanged"
    assert report["stages"]["01-first"]["commit"] == ""  # no repository around this tiny compendium
    house.notebook("01-first", FIRST, "# another line")
    capsys.readouterr()
    page = house.run("seed=2", only=("02",))
    report, out = read_json(house.out / "run.json"), capsys.readouterr().out
    assert report["status"] == "stale" and counts(house) == (1, 2)
    assert {s["status"] for s in report["stages"].values()} == {"stale"}
    assert "01-first … stale: not selected" in out and "02-second … stale: 01-first" in out
    assert "inputs, or from results that were: 01-first, 02-second." in page.read_text()
    house.run("seed=2")
    assert counts(house) == (2, 2), "the same bytes came back, so the second stage is good again"
    assert read_json(house.out / "run.json")["status"] == "finished"


def test_a_changed_input_file_reruns_its_stage_only(house):
    extra = house.base / "extra.csv"
    extra.write_text("a")
    house.run("extra_csv=extra.csv")
    extra.write_text("b")
    house.run("extra_csv=extra.csv")
    assert counts(house) == (1, 2)
    assert read_json(house.out / "numbers" / "02-second.json")["extra"] == "b"


def test_selection_fresh_and_skip_rules(house, capsys):
    house.run(only=("01",))
    assert counts(house) == (1, 0)
    house.run(first="02")
    assert counts(house) == (1, 1)
    house.run(last="01", fresh=True)
    assert counts(house) == (2, 1)
    house.profile(skip=[{"stage": "02", "when": {"extra_csv": ""}, "reason": "no extra input"}])
    house.run()
    assert "skipped: no extra input" in capsys.readouterr().out
    assert not (house.out / "numbers" / "02-second.json").exists(), "a stage that does not apply leaves no old result"
    assert read_json(house.out / "run.json")["stages"]["02-second"]["reason"] == "no extra input"


def test_a_failed_cell_is_named_and_finished_stages_are_kept(house):
    house.notebook("02-second", 'raise ValueError("the cause")')
    with pytest.raises(RunError) as caught:
        house.run()
    message = str(caught.value)
    for part in (
        "02-second",
        "cell 3",
        'raise ValueError("the cause")',
        "ValueError: the cause",
        "Resume with: `python",
    ):
        assert part in message
    assert (house.out / "logs" / "02-second.ipynb").is_file()
    assert not (house.out / "notebooks" / "02-second.ipynb").exists()
    assert read_json(house.out / "run.json")["stages"]["02-second"]["status"] == "failed"
    graph = {entity["@id"]: entity for entity in read_json(house.out / "ro-crate-metadata.json")["@graph"]}
    ended = {name: graph[f"#run-{name}"]["actionStatus"].rpartition("/")[2] for name in ("01-first", "02-second")}
    assert ended == {"01-first": "CompletedActionStatus", "02-second": "FailedActionStatus"}
    assert graph["#run-02-second"]["error"] == "ValueError: the cause"
    house.notebook("02-second", SECOND)
    house.run()
    assert counts(house) == (1, 1)


def test_our_own_errors_are_quoted_plainly(house):
    cell = 'from deeplrhe_utils.core.errors import SlideError\nraise SlideError("slide a.svs is cut short")'
    house.notebook("01-first", cell)
    with pytest.raises(RunError, match=r"\nslide a.svs is cut short\.\n"):
        house.run(only=("01",))


def test_a_killed_kernel_is_noticed_and_partial_work_survives_only_under_the_same_key(house):
    die = (
        FIRST + "\nimport os, signal\nkept = run.paths.work / '01' / 'part.txt'\nkept.parent.mkdir(parents=True, "
        "exist_ok=True)\nalready = kept.exists()\nkept.write_text('x')\nif not already: "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    house.notebook("01-first", die)
    with pytest.raises(RunError, match=r"killed by SIGKILL") as caught:
        house.run(only=("01",))
    assert "cell 3" in str(caught.value)
    with pytest.raises(RunError, match="SIGKILL"):
        house.run("times=4", only=("01",))  # another key: the partial file was deleted
    house.run("times=4", only=("01",))  # the same key: resumed from it
    assert house.count("01") == 3


def test_executed_copies_carry_no_trace_of_the_machine(house):
    show = "import os, sys\nfrom IPython.display import HTML, display\nprint(os.getcwd(), sys.prefix, run_dir)\n"
    show += "display(HTML('<a href=\"%s/x\">' % os.getcwd()))\nimport warnings\nwarnings.warn('careful')"
    house.notebook("01-first", show, "raise SystemError", tags={3: "skip-execution"})
    house.run(only=("01",))
    path = house.out / "notebooks" / "01-first.ipynb"
    text = path.read_text()
    assert str(house.base) not in text and "ipykernel_" not in text and "papermill" not in text
    assert "<repository> <python> <run>" in text
    assert nbformat.read(path, 4).cells[-1].outputs == []


def test_two_runs_in_one_folder(house):
    with RunLock(house.out), pytest.raises(RunError, match=rf"in use by process {os.getpid()}.*--out"):
        house.run()
    assert holder(house.out) is None


def test_unwritable_and_unsuitable_output_folders(house):
    blocker = house.base / "file"
    blocker.write_text("")
    house.out = blocker / "out"
    with pytest.raises(InputError, match=r"file/out cannot be written.*--out"):
        house.run()
    house.out = house.repository
    with pytest.raises(ParameterError, match="folder of its own"):
        house.run()


def test_a_full_disk_while_recording_keeps_the_finished_stage(house, monkeypatch):
    house.run(only=("01",))
    real = state.complete

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "stages/02.json")

    monkeypatch.setattr("deeplrhe_utils.running.runner.pipeline.complete", full)
    with pytest.raises(RunError, match=r"(?s)02-second.*disk is full.*Resume with"):
        house.run()
    monkeypatch.setattr("deeplrhe_utils.running.runner.pipeline.complete", real)
    house.run()
    assert house.count("01") == 1


def test_a_full_disk_inside_a_cell(house):
    house.notebook("01-first", 'raise OSError(28, "No space left on device")')
    with pytest.raises(RunError, match=r"(?s)No space left.*free some space.*Resume with"):
        house.run(only=("01",))


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_really_full(house, small_disk):
    house.out = small_disk / "out"
    fill = "open(run.paths.root / 'ballast', 'wb', buffering=0).write(bytes(4_000_000))\n"
    fill += "from deeplrhe_utils.core.files import write_text\nwrite_text(run.paths.root / 'x.txt', 'x' * 10_000)"
    house.notebook("02-second", SECOND, fill)
    with pytest.raises(RunError, match=r"(?s)02-second.*(disk is full|No space left).*Resume with"):
        house.run()
    assert holder(house.out) is None
    (house.out / "ballast").unlink()
    house.notebook("02-second", SECOND)
    house.run()
    assert counts(house) == (1, 2)


def test_long_stages_say_that_they_live(house, monkeypatch, capsys):
    monkeypatch.setattr("deeplrhe_utils.running.runner.kernel.HEARTBEAT_S", 1.0)
    monkeypatch.setattr("deeplrhe_utils.running.runner.kernel.NEWS_S", 0.1)
    told = "import time\ntime.sleep(2.5)\nprint('first')\nprint('k: 1/2, about 9 s left')\ntime.sleep(2.5)"
    house.notebook("01-first", told, parameters="")
    house.profile(seconds={"01": 3})
    house.run(only=("01",))
    out = capsys.readouterr().out
    assert "[01/02] 01-first … running for" in out and "cell 3/3: 01-first\n" in out
    assert "cell 3/3: 01-first: k: 1/2, about 9 s left" in out and ": first" not in out
    assert "s (expected 3 s), peak " in out and "Expected to take about 3 s, as the profile says" in out
    assert "; run: " in out and out.rstrip().splitlines()[-1].startswith("Done in")


@pytest.mark.parametrize(("profile", "given", "only", "lacking"), [
    ("smoke", (), "07", "01-data-acquisition, 02-tiling, 03-denoising, 04-dcgmm-normalization, 05-gpu-training"),
    ("smoke", (), "12", "01-data-acquisition, 02-tiling, 03-denoising, 04-dcgmm-normalization, 05-gpu-training, 06"),
    ("smoke", (), "04", "01-data-acquisition, 02-tiling, 03-denoising, and"),
    ("slides", ("model", "slides_dir"), "07", "01-data-acquisition, 02-tiling, 03-denoising, and"),
])  # fmt: skip
def test_what_a_stage_lacks_is_known_before_anything_starts(tmp_path, profile, given, only, lacking):
    (tmp_path / "model").mkdir()
    overrides = tuple(f"{name}={tmp_path / 'model'}" for name in given)
    typed = f"python -m deeplrhe_utils run {profile} --only {only} --out x"
    with pytest.raises(InputError) as caught:
        Pipeline(profile, Request(overrides, only=(only,)), tmp_path / "run", command=typed).run()
    assert (
        f"results of {lacking}" in str(caught.value)
        and (not given or "05-gpu" not in str(caught.value))
        and not (tmp_path / "run").exists()
    )
    assert f"Run `python -m deeplrhe_utils run {profile} --out x --from 01 --to {only}`" in str(caught.value)


def test_processes_a_notebook_left_behind_end_with_its_stage(house):
    house.notebook("01-first", "import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid)")
    house.run(only=("01",))
    pid = int(nbformat.read(house.out / "notebooks" / "01-first.ipynb", 4).cells[-1].outputs[0].text)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _wait_for(path, seconds=30):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def _slow(house):
    wait = FIRST + '\nimport os, time\n(run.paths.root / "kernel.pid").write_text(str(os.getpid()))\ntime.sleep(60)'
    house.notebook("01-first", wait)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_signals_end_kernel_and_runner_with_the_way_to_resume(house, name, code):
    _slow(house)
    runner = house.start()
    _wait_for(house.out / "kernel.pid")
    time.sleep(0.2)
    kernel = int((house.out / "kernel.pid").read_text())
    runner.send_signal(getattr(signal, name))
    output, _ = runner.communicate(timeout=20)
    assert runner.returncode == code, output
    assert "Resume with: `python -m deeplrhe_utils run tiny --out" in output and "01-first, cell 3" in output
    assert "Traceback" not in output
    assert not psutil.pid_exists(kernel)
    assert json.loads((house.out / "run.json").read_text())["stages"]["01-first"]["status"] == "stopped"
    assert (house.out / "logs" / "01-first.ipynb").is_file()


def test_an_orphaned_kernel_of_a_killed_runner_is_ended_before_the_next_run(house):
    _slow(house)
    runner = house.start()
    _wait_for(house.out / "kernel.pid")
    time.sleep(0.2)
    kernel = psutil.Process(int((house.out / "kernel.pid").read_text()))
    kernel.suspend()  # so that it cannot notice by itself that its runner is gone
    runner.kill()
    runner.wait()
    assert kernel.is_running()
    house.notebook("01-first", FIRST)
    house.run()
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    assert counts(house)[1] == 1


def test_a_kernel_dies_with_its_runner(house):
    _slow(house)
    runner = house.start()
    _wait_for(house.out / "kernel.pid")
    time.sleep(0.2)
    kernel = psutil.Process(int((house.out / "kernel.pid").read_text()))
    runner.kill()
    runner.wait()
    psutil.wait_procs([kernel], timeout=8)
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE


def test_a_cohort_too_small_for_a_question_skips_it_and_what_follows_and_the_run_ends_with_a_report(tmp_path, capsys):
    first = """from deeplrhe_utils.core.errors import SmallCohortError
from deeplrhe_utils.running.stage.record import start_run
run = start_run("01-first", run_dir)
if times < 4:
    raise SmallCohortError("Too few words", got=times)
run.numbers({"words": times})"""
    second = """from deeplrhe_utils.running.stage.record import start_run
run = start_run("02-second", run_dir)
run.numbers({"words": 2 * run.number_of("01-first", "words")})"""
    third = """from deeplrhe_utils.running.stage.record import start_run
run = start_run("03-third", run_dir)
run.numbers({"rows": run.number_of("02-second", "words") if quick else 0})"""
    house = House(tmp_path, {"01-first": [first], "02-second": [second], "03-third": [third]})
    house.notebook("03-third", third, parameters='run_dir: str = ""  # folder\nquick: bool = True  # read')
    for _ in range(2):
        page = house.run("times=3").read_text()
        told = capsys.readouterr().out
        assert (
            "01-first … skipped: Too few words. Got: 3" in told and "02-second … skipped: Stage 01 was skipped" in told
        )
        assert "03-third … skipped: Stage 01 was skipped: Too few words" in told
        stages = json.loads((house.out / "run.json").read_text())
        assert stages["status"] == "finished" and "Too few words" in page
        assert {stage["status"] for stage in stages["stages"].values()} == {"skipped"}
    house.run("times=4", "03.quick=false")
    assert json.loads((house.out / "numbers" / "02-second.json").read_text()) == {"words": 8}
    assert not list((house.out / "stages").glob("*.skipped"))


BESIDE = """import time
from pathlib import Path
from deeplrhe_utils.running.stage.record import start_run
run = start_run("{name}", run_dir)
Path(run.paths.root, "began-{name}").touch()
for _ in range(120):
    if {wait} or Path(run.paths.root, "began-{other}").exists():
        break
    time.sleep(0.5)
else:
    raise RuntimeError("the other stage does not run")
run.numbers({{"answer": "{name}"}})
{more}"""


def beside(base, more="", wait=False):
    """Two stages, each of which waits until the other has begun, and one that reads both."""
    names = ("08-planted-truth", "09-tuning")
    cells = {n: [BESIDE.format(name=n, other=o, wait=wait, more=more if n < o else "")]
             for n, o in (names, names[::-1])}  # fmt: skip
    last = "from deeplrhe_utils.running.stage.record import start_run\nrun = start_run('13-claims', run_dir)\n"
    cells["13-claims"] = [last + "run.numbers({n: run.number_of(n, 'answer') for n in " + repr(names) + "})"]
    return House(base, cells)


@pytest.mark.parametrize("lanes", [1, 2])
def test_what_stages_leave_does_not_depend_on_the_lanes(tmp_path, lanes, capsys):
    house = beside(tmp_path, wait=lanes == 1)
    pipeline = house.pipeline()
    pipeline.lanes = lanes
    pipeline.run()
    assert json.loads((house.out / "numbers" / "13-claims.json").read_text()) == {
        "08-planted-truth": "08-planted-truth", "09-tuning": "09-tuning"}  # fmt: skip
    capsys.readouterr()
    house.notebook("08-planted-truth", house.cells["08-planted-truth"][0] + "\n1")
    house.pipeline().run()
    told = capsys.readouterr().out
    assert "09-tuning … unchanged" in told and "08-planted-truth … unchanged" not in told


def test_a_failing_stage_ends_the_one_beside_it_and_the_run_resumes(tmp_path):
    house = beside(tmp_path, more="raise ValueError('broken')")
    house.notebook("09-tuning", house.cells["09-tuning"][0] + "\ntime.sleep(600)")
    pipeline = house.pipeline()
    pipeline.lanes = 2
    with pytest.raises(StageError, match="08-planted-truth failed"):
        pipeline.run()
    stages = json.loads((house.out / "run.json").read_text())["stages"]
    assert [s["status"] for s in stages.values()] == ["failed", "stopped", "waiting"]
    assert end_leftovers(house.out) == [], "a kernel was left behind"
    house = beside(tmp_path / "again", wait=True)
    assert house.run()


def test_notebooks_that_run_side_by_side_read_nothing_of_one_another():
    stages = {stage.number: stage for stage in find_stages(NOTEBOOKS)}
    plan = make_plan(load_profile("demo", PROFILES), list(stages.values()), Request(), REPOSITORY)
    for planned in plan:
        if planned.stage.number in APART:
            others = {stages[n].name for n in APART} - {planned.stage.name}
            assert not others & {one.stage.name for one in _needed(planned, plan)}
            beyond = re.compile(r"paths\.numbers|read_numbers|" + "|".join(rf'"{name[:2]}"|{name}' for name in others))
            assert not beyond.search(planned.stage.code), f"{planned.stage.name} reads what runs beside it"


def test_a_run_knows_what_the_last_one_took_here(house, capsys):
    house.run()
    capsys.readouterr()
    house.run(fresh=True)
    assert "as earlier here, less where nothing changed" in capsys.readouterr().out
    elsewhere = json.loads((house.out / "run.json").read_text())
    elsewhere["hardware"]["cpu"] = "another"
    (house.out / "run.json").write_text(json.dumps(elsewhere))
    house.run()
    assert "as earlier here" not in capsys.readouterr().out
