"""Networks in LiteRT with XNNPACK, on the CPU, converted by litert-torch."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.runtimes.runtime import DIMENSIONS, Converted, conversion

NAME = "LiteRT"
PACKAGES = ("ai-edge-litert", "litert-torch")

DELEGATE = "DELEGATE"
"""The operator that stands for all those that XNNPACK runs."""


def convert(model: nn.Module, example: Tensor, free: frozenset[str]) -> Converted:
    """Export, convert and open the network; see :class:`benchmarks.runtimes.runtime.Runtime`."""
    import litert_torch

    sizes = {DIMENSIONS[name]: Dim.DYNAMIC for name in sorted(free)}
    with TemporaryDirectory() as folder, conversion():
        file = Path(folder) / "network.tflite"
        litert_torch.convert(model, (example,), dynamic_shapes=(sizes,)).export(str(file))
        content = file.read_bytes()
        interpreter = _interpreter(content)
    # No public method names the operators. XNNPACK's parts join those of the file when it runs.
    operators = Counter(operator["op_name"] for operator in interpreter._get_ops_details())
    with conversion():
        new_run(interpreter, example)
    names = [operator["op_name"] for operator in interpreter._get_ops_details()]
    delegates = names.count(DELEGATE)

    def run(x: Tensor) -> Tensor:
        new_run(interpreter, x)()
        (output,) = interpreter.get_output_details()
        return torch.from_numpy(interpreter.get_tensor(output["index"]))

    return Converted(run, lambda x: new_run(_interpreter(content), x), operators, delegates)


def _interpreter(content: bytes) -> Any:
    """An interpreter with as many threads as torch has."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=content, num_threads=torch.get_num_threads())


def new_run(interpreter: Any, x: Tensor) -> Callable[[], object]:
    """A run of an interpreter on these images, which it keeps."""
    (images,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(images["index"], list(x.shape), strict=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(images["index"], x.contiguous().numpy())
    return lambda: interpreter.invoke()
