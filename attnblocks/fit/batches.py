"""The batches that a fit is given, and how a network runs on one of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[nn.Module, Any], Any]
"""Runs a network on a batch as the loader gave it, and returns its output."""


def plain_forward(network: nn.Module, x: Tensor) -> Any:
    """Run a network on a tensor, on the device of its first parameter.

    On a copy: a first layer may change what it gets in place, and the batch is needed again.
    """
    device = next((p.device for p in network.parameters()), x.device)
    return network(x.to(device, copy=True))


def read_batches(batches: Iterable[Any], forward: Forward | None) -> list[Any]:
    """What ``forward`` takes, or the inputs of a network where there is none.

    Raises:
        ValueError: there are none.
        TypeError: ``forward`` is no function, or is needed.
    """
    if isinstance(batches, Tensor):
        raise TypeError("batches must be a list of batches or a data loader; got one tensor")
    if forward is not None and not callable(forward):
        raise TypeError(f"forward must be a function of a network and a batch; got {forward!r}")
    inputs = list(batches) if forward else [_input(batch) for batch in batches]
    if not inputs:
        raise ValueError("batches are empty: give some unlabelled inputs, about 2,048 images")
    if not forward:
        inputs = [x.clone() if x.is_inference() else x for x in inputs]
        _merge_end(inputs)
    return inputs


def _input(batch: Any) -> Tensor:
    if isinstance(batch, Tensor):
        return batch
    first = batch[0] if isinstance(batch, Sequence) and len(batch) else None
    if isinstance(first, Tensor) and (first.ndim != 3 or _has_labels(batch)):
        return first
    kind, call = _describe(batch, first)
    raise TypeError(
        "each of batches must be a tensor, or a sequence that begins with one; got a "
        f"{type(batch).__name__}{kind}. Say how a network runs on it, such as "
        f"forward=lambda network, batch: network({call})"
    )


def _describe(batch: Any, first: Any) -> tuple[str, str]:
    """What a batch looks like, and how a network might be called with it."""
    if isinstance(batch, Mapping):
        key = next((k for k, v in batch.items() if isinstance(v, Tensor)), "image")
        return f" with the keys {list(batch)}", f"batch[{key!r}]"
    if isinstance(first, Tensor):
        shape = f" that begins with a tensor of shape {tuple(first.shape)}, and may be"
        if all(isinstance(item, Tensor) for item in batch):
            return f"{shape} a list of images", "batch"
        return f"{shape} one image and what belongs to it", "batch[0][None]"
    if isinstance(first, Mapping | Sequence) and not isinstance(first, str | bytes):
        return f" that begins with a {type(first).__name__}", "batch[0]"
    return "", "..."


def _has_labels(batch: Sequence[Any]) -> bool:
    """Whether a tensor at the start is followed by one value or row for each of its items."""
    return any(
        isinstance(item, Tensor) and item.ndim in (1, 2) and len(item) == len(batch[0])
        for item in batch[1:]
    )


def _merge_end(inputs: list[Tensor]) -> None:
    """Add a short last batch to the one before: batch norms take the statistics of each batch."""
    *_, before, last = [inputs[0], *inputs]
    if 2 * len(last) <= len(before) and last.shape[1:] == before.shape[1:]:
        inputs[-2:] = [torch.cat([before, last])]
