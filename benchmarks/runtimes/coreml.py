"""Networks converted to Core ML from a trace; they run on machines of Apple alone."""

from collections import Counter
from typing import Any

from torch import Tensor, nn

from benchmarks.runtimes.runtime import DIMENSIONS, Converted, conversion
from benchmarks.runtimes.tracing import traced

NAME = "Core ML"
PACKAGES = ("coremltools",)

UP_TO = {"batch": 64, "height": 1024, "width": 1024}
"""The largest of each size that is free; Core ML wants to know."""

FROM = {"batch": 1, "height": 32, "width": 32}
"""The smallest."""


def convert(model: nn.Module, example: Tensor, free: frozenset[str]) -> Converted:
    """Trace and convert the network; see :class:`benchmarks.runtimes.runtime.Runtime`."""
    operators = operators_of(package_of(model, example, free))
    return Converted(run=None, prepare=None, operators=operators)


def package_of(model: nn.Module, example: Tensor, free: frozenset[str]) -> Any:
    """The converted network, as coremltools has it; arguments are those of :func:`convert`."""
    import coremltools as ct

    shape: list[Any] = list(example.shape)
    for name in free:
        size = shape[DIMENSIONS[name]]
        shape[DIMENSIONS[name]] = ct.RangeDim(FROM[name], UP_TO[name], default=size)
    with conversion():
        return ct.convert(
            traced(model, example),
            inputs=[ct.TensorType("images", shape=shape)],
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )


def operators_of(package: Any) -> Counter[str]:
    """The operators of a converted network, without its constants."""
    (block,) = package.get_spec().mlProgram.functions["main"].block_specializations.values()
    return Counter(operation.type for operation in block.operations if operation.type != "const")
