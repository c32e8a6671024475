"""Pack the whole folder of a run, with checksums: ``make release PROFILE=demo``. Standard library only.

Writes ``dist/deeplrhe-<profile>-<version>.tar.gz`` and the SHA-256 of every file in it and of itself to
``dist/deeplrhe-<profile>-<version>.sha256``. The same files give the same archive, byte for byte.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ("work", "stages", "logs")  # caches, and what belongs to one machine


def pack(folder: Path, name: str, out: Path) -> tuple[Path, Path]:
    """Archive and list of checksums of `folder`; links, caches and hidden files stay out."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.relative_to(folder).parts[0] not in LEFT_OUT
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    archive, sums = out / f"{name}.tar.gz", out / f"{name}.sha256"
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in files:
            entry = tarfile.TarInfo(f"{name}/{path.relative_to(folder).as_posix()}")
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as stream:
                tar.addfile(entry, stream)
    named = [(path, f"{name}/{path.relative_to(folder).as_posix()}") for path in files] + [(archive, archive.name)]
    sums.write_text("".join(f"{sha256(path)}  {shown}\n" for path, shown in named), encoding="utf-8")
    return archive, sums


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main(profile: str) -> int:
    """Pack ``reports/<profile>``; 1 when there is no finished run."""
    folder = ROOT / "reports" / profile
    run = folder / "run.json"
    status = json.loads(run.read_text(encoding="utf-8"))["status"] if run.is_file() else "absent"
    if status != "finished":
        print(f"The run in reports/{profile} is {status}, not finished: run `make {profile}` first.", file=sys.stderr)
        return 1
    found = re.search(r'__version__ = "(.+?)"', (ROOT / "deeplrhe_utils" / "__init__.py").read_text(encoding="utf-8"))
    assert found
    archive, sums = pack(folder, f"deeplrhe-{profile}-{found[1]}", ROOT / "dist")
    print(f"{archive.relative_to(ROOT)} ({archive.stat().st_size / 1e6:.1f} MB)\n{sums.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
