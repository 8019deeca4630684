"""Whole models in one file: where they come from, what stands where in them, and their weights."""

import copy
import json
import os
import stat
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnblocks._version import __version__
from attnblocks.blocks.registry import block_name
from attnblocks.files.builders import build, build_on_meta, describe, need, no_larger_than
from attnblocks.files.recipes import apply_recipe, recipe
from attnblocks.swap.sites import find_se

FORMAT = 1
"""Incremented when older versions of this library can no longer read a new file."""

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def save_model(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    base: str | None = None,
    base_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Write a model to one safetensors file, from which :func:`load_model` builds it again.

    With a ``base``, the model is first rebuilt without its weights, so that a file that could not
    be loaded is not written. Tensors shared under several names are written once.

    Args:
        model: a network of timm, of torchvision or of your own, with or without swapped blocks.
        path: the file; one that exists is replaced once the new one is complete; its mode is kept.
        base: how the network is built before the swap: ``timm/NAME`` or ``torchvision/NAME``; None
            for a network of your own, which then has to be given to :func:`load_model`.
        base_kwargs: arguments of the builder, such as ``{"num_classes": 7}``; plain values only.

    Raises:
        ValueError: the base is not supported or does not give this model, an argument of it is not
            allowed, a block has no recipe, a tensor has no data, or ``path`` is a device or pipe.
        LookupError: the installed timm or torchvision does not have the base.
        FileNotFoundError: there is no such folder.
        IsADirectoryError: ``path`` is a folder.
        ImportError: safetensors, or the library of the base, is not installed.

    Example:
        >>> import tempfile, torchvision
        >>> from attnblocks import CaCo, find_se, replace_se
        >>> model = replace_se(torchvision.models.mobilenet_v3_small(num_classes=7), CaCo)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(model, f"{folder}/lesions.safetensors",
        ...                base="torchvision/mobilenet_v3_small", base_kwargs={"num_classes": 7})
        ...     loaded = load_model(f"{folder}/lesions.safetensors")
        >>> [site.kind for site in find_se(loaded)][0]
        'attnblocks.blocks.caco.CaCo'
    """
    need("safetensors", "pip install 'attnblocks[save]'")
    from safetensors.torch import save_file

    path = Path(os.path.realpath(path))  # a link stays a link
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if path.exists() and not path.is_file():
        raise ValueError(f"cannot write {path}: it is no regular file")
    made_of = recipe(model)
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            raise ValueError(f"{name!r} has no data that could be saved: {value!r}")
    kwargs = dict(base_kwargs or {})
    if base is not None:
        rebuilt = apply_recipe(build_on_meta(base, kwargs), made_of)
        _check_shapes(state, rebuilt, f"base {base!r}")
        _check_layers(model, rebuilt, f"base {base!r}")
    elif kwargs:
        raise ValueError(f"base_kwargs {kwargs} go with a base")
    first: dict[tuple[Any, ...], str] = {}
    same = {name: first.setdefault(_identity(name, value), name) for name, value in state.items()}
    metadata = {
        "format": "pt",
        "attnblocks": json.dumps(
            {
                "format": FORMAT,
                "version": __version__,
                "base": base,
                "base_kwargs": kwargs,
                "recipe": made_of,
                "shared": {name: kept for name, kept in same.items() if name != kept},
            }
        ),
    }
    tensors = {name: state[name].detach().cpu().contiguous() for name in set(same.values())}
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.touch()
        mode = (path if path.exists() else partial).stat().st_mode
        save_file(tensors, partial, metadata)
        partial.chmod(stat.S_IMODE(mode))  # safetensors makes it unreadable for other users
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load_model(path: str | os.PathLike[str], *, base: nn.Module | None = None) -> nn.Module:
    """Build a model from a file of :func:`save_model`: base, then recipe, then weights.

    Nothing in the file is executed: the base is looked up among the names of timm and torchvision,
    and the blocks among those of :func:`attnblocks.list_blocks`.

    Args:
        path: the file.
        base: a network of your own, as it was before the swap; it is copied, not changed. None to
            build the base that the file names.

    Returns:
        The model on the CPU and in train mode (with a base of your own: where that is, and in its
        mode), with the weights and dtypes of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, not from :func:`save_model`, of a newer format, or does not
            fit the base: what is missing, unknown or of another shape is named.
        LookupError: the installed timm or torchvision does not have the base.
        ImportError: safetensors, or the library of the base, is not installed.

    Warns:
        UserWarning: parameters have NaN or infinite values; they are loaded as they are.

    Example:
        >>> load_model("nowhere.safetensors")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no model file nowhere.safetensors
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no model file {path}")
    need("safetensors", "pip install 'attnblocks[save]'")
    header, state = _read(path)
    name, kwargs = header["base"], header["base_kwargs"]
    if base is None and name is None:
        raise ValueError(f"{path} holds a network of its author's own: give it as base")
    # First without data, so that what does not fit takes no memory and changes nothing.
    if base is None:
        with no_larger_than(state, kwargs):
            empty = build_on_meta(name, kwargs)
    else:
        empty = copy.deepcopy(base).to("meta")
    _check_shapes(state, apply_recipe(empty, header["recipe"]), "the base")
    model = apply_recipe(
        build(name, kwargs) if base is None else copy.deepcopy(base), header["recipe"]
    )
    _check_values(state, model)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kinds = {
        (own[key].dtype, value.dtype)
        for key, value in state.items()
        if key in own and value.dtype in _FLOATS
    }
    for key, value in state.items():
        if key in own:  # shared tensors have several names, and are listed here once
            own[key].data = own[key].data.to(value.dtype)
    if len(kinds) == 1:  # Module.to(dtype) also changed buffers that are not in the file
        before, after = kinds.pop()
        for buffer in model.buffers():
            if buffer.dtype == before:
                buffer.data = buffer.data.to(after)
    model.load_state_dict(state)
    damaged = [
        key
        for key, value in model.named_parameters()
        if value.dtype in _FLOATS and not value.isfinite().all()
    ]
    if damaged:
        warnings.warn(f"{path} has parameters that are not finite: {damaged}", stacklevel=2)
    return model


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of a file, checked, and all of its tensors by name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("attnblocks")
            names: list[str] = file.keys()
            state = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if text is None:
        raise ValueError(f"{path} was not written by save_model: it has weights alone")
    try:
        header = json.loads(text)
        if type(header["format"]) is not int or header["format"] < 1:
            raise ValueError(f"format {header['format']!r} is no number of a format")
        if header["format"] > FORMAT:
            raise ValueError(
                f"format {header['format']} of attnblocks {header['version']} is newer than this "
                f"version ({__version__}): upgrade it"
            )
        base, kwargs, made_of, shared = (
            header[key] for key in ("base", "base_kwargs", "recipe", "shared")
        )
        if not (
            isinstance(base, str | None)
            and isinstance(kwargs, dict)
            and isinstance(made_of, list)
            and isinstance(shared, dict)
        ):
            raise ValueError("its entries are of the wrong kind")
        if stored := shared.keys() & state.keys():
            raise ValueError(f"{sorted(stored)} are stored, and said to be shared")
        state.update({name: state[kept] for name, kept in shared.items()})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} has a header that cannot be used: {error}") from error
    return header, state


def _check_shapes(state: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    """Raise ValueError unless the names and shapes of ``state`` are those of the model."""
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in own]
    problems += [
        f"{name} has shape {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"the weights do not fit {source}: {'; '.join(problems[:5])}{more}")


def _check_layers(model: nn.Module, rebuilt: nn.Module, source: str) -> None:
    """Raise ValueError where a layer without weights differs, such as a pooling or a stride."""
    # The recipe covers the layers of our blocks, whose classes may differ there.
    ours = [site for site in find_se(model) if block_name(site.module) is not None]
    sites = tuple(f"{site.name}." for site in ours)

    def layers(network: nn.Module) -> dict[str, str]:
        return {
            name: describe(module)
            for name, module in network.named_modules()
            if not f"{name}.".startswith(sites)
        }

    given, built = layers(model), layers(rebuilt)
    for name in {**given, **built}:
        if given.get(name) != built.get(name):
            raise ValueError(
                f"the model does not fit {source}: {name!r} is {given.get(name)} in the model and "
                f"{built.get(name)} there; is an argument missing in base_kwargs?"
            )


def _check_values(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise ValueError unless the model can hold these tensors, each under its own name."""
    first: dict[tuple[Any, ...], str] = {}
    for name, own in model.state_dict().items():
        value = state[name]
        if own.is_meta:
            raise ValueError(f"base is on the meta device ({name!r}): build it with data")
        if value.dtype != own.dtype and not (own.is_floating_point() and value.dtype in _FLOATS):
            raise ValueError(f"{name!r} is {value.dtype} in the file, not {own.dtype}")
        twin = first.setdefault(_identity(name, own), name)
        if twin != name and not _same_bits(state[twin], value):
            raise ValueError(f"{twin!r} and {name!r} are one tensor in the base, not in the file")


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(
        a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)
    )


def _identity(name: str, value: Tensor) -> tuple[Any, ...]:
    """Equal for two names of one tensor."""
    if not value.numel():
        return (name,)
    return (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
