"""What may be typed: commands, arguments and their help; what a command does is in `cli`."""

from __future__ import annotations

import argparse
from pathlib import Path


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
    _add_cohort(commands)
    _add_download(commands)
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


def _add_cohort(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "cohort",
        help="choose TCGA lung slides, with labels and clinical data",
        description="Choose slides by a declared rule from tables on disk or from the services, and write a signed "
        "cohort file, a manifest to download, labels, clinical data, and who was left out and why.",
    )
    add = command.add_argument
    add("--drivers", type=Path, default=None, metavar="FILE", help="gene,protein_change: only these changes count")
    add("rule", metavar="RULE", help="paper (180 slides), coudray, coudray-luad, smallest or all")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    add("--genes", default="", metavar="GENE[,GENE]", help="default: the paper's eight")
    add("--seed", type=int, default=None, metavar="N", help="of the draw (default: 1, as in notebook 01)")
    add("--n", type=int, default=None, metavar="N", help="slides (default: the rule's)")
    add("--tables", type=Path, default=None, metavar="DIR", help="published tables instead of the services")
    add("--manifest", type=Path, default=None, metavar="FILE", help="with --tables: offer the files of this manifest")
    add("--gdc", default="", metavar="URL", help="default: https://api.gdc.cancer.gov")
    add("--cbioportal", default="", metavar="URL", help="default: https://www.cbioportal.org/api")


def _add_download(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "download",
        help="fetch the files of a manifest, each verified",
        description="Fetch the files of a GDC manifest into DIR/<id>/<file name>, each verified by its MD5. The same "
        "command resumes: verified files are never fetched again, unfinished ones are continued. DIR/download.csv has "
        "a row per file. 1 if a file is missing, 2 if the manifest cannot be read.",
    )
    add = command.add_argument
    add("manifest", type=Path, metavar="MANIFEST", help="as the GDC's portal, its transfer tool or `cohort` writes it")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the files")
    add("--endpoint", default="https://api.gdc.cancer.gov", metavar="URL", help="default: the GDC")
    add("--jobs", type=int, default=4, metavar="N", help="transfers at one time (default: 4)")
    add("--limit-rate", default="", metavar="RATE", help="bytes per second over all, such as 10M (default: no limit)")
    add("--token", type=Path, default=None, metavar="FILE", help="for files of controlled access")
    add("--repair", action="store_true", help="look up files whose id is out of date, by version and by name")
    add("--recheck", action="store_true", help="hash verified files once more")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds without a byte (default: 60)")
    add("--retries", type=int, default=8, metavar="N", help="failures in a row without a byte (default: 8)")
