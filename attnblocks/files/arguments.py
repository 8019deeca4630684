"""The arguments that make a block, as JSON: read off the block, and turned into a block again.

Numbers, words and flags are read from the attribute of that name, as are widths, which come from
layers; without one, they are what the block was built with. An argument that makes a layer is given
as the name of the layer that is now in the block.
"""

from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from attnblocks.blocks.base import PLACE, AttentionBlock, is_plain
from attnblocks.blocks.gain import shapes, without_gains
from attnblocks.blocks.registry import create_block, get_block
from attnblocks.files.layer_names import (
    LayerSpec,
    class_name,
    function_layer,
    name_function,
    name_norm,
    norm_layer,
)


def arguments_of(block: AttentionBlock, name: str, channels: int) -> dict[str, Any]:
    """The arguments that make a block like this one, except its channels, for JSON.

    Args:
        block: a block of a registered class.
        name: the name of its class.
        channels: of its map.

    Raises:
        ValueError: a layer is not what the arguments make, or no recipe can name it.
    """
    parameters = _parameters(type(block))
    makers = {
        key: _Watched(parameter.default if callable(parameter.default) else nn.Identity)
        for key, parameter in parameters.items()
        if _makes_a_layer(key, parameter)
    }
    plain = {key: _said(block, key) for key in parameters if key not in makers}
    for key, value in plain.items():
        if value is None and not _is_gain(key):
            plain[key] = block._built_with.get(key)
    example = _on_meta(lambda: create_block(name, channels, **plain, **makers))
    for key in plain:  # an attribute may mean something other than the argument of its name
        if not _is_gain(key) and _said(example, key) != _said(block, key):
            plain[key] = block._built_with.get(key)
    arguments = {
        key: plain[key] if key in plain else _layer_name(key, makers[key].stands_in(block, example))
        for key in parameters
        # A width says more than the ratio that it came from.
        if not (key.endswith("_ratio") and key.replace("_ratio", "_channels") in plain)
        # Versions that know no gain read the recipes of blocks without one.
        and not (_is_gain(key) and plain[key] is None)
    }
    _check_same(block, _on_meta(lambda: build_block(name, channels, arguments)), plain)
    return arguments


def build_block(name: str, channels: int, arguments: Mapping[str, Any]) -> nn.Module:
    """The fresh block that arguments from JSON make.

    Raises:
        ValueError: an unknown block, or a layer that is none of those a recipe can name.
    """
    made_by = _parameters(get_block(name))
    return create_block(
        name,
        channels,
        **{
            key: _layer_factory(key, value) if _makes_a_layer(key, made_by.get(key)) else value
            for key, value in arguments.items()
        },
    )


def _parameters(factory: Callable[..., Any]) -> dict[str, Parameter]:
    """The arguments of a block after its channels that say what it is."""
    _, *others = signature(factory).parameters.values()
    return {
        p.name: p
        for p in others
        if p.name not in PLACE and p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    }


def _is_gain(name: str) -> bool:
    """Whether an argument is the gain of a stage: a state dict brings its own, whatever it was."""
    return name.endswith("gain")


def _makes_a_layer(name: str, parameter: Parameter | None) -> bool:
    return name.endswith("_layer") or (parameter is not None and callable(parameter.default))


def _layer_factory(name: str, spec: Any) -> Any:
    return norm_layer(spec) if "norm" in name else function_layer(spec)


def _said(block: nn.Module, name: str) -> Any:
    """What the attribute of that name says, if JSON can hold it; else None."""
    value = getattr(block, name, None)
    if isinstance(value, Tensor) and _is_gain(name):
        value = value.tolist()
    if isinstance(value, tuple):
        value = list(value)
    return value if is_plain(value) else None


class _Watched:
    """A factory that remembers the first layer it made."""

    def __init__(self, factory: Callable[..., nn.Module]) -> None:
        self.factory = factory
        self.made: nn.Module | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        layer = self.factory(*args, **kwargs)
        self.made = layer if self.made is None else self.made
        return layer

    def stands_in(self, block: nn.Module, example: nn.Module) -> nn.Module | None:
        """The layer that a block has in the place of the one that was made for the example."""
        places = [name for name, layer in example.named_modules() if layer is self.made]
        return dict(block.named_modules()).get(places[0]) if places else None


def _layer_name(argument: str, layer: nn.Module | None) -> LayerSpec:
    if "norm" in argument:
        return None if layer is None else name_norm(layer)
    if layer is None:
        raise ValueError(f"no layer of it is made by its argument {argument!r}")
    return name_function(layer)


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """A block without data, unless it is one of the user's own that reads values."""
    try:
        with torch.device("meta"):
            return build()
    except Exception:
        with torch.random.fork_rng(devices=[]):
            return build()


def _check_same(block: nn.Module, rebuilt: nn.Module, plain: Iterable[str]) -> None:
    """Raise ValueError where a block is not the one that its arguments make."""
    ours, theirs = ({n: _described(m) for n, m in b.named_modules()} for b in (block, rebuilt))
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                f"{name!r} is {ours.get(name)}, and its arguments make {theirs.get(name)}"
            )
    for name in plain:
        if not _is_gain(name) and _said(block, name) != _said(rebuilt, name):
            raise ValueError(f"no argument makes its {name} {_said(block, name)!r}")
    found, wanted = shapes(block), shapes(rebuilt)
    if found != wanted:
        raise ValueError(f"its weights have shapes {found}, and its arguments make {wanted}")


def _described(layer: nn.Module) -> str:
    """What a layer does, whatever its class."""
    if isinstance(layer, nn.Conv2d) and not hasattr(layer, "parametrizations"):
        return f"Conv2d({nn.Conv2d.extra_repr(layer)})"  # type: ignore[no-untyped-call]
    if not any(True for _ in layer.children()) and not any(True for _ in layer.parameters()):
        try:
            with torch.device("cpu"):
                return str(name_function(layer))
        except Exception:  # not a function of one argument
            pass
    return without_gains(f"{class_name(layer)}({layer.extra_repr()})")
