"""Optimizers that follow a swap: old parameters leave with their state, new ones take their place.

A new parameter joins the group of the old block's parameters, at their position: the order stays
that of the network, as checkpoints of optimizers count on it.
"""

import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_REMEDY = "make the optimizer after the swap"

_FIXED = {
    "Adagrad": "makes the state of its parameters when it is made",
    "LBFGS": "keeps one vector of all its parameters",
    "Muon": "takes matrices alone, and no kernels of convolutions",
}
"""Optimizers of torch whose parameters cannot be exchanged, and why."""


@dataclass
class _Group:
    """A parameter group, and what changes in it."""

    optimizer: Optimizer
    group: dict[str, Any]
    places: dict[Tensor, int] = field(init=False)
    added: dict[int, list[tuple[str, Tensor]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.places = {p: i for i, p in enumerate(self.group["params"])}

    def change(self, leaving: set[Tensor]) -> None:
        """Take parameters out with their state, and put the added ones in."""
        old, names = list(self.group["params"]), self.group.get("param_names")
        rows: list[tuple[str, Tensor]] = []
        for i, p in enumerate(old):
            rows += self.added.get(i, [])
            if p in leaving:
                self.optimizer.state.pop(p, None)
            else:
                rows.append(("" if names is None else names[i], p))
        rows += self.added.get(len(old), [])
        self.group["params"][:] = [p for _, p in rows]
        if names is not None:
            names[:] = [name for name, _ in rows]


@dataclass(frozen=True)
class Handover:
    """What a swap changes in optimizers; nothing has changed until it is made."""

    groups: Sequence[_Group]
    leaving: set[Tensor]

    def make(self) -> None:
        """Change the optimizers."""
        for group in self.groups:
            group.change(self.leaving)


def plan_handover(
    optimizers: Optimizer | Sequence[Optimizer] | None,
    model: nn.Module,
    new: Mapping[nn.Module, nn.Module],
) -> Handover:
    """Find out what leaves which group, and what joins it.

    Args:
        optimizers: one, several or none.
        model: the network before the swap.
        new: the new block of each old one.

    Raises:
        TypeError: something other than optimizers.
        ValueError: one that cannot follow; one that holds nothing of the old blocks; or a block
            whose parameters are in several groups, so that nothing says where new ones belong.
    """
    if optimizers is None:
        return Handover((), set())
    given = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    for optimizer in given:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizers must be torch optimizers, got {optimizer!r}; of a wrapper around one, "
                "give the one inside"
            )
    groups = [_Group(optimizer, group) for optimizer in given for group in optimizer.param_groups]
    held = {p for group in groups for p in group.places}
    kept = _parameters_outside(model, new) | {p for b in new.values() for p in b.parameters()}
    names = {module: name for name, module in model.named_modules()}
    leaving: set[Tensor] = set()
    for old, block in new.items():
        before = {p: name for name, p in old.named_parameters()}
        if before and held.isdisjoint(before):
            continue  # these optimizers do not train this block
        gone = before.keys() - kept
        leaving |= gone
        for name, p in block.named_parameters():
            if p not in held:
                _add(groups, names[old], before, gone, name, p)
                held.add(p)
    changed = [g for g in groups if g.added or not leaving.isdisjoint(g.places)]
    if not changed:
        raise ValueError(
            "optimizers hold no parameter of the blocks that are replaced: are they those of "
            "another network?"
        )
    for group in changed:
        _check_can_follow(group)
    return Handover(changed, leaving)


def _add(
    groups: Sequence[_Group],
    site: str,
    before: Mapping[Any, str],
    gone: Set[Any],
    name: str,
    p: Tensor,
) -> None:
    """Let a new parameter join the group of the old block's parameters.

    Where they are in several, as with no weight decay for vectors, in the group of those of its
    kind: matrices and kernels, or vectors and scalars. It takes the place of those that are gone,
    or follows those that stay.
    """
    alike = [q for q in before if (q.dim() > 1) == (p.dim() > 1)]
    homes = [group for group in groups if any(q in group.places for q in alike)]
    homes = homes or [group for group in groups if any(q in group.places for q in before)]
    if not before:  # an old block without parameters says nothing
        homes = list(groups)
    if len(homes) != 1:
        raise ValueError(
            f"the parameters of the block at {site!r} are in {len(homes)} groups of optimizers: "
            f"nothing says which of them its new {name!r} joins; {_REMEDY}"
        )
    home = homes[0]
    own = sorted((q for q in before if q in home.places), key=home.places.__getitem__)
    place, full_name = len(home.places), f"{site}.{name}".strip(".")
    if own:
        anchor = next((q for q in own if q in gone), own[-1])
        place = home.places[anchor] + (anchor not in gone)
        if known := home.group.get("param_names"):
            full_name = known[home.places[anchor]].removesuffix(before[anchor]) + name
    home.added.setdefault(place, []).append((full_name, p))


def _check_can_follow(group: _Group) -> None:
    """Raise ValueError unless the parameters of a group can be exchanged."""
    optimizer, kind = group.optimizer, type(group.optimizer).__name__
    zero = getattr(sys.modules.get("torch.distributed.optim"), "ZeroRedundancyOptimizer", ())
    sharded = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())
    if isinstance(optimizer, zero) or any(isinstance(p, sharded) for p in group.places):
        raise ValueError(f"{kind} is sharded, its state is spread over processes: {_REMEDY}")
    if group.group.get("fused"):
        raise ValueError(f"{kind} is fused: {_REMEDY}, or make it with fused=False")
    for name, reason in _FIXED.items():
        if isinstance(optimizer, getattr(torch.optim, name, ())):
            raise ValueError(f"{kind} {reason}: {_REMEDY}")


def _parameters_outside(model: nn.Module, old: Mapping[nn.Module, Any]) -> set[Tensor]:
    """The parameters that a network has beside those of some of its blocks."""
    found: set[Tensor] = set()
    seen: set[nn.Module] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module in old or module in seen:
            continue
        seen.add(module)
        found.update(module.parameters(recurse=False))
        waiting += module.children()
    return found
