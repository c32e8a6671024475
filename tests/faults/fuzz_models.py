"""Feed the readers of models damaged files: ``python -m tests.faults.fuzz_models --files 10000``.

Every file is a mutation of a good one: its bytes, its header, its card, or, of a foreign state dict, the pickle inside.
A reader may refuse a file with an error of ours; it may neither raise anything else nor run anything from the file.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import pickle
import struct
import tempfile
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.learning.networks.cards import about_network, data_kind, read_card
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, TileNetwork, build_network, load_model, save_model
from deeplrhe_utils.learning.networks.weights import load_weights
from deeplrhe_utils.learning.scoring.prediction import scorer_of

MODEL = REPOSITORY / "reports" / "demo" / "models" / "05" / "fold-0.safetensors"
"""The committed one."""
RAN: list[str] = []
"""What was run from a file; must stay empty."""
CARD = {"usable": [True, False], "input_px": 256, "input_mpp": 1.0, "normalization": "dcgmm", "stain": "0" * 16,
        "recipe": {"precision": "auto"}, "trained_on": {"kind": "slides", "profile": "x", "slides": 3}}  # fmt: skip
ODD = [None, True, -1, 0, 3, 10**30, -0.5, 1e308, float("nan"), float("inf"), "", "x", "../x", "\ud800", [], [None],
       ["A"], {}, {"kind": []}, [[]] * 3, "deeplrhe", "inception_v3", 2**31]  # fmt: skip


def run(word: str) -> None:
    """What a bomb calls."""
    RAN.append(word)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return run, ("run",)


def small_network() -> TileNetwork:
    """The smallest that is of our kind."""
    return build_network(NetworkConfig(("A", "B"), kernels=2, kernel_size=3, stages=1))


def originals(folder: Path) -> dict[str, bytes]:
    """One good file of each format, by suffix."""
    torch.manual_seed(0)
    network = small_network()
    save_model(network, folder / "good.safetensors", trained_on=["P1"], card=CARD)
    torch.save(network.state_dict(), folder / "good.pth")
    return {suffix: (folder / f"good{suffix}").read_bytes() for suffix in (".safetensors", ".pth")}


def mutate(data: bytes, suffix: str, rng: np.random.Generator) -> bytes:
    """One damaged copy."""
    ways = (_bytes, _header, _card, _card, _weights) if suffix == ".safetensors" else (_bytes, _pickle, _pickle, _state)
    return ways[int(rng.integers(len(ways)))](data, rng)


def _bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flipped bits, a hole, a cut, or more at the end; often in the first bytes, where sizes stand."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, min(len(out), 64 if rng.random() < 0.4 else len(out))))
        kind = int(rng.integers(0, 4))
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            out[at : at + 8] = struct.pack("<Q", int(rng.choice([0, 1, 2**31, 2**63])))[: len(out[at : at + 8])]
        elif kind == 2:
            del out[max(1, at) :]
        else:
            out += bytes(int(rng.integers(1, 100)))
    return bytes(out)


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _whole(header: dict[str, Any], rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def _disturb(value: Any, rng: np.random.Generator) -> Any:
    """`value` with one thing inside it removed, replaced, or put under another name."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = str(rng.choice(list(value)))
        kind = rng.random()
        if kind < 0.15:
            return {k: v for k, v in value.items() if k != name}
        if kind < 0.25:
            return {f"{k}?" if k == name else k: v for k, v in value.items()}
        return {**value, name: _disturb(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = int(rng.integers(0, len(value)))
        return [*value[:at], _disturb(value[at], rng), *value[at + int(rng.integers(0, 2)) :]]
    return copy.deepcopy(ODD[int(rng.integers(0, len(ODD)))])


def _header(data: bytes, rng: np.random.Generator) -> bytes:
    header, rest = _parts(data)
    return _whole(_disturb(header, rng), rest)


def _card(data: bytes, rng: np.random.Generator) -> bytes:
    header, rest = _parts(data)
    card: Any = json.loads(header["__metadata__"]["card"])
    for _ in range(int(rng.integers(1, 4))):
        card = _disturb(card, rng)
    text = "[" * 100_000 if rng.random() < 0.01 else json.dumps(card)
    header["__metadata__"]["card"] = text
    return _whole(header, rest)


def _weights(data: bytes, rng: np.random.Generator) -> bytes:
    """Numbers that are none, other shapes, other types: a whole file of ours all the same."""
    state = small_network().state_dict()
    _damage(state, rng)
    return save({n: t.contiguous() for n, t in state.items()}, metadata=_parts(data)[0]["__metadata__"])


def _damage(state: dict[str, Any], rng: np.random.Generator) -> None:
    name = str(rng.choice(list(state)))
    tensor = state[name]
    bad = [tensor.float() * float("nan"), tensor.float() + float("inf"), tensor.reshape(-1)[:1],
           tensor.double() * 1e300, tensor.half(), tensor.to(torch.int8), tensor[None]]  # fmt: skip
    state[name] = bad[int(rng.integers(0, len(bad)))]
    if rng.random() < 0.2:
        del state[str(rng.choice(list(state)))]


def _pickle(data: bytes, rng: np.random.Generator) -> bytes:
    """The archive of torch with another pickle inside."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                content = pickle.dumps(_Bomb()) if rng.random() < 0.1 else _bytes(content, rng)
            new.writestr(name, content)
    return out.getvalue()


def _state(_: bytes, rng: np.random.Generator) -> bytes:
    """What `torch.save` writes of other things than a state dict, and of one that is not fit."""
    state: dict[str, Any] = dict(small_network().state_dict())
    _damage(state, rng)
    loop: dict[str, Any] = {}
    loop["model"] = loop
    wide = torch.zeros(1).expand(10**9)
    others: list[Any] = [state, {"state_dict": {"model": state}}, loop, [1], {"a": 1}, {1: wide}, {"module.x": wide},
                         _Bomb(), {"model": _Bomb()}, {**state, "x": torch.zeros(2).to_sparse()}]  # fmt: skip
    out = io.BytesIO()
    chosen = others[int(rng.integers(0, len(others)))]
    if rng.random() < 0.1:
        return pickle.dumps(chosen if chosen is not loop else [2])
    torch.save(chosen, out)
    return out.getvalue()


def exercise(path: Path) -> str:
    """Read a file in every way; what came of it, in a word. Anything but our own errors escapes."""
    try:
        load_weights(small_network(), str(path))
        if path.suffix == ".safetensors":
            card = read_card(path)
            assert about_network(card, path.name) and data_kind(card) in ("slides", "tiles", "tcga", "synthetic", "")
            model, card = load_model(path, score_patients=["P2"])
            assert scorer_of(card, 0.5).tile_px >= 0
            with torch.inference_mode():
                assert torch.isfinite(model(torch.full((1, 3, 32, 32), 0.5))).all()
    except CompendiumError as error:
        assert str(error).strip()
        return f"refused ({type(error).__name__})"
    return "taken"


def fuzz(folder: Path, *, seed: int, files: int) -> tuple[Counter[str], list[str]]:
    """Outcomes of `files` mutations, and what escaped (number, suffix, error)."""
    good, counts, escaped = originals(folder), Counter[str](), []
    for number in range(files):
        rng = np.random.default_rng([seed, number])
        suffix = list(good)[int(rng.integers(0, len(good)))]
        file = folder / f"mutant{suffix}"
        file.write_bytes(mutate(good[suffix], suffix, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                counts[f"{suffix} {exercise(file)}"] += 1
        except Exception as error:
            escaped.append(f"{number} {suffix}: {type(error).__name__}: {str(error)[:200]}")
    return counts, escaped


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, escaped = fuzz(Path(folder), seed=options.seed, files=options.files)
    print(*counts.most_common(), *escaped, f"{len(escaped)} escaped, {len(RAN)} ran code", sep="\n")


if __name__ == "__main__":
    main()
