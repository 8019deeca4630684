"""Parameter groups of optimizers: what decays, and what makes gates and wants a rate of its own."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attnblocks.blocks.base import AttentionBlock
from attnblocks.blocks.gain import GainedStage
from attnblocks.swap.sites import find_se
from attnblocks.swap.wrappers import unwrap

GATES = ("channel", "rows", "columns", "positions")
"""What gates can be for."""

SPATIAL = ("rows", "columns", "positions")
"""Those that tell one place of the map from another."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    gate_lr: float | None = None,
    gate_weight_decay: float | None = None,
    gates: Sequence[str] = SPATIAL,
) -> list[dict[str, Any]]:
    """Groups for optimizers of torch that take groups, with the layers that make gates apart.

    Biases and the parameters of norms do not decay. Norms are the classes of torch and their
    subclasses, and, as far as they have one value per channel, classes with "norm" in their name.

    Every parameter of the network is in one group, also one that is shared or frozen. Make the
    groups when all blocks are in the network.

    Args:
        model: the network; it is only read. It may be compiled, parallel or averaged.
        lr: learning rate.
        weight_decay: of everything but biases and norms.
        gate_lr: learning rate of the layers that make gates. Default: ``lr``.
        gate_weight_decay: their weight decay, but for biases and norms. Default: ``weight_decay``.
        gates: what such gates are for: ``channel``, ``rows``, ``columns``, ``positions``. A stage,
            or a block that consists of one, counts if all its gates are among them. By default
            those are the coordinate stages and CBAM's spatial gates; with ``channel``, the SE
            blocks that :func:`attnblocks.find_se` knows in other libraries count too.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and ``name``, which is ``weights``,
        ``no decay``, ``gates`` or ``gates no decay``, in this order; empty ones are left out.

    Raises:
        ValueError: a rate or decay is negative or not finite; there is no such gate, or no layer
            that ``gate_lr`` and ``gate_weight_decay`` are for; a parameter has no shape yet.
        TypeError: a rate or decay is no number, ``gates`` no sequence of names, or ``model`` no
            network that can be read.

    Example:
        >>> import torch, torchvision
        >>> from attnblocks import replace_se
        >>> model = replace_se(torchvision.models.mobilenet_v3_small(), "CaCo")
        >>> groups = param_groups(model, 5e-4, 0.05, gate_lr=5e-3)
        >>> {group["name"]: (group["lr"], group["weight_decay"]) for group in groups[1:3]}
        {'no decay': (0.0005, 0.0), 'gates': (0.005, 0.05)}
        >>> optimizer = torch.optim.AdamW(groups)
    """
    for_gates = {"gate_lr": gate_lr, "gate_weight_decay": gate_weight_decay}
    given = {name: value for name, value in for_gates.items() if value is not None}
    for name, value in {"lr": lr, "weight_decay": weight_decay, **given}.items():
        _check_number(name, value)
    _check_gates(gates)
    model = unwrap(model, "param_groups")
    of_gates = {p for module in _gate_layers(model, gates) for p in module.parameters()}
    if given and not of_gates:
        raise ValueError(_no_gates(model, next(iter(given)), gates))
    no_decay = set(_without_decay(model))
    gate_lr = lr if gate_lr is None else gate_lr
    decays = (weight_decay, weight_decay if gate_weight_decay is None else gate_weight_decay)
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": lr, "weight_decay": decays[0], "name": "weights"},
        {"params": [], "lr": lr, "weight_decay": 0.0, "name": "no decay"},
        {"params": [], "lr": gate_lr, "weight_decay": decays[1], "name": "gates"},
        {"params": [], "lr": gate_lr, "weight_decay": 0.0, "name": "gates no decay"},
    ]
    for name, p in model.named_parameters():
        if is_lazy(p):
            raise ValueError(f"the parameter {name!r} has no shape yet: run model once")
        groups[2 * (p in of_gates) + (p in no_decay)]["params"].append(p)
    return [group for group in groups if group["params"]]


def _gate_layers(model: nn.Module, gates: Sequence[str]) -> list[nn.Module]:
    """The modules all of whose gates are among these."""
    made = _gates(model, others="channel" in gates)
    return [module for module, names in made if set(names) <= set(gates)]


def _gates(model: nn.Module, others: bool) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """What makes gates, and what they are for; SE blocks of other libraries with ``others``."""
    for module in model.modules():
        if isinstance(module, GainedStage | AttentionBlock) and module.gate_names:
            yield module, module.gate_names
    for site in find_se(model) if others else ():
        if not isinstance(site.module, AttentionBlock):
            yield site.module, ("channel",)


def _without_decay(model: nn.Module) -> Iterator[Tensor]:
    """Biases and the parameters of norms."""
    for module in model.modules():
        named = any("norm" in cls.__name__.lower() for cls in type(module).__mro__)
        for name, p in module.named_parameters(recurse=False):
            vector = not is_lazy(p) and (p.ndim <= 1 or (named and p.numel() == max(p.shape)))
            if vector or name == "bias" or isinstance(module, _NORMS):
                yield p


def _no_gates(model: nn.Module, argument: str, gates: Sequence[str]) -> str:
    """What to say where an argument has no layers that it is for."""
    found = sorted({names for module, names in _gates(model, True) if [*module.parameters()]})
    text = (
        f"{argument} is for layers that make gates of {', '.join(gates) or 'nothing'} alone, and "
        "the network has none"
    )
    if not found:
        return f"{text}, nor any other: leave {argument} out"
    there = "; ".join(" and ".join(names) for names in found)
    return (
        f"{text}; there are gates of: {there}. Name them, such as gates={found[0]!r}, or leave "
        f"{argument} out"
    )


def _check_number(name: str, value: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not below 0, got {value}")


def _check_gates(gates: Sequence[str]) -> None:
    if isinstance(gates, str) or not isinstance(gates, Sequence):
        raise TypeError(f"gates must be a sequence of names, such as ('rows',), got {gates!r}")
    for name in gates:
        if name not in GATES:
            raise ValueError(f"gates must be among {', '.join(GATES)}; got {name!r}")
