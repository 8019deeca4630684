"""Averages of weights by torch, whose norms see the data once more; gradient checkpoints."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from attnblocks import recipe
from tests.clients.attended import IMAGES, attended
from tests.helpers import randomized

pytestmark = pytest.mark.clients


def norms_of(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["CaCo", "Eca", "SeCo"])
def test_an_average_and_its_norms(name):
    model = attended(name)
    states = []
    average = AveragedModel(model)
    for seed in (1, 2):
        states.append(copy.deepcopy(randomized(model, seed).state_dict()))
        average.update_parameters(model)
    for key, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, (states[0][key] + states[1][key]) / 2)
    assert recipe(average) == recipe(average.module)

    update_bn([IMAGES[:2], IMAGES[2:]], average)
    by_hand = copy.deepcopy(average.module).double().train()
    norms = norms_of(by_hand)
    assert len(norms) >= 3
    found = {norm: [] for norm in norms}
    for norm in norms:
        norm.register_forward_pre_hook(lambda norm, args: found[norm].append(args[0]))
    for part in (IMAGES[:2], IMAGES[2:]):
        by_hand(part.double())
    for norm, own in zip(
        norms,
        [m for m in average.module.modules() if isinstance(m, torch.nn.BatchNorm2d)],
        strict=True,
    ):
        means = torch.stack([x.mean((0, 2, 3)) for x in found[norm]]).mean(0)
        variances = torch.stack([x.var((0, 2, 3)) for x in found[norm]]).mean(0)
        torch.testing.assert_close(own.running_mean.double(), means, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(own.running_var.double(), variances, atol=1e-4, rtol=1e-3)


def test_an_exponential_average_of_buffers_has_gains():
    model = attended("Eca")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    average.update_parameters(model)  # the first is a copy
    before = copy.deepcopy(model.state_dict())
    randomized(model, seed=1)
    average.update_parameters(model)
    gains = [key for key in before if key.endswith("gain")]
    assert len(gains) >= 2
    for key in gains:
        wanted = 0.75 * before[key] + 0.25 * model.state_dict()[key]
        torch.testing.assert_close(average.module.state_dict()[key], wanted)


def grads_of(model, run):
    model.zero_grad()
    output = run()
    output.square().mean().backward()
    return output, [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_give_the_same_gradients(reentrant):
    model = attended().train()
    x = IMAGES.clone().requires_grad_()
    for run in (
        lambda: checkpoint(model, x, use_reentrant=reentrant),
        lambda: checkpoint_sequential(model, 3, x, use_reentrant=reentrant),
    ):
        wanted, gradients = grads_of(model, lambda: model(x))
        output, found = grads_of(model, run)
        torch.testing.assert_close(output, wanted)
        for grad, expected in zip(found, gradients, strict=True):
            torch.testing.assert_close(grad, expected, atol=1e-5, rtol=1e-4)
