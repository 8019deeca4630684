"""Gains: constant factors of gates.

A gate that stands in the middle of its range has its steepest slope there, and so learns best. With
a gain the product of a block can be 1 nevertheless: at logits of 0 a sigmoid is 1/2, times 2.
"""

import math
import re
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnblocks.blocks.layers import LEAST_SLOPE, float64_copy

Gain = float | Sequence[float] | Tensor
"""A number, or one for each channel."""


class GainedStage(nn.Module):
    """A module that makes gates, which may have a gain.

    Attributes:
        gate_names: what its gates are for: ``channel``, ``rows``, ``columns`` or ``positions``.
        gain: the factor of its gates, a buffer of shape () or (C,); None for none.
        gate: the function from logits to gates.
        logit_names: names of the layers whose output are the logits.
        hidden_names: names of the layer and of the activation that make its hidden units; None
            where it has none.
        across_channels: whether its layers run across the channels, and so are as they are for any
            number of channels.
    """

    gate_names: ClassVar[tuple[str, ...]] = ()
    logit_names: ClassVar[tuple[str, ...]] = ()
    hidden_names: ClassVar[tuple[str, str] | None] = None
    across_channels: ClassVar[bool] = False
    gain: Tensor | None
    gate: nn.Module

    def set_gain(
        self,
        gain: Gain | None,
        channels: int | None = None,
        *,
        name: str = "gain",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Give the gates a gain, in the place of the one that they have.

        Args:
            gain: a number, or one per channel; None for no gain.
            channels: how many there are; None where the gate is one for all.
            name: of the argument, for errors.
            device: where the buffer is.
            dtype: of the buffer.

        Raises:
            TypeError: ``gain`` is neither a number nor a sequence of numbers.
            ValueError: it is not finite and above 0, or has another length than the channels.
        """
        if gain is None:
            self.register_buffer("gain", None)
            return
        if isinstance(gain, Tensor):
            gain = gain.tolist()
        values = list(gain) if isinstance(gain, Sequence) else [gain]
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            raise TypeError(f"{name} must be None, a number or a number for each channel: {gain!r}")
        if isinstance(gain, Sequence) and len(values) != channels:
            wanted = "one number" if channels is None else f"one number, or {channels}"
            raise ValueError(f"{name} must be {wanted}, got {len(values)}")
        rounded = torch.tensor(gain, device="cpu", dtype=dtype or torch.get_default_dtype())
        if not ((rounded > 0) & (rounded < math.inf)).all():
            raise ValueError(f"{name} must be above 0 and finite in {rounded.dtype}, got {gain!r}")
        self.register_buffer("gain", rounded.to(device or torch.get_default_device()))

    def times_gain(self, gate: Tensor) -> Tensor:
        """The gate, (N, C or 1, H, W), times the gain where there is one."""
        if self.gain is None:
            return gate
        try:
            return gate * self.gain.view(-1, 1, 1).to(gate.dtype)
        except RuntimeError as error:  # a check of shapes would be a step of every symbolic trace
            raise RuntimeError(
                f"{type(self).__name__} makes gates of shape {tuple(gate.shape)}, and its gain is "
                f"one for each of {self.gain.numel()} channels: what removes channels has to "
                "narrow the gain too (Torch-Pruning does so with attnblocks.customized_pruners)"
            ) from error

    def remove_channels(self, removed: Sequence[int]) -> None:
        """Forget the gains of channels that something removes from the map and the layers.

        Args:
            removed: which channels these are.
        """
        if self.gain is not None and self.gain.dim() == 1:
            kept = sorted({*range(len(self.gain))} - {*removed})
            self.register_buffer("gain", self.gain[kept])

    def mean_gain(self, power: int = 1) -> float:
        """The mean of the gain, or of a power of it, over the channels; 1 without a gain."""
        return 1.0 if self.gain is None else float((self.gain.cpu().double() ** power).mean())

    def gate_at_zero(self) -> float:
        """The gate at a logit of 0, without the gain."""
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64, device="cpu")  # not the default device
        return float(float64_copy(self.gate)(zero))

    def logit_layers(self) -> list[nn.Module]:
        """The layers with which all logits are 0 while their parameters are 0."""
        return [self.get_submodule(name) for name in self.logit_names]

    def can_start_at_one(self) -> bool:
        """Whether it has no gain yet, and a gain can bring its gate at a logit of 0 to 1.

        That needs a gate above 0 there, and a slope beside it: a flat one would never learn.
        """
        if self.gain is not None or not 0 < self.gate_at_zero() < math.inf:
            return False
        beside = torch.tensor([-0.05, 0.05], dtype=torch.float64, device="cpu").view(2, 1, 1, 1)
        low, high = float64_copy(self.gate)(beside).flatten().tolist()
        return bool(abs(high - low) / 0.1 > LEAST_SLOPE)

    def gain_to_start_at_one(self) -> float:
        """The gain with which the gate is 1 at a logit of 0, if the stage can have it.

        Raises:
            ValueError: as ``start_at_one``.
        """
        middle = self.gate_at_zero()
        if not 0 < middle < math.inf:
            raise ValueError(
                f"gates of {type(self.gate).__name__} cannot start at 1: at a logit of 0 it is "
                f"{middle:g}, and a gain needs a value above 0, such as the 0.5 of nn.Sigmoid"
            )
        wanted, gain = 1 / middle, self.gain
        if (
            gain is not None
            and not gain.is_meta
            and not (gain == torch.full_like(gain, wanted)).all()
        ):
            values = " to ".join(f"{v:g}" for v in sorted({float(gain.min()), float(gain.max())}))
            raise ValueError(
                f"{type(self).__name__} has a gain of {values}, from its maker, an inherited start "
                f"or a fit, and its gates start at 1 with {wanted:g}: make a fresh block "
                "without a gain"
            )
        return wanted

    @torch.no_grad()
    def start_at_one(self) -> None:
        """Start with gates that are exactly 1, at the middle of their range, for every map.

        The layers that make the logits start at zero, and the gain is 1 over the gate there: 2 for
        a sigmoid or hard sigmoid. All other layers stay as they are.

        Raises:
            ValueError: the gate function is not above 0 and finite at a logit of 0; or the stage
                has a gain already, and it is another one. Nothing is changed then.
        """
        wanted, layers = self.gain_to_start_at_one(), self.logit_layers()
        if self.gain is None:
            like = next(p for layer in layers for p in layer.parameters())
            self.set_gain(wanted, device=like.device, dtype=like.dtype)
        for layer in layers:
            for parameter in layer.parameters():
                parameter.zero_()

    def take_gain(self, gain: Tensor | None, count: int = 1) -> None:
        """Take the gain of a gate that ``count`` gates of this stage replace, unless it has one.

        Args:
            gain: that gain; None for none.
            count: how many gates are multiplied, each with the gain of this stage.
        """
        if gain is not None and self.gain is None:
            like = next(self.parameters())
            self.register_buffer("gain", (gain ** (1 / count)).to(like))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle or copy; those of version 0.1.0 know no gain."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._buffers.setdefault("gain", None)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the gain of a state dict, whatever the stage had; 1 where it has none.

        Weights that were saved without a gain computed with 1. They are those of a whole stage:
        single keys, such as statistics alone, leave the gain.
        """
        key = f"{prefix}gain"
        own = [f"{prefix}{name}" for name, _ in self.named_parameters()]
        saved = state_dict.get(key)
        if isinstance(saved, Tensor) and self.takes(saved):
            if self.gain is None or self.gain.shape != saved.shape:
                like = next((p for p in self.parameters() if p.is_floating_point()), saved)
                with torch.inference_mode(False):  # whose tensors could not be trained with
                    self.register_buffer("gain", like.detach().new_ones(saved.shape))
        elif self.gain is not None and own and state_dict.keys() >= {*own} and saved is None:
            state_dict[key] = state_dict[own[0]].new_ones(self.gain.shape)
            warnings.warn(
                f"the state dict has the weights of a block and no {key}, which was set to 1; "
                "a state dict with buffers, such as model.state_dict(), has it",
                stacklevel=2,
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def takes(self, gain: Tensor) -> bool:
        """Whether its buffer can have this shape: one number, or one for each of its channels.

        A gain that its owner has made a parameter is loaded as any other parameter.
        """
        known = ((), (getattr(self, "channels", None),))
        return gain.shape in known and not isinstance(self.gain, nn.Parameter)


def stages_of(module: nn.Module) -> list[GainedStage]:
    """The stages of a block, or of a network."""
    return [stage for stage in module.modules() if isinstance(stage, GainedStage)]


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """The shapes of all weights and buffers but the gains of stages, which any stage can take."""
    gains = {id(stage.gain) for stage in stages_of(module)}
    values = module.state_dict(keep_vars=True)
    return {name: value.shape for name, value in values.items() if id(value) not in gains}


def without_gains(text: str) -> str:
    """What ``repr`` says of a module, but for the gains of its stages."""
    return re.sub(r", gain=\(.*?\)", "", text)
