"""Model cards: on whom a network was trained, and the alarm that rings when it is to score one of them.

Cards name patients by hashes. Nothing here needs torch, so that pages and exports can ask, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pandas as pd
from safetensors import SafetensorError, safe_open

from deeplrhe_utils.acquisition.barcodes import person_of
from deeplrhe_utils.core.errors import LeakError, ModelError
from deeplrhe_utils.core.files import refuse_not_finite

TILE_NETWORK: Final = "deeplrhe"
"""Kind of a model that notebook 05 wrote."""
DENSE_FACTS: Final = ["patient_id", "on_grid", "network", "model_hash"]
"""Columns that tell who scored a window, in the table of all scores of heat maps."""
KINDS: Final = {"synthetic": "SYNTHETIC slides", "tcga": "slides of TCGA", "slides": "slides that a user gave",
                "tiles": "a folder of tiles"}  # fmt: skip
"""Kinds of data (`input_kind` of notebook 01) in words."""


def hash_patient(patient_id: str) -> str:
    """First 16 hex characters of SHA-256 of the patient, also of a sample: cards name patients without listing them."""
    return hashlib.sha256(person_of(patient_id).encode()).hexdigest()[:16]


def read_file(path: Path, what: str, kind: str = "", framework: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Card and tensors of a safetensors file.

    Parameters
    ----------
    what : of errors, such as "model"
    kind : what the card must say it is; "" takes any
    framework : of the tensors: "pt" or "np"; "" reads the card alone

    Raises ModelError: the file is missing, damaged, a pickle or of another kind; its numbers are not finite; the card
    of a network of notebook 05 lacks or contradicts what others rely on.
    """
    try:
        with safe_open(path, framework=framework or "np") as stream:
            card: Any = json.loads((stream.metadata() or {}).get("card", "{}"))
            if not isinstance(card, dict):
                raise ValueError("its card is no mapping")
            names = stream.keys() if framework and kind in ("", card.get("kind")) else ()
            tensors = {name: stream.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"The {what} {path} cannot be read ({error})", expected="a whole .safetensors file",
                         fix="Train again, or give another file; pickles are never opened") from error  # fmt: skip
    if kind and card.get("kind") != kind:
        raise ModelError(f"{path} holds no {what}", got=card.get("kind"), expected=kind,
                         fix="Give a file that notebook 05 wrote")  # fmt: skip
    _check_facts(card, path)
    refuse_not_finite(tensors, path)
    return card, tensors


def read_card(path: Path) -> dict[str, Any]:
    """The model card of a file written by `save_model`."""
    return read_file(path, "tile network", TILE_NETWORK)[0]


def _check_facts(card: Mapping[str, Any], path: Path) -> None:
    ours = card.get("kind") == TILE_NETWORK
    for name, fits in _FACTS.items() if ours else [("patients", _names)]:
        if not (fits(card[name]) if name in card else not ours or name not in _NEEDED):
            raise ModelError(f"The card of {path} is damaged", got=f"{name}: {str(card.get(name))[:80]}",
                             fix="Give the file as notebook 05 wrote it")  # fmt: skip
    if ours and len(card.get("usable", card["config"]["targets"])) != len(card["config"]["targets"]):
        raise ModelError(f"The card of {path} contradicts itself", got=f"{len(card['usable'])} usable",
                         expected=f"{len(card['config']['targets'])} targets")  # fmt: skip


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_FACTS: Final[dict[str, Callable[[Any], bool]]] = {
    "config": lambda v: (
        isinstance(v, dict) and _names(v.get("targets")) and 0 < len(v["targets"]) == len({*v["targets"]})
    ),
    "patients": _names,
    "usable": lambda v: isinstance(v, list) and all(isinstance(one, bool) for one in v),
    "input_px": lambda v: type(v) is int and 0 < v <= 65_536,
    "input_mpp": lambda v: type(v) in (int, float) and 0 <= v <= 1000,
    "normalization": lambda v: isinstance(v, str),
    "recipe": lambda v: isinstance(v, dict) and isinstance(v.get("precision", ""), str),
    "start": lambda v: isinstance(v, dict) and _names(v.get("left_out", [])),
    "trained_on": lambda v: (
        isinstance(v, dict) and v.get("kind", "") in ("", *KINDS) and type(v.get("slides", 0)) is int
    ),
}
_NEEDED: Final = ("config", "patients")


@cache
def _planted() -> frozenset[str]:
    # late: the command line must start without it
    from deeplrhe_utils.synthetic.plan import planted_name

    return frozenset(hash_patient(planted_name(site, n)) for site in range(1, 100) for n in range(1, 500))


def data_kind(card: Mapping[str, Any]) -> str:
    """What a network was trained on: one of :data:`KINDS`, or "" where neither its card nor its patients tell.

    Planted patients are recognised by their hashes, whatever the card says: slides of ours can be given as anybody's.
    """
    planted = not _planted().isdisjoint(card["patients"])
    return "synthetic" if planted else str(card.get("trained_on", {}).get("kind", ""))


def about_network(card: Mapping[str, Any], name: str) -> str:
    """Which network gave a score, trained on what and of which kind, in one line that stands above its scores."""
    told, kind = card.get("trained_on", {}), data_kind(card)
    people = f"{len(card['patients'])} patient{'s' * (len(card['patients']) != 1)}"
    slides = f" with {told['slides']} slide{'s' * (told['slides'] != 1)}" if told.get("slides") else ""
    of = f": {KINDS[kind]}" if kind else "; of which kind their data were is not told"
    title = f" ({told['profile']})" if told.get("profile") else ""
    more = [f"targets {', '.join(card['config']['targets'])}"] if "config" in card else []
    more += [f"colours: {card['normalization']}"] if "normalization" in card else []
    return f"Network {name}, trained on {people}{slides}{of}{title}" + "".join(f"; {one}" for one in more)


def facts_of(card: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What stays with a network's scores: what :func:`about_network` and the leak alarm ask a card for, and a name."""
    known = {name: card[name] for name in ("patients", "normalization", "trained_on") if name in card}
    return {**known, "config": {"targets": card["config"]["targets"]}, "file": f"{file.parent.name}/{file.name}"}


def about_networks(cards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """:func:`about_network` of stored scores: model_hash → what :func:`facts_of` gave."""
    return [about_network(card, f"{card.get('file', '')} ({name[:8]})".strip()) for name, card in cards.items()]


def warning_of(kinds: Iterable[str]) -> str:
    """What must be said before a score of networks that learned on data of these kinds (:func:`data_kind`) is read."""
    found = set(kinds)
    if "synthetic" in found:
        return (
            "The network learned on SYNTHETIC tissue: its scores show how the pipeline works, not what this tissue has."
        )
    return "On what kind of tissue the network learned is not told: its scores may mean nothing here." * ("" in found)


def refuse_leak(card: Mapping[str, Any], score_patients: Iterable[str], name: str) -> None:
    """Raise :class:`LeakError` when the card of model `name` has a patient who is about to be scored."""
    seen = set(card["patients"])
    if leaked := [p for p in score_patients if hash_patient(p) in seen]:
        raise LeakError(f"The model {name} was trained on {len(leaked)} patients it is asked to score (first: "
                        f"{leaked[0]})", fix="Score them with the fold that held them out")  # fmt: skip


def check_cards(predictions: pd.DataFrame, cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Leak alarm by model: no score is of a model that was trained on its patient.

    Parameters
    ----------
    predictions : table PREDICTIONS
    cards : model_hash → model card (:func:`read_card`); ``patients`` is what is read

    Raises LeakError: a patient is on the card of the model that scored it. ModelError: the card of a model is not among
    `cards`: what it was trained on is not known.
    """
    known = predictions[predictions["score"].notna()]
    for model, patients in known.groupby("model_hash")["patient_id"]:
        if model not in cards:
            raise ModelError("It is not known on whom a model was trained, so its scores are not drawn",
                             got=str(model), expected="its model card")  # fmt: skip
        refuse_leak(cards[str(model)], [str(p) for p in patients.drop_duplicates()], str(model))


def check_dense(dense: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    """:func:`check_cards` for stored scores of heat maps (`SlideScores`).

    Parameters
    ----------
    dense : its table of all scores
    facts : ``genes`` and ``cards`` of its ``slides.json``
    """
    if "cards" not in facts:
        raise ModelError("The stored heat maps do not say whose networks scored them", fix="Run notebook 07 again")
    known = [gene for gene in facts["genes"] if gene in dense]
    check_cards(dense.assign(score=dense[known].max(axis=1)), facts["cards"])
