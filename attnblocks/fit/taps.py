"""Reading what goes through some layers of a network while it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Heard:
    """Copies of what went through some layers, call by call.

    Args:
        given: inputs of the blocks, by site; empty unless they were asked for.
        outputs: their outputs, by site.
        head: what entered the head.
    """

    given: dict[str, list[Tensor]]
    outputs: dict[str, list[Tensor]]
    head: list[Any]


@contextmanager
def tapped(
    network: nn.Module, sites: Sequence[str], head: str | None, inputs: bool = False
) -> Iterator[Heard]:
    """Collect what goes through some blocks and into the head.

    All of it is copied at once. Networks change such tensors in place later on: the output, as in
    ``x += shortcut``; the input too, by the block itself or by an activation behind a shortcut.
    """
    heard = Heard({name: [] for name in sites}, {name: [] for name in sites}, [])

    def before(into: list[Any]) -> Any:
        return lambda _, args, kwargs: into.append(_copy((*args, *kwargs.values())[0]))

    def after(into: list[Tensor]) -> Any:
        return lambda _, args, output: into.append(output.clone())

    hooks = []
    for name in sites:
        block = network.get_submodule(name)
        hooks.append(block.register_forward_hook(after(heard.outputs[name])))
        if inputs:
            hook = before(heard.given[name])
            hooks.append(block.register_forward_pre_hook(hook, with_kwargs=True))
    if head is not None:
        layer = network.get_submodule(head)
        hooks.append(layer.register_forward_pre_hook(before(heard.head), with_kwargs=True))
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code would not run the hooks
            yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
