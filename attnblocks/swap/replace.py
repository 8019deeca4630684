"""Replace the SE blocks of a network with other attention blocks, in four steps.

Find the sites, assign a maker to each, build all blocks, install them: only the last step changes
the network, and the optimizers that follow it.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from attnblocks.swap.assign import Block, Start, Where, assign, select
from attnblocks.swap.build import build_all
from attnblocks.swap.install import install, warn_of_hooks
from attnblocks.swap.optimizers import Move, names_of_parameters, plan_handover
from attnblocks.swap.similar import no_site
from attnblocks.swap.sites import find_se
from attnblocks.swap.wrappers import check_changeable


def replace_se(
    model: nn.Module,
    block: Block | Mapping[str, Block],
    *,
    where: Where | None = None,
    init: str = "inherit",
    match_rd_channels: bool = False,
    inplace: bool = True,
    optimizers: Optimizer | Sequence[Optimizer] | None = None,
    **block_kwargs: Any,
) -> nn.Module:
    """Replace the SE blocks of ``model``, in place, with ``block``.

    The blocks are those that :func:`attnblocks.find_se` lists. A new block has its published
    widths; it takes over device, dtype, train or eval mode and memory format. A block that is
    registered in several places is replaced once and stays shared; tied parameters are untied. If
    anything fails, the network is left as it was.

    With ``init="inherit"`` a block given by class, registered function or name starts from the one
    that it replaces:

    - SE, without options, takes over all of it: squeeze width, activation, gate, norm and weights,
      so that the output stays the same to float rounding (a single layer gets an identity as its
      squeeze).
    - SeCo, CaCo and CBAM take the two layers into their channel stage. Where it is narrower, or has
      another activation, the strongest units are kept and the second layer is solved again by
      least squares; another gate function is matched by a scale and a shift of the logits; where
      the maximum is used too, it is assumed to be three times the mean. The gates of later
      stages start in the middle of their range, with a gain that makes them 1. Those with a gain
      that is given, or with a gate function that is not above 0 at 0 or is flat there, start open.
    - CoordAtt and Eca start with nearly constant gates in the middle of their range; gains, one per
      channel, make their product the gate of the site for usual means. CoordAtt with a given gain
      per channel matches the mean of that gain alone. Eca with a gain that is given, or with a gate
      that is not above 0 at 0, starts near its gate at 0 times that gain, whatever the site's.
    - What the later stages of the old block compute is not carried over.
    - A block of the same class, functions and shapes is copied. Where the site has no such layers,
      or a norm other than batch norm between them, a block starts fresh.

    This keeps a network close to what it was; :func:`attnblocks.warm_start` brings it much closer
    with some unlabelled images.

    Args:
        model: the network.
        block: what is put in, one of

            - a block class, or a function that is registered as a block, perhaps with arguments
              bound by ``functools.partial``; or a name from :func:`attnblocks.list_blocks`: called
              with the channels and ``block_kwargs``;
            - a function of the :class:`attnblocks.SESite`, whose module is used as it is;
            - a mapping from patterns of site names to any of these, of which the first that matches
              a site is used.
        where: which sites to replace: None for all (or all that a mapping names), a predicate on
            the site, or one or several patterns of site names, such as ``"features.1?.*"``.
        init: ``"inherit"``, or ``"fresh"`` for the published initialisation.
        match_rd_channels: give a new block the squeeze width of its site (the published one where
            that has none). ``rd_channels="match"``, the older spelling, does the same.
        inplace: False leaves ``model`` untouched and changes a deep copy.
        optimizers: one or several that train ``model``: the parameters of replaced blocks leave
            them with their state, and those of the new ones take their place in the same group.
            Blocks whose parameters are in none of them stay out.
        **block_kwargs: passed to a block given by class, registered function or name.

    Returns:
        The network: ``model`` itself, its copy, or the new block if ``model`` is an SE block.

    Raises:
        LookupError: the network has no SE block, or ``where`` or a pattern selects none.
        ValueError: an unknown block name or ``init``; a block that fails or is not a module at
            some site; an SE block without the layers of its class; an optimizer that cannot follow
            (fused, sharded, or one that is bound to its first parameters), that has none of the
            blocks, or in which a block is in several groups alike.
        TypeError: a compiled, scripted, exported, wrapped or quantizable network; arguments that
            do not go together.

    Warns:
        UserWarning: a replaced block has hooks; they go with it.

    Example:
        >>> import torchvision
        >>> model = torchvision.models.mobilenet_v3_small()
        >>> _ = replace_se(model, {"features.4.*": "CaCo", "features.1.*": "Eca"})
        >>> model.features[4].block[2]  # doctest: +ELLIPSIS
        CaCo(
          channels=96, rd_channels=6
        ...
    """
    _check_init(init)
    check_changeable(model, "replace_se")
    if optimizers is not None and not inplace:
        raise TypeError("optimizers follow a network that is changed in place: leave out inplace")
    if block_kwargs.get("rd_channels") == "match":
        match_rd_channels = True
        del block_kwargs["rd_channels"]
    elif match_rd_channels and "rd_channels" in block_kwargs:
        raise TypeError("rd_channels and match_rd_channels both set the width: leave one out")
    sites = find_se(model)
    if not sites:
        raise no_site(model)
    start = Start(init == "inherit", match_rd_channels, block_kwargs)
    makers = assign(sites, block, where, start, select)
    if not inplace:
        model, sites = copy.deepcopy((model, sites))
    new = build_all(model, sites, makers)
    handover = plan_handover(
        optimizers,
        names_of_parameters(model),
        names_of_parameters(model, new),
        [Move([set(old.parameters())], [*block.parameters()]) for old, block in new.items()],
    )
    warn_of_hooks(sites, new)
    return install(model, new, handover)


def _check_init(init: str) -> None:
    if init == "warm":
        raise ValueError("init='warm' is called 'inherit' now: give init='inherit'")
    if init == "fitted":
        raise ValueError("init='fitted' needs images: give 'inherit', and then call warm_start")
    if init not in ("inherit", "fresh"):
        raise ValueError(f"init must be 'inherit' or 'fresh', got {init!r}")
