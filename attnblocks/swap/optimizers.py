"""Optimizers that follow a swap: old parameters leave with their state, new ones take their place.

A new parameter joins the group of the old block's parameters, behind the one that comes before it
in the network: the order stays that of the network, as checkpoints of optimizers count on it.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

_REMEDY = "make the optimizer after the swap"

_FIXED = {
    "Adagrad": "makes the state of its parameters when it is made",
    "Adahessian": "sets its parameters up when it is made",
    "LBFGS": "keeps one vector of all its parameters",
    "Muon": "takes matrices alone, and no kernels of convolutions",
}
"""Classes whose parameters cannot be exchanged, and why."""


@dataclass
class _Group:
    """A parameter group of an optimizer, and the parameters that are going to join it, by name."""

    optimizer: Optimizer
    group: dict[str, Any]
    added: dict[Tensor, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.members = set(self.group["params"])


@dataclass(frozen=True)
class Handover:
    """What a swap changes in optimizers; nothing has changed until it is made.

    Args:
        groups: those that change.
        leaving: parameters of old blocks.
        before: all parameters of the network by name, in its order, before the swap.
        after: the same after it.
    """

    groups: Sequence[_Group] = ()
    leaving: frozenset[Tensor] = frozenset()
    before: Mapping[Tensor, str] = field(default_factory=dict)
    after: Mapping[Tensor, str] = field(default_factory=dict)

    def make(self) -> None:
        """Change the optimizers."""
        for one in self.groups:
            old, names = one.group["params"], one.group.get("param_names")
            known = dict(zip(old, names or [""] * len(old), strict=True))
            # An optimizer may know the network as a part of another one.
            prefixes = [
                known[p].removesuffix(name) for p, name in self.before.items() if p in known
            ]
            behind: dict[Tensor | None, list[Tensor]] = {None: []}
            last = None
            for p, name in self.after.items():
                if p in one.added:
                    behind[last].append(p)
                    known[p] = f"{prefixes[0] if prefixes else ''}{name}"
                elif p in one.members:
                    last = p
                    behind[last] = []
            stay = [p for p in old if p not in self.leaving]
            order = behind[None] + [q for p in stay for q in (p, *behind.get(p, []))]
            for p in self.leaving & one.members:
                one.optimizer.state.pop(p, None)
            old[:] = order
            if names is not None:
                names[:] = [known[p] for p in order]


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
        return Handover()
    given = list(optimizers) if isinstance(optimizers, Iterable) else [optimizers]
    for optimizer in given:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizers must be torch optimizers, got {optimizer!r}; of a wrapper around one, "
                "give the one inside"
            )
    groups = [_Group(optimizer, group) for optimizer in given for group in optimizer.param_groups]
    held = {p for group in groups for p in group.members}
    before: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    after: dict[Tensor, str] = {}
    for name, p in _named_parameters(model, new):
        after.setdefault(p, name)  # the first of several names counts, as in torch
    trained = False
    for old, block in new.items():
        own = set(old.parameters())
        if own and held.isdisjoint(own):
            continue  # these optimizers do not train this block
        trained |= bool(own)
        for p in block.parameters():
            if p not in before and p not in held:
                _home(groups, own, p, after[p]).added[p] = after[p]
                held.add(p)
    leaving = frozenset(p for old in new for p in old.parameters() if p not in after)
    changed = [g for g in groups if g.added or not leaving.isdisjoint(g.members)]
    if not changed and not trained:
        raise ValueError(
            "optimizers hold no parameter of the blocks that are replaced: are they those of "
            "another network?"
        )
    for one in changed:
        _check_can_follow(one)
    return Handover(changed, leaving, before, after)


def _home(groups: Sequence[_Group], own: set[Any], p: Tensor, name: str) -> _Group:
    """The group of the old block's parameters, which a new one joins.

    Where they are in several, as with no weight decay for vectors, the group of those of its kind:
    matrices and kernels, or vectors and scalars.
    """
    alike = {q for q in own if (q.dim() > 1) == (p.dim() > 1)}
    homes = [group for group in groups if not alike.isdisjoint(group.members)]
    homes = homes or [group for group in groups if not own.isdisjoint(group.members)]
    if not own:  # an old block without parameters says nothing
        homes = list(groups)
    if len(homes) != 1:
        raise ValueError(
            f"nothing says which of {len(homes)} groups of the optimizers the new {name!r} joins, "
            f"as those of the old block are in all of them, or there were none: {_REMEDY}"
        )
    return homes[0]


def _check_can_follow(group: _Group) -> None:
    """Raise ValueError unless the parameters of a group can be exchanged."""
    optimizer, kind = group.optimizer, type(group.optimizer).__name__
    zero = getattr(sys.modules.get("torch.distributed.optim"), "ZeroRedundancyOptimizer", ())
    sharded = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())
    if isinstance(optimizer, zero) or any(isinstance(p, sharded) for p in group.members):
        raise ValueError(f"{kind} is sharded, its state is spread over processes: {_REMEDY}")
    if group.group.get("fused"):
        raise ValueError(f"{kind} is fused: {_REMEDY}, or make it with fused=False")
    if any(isinstance(value, Optimizer) for value in vars(optimizer).values()):
        raise ValueError(f"{kind} wraps another optimizer, which has a state too: {_REMEDY}")
    for cls in type(optimizer).__mro__:
        if cls.__name__ in _FIXED:
            raise ValueError(f"{kind} {_FIXED[cls.__name__]}: {_REMEDY}")


def _named_parameters(
    model: nn.Module, new: Mapping[nn.Module, nn.Module]
) -> Iterator[tuple[str, Tensor]]:
    """``named_parameters`` as they will be once the new blocks stand in the network."""

    def walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
        if module in new:
            yield from new[module].named_parameters(prefix.rstrip("."), remove_duplicate=False)
            return
        yield from module.named_parameters(prefix.rstrip("."), recurse=False)
        for name, child in module.named_children():
            yield from walk(child, f"{prefix}{name}.")

    yield from walk(model, "")
