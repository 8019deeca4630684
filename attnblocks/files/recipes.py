"""What stands where in a network, as JSON, and the way back."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from attnblocks.blocks.registry import block_name, create_block, list_blocks
from attnblocks.files.layer_names import function_layer, name_function, norm_layer
from attnblocks.swap.replace import replace_se
from attnblocks.swap.sites import SESite, find_se

Recipe = list[dict[str, Any]]
"""One entry per site: "site", "block", "channels" and "arguments"."""


def recipe(model: nn.Module) -> Recipe:
    """List what stands at every SE site of a network, so that it can be built again.

    Args:
        model: the network; it is only read.

    Returns:
        A list for JSON, in the order of the network. Each entry has the name of the ``site``, its
        ``channels``, and the ``block``: a name out of :func:`attnblocks.list_blocks` with the
        ``arguments`` that make it, or the qualified name of a foreign SE class with its
        ``rd_channels``.

    Raises:
        ValueError: a block has a layer that no recipe can name, such as a gate of the user's own,
            or that was put in later.

    Example:
        >>> from attnblocks import Eca
        >>> recipe(nn.Sequential(Eca(64)))  # doctest: +NORMALIZE_WHITESPACE
        [{'site': '0', 'block': 'Eca', 'channels': 64,
          'arguments': {'kernel_size': 3, 'gate_layer': 'Sigmoid'}}]
    """
    return [_entry(site) for site in find_se(model)]


def _entry(site: SESite) -> dict[str, Any]:
    name, block = block_name(site.module), cast(Any, site.module)
    entry = {"site": site.name, "block": name, "channels": site.channels}
    if name is None or not hasattr(block, "arguments"):
        return {**entry, "block": site.kind, "arguments": {"rd_channels": site.rd_channels}}
    try:
        entry["arguments"] = block.arguments()
        _check_same_layers(block, _outline(entry))
    except ValueError as error:
        raise ValueError(f"the block at {site.name!r} has no recipe: {error}") from error
    return entry


def apply_recipe(model: nn.Module, recipe: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Put the blocks of a recipe into a freshly built network, in place.

    The blocks have their published initialisation: load their weights afterwards.

    Args:
        model: the network, with the SE blocks that it was built with.
        recipe: as :func:`recipe` returns it, also after a way through JSON.

    Returns:
        The network: ``model`` itself, or the new block if ``model`` is an SE block.

    Raises:
        ValueError: the recipe is damaged, or does not fit; all differences are named, and the
            network is left as it was.

    Example:
        >>> from attnblocks import SE
        >>> entry = {"site": "0", "block": "CaCo", "channels": 64, "arguments": {"rd_channels": 8}}
        >>> apply_recipe(nn.Sequential(SE(64)), [entry])[0].rd_channels
        8
    """
    entries = {entry["site"]: entry for entry in _checked(recipe)}
    sites = {site.name: site for site in find_se(model)}
    problems = [f"no site {name!r} in the network" for name in entries.keys() - sites.keys()]
    problems += [f"site {name!r} is not in the recipe" for name in sites.keys() - entries.keys()]
    for name in entries.keys() & sites.keys():
        entry, site = entries[name], sites[name]
        if entry["channels"] != site.channels:
            problems.append(f"site {name!r} has {site.channels} channels, not {entry['channels']}")
        if entry["block"] not in list_blocks() and entry != _entry(site):
            problems.append(f"site {name!r} is {_entry(site)}, not {dict(entry)}")
    if problems:
        raise ValueError(f"the recipe does not fit: {'; '.join(sorted(problems))}")
    ours = {name for name, entry in entries.items() if entry["block"] in list_blocks()}
    if not ours:
        return model
    return replace_se(
        model, lambda site: _build(entries[site.name]), where=lambda site: site.name in ours
    )


def _checked(recipe: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The recipe itself, if it has the form of one."""
    kinds = {"site": str, "block": str, "channels": int, "arguments": dict}
    for entry in recipe:
        if (
            not isinstance(entry, Mapping)
            or entry.keys() != kinds.keys()
            or not all(isinstance(entry[key], kind) for key, kind in kinds.items())
        ):
            raise ValueError(f"an entry of a recipe has {', '.join(kinds)}; got {entry!r}")
        if places := entry["arguments"].keys() & {"device", "dtype"}:
            raise ValueError(f"a recipe does not say where a block is: leave out {sorted(places)}")
    if len({entry["site"] for entry in recipe}) < len(recipe):
        raise ValueError("the recipe names a site twice")
    return recipe


def _build(entry: Mapping[str, Any]) -> nn.Module:
    """The fresh block of an entry."""
    readers = {"norm_layer": norm_layer, "act_layer": function_layer, "gate_layer": function_layer}
    arguments = {
        name: readers[name](value) if name in readers else value
        for name, value in entry["arguments"].items()
    }
    return create_block(entry["block"], entry["channels"], **arguments)


def _outline(entry: Mapping[str, Any]) -> nn.Module:
    """The block of an entry without data, unless it is one of the user's own that reads values."""
    try:
        with torch.device("meta"):
            return _build(entry)
    except Exception:
        with torch.random.fork_rng(devices=[]):
            return _build(entry)


def _check_same_layers(block: nn.Module, rebuilt: nn.Module) -> None:
    """Raise ValueError where a layer of a block is not the one that its arguments make."""
    ours, theirs = ({n: _described(m) for n, m in b.named_modules()} for b in (block, rebuilt))
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"{name!r} is {ours.get(name)}, and its arguments make {theirs.get(name)}"
            )


def _described(layer: nn.Module) -> str:
    """What a layer does, whatever class it is of."""
    if isinstance(layer, nn.Conv2d) and not hasattr(layer, "parametrizations"):
        return f"Conv2d({nn.Conv2d.extra_repr(layer)})"  # type: ignore[no-untyped-call]
    if not any(True for _ in layer.children()) and not any(True for _ in layer.parameters()):
        try:
            with torch.device("cpu"):
                return str(name_function(layer))
        except Exception:  # none of one argument
            pass
    return f"{type(layer).__name__}({layer.extra_repr()})"
