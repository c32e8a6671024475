"""A folder for exports: names that cannot leave it, no two slides in one file, and nothing of others is overwritten."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import read_json, safe_name, sha256_file, sha256_text, write_json
from deeplrhe_utils.reporting.heat_scores import said

INDEX: Final = "exports.json"
"""Name and SHA-256 of every file that was written to the folder."""
MOST_CHARACTERS: Final = 150
"""Of a stem, so that endings and temporary names fit into the 255 that file systems allow."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_+~-][A-Za-z0-9_+~.-]{0,199}")


def file_stems(slide_ids: Sequence[str], keys: Sequence[str]) -> list[str]:
    """One stem of file names for every slide; `keys` tell slides apart whose names are one, or differ in case only.

    Parameters
    ----------
    slide_ids : names of slides; any text
    keys : what tells slides of one name apart, such as their path or SHA-256

    Raises InputError: two slides have the same name and key.

    >>> file_stems(["a", "b"], ["1", "2"])
    ['a', 'b']
    """
    if len(set(zip(slide_ids, keys, strict=True))) < len(slide_ids):
        raise InputError("A slide stands twice", fix="List every slide once")
    plain = [safe_name(name) for name in slide_ids]
    times = Counter(stem.casefold() for stem in plain)
    stems = [
        stem if times[stem.casefold()] == 1 else f"{stem}~{sha256_text(key)[:8]}"
        for stem, key in zip(plain, keys, strict=True)
    ]
    if len({stem.casefold() for stem in stems}) < len(stems):  # a slide whose name looks like another's with its hash
        raise InputError("Two slides would share one file", got=said(", ".join(stems)), fix="Rename one of them")
    return stems


def map_stem(slide_stem: str, gene: str) -> str:
    """Stem of the files of one gene's map; different slides and genes never share one.

    >>> map_stem("slide-1", "TP53")
    'slide-1+TP53'
    """
    plain = f"{slide_stem}+{safe_name(gene)}"
    if len(plain) <= MOST_CHARACTERS and "+" not in slide_stem + gene:
        return plain
    return f"{plain[:MOST_CHARACTERS]}~{sha256_text(chr(0).join((slide_stem, gene)))[:8]}"


class ExportFolder:
    """Writes files, remembers what it wrote, and replaces only what still is as it was written.

    Parameters
    ----------
    folder : made when the first file is written
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def write(self, name: str, writer: Callable[[Path], Any]) -> Path:
        """Let `writer` write the file `name`; return its path.

        Raises InputError: the name is no plain file name, or a file of that name was not written by this class or was
        changed since.
        """
        if not _PLAIN.fullmatch(name) or name.casefold() == INDEX:
            raise InputError("This is no name for an export", got=said(name), expected="what file_stems gives")
        path, known = self.folder / name, self._index()
        if path.is_symlink() or (path.exists() and not (path.is_file() and known.get(name) == sha256_file(path))):
            raise InputError(f"{path} was not written by this export, or was changed since, so it is not replaced",
                             fix="Move it away, or export to another folder")  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        writer(path)
        write_json(self.folder / INDEX, {**self._index(), name: sha256_file(path)})
        return path

    def _index(self) -> dict[str, str]:
        file = self.folder / INDEX
        if not file.is_file():
            return {}
        try:
            found = read_json(file)
        except (ValueError, OSError) as error:
            raise InputError(f"{file} cannot be read ({said(error)})", fix="Move the folder away") from error
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise InputError(f"{file} is no list of exports", fix="Move the folder away")
        return found
