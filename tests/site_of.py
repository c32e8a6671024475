"""The site of a run, as ``make site`` builds it."""

import importlib.util
import sys
from pathlib import Path

from deeplrhe_utils.core.paths import REPOSITORY


def build_site(run: Path, build: Path) -> Path:
    """Build the site of `run` below `build`; Sphinx must not warn. Returns the folder of its pages."""
    spec = importlib.util.spec_from_file_location("pages", REPOSITORY / ".ci" / "pages.py")
    module = sys.modules["pages"] = importlib.util.module_from_spec(spec)  # it is a Sphinx extension, too
    spec.loader.exec_module(module)
    try:
        assert module.main(run, build) == 0, "Sphinx warned of a page"
    finally:
        sys.modules.pop("pages")
    return build / "html"
