"""Small things that several tests need."""

import torch
from torch import nn

from attnblocks import create_block, list_blocks

BLOCKS = list_blocks()
CHANNELS = [8, 16, 64, 96, 240, 576]


def random_block(name: str, channels: int, *, seed: int = 0, **kwargs) -> nn.Module:
    """A block with random weights and batch norm statistics, in eval mode."""
    block = create_block(name, channels, **kwargs).eval()
    return randomized(block, seed)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight and running statistic of the model a random value, in place."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if key.endswith("running_var"):
            noise = noise.abs() + 0.5
        elif value.dim() > 1:
            noise = noise / value[0].numel() ** 0.5
        value.copy_(noise)
    return model


def random_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A map of normal values; some channels well above zero, some below."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (x + torch.linspace(-1, 1, shape[1]).double()[:, None, None]).to(dtype)
