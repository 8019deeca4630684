"""A network before and after a swap, and what can be compared between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnblocks.fit.batches import Forward
from attnblocks.fit.taps import See, tapped
from attnblocks.swap.observe import eval_mode
from attnblocks.swap.sites import find_se


@dataclass(frozen=True)
class Pair:
    """Two networks that are equal except for the blocks at some sites, and perhaps the head.

    Args:
        model: the network after the swap.
        original: the network before it.
        sites: names of the replaced and inserted blocks that run.
        places: for each inserted one, the module behind which ``original`` has none.
        head: name of the layer whose input is compared; None for the output of the network.
        forward: runs one of them on a batch.
    """

    model: nn.Module
    original: nn.Module
    sites: tuple[str, ...]
    places: Mapping[str, str]
    head: str | None
    forward: Forward

    @property
    def compared(self) -> str:
        """What the features are, in words."""
        return "the output" if self.head is None else f"the input of {self.head!r}"

    def block(self, site: str) -> nn.Module:
        """The new block of a site."""
        return self.model.get_submodule(site)

    def answer(self, site: str, given: Tensor) -> Tensor:
        """What the new block of a site makes of an input, which it may change in place.

        The input is cast: in networks that run in mixed precision it may be in less than float32.
        """
        block = self.block(site)
        dtype = next((p.dtype for p in block.parameters()), given.dtype)
        answer: Tensor = block(given.to(dtype, copy=True))
        return answer

    def run(
        self,
        network: nn.Module,
        batch: Any,
        after: See | None = None,
        before: See | None = None,
    ) -> Tensor:
        """Run one of the two networks on a batch; returns the features.

        Args:
            network: one of the two.
            batch: a batch.
            after: gets the site and the output of every call of a replaced block.
            before: gets the site and the input.
        """
        places = self.places if network is self.original else {}
        sites = {site: places.get(site) for site in self.sites}
        with tapped(network, sites, self.head, after, before) as entered:
            output = self.forward(network, batch)
        return _features(self.head, entered, output)


def pair_up(
    model: nn.Module, original: nn.Module, example: Any, head: str | None, forward: Forward
) -> Pair:
    """Find out what was replaced, and make sure that the rest is the same.

    Args:
        model: the network after the swap.
        original: the network before it.
        example: a batch, to see what runs.
        head: name of the head; None to find it.
        forward: runs one of them on a batch.

    Raises:
        ValueError: nothing was replaced, the networks differ elsewhere, or share what is fitted;
            or there is no tensor to compare.
        LookupError: the head is missing in one of them, or does not run.
    """
    if head is not None:
        for network in (model, original):
            if head not in dict(network.named_modules()):
                raise LookupError(f"head={head!r} is no layer of {type(network).__name__}")
    known: dict[str, str | None] = {site.name: None for site in find_se(original)}
    inserted = {
        site.name: site.after
        for site in find_se(model)
        if site.after is not None and site.name not in known
    }
    for place in inserted.values():
        _module(original, place, "original")
    known.update(inserted)
    sites, head = _what_runs(original, example, known, head, forward)
    if known and not sites:
        raise ValueError(f"none of the blocks {', '.join(map(repr, known))} of original runs")
    sites = tuple(n for n in sites if n in inserted or _replaced(model, original, n))
    if head is not None:
        _module(model, head)
    if not sites:
        raise ValueError(
            "no block of model stands in place of another one of original, or was inserted"
        )
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
    return Pair(model, original, sites, inserted, head, forward)


def _replaced(model: nn.Module, original: nn.Module, name: str) -> bool:
    """Whether a block is of another class than before, or has other weights."""
    new, old = _module(model, name), original.get_submodule(name)
    return type(new) is not type(old) or not _same(new.state_dict(), old.state_dict())


def _module(model: nn.Module, name: str, which: str = "model") -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        other = "original" if which == "model" else "model"
        raise ValueError(f"{which} has no module {name!r}, which {other} has") from None


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
    original: nn.Module,
    example: Any,
    sites: Mapping[str, str | None],
    head: str | None,
    forward: Forward,
) -> tuple[tuple[str, ...], str | None]:
    """The sites that run, and the head: the last linear layer, if its output is the network's."""
    ran: set[str] = set()
    last: list[tuple[str, Tensor]] = []
    names = {m: name for name, m in original.named_modules() if isinstance(m, nn.Linear)}
    hooks = [
        linear.register_forward_hook(lambda m, _, output: last.append((names[m], output)))
        for linear in names
    ]
    try:
        with (
            eval_mode(original),
            tapped(original, sites, head, lambda site, _: ran.add(site)) as entered,
        ):
            output = forward(original, example)
    finally:
        for hook in hooks:
            hook.remove()
    if head is None and last and isinstance(output, Tensor):
        name, result = last[-1]
        if torch.equal(result, output.to(result.device)):
            return tuple(site for site in sites if site in ran), name
    _features(head, entered, output)
    return tuple(site for site in sites if site in ran), head


def _features(head: str | None, entered: Sequence[Any], output: Any) -> Tensor:
    """What is compared; an error that says what to do where it is no tensor."""
    if head is not None:
        if not entered:
            raise LookupError(f"head={head!r} does not run, or forward runs another network")
        if not isinstance(features := entered[-1], Tensor):
            kind = type(features).__name__
            raise ValueError(f"what enters head={head!r} is a {kind}: name a layer with a tensor")
        return features
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the network returns a {type(output).__name__}, no tensor to compare: name the layer "
            "whose input is compared as head=, or return a tensor from forward="
        )
    return output
