"""The two stages of a fit, and the errors before and after them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnblocks.fit.pair import Pair

EXACT = 1e-5
"""Relative error below which a block counts as equal to the original's: nothing to fit."""


@torch.no_grad()
def errors(pair: Pair, inputs: Sequence[Tensor]) -> list[float]:
    """Relative L2 error of the output of each replaced block, then of the features."""
    sums = torch.zeros(len(pair.sites) + 1, 2, dtype=torch.float64)
    for x in inputs:
        for row, (ours, theirs) in zip(sums, _outcomes(pair, x), strict=True):
            row += torch.tensor([(ours - theirs).square().sum(), theirs.square().sum()])
    return _ratios(sums)


def _outcomes(pair: Pair, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The outputs at each site, then the features: of the model and of the original."""
    with torch.no_grad():
        theirs = pair.run(pair.original, x)
    ours = pair.run(pair.model, x)
    pairs = [(_flat(ours.calls[site]), _flat(theirs.calls[site])) for site in pair.sites]
    return [*pairs, (ours.features, theirs.features)]


def _flat(calls: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([output.flatten() for _, output in calls])


@torch.no_grad()
def inexact(pair: Pair, inputs: Sequence[Tensor]) -> list[nn.Module]:
    """The blocks that do not compute what the original's do, given the same input.

    Adam's step does not shrink with the gradient: an exact block would get worse.
    """
    sums = torch.zeros(len(pair.sites), 2, dtype=torch.float64)
    for x in inputs:
        calls = pair.run(pair.original, x).calls
        for row, site in zip(sums, pair.sites, strict=True):
            for given, wanted in calls[site]:
                error = (pair.block(site)(given) - wanted).square().sum()
                row += torch.tensor([error, wanted.square().sum()])
    found = dict(zip(pair.sites, _ratios(sums), strict=True))
    blocks = [pair.block(site) for site, error in found.items() if not error < EXACT]
    return [block for block in blocks if any(True for _ in block.parameters())]


def _ratios(sums: Tensor) -> list[float]:
    error, size = sums.unbind(1)
    ratios: list[float] = (error / size.clamp(min=torch.finfo(torch.float32).tiny)).sqrt().tolist()
    return ratios


def descend(
    pair: Pair,
    blocks: Sequence[nn.Module],
    inputs: Sequence[Tensor],
    epochs: tuple[int, int],
    lr: tuple[float, float],
    seed: int,
    progress: bool,
) -> None:
    """Fit some blocks to the original in two stages, as ``warm_start`` describes them."""
    generator = torch.Generator("cpu").manual_seed(seed)
    parameters = [p for block in blocks for p in block.parameters()]
    stages = [(_site_loss, epochs[0], lr[0]), (_network_loss, epochs[1], lr[1])]
    with _progress(len(inputs) * sum(epochs), progress) as count_step:
        for loss, count, rate in stages if parameters else ():
            if not count:
                continue
            optimizer = torch.optim.Adam(parameters, lr=rate)
            steps = max(3, count * len(inputs))  # with fewer, its formula divides by zero
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, rate, total_steps=steps, pct_start=max(0.1, 2 / steps)
            )
            for block in blocks:
                block.train()
            for _ in range(count):
                for i in torch.randperm(len(inputs), generator=generator).tolist():
                    optimizer.zero_grad()
                    torch.autograd.backward(loss(pair, inputs[i]))
                    optimizer.step()
                    schedule.step()
                    count_step()
            _set_statistics(pair, blocks, inputs)


def _site_loss(pair: Pair, x: Tensor) -> Tensor:
    """The loss of every block on the input that the original's block sees."""
    with torch.no_grad():
        calls = pair.run(pair.original, x).calls
    losses = [
        _squared_error(pair.block(site)(given), wanted)
        for site in pair.sites
        for given, wanted in calls[site]
    ]
    return torch.stack(losses).mean()


def _network_loss(pair: Pair, x: Tensor) -> Tensor:
    """The loss of the features, and of the block outputs, which guides the earlier blocks."""
    *sites, features = (_squared_error(*outcome) for outcome in _outcomes(pair, x))
    return features + torch.stack(sites).mean()


def _squared_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """The squared error, relative to the size of ``theirs``."""
    tiny = torch.finfo(theirs.dtype).tiny
    return (ours - theirs).square().sum() / theirs.square().sum().clamp(min=tiny)


@torch.no_grad()
def _set_statistics(pair: Pair, blocks: Sequence[nn.Module], inputs: Sequence[Tensor]) -> None:
    """Set the batch norms of the blocks to averages over all batches, and end in eval mode."""
    norms = [m for block in blocks for m in block.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average
        for x in inputs if norms else ():
            pair.run(pair.model, x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    for block in blocks:
        block.eval()


@contextmanager
def _progress(steps: int, wanted: bool) -> Iterator[Callable[[], object]]:
    """A progress bar where tqdm is installed; yields what counts one step."""
    if not wanted or find_spec("tqdm") is None:
        yield lambda: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=steps, desc="warm start", unit="batch") as bar:
        yield bar.update
