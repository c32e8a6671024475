"""A real browser for tests: the Chromium of this machine, driven by Playwright; without either they are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import chromium, find_chromium
from tests.browser.run_folder import make_run


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, found on the search path or named by the variable CHROMIUM."""
    pytest.importorskip("playwright.sync_api", reason="Playwright, which drives the browser, is not installed")
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine (set CHROMIUM to its path), so nothing was tried in a browser")
    with chromium(program) as opened:
        yield opened


class Watched:
    """A page, with everything it complained about or asked for."""

    def __init__(self, page: Any) -> None:
        self.page, self.problems, self.asked = page, [], []
        page.on("console", lambda m: self.problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self.asked.append(request.url))

    def shot(self, name: str) -> None:
        """A picture for people to look at, where the variable BROWSER_SHOTS names a folder."""
        if folder := os.environ.get("BROWSER_SHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png")

    def _dialog(self, dialog: Any) -> None:
        if dialog.type == "beforeunload":  # a notebook with outputs that nobody saved
            dialog.accept()
            return
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture
def watch(browser: Any) -> Iterator[Any]:
    """``watch(width=1200, color_scheme="dark")``: a new page whose errors are collected."""
    contexts = []

    def make(width: int = 1200, height: int = 900, **options: Any) -> Watched:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        return Watched(contexts[-1].new_page())

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """See :mod:`tests.browser.run_folder`."""
    return make_run(tmp_path / "run")
