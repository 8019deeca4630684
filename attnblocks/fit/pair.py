"""A network before and after a swap, and what can be compared between them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnblocks.swap.sites import find_se


@dataclass(frozen=True)
class Taps:
    """What was seen in one forward pass.

    Args:
        calls: input and output of every call of each replaced block, by site.
        features: what enters the head, or leaves a network without one; (N, ...).
    """

    calls: dict[str, list[tuple[Tensor, Tensor]]]
    features: Tensor


@dataclass(frozen=True)
class Pair:
    """Two networks that are equal except for the blocks at some sites, and perhaps the head.

    Args:
        model: the network after the swap.
        original: the network before it.
        sites: names of the replaced blocks that run.
        head: name of the layer whose input is compared; None for the output of the network.
    """

    model: nn.Module
    original: nn.Module
    sites: tuple[str, ...]
    head: str | None

    @property
    def compared(self) -> str:
        """What the features are, in words."""
        return "the output" if self.head is None else f"the input of {self.head!r}"

    def block(self, site: str) -> nn.Module:
        """The new block of a site."""
        return self.model.get_submodule(site)

    def run(self, network: nn.Module, x: Tensor) -> Taps:
        """Run one of the two networks on a batch."""
        with _tapped(network, self.sites, self.head) as (calls, heard):
            output = network(x.to(_device(network)))
        return Taps(calls, _features(output if self.head is None else heard[-1]))


def pair_up(
    model: nn.Module, original: nn.Module, example: Tensor, head: str | None = None
) -> Pair:
    """Find out what was replaced, and make sure that the rest is the same.

    Args:
        model: the network after the swap.
        original: the network before it.
        example: a batch, to see what runs.
        head: name of the head; None to find it.

    Raises:
        ValueError: nothing was replaced, the networks differ elsewhere, or share what is fitted.
        LookupError: the head is missing in one of them, or does not run.
    """
    if head is not None:
        for network in (model, original):
            if head not in dict(network.named_modules()):
                raise LookupError(f"head={head!r} is no layer of {type(network).__name__}")
    known = tuple(site.name for site in find_se(original))
    sites, head = _what_runs(original, example.to(_device(original)), known, head)
    sites = tuple(name for name in sites if _replaced(model, original, name))
    if head is not None:
        _module(model, head)
    if not sites:
        raise ValueError("no block of model stands in place of another one of original")
    _check_rest(model, original, (*known, *([] if head is None else [head])))
    for name in sites:
        ours = set(model.get_submodule(name).parameters())
        others = {p for n, p in model.named_parameters() if not n.startswith(f"{name}.")}
        if name and not ours.isdisjoint(others):
            raise ValueError(
                f"the block at {name!r} shares parameters with the rest of model, which must not "
                "change"
            )
        if not ours.isdisjoint(original.parameters()):
            raise ValueError(
                f"the block at {name!r} shares parameters with original, which must not change: "
                "pass a deep copy as original"
            )
        if any(p.dtype not in (torch.float32, torch.float64) for p in ours):
            raise ValueError(f"the block at {name!r} must be in float32 or float64 to be fitted")
    return Pair(model, original, sites, head)


def _device(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def _replaced(model: nn.Module, original: nn.Module, name: str) -> bool:
    """Whether a block is of another class than before, or has other weights."""
    new, old = _module(model, name), original.get_submodule(name)
    return type(new) is not type(old) or not _same(new.state_dict(), old.state_dict())


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"model has no module {name!r}, which original has") from None


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def _check_rest(model: nn.Module, original: nn.Module, but: Sequence[str]) -> None:
    """Raise ValueError unless both have the same tensors outside of some modules."""

    def rest(network: nn.Module) -> dict[str, Tensor]:
        state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        return {
            name: value
            for name, value in state.items()
            if not any(not part or name.startswith(f"{part}.") for part in but)
        }

    ours, theirs = rest(model), rest(original)
    for name in {**ours, **theirs}:
        if name not in ours or name not in theirs or not torch.equal(ours[name], theirs[name]):
            raise ValueError(
                f"model and original differ at {name!r}: they have to be the same network with "
                "the same weights outside the replaced blocks and the head (give its name as head)"
            )


@torch.no_grad()
def _what_runs(
    original: nn.Module, example: Tensor, sites: Sequence[str], head: str | None
) -> tuple[tuple[str, ...], str | None]:
    """The sites that run, and the head: the last linear layer, if its output is the network's."""
    last: list[tuple[str, Tensor]] = []
    names = {m: name for name, m in original.named_modules() if isinstance(m, nn.Linear)}
    hooks = [
        linear.register_forward_hook(lambda m, _, output: last.append((names[m], output)))
        for linear in names
    ]
    try:
        with eval_mode(original), _tapped(original, sites, head) as (calls, heard):
            output = original(example)
    finally:
        for hook in hooks:
            hook.remove()
    if head is not None and not heard:
        raise LookupError(f"head={head!r} does not run in original")
    if head is None and last and isinstance(output, Tensor) and torch.equal(last[-1][1], output):
        head = last[-1][0]
    if head is None:
        _features(output)
    return tuple(name for name in sites if calls[name]), head


@contextmanager
def _tapped(
    network: nn.Module, sites: Sequence[str], head: str | None
) -> Iterator[tuple[dict[str, list[tuple[Tensor, Tensor]]], list[Tensor]]]:
    """Collect what goes through some blocks and into the head."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in sites}
    heard: list[Tensor] = []

    def tap(name: str) -> Any:
        # Networks may change the output in place, as in x += shortcut.
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
            calls[name].append(((*args, *kwargs.values())[0], output.clone()))

        return hook

    hooks = [
        network.get_submodule(name).register_forward_hook(tap(name), with_kwargs=True)
        for name in sites
    ]
    if head is not None:
        hooks.append(
            network.get_submodule(head).register_forward_pre_hook(
                lambda _, args, kwargs: heard.append((*args, *kwargs.values())[0]),
                with_kwargs=True,
            )
        )
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code would not run the hooks
            yield calls, heard
    finally:
        for hook in hooks:
            hook.remove()


def _features(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the network returns a {type(output).__name__}, no tensor to compare: name its head"
        )
    return output


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
