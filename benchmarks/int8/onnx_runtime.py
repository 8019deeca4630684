"""ONNX Runtime: ``quantize_static``, with the layers that lose most left in float."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.int8.setup import BATCH_SIZE, cosine, features
from benchmarks.runtimes.onnx_runtime import new_run

NAME = "ONNX Runtime"
PACKAGES = ("onnxruntime", "onnx", "onnxscript")
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "all operators": {"operators": ()},
    "16-bit activations": {"activations": "QUInt16"},
    "convolutions": {},
    "convolutions, worst in float": {"at_least": 0.985},
}

CONVOLUTIONS = ("Conv", "Relu")
"""A Relu is quantized with its convolution; else what it cuts off takes part of the range."""
_SEARCHED = 64


class Quantized:
    """A quantized network in ONNX Runtime, a function from images to features.

    Args:
        path: of the quantized model.
        multiply_adds: of each of its convolutions.

    Attributes:
        session: of ONNX Runtime, on the CPU, with as many threads as torch has.
        share: the part of the multiply-adds of convolutions that are of integers.
    """

    def __init__(self, path: Path, multiply_adds: Mapping[str, int]) -> None:
        import onnxruntime

        integers = sum(multiply_adds[name] for name in _of_integers(path))
        self.share = integers / sum(multiply_adds.values())
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        # Processors without VNNI add products of 8 bits in 16 bits, which overflow, else.
        settings.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(
            path.read_bytes(), settings, providers=["CPUExecutionProvider"]
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Features (N, F) of images (N, 3, H, W)."""
        (y,) = new_run(self.session, x)()
        return torch.from_numpy(y)


class Exported:
    """A network in ONNX, and the ranges of its tensors: quantized as often as one likes.

    Args:
        model: in eval mode, gives (N, F).
        calibration: at least two images, (N, 3, H, W).
        folder: an empty one, for the models.
        operators: the types that are quantized; none stands for all that ONNX Runtime can.
        activations: a ``QuantType`` of ONNX Runtime.

    Attributes:
        multiply_adds: of each convolution, for one image.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Tensor,
        folder: Path,
        operators: Collection[str] = CONVOLUTIONS,
        activations: str = "QUInt8",
    ) -> None:
        import onnx
        from onnxruntime.quantization import load_tensors_data, quant_pre_process

        if len(calibration) < 2:
            raise ValueError("one image fixes the batch of the export: calibrate with two or more")
        exported, self._float = folder / "exported.onnx", folder / "float.onnx"
        example, batch = (calibration[:2],), ({0: Dim("batch")},)
        program: Any = torch.onnx.export(
            model, example, input_names=["x"], dynamo=True, dynamic_shapes=batch, verbose=False
        )
        program.save(exported)
        # Its symbolic shapes do not know ReduceMax, and what is exported has all shapes.
        quant_pre_process(exported, self._float, skip_symbolic_shape=True)
        self._graph = onnx.shape_inference.infer_shapes(onnx.load(self._float)).graph
        self.multiply_adds = self._multiply_adds()
        self._calibration, self._folder = calibration, folder
        self._operators, self._activations = list(operators), activations
        self._overrides: dict[str, Any] = {}
        self.quantized()
        ranges = load_tensors_data(self._folder / "ranges.json")
        for tensor, zero in self._into_hard_swish():
            if float(np.min(ranges[tensor].range_value[0])) < zero:
                self._overrides[tensor] = [{"rmin": np.float32(zero)}]

    def quantized(self, only: Collection[str] = (), but: Collection[str] = ()) -> Path:
        """Quantize, with 8-bit weights, one range per output channel.

        Args:
            only: the names of convolutions; none stands for all.
            but: of those that stay in float.

        Returns:
            The file, which the next call overwrites.
        """
        from onnxruntime.quantization import QuantType, quantize_static

        made = self._folder / "quantized.onnx"
        relus = [node.name for node in self._nodes("Relu")] if only else []
        quantize_static(
            self._float,
            made,
            _Batches(self._calibration),
            op_types_to_quantize=self._operators,
            nodes_to_quantize=[*only, *relus],
            nodes_to_exclude=list(but),
            per_channel=True,
            activation_type=QuantType[self._activations],
            weight_type=QuantType.QInt8,
            calibration_cache_path=self._folder / "ranges.json",
            extra_options={"TensorQuantOverrides": self._overrides},
        )
        return made

    def losses(self, wanted: Tensor) -> dict[str, float]:
        """The search by layer: cosine of the features with each convolution quantized alone.

        Args:
            wanted: the float features of the calibration images, as many as are read.
        """
        return {
            node.name: self.cosine(self.opened(self.quantized(only=[node.name])), wanted)
            for node in self._nodes("Conv")
        }

    def opened(self, made: Path) -> Quantized:
        """A quantized model, to be run."""
        return Quantized(made, self.multiply_adds)

    def cosine(self, made: Quantized, wanted: Tensor) -> float:
        """How near a quantized model comes to the wanted features of the calibration images."""
        return cosine(features(made, self._calibration[: len(wanted)]), wanted)

    def _multiply_adds(self) -> dict[str, int]:
        maps = {
            value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in [*self._graph.value_info, *self._graph.output]
        }
        weights = {value.name: list(value.dims) for value in self._graph.initializer}
        return {
            node.name: int(np.prod(maps[node.output[0]][1:] + weights[node.input[1]][1:]))
            for node in self._nodes("Conv")
        }

    def _into_hard_swish(self) -> Iterator[tuple[str, float]]:
        """Outputs of convolutions that only a HardSwish reads, and up to where it is 0.

        Pre-processing has made x * HardSigmoid(x) of it. What is below need not be told apart.
        """
        maps = {node.output[0] for node in self._nodes("Conv")}
        for gate in self._nodes("HardSigmoid"):
            (x,) = gate.input
            product = {x, gate.output[0]}
            readers = [set(node.input) for node in self._graph.node if x in node.input]
            if x in maps and sorted(map(len, readers)) == [1, 2] and product in readers:
                slope = {value.name: value.f for value in gate.attribute}
                yield x, -slope["beta"] / slope["alpha"]

    def _nodes(self, kind: str) -> list[Any]:
        return [node for node in self._graph.node if node.op_type == kind]


def quantize(
    model: nn.Module,
    calibration: Tensor,
    *,
    operators: Collection[str] = CONVOLUTIONS,
    activations: str = "QUInt8",
    at_least: float | None = None,
) -> Quantized:
    """Quantize a network; see :class:`benchmarks.int8.tool.Tool`.

    Args:
        model: in eval mode; it is left as it is.
        calibration: images, (N, 3, H, W).
        operators: the types that are quantized; none stands for all.
        activations: a ``QuantType`` of ONNX Runtime.
        at_least: if given, convolutions stay in float, those first that lose most for their
            multiply-adds, until the cosine on images of the calibration is that.
    """
    if at_least is not None and not 0 < at_least < 1:
        raise ValueError(f"at_least must be a cosine between 0 and 1, got {at_least}")
    with TemporaryDirectory() as folder:
        exported = Exported(model, calibration, Path(folder), operators, activations)
        if at_least is None:
            return exported.opened(exported.quantized())
        wanted = features(model, calibration[:_SEARCHED])
        losses, counts = exported.losses(wanted), exported.multiply_adds
        worst = sorted(losses, key=lambda name: (losses[name] - 1) / counts[name])
        for count in range(len(worst) + 1):
            made = exported.opened(exported.quantized(but=worst[:count]))
            if exported.cosine(made, wanted) >= at_least:
                return made
    raise ValueError(f"at_least: a cosine of {at_least} is not reached by the float network")


class _Batches:
    """The calibration images as ONNX Runtime reads them."""

    def __init__(self, images: Tensor) -> None:
        self._left = iter(torch.split(images, BATCH_SIZE))

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None behind the last."""
        batch = next(self._left, None)
        return None if batch is None else {"x": batch.numpy()}


def _of_integers(path: Path) -> Iterator[str]:
    """The convolutions that ONNX Runtime runs on integers: map, weight and result are quantized."""
    import onnx

    graph = onnx.load(path).graph
    made = {name: node for node in graph.node for name in node.output}
    eight = {v.name for v in graph.initializer if v.data_type in (v.INT8, v.UINT8)}
    quantized = {n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    relus = [n for n in graph.node if n.op_type == "Relu" and n.output[0] in quantized]
    quantized |= {relu.input[0] for relu in relus}
    for node in graph.node:
        sources = [made.get(name) for name in node.input[:2]]
        are_eight = all(source is not None and source.input[-1] in eight for source in sources)
        if node.op_type == "Conv" and node.output[0] in quantized and are_eight:
            yield node.name
