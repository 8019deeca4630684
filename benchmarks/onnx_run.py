"""Networks in ONNX Runtime, exported once for every batch and image size."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.settings import UsageError
from benchmarks.timing import Run

EXAMPLE_BATCH = 2


def onnx_session(model: nn.Module, image_size: int) -> Any:
    """A session of the network on the CPU, with as many threads as torch has.

    Args:
        model: the network, in eval mode.
        image_size: of the images that it is exported with; batch, height and width stay open.

    Raises:
        UsageError: ONNX or ONNX Runtime is missing.
    """
    x = torch.rand(EXAMPLE_BATCH, 3, image_size, image_size)
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return onnx_session_of(model, (x,), dynamic_shapes=(sizes,))


def onnx_session_of(model: nn.Module, example: tuple[Tensor, ...], **options: Any) -> Any:
    """The same for any module and example; options are those of :func:`torch.onnx.export`."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"argument --onnx: needs onnx, onnxscript and onnxruntime: {error}"
        ) from error
    program: Any = torch.onnx.export(model, example, dynamo=True, verbose=False, **options)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def onnx_run(model: nn.Module, image_size: int) -> Callable[[Tensor], Run]:
    """A function from images to a run of the exported network on them."""
    session = onnx_session(model, image_size)
    (name,) = (value.name for value in session.get_inputs())

    def on(x: Tensor) -> Run:
        feed = {name: x.numpy()}
        return lambda: session.run(None, feed)

    return on
