"""Networks by name, with their weights, and with the attention that is asked for."""

import copy
import difflib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import timm
import torch
import torchvision
from torch import Tensor, nn

from attnblocks import apply_recipe, find_se, list_blocks, recipe
from examples.ham10000.attention import Change
from examples.ham10000.config import Config, read_description
from examples.ham10000.data.index import CLASSES
from examples.ham10000.data.tables import some
from examples.ham10000.losses import use_cosine_classifier
from examples.ham10000.processes import shows_bars
from examples.ham10000.rules import COSINE_LOSSES
from examples.ham10000.weights import Weights, beside, blocks_of, read_weights


@dataclass(frozen=True)
class Network:
    """A classifier, and how its input is normalised: (pixels / 255 - mean) / std.

    ``head`` names its classifier layers, which pre-trained weights leave out. ``source`` is the
    file of its weights, ``loaded`` whether those of its blocks are from it, too, and ``of_run``
    whether a run of this example wrote it.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    head: tuple[str, ...]
    source: str = ""
    loaded: bool = False
    of_run: bool = False


def build_network(
    name: str,
    num_classes: int,
    weights: str,
    attention: str,
    init: str | None = None,
    *,
    insert: str | None = None,
    image_size: int = 224,
) -> Network:
    """Build ``tv/...`` of torchvision or ``timm/...``, load weights, then change its attention.

    ``weights`` are ``none``; ``imagenet``, those of the library; or a file that
    :func:`read_weights` reads, with everything but the classifier, which is always new. For
    ``attention``, ``insert`` and ``image_size`` see :class:`Change`, for ``init`` too; ``loaded``,
    or None if the file has the blocks, takes them from it. ValueError for an unknown name, weights
    that do not fit, blocks in them that are not those asked for, or no place for the blocks;
    FileNotFoundError for weights that are not there.
    """
    library, _, model_name = name.partition("/")
    builders = {"tv": _torchvision_network, "timm": _timm_network}
    if library not in builders or not model_name:
        raise ValueError(f"--model must be tv/NAME or timm/NAME, got {name!r}")
    file = None if weights in ("none", "imagenet") else Path(weights)
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"--weights {weights}: no such file (or give none, imagenet)")
    network = builders[library](model_name, num_classes, weights == "imagenet")
    change = Change(attention, init, insert, image_size)
    change.check(name, network.model)
    if file is not None:
        return _from_file(network, file, change)
    return replace(network, model=change.made(network.model))


def new_network(config: Config, *, empty: bool = False) -> Network:
    """The network that the options name, with the head that its loss needs.

    ``empty`` leaves out what the run began with, because a checkpoint will take its place; inserted
    blocks are put where the run has them, since its checkpoints need the same places and gains.
    """
    L.seed_everything(config.seed, verbose=False)
    again = empty and config.insert is not None
    weights, init = ("none", "fresh") if empty else (config.weights, config.init)
    attention, insert = ("none", None) if again else (config.attention, config.insert)
    size, classes = config.image_size, len(CLASSES)
    network = build_network(
        config.model, classes, weights, attention, init, insert=insert, image_size=size
    )
    if again:
        try:
            apply_recipe(network.model, read_description(config.out)["recipe"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{config.out / 'description.json'} or config.json does not say which blocks were "
                f"inserted: {error}"
            ) from error
    if config.loss in COSINE_LOSSES:
        use_cosine_classifier(network.model, network.head, classes)
    return network


def check_trains(network: Network, num_classes: int, image_size: int, batch_size: int) -> None:
    """Make a training step on a copy: ValueError for what cannot work, before data are read."""
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


def _from_file(network: Network, file: Path, change: Change) -> Network:
    """Load a file before the change, or after it where the file has the blocks asked for."""
    weights = read_weights(file, list(beside(network.head, network.model.state_dict())))
    network = replace(network, source=weights.source, of_run=weights.of_run)
    if not (before := weights.misfits(network.model, network.head)):
        if change.init == "loaded":
            none = f"{file} has no block {change.attention}"
            raise ValueError(f"--init loaded: {none}: leave --init out")
        weights.load(network.model, network.head)
        return replace(network, model=change.made(network.model))
    changed = replace(change, init="fresh").made(network.model)
    if not (after := weights.misfits(changed, network.head)):
        if change.init not in (None, "loaded"):
            raise ValueError(
                f"--init {change.init}: {file} has blocks {change.attention} already, which begin "
                "as they are: leave --init out"
            )
        weights.load(changed, network.head)
        return replace(network, model=changed, loaded=True)
    if (held := _inserted(changed, weights) or _swapped(network, weights)) is None:
        raise weights.error(min(before, after, key=len))
    give = f"give {held[1]}, or weights of the network as it is built"
    raise ValueError(f"{file} holds {held[0]}; {change} was asked for: {give}")


def _inserted(changed: nn.Module, weights: Weights) -> tuple[str, str] | None:
    """Which inserted blocks a file has, and the options for them; None if no options would help."""
    names = {name for name, _ in changed.named_modules()}
    found = {e["after"]: e["block"] for e in weights.blocks or () if e.get("after") in names}
    own = {e.get("after"): e["block"] for e in blocks_of(recipe(changed))}
    if len(kinds := set(found.values())) != 1 or found == own:
        return None
    block = kinds.pop()
    after = " ".join(map(shlex.quote, weights.asked.split() or found))
    return f"{block} blocks behind {some(list(found), 3)}", f"--attention {block} --insert {after}"


def _swapped(network: Network, weights: Weights) -> tuple[str, str] | None:
    """Which blocks a file has at the SE sites, and the option for them; None where none fit."""
    count = len(find_se(network.model))
    for block in (*list_blocks(), "identity") if count else ():
        if not weights.misfits(Change(block).made(network.model), network.head):
            kind = "no" if block == "identity" else block
            return f"{kind} blocks at {count} SE sites", f"--attention {block}"
    return None


def _torchvision_network(name: str, num_classes: int, imagenet: bool) -> Network:
    _check_name(name, torchvision.models.list_models(module=torchvision.models), "torchvision")
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    # Its classifier is the last layer, and a convolution in SqueezeNet.
    head = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1:]
    # The first weights are those of the paper's time; later ones come from other recipes.
    weights = next(iter(torchvision.models.get_model_weights(name)))
    mean, std = (tuple(of) for of in (weights.transforms().mean, weights.transforms().std))
    network = Network(model, mean, std, tuple(head))
    if imagenet:
        target = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        try:
            state = weights.get_state_dict(progress=shows_bars(), check_hash=True)
        except OSError as error:
            raise FileNotFoundError(
                f"cannot download the ImageNet weights of {name} ({error}): put {weights.url} at "
                f"{target}, or give the file with --weights FILE"
            ) from error
        except Exception as error:  # a damaged file has many kinds
            raise ValueError(f"{target} is damaged ({error}): delete it") from error
        Weights(dict(state), weights.url).load(network.model, network.head)
    return network


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
    head = (head,) if isinstance(head, str) else tuple(head)
    return Network(model, tuple(config["mean"]), tuple(config["std"]), head)


def _check_name(name: str, known: list[str], library: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"{library} has no model {name!r}{hint}")
