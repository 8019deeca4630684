"""The SE classes of other libraries: which of their layers are which.

Every class has an adapter: a function that names the layers of one such block. The classes of
torchvision and timm are looked up among the modules that are imported already.
"""

import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from attnblocks.blocks.se_layers import SELayers

Adapter = Callable[[Any], SELayers | None]
"""Names the layers of one block, or returns None for a block that is not an SE after all."""


def _torchvision_se(m: Any) -> SELayers:
    return SELayers(m.fc1.in_channels, m.scale_activation, m.fc2, m.fc1, m.activation)


def _timm_mobile_se(m: Any) -> SELayers:
    return SELayers(m.conv_reduce.in_channels, m.gate, m.conv_expand, m.conv_reduce, m.act1)


# With add_maxpool, timm's two modules squeeze the maximum as well: then they are not SE.
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


# (module, class) of the classes that are looked up only where their module is imported already.
_LIBRARY_ADAPTERS: dict[tuple[str, str], Adapter] = {
    ("torchvision.ops.misc", "SqueezeExcitation"): _torchvision_se,
    ("timm.models._efficientnet_blocks", "SqueezeExcite"): _timm_mobile_se,
    ("timm.layers.squeeze_excite", "SEModule"): _timm_se,
    ("timm.layers.squeeze_excite", "EffectiveSEModule"): _timm_effective_se,
    ("timm.models.senet", "SEModule"): _timm_legacy_se,
    ("timm.models.hgnet", "EseModule"): _timm_ese,
}

_REGISTERED: dict[type[nn.Module], Adapter] = {}


def register_se(cls: type[nn.Module], adapter: Adapter) -> None:
    """Make an SE class of your own known to :func:`attnblocks.find_se` and ``replace_se``.

    Args:
        cls: the class; its subclasses count too unless they override what it computes.
        adapter: called with one such block, returns its :class:`SELayers`, or None if this one
            is not an SE.

    Raises:
        TypeError: ``cls`` is not a module class, or the adapter cannot be called.
        ValueError: the class is known already.

    Example:
        >>> from attnblocks import find_se
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
    if cls in known_adapters():
        raise ValueError(f"{cls.__qualname__} is registered already")
    _REGISTERED[cls] = adapter


def known_adapters() -> dict[type[nn.Module], Adapter]:
    """The adapters of all classes that are imported."""
    imported = {
        getattr(sys.modules[module], name): adapter
        for (module, name), adapter in _LIBRARY_ADAPTERS.items()
        if hasattr(sys.modules.get(module), name)
    }
    return {**imported, **_REGISTERED}


def known_classes() -> list[str]:
    """Qualified names of the classes that have an adapter, imported or not."""
    libraries = [f"{module}.{name}" for module, name in _LIBRARY_ADAPTERS]
    return libraries + [f"{cls.__module__}.{cls.__qualname__}" for cls in _REGISTERED]
