"""Runs a copy of a network at several sizes, with a trace of each run."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FunctionType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from attnblocks.swap.maps import one_axis_changed
from attnblocks.swap.trace import Trace

Forward = Callable[[nn.Module, Any], Any]

# How often as high and as wide the example is in the runs after the first.
ENLARGED = ((2, 3), (3, 2))


def trace_sizes(model: nn.Module, example: Any, forward: Forward) -> list[Trace]:
    """Run a copy of a network on an example, and on one or two larger ones as far as it runs.

    One is enough unless a map changed along one axis alone, as where a network scales its images to
    a fixed shorter side: the other axis changes on the second.

    The copy has no weights in memory where PyTorch can compute with shapes alone; where the network
    looks at values it has the weights of the network. A network that cannot be copied, or of which
    functions took the place of methods, runs itself.

    Args:
        model: the network, in eval mode.
        example: what it is called with.
        forward: calls a network with an example.

    Returns:
        What the modules returned: on the example with all operations, on the others without.

    Raises:
        ValueError: the network does not run on the example.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    example = where_it_runs(model, example)
    network = model
    # A function in place of a method may hold modules of the network, which a copy would not have.
    if not any(isinstance(vars(module).get("forward"), FunctionType) for module in model.modules()):
        tensors = [*model.parameters(), *model.buffers()]
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fakes: dict[int, Any] = {id(tensor): mode.from_tensor(tensor) for tensor in tensors}
                fake_example = tree_map_only(Tensor, mode.from_tensor, example)
            fake = copy.deepcopy(model, fakes)
            with mode, _no_log_of_failures():
                return _sizes(fake, fake_example, forward)
        except Exception:  # it cannot be copied, or looks at values: a real run tells
            pass
        with suppress(Exception):  # whatever its members raise where they cannot be copied
            network = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    try:
        return _sizes(network, example, forward)
    except Exception as error:
        raise ValueError(
            f"the network does not run on example: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _no_log_of_failures() -> Iterator[None]:
    """PyTorch logs an operation whose shapes do not fit, and a network may fail here."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def where_it_runs(model: nn.Module, example: Any) -> Any:
    """The example, without data if the network is on the meta device."""
    if any(p.is_meta for p in model.parameters()):
        return tree_map_only(Tensor, lambda t: t.to("meta"), example)
    return example


def _sizes(network: nn.Module, example: Any, forward: Forward) -> list[Trace]:
    runs = [_run(network, example, forward)]
    for high, wide in ENLARGED:
        larger = tree_map_only(Tensor, partial(_enlarge, high=high, wide=wide), example)
        runs.append(_run(network, larger, forward, again=True))
        if not one_axis_changed(runs):
            break
    return runs


def _run(network: nn.Module, example: Any, forward: Forward, again: bool = False) -> Trace:
    """Run a network with hooks on its modules; afterwards it has none of them.

    Args:
        network: the network.
        example: what it is called with.
        forward: calls it.
        again: note the calls as far as it runs, and no operations.
    """
    example = tree_map_only(Tensor, lambda t: t.detach().clone(), example)  # it may be changed
    trace = Trace(() if again else example)
    with ExitStack() as stack:
        for name, module in network.named_modules():
            before = module.register_forward_pre_hook(partial(_before, trace), with_kwargs=True)
            after = module.register_forward_hook(partial(_after, trace, name))
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(suppress(Exception) if again else trace)
        forward(network, example)
    return trace


def _before(trace: Trace, module: nn.Module, args: Any, kwargs: Any) -> None:
    trace.enter((args, kwargs))


def _after(trace: Trace, name: str, module: nn.Module, args: Any, output: Any) -> None:
    trace.leave(name, output)


def _enlarge(tensor: Tensor, high: int, wide: int) -> Tensor:
    if tensor.dim() not in (3, 4) or not tensor.is_floating_point():
        return tensor
    return tensor.repeat_interleave(high, -2).repeat_interleave(wide, -1)
