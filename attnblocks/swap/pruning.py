"""What a structured pruner has to know about blocks, in the form in which Torch-Pruning asks."""

from collections.abc import Mapping, Sequence

from torch import nn

from attnblocks.blocks.gain import GainedStage, stages_of
from attnblocks.swap.behind import list_inserted
from attnblocks.swap.wrappers import unwrap

_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
_NORMS: tuple[type[nn.Module], ...] = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


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
        ValueError: a block was inserted behind a convolution, or one that runs across the channels
            alone, as Eca does, behind a norm: the pruner takes block and layer for one.

    Example:
        >>> from attnblocks import CBAM
        >>> [cls.__name__ for cls in customized_pruners(CBAM(64))]
        ['SpatialGate']
    """
    model = unwrap(model, "customized_pruners")
    for found in list_inserted(model):
        stages = list(stages_of(found.block)) if found.block is not None else []
        across_alone = bool(stages) and all(stage.across_channels for stage in stages)
        if isinstance(found.module, _CONVOLUTIONS + _NORMS * across_alone):
            raise ValueError(
                f"{found.name!r} is behind the {type(found.module).__name__} {found.after!r}, and "
                "a pruner takes the two for one layer: insert it behind the activation or the "
                "module around that, or prune first and insert then"
            )
    across: dict[nn.Module, GainedStage] = {}
    gates: dict[nn.Module, GainedStage] = {}
    for stage in stages_of(model):
        if stage.across_channels:
            across[stage] = stage
        elif stage.gain is not None and stage.gain.dim() == 1:
            gates[stage.gate] = stage
    pruner = ChannelPruner({**gates, **across})
    return dict.fromkeys([type(module) for module in pruner.stages], pruner)
