"""Put new blocks into a network: the only step of a swap that changes it."""

import warnings
from collections.abc import Mapping, Sequence

from torch import nn

from attnblocks.swap.behind import Behind, move_hooks
from attnblocks.swap.optimizers import Handover
from attnblocks.swap.sites import SESite


def install(model: nn.Module, new: Mapping[nn.Module, nn.Module], handover: Handover) -> nn.Module:
    """Put each new block wherever its old one stands, and let optimizers follow.

    Blocks that were inserted behind an old one run behind the new one.

    Returns:
        The network, or the new block if the network is itself one that is replaced.
    """
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child is not None and child in new
    ]
    try:
        for parent, name, child in places:
            setattr(parent, name, new[child])
    except BaseException:  # of a parent that takes no other module
        for parent, name, child in places:
            parent._modules[name] = child
        raise
    for old, block in new.items():
        move_hooks(old, block)
    handover.make()
    return new.get(model, model)


def warn_of_hooks(sites: Sequence[SESite], new: Mapping[nn.Module, nn.Module]) -> None:
    """Name the hooks that go with the old blocks."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    hooks = [
        f"{getattr(hook, '__qualname__', hook)} on {f'{site.name}.{name}'.strip('.')!r}"
        for site in sites
        if site.module in new
        for name, part in site.module.named_modules()
        if part not in set(new[site.module].modules())
        for kind in kinds
        for hook in getattr(part, kind).values()
        if not isinstance(hook, Behind)
    ]
    if hooks:
        warnings.warn(
            f"replaced blocks take their hooks with them: {', '.join(hooks)}", stacklevel=3
        )
