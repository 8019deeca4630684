"""Where the SE blocks of a network are, and what each of them is made of.

Every class of SE block has an adapter: a function that names the layers of one such block. The
classes of torchvision and timm are looked up among the modules that are imported already.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from attnblocks.blocks.base import LayerFactory
from attnblocks.blocks.caco import CaCo, SeCo
from attnblocks.blocks.cbam import CBAM, ChannelAttention
from attnblocks.blocks.coord_att import CoordAtt
from attnblocks.blocks.eca import Eca
from attnblocks.blocks.se import SE


@dataclass(frozen=True)
class SELayers:
    """The layers of a block, as its adapter names them.

    Args:
        channels: channels C of the map.
        gate: the gate function.
        expand: the layer S to C (or C to C where there is no squeeze), a 1x1 convolution or a
            linear layer; None for a block without one, whose weights an SE cannot take over.
        squeeze: the layer C to S; None for a block with one layer only.
        act: the activation between them, if any.
        norm: the norm between them, if any.
        peak: whether the maximum of each channel goes through the layers too, and the logits are
            summed, as in CBAM.
    """

    channels: int
    gate: nn.Module
    expand: nn.Module | None = None
    squeeze: nn.Module | None = None
    act: nn.Module | None = None
    norm: nn.Module | None = None
    peak: bool = False

    @property
    def rd_channels(self) -> int | None:
        """Squeeze width S, the outputs of the squeeze layer; None where there is none."""
        if self.squeeze is None:
            return None
        # First what it says: to read a weight with spectral norm changes its buffers.
        for name in ("out_channels", "out_features"):
            if isinstance(width := getattr(self.squeeze, name, None), int):
                return width
        return len(cast(Tensor, self.squeeze.weight))


Adapter = Callable[[Any], SELayers | None]
"""Names the layers of one block, or returns None for a block that is no SE after all."""


@dataclass(frozen=True)
class SESite:
    """A place in a network where an SE block, or a block of this library, stands.

    Attributes:
        name: qualified name of the block in the network; "" if it is the network itself.
        module: the block.
        channels: its channels.
        rd_channels: its squeeze width; None where it has no squeeze.
        act_layer: makes a new copy of its activation; None where it has none.
        gate_layer: makes a new copy of its gate function.
        kind: qualified name of its class, such as "torchvision.ops.misc.SqueezeExcitation".
        layers: what its adapter read.
    """

    name: str
    module: nn.Module = field(repr=False)
    channels: int
    rd_channels: int | None
    act_layer: LayerFactory | None = field(repr=False, compare=False)
    gate_layer: LayerFactory = field(repr=False, compare=False)
    kind: str
    layers: SELayers = field(repr=False, compare=False)


def _torchvision_se(m: Any) -> SELayers:
    return SELayers(m.fc1.in_channels, m.scale_activation, m.fc2, m.fc1, m.activation)


def _timm_mobile_se(m: Any) -> SELayers:
    return SELayers(m.conv_reduce.in_channels, m.gate, m.conv_expand, m.conv_reduce, m.act1)


# With add_maxpool, timm's two modules squeeze the maximum as well: they are no SE then.
def _timm_se(m: Any) -> SELayers | None:
    if m.add_maxpool:
        return None
    return SELayers(m.fc1.in_channels, m.gate, m.fc2, m.fc1, m.act, m.bn)


def _timm_legacy_se(m: Any) -> SELayers:
    return SELayers(m.fc1.in_channels, m.sigmoid, m.fc2, m.fc1, m.relu)


def _timm_effective_se(m: Any) -> SELayers | None:
    if m.add_maxpool:
        return None
    return SELayers(m.fc.in_channels, m.gate, m.fc)


def _timm_ese(m: Any) -> SELayers:
    return SELayers(m.conv.in_channels, m.sigmoid, m.conv)


def _own_se(m: SE) -> SELayers:
    return SELayers(m.channels, m.gate, m.fc2, m.fc1, m.act, m.bn)


def _channel_attention(m: ChannelAttention) -> SELayers:
    return SELayers(m.channels, m.gate, m.fc2, m.fc1, m.act, peak=True)


_ADAPTERS: dict[type[nn.Module], Adapter] = {
    SE: _own_se,
    ChannelAttention: _channel_attention,
    CBAM: lambda m: _channel_attention(m.channel),
    SeCo: lambda m: _own_se(m.se),
    CaCo: lambda m: _channel_attention(m.channel),
    CoordAtt: lambda m: SELayers(m.channels, m.gate, act=m.act),
    Eca: lambda m: SELayers(m.channels, m.gate),
}

# (module, class) of the classes that are looked up only where their module is imported already.
_LIBRARY_ADAPTERS: dict[tuple[str, str], Adapter] = {
    ("torchvision.ops.misc", "SqueezeExcitation"): _torchvision_se,
    ("timm.models._efficientnet_blocks", "SqueezeExcite"): _timm_mobile_se,
    ("timm.layers.squeeze_excite", "SEModule"): _timm_se,
    ("timm.layers.squeeze_excite", "EffectiveSEModule"): _timm_effective_se,
    ("timm.models.senet", "SEModule"): _timm_legacy_se,
    ("timm.models.hgnet", "EseModule"): _timm_ese,
}


def find_se(model: nn.Module) -> tuple[SESite, ...]:
    """List the SE blocks of a network, and the blocks of this library in it.

    Known are the SE classes of torchvision and timm, the blocks of attnblocks, and what
    :func:`register_se` added; a subclass counts unless it overrides what its base computes. A
    block that is registered in several places is listed once; what is inside one is not listed.

    Args:
        model: the network; it is only read.

    Returns:
        The sites in the order of ``model.named_modules()``; empty where there is none.

    Raises:
        TypeError: ``model`` is no ``nn.Module``, or an adapter returns no :class:`SELayers`.

    Example:
        >>> from attnblocks import SE
        >>> [(site.name, site.rd_channels) for site in find_se(nn.Sequential(SE(64), nn.ReLU()))]
        [('0', 16)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {model!r}")
    adapters = _known_adapters()
    sites: dict[nn.Module, SESite] = {}
    inside: str | None = None
    for name, module in model.named_modules(remove_duplicate=False):
        if inside is not None and (not inside or name.startswith(f"{inside}.")):
            continue
        if module in sites:
            inside = name
        elif layers := _read_layers(module, adapters):
            sites[module] = _site(name, module, layers)
            inside = name
    return tuple(sites.values())


def register_se(cls: type[nn.Module], adapter: Adapter) -> None:
    """Make an SE class of your own known to :func:`find_se` and ``replace_se``.

    Args:
        cls: the class; its subclasses count too unless they override what it computes.
        adapter: called with one such block, returns its :class:`SELayers`, or None if this one
            is no SE.

    Raises:
        TypeError: ``cls`` is no module class, or the adapter cannot be called.
        ValueError: the class is known already.

    Example:
        >>> class MySE(nn.Module):
        ...     def __init__(self, dim):
        ...         super().__init__()
        ...         self.down, self.up = nn.Linear(dim, dim // 4), nn.Linear(dim // 4, dim)
        ...     def forward(self, x):
        ...         y = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
        ...         return x * y[:, :, None, None]
        >>> register_se(MySE, lambda m: SELayers(
        ...     m.up.out_features, nn.Sigmoid(), expand=m.up, squeeze=m.down, act=nn.ReLU()))
        >>> find_se(MySE(64))[0].rd_channels
        16
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f"cls must be a subclass of nn.Module, got {cls!r}")
    if not callable(adapter):
        raise TypeError(f"adapter must be a function of one block, got {adapter!r}")
    if cls in _known_adapters():
        raise ValueError(f"{cls.__qualname__} is registered already")
    _ADAPTERS[cls] = adapter


def known_classes() -> list[str]:
    """Qualified names of all classes that :func:`find_se` looks for, imported or not."""
    libraries = [f"{module}.{name}" for module, name in _LIBRARY_ADAPTERS]
    return libraries + [f"{cls.__module__}.{cls.__qualname__}" for cls in _ADAPTERS]


def _known_adapters() -> dict[type[nn.Module], Adapter]:
    imported = {
        getattr(sys.modules[module], name): adapter
        for (module, name), adapter in _LIBRARY_ADAPTERS.items()
        if hasattr(sys.modules.get(module), name)
    }
    return {**imported, **_ADAPTERS}


def _read_layers(module: nn.Module, adapters: dict[type[nn.Module], Adapter]) -> SELayers | None:
    """The layers of a block of a known class that computes what its class computes."""
    cls = type(module)
    known = next((base for base in cls.__mro__ if base in adapters), None)
    if known is None or "forward" in vars(module) or _overridden(cls, known):
        return None
    layers = adapters[known](module)
    if layers is not None and not isinstance(layers, SELayers):
        raise TypeError(f"the adapter of {known.__qualname__} must return SELayers, got {layers!r}")
    return layers


def _overridden(cls: type[nn.Module], base: type[nn.Module]) -> set[str]:
    """Methods of ``base`` that ``cls`` computes in another way."""
    between = cls.__mro__[: cls.__mro__.index(base)]
    names = {name for k in between for name, value in vars(k).items() if callable(value)}
    harmless = {"__init__", "extra_repr", *vars(nn.Module)} - {"forward", "__call__"}
    return {name for name in names - harmless if hasattr(base, name)}


def _site(name: str, module: nn.Module, layers: SELayers) -> SESite:
    return SESite(
        name=name,
        module=module,
        channels=layers.channels,
        rd_channels=layers.rd_channels,
        act_layer=None if layers.act is None else partial(copy.deepcopy, layers.act),
        gate_layer=partial(copy.deepcopy, layers.gate),
        kind=f"{type(module).__module__}.{type(module).__qualname__}",
        layers=layers,
    )
