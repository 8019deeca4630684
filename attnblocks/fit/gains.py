"""The gains of blocks while they are fitted: one per channel, by its logarithm."""

from typing import cast

import torch
from torch import Tensor, nn

from attnblocks.blocks.base import AttentionBlock
from attnblocks.blocks.gain import GainedStage, stages_of
from attnblocks.fit.pair import Pair
from attnblocks.fit.targets import Targets

LEAST = 1e-3
"""The least by which the output of a block is multiplied, and one over the most."""


class Gains:
    """One gain per channel in each block, which is fitted as a parameter and left as a buffer.

    It is that of the last stage that has the channels of the map, so that all blocks can scale each
    channel: no other layer of Eca can, nor one behind the maximum of CBAM and CaCo, whose size no
    weight of an SE tells. Logarithms keep gains above 0. Modules that are no blocks of this
    library, or whose ``forward`` is another, stay without.

    Args:
        blocks: by site. Their gains become one per channel: of 1 where there was none.
    """

    def __init__(self, blocks: dict[str, nn.Module]) -> None:
        found = {site: _last_stage(block) for site, block in blocks.items()}
        self._stages = {site: stage for site, stage in found.items() if stage is not None}
        self._before = [stage.gain for stage in self._stages.values()]
        for site, stage in self._stages.items():
            like = next(blocks[site].parameters())
            one = like.detach().new_ones(cast(int, stage.channels))
            stage.gain = one if stage.gain is None else one * stage.gain
        self.logarithms = [_gain(stage).log().requires_grad_() for stage in self._stages.values()]

    @torch.no_grad()
    def scale(self, pair: Pair, targets: Targets) -> None:
        """Bring the output of each block nearest to the original's, channel by channel.

        That is least squares in closed form, since a gain multiplies the output.
        """
        for (site, stage), logarithm in zip(self._stages.items(), self.logarithms, strict=True):
            both, own = torch.zeros(2, len(logarithm), dtype=torch.float64)
            for target in targets:
                for given, goal in target.calls[site]:
                    y = pair.answer(site, given)
                    both += (y * goal.value).sum((0, 2, 3)).cpu()
                    own += y.square().sum((0, 2, 3)).cpu()
            ratio = torch.where((both > 0) & (own > 0), both / own, torch.ones_like(own))
            logarithm += ratio.clamp(LEAST, 1 / LEAST).log().to(logarithm) / len(stage.gate_names)
        self.put_in()

    def put_in(self) -> None:
        """Compute the gains from their logarithms, for one forward and backward pass."""
        for stage, logarithm in zip(self._stages.values(), self.logarithms, strict=True):
            stage.gain = logarithm.exp()

    def leave(self) -> None:
        """Leave the gains as plain buffers."""
        for stage, logarithm in zip(self._stages.values(), self.logarithms, strict=True):
            stage.gain = logarithm.detach().exp()

    def put_back(self) -> None:
        """Give the stages the gains that they had."""
        for stage, gain in zip(self._stages.values(), self._before, strict=True):
            stage.gain = gain


def check_gains(pair: Pair) -> None:
    """Raise ValueError where a block has a gain without a logarithm, as a state dict may hold."""
    for site in pair.sites:
        for stage in stages_of(pair.block(site)):
            gain = stage.gain
            if gain is None or isinstance(gain, nn.Parameter):
                continue
            wrong = gain[~((gain > 0) & gain.isfinite())].tolist()
            if wrong:
                raise ValueError(
                    f"the block at {site!r} cannot be fitted: gains must be above 0 and finite, "
                    f"and its {type(stage).__name__} has {wrong[0]:g}: make a fresh block, or load "
                    "another state dict"
                )


def _last_stage(block: nn.Module) -> GainedStage | None:
    """The last stage of a block whose gain multiplies each channel of its output."""
    if not isinstance(block, AttentionBlock) or type(block).forward is not AttentionBlock.forward:
        return None
    stages = [
        stage
        for stage in stages_of(block)
        if stage.gate_names
        and getattr(stage, "channels", None) == block.channels
        and not isinstance(stage.gain, nn.Parameter)
    ]
    return stages[-1] if stages else None


def _gain(stage: GainedStage) -> Tensor:
    return cast(Tensor, stage.gain)
