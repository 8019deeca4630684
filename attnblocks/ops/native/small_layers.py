"""The small layers of a block by operators of torch: from statistics of a map to its gates.

A block has a stage that makes gates of channels, one that makes gates of coordinates, or both in
this order. The tensors of a stage are: weight and bias of the first layer; weight, bias, running
mean and running variance of the norm; weight and bias of each last layer; the gain.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

COORDINATES, MEANS, MEANS_AND_MAXIMA, NEIGHBOURS, POSITIONS = range(5)
"""Kinds of stages. Those of channels: layers on means; layers on means and on maxima, whose logits
are added; a convolution of the means over the channels. That of positions is known to the kernels
alone."""

FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    F.relu,
    F.relu6,
    F.hardswish,
    F.silu,
    torch.sigmoid,
    F.hardsigmoid,
)
"""Activations and gates, by their numbers."""

Tensors = Sequence[Tensor | None]


class Norm(NamedTuple):
    """How a batch norm normalises now.

    Attributes:
        of_batch: with the statistics of the batch, and not with its running ones.
        eps: is added to variances.
        running: mean and variance to update, if any.
        counter: of the batches in them, if any.
        momentum: share of a batch in them; None for equal shares.
    """

    of_batch: bool
    eps: float
    running: Tensors = (None, None)
    counter: Tensor | None = None
    momentum: float | None = None

    def share(self) -> float:
        """The share of this batch in the running statistics, the counter counting it."""
        if self.momentum is not None:
            return self.momentum
        return 0.0 if self.counter is None else 1 / float(self.counter)


class Numbers(NamedTuple):
    """What there is to know of a stage besides its tensors.

    Attributes:
        kind: of the stage.
        width: of the bottleneck, or of the convolution over channels.
        activation: its number.
        gate: the number of the function from logits to gates.
        norm: None for none.
    """

    kind: int
    width: int
    activation: int
    gate: int
    norm: Norm | None

    def tensors(self) -> int:
        """How many tensors a stage of rows and columns, or of channels, has."""
        return 11 if self.kind == COORDINATES else 9


def gates(
    stages: Sequence[Numbers], statistics: Tensors, tensors: Tensors, height: int
) -> tuple[Tensor | None, Tensor | None]:
    """The gates of channels, (N, C), and of coordinates, (N, H + W, C)."""
    coords, means, maxima = statistics
    of_channels = of_coords = None
    for numbers in stages:
        if numbers.kind == COORDINATES:
            coords = cast(Tensor, coords)
            if of_channels is not None:
                coords = coords * of_channels.unsqueeze(1)  # the means of the gated map
                tensors = tensors[stages[0].tensors() :]
            of_coords = _coordinate_gates(numbers, coords, height, tensors)
        else:
            of_channels = _channel_gates(numbers, cast(Tensor, means), maxima, tensors)
    return of_channels, of_coords


def _channel_gates(
    numbers: Numbers, means: Tensor, maxima: Tensor | None, tensors: Tensors
) -> Tensor:
    if numbers.kind == NEIGHBOURS:
        kernel, padding = cast(Tensor, tensors[0]), numbers.width // 2
        logits = F.conv1d(means.unsqueeze(1), kernel, padding=padding).squeeze(1)
    elif numbers.kind == MEANS:
        logits = _linear(_hidden(numbers, means, tensors), tensors[6:8])
    else:
        both = torch.cat([means, cast(Tensor, maxima)])
        of_means, of_maxima = _linear(_hidden(numbers, both, tensors), tensors[6:8]).chunk(2)
        logits = of_means + of_maxima
    return _gated(numbers, logits, tensors[8])


def _coordinate_gates(numbers: Numbers, coords: Tensor, height: int, tensors: Tensors) -> Tensor:
    hidden = _hidden(numbers, coords.flatten(0, 1), tensors)
    hidden = hidden.view(*coords.shape[:2], numbers.width)
    rows = _linear(hidden[:, :height], tensors[6:8])
    columns = _linear(hidden[:, height:], tensors[8:10])
    return _gated(numbers, torch.cat([rows, columns], dim=1), tensors[10])


def _hidden(numbers: Numbers, vectors: Tensor, tensors: Tensors) -> Tensor:
    """The bottleneck; (vectors, C) to (vectors, width)."""
    hidden, norm = _linear(vectors, tensors[:2]), numbers.norm
    if norm is not None:
        weight, bias, *running = tensors[2:6]
        mean, variance = norm.running if norm.of_batch else running
        hidden = F.batch_norm(
            hidden, mean, variance, weight, bias, norm.of_batch, norm.share(), norm.eps
        )
    return FUNCTIONS[numbers.activation](hidden)


def _linear(vectors: Tensor, layer: Tensors) -> Tensor:
    weight, bias = layer
    return F.linear(vectors, cast(Tensor, weight).flatten(1), bias)


def _gated(numbers: Numbers, logits: Tensor, gain: Tensor | None) -> Tensor:
    gates = FUNCTIONS[numbers.gate](logits)
    return gates if gain is None else gates * gain
