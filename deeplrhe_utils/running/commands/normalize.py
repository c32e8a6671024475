"""``deeplrhe normalize``: the colours of slides or tiles brought to one reference."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import FAILED, OK, Commands, as_options, quiet_threads, say, seed


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "normalize",
        help="bring the colours of slides or tiles to one reference",
        description="Fit a stain normalization over slides, or over folders of tiles, and write normalized tiles or "
        "whole slides. The same command resumes. docs/stain.md tells more.",
    )
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="SLIDE_OR_FOLDER", help="slides, folders of slides, folders of tiles")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the results; resumed if it exists")
    add("--reference", default="", metavar="SLIDE_OR_IMAGE", help="an input's name, or a file (default: the medoid)")
    add("--method", default="", metavar="NAME", help="dcgmm (default), paper, density, reinhard, macenko, vahadane")
    add("--model", type=Path, default=None, metavar="FOLDER", help="a fitted normalizer, such as DIR/normalizer")
    add("--format", default="tiles", metavar="NAME", help="tiles (PNG, default) or ome-tiff (whole slides)")
    add("--mpp", type=float, default=None, metavar="X", help="µm/px, 0 = the slide's own (default: 0.5; ome-tiff: 0)")
    add("--mpp-csv", type=Path, default=None, metavar="FILE", help="slide_id,mpp that you give")
    add("--tile-px", type=int, default=512, metavar="N", help="side of the tiles (default: 512)")
    add(
        "--edge",
        default="inside",
        metavar="RULE",
        help="tiles over the edge: inside (left out) or cover (moved inside)",
    )
    loss = parser.add_mutually_exclusive_group()
    loss.add_argument("--quality", type=int, default=None, metavar="N", help="JPEG quality of ome-tiff (default: 90)")
    loss.add_argument("--lossless", action="store_true", help="ome-tiff without loss")
    add("--statistics-tiles", type=int, default=32, metavar="N", help="tiles a slide's colours come from (default: 32)")
    add("--fit-steps", type=int, default=None, metavar="N", help="steps of the fit (default: 300)")
    add("--seed", type=seed, default=None, metavar="N", help="seed of the fit (default: 0)")
    add("--white", action="store_true", help="take the glass off every slide (all must show some)")
    add("--compile", dest="compiled", action="store_true", help="compile the pixel arithmetic (needs a C++ compiler)")
    add("--thin-slide", default=None, metavar="RULE", help="too little tissue: error (left unchanged) or cohort")
    add("--no-stain-check", dest="stain_check", action="store_false", help="take slides that are not H&E, too")


def run(options: argparse.Namespace) -> int:
    """Normalize; 1 if a slide failed."""
    quiet_threads()
    from deeplrhe_utils.running.normalize.job import any_failed, normalize
    from deeplrhe_utils.running.normalize.sources import NormalizeOptions

    rows = normalize(options.paths, options.out, as_options(NormalizeOptions, options), say)
    return FAILED if any_failed(rows) else OK
