"""What is said of a network without SE blocks: what was looked for, and what in it is similar."""

import re
from collections.abc import Iterable, Iterator

from torch import nn
from torch.fx import GraphModule

from attnblocks.blocks.se_layers import input_width, output_width
from attnblocks.swap.adapters import known_classes

_CLASS = re.compile("SE|Se[^a-z]|Squeeze|Excit|Eca|Att")
_LAYER = re.compile(r"(^|_)[cs]?se(_|\d|$)|squeeze|excit", re.IGNORECASE)


def no_site(model: nn.Module) -> LookupError:
    """The error for a network without SE blocks: what was looked for, and what looks similar."""
    looked = "; ".join(f"of {p} {', '.join(names)}" for p, names in known_classes().items())
    advice = "see register_se for others"
    if any(isinstance(module, GraphModule) for module in model.modules()):
        advice = "swap before tracing or exporting it"
    elif any(isinstance(module, nn.Conv3d) for module in model.modules()):
        advice = "nothing: it is for volumes, and the blocks take maps (N, C, H, W) alone"
    elif inlined := _listed(_inlined(model)):
        advice = (
            f"inlined SE are no modules, and cannot be replaced: {inlined}. Call a module in the "
            "forward there that holds these layers and returns the map times the gates, and "
            "register_se its class; or insert blocks behind other modules"
        )
    return LookupError(
        f"{type(model).__name__} has no SE block. Looked for: {looked}; "
        f"and the blocks of attnblocks. {_similar(model)} What to do: {advice}"
    )


def _similar(model: nn.Module) -> str:
    found = _listed(
        (type(module).__qualname__, name)
        for name, module in model.named_modules()
        if _CLASS.search(type(module).__name__)
    )
    if not found:
        return "Nothing in it looks like an attention block."
    return f"Similar modules in it: {found}."


def _listed(found: Iterable[tuple[str, str]]) -> str:
    """Up to eight descriptions, each with the first module that it is of and a count of others."""
    names: dict[str, list[str]] = {}
    for description, name in found:
        names.setdefault(description, []).append(name)
    return ", ".join(
        f"{description} ({first!r}{f' and {len(more)} more' if more else ''})"
        for description, (first, *more) in list(names.items())[:8]
    )


def _inlined(model: nn.Module) -> Iterator[tuple[str, str]]:
    """The layers of an SE among others in one module, and the name of that module."""
    for name, module in model.named_modules():
        layers = {child: layer for child, layer in module.named_children() if _has_weights(layer)}
        named = {child: layer for child, layer in layers.items() if _LAYER.search(child)}
        gates = [child for child, layer in layers.items() if _makes_gates(layer)]
        found = gates or (list(named) if _squeeze_and_expand(named.values()) else [])
        if found and layers.keys() - named.keys() - {*gates}:  # else it is a module of its own
            yield f"{' and '.join(found)} of {type(module).__qualname__}", name


def _makes_gates(module: nn.Module) -> bool:
    """Whether it is a sequence from a map to the gates of its channels."""
    if not isinstance(module, nn.Sequential) or len(module) < 4:
        return False
    pooled = isinstance(module[0], nn.AdaptiveAvgPool2d) and module[0].output_size in (1, (1, 1))
    return pooled and not _has_weights(module[-1]) and _squeeze_and_expand(module)


def _squeeze_and_expand(layers: Iterable[nn.Module]) -> bool:
    """Whether two of the layers have weights, the second with the widths of the first swapped."""
    widths = [(input_width(m), output_width(m)) for m in layers if _has_weights(m)]
    return len(widths) == 2 and widths[0] == widths[1][::-1]


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
