"""Signed documents: a digest of every part and one over all, so that an edit is seen and its place is named.

A signature here is a SHA-256 over the content. It shows that a file is the one that was written, not who wrote it:
it has to be published elsewhere (in the paper) to count. Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deeplrhe_utils.core.errors import InputError
from deeplrhe_utils.core.files import sha256_text

OWN_PARTS: Final = ("digests", "signature")
"""Keys that signing adds to a document."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and without spaces: equal values have equal texts.

    >>> canonical({"b": [1, 2], "a": None})
    '{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def signed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` with a digest of every part and the signature over all of them.

    Parameters
    ----------
    facts : what JSON can hold; earlier digests and signatures in it are replaced

    Returns `facts`, ``digests`` (first 16 characters of SHA-256 by part) and ``signature`` (64 characters).
    """
    content = {key: value for key, value in facts.items() if key not in OWN_PARTS}
    digests = {key: sha256_text(canonical(value))[:16] for key, value in content.items()}
    return {**content, "digests": digests, "signature": sha256_text(canonical(content))}


def read_document(path: Path, kind: str, version: int, parts: Sequence[str]) -> dict[str, Any]:
    """The document of a `kind` such as "deeplrhe split", which names the command that writes it; not yet compared.

    Raises InputError for a file that is missing, no JSON, of another kind or version, or without one of `parts`.
    """
    noun = kind.removeprefix("deeplrhe ")
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"The {noun} file {path} is not there", fix="Check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error})", expected=f"a file of `{kind}`") from error
    if not isinstance(document, dict) or document.get("kind") != kind:
        raise InputError(f"{path} is no {noun} file", expected=f'"kind": "{kind}"')
    if document.get("version") != version:
        raise InputError(f"{path} is a {noun} file of another version", got=document.get("version"),
                         expected=str(version))  # fmt: skip
    if missing := [part for part in parts if part not in document]:
        raise InputError(f"The {noun} file {path} lacks {', '.join(missing)}", fix="Ask for the original")
    return document


def changed_parts(document: Mapping[str, Any]) -> list[str]:
    """Names of the parts of a signed document that are not what was signed; empty where it is intact.

    Where the parts agree with their digests and the signature does not, that is ``["its signature"]``.
    """
    expected, stored = signed(document), document.get("digests")
    if expected["signature"] == document.get("signature") and expected["digests"] == stored:
        return []
    known = stored if isinstance(stored, dict) else {}
    keys = sorted(set(expected["digests"]) | set(known))
    return [key for key in keys if expected["digests"].get(key) != known.get(key)] or ["its signature"]
