"""Blocks by name, for configuration files and command lines."""

import difflib
from collections.abc import Callable
from typing import Any, TypeVar, overload

from torch import nn

BlockFactory = Callable[..., nn.Module]
"""A block class, or a function called as ``factory(channels, **kwargs)``."""

T = TypeVar("T", bound=BlockFactory)

_BLOCKS: dict[str, BlockFactory] = {}


def list_blocks() -> list[str]:
    """Return the known names, sorted.

    Example:
        >>> list_blocks()
        ['CBAM', 'CaCo', 'CoordAtt', 'Eca', 'SE', 'SeCo']
    """
    return sorted(_BLOCKS)


def get_block(name: str) -> BlockFactory:
    """Return the class or function registered as ``name``.

    Args:
        name: one of :func:`list_blocks`, in exactly that spelling.

    Raises:
        ValueError: an unknown name; the message lists the known ones and the nearest.

    Example:
        >>> get_block("CaCo").__name__
        'CaCo'
    """
    if name in _BLOCKS:
        return _BLOCKS[name]
    known = {block.lower(): block for block in _BLOCKS}
    near = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f" Did you mean {known[near[0]]!r}?" if near else ""
    raise ValueError(f"no block is named {name!r}; known: {', '.join(list_blocks())}.{hint}")


def block_name(block: nn.Module) -> str | None:
    """The name under which the class of a block is registered; None if it is not."""
    return next((name for name, factory in _BLOCKS.items() if factory is type(block)), None)


def is_registered(block: object) -> bool:
    """Whether a class or function is registered, under any name."""
    return any(factory is block for factory in _BLOCKS.values())


def create_block(name: str, channels: int, **kwargs: Any) -> nn.Module:
    """Build a block by its name.

    Args:
        name: one of :func:`list_blocks`, in exactly that spelling.
        channels: channels of the map.
        **kwargs: passed to the block; one that it does not have is a TypeError.

    Raises:
        ValueError: an unknown name; the message lists the known ones and the nearest.

    Example:
        >>> create_block("CaCo", 64, coord_rd_channels=16).coord_rd_channels
        16
    """
    return get_block(name)(channels, **kwargs)


@overload
def register_block(name: str) -> Callable[[T], T]: ...
@overload
def register_block(name: str, block: T) -> T: ...
def register_block(name: str, block: T | None = None) -> T | Callable[[T], T]:
    """Register a block of your own under a name.

    Decorates the class, or a function called as ``block(channels, **kwargs)``. An
    :class:`attnblocks.AttentionBlock` says the rest itself: it is found, saved, drawn and replaced
    again. Any other module can only be swapped in.

    Args:
        name: a new name.
        block: the class or function; leave it out to use this as a decorator.

    Returns:
        The block; without one, a decorator.

    Raises:
        ValueError: the name is empty or taken.
        TypeError: the name is not a string, or the block cannot be called.

    Example:
        >>> from attnblocks import SE
        >>> @register_block("SE16")
        ... def se16(channels):
        ...     return SE(channels, rd_ratio=1 / 16)
        >>> create_block("SE16", 256).rd_channels
        16
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")
    if not name or name in _BLOCKS:
        raise ValueError(f"name must be new and not empty, got {name!r}")
    if block is None:
        return lambda block: register_block(name, block)
    if not callable(block):
        raise TypeError(f"block must be a class or function, got {block!r}")
    _BLOCKS[name] = block
    return block
