"""Computes what a program of Core ML says, from its operators: Core ML itself is not on Linux.

The operators are those of coremltools' documentation,
https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Inputs = Mapping[str, Any]


def _conv(i: Inputs) -> Tensor:
    x, weight = i["x"], i["weight"]
    dims = weight.dim() - 2
    if i["pad_type"] == "custom":
        before, after = i["pad"][::2], i["pad"][1::2]
    else:
        assert i["pad_type"] == "valid"
        before = after = [0] * dims
    pad = [p for pair in list(zip(before, after, strict=True))[::-1] for p in pair]
    convolve = {1: F.conv1d, 2: F.conv2d}[dims]
    strides, dilations = i["strides"].tolist(), i["dilations"].tolist()
    x = F.pad(x, [int(p) for p in pad])
    return convolve(x, weight, i.get("bias"), strides, 0, dilations, int(i["groups"]))


def _reduce(name: str) -> Callable[[Inputs], Tensor]:
    return lambda i: getattr(torch, name)(i["x"], i["axes"].tolist(), keepdim=bool(i["keep_dims"]))


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Tensor]:
    return lambda i: function(i["x"])


def _expand_dims(i: Inputs) -> Tensor:
    x = i["x"]
    for axis in sorted(i["axes"].tolist()):
        x = x.unsqueeze(axis)
    return x


OPERATORS: dict[str, Callable[[Inputs], Tensor]] = {
    "add": lambda i: i["x"] + i["y"],
    "concat": lambda i: torch.cat(list(i["values"]), int(i["axis"])),
    "conv": _conv,
    "expand_dims": _expand_dims,
    "linear": lambda i: F.linear(i["x"], i["weight"], i.get("bias")),
    "mul": lambda i: i["x"] * i["y"],
    "reduce_max": _reduce("amax"),
    "reduce_mean": _reduce("mean"),
    "reduce_sum": _reduce("sum"),
    "relu": _unary(torch.relu),
    "sigmoid": _unary(torch.sigmoid),
    "sigmoid_hard": lambda i: (i["alpha"] * i["x"] + i["beta"]).clamp(0, 1),
    "squeeze": lambda i: i["x"].squeeze(i["axes"].tolist()),
    "thresholded_relu": lambda i: torch.where(i["x"] >= i["alpha"], i["x"], 0.0),
    "transpose": lambda i: i["x"].permute(i["perm"].tolist()),
}
"""By the name of the operator: from its inputs to its output."""


def compute(program: Any, x: Tensor) -> Tensor:
    """The output of a program of one input and one output.

    Raises:
        KeyError: an operator that is not among those above.
    """
    function = program.functions["main"]
    ((name, _),) = function.inputs.items()
    values: dict[str, Any] = {name: x}

    def value(var: Any) -> Any:
        if isinstance(var, (tuple, list)):
            return [value(v) for v in var]
        if var.name in values:
            return values[var.name]
        constant = var.val
        return constant if isinstance(constant, str) else torch.as_tensor(constant)

    for op in function.operations:
        if op.op_type != "const":
            inputs = {k: value(v) for k, v in op.inputs.items() if v is not None}
            (output,) = op.outputs
            values[output.name] = OPERATORS[op.op_type](inputs)
    (output,) = function.outputs
    result: Tensor = values[output.name]
    return result
