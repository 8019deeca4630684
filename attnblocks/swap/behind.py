"""Blocks behind modules of a network: a child module, and the forward hook that runs it.

The module keeps its class, and everything in the network its name. A record in the parent of the
module tells where a block should run, so that one whose hook is gone is found: what replaces
modules, as ``convert_sync_batchnorm`` and fusions do, takes no hooks along.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from attnblocks.blocks.base import AttentionBlock
from attnblocks.swap.adapters import known_adapters

_RECORD = "_attention_behind"
"""Attribute of a parent: the hooks that should be on its children, by the child's name."""

_ITERATES = {"children", "named_children", "modules", "named_modules", "_modules"}
"""Names in the code of a ``forward`` that may run any child."""


class Behind:
    """The forward hook that runs a block on what a module returns.

    It finds the block by name: whatever takes its place there, such as another block or a wrapper,
    runs.

    Args:
        name: of the block in its home.
        home: the module whose child the block is; None for the module behind which it runs.
    """

    def __init__(self, name: str, home: nn.Module | None) -> None:
        self.name = name
        self.home = home
        self.handle: Any = None  # kept, as unpickling one reserves its number for no other hook

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Run the block; called by the module."""
        return getattr(self.home_of(module), self.name)(output)

    def home_of(self, module: nn.Module) -> nn.Module:
        """The module whose child the block is, for the module behind which it runs."""
        return module if self.home is None else self.home

    def attach(self, module: nn.Module) -> None:
        """Run the block behind a module from now on."""
        self.handle = module.register_forward_hook(self)

    def is_on(self, module: nn.Module | None) -> bool:
        """Whether the module runs the block."""
        return module is not None and any(hook is self for hook in module._forward_hooks.values())


@dataclass(frozen=True)
class Inserted:
    """A block that was inserted.

    Attributes:
        name: qualified name of the block.
        after: qualified name of the module behind which it was put.
        block: the block; None if it went with the module.
        runs: whether the module that is there now runs it.
        hook: what runs it.
        parent: the module that holds the record.
    """

    name: str
    after: str
    block: nn.Module | None
    runs: bool
    hook: Behind
    parent: nn.Module


def list_inserted(model: nn.Module) -> Iterator[Inserted]:
    """The inserted blocks of a network, those whose hook is gone too."""
    names = {module: name for name, module in model.named_modules()}
    for path, parent in model.named_modules():
        for child, hooks in vars(parent).get(_RECORD, {}).items():
            after = _join(path, child)
            module = parent._modules.get(child)
            for hook in hooks:
                home = module if hook.home is None else hook.home
                block = None if home is None else home._modules.get(hook.name)
                runs = block in names and hook.is_on(module)
                name = names.get(block, _join(after, hook.name)) if block is not None else after
                yield Inserted(name, after, block, runs, hook, parent)


def places_of_blocks(model: nn.Module) -> dict[nn.Module, str]:
    """The name of the module behind which each inserted block runs.

    Raises:
        ValueError: a block was inserted, but runs no more.
    """
    found = list(list_inserted(model))
    if lost := [repr(one.after) for one in found if not one.runs]:
        raise ValueError(
            f"the blocks inserted behind {', '.join(lost)} run no more: these modules were "
            "replaced after the insertion, as by convert_sync_batchnorm or a fusion with batch "
            "norm. Do that first, or insert behind a module that stays, such as the one around "
            "them; remove(model) takes such blocks out"
        )
    return {one.block: one.after for one in found if one.block is not None}


def put_behind(model: nn.Module, after: str, block: nn.Module, name: str | None = None) -> Inserted:
    """Put a block behind a module of a network.

    Args:
        model: the network.
        after: qualified name of the module.
        block: what runs there.
        name: qualified name for the block; None for a new one.
    """
    path, _, child = after.rpartition(".")
    parent, module = model.get_submodule(path), model.get_submodule(after)
    name = _new_name(model, after) if name is None else name
    above, _, own = name.rpartition(".")
    home = model.get_submodule(above)
    hook = Behind(own, None if home is module else home)
    home.add_module(own, block)
    hook.attach(module)
    vars(parent).setdefault(_RECORD, {}).setdefault(child, []).append(hook)
    return Inserted(name, after, block, True, hook, parent)


def why_not_behind(model: nn.Module, after: str, name: str) -> str | None:
    """Why a block cannot stand behind a module under a given name; None if it can."""
    modules = dict(model.named_modules())
    above, _, own = name.rpartition(".")
    if after not in modules or not after:
        return f"no module {after!r} in the network, which {name!r} is to stand behind"
    if not own:
        return f"{name!r} is no name for a block"
    if above not in modules:
        return f"no module {above!r} in the network, which is to hold {name!r}"
    if hasattr(modules[above], own):
        return f"{name!r} is in the network already"
    if _runs_children(modules[above]):
        return f"{above!r} may run all of its children, and cannot hold {name!r}"
    return None


def take_out(one: Inserted) -> None:
    """Take an inserted block out; nothing of it stays."""
    child = one.after.rpartition(".")[2]
    records = vars(one.parent)[_RECORD]
    records[child].remove(one.hook)
    if not records[child]:
        del records[child]
    if not records:
        delattr(one.parent, _RECORD)
    one.hook.handle.remove()
    module = one.parent._modules.get(child)
    home = module if one.hook.home is None else one.hook.home
    if home is not None and one.block is not None:
        del home._modules[one.hook.name]


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Let the blocks behind one module run behind another one, which takes its place.

    Those that are its children become children of the new one.
    """
    for hook in list(old._forward_hooks.values()):
        if isinstance(hook, Behind):
            if hook.home is None:
                new.add_module(hook.name, old._modules[hook.name])
            hook.handle.remove()
            hook.attach(new)


def _new_name(model: nn.Module, after: str) -> str:
    """A free name for a block, under a module that does not run all of its children."""
    home, stem = _home(model, after)
    taken, name, count = model.get_submodule(home), stem, 1
    while hasattr(taken, name):
        count += 1
        name = f"{stem}_{count}"
    return _join(home, name)


def _home(model: nn.Module, after: str) -> tuple[str, str]:
    """The name of the module that takes a block in, and how the block is called there.

    It is the module itself, the nearest one around it, a layer within it, or one elsewhere.
    """
    parts = after.split(".")
    for count in range(len(parts), -1, -1):
        home = ".".join(parts[:count])
        if not _runs_children(model.get_submodule(home)):
            return home, "_".join([*parts[count:], "attention"])
    layers = list(_layers(model))
    inner = [name for name in layers if name.startswith(f"{after}.")]
    if inner:
        return inner[-1], "attention"
    if layers:
        return layers[0], "_".join([*parts, "attention"])
    raise ValueError(f"no module of the network can hold a block behind {after!r}")


def _layers(module: nn.Module, name: str = "") -> Iterator[str]:
    """The modules that do not run all of their children, without blocks and what is in them."""
    if not _runs_children(module):
        yield name
    if not isinstance(module, _blocks()):
        for child, inner in module.named_children():
            yield from _layers(inner, _join(name, child))


def _runs_children(module: nn.Module) -> bool:
    """Whether a module may run a child that it does not know, or is a block with its own layers."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict, *_blocks())):
        return True
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and not _ITERATES.isdisjoint(code.co_names)


def _blocks() -> tuple[type[nn.Module], ...]:
    return (AttentionBlock, *known_adapters())


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
