"""PT2E for XNNPACK: ExecuTorch runs what its quantizer annotates."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from benchmarks.int8 import pt2e
from benchmarks.int8.setup import Run

NAME = "PT2E XNNPACK"
PACKAGES = (*pt2e.PACKAGES, "executorch")
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "clip": {"clip": True},
    "clip, stem and depthwise float": {"clip": True, "depthwise": False, "but": ("conv_stem",)},
    "dynamic": {"dynamic": True},
}


def quantize(
    model: nn.Module,
    calibration: Tensor,
    *,
    dynamic: bool = False,
    depthwise: bool = True,
    but: tuple[str, ...] = (),
    clip: bool = False,
    fold: bool = True,
) -> GraphModule:
    """Quantize for :func:`lower`; a scale for each channel of a weight.

    Args:
        model: in eval mode; it is left as it is.
        calibration: images, (N, 3, H, W).
        dynamic: whether each map gets its range as it comes, and not from the calibration;
            XNNPACK leaves depthwise convolutions in float then, and those that a ReLU follows.
        depthwise: whether depthwise convolutions are quantized.
        but: names of other modules that stay in float.
        clip: as in :func:`benchmarks.int8.pt2e.quantized`.
        fold: likewise.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    pt2e.check_names(model, but)
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    quantizer = XNNPACKQuantizer().set_global(config)
    left = {*but, *([] if depthwise else pt2e.depthwise(model))}
    quantizer.set_filter_function(lambda node: left.isdisjoint(_modules(node)))
    return pt2e.quantized(model, calibration, quantizer, clip=clip, fold=fold)


def lower(graph: nn.Module, image: Tensor) -> Run:
    """What ExecuTorch runs, image by image.

    Args:
        graph: from :func:`quantize`, or a float network.
        image: one image, of the shape that it will get.
    """
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    program = torch.export.export(graph, (image,))
    # With dynamic ranges, layers in one delegate fail when they run: each needs one of its own.
    dynamic = XnnpackPartitioner(
        config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True
    )
    lowered = to_edge_transform_and_lower(program, partitioner=[dynamic, XnnpackPartitioner()])
    buffer = lowered.to_executorch().buffer
    held = buffer, Runtime.get().load_program(buffer)  # the program reads from the buffer

    def run(images: Tensor) -> Tensor:
        method = held[1].load_method("forward")
        assert method is not None  # for mypy: the program has this one
        ones = torch.split(images.contiguous(), 1)
        return torch.cat([method.execute([one])[0].clone() for one in ones])

    return run


def _modules(node: Node) -> set[str]:
    """The names of the modules that a node is in, also those around them."""
    stack = node.meta.get("nn_module_stack") or {}
    return {name for name, _ in stack.values()}
