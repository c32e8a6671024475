"""``deeplrhe profiles``: their names and titles."""

from __future__ import annotations

import argparse

from deeplrhe_utils.core import paths as places
from deeplrhe_utils.running.commands import OK, Commands


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    commands.add_parser("profiles", help="list the profiles")


def run(options: argparse.Namespace) -> int:
    """Print a line per profile."""
    from deeplrhe_utils.running.plan.profiles import load_profile, profile_names

    for name in profile_names(places.PROFILES):
        print(f"{name:<12} {load_profile(name, places.PROFILES).title}")
    return OK
