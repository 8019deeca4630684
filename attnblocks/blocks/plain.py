"""Reads the layers of a stage that are as they were made, with nothing on them.

All of it is looked at in every call, so that nothing can be out of date; to take little time, that
goes past the attribute access of modules.
"""

import functools
from collections.abc import Callable
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from torch import Tensor, nn

from attnblocks.ops.native.small_layers import NEIGHBOURS, Norm, Numbers
from attnblocks.ops.native.whole import Stage

FUNCTIONS: tuple[type[nn.Module], ...] = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.SiLU,
    nn.Sigmoid,
    nn.Hardsigmoid,
)
"""Activations and gates, in the order of their numbers in the kernels."""

_members, _shape = attrgetter("__dict__"), attrgetter("shape")
_affine, _running = itemgetter("weight", "bias"), itemgetter("running_mean", "running_var")


class Layers(NamedTuple):
    """What makes the gates of a stage, by names of its layers.

    Attributes:
        kind: of the stage, such as ``MEANS``.
        linear: the layers with weights, in the order in which they run.
        act: the activation; None for none.
        norm: the norm; None for a stage that has no place for one.
        gate: the function from logits to gates.
    """

    kind: int
    linear: tuple[str, ...]
    act: str | None = None
    norm: str | None = None
    gate: str = "gate"


class PlainStage:
    """Reads a stage of a block.

    Args:
        layers: what it is made of.
        name: of the stage in the block; "" for the block itself.
        of: class of the stage; None for the block itself, whose class is known.
    """

    def __init__(self, layers: Layers, name: str = "", of: type[nn.Module] | None = None) -> None:
        kind, linear, act, norm, gate = layers
        self.name, self.of, self.kind, self.linear = name, of, kind, len(linear)
        self.has_act, self.has_norm = act is not None, norm is not None
        names = [name for name in (*linear, act, gate, norm) if name]
        self.layers: Callable[[dict[str, Any]], tuple[nn.Module, ...]] = itemgetter(*names)
        # Of classes and numbers alone: these never change.
        self.functions, self.usual = functools.cache(self._functions), functools.cache(self._usual)
        # With the shape of the weight, what a pointwise convolution can have otherwise.
        form = ("stride", "padding", *(("dilation", "padding_mode") if kind == NEIGHBOURS else ()))
        self.form: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(*form)

    def _functions(self, classes: tuple[type[nn.Module], ...]) -> tuple[int, int, bool] | None:
        """Numbers of activation and gate, and whether there is a norm, by classes of layers."""
        linear, others = classes[: self.linear], list(classes[self.linear :])
        norm = others.pop() if self.has_norm else nn.Identity
        act, gate = others if self.has_act else (nn.Identity, *others)
        if {*linear} != {nn.Conv1d if self.kind == NEIGHBOURS else nn.Conv2d}:
            return None
        if norm not in (nn.BatchNorm2d, nn.Identity) or not {act, gate} <= {*FUNCTIONS}:
            return None
        return FUNCTIONS.index(act), FUNCTIONS.index(gate), norm is nn.BatchNorm2d

    def _usual(
        self, width: int, channels: int, normed: bool
    ) -> tuple[tuple[Any, ...], list[tuple[int, ...]]]:
        """The form of the layers with weights, and the shapes of all tensors but the gain."""
        if self.kind == NEIGHBOURS:
            return ((1,), (width // 2,), (1,), "zeros"), [(1, 1, width), (0,)]
        first = [(width, channels, 1, 1), (width,)]
        last = [(channels, width, 1, 1), (channels,)] * (self.linear - 1)
        return ((1, 1), (0, 0)), [*first, *last, *[(width,)] * (4 * normed)]

    def read(self, block: nn.Module, channels: int, absent: Tensor) -> Stage | None:
        """The stage of a block as the kernels take it.

        Args:
            block: the block.
            channels: of its map.
            absent: stands for tensors that a layer does not have.

        Returns:
            None where a call would meet something else than the layers, or the layers are not
            those that the kernels know.

        Raises:
            KeyError: a module lacks something that it was made with.
        """
        own = block.__dict__
        if self.of is not None:
            stage = own["_modules"][self.name]
            own = stage.__dict__
            if type(stage) is not self.of:
                return None
        layers = self.layers(own["_modules"])
        functions = self.functions(tuple(map(type, layers)))
        if functions is None:
            return None
        members: list[dict[str, Any]] = [*map(_members, layers)]
        for module in members if self.of is None else (own, *members):
            if (
                module["_forward_hooks"]
                or module["_forward_pre_hooks"]
                or module["_backward_hooks"]
                or module["_backward_pre_hooks"]
                or "forward" in module
                or "_compiled_call_impl" in module
            ):
                return None
        act, gate, normed = functions
        neighbours = self.kind == NEIGHBOURS
        width = members[0]["kernel_size"][0] if neighbours else members[0]["out_channels"]
        form, shapes = self.usual(width, channels, normed)
        tensors: list[Tensor] = []
        for layer in members[: self.linear]:
            if self.form(layer) != form or "_conv_forward" in layer:
                return None
            weight, bias = _affine(layer["_parameters"])
            tensors += (weight, absent if bias is None else bias)
        norm = None
        if normed:
            norm, of_norm = _read_norm(members[-1])
            tensors += [absent if t is None else t for t in of_norm]
        if [*map(_shape, tensors)] != shapes and not all(
            t is absent or t.shape == shape for t, shape in zip(tensors, shapes, strict=True)
        ):
            return None
        gain = own["_buffers"]["gain"]
        if gain is None:
            gain = absent
        elif gain.shape != (channels,) and gain.shape != ():
            return None
        tensors[2:2] = tensors[-4:] if normed else [absent] * 4
        end = 6 + 2 * self.linear - 2
        tensors[end:] = [absent, absent, gain] if neighbours else [gain]
        if isinstance(norm, Norm):
            return Numbers(self.kind, width, act, gate, norm), tensors
        return _at_rest(self.kind, width, act, gate, norm), tensors


@functools.lru_cache(256)
def _at_rest(kind: int, width: int, act: int, gate: int, eps: float | None) -> Numbers:
    """The numbers of a stage, whose norm, if any, takes its running statistics alone."""
    return Numbers(kind, width, act, gate, None if eps is None else Norm(False, eps))


def _read_norm(layer: dict[str, Any]) -> tuple[Norm | float, tuple[Tensor | None, ...]]:
    """How a batch norm normalises now, as its ``forward`` has it, and its tensors.

    Returns:
        For one that only takes its running statistics, its ``eps``.

    Raises:
        KeyError: it has one of two statistics.
    """
    buffers, training = layer["_buffers"], layer["training"]
    running = mean, variance = _running(buffers)
    tensors = _affine(layer["_parameters"]) + running
    if (mean is None) is not (variance is None):
        raise KeyError("running_mean and running_var")
    if not training and mean is not None:
        return layer["eps"], tensors
    updates = training and layer["track_running_stats"]
    norm = Norm(
        True,
        layer["eps"],
        running if updates else (None, None),
        buffers["num_batches_tracked"] if updates else None,
        layer["momentum"],
    )
    return norm, tensors
