"""The data flow of one forward pass: what modules returned, and which operations led there."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

Shape = tuple[int, ...]

ADDITIONS = {"add", "iadd", "radd"}
# Parts of the names of operations whose maps are (N, C, H, W), and of those that mix positions.
CHANNELS_FIRST = ("conv", "batch_norm", "group_norm", "pool", "interpolate", "upsample", "prelu")
MIXING = ("conv", "pool", "interpolate", "upsample", "shuffle", "grid_sample")
# Operations that leave each value at its position.
POINTWISE = re.compile(
    "[ir]?(add|sub|mul|div|truediv)|clamp|clip|clone|contiguous|to|float|half|double|.*dropout2?d?"
    "|.*relu6?|[cs]?elu|gelu|.*silu|mish|hard(shrink|sigmoid|swish|tanh)|softshrink|softplus"
    "|softsign|(log)?sigmoid|tanh|threshold"
)

_NUMBERS = itertools.count()


class Node:
    """What one operation made of the input, in the tree of dominators.

    A node dominates another if every path from the input to the other goes through it.

    Args:
        made_from: the nodes that the operation used; none for the start of all paths.
        weighted: whether the operation used something else too, such as parameters.
        mixing: whether it mixed the positions of a map.
        channels_first: whether it makes sure that axis 1 of a map are its channels.

    Attributes:
        above: the last node that dominates this one; None for the start.
        level: how many nodes dominate it.
        number: grows with the order in which nodes are made.
        weights: how many weighted operations the longest path to it has.
        mixings: how many mixing operations the path with the most of them has.
        made_by: names of the modules that returned it, in that order.
        passed_by: names of the modules that returned it and were given it, as identities do.
    """

    def __init__(
        self,
        made_from: Iterable["Node"] = (),
        weighted: bool = False,
        mixing: bool = False,
        channels_first: bool = False,
    ) -> None:
        nodes = list(made_from)
        self.above = meet(nodes) if nodes else None
        self.number = next(_NUMBERS)
        self.level: int = self.above.level + 1 if self.above else 0
        self.weights: int = max((node.weights for node in nodes), default=0) + weighted
        self.mixings: int = max((node.mixings for node in nodes), default=0) + mixing
        self.channels_first = channels_first
        self.made_by: list[str] = []
        self.passed_by: list[str] = []

    def upwards(self) -> Iterator["Node"]:
        """The node itself, and what dominates it from the last to the first."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.above


def meet(nodes: Iterable[Node]) -> Node:
    """The last node that is, or dominates, each of some nodes of one trace."""

    def of_two(a: Node, b: Node) -> Node:
        while a is not b:
            lower = a if a.level >= b.level else b
            assert lower.above is not None  # only the start has none, and dominates all
            a, b = lower.above, b if lower is a else a
        return a

    return reduce(of_two, nodes)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module.

    Attributes:
        given: the nodes of the tensors that it was given.
        node: the node of what it returned; None if that is not one tensor made from the input.
        shape: the shape of the tensor that it returned; None if it returned something else.
        kind: name of the class of what it returned.
    """

    given: tuple[Node, ...]
    node: Node | None
    shape: Shape | None
    kind: str


class Trace(TorchFunctionMode):
    """While it is entered, notes for each tensor what it was made from; keeps no tensor alive.

    Args:
        inputs: what the network is going to be given.

    Attributes:
        calls: the calls of each module that returned, in the order in which they first did.
        additions: the two operands of every addition of two tensors of one shape.
    """

    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self.calls: dict[str, list[Call]] = {}
        self.additions: list[tuple[Node, Node]] = []
        # By tensor: its version, which in-place operations count up, and its node.
        self._nodes = WeakTensorKeyDictionary()
        self._entered: list[tuple[Node, ...]] = []
        start = Node()
        for tensor in tensors_in(inputs):
            self._set(tensor, Node([start]))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name == "get" and not isinstance(attribute := func(*args, **kwargs), Tensor):
            return attribute
        given = tensors_in((args, kwargs))
        nodes = [self.node(tensor) for tensor in given]
        versions = [_version(tensor) for tensor in given]
        result = func(*args, **kwargs)
        made_from = [node for node in nodes if node is not None]
        if not made_from:
            return result
        weighted, mixing = len(made_from) < len(nodes), _mixes(name, given)
        as_before = {id(t) for t, old in zip(given, versions, strict=True) if _version(t) == old}
        for tensor in {id(t): t for t in (*given, *tensors_in(result))}.values():
            if id(tensor) not in as_before:
                first = any(part in name for part in CHANNELS_FIRST) or any(
                    node is not None and node.channels_first and t.shape == tensor.shape
                    for t, node in zip(given, nodes, strict=True)
                    if POINTWISE.fullmatch(name)
                )
                self._set(tensor, Node(made_from, weighted, mixing, first))
        two = len(made_from) == len(given) == 2
        if two and name in ADDITIONS and given[0].shape == given[1].shape:
            self.additions.append((made_from[0], made_from[1]))
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

    def result(self, output: Any) -> list[Node]:
        """The nodes of the tensors that are made from the input."""
        return [node for tensor in tensors_in(output) if (node := self.node(tensor)) is not None]

    def enter(self, given: Any) -> None:
        """Note what a module is given, before it runs and perhaps changes it."""
        self._entered.append(tuple(self.result(given)))

    def leave(self, name: str, output: Any) -> None:
        """Note what the module that was entered last returned."""
        given = self._entered.pop()
        for tensor in tensors_in(output):
            if given and self.node(tensor) is None:  # made where no mode sees it, as in a script
                self._set(tensor, Node(given, weighted=True, mixing=True))
        is_tensor = isinstance(output, Tensor)
        node = self.node(output) if is_tensor else None
        if node is not None:
            (node.passed_by if node in given else node.made_by).append(name)
        shape = tuple(output.shape) if is_tensor else None
        call = Call(given, node, shape, type(output).__name__)
        self.calls.setdefault(name, []).append(call)

    def _set(self, tensor: Tensor, node: Node) -> Node:
        self._nodes[tensor] = (_version(tensor), node)
        return node


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested containers."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _version(tensor: Tensor) -> int:
    try:
        return tensor._version
    except RuntimeError:  # tensors of inference mode have none
        return 0


def _mixes(name: str, given: list[Tensor]) -> bool:
    """Whether an operation mixes the positions of a map; a 1 x 1 convolution does not."""
    if "conv" in name and len(given) > 1 and given[1].shape[2:].numel() == 1:
        return False
    return any(part in name for part in MIXING)
