"""Where the SE blocks of a network are, and the blocks of this library in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from attnblocks.blocks.base import AttentionBlock
from attnblocks.blocks.layers import LayerFactory, copy_function
from attnblocks.blocks.se_layers import SELayers
from attnblocks.swap.adapters import known_adapters
from attnblocks.swap.behind import places_of_blocks
from attnblocks.swap.library_adapters import Adapter
from attnblocks.swap.wrappers import unwrap


@dataclass(frozen=True)
class SESite:
    """A place in a network where an SE block, or a block of this library, stands.

    Attributes:
        name: qualified name of the block in the network; "" if it is the network itself.
        module: the block.
        channels: its channels.
        rd_channels: its squeeze width; None where it has no squeeze.
        act_layer: makes a new copy of its activation; None where it has none.
        gate_layer: makes a new copy of its gate function; None where it names none.
        kind: qualified name of its class, such as "torchvision.ops.misc.SqueezeExcitation".
        layers: its layers, as the block or its adapter names them.
        after: of an inserted block, the name of the module behind which it runs.
    """

    name: str
    module: nn.Module = field(repr=False)
    channels: int
    rd_channels: int | None
    act_layer: LayerFactory | None = field(repr=False, compare=False)
    gate_layer: LayerFactory | None = field(repr=False, compare=False)
    kind: str
    layers: SELayers = field(repr=False, compare=False)
    after: str | None = None


def find_se(model: nn.Module) -> tuple[SESite, ...]:
    """List the SE blocks of a network, and the blocks of this library in it.

    Known are the SE classes of torchvision, timm, transformers, MONAI, segmentation_models_pytorch,
    pretrainedmodels, pytorchcv, fvcore and mmpretrain, every :class:`attnblocks.AttentionBlock`,
    and what :func:`attnblocks.register_se` added; a subclass of an SE class counts unless it
    overrides what its base computes. A block that is registered in several places is listed once;
    blocks inside another block are not listed.

    Args:
        model: the network; it is only read. Of a compiled or parallel network, and of an average
            of weights, the network inside is read, and the names are those in it.

    Returns:
        The sites in the order of ``named_modules()``; empty where there is none.

    Raises:
        TypeError: ``model`` is not an ``nn.Module``; it is scripted, exported or sharded, or a part
            of it is wrapped; or an adapter returns something other than
            :class:`attnblocks.SELayers` or None.
        ValueError: the layers of a block are not where its class has them, as in networks that
            another version of its library pickled, or whose layers are wrapped; or an inserted
            block runs no more, as the module behind which it was put has been replaced.

    Example:
        >>> from attnblocks import SE
        >>> [(site.name, site.rd_channels) for site in find_se(nn.Sequential(SE(64), nn.ReLU()))]
        [('0', 16)]
    """
    adapters = known_adapters()
    model = unwrap(model, "find_se")
    inserted = places_of_blocks(model)
    sites: dict[nn.Module, SESite] = {}
    inside: str | None = None
    for name, module in model.named_modules(remove_duplicate=False):
        if inside is not None and (not inside or name.startswith(f"{inside}.")):
            continue
        if module in sites:
            inside = name
        elif site := _read_site(name, module, adapters, inserted.get(module)):
            sites[module] = site
            inside = name
    return tuple(sites.values())


def _read_site(
    name: str, module: nn.Module, adapters: Mapping[type, Adapter], after: str | None
) -> SESite | None:
    """The site of a block; None for any other module."""
    cls = type(module)
    kind = f"{cls.__module__}.{cls.__qualname__}"
    adapter = _adapter(module, adapters)
    if adapter is None:
        return None
    try:
        layers = adapter(module)
        read = layers if isinstance(layers, SELayers) else None
        site = None if read is None else _site(name, module, kind, read, after)
    except Exception as error:  # whatever an adapter raises where a layer is missing
        raise ValueError(
            f"the block at {name!r} ({kind}) does not have the layers of its class: {error}. "
            "If the network was pickled, build it anew and load its state dict; if something wraps "
            "its layers, as PEFT does, merge or remove that first"
        ) from error
    if site is None and layers is not None:
        raise TypeError(
            f"the adapter of {cls.__qualname__} must return SELayers, got {layers!r} at {name!r}"
        )
    return site


def _adapter(module: nn.Module, adapters: Mapping[type, Adapter]) -> Adapter | None:
    """What reads a block; None if it is of no known class, or overrides what its class computes."""
    cls = type(module)
    # Accelerate puts its hooks around the method of the class, and that back when it removes them.
    own = vars(module).get("_old_forward" if "_hf_hook" in vars(module) else "forward")
    if own is not None and own != MethodType(cls.forward, module):  # replaced by hand
        return None
    known = next((base for base in cls.__mro__ if base in adapters), None)
    if known is None:
        return own_layers if isinstance(module, AttentionBlock) else None
    return None if _overridden(cls, known) else adapters[known]


def own_layers(block: AttentionBlock) -> SELayers:
    """What a block says of its layers; only its channels if they do not make its gates."""
    layers = block.se_layers() if holds(type(block), "se_layers") else None
    return SELayers(block.channels) if layers is None else layers


def holds(cls: type[AttentionBlock], method: str) -> bool:
    """Whether what a method says holds for a class: no subclass computes something else."""
    speaker: Any = next(base for base in cls.__mro__ if method in vars(base))
    below = cls.__mro__[: cls.__mro__.index(speaker)]
    overrides = sum("gates" in vars(base) for base in below)
    if speaker.gates is AttentionBlock.gates:  # none yet: the first that follow are no override
        overrides -= 1
    return overrides <= 0 and cls.forward is speaker.forward


def _overridden(cls: type[nn.Module], base: type[nn.Module]) -> set[str]:
    """Methods of ``base`` that ``cls`` computes in another way."""
    between = cls.__mro__[: cls.__mro__.index(base)]
    names = {name for k in between for name, value in vars(k).items() if callable(value)}
    harmless = {"__init__", "extra_repr", *vars(nn.Module)} - {"forward", "__call__"}
    return {name for name in names - harmless if hasattr(base, name)}


def _site(name: str, module: nn.Module, kind: str, layers: SELayers, after: str | None) -> SESite:
    return SESite(
        name=name,
        module=module,
        channels=layers.channels,
        rd_channels=layers.rd_channels,
        act_layer=None if layers.act is None else partial(copy_function, layers.act),
        gate_layer=None if layers.gate is None else partial(copy_function, layers.gate),
        kind=kind,
        layers=layers,
        after=after,
    )
