"""Optimisers, rates and averages against arithmetic written out by hand."""

import itertools
import math

import pytest
import torch

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.learning.recipes.optimisers import (
    SCHEDULES,
    Ema,
    RMSpropTF,
    learning_rate,
    make_optimiser,
    one_cycle_beta1,
    parameter_groups,
)

GRADIENTS = (0.5, -0.2, 1.5, 0.0, -3.0)


def steps_of(optimiser, w, gradients=GRADIENTS):
    """The weight after each step with these gradients."""
    seen = []
    for g in gradients:
        w.grad = torch.tensor([g], dtype=torch.float64)
        optimiser.step()
        seen.append(float(w.detach()))
    return seen


def parameter(value=2.0):
    return torch.nn.Parameter(torch.tensor([value], dtype=torch.float64))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("epsilon", [1.0, 1e-10])
def test_rmsprop_is_tensorflows(weight_decay, epsilon):
    w, ms, mom, expected = 2.0, 1.0, 0.0, []
    for gradient in GRADIENTS:
        g = gradient + weight_decay * w
        ms = 0.9 * ms + 0.1 * g * g
        mom = 0.8 * mom + 0.1 * g / math.sqrt(ms + epsilon)
        w = w - mom
        expected.append(w)
    p = parameter()
    seen = steps_of(RMSpropTF([p], 0.1, momentum=0.8, epsilon=epsilon, weight_decay=weight_decay), p)
    assert seen == pytest.approx(expected, rel=1e-14)


def test_rmsprop_goes_on_from_its_state_and_skips_what_has_no_gradient():
    a, b, idle = parameter(), parameter(), parameter()
    whole = steps_of(RMSpropTF([a, idle], 0.1), a)
    first = RMSpropTF([b, idle], 0.1)
    steps_of(first, b, GRADIENTS[:2])
    second = RMSpropTF([b, idle], 0.1)
    second.load_state_dict(first.state_dict())
    assert steps_of(second, b, GRADIENTS[2:]) == whole[2:]
    assert float(idle.detach()) == 2.0
    b.grad = None
    second.step()


def test_only_kernels_and_matrices_decay():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    decayed, plain = parameter_groups(model, 4e-5)
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
    assert {id(p) for p in plain["params"]} == {id(model[0].bias), id(model[1].weight), id(model[1].bias)}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (4e-5, 0.0)
    groups = make_optimiser("rmsprop_tf", [decayed, plain], 0.1, 9.0).param_groups
    assert [g["weight_decay"] for g in groups] == [4e-5, 0.0]


def test_optimisers_by_name():
    adam = make_optimiser("adamw", [parameter()], 1e-3, 1e-2).param_groups[0]
    assert adam["betas"] == (0.9, 0.999) and adam["weight_decay"] == 1e-2
    tf = make_optimiser("rmsprop_tf", [parameter()], 0.1, 4e-5).param_groups[0]
    assert (tf["decay"], tf["momentum"], tf["epsilon"], tf["weight_decay"]) == (0.9, 0.9, 1.0, 4e-5)
    sgd = make_optimiser("sgd", [parameter()], 0.1, 0.0).param_groups[0]
    assert sgd["nesterov"] and sgd["momentum"] == 0.9
    with pytest.raises(ParameterError, match="adamw or rmsprop_tf or sgd"):
        make_optimiser("adam", [parameter()], 0.1, 0.0)


@pytest.mark.parametrize("total", [1, 2, 10, 137])
def test_one_cycle_equals_torchs(total):
    optimiser = torch.optim.AdamW([parameter()], lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=total)
    for step in range(total):
        group = optimiser.param_groups[0]
        rate = learning_rate(step, total_steps=total, steps_per_epoch=7, kind="one_cycle", peak=2e-3)
        assert rate == pytest.approx(float(group["lr"]), rel=1e-12, abs=1e-15)
        assert one_cycle_beta1(step, total) == pytest.approx(group["betas"][0], abs=1e-12)
        optimiser.step()
        schedule.step()


def test_stairs_of_deeppath():
    rate = lambda step: learning_rate(step, total_steps=10_000, steps_per_epoch=10, kind="step", peak=0.1)  # noqa: E731
    assert [rate(s) for s in (0, 299, 300, 599, 600)] == pytest.approx([0.1, 0.1, 0.016, 0.016, 0.00256])
    half = learning_rate(5, total_steps=9, steps_per_epoch=10, kind="step", peak=1.0, factor=0.5, every_epochs=0.5)
    assert half == 0.5


def test_cosine_rises_and_falls_and_constant_stays():
    kinds = {"total_steps": 200, "steps_per_epoch": 10, "peak": 2.0}
    cosine = [learning_rate(s, kind="cosine", **kinds) for s in range(200)]
    assert cosine[:10] == pytest.approx([0.2 * (s + 1) for s in range(10)]) and cosine[10] == 2.0
    assert cosine[105] == pytest.approx(1.0) and 0 < cosine[-1] < 1e-3
    assert all(b < a for a, b in itertools.pairwise(cosine[10:]))
    assert {learning_rate(s, kind="constant", **kinds) for s in range(200)} == {2.0}
    assert learning_rate(0, total_steps=1, steps_per_epoch=1, kind="cosine", peak=2.0) == 2.0


@pytest.mark.parametrize("kind", SCHEDULES)
def test_other_kinds_are_refused(kind):
    with pytest.raises(ParameterError, match="one_cycle or cosine"):
        learning_rate(0, total_steps=5, steps_per_epoch=1, kind=kind + "x", peak=1.0)


def norm(value):
    model = torch.nn.BatchNorm2d(1)
    torch.nn.init.constant_(model.weight, value)
    torch.nn.init.constant_(model.running_mean, 10 * value)
    return model


def test_the_average_is_tensorflows():
    model = norm(1.0)
    ema = Ema(model, 0.15)
    expected = 1.0
    for t, value in enumerate((2.0, 5.0, -1.0, 4.0)):
        torch.nn.init.constant_(model.weight, value)
        torch.nn.init.constant_(model.running_mean, 10 * value)
        model.num_batches_tracked += 1
        ema.update(model)
        decay = min(0.15, (1 + t) / (10 + t))  # 0.1, then 2/11 is above 0.15
        expected = decay * expected + (1 - decay) * value
    other = norm(0.0)
    ema.copy_to(other)
    assert float(other.weight.detach()) == pytest.approx(expected, rel=1e-6)
    assert float(other.running_mean) == pytest.approx(10 * expected, rel=1e-6)
    assert int(other.num_batches_tracked) == 0 and float(model.weight.detach()) == 4.0


def test_the_average_goes_on_from_its_state():
    model = norm(1.0)
    one, two = Ema(model, 0.9999), Ema(norm(3.0), 0.9999)
    for value in (2.0, 5.0):
        torch.nn.init.constant_(model.weight, value)
        one.update(model)
    two.load_state_dict(one.state_dict())
    one.update(model)
    two.update(model)
    assert one.state_dict()["updates"] == two.state_dict()["updates"] == 3
    for name, tensor in one.state_dict()["shadow"].items():
        assert torch.equal(tensor, two.state_dict()["shadow"][name]) and tensor.is_floating_point()
