"""Which sites or places get a block, and what makes the block of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Protocol, TypeVar

from torch import nn

from attnblocks.blocks.base import PLACE, AttentionBlock
from attnblocks.blocks.registry import BlockFactory, get_block, is_registered
from attnblocks.blocks.se_layers import SELayers
from attnblocks.swap.sites import holds

Block = BlockFactory | str | Callable[[Any], nn.Module]
"""A block class or registered function, its name, or a function of the site or place."""

Where = Callable[[Any], bool] | str | Sequence[str]
"""A predicate on a site or place, or one or several patterns of names."""


class Named(Protocol):
    """A site whose block is replaced, a place for a new one, or what was inserted."""

    @property
    def name(self) -> str:
        """Qualified name in the network."""


S = TypeVar("S", bound=Named)


@dataclass(frozen=True)
class Start:
    """How new blocks start, and with which options.

    Args:
        inherits: whether they start from the blocks that they replace.
        match_rd_channels: whether they get the squeeze widths of their sites.
        options: further arguments of the blocks.
    """

    inherits: bool
    match_rd_channels: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Maker:
    """How the new module of a site or place is made.

    Args:
        make: builds the module from the site or place.
        inherits: whether the module then inherits from the block at the site.
        exact: tried first: makes a module that takes over all of the old block, or returns None.
    """

    make: Callable[[Any], nn.Module]
    inherits: bool = False
    exact: Callable[[SELayers], nn.Module | None] | None = None


def assign(
    sites: Sequence[S],
    block: Block | Mapping[str, Block],
    where: Where | None,
    start: Start,
    choose: Callable[[Sequence[S], Where | None], Sequence[S]],
) -> list[Maker | None]:
    """The maker of each site, None for a site that stays as it is.

    Args:
        sites: sites, or places.
        block: what is put in, or a mapping from patterns to it.
        where: which sites; None for a mapping, or for all.
        start: how the blocks start.
        choose: finds the sites that a pattern, several, or a predicate name.

    Raises:
        LookupError: ``where`` or a pattern selects none, or only sites that are taken.
        ValueError: an unknown block name.
        TypeError: arguments that do not go together.
    """
    if not isinstance(block, Mapping):
        maker, chosen = _maker(block, start), choose(sites, where)
        return [maker if site in chosen else None for site in sites]
    if where is not None:
        raise TypeError(
            "the patterns of a mapping say where its blocks go: leave out where or after"
        )
    if not block:
        raise LookupError("the mapping from patterns to blocks is empty")
    makers: dict[S, Maker] = {}
    for pattern, one in block.items():
        maker, chosen = _maker(one, start), choose(sites, pattern)
        if makers.keys() >= set(chosen):
            names = [site.name for site in chosen]
            raise LookupError(
                f"{pattern!r} comes after patterns that take all of its sites {names}"
            )
        makers = {**dict.fromkeys(chosen, maker), **makers}
    return [makers.get(site) for site in sites]


def select(sites: Sequence[S], where: Where | None) -> tuple[S, ...]:
    """The sites that ``where`` names; LookupError if it, or one of its patterns, names none."""
    if where is None:
        return tuple(sites)
    names = [site.name for site in sites]
    if callable(where):
        chosen = tuple(site for site in sites if where(site))
    else:
        patterns = [where] if isinstance(where, str) else list(where)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise LookupError(f"{pattern!r} matches none of the sites {names}")
        chosen = tuple(s for s in sites if any(fnmatchcase(s.name, p) for p in patterns))
    if not chosen:
        raise LookupError(f"where selects none of the sites {names}")
    return chosen


def _maker(block: Block, start: Start) -> Maker:
    """The maker of a block, however it was given."""
    factory = _factory(block)
    if factory is not None:
        return _from_channels(factory, start)
    if isinstance(block, (type, nn.Module)) or not callable(block):
        raise TypeError(
            f"block must be a class, a name or a function of the site or place, got {block!r}"
        )
    given = sorted(start.options) + ["match_rd_channels"] * start.match_rd_channels
    if given:
        raise TypeError(f"{given} go with a block class or name; a function gets the site alone")
    return Maker(block)


def _factory(block: Block) -> BlockFactory | None:
    """What is called with channels and options; None for what is called with the site."""
    if isinstance(block, str):
        return get_block(block)
    made = block.func if isinstance(block, partial) else block
    is_class = isinstance(made, type) and issubclass(made, nn.Module)
    return block if is_class or is_registered(block) or is_registered(made) else None


def _from_channels(factory: BlockFactory, start: Start) -> Maker:
    if taken := start.options.keys() & set(PLACE):
        raise TypeError(f"{sorted(taken)} of a new block are those of the site")

    def make(site: Any) -> nn.Module:
        width = site.rd_channels if start.match_rd_channels else None
        matched = {} if width is None else {"rd_channels": width}
        return factory(site.channels, **start.options, **matched)

    return Maker(make, start.inherits, None if start.options else _exact(factory, start))


def _exact(factory: BlockFactory, start: Start) -> Callable[[SELayers], nn.Module | None] | None:
    if start.inherits and isinstance(factory, type) and issubclass(factory, AttentionBlock):
        return factory.from_se if holds(factory, "from_se") else None
    return None
