"""Every link of a run's pages, followed to a file or an anchor."""

from __future__ import annotations

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


def dead_links(root: Path) -> list[str]:
    """``page: link`` of what leads nowhere, or out of the run folder; addresses in the network are not asked for."""
    pages, dead = {root / "index.html": _Page(root / "index.html")}, []
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
