"""Whether weights, a network and what a file says of them belong together."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attnblocks.blocks.base import is_plain
from attnblocks.blocks.gain import GainedStage
from attnblocks.blocks.registry import block_name
from attnblocks.files.layer_names import class_name
from attnblocks.swap.sites import find_se

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# Detection, and what takes the features out of a backbone: their settings are in no extra_repr.
_DETECTION = ("torchvision.models.detection.", "torchvision.models._utils")
_UNSAID = ("num_heads", "transform_input")  # in no extra_repr either, of attention and GoogLeNet
_NOT_SETTINGS = vars(nn.Module()).keys()


def check_shapes(state: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    """Raise ValueError unless the names and shapes of ``state`` are those of the model.

    Gains are in the recipe where the block has an argument for them; a stage takes any other too.
    """
    own = model.state_dict()
    gains = {
        key
        for name, stage in model.named_modules()
        if (key := f"{name}.gain" if name else "gain") in state
        and isinstance(stage, GainedStage)
        and stage.takes(state[key])
    }
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in own.keys() | gains]
    problems += [
        f"{name} has shape {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own.keys() - gains and value.shape != own[name].shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"the weights do not fit {source}: {'; '.join(problems[:5])}{more}")


def check_layers(model: nn.Module, rebuilt: nn.Module, source: str) -> None:
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
            converted = isinstance(dict(model.named_modules()).get(name), nn.SyncBatchNorm)
            advice = (
                "torch's convert_sync_batchnorm drops the activations of timm's norms: use that of "
                "timm.layers"
                if converted
                else "is an argument missing in base_kwargs?"
            )
            raise ValueError(
                f"the model does not fit {source}: {name!r} is {given.get(name)} in the model and "
                f"{built.get(name)} there; {advice}"
            )


def describe(layer: nn.Module) -> str:
    """What a layer does, without its weights, in words that are equal for equal layers."""
    kind = type(layer)
    # Anchors, sizes and thresholds are where no text of a layer has them.
    if kind.__module__.startswith(_DETECTION):
        return f"{kind.__name__}({_settings(layer)})"
    if kind.__module__.startswith("torchvision.ops.") and not any(True for _ in layer.children()):
        return repr(layer)  # some of these have no extra_repr, but a text of their own
    unsaid = {name: getattr(layer, name) for name in _UNSAID if hasattr(layer, name)}
    return f"{class_name(layer)}({layer.extra_repr()}{unsaid or ''})"


def _settings(holder: object) -> str:
    """The plain values that an object of torchvision's detection holds, at any depth."""
    texts = []
    for name, value in vars(holder).items():
        if name in _NOT_SETTINGS:
            continue
        if is_plain(value) or (isinstance(value, dict) and is_plain([*value.values()])):
            texts.append(f"{name}={json.dumps(value)}")  # a tuple and a list are the same
        elif type(value).__module__.startswith(_DETECTION):
            texts.append(f"{name}={type(value).__name__}({_settings(value)})")
    return ", ".join(texts)


def check_values(state: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raise ValueError unless the model can hold these tensors, each under its own name."""
    first: dict[tuple[Any, ...], str] = {}
    for name, own in model.state_dict().items():
        value = state[name]
        if own.is_meta:
            raise ValueError(f"base is on the meta device ({name!r}): build it with data")
        if value.dtype != own.dtype and not (own.is_floating_point() and value.dtype in FLOATS):
            raise ValueError(f"{name!r} is {value.dtype} in the file, not {own.dtype}")
        twin = first.setdefault(identity(name, own), name)
        if twin != name and not _same_bits(state[twin], value):
            raise ValueError(f"{twin!r} and {name!r} are one tensor in the base, not in the file")


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(
        a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)
    )


def identity(name: str, value: Tensor) -> tuple[Any, ...]:
    """Equal for two names of one tensor."""
    if not value.numel():
        return (name,)
    return (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
