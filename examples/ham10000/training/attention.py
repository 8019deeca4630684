"""The attention of a network: blocks in the place of its SE blocks, or inserted."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnblocks import create_block, find_places, find_se, insert, list_blocks, replace_se
from attnblocks.fit.param_groups import SPATIAL
from examples.ham10000.training.constant import Constant

OWN_START = ("SE", "Constant", "none", "identity")
"""Attention that has no ``--init``, unless it is inserted."""

ATTENTION = (*list_blocks(), "Constant", "none", "identity")

KINDS = ("residual", "stages", "depthwise")
"""Words for places, which ``--insert`` takes beside patterns of names."""

MOST_NAMES = 3


@dataclass(frozen=True)
class Change:
    """What becomes of the attention of a network.

    Attributes:
        attention: a block of attnblocks; ``SE`` keeps the network's own, if it is not inserted;
            ``none`` takes the network as it is; ``identity`` takes the SE blocks out;
            ``Constant`` puts a fixed gate for each channel in their place.
        init: how the blocks start. Of replaced ones ``fitted`` begins as ``inherit``, and None is
            ``fresh``; of inserted ones None is ``identity``.
        insert: behind which modules the block is put: patterns or :data:`KINDS`, with spaces
            between; None to replace the SE blocks.
        image_size: of the images that show what the modules return.
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
        if self.attention not in ATTENTION:
            known = ", ".join(ATTENTION)
            raise ValueError(f"--attention must be one of {known}; got {self.attention!r}")
        if self.insert is not None:
            if self.attention not in list_blocks():
                raise ValueError(
                    f"--insert puts a block behind modules: give --attention one of "
                    f"{', '.join(list_blocks())}, not {self.attention}"
                )
        elif self.attention != "none" and not find_se(model):
            wrong = f"{name} has no SE blocks to replace or keep: use --attention none"
            if self.attention in list_blocks():
                wrong += f", or --insert PATTERN, which puts {self.attention} behind modules. "
                wrong += self._places(model)
            raise ValueError(wrong)

    def make(self, model: nn.Module) -> None:
        """Change a network, in place; raise ValueError where a block cannot be inserted."""
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
        listed = [f"{kind} ({some(names)})" for kind, names in kinds.items() if names]
        return f"Places: {', '.join(listed) or some([p.name for p in found]) or 'none'}"


def check_start(init: str | None, attention: str, insert: str | None, weights: str) -> None:
    """Raise ValueError for a start that the blocks cannot have; the arguments are the options."""
    if insert is not None:
        if not insert.split():
            raise ValueError("--insert names no module: give patterns of names")
        if init in ("inherit", "fitted"):
            raise ValueError(f"--init {init} is for swapped blocks, not for those of --insert")
    elif init == "identity":
        raise ValueError("--init identity is for blocks of --insert, not for swapped ones")
    elif init is not None and attention in OWN_START:
        raise ValueError(f"--init is for swapped blocks, not for --attention {attention}")
    if attention == "Constant" and weights == "none":
        raise ValueError(
            "--attention Constant is the mean of what weights have learned: give --weights"
        )
    if init == "fitted" and weights == "none":
        raise ValueError("--init fitted keeps what weights have learned: give --weights")
    if init == "loaded" and weights in ("none", "imagenet"):
        raise ValueError("--init loaded takes blocks from a file: give --weights FILE")


def gates_with_rate(attention: str) -> tuple[str, ...]:
    """Which gates have a learning rate of their own; empty where the network has none of them.

    Those of rows, columns and positions; of ``SE`` those of channels, as a control.
    """
    if attention not in list_blocks():
        return ()
    if attention == "SE":
        return ("channel",)
    block = create_block(attention, 8, device="meta")  # nothing is drawn
    return tuple(name for name in getattr(block, "gate_names", ()) if name in SPATIAL)


def some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
