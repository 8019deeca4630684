"""The attention of a network: blocks in the place of its SE blocks, or inserted."""

import copy
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnblocks import AttentionBlock, find_places, find_se, insert, list_blocks, replace_se
from examples.ham10000.config import ATTENTION
from examples.ham10000.data.tables import some

KINDS = ("residual", "stages", "depthwise")
"""Words for places, which ``--insert`` takes beside patterns of names."""

MOST_NAMES = 3


class Constant(AttentionBlock):
    """A fixed gate for each channel, which is not trained; 1 until :func:`hold_means` sets it."""

    gate_names = ("channel",)
    gate: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("gate", torch.ones(1, channels, 1, 1))

    def gates(self, x: Tensor) -> list[Tensor]:
        """The gates, (1, C, 1, 1)."""
        return [self.gate]


@torch.no_grad()
def hold_means(model: nn.Module, original: nn.Module, images: Sequence[Tensor]) -> None:
    """Set the :class:`Constant` gates of a network to the mean gates of its SE blocks on images.

    ``original`` has the SE blocks, whose gates are read in eval mode, and is on the device of the
    batches. ValueError for an SE block whose gate function is no module of its own, or no images.
    """
    if not (count := sum(map(len, images))):
        raise ValueError("mean gates need images: there are none")
    totals: defaultdict[str, list[Tensor]] = defaultdict(list)  # of each batch, (1, C, 1, 1)
    with ExitStack() as stack:
        for site in find_se(original):
            if site.layers.gate is None:
                raise ValueError(f"the SE block {site.name} has no gate function to read")

            def keep(_: nn.Module, __: object, gates: Tensor, name: str = site.name) -> None:
                totals[name].append(gates.double().sum(dim=0, keepdim=True))

            stack.callback(site.layers.gate.register_forward_hook(keep).remove)
        stack.callback(original.train, original.training)
        original.eval()
        for batch in images:
            original(batch)
    for name, found in totals.items():
        block = model.get_submodule(name)
        assert isinstance(block, Constant)
        block.gate.copy_(sum(found, torch.zeros_like(found[0])) / count)


@dataclass(frozen=True)
class Change:
    """What becomes of the attention of a network.

    ``attention`` is a block of attnblocks; or ``SE``, which keeps the network's own if it is not
    inserted, ``none``, which takes the network as it is, ``identity``, which takes the SE blocks
    out, or ``Constant``. ``insert`` says behind which modules the block is put, patterns or
    :data:`KINDS` with spaces between, or None to replace the SE blocks. ``init`` is how blocks
    start: of replaced ones ``fitted`` begins as ``inherit``, and None is ``fresh``; of inserted
    ones None is ``identity``. Images of ``image_size`` show what the modules return.
    """

    attention: str
    init: str | None = None
    insert: str | None = None
    image_size: int = 224

    def __str__(self) -> str:
        behind = "" if self.insert is None else f" --insert {self.insert}"
        return f"--attention {self.attention}{behind}"

    def check(self, name: str, model: nn.Module) -> None:
        """Raise ValueError for an unknown block, or a network that has no SE blocks to change."""
        attention, blocks = self.attention, list_blocks()
        if attention not in ATTENTION:
            known = ", ".join(ATTENTION)
            raise ValueError(f"--attention must be one of {known}; got {attention!r}")
        if self.insert is not None and attention not in blocks:
            raise ValueError(
                f"--insert puts a block behind modules: give --attention one of "
                f"{', '.join(blocks)}, not {attention}"
            )
        if self.insert is None and attention != "none" and not find_se(model):
            wrong = f"{name} has no SE blocks to replace or keep: use --attention none"
            if attention in blocks:
                wrong += f", or --insert PATTERN, which puts {attention} behind modules. "
                wrong += self._places(model)
            raise ValueError(wrong)

    def made(self, model: nn.Module) -> nn.Module:
        """A changed copy of a network; ValueError where a block cannot be inserted."""
        model = copy.deepcopy(model)
        # What is drawn afterwards, such as a new head, is as without the blocks.
        with torch.random.fork_rng(devices=[]):
            if self.insert is not None:
                self._insert(model, self.insert.split())
            elif self.attention == "identity":
                replace_se(model, nn.Identity)
            elif self.attention == "Constant":
                replace_se(model, Constant, init="fresh")
            elif self.attention not in ("none", "SE"):
                init = "fresh" if self.init in (None, "fresh") else "inherit"
                replace_se(model, self.attention, init=init)
        return model

    def _insert(self, model: nn.Module, after: list[str]) -> None:
        init = "fresh" if self.init == "fresh" else "identity"
        try:
            insert(model, self.attention, after=after, example=self._images(), init=init)
        except LookupError as error:
            wrong = error.args[0].partition("; find_places")[0]  # they are listed here
            raise ValueError(f"--insert: {wrong}. {self._places(model)}") from error
        except ValueError as error:
            raise ValueError(f"--insert {self.insert}: {error}") from error

    def _images(self) -> Tensor:
        """Normalised noise, the same in every run."""
        size = self.image_size
        return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))

    def _places(self, model: nn.Module) -> str:
        """Where blocks could go, in a sentence."""
        try:
            found = find_places(model, self._images())
        except ValueError as error:
            return f"Its places are not known: {error}"
        kinds = {kind: [p.name for p in found if kind in p.roles] for kind in KINDS}
        listed = [f"{kind} ({some(names, MOST_NAMES)})" for kind, names in kinds.items() if names]
        names = some([place.name for place in found], MOST_NAMES)
        return f"Places: {', '.join(listed) or names or 'none'}"
