"""Reading what goes through some layers of a network while it runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

See = Callable[[str, Tensor], object]
"""Takes the name of a block, and what enters or leaves it.

It is to compute with it, or copy it, at once. Networks change such tensors in place later on: the
output, as in ``x += shortcut``; the input too, by the block itself or by an activation behind it.
"""


@contextmanager
def tapped(
    network: nn.Module,
    sites: Mapping[str, str | None],
    head: str | None,
    after: See | None = None,
    before: See | None = None,
) -> Iterator[list[Any]]:
    """Show what enters and leaves some blocks, and collect copies of what enters the head.

    Args:
        network: the network that is going to run.
        sites: names of the blocks; each with the module behind which the network has none, and
            lets the map through as it is, or None.
        head: name of the head; None for none.
        after: gets the output of each call of each block.
        before: gets its input.
    """
    entered: list[Any] = []
    hooks = []
    for name, place in sites.items():
        module = network.get_submodule(name if place is None else place)
        if before and place is None:
            hook = _before(before, name)
            hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        elif before:
            hooks.append(module.register_forward_hook(_after(before, name)))
        if after:
            hooks.append(module.register_forward_hook(_after(after, name)))
    if head is not None:
        hook = _before(lambda _, x: entered.append(x.clone() if isinstance(x, Tensor) else x), head)
        hooks.append(network.get_submodule(head).register_forward_pre_hook(hook, with_kwargs=True))
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code would not run the hooks
            yield entered
    finally:
        for handle in hooks:
            handle.remove()


def _before(see: See, name: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
        see(name, (*args, *kwargs.values())[0])

    return hook


def _after(see: See, name: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: Any, output: Tensor) -> None:
        see(name, output)

    return hook
