"""What the maps of a network are: ends of residual branches, ends of stages."""

from collections.abc import Mapping, Sequence, Set

from torch import nn

from attnblocks.blocks.base import AttentionBlock
from attnblocks.swap.trace import Node, Trace, meet


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a depthwise convolution."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def residual_ends(trace: Trace, modules: Mapping[str, nn.Module]) -> set[str]:
    """The modules that return a map which is added to the one that it was made from.

    Of the two operands it is the one with more weighted operations before it, and both if they
    have as many; the first module that returned it.

    Args:
        trace: a run of the network.
        modules: those that return maps.
    """
    ends = set()
    for pair in trace.additions:
        most = max(node.weights for node in pair)
        for node in pair:
            names = _returned_by(node, modules)
            if node.weights == most and names:
                ends.add(names[0])
    return ends


def stage_ends(trace: Trace, modules: Mapping[str, nn.Module]) -> set[str]:
    """The modules that return the last map before the size falls to half of the positions or less.

    It is the last larger map that dominates all smaller ones of a size, or, if only pointwise
    operations lie between, what enters the module in which the size falls: a block that first
    widens the map at the old size, a transition that normalizes it. What comes after the size rose,
    as in a decoder, is left aside. The last stage ends with the last map before the output if that
    is vectors, as of a classifier, or else with the last map of the smallest size.

    Args:
        trace: a run of the network.
        modules: those that return maps whose size follows that of the input.
    """
    sizes: dict[Node, tuple[int, int]] = {}
    falls: list[tuple[Node, Node]] = []  # what enters a module, and what it returns
    for name in modules:
        for call in trace.calls[name]:
            if call.node is not None and call.shape is not None:
                sizes[call.node] = (call.shape[2], call.shape[3])
                falls += [(given, call.node) for given in call.given]

    def area(node: Node) -> int:
        height, width = sizes[node]
        return height * width

    down = [node for node in sizes if not node.rose]
    ends: list[Node] = []
    for size in {sizes[node] for node in down}:
        maps = [node for node in down if sizes[node] == size]
        chain = [node for node in meet(maps).upwards() if node in sizes]
        last = next((node for node in chain if area(node) > area(maps[0])), None)
        if last is None or 2 * area(maps[0]) > area(last):
            continue
        entering = [
            given
            for given, returned in falls
            if given in chain
            and sizes[given] == sizes[last]
            and given.mixings == last.mixings
            and 2 * area(returned) <= area(given)
        ]
        ends.append(min(entering, key=lambda node: node.level, default=last))
    if output := trace.calls[""][0].vectors:
        ends += [node for node in meet(output).upwards() if node in sizes][:1]
    elif down:
        ends.append(min(down, key=lambda node: (area(node), -node.number)))
    names = [_returned_by(node, modules) for node in ends]
    first = {of_one[0] for of_one in names}
    return {_outermost(of_one, but_not_around=first - {of_one[0]}) for of_one in names}


def _returned_by(node: Node, modules: Mapping[str, nn.Module]) -> list[str]:
    """The modules that made a map, or else passed it; without blocks if others did too."""
    made = [name for name in node.made_by if name in modules]
    names = made or [name for name in node.passed_by if name in modules]
    others = [name for name in names if not isinstance(modules[name], AttentionBlock)]
    return others or names


def _outermost(names: Sequence[str], but_not_around: Set[str]) -> str:
    """The last of the modules, each around the one before it, that returned one map."""
    outermost = names[0]
    for name in names[1:]:
        around = f"{name}."
        if not outermost.startswith(around) or any(n.startswith(around) for n in but_not_around):
            break
        outermost = name
    return outermost
