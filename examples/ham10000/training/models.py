"""Networks by name, with their weights, and with the attention that is asked for."""

import copy
import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from attnblocks import find_se, list_blocks, replace_se

ATTENTION = (*list_blocks(), "none", "identity")

PAPER_MODELS = {
    "ResNet18": "tv/resnet18",
    "ShuffleNetV2": "tv/shufflenet_v2_x2_0",
    "GhostNetV2": "timm/ghostnetv2_100",
    "EfficientNetB0": "tv/efficientnet_b0",
    "MobileNetV3-Small": "tv/mobilenet_v3_small",
}
"""The backbones of the paper, by its own names."""


@dataclass(frozen=True)
class Network:
    """A classifier, and how its input is normalised: (pixels / 255 - mean) / std.

    ``head`` names its classifier layers, which pre-trained weights leave out.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    head: tuple[str, ...]


def build_network(
    name: str, num_classes: int, weights: str, attention: str, init: str = "fresh"
) -> Network:
    """Build a network, load its weights, then change its attention.

    Args:
        name: ``tv/...`` for torchvision, ``timm/...`` for timm.
        num_classes: width of the classifier, which is always new.
        weights: ``none``; ``imagenet`` for those of the library; or a file (.safetensors, .pth)
            that holds everything but the classifier.
        attention: a block of attnblocks instead of every SE block; ``SE`` keeps the network's own;
            ``none`` takes the network as it is; ``identity`` takes the SE blocks out.
        init: ``fresh``, ``inherit`` or ``fitted`` for the block; the last needs images, and begins
            as ``inherit``.

    Raises:
        ValueError: an unknown name, weights that do not fit, or no SE blocks to replace or keep.
        FileNotFoundError: there is no such file of weights, or they cannot be downloaded.
    """
    library, _, model_name = name.partition("/")
    builders = {"tv": _torchvision_network, "timm": _timm_network}
    if library not in builders or not model_name:
        raise ValueError(f"--model must be tv/NAME or timm/NAME, got {name!r}")
    if attention not in ATTENTION:
        raise ValueError(f"--attention must be one of {', '.join(ATTENTION)}; got {attention!r}")
    file = None if weights in ("none", "imagenet") else Path(weights)
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"--weights {weights}: no such file (or give none, imagenet)")
    network = builders[library](model_name, num_classes, weights == "imagenet")
    if file is not None:
        load_backbone(network.model, _read_weights(file), network.head, str(file))
    if attention != "none" and not find_se(network.model):
        raise ValueError(f"{name} has no SE blocks to replace or keep: use --attention none")
    return replace(network, model=_with_attention(network.model, attention, init))


def check_trains(network: Network, num_classes: int, image_size: int, batch_size: int) -> None:
    """Make one training step on a copy, so that what cannot work fails before the data are read.

    Raises:
        ValueError: the network fails at this size, or does not return logits.
    """
    model, count = copy.deepcopy(network.model).train(), min(2, batch_size)
    try:
        with torch.random.fork_rng(devices=[]):
            logits = model(torch.rand(count, 3, image_size, image_size))
            if not isinstance(logits, Tensor) or logits.shape != (count, num_classes):
                raise ValueError(f"it returns {type(logits).__name__}, not {num_classes} logits")
            torch.autograd.backward(logits.sum())
    except Exception as error:  # whatever the network raises
        raise ValueError(
            f"the network cannot be trained at --image-size {image_size} and --batch-size "
            f"{batch_size}: {error}"
        ) from error


def load_backbone(
    model: nn.Module, state: dict[str, Tensor], head: tuple[str, ...], source: str
) -> None:
    """Load everything but the head; raise ValueError on any misfit.

    Args:
        model: the network, changed in place.
        state: weights by name; those of the head are passed over.
        head: names of the classifier layers.
        source: named in errors.
    """
    outside = tuple(f"{name}." for name in head)
    backbone = {k: v for k, v in state.items() if not k.startswith(outside)}
    own = {k: v for k, v in model.state_dict().items() if not k.startswith(outside)}
    problems = [f"{k} is missing" for k in own if k not in backbone]
    problems += [f"{k} is unknown" for k in backbone if k not in own]
    problems += [
        f"{k} has shape {tuple(backbone[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in backbone and backbone[k].shape != own[k].shape
    ]
    if problems:
        listed = "; ".join(problems[:5])
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"the weights of {source} do not fit the network: {listed}{more}")
    model.load_state_dict(backbone, strict=False)


def _torchvision_network(name: str, num_classes: int, imagenet: bool) -> Network:
    known = torchvision.models.list_models(module=torchvision.models)
    _check_name(name, known, "torchvision")
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    # Its classifier is the last layer, and a convolution in SqueezeNet.
    head = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1:]
    # The first weights are those of the paper's time; later ones come from other recipes.
    weights = next(iter(torchvision.models.get_model_weights(name)))
    if imagenet:
        target = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        try:
            state = weights.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise FileNotFoundError(
                f"cannot download the ImageNet weights of {name} ({error}): put {weights.url} at "
                f"{target}, or give the file with --weights FILE"
            ) from error
        except Exception as error:  # a damaged file has many kinds
            raise ValueError(f"{target} is damaged ({error}): delete it") from error
        load_backbone(model, dict(state), tuple(head), weights.url)
    preset = weights.transforms()
    return Network(model, tuple(preset.mean), tuple(preset.std), tuple(head))


def _timm_network(name: str, num_classes: int, imagenet: bool) -> Network:
    _check_name(name, timm.list_models() + timm.list_pretrained(), "timm")
    if imagenet and not timm.is_model_pretrained(name):
        raise ValueError(f"timm has no ImageNet weights for {name!r}: use --weights none or FILE")
    try:
        model: Any = timm.create_model(name, pretrained=imagenet, num_classes=num_classes)
    except OSError as error:
        source: Any = timm.get_pretrained_cfg(name)
        hub = f"model.safetensors from https://huggingface.co/{source.hf_hub_id}"
        raise FileNotFoundError(
            f"cannot download the ImageNet weights of timm/{name} ({error}): fetch "
            f"{hub if source.hf_hub_id else source.url} and give the file with --weights FILE"
        ) from error
    config = model.pretrained_cfg
    head = config["classifier"] or ()
    return Network(
        model,
        tuple(config["mean"]),
        tuple(config["std"]),
        (head,) if isinstance(head, str) else tuple(head),
    )


def _check_name(name: str, known: list[str], library: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"{library} has no model {name!r}{hint}")


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own errors for a damaged file
        # Not in torch's words, which say how to run the code in the file nevertheless.
        raise ValueError(
            f"--weights {file}: not a readable file of weights ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"--weights {file}: holds no plain state dict of tensors")
    return state


def _with_attention(model: nn.Module, attention: str, init: str) -> nn.Module:
    if attention in ("none", "SE"):
        return model
    if attention == "identity":
        return replace_se(model, nn.Identity)
    return replace_se(model, attention, init="fresh" if init == "fresh" else "inherit")
