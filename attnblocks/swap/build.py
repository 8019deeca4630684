"""Build the replacement for a site, on its device and in its dtype and mode."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attnblocks.blocks.base import PLACE, AttentionBlock
from attnblocks.blocks.registry import BlockFactory, get_block
from attnblocks.blocks.se_layers import SELayers
from attnblocks.swap.inherit import inherit
from attnblocks.swap.sites import SESite, holds

Factory = Callable[[SESite], nn.Module]
Block = type[nn.Module] | str | Factory


@dataclass(frozen=True)
class Maker:
    """How the new module of a site is made.

    Args:
        make: builds the module from the site.
        warm: whether the module then inherits from the block at the site.
        exact: tried first: makes a module that takes over all of the old block, or returns None.
    """

    make: Factory
    warm: bool = False
    exact: Callable[[SELayers], nn.Module | None] | None = None


def block_maker(block: Block, kwargs: dict[str, Any], *, warm: bool) -> Maker:
    """The maker of a block, however it was given; what a function returns is used as it is."""
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
    return Maker(block)


def _from_channels(factory: BlockFactory, kwargs: dict[str, Any], warm: bool) -> Maker:
    if taken := kwargs.keys() & set(PLACE):
        raise TypeError(f"{sorted(taken)} of a new block are those of the site")

    def make(site: SESite) -> nn.Module:
        return factory(site.channels, **_match_width(kwargs, site))

    exact = _exact(factory) if kwargs in ({}, {"rd_channels": "match"}) else None
    return Maker(make, warm, exact if warm else None)


def _exact(factory: BlockFactory) -> Callable[[SELayers], nn.Module | None] | None:
    if isinstance(factory, type) and issubclass(factory, AttentionBlock):
        return factory.from_se if holds(factory, "from_se") else None
    return None


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
            exact = None if maker.exact is None else maker.exact(site.layers)
            new = maker.make(site) if exact is None else exact
        if not isinstance(new, nn.Module):
            raise TypeError(f"{new!r} is no nn.Module")
        _place(new, set(site.module.modules()), like, site.module.training)
        if channels_last:
            new.to(memory_format=torch.channels_last)
    except Exception as error:
        raise ValueError(f"the block for site {site.name!r} cannot be made: {error}") from error
    if maker.warm and exact is None:
        try:
            inherit(new, site)
        except Exception as error:
            raise ValueError(
                f"the block for site {site.name!r} cannot start from the one there, but "
                f"init='fresh' would do: {error}"
            ) from error
    return new


def _place(new: nn.Module, kept: set[nn.Module], like: Tensor, training: bool) -> None:
    """Give a new module its device, dtype and mode, but leave what it keeps of the old alone."""
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


def is_channels_last(model: nn.Module) -> bool:
    """Whether some 4-d weight says so; a 1x1 weight fits both formats and says nothing."""
    return any(
        p.dim() == 4
        and p.is_contiguous(memory_format=torch.channels_last)
        and not p.is_contiguous()
        for p in model.parameters()
    )
