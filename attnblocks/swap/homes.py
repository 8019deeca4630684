"""The modules that hold inserted blocks as children, and how the blocks are called there."""

import re

from torch import nn

from attnblocks.blocks.base import AttentionBlock
from attnblocks.swap.adapters import known_adapters

_NAME = re.compile(r"(\w+_)?attention(_\d+)?")

_ITERATES = {"children", "named_children", "modules", "named_modules", "_modules"}
"""Names in the code of a ``forward`` that may run any child."""


def new_name(model: nn.Module, after: str) -> str:
    """A free name for a block, under a module that does not run all of its children."""
    home, stem = _home(model, after)
    holder, name, count = model.get_submodule(home), stem, 1
    while _has(holder, name):
        count += 1
        name = f"{stem}_{count}"
    return join(home, name)


def why_not_behind(model: nn.Module, after: str, name: str) -> str | None:
    """Why a block cannot stand behind a module under a given name; None if it can."""
    modules = dict(model.named_modules())
    above, _, own = name.rpartition(".")
    if after not in modules or not after:
        return f"no module {after!r} in the network, which {name!r} is to stand behind"
    if not _NAME.fullmatch(own):
        return f"{name!r} is no name of an inserted block, such as {after + '.attention'!r}"
    if above not in modules:
        return f"no module {above!r} in the network, which is to hold {name!r}"
    if _has(modules[above], own):
        return f"{name!r} is in the network already"
    if _runs_children(modules[above]):
        return f"{above!r} may run all of its children, and cannot hold {name!r}"
    return None


def _home(model: nn.Module, after: str) -> tuple[str, str]:
    """The name of the module that takes a block in, and how the block is called there.

    It is the module itself; or the last one within it, so that they stay together; or, behind a
    block, the nearest one around it, or else beside it.
    """
    module, parts = model.get_submodule(after), after.split(".")
    if not _runs_children(module):
        return after, "attention"
    stem = "_".join([*parts, "attention"])
    if (inner := _last_holder(module, after)) is not None:
        return inner, stem
    for count in range(len(parts) - 1, -1, -1):
        home = ".".join(parts[:count])
        if not _runs_children(model.get_submodule(home)):
            return home, "_".join([*parts[count:], "attention"])
    for count in range(len(parts) - 1, -1, -1):
        around = ".".join(parts[:count])
        if (beside := _last_holder(model.get_submodule(around), around)) is not None:
            return beside, stem
    raise ValueError(f"no module of the network can hold a block behind {after!r}")


def _last_holder(module: nn.Module, name: str) -> str | None:
    """The last module within another one that can hold a block; none within a block."""
    if isinstance(module, _blocks()):
        return None
    for child, inner in reversed(list(module.named_children())):
        path = join(name, child)
        found = _last_holder(inner, path) if _runs_children(inner) else path
        if found is not None:
            return found
    return None


def _runs_children(module: nn.Module) -> bool:
    """Whether a module may run a child that it does not know, or is a block with its own layers."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict, *_blocks())):
        return True
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and not _ITERATES.isdisjoint(code.co_names)


def _blocks() -> tuple[type[nn.Module], ...]:
    return (AttentionBlock, *known_adapters())


def _has(module: nn.Module, name: str) -> bool:
    """Whether a module has an attribute; one that answers to every name has none of them."""
    own = (vars(module), module._modules, module._parameters, module._buffers)
    return any(name in names for names in own) or hasattr(type(module), name)


def join(path: str, name: str) -> str:
    """The qualified name of a child."""
    return f"{path}.{name}" if path else name
