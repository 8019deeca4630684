"""Builders: the networks of timm and torchvision that a file may name, without their weights."""

import difflib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

LAYERS_PER_TENSOR = 100
"""A generous limit on modules per tensor; real networks have a few."""

LEAST_LIMIT = 10_000
"""Tiny files may always build this many, so that they reach the clearer shape error."""

# Arguments with which timm and torchvision would download weights, read other files, or take memory
# for a network that is only looked at.
_FORBIDDEN = {
    "cache_dir",
    "checkpoint_path",
    "device",
    "dtype",
    "pretrained",
    "pretrained_backbone",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "weights",
    "weights_backbone",
}
_PLAIN = (bool, int, float, str, type(None))


def build_on_meta(base: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """The network of a base on the meta device, unless its builder reads values."""
    try:
        with torch.device("meta"):
            return build(base, kwargs)
    except ValueError:
        return build(base, kwargs)


def build(base: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """The network of a base, without weights."""
    library, _, name = base.partition("/")
    for key, value in kwargs.items():
        values = value if isinstance(value, list | tuple) else [value]
        if key in _FORBIDDEN or not all(isinstance(v, _PLAIN) for v in values):
            raise ValueError(
                f"base_kwargs may hold plain values of the structure, not {key}={value!r}"
            )
    if library not in _LIBRARIES:
        raise ValueError(f"base must be timm/NAME or torchvision/NAME, got {base!r}")
    need(library, f"pip install 'attnblocks[{library}]'")
    models = _LIBRARIES[library]()
    # A name of timm may end in the tag of its weights.
    known = name.partition(".")[0] if library == "timm" else name
    if known in models.refused:
        raise ValueError(f"{library} has {name!r}, but not as a base: {models.refused[known]}")
    if known not in models.names:
        near = difflib.get_close_matches(name, models.names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LookupError(f"the installed {library} has no model {name!r}{hint}")
    try:
        return models.make(name, **kwargs)
    except Exception as error:  # whatever a builder raises for arguments that it cannot use
        raise ValueError(f"base {base!r} cannot be built with {dict(kwargs)}: {error!r}") from error


class _Models(NamedTuple):
    """The models of a library: the names of its bases, what builds one, and why others are none."""

    names: Sequence[str]
    make: Callable[..., nn.Module]
    refused: Mapping[str, str]


def _timm() -> _Models:
    import timm

    renamed = {
        old: f"it is deprecated, and now called {new!r}" if new else "timm has removed it"
        for old, new in timm.models.get_deprecated_models().items()
    }
    return _Models(timm.list_models(), partial(timm.create_model, pretrained=False), renamed)


def _torchvision() -> _Models:
    from torchvision import models

    def make(name: str, **kwargs: Any) -> nn.Module:
        # Without this argument, segmentation and detection download the weights of their backbones.
        takes = signature(models.get_model_builder(name)).parameters
        offline = {"weights_backbone": None} if "weights_backbone" in takes else {}
        network: nn.Module = models.get_model(name, weights=None, **offline, **kwargs)
        return network

    quantizable = dict.fromkeys(
        models.list_models(module=models.quantization),
        "save the float network, and quantize it once it is loaded; or leave out base, and give "
        "the network, before it is converted, to load_model",
    )
    names = [name for name in models.list_models() if name not in quantizable]
    return _Models(names, make, quantizable)


_LIBRARIES = {"timm": _timm, "torchvision": _torchvision}


@contextmanager
def no_larger_than(state: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Stop a builder that makes far more than ``state`` has weights for, as a hostile file may ask.

    Builders loop over depths, and make lists of that length, before anything can be compared.

    Args:
        state: the weights of the network.
        kwargs: the arguments of its builder. No depth, width or number of classes can be above
            the count of its weights.

    Raises:
        ValueError: an argument is above it; or, in the ``with`` block, a builder makes too many
            layers.
    """
    weights = sum(value.numel() for value in state.values())
    for key, value in kwargs.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and not abs(number) <= max(weights, LEAST_LIMIT):
                raise ValueError(f"{key}={value!r} is too much for a network of {weights} weights")
    left = max(LAYERS_PER_TENSOR * len(state), LEAST_LIMIT)
    thread = threading.get_ident()

    def count(*_: object) -> None:
        nonlocal left
        if threading.get_ident() == thread:  # others may build networks meanwhile
            left -= 1
        if left < 0:
            raise ValueError(f"it has too many layers for {len(state)} tensors")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def need(library: str, install: str) -> None:
    """Raise ImportError, with what installs it, where a library is absent."""
    if find_spec(library) is None:
        raise ImportError(f"{library} is needed for this: {install}")
