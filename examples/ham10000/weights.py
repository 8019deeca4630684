"""Files of weights, as torchvision, timm, Lightning and this library write them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from attnblocks import list_blocks, recipe
from attnblocks.blocks.gain import GainedStage
from examples.ham10000.checkpoint import read_checkpoint
from examples.ham10000.data.tables import some

ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
"""Where a checkpoint keeps its network. Of several the first is read, the order of timm: an average
over the training before the last weights."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What parallel, averaged, compiled and Lightning's networks put before every name."""

UNCOUNTED = ".num_batches_tracked"

Sites = list[dict[str, Any]]


@dataclass(frozen=True)
class Weights:
    """What a file holds of a network: ``state``, tensors by the names that the network gives them.

    ``source`` is the file, and what was read of it. ``blocks`` are the library's blocks as
    ``attnblocks.recipe`` lists them, of a run inserted ones; None where the file does not say, and
    names and shapes have to. ``of_run`` is whether it is a checkpoint of a run of this example,
    and ``asked`` its ``--insert``, or "".
    """

    state: dict[str, Tensor]
    source: str
    blocks: Sites | None = None
    of_run: bool = False
    asked: str = ""

    def misfits(self, model: nn.Module, head: tuple[str, ...]) -> list[str]:
        """What keeps the weights from being loaded into a network, beside its head."""
        found, own = (beside(head, state) for state in (self.state, model.state_dict()))
        for name, stage in model.named_modules():
            gain = found.get(f"{name}.gain") if isinstance(stage, GainedStage) else None
            if gain is not None and gain.shape in ((), (getattr(stage, "channels", None),)):
                own[f"{name}.gain"] = gain  # the stage takes it, whatever it has
        blocks = blocks_of(recipe(model)) if self.blocks else []
        shapes = [(k, tuple(found[k].shape), tuple(own[k].shape)) for k in own if k in found]
        kinds = (
            [f"{each} is in the file alone" for each in self.blocks or () if each not in blocks],
            # Files of old versions of PyTorch do not count batches, and it needs no count.
            [f"{k} is missing" for k in own if k not in found and not k.endswith(UNCOUNTED)],
            [f"{k} is unknown" for k in found if k not in own],
            [f"{k} has shape {has}, not {needs}" for k, has, needs in shapes if has != needs],
        )
        return [problem for row in zip_longest(*kinds) for problem in row if problem is not None]

    def error(self, problems: Sequence[str]) -> ValueError:
        """What to raise for misfits."""
        listed = some(problems, between="; ")
        return ValueError(f"the weights of {self.source} do not fit the network: {listed}")

    def load(self, model: nn.Module, head: tuple[str, ...]) -> None:
        """Load all but the head, in place; raise ValueError on any misfit, NaN or infinity."""
        if problems := self.misfits(model, head):
            raise self.error(problems)
        state = beside(head, self.state)
        if wrong := [name for name, value in state.items() if not value.isfinite().all()]:
            raise ValueError(f"the weights of {self.source} have NaN or inf in {wrong[0]}")
        model.load_state_dict(state, strict=False)


def beside(head: tuple[str, ...], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a state dict is in none of the layers of a head."""
    layers = tuple(f"{name}." for name in head)
    return {name: value for name, value in state.items() if not name.startswith(layers)}


def read_weights(file: Path, names: Sequence[str]) -> Weights:
    """Read a file, safetensors by its suffix or from ``torch.save``; nothing in it is executed.

    What wrappers put before ``names``, tensors that the network has whatever its head and blocks,
    is taken off. ValueError for a damaged file, one that holds more than plain values or no state
    dict where one is looked for, or an unknown prefix before its names.
    """
    content, blocks = (_read_safetensors if file.suffix == ".safetensors" else _read_saved)(file)
    entry, state = _state_dict(content, file)
    state, removed = _unwrapped(state, names, of_module="pytorch-lightning_version" in content)
    source = str(file)
    source += f", entry {entry!r}" if entry else ""
    source += f", names without {removed!r}" if removed else ""
    if prefix := _unknown_prefix(state, names):
        raise ValueError(
            f"--weights {source}: names begin with {prefix!r}, which those of the network do "
            f"not. Save the state dict without it, with name.removeprefix({prefix!r}) for each name"
        )
    description = _description(content)
    options = description.get("options")
    asked = options.get("insert") if isinstance(options, Mapping) else None
    return Weights(state, source, blocks, bool(description), str(asked or ""))


def blocks_of(entries: Sites) -> Sites:
    """The blocks of the library in a recipe, as JSON has them; their gains are in the weights."""
    ours: Sites = json.loads(json.dumps([e for e in entries if e["block"] in list_blocks()]))
    for entry in ours:
        arguments = entry["arguments"].items()
        entry["arguments"] = {k: v for k, v in arguments if not k.endswith("gain")}
    return ours


def _description(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a run of this example says of itself in its checkpoints; empty in other files."""
    options = content.get("hyper_parameters")
    config = options.get("config") if isinstance(options, Mapping) else None
    return config if isinstance(config, Mapping) and "images_sha256" in config else {}


def _read_saved(file: Path) -> tuple[Mapping[str, Any], Sites | None]:
    """What ``torch.save`` wrote, and the blocks that it says a run has inserted."""
    try:
        content = read_checkpoint(file)
    except ValueError as error:
        raise ValueError(
            f"--weights {error}. Save the state dict alone: torch.save(model.state_dict(), ...)"
        ) from error
    entries = _description(content).get("recipe")
    try:
        return content, None if entries is None else blocks_of(entries)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"--weights {file} is damaged: it has no recipe of its blocks") from error


def _read_safetensors(file: Path) -> tuple[Mapping[str, Any], Sites | None]:
    """All tensors, and the blocks of a file of ``attnblocks.save_model``."""
    try:
        with safe_open(file, "pt") as stream:
            header = json.loads((stream.metadata() or {}).get("attnblocks", "null"))
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        if header is None:
            return state, None
        state |= {name: state[kept] for name, kept in header["shared"].items()}
        return state, blocks_of(header["recipe"])
    except Exception as error:  # of the file, or of a header that a stranger has made
        raise ValueError(
            f"--weights {file} cannot be loaded ({type(error).__name__}): it is damaged, or no "
            "safetensors file"
        ) from error


def _state_dict(content: Mapping[str, Any], file: Path) -> tuple[str, dict[str, Tensor]]:
    """The state dict in a file, and the entry that holds it: "" for the whole."""
    for entry, value in [("", content), *((name, content.get(name)) for name in ENTRIES)]:
        pairs = value.items() if isinstance(value, Mapping) else ()
        if pairs and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in pairs):
            return entry, dict(pairs)
    there = ", ".join(map(repr, list(content)[:10])) or "nothing"
    raise ValueError(
        f"--weights {file} holds no state dict of tensors, neither itself nor as "
        f"{', '.join(ENTRIES)}; it has {there}"
    )


def _unwrapped(
    state: dict[str, Tensor], names: Sequence[str], *, of_module: bool
) -> tuple[dict[str, Tensor], str]:
    """The network without what wrappers put before all names, unless it has that itself.

    In a LightningModule (``of_module``) the loss and the metrics may stand beside the network.
    """
    removed = ""
    carry = any if of_module else all
    while True:
        if "n_averaged" not in names:  # the counter of torch's AveragedModel
            state.pop("n_averaged", None)
        prefix = next((p for p in PREFIXES if carry(k.startswith(p) for k in state)), None)
        if not state or state.keys() & set(names) or prefix is None:
            return state, removed
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        removed += prefix


def _unknown_prefix(state: dict[str, Tensor], names: Sequence[str]) -> str:
    """What stands before half of the network's names or more; "" where some have nothing."""
    known = set(names)
    if state.keys() & known:
        return ""
    before: Counter[str] = Counter()
    for parts in (name.split(".") for name in state):
        ends = (".".join(parts[start:]) for start in range(1, len(parts)))
        before.update(".".join(parts).removesuffix(end) for end in ends if end in known)
    prefix, count = max(before.items(), key=lambda item: item[1], default=("", 0))
    return prefix if 2 * count >= len(names) else ""
