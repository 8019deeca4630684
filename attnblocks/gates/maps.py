"""The gates of a network, read at every site while it runs on images."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from attnblocks.blocks.base import AttentionBlock
from attnblocks.blocks.gain import GainedStage
from attnblocks.swap.behind import places_of_blocks
from attnblocks.swap.observe import eval_mode, same_random_state
from attnblocks.swap.wrappers import unwrap


@dataclass(frozen=True)
class SiteAttention:
    """What the block at one site does to a batch of N images.

    Attributes:
        gates: by what they are for: ``channel`` (N, C, 1, 1), ``rows`` (N, C, H, 1), ``columns``
            (N, C, 1, W) and ``positions`` (N, 1, H, W), where the block has them.
        on_image: the product of all gates, averaged over the channels, upsampled to the images
            (bilinear); (N, H of the images, W of the images), float32 at least.
        gains: by the names of ``gates``, the gain of those that have one, of shape () or (C,). The
            gates are what multiplies the map, so it is in them: they run from 0 to it, not to 1.
    """

    gates: dict[str, Tensor]
    on_image: Tensor
    gains: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_spatial(self) -> bool:
        """Whether the block gates rows, columns or positions, and not only channels."""
        return self.gates.keys() != {"channel"}


@torch.no_grad()
def attention_maps(model: nn.Module, images: Tensor) -> dict[str, SiteAttention]:
    """Run a network on images and read the gates of every block of this library in it.

    The network runs in eval mode, not compiled, and is left in the mode that it was in, as is the
    random state of PyTorch; no other thread should train it meanwhile. All maps are kept in memory,
    so give a few images at a time.

    Args:
        model: the network. Its own SE blocks of torchvision or timm are not read: swap them with
            :func:`attnblocks.replace_se`, which can keep what they do. Of a wrapped network, the
            one inside is run, as for :func:`attnblocks.find_se`.
        images: what the network takes, (N, 3, H, W), on its device.

    Returns:
        What each block does, by its qualified name, in the order in which the blocks run.

    Raises:
        ValueError: the network has no block of this library, runs one of them twice, has an
            inserted one that runs no more, or one of your own whose ``gate_names`` do not fit its
            gates.
        TypeError: a network that is scripted, exported or sharded.

    Example:
        >>> from attnblocks import CaCo
        >>> model = nn.Sequential(nn.Conv2d(3, 64, 3, stride=2, padding=1), CaCo(64))
        >>> maps = attention_maps(model, torch.rand(2, 3, 32, 48))
        >>> {name: tuple(gate.shape) for name, gate in maps["1"].gates.items()}
        {'channel': (2, 64, 1, 1), 'rows': (2, 64, 16, 1), 'columns': (2, 64, 1, 24)}
        >>> maps["1"].on_image.shape
        torch.Size([2, 32, 48])
    """
    found: dict[str, SiteAttention] = {}

    thread = threading.get_ident()

    def reader(name: str) -> Callable[[AttentionBlock, tuple[Any, ...], dict[str, Any]], None]:
        def read(block: AttentionBlock, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() != thread:  # runs the network for a purpose of its own
                return
            if name in found:
                raise ValueError(f"the block {name!r} runs twice: its gates differ from run to run")
            x = (*args, *kwargs.values())[0]
            gates = block.gates(x)
            if len(gates) != len(block.gate_names):
                raise ValueError(
                    f"gate_names of {type(block).__name__} must name its {len(gates)} gates, got "
                    f"{block.gate_names}"
                )
            gates = [_for_each_image(gate, len(x)) for gate in gates]
            found[name] = SiteAttention(
                dict(zip(block.gate_names, gates, strict=True)),
                _on_image(gates, images.shape[-2:]),
                _gains(block),
            )

        return read

    model = unwrap(model, "attention_maps")
    places_of_blocks(model)  # says which inserted blocks run no more
    blocks = {name: block for name, block in model.named_modules() if _is_whole(block, name, model)}
    if not blocks:
        raise ValueError(
            "model has no block of attnblocks, whose gates could be read: put them in with "
            "replace_se or insert"
        )
    hooks = [
        block.register_forward_pre_hook(reader(name), with_kwargs=True)
        for name, block in blocks.items()
    ]
    tensors = (*model.parameters(), *model.buffers(), images)
    try:
        # Code that is compiled already would not run the hooks.
        with (
            eval_mode(model),
            same_random_state(*tensors),
            torch.compiler.set_stance("force_eager"),
        ):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _is_whole(block: nn.Module, name: str, model: nn.Module) -> bool:
    """Whether a module is a block, and not a stage of another block."""
    parents = [name[:i] for i, letter in enumerate(name) if letter == "."]
    outer = [model, *(model.get_submodule(parent) for parent in parents)] if name else []
    return isinstance(block, AttentionBlock) and not any(
        isinstance(module, AttentionBlock) for module in outer
    )


def _gains(block: AttentionBlock) -> dict[str, Tensor]:
    """By what a gate is for: the gains of the stages that make it, multiplied if there are more."""
    gains: dict[str, Tensor] = {}
    for stage in block.modules():
        if isinstance(stage, GainedStage) and stage.gain is not None:
            for name in stage.gate_names:
                gain = stage.gain.detach().clone()
                gains[name] = gains[name] * gain if name in gains else gain
    return gains


def _for_each_image(gate: Tensor, count: int) -> Tensor:
    """A gate (count, C, h, w), of one that broadcasts: some gates depend on no image."""
    return gate[(None,) * (4 - gate.ndim)].expand(count, -1, -1, -1)


def _on_image(gates: list[Tensor], size: torch.Size) -> Tensor:
    product = reduce(torch.mul, gates).mean(dim=1, keepdim=True)  # (N, 1, H or 1, W or 1)
    product = product.to(torch.promote_types(product.dtype, torch.float32))
    upsampled = nn.functional.interpolate(product, tuple(size), mode="bilinear")
    return rearrange(upsampled, "n 1 h w -> n h w")
