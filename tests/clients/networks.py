"""What the networks of every library are tried with: SE for their SE, and blocks that train."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from attnblocks import SE, find_se, replace_se
from tests.helpers import BLOCKS, keep_the_signal_alive, randomized


def check_swaps(
    model: nn.Module,
    x: Tensor,
    kind: str,
    count: int,
    run: Callable[[nn.Module, Tensor], Tensor] = lambda model, x: model(x),
    blocks: Sequence[str] = BLOCKS,
) -> None:
    """The SE of a library are found; SE is exact for them; blocks train in their places.

    Args:
        model: a network of the library; its weights are drawn anew.
        x: its input, of at least two images.
        kind: the qualified name of the library's class.
        count: how many of these there are.
        run: the output of the network for x.
        blocks: which are trained there.
    """
    names = [
        n for n, m in model.named_modules() if f"{type(m).__module__}.{type(m).__name__}" == kind
    ]
    assert len(names) == count
    sites = find_se(model)
    assert [(site.name, site.kind) for site in sites] == [(name, kind) for name in names]

    randomized(model)
    exact, x64 = copy.deepcopy(model).double(), x.double()
    exact.eval()  # which returns nothing in mmpretrain
    keep_the_signal_alive(exact, x64)
    with torch.no_grad():
        untouched = run(exact, x64)
        for site in find_se(exact):
            randomized(site.module, seed=len(site.name))
        before = run(exact, x64)
        after = run(replace_se(exact, SE), x64)
    assert {type(site.module) for site in find_se(exact)} == {SE}
    scale = before.abs().max().item()
    assert (before - untouched).abs().max() > 1e-3 * scale  # the gates matter
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12 * scale)

    for block in blocks:
        swapped = replace_se(model, block, inplace=False)
        swapped.train()
        new = find_se(swapped)
        assert [(s.name, s.channels) for s in new] == [(s.name, s.channels) for s in sites]
        optimizer = torch.optim.SGD(swapped.parameters(), lr=1e-3)
        run(swapped, x).square().mean().backward()
        for site in new:
            gradients = [p.grad for p in site.module.parameters()]
            assert all(g is not None and g.isfinite().all() for g in gradients), (block, site.name)
            assert any(g.abs().max() > 0 for g in gradients), (block, site.name)
        optimizer.step()
        assert run(swapped, x).isfinite().all(), block
