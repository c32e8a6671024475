"""The command line: ``python -m deeplrhe_utils`` and the console script ``deeplrhe``."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import CompendiumError, ParameterError

if TYPE_CHECKING:
    from deeplrhe_utils.running.pipeline import Places

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def build_parser() -> argparse.ArgumentParser:
    """The argument parser."""
    parser = argparse.ArgumentParser(
        prog="deeplrhe", description="Run the DeepLRHE compendium: from slides to AUC table, figures and heat maps."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser("run", help="run the notebooks of a profile", description="Run a profile's notebooks.")
    run.add_argument("profile", metavar="PROFILE", help="see `deeplrhe profiles`")
    run.add_argument("--from", dest="first", default="", metavar="NN", help="first stage")
    run.add_argument("--to", dest="last", default="", metavar="NN", help="last stage")
    run.add_argument("--only", default="", metavar="NN[,NN]", help="only these stages")
    run.add_argument(
        "-p", dest="parameters", action="append", default=[], metavar="[NN.]NAME=VALUE", help="set a parameter"
    )
    run.add_argument("--out", type=Path, default=None, metavar="DIR", help="run folder (default: reports/PROFILE)")
    run.add_argument("--fresh", action="store_true", help="delete what earlier runs of these stages left, then run")
    run.add_argument("--list", action="store_true", help="show stages and parameters, start nothing")
    _add_doctor(commands)
    _add_normalize(commands)
    _add_predict(commands)
    _add_score(commands)
    _add_split(commands)
    synth = commands.add_parser(
        "synth", help="write a synthetic cohort with its truth", description="Write synthetic slides and their truth."
    )
    synth.add_argument(
        "preset", metavar="PRESET", help="smoke, demo, paper (180 large slides) or stress (one huge one)"
    )
    synth.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the cohort; resumed if it exists"
    )
    synth.add_argument("--seed", type=int, default=None, metavar="N", help="default: the preset's")
    synth.add_argument(
        "-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help="a parameter, or GENE=d"
    )
    synth.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: one per core)")
    synth.add_argument("--scheduler", default="", metavar="ADDRESS", help="a running Dask scheduler")
    commands.add_parser("profiles", help="list the profiles")
    return parser


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="examine this machine, or the resolution of slides",
        description="Without slides: versions, OpenSlide, GPU, disk, memory, and what each profile needs. With slides: "
        "what each tells of its resolution, and whether that holds together; 1 if one has none or cannot be read.",
    )
    doctor.add_argument("slides", nargs="*", type=Path, metavar="SLIDE_OR_FOLDER", help="folders with all below them")
    doctor.add_argument("--out", type=Path, default=None, metavar="DIR", help="where a run would be kept")
    doctor.add_argument("--mpp-csv", type=Path, default=None, metavar="FILE", help="slide_id,mpp that you give")
    doctor.add_argument("--csv", type=Path, default=None, metavar="FILE", help="write the whole table there, too")
    doctor.add_argument("--no-estimate", action="store_true", help="no estimate from nuclei where there is none")


def _add_normalize(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "normalize",
        help="bring the colours of slides or tiles to one reference",
        description="Fit a stain normalization over slides, or over folders of tiles, and write normalized tiles or "
        "whole slides. The same command resumes. docs/stain.md tells more.",
    )
    add = command.add_argument
    add("paths", nargs="+", type=Path, metavar="SLIDE_OR_FOLDER", help="slides, folders of slides, folders of tiles")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the results; resumed if it exists")
    add("--reference", default="", metavar="SLIDE_OR_IMAGE", help="an input's name, or a file (default: the medoid)")
    add("--method", default="", metavar="NAME", help="dcgmm (default), paper, density, reinhard, macenko, vahadane")
    add("--model", type=Path, default=None, metavar="FOLDER", help="a fitted normalizer, such as DIR/normalizer")
    add("--format", default="tiles", metavar="NAME", help="tiles (PNG, default) or ome-tiff (whole slides)")
    add("--mpp", type=float, default=None, metavar="X", help="µm/px, 0 = the slide's own (default: 0.5; ome-tiff: 0)")
    add("--mpp-csv", type=Path, default=None, metavar="FILE", help="slide_id,mpp that you give")
    add("--tile-px", type=int, default=512, metavar="N", help="side of the tiles (default: 512)")
    loss = command.add_mutually_exclusive_group()
    loss.add_argument("--quality", type=int, default=None, metavar="N", help="JPEG quality of ome-tiff (default: 90)")
    loss.add_argument("--lossless", action="store_true", help="ome-tiff without loss")
    add("--statistics-tiles", type=int, default=32, metavar="N", help="tiles a slide's colours come from (default: 32)")
    add("--fit-steps", type=int, default=None, metavar="N", help="steps of the fit (default: 300)")
    add("--seed", type=int, default=None, metavar="N", help="seed of the fit (default: 0)")
    add("--white", action="store_true", help="take the glass off every slide (all must show some)")
    add("--compile", dest="compiled", action="store_true", help="compile the pixel arithmetic (needs a C++ compiler)")
    add("--thin-slide", default=None, metavar="RULE", help="too little tissue: error (left unchanged) or cohort")


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "predict",
        help="score slides with a trained network, without labels",
        description="Find tissue on slides, and score every tile with a trained network straight from the file; no "
        "tile is written. Slides of patients that the network was trained on are refused. 1 if a slide has no score.",
    )
    add = command.add_argument
    add("slides", type=Path, metavar="SLIDES", help="a slide, or a folder with all slides below it")
    add("--model", type=Path, required=True, metavar="FILE", help="reports/<run>/models/05/fold-N.safetensors")
    add("--out", type=Path, default=Path("scores"), metavar="DIR", help="folder of the tables (default: scores)")
    add("--mpp", type=float, default=0.5, metavar="X", help="µm/px at which tiles are cut (default: 0.5)")
    add("--mpp-csv", type=Path, default=None, metavar="FILE", help="slide_id,mpp that you give")
    add("--workers", type=int, default=0, metavar="N", help="processes (default: one per core)")
    add("--scheduler", default="", metavar="ADDRESS", help="a running Dask scheduler")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU when there is one")


def _add_score(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "score",
        help="AUCs with intervals from a table of scores, whoever made them",
        description="Read a CSV (patient_id, label, score; optionally gene, slide_id, tile_id, fold) or DeepPATH's "
        "out_filename_Stats.txt; write auc.csv, ROC and calibration figures and a page. docs/scoring.md tells more.",
    )
    add = command.add_argument
    add("file", type=Path, metavar="FILE", help="table of scores")
    add("--out", type=Path, default=Path("scored"), metavar="DIR", help="folder of the results (default: scored)")
    add("--unit", default="patient", metavar="UNIT", help="patient (default), slide, tile or all")
    add("--rule", default="mean", metavar="RULE", help='of tiles: mean (default), "positive share" or top')
    add("--labels", type=Path, default=None, metavar="FILE", help="patient_id and a column per gene, instead")
    add("--classes", type=Path, default=None, metavar="FILE", help="DeepPATH's class names, one per line")
    add("--columns", default="", metavar="OURS=THEIRS,…", help="such as label=outcome,score=ndka")
    add("--positive", default="", metavar="VALUE", help="label that counts as 1 (default: labels are 0 and 1)")
    add("--any-scale", action="store_true", help="take scores outside 0 to 1; they are ranked, not calibrated")
    add("--min-positives", type=int, default=5, metavar="N", help="least patients in each class (default: 5)")
    add("--resamples", type=int, default=2000, metavar="N", help="draws of the bootstrap (default: 2000)")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")


def _add_split(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "split",
        help="divide labelled patients into folds, and sign the list",
        description="Divide patients (or whole sites; slides and tiles as exhibits) into folds or into train, valid "
        "and test, balanced for all genes, and write a signed file that can be shared.",
    )
    add = command.add_argument
    add("labels", type=Path, metavar="LABELS.csv", help="patient_id,gene,status, or patient_id and a column per gene")
    add("--scheme", default="patient", choices=("tile", "slide", "patient", "site"), help="what is never divided")
    parts = command.add_mutually_exclusive_group()
    parts.add_argument("--folds", type=int, default=None, metavar="N", help="folds (default: 2)")
    parts.add_argument("--shares", default="", metavar="70/15/15", help="train, valid and test instead of folds")
    add("--sites", default="", metavar="FILE_OR_COLUMN", help="patient_id,site_id, or a column (default: barcodes)")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--out", type=Path, default=None, metavar="FILE", help="default: LABELS-SCHEME-split.json")
    add("--hashed", action="store_true", help="write salted hashes instead of names; the salt stands in the file")


def main(argv: Sequence[str] | None = None, where: Places | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; default: the process's.
    where : Places, optional
        Other folders than the repository's own, for `run`.

    Returns
    -------
    int
        0 success, 1 the run failed, 2 usage, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has printed what was wrong
        return int(stop.code or 0)
    if not options.command:
        parser.print_help()
        return OK
    try:
        return _dispatch(options, arguments, where)
    except CompendiumError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return USAGE if isinstance(error, ParameterError) else FAILED
    except KeyboardInterrupt as stop:
        return TERMINATED if type(stop).__name__ == "Terminated" else INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away
        return FAILED


def _dispatch(options: argparse.Namespace, arguments: list[str], where: Places | None) -> int:
    if options.command == "profiles":
        return _profiles()
    if options.command == "doctor":
        return _doctor(options)
    if options.command == "synth":
        return _synth(options)
    if options.command == "normalize":
        return _normalize(options)
    if options.command == "predict":
        return _predict(options)
    if options.command == "score":
        return _score(options)
    if options.command == "split":
        return _split(options)
    return _run(options, arguments, where)


def _doctor(options: argparse.Namespace) -> int:
    from deeplrhe_utils.running.doctor import examine, examine_slides

    if not options.slides:
        if options.mpp_csv or options.csv or options.no_estimate:
            raise ParameterError("--mpp-csv, --csv and --no-estimate are about slides", fix="Name slides or a folder")
        print(examine(options.out or places.REPORTS))
        return OK
    text, good = examine_slides(options.slides, options.mpp_csv, options.csv, estimate=not options.no_estimate)
    _say(text)
    return OK if good else FAILED


def _say(text: str) -> None:
    """Print at once; a terminal that lacks a character of a file name must not stop us."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _normalize(options: argparse.Namespace) -> int:
    import dataclasses
    import os

    # Before torch is loaded: threads that spin while they wait make a busy machine many times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from deeplrhe_utils.running.restain import any_failed, normalize
    from deeplrhe_utils.running.restain_recipe import Recipe

    recipe = Recipe(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)})
    rows = normalize(options.paths, options.out, recipe, _say)
    return FAILED if any_failed(rows) else OK


def _predict(options: argparse.Namespace) -> int:
    import dataclasses
    import os

    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as for normalize
    from deeplrhe_utils.running.predict import Settings, all_scored, predict

    settings = Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})
    return OK if all_scored(predict(options.slides, options.model, options.out, settings, _say)) else FAILED


def _score(options: argparse.Namespace) -> int:
    import dataclasses

    from deeplrhe_utils.running.score import Wish, score

    wish = Wish(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Wish)})
    found = score(options.file, options.out, wish, _say)
    return OK if (found["status"] == "estimated").any() else FAILED


def _split(options: argparse.Namespace) -> int:
    import dataclasses

    from deeplrhe_utils.running.split import Wish, split

    split(
        options.labels, Wish(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Wish)}), _say
    )
    return OK


def _synth(options: argparse.Namespace) -> int:
    import os

    from deeplrhe_utils.running.synth import make_spec, sentence, write_cohort

    spec = make_spec(options.preset, options.parameters, options.seed)
    plan = write_cohort(spec, options.out, workers=options.workers or os.cpu_count() or 1, scheduler=options.scheduler)
    print(sentence(plan, options.out))
    return OK


def _profiles() -> int:
    from deeplrhe_utils.running.profiles import load_profile, profile_names

    for name in profile_names(places.PROFILES):
        profile = load_profile(name, places.PROFILES)
        print(f"{name:<12} {profile.title}" + ("  (declared, cannot run yet)" if profile.missing else ""))
    return OK


def _run(options: argparse.Namespace, arguments: list[str], where: Places | None) -> int:
    from deeplrhe_utils.running.pipeline import Pipeline, Places
    from deeplrhe_utils.running.plan import Request

    only = tuple(text.strip() for text in options.only.split(",") if text.strip())
    request = Request(tuple(options.parameters), options.first, options.last, only)
    command = resume_command(arguments)
    pipeline = Pipeline(options.profile, request, options.out, options.fresh, command, where or Places())
    if options.list:
        print(pipeline.listing())
        return OK
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        page = pipeline.run()
    finally:
        signal.signal(signal.SIGTERM, previous)
    from deeplrhe_utils.running.provenance import shown_path

    print(f"Report: {shown_path(page, places.REPOSITORY)}")
    return OK


def resume_command(arguments: Sequence[str]) -> str:
    """What was typed, without ``--fresh``, ready to be typed again.

    >>> resume_command(["run", "demo", "--fresh", "-p", "gene=TP53 x"])
    "python -m deeplrhe_utils run demo -p 'gene=TP53 x'"
    """
    return shlex.join(["python", "-m", "deeplrhe_utils", *(word for word in arguments if word != "--fresh")])


def _terminate(*_: Any) -> None:
    from deeplrhe_utils.running.pipeline import Terminated

    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
