"""Gains: constant factors of gates.

A gate that stands in the middle of its range has its steepest slope there, and so learns best. With
a gain the product of a block can be 1 nevertheless: at logits of 0 a sigmoid is 1/2, times 2.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Gain = float | Sequence[float] | Tensor
"""A number, or one for each channel."""


class GainedStage(nn.Module):
    """A module that makes gates, which may have a gain.

    Attributes:
        gain: the factor of its gates, a buffer of shape () or (C,); None for none.
    """

    gain: Tensor | None

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
        self.register_buffer("gain", None)
        if gain is None:
            return
        if isinstance(gain, Tensor):
            gain = gain.tolist()
        values = list(gain) if isinstance(gain, Sequence) else [gain]
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            raise TypeError(f"{name} must be None, a number or a number for each channel: {gain!r}")
        if not all(0 < v < math.inf for v in values):
            raise ValueError(f"{name} must be above 0 and finite, got {gain!r}")
        if isinstance(gain, Sequence) and len(values) != channels:
            wanted = "one number" if channels is None else f"one number, or {channels}"
            raise ValueError(f"{name} must be {wanted}, got {len(values)}")
        self.gain = torch.tensor(gain, device=device, dtype=dtype or torch.get_default_dtype())

    def times_gain(self, gate: Tensor) -> Tensor:
        """The gate, (N, C or 1, ...), times the gain where there is one."""
        if self.gain is None:
            return gate
        return gate * self.gain.view(-1, *[1] * (gate.dim() - 2)).to(gate.dtype)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle or copy; those of version 0.1.0 know no gain."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._buffers.setdefault("gain", None)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Give weights that were saved without a gain the gain 1, with which they computed."""
        saved = next((value for key, value in state_dict.items() if key.startswith(prefix)), None)
        if self.gain is not None and f"{prefix}gain" not in state_dict and saved is not None:
            state_dict[f"{prefix}gain"] = saved.new_ones(self.gain.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
