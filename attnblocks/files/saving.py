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

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attnblocks._version import __version__
from attnblocks.blocks.gain import stages_of
from attnblocks.files.builders import build, build_on_meta, need, no_larger_than
from attnblocks.files.checks import FLOATS, check_layers, check_shapes, check_values, identity
from attnblocks.files.recipes import Recipe, apply_recipe, recipe
from attnblocks.swap.wrappers import unwrap

FORMAT = 2
"""The newest format: 2 is that of files with gains or inserted blocks, which version 0.1.0 cannot
read; all others are written in format 1."""


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
        model: a network of timm, of torchvision or of your own, with or without swapped blocks. Of
            a compiled or parallel network, and of an average of weights, the network inside is
            saved. Norms that are synchronised between processes are saved as plain batch norms.
        path: the file; one that exists is replaced once the new one is complete; its mode is kept.
        base: how the network is built before the swap: ``timm/NAME`` or ``torchvision/NAME``; None
            for a network of your own, which then has to be given to :func:`load_model`.
        base_kwargs: arguments of the builder, such as ``{"num_classes": 7}``; plain values only.

    Raises:
        ValueError: the base is not supported or does not give this model, an argument of it is not
            allowed, a block has no recipe, a tensor has no data, or ``path`` is a device or pipe.
        TypeError: a network that is scripted, exported or sharded, or a part of which is wrapped.
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
    model = unwrap(model, "save_model")
    made_of = recipe(model)
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta:
            raise ValueError(
                f"{name!r} has no data that could be saved, as what is lazy, on the meta device "
                f"or offloaded by accelerate: {value!r}"
            )
        if type(value) not in (Tensor, nn.Parameter):
            raise ValueError(
                f"{name!r} is a {type(value).__name__}, which the file cannot hold: save the "
                "network before it is quantized or sharded"
            )
    kwargs = dict(base_kwargs or {})
    if base is not None:
        built = build_on_meta(base, kwargs)
        try:
            rebuilt = apply_recipe(built, made_of)
            check_shapes(state, rebuilt, f"base {base!r}")
        except ValueError as error:
            raise ValueError(
                f"base {base!r} does not give this model: {error}. If its layers were narrowed by "
                "a pruner, save it without base, and load it into a network that is pruned alike"
            ) from error
        check_layers(model, rebuilt, f"base {base!r}")
    elif kwargs:
        raise ValueError(f"base_kwargs {kwargs} go with a base")
    first: dict[tuple[Any, ...], str] = {}
    same = {name: first.setdefault(identity(name, value), name) for name, value in state.items()}
    metadata = {
        "format": "pt",
        "attnblocks": json.dumps(
            {
                "format": FORMAT if _is_new(model, made_of) else 1,
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
        base: a network of your own, as it was before the swap; it is copied, not changed. Of a
            wrapped one, the network inside is copied. None to build the base that the file names.

    Returns:
        The model on the CPU and in train mode (with a base of your own: where that is, and in its
        mode), with the weights and dtypes of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, not from :func:`save_model`, of a newer format, or does not
            fit the base: what is missing, unknown or of another shape is named.
        LookupError: the installed timm or torchvision does not have the base.
        TypeError: a base that is scripted or sharded.
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
    if base is not None:
        base = unwrap(base, "load_model")
        lazy = [key for key, parameter in base.named_parameters() if is_lazy(parameter)]
        if lazy:
            raise ValueError(f"base has no shape yet at {lazy[0]!r}: run it once, and load then")
    # First without data, so that what does not fit takes no memory and changes nothing.
    if base is None:
        with no_larger_than(state, kwargs):
            empty = build_on_meta(name, kwargs)
    else:
        empty = copy.deepcopy(base).to("meta")
    check_shapes(state, apply_recipe(empty, header["recipe"]), "the base")
    model = apply_recipe(
        build(name, kwargs) if base is None else copy.deepcopy(base), header["recipe"]
    )
    check_values(state, model)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kinds = {
        (own[key].dtype, value.dtype)
        for key, value in state.items()
        if key in own and value.dtype in FLOATS
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
        if value.dtype in FLOATS and not value.isfinite().all()
    ]
    if damaged:
        warnings.warn(f"{path} has parameters that are not finite: {damaged}", stacklevel=2)
    return model


def _is_new(model: nn.Module, made_of: Recipe) -> bool:
    """Whether version 0.1.0 cannot read the file: the model has gains, or inserted blocks."""
    gained = any(stage.gain is not None for stage in stages_of(model))
    return gained or any("after" in entry for entry in made_of)


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
