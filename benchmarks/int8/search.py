"""The search by layer: what each tensor loses on its own, and what is won where it stays float."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from benchmarks.int8.pt2e import is_dequantize, is_quantize
from benchmarks.int8.setup import cosine, features


@dataclass(frozen=True)
class Found:
    """What the quantization of one tensor does.

    Attributes:
        tensor: the name of a weight, or the module and operator that an activation comes from.
        alone: cosine of the features where it is the only one quantized.
        without: cosine where it is the only one left in float.
        step: the distance of two integers, of an activation; None for a weight, which has one step
            per channel.
    """

    tensor: str
    alone: float
    without: float
    step: float | None


def search(graph: GraphModule, images: Tensor, wanted: Tensor) -> list[Found]:
    """Quantize one tensor at a time, and all but one.

    Args:
        graph: a quantized network whose weights are not folded, so that they can be float too.
        images: what the features are read on.
        wanted: those of the float network.

    Returns:
        A row for each tensor, the worst on its own first.
    """
    nodes = [node for node in graph.graph.nodes if is_quantize(node)]
    names = {node.name for node in nodes}

    def read(quantized: Collection[str]) -> float:
        return cosine(features(_Partly(graph, quantized).run, images), wanted)

    found = [
        Found(_tensor(node), read({node.name}), read(names - {node.name}), _step(node))
        for node in nodes
    ]
    return sorted(found, key=lambda row: row.alone)


def table(found: list[Found], rows: int) -> list[str]:
    """The worst rows, in Markdown."""
    lines = ["| tensor | step | cosine, alone | cosine, all but it |", "|---|---|---|---|"]
    for row in found[:rows]:
        step = "per channel" if row.step is None else f"{row.step:.3f}"
        lines.append(f"| `{row.tensor}` | {step} | {row.alone:.4f} | {row.without:.4f} |")
    return lines


class _Partly(Interpreter):
    """Runs a quantized network with some of its tensors quantized, and the others in float."""

    def __init__(self, graph: GraphModule, quantized: Collection[str]) -> None:
        super().__init__(graph)
        self._quantized = quantized

    def run_node(self, n: Node) -> Any:
        if is_quantize(n) and n.name not in self._quantized:
            return self.env[n.all_input_nodes[0]]
        if is_dequantize(n):
            source = n.all_input_nodes[0]
            if is_quantize(source) and source.name not in self._quantized:
                return self.env[source]
        return super().run_node(n)


def _tensor(quantize: Node) -> str:
    """The name of the weight, or the module and the operator that a tensor comes from."""
    source = quantize.all_input_nodes[0]
    while is_quantize(source) or is_dequantize(source):
        source = source.all_input_nodes[0]
    if source.op != "call_function":
        return str(source.target)
    stack = source.meta.get("nn_module_stack") or {"": ("", None)}
    module = list(stack.values())[-1][0]
    return f"{module}: {str(getattr(source.target, '__name__', source.target)).partition('.')[0]}"


def _step(quantize: Node) -> float | None:
    scale = quantize.args[1]
    return float(scale) if isinstance(scale, float) else None
