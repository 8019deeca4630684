"""Blocks behind modules of a network: a forward hook, and the block that it runs as a child.

The module keeps its class, and everything in the network its name. Behind a Sequential the hook is
on its last module, see :mod:`attnblocks.swap.ends`. The hook tells what runs; what replaces
modules, as ``convert_sync_batchnorm`` and fusions do, takes no hooks along, so a record in the
parent of the module tells what should.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from attnblocks.blocks.base import AttentionBlock
from attnblocks.swap.ends import end_of, start_of, within
from attnblocks.swap.homes import join, new_name

_RECORD = "_attention_behind"
"""Attribute of a parent: the hooks that should be on its children, by the child's name."""


class Behind:
    """The forward hook that runs a block on what a module returns.

    It finds the block by name: whatever takes its place there, such as another block or a wrapper,
    runs. It names no module of the network where it can, so that parts of the network that are
    taken out, copied or replicated have the block with them.

    Args:
        path: the names that lead from its home to the block.
        home: where they start; None for the module that the hook is on.
        levels: how many levels within the Sequential behind which the block runs that module is.
    """

    levels = 0  # of hooks that were pickled without it

    def __init__(
        self, path: tuple[str, ...], home: nn.Module | None = None, levels: int = 0
    ) -> None:
        self.path = path
        self.home = home
        self.levels = levels
        self.handle: Any = None  # kept, as unpickling one reserves its number for no other hook

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Run the block; called by the module.

        Torch gives a full backward hook the gradient of what the module returns after its forward
        hooks, so that of the block. What has one on a layer takes it for that of the layer.
        """
        block = self.block(module)
        hooked = module._backward_hooks or module._backward_pre_hooks
        if hooked and torch.is_grad_enabled() and _is_leaf(module):
            raise RuntimeError(
                f"this {type(module).__name__} has a backward hook, such as those of Opacus, which "
                f"would look behind its inserted {'.'.join(self.path)!r}: insert that behind the "
                "module around this layer (in Opacus grad_sample_mode='ew' needs no hook)"
            )
        if block is None:
            raise RuntimeError(
                f"the {'.'.join(self.path)!r} inserted behind this {type(module).__name__} is "
                "gone with the module that held it: take it out with attnblocks.remove"
            )
        return block(output)

    def block(self, module: nn.Module | None) -> Any:
        """The block behind a module; None if it is not there."""
        found: Any = module if self.home is None else self.home
        for name in self.path:
            found = getattr(found, name, None)
        return found

    def attach(self, module: nn.Module) -> None:
        """Run the block behind a module from now on, and before those behind modules around it."""
        further_out = [
            key
            for key, hook in module._forward_hooks.items()
            if isinstance(hook, Behind) and hook.levels > self.levels
        ]
        self.handle = module.register_forward_hook(self)
        if further_out:
            hooks = module._forward_hooks
            keys = list(hooks)
            for key in keys[keys.index(further_out[0]) : -1]:
                hooks[key] = hooks.pop(key)


@dataclass(frozen=True)
class Inserted:
    """A block that was inserted.

    Attributes:
        name: qualified name of the block, or that which it had.
        after: qualified name of the module behind which it runs, or ran.
        block: the block; None if it went with another module.
        problem: why it does not run as a part of this network; None if it does.
        hook: what runs it.
        module: the module that the hook is on, or which is there now.
    """

    name: str
    after: str
    block: nn.Module | None
    problem: str | None
    hook: Behind
    module: nn.Module | None


def _is_leaf(module: nn.Module) -> bool:
    """Whether a module computes by itself: it has no children but inserted blocks."""
    return all(isinstance(child, AttentionBlock) for child in module._modules.values())


def list_inserted(model: nn.Module) -> Iterator[Inserted]:
    """The inserted blocks of a network, those that were lost too."""
    modules = dict(model.named_modules())
    names = {module: name for name, module in modules.items()}
    running: set[Behind | tuple[str, tuple[str, ...]]] = set()
    for name, module in modules.items():
        for hook in hooks_on(module):
            after = start_of(modules, name, hook.levels)
            running.add((after, hook.path))
            running.add(hook)
            block, problem = hook.block(module), None
            if block is None:
                problem = f"the block behind {after!r} went with the module that held it"
            elif block not in names:
                problem = (
                    f"the block behind {after!r} is held by a module of the network that this part "
                    "was taken out of"
                )
            yield Inserted(_name(hook, after, block, names), after, block, problem, hook, module)
    for path, parent in modules.items():
        for child, hooks in vars(parent).get(_RECORD, {}).items():
            after = join(path, child)
            for hook in hooks:
                if hook in running or (after, hook.path) in running:
                    continue
                end = within(parent._modules.get(child), hook.levels)
                block = hook.block(end)
                what = "that module or the last one in it" if hook.levels else "that module"
                problem = (
                    f"the block behind {after!r} runs no more, as {what} was replaced after the "
                    "insertion, for example by convert_sync_batchnorm or a fusion"
                )
                yield Inserted(_name(hook, after, block, names), after, block, problem, hook, end)


def hooks_on(module: nn.Module) -> list[Behind]:
    """The hooks on a module that run blocks, in their order."""
    return [hook for hook in module._forward_hooks.values() if isinstance(hook, Behind)]


def places_of_blocks(model: nn.Module) -> dict[nn.Module, str]:
    """The name of the module behind which each inserted block runs.

    Raises:
        ValueError: a block was inserted, but does not run as a part of this network.
    """
    found = list(list_inserted(model))
    if problems := [one.problem for one in found if one.problem is not None]:
        raise ValueError(
            f"{'; '.join(problems)}. Replace modules and take networks apart first, or insert "
            "behind a module that stays; remove(model) takes such blocks out"
        )
    return {one.block: one.after for one in found if one.block is not None}


@contextmanager
def undone_on_error(model: nn.Module) -> Iterator[list[Inserted]]:
    """Blocks that are put behind modules meanwhile, and listed, are taken out again on an error."""
    done: list[Inserted] = []
    try:
        yield done
    except BaseException:
        for one in reversed(done):
            take_out(model, one)
        raise


def put_behind(model: nn.Module, after: str, block: nn.Module, name: str | None = None) -> Inserted:
    """Put a block behind a module of a network.

    Args:
        model: the network.
        after: qualified name of the module.
        block: what runs there.
        name: qualified name for the block; None for a new one.
    """
    # Those on the Sequential itself, as hooks of earlier pickles are, run after those on its end.
    end = after if hooks_on(model.get_submodule(after)) else end_of(model, after)
    name = new_name(model, after) if name is None else name
    above, _, own = name.rpartition(".")
    home = model.get_submodule(above)
    levels = end.count(".") - after.count(".")
    if name.startswith(f"{end}."):
        hook = Behind(tuple(name.removeprefix(f"{end}.").split(".")), levels=levels)
    else:
        hook = Behind((own,), home, levels)
    home.add_module(own, block)
    module = model.get_submodule(end)
    hook.attach(module)
    path, _, child = after.rpartition(".")
    record = vars(model.get_submodule(path)).setdefault(_RECORD, {})
    record.setdefault(child, []).append(hook)
    return Inserted(name, after, block, None, hook, module)


def take_out(model: nn.Module, one: Inserted) -> None:
    """Take an inserted block out; nothing of it stays."""
    one.hook.handle.remove()
    holder: Any = one.module if one.hook.home is None else one.hook.home
    for name in one.hook.path[:-1]:
        holder = getattr(holder, name, None)
    if holder is not None:
        holder._modules.pop(one.hook.path[-1], None)
    for path, parent in model.named_modules():
        record = vars(parent).get(_RECORD, {})
        for child, hooks in list(record.items()):
            same = join(path, child) == one.after
            hooks[:] = [
                hook
                for hook in hooks
                if not (hook is one.hook or (same and hook.path == one.hook.path))
            ]
            if not hooks:
                del record[child]
        if _RECORD in vars(parent) and not record:
            delattr(parent, _RECORD)


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Let the blocks behind one module run behind another one, which takes its place.

    Those that are within the old one become children of the new one.
    """
    for hook in hooks_on(old):
        if hook.home is None:
            block = hook.block(old)
            hook.path = hook.path[-1:]
            new.add_module(hook.path[0], block)
        hook.handle.remove()
        hook.attach(new)


def _name(hook: Behind, after: str, block: Any, names: dict[nn.Module, str]) -> str:
    """The name of a block; that which it had, if it is gone or in no module of the network."""
    start = after if hook.home is None else names.get(hook.home, "")
    return names.get(block, join(start, ".".join(hook.path)))
