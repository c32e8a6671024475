"""Every link of a run's page, or of a site's pages, followed to a file or an anchor."""

from __future__ import annotations

from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)


def dead_links(root: Path, paths: Iterable[Path] = ()) -> list[str]:
    """``page: link`` of what leads nowhere, or out of `root`; addresses in the network are not asked for.

    `paths` are the pages that are read; without any, ``index.html``.
    """
    pages, dead = {path: _Page(path) for path in paths or [root / "index.html"]}, []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            lost = not target.is_relative_to(root.resolve()) or not target.exists()
            if lost or not {parts.fragment, unquote(parts.fragment)} & pages.get(target, page).anchors:
                dead.append(f"{path.name}: {link}")
    return dead
