"""Stages and layers are torch's own and are called: whatever hangs on a call works."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from attnblocks import create_block, recipe
from tests.helpers import (
    BLOCKS,
    both_formats,
    both_modes,
    by_reference,
    every_block,
    random_block,
    random_map,
)

N = 3
STAGES = {
    "CBAM": {"channel", "spatial"},
    "SeCo": {"se", "coord"},
    "CaCo": {"channel", "coord"},
}
BATCH = (N, 16, 8, 10)


def parts(block: nn.Module) -> dict[str, nn.Module]:
    """The block, its stages and its layers."""
    return dict(block.named_modules())


def all_blocks() -> nn.Sequential:
    return nn.Sequential(*[random_block(name, 16, seed=i) for i, name in enumerate(BLOCKS)])


def first_sizes(values) -> set[int]:
    """The lengths of the first axes of all tensors in what a hook is given."""
    values = values if isinstance(values, tuple) else (values,)
    return {len(value) for value in values if isinstance(value, torch.Tensor)}


@both_formats
@both_modes
@every_block
def test_hooks_run_once_per_forward_with_a_row_for_each_sample(name, train, memory_format):
    block = random_block(name, 16).train(train)
    assert STAGES.get(name, set()) <= parts(block).keys()
    expected = {(kind, part) for kind in ("before", "after", "back") for part in parts(block)}
    seen: list[tuple[str, str]] = []
    sizes: set[int] = set()

    def note(kind, part):
        def hook(module, *values):
            seen.append((kind, part))
            for value in values:
                sizes.update(first_sizes(value))

        return hook

    for part, module in parts(block).items():
        module.register_forward_pre_hook(note("before", part))
        module.register_forward_hook(note("after", part))
        module.register_full_backward_hook(note("back", part))
    x = random_map(*BATCH).contiguous(memory_format=memory_format).requires_grad_()
    for _ in range(2):
        seen.clear()
        block(x).square().sum().backward()
        assert sorted(seen) == sorted(expected)
    assert sizes == {N}


def linear_layers(block: nn.Module) -> dict[str, nn.Conv2d]:
    return {n: m for n, m in block.named_modules() if isinstance(m, nn.Conv2d | nn.Conv1d)}


@every_block
def test_gradients_per_sample_from_what_layers_are_given(name):
    """Input and output gradient of a layer make the gradient of its weight for each sample."""
    block, x = random_block(name, 16, dtype=torch.float64), random_map(*BATCH, dtype=torch.float64)
    given, returned = {}, {}
    for part, layer in linear_layers(block).items():
        layer.register_forward_pre_hook(lambda m, args, part=part: given.update({part: args[0]}))
        layer.register_full_backward_hook(
            lambda m, _, grads, part=part: returned.update({part: grads[0]})
        )
    block(x.requires_grad_()).square().sum().backward()
    inputs, grads = dict(given), dict(returned)
    for part, layer in linear_layers(block).items():
        for i in range(N):
            single = copy.deepcopy(layer)
            single._forward_pre_hooks.clear()
            single._backward_hooks.clear()
            y = single(inputs[part][i : i + 1].detach())
            (found,) = torch.autograd.grad(y, single.weight, grads[part][i : i + 1])
            (wanted,) = torch.autograd.grad(block(x[i : i + 1]).square().sum(), layer.weight)
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@every_block
def test_a_layer_can_be_made_again_from_its_class_and_attributes(name):
    """As adapters do, which make layers like those that they are put around."""
    block = create_block(name, 16)
    for part, layer in linear_layers(block).items():
        assert type(layer) in (nn.Conv2d, nn.Conv1d)
        again = type(layer)(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias is not None,
        )
        again.load_state_dict(layer.state_dict())
        x = random_map(*BATCH)
        expected = block(x)
        block.set_submodule(part, again)
        torch.testing.assert_close(block(x), expected)


class Adapter(nn.Module):
    """A low-rank addition around a layer, which takes what the layer takes."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer = layer
        self.down = nn.Conv2d(layer.in_channels, 2, 1, bias=False)
        self.up = nn.Conv2d(2, layer.out_channels, 1, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))

    def merged(self) -> torch.Tensor:
        low_rank = self.up.weight.flatten(1) @ self.down.weight.flatten(1)
        return self.base_layer.weight + low_rank[..., None, None]


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "Eca"])
def test_adapters_around_every_pointwise_layer(name):
    block, x = random_block(name, 16), random_map(*BATCH)
    merged = copy.deepcopy(block)
    for part, layer in linear_layers(block).items():
        if layer.kernel_size == (1, 1):
            adapter = Adapter(layer)
            block.set_submodule(part, adapter)
            merged.get_submodule(part).weight.data = adapter.merged().data
    y = block(x)
    torch.testing.assert_close(y, merged(x), rtol=1e-4, atol=1e-5)
    y.sum().backward()
    assert all(p.grad is not None for p in block.parameters())


def weight_norm_of_old(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize(
    "reparametrise",
    [parametrizations.weight_norm, parametrizations.spectral_norm, weight_norm_of_old],
)
@every_block
def test_reparametrised_layers_compute_with_their_weights(name, reparametrise):
    block, x = random_block(name, 16), random_map(*BATCH)
    plain = copy.deepcopy(block)
    for layer in linear_layers(block).values():
        reparametrise(layer)
    block.eval()
    y = block(x)
    for part, layer in linear_layers(plain).items():
        layer.weight.data = block.get_submodule(part).weight.detach().clone()
    torch.testing.assert_close(y, plain(x))


def narrow(layer: nn.Conv2d, *, inputs=None, outputs=None) -> None:
    """In place, as every structured pruner does."""
    if outputs is not None:
        layer.weight = nn.Parameter(layer.weight[outputs])
        layer.bias = nn.Parameter(layer.bias[outputs])
        layer.out_channels = len(outputs)
    if inputs is not None:
        layer.weight = nn.Parameter(layer.weight[:, inputs])
        layer.in_channels = len(inputs)


CHANNEL_LAYERS = {  # first, last
    "SE": [("fc1", ["fc2"])],
    "CBAM": [("channel.fc1", ["channel.fc2"])],
    "CoordAtt": [("conv1", ["conv_h", "conv_w"])],
    "SeCo": [("se.fc1", ["se.fc2"]), ("coord.conv1", ["coord.conv_h", "coord.conv_w"])],
    "CaCo": [("channel.fc1", ["channel.fc2"]), ("coord.conv1", ["coord.conv_h", "coord.conv_w"])],
}


@pytest.mark.parametrize("name", CHANNEL_LAYERS)
def test_pruned_channels_and_widths(name):
    block = random_block(name, 16, dtype=torch.float64)
    keep = torch.tensor([0, 1, 2, 4, 5, 7, 8, 9, 11, 13, 15])
    for first, last in CHANNEL_LAYERS[name]:
        width = block.get_submodule(first).out_channels
        units = torch.arange(0, width, 2)
        narrow(block.get_submodule(first), inputs=keep, outputs=units)
        for layer in last:
            narrow(block.get_submodule(layer), inputs=units, outputs=keep)
        if first.endswith("conv1"):
            norm = block.get_submodule(first.replace("conv1", "bn1"))
            for key in ("weight", "bias"):
                setattr(norm, key, nn.Parameter(getattr(norm, key)[units]))
            norm.running_mean, norm.running_var = norm.running_mean[units], norm.running_var[units]
            norm.num_features = len(units)
    x = random_map(2, 11, 5, 6, dtype=torch.float64)
    expected = by_reference(name, block, x)
    torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-9)
    assert (block.channels, block.rd_channels) == (11, block.rd_channels)
    with pytest.raises(ValueError, match="built for 11 channels, got 16"):
        block(random_map(2, 16, 5, 6, dtype=torch.float64))
    # What is left of it is what its recipe says.
    (entry,) = recipe(nn.Sequential(block))
    assert entry["channels"] == 11
    again = create_block(name, 11, **widths(entry)).double().eval()
    again.load_state_dict(block.state_dict())
    torch.testing.assert_close(again(x), expected, rtol=1e-9, atol=1e-9)


def widths(entry: dict) -> dict[str, int]:
    return {k: v for k, v in entry["arguments"].items() if k.endswith("channels")}


def gradients(network: nn.Module, y: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    y.square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def test_checkpointing_every_stage_gives_the_same_gradients():
    network, x = all_blocks(), random_map(*BATCH).requires_grad_()
    wanted = gradients(network, network(x))
    for block in network:
        for part in block.children():
            forward = part.forward
            part.forward = lambda *args, forward=forward: checkpoint(
                forward, *args, use_reentrant=False
            )
    found = gradients(network, network(x))
    torch.testing.assert_close(found, wanted)
    y = x
    for block in network:
        y = checkpoint(block, y, use_reentrant=False)
    torch.testing.assert_close(gradients(network, y), wanted)


@pytest.mark.usefixtures("process_group")
def test_sharding_every_part_gives_the_same_gradients():
    network, x = all_blocks(), random_map(*BATCH)
    y = network(x)
    wanted = gradients(network, y)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    for part in reversed(list(network.modules())):
        if any(True for _ in part.parameters()):
            fully_shard(part, mesh=mesh)
    found = network(x)
    torch.testing.assert_close(found, y)
    network.zero_grad()
    found.square().sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad.full_tensor(), wanted[name])


def test_functional_call_replaces_the_weights_of_all_parts():
    network, x = all_blocks(), random_map(*BATCH)
    other = nn.Sequential(*[random_block(name, 16, seed=9 + i) for i, name in enumerate(BLOCKS)])
    found = functional_call(network, dict(other.state_dict()), (x,))
    torch.testing.assert_close(found, other(x))


@every_block
def test_what_is_exported_has_a_convolution_for_each_layer(name):
    """Delegates and converters know layers by their operators."""
    block = random_block(name, 16)
    graph = torch.export.export(block, (random_map(*BATCH),)).run_decompositions({}).graph
    operators = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum("conv" in operator for operator in operators) == len(linear_layers(block))
    assert not any("split" in operator for operator in operators)
    for product in ("linear", "addmm", "bmm", "matmul", "aten.mm", "permute"):
        allowed = 1 if (name, product) == ("Eca", "permute") else 0
        assert sum(product in operator for operator in operators) <= 2 * allowed, operators
