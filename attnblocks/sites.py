"""Where the SE blocks of a network are, and what each of them is made of.

Every class of SE block has an adapter: a function that names the layers of one such block. The
classes of torchvision and timm are looked up among the modules that are imported already.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from attnblocks._block import LayerFactory
from attnblocks.caco import CaCo, SeCo
from attnblocks.cbam import CBAM, ChannelAttention
from attnblocks.coord_att import CoordAtt
from attnblocks.eca import Eca
from attnblocks.se import SE


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
    """

    channels: int
    gate: nn.Module
    expand: nn.Module | None = None
    squeeze: nn.Module | None = None
    act: nn.Module | None = None
    norm: nn.Module | None = None

    @property
    def rd_channels(self) -> int | None:
        """Squeeze width S, read from the weight of the squeeze layer; None where there is none."""
        return None if self.squeeze is None else int(self.squeeze.get_parameter("weight").shape[0])


Adapter = Callable[[Any], SELayers]


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
    """

    name: str
    module: nn.Module
    channels: int
    rd_channels: int | None
    act_layer: LayerFactory | None = field(compare=False)
    gate_layer: LayerFactory = field(compare=False)
    kind: str


def _torchvision_se(m: Any) -> SELayers:
    return SELayers(m.fc1.in_channels, m.scale_activation, m.fc2, m.fc1, m.activation)


def _timm_mobile_se(m: Any) -> SELayers:
    return SELayers(m.conv_reduce.in_channels, m.gate, m.conv_expand, m.conv_reduce, m.act1)


def _timm_se(m: Any) -> SELayers:
    _refuse_max_pool(m)
    return SELayers(m.fc1.in_channels, m.gate, m.fc2, m.fc1, m.act, m.bn)


def _timm_legacy_se(m: Any) -> SELayers:
    return SELayers(m.fc1.in_channels, m.sigmoid, m.fc2, m.fc1, m.relu)


def _timm_effective_se(m: Any) -> SELayers:
    _refuse_max_pool(m)
    return SELayers(m.fc.in_channels, m.gate, m.fc)


def _timm_ese(m: Any) -> SELayers:
    return SELayers(m.conv.in_channels, m.sigmoid, m.conv)


def _refuse_max_pool(m: Any) -> None:
    if m.add_maxpool:
        raise ValueError(
            f"a {type(m).__name__} with add_maxpool=True also squeezes the maximum: it is no SE "
            "block. Replace it by hand, or register an adapter for a subclass of it"
        )


def _own_se(m: SE) -> SELayers:
    return SELayers(m.channels, m.gate, m.fc2, m.fc1, m.act, m.bn)


def _channel_attention(m: ChannelAttention) -> SELayers:
    return SELayers(m.channels, m.gate, m.fc2, m.fc1, m.act)


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
    :func:`register_se` added; a subclass counts if it keeps the ``forward`` of its base. A block
    that is registered in several places is listed once, and what is inside a block is not listed.

    Args:
        model: the network; it is only read.

    Returns:
        The sites in the order of ``model.named_modules()``; empty where there is none.

    Raises:
        TypeError: ``model`` is no ``nn.Module``.

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
        elif adapter := _adapter_of(type(module), adapters):
            sites[module] = _read_site(name, module, adapter(module))
            inside = name
    return tuple(sites.values())


def register_se(cls: type[nn.Module], adapter: Adapter) -> None:
    """Make an SE class of your own known to :func:`find_se` and ``replace_se``.

    Args:
        cls: the class; its subclasses count too where they keep its ``forward``.
        adapter: called with one such block, returns its :class:`SELayers`.

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


def read_layers(module: nn.Module) -> SELayers:
    """Return the layers of a block that :func:`find_se` found."""
    adapter = _adapter_of(type(module), _known_adapters())
    if adapter is None:
        raise LookupError(f"{type(module).__qualname__} has no adapter; see register_se")
    return adapter(module)


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


def _adapter_of(cls: type[nn.Module], adapters: dict[type[nn.Module], Adapter]) -> Adapter | None:
    """The adapter of the nearest known base, unless the class computes something else."""
    for base in cls.__mro__:
        if base in adapters:
            return adapters[base] if cls.forward is base.forward else None
    return None


def _read_site(name: str, module: nn.Module, layers: SELayers) -> SESite:
    return SESite(
        name=name,
        module=module,
        channels=layers.channels,
        rd_channels=layers.rd_channels,
        act_layer=None if layers.act is None else partial(copy.deepcopy, layers.act),
        gate_layer=partial(copy.deepcopy, layers.gate),
        kind=f"{type(module).__module__}.{type(module).__qualname__}",
    )
