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
    """Bytes that a forward pass of a network keeps for backward, without parameters and input."""
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


# These make a tensor without values; what fills it counts.
_NOTHING_MOVES = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
}


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, nbytes: int, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nbytes, self.known = nbytes, known
        self.traffic = Traffic()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not func.is_view and func.overloadpacket not in _NOTHING_MOVES:
            out = {argument.name for argument in func._schema.arguments if argument.is_out}
            read = (args, {name: value for name, value in kwargs.items() if name not in out})
            inputs, outputs = tree_leaves(read), tree_leaves(result)
            self.traffic.reads += sum(map(self._is_map, inputs))
            self.traffic.writes += sum(map(self._is_map, outputs))
        return result

    def _is_map(self, value: object) -> bool:
        if not isinstance(value, Tensor):
            return False
        # An expanded vector has as many elements, but is read from its few bytes.
        storage = value.untyped_storage()
        return storage.nbytes() >= self.nbytes and storage.data_ptr() not in self.known


def map_traffic(run: Callable[[Tensor], object], x: Tensor, but: Iterable[Tensor] = ()) -> Traffic:
    """Count the passes of ``run(x)`` over tensors as large as ``x``, operator by operator.

    Weights, which may be larger than the map of a single image, go into ``but``.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in but}
    counter = _Count(x.numel() * x.element_size(), known)
    with counter:
        run(x)
    return counter.traffic
