"""The base of all blocks: a block owns what is known about it.

A subclass says in one place what it computes, what its gates are for, which of its layers are those
of an SE block, and how it starts from one. The swap, recipes, files and pictures ask the block.
"""

from collections.abc import Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeVar

import torch.fx
from torch import Tensor, nn

from attnblocks.blocks.gain import stages_of
from attnblocks.blocks.published import rename_published
from attnblocks.blocks.se_layers import SELayers
from attnblocks.blocks.whole import Whole
from attnblocks.ops import functional as F

PLACE = ("device", "dtype")
"""Constructor arguments that say where a block is, and not what it is."""

B = TypeVar("B", bound="AttentionBlock")


class OldGate(Protocol):
    """The channel gate of the block that a new one replaces, as ``inherit`` gets it."""

    @property
    def gain(self) -> Tensor | None:
        """Its gain, of shape () or (C,), float64, on the CPU; None for none."""
        ...

    def usual_gates(self) -> Tensor:
        """The old gates for usual means, gain included; (C,), above 0, float64, on the CPU."""
        ...

    def usual_logits(self, gate: nn.Module, count: int = 1, gain: Tensor | None = None) -> Tensor:
        """Logits at which the product of ``count`` equal gates is the old gate for usual means.

        Args:
            gate: the function from logits to gates.
            count: how many such gates are multiplied.
            gain: of each of these gates; None for none.

        Returns:
            (C,), float64, on the CPU.
        """
        ...


class AttentionBlock(nn.Module):
    """Base of the blocks: an ``nn.Module`` that multiplies its input by gates.

    A block defines ``gates``; how the gates are applied is the same for all blocks. The arguments
    that it is built with are recorded, so that a recipe can name them.

    The blocks of this library share these arguments, where they have them; the defaults are
    in each signature:

    - ``channels``: channels C of the map, first and positional.
    - ``rd_channels``: width of the bottleneck; ``rd_ratio``: that width over channels, used where
      ``rd_channels`` is None.
    - ``act_layer``, ``gate_layer``: make the activation and the gate function, elementwise, called
      without arguments: a class such as ``nn.ReLU``, or any function that returns a new module.
    - ``norm_layer``: makes the norm, called as ``norm_layer(width, device=device, dtype=dtype)``;
      None for no norm.
    - ``gain``: constant factor of the gates, a number or one per channel, kept in a buffer and in
      recipes and state dicts; None, the published block, for none. State dicts without it load into
      a block with it as a gain of 1, with a warning.
    - ``device``, ``dtype``: where and in which type to create the parameters.

    Args:
        channels: channels C of the map that comes in and goes out; left out by a block that
            reads them off its layers.
        rd_channels: width of the block's bottleneck; None for a block that has none.

    Attributes:
        gate_names: what each gate is for: ``channel``, ``rows``, ``columns`` or ``positions``.
        any_channels: whether a built block takes maps with any number of channels.
        published_names: names of layers in published code, each with the block's own, such as
            ``{"conv2": "conv_h"}``: ``load_state_dict`` takes both, and weights of linear layers
            for 1x1 convolutions.
        whole: internal: how the kernels run a block of this very class in one call; None where its
            layers are called.

    Shape:
        Input and output (N, C, H, W), with the same dtype, device and memory format.

    Raises:
        ValueError: a width or kernel size below 1, an even kernel size, a ratio not above 0; in
            ``forward`` a map that is not (N, C, H, W) with H and W above 0, or, in train mode, a
            batch norm that sees a single value for a channel.
        TypeError: a width or size that is not an int, a layer argument that makes no module.

    Example:
        >>> class Mean(AttentionBlock):
        ...     gate_names = ("channel",)
        ...     def gates(self, x):
        ...         return [x.mean((2, 3), keepdim=True).sigmoid()]
        >>> Mean(64)(torch.rand(2, 64, 7, 7)).shape
        torch.Size([2, 64, 7, 7])
    """

    gate_names: ClassVar[tuple[str, ...]] = ()
    any_channels: ClassVar[bool] = False
    published_names: ClassVar[Mapping[str, str]] = MappingProxyType({})
    whole: ClassVar[Whole | None] = None
    _built_with: Mapping[str, Any] = MappingProxyType({})

    def __new__(cls: type[B], *args: Any, **kwargs: Any) -> B:
        """Record the arguments; in ``__init__``, a base would overwrite them with its own."""
        block = super().__new__(cls)
        try:
            given = signature(cls.__init__).bind(block, *args, **kwargs)
        except TypeError:  # copies are made without any; __init__ reports wrong ones
            return block
        given.apply_defaults()
        vars(block)["_built_with"] = {
            name: value
            for name, value in list(given.arguments.items())[1:]
            if name not in PLACE and is_plain(value)
        }
        return block

    def __init__(self, channels: int | None = None, rd_channels: int | None = None) -> None:
        super().__init__()
        vars(self).update(channels=channels, rd_channels=rd_channels)

    @property
    def channels(self) -> int:
        """Channels of the map; a block whose layers know them reads them there."""
        channels: int = vars(self)["channels"]
        return channels

    @property
    def rd_channels(self) -> int | None:
        """Width of the bottleneck, likewise; None for a block that has none."""
        rd_channels: int | None = vars(self)["rd_channels"]
        return rd_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gates."""
        whole = None if torch.compiler.is_compiling() else self.whole
        if whole is not None and (y := whole.run(self, x)) is not None:
            return y
        self.check_input(x)
        return F.apply_gates(x, self.gates(x))

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError unless ``x`` is a map (N, channels, H, W), H and W not 0."""
        check_map(x, type(self).__name__, None if self.any_channels else self.channels)

    def gates(self, x: Tensor) -> list[Tensor]:
        """The gates of ``x``: tensors that broadcast to it, each in [0, 1] by default."""
        raise NotImplementedError(f"{type(self).__name__} defines no gates")

    def se_layers(self) -> SELayers | None:
        """Which layers are those of an SE block; None, the default, for a block without them.

        ``replace_se`` writes the weights of the block that stood there into them, and a block that
        later takes this one's place reads them.
        """
        return None

    def inherit(self, old: OldGate) -> float:
        """Initialise all other layers to replace an SE block; by default they stay fresh.

        Args:
            old: the channel gate of that block.

        Returns:
            The product of the gates of the other layers at the start. The gate of ``se_layers`` is
            initialised afterwards, and makes up for it.
        """
        return 1.0

    def start_as_identity(self) -> None:
        """Start as the identity, to the bit, with all gates at the middle of their range.

        The last layers of all stages start at zero, and each gate gets the gain with which it is 1:
        2 for a sigmoid. (A sample with an infinite or NaN statistic gets gates that are NaN.)

        Raises:
            ValueError: a gate function that is not above 0 at a logit of 0; a stage has another
                gain, from its maker, an inherited start or a fit. Nothing is changed then.
            NotImplementedError: a block without such stages, which does not override this.

        Example:
            >>> from attnblocks import CBAM
            >>> block, x = CBAM(64), torch.rand(2, 64, 14, 14)
            >>> block.start_as_identity()
            >>> torch.equal(block(x), x)
            True
        """
        stages = stages_of(self)
        if not stages:
            raise NotImplementedError(
                f"{type(self).__name__} has no stage with a gain, whose gates could start at 1: "
                "override its start_as_identity"
            )
        for stage in stages:
            stage.gain_to_start_at_one()  # or raise, before any is changed
        for stage in stages:
            stage.start_at_one()

    @classmethod
    def from_se(cls, layers: SELayers) -> "AttentionBlock | None":
        """A block that takes over all of an SE block, if its class has such a form.

        Args:
            layers: those of the SE block.

        Returns:
            The block, on the device of these layers, with their widths and functions; None, the
            default, if there is none. Then a block with its published widths inherits.
        """
        return None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Called by ``load_state_dict``; a hook would not be in pickles of older versions."""
        rename_published(self, self.published_names, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __prepare_scriptable__(self) -> None:
        """Called by ``torch.jit.script``, which cannot choose between forms of a function."""
        raise TypeError(
            f"torch.jit.script, which torch has deprecated, does not take {type(self).__name__}: "
            "use torch.jit.trace, torch.export or torch.compile"
        )

    def extra_repr(self) -> str:
        """The widths, for ``print(model)``."""
        rd = "" if self.rd_channels is None else f", rd_channels={self.rd_channels}"
        gain = getattr(self, "gain", None)
        gained = "" if gain is None else f", gain={tuple(gain.shape)}"
        return f"channels={self.channels}{rd}{gained}"


def is_plain(value: object) -> bool:
    """Whether JSON can hold a value as it is."""
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


@torch.fx.wrap
def check_map(x: Tensor, block: str, channels: int | None) -> None:
    """Raise ValueError unless ``x`` is (N, channels, H, W), H and W not 0; one step in a trace."""
    if x.dim() != 4:
        raise ValueError(
            f"{block} takes a map of 4 dimensions (N, C, H, W), got {x.dim()}: "
            f"shape {tuple(x.shape)}"
        )
    if channels is not None and x.shape[1] != channels:
        raise ValueError(
            f"{block} was built for {channels} channels, got {x.shape[1]}: shape {tuple(x.shape)}"
        )
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(f"{block} takes a map with positions, got shape {tuple(x.shape)}")


@torch.fx.wrap
def check_means(means: Tensor, channels: int) -> None:
    """Raise ValueError unless ``means`` are (N, channels, 1, 1); one step in a trace."""
    if tuple(means.shape[1:]) != (channels, 1, 1):
        raise ValueError(
            f"the channel gate of a block takes the means of its map, (N, {channels}, 1, 1), "
            f"got shape {tuple(means.shape)}"
        )
