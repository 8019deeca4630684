"""The last module of a Sequential: what it returns is what the whole returns.

Tools that checkpoint, split or take apart networks run the modules of a Sequential one by one, and
its own forward hooks never. On its last module a hook runs either way.
"""

from collections import Counter
from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from attnblocks.swap.homes import join


def end_of(model: nn.Module, name: str) -> str:
    """The name of the module that returns last within a Sequential; any other is its own end.

    So is a Sequential that ends in a layer of torch, whose hooks ``convert_sync_batchnorm`` and
    fusions drop and ``torch.fx`` does not trace, and one whose last module is in the network a
    second time, where that may run alone.

    Args:
        model: the network.
        name: qualified name of the module.
    """
    held = Counter(child for parent in model.modules() for child in parent._modules.values())
    module = model.get_submodule(name)
    while (last := _last(module)) is not None and held[last] == 1 and not _is_layer(last):
        name, module = join(name, [*module._modules][-1]), last
    return name


def start_of(modules: Mapping[str, nn.Module], name: str, levels: int) -> str:
    """The name of the outermost Sequential that ends with a module; its own if none does.

    Args:
        modules: those of the network, by name.
        name: of the module.
        levels: how many levels further out it may be.
    """
    for _ in range(levels):
        around = name.rpartition(".")[0]
        if not around or _last(modules[around]) is not modules[name]:
            break
        name = around
    return name


def within(module: nn.Module | None, levels: int) -> nn.Module | None:
    """What is last in a Sequential, so many levels within it; None if there is no such module."""
    for _ in range(levels):
        module = None if module is None else _last(module)
    return module


def _last(module: nn.Module) -> nn.Module | None:
    """The last module of a Sequential that runs as torch's own does; None for any other module."""
    if type(module).forward is not nn.Sequential.forward or "forward" in vars(module):
        return None
    return next(reversed(module._modules.values()), None)


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of torch, which tools replace or keep as one."""
    of_torch = type(module).__module__.startswith(("torch.nn.", "torch.ao.nn."))
    return (of_torch and _last(module) is None) or isinstance(module, _NormBase)
