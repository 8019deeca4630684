"""The networks that are converted: alike but for what stands at their SE sites, and awake.

New weights would hide faults: gates that are nearly constant agree with almost anything.
"""

import torch
from torch import Tensor, nn

from attnblocks import find_se, replace_se
from benchmarks.candidates import build_network, in_networks, seeded
from benchmarks.settings import SEED


def awake_network(network: str, name: str, image_size: int) -> nn.Module:
    """A network with that at its SE sites, with random weights under which every layer matters.

    Args:
        network: name of the network; see :func:`benchmarks.candidates.build_network`.
        name: what stands at the sites; see :func:`benchmarks.candidates.in_networks`.
        image_size: of the images from which batch norms take their statistics.

    Returns:
        The network in eval mode. Weights outside of the sites do not depend on ``name``.
    """
    model = build_network(network)
    generator = torch.Generator().manual_seed(SEED)
    _draw_norms(model, generator)
    sites = [site.name for site in find_se(model)]
    replace_se(model, seeded(in_networks()[name]))
    for site in sites:
        _draw(model.get_submodule(site), generator)
    _take_statistics(model, torch.randn(8, 3, image_size, image_size, generator=generator))
    return model.eval()


def _draw_norms(model: nn.Module, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.5, generator=generator)


@torch.no_grad()
def _draw(block: nn.Module, generator: torch.Generator) -> None:
    """Random values for every tensor of a block: weights of layers, biases, factors."""
    for name, value in block.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() > 1:
            value.copy_(noise / value[0].numel() ** 0.5)
        elif name.endswith(("weight", "gain")):
            value.copy_(0.5 + noise.abs())
        else:
            value.copy_(0.5 * noise)


@torch.no_grad()
def _take_statistics(model: nn.Module, x: Tensor) -> None:
    """Give every batch norm the statistics of these images, lest the signal fades."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1
    model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
