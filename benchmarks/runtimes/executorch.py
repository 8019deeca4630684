"""Networks in ExecuTorch with XNNPACK, run by its Python bindings."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.runtimes.runtime import Converted, conversion, exported

NAME = "ExecuTorch, XNNPACK"
PACKAGES = ("executorch",)

# Memory is planned for the largest.
BOUNDS = {
    "batch": Dim.DYNAMIC(min=1, max=8),
    "height": Dim.DYNAMIC(min=64, max=512),
    "width": Dim.DYNAMIC(min=64, max=512),
}


def convert(model: nn.Module, example: Tensor, free: frozenset[str]) -> Converted:
    """Lower the network and load it; see :class:`benchmarks.runtimes.runtime.Runtime`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    with conversion():
        program = exported(model, example, free, BOUNDS)
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        nodes = edge.exported_program().graph_module.graph.nodes
        operators = Counter(_name(node) for node in nodes if node.op == "call_function")
        buffer = edge.to_executorch().buffer
        _unsafe_reset_threadpool(torch.get_num_threads())
        loaded = Runtime.get().load_program(buffer)
        method = loaded.load_method("forward")
    delegates = operators.pop("executorch_call_delegate", 0)
    del operators["getitem"]  # takes an output of a delegate; nothing runs

    def run(x: Tensor) -> Tensor:
        return method.execute([x])[0].clone()

    def prepare(x: Tensor) -> Callable[[], object]:
        return lambda: loaded and method.execute([x])  # the program has to outlive its method

    return Converted(run, prepare, operators, delegates)


def _name(node: torch.fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))
