"""Replace the SE blocks of a network by other attention blocks."""

import copy
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from einops import rearrange
from torch import nn

from attnblocks.registry import BlockFactory, get_block
from attnblocks.se import SE
from attnblocks.sites import SELayers, SESite, find_se, known_classes, read_layers

Block = type[nn.Module] | str | Callable[[SESite], nn.Module]
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
    block: Block,
    *,
    where: Where | None = None,
    inplace: bool = True,
    **block_kwargs: Any,
) -> nn.Module:
    """Replace the SE blocks of ``model``, in place, by ``block``.

    The blocks are those that :func:`attnblocks.find_se` lists. A new block has its published
    widths and initialisation; it takes over device, dtype, train or eval mode and memory format.
    ``SE`` takes over the squeeze width, activation, gate, norm and weights of the site instead,
    so that the output of the network stays the same to float rounding (a site with a single
    layer gets an identity as its squeeze; one without channel MLP, a published SE). A block that
    is registered in several places is replaced once and stays shared. If anything fails, the
    network is left as it was.

    Args:
        model: the network.
        block: a block class, a name out of :func:`attnblocks.list_blocks`, or a function that
            makes the new module from an :class:`attnblocks.SESite`.
        where: which sites to replace: None for all, a predicate on the site, or one or several
            patterns of site names, such as ``"features.1?.*"``.
        inplace: False leaves ``model`` untouched and changes a deep copy.
        **block_kwargs: handed to a block given by class or name; ``rd_channels="match"`` takes
            the squeeze width of the site (the published one where it has none).

    Returns:
        The network: ``model`` itself, its copy, or the new block if ``model`` is an SE block.

    Raises:
        LookupError: the network has no SE block, or ``where`` selects none.
        ValueError: an unknown block name, or a block that fails or is no module at some site.
        TypeError: a compiled, scripted, exported, wrapped or quantizable network; arguments that
            do not fit together.

    Warns:
        UserWarning: a replaced block has hooks; they go with it.

    Example:
        >>> import torchvision
        >>> model = torchvision.models.mobilenet_v3_small()
        >>> _ = replace_se(model, "CaCo", where="features.4.*")
        >>> model.features[4].block[2]  # doctest: +ELLIPSIS
        CaCo(
          channels=96, rd_channels=6
        ...
    """
    _check_model(model)
    make = _block_maker(block, block_kwargs)
    if not inplace:
        model = copy.deepcopy(model)
    sites = _select(model, where)
    channels_last = _is_channels_last(model)
    new = {site.module: _build(site, make, channels_last) for site in sites}
    _warn_of_hooks(sites)
    return _install(model, new)


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


def _block_maker(block: Block, kwargs: dict[str, Any]) -> Callable[[SESite], nn.Module]:
    """One function from site to new module, whatever way the block was given."""
    if isinstance(block, str):
        return _from_channels(get_block(block), kwargs)
    if isinstance(block, type) and issubclass(block, nn.Module):
        return _from_channels(block, kwargs)
    if isinstance(block, (type, nn.Module)) or not callable(block):
        raise TypeError(f"block must be a class, a name or a function of the site, got {block!r}")
    if kwargs:
        raise TypeError(
            f"{sorted(kwargs)} go with a block class or name; a function gets the site alone"
        )
    return block


def _from_channels(factory: BlockFactory, kwargs: dict[str, Any]) -> Callable[[SESite], nn.Module]:
    if factory is not SE:
        return lambda site: factory(site.channels, **_match_width(kwargs, site))
    if kwargs.keys() - {"rd_channels"} or kwargs.get("rd_channels", "match") != "match":
        raise TypeError(
            f"SE takes its widths and functions from the site, not from {sorted(kwargs)}; "
            "pass a function of the site to build another one"
        )
    return _se_of_site


def _match_width(kwargs: dict[str, Any], site: SESite) -> dict[str, Any]:
    if kwargs.get("rd_channels") != "match":
        return kwargs
    return {**kwargs, "rd_channels": site.rd_channels}


def _select(model: nn.Module, where: Where | None) -> tuple[SESite, ...]:
    sites = find_se(model)
    if not sites:
        raise LookupError(
            f"{type(model).__name__} has no SE block. Looked for: {', '.join(known_classes())}. "
            f"{_similar_modules(model)} Use register_se for a class of your own"
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
                raise LookupError(f"where={pattern!r} matches none of the sites {names}")
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


def _build(site: SESite, make: Callable[[SESite], nn.Module], channels_last: bool) -> nn.Module:
    """The new block for one site, on its device, in its dtype, mode and memory format."""
    like = next((t for t in site.module.parameters() if t.is_floating_point()), None)
    device = torch.get_default_device() if like is None else like.device
    try:
        with device:
            new = make(site)
    except Exception as error:
        raise ValueError(f"the block for site {site.name!r} cannot be made: {error}") from error
    if not isinstance(new, nn.Module):
        raise ValueError(f"the block for site {site.name!r} is no nn.Module: {new!r}")
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    if channels_last:
        new.to(memory_format=torch.channels_last)
    if new.training != site.module.training:  # a frozen norm that is carried over stays frozen
        new.train(site.module.training)
    return new


def _se_of_site(site: SESite) -> SE:
    """An SE that computes what the channel MLP of the site computes; published without one."""
    layers = read_layers(site.module)
    if layers.expand is None:
        return SE(site.channels)
    se = SE(
        site.channels,
        site.rd_channels or site.channels,
        act_layer=site.act_layer or nn.Identity,
        gate_layer=site.gate_layer,
    )
    _carry_over(layers, se)
    return se


@torch.no_grad()
def _carry_over(layers: SELayers, se: SE) -> None:
    if layers.squeeze is None:
        nn.init.dirac_(se.fc1.weight)
        nn.init.zeros_(se.fc1.bias)  # type: ignore[arg-type]
    else:
        _copy_layer(layers.squeeze, se.fc1)
    if layers.norm is not None:
        se.bn = copy.deepcopy(layers.norm)
    assert layers.expand is not None
    _copy_layer(layers.expand, se.fc2)


def _copy_layer(old: nn.Module, new: nn.Conv2d) -> None:
    """Copy a linear layer or 1x1 convolution; a missing bias is zero."""
    weight = rearrange(old.get_parameter("weight"), "o i ... -> o i (...) 1")
    new.to(weight.dtype)
    new.weight.copy_(weight)
    new.weight.requires_grad_(old.get_parameter("weight").requires_grad)
    assert new.bias is not None
    bias = getattr(old, "bias", None)
    if bias is None:
        new.bias.zero_()
    else:
        new.bias.copy_(bias).requires_grad_(bias.requires_grad)


def _is_channels_last(model: nn.Module) -> bool:
    """Whether some 4-d weight says so; a 1x1 weight fits both formats and says nothing."""
    return any(
        p.dim() == 4
        and p.is_contiguous(memory_format=torch.channels_last)
        and not p.is_contiguous()
        for p in model.parameters()
    )


def _warn_of_hooks(sites: Sequence[SESite]) -> None:
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    hooks = [
        f"{getattr(hook, '__qualname__', hook)} on {site.name!r}"
        for site in sites
        for kind in kinds
        for hook in getattr(site.module, kind).values()
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
