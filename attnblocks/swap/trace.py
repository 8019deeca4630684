"""The data flow of one forward pass: which operation made which tensor, and from what."""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}


class Node:
    """What one operation made of the input, in the tree of dominators.

    A node dominates another if every path from the input to the other goes through it.

    Args:
        made_from: the nodes that the operation used; none for an input of the network.
        weighted: whether the operation used something else too, such as parameters.

    Attributes:
        above: the last node that dominates this one; None for the start of all paths.
        level: how many nodes dominate it.
        weights: how many weighted operations the longest path to it has.
        returned_by: names of the modules that returned it, in that order.
    """

    def __init__(self, made_from: Iterable["Node"] = (), weighted: bool = False) -> None:
        nodes = list(made_from)
        self.above = reduce(meet, nodes) if nodes else None
        self.level: int = self.above.level + 1 if self.above else 0
        self.weights: int = max((node.weights for node in nodes), default=0) + weighted
        self.returned_by: list[str] = []

    def upwards(self) -> Iterator["Node"]:
        """The node itself, and what dominates it from the last to the first."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.above


def meet(a: Node, b: Node) -> Node:
    """The last node that is, or dominates, each of two."""
    while a is not b:
        if a.level >= b.level:
            assert a.above is not None  # only the start has none, and all paths begin there
            a = a.above
        else:
            assert b.above is not None
            b = b.above
    return a


class Trace(TorchFunctionMode):
    """While it is entered, notes for each tensor what it was made from; keeps no tensor alive.

    Args:
        inputs: what the network is going to be given.

    Attributes:
        additions: the two operands of every addition of two maps of one shape.
        nodes: what modules returned, in the order in which they did.
    """

    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self._start = Node()
        # By tensor: its version, which in-place operations count up, and its node.
        self._nodes = WeakTensorKeyDictionary()
        self.additions: list[tuple[Node, Node]] = []
        for tensor in tensors_in(inputs):
            self._set(tensor, Node([self._start]))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = tensors_in((args, kwargs))
        nodes = [self.node(tensor) for tensor in given]
        versions = [_version(tensor) for tensor in given]
        result = func(*args, **kwargs)
        made_from = [node for node in nodes if node is not None]
        if made_from:
            same = {id(t) for t, old in zip(given, versions, strict=True) if _version(t) == old}
            new = [t for t in (*given, *tensors_in(result)) if id(t) not in same]
            for tensor in {id(t): t for t in new}.values():
                self._set(tensor, Node(made_from, len(made_from) < len(nodes)))
        if getattr(func, "__name__", "") in ADDITIONS and len(given) == 2:
            a, b = nodes
            if a is not None and b is not None and given[0].shape == given[1].shape:
                self.additions.append((a, b))
        return result

    def node(self, tensor: Tensor) -> Node | None:
        """The node of a tensor as it is now; None if it does not depend on the input."""
        if tensor not in self._nodes:
            return None
        known: tuple[int, Node] = self._nodes[tensor]
        version, node = known
        if version != _version(tensor):  # changed where nothing could be seen of it
            node = self._set(tensor, Node([node]))
        return node

    def returned(self, name: str, given: Any, output: Any) -> Node | None:
        """Note what a module returned; gives its node if it is one tensor that has one."""
        made_from = [node for t in tensors_in(given) if (node := self.node(t)) is not None]
        for tensor in tensors_in(output):
            if self.node(tensor) is None and made_from:  # made by what no mode sees, as scripts are
                self._set(tensor, Node(made_from, weighted=True))
        node = self.node(output) if isinstance(output, Tensor) else None
        if node is not None:
            node.returned_by.append(name)
        return node

    def _set(self, tensor: Tensor, node: Node) -> Node:
        self._nodes[tensor] = (_version(tensor), node)
        return node


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested containers."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
