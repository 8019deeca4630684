"""Networks in OpenVINO, on the CPU, converted from what :func:`torch.export.export` gives."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.runtimes.runtime import Converted, conversion, exported

NAME = "OpenVINO"
PACKAGES = ("openvino",)


def convert(model: nn.Module, example: Tensor, free: frozenset[str]) -> Converted:
    """Convert and compile the network; see :class:`benchmarks.runtimes.runtime.Runtime`."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # processors with bfloat16 would round to it
        "PERFORMANCE_HINT": "LATENCY",
    }
    with conversion():
        converted = openvino.convert_model(exported(model, example, free))
        compiled = openvino.compile_model(converted, "CPU", settings)
    request = compiled.create_infer_request()

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(request.infer([x.numpy()])[0].copy())

    def prepare(x: Tensor) -> Callable[[], object]:
        request.set_input_tensor(openvino.Tensor(x.numpy()))
        return lambda: request.infer()

    layers = compiled.get_runtime_model().get_ops()
    operators = Counter(layer.get_rt_info()["layerType"].astype(str) for layer in layers)
    for kind in ("Input", "Output", "Const"):
        del operators[kind]
    return Converted(run, prepare, operators)
