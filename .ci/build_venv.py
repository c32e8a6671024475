"""Build .venv from requirements.lock, once: a second call installs nothing.

Run by ``make``. Standard library only. The stamp ``.venv/.installed`` is written last and holds a key over
requirements.lock, pyproject.toml, the interpreter and the folder, so an interrupted installation has none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEARTBEAT_SECONDS = 60
SHOWN_LINES = 30


class InstallError(RuntimeError):
    """A step failed; the message says which and shows the end of its log."""


def installation_key(root: Path, python: str = sys.version) -> str:
    """Key of what must be installed: the two lists, the interpreter and the folder (scripts carry its path)."""
    parts = [(root / name).read_bytes() for name in ("requirements.lock", "pyproject.toml")]
    parts += [python.encode(), str(root).encode()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def base_key(root: Path, python: str = sys.version) -> str:
    """Key of what a virtual environment cannot survive: another interpreter or another folder."""
    return hashlib.sha256(f"{python}\n{root}".encode()).hexdigest()


def build(root: Path = ROOT) -> bool:
    """Bring ``root/.venv`` up to date; return whether anything had to be done."""
    venv = root / ".venv"
    stamp, begun = venv / ".installed", venv / ".installing"
    key, base = installation_key(root), base_key(root)
    with _one_at_a_time(root):
        if stamp.is_file() and stamp.read_text(encoding="utf-8").split() == [key, base]:
            return False
        started = time.monotonic()
        stamped = stamp.read_text(encoding="utf-8").split()[1:] if stamp.is_file() else [base]
        unusable = begun.exists() or stamped != [base] or not (venv / "bin" / "python").exists()
        stamp.unlink(missing_ok=True)
        log = root / ".venv.log"
        log.unlink(missing_ok=True)
        if unusable:
            why = " (an earlier installation was interrupted)" if begun.exists() else ""
            _say(1, f"creating .venv with Python {sys.version.split()[0]}{why}")
            shutil.rmtree(venv, ignore_errors=True)
            _step([sys.executable, "-m", "venv", str(venv)], root, log)
        begun.touch()
        pip = [str(venv / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        _say(2, "installing the packages of requirements.lock (several GB; minutes, once)")
        _step([*pip, "install", "--require-hashes", "-r", "requirements.lock"], root, log)
        _say(3, "installing deeplrhe_utils from this folder")
        _step([*pip, "install", "--no-deps", "--no-build-isolation", "-e", "."], root, log)
        begun.unlink()
        stamp.write_text(f"{key}\n{base}\n", encoding="utf-8")
        log.unlink(missing_ok=True)
        print(f".venv is ready ({time.monotonic() - started:.0f} s)", flush=True)
    return True


def _say(number: int, text: str) -> None:
    print(f"[{number}/3] {text}", flush=True)


def _step(command: list[str], root: Path, log: Path) -> None:
    """Run one step with its output in `log`; a line a minute shows that it lives."""
    started = time.monotonic()
    with log.open("ab") as stream:
        process = subprocess.Popen(command, cwd=root, stdout=stream, stderr=subprocess.STDOUT)
        try:
            while (code := _wait(process)) is None:
                print(f"      still at it after {(time.monotonic() - started) / 60:.0f} min", flush=True)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
        raise InstallError("\n".join([f"This step failed ({log.name} has all of it):", *tail]))


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(HEARTBEAT_SECONDS)
    except subprocess.TimeoutExpired:
        return None


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Wait until no other build of the same folder runs; the lock vanishes with its process."""
    import fcntl

    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another installation in this folder", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main() -> int:
    """Build; 0 when .venv is ready."""
    try:
        build()
    except InstallError as error:
        print(error, file=sys.stderr)
        print("Repeat the command when the cause is gone: the installation starts again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: the next call starts the installation again.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
