"""Runs a network without changing it, to learn what each of its modules returns."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from attnblocks.swap.trace import Node, Trace

# Layers of torch whose four-dimensional outputs have their channels at axis 1.
CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.Upsample,
)
# How often as high and as wide the example is in the runs after the first. Both axes of a map
# change in them even where a network scales its images to a fixed shorter side.
ENLARGED = ((2, 3), (3, 2))

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Seen:
    """What one module of a network returned.

    Attributes:
        name: qualified name of the module; "" for the network itself.
        module: the module.
        calls: how often it ran in one forward pass.
        channels: channels of the map that it returns; None if it returns none.
        height: height of the map on the example; 0 if it returns none.
        width: width of the map.
        returned: what it returned, in words.
        roles: what the map is, of "residual", "stages" and "depthwise".
    """

    name: str
    module: nn.Module = field(repr=False)
    calls: int
    channels: int | None
    height: int
    width: int
    returned: str
    roles: frozenset[str] = frozenset()


class _Run:
    """What the modules returned in one run, by name, in the order in which they did."""

    def __init__(self, inputs: Any) -> None:
        self.outputs: dict[str, list[Shape | str]] = {}
        self.nodes: dict[str, list[Node | None]] = {}
        self.trace = Trace(inputs)
        self.result: Any = None

    def note(self, name: str, given: Any, output: Any) -> None:
        self.outputs.setdefault(name, []).append(
            tuple(output.shape) if isinstance(output, Tensor) else _kind(output)
        )
        self.nodes.setdefault(name, []).append(self.trace.returned(name, given, output))


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
    runs = _runs(model, example)
    return {name: _seen(name, module, runs) for name, module in model.named_modules()}


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
    if isinstance(example, nn.Module) or not _has_tensor(example):
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


def _has_tensor(example: Any) -> bool:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, example)
    return bool(found)


def _runs(model: nn.Module, example: Any) -> list[_Run]:
    """The runs at the given size and at larger ones, as far as each of them came."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    if any(p.is_meta for p in model.parameters()):
        example = tree_map_only(Tensor, lambda t: t.to("meta"), example)
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


def _sizes(network: nn.Module, example: Any) -> list[_Run]:
    runs = [_run(network, example)]
    for high, wide in ENLARGED:
        larger = tree_map_only(Tensor, partial(_enlarge, high=high, wide=wide), example)
        runs.append(_run(network, larger, unless_fails=True))
    return runs


def _run(network: nn.Module, example: Any, unless_fails: bool = False) -> _Run:
    with undisturbed(network), ExitStack() as stack:
        example = tree_map_only(Tensor, lambda t: t.detach(), example)
        result = _Run(example)
        for name, module in network.named_modules():

            def hook(_: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
                result.note(name, (args, kwargs), output)

            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        try:
            with result.trace:
                run(network, example)
        except Exception:
            if not unless_fails:
                raise
    return result


def _enlarge(tensor: Tensor, high: int, wide: int) -> Tensor:
    if tensor.dim() not in (3, 4) or not tensor.is_floating_point():
        return tensor
    return tensor.repeat_interleave(high, -2).repeat_interleave(wide, -1)


def _seen(name: str, module: nn.Module, runs: list[_Run]) -> Seen:
    outputs = runs[0].outputs.get(name, [])
    problem = _problem(name, module, runs)
    if problem or not outputs:
        return Seen(name, module, len(outputs), None, 0, 0, problem)
    shape = outputs[0]
    assert not isinstance(shape, str)  # that would be a problem
    words = f"a map of shape {shape}"
    return Seen(name, module, len(outputs), shape[1], shape[2], shape[3], words)


def _problem(name: str, module: nn.Module, runs: list[_Run]) -> str:
    """Why what a module returned is no map; "" if it is one."""
    outputs = runs[0].outputs.get(name)
    if outputs is None:
        return "nothing, as it does not run"
    for i, given in enumerate(outputs):
        if isinstance(given, str):
            return given
        words = f"a tensor of shape {given}"
        if len(given) != 4:
            return words
        others = [r.outputs[name][i] for r in runs[1:] if i < len(r.outputs.get(name, []))]
        shapes = [shape for shape in others if not isinstance(shape, str) and len(shape) == 4]
        layer = _channels_first(name, module, runs[0])
        if not shapes and not layer:
            return (
                f"{words} whose axes cannot be told apart, as the network does not run at "
                "another size"
            )
        if any(shape[1] != given[1] for shape in shapes):
            return f"{words}, whose channels are not at axis 1"
        changes = [any(shape[axis] != given[axis] for shape in shapes) for axis in (2, 3)]
        if shapes and not all(changes) and (not layer or 1 in given[2:]):
            return f"{words}, which does not follow the height and width of the input"
    if len({shape[1] for shape in outputs}) > 1:
        return f"maps of different channels: {', '.join(map(str, outputs))}"
    return ""


def _channels_first(name: str, module: nn.Module, first: _Run) -> bool:
    return isinstance(module, CHANNELS_FIRST)


def _kind(output: Any) -> str:
    word = type(output).__name__
    if output is None:
        return "nothing"
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"
