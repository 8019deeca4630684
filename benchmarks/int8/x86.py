"""PT2E for x86: the compiler of torch runs what the quantizer of torchao annotates."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from benchmarks.int8 import pt2e

NAME = "PT2E x86"
PACKAGES = pt2e.PACKAGES
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "depthwise float": {"depthwise": False},
    "depthwise and first stage float": {"depthwise": False, "but": ("blocks.0",)},
}


def quantize(
    model: nn.Module,
    calibration: Tensor,
    *,
    depthwise: bool = True,
    but: tuple[str, ...] = (),
    fold: bool = True,
) -> GraphModule:
    """Quantize; what comes out is what ``torch.compile`` lowers to integer kernels.

    Args:
        model: in eval mode; it is left as it is.
        calibration: images, (N, 3, H, W).
        depthwise: whether depthwise convolutions are quantized.
        but: names of other modules that stay in float.
        fold: as in :func:`benchmarks.int8.pt2e.quantized`.
    """
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    pt2e.check_names(model, but)
    config = x86.get_default_x86_inductor_quantization_config()
    quantizer = x86.X86InductorQuantizer().set_global(config)
    for name in (*but, *([] if depthwise else pt2e.depthwise(model))):
        quantizer.set_module_name_qconfig(name, None)
    return pt2e.quantized(model, calibration, quantizer, fold=fold)
