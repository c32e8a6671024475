"""The report page: results, heat maps, claims and methods of a run, readable without network."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core.files import atomic_path, write_text
from deeplrhe_utils.core.text import escaped
from deeplrhe_utils.running.page.heat import heat_section
from deeplrhe_utils.running.page.html import STATIC, link, page, section
from deeplrhe_utils.running.page.methods import limits_section, methods_section, unit_of
from deeplrhe_utils.running.page.sections import auc, claims, files, gallery, opening, stages
from deeplrhe_utils.running.plan.profiles import Profile

ASSETS: Final = "page"
_SCRIPTS: Final = ("openseadragon.min.js", "openseadragon.LICENSE.txt", "heat_layer.js", "slide_view.js", "report.js")
_SLIDE: Final = re.compile(r"slide-\d{3,}\.js")
_SYNTHETIC: Final = "Synthetic data: these figures show that the pipeline works, not what lung tissue shows."


def write_page(root: Path, profile: Profile, report: dict[str, Any]) -> Path:
    """Write ``index.html``, and ``page/`` with what its viewer loads, from what lies in the run folder.

    Parameters
    ----------
    profile : its title and kind of input
    report : content of ``run.json``

    Returns the page. It needs nothing outside the run folder and no network. A file that is damaged is named in the
    section  that would have shown it.
    """
    for older in (root / ASSETS).glob("*"):  # slides may be fewer than before; files of others stay
        if older.name in _SCRIPTS or _SLIDE.fullmatch(older.name):
            older.unlink()
    with suppress(OSError):
        (root / ASSETS).rmdir()
    heat = heat_section(root, ASSETS)
    scripts = [_copied(root, name) for name in _SCRIPTS if heat.live]
    parts = {
        "findings": ("What was found", opening(root)),
        "auc": ("Area under the ROC curve", auc(root, unit_of(root))),
        "heat": ("Heat maps", heat.html),
        "figures": ("Figures", gallery(root)),
        "claims": ("What the sources say, and what this run finds", claims(root)),
        "methods": ("Methods", methods_section(root)),
        "limits": ("Limits", limits_section(root, report, profile.input == "synthetic")),
        "stages": ("Stages and executed notebooks", stages(root, report)),
        "documents": ("Checklists, model card, datasheet", files(root, "documents")),
        "tables": ("Tables", files(root, "tables")),
        "numbers": ("Numbers", files(root, "numbers")),
    }
    shown = {name: part for name, part in parts.items() if part[1]}
    contents = "".join(f'<li><a href="#{name}">{escaped(title)}</a></li>' for name, (title, _) in shown.items())
    body = "\n".join(
        [
            '<a class="skip" href="#main">Skip to the results</a>',
            _header(profile, report, heat.warning),
            f'<nav aria-label="Contents"><ul>{contents}</ul></nav>',
            '<main id="main" tabindex="-1">',
            *(section(name, *part) for name, part in shown.items()),
            "</main>",
            f"<footer>{_footer(root)}</footer>",
        ]
    )
    return write_text(
        root / "index.html", page(profile.title, body, [name for name in scripts if name.endswith(".js")])
    )


def _header(profile: Profile, report: dict[str, Any], warning: str) -> str:
    git = report["git"]
    told = [
        f"Profile {profile.name}",
        str(report.get("finished", "")),
        f"commit {(git.get('commit') or 'unknown')[:10]}{' with local changes' if git.get('dirty') else ''}",
        f"version {report['package_version']}",
        str(report.get("status", "")),
    ]
    warning = _SYNTHETIC if profile.input == "synthetic" else warning
    banner = f'<p class="banner">{escaped(warning)}</p>' if warning else ""
    line = escaped(" · ".join(part for part in told if part))
    return f'<header>{banner}<h1>{escaped(profile.title)}</h1><p class="soft">{line}</p></header>'


def _footer(root: Path) -> str:
    record = link(root, "run.json", "run.json")
    return f"<p>{record}: parameters, versions, hardware and hashes of this run.</p>" if record else ""


def _copied(root: Path, name: str) -> str:
    with atomic_path(root / ASSETS / name) as part:
        shutil.copyfile(STATIC / name, part)
    return f"{ASSETS}/{name}"
