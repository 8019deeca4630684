"""Layers of blocks with masks of torch.nn.utils.prune, and with computed weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.helpers import by_reference, every_block, random_block, random_map

pytestmark = pytest.mark.clients

X = random_map(2, 64, 7, 9)
every_grad = pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])


def layers_of(block):
    return [m for m in block.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]


def check(block, plain, name, grad):
    """The block computes what the reference does with the weights of the plain one."""
    with torch.set_grad_enabled(grad):
        y = block(X)
    torch.testing.assert_close(y.double(), by_reference(name, plain, X), atol=1e-5, rtol=1e-5)


@every_grad
@every_block
def test_masks_are_respected_until_they_are_removed_and_after(name, grad):
    block, plain = random_block(name, 64), random_block(name, 64)
    before = plain(X)
    for layer, other in zip(layers_of(block), layers_of(plain), strict=True):
        prune.l1_unstructured(layer, "weight", amount=layer.weight.numel() // 2)
        smallest = other.weight.abs().flatten().argsort()[: other.weight.numel() // 2]
        other.weight.data.view(-1)[smallest] = 0
    assert not torch.allclose(plain(X), before, atol=1e-3)
    check(block, plain, name, grad)
    with torch.no_grad():  # the mask is applied anew in every call
        for layer, other in zip(layers_of(block), layers_of(plain), strict=True):
            layer.weight_orig.mul_(2)
            other.weight.mul_(2)
    check(block, plain, name, grad)
    for layer in layers_of(block):
        prune.remove(layer, "weight")
    check(block, plain, name, grad)


@every_block
def test_pruned_weights_get_no_gradient(name):
    block = random_block(name, 64)
    for layer in layers_of(block):
        prune.random_unstructured(layer, "weight", amount=0.5)
    block(X).square().sum().backward()
    for layer in layers_of(block):
        gone = layer.weight_mask == 0
        assert not layer.weight_orig.grad[gone].any()
        assert layer.weight_orig.grad[~gone].any()


WEIGHTS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@every_grad
@pytest.mark.parametrize("kind", WEIGHTS)
@every_block
def test_computed_weights_are_used_while_they_are_there_and_after(name, kind, grad):
    block, plain = random_block(name, 64), random_block(name, 64)
    for layer in layers_of(block):
        WEIGHTS[kind](layer)
        for parameter in layer.parametrizations.parameters():
            parameter.data.mul_(1.5)
    block.eval()
    for layer, other in zip(layers_of(block), layers_of(plain), strict=True):
        other.weight.data.copy_(layer.weight)
    check(block, plain, name, grad)
    for layer in layers_of(block):
        parametrize.remove_parametrizations(layer, "weight")
    check(block, plain, name, grad)


def test_their_parameters_get_gradients():
    block = random_block("CaCo", 64)
    for layer in layers_of(block):
        parametrizations.weight_norm(layer)
    copied = copy.deepcopy(block).double()
    block(X).square().sum().backward()
    copied(X.double()).square().sum().backward()
    for parameter, other in zip(block.parameters(), copied.parameters(), strict=True):
        scale = other.grad.abs().max()
        assert scale > 0
        found, wanted = parameter.grad.double() / scale, other.grad / scale
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
