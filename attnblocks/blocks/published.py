"""State dicts with the layer names of published code, whose weights a block takes as its own."""

from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor, nn


def rename_published(
    block: nn.Module, names: Mapping[str, str], state_dict: dict[str, Any], prefix: str
) -> None:
    """Rename the entries of a block in a state dict, in place, from published names to its own.

    Nothing is renamed where one of its own names is there too, so that torch reports what fits
    neither, as for every module. The weight of a linear layer becomes that of a 1x1 convolution
    where the block has one.

    Args:
        block: what is about to be loaded.
        names: published names of layers, each with the block's own; both relative to the block.
        state_dict: of the whole network or of a part, as torch hands it down.
        prefix: what the names of the block begin with in it.
    """
    layers = dict(block.named_modules())
    renamed = {
        f"{prefix}{old}.": new for old, new in names.items() if old.split(".")[0] not in layers
    }
    if any(
        key.startswith(tuple(f"{prefix}{new}." for new in names.values())) for key in state_dict
    ):
        return
    for key in list(state_dict):
        for old, new in renamed.items():
            if key.startswith(old):
                value = state_dict.pop(key)
                linear = isinstance(value, Tensor) and value.dim() == 2
                if linear and isinstance(layers.get(new), nn.Conv2d):
                    value = rearrange(value, "o i -> o i 1 1")
                state_dict[f"{prefix}{new}.{key.removeprefix(old)}"] = value
