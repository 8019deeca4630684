"""What does not depend on the machine: bytes kept for backward, and passes over the feature map."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def saved_bytes(run: Callable[[], object], but: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps for backward while ``run`` runs.

    A storage counts once, however many operators keep it. Tensors that are there anyway, such as
    the parameters and the input, go into ``but``.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in but}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.detach())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = run()  # held, so that no storage is freed and counted for another
    del graph
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in known)


def saved_by_training(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass of a network or block keeps for backward, without its parameters."""
    there = [*model.parameters(), *model.buffers(), x]
    return saved_bytes(lambda: model(x), there)


@dataclass
class Traffic:
    """How often an operator read or wrote a tensor as large as the feature map."""

    reads: int = 0
    writes: int = 0

    @property
    def maps(self) -> int:
        """Both together."""
        return self.reads + self.writes


class _Count(TorchDispatchMode):
    def __init__(self, nbytes: int) -> None:
        super().__init__()
        self.nbytes = nbytes
        self.traffic = Traffic()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not func.is_view:
            inputs, outputs = tree_leaves((args, kwargs)), tree_leaves(result)
            self.traffic.reads += sum(map(self._is_map, inputs))
            self.traffic.writes += sum(map(self._is_map, outputs))
        return result

    def _is_map(self, value: object) -> bool:
        # An expanded vector has as many elements, but is read from its few bytes.
        return isinstance(value, Tensor) and value.untyped_storage().nbytes() >= self.nbytes


def map_traffic(run: Callable[[Tensor], object], x: Tensor) -> Traffic:
    """Count the passes of ``run(x)`` over tensors as large as ``x``, operator by operator."""
    counter = _Count(x.numel() * x.element_size())
    with counter:
        run(x)
    return counter.traffic
