"""Runs a network with its new blocks, before they are there to stay."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from attnblocks.blocks.waking import wake
from attnblocks.swap.observe import run, undisturbed
from attnblocks.swap.places import Place
from attnblocks.swap.runs import where_it_runs
from attnblocks.swap.trace import tensors_in


def output_of(model: nn.Module, example: Any) -> list[Tensor]:
    """The tensors that a network returns, in eval mode, for a copy of the example."""
    example = tree_map_only(Tensor, lambda t: t.detach().clone(), where_it_runs(model, example))
    with undisturbed(model):
        return tensors_in(run(model, example))


def try_out(
    model: nn.Module, example: Any, new: Mapping[Place, nn.Module], wanted: Sequence[Tensor] | None
) -> None:
    """Run the network: every block runs; an identity changes nothing, and has no dead hidden unit.

    Args:
        model: the network with its new blocks, of which hidden units are woken.
        example: what it runs on.
        new: the block behind each place.
        wanted: what the network returned without them; None if they may change it.

    Raises:
        ValueError: the network does not run, a block runs more or less often than the module
            behind which it is, or the output is not the wanted one.
    """
    calls: Counter[str] = Counter()
    waking: set[str] = set()

    def see(place: Place, block: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        if place.name in waking:
            return
        calls[place.name] += 1
        (x,) = args
        if wanted is None or x.is_meta:
            return
        finite = x.isfinite().flatten(1).all(1)  # means of NaN are NaN, and so are their gates
        if not torch.allclose(x[finite], output[finite], rtol=1e-3):
            raise ValueError(f"the block behind {place.name!r} does not start as an identity")
        waking.add(place.name)  # runs the block
        wake(block, x)
        waking.remove(place.name)

    with ExitStack() as hooks:
        for place, block in new.items():
            hooks.enter_context(block.register_forward_hook(partial(see, place)))
        try:
            found = output_of(model, example)
        except Exception as error:
            raise ValueError(f"the network cannot run with the new blocks: {error}") from error
    for place in new:
        if calls[place.name] != place.calls:
            raise ValueError(
                f"in a forward pass {place.name!r} runs {place.calls} times, and the block behind "
                f"it {calls[place.name]} times: a module around it runs all of its children; "
                "insert it behind another module"
            )
    if wanted is not None and not all(map(_close, wanted, found)):
        raise ValueError(
            "the network returns something else with the new blocks, though each starts as an "
            "identity: some code changes a map in place that a module before a block passes on as "
            "it is; insert that block elsewhere"
        )


def _close(wanted: Tensor, found: Tensor) -> bool:
    """Whether two outputs are equal, but for what operations that are not deterministic change."""
    if wanted.is_meta or not wanted.is_floating_point() or wanted.shape != found.shape:
        return True
    return torch.allclose(wanted, found, rtol=1e-2, atol=1e-3, equal_nan=True)
