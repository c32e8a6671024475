"""Model cards: on whom a network was trained, and the alarm that rings when it is to score one of them.

Cards name patients by hashes. Nothing here needs torch, so that pages and exports can ask, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
from safetensors import SafetensorError, safe_open

from deeplrhe_utils.acquisition.barcodes import person_of
from deeplrhe_utils.core.errors import LeakError, ModelError

TILE_NETWORK: Final = "deeplrhe"
"""Kind of a model that notebook 05 wrote."""
DENSE_FACTS: Final = ["patient_id", "on_grid", "network", "model_hash"]
"""Columns that tell who scored a window, in the table of all scores of heat maps."""


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

    Raises ModelError: the file is missing, damaged, a pickle, or of another kind.
    """
    try:
        with safe_open(path, framework=framework or "np") as stream:
            card: dict[str, Any] = json.loads((stream.metadata() or {}).get("card", "{}"))
            names = stream.keys() if framework and kind in ("", card.get("kind")) else ()
            tensors = {name: stream.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"The {what} {path} cannot be read ({error})", expected="a whole .safetensors file",
                         fix="Train again, or give another file; pickles are never opened") from error  # fmt: skip
    if kind and card.get("kind") != kind:
        raise ModelError(f"{path} holds no {what}", got=card.get("kind"), expected=kind,
                         fix="Give a file that notebook 05 wrote")  # fmt: skip
    return card, tensors


def read_card(path: Path) -> dict[str, Any]:
    """The model card of a file written by `save_model`."""
    return read_file(path, "tile network", TILE_NETWORK)[0]


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
