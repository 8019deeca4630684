"""Activations, gates and norms as JSON, so that a recipe can name them."""

from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn
from torch.nn.modules import activation

from attnblocks.blocks.layers import LayerFactory

LayerSpec = str | dict[str, Any] | None
"""A name such as "ReLU", or a dictionary of "name" and the arguments that are not the defaults."""

_FUNCTIONS: dict[str, type[nn.Module]] = {
    name: getattr(activation, name)
    for name in activation.__all__
    if name not in ("MultiheadAttention", "Threshold")
} | {"Identity": nn.Identity}

_NORMS: dict[str, type[nn.Module]] = {
    "BatchNorm2d": nn.BatchNorm2d,
    "GroupNorm": nn.GroupNorm,
    "SyncBatchNorm": nn.SyncBatchNorm,
}

# Conversion for several processes changes the class of a norm, and not what it computes.
_PLAIN = {
    "BatchNorm1d": "BatchNorm",
    "BatchNorm2d": "BatchNorm",
    "BatchNorm3d": "BatchNorm",
    "SyncBatchNorm": "BatchNorm",
    "SyncBatchNormAct": "BatchNormAct2d",
}

# No numerical effect, or set by the block.
_LEFT_OUT = {"self", "inplace", "num_features", "num_channels", "device", "dtype", "process_group"}


def name_function(module: nn.Module) -> LayerSpec:
    """Name an activation or a gate.

    A class that is not torch's own is named after the torch.nn layer with equal outputs.

    Raises:
        ValueError: there is none.
    """
    cls = type(module)
    if _FUNCTIONS.get(cls.__name__) is cls:
        return _spec(module, cls.__name__)
    far = torch.logspace(1, 6, 51)
    x = torch.cat([-far, torch.linspace(-8, 8, 513), far])
    if not any(True for _ in module.parameters()):
        values = module(x.clone())
        for name in ("Sigmoid", "Hardsigmoid", "ReLU", "SiLU", "Hardswish", "Identity", "GELU"):
            if torch.allclose(_FUNCTIONS[name]()(x), values, rtol=1e-5, atol=1e-6):
                return name
    raise ValueError(
        f"{cls.__module__}.{cls.__qualname__} computes none of the functions of torch.nn, so no "
        "recipe can name it"
    )


def name_norm(module: nn.Module) -> LayerSpec:
    """Name a norm; None stands for ``nn.Identity``, which blocks use for no norm.

    A norm that is synchronised between processes is named as the plain one: how a network is
    trained is not what it is.

    Raises:
        ValueError: it is neither a batch norm nor a group norm of torch.nn.
    """
    if isinstance(module, nn.Identity):
        return None
    if type(module) is nn.SyncBatchNorm:
        return _spec(module, "BatchNorm2d")
    if _NORMS.get(type(module).__name__) is type(module):
        return _spec(module, type(module).__name__)
    raise ValueError(f"a recipe can name the norms {', '.join(_NORMS)}, not {module!r}")


def function_layer(spec: LayerSpec) -> LayerFactory:
    """The factory of the activation or gate of that name, called without arguments.

    Raises:
        ValueError: an unknown name, or arguments that it does not have.
    """
    return _factory(spec, _FUNCTIONS)


def norm_layer(spec: LayerSpec) -> LayerFactory | None:
    """The factory of the norm of that name, called with its channels, or None.

    Raises:
        ValueError: an unknown name, or arguments that it does not have.
    """
    if spec is None:
        return None
    factory = _factory(spec, _NORMS)
    named = "num_channels" if "num_channels" in signature(factory).parameters else "num_features"
    return lambda channels, **dd: factory(**{named: channels}, **dd)


def _arguments(cls: type[nn.Module]) -> dict[str, Parameter]:
    parameters = signature(cls.__init__).parameters
    variable = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return {n: p for n, p in parameters.items() if n not in _LEFT_OUT and p.kind not in variable}


def class_name(module: nn.Module) -> str:
    """The name of a class, the same for a norm before and after it is synchronised."""
    name = type(module).__name__
    return _PLAIN.get(name, name)


def _spec(module: nn.Module, called: str) -> LayerSpec:
    """A name, with the arguments of the module that differ from the defaults of its class."""
    changed = {}
    for name, parameter in _arguments(type(module)).items():
        if not hasattr(module, name):  # an old name of another argument
            continue
        value = getattr(module, name)
        if name == "bias":  # newer norms can have none: the argument is not kept, its effect is
            value = value is not None
        if value != parameter.default:
            changed[name] = value
    return {"name": called, **changed} if changed else called


def _factory(spec: LayerSpec, known: dict[str, type[nn.Module]]) -> LayerFactory:
    arguments = dict(spec) if isinstance(spec, dict) else {"name": spec}
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"unknown layer {spec!r}; known are {', '.join(sorted(known))}")
    cls = known[name]
    if unknown := arguments.keys() - _arguments(cls).keys():
        raise ValueError(f"{name} has no arguments {sorted(unknown)}")
    if not all(isinstance(value, (int, float, str, type(None))) for value in arguments.values()):
        raise ValueError(f"the arguments of {name} must be plain numbers and words: {arguments}")
    return partial(cls, **arguments)
