"""Make the block that comes to a site: from a class, a name or a function, in the right place."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils import skip_init

from attnblocks.blocks.registry import BlockFactory, get_block
from attnblocks.blocks.se import SE
from attnblocks.swap.inherit import PEAK, carry_over, linear_weight
from attnblocks.swap.sites import SESite

Factory = Callable[[SESite], nn.Module]
Block = type[nn.Module] | str | Factory


@dataclass(frozen=True)
class Maker:
    """What makes the new module of a site, and whether it is started from the block there."""

    make: Factory
    warm: bool


def block_maker(block: Block, kwargs: dict[str, Any], *, warm: bool) -> Maker:
    """The maker of a block, whatever way it was given; what a function makes is taken as it is."""
    if isinstance(block, str):
        return _from_channels(get_block(block), kwargs, warm)
    if isinstance(block, type) and issubclass(block, nn.Module):
        return _from_channels(block, kwargs, warm)
    if isinstance(block, partial) and isinstance(block.func, type):
        raise TypeError(
            f"give {block.func.__name__} itself, and its options as arguments of replace_se"
        )
    if isinstance(block, (type, nn.Module)) or not callable(block):
        raise TypeError(f"block must be a class, a name or a function of the site, got {block!r}")
    if kwargs:
        raise TypeError(
            f"{sorted(kwargs)} go with a block class or name; a function gets the site alone"
        )
    return Maker(block, warm=False)


def _from_channels(factory: BlockFactory, kwargs: dict[str, Any], warm: bool) -> Maker:
    if taken := kwargs.keys() & {"device", "dtype"}:
        raise TypeError(f"{sorted(taken)} of a new block are those of the site")
    if factory is SE and warm and kwargs in ({}, {"rd_channels": "match"}):
        return Maker(_se_of_site, warm=False)
    return Maker(lambda site: factory(site.channels, **_match_width(kwargs, site)), warm)


def _match_width(kwargs: dict[str, Any], site: SESite) -> dict[str, Any]:
    if kwargs.get("rd_channels") != "match":
        return kwargs
    others = {name: value for name, value in kwargs.items() if name != "rd_channels"}
    return others if site.rd_channels is None else {**others, "rd_channels": site.rd_channels}


def build(site: SESite, maker: Maker, like: Tensor, channels_last: bool) -> nn.Module:
    """The new block for one site, on its device, in its dtype, mode and memory format."""
    like = next((p for p in site.module.parameters() if p.is_floating_point()), like)
    try:
        with like.device:
            new = maker.make(site)
        if not isinstance(new, nn.Module):
            raise TypeError(f"{new!r} is no nn.Module")
        _place(new, set(site.module.modules()), like, site.module.training)
        if channels_last:
            new.to(memory_format=torch.channels_last)
    except Exception as error:
        raise ValueError(f"the block for site {site.name!r} cannot be made: {error}") from error
    if maker.warm:
        try:
            carry_over(new, site)
        except Exception as error:
            raise ValueError(
                f"the block for site {site.name!r} cannot start from the one there, but "
                f"init='fresh' would do: {error}"
            ) from error
    return new


def _place(new: nn.Module, kept: set[nn.Module], like: Tensor, training: bool) -> None:
    """Give a new module its device, dtype and mode, but leave alone what it keeps of the old."""
    if new in kept:
        return
    if kept.isdisjoint(new.modules()):
        new.to(device=like.device, dtype=like.dtype).train(training)
        return
    new.training = training
    for parameter in new.parameters(recurse=False):
        parameter.data = parameter.data.to(like.device, like.dtype)
    for child in new.children():
        _place(child, kept, like, training)


@torch.no_grad()
def _se_of_site(site: SESite) -> SE:
    """An SE that computes what the channel MLP of the site computes; published without one."""
    layers = site.layers
    if layers.expand is None:
        return SE(site.channels)
    width = site.rd_channels or site.channels
    # Every weight is filled below: nothing is drawn, and the random state stays as it is.
    se: SE = skip_init(  # type: ignore[no-untyped-call]
        SE,
        site.channels,
        width,
        act_layer=nn.Identity,
        gate_layer=nn.Identity,
        device=cast(Tensor, layers.expand.weight).device,
        dtype=cast(Tensor, layers.expand.weight).dtype,
    )
    se.act = nn.Identity() if site.act_layer is None else site.act_layer()
    se.gate = site.gate_layer()
    _copy_layer(layers.expand, se.fc2)
    if layers.peak:  # the terms of mean and maximum become one of the mean
        se.fc2.weight.mul_(2)
        se.fc2.bias.mul_(2)
    if layers.norm is not None:
        se.bn = layers.norm
    if layers.squeeze is not None:
        _copy_layer(layers.squeeze, se.fc1)
        if layers.peak:
            se.fc1.weight.mul_((1 + PEAK) / 2)
    else:
        nn.init.dirac_(se.fc1.weight)
        nn.init.zeros_(se.fc1.bias)
        se.fc1.requires_grad_(se.fc2.weight.requires_grad)
    return se


def _copy_layer(old: nn.Module, new: nn.Conv2d) -> None:
    """Copy a linear layer or 1x1 convolution, and whether it is trained; no bias means zero."""
    weight = linear_weight(old, new.in_channels, new.out_channels)
    old_bias, new_bias = cast(Tensor | None, old.bias), cast(Tensor, new.bias)
    trained = any(p.requires_grad for p in old.parameters() if p is not old_bias)
    new.weight.copy_(rearrange(weight, "o i -> o i 1 1")).requires_grad_(trained)
    if old_bias is None:
        new_bias.zero_().requires_grad_(trained)
    else:
        new_bias.copy_(old_bias).requires_grad_(old_bias.requires_grad)


def is_channels_last(model: nn.Module) -> bool:
    """Whether some 4-d weight says so; a 1x1 weight fits both formats and says nothing."""
    return any(
        p.dim() == 4
        and p.is_contiguous(memory_format=torch.channels_last)
        and not p.is_contiguous()
        for p in model.parameters()
    )
