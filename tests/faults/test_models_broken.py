"""Models that are damaged, hostile or not finite: refused with the file's name; nothing in them is run."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from deeplrhe_utils.core.errors import ModelError
from deeplrhe_utils.learning.networks.cards import about_network, data_kind, hash_patient, read_card, warning_of
from deeplrhe_utils.learning.networks.deeplrhe import load_model, save_model
from deeplrhe_utils.learning.networks.weights import load_weights
from deeplrhe_utils.stain.dcgmm.net import load_net
from tests.faults import fuzz_models
from tests.faults.fuzz_models import CARD, MODEL, fuzz, small_network


@pytest.mark.parametrize("files", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_models_are_refused_or_taken_and_never_run(tmp_path, files):
    counts, escaped = fuzz(tmp_path, seed=files, files=files)
    assert not escaped and not fuzz_models.RAN
    assert sum(counts.values()) == files and {name.split()[1] for name in counts} == {"taken", "refused"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("form", ["ours", "safetensors", "state dict", "stain"])
def test_weights_that_are_not_finite_are_refused_with_the_files_name(tmp_path, form, bad):
    network = small_network()
    state = network.state_dict()
    state["blocks.0.first.weight"][0, 0, 1, 1] = bad
    path = tmp_path / ("bad.pth" if form == "state dict" else "bad.safetensors")
    if form == "ours":
        save_model(network, path, trained_on=["P1"], card=CARD)
        read = lambda: load_model(path)  # noqa: E731
    elif form == "stain":
        good = MODEL.parents[1] / "04" / "fold-0" / "dcgmm.safetensors"
        tensors = load_file(good)
        next(iter(tensors.values())).view(-1)[0] = bad
        save_file(tensors, path)
        read = lambda: load_net(path)  # noqa: E731
    else:
        torch.save(state, path) if form == "state dict" else save_file(state, path)
        read = lambda: load_weights(small_network(), str(path))  # noqa: E731
    with pytest.raises(ModelError, match=r"bad\.(pth|safetensors) are not finite"):
        read()


def test_what_a_network_learned_on_is_told_and_never_taken_for_real(tmp_path):
    demo = {name: value for name, value in read_card(MODEL).items() if name != "trained_on"}
    assert data_kind(demo) == "synthetic", "planted patients are known by their hashes"
    told = {**demo, "trained_on": {"kind": "slides", "slides": 2, "profile": "T"}}
    assert data_kind(told) == "synthetic", "planted slides given as anybody's"
    real = {**told, "patients": [hash_patient("TCGA-05-4244")]}
    line = about_network(real, "m")
    assert line.startswith("Network m, trained on 1 patient with 2 slides: slides that a user gave (T); targets TP53")
    assert line.endswith("colours: dcgmm") and not warning_of([data_kind(real)])
    silent = {"patients": real["patients"]}
    assert "not told" in about_network(silent, "m") and "not told" in warning_of([data_kind(silent)])
    assert "SYNTHETIC" in about_network(demo, "m") and "SYNTHETIC" in warning_of(["slides", data_kind(demo)])
