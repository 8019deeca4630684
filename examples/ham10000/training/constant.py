"""Gates that are the same for every image: what is left of an SE block that looks at nothing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from attnblocks import AttentionBlock, find_se


class Constant(AttentionBlock):
    """A fixed gate for each channel, which is not trained; 1 until :func:`hold_means` sets it.

    Args:
        channels: channels C of the map.
        device: where to create the gates.
        dtype: their type.
    """

    gate_names = ("channel",)
    gate: Tensor

    def __init__(
        self,
        channels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        self.register_buffer("gate", torch.ones(1, channels, 1, 1, device=device, dtype=dtype))

    def gates(self, x: Tensor) -> list[Tensor]:
        """The gates, (1, C, 1, 1)."""
        return [self.gate]


@torch.no_grad()
def hold_means(model: nn.Module, original: nn.Module, images: Sequence[Tensor]) -> None:
    """Set the :class:`Constant` gates of a network to the mean gates of its SE blocks on images.

    Args:
        model: with :class:`Constant` at all sites; changed in place.
        original: the network with its SE blocks, in whose eval mode the gates are read.
        images: batches as the networks see them, on the device of ``original``.

    Raises:
        ValueError: an SE block whose gate function is no module of its own, or an empty batch.
    """
    sums: dict[str, Tensor] = {}
    count = sum(len(batch) for batch in images)
    if not count:
        raise ValueError("mean gates need images: there are none")

    def adds_to(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def add(gate: nn.Module, logits: tuple[Tensor], gates: Tensor) -> None:
            total = gates.double().sum(dim=0, keepdim=True)
            sums[name] = sums[name] + total if name in sums else total

        return add

    handles = []
    for site in find_se(original):
        if site.layers.gate is None:
            raise ValueError(f"the SE block {site.name} has no gate function to read")
        handles.append(site.layers.gate.register_forward_hook(adds_to(site.name)))
    training = original.training
    try:
        original.eval()
        for batch in images:
            original(batch)
    finally:
        original.train(training)
        for handle in handles:
            handle.remove()
    for name, total in sums.items():
        block = model.get_submodule(name)
        assert isinstance(block, Constant)
        block.gate.copy_(total / count)
