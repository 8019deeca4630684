"""PT2E quantization, the part that both backends share: export, observe, convert, count."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import prod
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule, Node

from benchmarks.int8.setup import BATCH_SIZE

if TYPE_CHECKING:
    from torchao.quantization.pt2e.quantizer import Quantizer

PACKAGES = ("torchao",)

_PRODUCTS = {
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.linear.default,
}
_HARDSWISH = {torch.ops.aten.hardswish.default, torch.ops.aten.hardswish_.default}


def depthwise(model: nn.Module) -> list[str]:
    """The names of the convolutions with one input channel per group, several groups."""
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
    ]


def check_names(model: nn.Module, names: Collection[str]) -> None:
    """Raise LookupError unless all of these are modules of the model."""
    known = {name for name, _ in model.named_modules()}
    if unknown := sorted({*names} - known):
        raise LookupError(f"but: the network has no module {unknown[0]!r}")


def quantized(
    model: nn.Module,
    calibration: Tensor,
    quantizer: Quantizer,
    *,
    clip: bool = False,
    fold: bool = True,
) -> GraphModule:
    """Export with a free batch, observe the calibration images, and convert.

    Height and width stay those of the images: where they are free, the export of networks with
    TensorFlow's padding takes minutes.

    Args:
        model: in eval mode; it is left as it is.
        calibration: images, (N, 3, H, W).
        quantizer: of the backend; it says which layers are quantized, and how.
        clip: whether maps that hard swish alone reads get a range that begins at -3: what is below
            becomes 0 there, and needs no integers.
        fold: whether weights are kept as integers; else as float32 with an operator that
            quantizes them, as the search by layer wants it.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    exported = torch.export.export(model, (calibration[:2],), dynamic_shapes=({0: Dim("batch")},))
    prepared = prepare_pt2e(exported.module(), quantizer)
    if clip:
        _clip(prepared)
    with torch.no_grad():
        for batch in torch.split(calibration, BATCH_SIZE):
            prepared(batch)
    converted: GraphModule = convert_pt2e(prepared, fold_quantize=fold)
    return converted


def _clip(prepared: GraphModule) -> None:
    """Show the observers in front of hard swish nothing below -3.

    An observer may be shared by several maps, such as those in front of and behind a pooling: it
    is left as it is unless hard swish alone reads all of them.
    """
    readers: dict[nn.Module, set[Any]] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            observer = prepared.get_submodule(str(node.target))
            readers.setdefault(observer, set()).update(user.target for user in node.users)
    for observer, found in readers.items():
        if found and found <= _HARDSWISH:
            observer.register_forward_pre_hook(lambda _, args: (args[0].clamp(min=-3),))


def int8_share(graph: GraphModule) -> float:
    """The part of the multiply-adds of convolutions and linear layers that are of integers.

    These are the ones whose map and weight are both dequantized in front of them: the backend runs
    such a layer on the integers.
    """
    counts = [(_multiply_adds(graph, node), _is_int8(node)) for node in products(graph)]
    return sum(n for n, is_int8 in counts if is_int8) / sum(n for n, _ in counts)


def products(graph: GraphModule) -> Iterator[Node]:
    """The convolutions and linear layers."""
    return (node for node in graph.graph.nodes if node.target in _PRODUCTS)


def is_quantize(node: object) -> bool:
    """Whether a node makes integers of floats."""
    return isinstance(node, Node) and _name(node).startswith("quantize_per")


def is_dequantize(node: object) -> bool:
    """Whether a node makes floats of integers."""
    return isinstance(node, Node) and _name(node).startswith("dequantize_per")


def _name(node: Node) -> str:
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""


def _is_int8(product: Node) -> bool:
    return all(is_dequantize(_behind_padding(x)) for x in product.args[:2])


def _behind_padding(node: object) -> object:
    """A padding in front of a convolution is one with it in the backends."""
    pads = (torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default)
    return node.args[0] if isinstance(node, Node) and node.target in pads else node


def _multiply_adds(graph: GraphModule, product: Node) -> int:
    """For one image: elements of the output times elements of the weight behind each of them."""
    weight = product.args[1]
    while isinstance(weight, Node) and weight.op == "call_function":  # to the stored tensor
        weight = weight.args[0]
    assert isinstance(weight, Node)  # for mypy
    per_output = attrgetter(str(weight.target))(graph)[0].numel()
    return int(prod(product.meta["val"].shape[1:]) * per_output)
