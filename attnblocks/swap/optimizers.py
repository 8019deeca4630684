"""Optimizers that follow a change of blocks: old parameters leave with their state, new ones join.

A new parameter joins the group of those in whose place or beside which it stands, behind the one
that comes before it in the network: the order stays that of the network, as checkpoints of
optimizers count on it.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

_REMEDY = "make the optimizer afterwards"

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
class Move:
    """Parameters that come, and those that say which group they join.

    Args:
        around: in whose place the new ones stand, or those around them, the nearest first.
        new: the parameters that come. They stay out where no optimizer has one of ``around``.
    """

    around: Sequence[Set[Tensor]]
    new: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Handover:
    """What a change of blocks changes in optimizers; nothing has changed until it is made.

    Args:
        groups: those that change.
        leaving: parameters of blocks that leave.
        before: all parameters of the network by name, in its order, before the change.
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
    before: Mapping[Tensor, str],
    after: Mapping[Tensor, str],
    moves: Sequence[Move],
) -> Handover:
    """Find out what leaves which group, and what joins it.

    Args:
        optimizers: one, several or none.
        before: the parameters of the network by name, in its order, before the change.
        after: the same after it; those that are only in ``before`` leave.
        moves: one for each block.

    Raises:
        TypeError: something other than optimizers.
        ValueError: one that cannot follow; one that holds nothing of the blocks; or a block
            beside parameters in several groups, so that nothing says where new ones belong.
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
    if held.isdisjoint(before):
        raise _stranger()
    trained = False
    for move in moves:
        around = [own for own in move.around if own]
        if around and all(held.isdisjoint(own) for own in around):
            continue  # these optimizers do not train this block
        trained |= bool(around)
        for p in move.new:
            if p not in before and p not in held:
                _home(groups, around, p, after[p]).added[p] = after[p]
                held.add(p)
    leaving = frozenset(p for p in before if p not in after)
    changed = [g for g in groups if g.added or not leaving.isdisjoint(g.members)]
    if not changed and not trained:
        raise _stranger()
    for one in changed:
        _check_can_follow(one)
    return Handover(changed, leaving, before, after)


def _stranger() -> ValueError:
    return ValueError(
        "optimizers hold no parameter of the blocks that change, nor of what is beside them: are "
        "they those of another network?"
    )


def _home(groups: Sequence[_Group], around: Sequence[Set[Tensor]], p: Tensor, name: str) -> _Group:
    """The group that a new parameter joins: of the nearest one of its kind, else of the nearest.

    The kinds are matrices and kernels, or vectors and scalars, which often have no weight decay.
    """
    alike = [{q for q in own if (q.dim() > 1) == (p.dim() > 1)} for own in around]
    found = ([g for g in groups if not own.isdisjoint(g.members)] for own in (*alike, *around))
    # Blocks without parameters, which stood there, say nothing.
    homes = next(filter(None, found), []) if around else list(groups)
    if len(homes) != 1:
        raise ValueError(
            f"nothing says which of {len(homes)} groups of the optimizers the new {name!r} joins, "
            f"as the parameters there are in all of them, or there were none: {_REMEDY}"
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


def names_of_parameters(
    model: nn.Module, new: Mapping[nn.Module, nn.Module] | None = None
) -> dict[Tensor, str]:
    """The parameters of a network by name, in its order; of several names the first, as in torch.

    Args:
        model: the network.
        new: blocks that are going to stand in the place of others.
    """
    new = new or {}

    def walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
        if module in new:
            yield from new[module].named_parameters(prefix.rstrip("."), remove_duplicate=False)
            return
        yield from module.named_parameters(prefix.rstrip("."), recurse=False)
        for name, child in module.named_children():
            yield from walk(child, f"{prefix}{name}.")

    names: dict[Tensor, str] = {}
    for name, p in walk(model, ""):
        names.setdefault(p, name)
    return names
