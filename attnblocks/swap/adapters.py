"""The SE classes of other libraries, and a user's own: how their layers are read.

Every class has an adapter: a function that names the layers of one such block.
"""

import sys

from torch import nn

from attnblocks.swap.library_adapters import LIBRARY_ADAPTERS, Adapter

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
        >>> from attnblocks import SELayers, find_se
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
        for (module, name), adapter in LIBRARY_ADAPTERS.items()
        if hasattr(sys.modules.get(module), name)
    }
    return {**imported, **_REGISTERED}


def known_classes() -> dict[str, list[str]]:
    """Names of the classes that have an adapter, imported or not, by the package they are of."""
    registered = [(cls.__module__, cls.__qualname__) for cls in _REGISTERED]
    classes: dict[str, list[str]] = {}
    for module, name in (*LIBRARY_ADAPTERS, *registered):
        names = classes.setdefault(module.partition(".")[0], [])
        if name not in names:
            names.append(name)
    return classes
