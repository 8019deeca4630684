"""OpenVINO: ``nncf.quantize``, with depthwise convolutions and those that lose most in float."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.int8.setup import cosine, features
from benchmarks.runtimes.runtime import exported

NAME = "OpenVINO"
PACKAGES = ("nncf", "openvino")
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {"preset": "PERFORMANCE", "overflow_fix": "FIRST_LAYER", "depthwise": True},
    "depthwise float": {},
    "depthwise float, 8-bit weights": {"overflow_fix": "DISABLE"},
    "depthwise and worst in float": {"at_least": 0.985},
}

_SEARCHED = 64
_OBSERVED = 8
"""Images that nncf observes at once."""


class Quantized:
    """A model compiled for the CPU, a function from images to features.

    Args:
        model: an ``openvino.Model``.

    Attributes:
        model: the same.
        share: the part of the multiply-adds of convolutions that are of integers.
    """

    def __init__(self, model: Any) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",  # processors with bfloat16 would round to it
        }
        self.model = model
        integers = sum(_multiply_adds(layer) for layer in _layers(model) if _is_int8(layer))
        self.share = integers / sum(multiply_adds(model).values())
        self._compiled = openvino.compile_model(model, "CPU", settings)

    def __call__(self, x: Tensor) -> Tensor:
        """Features (N, F) of images (N, 3, H, W)."""
        return torch.from_numpy(self._compiled([x.numpy()])[0].copy())


def quantize(
    model: nn.Module,
    calibration: Tensor,
    *,
    preset: str = "MIXED",
    overflow_fix: str = "ENABLE",
    depthwise: bool = False,
    at_least: float | None = None,
) -> Quantized:
    """Quantize a network; see :class:`benchmarks.int8.tool.Tool`.

    Args:
        model: in eval mode; it is left as it is.
        calibration: images, (N, 3, H, W).
        preset: a ``QuantizationPreset`` of nncf; MIXED has a zero point for activations.
        overflow_fix: an ``OverflowFix`` of nncf: ENABLE gives weights 7 bits, for processors
            without VNNI, where sums of products of 8 bits overflow.
        depthwise: whether depthwise convolutions are quantized.
        at_least: if given, convolutions stay in float, those first that lose most for their
            multiply-adds, until the cosine on images of the calibration is that.
    """
    import openvino

    if at_least is not None and not 0 < at_least < 1:
        raise ValueError(f"at_least must be a cosine between 0 and 1, got {at_least}")
    float_model = openvino.convert_model(exported(model, calibration[:2], frozenset({"batch"})))
    float_model.reshape([-1, *calibration.shape[1:]])  # sizes to count multiply-adds by
    kept = () if depthwise else ("GroupConvolution",)
    made = _quantized(float_model, calibration, kept, preset, overflow_fix)
    if at_least is None:
        return Quantized(made)
    shown = calibration[:_SEARCHED]
    wanted = features(model, shown)
    found, counts = losses(float_model, made, shown, wanted), multiply_adds(made)
    worst = sorted(found, key=lambda name: (found[name] - 1) / counts[name])
    for count in range(len(worst) + 1):
        partly = Quantized(with_float(float_model, made, worst[:count]))
        if cosine(features(partly, shown), wanted) >= at_least:
            return partly
    raise ValueError(f"at_least: a cosine of {at_least} is not reached with convolutions in float")


def losses(float_model: Any, made: Any, images: Tensor, wanted: Tensor) -> dict[str, float]:
    """The search by layer: cosine of the features with each convolution in integers alone.

    Args:
        float_model: an ``openvino.Model``.
        made: what nncf makes of it.
        images: what the features are read on.
        wanted: those of the float model.
    """
    names = [layer.get_friendly_name() for layer in _layers(made) if _is_int8(layer)]

    def alone(name: str) -> float:
        partly = with_float(float_model, made, [other for other in names if other != name])
        return cosine(features(Quantized(partly), images), wanted)

    return {name: alone(name) for name in names}


def with_float(float_model: Any, made: Any, names: Collection[str]) -> Any:
    """A copy of a quantized model in which some convolutions are in float, with their weights."""
    import openvino

    copy = made.clone()
    sources = {layer.get_friendly_name(): layer.input_value(1) for layer in _layers(float_model)}
    for layer in _layers(copy):
        name = layer.get_friendly_name()
        if name in names:
            weights = openvino.op.Constant(sources[name].get_node().data)
            layer.input(1).replace_source_output(weights.output(0))
            quantizer = layer.input_value(0).get_node()
            layer.input(0).replace_source_output(quantizer.input_value(0))
    return copy


def multiply_adds(model: Any) -> dict[str, int]:
    """Of each convolution, for one image."""
    return {layer.get_friendly_name(): _multiply_adds(layer) for layer in _layers(model)}


def _quantized(
    model: Any, calibration: Tensor, kept: tuple[str, ...], preset: str, overflow_fix: str
) -> Any:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    batches = [batch.numpy() for batch in torch.split(calibration, _OBSERVED)]
    return nncf.quantize(
        model,
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset[preset],
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(types=list(kept), validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            overflow_fix=OverflowFix[overflow_fix],
            disable_bias_correction=True,  # corrected biases are wrong beside weights in float
        ),
    )


def _layers(model: Any) -> list[Any]:
    kinds = ("Convolution", "GroupConvolution")
    return [layer for layer in model.get_ordered_ops() if layer.get_type_name() in kinds]


def _is_int8(layer: Any) -> bool:
    """Whether a convolution gets a quantized map, and weights that were."""
    x, weights = (layer.input_value(i).get_node().get_type_name() for i in range(2))
    return bool(x == "FakeQuantize" and weights != "Constant")


def _multiply_adds(layer: Any) -> int:
    places = [size.get_length() for size in list(layer.get_output_partial_shape(0))[2:]]
    return math.prod([*places, *layer.get_input_shape(1)])
