"""Build new blocks, each on the device and in the dtype and mode of its place."""

from collections.abc import Callable, Iterable, Sequence

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
    return {
        site.module: _build(model, site, maker)
        for site, maker in zip(sites, makers, strict=True)
        if maker is not None
    }


def _build(model: nn.Module, site: SESite, maker: Maker) -> nn.Module:
    """The new block for one site."""
    exact = None

    def make() -> nn.Module:
        nonlocal exact
        exact = None if maker.exact is None else maker.exact(site.layers)
        return maker.make(site) if exact is None else exact

    new = build_one(make, f"site {site.name!r}", site.module, [site.module, model])
    if maker.inherits and exact is None:
        try:
            inherit(new, site)
        except Exception as error:
            raise ValueError(
                f"the block for site {site.name!r} cannot start from the one there, but "
                f"init='fresh' would do: {error}"
            ) from error
    return new


def build_one(
    make: Callable[[], nn.Module], where: str, there: nn.Module, around: Sequence[nn.Module]
) -> nn.Module:
    """A new block in the mode, and on the device, in the dtype and memory format of its place.

    Args:
        make: makes it.
        where: it will stand, for errors.
        there: the module at its place.
        around: modules around its place, the nearest first and the network last: the first that
            has parameters says which device and dtype.

    Raises:
        ValueError: the block cannot be made, or is no module.
    """
    # A lazy layer has no type yet.
    known = [[p for p in module.parameters() if not is_lazy(p)] for module in around]
    floats = (p for parameters in known for p in parameters if p.is_floating_point())
    like = next(floats, torch.empty(0))
    try:
        with torch.inference_mode(False):  # whose tensors could not be trained
            with like.device:
                new = make()
            if not isinstance(new, nn.Module):
                raise TypeError(f"{new!r} is no nn.Module")
            _place(new, set(there.modules()), like, there.training)
            if _is_channels_last(known[-1]):
                new.to(memory_format=torch.channels_last)
    except Exception as error:
        raise ValueError(f"the block for {where} cannot be made: {error}") from error
    return new


def modules_around(model: nn.Module, name: str) -> list[nn.Module]:
    """A module, then those around it, the nearest first; the last is the network."""
    parts = name.split(".")
    return [model.get_submodule(".".join(parts[:n])) for n in range(len(parts), -1, -1)]


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
