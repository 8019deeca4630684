"""Replace the SE blocks of a network with other attention blocks."""

import copy
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from attnblocks.swap.adapters import known_classes
from attnblocks.swap.build import Block, Maker, block_maker, build, is_channels_last
from attnblocks.swap.sites import SESite, find_se

Where = Callable[[SESite], bool] | str | Sequence[str]

# (module, class) and what to do instead: these have recorded, or flattened, the blocks they hold.
_FINISHED_MODELS: dict[tuple[str, str], str] = {
    ("torch.jit", "ScriptModule"): "swap in the original network, then script it",
    ("torch.export", "ExportedProgram"): "swap in the original network, then export it",
    ("torch._dynamo.eval_frame", "OptimizedModule"): "swap in the original network "
    "(model._orig_mod), then compile it",
    ("torch.nn.parallel", "DistributedDataParallel"): "swap in model.module, then wrap it",
    ("torch.distributed.fsdp", "FullyShardedDataParallel"): "swap before you wrap it",
    ("torch.distributed.fsdp", "FSDPModule"): "swap before you call fully_shard",
}


def replace_se(
    model: nn.Module,
    block: Block | Mapping[str, Block],
    *,
    where: Where | None = None,
    init: str = "warm",
    inplace: bool = True,
    **block_kwargs: Any,
) -> nn.Module:
    """Replace the SE blocks of ``model``, in place, with ``block``.

    The blocks are those that :func:`attnblocks.find_se` lists. A new block has its published
    widths; it takes over device, dtype, train or eval mode and memory format. A block that is
    registered in several places is replaced once and stays shared; tied parameters are untied. If
    anything fails, the network is left as it was.

    With ``init="warm"`` a block given by class or name starts from the one that it replaces; what a
    function returns is used as it is:

    - SE, without options, takes over all of it: squeeze width, activation, gate, norm and weights,
      so that the output stays the same to float rounding (a single layer gets an identity as its
      squeeze).
    - SeCo, CaCo and CBAM take the two layers into their channel stage. Where it is narrower, or has
      another activation, the strongest units are kept and the second layer is solved again by
      least squares; another gate function is matched by a scale and a shift of the logits; where
      the maximum is used too, it is assumed to be three times the mean. The later stages start
      open, at sigmoid(5).
    - CoordAtt starts with nearly constant gates, whose product is the gate of the site for usual
      means; Eca, whose few weights cannot hold a gate for each channel, with all gates near 1/2.
    - A block of the same class, functions and shapes is copied. Where the site has no such layers,
      or a norm other than batch norm between them, a block starts fresh.

    This keeps a network close to what it was; :func:`attnblocks.warm_start` brings it much closer
    with some unlabelled images.

    Args:
        model: the network.
        block: a block class, a name from :func:`attnblocks.list_blocks`, or a function that
            makes the new module from an :class:`attnblocks.SESite`; or a mapping from patterns of
            site names to such blocks, of which the first that matches a site is used.
        where: which sites to replace: None for all (or all that a mapping names), a predicate on
            the site, or one or several patterns of site names, such as ``"features.1?.*"``.
        init: ``"warm"``, or ``"fresh"`` for the published initialisation.
        inplace: False leaves ``model`` untouched and changes a deep copy.
        **block_kwargs: passed to a block given by class or name; ``rd_channels="match"`` takes
            the squeeze width of the site (the published one where it has none).

    Returns:
        The network: ``model`` itself, its copy, or the new block if ``model`` is an SE block.

    Raises:
        LookupError: the network has no SE block, or ``where`` or a pattern selects none.
        ValueError: an unknown block name or ``init``, or a block that fails or is not a module
            at some site.
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
    if init not in ("warm", "fresh"):
        raise ValueError(f"init must be 'warm' or 'fresh', got {init!r}")
    _check_model(model)
    makers = _makers(model, block, where, block_kwargs, warm=init == "warm")
    if not inplace:
        model = copy.deepcopy(model)
    sites = tuple(site for site in find_se(model) if site.name in makers)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    channels_last = is_channels_last(model)
    new = {site.module: build(site, makers[site.name], like, channels_last) for site in sites}
    _warn_of_hooks(sites, new)
    return _install(model, new)


def _makers(
    model: nn.Module,
    block: Block | Mapping[str, Block],
    where: Where | None,
    kwargs: dict[str, Any],
    *,
    warm: bool,
) -> dict[str, Maker]:
    """What makes the new block of each selected site, by the name of the site."""
    if not isinstance(block, Mapping):
        make = block_maker(block, kwargs, warm=warm)
        return {site.name: make for site in _select(model, where)}
    if where is not None:
        raise TypeError("the patterns of a mapping say which sites to replace: leave out where")
    makers: dict[str, Maker] = {}
    for pattern, one in block.items():
        make = block_maker(one, kwargs, warm=warm)
        names = [site.name for site in _select(model, pattern)]
        if makers.keys() >= set(names):
            raise LookupError(
                f"{pattern!r} comes after patterns that take all of its sites {names}"
            )
        for name in names:
            makers.setdefault(name, make)
    if not makers:
        raise LookupError("the mapping from patterns to blocks is empty")
    return makers


def _check_model(model: nn.Module) -> None:
    parts = model.modules() if isinstance(model, nn.Module) else [model]
    for part in parts:
        for (module, name), advice in _FINISHED_MODELS.items():
            cls = getattr(sys.modules.get(module), name, None)
            if cls is not None and isinstance(part, cls):
                raise TypeError(f"replace_se cannot change a {name}: {advice}")
        if getattr(part, "_compiled_call_impl", None) is not None:
            raise TypeError(
                "replace_se cannot change a network after model.compile(): swap, then compile"
            )
        if hasattr(part, "skip_mul"):
            raise TypeError(
                f"replace_se cannot change a quantizable network ({type(part).__name__} with "
                "skip_mul): swap in the float network of torchvision.models, then quantize it"
            )


def _select(model: nn.Module, where: Where | None) -> tuple[SESite, ...]:
    sites = find_se(model)
    if not sites:
        traced = any(isinstance(module, GraphModule) for module in model.modules())
        advice = "swap before tracing or exporting it" if traced else "see register_se for others"
        raise LookupError(
            f"{type(model).__name__} has no SE block. Looked for: {', '.join(known_classes())} "
            "and the blocks of attnblocks. "
            f"{_similar_modules(model)} What to do: {advice}"
        )
    if where is None:
        return sites
    if callable(where):
        chosen = tuple(site for site in sites if where(site))
    else:
        patterns = [where] if isinstance(where, str) else list(where)
        names = [site.name for site in sites]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise LookupError(f"{pattern!r} matches none of the sites {names}")
        chosen = tuple(s for s in sites if any(fnmatchcase(s.name, p) for p in patterns))
    if not chosen:
        raise LookupError(f"where selects none of the sites {[site.name for site in sites]}")
    return chosen


def _similar_modules(model: nn.Module) -> str:
    similar = re.compile("SE|Se[^a-z]|Squeeze|Excit|Eca|Att")
    found = {
        type(module).__qualname__: name
        for name, module in model.named_modules()
        if similar.search(type(module).__name__)
    }
    if not found:
        return "Nothing in it looks like an attention block."
    listed = ", ".join(f"{cls} ({name!r})" for cls, name in list(found.items())[:8])
    return f"Similar modules in it: {listed}."


def _warn_of_hooks(sites: Sequence[SESite], new: dict[nn.Module, nn.Module]) -> None:
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    hooks = [
        f"{getattr(hook, '__qualname__', hook)} on {f'{site.name}.{name}'.strip('.')!r}"
        for site in sites
        for name, part in site.module.named_modules()
        if part not in set(new[site.module].modules())
        for kind in kinds
        for hook in getattr(part, kind).values()
    ]
    if hooks:
        warnings.warn(
            f"replaced blocks take their hooks with them: {', '.join(hooks)}", stacklevel=3
        )


def _install(model: nn.Module, new: dict[nn.Module, nn.Module]) -> nn.Module:
    places = [
        (parent, name, new[child])
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child is not None and child in new
    ]
    for parent, name, module in places:
        setattr(parent, name, module)
    return new.get(model, model)
