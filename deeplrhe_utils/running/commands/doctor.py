"""``deeplrhe doctor``: this machine, or the resolution of slides."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.running.commands import FAILED, OK, Commands, say


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "doctor",
        help="examine this machine, or the resolution of slides",
        description="Without slides: versions, OpenSlide, GPU, disk, memory, and what each profile needs. With slides: "
        "what each tells of its resolution, whether that holds together, and whether it is H&E; 1 if one is not, has "
        "none or cannot be read.",
    )
    add = parser.add_argument
    add("slides", nargs="*", type=Path, metavar="SLIDE_OR_FOLDER", help="folders with all below them")
    add("--out", type=Path, default=None, metavar="DIR", help="where a run would be kept")
    add("--mpp-csv", type=Path, default=None, metavar="FILE", help="slide_id,mpp that you give")
    add("--csv", type=Path, default=None, metavar="FILE", help="write the whole table there, too")
    add("--no-stain-check", dest="stain_check", action="store_false", help="do not ask whether it is H&E")
    add("--no-estimate", action="store_true", help="no estimate from nuclei where there is none")


def run(options: argparse.Namespace) -> int:
    """Examine and tell."""
    from deeplrhe_utils.running.jobs.doctor import examine, examine_slides

    if not options.slides:
        if options.mpp_csv or options.csv or options.no_estimate:
            raise ParameterError("--mpp-csv, --csv and --no-estimate are about slides", fix="Name slides or a folder")
        print(examine(options.out or places.REPORTS))
        return OK
    text, good = examine_slides(options.slides, options.mpp_csv, options.csv, estimate=not options.no_estimate,
                                stain_check=options.stain_check)  # fmt: skip
    say(text)
    return OK if good else FAILED
