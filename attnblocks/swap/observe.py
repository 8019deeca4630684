"""Runs a network without changing it, to learn what each of its modules returns."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attnblocks.swap.maps import follows, why_no_map
from attnblocks.swap.roles import is_depthwise, residual_ends, stage_ends
from attnblocks.swap.runs import trace_sizes
from attnblocks.swap.sites import find_se
from attnblocks.swap.trace import Trace, tensors_in


@dataclass(frozen=True)
class Seen:
    """What one module of a network returned.

    Attributes:
        name: qualified name of the module; "" for the network itself.
        module: the module.
        calls: how often it ran in one forward pass.
        position: how many modules returned before it did; -1 if it did not run.
        channels: channels of the map that it returns; None if it returns none.
        height: height of the map on the example; 0 if it returns none.
        width: width of the map.
        returned: what it returned, in words.
        inside: name of the attention or SE block that it is a part of; None if it is of none.
        roles: what the map is, of "residual", "stages" and "depthwise".
    """

    name: str
    module: nn.Module = field(repr=False)
    calls: int
    position: int
    channels: int | None
    height: int
    width: int
    returned: str
    inside: str | None
    roles: frozenset[str]


def observe(model: nn.Module, example: Any) -> dict[str, Seen]:
    """Learn what each module of a network returns, without changing the network.

    A copy of the network runs on the example, and on larger ones, since a map is what keeps axis 1
    and changes axes 2 and 3 with the size of the input.

    Args:
        model: the network.
        example: what it is called with, as for :func:`run`.

    Returns:
        By name, in the order of ``named_modules()``.

    Raises:
        ValueError: the network does not run on the example, has lazy layers, or the example has an
            empty tensor.
        TypeError: the example holds no tensor.
    """
    _check(model, example)
    example = dict(example) if isinstance(example, Mapping) else example
    with undisturbed(model):
        runs = trace_sizes(model, example, run)
    return _all_seen(model, runs)


def run(model: nn.Module, example: Any) -> Any:
    """Call a network: with keyword arguments if the example is a mapping, else with arguments.

    Args:
        model: the network.
        example: a mapping of keyword arguments, a tuple of arguments, or one argument.
    """
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Let a network run so that nothing of it is changed afterwards.

    It is in eval mode, without gradients and not compiled; afterwards the mode and the attributes
    of each module, with the items of its dicts, lists and sets, the values of its buffers, and the
    random state of PyTorch are what they were.

    Args:
        model: the network.
    """
    members = [(vars(m), dict(vars(m))) for m in model.modules()]
    # Those that are changed in place: caches, counters, and the dicts that a module is made of.
    containers = [
        (value, type(value)(value))
        for _, attributes in members
        for value in attributes.values()
        if type(value) in (dict, OrderedDict, list, set)
    ]
    buffers = [buffer for buffer in model.buffers() if not is_lazy(buffer) and not buffer.is_meta]
    values = [buffer.clone() for buffer in buffers]
    try:
        with ExitStack() as stack:
            stack.enter_context(same_random_state(*model.parameters(), *model.buffers()))
            stack.enter_context(eval_mode(model))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        for now, before in (*members, *containers):
            now.clear()
            now.extend(before) if isinstance(now, list) else now.update(before)
        with torch.no_grad():
            for buffer, value in zip(buffers, values, strict=True):
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def same_random_state(*tensors: Tensor) -> Iterator[None]:
    """Put the random state of PyTorch back to what it is, on the CPU and on the tensors' devices.

    Args:
        tensors: those of a network and what it is called with.
    """
    devices: dict[str, set[int]] = {}
    for tensor in tensors:
        if tensor.device.index is not None and not tensor.is_meta:
            devices.setdefault(tensor.device.type, set()).add(tensor.device.index)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([]))
        for kind, indices in devices.items():
            stack.enter_context(torch.random.fork_rng(indices, device_type=kind))
        yield


@contextmanager
def eval_mode(*networks: nn.Module) -> Iterator[None]:
    """Put networks into eval mode, and then each module back into the mode that it was in."""
    modes = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _check(model: nn.Module, example: Any) -> None:
    if isinstance(example, nn.Module) or not tensors_in(example):
        raise TypeError(
            "example must be what the network is called with: a tensor, a tuple of arguments or a "
            f"mapping of keyword arguments; got {example!r}"
        )
    if any(tensor.numel() == 0 for tensor in tensors_in(example)):
        raise ValueError("example must have at least one sample, and got an empty tensor")
    lazy = next((name for name, p in model.named_parameters() if is_lazy(p)), None)
    if lazy is not None:
        raise ValueError(
            f"the size of {lazy!r} is not known, as its layer is lazy: run the network once on "
            "example before"
        )


def _all_seen(model: nn.Module, runs: list[Trace]) -> dict[str, Seen]:
    """What the runs tell of each module."""
    modules = dict(model.named_modules())
    calls = runs[0].calls
    problems = {name: why_no_map(name, runs) for name in modules}
    inside = {
        name: site.name
        for site in find_se(model)
        for name in modules
        if name != site.name and f"{name}.".startswith(f"{site.name}." if site.name else "")
    }
    maps = {
        name: module
        for name, module in modules.items()
        if name and name not in inside and not problems[name]
    }
    following = {name: module for name, module in maps.items() if follows(name, runs)}
    kinds = {
        "residual": residual_ends(runs[0], maps),
        "stages": stage_ends(runs[0], following or maps),
        "depthwise": {name for name in maps if is_depthwise(maps[name])},
    }
    position = {name: i for i, name in enumerate(calls)}
    seen = {}
    for name, module in modules.items():
        times = len(calls.get(name, []))
        shape = None if problems[name] else calls[name][0].shape
        seen[name] = Seen(
            name=name,
            module=module,
            calls=times,
            position=position.get(name, -1),
            channels=shape[1] if shape else None,
            height=shape[2] if shape else 0,
            width=shape[3] if shape else 0,
            returned=problems[name] or f"a map of shape {shape}",
            inside=inside.get(name),
            roles=frozenset(kind for kind, names in kinds.items() if name in names),
        )
    return seen
