"""What stands where in a network, as JSON, and the way back."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from attnblocks.blocks.base import PLACE, AttentionBlock
from attnblocks.blocks.registry import block_name, list_blocks
from attnblocks.files.arguments import arguments_of, build_block
from attnblocks.swap.behind import places_of_blocks, put_behind, undone_on_error
from attnblocks.swap.build import build_one, modules_around
from attnblocks.swap.homes import why_not_behind
from attnblocks.swap.replace import replace_se
from attnblocks.swap.sites import SESite, find_se
from attnblocks.swap.wrappers import check_unwrapped, unwrap

Recipe = list[dict[str, Any]]
"""One entry per site: "site", "block", "channels" and "arguments", and "after" if inserted."""


def recipe(model: nn.Module) -> Recipe:
    """List what stands at every SE site of a network, so that it can be built again.

    Args:
        model: the network; it is only read. Of a wrapped one, the network inside, as for
            :func:`attnblocks.find_se`.

    Returns:
        A list for JSON, in the order of the network, and behind one module in that in which blocks
        run. Each entry has the name of the ``site``, its ``channels``, and the ``block``: a name
        from :func:`attnblocks.list_blocks` with the ``arguments`` that make it, or the qualified
        name of a foreign SE class with its ``rd_channels``. That of an inserted block has the name
        of the module that it is ``after``.

    Raises:
        ValueError: a block has a layer that no recipe can name, such as a gate of the user's own,
            or one that was put in later; or an inserted block runs no more.
        TypeError: a network that is scripted, exported or sharded.

    Example:
        >>> from attnblocks import Eca
        >>> recipe(nn.Sequential(Eca(64)))  # doctest: +NORMALIZE_WHITESPACE
        [{'site': '0', 'block': 'Eca', 'channels': 64,
          'arguments': {'kernel_size': 3, 'gate_layer': 'Sigmoid'}}]
    """
    return [_entry(site) for site in _in_turn(unwrap(model, "recipe"))]


def _in_turn(model: nn.Module) -> list[SESite]:
    """The sites in the order of the network; those behind one module in that in which they run."""
    sites = find_se(model)
    turns = {block: turn for turn, block in enumerate(places_of_blocks(model))}
    behind: dict[str | None, list[SESite]] = {}
    for site in sorted(sites, key=lambda site: turns.get(site.module, -1)):
        behind.setdefault(site.after, []).append(site)
    return [behind[site.after].pop(0) for site in sites]


def _entry(site: SESite) -> dict[str, Any]:
    block, name = site.module, block_name(site.module)
    entry: dict[str, Any] = {"site": site.name, "block": name, "channels": site.channels}
    if site.after is not None:
        entry["after"] = site.after
    if name is None or not isinstance(block, AttentionBlock):
        return {**entry, "block": site.kind, "arguments": {"rd_channels": site.rd_channels}}
    try:
        entry["arguments"] = arguments_of(block, name, site.channels)
    except Exception as error:  # whatever a block of the user's own raises when it is built again
        raise ValueError(f"the block at {site.name!r} has no recipe: {error}") from error
    return entry


def apply_recipe(model: nn.Module, recipe: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Put the blocks of a recipe into a freshly built network, in place.

    The blocks have their published initialisation: load their weights afterwards.

    Args:
        model: the network, with the SE blocks that it was built with, and without those that are
            inserted.
        recipe: as :func:`recipe` returns it, also after a round trip through JSON.

    Returns:
        The network: ``model`` itself, or the new block if ``model`` is an SE block.

    Raises:
        ValueError: the recipe is damaged, or does not fit; all differences are named, and the
            network is left as it was.
        TypeError: a network that is compiled or wrapped.

    Example:
        >>> from attnblocks import SE
        >>> entry = {"site": "0", "block": "CaCo", "channels": 64, "arguments": {"rd_channels": 8}}
        >>> apply_recipe(nn.Sequential(SE(64)), [entry])[0].rd_channels
        8
    """
    check_unwrapped(model, "apply_recipe")
    entries = {entry["site"]: entry for entry in _checked(recipe)}
    sites = {site.name: site for site in find_se(model)}
    problems = [
        *(_misfit(model, entry, sites.get(name)) for name, entry in entries.items()),
        *(f"site {name!r} is not in the recipe" for name in sites.keys() - entries.keys()),
    ]
    if found := sorted(filter(None, problems)):
        raise ValueError(f"the recipe does not fit: {'; '.join(found)}")
    new = {name: _new_block(model, entry) for name, entry in entries.items() if name not in sites}
    ours = {name for name in sites if entries[name]["block"] in list_blocks()}
    with undone_on_error(model) as done:
        for name, block in new.items():
            done.append(put_behind(model, entries[name]["after"], block, name))
        if not ours:
            return model
        return replace_se(
            model, lambda site: _built(entries[site.name]), where=lambda site: site.name in ours
        )


def _misfit(model: nn.Module, entry: Mapping[str, Any], site: SESite | None) -> str | None:
    """Why an entry does not fit a network; None if it does."""
    name, after = entry["site"], entry.get("after")
    if site is not None:
        if entry["channels"] != site.channels:
            return f"site {name!r} has {site.channels} channels, not {entry['channels']}"
        if (entry["block"] not in list_blocks() and entry != _entry(site)) or after != site.after:
            return f"site {name!r} is {_entry(site)}, not {dict(entry)}"
        return None
    if after is None:
        return f"no site {name!r} in the network"
    if entry["block"] not in list_blocks():
        return f"no block {entry['block']!r}, which is to stand behind {after!r}"
    return why_not_behind(model, after, name)


def _checked(recipe: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The recipe itself, if it is well formed."""
    kinds = {"site": str, "block": str, "channels": int, "arguments": dict}
    if not isinstance(recipe, Sequence) or isinstance(recipe, str):
        raise ValueError(f"a recipe is a list of entries, got {recipe!r}")
    for entry in recipe:
        well_formed = (
            isinstance(entry, Mapping)
            and entry.keys() - {"after"} == kinds.keys()
            and all(isinstance(entry[key], kind) for key, kind in kinds.items())
            and not isinstance(entry["channels"], bool)
            and isinstance(entry.get("after", ""), str)
        )
        if not well_formed:
            raise ValueError(
                f"an entry of a recipe has {', '.join(kinds)}, and after if it was inserted; got "
                f"{entry!r}"
            )
        if places := entry["arguments"].keys() & set(PLACE):
            raise ValueError(f"a recipe does not say where a block is: leave out {sorted(places)}")
    if len({entry["site"] for entry in recipe}) < len(recipe):
        raise ValueError("the recipe names a site twice")
    return recipe


def _new_block(model: nn.Module, entry: Mapping[str, Any]) -> nn.Module:
    """The fresh block of an entry, for its place in a network."""
    around = modules_around(model, entry["after"])
    return build_one(lambda: _built(entry), f"site {entry['site']!r}", around[0], around)


def _built(entry: Mapping[str, Any]) -> nn.Module:
    """The fresh block of an entry."""
    return build_block(entry["block"], entry["channels"], entry["arguments"])
