"""Signed documents: a digest of every part and one over all, so that an edit is seen and its place is named.

A signature here is a SHA-256 over the content. It shows that a file is the one that was written, not who wrote it:
it has to be published elsewhere (in the paper) to count. Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

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
