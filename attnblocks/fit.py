"""Fit replaced blocks to the network that they came from, on unlabelled images."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnblocks._pair import Pair, pair_up

EXACT = 1e-5
"""Relative error below which a block computes what the original does: there is nothing to fit."""


@dataclass(frozen=True)
class SiteFit:
    """Relative L2 error of what leaves one replaced block, in its network, before and after."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class WarmStart:
    """What :func:`warm_start` achieved on the batches that it was given; prints as a table.

    Attributes:
        sites: the replaced blocks, in the order of the network.
        compared: what ``before`` and ``after`` are about: the features that enter the head, or
            the output of a network without one.
        before: relative L2 error of these features against the original, before the fit.
        after: the same after it.
    """

    sites: tuple[SiteFit, ...]
    compared: str
    before: float
    after: float

    def __str__(self) -> str:
        rows = [*self.sites, SiteFit(self.compared, self.before, self.after)]
        width = max(len(row.name) for row in rows)
        head = f"{'relative L2 error':{width}}  before   after"
        lines = [f"{row.name:{width}}{row.before:8.3f}{row.after:8.3f}" for row in rows]
        return "\n".join([head, *lines])


def warm_start(
    model: nn.Module,
    original: nn.Module,
    batches: Iterable[Tensor | Sequence[Any]],
    *,
    head: str | None = None,
    epochs: tuple[int, int] = (10, 20),
    lr: tuple[float, float] = (1e-2, 3e-3),
    seed: int = 0,
    progress: bool = True,
) -> WarmStart:
    """Fit the replaced blocks of ``model``, in place, to what ``original`` computes.

    Two stages of Adam, both on the parameters of the replaced blocks alone: first every block on
    its own, from the inputs that the original's block sees to its outputs; then all of them end to
    end, so that what leaves each block, and the features before the head, come near to the
    original's. Then the batch norms of the blocks get the statistics of all batches. The rest of
    ``model`` stays as it is, in value, mode and ``requires_grad``; ``original`` is only read. If
    the features have not come nearer, the blocks get back what they had.

    512 images do. Everything happens in eval mode but for the replaced blocks.

    Args:
        model: the network after :func:`attnblocks.replace_se`.
        original: the network before it; equal outside the replaced blocks and the head.
        batches: inputs on which both run, or sequences that begin with one, as data loaders give
            them. They are read once and kept in memory.
        head: name of the layer whose input is compared. Default: the last ``nn.Linear`` that
            runs; the output of the network is compared where there is none.
        epochs: passes over the batches, of the first and of the second stage.
        lr: their highest learning rates; each rises over a tenth of its stage and falls to 0.
        seed: of the order of the batches.
        progress: show a progress bar, if tqdm is installed.

    Returns:
        What was achieved, for every site and at the features.

    Raises:
        ValueError: no block was replaced, there are no batches, the networks differ elsewhere, or
            they are not in float32 or float64.
        LookupError: ``head`` is no layer of both networks, or it does not run.
        TypeError: a batch is no tensor and does not begin with one.

    Warns:
        UserWarning: the blocks came no nearer and were put back.

    Example:
        >>> from attnblocks import SE, CaCo, replace_se
        >>> original = nn.Sequential(nn.Conv2d(3, 16, 3), SE(16), nn.Flatten(), nn.LazyLinear(5))
        >>> images = torch.rand(8, 3, 6, 6)
        >>> _ = original(images)
        >>> model = replace_se(original, CaCo, inplace=False)
        >>> fit = warm_start(model, original, images.split(4), epochs=(2, 2), progress=False)
        >>> fit.sites[0].name, fit.compared
        ('1', "the input of '3'")
    """
    if isinstance(batches, Tensor):
        raise TypeError("batches must be a list of batches or a data loader; got one tensor")
    if min(epochs) < 0:
        raise ValueError(f"epochs must not be negative, got {epochs}")
    inputs = [_input(batch) for batch in batches]
    if not inputs:
        raise ValueError("batches are empty: give some unlabelled inputs, about 512 images")
    pair = pair_up(model, original, inputs[0], head)
    with _ready(pair), torch.enable_grad():
        before = _errors(pair, inputs)
        blocks = _inexact(pair, inputs)
        kept = [copy.deepcopy(block.state_dict()) for block in blocks]
        _fit(pair, blocks, inputs, epochs, lr, seed, progress)
        after = _errors(pair, inputs)
        if blocks and not after[-1] < before[-1]:
            for block, state in zip(blocks, kept, strict=True):
                block.load_state_dict(state)
            warnings.warn(
                f"the features came no nearer ({before[-1]:.3g} before, {after[-1]:.3g} after): "
                "the blocks are as they were; try more batches or a lower lr",
                stacklevel=2,
            )
            after = before
    fits = [SiteFit(*row) for row in zip((*pair.sites, ""), before, after, strict=True)]
    return WarmStart(tuple(fits[:-1]), pair.compared, before[-1], after[-1])


def _input(batch: Any) -> Tensor:
    x = batch[0] if isinstance(batch, Sequence) and len(batch) else batch
    if not isinstance(x, Tensor):
        raise TypeError(
            f"each of batches must be a tensor, or a sequence that begins with one; got {batch!r}"
        )
    return x


@contextmanager
def _ready(pair: Pair) -> Iterator[None]:
    """Both networks in eval mode, and gradients for the replaced blocks alone; then as before."""
    modes = {m: m.training for m in (*pair.model.modules(), *pair.original.modules())}
    flags = {p: p.requires_grad for p in pair.model.parameters()}
    fitted = [p for site in pair.sites for p in pair.block(site).parameters()]
    try:
        pair.model.eval()
        pair.original.eval()
        pair.model.requires_grad_(False)
        for parameter in fitted:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in fitted:
            parameter.grad = None
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def _errors(pair: Pair, inputs: Sequence[Tensor]) -> list[float]:
    """Relative L2 error of what leaves each replaced block, then of the features."""
    sums = torch.zeros(len(pair.sites) + 1, 2, dtype=torch.float64)
    for x in inputs:
        for row, (ours, theirs) in zip(sums, _outcomes(pair, x), strict=True):
            row += torch.tensor([(ours - theirs).square().sum(), theirs.square().sum()])
    return _ratios(sums)


def _outcomes(pair: Pair, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What leaves the blocks of a site, and the features: of the model and of the original."""
    with torch.no_grad():
        theirs = pair.run(pair.original, x)
    ours = pair.run(pair.model, x)
    pairs = [(_flat(ours.calls[site]), _flat(theirs.calls[site])) for site in pair.sites]
    return [*pairs, (ours.features, theirs.features)]


def _flat(calls: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([output.flatten() for _, output in calls])


@torch.no_grad()
def _inexact(pair: Pair, inputs: Sequence[Tensor]) -> list[nn.Module]:
    """The blocks that do not compute what the original's do, given the same input.

    Adam makes a full step of the smallest gradient: an exact block would get worse.
    """
    sums = torch.zeros(len(pair.sites), 2, dtype=torch.float64)
    for x in inputs:
        calls = pair.run(pair.original, x).calls
        for row, site in zip(sums, pair.sites, strict=True):
            for given, wanted in calls[site]:
                error = (pair.block(site)(given) - wanted).square().sum()
                row += torch.tensor([error, wanted.square().sum()])
    errors = dict(zip(pair.sites, _ratios(sums), strict=True))
    blocks = [pair.block(site) for site, error in errors.items() if not error < EXACT]
    return [block for block in blocks if any(True for _ in block.parameters())]


def _ratios(sums: Tensor) -> list[float]:
    error, size = sums.unbind(1)
    ratios: list[float] = (error / size.clamp(min=torch.finfo(torch.float32).tiny)).sqrt().tolist()
    return ratios


def _fit(
    pair: Pair,
    blocks: Sequence[nn.Module],
    inputs: Sequence[Tensor],
    epochs: tuple[int, int],
    lr: tuple[float, float],
    seed: int,
    progress: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for block in blocks for p in block.parameters()]
    stages = [(_site_loss, epochs[0], lr[0]), (_network_loss, epochs[1], lr[1])]
    with _progress(len(inputs) * sum(epochs), progress) as count_step:
        for loss, count, rate in stages if parameters else ():
            if not count:
                continue
            optimizer = torch.optim.Adam(parameters, lr=rate)
            steps = max(3, count * len(inputs))  # its formula divides by zero below
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
    """Every block on the input that the original's block sees."""
    with torch.no_grad():
        calls = pair.run(pair.original, x).calls
    errors = [
        _squared_error(pair.block(site)(given), wanted)
        for site in pair.sites
        for given, wanted in calls[site]
    ]
    return torch.stack(errors).mean()


def _network_loss(pair: Pair, x: Tensor) -> Tensor:
    """The features, and what leaves the blocks, which tells those in front where to go."""
    *sites, features = (_squared_error(*outcome) for outcome in _outcomes(pair, x))
    return features + torch.stack(sites).mean()


def _squared_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """Relative to the size of theirs."""
    tiny = torch.finfo(theirs.dtype).tiny
    return (ours - theirs).square().sum() / theirs.square().sum().clamp(min=tiny)


@torch.no_grad()
def _set_statistics(pair: Pair, blocks: Sequence[nn.Module], inputs: Sequence[Tensor]) -> None:
    """The batch norms of the blocks average over all batches; then the blocks are in eval mode."""
    norms = [m for block in blocks for m in block.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
    for x in inputs if norms else ():
        pair.run(pair.model, x)
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
