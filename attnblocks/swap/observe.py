"""Runs a network without changing it, to learn what each of its modules returns."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from attnblocks.swap.maps import CHANNELS_FIRST, follows, why_no_map
from attnblocks.swap.roles import is_depthwise, residual_ends, stage_ends
from attnblocks.swap.sites import find_se
from attnblocks.swap.trace import Trace, tensors_in

# How often as high and as wide the example is in the runs after the first. Both axes of a map
# change in them even where a network scales its images to a fixed shorter side.
ENLARGED = ((2, 3), (3, 2))


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

    A copy of the network runs, three times: on the example, and on two larger ones, since a map is
    what keeps axis 1 and changes axes 2 and 3 with the size of the input. The copy has no weights
    in memory where PyTorch can compute with shapes alone; where the network looks at values it has
    the weights of the network, and only a network that cannot be copied runs itself.

    Args:
        model: the network.
        example: what it is called with, as for :func:`run`.

    Returns:
        By name, in the order of ``named_modules()``.

    Raises:
        ValueError: the network does not run on the example, or has lazy layers.
        TypeError: the example holds no tensor.
    """
    _check(model, example)
    with undisturbed(model):
        runs = _runs(model, example)
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


def where_it_runs(model: nn.Module, example: Any) -> Any:
    """The example, without data if the network is on the meta device."""
    if any(p.is_meta for p in model.parameters()):
        return tree_map_only(Tensor, lambda t: t.to("meta"), example)
    return example


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Let a network run so that nothing of it is changed afterwards.

    It is in eval mode, without gradients and not compiled; afterwards the mode of each module, its
    buffers, and the random state of PyTorch are what they were.

    Args:
        model: the network.
    """
    before = [(module, dict(module._buffers)) for module in model.modules()]
    buffers = [b for _, of in before for b in of.values() if b is not None and not is_lazy(b)]
    values = [buffer.clone() for buffer in buffers]
    devices: dict[str, set[int]] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.index is not None:
            devices.setdefault(tensor.device.type, set()).add(tensor.device.index)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([]))
            for kind, indices in devices.items():
                if kind not in ("cpu", "meta"):
                    stack.enter_context(torch.random.fork_rng(indices, device_type=kind))
            stack.enter_context(eval_mode(model))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        with torch.no_grad():
            for module, old in before:
                module._buffers.clear()
                module._buffers.update(old)
            for buffer, value in zip(buffers, values, strict=True):
                if not buffer.is_meta and not torch.equal(buffer, value):
                    buffer.copy_(value)


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
    lazy = next((name for name, p in model.named_parameters() if is_lazy(p)), None)
    if lazy is not None:
        raise ValueError(
            f"the size of {lazy!r} is not known, as its layer is lazy: run the network once on "
            "example before"
        )


def _runs(model: nn.Module, example: Any) -> list[Trace]:
    """The runs at the given size and at larger ones, as far as each of them came."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    example = where_it_runs(model, example)
    tensors = [*model.parameters(), *model.buffers()]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes: dict[int, Any] = {id(tensor): mode.from_tensor(tensor) for tensor in tensors}
            fake_example = tree_map_only(Tensor, mode.from_tensor, example)
        fake = copy.deepcopy(model, fakes)
        with mode:
            return _sizes(fake, fake_example)
    except Exception:  # it cannot be copied, or looks at values: a real run tells
        pass
    try:
        network = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    except Exception:  # whatever its members raise
        network = model
    try:
        return _sizes(network, example)
    except Exception as error:
        raise ValueError(
            f"the network does not run on example: {type(error).__name__}: {error}"
        ) from error


def _sizes(network: nn.Module, example: Any) -> list[Trace]:
    network.eval()
    runs = [_run(network, example)]
    for high, wide in ENLARGED:
        larger = tree_map_only(Tensor, partial(_enlarge, high=high, wide=wide), example)
        runs.append(_run(network, larger, again=True))
    return runs


def _run(network: nn.Module, example: Any, again: bool = False) -> Trace:
    """Run a network with hooks on its modules; afterwards it has none of them.

    Args:
        network: the network.
        example: what it is called with.
        again: note the calls as far as it runs, and no operations.
    """
    example = tree_map_only(Tensor, Tensor.detach, example)  # the caller's own objects are no keys
    trace = Trace(() if again else example)
    with ExitStack() as stack:
        for name, module in network.named_modules():
            before = module.register_forward_pre_hook(partial(_before, trace), with_kwargs=True)
            after = module.register_forward_hook(partial(_after, trace, name))
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(suppress(Exception) if again else trace)
        run(network, example)
    return trace


def _before(trace: Trace, module: nn.Module, args: Any, kwargs: Any) -> None:
    trace.enter((args, kwargs))


def _after(trace: Trace, name: str, module: nn.Module, args: Any, output: Any) -> None:
    trace.leave(name, output)


def _enlarge(tensor: Tensor, high: int, wide: int) -> Tensor:
    if tensor.dim() not in (3, 4) or not tensor.is_floating_point():
        return tensor
    return tensor.repeat_interleave(high, -2).repeat_interleave(wide, -1)


def _all_seen(model: nn.Module, runs: list[Trace]) -> dict[str, Seen]:
    """What the runs tell of each module."""
    modules = dict(model.named_modules())
    layers = {name for name, module in modules.items() if isinstance(module, CHANNELS_FIRST)}
    calls = runs[0].calls
    problems = {}
    for name in modules:
        nodes = [call.node for call in calls.get(name, []) if call.node is not None]
        first = name in layers or any(not layers.isdisjoint(node.made_by) for node in nodes)
        problems[name] = why_no_map(name, runs, channels_first=first)
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
    kinds = {
        "residual": residual_ends(runs[0], maps),
        "stages": stage_ends(runs[0], maps, {name for name in maps if not follows(name, runs)}),
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
