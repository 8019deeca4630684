"""Small things that several tests need."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from attnblocks import create_block, list_blocks
from tests.reference import REFERENCE, weights

BLOCKS = list_blocks()
CHANNELS = [8, 16, 64, 96, 240, 576]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# What a test of blocks runs over.
every_block = pytest.mark.parametrize("name", BLOCKS)
every_form = pytest.mark.parametrize("form", ["formulas", "eager", "native"], indirect=True)
both_modes = pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
both_formats = pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)


def random_block(name: str, channels: int, *, seed: int = 0, **kwargs) -> nn.Module:
    """A block with random weights and batch norm statistics, in eval mode."""
    block = create_block(name, channels, **kwargs).eval()
    return randomized(block, seed)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight, gain and running statistic of the model a random value, in place."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if key.endswith(("running_var", "gain")):
            noise = noise.abs() + 0.5
        elif value.dim() > 1:
            noise = noise / value[0].numel() ** 0.5
        value.copy_(noise)
    return model


@torch.no_grad()
def keep_the_signal_alive(model: torch.nn.Module, x: torch.Tensor) -> None:
    """Set the running statistics to those of x, lest the signal fades from layer to layer."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.train().momentum = 1
    model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


def random_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A map of normal values; some channels well above zero, some below."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (x + torch.linspace(-1, 1, shape[1]).double()[:, None, None]).to(dtype)


def by_reference(name: str, block: nn.Module, x: torch.Tensor, train: bool = False) -> torch.Tensor:
    """What the float64 reference computes of x with the weights of the block."""
    y = REFERENCE[name](weights(block), x.detach().double().numpy(), train)
    return torch.from_numpy(y)


def make_pipe(path: Path) -> None:
    """A named pipe: reading it would never end."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(path)


@contextmanager
def file_size_limit(size):
    """Let every write beyond that size fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small_network() -> nn.Module:
    """MobileNetV3-Small of torchvision with random weights and statistics, in eval mode."""
    return randomized(torchvision.models.mobilenet_v3_small(num_classes=5)).eval()


def snapshot(model: nn.Module) -> dict[str, object]:
    """Every module by identity with its mode, every tensor with value and properties."""
    state: dict[str, object] = {}
    for name, module in model.named_modules():
        state[f"module {name}"] = (id(module), module.training, len(module._forward_hooks))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        state[f"about {name}"] = (tensor.dtype, tensor.stride(), tensor.requires_grad)
        state[f"value {name}"] = tensor.detach().clone()
    return state


def unchanged(model: nn.Module, before: dict[str, object]) -> bool:
    after = snapshot(model)
    return before.keys() == after.keys() and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(before.values(), after.values(), strict=True)
    )
