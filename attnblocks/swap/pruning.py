"""What a structured pruner has to know about blocks, in the form in which Torch-Pruning asks."""

from collections.abc import Mapping, Sequence

from torch import nn

from attnblocks.blocks.gain import GainedStage, stages_of
from attnblocks.swap.wrappers import unwrap


class ChannelPruner:
    """Takes removed channels out of stages of blocks, by the methods that Torch-Pruning calls.

    Torch-Pruning narrows layers by itself. It knows no buffers, such as the gain of a stage; and it
    takes layers that run across the channels, as the convolutions of Eca and of CBAM's spatial gate
    do, for layers that have to be narrowed and cannot be.

    Args:
        stages: by the module that the pruner sees: the stage itself, or its gate function.
    """

    def __init__(self, stages: Mapping[nn.Module, GainedStage]) -> None:
        self.stages = stages

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Remove these channels from the stage of a module, if it is one of a stage."""
        if (stage := self.stages.get(layer)) is not None:
            stage.remove_channels(idxs)
        return layer

    prune_in_channels = prune_out_channels  # one function, as what comes in and goes out is one

    def get_out_channels(self, layer: nn.Module) -> None:
        """None: what stands around the module says how many there are."""

    get_in_channels = get_out_channels

    def get_out_channel_groups(self, layer: nn.Module) -> int:
        """1: every channel can be removed by itself."""
        return 1

    get_in_channel_groups = get_out_channel_groups


def customized_pruners(model: nn.Module) -> dict[type[nn.Module], ChannelPruner]:
    """What Torch-Pruning takes as ``customized_pruners``, so that it prunes every block.

    Without it, maps before Eca and CBAM keep all of their channels, and a block with a gain for
    each channel, as CoordAtt and Eca have after ``replace_se``, fails once channels are removed.

    Args:
        model: the network that is then given to the pruner itself: a copy has other modules.

    Returns:
        The pruner of each class of modules that needs one; empty where none does.

    Raises:
        TypeError: a network that is scripted, exported or sharded.

    Example:
        >>> from attnblocks import CBAM
        >>> [cls.__name__ for cls in customized_pruners(CBAM(64))]
        ['SpatialGate']
    """
    across: dict[nn.Module, GainedStage] = {}
    gates: dict[nn.Module, GainedStage] = {}
    for stage in stages_of(unwrap(model, "customized_pruners")):
        if stage.across_channels:
            across[stage] = stage
        elif stage.gain is not None and stage.gain.dim() == 1:
            gates[stage.gate] = stage
    pruner = ChannelPruner({**gates, **across})
    return dict.fromkeys([type(module) for module in pruner.stages], pruner)
