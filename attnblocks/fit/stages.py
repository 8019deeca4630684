"""The two stages of a fit, and the errors before and after them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm

from attnblocks.blocks.gain import GainedStage
from attnblocks.fit.pair import Pair
from attnblocks.fit.targets import Goal, Target, Targets, squared_error

EXACT = 1e-5
"""Relative error below which a block counts as equal to the original's: nothing to fit."""


@torch.no_grad()
def errors(pair: Pair, targets: Targets) -> list[float]:
    """Relative L2 error of the output of each replaced block, then of the features."""
    sums = torch.zeros(len(pair.sites) + 1, 2, dtype=torch.float64)
    for batch, target in zip(targets.batches, targets, strict=True):
        for row, found in zip(sums, _distances(pair, batch, target), strict=True):
            row += torch.tensor(found)
    return _ratios(sums)


def _distances(pair: Pair, batch: Any, target: Target) -> list[tuple[Tensor, Tensor]]:
    """Squared error and size of the output of each replaced block, then of the features."""
    zero = torch.zeros(())  # stays on the CPU: it can be added to tensors of any device
    found = dict.fromkeys(pair.sites, (zero, zero))
    goals = {site: iter([goal for _, goal in target.calls[site]]) for site in pair.sites}

    def compare(site: str, output: Tensor) -> None:
        # Activation checkpointing counts what a layer keeps, and recomputes it without this hook.
        with saved_tensors_hooks(lambda x: x, lambda x: x):
            error, size = _distance(site, output, next(goals[site], None))
        found[site] = found[site][0] + error, found[site][1] + size

    features = pair.run(pair.model, batch, after=compare)
    for site in pair.sites:
        if (goal := next(goals[site], None)) is not None:
            _distance(site, None, goal)
    return [*found.values(), _distance(pair.compared, features, target.features)]


def _distance(place: str, ours: Tensor | None, goal: Goal | None) -> tuple[Tensor, Tensor]:
    if ours is None or goal is None or ours.shape != goal.value.shape:
        found = [None if x is None else tuple(x.shape) for x in (ours, goal and goal.value)]
        raise ValueError(
            f"{place}: model gives the shape {found[0]}, and original {found[1]}. They must not "
            "depend on what the blocks compute, and forward has to run the network that it is "
            "given, each time in the same way"
        )
    return squared_error(ours, goal), goal.size


@torch.no_grad()
def inexact(pair: Pair, targets: Targets) -> list[str]:
    """The sites whose blocks do not compute what the original's do, given the same input.

    Adam's step does not shrink with the gradient: an exact block would get worse.
    """
    sums = torch.zeros(len(pair.sites), 2, dtype=torch.float64)
    for target in targets:
        for row, site in zip(sums, pair.sites, strict=True):
            for given, goal in target.calls[site]:
                row += torch.tensor([squared_error(pair.answer(site, given), goal), goal.size])
    found = dict(zip(pair.sites, _ratios(sums), strict=True))
    sites = [site for site, error in found.items() if not error < EXACT]
    return [site for site in sites if any(True for _ in pair.block(site).parameters())]


def _ratios(sums: Tensor) -> list[float]:
    error, size = sums.unbind(1)
    ratios: list[float] = (error / size.clamp(min=torch.finfo(torch.float32).tiny)).sqrt().tolist()
    return ratios


def descend(
    pair: Pair,
    sites: Sequence[str],
    targets: Targets,
    epochs: tuple[int, int],
    lr: tuple[float, float],
    seed: int,
    progress: bool,
) -> None:
    """Fit the blocks of some sites in two stages, as ``warm_start`` describes them."""
    generator = torch.Generator("cpu").manual_seed(seed)
    blocks = [pair.block(site) for site in sites]
    parameters = [p.requires_grad_(True) for block in blocks for p in block.parameters()]
    gains = Gains(blocks)
    stages = [(_site_loss, epochs[0], lr[0]), (_network_loss, epochs[1], lr[1])]
    with _progress(len(targets) * sum(epochs), progress) as count_step:
        for loss, count, rate in stages if parameters else ():
            if not count:
                continue
            optimizer = torch.optim.Adam([*parameters, *gains.logarithms], lr=rate)
            steps = max(3, count * len(targets))  # with fewer, its formula divides by zero
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, rate, total_steps=steps, pct_start=max(0.1, 2 / steps)
            )
            for block in blocks:
                block.train()
            for _ in range(count):
                for i in torch.randperm(len(targets), generator=generator).tolist():
                    optimizer.zero_grad()
                    gains.put_in()
                    torch.autograd.backward(loss(pair, sites, targets.batches[i], targets[i]))
                    optimizer.step()
                    schedule.step()
                    count_step()
    gains.leave()
    _set_statistics(pair, blocks, targets.batches)


class Gains:
    """The gains of blocks while they are fitted: by their logarithms, so that they stay above 0."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        modules = {m: None for block in blocks for m in block.modules()}
        self._stages = [m for m in modules if isinstance(m, GainedStage) and m.gain is not None]
        self.logarithms = [cast(Tensor, m.gain).log().requires_grad_(True) for m in self._stages]

    def put_in(self) -> None:
        """Compute the gains from their logarithms, for one forward and backward pass."""
        for stage, logarithm in zip(self._stages, self.logarithms, strict=True):
            stage.gain = logarithm.exp()

    @torch.no_grad()
    def leave(self) -> None:
        """Leave the gains as plain buffers."""
        self.put_in()


def _site_loss(pair: Pair, sites: Sequence[str], _: Any, target: Target) -> Tensor:
    """The loss of each block on the input that the original's block sees: no network runs."""
    losses = [
        _relative(squared_error(pair.answer(site, given), goal), goal.size)
        for site in sites
        for given, goal in target.calls[site]
    ]
    return _mean(losses)


def _network_loss(pair: Pair, _: Sequence[str], batch: Any, target: Target) -> Tensor:
    """The loss of the features, and of the block outputs, which guides the earlier blocks."""
    *sites, features = (_relative(*found) for found in _distances(pair, batch, target))
    loss = features + _mean(sites)
    if not loss.requires_grad:
        raise ValueError(
            "no gradients reach the blocks: forward must not run under torch.no_grad, nor the "
            "network with checkpoints that are use_reentrant=True"
        )
    return loss


def _relative(error: Tensor, size: Tensor) -> Tensor:
    return error / size.clamp(min=torch.finfo(size.dtype).tiny)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return sum(losses, start=torch.zeros(())) / len(losses)


@torch.no_grad()
def _set_statistics(pair: Pair, blocks: Sequence[nn.Module], batches: Sequence[Any]) -> None:
    """Set the batch norms of the blocks to averages over all batches, and end in eval mode."""
    norms = [m for block in blocks for m in block.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average
        for batch in batches if norms else ():
            pair.run(pair.model, batch)
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
