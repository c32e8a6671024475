"""Chromium and JupyterLab, started for real: what the browser tests and ``benchmarks/viewer.py`` have in common."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deeplrhe_utils.core.paths import NOTEBOOKS, REPOSITORY

FLAGS = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--no-first-run")  # fmt: skip
EMPTY = json.dumps('run_dir: str = ""')[1:-1]
SETTINGS = {  # every cell stays in the page, seen or not; no question pops up
    "notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
    "apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
}
TOKEN = "only-for-this-test"
PATIENCE_MS = 150_000
OPENED = "() => (window.jupyterapp?.shell.currentWidget?.content?.model?.cells.length ?? 0) > 3"
STATE = """() => {
  const current = window.jupyterapp.shell.currentWidget, cells = current.content.model.cells, errors = [];
  let waiting = 0;
  for (let i = 0; i < cells.length; i++) {
    const cell = cells.get(i);
    if (cell.type !== "code") continue;
    if (!cell.executionCount) waiting += 1;
    for (let k = 0; k < cell.outputs.length; k++)
      if (cell.outputs.get(k).type === "error") errors.push(JSON.stringify(cell.outputs.get(k).toJSON()).slice(0, 600));
  }
  return { waiting, errors, status: current.sessionContext.session?.kernel?.status };
}"""
VIEWER = ".deeplrhe-viewer .openseadragon-canvas"
# Whether anything but white is on a canvas: looked up at 25 places, because the middle of a slide may be glass.
DRAWN = """const drawn = (canvas) => {
  const pen = canvas.getContext("2d");
  for (let i = 1; i < 6; i++) for (let k = 1; k < 6; k++) {
    const [r, g, b, a] = pen.getImageData(canvas.width * i / 6, canvas.height * k / 6, 1, 1).data;
    if (a && Math.min(r, g, b) < 250) return true;
  }
  return false;
};"""
# The explorer's cell runs once more; milliseconds until its canvas, a new one, is not white.
FIRST_PAINT = """async (selector) => {
  DRAWN
  const current = window.jupyterapp.shell.currentWidget, began = performance.now();
  const is_it = (cell) => cell.model.sharedModel.getSource().startsWith("explorer = ");
  current.content.activeCellIndex = current.content.widgets.findIndex(is_it);
  for (const old of document.querySelectorAll(".deeplrhe-viewer")) old.remove();
  window.jupyterapp.commands.execute("notebook:run-cell");
  for (;;) {
    await new Promise(requestAnimationFrame);
    const canvas = document.querySelector(`${selector} canvas`);
    if (canvas && canvas.width > 300 && drawn(canvas)) return performance.now() - began;
    if (performance.now() - began > 60000) return -1;
  }
}""".replace("DRAWN", DRAWN)
# A drag with a turn of the wheel at every tenth frame; milliseconds from frame to frame. The wheel is turned with Ctrl,
# which both viewers take without having been clicked.
FRAMES = """([selector, count]) => new Promise((done) => {
  const canvas = document.querySelector(selector), box = canvas.getBoundingClientRect(), gaps = [];
  const side = (i) => 40 - Math.abs(i % 80 - 40), middle = [box.left + box.width / 2, box.top + box.height / 2];
  const at = (i) => ({ button: 0, buttons: 1, pointerId: 1, pointerType: "mouse", isPrimary: true, bubbles: true,
                       cancelable: true, clientX: middle[0] + 3 * side(i), clientY: middle[1] + side(i) });
  let i = 0, last = performance.now();
  canvas.setPointerCapture = canvas.releasePointerCapture = () => {};
  canvas.dispatchEvent(new PointerEvent("pointerover", at(0)));
  canvas.dispatchEvent(new PointerEvent("pointerenter", { ...at(0), bubbles: false }));
  canvas.dispatchEvent(new PointerEvent("pointerdown", at(0)));
  const step = () => {
    const now = performance.now();
    gaps.push(now - last);
    last = now;
    i += 1;
    if (i > count) { canvas.dispatchEvent(new PointerEvent("pointerup", at(i))); done(gaps.slice(1)); return; }
    canvas.dispatchEvent(new PointerEvent("pointermove", at(i)));
    if (i % 10 === 0) canvas.dispatchEvent(new WheelEvent("wheel", {
      deltaY: i % 20 ? -120 : 120, ctrlKey: true, bubbles: true, cancelable: true, clientX: middle[0],
      clientY: middle[1],
    }));
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


def find_chromium() -> str | None:
    """Chromium on the search path, or the program that the variable CHROMIUM names; None when there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return program if program and Path(program).exists() else None


@contextmanager
def chromium(program: str, *flags: str) -> Iterator[Any]:
    """Playwright's handle of a headless Chromium with `flags` beside ours."""
    driver = importlib.import_module("playwright.sync_api")  # by name: not everybody has it
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with driver.sync_playwright() as playwright:
        args = [*FLAGS, *flags, *(["--no-sandbox"] if root else [])]
        opened = playwright.chromium.launch(executable_path=program, args=args)
        yield opened
        opened.close()


@contextmanager
def jupyterlab(place: Path, run: Path, books: Sequence[str]) -> Iterator[str]:
    """A JupyterLab of its own in `place`, with copies of the notebooks that work on `run`; address with ``{}``."""
    folder = place / "books"
    folder.mkdir()
    for name in books:
        book = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
        at = json.dumps(f'run_dir: str = "{run}"')[1:-1]
        assert book.count(EMPTY) == 1, f"{name} has no parameter run_dir to set"
        (folder / f"{name}.ipynb").write_text(book.replace(EMPTY, at), encoding="utf-8")
    port = _free_port()
    with (place / "lab.log").open("w") as log:
        server = subprocess.Popen(
            _command(port, folder), cwd=folder, env=_world(place), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield _ready(server, port, place / "lab.log")
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def _command(port: int, folder: Path) -> list[str]:
    return [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
            f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}",
            f"--IdentityProvider.token={TOKEN}",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip


def _world(place: Path) -> dict[str, str]:
    """The environment of the server: settings of its own, nothing of the user's."""
    settings = place / "SETTINGS" / "@jupyterlab"
    for name, content in SETTINGS.items():
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / name).write_text(json.dumps(content))
    own = {f"JUPYTER_{name}_DIR": str(place / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(place / name) for name in ("SETTINGS", "WORKSPACES")}
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **own, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _ready(server: subprocess.Popen, port: int, log: Path) -> str:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={TOKEN}", timeout=2)
            return f"http://127.0.0.1:{port}/lab/tree/{{}}.ipynb?reset&token={TOKEN}"
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()}")


def run_all(page: Any, address: str, name: str) -> None:
    """Open a notebook and run all of its cells; an error in one is an assertion."""
    page.goto(address.format(name), wait_until="domcontentloaded")
    page.wait_for_function(OPENED, timeout=PATIENCE_MS)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.ready")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    until = time.monotonic() + PATIENCE_MS / 1000
    while True:
        state = page.evaluate(STATE)
        assert state["errors"] == [], state["errors"]
        if not state["waiting"] and state["status"] == "idle":
            return
        assert time.monotonic() < until, state
        page.wait_for_timeout(300)
