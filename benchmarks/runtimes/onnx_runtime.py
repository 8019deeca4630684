"""Networks in ONNX Runtime, on the CPU, exported by :func:`torch.onnx.export`."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.runtimes.runtime import DIMENSIONS, Converted, conversion

NAME = "ONNX Runtime"
PACKAGES = ("onnxruntime", "onnx", "onnxscript")


def convert(model: nn.Module, example: Tensor, free: frozenset[str]) -> Converted:
    """Export the network and open it; see :class:`benchmarks.runtimes.runtime.Runtime`."""
    import onnx

    with TemporaryDirectory() as folder, conversion():
        optimized = Path(folder) / "optimized.onnx"
        session = onnx_session(model, example, free, optimized)
        operators = Counter(node.op_type for node in onnx.load(optimized).graph.node)

    def run(x: Tensor) -> Tensor:
        (y,) = new_run(session, x)()
        return torch.from_numpy(y)

    return Converted(run, lambda x: new_run(session, x), operators)


def onnx_session(
    model: nn.Module, example: Tensor, free: frozenset[str], optimized: Path | None = None
) -> Any:
    """A session of a network in which some sizes of the images stay free."""
    sizes = {DIMENSIONS[name]: Dim.DYNAMIC for name in free}
    return onnx_session_of(model, (example,), optimized, dynamic_shapes=(sizes,))


def onnx_session_of(
    model: nn.Module, example: tuple[Tensor, ...], optimized: Path | None = None, **options: Any
) -> Any:
    """A session of any module on the CPU, with as many threads as torch has.

    Args:
        model: the module, in eval mode.
        example: its inputs.
        optimized: where to write the model as ONNX Runtime has optimized it for this machine.
        options: those of :func:`torch.onnx.export`.
    """
    import onnxruntime

    program: Any = torch.onnx.export(model, example, dynamo=True, verbose=False, **options)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3  # it warns that an optimized model is for one machine
    if optimized is not None:
        settings.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def new_run(session: Any, x: Tensor) -> Callable[[], Any]:
    """A run of a session of one input on these images."""
    (images,) = session.get_inputs()
    feed = {images.name: x.numpy()}
    return lambda: session.run(None, feed)
