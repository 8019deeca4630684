"""Fit replaced blocks to the network that they came from, on unlabelled images."""

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import UnionType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from attnblocks.fit.batches import Forward, plain_forward, read_batches
from attnblocks.fit.gains import Gains, check_gains
from attnblocks.fit.pair import Pair, pair_up
from attnblocks.fit.stages import descend, errors, inexact
from attnblocks.fit.targets import Targets
from attnblocks.swap.observe import eval_mode
from attnblocks.swap.wrappers import check_unwrapped, unwrap

STEPS = (96, 160)
"""Steps of the two stages by default."""


@dataclass(frozen=True)
class SiteFit:
    """Relative L2 error of the output of one replaced block in its network, before and after."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class WarmStart:
    """What :func:`warm_start` achieved on the batches that it was given; prints as a table.

    Attributes:
        sites: the replaced blocks, in the order of the network.
        compared: what ``before`` and ``after`` measure: the features that enter the head, or
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
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
    head: str | None = None,
    epochs: tuple[int, int] | None = None,
    lr: tuple[float, float] = (2e-2, 1e-2),
    seed: int = 0,
    target_gib: float = 2.0,
    progress: bool = True,
) -> WarmStart:
    """Fit the replaced blocks of ``model``, in place, to what ``original`` computes.

    Each replaced block of this library that does not compute the same already gets a gain per
    channel, that of its last stage with channels, and starts with the one that least squares finds
    on the inputs of the original's block. Then two stages of Adam, on the parameters of these
    blocks and on the logarithms of the gains: first every block on its own, from the inputs that
    the original's block sees to its outputs; then all of them end to end, so that the output of
    each block, and the features before the head, come close to the original's. Last, the batch
    norms of the blocks average over all batches. The rest of ``model`` stays as it is, in value,
    mode and ``requires_grad``; ``original`` is only read. All parameters of the blocks are fitted,
    frozen ones too, and lose their ``grad``. If the features have not come nearer, or anything
    fails, the blocks get back what they had. The gains are left as plain buffers.

    Some 2,048 images in batches of 64 are enough. Everything but the replaced blocks runs in eval
    mode. The original runs once per batch: what enters and leaves its blocks is kept on the device
    where it was made.

    Args:
        model: the network after :func:`attnblocks.replace_se`.
        original: the network before it; equal outside the replaced blocks and the head.
        batches: inputs on which both run, or sequences that begin with one, as data loaders give
            them; with ``forward``, whatever it takes. They are read once and kept in memory.
        forward: ``forward(network, batch)`` runs a network on a batch as the loader gave it, and
            returns its output; for detection, segmentation and whatever else is not called with
            one tensor: ``lambda network, batch: network(batch["image"])["out"]``. It also moves
            the batch to the device of the network, and does the same each time.
        head: name of the layer whose input is compared. Default: the last ``nn.Linear``, if its
            output is that of the network; the output of the network is compared otherwise. A
            network that returns no tensor needs it, or a ``forward`` that returns one.
        epochs: passes over the batches, of the first and of the second stage. Default: as many as
            make 96 and 160 steps, or one; that is 3 and 5 for 32 batches.
        lr: their peak learning rates; each rises in the first tenth of its stage, then falls. The
            default is for so many steps: with far fewer it undoes what least squares found.
        seed: for the order of the batches.
        target_gib: GiB of memory for what is kept of the original, beside the batches. For batches
            beyond it the original runs each time that it is needed, which gives the same and takes
            longer; with 0, for all.
        progress: show a progress bar, if tqdm is installed.

    Returns:
        What was achieved, for every site and at the features.

    Raises:
        ValueError: no block was replaced, there are no batches, the networks differ elsewhere,
            the blocks are not in float32 or float64, or have gains that are not above 0 and finite,
            ``model`` was made in inference mode, or there is no tensor to compare.
        LookupError: ``head`` is not a layer of both networks, or it does not run.
        TypeError: a batch is no tensor and does not begin with one, or may be a list of images,
            and there is no ``forward``; ``epochs`` or ``lr`` are not two numbers; a network that is
            compiled, wrapped or scripted (of ``original``, the one inside a wrapper is run).

    Warns:
        UserWarning: the features came no nearer, and the blocks were put back.

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
    check_unwrapped(model, "warm_start")
    original = unwrap(original, "warm_start")
    if epochs is not None:
        _check_epochs(epochs)
    _check_lr(lr)
    _check_memory(target_gib)
    # Whatever the mode of the caller: inference tensors can have no gradients.
    with torch.inference_mode(False), torch.no_grad():
        inputs = read_batches(batches, forward)
    with torch.inference_mode(False), torch.enable_grad():
        _check_not_lazy(model, original)
        _check_gradients(model)
        pair = pair_up(model, original, inputs[0], head, forward or plain_forward)
        check_gains(pair)
        targets = Targets(pair, inputs, target_gib * 2**30)
        passes = epochs or (-(-STEPS[0] // len(inputs)), -(-STEPS[1] // len(inputs)))
        return _fit(pair, targets, passes, lr, seed, progress)


def _fit(
    pair: Pair,
    targets: Targets,
    epochs: tuple[int, int],
    lr: tuple[float, float],
    seed: int,
    progress: bool,
) -> WarmStart:
    with _ready(pair):
        before = errors(pair, targets)
        sites = inexact(pair, targets)
        blocks = {site: pair.block(site) for site in sites}
        kept = [copy.deepcopy(block.state_dict()) for block in blocks.values()]
        gains = Gains(blocks)

        def put_back() -> None:
            gains.put_back()
            for block, state in zip(blocks.values(), kept, strict=True):
                block.load_state_dict(state)

        try:
            descend(pair, sites, gains, targets, epochs, lr, seed, progress)
            after = errors(pair, targets)
        except BaseException:
            put_back()
            raise
        if blocks and not after[-1] < before[-1]:
            put_back()
            warnings.warn(
                f"the features came no nearer ({before[-1]:.3g} before, {after[-1]:.3g} after): "
                "the blocks are as they were; try more batches or a lower lr",
                stacklevel=3,
            )
            after = before
    fits = [SiteFit(*row) for row in zip((*pair.sites, ""), before, after, strict=True)]
    return WarmStart(tuple(fits[:-1]), pair.compared, before[-1], after[-1])


def _check_epochs(epochs: tuple[int, int]) -> None:
    _check_two("epochs", epochs, int)
    if min(epochs) < 0 or not any(epochs):
        raise ValueError(f"epochs must not be negative, nor both 0; got {epochs}")


def _check_lr(lr: tuple[float, float]) -> None:
    _check_two("lr", lr, int | float)
    if not all(0 < rate < math.inf for rate in lr):
        raise ValueError(f"lr must be above 0 and finite; got {lr}")


def _check_two(name: str, values: object, kind: type | UnionType) -> None:
    if not isinstance(values, Sequence) or [isinstance(v, kind) for v in values] != [True] * 2:
        raise TypeError(f"{name} must be two numbers, one for each stage; got {values!r}")


def _check_memory(target_gib: float) -> None:
    if isinstance(target_gib, bool) or not isinstance(target_gib, int | float):
        raise TypeError(f"target_gib must be a number, in GiB; got {target_gib!r}")
    if not target_gib >= 0:
        raise ValueError(f"target_gib must not be negative; got {target_gib}")


def _check_not_lazy(*networks: nn.Module) -> None:
    for network in networks:
        for name, parameter in network.named_parameters():
            if is_lazy(parameter):
                raise ValueError(f"{name!r} has no shape yet: run model and original once, first")


def _check_gradients(model: nn.Module) -> None:
    for name, value in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        if value.is_inference():
            raise ValueError(
                f"{name!r} of model was made in inference mode, and can have no gradients: pass a "
                "deep copy that was made outside of it"
            )


@contextmanager
def _ready(pair: Pair) -> Iterator[None]:
    """Both networks in eval mode, and no gradients until blocks ask for them; then as before."""
    flags = {p: p.requires_grad for p in pair.model.parameters()}
    fitted = [p for site in pair.sites for p in pair.block(site).parameters()]
    try:
        pair.model.requires_grad_(False)
        with eval_mode(pair.model, pair.original):
            yield
    finally:
        for parameter in fitted:
            parameter.grad = None
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
