"""What the kernels take as a stage of a block whose layers are as they were made."""

import struct
import sys
from operator import attrgetter
from typing import Any, NamedTuple

from torch import Tensor, nn

from attnblocks.ops.native.small_layers import NEIGHBOURS, POSITIONS, Norm, Numbers
from attnblocks.ops.native.whole import Read, Stage

_forward = attrgetter("forward")
_PLAN = struct.Struct("3P2q6P")


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
    """A stage of a block.

    Args:
        layers: what it is made of.
        name: of the stage in the block; "" for the block itself.
        of: class of the stage; None for the block itself, whose class is known.
    """

    def __init__(self, layers: Layers, name: str = "", of: type[nn.Module] | None = None) -> None:
        kind, linear, act, norm, gate = layers
        self.made_of = layers, name, of
        self.kind, self.linear = kind, len(linear)
        three = (*linear, None, None)[:3]
        # The plan holds addresses, and this what is there.
        self.names = [name and sys.intern(name) for name in (name, *three, act, norm, gate)]
        self.of = of, of and _forward(of)
        stage, *others = [id(name) if name else 0 for name in self.names]
        owner = [id(part) if part else 0 for part in self.of]
        self.plan = _PLAN.pack(stage, *owner, kind, len(linear), *others)

    def __reduce__(self) -> tuple[Any, ...]:
        """The plan is of this process: another one makes its own."""
        return PlainStage, self.made_of

    def stage(self, read: Read) -> Stage | None:
        """The stage, from what was read of it; None where its norm is not as it was made."""
        act, gate, width, norm, *tensors = read
        if norm is not None and not _is_as_made(norm):
            return None
        return Numbers(self.kind, width, act, gate, norm and _norm(norm)), tensors

    def fits(self, stage: Stage, x: Tensor) -> bool:
        """Whether the tensors of a stage are those that the kernels take for a map."""
        (_, width, *_), tensors = stage
        channels = x.shape[1]
        if self.kind == NEIGHBOURS:
            shapes: list[tuple[int, ...]] = [(1, 1, width)]
        elif self.kind == POSITIONS:
            shapes = [(1, 2, width, width), *[(1,)] * 5]
        else:
            first, last = (width, channels, 1, 1), (channels, width, 1, 1)
            shapes = [first, *[(width,)] * 5, *[last, (channels,)] * (self.linear - 1)]
        gain = tensors[-1]
        own = () if self.kind == POSITIONS else (channels,)
        if gain is not None and gain.shape != () and gain.shape != own:
            return False
        return all(
            t is None or (t.dtype is x.dtype and t.is_cpu and t.is_contiguous() and t.numel() > 0)
            for t in tensors
        ) and all(
            t is None or t.shape == shape
            for t, shape in zip(tensors[: len(shapes)], shapes, strict=True)
        )


def _is_as_made(layer: dict[str, Any]) -> bool:
    """Whether all that ``_norm`` reads is where ``__init__`` put it; tensors are already known."""
    counter = "num_batches_tracked"
    own = layer.keys() >= {"training", "track_running_stats", "eps", "momentum"}
    return own and counter in layer["_buffers"] and counter not in layer


def _norm(layer: dict[str, Any]) -> Norm:
    """How a batch norm normalises now, as its ``forward`` has it."""
    mean, variance = layer["_buffers"]["running_mean"], layer["_buffers"]["running_var"]
    if not layer["training"] and mean is not None:
        return Norm(False, layer["eps"])
    updates = layer["training"] and layer["track_running_stats"]
    return Norm(
        True,
        layer["eps"],
        (mean, variance) if updates else (None, None),
        layer["_buffers"]["num_batches_tracked"] if updates else None,
        layer["momentum"],
    )
