"""Build the replacements for the sites, each on the device and in the dtype and mode of its own."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attnblocks.swap.assign import Maker
from attnblocks.swap.inherit import inherit
from attnblocks.swap.sites import SESite


def build_all(
    model: nn.Module, sites: Sequence[SESite], makers: Sequence[Maker | None]
) -> dict[nn.Module, nn.Module]:
    """Build the new block of every site that has a maker; the network stays as it is.

    Returns:
        The new block of each old one.

    Raises:
        ValueError: a block that fails, or is no module; the message names the site.
    """
    there = [p for p in model.parameters() if not is_lazy(p)]  # a lazy layer has no type yet
    like = next((p for p in there if p.is_floating_point()), torch.empty(0))
    channels_last = _is_channels_last(there)
    return {
        site.module: _build(site, maker, like, channels_last)
        for site, maker in zip(sites, makers, strict=True)
        if maker is not None
    }


def _build(site: SESite, maker: Maker, like: Tensor, channels_last: bool) -> nn.Module:
    """The new block for one site, on its device, in its dtype, mode and memory format."""
    try:
        like = next((p for p in site.module.parameters() if p.is_floating_point()), like)
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
    if maker.inherits and exact is None:
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
    for value in (*new.parameters(recurse=False), *new.buffers(recurse=False)):
        dtype = like.dtype if value.is_floating_point() else value.dtype
        value.data = value.data.to(like.device, dtype)
    for child in new.children():
        _place(child, kept, like, training)


def _is_channels_last(parameters: Iterable[Tensor]) -> bool:
    """Whether some 4-d weight says so; a 1x1 weight fits both formats and says nothing."""
    return any(
        p.dim() == 4
        and p.is_contiguous(memory_format=torch.channels_last)
        and not p.is_contiguous()
        for p in parameters
    )
