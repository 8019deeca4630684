"""Insert attention blocks into a network that was built without them, and take them out again.

In steps: see what the modules return, assign a maker to each place, build all blocks, put them in,
run the network to check them. If a step fails, the network is as it was.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from attnblocks.blocks.base import AttentionBlock
from attnblocks.swap.assign import Block, Maker, Start, Where, assign, select
from attnblocks.swap.behind import list_inserted, put_behind, take_out, undone_on_error
from attnblocks.swap.build import build_one, modules_around
from attnblocks.swap.choose import choose
from attnblocks.swap.observe import observe
from attnblocks.swap.optimizers import Move, names_of_parameters, plan_handover
from attnblocks.swap.places import Place, places_in
from attnblocks.swap.trial import output_of, try_out
from attnblocks.swap.wrappers import check_changeable


def insert(
    model: nn.Module,
    block: Block | Mapping[str, Block],
    *,
    after: Where | None = None,
    example: Any,
    init: str = "identity",
    optimizers: Optimizer | Sequence[Optimizer] | None = None,
    **block_kwargs: Any,
) -> nn.Module:
    """Insert attention blocks behind modules of a network, in place.

    All that was there stays: classes, state-dict keys, parameter names and groups of optimizers;
    only the keys of the new blocks are added, as ``layer1.0.bn2.attention.fc1.weight`` behind
    ``layer1.0.bn2``. Pre-trained weights fit before and after. A block is a child of the module
    behind which it runs, or, where that runs all of its children, as ``nn.Sequential`` does, of the
    last module within it that does not; a forward hook calls it, of the module, or of the last
    module in an ``nn.Sequential``.

    With ``init="identity"`` the network computes what it did before, to the bit for the blocks of
    this library: the last layer before each gate starts at zero, so that the gate is at the middle
    of its range, where it learns best, and a gain makes up for it. No hidden unit starts dead on
    the example.

    Behind one module several blocks run in the order in which they came. What replaces modules
    later, as ``convert_sync_batchnorm`` and fusions with batch norm do, takes no hook along: do
    that first, or insert behind a module that stays.

    Args:
        model: the network.
        block: what is put in, one of

            - a block class, or a function that is registered as a block, perhaps with arguments
              bound by ``functools.partial``; or a name from :func:`attnblocks.list_blocks`: called
              with the channels and ``block_kwargs``;
            - a function of the :class:`attnblocks.Place`, whose module is used as it is;
            - a mapping from patterns, as in ``after``, to any of these, of which the first that
              matches a place is used.
        after: the modules behind which blocks are put: one or several patterns of their names, such
            as ``"layer?.*.bn2"``; the words ``"residual"``, ``"stages"`` or ``"depthwise"`` for all
            places of a kind; or a predicate on the :class:`attnblocks.Place`. Left out with a
            mapping. :func:`attnblocks.find_places` lists the places.
        example: an input of the network, of any batch size; a tuple of several; or a mapping of
            keyword arguments. The network runs on it in eval mode, and stays as it is: to see which
            modules return a map and how wide, and to check the new blocks.
        init: ``"identity"``, or ``"fresh"`` for the published initialisation.
        optimizers: one or several that train ``model``: the new parameters join the group of those
            nearest to them, matrices and vectors apart where the groups are.
        **block_kwargs: passed to a block given by class, registered function or name.

    Returns:
        The network, ``model`` itself.

    Raises:
        LookupError: a pattern or ``after`` names no module, or only some that are taken.
        ValueError: a module that returns no map, such as a tuple, or does not run; a network that
            does not run on the example; an unknown block name or ``init``; a block that fails,
            cannot start as an identity, or runs more often than the module behind which it is;
            an optimizer that cannot follow, as for :func:`attnblocks.replace_se`.
        TypeError: a compiled, scripted, exported, wrapped or quantizable network; arguments that
            do not go together.

    Warns:
        UserWarning: a module runs several times in a forward pass, and so does the block behind it.

    Example:
        >>> import torch, torchvision
        >>> model = torchvision.models.resnet18()
        >>> _ = insert(model, "CoordAtt", after="residual", example=torch.rand(1, 3, 64, 64))
        >>> from attnblocks import find_se
        >>> [site.name for site in find_se(model)][:2]
        ['layer1.0.bn2.attention', 'layer1.1.bn2.attention']
    """
    if init not in ("identity", "fresh"):
        raise ValueError(f"init must be 'identity' or 'fresh', got {init!r}")
    check_changeable(model, "insert")
    seen = observe(model, example)
    # Behind a module come all of its blocks in their order, so none stands behind another one.
    there = {one.name for one in list_inserted(model)}
    places = [place for place in places_in(seen) if place.name not in there]
    start = Start(inherits=False, options=block_kwargs)
    makers = assign(places, block, after, start, partial(choose, seen))
    new = {
        place: _build(model, place, maker, init)
        for place, maker in zip(places, makers, strict=True)
        if maker is not None
    }
    if len({*new.values(), *model.modules()}) < len(new) + len(list(model.modules())):
        raise ValueError("block must make a new module for each place, got one several times")
    before = names_of_parameters(model)
    wanted = output_of(model, example) if init == "identity" else None
    with undone_on_error(model) as done:
        for place, one in new.items():
            done.append(put_behind(model, place.name, one))
        try_out(model, example, new, wanted)
        handover = plan_handover(
            optimizers,
            before,
            names_of_parameters(model),
            [_move(model, place, one) for place, one in new.items()],
        )
        if repeated := [place.name for place in new if place.calls > 1]:
            warnings.warn(
                f"{', '.join(repeated)} run several times in a forward pass, and so do the blocks "
                "behind them",
                stacklevel=2,
            )
        handover.make()
    return model


def remove(
    model: nn.Module,
    where: Where | None = None,
    optimizers: Optimizer | Sequence[Optimizer] | None = None,
) -> nn.Module:
    """Take inserted blocks out of a network, in place; the rest is as before the insertion.

    Args:
        model: the network.
        where: which blocks: None for all, one or several patterns of their names, such as
            ``"layer1.*"``, or a predicate on what has the attributes ``name``, ``after`` and
            ``block``.
        optimizers: one or several that train ``model``: the parameters leave them, with their
            state.

    Returns:
        The network, ``model`` itself.

    Raises:
        LookupError: the network has no inserted block, or ``where`` or a pattern selects none.
        ValueError: an optimizer that cannot follow.
        TypeError: a compiled, scripted, exported, wrapped or quantizable network.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3))
        >>> _ = insert(model, "SE", after="0", example=torch.rand(1, 3, 8, 8))
        >>> remove(model)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        )
    """
    check_changeable(model, "remove")
    inserted = tuple(list_inserted(model))
    if not inserted:
        raise LookupError(f"{type(model).__name__} has no inserted block")
    chosen = select(inserted, where)
    before = names_of_parameters(model)
    gone = [one.block for one in chosen if one.block is not None]
    rest = names_of_parameters(model, dict.fromkeys(gone, nn.Identity()))
    moves = [Move([set(block.parameters())]) for block in gone]
    handover = plan_handover(optimizers, before, rest, moves)
    for one in chosen:
        take_out(model, one)
    handover.make()
    return model


def _build(model: nn.Module, place: Place, maker: Maker, init: str) -> nn.Module:
    """The new block for one place."""

    def make() -> nn.Module:
        new = maker.make(place)
        if init == "identity" and isinstance(new, nn.Module):
            if not isinstance(new, AttentionBlock):
                raise TypeError(
                    f"a {type(new).__name__} is no AttentionBlock, which could start as an "
                    "identity; init='fresh' puts it in as it is"
                )
            new.start_as_identity()
        return new

    around = modules_around(model, place.name)
    return build_one(make, f"the place behind {place.name!r}", place.module, around)


def _move(model: nn.Module, place: Place, new: nn.Module) -> Move:
    around = modules_around(model, place.name)
    return Move([set(module.parameters()) for module in around], [*new.parameters()])
