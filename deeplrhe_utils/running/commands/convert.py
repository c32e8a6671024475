"""``deeplrhe convert``: vectors in another program's layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.running.commands import OK, Commands, as_options, quiet_threads, say


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "convert",
        help="vectors of slides from one program's layout to another's, or from slides by an encoder",
        description="Read vectors of TRIDENT, CLAM, STAMP, AtlasPatch or a table, or describe slides with --network, "
        "and write them losslessly in one of these layouts. docs/referee.md tells more.",
    )
    add = parser.add_argument
    add("path", type=Path, metavar="IN", help="folder or file of vectors; with --network: of slides")
    add("--to", default="trident", metavar="LAYOUT", help="trident (default), clam, stamp, atlaspatch or parquet")
    add("--out", type=Path, default=Path("features"), metavar="DIR", help="folder of the files (default: features)")
    add("--network", default="", metavar="NAME", help="describe slides: bank, or an architecture such as timm/…")
    add("--weights", default="imagenet", metavar="NAME", help="of the network: imagenet (default), none or a file")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU when there is one")
    add("--mpp", type=float, default=0.5, metavar="X", help="µm/px of the tiles that it sees (default: 0.5)")
    add("--tile-px", type=int, default=256, metavar="N", help="side of these tiles (default: 256)")
    add("--slides", type=Path, default=None, metavar="DIR", help="the slides, where µm have to become pixels")
    add("--encoder", default="", metavar="NAME", help="which encoder of an AtlasPatch file")
    add("--patches", type=Path, default=None, metavar="DIR", help="CLAM's patch files, which know the scale")


def run(options: argparse.Namespace) -> int:
    """Convert."""
    quiet_threads()
    from deeplrhe_utils.running.jobs.convert import ConvertOptions, convert

    convert(options.path, options.out, as_options(ConvertOptions, options), say)
    return OK
